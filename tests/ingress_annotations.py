"""One NGINX for many Ingresses, each with a host and annotations of its own, and endpoints that answer what they were asked."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from glassnet.ingress import options
from glassnet.ingress.options.canary import Canary
from glassnet.ingress.options.reading import PREFIX
from glassnet.ingress.options.redirects import www
from glassnet.ingress.syntax import Directive, block, directive, dollar, render

BASE = {
    "Host": "$http_host",
    "X-Real-IP": "$remote_addr",
    "X-Forwarded-For": "$remote_addr",
    "X-Forwarded-Proto": "$scheme",
    "X-Request-ID": "$request_id",
    "Connection": "",
}


class Echo(BaseHTTPRequestHandler):
    """Answers with JSON of the request. `X-Want-Status` and `X-Want-NAME` of the request become the answer's."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        server = self.server
        assert isinstance(server, EchoServer)
        said = {
            "name": server.name,
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): text for name, text in self.headers.items()},
            "body": len(body),
        }
        server.seen.append(said)
        if pause := float(self.headers.get("X-Want-Pause") or 0):
            server.stop.wait(pause)
        status = server.decide(self) if server.decide else int(self.headers.get("X-Want-Status") or 200)
        data = json.dumps(said).encode()
        self.send_response(status)
        for name, text in self.headers.items():
            if name.lower().startswith("x-want-header-"):
                self.send_header(name[len("x-want-header-") :], text)
        for name, text in server.headers:
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


class EchoServer(ThreadingHTTPServer):
    """An endpoint on a port of its own on the loopback. `decide` gives the status of a request."""

    daemon_threads = True

    def __init__(self, name: str, decide: object = None, headers: tuple[tuple[str, str], ...] = (), tls: ssl.SSLContext | None = None) -> None:  # fmt: skip
        super().__init__(("127.0.0.1", 0), Echo)
        self.name, self.decide, self.headers = name, decide, headers
        self.seen: list[dict[str, object]] = []
        self.stop = threading.Event()
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no fault."""

    @property
    def address(self) -> str:
        """As NGINX's `server` takes it."""
        return f"127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        """Ends it."""
        self.stop.set()
        self.shutdown()
        self.server_close()


class NameServer:
    """A DNS server on the loopback: `names` have the address 127.0.0.1, no other name exists (RFC 1035, section 4)."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            asked, client = self._socket.recvfrom(512)
            if len(asked) < 12:
                return
            labels, at = [], 12
            while asked[at]:
                labels.append(asked[at + 1 : at + 1 + asked[at]].decode())
                at += asked[at] + 1
            question, known = asked[12 : at + 5], ".".join(labels) in self.names
            found = known and asked[at + 1 : at + 3] == b"\0\1"
            head = (
                asked[:2]
                + (b"\x81\x80" if known else b"\x81\x83")
                + b"\0\1"
                + (b"\0\1" if found else b"\0\0")
                + bytes(4)
            )
            record = b"\xc0\x0c\0\1\0\1" + (60).to_bytes(4, "big") + b"\0\4" + bytes((127, 0, 0, 1))
            self._socket.sendto(head + question + (record if found else b""), client)

    def close(self) -> None:
        """Ends it."""
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join(20)
        self._socket.close()


