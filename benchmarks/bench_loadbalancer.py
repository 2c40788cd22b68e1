"""Load balancers on three nodes, a client and an API server: from a Service's creation to its first answer, a thousand of them, fail-over, drain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
for place in (ROOT / "tests", ROOT / "tests" / "kernel"):
    sys.path.insert(0, str(place))

from balancer_site import NODES, Site, balanced_site  # noqa: E402

from glassnet.client import kubeconfig  # noqa: E402
from glassnet.client.rest import RestApi  # noqa: E402
from glassnet.client.watches import Watches  # noqa: E402
from glassnet.kube import kinds  # noqa: E402
from glassnet.loadbalancer import request  # noqa: E402
from glassnet.netstack.ops import SetLink  # noqa: E402

EXPOSED, FAILOVERS, THOUSAND, LONG = 20, 15, 1000, 100
POOLS = "pools: [{name: public, addresses: [10.240.0.50-10.240.0.250]}, {name: many, addresses: [10.250.0.0/16], serviceSelector: many=yes}]"


async def until(condition: Any, seconds: float = 60) -> float:
    """Wait for it; how long it took, in seconds."""
    begun = time.perf_counter()
    while not condition():
        if time.perf_counter() - begun > seconds:
            raise TimeoutError("it did not come true")
        await asyncio.sleep(0.001)
    return time.perf_counter() - begun


class Cluster:
    """The site, fed from an API server in a process of its own, whose controller is another."""

    def __init__(self, site: Site, api: RestApi) -> None:
        self.site, self.api = site, api

    async def expose(self, name: str, labels: dict[str, str] | None = None) -> None:
        """What `kubectl expose` sends."""
        body = {"metadata": {"name": name, "labels": labels or {}}, "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}  # fmt: skip
        await self.api.create(kinds.SERVICE, "default", body)

    async def endpoints(self, name: str) -> None:
        """Of all nodes."""
        await self.api.create(kinds.ENDPOINT_SLICE, "default", {
            "metadata": {"name": f"{name}-x", "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
            "endpoints": [{"addresses": [ips[0]], "nodeName": node, "conditions": {"ready": True}} for node, ips in NODES.items()],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        })  # fmt: skip

    def given(self) -> dict[str, str]:
        """Name -> address, of those that have one."""
        return {each.metadata.name: ips[0] for each in self.site.view.services.values() if (ips := request.given(each))}


@contextlib.asynccontextmanager
async def cluster(place: Path) -> AsyncIterator[Cluster]:
    """Everything, up."""
    pools = place / "pools.yaml"
    pools.write_text(POOLS)
    server = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", _SERVER, str(place)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None and server.stdout.readline().strip() == "up"
    program = [sys.executable, "-m", "glassnet", "controller", "--kubeconfig", str(place / "kubeconfig"), "--bind-address=", "--load-balancer", f"--load-balancer-pools-file={pools}", "--leader-elect=false", "--log-level=error"]  # fmt: skip
    controller = subprocess.Popen(program)  # noqa: ASYNC220
    api = RestApi(kubeconfig.load(str(place / "kubeconfig")))
    try:
        async with balanced_site() as site:
            site.pools.write_text(POOLS)
            watches = Watches(api, site.view)
            for kind in (kinds.SERVICE, kinds.ENDPOINT_SLICE):
                watches.add(kind)
            watching = asyncio.create_task(watches.run())
            await watches.synced()
            await site.start()
            yield Cluster(site, api)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    finally:
        await api.close()
        for process in (controller, server):
            process.terminate()
            process.wait()


_SERVER = f"""
import signal, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "tests")!r})
import functools, served_api
served_api.ApiServer = functools.partial(served_api.ApiServer, service_cidr="10.96.0.0/12")
api = served_api.ServedApi(Path(sys.argv[1]))
print("up", flush=True)
signal.sigwait([signal.SIGTERM])
api.close()
"""


async def exposed(made: Cluster) -> list[float]:
    """Seconds from the API's answer to a Service's creation until the client has heard an endpoint of it."""
    found = []
    for number in range(EXPOSED):
        name = f"web-{number}"
        await made.endpoints(name)
        await asyncio.sleep(0.2)
        await made.expose(name)
        begun = time.perf_counter()
        await until(lambda name=name: name in made.given())  # type: ignore[misc]
        ip = made.given()[name]
        while not await _quick(made.site, ip):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        found.append(time.perf_counter() - begun)
    return found


async def _quick(site: Site, ip: str) -> bool:
    """Whether a connection is answered within 30 ms: a lost SYN would come again a second later."""
    try:
        async with asyncio.timeout(0.03):
            _, writer, _ = await site.connect(ip)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def failover(made: Cluster) -> list[float]:
    """Seconds from a node's death until the client is answered again."""
    site, ip = made.site, made.given()["web-0"]
    found = []
    for _ in range(FAILOVERS):
        owner = await site.owner(ip)
        await site.reached(ip)
        await asyncio.sleep(0.5)
        begun = time.perf_counter()
        await site.nodes[owner].die()
        while not await _quick(site, ip) or owner in site.owners(ip):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        found.append(time.perf_counter() - begun)
        site.nodes[owner].machine.netns.apply([SetLink("eth0", up=True)])
        await site.nodes[owner].start()
        await until(lambda owner=owner: owner in site.owners(ip) and len(site.owners(ip)) == 1)  # type: ignore[misc]
    return found


