"""Runs the benchmarks named on the command line, or all: `python -m benchmarks [lab apiserver …]`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def machine() -> str:
    """The machine in a line: processors, memory, kernel."""
    memory = next(
        int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "?",
    )
    return f"{os.cpu_count()} x {model}, {memory / 2**20:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"


def main() -> None:
    """Run each benchmark in a process of its own."""
    names = sys.argv[1:] or sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    print(f"Machine: {machine()}\n", flush=True)
    for name in names:
        print(f"## {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.bench_{name}"], check=True, cwd=HERE.parent)
        print(flush=True)


if __name__ == "__main__":
    main()
