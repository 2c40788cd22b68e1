"""What a built-in pod weighs and how fast it answers: `python benchmarks/bench_pods.py [PODS]` as root prints one line per fact.

Everything happens in namespaces of its own: one machine, PODS pods with netexec, one client process on the machine.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import sys
import tempfile
import time
from pathlib import Path

from glassnet.kernel.machine import LabMachine, MachineFactory, remember_proc
from glassnet.kernel.spawn import Spawner
from glassnet.kube import kinds
from glassnet.kube.types import Pod, decode
from glassnet.lab.pods.runtime import LabRuntime
from glassnet.lab.pods.sandbox import LabPod
from glassnet.netstack.ops import AddAddress, AddRoute, AddVeth, SetLink

CLIENT = """
import socket, sys, time
address, port, seconds, keep = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "keep"
request = b"GET /hostname HTTP/1.1\\r\\nHost: x\\r\\n" + (b"" if keep else b"Connection: close\\r\\n") + b"\\r\\n"
def connected():
    return socket.create_connection((address, port))
socks = [connected() for _ in range(16)] if keep else []
count, end = 0, time.perf_counter() + seconds
while time.perf_counter() < end:
    if keep:
        for sock in socks: sock.sendall(request)
        for sock in socks:
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        count += len(socks)
    else:
        sock = connected(); sock.sendall(request)
        while sock.recv(4096): pass
        sock.close(); count += 1
print(count / seconds)
"""
UDP_CLIENT = """
import socket, sys, time
address, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(16)]
for sock in socks: sock.connect((address, port)); sock.settimeout(2)
count, end = 0, time.perf_counter() + seconds
while time.perf_counter() < end:
    for sock in socks: sock.send(b"hostname")
    for sock in socks: sock.recv(100)
    count += len(socks)
print(count / seconds)
"""


def resident() -> int:
    """Resident bytes of this process, its own (not shared) ones."""
    gc.collect()
    fields = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[name].split()[0]) * 1024 for name in ("Private_Clean", "Private_Dirty"))


def pod_of(number: int) -> Pod:
    pod: Pod = decode(
        kinds.POD,
        f'{{"metadata": {{"name": "web-{number}", "namespace": "demo", "uid": "uid-{number}"}}, "spec": {{"containers":'
        ' [{"name": "netexec", "image": "agnhost", "args": ["netexec"]}]}}',
    )
    return pod


async def rate(machine: LabMachine, program: str, *args: str) -> float:
    out = await machine.run([sys.executable, "-c", program, *args], timeout=30)
    return float(out)


async def measure(machine: LabMachine, count: int) -> None:
    runtime = LabRuntime(machine, "bench")
    await (await start(runtime, -1)).remove()  # what is loaded once counts for no pod
    before, began = resident(), time.perf_counter()
    pods = [await runtime.sandbox(pod_of(number), {}) for number in range(count)]
    sandboxes, took = resident(), time.perf_counter() - began
    began = time.perf_counter()
    for pod, number in zip(pods, range(count), strict=True):
        await pod.start(pod_of(number).spec.containers[0], {"COLOUR": "blue"}, {}, 0)
    servers, started = resident(), time.perf_counter() - began
    waits = [
        asyncio.create_task(one.running.wait()) for pod in pods if (one := pod.instance("netexec")) and one.running
    ]
    await asyncio.sleep(0)
    waiting = resident()
    print(f"pods                       {count:10d}")
    print(
        f"sandbox, resident          {(sandboxes - before) / count / 1024:10.1f} KB/pod   {took / count * 1000:.2f} ms/pod"
    )
    print(
        f"netexec server, resident   {(servers - sandboxes) / count / 1024:10.1f} KB/pod   {started / count * 1000:.2f} ms/pod"
    )
    print(f"a task waiting for its end {(waiting - servers) / count / 1024:10.1f} KB/pod")
    wire(machine, pods[0])
    print(
        f"HTTP, keep-alive           {await rate(machine, CLIENT, '10.99.0.2', '8080', '2', 'keep'):10.0f} requests/s"
    )
    print(f"HTTP, new connections      {await rate(machine, CLIENT, '10.99.0.2', '8080', '2', 'new'):10.0f} requests/s")
    print(f"UDP                        {await rate(machine, UDP_CLIENT, '10.99.0.2', '8081', '2'):10.0f} answers/s")
    began = time.perf_counter()
    await asyncio.gather(*(pod.remove() for pod in pods))
    await asyncio.gather(*waits)
    print(f"removal                    {(time.perf_counter() - began) / count * 1000:10.2f} ms/pod")


async def start(runtime: LabRuntime, number: int) -> LabPod:
    pod = await runtime.sandbox(pod_of(number), {})
    await pod.start(pod_of(number).spec.containers[0], {}, {}, 0)
    return pod


def wire(machine: LabMachine, pod: LabPod) -> None:
    veth = AddVeth("veth0", "eth0", peer_netns=pod.netns_fd)
    machine.netns.apply(
        [veth, SetLink("veth0", up=True), AddAddress("10.99.0.1/32", "veth0"), AddRoute("10.99.0.2/32", dev="veth0")]
    )
    pod.kernel.netns.apply([AddAddress("10.99.0.2/24", "eth0"), SetLink("eth0", up=True)])


async def main() -> None:
    remember_proc()
    place, spawner = Path(tempfile.mkdtemp(prefix="glassnet-bench-", dir="/dev/shm")), Spawner()
    try:
        machine = await MachineFactory(spawner, place, rootless=False).machine("bench", {})
        try:
            await measure(machine, int(sys.argv[1]) if len(sys.argv) > 1 else 500)
        finally:
            await machine.close()
    finally:
        spawner.close()
        shutil.rmtree(place)


if __name__ == "__main__":
    asyncio.run(main())
