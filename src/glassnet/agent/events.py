"""Recording Events without holding up whoever has something to say."""

from __future__ import annotations

import asyncio
import logging

from glassnet.agent.changes import Writer
from glassnet.kube.change import Record
from glassnet.net.errors import GlassnetError

log = logging.getLogger(__name__)
MOST = 1000  # records that may wait; more would only repeat what is wrong


class EventRecorder:
    """Takes records at any time; `run` writes them."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._queue: asyncio.Queue[Record] = asyncio.Queue(MOST)

    def __call__(self, record: Record) -> None:
        """Have it written soon; dropped when too many wait."""
        if not self._queue.full():
            self._queue.put_nowait(record)

    async def run(self) -> None:
        """Write records until cancelled."""
        while True:
            record = await self._queue.get()
            try:
                await self._writer.record(record)
            except GlassnetError as error:
                log.warning("event %s of %s: %s", record.reason, record.regarding.get("name"), error)
