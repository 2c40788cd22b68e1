"""One case of `bench_agent`, run in a process of its own: `python -m benchmarks.agent_case NODES SERVICES`; prints JSON.

An API server in a process beside it has the cluster and is reached over HTTPS; the agent is the real command. Everything is in a network and a
mount namespace of the case's own.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import proxy_objects as objects
from glassnet.apiserver import certs
from glassnet.client import kubeconfig
from glassnet.client.rest import RestApi
from glassnet.kernel import libc
from glassnet.kernel.host import HostMachine
from glassnet.kernel.nfnetlink import Listener
from glassnet.kernel.nftables import GROUP
from glassnet.kube import kinds

CHANGES, IDLE = 300, 20.0
_SET_ELEMENT, _NOBODY, _ROUTES, _NEW_ROUTE = (10 << 8) | 12, 0xFFFFFFFF, 0x40, 24


def node(number: int, moved: int = 0) -> dict[str, Any]:
    """A Node as a cloud's are: kilobytes of labels, images and conditions. Every other one is on another link than ours."""
    net, host = divmod(number, 250)
    ip = f"10.{240 + number % 2}.{net + 20 * moved}.{host + 1}"
    return {
        "metadata": {
            "name": f"node-{number}",
            "labels": {f"example.com/label-{n}": f"value-{n}-{number}" for n in range(12)} | {"topology.kubernetes.io/zone": f"zone-{number % 3}"},
            "annotations": {f"example.com/note-{n}": "x" * 60 for n in range(6)},
        },
        "spec": {"podCIDR": f"10.{128 + number // 256}.{number % 256}.0/24", "podCIDRs": [f"10.{128 + number // 256}.{number % 256}.0/24"]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": f"node-{number}"}],
            "conditions": [{"type": name, "status": "False", "reason": "KubeletHas", "message": "kubelet has enough of it"} for name in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")],
            "images": [{"names": [f"registry.example.com/team/image-{n}@sha256:{'0' * 64}"], "sizeBytes": 100_000_000 + n} for n in range(15)],
        },
    }  # fmt: skip


def serve(place: str, sizes: tuple[int, int], port: int, ready: Any, asked: Any) -> None:
    """The embedded API server with the cluster in it; counts the requests that it gets."""
    from aiohttp import web

    from glassnet.apiserver import auth, http
    from glassnet.apiserver.server import ApiServer
    from glassnet.apiserver.store import Store

    async def run() -> None:
        store = Store(f"{place}/store.sqlite")
        server = ApiServer(store, now=lambda: datetime.now(UTC), random=random.Random(1), service_cidr="10.96.0.0/12")
        server.create(kinds.NAMESPACE, "", {"metadata": {"name": "bench"}})
        for number in range(sizes[0]):
            server.create(kinds.NODE, "", node(number))
        for number in range(sizes[1]):
            for kind, body in ((kinds.SERVICE, objects.service(number)), (kinds.ENDPOINT_SLICE, objects.endpoint_slice(number))):  # fmt: skip
                body["metadata"].pop("resourceVersion")
                server.create(kind, "bench", body)
        who = partial(auth.authenticate, tokens=auth.Tokens(b"bench"), now=datetime.now(UTC))
        app = http.build_app(server, who, auth.authorize)

        @web.middleware
        async def counted(request: web.Request, handler: Any) -> Any:
            asked.value += 1
            return await handler(request)

        app.middlewares.insert(0, counted)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        tls = auth.ssl_context(Path(f"{place}/crt"), Path(f"{place}/key"), Path(f"{place}/ca"))
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        ready.set()
        await asyncio.Event().wait()

    asyncio.run(run())


class Kernel:
    """What the kernel tells of rules and routes, as it happens."""

    def __init__(self) -> None:
        self.rules = Listener(HostMachine().netns, GROUP, _NOBODY)
        self.routes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self.routes.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE
        self.routes.bind((0, _ROUTES))

    def wait_rules(self, part: bytes, seconds: float = 60.0) -> float:
        """When (time.perf_counter()) an element with these bytes was told; any when none are given."""
        deadline = time.perf_counter() + seconds
        while (left := deadline - time.perf_counter()) > 0:
            if not select.select([self.rules.fileno()], [], [], left)[0]:
                break
            found = self.rules.read()
            if found is None or any(kind == _SET_ELEMENT and part in body for kind, _, body in found):
                return time.perf_counter()
        raise SystemExit("the change did not come to the kernel")

    def wait_route(self, part: bytes, seconds: float = 60.0) -> float:
        """When a route with these bytes in it was told."""
        deadline = time.perf_counter() + seconds
        while (left := deadline - time.perf_counter()) > 0:
            if not select.select([self.routes], [], [], left)[0]:
                break
            data = self.routes.recv(1 << 16)
            if int.from_bytes(data[4:6], sys.byteorder) == _NEW_ROUTE and part in data:
                return time.perf_counter()
        raise SystemExit("the route did not come to the kernel")

    def close(self) -> None:
        """Close the sockets."""
        self.rules.close()
        self.routes.close()

    def drain(self) -> None:
        """Forget what was told until now."""
        while self.rules.read() != []:
            pass
        try:
            while True:
                self.routes.recv(1 << 16)
        except OSError:
            return


def resident(pid: int, name: str = "VmRSS") -> float:
    """Memory of a process in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name)) / 1024


def spent(pid: int) -> float:
    """Seconds of processor time a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def programmed() -> tuple[int, int]:
    """How many Services and routes are in the kernel."""
    run = partial(subprocess.run, capture_output=True, text=True, check=False)
    listing = run(["nft", "list", "table", "ip", "glassnet"]).stdout
    routes = run(["ip", "route", "show", "proto", "114"]).stdout
    return len(set(re.findall(r"bench/service-\d+", listing))), routes.count("\n")


def start_agent(place: str) -> tuple[subprocess.Popen[bytes], float]:
    """The agent's process, and when it was started."""
    config = {
        "nodeName": "node-0", "kubeconfig": f"{place}/kubeconfig", "clusterCIDRs": ["10.128.0.0/9"],
        "cni": {"confDir": ""}, "routes": {"mode": "auto"},
        "proxy": {"config": {"mode": "nftables", "conntrack": {"maxPerCore": 0}, "oomScoreAdj": 0}},
    }  # fmt: skip
    Path(f"{place}/agent.yaml").write_text(json.dumps(config))
    # bytecode is there, as pip leaves it where glassnet is installed
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = f"{place}/bytecode"
    modules = "import glassnet.cli.agent, glassnet.agent.node.agent, glassnet.agent.node.rights"
    subprocess.run([sys.executable, "-c", modules], env=environment, check=True)
    begun = time.perf_counter()
    words = [sys.executable, "-m", "glassnet", "agent", "--config", f"{place}/agent.yaml"]
    with open(f"{place}/agent.log", "wb") as log:
        return subprocess.Popen(words, env=environment, stdout=log, stderr=log), begun


async def changes(api: RestApi, kernel: Kernel, nodes: int, size: int) -> tuple[list[float], list[float]]:
    """Seconds from the request of a write to the kernel, of an endpoint's address and of a Node's."""
    endpoints, routes = [], []
    for generation in range(1, CHANGES + 1):
        number = generation * 37 % size
        body = objects.endpoint_slice(number, generation)
        for name in ("resourceVersion", "uid"):
            del body["metadata"][name]
        await asyncio.sleep(0.02)
        kernel.drain()
        begun = time.perf_counter()
        told = asyncio.create_task(asyncio.to_thread(kernel.wait_rules, socket.inet_aton(body["endpoints"][0]["addresses"][0])))  # fmt: skip
        await api.update(kinds.ENDPOINT_SLICE, "bench", body["metadata"]["name"], body)
        endpoints.append(await told - begun)
    for generation in range(1, CHANGES // 3 + 1):
        number = generation * 26 % (nodes // 2 * 2) or 2  # on our link: even ones
        body = node(number, moved=1)
        await asyncio.sleep(0.02)
        kernel.drain()
        gateway = socket.inet_aton(body["status"]["addresses"][0]["address"])
        begun = time.perf_counter()
        told = asyncio.create_task(asyncio.to_thread(kernel.wait_route, gateway))
        await api.patch(kinds.NODE, "", f"node-{number}", {"status": {"addresses": body["status"]["addresses"]}}, "status")  # fmt: skip
        routes.append(await told - begun)
    return endpoints, routes


async def measure(place: str, sizes: tuple[int, int], asked: Any) -> dict[str, Any]:
    """All figures of one agent."""
    kernel = Kernel()
    process, begun = start_agent(place)
    try:
        first, first_cpu = kernel.wait_rules(b"", 120) - begun, spent(process.pid)
        deadline = time.perf_counter() + 120
        while (there := programmed()) != (sizes[1], sizes[0] - 1) and time.perf_counter() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        whole = time.perf_counter() - begun
        if there[0] < sizes[1] or there[1] < sizes[0] - 1:
            raise SystemExit(f"programmed: {there}\n{Path(f'{place}/agent.log').read_text()}")
        while (busy := spent(process.pid)) < 1e9:
            await asyncio.sleep(2)
            if spent(process.pid) - busy < 0.1:  # it has looked everything over once more
                break
        requests, used = asked.value, spent(process.pid)
        await asyncio.sleep(IDLE)
        idle, requests = (spent(process.pid) - used) / IDLE, asked.value - requests
        kernel.close()  # full of the first sync: what comes now has a socket of its own
        kernel = Kernel()
        api = RestApi(kubeconfig.load(f"{place}/kubeconfig"))
        endpoints, routes = await changes(api, kernel, *sizes)
        await api.close()
        return {
            "first_s": first, "first_cpu_s": first_cpu, "whole_s": whole, "memory_mb": resident(process.pid), "peak_mb": resident(process.pid, "VmHWM"),
            "change_p50_ms": statistics.median(endpoints) * 1000, "change_p99_ms": sorted(endpoints)[int(len(endpoints) * 0.99)] * 1000,
            "route_p50_ms": statistics.median(routes) * 1000, "route_p99_ms": sorted(routes)[int(len(routes) * 0.99)] * 1000,
            "idle_percent": idle * 100, "idle_requests": requests,
        }  # fmt: skip
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def alone() -> None:
    """Into namespaces of our own, with an uplink of 10.240.0.0/16 to nowhere."""
    libc.unshare(libc.CLONE_NEWNET | libc.CLONE_NEWNS)
    libc.mount("", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
    libc.mount("tmpfs", "/run", "tmpfs")
    for words in (
        "link set lo up",
        "link add ens3 type veth peer name far",
        "link set far up",
        "link set ens3 up",
        "address add 10.240.0.1/16 dev ens3",
        "route add default via 10.240.255.254",
    ):
        subprocess.run(["ip", *words.split()], check=True)


def main() -> None:
    """Measure one case."""
    sizes = (int(sys.argv[1]), int(sys.argv[2]))
    alone()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        pems = certs.make(["localhost"], ["127.0.0.1"], datetime.now(UTC))
        for name, raw in (("ca", pems.ca), ("crt", pems.server), ("key", pems.server_key)):
            Path(f"{place}/{name}").write_bytes(raw)
        text = certs.kubeconfig("b", f"https://127.0.0.1:{port}", pems.ca, pems.admin, pems.admin_key)
        Path(f"{place}/kubeconfig").write_text(text)
        context = multiprocessing.get_context("fork")
        ready, asked = context.Event(), context.Value("q", 0)
        server = context.Process(target=serve, args=(place, sizes, port, ready, asked), daemon=True)
        server.start()
        while not ready.wait(0.2):
            if not server.is_alive():
                raise SystemExit("the API server ended")
        result = asyncio.run(measure(place, sizes, asked))
        server.terminate()
        server.join()
    print(json.dumps({"nodes": sizes[0], "services": sizes[1], **result}))


if __name__ == "__main__":
    main()
