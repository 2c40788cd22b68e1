"""What of nginx.conf is the same for all Ingresses.

Values are ingress-nginx's defaults where it has one, as a user who comes from there expects them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from glassnet.ingress import headers, options
from glassnet.ingress.model import Settings
from glassnet.ingress.syntax import Directive, block, directive, dollar, entry

LOG = "glassnet"
DEFAULT_CERTIFICATE = "certificates/default.pem"
_CIPHERS = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
_LOGGED = {
    "time": "$time_iso8601",
    "request_id": headers.REQUEST_ID,
    "namespace": "$glassnet_namespace",
    "ingress": "$glassnet_ingress",
    "status": "$status",  # these four stand together: agent.ingress.access counts them without reading the rest
    "duration": "$request_time",
    "rule": "$glassnet_rule",
    "service": "$glassnet_service",
    "upstream": "$upstream_addr",
    "upstream_status": "$upstream_status",
    "upstream_duration": "$upstream_response_time",
    "client": "$remote_addr",
    "method": "$request_method",
    "scheme": headers.SCHEME,
    "host": "$host",
    "uri": "$request_uri",
    "protocol": "$server_protocol",
    "referer": "$http_referer",
    "user_agent": "$http_user_agent",
    "tls": "$ssl_protocol",
    "octets_in": "$request_length",
    "octets_out": "$bytes_sent",
}
_NUMBERS = ("status", "duration", "octets_in", "octets_out")


def main(settings: Settings) -> Iterator[Directive]:
    """Above the http block."""
    for module in settings.modules:
        yield directive("load_module", module)
    if settings.user:
        yield directive("user", *settings.user.split())
    yield directive("worker_processes", settings.workers or "auto")
    yield directive("worker_rlimit_nofile", settings.files or max(4 * settings.connections, 1024))
    yield directive("worker_shutdown_timeout", f"{settings.shutdown}s")
    yield directive("error_log", settings.error_log, "warn")
    yield directive("pid", "nginx.pid")
    yield block("events", of=[directive("worker_connections", settings.connections)])


def http(settings: Settings, hosts: Sequence[str], variables: int, passes: bool) -> Iterator[Directive]:
    """The first part of the http block, for servers of these hosts, and so many variables.

    `passes` says that TLS comes from our own stream block, which tells the client's address by the PROXY protocol.
    """
    servers, longest = len(hosts), max(map(len, hosts))
    yield directive("server_tokens", "off")
    yield directive("default_type", "text/plain")
    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        yield directive(f"{name}_temp_path", f"temp_{name}")
    yield directive("server_names_hash_bucket_size", max(128, _power(longest + 32)))
    yield directive("server_names_hash_max_size", _power(max(512, 4 * servers)))
    yield directive("map_hash_bucket_size", 512)
    yield directive("map_hash_max_size", _power(max(2048, 2 * servers)))
    yield directive("variables_hash_bucket_size", 128)
    yield directive("variables_hash_max_size", _power(max(2048, 2 * variables)))
    yield directive("uninitialized_variable_warn", "off")
    yield directive("keepalive_timeout", "75s")
    yield directive("keepalive_requests", 1000)
    yield directive("client_header_buffer_size", "1k")
    yield directive("large_client_header_buffers", 4, "8k")
    yield directive("reset_timedout_connection", "on")
    yield directive("tcp_nodelay", "on")
    yield from _tls()
    yield from _clients(settings, passes)
    yield from _maps(settings, hosts)
    yield from _log(settings)
    yield directive("proxy_http_version", "1.1")
    for name, text in headers.PROXY.items():
        yield directive("proxy_set_header", name, text)
    for name, text in headers.GRPC.items():
        yield directive("grpc_set_header", name, text)
    yield from options.defaults()


def status(settings: Settings, generation: str) -> Directive:
    """The server that the controller asks how NGINX does."""
    pages = [
        *(
            directive("set", f"$glassnet_{name}", "") for name in ("namespace", "ingress", "rule", "service")
        ),  # the log's, with no location at all
        block("location", "=", "/stub_status", of=[directive("stub_status")]),
        block("location", "=", "/generation", of=[directive("return", 200, generation)]),
        block("location", "=", "/healthz", of=[directive("return", 200, "ok")]),
        block("location", "/", of=[directive("return", 404)]),
    ]
    return block("server", of=[directive("listen", settings.status), directive("access_log", "off"), *pages], comment="The controller's own")  # fmt: skip


def _power(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _tls() -> Iterator[Directive]:
    yield directive("ssl_protocols", "TLSv1.2", "TLSv1.3")
    yield directive("ssl_ciphers", _CIPHERS)
    yield directive("ssl_prefer_server_ciphers", "on")
    yield directive("ssl_session_cache", "shared:glassnet_tls:10m")
    yield directive("ssl_session_timeout", "10m")
    yield directive("ssl_session_tickets", "off")
    yield directive("ssl_buffer_size", "4k")


def _clients(settings: Settings, passes: bool) -> Iterator[Directive]:
    """Whose word is taken for where a request comes from. NGINX reads one kind of it: the PROXY protocol goes before X-Forwarded-For."""
    trusted: Iterable[str] = settings.trusted
    if settings.proxy_protocol or passes:
        trusted = (trusted or ("0.0.0.0/0", "::/0")) if settings.proxy_protocol else ()
        yield directive("real_ip_header", "proxy_protocol")
        if passes:
            yield directive("set_real_ip_from", "unix:")
    elif settings.trusted:
        yield directive("real_ip_header", "X-Forwarded-For")
        yield directive("real_ip_recursive", "on")
    for each in trusted:
        yield directive("set_real_ip_from", each)
    believed = () if settings.proxy_protocol else settings.trusted
    yield block("geo", "$realip_remote_addr", "$glassnet_trusted", of=[entry("default", "no"), *(entry(each, "yes") for each in believed)])  # fmt: skip


def _maps(settings: Settings, hosts: Iterable[str]) -> Iterator[Directive]:
    yield dollar()
    https, plain = str(settings.https_port), "80"
    yield block("map", "$http_upgrade", "$glassnet_connection", of=[entry("default", "upgrade"), entry("", "")])
    yield block("map", "$http_x_request_id", headers.REQUEST_ID, of=[entry("default", "$http_x_request_id"), entry("", "$request_id")])  # fmt: skip
    same = entry(r"~*^([^ ]+) \1(?::[0-9]+)?$", "$http_host")
    # what every request is told, once: known hosts are looked up, only others are compared by a regular expression
    known = [entry(f"{host} {host}", "$http_host") for host in hosts if host and "*" not in host]
    yield block("map", "$host $http_host", headers.HOST, of=[entry("default", "$host"), *known, same])
    said = [entry("default", "$scheme"), entry("yes:https", "https"), entry("yes:http", "http")]
    yield block("map", "$glassnet_trusted:$http_x_forwarded_proto", headers.SCHEME, of=said)
    yield block("map", headers.SCHEME, headers.PORT, of=[entry("default", plain), entry("https", https)])


def _log(settings: Settings) -> Iterator[Directive]:
    fields = [f'"{name}":{text}' if name in _NUMBERS else f'"{name}":"{text}"' for name, text in _LOGGED.items()]
    yield directive("log_format", LOG, "escape=json", "{" + ",".join(fields) + "}")
    for place in settings.access_log:
        buffered = () if place.startswith(("syslog:", "/dev/")) else ("buffer=32k", "flush=100ms")
        yield directive("access_log", place, LOG, *buffered)
    if not settings.access_log:
        yield directive("access_log", "off")
