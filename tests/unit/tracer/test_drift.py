"""Drift: none on nodes of a real cluster, and for each thing that is taken away or altered exactly that one."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.tracer_worlds import CAPTURES, capture, capture_files, lone_node, scenarios
from tests.unit.tracer.test_known_flows import FORMS, tables

from glassnet.tracer.drift import CHANGED, EXTRA, INTRUDER, MISSING, Deviation, check, drift
from glassnet.tracer.snapshot import read_world
from glassnet.tracer.world import World

DATA = Path(__file__).parents[2] / "data"
OURS = DATA / "nft" / "glassnet-worker-1.json.gz"
SAVED = {
    "hardway-iptables": "worker-1/iptables-save.txt",
    "hardway-iptables-legacy": "worker-1/iptables-legacy-save.txt",
}
TABLES = ("kube-proxy", "glassnet")


def one_node(name: str, *nodes: str) -> dict[str, bytes]:
    """The files of some nodes of a capture (worker-1), without its pods'."""
    wanted = nodes or ("worker-1",)
    return {
        path: data
        for path, data in capture_files(name).items()
        if path == "cluster.json"
        or (path.startswith(wanted) and "/pods/" not in path and "conntrack" not in path and not path.endswith(".nft"))
    }


def ours() -> dict[str, bytes]:
    """worker-1 with our own nftables table."""
    files = {path: data for path, data in one_node("hardway-nftables").items() if "nft-ruleset" not in path}
    return files | {"worker-1/nft-ruleset.json": gzip.decompress(OURS.read_bytes())}


def with_objects(world: World, **objects: Any) -> World:
    return World(machines=world.machines, objects=world.objects | objects, source=world.source)


def said(found: list[Deviation]) -> list[tuple[str, str, str]]:
    return [(each.kind, each.where, each.subject.text) for each in found]


@pytest.mark.parametrize("name", CAPTURES)
def test_nodes_of_a_real_cluster_do_not_differ(name: str) -> None:
    """Three workers, both families, each line kube-proxy wrote."""
    found = check(capture(name)[0])
    assert found.deviations == []
    assert found.notes == []
    assert {machine: len(kinds) for machine, kinds in found.compared.items()} == dict.fromkeys(
        ("worker-0", "worker-1", "worker-2"), 2
    )


def test_our_own_table_does_not_differ() -> None:
    found = check(read_world(ours()))
    assert (found.deviations, found.compared) == ([], {"worker-1": ["nftables table ip glassnet"]})


def kube_proxys_inputs() -> dict[str, dict[str, Any]]:
    """Objects of the small scenarios, by id."""
    lines = (gzip.decompress((DATA / "proxy" / f"flows-{mode}.jsonl.gz").read_bytes()) for mode in FORMS)
    return {row["id"]: row for text in lines for row in map(json.loads, text.splitlines())}


INPUTS, SCENARIOS = kube_proxys_inputs(), list(scenarios())


@pytest.mark.parametrize("row", SCENARIOS, ids=[row["id"] for row in SCENARIOS])
def test_what_kube_proxy_wrote_for_all_kinds_of_services_does_not_differ(row: dict[str, Any]) -> None:
    """Policies, source ranges, hints, session affinity, both families; each in both forms its tool lists it in."""
    given = INPUTS[row["id"]]
    name = given["node_name"]
    meta = {"name": name, "labels": given["topology_labels"]}
    status = {"addresses": [{"type": "InternalIP", "address": given["node_ip"]}]}
    for form in FORMS[row["backend"]]:
        (machine,) = lone_node(tables(row, form), row["local_ips"]).machines.values()
        machine.name = name
        world = World({name: machine})
        world.objects = {
            "services": given["services"],
            "endpointslices": given["endpoint_slices"],
            "nodes": [{"kind": "Node", "metadata": meta, "status": status}],
        }
        found = check(world)
        assert (found.deviations, len(found.compared[name])) == ([], 1)


# -- rules


@pytest.mark.parametrize("name", SAVED)
def test_each_rule_of_iptables_that_is_gone_is_the_one_reported(name: str) -> None:
    files, path = one_node(name), SAVED[name]
    files = {each: data for each, data in files.items() if "nft-ruleset" not in each}
    lines = files[path].decode().split("\n")
    wrong = []
    for index, line in enumerate(lines):
        if not line.startswith("-A ") or "CNI-" in line:
            continue
        files[path] = "\n".join([*lines[:index], *lines[index + 1 :]]).encode()
        found = drift(read_world(files))
        if len(found) != 1 or (found[0].kind, line in found[0].expected, found[0].found) != (MISSING, True, ()):
            wrong.append((line, said(found)))
    assert not wrong


