"""Containers whose program is a part of glassnet: it works in the lab's own process, its servers in the pod's namespaces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from glassnet.kube.runtime import ExitStatus
from glassnet.lab.pods.logs import LogRing
from glassnet.lab.pods.surroundings import Surroundings
from glassnet.net.errors import GlassnetError

Part = Callable[[Surroundings, Sequence[str]], Coroutine[Any, Any, None]]
"""What does the work of a command, given the place and the arguments, until cancelled. Raises GlassnetError for what ends it."""
Parts = Mapping[tuple[str, ...], Part]
"""By the words of the command, such as ("dns", "serve")."""


class Hosted:
    """A running part (RunningContainer)."""

    def __init__(self, id: str, place: Surroundings, work: Coroutine[Any, Any, None]) -> None:
        self.id, self.started_at = id, place.clock()
        self.status: ExitStatus | None = None
        self._place = place
        self._task = asyncio.create_task(self._run(work))

    @property
    def log(self) -> LogRing:
        """The log's ring."""
        return self._place.log_ring

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        code, words = 0, ""
        try:
            await work
        except asyncio.CancelledError:
            pass
        except (GlassnetError, OSError, ExceptionGroup) as error:
            code, words = 1, str(_first(error))
            self._place.log(words, 2)
        finally:
            self.status = ExitStatus(code, "Error" if code else "Completed", words)
            self._place.log_ring.close()

    async def wait(self) -> ExitStatus:
        """See RunningContainer.wait."""
        await asyncio.wait({self._task})
        return self.status or ExitStatus(0, "Completed")

    async def stop(self, grace: float) -> ExitStatus:
        """Tell it to end; what goes on for more than `grace` seconds, as it may to answer those who have not heard of it yet, is cut short."""
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=max(grace, 0.01))
        while not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=0.05)
        return await self.wait()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
