"""agnhost's netexec and serve-hostname: servers that tell a test where its packets went.

Paths, parameters and answers are those of the program's README and source (kubernetes/kubernetes, test/images/agnhost).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from glassnet.lab.pods.calls import dial, run_shell
from glassnet.lab.pods.flags import parse_duration
from glassnet.lab.pods.http_server import HttpApp, HttpConnection, Peer
from glassnet.lab.pods.http_wire import Request, Response, reason_phrase, text
from glassnet.lab.pods.images import Netexec
from glassnet.lab.pods.surroundings import Surroundings

MAX_TRIES = 1000
"""Requests one /dial may make."""
_MAX_WAIT = 3600.0

Answer = Response | Awaitable[Response | None] | None


def parse_code(word: str, low: int, high: int, default: int) -> int:
    """A code parameter. Raises ValueError with the answer's text."""
    if not word:
        return default
    try:
        code = int(word)
    except ValueError:
        code = -1
    if not low <= code <= high:
        raise ValueError(f"argument 'code' must be an integer [{low}-{high}] or empty, got \"{word}\"\n")
    return code


def parse_wait(name: str, word: str) -> float:
    """A duration parameter in seconds. Raises ValueError with the answer's text."""
    try:
        seconds = parse_duration(word) if word else 0.0
    except ValueError:
        raise ValueError(f"argument '{name}' must be a valid golang duration or empty, got \"{word}\"\n") from None
    return min(max(seconds, 0.0), _MAX_WAIT)


class NetexecApp(HttpApp):
    """All of netexec's endpoints; `ready` is /healthz's answer."""

    __slots__ = ("_options", "_place")

    def __init__(self, place: Surroundings, options: Netexec) -> None:
        self._place, self._options = place, options

    def answer(self, request: Request, connection: HttpConnection) -> Answer:
        if self._options.http_override:
            target = "/" + self._options.http_override.lstrip("/")
            request = _overridden(request, target)
        self._place.log(f"{request.method} {request.target}", 2)
        handler = _ROUTES.get(request.path)
        if handler is None:
            return text(f"NOW: {self._place.clock():%Y-%m-%d %H:%M:%S.%f %z %Z}")
        try:
            return handler(self, request, connection)
        except ValueError as error:
            return text(str(error))

    def _hostname(self, request: Request, connection: HttpConnection) -> Answer:
        return text(self._place.pod.hostname)

    def _client(self, request: Request, connection: HttpConnection) -> Answer:
        return text(str(connection.peer))

    def _port(self, request: Request, connection: HttpConnection) -> Answer:
        return text(str(connection.local.port))

    def _header(self, request: Request, connection: HttpConnection) -> Answer:
        return text(request.header(request.form().get("key", "").lower()))

    def _echo(self, request: Request, connection: HttpConnection) -> Answer:
        form = request.form()
        return text(form.get("msg", ""), parse_code(form.get("code", ""), 200, 599, 200))

    def _healthz(self, request: Request, connection: HttpConnection) -> Answer:
        """As upstream: ready once the UDP or SCTP server is; with both off it never is."""
        ready = self._options.udp_port != -1 or self._options.sctp_port != -1
        return Response(status=200 if ready else 412)

    def _redirect(self, request: Request, connection: HttpConnection) -> Answer:
        form = request.form()
        code = parse_code(form.get("code", ""), 300, 399, 302)
        location = form.get("location", "")
        return text(f"{reason_phrase(code)}: {location}\n", code)._replace(fields=(("Location", location),))

    def _shutdown(self, request: Request, connection: HttpConnection) -> Answer:
        self._place.end(0, "")
        return None

    def _exit(self, request: Request, connection: HttpConnection) -> Answer:
        form = request.form()
        code = parse_code(form.get("code", ""), 0, 127, 0)
        timeout, wait = parse_wait("timeout", form.get("timeout", "")), parse_wait("wait", form.get("wait", ""))

        async def leave() -> Response | None:
            await asyncio.sleep(wait)
            loop = asyncio.get_running_loop()
            if timeout:  # an orderly shutdown: this answer still goes out, then the server ends
                loop.call_soon(self._place.end, code, "")
                return Response()
            self._place.end(code, "")
            return None

        return leave()

    def _shell(self, request: Request, connection: HttpConnection) -> Answer:
        form = request.form()
        command = form.get("shellCommand") or form.get("cmd", "")

        async def run() -> Response:
            output, error = await run_shell(self._place.sandbox, command)
            facts = {"error": error, "output": output}
            return _json({name: value for name, value in facts.items() if value})

        return run()

    def _dial(self, request: Request, connection: HttpConnection) -> Answer:
        query = request.query
        protocol, word = query.get("protocol", "").lower() or "http", query.get("tries") or "1"
        tries = int(word) if word.isascii() and word.isdigit() and len(word) < 7 else -1
        host, port, asked = query.get("host", ""), query.get("port", ""), query.get("request", "")
        if not 0 <= tries <= MAX_TRIES:
            return text(f"tries parameter is invalid. {word!r} is no number up to {MAX_TRIES}\n", 400)
        if not asked:
            return text("request parameter not specified.\n", 400)
        if protocol not in ("http", "udp", "sctp"):
            return text(f"unsupported protocol. {protocol}\n", 400)
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            return text(f"host and/or port param are invalid. {host!r} {port!r}\n", 400)
        return self._dial_all(protocol, host, int(port), asked, tries)

    async def _dial_all(self, protocol: str, host: str, port: int, asked: str, tries: int) -> Response:
        errors: list[str] = []
        responses: list[str] = []
        last = ""
        for _ in range(tries):
            try:
                last = await dial(self._place.sandbox, protocol, host, port, asked)
                responses.append(last)
            except OSError as error:
                last = ""
                errors.append(str(error))
        facts: dict[str, list[str]] = {}
        if errors:
            facts["errors"] = errors
        if last:  # as upstream: the responses are told when the last one was one
            facts["responses"] = responses
        return _json(facts)

    def datagram(self, data: bytes, peer: Peer) -> bytes | None:
        """The answer to a UDP datagram or an SCTP message; None for a command nobody knows."""
        words = data.decode("utf-8", "replace").strip().lower()
        if words == "hostname":
            answer = self._place.pod.hostname
        elif words == "clientip":
            answer = str(peer)
        elif words.startswith("echo "):
            answer = words[5:]
        else:
            if words:
                self._place.log(f"unknown UDP command from {peer}: {words}", 2)
            return None
        self._place.log(f"UDP {words} from {peer}", 2)
        return answer.encode()


