"""The doctor on packets from outside: policy Local, and node ports that answer at some nodes only."""

from __future__ import annotations

from typing import Any

import pytest
from tests.doctor_worlds import (
    IPTABLES,
    LEGACY,
    NFTABLES,
    findings,
    named,
    objects,
    only,
    remove,
    replace,
    rows,
    rule,
    sysctl,
    told,
)

ALL = (IPTABLES, LEGACY, NFTABLES)


def unready(name: str) -> Any:
    """All endpoints of a Service are not ready."""

    def edit(piece: dict[str, Any]) -> None:
        if piece["metadata"].get("labels", {}).get("kubernetes.io/service-name") == name:
            for endpoint in piece["endpoints"]:
                endpoint["conditions"] = {"ready": False, "serving": False, "terminating": False}

    return objects("endpointslices", edit)


def test_no_node_has_an_endpoint() -> None:
    found = next(each for each in findings(IPTABLES, unready("edge-nodeport-local")) if each.pain != "stale-conntrack")
    assert (found.pain, found.severity, found.object) == (
        "local-policy",
        "critical",
        "Service demo/edge-nodeport-local",
    )
    assert "Service demo/edge-nodeport-local spec.externalTrafficPolicy: Local" in found.evidence
    assert "10.200.2.2 not ready" in told(found)


@pytest.mark.parametrize("name", ALL)
def test_health_check_port_that_nobody_serves(name: str) -> None:
    def change(files: dict[str, bytes]) -> None:
        path = "worker-2/ss-listen.txt"
        files[path] = b"\n".join(line for line in files[path].split(b"\n") if b":30199" not in line)

    found = only(name, change)
    assert (found.pain, found.severity, found.object, found.node) == (
        "local-policy",
        "warning",
        "Service demo/edge-lb-local",
        "worker-2",
    )
    assert "Service demo/edge-lb-local spec.healthCheckNodePort: 30199" in found.evidence


@pytest.mark.parametrize("name", ALL)
def test_load_balancer_address_routed_to_a_node_without_endpoint(name: str) -> None:
    def edit(routes: list[dict[str, Any]]) -> None:
        next(route for route in routes if route["dst"] == "198.51.100.11")["gateway"] = "10.240.0.20"

    found = only(name, rows("hosts/router/ip-route.json", edit))
    assert (found.pain, found.severity, found.object, found.node) == (
        "local-policy",
        "warning",
        "Service demo/edge-lb-local",
        "worker-0",
    )
    assert (
        "198.51.100.11 via 10.240.0.20" in told(found) and "nodes with endpoints: worker-1, worker-2" in found.evidence
    )
    assert "edge-lb-local:http has no local endpoints" in told(found) or "service-endpoints-check" in told(found)
    assert found.remedy[0] == "ip route replace 198.51.100.11 via 10.240.0.21"


@pytest.mark.parametrize("name", ALL)
def test_missing_route_to_the_pods_of_another_node(name: str) -> None:
    """Node ports of worker-0 reach its own endpoints and those of worker-2. (With the router's route alone they would reach all.)"""

    def edit(routes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [route for route in routes if route["dst"] != "10.200.1.0/24"]

    assert findings(name, rows("worker-0/ip-route.json", edit)) == []
    found = only(name, rows("worker-0/ip-route.json", edit), rows("hosts/router/ip-route.json", edit))
    assert (found.pain, found.severity, found.object) == ("nodeport-one-node", "critical", "worker-0")
    assert "router has no route to pods of worker-1" in found.title
    assert "30080" in told(found) and "endpoints not reached by worker-0: 10.200.1." in told(found)
    assert "ip route replace 10.200.1.0/24 via 10.240.0.21   # on worker-0" in found.remedy


@pytest.mark.parametrize("name", [IPTABLES, NFTABLES])
def test_forward_rule_that_spares_pods_only(name: str) -> None:
    """What comes from outside and goes to another node's pods is dropped; pods themselves are not hurt."""
    drop = "-A FORWARD -i eth0 -o eth0 -m conntrack --ctstate NEW -j DROP"
    found = only(name, rule("worker-1", "filter", drop))
    assert (found.pain, found.object) == ("nodeport-one-node", "worker-1")
    assert "dropped at forward on worker-1" in found.title and drop in told(found)
    assert "worker-1/iptables-save.txt:" in told(found)


def test_node_that_does_not_masquerade() -> None:
    """Nor do its pods reach themselves through a Service then."""
    both = findings(IPTABLES, replace("worker-0/iptables-save.txt", "-j MASQUERADE --random-fully", "-j ACCEPT"))
    assert [each.pain for each in both] == ["nodeport-one-node", "hairpin"]
    found = both[0]
    assert found.object == "worker-0"
    assert "masquerade" in found.title and "KUBE-POSTROUTING" in found.remedy[0]


def test_node_without_forwarding() -> None:
    changes = [sysctl("worker-2", "net.ipv4.ip_forward", "0")]
    changes += [sysctl("worker-2", f"net.ipv4.conf.{dev}.forwarding", "0") for dev in ("eth0", "all")]
    found = findings(IPTABLES, *changes)
    assert [(each.pain, each.object) for each in found] == [("nodeport-one-node", "worker-2")]
    assert "net.ipv4.conf.eth0.forwarding is 0" in found[0].title
    assert found[0].remedy == ("sysctl -w net.ipv4.ip_forward=1",)


def test_without_hosts_a_stranger_is_simulated() -> None:
    def change(files: dict[str, bytes]) -> None:
        for path in [path for path in files if path.startswith("hosts/")]:
            del files[path]

    assert findings(IPTABLES, change) == []
    drop = "-A FORWARD -i eth0 -o eth0 -m conntrack --ctstate NEW -j DROP"
    found = only(IPTABLES, change, rule("worker-1", "filter", drop))
    assert (found.pain, found.object) == ("nodeport-one-node", "worker-1")


def test_services_of_another_proxy_are_left_alone() -> None:
    label = {"service.kubernetes.io/service-proxy-name": "other"}
    mine = objects("services", named("edge-nodeport-local", lambda each: each["metadata"].update(labels=label)))
    assert findings(IPTABLES, unready("edge-nodeport-local"), mine) == []


def test_without_objects_nothing_is_said() -> None:
    assert findings(IPTABLES, remove("cluster.json")) == []
