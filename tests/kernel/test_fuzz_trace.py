"""A small run of the fuzzer: random rules and packets, the kernel's verdicts against the evaluator's. `make fuzz-trace` runs thousands."""

from __future__ import annotations

import pytest
from tests.fuzz_trace.run import run_seed

from glassnet.tracer.evaluate import filter as evaluated

pytestmark = pytest.mark.kernel
SEEDS = (2, 6, 11, 14, 17, 19, 27, 36)  # all backends and tools; each showed a fault of the evaluator once


@pytest.mark.parametrize("seed", SEEDS)
def test_the_evaluator_says_what_the_kernel_does(seed: int) -> None:
    result = run_seed(seed, 50)
    assert result.packets == 50
    assert not result.mismatches


def test_a_wrong_evaluator_is_found_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Connection tracking that takes every packet for the first of a connection, as ours once did."""
    monkeypatch.setattr(evaluated, "opening", lambda packet, machine: "new")
    assert sum(run_seed(seed, 50, show=1).mismatches for seed in (2, 6, 14))
    said = capsys.readouterr().out
    assert "MISMATCH seed" in said
    assert "python -m tests.fuzz_trace --seed" in said


def test_a_wrong_rule_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Base chains of one priority in the order of their registration, not the opposite one."""
    order = evaluated.Filter._order
    monkeypatch.setattr(evaluated.Filter, "_order", lambda self, hook, bits: order(self, hook, bits)[::-1])
    assert sum(run_seed(seed, 50, show=0).mismatches for seed in (11, 17))
