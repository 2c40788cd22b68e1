"""Which faults a lab has, and what takes them back: kept in the lab's directory, so that any process, and a later one, can mend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from glassnet.lab.faults import undo
from glassnet.lab.faults.registry import FAULTS
from glassnet.lab.faults.scene import NAMESPACE, Fault, Ground, Scene, Step
from glassnet.lab.state import LabDir
from glassnet.lab.topology import MachineSpec
from glassnet.net.errors import GlassnetError, LabError

FILE = "faults.json"
Record = dict[str, Any]  # node, told, undo


def records(lab: LabDir) -> dict[str, Record]:
    """Fault -> what was noted of it, for the faults a lab has now."""
    try:
        found: dict[str, Record] = json.loads((lab.path / FILE).read_text())
    except FileNotFoundError:
        return {}
    return found


class Faults:
    """Breaks and mends one lab, one fault at a time. Faults of an earlier life of the lab are over, but for their objects."""

    def __init__(self, lab: LabDir, ground: Ground) -> None:
        self._lab, self._ground = lab, ground
        self._busy = asyncio.Lock()
        self._records = {name: record for name, record in records(lab).items() if self._outlived(record)}
        self._write()

    def _outlived(self, record: Record) -> bool:
        record["undo"] = [step for step in record["undo"] if not undo.of_kernel(step)]
        return bool(record["undo"])

    def _write(self) -> None:
        self._lab.write(FILE, json.dumps(self._records))

    async def break_(self, fault: str, node: str = "") -> dict[str, Any]:
        """Make a fault; the answer to `glassnet break`."""
        async with self._busy:
            return await _answered(lambda: self._break(fault, node))

    async def mend(self, fault: str = "") -> dict[str, Any]:
        """Undo a fault, or all there are; the answer to `glassnet mend`."""
        async with self._busy:
            return await _answered(lambda: self._mend(fault))

    async def _break(self, name: str, node: str) -> dict[str, Any]:
        fault = _known(name)
        if name in self._records:
            where = self._records[name]["node"]
            raise LabError(f"{name} is broken already, on {where}; `glassnet mend {name}` first")
        spec = self._worker(node)
        record: Record = {"node": spec.name, "told": [], "undo": []}
        self._records[name] = record

        def note(step: Step) -> None:
            record["undo"].append(step)
            self._write()

        try:
            record["told"] = await fault.apply(Scene(self._ground, name, spec, note))
        except BaseException:
            await self._take_back(name)
            raise
        self._write()
        return {"fault": name, "node": spec.name, "told": record["told"]}

    def _worker(self, name: str) -> MachineSpec:
        workers = {spec.name: spec for spec in self._ground.workers()}
        if name and name not in workers:
            raise LabError(f"no worker {name!r} here; there are: {', '.join(workers)}")
        return workers[name or next(iter(workers))]

    async def _mend(self, name: str) -> dict[str, Any]:
        if name:
            _known(name)
            if name not in self._records:
                raise LabError(f"{name} is not broken; `glassnet break --list` shows what is")
        mended, failures = [], []
        for each in [name] if name else list(reversed(self._records)):
            try:
                await self._take_back(each)
                mended.append(each)
            except GlassnetError as error:
                failures.append(f"{each}: {error}")
        if failures:
            raise LabError("; ".join(failures) + "; what is left to undo is kept: mend again")
        return {"mended": mended}

    async def _take_back(self, name: str) -> None:
        """Undo step by step: a step is forgotten once it is done, so that a second try goes on where the first one ended."""
        record = self._records[name]
        while record["undo"]:
            step = record["undo"][-1]
            heir = self._heir(name, step)
            if heir is not None:
                heir["undo"].insert(0, step)
            else:
                await undo.carry_out(self._ground, step)
            record["undo"].pop()
            self._write()
        del self._records[name]
        self._write()

    def _heir(self, name: str, step: Step) -> Record | None:
        """The faults' namespace is undone by the last fault that has something in it."""
        if step["do"] != "delete" or step["namespace"] or step["name"] != NAMESPACE:
            return None
        for other, record in self._records.items():
            if other != name and any(each.get("namespace") == NAMESPACE for each in record["undo"]):
                return record
        return None


def _known(name: str) -> Fault:
    if name not in FAULTS:
        raise LabError(f"no such fault: {name!r}; `glassnet break --list` has them all")
    return FAULTS[name]


async def _answered(work: Callable[[], Any]) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = await work()
    except GlassnetError as error:
        return {"error": str(error)}
    return answer