def test_what_one_node_does_not_tell_of_options_the_others_do() -> None:
    files = one_node("hardway-iptables", "worker-0", "worker-1", "worker-2")
    text = files["worker-1/iptables-save.txt"].decode()
    dropped = next(line for line in text.split("\n") if "--ctstate INVALID" in line)
    files["worker-1/iptables-save.txt"] = text.replace(dropped + "\n", "").encode()
    files = {path: data for path, data in files.items() if "nft-ruleset" not in path}
    for node in ("worker-0", "worker-1", "worker-2"):  # the sysctl would tell as well
        lines = files[f"{node}/sysctl-net.txt"].decode().split("\n")
        files[f"{node}/sysctl-net.txt"] = "\n".join(each for each in lines if "be_liberal" not in each).encode()
    (found,) = drift(read_world(files))
    assert (found.machine, found.kind, found.where, found.expected) == (
        "worker-1", MISSING, "filter KUBE-FORWARD", (dropped,),
    )  # fmt: skip


def altered(name: str, old: str, new: str, path: str = "") -> list[Deviation]:
    files = {each: data for each, data in one_node(name).items() if "nft-ruleset" not in each}
    path = path or SAVED[name]
    text = files[path].decode()
    assert old in text
    files[path] = text.replace(old, new, 1).encode()
    return drift(read_world(files))


WEB = '-m comment --comment "demo/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-XRY76EGRC3BSCIIJ'


def test_an_altered_rule_is_reported_with_both_texts() -> None:
    (found,) = altered("hardway-iptables", WEB, WEB.replace("--dport 80", "--dport 81"))
    assert (found.kind, found.where, found.subject.text) == (
        CHANGED, "nat KUBE-SERVICES", "Service demo/web spec.ports[http]",
    )  # fmt: skip
    assert "--dport 80 " in found.expected[0]
    assert "--dport 81 " in found.found[0].text
    assert found.found[0].at.startswith("worker-1/iptables-save.txt:")


def test_a_foreign_rule_is_an_intruder_with_its_owner_where_that_is_known() -> None:
    (found,) = altered(
        "hardway-iptables",
        "-A KUBE-FORWARD -m comment",
        "-A KUBE-FORWARD -s 10.9.9.9/32 -j DROP\n-A KUBE-FORWARD -m comment",
    )
    assert (found.kind, found.where, found.owner) == (INTRUDER, "filter KUBE-FORWARD", "")
    (found,) = altered_with_docker()
    assert (found.kind, found.where, found.owner) == (INTRUDER, "filter KUBE-SERVICES", "Docker")


def altered_with_docker() -> list[Deviation]:
    files = {each: data for each, data in one_node("hardway-iptables").items() if "nft-ruleset" not in each}
    text = files["worker-1/iptables-save.txt"].decode()
    text = text.replace(":KUBE-EXTERNAL-SERVICES", ":DOCKER-USER - [0:0]\n:KUBE-EXTERNAL-SERVICES", 1)
    text = text.replace("-A KUBE-SERVICES -d", "-A KUBE-SERVICES -s 10.9.9.9/32 -j DOCKER-USER\n-A KUBE-SERVICES -d", 1)
    files["worker-1/iptables-save.txt"] = text.encode()
    return drift(read_world(files))


def test_an_intruder_in_a_services_own_chain_is_about_that_service() -> None:
    first = "-A KUBE-SVC-XRY76EGRC3BSCIIJ "
    (found,) = altered("hardway-iptables", first, f"{first}-s 10.9.9.9/32 -j RETURN\n{first}")
    assert (found.kind, found.subject.text) == (INTRUDER, "Service demo/web spec.ports[http]")


def test_a_jump_out_of_its_place_and_rules_behind_the_last_are_reported() -> None:
    jump = '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\n'
    (found,) = altered("hardway-iptables", jump, "")
    assert (found.kind, found.where, found.note) == (
        MISSING,
        "nat OUTPUT",
        "no packet gets from OUTPUT to KUBE-SERVICES",
    )
    files = {each: data for each, data in one_node("hardway-iptables").items() if "nft-ruleset" not in each}
    lines = files["worker-1/iptables-save.txt"].decode().split("\n")
    moved = next(line for line in lines if WEB in line)
    last = next(line for line in lines if "NOTE: this must be the last rule" in line)
    lines.remove(moved)
    lines.insert(lines.index(last) + 1, moved)
    files["worker-1/iptables-save.txt"] = "\n".join(lines).encode()
    (found,) = drift(read_world(files))
    assert (found.kind, found.where, found.expected) == (CHANGED, "nat KUBE-SERVICES", (last,))


def test_a_node_without_any_proxys_rules_is_reported_once() -> None:
    files = {each: data for each, data in one_node("hardway-nftables").items() if "nft-ruleset" not in each}
    (found,) = drift(read_world(files))
    assert (found.kind, found.subject.name, found.where) == (MISSING, "kube-proxy", "IPv4")


