"""Each class of entry, the joins, the commands and the counts, on lines as a node of a real cluster has them."""

from __future__ import annotations

from typing import Any

import pytest

from glassnet.net.errors import UsageError
from glassnet.netstack.parse_conntrack import parse_conntrack
from glassnet.tracer.cluster_facts import Facts, facts_from
from glassnet.tracer.conntrack_report import CLASSES, Classified, classify, top

Object = dict[str, Any]


def node(number: int) -> Object:
    return {
        "kind": "Node",
        "metadata": {"name": f"worker-{number}"},
        "spec": {"podCIDR": f"10.200.{number}.0/24", "podCIDRs": [f"10.200.{number}.0/24", f"fd00:200:{number}::/64"]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": f"10.240.0.2{number}"},
                {"type": "Hostname", "address": f"worker-{number}"},
            ]
        },
    }


def pod(name: str, ip: str, home: int, **more: Any) -> Object:
    return {
        "kind": "Pod",
        "metadata": {"namespace": "demo", "name": name},
        "spec": {"nodeName": f"worker-{home}", **more.pop("spec", {})},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], **more},
    }


def service(name: str, ip: str, **spec: Any) -> Object:
    ports = [
        {"name": "http", "port": 80, "protocol": "TCP", "nodePort": spec.pop("tcp_node_port", 0)},
        {"name": "echo", "port": 5300, "protocol": "UDP", "nodePort": spec.pop("udp_node_port", 0)},
    ]
    status = {"loadBalancer": {"ingress": [{"ip": ip} for ip in spec.pop("balancers", [])]}}
    metadata = {"namespace": "demo", "name": name, "labels": spec.pop("labels", {})}
    return {
        "kind": "Service",
        "metadata": metadata,
        "spec": {"clusterIP": ip, "ports": ports, **spec},
        "status": status,
    }


def piece(name: str, *endpoints: tuple[str, Object], family: str = "IPv4") -> Object:
    return {
        "kind": "EndpointSlice",
        "metadata": {"namespace": "demo", "labels": {"kubernetes.io/service-name": name}},
        "addressType": family,
        "ports": [
            {"name": "http", "port": 8080, "protocol": "TCP"},
            {"name": "echo", "port": 8081, "protocol": "UDP"},
        ],
        "endpoints": [{"addresses": [ip], "conditions": conditions} for ip, conditions in endpoints],
    }


READY = {"ready": True, "serving": True, "terminating": False}
DRAINING = {"ready": False, "serving": True, "terminating": True}
STOPPED = {"ready": False, "serving": False, "terminating": True}
UNREADY = {"ready": False, "serving": False, "terminating": False}
PUBLISHED = {"ready": True, "serving": False, "terminating": False}
WEB = service(
    "web", "10.32.0.20", type="LoadBalancer", tcp_node_port=30080, udp_node_port=30081,
    externalIPs=["198.51.100.50"], balancers=["198.51.100.10"],
)  # fmt: skip
NOBODY = service("nobody", "10.32.0.30")
CLUSTER: list[Object] = [
    node(0), node(1),
    pod("probe", "10.200.0.4", 0), pod("web-a", "10.200.0.6", 0), pod("web-b", "10.200.1.7", 1), pod("drain", "10.200.1.4", 1),
    pod("stopped", "10.200.1.5", 1), pod("done", "10.200.0.99", 0, phase="Succeeded"),
    pod("hostnet", "10.240.0.21", 1, spec={"hostNetwork": True}),
    WEB, NOBODY,
    piece("web", ("10.200.0.6", READY), ("10.200.1.7", {}), ("10.200.1.4", DRAINING), ("10.200.1.5", STOPPED), ("10.200.1.8", UNREADY), ("10.200.1.9", PUBLISHED)),
    piece("nobody"),
]  # fmt: skip
FACTS = facts_from(CLUSTER)


