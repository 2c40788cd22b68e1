"""What the doctor says of Services of type LoadBalancer."""

from __future__ import annotations

import json
from typing import Any

from tests.doctor_worlds import IPTABLES, Files, findings, told

from glassnet.loadbalancer.announce import EXCLUDED
from glassnet.loadbalancer.request import CONDITION
from glassnet.tracer.doctor import Finding


def _found(status: str, reason: str, said: str, label: bool = False) -> list[Finding]:
    def change(files: Files) -> None:
        objects: dict[str, list[dict[str, Any]]] = json.loads(files["cluster.json"])
        service = objects["services"][0]
        service["spec"]["type"] = "LoadBalancer"
        service.setdefault("status", {})["conditions"] = [{"type": CONDITION, "status": status, "reason": reason, "message": said}]  # fmt: skip
        for node in objects["nodes"] if label else ():
            node["metadata"].setdefault("labels", {})[EXCLUDED] = ""
        files["cluster.json"] = json.dumps(objects).encode()

    return [each for each in findings(IPTABLES, change) if each.pain == "load-balancer"]


def test_a_service_without_an_address_is_told_with_the_reason_and_the_way_out() -> None:
    (found,) = _found("False", "PoolExhausted", "no IPv4 address is free in pool public")
    assert found.severity == "warning" and "has no address of ours: PoolExhausted" in found.title
    assert "no IPv4 address is free in pool public" in told(found)
    assert "add addresses to the pool" in found.remedy[0]
    (found,) = _found("False", "SomethingNew", "?")
    assert found.remedy[0].startswith("kubectl describe service -n ")


def test_an_address_that_no_node_may_announce_is_critical() -> None:
    (found,) = _found("True", "Assigned", "192.0.2.1 (pool public)", label=True)
    assert found.severity == "critical" and EXCLUDED in told(found) and "kubectl label node" in found.remedy[0]
    assert _found("True", "Assigned", "192.0.2.1 (pool public)") == []
