"""Who reaches which Service: a lab of ten nodes, 200 pods, 200 Services; its snapshot, and the matrix. `make bench-trace` runs it after `trace`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from glassnet.kernel.archive import read_files
from glassnet.tracer.objects import Objects
from glassnet.tracer.reach import reach
from glassnet.tracer.snapshot import read_world
from glassnet.tracer.trace import Tracer

NODES, APPS, REPLICAS, SERVICES, GOAL = 10, 20, 10, 200, 5.0
APP = """apiVersion: apps/v1
kind: Deployment
metadata: {{name: app-{n}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: app-{n}}}}}
  template:
    metadata: {{labels: {{app: app-{n}}}}}
    spec: {{containers: [{{name: c, image: nginx, ports: [{{containerPort: 80}}]}}]}}
"""
SERVICE = """apiVersion: v1
kind: Service
metadata: {{name: svc-{n}}}
spec: {{selector: {{app: app-{app}}}, ports: [{{port: 80}}], type: {type}}}
"""


def manifests() -> str:
    """Deployments and Services."""
    parts = [APP.format(n=n, replicas=REPLICAS) for n in range(APPS)]
    parts += [SERVICE.format(n=n, app=n % APPS, type="NodePort" if n % 2 else "ClusterIP") for n in range(SERVICES)]
    return "---\n".join(parts)


def main() -> None:
    """Print the table."""
    table = Table("mode", "snapshot, s", "load, s", "pairs", "ways followed", "matrix, s", f"goal, s: {GOAL:g}")
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "GLASSNET_STATE": place, "GLASSNET_LAB": "bench-reach"}
        Path(place, "manifests.yaml").write_text(manifests())

        def glassnet(*words: str, check: bool = True) -> int:
            command = [sys.executable, "-m", "glassnet", *words]
            return subprocess.run(
                command, env=environment, check=check, stdout=subprocess.DEVNULL, timeout=180
            ).returncode

        glassnet("up", "--nodes", str(NODES), "-f", str(Path(place, "manifests.yaml")))
        try:
            for mode in ("iptables", "nftables"):
                glassnet("lab", "proxy", mode)
                while glassnet("drift", check=False):  # until the rules are what the API asks for
                    time.sleep(1)
                begun = time.perf_counter()
                glassnet("snapshot", "-o", str(Path(place, "s.tar.gz")))
                taken = time.perf_counter() - begun
                begun = time.perf_counter()
                world = read_world(read_files(str(Path(place, "s.tar.gz"))))
                objects = Objects(world.objects)
                loaded = time.perf_counter() - begun
                begun = time.perf_counter()
                matrix = reach(world, objects, Tracer(world), world.of_kind("pod"), objects.ports)
                spent = time.perf_counter() - begun
                pairs = len(matrix.pods) * len(matrix.ports)
                table.add_row(
                    mode,
                    f"{taken:.1f}",
                    f"{loaded:.2f}",
                    f"{pairs:,}",
                    f"{matrix.traced:,}",
                    f"{spent:.2f}",
                    "met" if spent <= GOAL else "missed",
                )
        finally:
            glassnet("down", "--all")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