def flow(
    protocol: str, state: str, original: str, reply: str, *, timeout: int = 100, flag: str = "", unreplied: bool = False
) -> str:
    """A line: `original` and `reply` are "src:port>dst:port"."""

    def side(text: str) -> str:
        (src, sport), (dst, dport) = (end.rsplit(":", 1) for end in text.split(">"))
        return f"src={src} dst={dst} sport={sport} dport={dport} "

    number = {"tcp": 6, "udp": 17, "sctp": 132}[protocol]
    state = f"{state} " if state else ""
    middle = "[UNREPLIED] " if unreplied else ""
    return f"{protocol:8} {number} {timeout} {state}{side(original)}{middle}{side(reply)}{flag}mark=0 use=1"


def judge(*lines: str, facts: Facts = FACTS, node: str = "worker-0") -> list[Classified]:
    return classify(parse_conntrack("\n".join(lines)), facts, node)


def only(line: str, facts: Facts = FACTS, node: str = "worker-0") -> Classified:
    (found,) = judge(line, facts=facts, node=node)
    return found


def udp(endpoint: str, to: str = "10.32.0.20:5300") -> str:
    return flow("udp", "", f"10.200.0.4:999>{to}", f"{endpoint}>10.200.0.4:999")


# ---- healthy


@pytest.mark.parametrize(
    ("to", "via"),
    [
        ("10.32.0.20:80", "ClusterIP"),
        ("198.51.100.50:80", "ExternalIP"),
        ("198.51.100.10:80", "LoadBalancerIP"),
        ("10.240.0.20:30080", "NodePort"),
        ("127.0.0.1:30080", "NodePort"),
    ],
)
def test_a_connection_to_each_kind_of_address_is_joined(to: str, via: str) -> None:
    found = only(
        flow("tcp", "ESTABLISHED", f"10.200.0.4:999>{to}", "10.200.1.7:8080>10.240.0.20:999", flag="[ASSURED] ")
    )
    assert (found.kind, found.service, found.via) == ("healthy", "demo/web:http", via)
    assert (found.client.kind, found.client.name, found.client.node) == ("pod", "demo/probe", "worker-0")
    assert (found.server.kind, found.server.name, found.server.node) == ("pod", "demo/web-b", "worker-1")
    assert (found.seen_as.kind, found.seen_as.name) == ("node", "worker-0")
    assert found.nodes == ("worker-0", "worker-1")
    assert (found.command, found.effect) == ("", "")
    assert "pod demo/probe (10.200.0.4) to pod demo/web-b" in found.reason and via in found.reason


def test_what_has_nothing_to_do_with_a_service_is_left_alone() -> None:
    for line in (
        flow("tcp", "ESTABLISHED", "10.240.0.20:999>203.0.113.9:80", "203.0.113.9:80>10.240.0.20:999"),
        flow("tcp", "ESTABLISHED", "10.200.0.4:999>203.0.113.9:80", "203.0.113.9:80>10.240.0.20:999"),
        flow("udp", "", "10.200.0.4:999>10.32.0.20:80", "10.200.9.9:80>10.200.0.4:999"),  # TCP's port, asked for by UDP
        flow(
            "tcp", "ESTABLISHED", "10.200.0.4:999>10.200.0.6:30080", "10.200.0.6:30080>10.200.0.4:999"
        ),  # a pod's own port
    ):
        found = only(line)
        assert (found.kind, found.service, found.via) == ("healthy", "", "")


def test_the_first_address_of_a_pod_range_is_the_nodes_own() -> None:
    found = only(flow("tcp", "ESTABLISHED", "10.200.0.1:999>10.200.0.6:8080", "10.200.0.6:8080>10.200.0.1:999"))
    assert (found.kind, found.client.kind, found.client.name) == ("healthy", "node", "worker-0")


