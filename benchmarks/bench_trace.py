"""The tracer: how long it takes to load the rules of a node with many Services, and to trace a packet through them. `make bench-trace`."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.trace_rulesets import iptables_text, nft_json

CASES = (("iptables", 1000, 5), ("iptables", 10_000, 5), ("nftables", 1000, 5), ("nftables", 10_000, 5))
GOALS = {"iptables": (2.0, 50.0, 2.0, 500.0), "nftables": (3.0, 50.0, 2.0, 500.0)}  # of 10,000 Services
RUNS = 3


def run(form: str, path: str, services: int, endpoints: int) -> dict[str, Any]:
    """The median of a few runs, each in a process of its own."""
    found: list[dict[str, Any]] = []
    for _ in range(RUNS):
        command = [sys.executable, "-m", "benchmarks.trace_case", form, path, str(services), str(endpoints)]
        found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600).stdout))
    return {key: statistics.median(each[key] for each in found) if key != "form" else form for key in found[0]}


def write(path: Path, form: str, services: int, endpoints: int) -> int:
    """Put a listing into a file; how many lines (of iptables-save) or objects (of nft) it has."""
    if form == "iptables":
        text = iptables_text(services, endpoints)
        path.write_text(text)
        return text.count("\n")
    data = nft_json(services, endpoints)
    path.write_bytes(data)
    return len(json.loads(data)["nftables"])


def main() -> None:
    """Print the table."""
    table = Table("listing", "Services", "lines / objects", "MB", "load, s", "first trace, ms", "further, ms: median", "worst", "memory, MB", "most, MB")  # fmt: skip
    missed = []
    shown: Callable[[float, int], str] = lambda value, digits: f"{value:,.{digits}f}"  # noqa: E731
    with tempfile.TemporaryDirectory() as place:
        for form, services, endpoints in CASES:
            path = Path(place, f"{form}-{services}")
            lines = write(path, form, services, endpoints)
            r = run(form, str(path), services, endpoints)
            path.unlink()
            figures = (r["load_s"], r["first_ms"], r["further_ms"], r["memory_mb"])
            if services == 10_000:
                missed += [f"{form}: {figure:.2f} (goal {goal})" for figure, goal in zip(figures, GOALS[form], strict=True) if figure > goal]  # fmt: skip
            table.add_row(form, f"{services:,}", f"{lines:,}", shown(r["megabytes"], 1), shown(r["load_s"], 2), shown(r["first_ms"], 1), shown(r["further_ms"], 2), shown(r["worst_ms"], 2), shown(r["memory_mb"], 0), shown(r["peak_mb"], 0))  # fmt: skip
    console = Console(width=150)
    console.print(table)
    console.print(f"Goals missed: {'; '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
