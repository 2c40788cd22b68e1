"""A narrow Node: what routes and the proxy look at is there, the rest is not kept."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

from benchmarks.agent_case import node

from glassnet.kube import kinds, narrow, types
from glassnet.routes.model import peer_of


def raw(number: int, **metadata: Any) -> bytes:
    body = node(number)
    body["metadata"] |= {
        "uid": f"uid-{number}",
        "resourceVersion": "7",
        "creationTimestamp": "2026-01-02T03:04:05Z",
        **metadata,
    }
    return json.dumps(body).encode()


def test_routes_and_proxy_see_the_same_node() -> None:
    for number in range(20):
        whole, small = types.decode(kinds.NODE, raw(number)), narrow.decode(kinds.NODE, raw(number))
        assert peer_of(small) == peer_of(whole)
        assert small.internal_ips() == whole.internal_ips()
        assert small.spec.taints == whole.spec.taints
        assert small.metadata.uid == whole.metadata.uid
        zone = "topology.kubernetes.io/zone"
        assert small.metadata.labels == {zone: whole.metadata.labels[zone]}


def test_nulls_and_a_node_without_anything() -> None:
    small = narrow.decode(
        kinds.NODE,
        b'{"metadata":{"name":"a","labels":null},"spec":{"podCIDRs":null,"taints":null},"status":{"addresses":null}}',
    )
    assert (small.metadata.name, small.spec.pod_cidrs, small.internal_ips()) == ("a", (), ())
    assert narrow.decode(kinds.NODE, b'{"metadata":{"name":"a"},"spec":{"podCIDR":"10.0.0.0/24"}}').spec.pod_cidrs == (
        "10.0.0.0/24",
    )


def kept(decode: Any) -> int:
    tracemalloc.start()
    found = [decode(kinds.NODE, raw(number)) for number in range(300)]
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(found) == 300
    return size


def test_it_takes_a_third_of_the_memory() -> None:
    assert kept(narrow.decode) * 3 < kept(types.decode)
