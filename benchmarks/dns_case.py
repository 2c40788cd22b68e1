"""The measurement of `bench_dns`, in a process of its own: `python -m benchmarks.dns_case SERVICES NAMESPACES`; prints JSON.

An API server in a process beside it has the Services; `glassnet dns serve` is the real command; dnsperf asks. All in a network and a mount
namespace of the case's own.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import re
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

from glassnet.agent.dns.knot import PROGRAM
from glassnet.apiserver import certs
from glassnet.client import kubeconfig
from glassnet.client.rest import RestApi
from glassnet.dns.message import Message, pack, unpack
from glassnet.kernel import libc
from glassnet.kube import kinds

HEADLESS, CHANGES, RATE, SECONDS = 100, 200, 20_000, 5
CHURN, CHURN_RATE = 100, 5_000  # changes a second, and queries a second meanwhile
ALONE = """\
server:
    rundir: "{place}"
    listen: "127.0.0.1@53"
    udp-workers: 16
    tcp-workers: 1
    background-workers: 1
control:
    listen: "{place}/knot.sock"
database:
    storage: "{place}/db"
zone:
  - domain: cluster.local
    file: "{place}/zone"
    zonefile-sync: -1
    journal-content: none
"""
PORTS = [{"name": "http", "protocol": "TCP", "port": 80}]


def address(number: int) -> str:
    """The ClusterIP of a Service."""
    return f"10.{96 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


def endpoints(number: int, generation: int = 0) -> dict[str, Any]:
    """The slice of a headless Service."""
    return {
        "metadata": {"name": f"headless-{number}-x", "labels": {"kubernetes.io/service-name": f"headless-{number}", "service.kubernetes.io/headless": ""}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [f"10.200.{number % 250}.{n + 1}"], "hostname": f"pod-{n}", "conditions": {"ready": True}} for n in range(4)]
        + [{"addresses": [f"10.201.{generation // 250}.{generation % 250 + 1}"], "hostname": "changing", "conditions": {"ready": True}}],
        "ports": PORTS,
    }  # fmt: skip


def serve(place: str, sizes: tuple[int, int], port: int, ready: Any) -> None:
    """The embedded API server with the cluster in it."""
    from aiohttp import web

    from glassnet.apiserver import auth, http
    from glassnet.apiserver.server import ApiServer
    from glassnet.apiserver.store import Store

    async def run() -> None:
        store = Store(f"{place}/store.sqlite")
        server = ApiServer(store, now=lambda: datetime.now(UTC), random=random.Random(1), service_cidr="10.96.0.0/12")
        for number in range(sizes[1]):
            server.create(kinds.NAMESPACE, "", {"metadata": {"name": f"ns-{number}"}})
        for number in range(sizes[0]):
            where = f"ns-{number % sizes[1]}"
            if number < HEADLESS:
                body = {"metadata": {"name": f"headless-{number}"}, "spec": {"clusterIP": "None", "ports": PORTS}}
                server.create(kinds.ENDPOINT_SLICE, where, endpoints(number))
            else:
                body = {"metadata": {"name": f"service-{number}"}, "spec": {"clusterIP": address(number), "ports": PORTS}}  # fmt: skip
            server.create(kinds.SERVICE, where, body)
        who = partial(auth.authenticate, tokens=auth.Tokens(b"bench"), now=datetime.now(UTC))
        runner = web.AppRunner(http.build_app(server, who, auth.authorize), access_log=None)
        await runner.setup()
        tls = auth.ssl_context(Path(f"{place}/crt"), Path(f"{place}/key"), Path(f"{place}/ca"))
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        ready.set()
        await asyncio.Event().wait()

    asyncio.run(run())


def resident(pid: int) -> float:
    """Memory of a process in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) / 1024


