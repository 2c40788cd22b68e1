"""One measurement of the tracer in a process of its own: `python -m benchmarks.trace_case FORM FILE SERVICES ENDPOINTS`; prints JSON.

FORM is iptables or nftables, FILE a listing of `trace_rulesets`. Memory counts from the interpreter before anything of the project is loaded.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from pathlib import Path


def resident() -> float:
    """Resident memory of this process in MB."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) / 1024


def highest() -> float:
    """The most it ever was."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Load a listing, trace packets to many Services."""
    empty = resident()
    from glassnet.net import address
    from glassnet.netstack.model import Address, Link, NextHop, Route
    from glassnet.netstack.namespace import NetStack
    from glassnet.ruleset.model import Ruleset
    from glassnet.ruleset.parse_iptables import parse_iptables
    from glassnet.ruleset.parse_nft import parse_nft_json
    from glassnet.tracer.evaluate.nft_sets import prepare
    from glassnet.tracer.machine import Machine
    from glassnet.tracer.trace import Request, Tracer
    from glassnet.tracer.world import World

    form, path, services, endpoints = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    data = path.read_bytes()
    begun = time.perf_counter()
    tables = parse_iptables(data.decode()) if form == "iptables" else parse_nft_json(data)
    prepare(tables)
    gc.freeze()
    loaded = time.perf_counter() - begun
    size = len(data)
    del data
    stack = NetStack(
        {"lo": Link(1, "lo", 65536, kind="loopback"), "eth0": Link(2, "eth0"), "cni0": Link(3, "cni0")},
        [Address(address.number("192.0.2.1"), 32, 24, "eth0")],
    )
    stack.routes = [
        Route(0, 0, 32, hops=(NextHop("eth0"),)),
        Route(10 << 24 | 128 << 16, 9, 32, hops=(NextHop("cni0"),)),
    ]
    stack.sysctls = {"net.ipv4.ip_forward": "1"}
    world = World()
    world.add(Machine("node", "node", stack, Ruleset(tables)))
    tracer, first_ip = Tracer(world), address.number("10.96.0.10")
    taken = []
    for number in [7, *range(11, services, max(1, services // 300))]:
        request = Request("node", 32, 6, first_ip + number, 80, address.number("10.128.200.1"), entry="cni0")
        begun = time.perf_counter()
        trace = tracer.trace(request, replies=False)
        taken.append(time.perf_counter() - begun)
        assert trace.certain and len(trace.ways) == endpoints, trace.results
    print(json.dumps({
        "form": form, "megabytes": size / 1e6, "load_s": loaded, "first_ms": taken[0] * 1000, "further_ms": statistics.median(taken[1:]) * 1000,
        "worst_ms": max(taken[1:]) * 1000, "memory_mb": resident() - empty, "peak_mb": highest() - empty,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
