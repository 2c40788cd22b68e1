"""nftables on one machine: transactions through `nft -f`."""

from __future__ import annotations

from glassnet.kernel.api import Machine


class Nft:
    """The nft tool of a machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def run(self, script: str) -> None:
        """Carry out a script, whole or not at all. Raises CommandError with nft's own words, which name the line."""
        if script:
            await self._machine.run(["nft", "-f", "-"], script.encode(), timeout=60)
