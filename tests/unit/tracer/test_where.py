"""Where a Service is: all lines of a real node that name it, and none of another's."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from tests.tracer_worlds import CAPTURES, capture, capture_files

from glassnet.net.errors import UsageError
from glassnet.ruleset.parse_ipset import parse_ipset
from glassnet.tracer.explain import Explainer
from glassnet.tracer.objects import Objects
from glassnet.tracer.snapshot import read_world
from glassnet.tracer.where import CHAIN, CONNECTION, ELEMENT, IPSET, RULE, SET, Place, find_ports, where
from glassnet.tracer.world import World

OURS = Path(__file__).parents[2] / "data" / "nft" / "glassnet-worker-1.json.gz"
IPTABLES = {
    "hardway-iptables": "iptables-save.txt",
    "hardway-iptables-legacy": "iptables-legacy-save.txt",
}


def places(world: World, text: str) -> list[Place]:
    objects = Objects(world.objects)
    return where(world, objects, Explainer(objects), find_ports(objects, text, "demo"))


def at(found: list[Place], machine: str, *kinds: str) -> list[Place]:
    return [each for each in found if each.machine == machine and each.kind in kinds]


@pytest.mark.parametrize("name", IPTABLES)
def test_every_line_that_names_a_service_is_found_with_its_number(name: str) -> None:
    """Comments name the Service in every rule of its but two: jumps from its own chain, which have none."""
    world = capture(name)[0]
    for service in world.objects["services"]:
        meta = service["metadata"]
        text = f"{meta['namespace']}/{meta['name']}"
        found = places(world, f"svc/{text}") if service["spec"].get("ports") else []
        for node in ("worker-0", "worker-1", "worker-2"):
            path = f"{node}/{IPTABLES[name]}"
            lines = capture_files(name)[path].decode().split("\n")
            named = {n for n, line in enumerate(lines, 1) if re.search(rf"\b{re.escape(text)}[:\" ]", line)}
            rules = at(found, node, RULE)
            assert named <= {each.line for each in rules}, text
            for each in rules:
                assert (each.source, lines[each.line - 1]) == (path, each.text)
                assert each.because, each.text
                assert each.because[0].namespace == meta["namespace"]
            assert all(lines[each.line - 1].startswith(f":{each.text.split()[0]} ") for each in at(found, node, CHAIN))


def test_fields_behind_rules() -> None:
    found = at(places(capture("hardway-iptables")[0], "svc/web-lb-restricted"), "worker-1", RULE)
    said = {}
    for each in found:
        said.setdefault(each.where.rpartition("-")[0], set()).update(ref.field for ref in each.because)
    assert said["nat KUBE"] == {
        "spec.clusterIP", "status.loadBalancer.ingress", "spec.ports[http].port", "spec.ports[http].nodePort",
    }  # fmt: skip
    assert said["nat KUBE-FW"] == {"spec.loadBalancerSourceRanges"}
    assert {"endpoints[0]", "endpoints[1]", "endpoints[2]", "endpoints[3]"} <= said["nat KUBE-SVC"]
    assert "spec.ports[http].targetPort" in said["nat KUBE-SEP"]


def test_one_port_alone() -> None:
    world = capture("hardway-iptables")[0]
    every, one = places(world, "svc/web"), places(world, "svc/web:echo")
    assert {each.text for each in one} < {each.text for each in every}
    assert all("demo/web:http" not in each.text for each in one)
    assert places(world, "svc/web:5300") == one


def test_kube_proxys_nftables_table() -> None:
    found = at(places(capture("hardway-nftables")[0], "svc/web-sticky:http"), "worker-1", CHAIN, RULE, ELEMENT, SET)
    chains = [each.text.split()[0] for each in found if each.kind == CHAIN]
    assert {each.split("-")[0] for each in chains} == {"service", "external", "endpoint"}
    assert all("demo/web-sticky/tcp/http" in each for each in chains)
    assert len([each for each in found if each.kind == SET]) == 4
    elements = {each.where.split()[1]: each for each in found if each.kind == ELEMENT and "affinity" not in each.where}
    assert elements["service-ips"].text == "10.32.0.28 . tcp . 80 : goto service-MGDZFHXW-demo/web-sticky/tcp/http"
    assert elements["service-ips"].because[0].text == "Service demo/web-sticky spec.clusterIP: 10.32.0.28"
    assert elements["service-nodeports"].because[0].field == "spec.ports[http].nodePort"
    assert elements["hairpin-connections"].because[0].kind == "EndpointSlice"
    assert elements["cluster-ips"].text == "10.32.0.28"


def test_a_text_listing_has_lines() -> None:
    files = {
        path: data for path, data in capture_files("hardway-nftables").items() if not path.endswith("ruleset.json")
    }
    world = read_world(files)
    lines = files["worker-1/nft-ruleset.nft"].decode().split("\n")
    found = at(places(world, "svc/web"), "worker-1", RULE)
    assert len(found) == 2
    for each in found:
        assert lines[each.line - 1].strip() == each.text


def test_our_own_table() -> None:
    files = {
        p: d
        for p, d in capture_files("hardway-nftables").items()
        if p == "cluster.json" or p.startswith("worker-1/ip-")
    }
    world = read_world(files | {"worker-1/nft-ruleset.json": gzip.decompress(OURS.read_bytes())})
    found = places(world, "svc/edge-lb-local:http")
    elements = {each.where.split()[1]: each for each in found if each.kind == ELEMENT}
    assert {"cluster-ips", "services-2", "endpoints", "local", "local-endpoints", "external-local", "hairpins"} <= set(
        elements
    )
    assert elements["local-endpoints"].because[-1].kind == "EndpointSlice"
    assert "edge-lb-local:echo" not in json.dumps([each.text for each in found])
    sticky = places(world, "svc/web-sticky:http")
    assert sum(each.kind == CHAIN for each in sticky) == 5
    assert sum(each.kind == SET for each in sticky) == 4


@pytest.mark.parametrize("name", CAPTURES)
def test_connections_to_a_service(name: str) -> None:
    world = capture(name)[0]
    found = [each for each in places(world, "svc/web-nodeport") if each.kind == CONNECTION]
    assert found
    for each in found:
        assert capture_files(name)[each.source].decode().split("\n")[each.line - 1].strip() == each.text
        to, port = re.findall(r"dst=(\S+)|dport=(\d+)", each.text)[:2]
        assert to[0] == "10.32.0.21" or port[1] in ("30080", "30081")
    assert {each.because[0].field for each in found} >= {"spec.clusterIP", "spec.ports[http].nodePort"}


def test_ipsets_of_the_ipvs_mode() -> None:
    world = read_world(dict(capture_files("hardway-iptables")))
    text = "create KUBE-CLUSTER-IP hash:ip,port family inet\nadd KUBE-CLUSTER-IP 10.32.0.20,tcp:80\nadd KUBE-CLUSTER-IP 10.32.0.21,tcp:80\n"
    world.machines["worker-0"].ruleset.ipsets = parse_ipset(text, "ipset-save.txt")
    (found,) = [each for each in places(world, "svc/web:http") if each.kind == IPSET]
    assert (found.text, found.because[0].field) == ("10.32.0.20,tcp:80", "spec.clusterIP")


def test_chains_of_endpoints_that_the_api_does_not_list_any_more() -> None:
    world = capture("hardway-iptables")[0]
    slices = [s for s in world.objects["endpointslices"] if not s["metadata"]["name"].startswith("web-")]
    found = places(World(world.machines, world.objects | {"endpointslices": slices}), "svc/web:http")
    chains = [each.text for each in at(found, "worker-0", CHAIN) if each.text.startswith("KUBE-SEP-")]
    assert len(chains) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("svc/wbe", "close to it: web"),
        ("svc/web:htp", "has no port 'htp'; it has: http (TCP 80), echo (UDP 5300)"),
        ("svc/nowhere/web", "no Service 'nowhere/web'"),
    ],
)
def test_names_that_are_none(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        find_ports(Objects(capture("hardway-iptables")[0].objects), text, "demo")


def test_a_name_is_found_in_another_namespace_when_it_is_the_only_one() -> None:
    objects = Objects(capture("hardway-iptables")[0].objects)
    assert {port.text for port in find_ports(objects, "svc/kube-dns")} == {
        "kube-system/kube-dns:dns", "kube-system/kube-dns:dns-tcp", "kube-system/kube-dns:metrics",
    }  # fmt: skip
