"""Ingress: requests a second against a configuration written by hand, what thousands of paths cost, churn under load, memory. `make bench-ingress`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from rich.console import Console
from rich.table import Table


def run(*words: str) -> dict[str, Any]:
    """One measurement."""
    command = [sys.executable, "-m", "benchmarks.ingress_case", *words]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=300).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def main() -> None:
    """Print the tables."""
    console = Console(width=150)
    table = Table("access log", "glassnet, requests/s", "by hand, requests/s", "ratio (goal 0.95)")
    for log in ("off", "log"):
        found = run("requests", log)
        table.add_row(log, f"{found['ours']:,.0f}", f"{found['minimal']:,.0f}", f"{found['ratio']:.3f}")
    console.print(table)
    table = Table(
        "Ingresses",
        "paths",
        "compute, s",
        "render, s",
        "check and reload, s",
        "change, s (goal 1)",
        "requests/s",
        "failed",
    )
    for number in (10, 1000, 5000):
        found = run("sizes", str(number))
        figures = (f"{found[key]:.3f}" for key in ("compute_s", "render_s", "apply_s", "change_s"))
        table.add_row(f"{number:,}", f"{5 * number:,}", *figures, f"{found['rate']:,.0f}", f"{found['bad']:.0f}")
    console.print(table)
    found = run("churn", "60")
    console.print(
        f"Churn for a minute: {found['changes']} changes of endpoints, {found['reloads']} reloads, {found['requests']:,.0f} requests "
        f"({found['rate']:,.0f}/s), {found['failed']:.0f} failed (goal 0); {found['closed']:.0f} idle connections closed under the client's hands"
    )
    found = run("memory", "1000")
    console.print(
        f"1,000 Ingresses, 5,000 paths: serving {found['ready_s']:.2f} s after the start; controller {found['controller_mb']:.0f} MB (goal 100), "
        f"NGINX {found['nginx_mb']:.0f} MB a process"
    )


if __name__ == "__main__":
    main()
