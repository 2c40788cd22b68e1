"""`glassnet trace --live` in a lab: the kernel's own trace of real packets is what was predicted, and a rule put between shows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from conftest import Lab
from glassnet.cli.live import Live
from glassnet.kernel.nftrace import NOTE
from glassnet.net.errors import LabError
from glassnet.tracer.names import Names
from glassnet.tracer.objects import Objects
from glassnet.tracer.trace import Trace, Tracer

pytestmark = pytest.mark.kernel
MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: netexec, image: agnhost, args: [netexec, --http-port=8080, --udp-port=8081]}]
---
apiVersion: v1
kind: Pod
metadata: {name: probe}
spec: {containers: [{name: c, image: agnhost, args: [pause]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {app: web}, ports: [{protocol: UDP, port: 81, targetPort: 8081}]}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30090}]
"""
PORTS = itertools.count(41000)
FLOWS = (
    ("probe", "svc/web", "connected"),
    ("probe", "worker-1:30080", "connected"),
    ("probe", "svc/local", "connected"),
    ("probe", "svc/echo", "unanswered"),
    ("probe", "worker-0:22", "refused"),
    ("worker-0", "svc/web", "connected"),
    ("worker-0", "worker-1:30090", "connected"),
    ("internet", "svc/web", "connected"),
    ("internet", "worker-1:30090", "connected"),
    ("controller-0", "worker-0:30080", "connected"),
    ("probe", "worker-1", "answered"),
)


@pytest.fixture(scope="module")
def lab(make_lab: Callable[..., Lab], tmp_path_factory: pytest.TempPathFactory) -> Lab:
    manifests = tmp_path_factory.mktemp("live") / "web.yaml"
    manifests.write_text(MANIFESTS)
    return make_lab("--nodes", "2", "-f", str(manifests))


@pytest.fixture
def look(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Look]:
    monkeypatch.setenv("GLASSNET_STATE", lab.env["GLASSNET_STATE"])
    return lambda: Look(lab)


class Look:
    """A look at the lab, and packets sent in it: what the command does, with many packets to one snapshot."""

    def __init__(self, lab: Lab) -> None:
        self.live = Live(None, lab.name)
        self.tracer = Tracer(self.live.world)
        self.names = Names(self.live.world, Objects(self.live.world.objects))

    def trace(self, source: str, target: str, protocol: str = "") -> Trace:
        return self.tracer.trace(self.names.request(source, target, protocol, sport=next(PORTS)))

    def send(self, source: str, target: str, protocol: str = "") -> dict[str, Any]:
        return self.live.send(self.trace(source, target, protocol))


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_the_kernel_does_what_is_predicted(lab: Lab, look: Callable[[], Look], mode: str) -> None:
    lab.glassnet("lab", "proxy", mode)
    here = look()
    for source, target, result in FLOWS:
        found = here.send(source, target, "icmp" if result == "answered" else "")
        assert (found["verdict"], found["differences"], found["untraced"]) == ("agreed", [], {}), (source, target)
        assert found["result"] == result, (source, target)
        assert found["rules"] >= (1 if result in ("answered", "refused") else 8), (source, target, found)
        assert source.partition("-")[0] != "internet" or len(found["machines"]) >= 3
    for node in ("worker-0", "worker-1", "controller-0"):
        assert "glassnet-trace" not in lab.node(node, "nft", "list", "ruleset")


def test_legacy_tables_are_compared_by_their_counters_and_leftovers_are_swept(
    lab: Lab, look: Callable[[], Look]
) -> None:
    for worker in ("worker-0", "worker-1"):
        lab.node(worker, "iptables-legacy", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    lab.glassnet("lab", "proxy", "nftables")
    lab.glassnet("lab", "proxy", "iptables")
    here = look()
    for source, target in (("probe", "svc/web"), ("internet", "svc/web"), ("worker-1", "worker-0:30090")):
        found = here.send(source, target)
        assert (found["verdict"], found["differences"]) == ("agreed", []), (source, target)
        assert "worker-0" in found["counters_only"]
    for family in ("ip", "ip6"):
        lab.node("worker-0", "nft", f'add table {family} glassnet-trace {{ comment "{NOTE}"; }}')
    text = lab.glassnet("trace", "probe", "svc/web", "--live").stdout
    assert "live: sent tcp 10.200." in text and "all as predicted" in text
    assert "legacy tables give no trace here" in text
    assert "glassnet-trace" not in lab.node("worker-0", "nft", "list", "ruleset")  # swept: it was another's that died
    lab.glassnet("lab", "proxy", "nftables")


def test_a_rule_that_came_between_shows(lab: Lab, look: Callable[[], Look]) -> None:
    here = look()
    with pytest.raises(LabError, match=r"nobody on .* can send from 198\.51\.100\.4"):
        here.send("198.51.100.4", "svc/web")
    trace = here.trace("worker-0", "worker-1:30080")
    lab.node("worker-1", "nft", "add table ip between { chain c { type filter hook prerouting priority -90; }; }; add rule ip between c meta l4proto tcp drop")  # fmt: skip
    found = here.live.send(trace)
    lab.node("worker-1", "nft", "delete table ip between")
    assert (found["result"], found["verdict"]) == ("timeout", "differs")
    first = found["differences"][0]
    assert (first["machine"], first["direction"]) == ("worker-1", "packet")
    assert first["kernel"].startswith("between c: handle")
    assert first["predicted"].startswith(("filter ", "nat ", "glassnet "))
    assert {"predicted": "the sender is told: ok", "kernel": "timeout"}.items() <= found["differences"][-1].items()
