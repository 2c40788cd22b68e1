"""Cluster DNS with 10,000 Services: first load, memory, what a query costs, how soon a change is answered. `make bench-dns`.

Each row is an API server, `glassnet dns serve` with its Knot DNS, and a network namespace of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

CASES = ((10_000, 100), (10_000, 1))
COLUMNS = (
    ("start to all answers, s", "first_s", 2), ("of it processor", "first_cpu_s", 2), ("Knot, MB", "knot_mb", 0), ("controller, MB", "controller_mb", 0),
    ("queries/s", "queries_per_s", 0), ("CPU a query, us", "cpu_us", 1), ("mean latency, ms", "latency_ms", 3), ("lost", "lost", 0),
    ("Knot by itself: CPU, us", "alone_us", 1), ("latency, ms", "alone_ms", 3),
    ("API write to new answer, ms: p50", "change_p50_ms", 1), ("p99", "change_p99_ms", 1),
    ("changes/s under 5,000 queries/s", "churned_per_s", 0), ("queries lost then", "churn_lost", 0),
)  # fmt: skip
GOALS = "Goals at 10,000 Services: start 2 s, Knot 40 MB, controller 120 MB, 20 us of processor a query, 0.1 ms latency at 20,000 queries/s, a change 20 ms."


def run(services: int, namespaces: int) -> dict[str, Any]:
    """One measurement."""
    command = [sys.executable, "-m", "benchmarks.dns_case", str(services), str(namespaces)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def main() -> None:
    """Print the table."""
    table = Table("Services", "namespaces", *(name for name, _, _ in COLUMNS))
    for services, namespaces in CASES:
        result = run(services, namespaces)
        table.add_row(f"{services:,}", f"{namespaces:,}", *(f"{result[key]:,.{digits}f}" for _, key, digits in COLUMNS))
    console = Console(width=170)
    console.print(table)
    console.print(GOALS)


if __name__ == "__main__":
    main()
