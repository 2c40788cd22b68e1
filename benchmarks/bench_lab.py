"""How long a lab takes to come up and to go down, and what it weighs.

Every figure is a whole `glassnet up -f … ` process, from its start until every pod is Ready, and a whole `glassnet down`.
Memory is summed over every process of the lab: resident (RSS) and proportional (PSS, shared pages counted once).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GLASSNET = str(Path(sys.executable).with_name("glassnet"))
NAME = f"bench-{os.getpid()}"


def manifests(pods: int, services: int = 0) -> str:
    """`pods` pods in as many Deployments as there are Services (10 without), and the Services over them."""
    documents: list[dict[str, Any]] = []
    apps = services or min(10, pods)
    for number in range(apps):
        app = f"web-{number}"
        template = {"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "nginx", "image": "nginx"}]}}
        size = pods // apps + (number < pods % apps)
        spec = {"replicas": size, "selector": {"matchLabels": {"app": app}}, "template": template}
        documents.append({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app}, "spec": spec})
        if services:
            ports = {"selector": {"app": app}, "ports": [{"port": 80}]}
            documents.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": app}, "spec": ports})
    return "\n---\n".join(json.dumps(document) for document in documents)


def run(*words: str) -> float:
    """Run a glassnet command; seconds it took."""
    begun = time.perf_counter()
    done = subprocess.run([GLASSNET, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"glassnet {' '.join(words)}: {done.stderr}")
    return time.perf_counter() - begun


def weight() -> tuple[float, float, int]:
    """(RSS, PSS) in MB and the number of processes of the running lab."""
    report = json.loads(
        subprocess.run([GLASSNET, "status", "--name", NAME, "-o", "json"], capture_output=True, check=True).stdout
    )[0]
    return report["rss_mb"], report["memory_mb"], report["processes"]


def measure(nodes: int, pods: int, services: int = 0, service_cidr: str = "10.32.0.0/24") -> None:
    """One lab: up, weight, down; prints a row."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(manifests(pods, services))
        file.flush()
        workers = nodes - 3 if nodes <= 6 else nodes  # 6 nodes are the profile: three controllers, three workers
        up = run("up", "--name", NAME, "--nodes", str(workers), "--service-cidr", service_cidr, "-f", file.name)
        rss, pss, processes = weight()
        down = run("down", NAME)
    print(
        f"| {nodes} | {pods} | {services} | {up:.2f} | {down:.2f} | {rss:.0f} | {pss:.0f} | {processes} |", flush=True
    )


def main() -> None:
    """Print the table."""
    print(
        "| nodes | pods | services | up, s | down, s | RSS, MB | PSS, MB | processes |\n|---|---|---|---|---|---|---|---|"
    )
    for _ in range(3):
        measure(6, 10)
    measure(6, 30)
    measure(6, 130)
    measure(20, 200)
    if "--quick" not in sys.argv:
        measure(100, 1000, 500, "10.32.0.0/20")


if __name__ == "__main__":
    main()