# ---- stale-endpoint


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("10.200.0.77:8081", "no living pod has the address"),
        ("10.200.0.4:8081", "pod demo/probe"),  # the address has passed to another pod
        ("10.200.0.6:9999", "no endpoint of it any more"),  # the pod lives, its port has moved
        ("10.200.0.6:8080", "no endpoint of it any more"),  # the port of another port of the Service
        ("10.200.1.5:8081", "neither ready nor serving"),
        ("10.200.1.8:8081", "neither ready nor serving"),
        ("203.0.113.9:8081", "no endpoint of it any more"),
    ],
)
def test_a_flow_to_what_is_no_serving_endpoint_is_stale(endpoint: str, why: str) -> None:
    found = only(udp(endpoint))
    assert (found.kind, found.service, found.via) == ("stale-endpoint", "demo/web:echo", "ClusterIP")
    assert why in found.reason and endpoint in found.reason
    ip, port = endpoint.split(":")
    assert found.command == (
        "conntrack -D -f ipv4 -p udp --orig-src 10.200.0.4 --orig-dst 10.32.0.20 --sport 999 --dport 5300 "
        f"--reply-src {ip} --reply-port-src {port}"
    )
    assert found.effect.startswith("safe")


@pytest.mark.parametrize("endpoint", ["10.200.0.6", "10.200.1.7", "10.200.1.4", "10.200.1.9"])
def test_ready_draining_published_and_unconditional_endpoints_serve(endpoint: str) -> None:
    assert only(udp(f"{endpoint}:8081")).kind == "healthy"


def test_a_service_that_lost_its_last_endpoint_has_stale_flows() -> None:
    assert only(udp("10.200.0.6:8081", to="10.32.0.30:5300")).kind == "stale-endpoint"


def test_a_stale_tcp_connection_says_what_its_deletion_breaks() -> None:
    stale = "10.200.0.77:8080>10.240.0.20:999"
    found = only(flow("tcp", "ESTABLISHED", "10.200.0.4:999>10.240.0.20:30080", stale))
    assert (found.kind, found.via) == ("stale-endpoint", "NodePort")
    assert found.command and "RST" in found.effect and "nf_conntrack_tcp_loose" in found.effect
    vacant = only(flow("tcp", "ESTABLISHED", "10.200.0.4:999>10.32.0.30:80", stale))
    assert vacant.command and "refuse" in vacant.effect
    opening = only(flow("tcp", "SYN_SENT", "10.200.0.4:999>10.32.0.20:80", stale, unreplied=True))
    assert opening.kind == "stale-endpoint" and "next SYN" in opening.effect


def test_a_connection_that_is_over_needs_no_deletion() -> None:
    found = only(
        flow("tcp", "TIME_WAIT", "10.200.0.4:999>10.32.0.20:80", "10.200.0.77:8080>10.200.0.4:999", timeout=42)
    )
    assert (found.kind, found.command, found.effect) == ("stale-endpoint", "", "")
    assert "goes by itself in 42 s" in found.reason


def test_each_port_of_a_service_has_its_own_endpoints() -> None:
    ports = [{"name": "dns-tcp", "port": 53, "protocol": "TCP"}, {"name": "metrics", "port": 9153, "protocol": "TCP"}]
    dns = service("dns", "10.32.0.10", ports=ports)
    facts = facts_from([*CLUSTER, dns, {**piece("dns", ("10.200.0.6", READY)), "ports": ports}])
    for port, kind in ((53, "healthy"), (9153, "stale-endpoint")):
        line = flow("tcp", "ESTABLISHED", "10.200.0.4:9>10.32.0.10:53", f"10.200.0.6:{port}>10.200.0.4:9")
        assert (only(line, facts).kind, only(line, facts).service) == (kind, "demo/dns:dns-tcp")


def test_a_pods_own_port_is_no_node_port_whoever_translates_it() -> None:
    found = only(flow("tcp", "ESTABLISHED", "10.200.0.4:9>10.200.0.6:30080", "10.200.0.6:15001>10.200.0.4:9"))
    assert (found.kind, found.service) == ("healthy", "")


def test_without_endpoint_slices_nothing_is_called_stale() -> None:
    blind = facts_from([item for item in CLUSTER if item["kind"] != "EndpointSlice"])
    assert only(udp("10.200.0.6:9999"), blind).kind == "healthy"
    bare = flow("udp", "", "10.200.0.4:9>10.32.0.20:5300", "10.32.0.20:5300>10.200.0.4:9", unreplied=True)
    assert only(bare, blind).kind == "before-rules"


# ---- before-rules


