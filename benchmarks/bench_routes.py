"""Routes to the pods of 5,000 other nodes, in a network namespace of its own: the first sync, a restart, the change of one Node, memory."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from glassnet.agent.routes.loop import NodeRoutes
from glassnet.kernel.netns import KernelNetNs
from glassnet.kube import kinds
from glassnet.kube.types import decode
from glassnet.kube.view import View
from glassnet.net.errors import KernelError
from glassnet.netstack.ops import AddAddress, AddVeth, Operation, SetLink
from glassnet.routes.model import Mode, RoutesSettings

NODES, CHANGES = 5000, 500
MODES: tuple[Mode, ...] = ("direct", "vxlan")


class TimedNetNs(KernelNetNs):
    """A network namespace that tells when the kernel has answered."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.answered, self.at = asyncio.Event(), 0.0

    def attempt(self, operations: Sequence[Operation]) -> dict[int, KernelError]:
        """As the base has it."""
        refused = super().attempt(operations)
        self.at = time.perf_counter()
        self.answered.set()
        return refused


def nodes(count: int) -> Iterator[bytes]:
    """Nodes as the API sends them, pod CIDRs of both families."""
    addresses = IPv4Network("172.16.0.0/16")
    for at in range(count):
        yield one(at, str(addresses[at + 10]))


def one(at: int, address: str) -> bytes:
    """One Node with this address."""
    cidrs = [f"10.{128 + at // 256}.{at % 256}.0/24", f"fd00:{at:x}::/64"]
    wide = f"fd40::{address.replace('.', ':')}"
    return json.dumps(
        {
            "metadata": {"name": f"node-{at}", "uid": f"uid-{at}", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
            "status": {"addresses": [{"type": "InternalIP", "address": each} for each in (address, wide)]},
        }
    ).encode()


async def measure(mode: Mode) -> dict[str, Any]:
    """All of it, in the network namespace that this process is in."""
    netns = TimedNetNs("bench", os.open("/proc/self/ns/net", os.O_RDONLY), kept=True)
    netns.apply(
        [
            AddVeth("eth0", "far"),
            AddAddress("172.16.0.10/16", "eth0"),
            AddAddress("fd40::172:16:0:10/64", "eth0"),
            SetLink("far", up=True),
            SetLink("eth0", up=True),
        ]
    )
    view = View()
    for raw in nodes(NODES):
        view.apply(kinds.NODE, decode(kinds.NODE, raw))
    found: dict[str, Any] = {"before": _resident()}
    settings = RoutesSettings(mode=mode)
    for run in ("first", "restart"):
        routes = NodeRoutes(view, netns, "node-0", settings)
        begin = time.perf_counter()
        task = asyncio.create_task(routes.run())
        await routes.first_sync.wait()
        found[run] = (time.perf_counter() - begin) * 1000
        if run == "first":
            found |= {"after": _resident(), "routes": routes.routes, "problems": len(routes.problems)}
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    found["changes"] = [await _change(netns, view, number) for number in range(CHANGES)]
    idle = time.process_time()
    await asyncio.sleep(3)
    found["idle"] = (time.process_time() - idle) / 3 * 100
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    begin = time.perf_counter()
    await routes.sweep()
    found["sweep"] = (time.perf_counter() - begin) * 1000
    return found


async def _change(netns: TimedNetNs, view: View, number: int) -> float:
    """Give a Node another address; milliseconds until the kernel has answered that it has taken it in."""
    at = 1 + number * 7 % (NODES - 1)
    obj = decode(kinds.NODE, one(at, f"172.16.{200 + number // 250}.{1 + number % 250}"))
    netns.answered.clear()
    begin = time.perf_counter()
    view.apply(kinds.NODE, obj)
    await netns.answered.wait()
    return (netns.at - begin) * 1000


def _resident() -> float:
    """MB that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    """Print the table."""
    if sys.argv[1:]:
        print(json.dumps(asyncio.run(measure("direct" if sys.argv[1] == "direct" else "vxlan"))))
        return
    table = Table(
        "", "entries", "first sync, ms", "restart, ms", "one of 5,000: p50, ms", "p99", "sweep, ms", "MB", "idle, %"
    )
    for mode in MODES:
        words = ["unshare", "--net", sys.executable, "-m", "benchmarks.bench_routes", mode]
        found = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
        changes = sorted(found["changes"])
        table.add_row(
            f"{mode}, both families",
            f"{found['routes']} routes",
            f"{found['first']:.0f}",
            f"{found['restart']:.0f}",
            f"{statistics.median(changes):.2f}",
            f"{changes[int(len(changes) * 0.99) - 1]:.2f}",
            f"{found['sweep']:.0f}",
            f"{found['after'] - found['before']:.0f} more",
            f"{found['idle']:.1f}",
        )
    console = Console(width=140)
    console.print(table)
    console.print(
        "From the Nodes in memory to the kernel's answer; one process, beside nothing else. Goal: one of 5,000 in 20 ms."
    )


if __name__ == "__main__":
    main()
