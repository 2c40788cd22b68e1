"""A machine of namespaces with cluster DNS on it, asked by a real resolver library; upstreams beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.resolver
from pods_machine import node_of_namespaces

import dns_objects as objects
from glassnet.agent.dns.knot import PROGRAM
from glassnet.agent.dns.part import DnsPart
from glassnet.agent.placement import Place
from glassnet.dns.model import DnsSettings, Server
from glassnet.kernel.api import Process
from glassnet.kernel.machine import LabMachine
from glassnet.kernel.spawn import PATH
from glassnet.kube.change import Record
from glassnet.kube.view import View

HERE = "127.0.0.1"
SETTINGS = DnsSettings(listen=(Server(HERE),), upstream_timeout=400)
_UPSTREAM = """\
server:
    rundir: "{place}"
    listen: "{address}@53"
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
control:
    listen: "{place}/knot.sock"
database:
    storage: "{place}/db"
template:
  - id: default
    storage: "{place}"
    zonefile-sync: -1
    journal-content: none
zone:
"""


class DnsSite:
    """The machine, what the API shows (`view`), the part under test, upstreams by address."""

    def __init__(self, machine: LabMachine) -> None:
        self.machine, self.view = machine, View()
        self.lists = asyncio.Event()
        self.events: list[Record] = []
        self.upstreams: dict[str, Process] = {}
        self.part: DnsPart
        self._task: asyncio.Task[None] | None = None

    async def start(self, settings: DnsSettings = SETTINGS, *, lists: bool = True, interval: float = 0.2) -> None:
        """Run cluster DNS; returns when its server answers, out of complete zones if `lists`."""
        place = Place("/run/glassnet/dns", Path(self.machine.root) / "run/glassnet/dns")
        self.part = DnsPart(
            self.view, self.machine, place, self.machine.netns, settings, self.lists.wait,
            token="a token", report=self.events.append, interval=interval,
        )  # fmt: skip
        if lists:
            self.lists.set()
        self._task = asyncio.create_task(self.part.run())
        await self.until(lambda: self.part.ready if lists else self.part.knot and self.part.knot.answering.is_set())

    async def until(self, condition: Callable[[], Any], seconds: float = 15.0) -> Any:
        """Poll until something holds."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, "it did not come true in time"
            if self._task is not None and self._task.done():
                self._task.result()
            await asyncio.sleep(0.005)
        return value

    async def stop(self) -> None:
        """End cluster DNS."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def put(self, *bodies: dict[str, Any], deleted: bool = False) -> None:
        """What the API shows from now on."""
        objects.put(self.view, *bodies, deleted=deleted)

    async def inside(self, function: Callable[[], Any]) -> Any:
        """Call a function in a thread that is in the machine's network namespace."""

        def call() -> Any:
            with self.machine.netns.entered():
                return function()

        return await asyncio.to_thread(call)

    async def exchange(self, query: dns.message.Message, *, tcp: bool = False, server: str = HERE, timeout: float = 3.0) -> dns.message.Message:  # fmt: skip
        """A message there, a message back."""
        send = dns.query.tcp if tcp else dns.query.udp
        return await self.inside(lambda: send(query, server, timeout=timeout))

    async def ask(self, name: str, kind: str = "A", **more: Any) -> dns.message.Message:
        """The answer to a plain question."""
        return await self.exchange(dns.message.make_query(name, kind), **more)

    async def code(self, name: str, kind: str = "A", **more: Any) -> str:
        """NOERROR and its like; NODATA for NOERROR without an answer."""
        answer = await self.ask(name, kind, **more)
        text = dns.rcode.to_text(answer.rcode())
        return "NODATA" if text == "NOERROR" and not answer.answer else text

    async def found(self, name: str, kind: str = "A", **more: Any) -> list[str]:
        """The data of the answer, sorted; CNAME records left out unless they were asked for."""
        answer = await self.ask(name, kind, **more)
        return sorted(item.to_text() for rrset in answer.answer for item in rrset if rrset.rdtype == dns.rdatatype.from_text(kind))  # fmt: skip

    async def until_found(self, wanted: list[str], name: str, kind: str = "A") -> None:
        """Poll until a question has this answer."""
        deadline = time.monotonic() + 10
        while (found := await self._or_none(name, kind)) != wanted:
            assert time.monotonic() < deadline, f"{name} {kind}: {found}, not {wanted}"

    async def _or_none(self, name: str, kind: str) -> list[str] | None:
        try:
            return await self.found(name, kind, timeout=0.5)
        except (dns.exception.DNSException, OSError):
            return None

    async def upstream(self, address: str, zones: dict[str, str]) -> None:
        """A further DNS server, with zones: name -> records."""
        place, inside = Path(self.machine.root) / f"run/upstream-{address}", f"/run/upstream-{address}"
        (place / "db").mkdir(parents=True)
        conf = _UPSTREAM.format(place=inside, address=address)
        for zone, text in zones.items():
            conf += f'  - domain: "{zone}"\n'
            (place / f"{zone}zone").write_text(f"$TTL 60\n@ SOA ns.{zone} root.{zone} 1 60 60 60 60\n@ NS ns.{zone}\n{text}")  # fmt: skip
        (place / "knot.conf").write_text(conf)
        await self.upstream_again(address)

    async def upstream_again(self, address: str) -> None:
        """One that was there before, with its zones."""
        place, inside = Path(self.machine.root) / f"run/upstream-{address}", f"/run/upstream-{address}"
        (place / "knot.sock").unlink(missing_ok=True)
        self.upstreams[address] = await self.machine.spawn([PROGRAM, "-c", f"{inside}/knot.conf"], env={"PATH": PATH})
        await self.until((place / "knot.sock").exists)

    async def end_upstream(self, address: str) -> None:
        """It dies."""
        process = self.upstreams.pop(address)
        process.signal(9)
        await process.wait()

    async def close(self) -> None:
        await self.stop()
        for address in tuple(self.upstreams):
            await self.end_upstream(address)


@contextlib.asynccontextmanager
async def dns_site() -> AsyncIterator[DnsSite]:
    """A machine; nothing is left of it."""
    async with node_of_namespaces() as node:
        site = DnsSite(node.machine)
        try:
            yield site
        finally:
            await site.close()


def processes_of(site: DnsSite) -> int:
    """The server's process; 0 for none."""
    return site.part.knot.pid if site.part.knot else 0


def end_process(pid: int) -> None:
    """kill -9 of a process that this test started."""
    os.kill(pid, 9)
