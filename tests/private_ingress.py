"""A Site served by a real NGINX on unix sockets, with endpoints on the loopback that say what they got; and short ways to say objects."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from glassnet.ingress import compute, render
from glassnet.ingress.model import Settings, Site
from glassnet.kube import kinds, types
from glassnet.kube.view import View

CLASS = {"metadata": {"name": "nginx"}, "spec": {"controller": "glassnet.dev/ingress"}}
PREFIX = "nginx.ingress.kubernetes.io/"
SETTINGS = Settings(http=("unix:http.sock",), https=("unix:https.sock",), status="unix:status.sock", access_log=("access.log",), workers=1, connections=256)  # fmt: skip


def path(where: str, service: str, type: str = "Prefix", port: int | str = 80) -> dict[str, Any]:
    """A path of a rule."""
    return {"path": where, "pathType": type, "backend": backend(service, port)}


def backend(service: str, port: int | str = 80) -> dict[str, Any]:
    """A backend."""
    return {"service": {"name": service, "port": {"name" if isinstance(port, str) else "number": port}}}


def rule(host: str, *paths: dict[str, Any]) -> dict[str, Any]:
    """A rule; without paths it has no `http`."""
    return {"host": host, **({"http": {"paths": list(paths)}} if paths else {})}


def ingress(name: str, *rules: dict[str, Any], age: int = 0, namespace: str = "default", annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:  # fmt: skip
    """An Ingress of class nginx, `age` in minutes (the higher the older). Annotations without their prefix; `class_` None for none."""
    name_of_class = spec.pop("class_", "nginx")
    meta = {
        "name": name,
        "namespace": namespace,
        "creationTimestamp": f"2026-01-01T{(1000 - age) // 60:02}:{(1000 - age) % 60:02}:00Z",
    }
    meta |= {
        "annotations": {each if "/" in each else PREFIX + each: text for each, text in (annotations or {}).items()}
    }  # type: ignore[dict-item]
    return {"kind": "Ingress", "metadata": meta, "spec": {**({"ingressClassName": name_of_class} if name_of_class else {}), "rules": list(rules), **spec}}  # fmt: skip


def service(name: str, *ports: dict[str, Any], namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """A Service, of port 80 if none is given."""
    return {"kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": {"ports": list(ports) or [{"port": 80}], **spec}}  # fmt: skip


def endpoint(address: str, pod: str = "", **conditions: bool) -> dict[str, Any]:
    """One endpoint of a slice."""
    return {"addresses": [address], "conditions": conditions, **({"targetRef": {"kind": "Pod", "name": pod}} if pod else {})}  # fmt: skip


def endpoints(of: str, *members: dict[str, Any], port: int = 8080, name: str = "", family: str = "IPv4", namespace: str = "default", suffix: str = "") -> dict[str, Any]:  # fmt: skip
    """A slice of a Service's port `name`."""
    meta = {"name": f"{of}-{family.lower()}{suffix}{name}", "namespace": namespace, "labels": {"kubernetes.io/service-name": of}}  # fmt: skip
    return {"kind": "EndpointSlice", "metadata": meta, "addressType": family, "ports": [{"name": name, "port": port, "protocol": "TCP"}], "endpoints": list(members)}  # fmt: skip


def secret(name: str, data: dict[str, str], namespace: str = "default") -> dict[str, Any]:
    """A Secret; values in base64."""
    return {"kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": data}


_KINDS = {each.name: each for each in kinds.ALL}


def view_of(*objects: dict[str, Any], class_: dict[str, Any] | None = CLASS) -> View:
    """A View with these objects, and with the IngressClass nginx."""
    view = View()
    if class_:
        view.apply(kinds.INGRESS_CLASS, types.decode(kinds.INGRESS_CLASS, json.dumps(class_)))
    for each in objects:
        kind = _KINDS[each["kind"]]
        view.apply(kind, types.decode(kind, json.dumps(each)))
    return view


def site_of(*objects: dict[str, Any], settings: Settings = SETTINGS) -> Site:
    """What comes of these objects."""
    return compute.compute(view_of(*objects), settings)


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        got = {"service": self.server.service, "method": self.command, "target": self.requestline.split(" ")[1], "headers": dict(self.headers), "body": self.rfile.read(length).decode()}  # type: ignore[attr-defined]  # fmt: skip
        text = json.dumps(got).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextmanager
