"""The cloud's load balancer: how soon a Service is reachable, a thousand of them, a drain that loses nothing. `python -m benchmarks cloud`.

A lab with three workers and two endpoints for each kind; the client is the host outside. Times are from the beginning of the API write.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from glassnet.client import kubeconfig
from glassnet.client.rest import RestApi
from glassnet.kernel.mounts import place_in_pods
from glassnet.kube import kinds

GLASSNET = str(Path(sys.executable).with_name("glassnet"))
NAME = f"bench-{os.getpid()}"
CASES = (
    ("floating-ip", "iptables"),
    ("floating-ip", "nftables"),
    ("pass-through", "nftables"),
    ("node-port-targets", "nftables"),
)
ONE_BY_ONE, MANY, WRITERS, DRAINED = 30, 1000, 8, 64
EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"
POD = {"image": "agnhost", "name": "c", "args": ["netexec", "--http-port=8080"]}
# Reads [address, wanted]; "first": when the first connection came about; "drain": asks over connections it keeps, until told, and counts failures.
CLIENT = """
import json, select, socket, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
def first(place):
    while True:
        sock = socket.socket()
        sock.settimeout(0.004)
        try:
            sock.connect((place, 80))
            return time.monotonic()
        except OSError:
            pass
        finally:
            sock.close()
def page(sock):
    sock.sendall(b"GET /hostname HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    text = sock.recv(4096)
    while b"\\r\\n\\r\\n" not in text:
        text += sock.recv(4096)
def keeps(place, stop, counts):
    sock = socket.create_connection((place, 80), 5)
    while not stop.is_set():
        try:
            page(sock)
            counts[0] += 1
        except OSError:
            counts[1] += 1
            return
        time.sleep(0.02)
pool = ThreadPoolExecutor(80)
for line in sys.stdin:
    verb, *words = json.loads(line)
    if verb == "first":
        print(json.dumps(first(*words)), flush=True)
    elif verb == "all":
        print(json.dumps(max(pool.map(first, words))), flush=True)
    else:
        stop, counts = threading.Event(), [0, 0]
        running = [pool.submit(keeps, words[0], stop, counts) for _ in range(words[1])]
        print("0", flush=True)
        sys.stdin.readline()
        stop.set()
        [each.result() for each in running]
        print(json.dumps(counts), flush=True)
"""


def glassnet(*words: str) -> str:
    """Run a glassnet command; what it said."""
    done = subprocess.run([GLASSNET, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"glassnet {' '.join(words)}: {done.stderr}")
    return done.stdout


class Client:
    """The client on `internet`."""

    def __init__(self) -> None:
        words = [GLASSNET, "host", "--name", NAME, "internet", "--", place_in_pods(sys.executable), "-c", CLIENT]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self, *command: Any) -> None:
        """Tell it something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    async def end(self) -> Any:
        """Its answer."""
        assert self._process.stdout is not None
        return json.loads(await asyncio.to_thread(self._process.stdout.readline))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def _service(number: int) -> dict[str, Any]:
    return {
        "metadata": {"name": f"s{number}"},
        "spec": {"type": "LoadBalancer", "loadBalancerIP": _address(number), "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }  # fmt: skip


def _address(number: int) -> str:
    return f"198.18.{1 + number // 200}.{1 + number % 200}"


async def measure(client: Client, api: RestApi) -> dict[str, Any]:
    """The figures of the lab that is up."""
    await api.create(kinds.SERVICE, "default", _service(0))
    client.begin("first", _address(0))
    await client.end()
    times = []
    for number in range(1, ONE_BY_ONE + 1):
        client.begin("first", _address(number))
        await asyncio.sleep(0.3)  # the last one's rules have settled
        begun = time.monotonic()
        await api.create(kinds.SERVICE, "default", _service(number))
        times.append((await client.end() - begun) * 1000)
    client.begin("drain", _address(0), DRAINED)
    await client.end()
    nodes = [node["metadata"]["name"] for node in (await _list(api))]
    for note in ("true", None):
        await asyncio.sleep(0.5)
        await api.patch(kinds.NODE, "", nodes[0], {"metadata": {"labels": {EXCLUDED: note}}})
    await asyncio.sleep(1)
    client.begin("stop")
    asked, lost = await client.end()
    numbers = list(range(ONE_BY_ONE + 1, ONE_BY_ONE + 1 + MANY))
    begun = time.monotonic()
    left = iter(numbers)

    async def write() -> None:
        for number in left:
            await api.create(kinds.SERVICE, "default", _service(number))

    await asyncio.gather(*(write() for _ in range(WRITERS)))
    written = time.monotonic()
    client.begin("all", *(_address(number) for number in (*numbers[::50], numbers[-1])))
    reached = await client.end()
    return {"p50": median(times), "p99": quantiles(times, n=100)[98], "asked": asked, "lost": lost,
            "written": written - begun, "many": reached - begun}  # fmt: skip


async def _list(api: RestApi) -> list[dict[str, Any]]:
    return [node for node in await api.list(kinds.NODE) if node["metadata"]["name"].startswith("worker")]


async def run(kind: str, proxy: str) -> dict[str, Any]:
    """One lab, from up to down."""
    profile = yaml.safe_load(glassnet("profiles", "show", "hardway"))
    profile |= {"name": "bench", "loadBalancer": {"kind": kind, "addresses": ["198.18.0.0/20"]}}
    profile["networks"]["services"] = "10.32.0.0/20"
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [POD]}}},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        for name, text in (("profile.yaml", yaml.safe_dump(profile)), ("web.yaml", json.dumps(deployment))):
            (Path(place) / name).write_text(text)
        glassnet(
            "up",
            "--name",
            NAME,
            "--dns",
            "none",
            "--proxy",
            proxy,
            "--profile",
            f"{place}/profile.yaml",
            "-f",
            f"{place}/web.yaml",
        )
    status = json.loads(glassnet("status", "--name", NAME, "-o", "json"))[0]
    client, api = Client(), RestApi(kubeconfig.load(status["kubeconfig"]))
    try:
        return await measure(client, api)
    finally:
        client.close()
        await api.close()
        glassnet("down", NAME)


def main() -> None:
    """Print the table."""
    table = Table("load balancer", "proxy", "API write to reached, ms: p50", "p99", f"drain: asked over {DRAINED} connections", "lost", f"{MANY:,} Services written, s", "and reached, s")  # fmt: skip
    for kind, proxy in CASES:
        found = asyncio.run(run(kind, proxy))
        table.add_row(kind, proxy, f"{found['p50']:.0f}", f"{found['p99']:.0f}", f"{found['asked']:,}", str(found["lost"]), f"{found['written']:.1f}", f"{found['many']:.1f}")  # fmt: skip
    console = Console(width=170)
    console.print(table)
    console.print("Goals: reached after 50 ms, a drain loses nothing, 1,000 Services in 5 s.")


if __name__ == "__main__":
    main()
