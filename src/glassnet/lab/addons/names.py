"""Names in a lab: cluster DNS in pods of kube-system, and the server on `internet` that knows all other names there are."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from glassnet.agent.dns.knot import PROGRAM
from glassnet.agent.dns.part import DnsPart
from glassnet.agent.placement import Place
from glassnet.agent.proxy.servers import Listening
from glassnet.agent.single import until_told
from glassnet.dns import settings as checks
from glassnet.dns.model import DnsSettings
from glassnet.kernel.addresses import Addresses
from glassnet.kernel.api import Host, Machine
from glassnet.kernel.spawn import PATH
from glassnet.kube.change import Record
from glassnet.kube.view import View
from glassnet.lab.pods.flags import Flags, Value, parse_flags
from glassnet.lab.pods.surroundings import Surroundings
from glassnet.net.errors import GlassnetError, KernelError, LabError
from glassnet.proxy.config import host_port

log = logging.getLogger(__name__)
DIRECTORY = "run/glassnet/dns"  # of a node; a directory in it for each pod
OUTSIDE = "run/glassnet/names"  # of `internet`
AGAIN = 0.5  # seconds until a server that has ended is started anew
_FLAGS: dict[str, Value] = {
    "cluster-domain": "cluster.local", "ttl": 5, "pods": "insecure", "listen": (), "upstream": (), "stub-domain": (), "transfer-to": (),
    "service": "kube-system/kube-dns", "udp-workers": 1, "tcp-workers": 1, "upstream-timeout": 2000, "bind-address": "0.0.0.0:10269",
    "lameduck": "5",
}  # fmt: skip


class Names:
    """What the DNS servers of a lab's pods share: what the API shows."""

    def __init__(self, view: View, synced: Callable[[], Awaitable[Any]], report: Callable[[Record], None]) -> None:
        self._view, self._synced, self._report = view, synced, report

    async def serve(self, machine: Machine, place: Surroundings, args: Sequence[str]) -> None:
        """`glassnet dns serve` in a pod on a node, until cancelled. Raises GlassnetError."""
        flags = _flags(args)
        settings = self._settings(flags, machine, place)
        inside = f"{DIRECTORY}/{place.pod.uid}-{place.container}"
        outside = Path(machine.root) / inside
        netns = place.sandbox.netns
        part = DnsPart(
            self._view, place.sandbox, Place("/" + inside, outside), netns, settings, self._synced,
            token=secrets.token_hex(16), report=self._report,
        )  # fmt: skip
        listening = Listening(netns, part.answer)
        said = asyncio.create_task(_say(part, place))
        try:
            await listening.open(*host_port(flags.word("bind-address")))
            await until_told(part, float(flags.word("lameduck")))
        finally:
            said.cancel()
            await listening.close()
            shutil.rmtree(outside, ignore_errors=True)

    def _settings(self, flags: Flags, machine: Machine, place: Surroundings) -> DnsSettings:
        found = checks.settings(
            domain=flags.word("cluster-domain"), ttl=flags.number("ttl"), pods=flags.word("pods"), listen=flags.many("listen"),
            stubs=flags.many("stub-domain"), transfer_to=flags.many("transfer-to"), own_service=flags.word("service"),
            udp_workers=flags.number("udp-workers"), tcp_workers=flags.number("tcp-workers"), upstream_timeout=flags.number("upstream-timeout"),
        )  # fmt: skip
        resolver = ""
        with suppress(OSError):
            resolver = (Path(machine.root) / "etc/resolv.conf").read_text()
        addresses = Addresses(place.sandbox.netns)
        try:
            found, wrong = checks.with_upstreams(found, flags.many("upstream"), resolver, addresses.all())
        finally:
            addresses.close()
        for line in wrong:
            place.log(f"/etc/resolv.conf: {line}", 2)
        return found


def _flags(args: Sequence[str]) -> Flags:
    try:
        found = parse_flags(args, _FLAGS)
        float(found.word("lameduck"))
        return found
    except ValueError as error:
        raise LabError(
            f"glassnet dns serve: {error}; in the lab's own process it has --{', --'.join(_FLAGS)}"
        ) from None


async def _say(part: DnsPart, place: Surroundings) -> None:
    """In the container's log: from when on it answers."""
    upstreams = ", ".join(map(str, part.settings.upstreams)) or "nobody"
    place.log(f"cluster DNS for {part.settings.domain}; other names are asked of {upstreams}", 2)
    while part.loop is None:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await part.loop.first_sync.wait()
    place.log(f"answering: {len(part.table)} records in {len(part.table.zones())} zones", 2)


_CONF = """\
server:
    rundir: "/{place}"
    listen: "{address}@53"
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
control:
    listen: "/{place}/knot.sock"
log:
  - target: stderr
    any: warning
database:
    storage: "/{place}/db"
    journal-db-max-size: 1M
template:
  - id: default
    storage: "/{place}"
    zonefile-sync: -1
    journal-content: none
zone:
  - domain: "."
    file: "root.zone"
"""
_ZONE = """\
$TTL 30
.                SOA  ns.example.com. nobody.example.com. 1 3600 600 86400 30
.                NS   ns.example.com.
example.com.     A    {address}
example.com.     TXT  "the test zone of a lab"
ns.example.com.  A    {address}
www.example.com. CNAME example.com.
"""


async def serve_outside(machine: Host, address: str) -> None:
    """Keep a DNS server on `internet` that knows example.com, and that there is no other name; until cancelled."""
    place = Path(machine.root) / OUTSIDE
    (place / "db").mkdir(parents=True, exist_ok=True)
    (place / "knot.conf").write_text(_CONF.format(place=OUTSIDE, address=address))
    (place / "root.zone").write_text(_ZONE.format(address=address))
    while True:
        try:
            process = await machine.spawn([PROGRAM, "-c", f"/{OUTSIDE}/knot.conf"], env={"PATH": PATH})
            log.warning("the DNS server of `internet` ended with status %d", await process.wait())
        except (KernelError, GlassnetError) as error:
            log.warning("the DNS server of `internet`: %s", error)
        await asyncio.sleep(AGAIN)
