"""The agent of a node at the size of a large cluster, over HTTPS: its start, a change's way to the kernel, its idling. `make bench-agent`.

Each row is an API server, an agent and a network namespace of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

CASES = ((500, 1000), (5000, 10_000))
COLUMNS = (
    ("start to first commit, s", "first_s", 2), ("of it processor", "first_cpu_s", 2), ("all rules and routes, s", "whole_s", 1), ("memory, MB", "memory_mb", 0), ("peak", "peak_mb", 0),
    ("API write to kernel, ms: endpoint p50", "change_p50_ms", 1), ("p99", "change_p99_ms", 1), ("Node p50", "route_p50_ms", 1), ("p99", "route_p99_ms", 1),
    ("idle, % of a core", "idle_percent", 2), ("requests in 20 s", "idle_requests", 0),
)  # fmt: skip
GOALS = "Goals at 5,000 Nodes, 10,000 Services, 50,000 endpoints: first commit 5 s, 200 MB, endpoint p50 10 ms, Node 20 ms, idle 1 %, no request while idle."


def run(nodes: int, services: int) -> dict[str, Any]:
    """One measurement."""
    command = [sys.executable, "-m", "benchmarks.agent_case", str(nodes), str(services)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def main() -> None:
    """Print the table."""
    table = Table("Nodes", "Services", "endpoints", *(name for name, _, _ in COLUMNS))
    for nodes, services in CASES:
        result = run(nodes, services)
        figures = (f"{result[key]:,.{digits}f}" for _, key, digits in COLUMNS)
        table.add_row(f"{nodes:,}", f"{services:,}", f"{services * 5:,}", *figures)
    console = Console(width=170)
    console.print(table)
    console.print(GOALS)


if __name__ == "__main__":
    main()
