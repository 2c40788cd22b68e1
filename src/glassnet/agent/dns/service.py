"""`glassnet dns serve`: the cluster's DNS as a process of its own, by the API server's watches."""

from __future__ import annotations

import secrets
from pathlib import Path

from glassnet.agent.dns.part import DnsPart
from glassnet.agent.dns.watches import watch_names
from glassnet.agent.placement import Place
from glassnet.agent.single import Ground, serve
from glassnet.client.kubeconfig import Access
from glassnet.dns.model import DnsSettings
from glassnet.kernel.addresses import Addresses
from glassnet.kernel.host import HostMachine


class DnsService:
    """`run` until SIGTERM or SIGINT, and `lameduck` seconds more. `directory` is the server's own; `bind_address` is where health and metrics
    are, "" for nowhere."""

    def __init__(
        self, access: Access, settings: DnsSettings, directory: Path, bind_address: str, lameduck: float = 0.0
    ) -> None:
        self._access, self._settings, self._directory, self._bind = access, settings, directory, bind_address
        self._lameduck = lameduck

    async def run(self) -> str:
        """Run; the reason it ended for. Raises GlassnetError for what cannot be started."""
        return await serve(self._access, self._bind, self._part, self._lameduck)

    def _part(self, ground: Ground) -> DnsPart:
        watch_names(ground.watches)
        place = Place(str(self._directory), self._directory)
        return DnsPart(
            ground.view, ground.machine, place, ground.machine.netns, self._settings, ground.synced,
            token=secrets.token_hex(16), report=ground.events,
        )  # fmt: skip


def own_addresses() -> tuple[str, ...]:
    """The addresses of this machine."""
    machine = HostMachine()
    addresses = Addresses(machine.netns)
    try:
        return addresses.all()
    finally:
        addresses.close()
        machine.close()
