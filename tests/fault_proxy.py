"""A gateway in front of an API server that does to clients what networks, load balancers and servers do on their bad days.

`FaultProxy(upstream).fault` says what it does at present: one of FAULTS, or "" for nothing. `hits` counts the requests that met the fault.
`Authority` issues its certificates, good ones and others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FAULTS = (
    "delay",  # every answer, and every event, comes `pause` seconds later
    "slow",  # answers come a few bytes at a time
    "cut-line",  # watches end in the middle of an event
    "cut-page",  # lists end in the middle of a page, streaming lists in the middle of an object
    "cut",  # watches are closed as soon as they have told an event
    "half-open",  # connections are taken, and nothing is ever said
    "refuse",  # every connection is closed before a word
    "410-watch",  # watches are answered by the status 410
    "410-event",  # watches are answered by an ERROR event of 410
    "410-page",  # a list is expired from its second page on
    "error-event",  # watches are answered by an ERROR event of 500
    "401", "403", "429", "429-date", "500", "503", "html", "html-200",
    "reorder",  # of two events the second comes first
    "duplicate",  # events come twice, and once more after the next one
    "stale-list",  # lists are as they were when `remember` was called
    "empty-list",  # lists have no items, at the present resourceVersion
    "half-list",  # lists lack every object but the first
)  # fmt: skip


class Authority:
    """A certificate authority for tests."""

    def __init__(self, name: str = "tests") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self._certificate = (
            self._builder(self._name, self._key, now - timedelta(days=900), now + timedelta(days=900))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _builder(self, subject: x509.Name, key: Any, begin: datetime, end: datetime) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
        return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)

    def issue(self, common: str, names: Iterable[str] = (), days: tuple[float, float] = (-1, 30), client: bool = False) -> tuple[str, str]:  # fmt: skip
        """A certificate and its key (PEM), valid from and until so many days from now."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        alternatives = [x509.IPAddress(ip_address(n)) if n[0].isdigit() or ":" in n else x509.DNSName(n) for n in names]
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = self._builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]),
            key,
            now + timedelta(days=days[0]),
            now + timedelta(days=days[1]),
        ).add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return (
            certificate.public_bytes(encoding).decode(),
            key.private_bytes(encoding, form, serialization.NoEncryption()).decode(),
        )


