"""A Knot DNS server of our own: started, watched, brought back, and kept at the records of a Table.

It never serves half of what there is: until `complete` its zones are absent, which it answers with SERVFAIL; a server that is started after that
finds zone files with everything and answers nobody before it has read them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping

from glassnet.agent.dns import control
from glassnet.agent.dns.control import ControlError
from glassnet.agent.placement import Place, Runner
from glassnet.dns import knot_conf, plan
from glassnet.dns.model import DnsSettings, Record, Server, Stub
from glassnet.dns.plan import Operation
from glassnet.dns.table import Table
from glassnet.kernel.api import Process
from glassnet.kernel.spawn import PATH
from glassnet.net.errors import GlassnetError, KernelError

log = logging.getLogger(__name__)
PROGRAM = "/usr/sbin/knotd"
START_TIME = 20.0  # seconds a server may take until it answers its control socket
LOOK = 1.0  # seconds between looks at the control socket
BACKOFF = (0.0, 0.2, 1.0, 5.0)  # seconds before the first, second, … start in a row


class KnotServer:
    """One server. `run` it; call `complete` once the Table has everything, and `sync` whenever it has changed.

    `started` counts the processes, `mended` those ended because their records could not be changed; `came` is called whenever one begins to
    answer: call `sync` then.
    """

    def __init__(
        self,
        runner: Runner,
        place: Place,
        settings: DnsSettings,
        table: Table,
        *,
        now: Callable[[], float] = time.time,
        token: str = "",
        program: str = PROGRAM,
    ) -> None:
        self._runner, self._place, self.settings, self._table = runner, place, settings, table
        self._now, self._token, self._program = now, token, program
        self.upstreams: tuple[Server, ...] = settings.upstreams
        self.stubs: tuple[Stub, ...] = settings.stubs
        self._zones: dict[str, str] = plan.zones(Table(), settings, bool(self.upstreams))
        self._layout = -1
        self._serials: dict[str, int] = {}
        self._whole = self._files_whole = False
        self._lock = asyncio.Lock()
        self._process: Process | None = None
        self.answering = asyncio.Event()
        self.loaded = False
        self.came: Callable[[], None] = lambda: None
        self.started = self.mended = 0
        self.error = ""

    @property
    def pid(self) -> int:
        """The server's process; 0 when none runs."""
        return self._process.pid if self._process is not None else 0

    @property
    def ready(self) -> bool:
        """Whether queries are answered out of complete zones."""
        return self.loaded and self.answering.is_set()

    # -- the process

    async def run(self) -> None:
        """Keep a server running until cancelled, then end it. Raises KernelError when the program cannot be started at all."""
        failures = 0
        try:
            await self._oust()
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
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait({ended, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                self.error = f"{self.error or 'it does not answer its control socket'}; it is started anew"
                process.signal(signal.SIGKILL)
            status = await ended
            self.answering.clear()
            self.error = self.error or (f"ended by signal {-status}" if status < 0 else f"ended with status {status}")
            log.warning("the DNS server (pid %d): %s", process.pid, self.error)
        finally:
            for task in (ended, watching):
                task.cancel()
            await asyncio.gather(ended, watching, return_exceptions=True)

    async def _start(self) -> Process:
        self._write_all()
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            inside = self._place.inside
            process = self._process = await self._runner.spawn(
                [self._program, "-c", f"{inside}/knot.conf"], env={"PATH": PATH}, stdout=writing, stderr=writing
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self.started += 1
        self.error = ""
        _Lines(reading)
        return process

    async def _watch(self) -> None:
        """Returns when the server does not answer its control socket (any more)."""
        deadline = time.monotonic() + START_TIME
        while not await self._answers():
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(0.01)
        async with self._lock:
            self.answering.set()
            self.loaded = self._files_whole
            if self._whole and not self.loaded:
                await self._load()
        self.came()
        while True:
            await asyncio.sleep(LOOK)
            for _ in range(3):
                if await self._answers():
                    break
                await asyncio.sleep(0.1)
            else:
                return

    async def _answers(self) -> bool:
        try:
            connection = await control.connect(self._place.outside)
        except (GlassnetError, OSError):
            return False
        try:
            await connection.ask(command="status")
        except GlassnetError as error:
            self.error = str(error)
            return False
        finally:
            await connection.close()
        return True

    async def _oust(self) -> None:
        """End a server that somebody before us left in this directory: it would hold the addresses."""
        outside = self._place.outside
        outside.mkdir(parents=True, exist_ok=True, mode=0o755)
        with contextlib.suppress(GlassnetError):
            connection = await control.connect(outside)
            try:
                await connection.ask(command="stop")
                log.info("ended the DNS server that was left in %s", outside)
            finally:
                await connection.close()
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline and await self._answers():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def _end(self) -> None:
        self.answering.clear()
        process, self._process = self._process, None
        if process is not None:
            process.signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(5):
                    await process.wait()
            except TimeoutError:
                process.signal(signal.SIGKILL)
                await process.wait()

    # -- its files

    def _write_all(self) -> None:
        outside = self._place.outside
        for name in ("zones", "db"):  # nothing in them is worth more than what we know
            shutil.rmtree(outside / name, ignore_errors=True)
            (outside / name).mkdir(parents=True, mode=0o755)
        self._files_whole = self._whole
        if self._whole:
            self._write_zones()
        self._write_conf()
        if self._token:
            text = f'@ 0 SOA . . 1 0 0 0 0\n@ 0 NS .\n@ 0 TXT "{self._token}"\n'
            (outside / "zones" / f"{knot_conf.CHECK_ZONE}zone").write_text(text)

    def _write_conf(self) -> None:
        text = knot_conf.render(
            self.settings._replace(stubs=self.stubs), self._place.inside, self.upstreams, self._zones, self._token
        )
        (self._place.outside / "knot.conf").write_text(text)

    def _write_zones(self) -> None:
        """Everything, as of now."""
        self._table.take()
        self._plan_zones()
        for zone in self._serials:
            self._serials[zone] = max(self._serials[zone] + 1, int(self._now()))
        self._write_files(self._table.records(), self._serials)

    def _write_files(self, records: Iterable[Record], serials: Mapping[str, int]) -> None:
        for zone, text in plan.zone_files(records, serials, self.settings):
            (self._place.outside / "zones" / f"{zone}zone").write_text(text)

    def _plan_zones(self) -> tuple[dict[str, str], set[str]]:
        """Take over which zones the Table wants: those that come, with their modules, and those that go."""
        if self._layout == self._table.layout:
            return {}, set()
        self._layout = self._table.layout
        wanted = plan.zones(self._table, self.settings, bool(self.settings.upstreams))
        go = self._zones.keys() - wanted.keys()
        come = {zone: module for zone, module in wanted.items() if zone not in self._zones or (zone not in self._serials and plan.has_file(module))}  # fmt: skip
        self._zones = wanted
        for zone in go:
            self._serials.pop(zone, None)
        for zone, module in come.items():
            if plan.has_file(module):
                self._serials[zone] = int(self._now())
        return come, go

    # -- its records

    async def complete(self) -> None:
        """The Table has all there is: from now on it is served."""
        async with self._lock:
            self._whole = True
            if self.answering.is_set():
                await self._load()

    async def sync(self) -> int:
        """Bring the server to what the Table has; the number of records that were changed.

        What goes wrong ends the process: the next one begins with files that have everything.
        """
        async with self._lock:
            if not self.ready:
                return 0  # its files will have everything
            delta = self._table.take()
            if not delta:
                return 0
            come, go = self._plan_zones()
            self._write_files(delta.added, {zone: self._serials[zone] for zone in come if zone in self._serials})
            touched = {record.zone for record in delta.added | delta.removed} & self._serials.keys() - come.keys()
            changes = plan.transaction(delta, touched, self.settings)
            operations = [*plan.zones_changed(come, ()), *changes, *plan.zones_changed({}, go)]
            try:
                await control.carry_out(self._place.outside, operations)
            except (ControlError, KernelError) as error:
                self._give_up(error)
                return 0
            for zone in touched:
                self._serials[zone] += 1
            for zone in go:
                (self._place.outside / "zones" / f"{zone}zone").unlink(missing_ok=True)
            return len(delta.added) + len(delta.removed)

    async def _load(self) -> None:
        """All zones out of files, while the server runs."""
        self._write_zones()
        self._write_conf()
        zones = [zone for zone, module in self._zones.items() if plan.has_file(module)]
        operations = [Operation("reload"), *(Operation("zone-reload", zone, flags="B") for zone in zones)]
        try:
            await control.carry_out(self._place.outside, operations)
            self.loaded = True
        except (ControlError, KernelError) as error:
            self._give_up(error)

    def _give_up(self, error: GlassnetError) -> None:
        self.error = f"its records could not be changed ({error}); it is started anew"
        self.mended += 1
        self.loaded = False
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    async def forward_to(self, upstreams: tuple[Server, ...], stubs: tuple[Stub, ...]) -> None:
        """Ask these for other names from now on, the first of each; no record is touched."""
        async with self._lock:
            if (upstreams, stubs) == (self.upstreams, self.stubs):
                return
            self.upstreams, self.stubs = upstreams, stubs
            self._write_conf()
            if self.answering.is_set():
                try:
                    await control.carry_out(self._place.outside, [Operation("reload")])
                except (ControlError, KernelError) as error:
                    self._give_up(error)


class _Lines:
    """What the server says, into our log, until it closes the pipe."""

    def __init__(self, descriptor: int) -> None:
        self._fd, self._rest = descriptor, b""
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines[:20]:  # one that says the same a thousand times is heard twenty times
            log.warning("knotd: %s", line.decode(errors="replace").partition(" ")[2])
        self._rest = self._rest[-4096:]
