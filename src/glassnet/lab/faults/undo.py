"""Takes a fault back: one journalled step after the other, the last first. What is gone already is fine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from glassnet.kernel.api import Machine
from glassnet.kernel.nfnetlink import NfNetlink
from glassnet.kube import kinds
from glassnet.kube.view import Key
from glassnet.lab.faults.scene import Ground, Step
from glassnet.net.errors import ApiError, CommandError, KernelError, LabError
from glassnet.netstack.ops import DelLink
from glassnet.ruleset.nft_messages import attr

CONNTRACK, FORGET, MARK, MARK_MASK = 1 << 8, 2, 8, 21  # nfnetlink_conntrack.h
_GONE = re.compile(
    r"does a matching rule exist|does not exist|No chain/target/match|No such (file|device|process)|Cannot find device"
    r"|0 flow entries|Bad rule|Could not process rule"
)
_PATIENCE = 20.0


def of_kernel(step: Step) -> bool:
    """Whether a step is about a machine, which ends with the lab's process; objects outlive it."""
    return bool(step["do"] != "delete")


async def carry_out(ground: Ground, step: Step) -> None:
    """Take one change back. Raises GlassnetError, and may then be tried again."""
    if step["do"] == "delete":
        await _delete(ground, step)
    else:
        await _STEPS[step["do"]](ground.machines[step["machine"]], step)


async def _run(machine: Machine, step: Step) -> None:
    try:
        await machine.run(step["argv"], step.get("stdin", "").encode())
    except CommandError as error:
        if not _GONE.search(error.stderr):
            raise


async def _sysctl(machine: Machine, step: Step) -> None:
    machine.sysctl({step["name"]: step["value"]})


async def _file(machine: Machine, step: Step) -> None:
    """A file as it was; one that was not there goes, unless it has another text by now (`only`)."""
    place = machine.root / step["path"]
    if step["text"] is not None:
        place.write_text(step["text"])
    elif place.exists() and step.get("only", "") in ("", place.read_bytes().decode(errors="replace")):
        place.unlink()


async def _leases(machine: Machine, step: Step) -> None:
    for address, text in step["files"].items():
        place = machine.root / step["directory"] / address
        if place.exists() and place.read_bytes().decode() == text:
            place.unlink()


async def _directory(machine: Machine, step: Step) -> None:
    """A directory that a network made for itself: goes with the lock and the hint, stays when it holds leases."""
    place: Path = machine.root / step["path"]
    if place.is_dir() and not set(os.listdir(place)) - {"lock", "last_reserved_ip.0"}:
        for name in os.listdir(place):
            (place / name).unlink()
        place.rmdir()


async def _link(machine: Machine, step: Step) -> None:
    """A link goes; a bridge only when no pod is on it any more."""
    ports = (await machine.run(["bridge", "link", "show"])).decode() if step.get("bridge") else ""
    if f" master {step['name']} " in ports:
        raise LabError(f"{machine.name}: there are still pods on {step['name']}; delete those, then mend again")
    machine.netns.apply([DelLink(step["name"], missing_ok=True)])


async def _empty_chain(machine: Machine, step: Step) -> None:
    """A base chain that iptables made for our rule, and its table, when nobody else has put anything there."""
    listing = json.loads(await machine.run(["nft", "-j", "list", "ruleset"]))["nftables"]
    table, chain = step["table"], step["chain"]
    mine = [each for each in listing if next(iter(each.values())).get("table") == table]
    mine = [each for each in mine if next(iter(each.values())).get("family") == "ip"]
    used = {each["rule"]["chain"] for each in mine if "rule" in each}
    chains = {each["chain"]["name"] for each in mine if "chain" in each}
    if step["whole"] and not used and chains <= {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}:
        await _run(machine, {"argv": ["nft", "delete", "table", "ip", table]})
    elif chain in chains and chain not in used:
        await _run(machine, {"argv": ["nft", "delete", "chain", "ip", table, chain]})


async def _connections(machine: Machine, step: Step) -> None:
    """Every connection with a mark, in one request."""
    connection = NfNetlink(machine.netns)
    try:
        wanted = attr(MARK, step["mark"].to_bytes(4, "big")) + attr(MARK_MASK, b"\xff" * 4)
        list(connection.request(CONNTRACK | FORGET, wanted, 4, 2))
    except KernelError as error:
        if error.number != 2:  # ENOENT
            raise
    finally:
        connection.close()


_STEPS: dict[str, Callable[[Machine, Step], Awaitable[None]]] = {
    "run": _run, "sysctl": _sysctl, "file": _file, "leases": _leases, "directory": _directory, "link": _link,
    "empty-chain": _empty_chain, "connections": _connections,
}  # fmt: skip


async def _delete(ground: Ground, step: Step) -> None:
    """An API object goes, and what it stood for: a pod's sandbox, all of a namespace."""
    kind = kinds.BY_API_KIND[step["kind"][0], step["kind"][1]]
    key = Key(step["namespace"], step["name"])
    try:
        await ground.api.delete(kind, key.namespace, key.name)
    except ApiError as error:
        if error.status not in (404, 409):
            raise
    deadline = time.monotonic() + _PATIENCE
    while ground.api.server.store.get(kind, key) is not None:
        if time.monotonic() > deadline:
            raise LabError(f"{kind.name} {key.name} does not go away")
        await asyncio.sleep(0.01)