@pytest.mark.parametrize("to", ["10.32.0.20:5300", "198.51.100.50:5300", "198.51.100.10:5300", "10.240.0.20:30081"])
@pytest.mark.parametrize("unreplied", [True, False])
def test_a_services_address_that_was_not_translated_is_from_before_the_rules(to: str, unreplied: bool) -> None:
    found = only(flow("udp", "", f"10.200.0.4:999>{to}", f"{to}>10.240.0.20:999", unreplied=unreplied))
    assert (found.kind, found.service) == ("before-rules", "demo/web:echo")
    assert found.via in found.reason and "not translated" in found.reason
    assert found.command.endswith(f"--reply-src {to.split(':')[0]} --reply-port-src {to.split(':')[1]}")
    assert found.effect.startswith("safe")


def test_a_node_port_of_another_node_is_that_nodes_to_translate() -> None:
    line = flow("tcp", "ESTABLISHED", "10.200.0.4:999>10.240.0.21:30080", "10.240.0.21:30080>10.240.0.20:999")
    found = only(line)
    assert (found.kind, found.service, found.via) == ("healthy", "demo/web:http", "NodePort")
    assert "the other node" in found.reason
    assert only(line, node="worker-1").kind == "before-rules"


def test_which_node_it_is_shows_in_the_node_ports_it_translates() -> None:
    translated = flow("tcp", "ESTABLISHED", "203.0.113.9:999>10.240.0.20:30080", "10.200.0.6:8080>10.200.0.1:999")
    bare = flow(
        "tcp", "SYN_SENT", "203.0.113.9:998>10.240.0.20:30080", "10.240.0.20:30080>203.0.113.9:998", unreplied=True
    )
    assert [found.kind for found in judge(bare, translated, node="")] == ["before-rules", "healthy"]
    assert only(bare, node="").kind == "unreplied"


def test_what_the_rules_refuse_is_not_from_before_them() -> None:
    """REJECT's answer to a local client leaves an entry that is neither translated nor answered."""
    line = "src=10.240.0.20 dst=10.32.0.30 sport=47554 dport=80 [UNREPLIED] src=10.32.0.30 dst=10.240.0.20 sport=80 dport=47554 mark=0 use=1"
    found = only(f"ipv4     2 tcp      6 91 SYN_SENT {line}")
    assert (found.kind, found.service, found.command) == ("unreplied", "demo/nobody:http", "")
    assert "no endpoint" in found.reason
    answered = only(flow("udp", "", "10.240.0.20:9>10.32.0.30:5300", "10.32.0.30:5300>10.240.0.20:9"))
    assert answered.kind == "before-rules"  # somebody has answered under the Service's address


def test_an_endpoint_may_have_the_services_own_address_and_port() -> None:
    same = service("same", "10.32.0.40", externalIPs=["10.240.0.20"])
    same["spec"]["ports"][0]["port"] = 8080
    facts = facts_from([*CLUSTER, same, piece("same", ("10.240.0.20", READY))])
    found = only(
        flow("tcp", "ESTABLISHED", "203.0.113.9:999>10.240.0.20:8080", "10.240.0.20:8080>203.0.113.9:999"), facts
    )
    assert (found.kind, found.via) == ("healthy", "ExternalIP")


def test_a_service_of_another_proxy_has_no_rules_here() -> None:
    other = service("other", "10.32.0.41", labels={"service.kubernetes.io/service-proxy-name": "mine"})
    headless = service("headless", "None")
    line = flow("tcp", "SYN_SENT", "10.200.0.4:999>10.32.0.41:80", "10.32.0.41:80>10.200.0.4:999", unreplied=True)
    assert only(line, facts_from([*CLUSTER, other, headless])).kind == "unreplied"


# ---- clash


