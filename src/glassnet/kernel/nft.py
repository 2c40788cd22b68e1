"""nftables on one machine: transactions through `nft -f`."""

from __future__ import annotations

import re

from glassnet.kernel.api import Machine
from glassnet.net.errors import CommandError


class Nft:
    """The nft tool of a machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def has_table(self, family: str, name: str) -> bool:
        """Whether a table exists. Raises CommandError."""
        listing = (await self._machine.run(["nft", "list", "tables", family])).decode()
        return f"table {family} {name}" in listing.splitlines()

    async def run(self, script: str) -> None:
        """Carry out a script, whole or not at all. Raises CommandError with nft's own words and the line of the script they are about."""
        if not script:
            return
        try:
            await self._machine.run(["nft", "-f", "-"], script.encode(), timeout=60)
        except CommandError as error:
            part = faulty_part(error.stderr, script)
            detail = f"{error.stderr.strip()}: {part}" if part else error.stderr
            raise CommandError(error.argv, error.status, detail) from None


def faulty_part(message: str, script: str) -> str:
    """The line of the script an error of nft is about; of a line with many elements, only the one that the named columns lie in."""
    found = re.search(r":(\d+):(\d+)-(\d+): Error", message)
    lines = script.splitlines()
    if not found or not 0 < int(found[1]) <= len(lines):
        return ""
    line, first, last = lines[int(found[1]) - 1], int(found[2]), int(found[3])
    if len(line) > 200:
        end = line.find(", ", last)
        line = line[max(line.rfind(", ", 0, first), line.rfind("{ ", 0, first)) + 2 : end if end > 0 else len(line)]
    return f"line {found[1]}: {line.strip()[:300]}"
