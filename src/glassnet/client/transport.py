"""Requests over kept connections to the server that answers: fail-over, credentials that are renewed, the difference between two clocks.

Source: RFC 9110 (sections 6.6.1 Date, 9.2.2 idempotent methods), tcp(7) (keep-alive), Kubernetes documentation, "API Concepts".
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp

from glassnet import __version__
from glassnet.client.access import Access
from glassnet.client.failures import CLOCKS_APART, Unreachable, seconds_of, unreachable

log = logging.getLogger(__name__)
_KEPT = 75.0  # seconds that a connection is kept without use; the server keeps it for 90
_VERBS = 4  # requests at once, watches not counted: more would be connections, not speed
_DATE_PERIOD = 5.0  # seconds between two looks at the server's clock


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds: until a connection stands, until an answer begins, until a request has been answered, tries included."""

    connect: float = 5.0
    begin: float = 30.0
    total: float = 60.0


TIMEOUTS = Timeouts()


class Transport:
    """The connections to one cluster. `clock` gives seconds since 1970."""

    def __init__(self, access: Access, timeouts: Timeouts = TIMEOUTS, clock: Callable[[], float] = time.time) -> None:
        self.access, self.timeouts, self.clock = access, timeouts, clock
        self.clock_skew = 0.0
        self._session: aiohttp.ClientSession | None = None
        self._server = 0
        self._slots = asyncio.Semaphore(_VERBS)
        self._looked = -1e9
        self._warned = False

    async def close(self) -> None:
        """Close all connections."""
        if self._session:
            await self._session.close()
            self._session = None

    def leave(self, server: str) -> None:
        """`server` is of no use just now: the next one is asked from now on, if there is another."""
        servers = self.access.servers
        if servers[self._server] == server:
            self._server = (self._server + 1) % len(servers)

    @property
    def server(self) -> str:
        """The server that is asked."""
        return self.access.servers[self._server]

    async def request(self, method: str, target: str, body: Any, content_type: str, timeout: float) -> tuple[int, bytes, Mapping[str, str], str]:  # fmt: skip
        """One request and its whole answer: status, body, headers, and who gave it. Raises Unreachable, and UsageError for credentials."""
        async with self._slots:
            response, server = await self.open(method, target, body, content_type, min(timeout, self.timeouts.begin))
            try:
                async with asyncio.timeout(timeout):
                    return response.status, await response.read(), response.headers, server
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self.leave(server)
                raise await self.failure(server, error) from None
            finally:
                response.release()

    async def open(
        self, method: str, target: str, body: Any = None, content_type: str = "", timeout: float | None = None
    ) -> tuple[aiohttp.ClientResponse, str]:
        """Send to the server that answered last, else to the next one, until one begins to answer; who that was, too.

        A request that may have reached a server goes to another one only if it changes nothing.
        """
        failure: Unreachable | None = None
        for _ in self.access.servers:
            server = self.server
            try:
                return await self._send(server, method, target, body, content_type, timeout or self.timeouts.begin), server  # fmt: skip
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self.leave(server)
                failure = await self.failure(server, error)
                if method != "GET" and not isinstance(error, aiohttp.ClientConnectorError):
                    break
        assert failure is not None
        raise failure

    async def failure(self, server: str, error: BaseException) -> Unreachable:
        """An error of the HTTP client in words."""
        return await unreachable(server, error, self.access, self.clock(), self.clock_skew)

    async def _send(self, server: str, method: str, target: str, body: Any, content_type: str, timeout: float) -> aiohttp.ClientResponse:  # fmt: skip
        """Once more with a new proof of who we are, when the one we had is refused and there is another."""
        session, access = self._opened(), self.access
        data = None if body is None else json.dumps(body).encode()
        for last in (False, True):
            authorization = await access.authorization()
            proof = access.proof
            headers = [*access.impersonate]
            if data is not None:
                headers.append(("Content-Type", content_type))
            if authorization:
                headers.append(("Authorization", authorization))
            asked = self.clock()
            async with asyncio.timeout(timeout):
                response = await session.request(
                    method, server + target, data=data, headers=headers, ssl=access.tls.context() if access.tls else True,
                    proxy=access.proxy or environment_proxy(server), server_hostname=access.server_name or None, allow_redirects=False,
                )  # fmt: skip
            self._compare_clocks(response.headers.get("Date", ""), asked)
            if response.status != 401 or last:
                return response
            try:
                again = await access.renew(proof)
            except BaseException:
                response.close()
                raise
            if not again:
                return response
            response.release()
        raise AssertionError("the last try returns or raises")

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT, socket_factory=_socket),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"glassnet/{__version__}", "Accept": "application/json"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.timeouts.connect),
                read_bufsize=1 << 18,
            )
        return self._session

    def _compare_clocks(self, date: str, asked: float) -> None:
        """Servers tell their time by the second: half a second more is the best guess."""
        now = self.clock()
        if abs(now - self._looked) < _DATE_PERIOD or (theirs := seconds_of(date)) is None:
            return
        self._looked = now
        self.clock_skew = theirs + 0.5 - (asked + now) / 2
        apart = abs(self.clock_skew) > CLOCKS_APART
        if apart and not self._warned:
            log.warning("this machine's clock and the API server's are %.0f s apart: certificates, tokens and Leases go by them; set it (NTP)", abs(self.clock_skew))  # fmt: skip
        self._warned = apart


def target_of(path: str, query: Mapping[str, str]) -> str:
    """A path with a query."""
    return f"{path}?{urlencode(query)}" if query else path


def environment_proxy(server: str, environment: Mapping[str, str] | None = None) -> str | None:
    """The proxy that HTTPS_PROXY (HTTP_PROXY for http) names, if NO_PROXY does not except the server: names, ".domain", addresses, CIDRs."""
    words = os.environ if environment is None else environment
    parts = urlsplit(server)
    name = f"{parts.scheme}_proxy"
    proxy = words.get(name) or words.get(name.upper()) or ""
    host = parts.hostname or ""
    if not proxy or host == "localhost" or _loopback(host):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not proxy.startswith("http://"):
        raise Unreachable(f"{name.upper()} names a {proxy.split(':')[0]} proxy: only http:// is supported; set NO_PROXY for {host}, or unset it")  # fmt: skip
    for entry in (words.get("no_proxy") or words.get("NO_PROXY") or "").split(","):
        if _excepts(entry.strip().lower(), host):
            return None
    return proxy


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _excepts(entry: str, host: str) -> bool:
    """Whether an entry of NO_PROXY is about a host."""
    if not entry:
        return False
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        name = entry.split(":")[0].removeprefix("*").lstrip(".")
        return host == name or host.endswith(f".{name}")


def _socket(address: Any) -> socket.socket:
    """A socket that finds out within half a minute that there is nobody any more, without a word being sent (tcp(7))."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
    return made
