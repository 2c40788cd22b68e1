"""`glassnet controller --load-balancer` as kubectl sees it: addresses, refusals and configuration, with the rights of deploy/ and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_deploy_manifests import CONTROLLER, DEPLOY, SPACE, with_component

from api_rights import Guard, account_kubeconfig, read_rights
from controller_processes import Candidate, make_node, until
from served_api import ServedApi

POOLS = "pools: [{name: public, addresses: [192.0.2.10-192.0.2.12]}, {name: rest, addresses: [10.240.0.20-10.240.0.21], autoAssign: false}]"


@pytest.fixture
def guard() -> Guard:
    return Guard()


@pytest.fixture
def api(tmp_path: Path, guard: Guard) -> Iterator[ServedApi]:
    served = ServedApi(tmp_path, authorize=guard)
    yield served
    served.close()


def configure(api: ServedApi, text: str) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "glassnet-loadbalancer"},
        "data": {"pools.yaml": text},
    }
    api.run("-n", SPACE, "apply", "-f", "-", stdin=json.dumps(body))


def service(name: str, **spec: Any) -> dict[str, Any]:
    notes = spec.pop("annotations", {})
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default", "annotations": notes},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "selector": {"app": name}, **spec}}  # fmt: skip


def apply(api: ServedApi, *bodies: dict[str, Any]) -> None:
    api.run("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": bodies}))


def external(api: ServedApi, name: str) -> str:
    return api.run("get", "service", name, "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")


def events(api: ServedApi, name: str) -> dict[str, str]:
    found = json.loads(api.run("get", "events", "-A", "-o", "json", f"--field-selector=involvedObject.name={name}"))
    return {each["reason"]: each["message"] for each in found["items"]}


def faults(api: ServedApi) -> str:
    """All that was said of the configuration."""
    found = json.loads(api.run("-n", SPACE, "get", "events", "-o", "json"))
    return "\n".join(each["message"] for each in found["items"])


def test_services_get_addresses_and_refusals_say_why(api: ServedApi, guard: Guard) -> None:
    guard.bind(read_rights(with_component(api, "load-balancer")))
    path = account_kubeconfig(api, SPACE, "glassnet-controller")
    make_node(api, "n1", ["10.244.0.0/24"])  # its address is 10.240.0.20
    one = Candidate(
        api, "one", f"--leader-elect-resource-namespace={SPACE}", "--kubeconfig", str(path), "--load-balancer"
    )
    try:
        api.run("create", "deployment", "shop", "--image=nginx")
        api.run("expose", "deployment", "shop", "--type=LoadBalancer", "--port=80")
        configure(api, "pools: [{name: public, addresses: [nowhere]}]")
        until(lambda: "BadConfiguration" in events(api, "glassnet-loadbalancer"))
        assert "'nowhere' is no CIDR" in events(api, "glassnet-loadbalancer")["BadConfiguration"]
        assert external(api, "shop") == ""
        configure(api, POOLS)
        until(lambda: external(api, "shop"))
        assert api.run("get", "service", "shop", "--no-headers").split()[3] == "192.0.2.10"
        ingress = json.loads(api.run("get", "service", "shop", "-o", "json"))["status"]["loadBalancer"]["ingress"]
        assert ingress == [{"ip": "192.0.2.10", "ipMode": "VIP"}]
        assert events(api, "shop")["Assigned"] == "192.0.2.10 (pool public)"
        until(lambda: "PoolOverlap" in events(api, "glassnet-loadbalancer"))
        assert "Node n1 (10.240.0.20)" in events(api, "glassnet-loadbalancer")["PoolOverlap"]
        _refusals(api)
        configure(api, "pools: [")  # what cannot be read changes nothing
        until(lambda: "did not find" in faults(api))
        assert external(api, "shop") == "192.0.2.10"
        api.run("patch", "service", "shop", "-p", '{"spec": {"type": "ClusterIP"}}')
        until(lambda: external(api, "later") == "192.0.2.10")
        until(
            lambda: (
                not {
                    each
                    for each in guard.unused(CONTROLLER)
                    if each.resource in ("services", "services/status", "configmaps", "servicecidrs")
                }
            )
        )
    finally:
        one.end()
    assert guard.refused == []


def _refusals(api: ServedApi) -> None:
    apply(
        api,
        service("a"), service("b"),
        service("outside", loadBalancerIP="203.0.113.1"),
        service("taken", loadBalancerIP="192.0.2.10"),
        service("node", annotations={"glassnet.dev/loadbalancer-ips": "10.240.0.20"}),
        service("asked", annotations={"glassnet.dev/loadbalancer-pool": "rest"}),
        service("strange", loadBalancerClass="glassnet.dev/strange"),
        service("theirs", loadBalancerClass="example.com/lb"),
    )  # fmt: skip
    until(lambda: external(api, "a") and external(api, "b"))
    assert {external(api, "a"), external(api, "b")} == {"192.0.2.11", "192.0.2.12"}
    until(lambda: external(api, "asked") == "10.240.0.21")
    until(lambda: "AddressOutsidePools" in events(api, "outside") and "AddressTaken" in events(api, "taken"))
    assert "Service default/shop has it" in events(api, "taken")["AddressTaken"]
    until(lambda: "PoolNotAllowed" in events(api, "node") and "UnknownClass" in events(api, "strange"))
    assert external(api, "theirs") == "" and events(api, "theirs") == {}
    apply(api, service("late"))
    until(lambda: "PoolExhausted" in events(api, "late"))
    api.run(
        "patch",
        "service",
        "b",
        "--subresource=status",
        "--type=merge",
        "-p",
        '{"status": {"loadBalancer": {"ingress": [{"hostname": "cloud.example.com"}]}}}',
    )
    until(lambda: "OtherLoadBalancer" in events(api, "b"))
    assert "cloud.example.com" in events(api, "b")["OtherLoadBalancer"]
    until(lambda: external(api, "late"))  # what b had is free again
    api.run("delete", "service", "taken")
    apply(api, service("later"))
    until(lambda: "PoolExhausted" in events(api, "later"))


def test_the_component_gives_the_agent_one_right_more_and_switches_both_on(api: ServedApi) -> None:
    manifests = with_component(api, "load-balancer")
    rules = next(
        m["rules"] for m in manifests if (m["kind"], m["metadata"]["name"]) == ("ClusterRole", "glassnet-agent")
    )
    assert rules[-1] == {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": ["glassnet-loadbalancer"],
        "verbs": ["list", "watch"],
    }
    for kind in ("Deployment", "DaemonSet"):
        container = next(m for m in manifests if m["kind"] == kind)["spec"]["template"]["spec"]["containers"][0]
        assert {"name": "GLASSNET_LOAD_BALANCER", "value": "true"} in container["env"]
    assert "bird2" in (DEPLOY / "Containerfile").read_text()
