"""Which upstreams live, and which of them come back to us; the server is told to ask the best.

Knot DNS asks one server of a kind, and a worker of it waits for the answer: a dead upstream would hold up names of the cluster as well. So every
upstream is asked something small every few seconds. One that knows the text in our check zone has asked us, by whatever way: a loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

from glassnet.agent.dns.exchange import ask
from glassnet.agent.dns.knot import KnotServer
from glassnet.dns import message
from glassnet.dns.knot_conf import CHECK_ZONE
from glassnet.dns.model import DnsSettings, Server, Stub
from glassnet.kernel.api import NetNs
from glassnet.net.errors import KernelError

log = logging.getLogger(__name__)
INTERVAL = 5.0  # seconds between questions
PATIENCE = 2.0  # seconds an upstream may take for it
SLOW = 0.5  # seconds for an answer from which on another upstream is better
TRIES = 2  # questions in a row without an answer until it is called dead, or with a late one until it is called slow

State = Literal["alive", "dead", "loop"]


class Forwarders:
    """Watches the upstreams of a server. `told` hears (server, state) whenever a state changes."""

    def __init__(
        self,
        netns: NetNs,
        knot: KnotServer,
        settings: DnsSettings,
        token: str,
        told: Callable[[Server, State], None] = lambda server, state: None,
        interval: float = INTERVAL,
    ) -> None:
        self._netns, self._knot, self._settings, self._token = netns, knot, settings, token
        self._told, self._interval = told, interval
        self._missed: dict[Server, int] = {}
        self._late: dict[Server, int] = {}
        self.states: dict[Server, State] = dict.fromkeys(self.servers(), "alive")

    def servers(self) -> tuple[Server, ...]:
        """All upstreams, those of stub domains included."""
        stubs = (server for stub in self._settings.stubs for server in stub.servers)
        return tuple(dict.fromkeys((*self._settings.upstreams, *stubs)))

    async def run(self) -> None:
        """Look and tell until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._interval)

    async def look(self) -> None:
        """Ask each once, and have the server use what is found."""
        servers = self.servers()
        for server, state in zip(servers, await asyncio.gather(*map(self._ask, servers)), strict=True):
            if state != self.states[server]:
                self.states[server] = state
                log.warning("DNS upstream %s: %s", server, "it forwards to this server, a loop; it is asked no more" if state == "loop" else state)  # fmt: skip
                self._told(server, state)
        settings = self._settings
        stubs = tuple(Stub(each.domain, self._best(each.servers)) for each in settings.stubs)
        await self._knot.forward_to(self._best(settings.upstreams) if settings.upstreams else (), stubs)

    def _best(self, servers: tuple[Server, ...]) -> tuple[Server, ...]:
        """Those that live; without any, whoever says SERVFAIL at once."""
        nobody = self._settings.alias_server
        return self.living(servers) or ((nobody,) if nobody is not None else servers)

    def living(self, servers: tuple[Server, ...]) -> tuple[Server, ...]:
        """Those of some upstreams that live, in their order, slow ones last."""
        return tuple(sorted((each for each in servers if self.states[each] == "alive"), key=self.slow))

    def slow(self, server: Server) -> bool:
        """Whether an upstream that lives took its time for the last answers."""
        return self._late.get(server, 0) >= TRIES

    async def _ask(self, server: Server) -> State:
        clock, before = asyncio.get_running_loop().time, self.slow(server)
        begun = clock()
        try:
            answer = await ask(self._netns, server, CHECK_ZONE, message.TXT, PATIENCE)
        except (TimeoutError, KernelError, ValueError):
            self._missed[server] = self._missed.get(server, 0) + 1
            return "dead" if self._missed[server] >= TRIES else self.states[server]
        self._missed[server] = 0
        self._late[server] = self._late.get(server, 0) + 1 if clock() - begun > SLOW else 0
        if self.slow(server) != before:
            log.warning("DNS upstream %s: %s", server, "slow, others are asked before it" if self.slow(server) else "no longer slow")  # fmt: skip
        return "loop" if any(self._token.encode() in each.data for each in answer.records) else "alive"