def echoes(names: Iterable[str]) -> Iterator[list[dict[str, Any]]]:
    """Services with one endpoint each on the loopback that says in JSON what it got, and their slices."""
    servers, objects = [], []
    for name in names:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
        server.daemon_threads = True
        server.service = name  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        objects += [service(name), endpoints(name, endpoint("127.0.0.1", f"pod-{name}"), port=server.server_port)]
    try:
        yield objects
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class Answer(NamedTuple):
    """A response; `got` is what the endpoint said it got, {} where NGINX answered itself."""

    status: int
    headers: dict[str, str]
    got: dict[str, Any]

    @property
    def service(self) -> str:
        """Which Service answered; "" for none."""
        return str(self.got.get("service", ""))


class _Connection(http.client.HTTPConnection):
    def __init__(self, place: Path, tls: ssl.SSLContext | None = None, sni: str = "") -> None:
        super().__init__("unix")
        self._place, self._tls, self._sni = place, tls, sni

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(str(self._place))
        if self._tls:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._sni or None)


class Nginx:
    """A running NGINX."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._kept: dict[tuple[bool, str], _Connection] = {}

    def connection(self, tls: bool = False, sni: str = "") -> _Connection:
        """A connection that is kept open."""
        if (tls, sni) not in self._kept:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._kept[tls, sni] = _Connection(self.directory / ("https.sock" if tls else "http.sock"), context if tls else None, sni)  # fmt: skip
        return self._kept[tls, sni]

    def ask(self, host: str | None, target: str = "/", method: str = "GET", *, tls: bool = False, sni: str = "", headers: dict[str, str] | None = None, body: str = "") -> Answer:  # fmt: skip
        """One request. `host` None: no header Host."""
        connection = self.connection(tls, sni)
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        if host is not None:
            connection.putheader("Host", host.encode())
        for name, text in (headers or {}).items():
            connection.putheader(name, text)
        if body:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode() or None)
        response = connection.getresponse()
        text = response.read()
        got = json.loads(text) if response.status == 200 and text.startswith(b"{") else {}
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, got)

    def certificate(self, sni: str) -> bytes:
        """The certificate (DER) that a client with this SNI is shown."""
        connection = _Connection(self.directory / "https.sock", self.connection(True, sni)._tls, sni)
        connection.connect()
        try:
            return connection.sock.getpeercert(binary_form=True)  # type: ignore[attr-defined,no-any-return]
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connections."""
        for each in self._kept.values():
            each.close()


def write(directory: Path, files: dict[str, bytes]) -> Path:
    """The files in a directory; the path of nginx.conf."""
    for name, content in files.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return directory / "nginx.conf"


def check(directory: Path, files: dict[str, bytes]) -> str:
    """What `nginx -t` has against the files; "" for nothing."""
    conf = write(directory, files)
    done = subprocess.run(["nginx", "-t", "-q", "-p", str(directory), "-e", "stderr", "-c", str(conf)], check=False, cwd=directory, capture_output=True, text=True, timeout=60)  # fmt: skip
    return done.stderr if done.returncode else ""


@contextmanager
def served(site: Site, directory: Path, settings: Settings = SETTINGS, chain: bytes = b"", key: bytes = b"") -> Iterator[Nginx]:  # fmt: skip
    """A Site served by an NGINX of our own in a directory of its own."""
    conf = write(directory, render.files(site, settings, chain, key))
    process = subprocess.Popen(["nginx", "-p", str(directory), "-e", "stderr", "-c", str(conf), "-g", "daemon off;"], cwd=directory, stderr=(directory / "stderr").open("wb"))  # fmt: skip
    nginx = Nginx(directory)
    try:
        deadline = time.monotonic() + 20
        while not _listens(directory / "status.sock"):
            assert process.poll() is None and time.monotonic() < deadline, (directory / "stderr").read_text()
            time.sleep(0.01)
        yield nginx
    finally:
        nginx.close()
        process.terminate()
        process.wait(timeout=20)


def _listens(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(str(place))
        except OSError:
            return False
        return True
