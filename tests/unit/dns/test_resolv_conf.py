"""resolv.conf of a pod: policies, what a pod adds, limits, odd files of a node."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glassnet.dns import resolv_conf
from glassnet.kube import kinds
from glassnet.kube.types import Pod, decode

NODE = "search lab.example\nnameserver 192.0.2.53\noptions timeout:1\n"
CLUSTER = "search shop.svc.cluster.local svc.cluster.local cluster.local lab.example\nnameserver 10.32.0.10\noptions ndots:5\n"


def pod(**spec: Any) -> Pod:
    body = {"metadata": {"name": "web-0", "namespace": "shop"}, "spec": {"dnsPolicy": "ClusterFirst", **spec}}
    made: Pod = decode(kinds.POD, json.dumps(body))
    return made


@pytest.mark.parametrize(
    ("spec", "dns", "text"),
    [
        ({}, "10.32.0.10", CLUSTER),
        ({}, "10.32.0.10,fd00::10", CLUSTER.replace("10.32.0.10\n", "10.32.0.10\nnameserver fd00::10\n")),
        ({}, "", NODE),
        ({"dnsPolicy": "Default"}, "10.32.0.10", NODE),
        ({"hostNetwork": True}, "10.32.0.10", NODE),
        ({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True}, "10.32.0.10", CLUSTER),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"], "searches": ["x"], "options": [{"name": "edns0"}]}}, "10.32.0.10",
         "search x\nnameserver 192.0.2.1\noptions edns0\n"),
        ({"dnsPolicy": "None"}, "10.32.0.10", ""),
        ({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}, "10.32.0.10", CLUSTER.replace("ndots:5", "ndots:2")),
        ({"dnsConfig": {"options": [{"name": "edns0", "value": ""}, {"name": "ndots", "value": "1"}]}}, "10.32.0.10",
         CLUSTER.replace("ndots:5", "ndots:1 edns0")),
        ({"dnsConfig": {"nameservers": ["10.32.0.10", "192.0.2.9"], "searches": ["cluster.local", "corp.example"]}}, "10.32.0.10",
         "search shop.svc.cluster.local svc.cluster.local cluster.local lab.example corp.example\nnameserver 10.32.0.10\n"
         "nameserver 192.0.2.9\noptions ndots:5\n"),
        ({"dnsPolicy": "Default", "dnsConfig": {"options": [{"name": "timeout", "value": "3"}]}}, "10.32.0.10", NODE.replace("timeout:1", "timeout:3")),
    ],
)  # fmt: skip
def test_policies(spec: dict[str, Any], dns: str, text: str) -> None:
    assert resolv_conf.of_pod(pod(**spec), dns, NODE).text() == text


def test_the_cluster_domain_is_given() -> None:
    found = resolv_conf.of_pod(pod(), "10.32.0.10", "", "k8s.example")
    assert found.searches == ("shop.svc.k8s.example", "svc.k8s.example", "k8s.example") and found.ndots == 5


def test_what_a_resolver_cannot_take_is_left_out_and_said() -> None:
    long = [f"{'d' * 60}.{n:02}.example" for n in range(40)]
    given = {"nameservers": [f"192.0.2.{n}" for n in range(4)], "searches": ["e" * 254, *long]}
    found = resolv_conf.of_pod(pod(dnsConfig=given), "10.32.0.10", "")
    assert found.servers == ("10.32.0.10", "192.0.2.0", "192.0.2.1")
    assert (
        found.searches[3:] == tuple(long[:27]) and len(" ".join(found.searches)) <= 2048
    )  # 32, the long one among them
    assert ["192.0.2.3" in found.problems[0], "e" * 254 in found.problems[1], long[39] in found.problems[1]] == [
        True
    ] * 3
    wide = [f"{'w' * 98}{n:02}" for n in range(25)]
    found = resolv_conf.of_pod(pod(dnsPolicy="None", dnsConfig={"searches": wide}), "", "")
    assert found.searches == tuple(wide[:20])  # 20 of 100 characters and the blanks between


@pytest.mark.parametrize(
    ("text", "text_back", "ndots"),
    [
        ("", "", 1),
        ("# nameserver 192.0.2.1\n; search x\nnameserver\nnameserver 192.0.2.2 more\n", "nameserver 192.0.2.2\n", 1),
        ("search a\nsearch b. .\ndomain c\n", "search b .\n", 1),
        ("options ndots:3\noptions ndots:x ndots:99\n", "options ndots:99\n", 15),
        ("options ndots:-1 rotate\n", "options ndots:-1 rotate\n", 1),
    ],
)
def test_odd_files_of_a_node(text: str, text_back: str, ndots: int) -> None:
    found = resolv_conf.parse(text)
    assert (found.text(), found.ndots) == (text_back, ndots)
