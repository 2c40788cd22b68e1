"""The measurements of `bench_ingress`, each in a process and a network namespace of its own: `python -m benchmarks.ingress_case CASE …`; prints JSON.

The backends are an NGINX that answers by itself, the load is wrk's, the controller's View is fed in-process; only `memory` has an API server.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from glassnet.agent.ingress.loop import Took
from glassnet.agent.ingress.nginx import PROGRAM
from glassnet.agent.ingress.part import IngressPart, Tuning
from glassnet.agent.ingress.watches import decode
from glassnet.agent.placement import Place
from glassnet.apiserver import certs
from glassnet.ingress.model import CONTROLLER, Settings
from glassnet.kernel import libc
from glassnet.kernel.host import HostMachine
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.view import View
from glassnet.netstack.ops import AddAddress

PODS, SERVICES, PATHS = 10, 200, 5
ROUNDS, SECONDS = 5, 3
BACKENDS = """
user root; worker_processes 1; pid backends.pid; error_log stderr; events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000; server { listen 8080 backlog=4096; location / { return 200 "hello from a pod, and some more to make it a page\\n"; } } }
"""
MINIMAL = """
user root; worker_processes 1; pid minimal.pid; error_log stderr; events {{ worker_connections 4096; }}
http {{ access_log {log}; keepalive_requests 1000000;
  upstream web {{ keepalive 32; {servers} }}
  server {{ listen 81; server_name shop.example;
    location / {{ proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; }} }} }}
"""


def address(number: int) -> str:
    """A pod's."""
    return f"10.1.{number // 250}.{number % 250 + 1}"