def certificate(name: str) -> tuple[bytes, bytes]:
    """PEM of a certificate for a host, signed by itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), private


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass
class Site:
    """An Ingress: its annotations without prefix, its endpoints, and all that `options.Place` has of it."""

    annotations: Mapping[str, str]
    endpoints: tuple[str, ...] = ()
    path: str = "/"
    regex: str = ""
    tls: bool = False
    canaries: tuple[tuple[Mapping[str, str], tuple[str, ...]], ...] = ()
    errors: tuple[str, ...] = ()
    secrets: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    config_maps: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    resolvers: tuple[str, ...] = ()


def given(annotations: Mapping[str, str]) -> dict[str, str]:
    """Annotations with their prefix."""
    return {PREFIX + name: text for name, text in annotations.items()}


class Nginx:
    """NGINX for Sites by host. Every answer comes from the real program; nothing listens but on the loopback."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self.tls_port, self.front = free_port(), free_port(), 0
        self.complaints: dict[str, list[options.Complaint]] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, sites: Mapping[str, Site], further: tuple[Directive, ...] = (), main: tuple[Directive, ...] = ()) -> None:  # fmt: skip
        """Writes nginx.conf and all files. `further` is for the http block, `main` for the top."""
        http: dict[Directive, None] = {}
        upstreams: dict[str, tuple[str, ...]] = {}
        servers = [each for host, site in sites.items() for each in self._servers(host, site, http, upstreams)]
        chain, key = certificate("nginx.test")
        self.write("default.crt", chain)
        self.write("default.key", key)
        inside = [
            dollar(),
            *(
                directive(f"{each}_temp_path", f"{self.directory}/{each}")
                for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            ),
            directive("access_log", "off"),
            directive("server_names_hash_bucket_size", 128),
            directive("map_hash_bucket_size", 512),
            directive("variables_hash_max_size", 4096),
            directive("ssl_certificate", "default.crt"),
            directive("ssl_certificate_key", "default.key"),
            *options.defaults(),
            *(
                directive(f"{module}_set_header", name, text)
                for module in ("proxy", "grpc")
                for name, text in BASE.items()
            ),
            directive("proxy_http_version", "1.1"),
            *http,
            *(
                block("upstream", name, of=[*(directive("server", each) for each in found), directive("keepalive", 4)])
                for name, found in upstreams.items()
            ),
            *further,
            *servers,
        ]
        head = [directive("pid", f"{self.directory}/nginx.pid"), directive("worker_processes", 1), *main]
        if Path("/proc/self").stat().st_uid == 0:
            head.append(directive("user", "root"))
        conf = render([*head, block("events", of=[]), block("http", of=inside)])
        self.write("nginx.conf", conf.encode())

    def _servers(
        self, host: str, site: Site, http: dict[Directive, None], upstreams: dict[str, tuple[str, ...]]
    ) -> list[Directive]:
        name = host.replace(".", "_").replace("-", "_")
        read, complaints = options.read(given(site.annotations))
        namespace = host.replace(".", "-")
        objects = options.Objects(namespace, site.secrets, site.config_maps, site.resolvers)
        read = options.resolve(read, objects)
        self.complaints[host] = [*complaints, *objects.complaints]
        for file, content in objects.files.items():
            self.write(file, content)
        canaries: list[tuple[Canary, options.Backend]] = []
        for number, (asked, endpoints) in enumerate(site.canaries):
            upstreams[f"{name}_canary_{number}"] = endpoints
            canary, more = options.read(given(asked))
            self.complaints[host] += more
            canaries.append((canary.canary, options.Backend(f"{name}_canary_{number}", endpoints)))
        if site.endpoints:
            upstreams[name] = site.endpoints
        if site.errors:
            upstreams[f"{name}_errors"] = site.errors
        place = options.Place(
            namespace, host, "svc", "80", site.path, site.regex, site.tls,
            options.Backend(name, site.endpoints) if site.endpoints else None,
            tuple(canaries), options.Backend(f"{name}_errors", site.errors) if site.errors else None,
        )  # fmt: skip
        spelled = options.spell(read, place, BASE)
        http.update(dict.fromkeys(spelled.http))
        match = ["~", site.regex] if site.regex else [site.path]
        listen = [
            directive("listen", f"127.0.0.1:{self.port}"),
            directive("listen", f"127.0.0.1:{self.tls_port}", "ssl"),
        ]
        of = [*listen, directive("server_name", host, *read.server_aliases), *spelled.server, *spelled.internal]
        out = [block("server", of=[*of, block("location", *match, of=spelled.location)])]
        if read.redirects.www:
            other, does = www(host)
            out.append(block("server", of=[*listen, directive("server_name", other), does]))
        return out

    def write(self, name: str, content: bytes) -> None:
        """A file beside nginx.conf."""
        file = self.directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def check(self) -> str:
        """What `nginx -t` says against the configuration; "" when it takes it."""
        done = subprocess.run(
            ["nginx", "-t", "-q", "-e", "stderr", "-c", str(self.directory / "nginx.conf")],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return "" if done.returncode == 0 else done.stderr

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        assert not (said := self.check()), said
        log = (self.directory / "log").open("wb")
        command = ["nginx", "-e", "stderr", "-c", str(self.directory / "nginx.conf"), "-g", "daemon off;"]
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + 20
        while True:
            assert self.process.poll() is None, (self.directory / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
                return
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends it, with its workers."""
        if self.process:
            self.process.terminate()
            self.process.wait(20)

    def ask(
        self,
        host: str,
        path: str = "/",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        tls: bool = False,
        source: str = "127.0.0.1",
    ) -> Answer:
        """One request on a connection of its own, from the address `source` of the loopback."""
        if tls:
            context = ssl._create_unverified_context()
            link: HTTPConnection = HTTPSConnection("127.0.0.1", self.tls_port, timeout=20, context=context, source_address=(source, 0))  # fmt: skip
        else:
            link = HTTPConnection("127.0.0.1", self.port, timeout=20, source_address=(source, 0))
        with contextlib.closing(link):
            link.request(method, path, body, {"Host": host, **(headers or {})})
            answer = link.getresponse()
            return Answer(answer.status, answer, answer.read())


@dataclass
class Answer:
    """An answer, read to its end."""

    status: int
    of: HTTPResponse
    body: bytes

    def header(self, name: str) -> str:
        """The values of a header; "" without one."""
        return ", ".join(self.of.headers.get_all(name) or [])

    @property
    def echo(self) -> dict[str, object]:
        """What the endpoint saw."""
        said: dict[str, object] = json.loads(self.body)
        return said

    @property
    def name(self) -> object:
        """Which endpoint it was."""
        return self.echo["name"]

    def seen(self, header: str) -> str | None:
        """A header as the endpoint saw it."""
        headers = self.echo["headers"]
        assert isinstance(headers, dict)
        return headers.get(header.lower())


@contextlib.contextmanager
def echoes(*names: str) -> Iterator[dict[str, EchoServer]]:
    """Endpoints by name."""
    made = {name: EchoServer(name) for name in names}
    try:
        yield made
    finally:
        for each in made.values():
            each.close()


def basic(user: str, password: str) -> dict[str, str]:
    """The header of basic authentication."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
