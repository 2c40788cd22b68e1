"""Differences of two snapshots: what was changed is all that is told, under the object whose doing it was."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from tests.tracer_worlds import CAPTURES, capture, capture_files

from glassnet.net.errors import UsageError
from glassnet.tracer.diff import ADDED, CHANGED, REMOVED, Difference, diff
from glassnet.tracer.snapshot import read_world

FLOW = "demo/probe-whdrj svc/demo/web:http"


def files_of(name: str) -> dict[str, bytes]:
    return {path: data for path, data in capture_files(name).items() if "conntrack" not in path}


def edited(name: str, path: str, edit: Any, flow: str = "") -> Difference:
    """What differs after one file was edited: text, or JSON."""
    files = files_of(name)
    data: Any = json.loads(files[path]) if path.endswith(".json") else files[path].decode()
    changed = edit(data)
    if changed is None:
        changed = data
    files[path] = (json.dumps(changed) if path.endswith(".json") else changed).encode()
    return diff(capture(name)[0], read_world(files), flow)


def items(cluster: Any) -> list[dict[str, Any]]:
    return cluster["items"] if "items" in cluster else [each for found in cluster.values() for each in found]


def one(cluster: Any, kind: str, name: str) -> dict[str, Any]:
    return next(each for each in items(cluster) if each["kind"] == kind and each["metadata"]["name"] == name)


@pytest.mark.parametrize("name", CAPTURES)
def test_a_snapshot_does_not_differ_from_itself(name: str) -> None:
    found = diff(capture(name)[0], read_world(files_of(name)), FLOW)
    assert not found
    assert found.flow is not None
    assert found.flow.same
    assert (found.objects, found.machines, found.changes) == ([], [], [])


def test_fields_of_objects_without_what_changes_by_itself() -> None:
    def edit(cluster: Any) -> None:
        service = one(cluster, "Service", "web")
        service["metadata"]["resourceVersion"] = "999999"
        service["spec"]["ports"][0]["targetPort"] = 9999
        service["spec"]["sessionAffinity"] = "ClientIP"
        node = one(cluster, "Node", "worker-0")
        for condition in node["status"].setdefault("conditions", [{"type": "Ready", "status": "True"}]):
            condition["lastHeartbeatTime"] = "2030-01-01T00:00:00Z"

    found = edited("hardway-iptables", "cluster.json", edit)
    changes = {each.object.text: (each.kind, each.fields) for each in found.objects}
    fields = changes["Service demo/web"][1]
    assert changes["Service demo/web"][0] == CHANGED
    assert [path for path, _, _ in fields] == ["spec.ports[http].targetPort", "spec.sessionAffinity"]
    assert fields[0][2] == 9999
    assert not any("Heartbeat" in path for _, each in changes.values() for path, _, _ in each)
    assert found.changes == []


def test_objects_that_came_and_went() -> None:
    def edit(cluster: Any) -> Any:
        fresh = copy.deepcopy(one(cluster, "Service", "web"))
        fresh["metadata"]["name"] = "fresh"
        gone = one(cluster, "Service", "three")
        return {"items": [*(each for each in items(cluster) if each is not gone), fresh]}

    found = edited("hardway-iptables", "cluster.json", edit)
    assert {(each.kind, each.object.text) for each in found.objects} == {
        (ADDED, "Service demo/fresh"), (REMOVED, "Service demo/three"),
    }  # fmt: skip


def test_endpoints_are_told_by_their_addresses() -> None:
    def edit(cluster: Any) -> None:
        piece = next(e for e in items(cluster) if e["kind"] == "EndpointSlice" and e["metadata"]["labels"]["kubernetes.io/service-name"] == "web")  # fmt: skip
        piece["endpoints"][0]["conditions"]["ready"] = False

    found = edited("hardway-iptables", "cluster.json", edit)
    (change,) = found.objects
    assert change.object.kind == "EndpointSlice"
    ((path, before, after),) = change.fields
    assert path.startswith("endpoints[10.200.")
    assert path.endswith("].conditions.ready")
    assert (before, after) == (True, False)


def test_a_rule_that_went_is_its_services() -> None:
    def edit(text: str) -> str:
        return "\n".join(line for line in text.split("\n") if '"demo/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC' not in line)  # fmt: skip

    files = files_of("hardway-iptables")
    files["worker-1/iptables-save.txt"] = edit(files["worker-1/iptables-save.txt"].decode()).encode()
    found = diff(capture("hardway-iptables")[0], read_world(files), FLOW)
    (change,) = found.changes
    assert (change.machine, change.kind, change.what, change.subject.text) == (
        "worker-1",
        REMOVED,
        "rule",
        "Service demo/web",
    )
    assert change.before[0].at.startswith("worker-1/iptables-save.txt:")
    flow = found.flow
    assert flow is not None
    assert not flow.same
    assert flow.before == {"ok": 1.0}
    assert "ok" not in flow.after
    assert flow.step[0] == "worker-1: jump KUBE-SVC-XRY76EGRC3BSCIIJ [nat KUBE-SERVICES]"
    assert flow.because[0].text == "Service demo/web spec.clusterIP: 10.32.0.20"


def test_order_counts_where_it_means_something() -> None:
    def swap(text: str, chain: str) -> str:
        lines = text.split("\n")
        places = [n for n, line in enumerate(lines) if line.startswith(f"-A {chain} ")][:2]
        lines[places[0]], lines[places[1]] = lines[places[1]], lines[places[0]]
        return "\n".join(lines)

    found = edited(
        "hardway-iptables", "worker-0/iptables-save.txt", lambda text: swap(text, "KUBE-SVC-XRY76EGRC3BSCIIJ")
    )
    (change,) = found.changes
    assert (change.kind, change.what, change.subject.text) == (CHANGED, "order", "Service demo/web")
    assert not edited("hardway-iptables", "worker-0/iptables-save.txt", lambda text: swap(text, "KUBE-NODEPORTS"))


def test_elements_of_sets_and_who_they_are_for() -> None:
    def edit(listing: Any) -> None:
        for item in listing["nftables"]:
            body = item.get("map", {})
            if body.get("name") == "service-ips" and body["family"] == "ip":
                body["elem"] = [e for e in body["elem"] if e[0]["concat"] != ["10.32.0.20", "tcp", 80]]
            clients = item.get("set", {})
            if clients.get("name", "").startswith("affinity-"):
                clients.pop("elem", None)

    found = edited("hardway-nftables", "worker-1/nft-ruleset.json", edit)
    (change,) = found.changes
    assert (change.kind, change.what, change.where, change.subject.text) == (
        REMOVED, "element", "map service-ips of ip kube-proxy", "Service demo/web",
    )  # fmt: skip


def test_a_route_is_the_nodes_whose_pods_it_leads_to() -> None:
    found = edited(
        "hardway-iptables", "worker-1/ip-route.json", lambda r: [e for e in r if e["dst"] != "10.200.0.0/24"]
    )
    (change,) = found.changes
    assert (change.kind, change.what, change.subject.text) == (REMOVED, "route", "Node worker-0")
    assert change.before[0].text == "10.200.0.0/24 via 10.240.0.20 dev eth0"


def test_links_addresses_and_sysctls() -> None:
    def down(links: Any) -> None:
        link = next(each for each in links if each["ifname"] == "eth0")
        link["mtu"] = 1400

    found = edited("hardway-iptables", "worker-1/ip-link.json", down)
    assert {(each.what, each.where) for each in found.changes} <= {("link", "eth0")}
    off = edited("hardway-iptables", "worker-1/sysctl-net.txt", lambda t: t.replace("net.ipv4.ip_forward = 1", "net.ipv4.ip_forward = 0"), FLOW)  # fmt: skip
    (change,) = off.changes
    assert (change.what, change.before[0].text, change.after[0].text) == (
        "sysctl", "net.ipv4.ip_forward = 1", "net.ipv4.ip_forward = 0",
    )  # fmt: skip


def test_of_neighbours_only_those_that_stop_answering_count() -> None:
    def edit(state: str) -> Any:
        def change(entries: Any) -> None:
            entry = next(each for each in entries if each["dst"] == "10.240.0.20")
            entry["state"] = [state]

        return change

    assert not edited("hardway-iptables", "worker-1/ip-neigh.json", edit("DELAY"))
    (change,) = edited("hardway-iptables", "worker-1/ip-neigh.json", edit("FAILED")).changes
    assert (change.what, change.subject.text) == ("neighbour", "Node worker-0")


def test_machines_that_came_and_went() -> None:
    files = {path: data for path, data in files_of("hardway-iptables").items() if not path.startswith("worker-2/")}
    found = diff(capture("hardway-iptables")[0], read_world(files))
    assert ("worker-2", REMOVED) in found.machines
    assert found.changes == []


def test_another_proxy_takes_the_same_flow_by_another_way() -> None:
    found = diff(capture("hardway-iptables")[0], capture("hardway-nftables")[0], FLOW)
    flow = found.flow
    assert flow is not None
    assert (flow.before, flow.after) == ({"ok": 1.0}, {"ok": 1.0})
    assert flow.ends[0] == flow.ends[1]
    assert "kube-proxy" in flow.step[1]
    groups = {reference.text: (objects, changes) for reference, objects, changes in found.by_object()}
    assert len(groups["Service demo/web"][1]) > 20


def test_a_name_that_only_one_snapshot_knows_is_a_fault_and_one_that_none_does_an_error() -> None:
    def edit(cluster: Any) -> Any:
        return {"items": [each for each in items(cluster) if each["metadata"]["name"] != "web"]}

    found = edited("hardway-iptables", "cluster.json", edit, FLOW)
    assert found.flow is not None
    assert found.flow.fault.startswith("after: no Service 'demo/web'")
    with pytest.raises(UsageError, match="nothing in the snapshot is named"):
        diff(capture("hardway-iptables")[0], capture("hardway-iptables")[0], "nobody svc/demo/web:http")