def spent(pid: int) -> float:
    """Seconds of processor time a process has used, over all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def asked(name: str) -> list[bytes]:
    """The addresses of a name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect(("127.0.0.1", 53))
        try:
            sock.send(pack(Message(7, name, 1)))
            return [record.data for record in unpack(sock.recv(65535)).records]
        except OSError:
            return []


def until(name: str, wanted: bytes, seconds: float) -> float:
    """When an address is among the answers."""
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        if wanted in asked(name):
            return time.perf_counter()
        time.sleep(0.0005)
    raise SystemExit(f"{name} did not get its new address")


async def changes(place: str, namespaces: int) -> list[float]:
    """Seconds from the request of a write to the new answer."""
    api, took = RestApi(kubeconfig.load(f"{place}/kubeconfig")), []
    for generation in range(1, CHANGES + 1):
        number = generation * 37 % HEADLESS
        body = endpoints(number, generation)
        wanted = socket.inet_aton(body["endpoints"][-1]["addresses"][0])
        name = f"headless-{number}.ns-{number % namespaces}.svc.cluster.local."
        await asyncio.sleep(0.03)
        begun = time.perf_counter()
        told = asyncio.create_task(asyncio.to_thread(until, name, wanted, 20))
        await api.update(kinds.ENDPOINT_SLICE, f"ns-{number % namespaces}", body["metadata"]["name"], body)
        took.append(await told - begun)
    await api.close()
    return took


async def churn(place: str, namespaces: int) -> dict[str, float]:
    """Write so many changes a second for SECONDS, while dnsperf asks: how many were made, and what was lost."""
    api, made = RestApi(kubeconfig.load(f"{place}/kubeconfig")), 0
    asking = asyncio.create_task(asyncio.to_thread(perf, place, CHURN_RATE))
    begun = time.perf_counter()
    while not asking.done():
        made += 1
        body = endpoints(made % HEADLESS, CHANGES + made)
        await api.update(kinds.ENDPOINT_SLICE, f"ns-{made % HEADLESS % namespaces}", body["metadata"]["name"], body)
        await asyncio.sleep(max(0.0, begun + made / CHURN - time.perf_counter()))
    await api.close()
    return {
        "churned_per_s": made / (time.perf_counter() - begun),
        "churn_lost": figure(await asking, r"Queries lost:\s+(\d+)"),
    }


def alone(place: str, sizes: tuple[int, int]) -> dict[str, float]:
    """The same questions, asked of a Knot DNS that somebody set up by hand: the addresses in one zone out of a file, nothing else."""
    directory = Path(f"{place}/alone")
    (directory / "db").mkdir(parents=True)
    lines = [f"service-{n}.ns-{n % sizes[1]}.svc A {address(n)}" for n in range(HEADLESS, sizes[0])]
    head = "$ORIGIN cluster.local.\n$TTL 5\n@ SOA ns hostmaster 1 3600 600 86400 5\n@ NS ns\nns A 127.0.0.1\n"
    (directory / "zone").write_text(head + "\n".join(lines) + "\n")
    (directory / "knot.conf").write_text(ALONE.format(place=directory))
    with subprocess.Popen(
        [PROGRAM, "-c", f"{directory}/knot.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            last = sizes[0] - 1
            until(f"service-{last}.ns-{last % sizes[1]}.svc.cluster.local.", socket.inet_aton(address(last)), 20)
            before = spent(process.pid)
            text = perf(place, RATE)
            used = spent(process.pid) - before
        finally:
            process.terminate()
    done = figure(text, r"Queries completed:\s+(\d+)")
    return {"alone_us": used / done * 1e6, "alone_ms": figure(text, r"Average Latency \(s\):\s+([\d.]+)") * 1000}


def perf(place: str, rate: int) -> str:
    """What dnsperf says after SECONDS of so many queries a second."""
    words = ["dnsperf", "-s", "127.0.0.1", "-d", f"{place}/questions", "-Q", str(rate), "-l", str(SECONDS), "-c", "20", "-q", "2000"]  # fmt: skip
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def figure(text: str, pattern: str) -> float:
    """A number of dnsperf's report."""
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1])


