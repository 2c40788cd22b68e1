"""A proxy under churn that is killed again and again: `python -m benchmarks.proxy_victim MODE KILLS SECONDS`, in the network namespace it programs.

Each life begins with what the last one left, changes something every few milliseconds, and ends by SIGKILL at a random moment. With 0 kills
one life lasts for SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import time

from benchmarks import proxy_objects as objects
from benchmarks.proxy_case import settings
from glassnet.agent.proxy.loop import ProxyLoop
from glassnet.kernel.host import HostMachine
from glassnet.kube import kinds
from glassnet.kube.view import View

VIRTUAL, STAYS, COMES = "10.96.0.5", "10.128.201.2", "10.128.202.2"
SERVICES = 30


def target(view: View, addresses: list[str]) -> None:
    """The Service that traffic goes to."""
    body, piece = objects.service(0), objects.endpoint_slice(0, count=len(addresses))
    body["metadata"]["name"], body["spec"]["clusterIP"] = "target", VIRTUAL
    piece["metadata"].update(name="target-x", labels={"kubernetes.io/service-name": "target"})
    for endpoint, address in zip(piece["endpoints"], addresses, strict=True):
        endpoint["addresses"] = [address]
    objects.put(view, kinds.SERVICE, body)
    objects.put(view, kinds.ENDPOINT_SLICE, piece)


async def life(mode: str, seed: int, seconds: float) -> None:
    """Sync, then change something every few milliseconds."""
    random_, view = random.Random(seed), View()
    objects.fill(view, SERVICES)
    target(view, [STAYS, COMES])
    loop = ProxyLoop(view, HostMachine(), "node-1", settings(mode))
    task = asyncio.create_task(loop.run())
    await loop.first_sync.wait()
    print("ready", flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end and not task.done():
        number = random_.randrange(SERVICES)
        count = random_.randrange(0, 9)
        objects.put(view, kinds.ENDPOINT_SLICE, objects.endpoint_slice(number, random_.randrange(1, 99), count) if count else objects.endpoint_slice(number, 0, 0))  # fmt: skip
        target(view, random_.choice([[STAYS], [STAYS, COMES], [COMES, STAYS]]))
        if random_.random() < 0.1:
            body = objects.service(number)
            view.apply(kinds.SERVICE, objects.decoded(kinds.SERVICE, body), deleted=True)
            objects.put(view, kinds.SERVICE, body)
        await asyncio.sleep(random_.random() * 0.006)
    await loop.stop(sweep=False)


def main() -> None:
    """Live and die."""
    mode, kills, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    logging.disable(logging.CRITICAL)
    random_ = random.Random(7)
    for number in range(kills):
        pid = os.fork()
        if not pid:
            asyncio.run(life(mode, number, 60))
            os._exit(0)
        time.sleep(0.004 + random_.random() * (0.08 if mode == "nftables" else 0.2))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        print(f"killed {number + 1}", flush=True)
    asyncio.run(life(mode, kills, seconds))
    print("done", flush=True)


if __name__ == "__main__":
    main()
