"""iptables on one machine: what is there, and transactions through iptables-restore."""

from __future__ import annotations

import re

from glassnet.kernel.api import Machine
from glassnet.net.errors import CommandError


class Iptables:
    """The iptables tools of a machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def save(self, table: str) -> list[str]:
        """Lines of `iptables-save -t TABLE`. Raises CommandError."""
        return (await self._machine.run(["iptables-save", "-t", table])).decode().splitlines()

    async def restore(self, text: str) -> None:
        """Carry out a whole input of iptables-restore, or none of it; chains it does not name stay.

        Raises CommandError that shows the line at fault.
        """
        try:
            await self._machine.run(["iptables-restore", "-w", "5", "--noflush"], text.encode())
        except CommandError as error:
            found = re.search(r"line:? (\d+)", error.stderr)
            line = text.splitlines()[int(found[1]) - 1] if found and int(found[1]) <= text.count("\n") else ""
            raise CommandError(
                error.argv, error.status, f"{error.stderr.strip()}{': ' + line if line else ''}"
            ) from None
