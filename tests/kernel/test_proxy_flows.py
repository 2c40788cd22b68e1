"""The flow table: Services as given to a real kube-proxy, first packets, and what a kernel did with them there, against our rules and this kernel."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from proxy_wire import ATTEMPTS, Seen, Wire

from glassnet.agent.proxy.loop import ProxyLoop, ProxySettings, cluster_cidr_detectors
from glassnet.kube import kinds
from glassnet.kube.types import decode
from glassnet.kube.view import View

pytestmark = pytest.mark.kernel
DATA = Path(__file__).parents[1] / "data" / "proxy"


def scenarios() -> Iterator[Any]:
    for mode, layout in (("iptables", "current"), ("iptables", "classic"), ("nftables", "current")):
        for line in gzip.decompress((DATA / f"flows-{mode}.jsonl.gz").read_bytes()).splitlines():
            scenario = json.loads(line)
            name = scenario["id"] if layout == "current" else f"{layout}-{scenario['id']}"
            yield pytest.param(mode, layout, scenario, id=name)


def view_of(scenario: dict[str, Any]) -> View:
    view = View()
    node = {
        "metadata": {"name": scenario["node_name"], "labels": scenario["topology_labels"]},
        "status": {"addresses": [{"type": "InternalIP", "address": scenario["node_ip"]}]},
    }
    view.apply(kinds.NODE, decode(kinds.NODE, json.dumps(node)))
    for service in scenario["services"]:
        view.apply(kinds.SERVICE, decode(kinds.SERVICE, json.dumps(service)))
    for piece in scenario["endpoint_slices"]:
        view.apply(kinds.ENDPOINT_SLICE, decode(kinds.ENDPOINT_SLICE, json.dumps(piece)))
    return view


async def programmed(wire: Wire, view: View, mode: str, layout: str, scenario: dict[str, Any]) -> None:
    """Our proxy's rules in the kernel."""
    addresses = scenario["options"]["node_port_addresses"]
    settings = ProxySettings(
        mode=mode,
        iptables_layout=layout,
        detectors=cluster_cidr_detectors(["10.0.0.0/8"]),
        node_port_addresses=("0.0.0.0/0",)
        if addresses["match_all"]
        else tuple(f"{ip}/32" for ip in addresses["node_ips"]),
        service_cidrs=tuple(filter(None, [scenario["options"].get("service_cidrs", "")])),
    )
    loop = ProxyLoop(view, wire, scenario["node_name"], settings)  # type: ignore[arg-type]
    task = asyncio.create_task(loop.run())
    async with asyncio.timeout(20):
        while not loop.synced:
            await asyncio.sleep(0.005)
            if task.done():
                task.result()
    task.cancel()


def said(flow: dict[str, Any], seen: set[Seen]) -> str:
    """What differs between a flow's expectation and what was seen; "" when nothing does."""
    verdicts = {outcome.verdict for outcome in seen}
    wanted = flow["expect_verdict"]
    if verdicts != {wanted}:
        return f"want {wanted}, got {sorted(verdicts)}"
    if wanted != "endpoints":
        return ""
    reached = {outcome.to for outcome in seen}
    if flow.get("sticky"):
        if len(reached) != 1 or not reached <= set(flow["expect_endpoints"]):
            return f"want one of {flow['expect_endpoints']}, always the same; got {sorted(reached)}"
    elif reached != set(flow["expect_endpoints"]):
        return f"want {flow['expect_endpoints']}, got {sorted(reached)}"
    by_endpoint = flow.get("expect_masq_by_endpoint") or {}
    for outcome in seen:
        masquerade = by_endpoint.get(outcome.to, flow["expect_masq"])
        if masquerade is not None and outcome.masquerade is not masquerade:
            return f"want masquerade {masquerade} to {outcome.to}, got {outcome.masquerade}"
    return ""


@pytest.mark.parametrize(("mode", "layout", "scenario"), list(scenarios()))
async def test_every_flow_goes_where_kube_proxy_sent_it(mode: str, layout: str, scenario: dict[str, Any]) -> None:
    wire = Wire(scenario["local_ips"])
    try:
        await programmed(wire, view_of(scenario), mode, layout, scenario)
        wrong = []
        for flow in scenario["flows"]:
            attempts = ATTEMPTS if flow["expect_verdict"] == "endpoints" else 3
            seen = wire.probe(
                flow["origin"], flow["source_ip"], flow["protocol"], flow["dest_ip"], flow["dest_port"], attempts
            )
            if difference := said(flow, seen):
                wrong.append(f"{flow['name']}: {difference}")
        assert not wrong, "\n".join(wrong)
    finally:
        wire.close()
