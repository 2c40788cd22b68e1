"""Which UDP flows are stale."""

from __future__ import annotations

from glassnet.netstack.conntrack import Flow
from glassnet.proxy.conntrack import UdpPort, stale

PORT = UdpPort(frozenset({("172.30.0.1", 53), ("1.2.3.4", 53)}), 30053, frozenset({("10.1.0.1", 5353)}))


def test_only_flows_of_the_port_that_no_serving_endpoint_answers() -> None:
    flows = {
        Flow("172.30.0.1", 53, "10.1.0.1", 5353): False,
        Flow("172.30.0.1", 53, "10.1.0.2", 5353): True,
        Flow("172.30.0.1", 53, "10.1.0.1", 9999): True,  # the pod lives, its port has moved
        Flow("172.30.0.1", 53, "172.30.0.1", 53): True,  # from before there was an endpoint
        Flow("1.2.3.4", 53, "10.1.0.2", 5353): True,
        Flow("192.168.0.2", 30053, "10.1.0.2", 5353): True,  # a node port
        Flow("192.168.0.2", 30053, "192.168.0.2", 30053): True,  # a node port without an endpoint, to this node
        Flow("192.168.0.9", 30053, "192.168.0.9", 30053): False,  # through this node, to a port of another host
        Flow("172.30.0.1", 54, "10.1.0.2", 5353): False,
        Flow("8.8.8.8", 53, "8.8.8.8", 53): False,
    }
    assert stale(flows, [PORT], ["192.168.0.2"]) == [flow for flow, gone in flows.items() if gone]


def test_a_service_without_endpoints_keeps_no_flow() -> None:
    flow = Flow("172.30.0.1", 53, "10.1.0.1", 5353)
    assert stale([flow], [PORT._replace(serving=frozenset())]) == [flow]


def test_without_ports_nothing_is_stale() -> None:
    assert stale([Flow("172.30.0.1", 53, "10.1.0.2", 5353)], []) == []