_ROUTES: dict[str, Callable[[NetexecApp, Request, HttpConnection], Answer]] = {
    "/clientip": NetexecApp._client,
    "/dial": NetexecApp._dial,
    "/echo": NetexecApp._echo,
    "/exit": NetexecApp._exit,
    "/header": NetexecApp._header,
    "/healthz": NetexecApp._healthz,
    "/hostName": NetexecApp._hostname,
    "/hostname": NetexecApp._hostname,
    "/redirect": NetexecApp._redirect,
    "/serverport": NetexecApp._port,
    "/shell": NetexecApp._shell,
    "/shutdown": NetexecApp._shutdown,
}


def _overridden(request: Request, target: str) -> Request:
    return Request("GET", target, request.minor, request.fields)


def _json(facts: dict[str, str] | dict[str, list[str]]) -> Response:
    return text(json.dumps(facts, separators=(",", ":"), ensure_ascii=False))


class HostnameApp(HttpApp):
    """serve-hostname: the host name, whatever is asked."""

    __slots__ = ("_place",)

    def __init__(self, place: Surroundings) -> None:
        self._place = place

    def answer(self, request: Request, connection: HttpConnection) -> Response:
        self._place.log(f"HTTP request from {connection.peer}", 2)
        return text(self._place.pod.hostname)

    def datagram(self, data: bytes, peer: Peer) -> bytes:
        """The answer to a UDP datagram, and to a TCP connection."""
        self._place.log(f"request from {peer}", 2)
        return self._place.pod.hostname.encode()
