"""One measurement of the proxy in a process and a network namespace of its own: `python -m benchmarks.proxy_case PATH MODE SIZE`; prints JSON.

PATH "direct" puts objects into the View; "watch" has an API server in a process beside it and watches it over HTTP.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import proxy_objects as objects
from benchmarks.proxy_objects import until
from glassnet.agent.proxy.loop import ProxyLoop, ProxySettings, cluster_cidr_detectors
from glassnet.client.informer import Informer
from glassnet.client.kubeconfig import Access
from glassnet.client.rest import RestApi
from glassnet.kernel import libc
from glassnet.kernel.host import HostMachine
from glassnet.kernel.nftables import NfTables
from glassnet.kube import kinds, narrow
from glassnet.kube.view import Key, View
from glassnet.proxy.backends.nftables_layout import FAMILIES, TABLE
from glassnet.ruleset import nft_messages as m

CHANGES, BURST = 300, 1000
SLOW = {"iptables-nft": 12, "iptables-legacy": 20}


def resident() -> float:
    """Resident memory of this process in MB."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) / 1024


def settings(mode: str) -> ProxySettings:
    """The proxy's settings; `mode` is nftables, iptables-nft or iptables-legacy."""
    kind, _, tool = mode.partition("-")
    detectors = cluster_cidr_detectors(["10.128.0.0/9"])
    return ProxySettings(mode=kind, detectors=detectors, service_cidrs=("10.96.0.0/12",), min_period=0.001, iptables_tool=tool)  # fmt: skip


class Stopwatch:
    """Notes when each sync ends."""

    def __init__(self, loop: ProxyLoop) -> None:
        self.loop, self.ends = loop, list[float]()
        after = loop._observers.after

        async def noted(*words: Any) -> None:
            self.ends.append(time.perf_counter())
            await after(*words)

        loop._observers.after = noted  # type: ignore[method-assign]

    async def change(self, change: Any) -> float:
        """Seconds from a change to its commit."""
        before, begun = len(self.ends), time.perf_counter()
        await change()
        await until(lambda: len(self.ends) > before)
        return self.ends[-1] - begun


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] * 1000


async def direct(mode: str, size: int) -> dict[str, Any]:
    """Objects go into the View; the clock runs from there."""
    view, machine = View(), HostMachine()
    objects.fill(view, size)
    gc.collect()
    gc.freeze()
    loop = ProxyLoop(view, machine, "node-1", settings(mode))
    watch = Stopwatch(loop)
    begun = time.perf_counter()
    task = asyncio.create_task(loop.run())
    await until(lambda: watch.ends or task.done())
    first = watch.ends[0] - begun if watch.ends else task.result()
    changes, scales = [], []
    rounds = SLOW.get(mode, CHANGES)
    alone = await tool_alone(mode)
    for generation in range(1, rounds + 1):
        number = generation * 37 % size
        await asyncio.sleep(0.003)

        async def address(number: int = number, generation: int = generation) -> None:
            objects.put(view, kinds.ENDPOINT_SLICE, objects.endpoint_slice(number, generation))

        changes.append(await watch.change(address))
        await asyncio.sleep(0.003)

        async def scale(number: int = number, generation: int = generation) -> None:
            body = objects.endpoint_slice(number, generation, objects.ENDPOINTS + generation % 3 + 1)
            objects.put(view, kinds.ENDPOINT_SLICE, body)

        scales.append(await watch.change(scale))
    burst = min(BURST, size)

    async def many() -> None:
        for number in range(burst):
            objects.put(view, kinds.ENDPOINT_SLICE, objects.endpoint_slice(number, 1000))

    taken = await watch.change(many)
    memory = resident()
    alone += await tool_alone(mode)
    repair = await repaired(loop) if mode != "iptables-legacy" or size <= 1000 else None
    await loop.stop(sweep=False)
    assert task.done()
    figures = report(first, changes, scales, taken, memory, repair)
    return {**figures, "tool_alone_ms": statistics.median(alone) * 1000} if alone else figures


async def tool_alone(mode: str) -> list[float]:
    """Seconds that the legacy tool takes to write one empty chain, which is what any change by it takes at least; before and after the
    changes, as it has our copy of the table read anew."""
    taken = []
    for _ in range(5 if mode == "iptables-legacy" else 0):
        begun = time.perf_counter()
        await HostMachine().run(["iptables-legacy-restore", "--noflush"], b"*nat\n:BENCH - [0:0]\nCOMMIT\n")
        taken.append(time.perf_counter() - begun)
    return taken


