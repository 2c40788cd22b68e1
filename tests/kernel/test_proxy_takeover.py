"""Taking over from kube-proxy's rules, from the other mode, and back, with connections that live on; and with no connection that finds nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from proxy_wire import Wire
from test_proxy_loop import running, until
from test_proxy_nodes import DETECTORS, VIRTUAL, Pod, ask, put_endpoints, put_service, wire  # noqa: F401 (a fixture)

from glassnet.kube import kinds
from glassnet.kube.types import decode
from glassnet.kube.view import View

pytestmark = pytest.mark.kernel
DATA = Path(__file__).parents[1] / "data"


class Knocking:
    """New connections to a Service, one after the other, from a pod; what else they met than an answer."""

    def __init__(self, pod: Pod, address: str) -> None:
        self.pod, self.address, self.met, self.count = pod, address, set[str](), 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._knock, daemon=True)

    def _knock(self) -> None:
        while not self._ended.is_set():
            who, _ = self.pod.call(ask, self.address)
            self.count += 1
            if not who.startswith("10.1."):
                self.met.add(who)

    def __enter__(self) -> Knocking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)


async def test_from_one_mode_to_the_other_and_back_no_connection_finds_no_rules(wire: Wire) -> None:  # noqa: F811
    view, a, b = View(), Pod(wire, "poda", 1), Pod(wire, "podb", 2)
    put_service(view)
    put_endpoints(view, b)
    async with running(view, wire, "iptables", detectors=DETECTORS["source"]):
        await until(lambda: a.ask(VIRTUAL[0])[0] == b.ips[0])
    with Knocking(a, VIRTUAL[0]) as knocking:
        for mode in ("nftables", "iptables", "nftables", "iptables"):
            async with running(view, wire, mode, detectors=DETECTORS["source"]):
                other = "KUBE-SVC" if mode == "nftables" else "table ip glassnet"
                await until(lambda other=other: other not in wire.shell("nft", "list", "ruleset"))
                seen = knocking.count
                await until(lambda seen=seen: knocking.count > seen + 20)
    assert knocking.met == set()
    assert knocking.count > 80


async def test_from_one_layout_to_the_other_and_back_no_connection_finds_no_rules(wire: Wire) -> None:  # noqa: F811
    view, a, b = View(), Pod(wire, "poda", 1), Pod(wire, "podb", 2)
    put_service(view)
    put_endpoints(view, b)
    async with running(view, wire, "iptables", detectors=DETECTORS["source"]):
        await until(lambda: a.ask(VIRTUAL[0])[0] == b.ips[0])
    with Knocking(a, VIRTUAL[0]) as knocking:
        for layout in ("classic", "current", "classic", "current"):
            async with running(view, wire, "iptables", detectors=DETECTORS["source"], iptables_layout=layout):
                mine, other = ("KUBE-MARK-DROP", "KUBE-PROXY-FIREWALL")[:: 1 if layout == "classic" else -1]
                await until(lambda mine=mine, other=other: mine in (text := wire.shell("iptables-save")) and other not in text)  # fmt: skip
                seen = knocking.count
                await until(lambda seen=seen: knocking.count > seen + 20)
    assert knocking.met == set()
    assert knocking.count > 80


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
async def test_rules_of_a_real_kube_proxy_go_only_when_ours_are_there(wire: Wire, mode: str) -> None:  # noqa: F811
    objects = json.loads(gzip.decompress((DATA / "cluster-objects" / "cluster.json.gz").read_bytes()))
    view, a, b = View(), Pod(wire, "poda", 1), Pod(wire, "podb", 2)
    for kind in (kinds.NODE, kinds.SERVICE, kinds.ENDPOINT_SLICE):
        for item in objects[kind.plural]:
            view.apply(kind, decode(kind, json.dumps(item)))
    wire.shell("sh", "-c", "modprobe nfnetlink_acct 2>/dev/null; true")
    real = gzip.decompress((DATA / "proxy" / "iptables-save.worker-0.gz").read_bytes()).decode()
    real = "\n".join(line for line in real.splitlines() if "nfacct" not in line or "INVALID" in line)
    real = real.replace(" -m nfacct --nfacct-name  ct_state_invalid_dropped_pkts", "")
    # the capture's Service 10.32.0.20 leads to pods; here one of them is ours
    real = real.replace("10.200.0.5:8080", f"{b.ips[0]}:8080").replace("10.200.0.6:8080", f"{b.ips[0]}:8080")
    real = real.replace("10.200.1.7:8080", f"{b.ips[0]}:8080").replace("10.200.2.6:8080", f"{b.ips[0]}:8080")
    wire.shell("iptables-restore", stdin=real + "\n")
    assert a.ask("10.32.0.20")[0] == b.ips[0]
    body: dict[str, Any] = next(s for s in objects["endpointslices"] if s["metadata"]["labels"].get("kubernetes.io/service-name") == "web")  # fmt: skip
    for endpoint in body["endpoints"]:
        endpoint["addresses"] = [b.ips[0]]
    view.apply(kinds.ENDPOINT_SLICE, decode(kinds.ENDPOINT_SLICE, json.dumps(body)))
    with Knocking(a, "10.32.0.20") as knocking:
        async with running(view, wire, mode) as loop:
            seen = knocking.count
            await until(lambda: knocking.count > seen + 20)
            assert knocking.met == set()
            assert ("KUBE-SVC" in wire.shell("iptables-save")) is (mode == "iptables")
            await loop.stop()
            await asyncio.sleep(0)
    assert "KUBE" not in wire.shell("iptables-save")


KUBE_PROXY = """
table ip kube-proxy {
  comment "rules for kube-proxy";
  chain nat-prerouting { type nat hook prerouting priority dstnat; ip daddr 172.30.0.1 tcp dport 80 dnat to 10.1.2.2:8080; }
}
"""


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
async def test_the_table_of_a_kube_proxy_goes_when_ours_is_there_and_comes_back_before_ours_goes(
    wire: Wire,  # noqa: F811
    mode: str,
) -> None:
    view, a, b = View(), Pod(wire, "poda", 1), Pod(wire, "podb", 2)
    put_service(view)
    put_endpoints(view, b)
    wire.shell("nft", "-f", "-", stdin=KUBE_PROXY)
    assert a.ask(VIRTUAL[0])[0] == b.ips[0]
    with Knocking(a, VIRTUAL[0]) as knocking:
        async with running(view, wire, mode, detectors=DETECTORS["source"]) as loop:
            await until(lambda: "kube-proxy" not in wire.shell("nft", "list", "tables"))
            seen = knocking.count
            await until(lambda: knocking.count > seen + 20)
            wire.shell("nft", "-f", "-", stdin=KUBE_PROXY)
            await loop.stop()
            seen = knocking.count
            await until(lambda: knocking.count > seen + 20)
    assert knocking.met == set()
