"""BIRD 2 as a child of this process: started, told what to announce, asked how its sessions stand, brought back when it ends.

It dies with this process (setpriv --pdeathsig): a node whose agent is dead announces nothing. Source: BIRD 2 user's guide, "Remote control".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Protocol

from glassnet.kernel.api import Node, Process
from glassnet.kernel.spawn import PATH
from glassnet.loadbalancer.bird import MARK
from glassnet.net.errors import GlassnetError, KernelError

log = logging.getLogger(__name__)
PROGRAM, PLACE = "/usr/sbin/bird", "/run/glassnet/bird"
START_TIME = 5.0  # seconds until it must answer its control socket
LOOK = 0.5  # seconds between questions about its sessions
BACKOFF = (0.0, 0.2, 1.0, 5.0)  # seconds before the first, second, … start in a row


class Runner(Node, Protocol):
    """Where it runs: a machine."""

    async def spawn(self, argv: list[str], *, env: dict[str, str], stdout: int = -1, stderr: int = -1) -> Process: ...


class BirdError(GlassnetError):
    """BIRD does not answer, or refuses what it was told."""


class BirdServer:
    """One BIRD. `set` what it is to be configured with at any time; `run` it until cancelled.

    `sessions` are its BGP protocols by name, True for those that are established. `tell` hears of its ends, of what it refuses ("BirdGone",
    "BirdRefused"), and of sessions that come and go ("BGPSessionUp", "BGPSessionDown"): (reason, text).
    """

    def __init__(self, machine: Runner, tell: Callable[[str, str], None], program: str = PROGRAM) -> None:
        self._machine, self._tell, self._program = machine, tell, program
        self._outside = machine.root / PLACE.lstrip("/")
        self._text = self._told = ""
        self._changed = asyncio.Event()
        self._lock = asyncio.Lock()
        self._process: Process | None = None
        self.answering = False
        self.sessions: dict[str, bool] = {}
        self.started = 0
        self.problem = ""

    @property
    def pid(self) -> int:
        """Its process; 0 when none runs."""
        return self._process.pid if self._process is not None else 0

    def set(self, text: str) -> None:
        """The configuration from now on."""
        if text != self._text:
            self._text = text
            self._changed.set()

    async def run(self) -> None:
        """Keep one running until cancelled, then end it."""
        failures = 0
        try:
            await self._oust()
            while True:
                await asyncio.sleep(BACKOFF[min(failures, len(BACKOFF) - 1)])
                begun = time.monotonic()
                try:
                    await self._one_life()
                except KernelError as error:
                    self._say("BirdGone", f"{error}: install the package bird2")
                failures = 0 if time.monotonic() - begun > 10 else failures + 1
        finally:
            await self._end()

    async def withdraw(self, text: str) -> None:
        """Have it configured with this, and wait until it is: what it announces no more is withdrawn by then."""
        self._text = text
        with contextlib.suppress(GlassnetError):
            await self._configure()

    async def _one_life(self) -> None:
        self._write()
        self._changed.clear()
        self._told = self._text
        env = {"PATH": PATH}
        argv = ["setpriv", "--pdeathsig", "KILL", self._program, "-f", "-c", f"{PLACE}/bird.conf", "-s", f"{PLACE}/bird.ctl"]  # fmt: skip
        with open(self._outside / "bird.log", "wb") as file:
            process = self._process = await self._machine.spawn(
                argv, env=env, stdout=file.fileno(), stderr=file.fileno()
            )
        self.started += 1
        ended, working = asyncio.create_task(process.wait()), asyncio.create_task(self._work())
        try:
            await asyncio.wait({ended, working}, return_when=asyncio.FIRST_COMPLETED)
            why = str(working.exception() or "") if working.done() and not working.cancelled() else ""
            if not ended.done():
                process.signal(signal.SIGKILL)
            status = await ended
            why = why or (f"ended by signal {-status}" if status < 0 else f"ended with status {status}")
            self._say("BirdGone", f"BIRD (pid {process.pid}): {why}; it is started anew{self._last_words()}")
        finally:
            self.answering, self.sessions = False, {}
            for task in (ended, working):
                task.cancel()
            await asyncio.gather(ended, working, return_exceptions=True)

    async def _work(self) -> None:
        """Tell it what is new, ask how it stands. Raises BirdError when it does not answer."""
        deadline = time.monotonic() + START_TIME
        while True:
            try:
                await self._ask("show status")
                break
            except BirdError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.01)
        self.answering, self.problem = True, ""
        log.info("BIRD runs (pid %d)", self.pid)
        while True:
            if self._text != self._told:
                await self._configure()
            self._look(await self._ask("show protocols"))
            self._changed.clear()
            if self._text == self._told:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._changed.wait()

    async def _configure(self) -> None:
        async with self._lock:
            self._write()
            self._told = self._text
            answer = await self._ask("configure")
            if not any(line[:4] in ("0003", "0004", "0018", "0020") for line in answer):
                self._say("BirdRefused", f"BIRD refuses its configuration: {'; '.join(line[5:] for line in answer if line[:1] in '89')}")  # fmt: skip

    def _look(self, lines: list[str]) -> None:
        """Lines of `show protocols`: name, protocol, table, state, since, info."""
        found: dict[str, bool] = {}
        for line in lines:
            words = (line[5:] if line[:4].isdigit() else line).split()
            if len(words) > 1 and words[1] == "BGP":
                found[words[0]] = words[-1] == "Established"
        for name, up in found.items():
            if up != self.sessions.get(name, False):
                self._tell("BGPSessionUp" if up else "BGPSessionDown", f"BGP session {name} {'is established' if up else 'has ended'}")  # fmt: skip
        self.sessions = found

    async def _ask(self, command: str) -> list[str]:
        """A command over its control socket; the lines of the answer. Raises BirdError."""
        try:
            async with asyncio.timeout(3):
                fd = os.open(self._outside, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:  # the path of a socket may have 107 octets, that of the machine's files is longer
                    reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{fd}/bird.ctl")
                finally:
                    os.close(fd)
                try:
                    await _answer(reader)  # the greeting
                    writer.write(command.encode() + b"\n")
                    return await _answer(reader)
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise BirdError(f"BIRD's control socket: {error or 'no answer'}") from None

    def _write(self) -> None:
        self._outside.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._outside / "bird.conf"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)  # it may hold passwords
        with os.fdopen(fd, "w") as file:
            file.write(self._text)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self._outside / "bird.log").read_text(errors="replace").splitlines()
            return f": {lines[-1]}" if lines else ""
        return ""

    def _say(self, reason: str, text: str) -> None:
        if text != self.problem:
            self.problem = text
            log.warning("%s", text)
            self._tell(reason, text)

    async def _oust(self) -> None:
        """End one of ours that somebody left here."""
        with contextlib.suppress(BirdError, OSError):
            if (self._outside / "bird.conf").read_text().startswith(MARK):
                await self._ask("down")

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(3):
                    await process.wait()
            except TimeoutError:
                process.signal(signal.SIGKILL)
                await process.wait()
        sweep(self._machine)


def sweep(machine: Node) -> None:
    """Take away the files of one of ours; one that runs ends with whoever started it."""
    place = machine.root / PLACE.lstrip("/")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if not (place / "bird.conf").read_text().startswith(MARK):
            return
    for name in ("bird.ctl", "bird.log", "bird.conf"):
        with contextlib.suppress(OSError):
            (place / name).unlink()
    with contextlib.suppress(OSError):
        place.rmdir()


async def _answer(reader: asyncio.StreamReader) -> list[str]:
    """The lines of one answer: the last has a space behind its number."""
    lines = []
    while True:
        line = (await reader.readuntil(b"\n")).decode(errors="replace").rstrip("\n")
        lines.append(line)
        if line[:4].isdigit() and line[4:5] != "-":
            return lines
