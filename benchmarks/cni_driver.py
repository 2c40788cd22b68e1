"""Calls CNI plugins as a runtime does and times whole processes, in network and mount namespaces of its own; `bench_cni` runs it.

    python -m benchmarks.cni_driver BIN_DIR COUNT AT_ONCE LEASES [agent]

Prints JSON: milliseconds of each ADD and DEL one after the other, of ADDs all at once, and what is wrong with their results.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glassnet.agent.cni import programs as cni_shim
from glassnet.cni.host_local import lease_text

NETWORK = "bench"
CONF = {
    "cniVersion": "1.0.0",
    "name": NETWORK,
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": True,
    "ipMasq": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]},
}
LEASES = Path("/var/lib/cni/networks") / NETWORK
AGENT = """
import asyncio, os, sys
from glassnet.agent.cni.node import Node
from glassnet.agent.cni.server import CniServer
from glassnet.kernel.host import HostMachine
async def main():
    server = CniServer(Node(HostMachine()))
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def own_namespaces() -> None:
    """Leave the machine: nothing that is made from here on is seen outside."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000 | 0x20000):  # CLONE_NEWNET | CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare: run it as root")
    words = ["mount", "--make-rprivate", "/"]
    subprocess.run(words, check=True)
    for place in ("/run", "/var/lib/cni", "/opt"):
        os.makedirs(place, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def call(directory: str, command: str, name: str) -> tuple[int, int, float]:
    """Start a plugin: its pid, a descriptor to read its answer from, the time."""
    environment: Mapping[str, str] = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": name,
        "CNI_NETNS": f"/run/netns/{name}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": directory,
    }
    given = os.memfd_create("conf")
    os.write(given, json.dumps(CONF).encode())
    os.lseek(given, 0, os.SEEK_SET)
    answer = os.memfd_create("answer")
    program = f"{directory}/bridge"
    actions = [(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, answer, 1)]
    begun = time.perf_counter()
    pid = os.posix_spawn(program, [program], environment, file_actions=actions)
    os.close(given)
    return pid, answer, begun


def finish(pid: int, answer: int, begun: float) -> tuple[float, Any]:
    """Wait for a plugin that has been started: milliseconds, and what it printed."""
    os.waitpid(pid, 0)
    return 1000 * (time.perf_counter() - begun), read(answer)


def read(answer: int) -> Any:
    """What a plugin printed; None for nothing."""
    text = os.pread(answer, 1 << 20, 0)
    os.close(answer)
    return json.loads(text) if text.strip() else None


def one_by_one(directory: str, names: list[str]) -> dict[str, Any]:
    """ADD each, then DEL each."""
    add, delete, wrong = [], [], []
    addresses = set()
    for name in names:
        took, result = finish(*call(directory, "ADD", name))
        add.append(took)
        if "ips" not in result:
            wrong.append(result)
        else:
            addresses.add(result["ips"][0]["address"])
    for name in names:
        took, result = finish(*call(directory, "DEL", name))
        delete.append(took)
        wrong += [result] if result is not None else []
    if len(addresses) != len(names):
        wrong.append(f"{len(addresses)} addresses for {len(names)} containers")
    return {"add": add, "delete": delete, "wrong": wrong}


def all_at_once(directory: str, names: list[str]) -> dict[str, Any]:
    """ADD all, as fast as they can be started."""
    waiting, took, results = {}, [], []
    poll = select.poll()
    begun = time.perf_counter()
    for name in names:
        pid, answer, start = call(directory, "ADD", name)
        descriptor = os.pidfd_open(pid)
        waiting[descriptor] = (pid, answer, start)
        poll.register(descriptor, select.POLLIN)
        for ended, _ in poll.poll(0):
            _ended(ended, waiting, poll, took, results)
    while waiting:
        for ended, _ in poll.poll():
            _ended(ended, waiting, poll, took, results)
    whole = 1000 * (time.perf_counter() - begun)
    addresses = {result["ips"][0]["address"] for result in results if "ips" in result}
    wrong = [result for result in results if "ips" not in result]
    if len(addresses) != len(names):
        wrong.append(f"{len(addresses)} addresses for {len(names)} containers")
    for name in names:
        finish(*call(directory, "DEL", name))
    return {"at_once": took, "at_once_whole": whole, "wrong": wrong}


def _ended(descriptor: int, waiting: dict[int, Any], poll: select.poll, took: list[float], results: list[Any]) -> None:
    pid, answer, start = waiting.pop(descriptor)
    poll.unregister(descriptor)
    os.close(descriptor)
    milliseconds, result = finish(pid, answer, start)
    took.append(milliseconds)
    results.append(result)


def resident(pid: int) -> float:
    """Resident memory of a process, MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000


def main() -> None:
    """Run and print."""
    directory, count, at_once, leases = sys.argv[1], *map(int, sys.argv[2:5])
    own_namespaces()
    if directory == "ours":
        directory = "/opt/cni/bin"
        cni_shim.install(Path(directory))
    out: dict[str, Any] = {}
    agent = None
    if "agent" in sys.argv:
        agent = subprocess.Popen([sys.executable, "-c", AGENT], stdout=subprocess.PIPE)
        assert agent.stdout is not None
        agent.stdout.readline()
        out["agent_before"] = resident(agent.pid)
    try:
        names = [f"c{number}" for number in range(max(count, at_once))]
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        finish(*call(directory, "ADD", names[0]))  # makes the bridge, and what is made once
        finish(*call(directory, "DEL", names[0]))
        LEASES.mkdir(parents=True, exist_ok=True)
        for number in range(leases):
            address = f"10.22.{200 + number // 250}.{number % 250 + 1}"
            (LEASES / address).write_text(lease_text(f"{number:064x}", "eth0"))
        if leases:
            finish(*call(directory, "ADD", names[0]))  # the leases have been read once
            finish(*call(directory, "DEL", names[0]))
        out |= one_by_one(directory, names[:count])
        if at_once:
            found = all_at_once(directory, names[:at_once])
            out["wrong"] += found.pop("wrong")
            out |= found
        if agent is not None:
            out["agent_after"] = resident(agent.pid)
        out["left"] = [path.name for path in LEASES.iterdir() if path.name[0].isdigit()][leases:]
    finally:
        if agent is not None:
            agent.kill()
            agent.wait()
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    tempfile.tempdir = None
    main()