async def repaired(loop: ProxyLoop) -> float:
    """Seconds until a deleted element, or a deleted rule, is back. An element is deleted by a socket of another; a rule by the tool, whose own
    time counts."""
    before = loop.repairs
    if loop.settings.mode == "nftables":
        family = FAMILIES["IPv4"]
        note = m.attr(6, m.comment("bench/service-00003:http"))  # as the kernel will tell it
        key = family.entry(objects.service(3)["spec"]["clusterIP"], "TCP", 80)
        gone = m.element_messages(family.number, TABLE, "services-5", [m.element(key, note)], delete=True)
        other = NfTables(HostMachine().netns)
        begun = time.perf_counter()
        other.commit(gone)
    else:
        begun = time.perf_counter()
        await HostMachine().run([f"iptables-{loop.settings.iptables_tool}", "-t", "nat", "-D", "KUBE-SERVICES", "1"])
    await until(lambda: loop.repairs > before)
    return time.perf_counter() - begun


def report(first: float, changes: list[float], scales: list[float], burst: float, memory: float, repair: float | None) -> dict[str, Any]:  # fmt: skip
    """The figures of one case."""
    return {
        "first_s": first,
        "change_p50_ms": statistics.median(changes) * 1000,
        "change_p99_ms": percentile(changes, 0.99),
        "scale_p50_ms": statistics.median(scales) * 1000 if scales else None,
        "scale_p99_ms": percentile(scales, 0.99) if scales else None,
        "burst_ms": burst * 1000,
        "memory_mb": memory,
        "repair_ms": repair * 1000 if repair is not None else None,
    }


# -- through the watch path


def serve(size: int, port: int, ready: Any) -> None:
    """The embedded API server with the cluster in it, in a process of its own (and its code in that process alone)."""
    from aiohttp import web

    from glassnet.apiserver import auth, http
    from glassnet.apiserver.server import ApiServer
    from glassnet.apiserver.store import Store

    async def run() -> None:
        with tempfile.TemporaryDirectory() as place:
            store = Store(f"{place}/store.sqlite")
            server = ApiServer(store, now=lambda: datetime.now(UTC), random=random.Random(1), service_cidr="10.96.0.0/12")  # fmt: skip
            server.create(kinds.NAMESPACE, "", {"metadata": {"name": "bench"}})
            for number in range(size):
                for kind, body in ((kinds.SERVICE, objects.service(number)), (kinds.ENDPOINT_SLICE, objects.endpoint_slice(number))):  # fmt: skip
                    body["metadata"].pop("resourceVersion")
                    server.create(kind, "bench", body)
            app = http.build_app(server, lambda _: auth.User("bench", ("system:masters",)), auth.authorize)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            ready.set()
            await asyncio.Event().wait()

    asyncio.run(run())


async def watched(mode: str, size: int, port: int) -> dict[str, Any]:
    """Objects are written over HTTP, and come back by watches; the clock runs from the write's request."""
    api, view, machine = RestApi(Access((f"http://127.0.0.1:{port}",), None)), View(), HostMachine()
    informers = [Informer(api, kind, view, decode=narrow.decode) for kind in (kinds.SERVICE, kinds.ENDPOINT_SLICE)]
    tasks = [asyncio.create_task(informer.run()) for informer in informers]
    begun = time.perf_counter()
    await asyncio.gather(*(informer.synced.wait() for informer in informers))
    listed = time.perf_counter() - begun
    gc.collect()
    gc.freeze()
    loop = ProxyLoop(view, machine, "node-1", settings(mode))
    watch = Stopwatch(loop)
    begun = time.perf_counter()
    tasks.append(asyncio.create_task(loop.run()))
    await until(lambda: watch.ends)
    first, changes = watch.ends[0] - begun, []
    for generation in range(1, SLOW.get(mode, CHANGES) + 1):
        number = generation * 37 % size
        body = objects.endpoint_slice(number, generation)
        for name in ("resourceVersion", "uid"):
            del body["metadata"][name]
        await asyncio.sleep(0.003)

        async def write(body: dict[str, Any] = body) -> None:
            await api.update(kinds.ENDPOINT_SLICE, "bench", body["metadata"]["name"], body)

        changes.append(await watch.change(write))
    assert view.get(kinds.ENDPOINT_SLICE, Key("bench", "service-00000-x"))
    memory = resident()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await api.close()
    return {**report(first, changes, [], 0.0, memory, None), "list_s": listed}


def main() -> None:
    """Measure one case."""
    path, mode, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    libc.unshare(libc.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if path == "direct":
        result = asyncio.run(direct(mode, size))
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("fork")
        ready = context.Event()
        server = context.Process(target=serve, args=(size, port, ready), daemon=True)
        server.start()
        while not ready.wait(0.2):
            if not server.is_alive():
                raise SystemExit("the API server ended")
        result = asyncio.run(watched(mode, size, port))
        server.terminate()
    print(json.dumps({"path": path, "mode": mode, "size": size, "pid": os.getpid(), **result}))


if __name__ == "__main__":
    main()
