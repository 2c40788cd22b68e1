"""An NGINX of our own: started, watched, brought back, and led from one configuration to the next without a lost request.

Every configuration is checked by NGINX itself (`nginx -t`) before it can become the one in force. Sources: nginx "Controlling nginx" (signals,
how a reload goes: the master reads, starts new workers, then tells the old ones to finish); ngx_process_cycle.c (their titles).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from glassnet.agent.ingress import processes
from glassnet.agent.ingress.generations import CURRENT, Generations
from glassnet.agent.ingress.messages import Lines
from glassnet.agent.placement import Place, Runner
from glassnet.kernel.api import Process
from glassnet.kernel.spawn import PATH
from glassnet.net.errors import GlassnetError

log = logging.getLogger(__name__)
PROGRAM = "/usr/sbin/nginx"
CHECK_TIME, RELOAD_TIME, START_TIME = 60.0, 30.0, 20.0  # seconds that each may take
BACKOFF = (0.0, 0.1, 0.5, 2.0, 5.0)  # seconds before the first, second, … start in a row
SWEEP = 2.0  # seconds between looks at the processes


class Refused(GlassnetError):
    """NGINX does not take a configuration; the message is its own."""


class ReloadFailed(GlassnetError):
    """NGINX took a configuration for good and did not change to it: what was in force before still is."""


class Limits(NamedTuple):
    """`generations`: how many may be shutting down beside the one in force; `patience`: seconds a reload waits for them before it ends the
    oldest; `grace`: seconds that connections have when the server is to end."""

    generations: int = 4
    patience: float = 10.0
    grace: float = 10.0


LIMITS = Limits()


class Nginx:
    """One NGINX. `run` it, and `apply` configurations: the first one starts it.

    `generation` is the one in force ("" for none). `starts`, `reloads`, `failed`, `refused`, `cut` (generations that were ended before their
    last connection) are counts; `error` says what went wrong last, "" when all is well. `came` is called whenever it begins to serve.
    """

    def __init__(self, runner: Runner, place: Place, *, limits: Limits = LIMITS, program: str = PROGRAM) -> None:
        self._runner, self._place, self._limits, self._program = runner, place, limits, program
        self._files = Generations(place.outside)
        self._lock = asyncio.Lock()
        self._process: Process | None = None
        self._wanted = asyncio.Event()
        self._lines = Lines()
        self._workers: dict[int, str] = {}  # pid -> the generation it serves
        self.serving = asyncio.Event()
        self.generation = self.error = ""
        self.since = 0.0  # time.time() of when it came into force
        self.starts = self.reloads = self.failed = self.refused = self.cut = 0
        self.came: Callable[[], None] = lambda: None

    @property
    def pid(self) -> int:
        """The master; 0 when none runs."""
        return self._process.pid if self._process is not None else 0

    @property
    def old_generations(self) -> int:
        """How many generations still finish what they began."""
        return len(set(self._workers.values()) - {self.generation})

    def begin(self) -> None:
        """Make the directory; to be called once, before anything else. Raises GlassnetError when it cannot be written.

        An NGINX that an earlier process left here goes on serving until ours starts.
        """
        self._files.begin()

    # -- the process

    async def run(self) -> None:
        """Keep it running until cancelled, then end it; it starts with the first configuration. Raises KernelError when it cannot be started."""
        failures = 0
        try:
            await self._wanted.wait()
            while True:
                await asyncio.sleep(BACKOFF[min(failures, len(BACKOFF) - 1)])
                begun = time.monotonic()
                await self._one_life()
                failures = 0 if time.monotonic() - begun > 10 else failures + 1
        finally:
            await self._end()

    async def _one_life(self) -> None:
        """From a start to an end, whoever caused it."""
        async with self._lock:
            process = await self._start()
        ended = asyncio.create_task(process.wait())
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=SWEEP)
                async with self._lock:
                    self._sweep()
            status = ended.result()
            self.error = (
                f"ended by signal {-status}" if status < 0 else f"ended with status {status}: {self._lines.last()}"
            )
            log.warning("NGINX (pid %d): %s; it is started anew", process.pid, self.error)
        finally:
            self.serving.clear()
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    async def _start(self) -> Process:
        await self._oust()
        for left in (*self._place.outside.glob("*.sock"), self._place.outside / "nginx.pid"):
            left.unlink(missing_ok=True)
        self._lines.forget()
        process = self._process = await self._spawn(
            "-g", "daemon off;", config=f"{self._place.inside}/{CURRENT}/nginx.conf", stderr=self._lines.pipe
        )
        self._lines.listen()
        self.starts += 1
        deadline = time.monotonic() + START_TIME
        ended = asyncio.ensure_future(process.wait())
        while not ended.done() and time.monotonic() < deadline:
            if workers := self._accepting():
                self._in_force(os.readlink(self._place.outside / CURRENT).rpartition("/")[2], workers)
                break
            await asyncio.wait({ended}, timeout=0.005)
        ended.cancel()
        return process

    def _in_force(self, generation: str, workers: Collection[int]) -> None:
        self._workers |= dict.fromkeys(workers, generation)
        self.generation, self.since, self.error = generation, time.time(), ""
        self.serving.set()
        self.came()

    async def _spawn(self, *words: str, config: str, stderr: int) -> Process:
        inside = self._place.inside
        return await self._runner.spawn(
            [self._program, "-p", inside, "-e", "stderr", "-c", config, *words], env={"PATH": PATH}, cwd=inside, stderr=stderr
        )  # fmt: skip

    def _accepting(self) -> set[int]:
        return {
            each.pid for each in processes.members(self._place.outside) if each.role == "worker" and not each.leaving
        }

    async def _oust(self) -> None:
        """End whatever is left here: workers of a master that was killed, an NGINX of an earlier process. It holds the ports until it stops
        to accept; what it has accepted it may finish."""
        outside, deadline = self._place.outside, time.monotonic() + 1.0
        told: set[int] = set()
        while left := [each for each in processes.members(outside) if not each.leaving and each.role]:
            late = time.monotonic() > deadline
            for each in left:
                if each.pid not in told or late:
                    told.add(each.pid)
                    log.info("ending the NGINX %s (pid %d) that was left in %s", each.role, each.pid, outside)
                    processes.send(outside, each.pid, signal.SIGKILL if late else signal.SIGQUIT)
            if time.monotonic() > deadline + 5:
                raise GlassnetError(
                    f"{outside}: an NGINX that was left there does not end (processes {sorted(each.pid for each in left)})"
                )
            if (
                all(each.role == "master" for each in left) and told
            ):  # it waits for its workers, and has closed its ports
                return
            await asyncio.sleep(0.005)

    async def _end(self) -> None:
        """Gracefully, and then for sure."""
        process, self._process = self._process, None
        if process is not None:
            process.signal(signal.SIGQUIT)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.grace):
                    await process.wait()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and (left := processes.members(self._place.outside)):
            for each in left:
                processes.send(self._place.outside, each.pid, signal.SIGKILL)
            await asyncio.sleep(0.01)
        if process is not None:
            process.signal(signal.SIGKILL)
            await process.wait()
        self._lines.close()

    # -- its configuration

    async def check(self, files: Mapping[str, bytes]) -> str:
        """What NGINX says against a configuration; "" when it takes it."""
        async with self._lock:
            name = self._files.write(files)
            try:
                return await self._test(name)
            finally:
                self._sweep()

    async def apply(self, files: Mapping[str, bytes]) -> None:
        """Have NGINX serve these files; returns when it does. Raises Refused, ReloadFailed, and GlassnetError when they cannot be written."""
        async with self._lock:
            name = self._files.write(files)
            if said := await self._test(name):
                self.refused += 1
                self._sweep()
                raise Refused(said)
            before = self.generation
            self._files.switch(name)
            running = self.serving.is_set()
            if running:
                await self._reload(before, name)
            self._sweep()
        if not running:
            self._wanted.set()
            try:
                await asyncio.wait_for(self.serving.wait(), START_TIME)
            except TimeoutError:
                raise ReloadFailed(f"NGINX does not start: {self.error or self._lines.last()}") from None

    async def _test(self, name: str) -> str:
        """Ask NGINX about a generation."""
        said = os.memfd_create("nginx -t", os.MFD_CLOEXEC)
        try:
            process = await self._spawn(
                "-t", "-q", config=f"{self._place.inside}/{self._files.inside(name)}/nginx.conf", stderr=said
            )
            try:
                status = await asyncio.wait_for(process.wait(), CHECK_TIME)
            except TimeoutError:
                process.signal(signal.SIGKILL)
                return f"no answer after {CHECK_TIME:.0f} s"
            except asyncio.CancelledError:
                process.signal(signal.SIGKILL)
                raise
            text = os.pread(said, 1 << 16, 0).decode(errors="replace")
        finally:
            os.close(said)
        return (_reason(text) or f"nginx -t ended with status {status}") if status else ""

    async def _reload(self, before: str, name: str) -> None:
        await self._room()
        process, serving = self._process, self._accepting()
        assert process is not None
        mark = self._lines.mark()
        process.signal(signal.SIGHUP)
        deadline, pause = time.monotonic() + RELOAD_TIME, 0.004
        ended = asyncio.ensure_future(process.wait())
        try:
            while True:
                await asyncio.wait({ended}, timeout=pause)
                pause = min(pause * 1.3, 0.05)
                if ended.done():
                    return  # the next one starts with these files: they were checked
                workers = self._accepting()
                if workers and not workers & serving:
                    break
                if (said := _reason(self._lines.since(mark))) or time.monotonic() > deadline:
                    self.failed += 1
                    self._files.switch(before)
                    self.error = f"the reload failed, what was in force before goes on: {said or f'no new workers after {RELOAD_TIME:.0f} s'}"
                    raise ReloadFailed(self.error)
        finally:
            ended.cancel()
        self.reloads += 1
        self._in_force(name, workers)

    async def _room(self) -> None:
        """Wait until few enough generations are shutting down; after some time end the oldest."""
        deadline = time.monotonic() + self._limits.patience
        while True:
            self._sweep()
            leaving = sorted(set(self._workers.values()) - {self.generation})
            if len(leaving) < self._limits.generations:
                return
            if time.monotonic() > deadline:
                oldest = leaving[0]
                log.warning(
                    "%d configurations are still in use by old connections: those of generation %s are closed",
                    len(leaving),
                    oldest,
                )
                self.cut += 1
                for pid in [pid for pid, generation in self._workers.items() if generation == oldest]:
                    processes.send(self._place.outside, pid, signal.SIGTERM)
            await asyncio.sleep(0.05)

    def _sweep(self) -> None:
        """Forget workers that have ended, note those that came since, and remove files that nobody uses any more."""
        there = [each for each in processes.members(self._place.outside) if each.role == "worker"]
        living = {each.pid for each in there}
        self._workers = {pid: generation for pid, generation in self._workers.items() if pid in living}
        for each in there:  # one that died was replaced by its master
            self._workers.setdefault(each.pid, self.generation)
        current = self._place.outside / CURRENT
        now = os.readlink(current).rpartition("/")[2] if current.is_symlink() else ""
        self._files.remove_but({now, self.generation, *self._workers.values()})

    def reopen_logs(self) -> None:
        """Have NGINX write its logs into new files."""
        if self._process is not None:
            self._process.signal(signal.SIGUSR1)


def _reason(text: str) -> str:
    """What NGINX found wrong, without its preamble; "" when nothing is."""
    found = [line.partition("[emerg] ")[2] for line in text.splitlines() if "[emerg]" in line]
    return "; ".join(
        part.partition(": ")[2] if part.partition(": ")[0].replace("#", "").isdigit() else part for part in found[:3]
    )
