"""Fuzzes the tracer against the kernel: `python -m tests.fuzz_trace --packets 10000 [--seed N] [--each 100] [--show]`.

Every seed is a node with random Services, programmed by one of glassnet's backends, and with random rules of other tools; random packets go
through it, and what the kernel did with each is held against what the evaluator says from that very namespace's listings.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz_trace.run import Result, run_seed


def main() -> int:
    """Run seeds until enough packets were sent."""
    parser = argparse.ArgumentParser(prog="fuzz-trace")
    parser.add_argument("--packets", type=int, default=10_000, help="how many packets in all")
    parser.add_argument("--each", type=int, default=100, help="how many packets through each ruleset")
    parser.add_argument("--seed", type=int, default=1, help="the first seed; with --packets up to --each, the only one")
    parser.add_argument("--keep", default="", help="a directory for the dumps of seeds with mismatches")
    parser.add_argument("--show", type=int, default=3, help="how many mismatches of a seed to print in full")
    options = parser.parse_args()
    total, seed, begun = Result(), options.seed, time.monotonic()
    while total.packets < options.packets:
        result = run_seed(
            seed, min(options.each, options.packets - total.packets), show=options.show, keep=options.keep
        )
        total.add(result)
        seed += 1
    words = ", ".join(f"{count} {kind}" for kind, count in sorted(total.kinds.items()))
    print(
        f"{total.packets} packets through {seed - options.seed} rulesets in {time.monotonic() - begun:.0f} s ({words})"
    )
    print(f"{total.comparisons} comparisons, {total.mismatches} mismatches, {total.uncertain} not certain")
    return 1 if total.mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