def test_rules_of_two_proxies_are_told() -> None:
    files = one_node("hardway-iptables")
    files = {each: data for each, data in files.items() if "nft-ruleset" not in each} | {
        "worker-1/nft-ruleset.json": capture_files("hardway-nftables")["worker-1/nft-ruleset.json"]
    }
    found = [each for each in drift(read_world(files)) if "several" in each.note]
    assert {each.where for each in found} == {"IPv4", "IPv6"}


# -- tables of nft


def variants(listing: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The listing without one rule or one element, for each of them."""
    items = listing["nftables"]
    for index, item in enumerate(items):
        ((kind, body),) = item.items()
        if not isinstance(body, dict) or body.get("table") not in TABLES or body.get("family") != "ip":
            continue
        if kind == "rule":
            yield f"rule of {body['chain']}", {"nftables": [*items[:index], *items[index + 1 :]]}
        elif kind in ("set", "map") and not body["name"].startswith("affinity-"):
            for place in range(len(body.get("elem", ()))):
                fewer = body | {"elem": [*body["elem"][:place], *body["elem"][place + 1 :]]}
                yield f"element of {body['name']}", {"nftables": [*items[:index], {kind: fewer}, *items[index + 1 :]]}


@pytest.mark.parametrize("whose", TABLES)
def test_each_rule_and_element_of_nft_that_is_gone_is_the_one_reported(whose: str) -> None:
    files = one_node("hardway-nftables") if whose == "kube-proxy" else ours()
    path = "worker-1/nft-ruleset.json"
    count = 0
    for what, listing in variants(json.loads(files[path])):
        found = drift(read_world(files | {path: json.dumps(listing).encode()}))
        count += 1
        kind, name = what.split(" of ")
        assert len(found) == 1, (what, said(found))
        assert name in found[0].where, (what, said(found))
        if kind == "element":
            assert (found[0].kind, len(found[0].expected), found[0].found) == (MISSING, 1, ()), what
    assert count > 200


def replaced(old: str, new: str, files: dict[str, bytes]) -> list[Deviation]:
    path = "worker-1/nft-ruleset.json"
    text = json.dumps(json.loads(files[path]))
    assert old in text
    return drift(read_world(files | {path: text.replace(old, new, 1).encode()}))


def test_an_endpoint_of_another_address_is_reported_with_its_service() -> None:
    files = one_node("hardway-nftables")
    listing = json.loads(files["worker-1/nft-ruleset.json"])
    rule = next(
        item["rule"]
        for item in listing["nftables"]
        if item.get("rule", {}).get("chain", "").endswith("-demo/web/tcp/http")
    )
    text = json.dumps(rule)
    (found,) = replaced(text, text.replace("10.200.0.5", "10.200.0.99"), files)
    assert (found.kind, found.subject.text) == (CHANGED, "Service demo/web spec.ports[http]")
    assert "10.200.0.99 . 8080" in found.found[0].text
    assert "10.200.0.5 . 8080" in found.expected[0]


def test_a_wrong_verdict_and_a_foreign_element_are_reported() -> None:
    good = json.dumps({"goto": {"target": "service-AXK6CI2C-demo/web/tcp/http"}})
    bad = json.dumps({"goto": {"target": "service-HXSGEVN3-demo/web/udp/echo"}})
    (found,) = replaced(good, bad, one_node("hardway-nftables"))
    assert said([found]) == [(CHANGED, "map service-ips of ip kube-proxy", "Service demo/web spec.ports[http]")]
    (found,) = replaced('"10.32.0.10", ', '"10.32.0.10", "10.32.0.99", ', one_node("hardway-nftables"))
    assert said([found]) == [(EXTRA, "set cluster-ips of ip kube-proxy", "somebody else")]


def test_slots_of_our_table_are_history_and_no_difference() -> None:
    files = ours()
    listing = json.loads(files["worker-1/nft-ruleset.json"])
    slots = next(item["map"] for item in listing["nftables"] if item.get("map", {}).get("name") == "endpoints")
    values = {}
    for key, value in slots["elem"]:
        words = key["elem"]["val"]["concat"]
        if words[0] == "10.32.0.20" and words[1] == "tcp":
            values[words[3]] = value
    for element in slots["elem"]:
        words = element[0]["elem"]["val"]["concat"]
        if words[0] == "10.32.0.20" and words[1] == "tcp":
            element[1] = values[3 - words[3]]
    assert list(values) == [0, 1, 2, 3]
    assert drift(read_world(files | {"worker-1/nft-ruleset.json": json.dumps(listing).encode()})) == []


# -- objects


def worlds() -> list[World]:
    return [*(capture(name)[0] for name in CAPTURES), read_world(ours())]


@pytest.mark.parametrize("world", worlds(), ids=[*CAPTURES, "glassnet"])
def test_a_deleted_object_is_the_only_one_with_rules_too_many(world: World) -> None:
    services = world.objects["services"]
    for index, service in enumerate(services):
        meta, spec = service["metadata"], service["spec"]
        found = drift(with_objects(world, services=[*services[:index], *services[index + 1 :]]))
        proxied = spec.get("clusterIP") not in ("None", "", None) and "other-proxy" not in meta["name"]
        assert bool(found) == proxied, meta["name"]
        assert {(each.subject.namespace, each.subject.name) for each in found} <= {(meta["namespace"], meta["name"])}, said(found)  # fmt: skip


@pytest.mark.parametrize("world", worlds(), ids=[*CAPTURES, "glassnet"])
def test_an_endpoint_that_is_not_in_the_api_is_reported_with_its_service(world: World) -> None:
    slices = world.objects["endpointslices"]
    for index, piece in enumerate(slices):
        name = (piece["metadata"]["namespace"], piece["metadata"]["labels"]["kubernetes.io/service-name"])
        for place in range(len(piece["endpoints"] or ())):
            other = copy.deepcopy(piece)
            del other["endpoints"][place]
            found = drift(with_objects(world, endpointslices=[*slices[:index], other, *slices[index + 1 :]]))
            assert {(each.subject.namespace, each.subject.name) for each in found} <= {name}, said(found)
            if name[1] == "web":
                assert found


def test_a_service_that_no_node_knows_of_is_missing_everywhere() -> None:
    world = capture("hardway-iptables")[0]
    fresh = copy.deepcopy(next(s for s in world.objects["services"] if s["metadata"]["name"] == "nobody"))
    fresh["metadata"]["name"] = "fresh"
    fresh["spec"] |= {"clusterIP": "10.32.0.77", "clusterIPs": ["10.32.0.77"], "type": "ClusterIP", "externalIPs": []}
    for port in fresh["spec"]["ports"]:
        port.pop("nodePort", None)
    found = drift(with_objects(world, services=[*world.objects["services"], fresh]))
    assert {each.machine for each in found} == {"worker-0", "worker-1", "worker-2"}
    assert {(each.kind, each.subject.name) for each in found} == {(MISSING, "fresh")}


def test_names_of_the_old_era_are_understood() -> None:
    """kube-proxy kept the colon of a port without name: chains, and comments, have it."""
    from glassnet.proxy.naming import Recipe

    files = {each: data for each, data in one_node("hardway-iptables").items() if "nft-ruleset" not in each}
    objects = json.loads(files["cluster.json"])
    text = files["worker-1/iptables-save.txt"].decode()
    for kind in ("Service", "EndpointSlice"):
        items = objects["items"] if "items" in objects else [each for items in objects.values() for each in items]
        for item in items:
            if item["kind"] == kind and item["metadata"]["name"].startswith("web-close"):
                for port in item["spec"]["ports"] if kind == "Service" else item["ports"]:
                    port["name"] = ""
    files["cluster.json"] = json.dumps(objects).encode()
    new, old = Recipe(), Recipe(colon_without_port_name=True)
    text = text.replace("demo/web-close:http", "demo/web-close:")
    text = text.replace(
        new.service("KUBE-SVC", "demo/web-close:http", "TCP"), old.service("KUBE-SVC", "demo/web-close", "TCP")
    )
    for ip in ("10.200.0.5", "10.200.0.6", "10.200.1.7", "10.200.2.6"):
        text = text.replace(
            new.endpoint("demo/web-close:http", "TCP", f"{ip}:8080"),
            old.endpoint("demo/web-close", "TCP", f"{ip}:8080"),
        )
    files["worker-1/iptables-save.txt"] = text.encode()
    assert drift(read_world(files)) == []


def test_without_objects_nothing_is_compared() -> None:
    files = {path: data for path, data in one_node("hardway-iptables").items() if path != "cluster.json"}
    found = check(read_world(files))
    assert (found.deviations, found.compared) == ([], {})
    assert found.notes == ["the snapshot holds no Services: there is nothing to compare the nodes with"]


@pytest.mark.parametrize("whose", TABLES)
def test_a_foreign_rule_in_a_chain_of_nft_is_an_intruder(whose: str) -> None:
    files = one_node("hardway-nftables") if whose == "kube-proxy" else ours()
    listing = json.loads(files["worker-1/nft-ruleset.json"])
    match = {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "10.9.9.9"}
    rule = {"family": "ip", "table": whose, "chain": "services", "expr": [{"match": match}, {"drop": None}]}
    listing["nftables"].append({"rule": rule})
    (found,) = drift(read_world(files | {"worker-1/nft-ruleset.json": json.dumps(listing).encode()}))
    assert (found.kind, found.where, found.found[0].text) == (INTRUDER, f"{whose} services", "ip saddr 10.9.9.9 drop")
