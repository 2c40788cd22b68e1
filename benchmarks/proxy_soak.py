"""Traffic through a Service while its proxy churns, and is killed: `python -m benchmarks.proxy_soak MODE KILLS SECONDS`; prints JSON. `make soak`.

One connection is kept and used all the time; new ones are made all the time, and one that fails is tried a second time at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

from benchmarks.proxy_packets import Pod
from benchmarks.proxy_victim import COMES, STAYS, VIRTUAL
from glassnet.kernel import libc

CLIENT = "10.128.200.2"


class Traffic:
    """Counts of what went well and what did not."""

    def __init__(self, client: Pod) -> None:
        self.client, self.stopping = client, threading.Event()
        self.pings = self.broken = self.connections = self.failed_once = self.failed_twice = 0
        self.reasons: list[str] = []
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._keep, self._renew, self._renew)]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(15)

    def _keep(self) -> None:
        """One connection, used without a pause."""
        while not self.stopping.is_set():
            with self.client.socket() as sock:
                sock.settimeout(5)
                sock.connect((VIRTUAL, 80))
                try:
                    while not self.stopping.is_set():
                        sock.sendall(b"x")
                        if sock.recv(1) != b"x":
                            raise OSError("closed")
                        self.pings += 1
                except OSError as error:
                    self.broken += 1
                    self.reasons.append(f"kept: {error}")

    def _renew(self) -> None:
        """New connections, one after the other."""
        while not self.stopping.is_set():
            if not self._once():
                self.failed_once += 1
                if not self._once():
                    self.failed_twice += 1
            self.connections += 1

    def _once(self) -> bool:
        with self.client.socket() as sock:
            sock.settimeout(0.9)  # before the first SYN is sent again
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # no TIME_WAIT, no used-up ports
            try:
                sock.connect((VIRTUAL, 80))
                sock.sendall(b"y")
                return sock.recv(1) == b"y"
            except OSError as error:
                self.reasons.append(f"new: {error}")
                return False


def echo(listener: socket.socket) -> None:
    """Send everything back, for each connection in a thread."""

    def one(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := peer.recv(4096):
                peer.sendall(data)

    while True:
        peer, _ = listener.accept()
        threading.Thread(target=one, args=(peer,), daemon=True).start()


def run(mode: str, kills: int, seconds: float) -> dict[str, object]:
    """Namespaces, servers, victim, traffic; the counts."""
    client, servers = Pod("client", CLIENT), [Pod("stays", STAYS), Pod("comes", COMES)]
    for server, address in zip(servers, (STAYS, COMES), strict=True):
        listener = server.socket()
        listener.bind((address, 8080))
        listener.listen(256)
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
    command = [sys.executable, "-m", "benchmarks.proxy_victim", mode]
    subprocess.run([*command, "0", "0.05"], check=True, stdout=subprocess.DEVNULL)
    traffic = Traffic(client)
    traffic.start()
    begun = time.monotonic()
    done = subprocess.run([*command, str(kills), str(seconds)], check=True, stdout=subprocess.PIPE, text=True, timeout=seconds + 300)  # fmt: skip
    traffic.stop()
    return {
        "mode": mode, "kills": done.stdout.count("killed"), "seconds": round(time.monotonic() - begun, 1), "pings": traffic.pings,
        "broken": traffic.broken, "connections": traffic.connections, "failed_once": traffic.failed_once,
        "failed_twice": traffic.failed_twice, "reasons": dict(Counter(traffic.reasons)),
    }  # fmt: skip


def main() -> None:
    """One mode, or (without words) ten minutes of churn in each."""
    if len(sys.argv) < 2:
        for mode in ("nftables", "iptables-nft"):
            subprocess.run([sys.executable, "-m", "benchmarks.proxy_soak", mode, "0", "600"], check=True)
        return
    libc.unshare(libc.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as file:
        file.write("1")
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))), flush=True)
    os._exit(0)  # threads that wait for connections have nothing to tidy


if __name__ == "__main__":
    main()