async def drain(made: Cluster) -> tuple[int, int, int, int]:
    """(long connections, those lost, new ones made meanwhile, those of them that failed): an owner's agent ends and begins again."""
    site, ip = made.site, made.given()["web-0"]
    owner = await site.owner(ip)
    long = [await site.connect(ip) for _ in range(LONG)]
    ended, counts = asyncio.Event(), [0, 0, 0]

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not ended.is_set():
                writer.write(b"?\n")
                async with asyncio.timeout(10):
                    if await reader.readline() != b"?\n":
                        raise ConnectionError
                await asyncio.sleep(0.05)
        except (OSError, TimeoutError):
            counts[0] += 1

    async def begin() -> None:
        while not ended.is_set():
            counts[1] += 1
            counts[2] += not await site.ask(ip)
            await asyncio.sleep(0.005)

    tasks = [asyncio.create_task(speak(reader, writer)) for reader, writer, _ in long]
    tasks.append(asyncio.create_task(begin()))
    await asyncio.sleep(0.5)
    await site.nodes[owner].stop()
    await asyncio.sleep(2)
    await site.nodes[owner].start()
    await asyncio.sleep(3)
    ended.set()
    await asyncio.gather(*tasks)
    for _, writer, _ in long:
        writer.close()
    return LONG, counts[0], counts[1], counts[2]


async def thousand(made: Cluster) -> tuple[float, float]:
    """Seconds from the first creation until all have addresses, and until all are answered for by a node."""
    begun, before = time.perf_counter(), len(made.given())

    async def some(numbers: range) -> None:
        for number in numbers:
            await made.expose(f"many-{number}", {"many": "yes"})

    await asyncio.gather(*(some(range(at, THOUSAND, 8)) for at in range(8)))
    await until(lambda: len(made.given()) == before + THOUSAND, 120)
    assigned = time.perf_counter() - begun
    ips = {ip for name, ip in made.given().items() if name.startswith("many-")}
    await until(lambda: ips <= {ip for node in made.site.nodes.values() if node.part for ip in node.part.speaker.held()}, 120)  # fmt: skip
    return assigned, time.perf_counter() - begun


async def measure() -> dict[str, Any]:
    """All of it."""
    with tempfile.TemporaryDirectory() as place:
        async with cluster(Path(place)) as made:
            first = sorted(await exposed(made))
            over = sorted(await failover(made))
            kept = await drain(made)
            many = await thousand(made)
    return {"exposed": first, "failover": over, "drain": kept, "thousand": many}


def main() -> None:
    """Print the figures."""
    found = asyncio.run(measure())
    table = Table("what", "figure", "goal")
    for name, title, goal in (("exposed", "Service created -> first answer, ms", "50"), ("failover", "node dead -> answered again, ms", "1000")):  # fmt: skip
        times = [each * 1000 for each in found[name]]
        table.add_row(f"{title}: p50 / max of {len(times)}", f"{statistics.median(times):.0f} / {max(times):.0f}", goal)
    long, lost, new, failed = found["drain"]
    table.add_row(f"agent ends and begins again: lost of {long} connections / of {new} new ones", f"{lost} / {failed}", "0 / 0")  # fmt: skip
    assigned, answered = found["thousand"]
    table.add_row(f"{THOUSAND} Services: all have addresses / all answered for, s", f"{assigned:.2f} / {answered:.2f}", "5")  # fmt: skip
    Console(width=140).print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
