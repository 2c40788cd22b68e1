"""How long the proxy takes from an event to the kernel: the first full sync and one endpoint's change, in both modes.

Every Service is a ClusterIP with 10 endpoints. The network namespace is this process's own, made for the purpose.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from glassnet.agent.proxy import ProxyLoop
from glassnet.kernel import libc
from glassnet.kube import kinds
from glassnet.kube.types import decode
from glassnet.kube.view import View
from glassnet.net.errors import CommandError

SIZES, ENDPOINTS, CHANGES = (100, 500, 1000), 10, 7


class Here:
    """The machine the benchmark runs on, in a network namespace of its own."""

    name = "here"

    async def run(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 30.0) -> bytes:
        """Run a program to its end."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe)
        output, errors = await process.communicate(stdin)
        if process.returncode:
            raise CommandError(argv, process.returncode, errors.decode())
        return output

    def sysctl(self, values: Mapping[str, Any]) -> None:
        """Kernel settings have no bearing on what is measured."""


def service(number: int) -> Any:
    body = {
        "metadata": {"name": f"service-{number:05d}", "namespace": "bench"},
        "spec": {"clusterIP": f"10.96.{number >> 8}.{number & 255}", "ports": [{"name": "http", "port": 80}]},
    }
    return decode(kinds.SERVICE, json.dumps(body))


def endpoints(number: int, generation: int = 0) -> Any:
    name = f"service-{number:05d}"
    first = number * ENDPOINTS
    ips = [f"10.{128 + (n >> 16)}.{(n >> 8) & 255}.{n & 255}" for n in range(first, first + ENDPOINTS)]
    ips[0] = f"10.{250 + generation % 2}.{number >> 8}.{number & 255}"
    body = {
        "metadata": {"name": f"{name}-x", "namespace": "bench", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "nodeName": "node-a"} for ip in ips],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }
    return decode(kinds.ENDPOINT_SLICE, json.dumps(body))


async def measure(mode: str, size: int) -> tuple[float, list[float]]:
    """Seconds of the first sync, and of each change from the View's event to the end of the transaction."""
    view = View()
    for number in range(size):
        view.apply(kinds.SERVICE, service(number))
        view.apply(kinds.ENDPOINT_SLICE, endpoints(number))
    loop: ProxyLoop[Any] = ProxyLoop(view, Here(), "node-a", mode=mode, cluster_cidr="10.128.0.0/9", min_period=0.0)  # type: ignore[arg-type]

    async def synced(count: int) -> None:
        while loop.synced < count and not task.done():  # noqa: ASYNC110 (a benchmark may poll; nothing signals a sync)
            await asyncio.sleep(0.0002)

    start = time.perf_counter()
    task = asyncio.create_task(loop.run())
    await synced(1)
    first = time.perf_counter() - start
    changes = []
    for generation in range(1, CHANGES + 1):
        await asyncio.sleep(0.05)
        start, before = time.perf_counter(), loop.synced
        view.apply(kinds.ENDPOINT_SLICE, endpoints(size // 2, generation))
        await synced(before + 1)
        changes.append(time.perf_counter() - start)
    await loop.stop()
    return first, changes


def main() -> None:
    """Print the table."""
    libc.unshare(libc.CLONE_NEWNET)
    table = Table(
        "mode", "services", "endpoints", "first sync, s", "one endpoint, ms (median)", "worst, ms", "process, MB"
    )
    for mode in ("iptables", "nftables"):
        for size in SIZES:
            first, changes = asyncio.run(measure(mode, size))
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            median, worst = statistics.median(changes) * 1000, max(changes) * 1000
            table.add_row(
                mode, str(size), str(size * ENDPOINTS), f"{first:.2f}", f"{median:.1f}", f"{worst:.1f}", f"{memory:.0f}"
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