def test_a_source_port_taken_makes_a_clash_for_both() -> None:
    first = flow("tcp", "ESTABLISHED", "10.200.0.4:37678>10.32.0.20:80", "10.200.1.7:8080>10.240.0.20:24735")
    second = flow("tcp", "ESTABLISHED", "10.200.0.6:37678>198.51.100.50:80", "10.200.1.7:8080>10.240.0.20:37678")
    free = flow("tcp", "ESTABLISHED", "10.200.0.6:37679>198.51.100.50:80", "10.200.1.7:8080>10.240.0.20:37679")
    elsewhere = flow("tcp", "ESTABLISHED", "10.200.0.4:37678>10.32.0.20:80", "10.200.0.6:8080>10.240.0.20:37678")
    one, two, three, four = judge(first, second, free, elsewhere)
    assert [found.kind for found in (one, two, three, four)] == ["clash", "clash", "healthy", "healthy"]
    assert "source port 37678 became 24735" in one.reason and "(line 2)" in one.reason
    assert "(line 1)" in two.reason and one.command == two.command == ""


def test_reply_tuples_that_are_the_same_clash_but_not_across_zones_or_protocols() -> None:
    first = flow("udp", "", "10.200.0.4:5>10.32.0.20:5300", "10.200.0.6:8081>10.240.0.20:7")
    second = flow("udp", "", "10.200.1.7:6>10.32.0.20:5300", "10.200.0.6:8081>10.240.0.20:7")
    assert [found.kind for found in judge(first, second)] == ["clash", "clash"]
    assert "clash with those of 10.200.1.7:6" in judge(first, second)[0].reason
    assert [found.kind for found in judge(first, second.replace("mark=0", "mark=0 zone=3"))] == ["healthy", "healthy"]
    assert "clash" not in {found.kind for found in judge(first, second.replace("udp      17", "tcp      6"))}
    assert [found.kind for found in judge(first, first)] == ["healthy", "healthy"]  # the same entry twice


def test_icmp_ids_clash_as_ports_do() -> None:
    text = "icmp 1 29 src={0} dst=8.8.8.8 type=8 code=0 id={1} src=8.8.8.8 dst=10.240.0.20 type=0 code=0 id={2} mark=0 use=1"
    one, two = judge(text.format("10.200.0.4", 7, 7), text.format("10.200.0.6", 7, 50))
    assert (one.kind, two.kind) == ("clash", "clash")
    assert "id 7 became 50" in two.reason


# ---- hairpin, orphan, unreplied


def test_a_pod_that_reaches_itself_is_a_hairpin() -> None:
    line = flow("tcp", "ESTABLISHED", "10.200.0.6:999>10.32.0.20:80", "10.200.0.6:8080>10.200.0.1:999")
    assert only(line).kind == "hairpin" and "sees 10.200.0.1" in only(line).reason
    silent = flow("tcp", "SYN_SENT", "10.200.0.6:999>10.32.0.20:80", "10.200.0.6:8080>10.200.0.1:999", unreplied=True)
    assert only(silent).kind == "hairpin" and "hairpin mode" in only(silent).reason
    bare = flow("tcp", "SYN_SENT", "10.200.0.6:999>10.32.0.20:80", "10.200.0.6:8080>10.200.0.6:999", unreplied=True)
    assert only(bare).kind == "hairpin" and "not masqueraded" in only(bare).reason
    assert only(line.replace("src=10.200.0.6 dst=10.32", "src=10.200.0.4 dst=10.32")).kind == "healthy"


@pytest.mark.parametrize(
    ("original", "reply", "role"),
    [
        ("10.200.1.200:5>203.0.113.9:53", "203.0.113.9:53>10.240.0.20:5", "client 10.200.1.200"),
        ("10.200.0.4:5>10.200.1.200:53", "10.200.1.200:53>10.200.0.4:5", "server 10.200.1.200"),
        ("10.200.0.99:5>10.32.0.20:5300", "10.200.0.6:8081>10.200.0.99:5", "client 10.200.0.99"),  # its pod is finished
    ],
)
def test_a_pod_address_without_a_living_pod_is_an_orphan(original: str, reply: str, role: str) -> None:
    found = only(flow("udp", "", original, reply))
    assert found.kind == "orphan" and role in found.reason
    assert found.command.startswith("conntrack -D -f ipv4 -p udp") and found.effect.startswith("safe")
    tcp = only(flow("tcp", "ESTABLISHED", original.replace("5300", "80"), reply.replace("8081", "8080")))
    assert tcp.kind == "orphan" and tcp.command and "gone" in tcp.effect


