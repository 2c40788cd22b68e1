"""Links of many pods that go at the same time, taken down in one request: see `kernel.links.delete_links` for why."""

from __future__ import annotations

import asyncio

from glassnet.kernel.api import NetNs
from glassnet.kernel.links import delete_links
from glassnet.net.errors import KernelError

GATHER = 0.002  # seconds: pods that are deleted together come within it


class LinkRemoval:
    """The links of one machine."""

    def __init__(self, netns: NetNs) -> None:
        self._netns = netns
        self._names: list[str] = []
        self._going: asyncio.Task[None] | None = None

    async def remove(self, name: str) -> None:
        """Have a link deleted; returns when it is gone, or was not there. Raises KernelError when the kernel refuses."""
        self._names.append(name)
        if self._going is None:
            self._going = asyncio.create_task(self._remove())
        await asyncio.shield(self._going)

    async def _remove(self) -> None:
        await asyncio.sleep(GATHER)
        names, self._names, self._going = self._names, [], None
        try:
            delete_links(self._netns, names)
        except KernelError:
            for name in names:  # one that is refused must not keep the others
                delete_links(self._netns, [name])
