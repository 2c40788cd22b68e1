"""Lines for a node's nat table, from many pods at once: one run of iptables-restore carries out what came while the last one ran."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from glassnet.kernel.api import Machine
from glassnet.net.errors import CommandError, GlassnetError

GATHER = 0.002  # seconds: pods that come up together have their lines ready within it


class _Wish(NamedTuple):
    lines: str
    otherwise: str
    done: asyncio.Future[None]


class NatRules:
    """The nat table of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._wishes: list[_Wish] = []
        self._worker: asyncio.Task[None] | None = None

    async def carry_out(self, lines: str, otherwise: str = "") -> None:
        """Have iptables-restore lines carried out; `otherwise` are tried in their place when the kernel refuses them.

        A restore is all or nothing, so when one of many pods' lines are refused, each pod's are tried alone. Raises CommandError.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wishes.append(_Wish(lines, otherwise, done))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        await done

    async def _work(self) -> None:
        await asyncio.sleep(GATHER)
        while self._wishes:
            batch, self._wishes = self._wishes, []
            try:
                await self._restore("".join(wish.lines for wish in batch))
            except CommandError:
                for wish in batch:
                    await self._alone(wish)
            except GlassnetError as error:
                for wish in batch:
                    _settle(wish.done, error)
            for wish in batch:
                _settle(wish.done)

    async def _alone(self, wish: _Wish) -> None:
        try:
            await self._restore(wish.lines)
        except GlassnetError as error:
            if not wish.otherwise:
                _settle(wish.done, error)
                return
            try:
                await self._restore(wish.otherwise)
            except GlassnetError as second:
                _settle(wish.done, second)

    async def _restore(self, lines: str) -> None:
        await self._machine.run(["iptables-restore", "-w", "5", "--noflush"], f"*nat\n{lines}COMMIT\n".encode())


def _settle(done: asyncio.Future[None], error: Exception | None = None) -> None:
    """Give an answer once, if anybody still waits for it."""
    if not done.done():
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
