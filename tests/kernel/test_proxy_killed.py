"""kill -9 between any two steps of a sync, two hundred times, under traffic; and churn without kills."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(200)]
ROOT = Path(__file__).parents[2]


def soak(mode: str, kills: int, seconds: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.proxy_soak", mode, str(kills), str(seconds)],
        cwd=ROOT, capture_output=True, text=True, timeout=190, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("mode", ["nftables", "iptables-nft"])
def test_a_proxy_that_is_killed_two_hundred_times_breaks_no_connection(mode: str) -> None:
    seen = soak(mode, 200, 1)
    assert seen["kills"] == 200
    assert seen["pings"] > 1000
    assert seen["connections"] > 500
    assert (seen["broken"], seen["failed_twice"]) == (0, 0), seen["reasons"]


def test_churn_without_a_pause_costs_no_connection() -> None:
    seen = soak("iptables-legacy", 20, 4)
    assert (seen["broken"], seen["failed_twice"]) == (0, 0), seen["reasons"]
