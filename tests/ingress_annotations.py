"""One NGINX for many Ingresses, each with a host and annotations of its own, and endpoints that answer what they were asked."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
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
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from glassnet.ingress.compute import compute
from glassnet.ingress.model import Problem, Settings
from glassnet.ingress.options import passthrough
from glassnet.ingress.options.reading import PREFIX
from glassnet.ingress.render import files
from glassnet.ingress.syntax import Directive, render
from glassnet.kube import kinds, types
from glassnet.kube.view import View

_KINDS = {
    each.name: each for each in (kinds.INGRESS, kinds.SERVICE, kinds.ENDPOINT_SLICE, kinds.SECRET, kinds.CONFIG_MAP)
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
    """An Ingress: its annotations without prefix, its endpoints, and the objects that they name."""

    annotations: Mapping[str, str]
    endpoints: tuple[str, ...] = ()
    path: str = "/"
    regex: str = ""
    tls: bool = False
    canaries: tuple[tuple[Mapping[str, str], tuple[str, ...]], ...] = ()
    errors: tuple[str, ...] = ()
    secrets: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    config_maps: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)


def namespace_of(host: str) -> str:
    """Each Site has a namespace of its own."""
    return host.replace(".", "-")


def objects(host: str, site: Site) -> Iterator[dict[str, Any]]:
    """A Site as objects of the API."""
    namespace = namespace_of(host)

    def meta(name: str, **more: Any) -> dict[str, Any]:
        return {"metadata": {"namespace": namespace, "name": name, **more}}

    def ingress(name: str, service: str, annotations: Mapping[str, str]) -> dict[str, Any]:
        backend = {"service": {"name": service, "port": {"number": 80}}}
        path = {"path": site.path, "pathType": "ImplementationSpecific" if site.regex else "Prefix", "backend": backend}
        given = {PREFIX + name: text for name, text in annotations.items()}
        spec: dict[str, Any] = {"rules": [{"host": host, "http": {"paths": [path]}}]}
        if site.tls:
            spec["tls"] = [{"hosts": [host]}]
        return {
            "kind": "Ingress",
            **meta(name, annotations=given, creationTimestamp="2026-01-01T00:00:00Z"),
            "spec": spec,
        }

    def service(name: str, endpoints: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        yield {"kind": "Service", **meta(name), "spec": {"ports": [{"port": 80}], "clusterIP": "10.96.0.1"}}
        for number, each in enumerate(endpoints):
            address, port = each.rsplit(":", 1)
            yield {
                "kind": "EndpointSlice",
                **meta(f"{name}-{number}", labels={"kubernetes.io/service-name": name}),
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
                "ports": [{"name": "", "protocol": "TCP", "port": int(port)}],
            }

    yield ingress(host, "svc", site.annotations)
    yield from service("svc", site.endpoints)
    for number, (asked, endpoints) in enumerate(site.canaries):
        yield ingress(f"canary-{number}", f"canary-{number}", asked)
        yield from service(f"canary-{number}", endpoints)
    if site.errors:
        yield from service("page", site.errors)
    for name, secret in site.secrets.items():
        yield {
            "kind": "Secret",
            **meta(name),
            "data": {each: base64.b64encode(text).decode() for each, text in secret.items()},
        }
    for name, config in site.config_maps.items():
        yield {"kind": "ConfigMap", **meta(name), "data": {each: text.decode() for each, text in config.items()}}


class Nginx:
    """NGINX for Sites by host. Every answer comes from the real program; nothing listens but on the loopback."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self.tls_port = free_port(), free_port()
        self.resolvers: tuple[str, ...] = ()
        self.problems: tuple[Problem, ...] = ()
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, sites: Mapping[str, Site], further: tuple[Directive, ...] = ()) -> None:  # fmt: skip
        """Objects of all Sites, and what is computed of them: nginx.conf and its files. `further` is for the http block, and comes of no object."""
        view = View()
        for host, site in sites.items():
            for body in objects(host, site):
                kind = _KINDS[body["kind"]]
                view.apply(kind, types.decode(kind, json.dumps(body)))
        settings = Settings(
            watch_without_class=True,
            http=(f"127.0.0.1:{self.port}",),
            https=(f"127.0.0.1:{self.tls_port}",),
            status=f"unix:{self.directory}/status.sock",
            resolvers=self.resolvers,
            access_log=(),
            workers=1,
            connections=512,
            user="root" if os.geteuid() == 0 else "",
            modules=(passthrough.MODULE,),
        )
        site_of = compute(view, settings)
        self.problems = site_of.problems
        written = files(site_of, settings, *certificate("nginx.test"))
        if further:
            extra = render(further, 1)
            written["nginx.conf"] = written["nginx.conf"].rstrip().removesuffix(b"}") + extra.encode() + b"}\n"
        for name, content in written.items():
            self.write(name, content)

    def complaints(self, host: str) -> list[Problem]:
        """What is wrong with a Site's Ingresses."""
        return [each for each in self.problems if each.key.namespace == namespace_of(host)]

    def write(self, name: str, content: bytes) -> None:
        """A file beside nginx.conf."""
        file = self.directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def check(self) -> str:
        """What `nginx -t` says against the configuration; "" when it takes it."""
        done = subprocess.run(
            ["nginx", "-t", "-q", "-e", "stderr", "-p", str(self.directory), "-c", str(self.directory / "nginx.conf")],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return "" if done.returncode == 0 else done.stderr

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        assert not (said := self.check()), said
        log = (self.directory / "log").open("wb")
        command = [
            "nginx",
            "-e",
            "stderr",
            "-p",
            str(self.directory),
            "-c",
            str(self.directory / "nginx.conf"),
            "-g",
            "daemon off;",
        ]
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + 20
        while True:
            assert self.process.poll() is None, (self.directory / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
                return
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def reload(self) -> None:
        """Has it take what `configure` has written, and waits until the old worker is gone: no idle connection holds it."""
        assert self.process
        assert not (said := self.check()), said
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        before = set(tasks.read_text().split())
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while (now := set(tasks.read_text().split())) & before or not now:
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
