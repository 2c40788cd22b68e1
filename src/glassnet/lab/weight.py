"""What a lab weighs: the memory of every process in its PID namespace. Source: proc_pid_smaps(5), smaps_rollup."""

from __future__ import annotations

import os
from pathlib import Path


def weight() -> tuple[float, float, int]:
    """(resident, proportional) memory in MB and the number of processes that this process can see."""
    rss = pss = 0
    count = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            lines = Path(f"/proc/{entry.name}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        values = {line.split(":")[0]: line.split()[1] for line in lines[1:] if ":" in line}
        rss += int(values.get("Rss", 0))
        pss += int(values.get("Pss", 0))
        count += 1
    return rss / 1024, pss / 1024, count
