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
            line = _line_at_fault(text.splitlines(), error.stderr)
            raise CommandError(
                error.argv, error.status, f"{error.stderr.strip()}{': ' + line if line else ''}"
            ) from None


def _line_at_fault(lines: list[str], stderr: str) -> str:
    """The line a message is about: the one it counts, or, when that is only the COMMIT, the one that has the name it quotes."""
    counted = re.search(r"line:? (\d+)", stderr)
    line = lines[int(counted[1]) - 1] if counted and int(counted[1]) <= len(lines) else ""
    quoted = re.search(r"'([^']+)'", stderr)
    if line in ("", "COMMIT") and quoted:
        return next((each for each in lines if quoted[1] in each.split()), line)
    return line
