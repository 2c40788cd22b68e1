"""What a write to the embedded API costs, in-process and on disk, and what a stored pod weighs."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from glassnet.apiserver.local import feed
from glassnet.apiserver.server import MERGE_PATCH, ApiServer
from glassnet.apiserver.store import Store
from glassnet.kube import kinds
from glassnet.kube.view import View

PODS = 2000


def resident() -> int:
    """Resident memory of this process in KB."""
    return next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")
    )


def timed(count: int, work: Callable[[int], object]) -> float:
    """Milliseconds for each of `count` calls."""
    begun = time.perf_counter()
    for number in range(count):
        work(number)
    return (time.perf_counter() - begun) / count * 1000


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as place:
        server = ApiServer(Store(f"{place}/store.sqlite"), now=lambda: datetime.now(UTC), random=random.Random(1))
        view = View()
        feed(server, view)
        before = resident()
        body = {
            "metadata": {"generateName": "web-", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "nginx", "image": "nginx"}]},
        }
        create = timed(PODS, lambda _: server.create(kinds.POD, "default", body))
        weight = (resident() - before) / PODS
        names = [key.name for key, _ in server.store.all(kinds.POD)]
        status = {
            "status": {"phase": "Running", "podIP": "10.200.0.2", "conditions": [{"type": "Ready", "status": "True"}]}
        }
        patch = timed(PODS, lambda n: server.patch(kinds.POD, "default", names[n], status, MERGE_PATCH, None, "status"))
        read = timed(PODS, lambda n: server.get(kinds.POD, "default", names[n]))
    print("| what | measured |\n|---|---|")
    print(f"| create a pod (defaults, validation, SQLite, View) | {create:.2f} ms |")
    print(f"| patch a pod's status | {patch:.2f} ms |")
    print(f"| read a pod | {read * 1000:.1f} µs |")
    print(f"| memory of a pod in store and View | {weight:.1f} KB |")


if __name__ == "__main__":
    main()
