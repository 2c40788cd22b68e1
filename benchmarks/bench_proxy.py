"""The proxy: how soon rules follow events, at which size, in how much memory, and what packets pay. `make bench-proxy`.

Each row is a process and network namespace of its own. `--plot FILE` draws the time of one endpoint's change against the number of Services.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.plot import Line, chart

CASES = (
    *(("direct", "nftables", size) for size in (100, 1000, 10_000, 50_000)),
    *(("direct", "iptables-legacy", size) for size in (100, 1000, 10_000)),
    *(("direct", "iptables-nft", size) for size in (100, 1000)),
    *(("watch", "nftables", size) for size in (1000, 10_000)),
    ("watch", "iptables-legacy", 1000),
)
PACKETS = (("nftables", 10_000), ("iptables-legacy", 10_000))
# kube-proxy 1.36.2 on a machine of this kind: 10,000 Services with 5 endpoints each; first sync, one endpoint's change (s), MB
PEERS = (("nftables", "11-15", "4.0", "222-343"), ("iptables, legacy tool", "2.1", "0.87", "290"))
COLUMNS = (
    ("first sync, s", "first_s", 2), ("address, ms: p50", "change_p50_ms", 2), ("p99", "change_p99_ms", 2),
    ("number, ms: p50", "scale_p50_ms", 2), ("p99", "scale_p99_ms", 2), ("1,000 slices, ms", "burst_ms", 0),
    ("mended in, ms", "repair_ms", 0), ("memory, MB", "memory_mb", 0),
)  # fmt: skip


def run(module: str, *words: object) -> dict[str, Any]:
    """One measurement."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, words)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=900).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def shown(value: float | None, digits: int) -> str:
    """A figure, or a dash."""
    return "-" if not value else f"{value:,.{digits}f}"


def main() -> None:
    """Print the tables, draw the plot."""
    table = Table("objects come by", "mode", "Services", *(name for name, _, _ in COLUMNS))
    results = []
    for case in CASES:
        result = run("proxy_case", *case)
        results.append(result)
        table.add_row(case[0], case[1], f"{case[2]:,}", *(shown(result[key], digits) for _, key, digits in COLUMNS))
    console = Console(width=150)
    console.print(table)
    console.print("kube-proxy 1.36.2, 10,000 Services x 5 endpoints, same kind of machine, published with its method:")
    for mode, first, change, memory in PEERS:
        console.print(f"  {mode}: first sync {first} s, one endpoint's change {change} s, {memory} MB")
    paid = Table("packets, mode", "Services", "connect to the pod, us", "by ClusterIP, us", "ratio", "to the pod, Gbit/s", "by ClusterIP", "ratio")  # fmt: skip
    for mode, size in PACKETS:
        r = run("proxy_packets", mode, size)
        paid.add_row(mode, f"{size:,}", f"{r['connect_us']:.1f}", f"{r['connect_vip_us']:.1f}", f"{r['connect_ratio']:.3f}", f"{r['gbit']:.1f}", f"{r['gbit_vip']:.1f}", f"{r['gbit_ratio']:.3f}")  # fmt: skip
    console.print(paid)
    if "--plot" in sys.argv:
        draw(results, sys.argv[sys.argv.index("--plot") + 1])


def draw(results: list[dict[str, Any]], path: str) -> None:
    """One endpoint's change against the number of Services, both axes logarithmic."""
    lines = [
        Line(mode, [(r["size"], r["change_p50_ms"]) for r in results if r["mode"] == mode and r["path"] == "direct"])
        for mode in ("nftables", "iptables-legacy", "iptables-nft")
    ]
    lines.append(Line("kube-proxy, nftables", [(10_000, 4000.0)]))
    lines.append(Line("kube-proxy, iptables-legacy", [(10_000, 870.0)]))
    chart(path, "One endpoint changes: event to kernel", "Services with 5 endpoints each", "ms", lines)


if __name__ == "__main__":
    main()
