"""CNI plugins side by side: the reference bridge with host-local and ipMasq, ours with an agent and without. `make bench-cni` runs it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

REFERENCE = "/usr/lib/cni"
ROUNDS, COUNT, AT_ONCE, MANY = 3, 40, 100, 10_000
SIDES = (("reference", [REFERENCE], []), ("ours, with agent", ["ours"], ["agent"]), ("ours, alone", ["ours"], []))


def run(directory: list[str], count: int, at_once: int, leases: int, more: list[str]) -> dict[str, Any]:
    """One run of the driver in namespaces of its own."""
    words = [sys.executable, "-m", "benchmarks.cni_driver", *directory, str(count), str(at_once), str(leases), *more]
    found: dict[str, Any] = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
    return found


def main() -> None:
    """Print the tables."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in SIDES}
    full: dict[str, dict[str, Any]] = {}
    for _ in range(ROUNDS):  # in turns, so that all sides meet the same noise
        for name, directory, more in SIDES:
            found[name].append(run(directory, COUNT, AT_ONCE, 0, more))
    for name, directory, more in SIDES:
        full[name] = run(directory, 20, 0, MANY, more)
    console = Console(width=150)
    table = Table(
        "", "ADD, ms", "p99", "DEL, ms", "p99", "100 ADDs at once: p50", "p99", "all", "ADD with 10,000 leases", "wrong"
    )
    for name, runs in found.items():
        table.add_row(name, *_row(runs, full[name]))
    console.print(table)
    console.print(
        "Whole processes, median and 99th percentile. Goals: with agent ADD 12, DEL 12; alone 150; at once p99 300."
    )
    grown = [(each["agent_before"], each["agent_after"]) for each in found["ours, with agent"]]
    console.print(
        "Agent, resident MB before and after: " + ", ".join(f"{one:.1f} → {other:.1f}" for one, other in grown)
    )


def _row(runs: list[dict[str, Any]], full: dict[str, Any]) -> list[str]:
    cells = []
    for key in ("add", "delete", "at_once"):
        values = sorted(value for each in runs for value in each[key])
        cells += [f"{statistics.median(values):.1f}", f"{values[int(len(values) * 0.99) - 1]:.1f}"]
    whole = statistics.median(each["at_once_whole"] for each in runs)
    wrong = sum(len(each["wrong"]) + len(each["left"]) for each in [*runs, full])
    return [*cells, f"{whole:.0f}", f"{statistics.median(full['add']):.1f}", str(wrong)]


if __name__ == "__main__":
    main()