def test_ipv6_pods_and_orphans() -> None:
    facts = facts_from([*CLUSTER, pod("six", "fd00:200:0::4", 0)])
    line = "udp 17 9 src=fd00:200::4 dst=2001:db8::1 sport=1 dport=53 src=2001:db8::1 dst=fd00:200::4 sport=53 dport=1 use=1"
    assert only(line, facts).kind == "healthy"
    found = only(line.replace("fd00:200::4", "fd00:200::5"), facts)
    assert found.kind == "orphan" and found.command.startswith("conntrack -D -f ipv6 -p udp --orig-src fd00:200::5")


def test_without_pods_nobody_is_missed() -> None:
    blind = facts_from([item for item in CLUSTER if item["kind"] != "Pod"])
    assert (
        only(flow("udp", "", "10.200.1.200:5>203.0.113.9:53", "203.0.113.9:53>10.240.0.20:5"), blind).kind == "healthy"
    )


def test_a_flow_in_one_direction_only_is_unreplied() -> None:
    found = only(
        flow(
            "tcp",
            "SYN_SENT",
            "10.200.0.4:9>198.51.100.14:80",
            "198.51.100.14:80>10.240.0.20:9",
            timeout=87,
            unreplied=True,
        )
    )
    assert (found.kind, found.command) == ("unreplied", "")
    assert "no answer to the SYN" in found.reason and "87 s" in found.reason
    assert (
        only(flow("udp", "", "10.200.0.4:9>10.32.0.20:5300", "10.200.0.6:8081>10.200.0.4:9", unreplied=True)).kind
        == "unreplied"
    )


# ---- commands


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("icmp 1 29 src=10.200.0.99 dst=8.8.8.8 type=8 code=0 id=7 src=8.8.8.8 dst=10.240.0.20 type=0 code=0 id=7 use=1", "-p icmp --orig-src 10.200.0.99 --orig-dst 8.8.8.8 --icmp-type 8 --icmp-code 0 --icmp-id 7 --reply-src 8.8.8.8"),
        ("gre 47 29 src=10.200.0.99 dst=8.8.8.8 srckey=0x1 dstkey=0x2a src=8.8.8.8 dst=10.240.0.20 srckey=0x2a dstkey=0x1 use=1", "-p gre --orig-src 10.200.0.99 --orig-dst 8.8.8.8 --srckey 1 --dstkey 42 --reply-src 8.8.8.8"),
        ("unknown 89 29 src=10.200.0.99 dst=8.8.8.8 src=8.8.8.8 dst=10.240.0.20 use=1", "-p 89 --orig-src 10.200.0.99 --orig-dst 8.8.8.8 --reply-src 8.8.8.8"),
        ("udp 17 29 src=10.200.0.99 dst=8.8.8.8 sport=1 dport=2 zone-orig=5 src=8.8.8.8 dst=10.240.0.20 sport=2 dport=1 use=1", "-p udp --orig-src 10.200.0.99 --orig-dst 8.8.8.8 --sport 1 --dport 2 --reply-src 8.8.8.8 --reply-port-src 2 --orig-zone 5"),
        ("udp 17 29 src=10.200.0.99 dst=8.8.8.8 sport=1 dport=2 src=8.8.8.8 dst=10.240.0.20 sport=2 dport=1 zone=4 use=1", "-p udp --orig-src 10.200.0.99 --orig-dst 8.8.8.8 --sport 1 --dport 2 --reply-src 8.8.8.8 --reply-port-src 2 -w 4"),
    ],
)  # fmt: skip
def test_commands_name_one_entry_of_each_protocol(line: str, words: str) -> None:
    assert only(line).command == f"conntrack -D -f ipv4 {words}"


def test_where_there_are_zones_an_entry_of_none_is_named_as_such() -> None:
    line = flow("udp", "", "10.200.0.99:1>8.8.8.8:2", "8.8.8.8:2>10.240.0.20:1")
    assert "-w" not in only(line).command
    plain, zoned = judge(line, line.replace("use=1", "zone=9 use=1"))
    assert plain.command.endswith("-w 0") and zoned.command.endswith("-w 9")