def flood(place: str, sizes: tuple[int, int], pid: int) -> dict[str, float]:
    """What queries cost: names of Services, some of them in upper case, one in five that does not exist."""
    lines = []
    for number in range(HEADLESS, sizes[0]):
        lines.append(f"service-{number}.ns-{number % sizes[1]}.svc.cluster.local A")
        if number % 5 == 0:
            lines.append(f"nope-{number}.ns-{number % sizes[1]}.svc.cluster.local AAAA")
    Path(f"{place}/questions").write_text("\n".join(lines) + "\n")
    before, begun = spent(pid), time.perf_counter()
    text = perf(place, RATE)
    used, took = spent(pid) - before, time.perf_counter() - begun
    done = figure(text, r"Queries completed:\s+(\d+)")
    return {"queries_per_s": done / took, "cpu_us": used / done * 1e6, "latency_ms": figure(text, r"Average Latency \(s\):\s+([\d.]+)") * 1000,
            "lost": figure(text, r"Queries lost:\s+(\d+)")}  # fmt: skip


def measure(place: str, sizes: tuple[int, int]) -> dict[str, Any]:
    """All figures of one case."""
    words = [sys.executable, "-m", "glassnet", "dns", "serve", "--kubeconfig", f"{place}/kubeconfig", "--resolv-conf", "", "--run-directory", f"{place}/run", "--lameduck", "0"]  # fmt: skip
    log = open(f"{place}/log", "wb")  # noqa: SIM115
    begun = time.perf_counter()
    process = subprocess.Popen([*words, "--listen", "127.0.0.1"], stdout=log, stderr=log)
    try:
        last = sizes[0] - 1
        first = until(f"service-{last}.ns-{last % sizes[1]}.svc.cluster.local.", socket.inet_aton(address(last)), 60)
        knot = int(Path(f"{place}/run/knot.pid").read_text())
        first_cpu = spent(process.pid)
        time.sleep(2)  # a server that has just begun is another case
        flooded = flood(place, sizes, knot)
        took = asyncio.run(changes(place, sizes[1]))
        flooded |= asyncio.run(churn(place, sizes[1]))
        flooded |= {"knot_mb": resident(knot), "controller_mb": resident(process.pid)}
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        flooded |= alone(place, sizes)
        return {"first_s": first - begun, "first_cpu_s": first_cpu, **flooded,
                "change_p50_ms": statistics.median(took) * 1000, "change_p99_ms": sorted(took)[int(len(took) * 0.99)] * 1000}  # fmt: skip
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        log.close()


def main() -> None:
    """One case."""
    sizes = (int(sys.argv[1]), int(sys.argv[2]))
    libc.unshare(libc.CLONE_NEWNET | libc.CLONE_NEWNS)
    libc.mount("", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        pems, port = certs.make(["localhost"], ["127.0.0.1"], datetime.now(UTC)), 6443
        for name, raw in (("ca", pems.ca), ("crt", pems.server), ("key", pems.server_key)):
            Path(f"{place}/{name}").write_bytes(raw)
        Path(f"{place}/kubeconfig").write_text(certs.kubeconfig("t", f"https://127.0.0.1:{port}", pems.ca, pems.admin, pems.admin_key))  # fmt: skip
        context = multiprocessing.get_context("fork")
        ready = context.Event()
        server = context.Process(target=serve, args=(place, sizes, port, ready), daemon=True)
        server.start()
        if not ready.wait(300):
            raise SystemExit("the API server did not come up")
        try:
            print(json.dumps(measure(place, sizes)))
        except BaseException:
            sys.stderr.write(Path(f"{place}/log").read_text() if os.path.exists(f"{place}/log") else "")
            raise
        finally:
            server.kill()
            server.join()


if __name__ == "__main__":
    main()