class FaultProxy:
    """Serves https (http without `authority`) on 127.0.0.1:`port` and asks `upstream`, a URL, with `upstream_tls` if that is https.

    `streaming` False refuses streaming lists, as older servers do. `client_authority` asks clients for certificates.
    """

    def __init__(
        self,
        upstream: str,
        authority: Authority | None = None,
        *,
        upstream_tls: ssl.SSLContext | None = None,
        streaming: bool = True,
        client_authority: Authority | None = None,
    ) -> None:
        self.upstream, self.authority, self.streaming = upstream, authority, streaming
        self.fault, self.pause = "", 0.02
        self.only = ""  # a part of the path to which the fault is confined
        self.hits = self.lists = self.watches = 0
        self.requests: list[str] = []
        self.peers: set[Any] = set()  # every connection there ever was
        self.shown: list[str] = []  # whom each request's client certificate names
        self._upstream_tls, self._client_authority = upstream_tls, client_authority
        self._open: dict[int, web.Request] = {}
        self._kept: dict[str, dict[str, Any]] = {}
        self._context: ssl.SSLContext | None = None
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.authority else 'http'}://127.0.0.1:{self.port}"

    async def start(self, listening: socket.socket | None = None) -> None:
        """`listening` is the socket to serve on, which may be in another network namespace; without one on 127.0.0.1 here."""
        self._session = aiohttp.ClientSession(auto_decompress=True, timeout=aiohttp.ClientTimeout(total=None))
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        if self.authority:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            if self._client_authority:
                self._context.verify_mode = ssl.CERT_OPTIONAL
                self._context.load_verify_locations(cadata=self._client_authority.pem)
            self.certify(*self.authority.issue("server", ["127.0.0.1", "localhost"]))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
        await self._runner.setup()
        if listening is not None:
            await web.SockSite(self._runner, listening, ssl_context=self._context).start()
        else:
            await web.TCPSite(
                self._runner, "127.0.0.1", self.port, ssl_context=self._context, reuse_address=True
            ).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        self.cut()
        assert self._runner
        await self._runner.cleanup()
        await self._session.close()

    def certify(self, certificate: str, key: str) -> None:
        """Show another certificate to those who come from now on."""
        assert self._context
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "pem"
            path.write_text(certificate + key)
            self._context.load_cert_chain(path)

    def cut(self) -> None:
        """Break every connection there is."""
        for request in list(self._open.values()):
            if request.transport:
                request.transport.abort()

    async def remember(self, *paths: str) -> None:
        """Keep the lists of these paths for the fault "stale-list"."""
        for path in paths:
            self._kept[path] = json.loads(await self._fetch(path))

    async def _fetch(self, target: str) -> bytes:
        async with self._session.get(self.upstream + target, ssl=self._upstream_tls or True) as answer:
            return await answer.read()

    # -- requests

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._open[id(request)] = request
        self.peers.add(request.transport)
        self.requests.append(f"{request.method} {request.path_qs}")
        subject = (request.get_extra_info("peercert") or {}).get("subject") or ()
        self.shown.append(dict(pair for names in subject for pair in names).get("commonName", ""))
        watch, initial = "watch" in request.query, "sendInitialEvents" in request.query
        if request.method == "GET" and request.query.get("limit") != "1":
            self.lists += not watch or initial
            self.watches += watch
        try:
            if initial and not self.streaming:
                return _status(422, "Invalid", "sendInitialEvents: Forbidden: not enabled")
            if self.fault and self.only in request.path:
                if (self.fault.startswith(("410", "error")) and not watch and "continue" not in request.query) or (
                    self.fault in ("reorder", "duplicate", "cut-line", "cut") and (not watch or initial)
                ):
                    pass
                elif (answer := await self._refusal(request)) is not None:
                    self.hits += 1
                    return answer
            if watch:
                return await self._watch(request)
            return await self._plain(request)
        finally:
            self._open.pop(id(request), None)

    async def _refusal(self, request: web.Request) -> web.StreamResponse | None:
        """The answer of faults that know no more than the request."""
        watch, initial = "watch" in request.query, "sendInitialEvents" in request.query
        match self.fault:
            case "half-open":
                self.hits += 1
                await asyncio.sleep(60)
            case "refuse":
                self.hits += 1
                assert request.transport
                request.transport.abort()
                await asyncio.sleep(60)
            case "delay":
                self.hits += 1
                await asyncio.sleep(self.pause)
            case "410-watch" if watch and not initial:
                return _status(410, "Expired", "too old resource version")
            case "410-event" | "error-event" if watch and not initial:
                code = 410 if self.fault == "410-event" else 500
                event = {"type": "ERROR", "object": _body(code, "Expired" if code == 410 else "InternalError", "no")}
                return web.Response(text=json.dumps(event) + "\n", content_type="application/json")
            case "410-page" if "continue" in request.query:
                return _status(410, "Expired", "the continue token is too old")
            case "401":
                return _status(401, "Unauthorized", "Unauthorized")
            case "403":
                return _status(403, "Forbidden", f'things is forbidden: User "me" cannot do that: {request.path}')
            case "429" | "429-date":
                after = formatdate(time.time() + 1, usegmt=True) if self.fault == "429-date" else "0"
                return _status(429, "TooManyRequests", "later", {"Retry-After": after})
            case "500" | "503":
                return _status(int(self.fault), "InternalError", "etcdserver: leader changed")
            case "html" | "html-200":
                text = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
                return web.Response(text=text, status=502 if self.fault == "html" else 200, content_type="text/html")
            case "stale-list" | "empty-list" | "half-list" if not watch or initial:
                return await self._other_list(request, initial)
        return None

    async def _other_list(self, request: web.Request, initial: bool) -> web.StreamResponse | None:
        """A list other than what the server has; None for what is no list."""
        kept = (
            self._kept.get(request.path) if self.fault == "stale-list" else json.loads(await self._fetch(request.path))
        )
        if kept is None or "items" not in kept:
            return None
        items = [] if self.fault == "empty-list" else kept["items"][:1] if self.fault == "half-list" else kept["items"]
        meta = {"resourceVersion": kept["metadata"]["resourceVersion"]}
        if not initial:
            return web.json_response({"kind": kept["kind"], "apiVersion": kept["apiVersion"], "metadata": meta, "items": items})  # fmt: skip
        self.hits += 1
        response = await self._begin(request)
        end = {**meta, "annotations": {"k8s.io/initial-events-end": "true"}}
        events = [{"type": "ADDED", "object": item} for item in items] + [{"type": "BOOKMARK", "object": {"metadata": end}}]  # fmt: skip
        await response.write(b"".join(json.dumps(event).encode() + b"\n" for event in events))
        async for line in self._lines(request.path, {"watch": "true", "allowWatchBookmarks": "true", **meta}):
            await response.write(line)
        return response

    async def _plain(self, request: web.Request) -> web.StreamResponse:
        headers = {n: v for n, v in request.headers.items() if n in ("Content-Type", "Accept", "Authorization")}
        async with self._session.request(request.method, self.upstream + request.path_qs, data=await request.read(), headers=headers, ssl=self._upstream_tls or True) as answer:  # fmt: skip
            data, status, kind = await answer.read(), answer.status, answer.content_type
        if self.fault not in ("cut-page", "slow") or self.only not in request.path:
            return web.Response(body=data, status=status, content_type=kind)
        self.hits += 1
        response = web.StreamResponse(status=status, headers={"Content-Type": kind, "Content-Length": str(len(data))})
        await response.prepare(request)
        if self.fault == "cut-page":
            await response.write(data[: len(data) // 2])
            assert request.transport
            request.transport.abort()
            return response
        step = max(1, len(data) // 20)
        for start in range(0, len(data), step):
            await response.write(data[start : start + step])
            await asyncio.sleep(0.001)
        return response

    # -- watches

    async def _begin(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        return response

    async def _lines(self, path: str, query: dict[str, str]) -> AsyncIterator[bytes]:
        rest = b""
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            async with self._session.get(self.upstream + path, params=query, ssl=self._upstream_tls or True) as answer:
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield line + b"\n"

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response, held, before = await self._begin(request), b"", b""
        initial = "sendInitialEvents" in request.query
        lines = self._lines(request.path, dict(request.query))
        coming = asyncio.ensure_future(anext(lines, b""))
        try:
            while True:
                done, _ = await asyncio.wait([coming], timeout=0.03 if held else None)
                if not done:  # nothing comes to change places with
                    await response.write(held)
                    held = b""
                    continue
                if not (line := coming.result()):
                    return response
                coming = asyncio.ensure_future(anext(lines, b""))
                if not self.fault or self.only not in request.path or (initial and self.fault != "cut-page" and not line.startswith(b'{"type":"M')):  # fmt: skip
                    await response.write(held + line)
                    held = b""
                    continue
                held = await self._event(request, response, line, held, before)
                before = line
        except ConnectionError:
            return response
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            await lines.aclose()  # type: ignore[attr-defined]

    async def _event(self, request: web.Request, response: web.StreamResponse, line: bytes, held: bytes, before: bytes) -> bytes:  # fmt: skip
        """Send an event as the fault has it; what is held back until the next one."""
        self.hits += 1
        assert request.transport
        match self.fault:
            case "cut-line" | "cut-page":
                await response.write(line[: len(line) // 2])
                request.transport.abort()
            case "cut":
                await response.write(line)
                request.transport.abort()
            case "half-open":
                await asyncio.sleep(60)
            case "reorder":
                if not held:
                    return line
                await response.write(line + held)
            case "duplicate":
                await response.write(line + line + before)
            case "slow":
                for start in range(0, len(line), 50):
                    await response.write(line[start : start + 50])
            case "delay":
                await asyncio.sleep(self.pause)
                await response.write(held + line)
            case _:
                await response.write(held + line)
        return b""


def _body(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason, "message": message}  # fmt: skip


def _status(code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(_body(code, reason, message), status=code, headers=headers)
