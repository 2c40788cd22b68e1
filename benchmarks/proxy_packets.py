"""What a packet pays: connections through a ClusterIP among many Services against connections straight to the pod, in one run.

A node's namespace routes between two pods' namespaces; the Services are programmed there. Prints JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks import proxy_objects as objects
from benchmarks.proxy_case import settings
from benchmarks.proxy_objects import until
from glassnet.agent.proxy.loop import ProxyLoop
from glassnet.kernel import libc
from glassnet.kernel.host import HostMachine
from glassnet.kube import kinds
from glassnet.kube.view import View

CLIENT, SERVER, PORT, VIRTUAL = "10.128.200.2", "10.128.201.2", 8080, "10.96.0.5"
CONNECTS, ROUNDS, BYTES = 1000, 9, 400 << 20


class Pod:
    """A network namespace held by a thread."""

    def __init__(self, name: str, address: str) -> None:
        self._thread = ThreadPoolExecutor(1, name, libc.unshare, (libc.CLONE_NEWNET,))
        tid = self._thread.submit(threading.get_native_id).result()
        gateway = address.rsplit(".", 1)[0] + ".1"
        _ip(f"link add {name} type veth peer name eth0 netns /proc/{os.getpid()}/task/{tid}/ns/net")
        _ip(f"addr add {gateway}/24 dev {name}")
        _ip(f"link set {name} up")
        self.run(lambda: [_ip(words) for words in ("link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up", f"route add default via {gateway}")])  # fmt: skip

    def run(self, function: Any, *words: Any) -> Any:
        """Call inside the namespace and wait."""
        return self.start(function, *words).result(timeout=300)

    def start(self, function: Any, *words: Any) -> Any:
        """Call inside the namespace."""
        return self._thread.submit(function, *words)

    def socket(self) -> socket.socket:
        """A TCP socket of the namespace."""
        made: socket.socket = self.run(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
        return made


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def serve(listener: socket.socket) -> None:
    """Take connections; to one that sends, be a sink and say at its end that all has come."""
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        buffer = bytearray(1 << 18)
        with peer, contextlib.suppress(ConnectionError):
            while peer.recv_into(buffer):
                pass
            peer.sendall(b".")


def connects(address: str) -> list[float]:
    """Microseconds of each of many connects, one after the other."""
    times = []
    for _ in range(CONNECTS):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # no TIME_WAIT, no used-up ports
            begun = time.perf_counter()
            sock.connect((address, PORT if address == SERVER else 80))
            times.append((time.perf_counter() - begun) * 1e6)
    return times


def throughput(address: str) -> float:
    """Gigabits a second of one connection."""
    block = bytes(1 << 18)
    with socket.socket() as sock:
        sock.connect((address, PORT if address == SERVER else 80))
        begun = time.perf_counter()
        for _ in range(BYTES // len(block)):
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)
        return BYTES * 8 / (time.perf_counter() - begun) / 1e9


async def measure(mode: str, size: int) -> dict[str, Any]:
    """Both ways by turns, and the medians' ratios."""
    view = View()
    objects.fill(view, size)
    target = objects.service(0)
    target["metadata"]["name"], target["spec"]["clusterIP"] = "target", VIRTUAL
    piece = objects.endpoint_slice(0, count=1)
    piece["metadata"].update(name="target-x", labels={"kubernetes.io/service-name": "target"})
    piece["endpoints"][0]["addresses"], piece["endpoints"][0]["nodeName"] = [SERVER], "node-1"
    objects.put(view, kinds.SERVICE, target)
    objects.put(view, kinds.ENDPOINT_SLICE, piece)
    loop = ProxyLoop(view, HostMachine(), "node-1", settings(mode))
    task = asyncio.create_task(loop.run())
    await until(lambda: loop.synced)
    client, server = Pod("client", CLIENT), Pod("server", SERVER)
    listener = server.socket()
    listener.bind((SERVER, PORT))
    listener.listen(128)
    for _ in range(2):
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
    straight, through, wide, narrow = [], [], [], []
    work = asyncio.get_running_loop().run_in_executor
    for number in range(ROUNDS):
        turns = [(SERVER, straight, wide), (VIRTUAL, through, narrow)]
        for address, times, rates in turns if number % 2 else reversed(turns):
            times.append(statistics.median(await work(None, client.run, connects, address)))
            rates.append(await work(None, client.run, throughput, address))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    ratios = [b / a for a, b in zip(straight, through, strict=True)]
    speeds = [b / a for a, b in zip(wide, narrow, strict=True)]
    return {
        "mode": mode, "size": size, "connect_us": statistics.median(straight), "connect_vip_us": statistics.median(through),
        "connect_ratio": statistics.median(ratios), "gbit": statistics.median(wide), "gbit_vip": statistics.median(narrow),
        "gbit_ratio": statistics.median(speeds),
    }  # fmt: skip


def main() -> None:
    """Measure one mode and size."""
    libc.unshare(libc.CLONE_NEWNET)
    _ip("link set lo up")
    with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as file:
        file.write("1")
    print(json.dumps(asyncio.run(measure(sys.argv[1], int(sys.argv[2])))), flush=True)
    os._exit(0)  # threads that wait for connections have nothing to tidy


if __name__ == "__main__":
    main()