def ingress(number: int, hosts: int) -> dict[str, Any]:
    """One of many Ingresses: a host, and paths to several Services."""
    paths = [
        {"path": f"/part-{path}", "pathType": "Prefix", "backend": {"service": {"name": f"app-{(number + path) % SERVICES}", "port": {"number": 80}}}}
        for path in range(PATHS)
    ]  # fmt: skip
    made = datetime(2026, 1, 1, number // 3600 % 24, number // 60 % 60, number % 60, tzinfo=UTC).isoformat().replace("+00:00", "Z")  # fmt: skip
    return {
        "metadata": {"name": f"site-{number}", "namespace": "demo", "uid": f"u{number}", "creationTimestamp": made},
        "spec": {"ingressClassName": "glassnet", "rules": [{"host": f"site-{number % hosts}.example", "http": {"paths": paths}}]},
    }  # fmt: skip


def service(name: str) -> dict[str, Any]:
    """A Service."""
    return {"metadata": {"name": name, "namespace": "demo"}, "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}  # fmt: skip


def endpoints(name: str, *numbers: int) -> dict[str, Any]:
    """Its pods."""
    return {
        "metadata": {"name": f"{name}-x", "namespace": "demo", "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
        "endpoints": [{"addresses": [address(n)], "conditions": {"ready": True}, "nodeName": "node-a"} for n in numbers],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }  # fmt: skip


def objects(ingresses: int, hosts: int) -> list[tuple[Kind, dict[str, Any]]]:
    """All of a cluster."""
    found: list[tuple[Kind, dict[str, Any]]] = [(kinds.INGRESS_CLASS, {"metadata": {"name": "glassnet"}, "spec": {"controller": CONTROLLER}})]  # fmt: skip
    for number in range(SERVICES):
        found += [(kinds.SERVICE, service(f"app-{number}")), (kinds.ENDPOINT_SLICE, endpoints(f"app-{number}", *(n % PODS for n in range(number, number + 5))))]  # fmt: skip
    found += [(kinds.INGRESS, ingress(number, hosts)) for number in range(ingresses)]
    shop = {
        **ingress(0, 1),
        "metadata": {"name": "shop", "namespace": "demo", "creationTimestamp": "2025-01-01T00:00:00Z"},
    }
    shop["spec"] = {"ingressClassName": "glassnet", "rules": [{"host": "shop.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "app-0", "port": {"number": 80}}}}]}}]}  # fmt: skip
    return [*found, (kinds.INGRESS, shop)]


class Case:
    """A controller in this process and namespace, and the backends."""

    def __init__(self, place: str, *, log: bool = False) -> None:
        self.place, self.view, self.took = place, View(), list[Took]()
        self.machine = HostMachine()
        settings = Settings(workers=1, user="root", connections=4096, http=("0.0.0.0:80",), https=("0.0.0.0:443",), shutdown=10)  # fmt: skip
        run = Path(place) / "run"
        self.part = IngressPart(
            self.view, self.machine, Place(str(run), run), settings, self._at_once, tuning=Tuning(counted=log)
        )
        applied = self.part.metrics.applied
        self.part.metrics.applied = lambda took: (self.took.append(took), applied(took))[1]  # type: ignore[method-assign]

    async def _at_once(self) -> None:
        return

    def put(self, kind: Kind, body: dict[str, Any]) -> None:
        """What the API shows."""
        self.view.apply(kind, decode(kind, json.dumps(body).encode()))

    async def run(
        self, ingresses: int, hosts: int, work: Callable[[Case], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Have it serve so many Ingresses, and do the work."""
        self.machine.netns.apply([AddAddress(f"{address(number)}/32", "lo") for number in range(PODS + 40)])
        (Path(self.place) / "run").mkdir()
        backends = self.child(BACKENDS, "backends")
        for kind, body in objects(ingresses, hosts):
            self.put(kind, body)
        running = asyncio.create_task(self.part.run())
        try:
            while not self.part.ready:
                if running.done():
                    running.result()
                await asyncio.sleep(0.01)
            return await work(self)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            backends.kill()

    def child(self, text: str, name: str) -> subprocess.Popen[bytes]:
        """Another NGINX, with a configuration written by hand."""
        place = Path(self.place) / name
        place.mkdir(exist_ok=True)
        (place / "nginx.conf").write_text(text)
        return subprocess.Popen([PROGRAM, "-p", str(place), "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off; master_process off;"])  # fmt: skip


async def wrk(url: str, host: str, seconds: float, connections: int = 32) -> dict[str, float]:
    """Load; requests a second, failures, and latency in ms."""
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-H", f"Host: {host}", url]
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    text = (await process.communicate())[0].decode()
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    number = re.search(r"(\d+) requests in", text)
    errors = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    counts = [int(each) for each in errors.groups()] if errors else [0] * 4
    return {"rate": float(rate[1]) if rate else 0.0, "requests": float(number[1]) if number else 0.0, "bad": float(bad[1]) if bad else 0.0,
            "connect": counts[0], "read": counts[1], "write": counts[2], "timeout": counts[3]}  # fmt: skip


async def requests(case: Case, logged: bool) -> dict[str, Any]:
    """Ours against a configuration written by hand, by turns."""
    log = "access.log combined buffer=64k flush=1s" if logged else "off"
    servers = " ".join(f"server {address(n)}:8080;" for n in range(5))
    minimal = case.child(MINIMAL.format(log=log, servers=servers), "minimal")
    try:
        await asyncio.sleep(0.5)
        ours, theirs = [], []
        for turn in range(ROUNDS):
            for port, found in ((80, ours), (81, theirs)) if turn % 2 else ((81, theirs), (80, ours)):
                found.append((await wrk(f"http://127.0.0.1:{port}/", "shop.example", SECONDS))["rate"])
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        return {"ours": statistics.median(ours), "minimal": statistics.median(theirs), "ratio": ratio}
    finally:
        minimal.kill()


async def sizes(case: Case) -> dict[str, Any]:
    """The cost of a change among all of them, and of a request."""
    first = case.took[0]
    case.took.clear()
    for turn in range(5):
        number = len(case.took)
        case.put(kinds.ENDPOINT_SLICE, endpoints("app-1", turn % PODS, (turn + 1) % PODS))
        while len(case.took) == number:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.5)
    middle = lambda name: statistics.median(getattr(each, name) for each in case.took)  # noqa: E731
    found = await wrk("http://127.0.0.1/part-3", "site-7.example", SECONDS)
    return {"first_s": first.compute + first.render + first.apply, "compute_s": middle("compute"), "render_s": middle("render"), "apply_s": middle("apply"),
            "change_s": middle("compute") + middle("render") + middle("apply"), "rate": found["rate"], "bad": found["bad"]}  # fmt: skip


async def churn(case: Case, seconds: float) -> dict[str, Any]:
    """Endpoints come and go, twenty times a second, under load."""
    number, begun, turn = case.part.nginx.reloads, time.monotonic(), 0
    load = asyncio.create_task(wrk("http://127.0.0.1/", "shop.example", seconds))
    while not load.done():
        turn += 1
        case.put(kinds.ENDPOINT_SLICE, endpoints("app-0", *(n % (PODS + 40) for n in range(turn, turn + 5))))
        await asyncio.sleep(max(0.0, begun + turn / 20 - time.monotonic()))
    found = await load
    failed = found["bad"] + found["connect"] + found["write"] + found["timeout"]
    return {"requests": found["requests"], "failed": failed, "closed": found["read"], "changes": turn, "reloads": case.part.nginx.reloads - number,
            "cut": case.part.nginx.cut, "rate": found["rate"]}  # fmt: skip


# -- memory, with an API server in a process beside it


def serve(place: str, ingresses: int, port: int, ready: Any) -> None:
    """The embedded API server with the cluster in it."""
    from aiohttp import web

    from glassnet.apiserver import auth, http
    from glassnet.apiserver.server import ApiServer
    from glassnet.apiserver.store import Store

    async def run() -> None:
        server = ApiServer(Store(f"{place}/store.sqlite"), now=lambda: datetime.now(UTC), random=random.Random(1), service_cidr="10.96.0.0/12")  # fmt: skip
        server.create(kinds.NAMESPACE, "", {"metadata": {"name": "demo"}})
        for kind, body in objects(ingresses, ingresses):
            server.create(kind, "demo" if kind.namespaced else "", {**body, "metadata": {k: v for k, v in body["metadata"].items() if k in ("name", "labels")}})  # fmt: skip
        who = partial(auth.authenticate, tokens=auth.Tokens(b"bench"), now=datetime.now(UTC))
        runner = web.AppRunner(http.build_app(server, who, auth.authorize), access_log=None)
        await runner.setup()
        tls = auth.ssl_context(Path(f"{place}/crt"), Path(f"{place}/key"), Path(f"{place}/ca"))
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        ready.set()
        await asyncio.Event().wait()

    asyncio.run(run())


def resident(pid: int) -> float:
    """MB of a process."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024  # type: ignore[index]


def memory(place: str, ingresses: int) -> dict[str, Any]:
    """The real command with all of them: its memory, NGINX's master and worker, and how long it takes until all is served."""
    pems, port = certs.make(["localhost"], ["127.0.0.1"], datetime.now(UTC)), 6443
    for name, raw in (("ca", pems.ca), ("crt", pems.server), ("key", pems.server_key)):
        Path(f"{place}/{name}").write_bytes(raw)
    Path(f"{place}/kubeconfig").write_text(certs.kubeconfig("t", f"https://127.0.0.1:{port}", pems.ca, pems.admin, pems.admin_key))  # fmt: skip
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    server = context.Process(target=serve, args=(place, ingresses, port, ready), daemon=True)
    server.start()
    if not ready.wait(120):
        raise SystemExit("the API server did not come up")
    words = [sys.executable, "-m", "glassnet", "ingress", "serve", "--kubeconfig", f"{place}/kubeconfig", "--run-directory", f"{place}/run", "--workers", "1", "--user", "root"]  # fmt: skip
    begun = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        from urllib.request import urlopen

        while time.perf_counter() - begun < 60:
            try:
                if urlopen("http://127.0.0.1:10254/readyz", timeout=1).status == 200:
                    break
            except OSError:
                time.sleep(0.02)
        took = time.perf_counter() - begun
        time.sleep(3)
        children = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _stands_in(pid, f"{place}/run")]
        return {"ready_s": took, "controller_mb": resident(process.pid), "nginx_mb": max(map(resident, children))}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        server.kill()
        server.join()


def _stands_in(pid: str, place: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd") == place
    except OSError:
        return False


def measure(place: str, words: list[str]) -> dict[str, Any]:
    """One case by name."""
    match words:
        case ["requests", log]:
            return asyncio.run(Case(place, log=log == "log").run(10, 10, lambda case: requests(case, log == "log")))
        case ["sizes", ingresses]:
            return asyncio.run(Case(place).run(int(ingresses), int(ingresses), sizes))
        case ["churn", seconds]:
            return asyncio.run(Case(place, log=True).run(10, 10, lambda case: churn(case, float(seconds))))
        case ["memory", ingresses]:
            return memory(place, int(ingresses))
    raise SystemExit(f"no case {words}: requests LOG, sizes NUMBER, churn SECONDS, memory NUMBER")


def main() -> None:
    """One case."""
    libc.unshare(libc.CLONE_NEWNET | libc.CLONE_NEWNS)
    libc.mount("", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        print(json.dumps(measure(place, sys.argv[1:])))


if __name__ == "__main__":
    main()