def test_what_is_destroyed_already_is_not_to_be_deleted() -> None:
    assert only("[DESTROY] " + udp("10.200.0.77:8081").replace("udp      17 100", "udp      17")).command == ""


# ---- counts, facts


TABLE = [
    flow("tcp", "ESTABLISHED", "10.200.0.4:1>10.32.0.20:80", "10.200.1.7:8080>10.240.0.20:1"),
    flow("tcp", "ESTABLISHED", "10.200.0.4:2>10.240.0.20:30080", "10.200.0.6:8080>10.200.0.1:2"),
    flow("udp", "", "203.0.113.9:3>10.32.0.20:5300", "10.200.1.7:8081>203.0.113.9:3"),
    "icmp 1 29 src=10.200.0.4 dst=8.8.8.8 type=8 code=0 id=7 src=8.8.8.8 dst=10.240.0.20 type=0 code=0 id=7 use=1",
]


@pytest.mark.parametrize(
    ("by", "want"),
    [
        ("pod", [("demo/probe", 3), ("demo/web-b", 2), ("demo/web-a", 1)]),
        ("service", [("demo/web:http", 2), ("demo/web:echo", 1)]),
        ("node", [("worker-0", 3), ("worker-1", 2)]),
        ("source", [("10.200.0.4", 3), ("203.0.113.9", 1)]),
        ("destination", [("10.240.0.20:30080", 1), ("10.32.0.20:5300", 1), ("10.32.0.20:80", 1), ("8.8.8.8", 1)]),
    ],
)
def test_counts_by_who_takes_part(by: str, want: list[tuple[str, int]]) -> None:
    assert top(parse_conntrack("\n".join(TABLE)), FACTS, by) == want


def test_addresses_of_no_living_pod_count_for_no_node() -> None:
    entries = parse_conntrack(flow("udp", "", "10.200.1.200:5>203.0.113.9:53", "203.0.113.9:53>10.240.0.20:5"))
    assert top(entries, FACTS, "node") == [("worker-0", 1)]
    assert top(entries, FACTS, "pod") == []


def test_counting_by_something_else_is_refused() -> None:
    with pytest.raises(UsageError, match="pod, service, node, source, destination"):
        top([], FACTS, "colour")


def test_facts_come_from_lists_too_and_other_kinds_are_skipped() -> None:
    bare = [{key: value for key, value in item.items() if key != "kind"} for item in CLUSTER if item["kind"] == "Pod"]
    rest = [item for item in CLUSTER if item["kind"] != "Pod"]
    objects = [{"kind": "PodList", "items": bare}, {"kind": "List", "items": rest}, {"kind": "ConfigMap", "data": 3}]
    assert facts_from(objects) == FACTS


def test_addresses_a_network_add_on_notes_on_a_node_are_the_nodes() -> None:
    tunnel = node(0)
    tunnel["metadata"]["annotations"] = {"example.com/tunnel": "10.200.0.77/32", "note": "10.200.0.78 it is not"}
    facts = facts_from([tunnel])
    assert facts.party("10.200.0.77").kind == "node"
    assert facts.nodes == {"10.240.0.20": "worker-0", "10.200.0.77": "worker-0"}


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": "80"}},
        {"kind": "Node", "metadata": {"name": "web"}, "spec": {"podCIDR": "10.200.0.0/99"}},
        "Service",
    ],
)
def test_broken_objects_are_named(broken: Any) -> None:
    with pytest.raises(UsageError, match=r"web|str"):
        facts_from([broken])


def test_every_class_is_known_and_an_empty_cluster_says_nothing_wrong() -> None:
    lines = [*TABLE, udp("10.200.0.77:8081"), flow("udp", "", "10.200.0.99:5>8.8.8.8:53", "8.8.8.8:53>10.240.0.20:5")]
    assert {found.kind for found in judge(*lines)} <= set(CLASSES)
    assert {found.kind for found in judge(*lines, facts=Facts(), node="")} == {"healthy"}
