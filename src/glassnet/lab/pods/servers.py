"""Built-in servers as containers: started, stopped and waited for as processes are, but living in the lab's event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from glassnet.kube.runtime import ExitStatus
from glassnet.lab.pods import images
from glassnet.lab.pods.http_server import HttpApp, HttpConnection
from glassnet.lab.pods.listeners import DatagramAnswer, Datagrams, OneAnswer, bound_socket, serve
from glassnet.lab.pods.logs import LogRing
from glassnet.lab.pods.mirrors import EchoApp, StandInApp, WhoamiApp
from glassnet.lab.pods.netexec import HostnameApp, NetexecApp
from glassnet.lab.pods.pages import (
    HTTPD_SERVER,
    HTTPD_WELCOME,
    NGINX_SERVER,
    NGINX_WELCOME,
    AksApp,
    SiteApp,
    TextApp,
)
from glassnet.lab.pods.surroundings import DEFAULT_GRACE, Surroundings
from glassnet.lab.pods.tls import server_context

KILLED = 137


class Listen(NamedTuple):
    """One port to serve: `http` with an app, `tcp` (greets), `udp` and `sctp` with a function from message to answer."""

    protocol: str
    port: int
    app: HttpApp | None = None
    answer: DatagramAnswer | None = None
    tls: bool = False


def listens_of(program: images.Program, place: Surroundings) -> Sequence[Listen]:
    """The ports of a built-in server and what answers on them."""
    match program:
        case images.Nginx(port, root):
            return [Listen("http", port, SiteApp(place, root, NGINX_SERVER, NGINX_WELCOME))]
        case images.Httpd(port, root):
            return [Listen("http", port, SiteApp(place, root, HTTPD_SERVER, HTTPD_WELCOME))]
        case images.AksHelloworld(title, port):
            return [Listen("http", port, AksApp(title))]
        case images.FixedText(words, port, host_line):
            return [Listen("http", port, TextApp(f"{words}{place.pod.hostname}\n" if host_line else words))]
        case images.Whoami(port, name):
            return [Listen("http", port, WhoamiApp(place, name))]
        case images.EchoServer(port):
            return [Listen("http", port, EchoApp(place))]
        case images.Netexec():
            return list(_netexec(program, NetexecApp(place, program)))
        case images.ServeHostname():
            return list(_serve_hostname(program, HostnameApp(place)))
        case images.StandIn():
            return list(_stand_in(program, StandInApp(place)))
    return []


def _netexec(program: images.Netexec, app: NetexecApp) -> Iterator[Listen]:
    yield Listen("http", program.http_port, app)
    if program.udp_port != -1:
        yield Listen("udp", program.udp_port, answer=app.datagram)
    if program.sctp_port != -1:
        yield Listen("sctp", program.sctp_port, answer=app.datagram)


def _serve_hostname(program: images.ServeHostname, app: HostnameApp) -> Iterator[Listen]:
    if program.http:
        yield Listen("http", program.port, app)
    if program.tcp:
        yield Listen("tcp", program.port, answer=app.datagram)
    if program.udp:
        yield Listen("udp", program.port, answer=app.datagram)


def _stand_in(program: images.StandIn, app: StandInApp) -> Iterator[Listen]:
    yield from (Listen("http", port, app) for port in program.tcp)
    yield from (Listen("http", port, app, tls=True) for port in program.tls)
    yield from (Listen("udp", port, answer=app.datagram) for port in program.udp)
    yield from (Listen("sctp", port, answer=app.datagram) for port in program.sctp)


class BuiltIn:
    """A running built-in server (RunningContainer)."""

    __slots__ = (
        "_clients",
        "_deadline",
        "_delay",
        "_ended",
        "_listeners",
        "_place",
        "_status",
        "_timer",
        "id",
        "started_at",
    )

    def __init__(self, id: str, place: Surroundings, delay_shutdown: int = 0) -> None:
        self.id, self.started_at = id, place.clock()
        self._place, self._delay = place, delay_shutdown
        self._listeners: list[asyncio.Server | Datagrams] = []
        self._clients: set[HttpConnection] = set()
        self._status: ExitStatus | None = None
        self._ended: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        place.end = self._end

    @property
    def status(self) -> ExitStatus | None:
        """How it ended; None while it runs."""
        return self._status

    @property
    def log(self) -> LogRing:
        """The log's ring."""
        return self._place.log_ring

    async def start(self, program: images.Program) -> None:
        """Open the program's ports. When one cannot be had the server ends as a process would: a log line, exit code 1."""
        if isinstance(program, images.Refuse):
            self._place.log(program.message, 2)
            self._end(program.code, program.message)
            return
        sctp_optional = isinstance(program, images.StandIn)
        try:
            for listen in listens_of(program, self._place):
                await self._open(listen, sctp_optional)
        except OSError as error:
            words = error.strerror or str(error)
            self._place.log(words, 2)
            self._end(1, words)

    async def _open(self, listen: Listen, sctp_optional: bool) -> None:
        protocol = "tcp" if listen.protocol == "http" else listen.protocol
        try:
            sock = bound_socket(self._place.sandbox.netns, protocol, listen.port)
        except OSError as error:
            if protocol == "sctp" and sctp_optional:
                self._place.log(error.strerror or str(error), 2)
                return
            raise
        await self._serve(listen, sock)
        kind = "HTTP" if listen.protocol == "http" else protocol.upper()
        self._place.log(f"Started {kind} server on port {listen.port}", 2)

    async def _serve(self, listen: Listen, sock: socket.socket) -> None:
        if listen.protocol == "udp" and listen.answer is not None:
            self._listeners.append(Datagrams(sock, listen.answer))
            return
        factory: Callable[[], asyncio.Protocol]
        if listen.app is not None:
            factory = partial(HttpConnection, listen.app, self._clients)
        else:
            factory = partial(OneAnswer, listen.answer or _silent, listen.protocol == "tcp")
        context: ssl.SSLContext | None = server_context() if listen.tls else None
        self._listeners.append(await serve(sock, factory, context))

    async def wait(self) -> ExitStatus:
        """See RunningContainer.wait."""
        while self._status is None:
            if self._ended is None:
                self._ended = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._ended)
        return self._status

    async def stop(self, grace: float) -> ExitStatus:
        """End at once with exit code 0; or go on serving first.

        It goes on for netexec's --delay-shutdown, and for all of the grace when the pod asks for more than the default
        30 s: who asks for a long grace wants to see a pod that is terminating and serving. What the grace cuts short ends
        with 137, as SIGKILL ends a process. A second call can only shorten the time.
        """
        if self._status is None:
            seconds, code = self._drain(max(grace, 0.0))
            if seconds <= 0:
                self._end(code, "")
            else:
                self._end_within(seconds, code)
        return await self.wait()

    def _drain(self, grace: float) -> tuple[float, int]:
        """Seconds to go on serving, and the exit code then."""
        if grace == 0:
            return 0.0, KILLED
        if self._delay > 0:
            return (float(self._delay), 0) if self._delay <= grace else (grace, KILLED)
        if self._place.pod.grace > DEFAULT_GRACE:
            return grace, KILLED
        return 0.0, 0

    def _end_within(self, seconds: float, code: int) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        if self._timer is not None:
            if self._deadline <= deadline:
                return
            self._timer.cancel()
        self._deadline = deadline
        self._timer = loop.call_later(seconds, self._end, code, "")

    def _end(self, code: int, message: str) -> None:
        if self._status is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for connection in tuple(self._clients):
            connection.transport.close()
        self._status = ExitStatus(code, "Completed" if code == 0 else "Error", message)
        self._place.log_ring.close()
        if self._ended is not None:
            self._ended.set_result(None)


def _silent(data: bytes, peer: object) -> None:
    """A server without a word."""
