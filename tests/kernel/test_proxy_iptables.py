"""iptables mode against a real node's iptables-save, on this machine's tools and kernel."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from proxy_wire import Wire

from glassnet.agent.proxy.writers import IptablesWriter
from glassnet.kernel.counters import Counters
from glassnet.kernel.iptables import Iptables, choose, legacy_tables
from glassnet.kube import kinds
from glassnet.kube.types import decode
from glassnet.kube.view import Key, View
from glassnet.net.errors import CommandError
from glassnet.proxy import compute
from glassnet.proxy.backends.iptables import INVALID_COUNTER, LOCALHOST_COUNTER
from glassnet.proxy.model import LocalDetector, NodeFacts, Rules

pytestmark = pytest.mark.kernel
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire(["10.240.0.20"], pods="10.200.0.0/16")
    yield made
    made.close()


def cluster() -> View:
    objects = json.loads(gzip.decompress((DATA / "cluster-objects" / "cluster.json.gz").read_bytes()))
    view = View()
    for kind in (kinds.NODE, kinds.SERVICE, kinds.ENDPOINT_SLICE):
        for item in objects[kind.plural]:
            view.apply(kind, decode(kind, json.dumps(item)))
    return view


def ports_of(view: View, node: str) -> dict[Key, Any]:
    """What the Services need on a node."""
    mine = view.nodes[Key("", node)]
    facts = NodeFacts(node, mine.metadata.labels["topology.kubernetes.io/zone"], mine.internal_ips())
    return {
        key: compute.service_ports(service, list(view.slices_of(key)), facts) or None
        for key, service in view.services.items()
    }


def writer(wire: Wire, layout: str = "current", tool: str = "") -> IptablesWriter:
    rules = Rules(detector=LocalDetector("source", "10.200.0.0/16"), layout=layout)
    return IptablesWriter(wire, rules, tool)  # type: ignore[arg-type]


def lines_of(text: str) -> Counter[tuple[str, str]]:
    """Chains and rules by table, without what other programs put there."""
    found: Counter[tuple[str, str]] = Counter()
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line
        elif line.startswith(":KUBE"):
            found[table, line.split()[0]] += 1
        elif line.startswith("-A") and "CNI-" not in line:
            found[table, line] += 1
    return found


@pytest.mark.parametrize("node", ["worker-0", "worker-1", "worker-2"])
async def test_a_node_has_the_lines_a_real_kube_proxy_wrote_there(wire: Wire, node: str) -> None:
    await writer(wire).write(ports_of(cluster(), node))
    real = gzip.decompress((DATA / "proxy" / f"iptables-save.{node}.gz").read_bytes()).decode()
    ours, theirs = lines_of(wire.shell("iptables-save")), lines_of(real)
    assert ours - theirs == Counter()
    assert theirs - ours == Counter()


async def test_a_node_with_the_rules_of_a_real_kube_proxy_is_taken_over_without_a_write(wire: Wire) -> None:
    Counters(wire).ensure((INVALID_COUNTER, LOCALHOST_COUNTER))  # type: ignore[arg-type]
    real = gzip.decompress((DATA / "proxy" / "iptables-save.worker-1.gz").read_bytes()).decode()
    wire.shell("iptables-restore", stdin=real)
    mine = writer(wire)
    assert not await mine.write(ports_of(cluster(), "worker-1"))
    assert mine.state.written == {"filter": 0, "nat": 0}


async def test_a_restarted_proxy_adds_nothing_and_sweeps_what_its_forerunner_wrote(wire: Wire) -> None:
    wanted = ports_of(cluster(), "worker-0")
    assert await writer(wire).write(wanted)
    before = lines_of(wire.shell("iptables-save"))
    assert not await writer(wire).write(wanted)
    assert lines_of(wire.shell("iptables-save")) == before
    await writer(wire).sweep()
    assert "KUBE" not in wire.shell("iptables-save")


@pytest.mark.parametrize("tool", ["nft", "legacy"])
async def test_from_one_layout_to_the_other_and_back_nothing_of_the_first_stays(wire: Wire, tool: str) -> None:
    wanted = ports_of(cluster(), "worker-0")
    await writer(wire, "current", tool).write(wanted)
    current = lines_of(wire.shell(f"iptables-{tool}-save"))
    assert await writer(wire, "classic", tool).write(wanted)
    classic = wire.shell(f"iptables-{tool}-save")
    assert ":KUBE-MARK-DROP" in classic and "KUBE-EXT-" not in classic and "KUBE-PROXY-FIREWALL" not in classic
    assert "-j KUBE-FIREWALL" in classic and "probability 0.50000000000" in classic
    assert not await writer(wire, "classic", tool).write(wanted)  # what the kernel lists is what was spelled
    assert await writer(wire, "current", tool).write(wanted)
    assert lines_of(wire.shell(f"iptables-{tool}-save")) == current
    await writer(wire, "classic", tool).write(wanted)
    await writer(wire, "current", tool).sweep()
    assert "KUBE" not in wire.shell(f"iptables-{tool}-save")


async def test_chains_of_services_that_have_gone_go_with_the_next_write(wire: Wire) -> None:
    mine, wanted = writer(wire), ports_of(cluster(), "worker-0")
    await mine.write(wanted)
    await mine.write({key: None for key in wanted if key.name != "kube-dns"})
    saved = wire.shell("iptables-save")
    assert "KUBE-SVC-ERIFXISQEP7F7OF4" in saved
    assert "demo/" not in saved
    assert saved.count(":KUBE-SVC-") == 3


async def test_endpoints_change_in_the_legacy_table_without_the_tool_and_as_it_would_change_them(wire: Wire) -> None:
    wanted = ports_of(cluster(), "worker-0")
    mine, heard = (
        IptablesWriter(wire, Rules(detector=LocalDetector("source", "10.200.0.0/16")), "legacy"),
        asyncio.Event(),
    )  # type: ignore[arg-type]
    looked = asyncio.Semaphore(0)
    await mine.write(wanted)
    mine.watch(heard.set)
    key = next(key for key, ports in wanted.items() if ports and len(ports[0].cluster) > 1)
    for number in range(100):
        fewer = tuple(msgspec.structs.replace(port, cluster=port.cluster[number % 2 :]) for port in wanted[key])
        if await mine.write({key: fewer}) and mine._legacy and mine._legacy.busy:
            break  # until then other programs of this machine have had the lock
    else:
        pytest.fail("all was written by the tool")
    saved = lines_of(wire.shell("iptables-legacy-save"))
    again = IptablesWriter(wire, Rules(detector=LocalDetector("source", "10.200.0.0/16")), "legacy")  # type: ignore[arg-type]
    assert not await again.write({**wanted, key: fewer})
    assert lines_of(wire.shell("iptables-legacy-save")) == saved
    await mine._legacy._settled()
    looks = mine._legacy_sizes
    mine._legacy_sizes = lambda: (looked.release(), looks())[1]  # type: ignore[method-assign,func-returns-value]
    for _ in range(3):
        await asyncio.wait_for(looked.acquire(), 10)  # it looks, and sees nothing but its own writing
    assert not heard.is_set()
    wire.shell("iptables-legacy", "-w", "-t", "nat", "-I", "KUBE-SERVICES", "-j", "RETURN")
    await asyncio.wait_for(heard.wait(), 10)
    mine.close()
    again.close()


@pytest.mark.parametrize("tool", ["nft", "legacy"])
async def test_the_tool_that_the_kubelet_uses_is_chosen(wire: Wire, tool: str) -> None:
    wire.shell(f"iptables-{tool}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    assert await choose(wire) == tool  # type: ignore[arg-type]
    await writer(wire).write(ports_of(cluster(), "worker-0"))
    assert "KUBE-SVC-ERIFXISQEP7F7OF4" in wire.shell(f"iptables-{tool}-save")
    other = "legacy" if tool == "nft" else "nft"
    assert "KUBE-SERVICES" not in wire.shell(f"iptables-{other}-save")


async def test_without_a_kubelet_the_tool_with_more_rules_is_chosen_and_nothing_is_made_by_looking(wire: Wire) -> None:
    assert await choose(wire) == "nft"  # type: ignore[arg-type]
    assert legacy_tables(wire) == set()  # type: ignore[arg-type]
    wire.shell("iptables-legacy", "-A", "INPUT", "-j", "ACCEPT")
    assert await choose(wire) == "legacy"  # type: ignore[arg-type]


async def test_a_line_the_kernel_refuses_is_shown_and_nothing_is_loaded(wire: Wire) -> None:
    text = (
        '*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -m comment --comment "demo/web:http" -j NO-SUCH-CHAIN\nCOMMIT\n'
    )
    with pytest.raises(CommandError, match=r"demo/web:http.*NO-SUCH-CHAIN"):
        await Iptables(wire).restore(text)  # type: ignore[arg-type]
    assert "KUBE-SERVICES" not in wire.shell("iptables-save")
