"""Which UDP flows are stale."""

from __future__ import annotations

from glassnet.proxy.conntrack import UdpPort, stale


def entry(to: str, port: int, back: str, back_port: int, client: str = "10.0.0.9") -> str:
    reply = f"src={back} dst={client} sport={back_port} dport=5000"
    return f"udp      17 29 src={client} dst={to} sport=5000 dport={port} [UNREPLIED] {reply} mark=0 use=1"


PORT = UdpPort(frozenset({"172.30.0.1:53", "1.2.3.4:53"}), 30053, frozenset({"10.1.0.1:5353"}))


def test_only_flows_of_the_port_that_no_serving_endpoint_answers() -> None:
    lines = {
        entry("172.30.0.1", 53, "10.1.0.1", 5353): False,
        entry("172.30.0.1", 53, "10.1.0.2", 5353): True,
        entry("172.30.0.1", 53, "10.1.0.1", 9999): True,  # the pod lives, its port has moved
        entry("172.30.0.1", 53, "172.30.0.1", 53): True,  # from before there was an endpoint
        entry("1.2.3.4", 53, "10.1.0.2", 5353): True,
        entry("192.168.0.2", 30053, "10.1.0.2", 5353): True,  # a node port, on whatever address
        entry("172.30.0.1", 54, "10.1.0.2", 5353): False,
        entry("8.8.8.8", 53, "8.8.8.8", 53): False,
        "conntrack v1.4.7 (conntrack-tools): 8 flow entries have been shown.": False,
    }
    found = stale("\n".join(lines), [PORT])
    assert len(found) == sum(lines.values())
    assert found[0].words()[2:6] == ["--orig-src", "10.0.0.9", "--orig-dst", "172.30.0.1"]


def test_without_ports_nothing_is_stale() -> None:
    assert stale(entry("172.30.0.1", 53, "10.1.0.2", 5353), []) == []
