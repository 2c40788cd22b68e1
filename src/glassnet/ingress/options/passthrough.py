"""ssl-passthrough: TLS goes through to the endpoint, unopened, by the name in the client's hello (RFC 6066, section 3).

Needs NGINX's stream module. Two steps, since a server of the stream block says PROXY to all it serves or to none: the first looks at the
name and sends with the PROXY header, so that nobody loses the client's address; the second takes it off for the endpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from glassnet.ingress.options.place import Backend
from glassnet.ingress.options.reading import Reader
from glassnet.ingress.syntax import Directive, block, directive, entry

MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"
"""Where Debian's libnginx-mod-stream has it."""


class Passthrough(NamedTuple):
    """A host whose TLS ends at the endpoint."""

    host: str
    backend: Backend


def read(annotations: Reader) -> bool:
    """Whether the hosts of the Ingress want it."""
    return annotations.flag("ssl-passthrough")


def spell(
    hosts: Iterable[Passthrough], listen: Iterable[str], terminator: str, through: str, *, proxy_protocol: bool = False
) -> Directive:
    """The stream block in front of the https ports `listen`.

    `terminator` is where the http block listens for TLS with the PROXY protocol, `through` a socket of our own for the second step
    ("unix:/path"). `proxy_protocol` says that clients send the header too. A host without endpoints is closed at once.
    """
    given = sorted(set(hosts))
    first = [directive("hostnames"), entry("default", terminator), *(entry(each.host, through) for each in given)]
    second = [directive("hostnames"), entry("default", "")]
    second += [entry(each.host, each.backend.upstream) for each in given if each.backend.endpoints]
    upstreams = {each.backend.upstream: each.backend.endpoints for each in given if each.backend.endpoints}
    protocol = ["proxy_protocol"] if proxy_protocol else []
    back = [directive("set_real_ip_from", "0.0.0.0/0"), directive("set_real_ip_from", "::/0")] if proxy_protocol else []
    front = [
        *(directive("listen", each, *protocol) for each in listen),
        *back,
        directive("ssl_preread", "on"),
        directive("proxy_protocol", "on"),
        directive("proxy_pass", "$passthrough_first"),
    ]
    behind = [
        directive("listen", through, "proxy_protocol"),
        directive("ssl_preread", "on"),
        directive("proxy_pass", "$passthrough_second"),
    ]
    return block(
        "stream",
        of=[
            directive("map_hash_bucket_size", 512),
            block("map", "$ssl_preread_server_name", "$passthrough_first", of=first),
            block("map", "$ssl_preread_server_name", "$passthrough_second", of=second),
            *(block("upstream", name, of=[directive("server", each) for each in upstreams[name]]) for name in sorted(upstreams)),
            directive("proxy_connect_timeout", "5s"),
            directive("proxy_timeout", "600s"),
            block("server", of=front),
            block("server", of=behind),
        ],
    )  # fmt: skip
