"""Speaks for addresses on a node's links: one node of all answers for each, and another takes over within a second when that one dies.

Nodes tell each other that they live by UDP; which of those alive speaks for an address is a hash of names; taking over and giving up is
`loadbalancer.claim`'s to decide. docs/design/loadbalancer.md has the reasons.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from glassnet.agent.loadbalancer.sockets import LinkSockets
from glassnet.kernel.api import NetNs
from glassnet.kernel.network_state import find_link
from glassnet.kernel.route_state import own_addresses
from glassnet.loadbalancer import claim, elect, heartbeat
from glassnet.loadbalancer.announce import Vip
from glassnet.loadbalancer.claim import Claims, Conflict, State
from glassnet.loadbalancer.heartbeat import PORT, Members
from glassnet.loadbalancer.neighbour import Heard
from glassnet.net import address
from glassnet.net.errors import KernelError

log = logging.getLogger(__name__)
LOOK = 2.0  # seconds between looks at the node's links


class Told(NamedTuple):
    """Something that people may want to know about an address: this node has begun to answer for it, or somebody else does, too.

    `conflict` is None for the first; `whose` names the node that has the other's hardware address, "" when none has.
    """

    ip: str
    link: str
    conflict: Conflict | None = None
    whose: str = ""


class _Link:
    """A link with its sockets and what is claimed on it."""

    def __init__(self, sockets: LinkSockets) -> None:
        self.sockets, self.claims = sockets, Claims(sockets.mac)
        self.told: set[str] = set()
        self.conflicts: set[tuple[str, bytes]] = set()


class Speaker:
    """The speaker of node `me`. `run` until cancelled; `drain` first where there is time to.

    Give it the other nodes (`set_peers`) and what is to be announced (`set_vips`) whenever these change. `moved` hears on which
    other node an address's connections are: (address, its owner, or the one that this node took over from; "" for none). `split` hears of a
    node that fell silent for some seconds and lived all the while.
    """

    def __init__(
        self,
        netns: NetNs,
        me: str,
        *,
        port: int = PORT,
        key: bytes = b"",
        links: Iterable[str] = (),
        tell: Callable[[Told], None] = lambda told: None,
        moved: Callable[[str, str], None] = lambda ip, node: None,
        split: Callable[[str, float], None] = lambda node, seconds: None,
    ) -> None:
        self._netns, self._me, self._port, self._links_wanted = netns, me, port, frozenset(links)
        self._tell, self._moved, self._split = tell, moved, split
        self.members = Members(me, os.urandom(8), key, time.monotonic())
        self._own: tuple[str, ...] = ()
        self._peers: dict[str, tuple[str, ...]] = {}
        self._names: dict[str, str] = {}  # address -> node
        self._vips: dict[str, Vip] = {}
        self._owners: dict[str, str] = {}
        self._elsewhere: dict[str, str] = {}
        self._links: dict[str, _Link] = {}
        self._sockets: dict[str, socket.socket] = {}
        self._leaving = self._running = False
        self._awake = asyncio.Event()
        self.problem = ""

    # -- what comes in

    def set_peers(self, own: Iterable[str], peers: Mapping[str, tuple[str, ...]]) -> None:
        """This node's own addresses, and all other speakers' by their nodes' names (canonical)."""
        own = tuple(own)
        if own == self._own and peers == self._peers:
            return
        moved = own != self._own
        self._own, self._peers = own, dict(peers)
        self._names = {ip: name for name, ips in peers.items() for ip in ips}
        self.members.expect(set(peers))
        if moved:
            self._open_links()
        self._elect(self._vips)
        self._awake.set()

    def set_vips(self, changes: Mapping[str, Vip | None]) -> None:
        """What has changed of the addresses to be announced; None for one that is not any more."""
        for ip, vip in changes.items():
            if vip is None or not vip.l2:
                self._vips.pop(ip, None)
            else:
                self._vips[ip] = vip
        self._elect(changes)
        self._awake.set()

    def held(self) -> list[str]:
        """The addresses this node answers for as their owner."""
        return sorted({ip for link in self._links.values() for ip in link.claims.held()})

    def owner(self, ip: str) -> str:
        """Which node speaks for an address, as this one sees it; "" for none."""
        return self._owners.get(ip, "")

    def first_link(self) -> str:
        """A link that is spoken on, by name; "" for none."""
        return min(self._links, default="")

    def open(self) -> None:
        """Find the links to speak on. Nothing is said there before `run`."""
        self._open_links()

    # -- the loop

    async def run(self) -> None:
        """Until cancelled; then nobody here answers any more."""
        tick = look = time.monotonic()
        self.members.begin(tick)
        self._running = True
        settled = False
        try:
            while True:
                now = time.monotonic()
                self._carry_out(now)
                if now >= look:
                    look = now + LOOK
                    self._open_links()
                if now >= tick:
                    tick = now + heartbeat.INTERVAL
                    self._beat(now)
                if not settled and self.members.settled(now):
                    settled = True
                    self._elect(self._vips)
                due = [each for link in self._links.values() if (each := link.claims.next_due()) is not None]
                self._awake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, min(tick, look, *due) - time.monotonic())):
                        await self._awake.wait()
        finally:
            self.close()

    async def drain(self) -> None:
        """Have others take over all that is held here; returns when they have, or a second later."""
        self._leaving = True
        self._beat(time.monotonic())
        self._elect(self._vips)
        self._awake.set()
        deadline = time.monotonic() + claim.YIELD
        while self.members.alive() and time.monotonic() < deadline:
            if not any(link.claims.yielding() for link in self._links.values()):
                return
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Say and hear nothing more."""
        self._running = False
        for name in tuple(self._links):
            self._links.pop(name).sockets.close()
        loop = asyncio.get_running_loop()
        for sock in self._sockets.values():
            loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    # -- election

    def _elect(self, ips: Iterable[str]) -> None:
        """Who speaks for these addresses, as far as this node knows; and what it does about that."""
        now = time.monotonic()
        for ip in tuple(ips):
            vip, before = self._vips.get(ip), self._owners.get(ip, "")
            if vip is None:
                self._owners.pop(ip, None)
                for link in self._links.values():
                    link.claims.give_up(ip, now, at_once=True)
                self._tell_elsewhere(ip, "")
                continue
            counted = [name for name in vip.nodes if self._counts(name, now)]
            owner = self._owners[ip] = elect.winner(ip, counted)
            if owner != self._me:
                self._tell_elsewhere(ip, owner)
                for link in self._links.values():
                    link.claims.give_up(ip, now, at_once=not owner)  # with nobody to wait for
                continue
            if not before:
                self._tell_elsewhere(ip, elect.winner(ip, [name for name in counted if name != self._me]))
            if self.members.dead(self._elsewhere.get(ip, "")):
                self._tell_elsewhere(ip, "")
            silent = [name for name in vip.nodes if name != self._me and self.members.silent(name)]
            doubtful = elect.winner(ip, [*counted, *silent]) != self._me
            for link in self._links.values():
                link.sockets.join(ip)
                link.claims.own(ip, doubtful, now)

    def _tell_elsewhere(self, ip: str, node: str) -> None:
        """The connections of an address that this node does not know are on that one: its owner, or the one before this."""
        if self._elsewhere.get(ip, "") == node:
            return
        if node:
            self._elsewhere[ip] = node
        else:
            del self._elsewhere[ip]
        self._moved(ip, node)

    def _counts(self, name: str, now: float) -> bool:
        return not self._leaving if name == self._me else self.members.takes_part(name, now)

    def _carry_out(self, now: float) -> None:
        for link in self._links.values():
            for act in link.claims.due(now):
                if act.what == "probe":
                    link.sockets.probe(act.ip)
                    continue
                link.sockets.announce(act.ip)
                if act.ip not in link.told:
                    link.told.add(act.ip)
                    self._tell(Told(act.ip, link.sockets.name))

    def _tell_conflicts(self, link: _Link) -> None:
        """Tell of those that are new; what is no longer ours to answer for may be told of again later."""
        link.told = {ip for ip in link.told if link.claims.state(ip) is State.HOLDING}
        there = {(each.ip, each.mac): each for each in link.claims.conflicts.values()}
        for (ip, mac), conflict in there.items():
            if (ip, mac) not in link.conflicts:
                self._tell(Told(ip, link.sockets.name, conflict, self.members.whose(mac)))
        link.conflicts = set(there)

    # -- what others say

    def _hear(self, name: str, heard: Heard) -> None:
        link, now = self._links.get(name), time.monotonic()
        if link is None or not self._running or link.claims.state(heard.ip) is None:
            return
        if heard.asks:
            if heard.probe:
                link.claims.heard_probe(heard.ip, heard.mac, now)
            if link.claims.answers(heard.ip):
                link.sockets.answer(heard)
            return
        whose = self.members.whose(heard.mac)
        link.claims.heard(heard.ip, heard.mac, bool(whose) and not self.members.silent(whose), now)
        self._awake.set()

    def _beat(self, now: float) -> None:
        """Tell all others that we live, and see who does not."""
        for sock in tuple(self._sockets.values()):
            self._receive(sock)
        for name in self._peers:
            self._send_to(name)
        for link in self._links.values():
            self._tell_conflicts(link)
        if died := self.members.tick(now):
            log.warning("no sign of life of %s for %g s", ", ".join(sorted(died)), heartbeat.SILENCE)
            self._elect(self._vips)

    def _send_to(self, name: str, echo: bytes = b"") -> None:
        macs = tuple(link.sockets.mac for link in self._links.values())
        for ip in self._peers.get(name, ()):
            if (sock := self._sockets.get(address.family(ip))) is not None:
                with contextlib.suppress(OSError):  # no route, or a queue that is full: the next one is soon
                    sock.sendto(self.members.message_to(name, self._leaving, macs, echo), (ip, self._port))
                return

    def _receive(self, sock: socket.socket) -> None:
        for _ in range(256):
            try:
                data, where = sock.recvfrom(1024)
            except OSError:
                return
            if address.canonical(where[0]) not in self._names:
                continue
            now = time.monotonic()
            taken = self.members.take(data, now)
            if taken.answer:
                self._send_to(taken.name, taken.answer)
            if taken.changed:
                for each in self.members.splits:
                    self._split(*each)
                self.members.splits.clear()
                self._elect(self._vips)
                for link in self._links.values():
                    link.claims.announce_all(now)
                self._awake.set()

    # -- the node's own links and sockets

    def _open_links(self) -> None:
        """Speak on the links that have the node's addresses (or are named), as they are now."""
        try:
            own = own_addresses(self._netns)
        except KernelError as error:
            self.problem = str(error)
            return
        wanted = {each.dev: each.index for each in own if each.dev in self._links_wanted or (not self._links_wanted and each.address in self._own)}  # fmt: skip
        for name, link in tuple(self._links.items()):
            link.sockets.leave_all_but(link.claims.claimed())
            if wanted.get(name) != link.sockets.index or _hardware(self._netns, name) != link.sockets.mac:
                self._links.pop(name).sockets.close()
        fresh = False
        for name in wanted.keys() - self._links.keys():
            try:
                self._links[name] = _Link(LinkSockets(self._netns, name, wanted[name], lambda heard, name=name: self._hear(name, heard)))  # type: ignore[misc]  # fmt: skip
                fresh = True
            except KernelError as error:
                log.warning("%s", error)
        self.problem = "" if self._links else f"no link of this node has one of its addresses ({', '.join(self._own) or 'none'})"  # fmt: skip
        self._open_sockets()
        if fresh:
            self._elect(self._vips)

    def _open_sockets(self) -> None:
        for family in {address.family(ip) for ip in self._own} - self._sockets.keys():
            kind = socket.AF_INET6 if family == address.IPV6 else socket.AF_INET
            sock = self._netns.socket(kind, socket.SOCK_DGRAM)
            try:
                if kind == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)  # before the bulk, where queues are sorted
                sock.bind(("", self._port))
            except OSError as error:
                sock.close()
                log.warning("UDP port %d, by which nodes tell that they live: %s", self._port, error.strerror)
                continue
            self._sockets[family] = sock
            asyncio.get_running_loop().add_reader(sock.fileno(), self._receive, sock)


def _hardware(netns: NetNs, name: str) -> bytes:
    """A link's hardware address now."""
    link = find_link(netns, name)
    return bytes.fromhex(link.hardware.replace(":", "")) if link is not None else b""
