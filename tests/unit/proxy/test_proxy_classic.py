"""The chains of kube-proxy 1.18, as listings of clusters of that time show them."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from glassnet.kube.view import Key
from glassnet.proxy.backends import iptables_state
from glassnet.proxy.backends.iptables_classic import probability
from glassnet.proxy.backends.iptables_layouts import in_pairs, spelling
from glassnet.proxy.model import Endpoint, LocalDetector, Rules, ServicePort
from proxy_fakes import IptablesKernel

RULES = Rules(detector=LocalDetector("source", "10.244.0.0/16"), layout="classic")
PODS = (Endpoint("10.244.1.2", 80), Endpoint("10.244.2.4", 80, local=True), Endpoint("10.244.3.4", 80))
NGINX = ServicePort(
    name="default/nginx",
    protocol="TCP",
    cluster_ip="10.98.154.163",
    port=80,
    node_port=30938,
    load_balancer_ips=("12.12.12.12",),
    cluster=PODS,
    any_endpoints=True,
)
# names, comments, order and probabilities as printed in handbooks of that time; only the kubelet's and fixed chains are left out
PRINTED = """
-A KUBE-SERVICES ! -s 10.244.0.0/16 -d 10.98.154.163/32 -p tcp -m comment --comment "default/nginx: cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SERVICES -d 10.98.154.163/32 -p tcp -m comment --comment "default/nginx: cluster IP" -m tcp --dport 80 -j KUBE-SVC-4N57TFCL4MD7ZTDA
-A KUBE-SERVICES -d 12.12.12.12/32 -p tcp -m comment --comment "default/nginx: loadbalancer IP" -m tcp --dport 80 -j KUBE-FW-4N57TFCL4MD7ZTDA
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/nginx:" -m tcp --dport 30938 -j KUBE-MARK-MASQ
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/nginx:" -m tcp --dport 30938 -j KUBE-SVC-4N57TFCL4MD7ZTDA
-A KUBE-FW-4N57TFCL4MD7ZTDA -m comment --comment "default/nginx: loadbalancer IP" -j KUBE-MARK-MASQ
-A KUBE-FW-4N57TFCL4MD7ZTDA -m comment --comment "default/nginx: loadbalancer IP" -j KUBE-SVC-4N57TFCL4MD7ZTDA
-A KUBE-FW-4N57TFCL4MD7ZTDA -m comment --comment "default/nginx: loadbalancer IP" -j KUBE-MARK-DROP
-A KUBE-SVC-4N57TFCL4MD7ZTDA -m comment --comment "default/nginx:" -m statistic --mode random --probability 0.33332999982 -j KUBE-SEP-UXHBWR5XIMVGXW3H
-A KUBE-SVC-4N57TFCL4MD7ZTDA -m comment --comment "default/nginx:" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-TOYRWPNILILHH3OR
-A KUBE-SVC-4N57TFCL4MD7ZTDA -m comment --comment "default/nginx:" -j KUBE-SEP-6QCC2MHJZP35QQAR
-A KUBE-SEP-UXHBWR5XIMVGXW3H -s 10.244.1.2/32 -m comment --comment "default/nginx:" -j KUBE-MARK-MASQ
-A KUBE-SEP-UXHBWR5XIMVGXW3H -p tcp -m comment --comment "default/nginx:" -m tcp -j DNAT --to-destination 10.244.1.2:80
-A KUBE-SEP-TOYRWPNILILHH3OR -s 10.244.2.4/32 -m comment --comment "default/nginx:" -j KUBE-MARK-MASQ
-A KUBE-SEP-TOYRWPNILILHH3OR -p tcp -m comment --comment "default/nginx:" -m tcp -j DNAT --to-destination 10.244.2.4:80
-A KUBE-SEP-6QCC2MHJZP35QQAR -s 10.244.3.4/32 -m comment --comment "default/nginx:" -j KUBE-MARK-MASQ
-A KUBE-SEP-6QCC2MHJZP35QQAR -p tcp -m comment --comment "default/nginx:" -m tcp -j DNAT --to-destination 10.244.3.4:80
""".strip().splitlines()


def spelled(port: ServicePort, rules: Rules = RULES) -> list[str]:
    piece = spelling(rules).piece((port,))
    return [line for lines in (*piece.top.values(), *piece.chains.values()) for line in lines]


def test_a_load_balancer_is_spelled_as_handbooks_print_it() -> None:
    assert spelled(NGINX) == PRINTED


def test_the_names_of_the_articles() -> None:
    mine = msgspec.structs.replace(NGINX, name="default/my-nginx-service")
    chains = spelling(RULES).piece((mine,)).chains
    assert {"KUBE-FW-BMQ5UNGRIS2RIY35", "KUBE-SVC-BMQ5UNGRIS2RIY35"} <= set(chains)
    named = spelling(RULES).piece((msgspec.structs.replace(NGINX, name="kube-system/kube-dns:dns-tcp"),)).chains
    assert "KUBE-SVC-ERIFXISQEP7F7OF4" in named


@pytest.mark.parametrize(
    ("left", "text"), [(2, "0.50000000000"), (3, "0.33332999982"), (4, "0.25000000000"), (5, "0.20000000019"), (7, "0.14286000002")]
)  # fmt: skip
def test_probabilities_have_five_digits_and_what_the_kernel_makes_of_them(left: int, text: str) -> None:
    assert probability(left) == text


def test_policy_local_keeps_sources_and_drops_without_an_endpoint_here() -> None:
    there = msgspec.structs.replace(NGINX, external_local=True, local=PODS[1:2])
    lines = spelled(there)
    xlb = "KUBE-XLB-4N57TFCL4MD7ZTDA"
    assert [line for line in lines if line.startswith(f"-A {xlb}")] == [
        f'-A {xlb} -s 10.244.0.0/16 -m comment --comment "Redirect pods trying to reach external loadbalancer VIP to clusterIP" -j KUBE-SVC-4N57TFCL4MD7ZTDA',
        f'-A {xlb} -m comment --comment "masquerade LOCAL traffic for default/nginx: LB IP" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ',
        f'-A {xlb} -m comment --comment "route LOCAL traffic for default/nginx: LB IP to service chain" -m addrtype --src-type LOCAL -j KUBE-SVC-4N57TFCL4MD7ZTDA',
        f'-A {xlb} -m comment --comment "Balancing rule 0 for default/nginx:" -j KUBE-SEP-TOYRWPNILILHH3OR',
    ]
    fw = [line for line in lines if line.startswith("-A KUBE-FW-")]
    assert [line.rpartition(" ")[2] for line in fw] == [xlb, "KUBE-MARK-DROP"]
    ports = [line for line in lines if line.startswith("-A KUBE-NODEPORTS")]
    assert ports[0].startswith("-A KUBE-NODEPORTS -s 127.0.0.0/8 ") and ports[0].endswith("-j KUBE-MARK-MASQ")
    assert ports[1].endswith(f"-j {xlb}")

    elsewhere = spelled(msgspec.structs.replace(there, local=()))
    assert f'-A {xlb} -m comment --comment "default/nginx: has no local endpoints" -j KUBE-MARK-DROP' in elsewhere
    assert not any("KUBE-EXTERNAL-SERVICES" in line for line in elsewhere)


def test_source_ranges_are_asked_in_the_firewall_chain() -> None:
    ranged = spelled(msgspec.structs.replace(NGINX, source_ranges=("203.0.113.0/24", "198.51.100.0/24")))
    fw = [line.removeprefix("-A KUBE-FW-4N57TFCL4MD7ZTDA ") for line in ranged if line.startswith("-A KUBE-FW-")]
    comment = '-m comment --comment "default/nginx: loadbalancer IP"'
    assert fw == [
        f"{comment} -j KUBE-MARK-MASQ",
        f"-s 203.0.113.0/24 {comment} -j KUBE-SVC-4N57TFCL4MD7ZTDA",
        f"-s 198.51.100.0/24 {comment} -j KUBE-SVC-4N57TFCL4MD7ZTDA",
        f"{comment} -j KUBE-MARK-DROP",
    ]


def test_without_any_endpoint_it_is_refused_in_filter() -> None:
    lines = spelled(msgspec.structs.replace(NGINX, cluster=(), any_endpoints=False))
    assert len(lines) == 3
    assert all("has no endpoints" in line and "-j REJECT" in line for line in lines)


def test_what_the_kubelet_of_that_day_had() -> None:
    fixed = spelling(RULES).fixed()
    assert fixed["nat", "KUBE-MARK-DROP"] == ["-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000"]
    assert fixed["filter", "KUBE-FIREWALL"][0] == (
        '-A KUBE-FIREWALL -m comment --comment "kubernetes firewall for dropping marked packets" -m mark --mark 0x8000/0x8000 -j DROP'
    )
    assert [line.split()[2:4] for line in fixed["filter", "KUBE-FORWARD"][-2:]] == [["-s", "10.244.0.0/16"], ["-d", "10.244.0.0/16"]]  # fmt: skip
    other = spelling(replace(RULES, mark=0x8000)).fixed()
    assert other["nat", "KUBE-MARK-DROP"] == ["-A KUBE-MARK-DROP -j MARK --set-xmark 0x4000/0x4000"]


def test_a_service_is_marked_before_it_is_sent_on_and_mended_when_somebody_turns_that_round() -> None:
    state, kernel = iptables_state.State(RULES), IptablesKernel()
    kernel.restore(state.reconcile(kernel.tables))
    kernel.restore(state.update({Key("default", "nginx"): (NGINX,)}))
    inward = msgspec.structs.replace(NGINX, internal_local=True, local=PODS[1:2])
    kernel.restore(state.update({Key("default", "nginx"): (inward,)}))
    services = kernel.tables["nat"]["KUBE-SERVICES"]
    assert in_pairs(services) and services[1].endswith("-j KUBE-SVL-4N57TFCL4MD7ZTDA")
    assert state.reconcile(kernel.tables) == ""
    services[0], services[1] = services[1], services[0]
    assert not in_pairs(services)
    kernel.restore(state.reconcile(kernel.tables))
    assert in_pairs(kernel.tables["nat"]["KUBE-SERVICES"])


def test_a_chain_that_somebody_elses_rule_jumps_to_stays() -> None:
    kernel = IptablesKernel()
    kernel.restore(iptables_state.State(RULES).reconcile(kernel.tables))
    kernel.tables["nat"]["THEIRS"] = ["-A THEIRS -d 192.0.2.1/32 -j KUBE-MARK-DROP"]
    current = iptables_state.State(replace(RULES, layout="current"))
    kernel.restore(current.reconcile(kernel.tables))
    assert kernel.tables["nat"]["KUBE-MARK-DROP"] and "KUBE-PROXY-FIREWALL" in kernel.tables["filter"]
    kernel.tables["nat"]["THEIRS"] = []
    kernel.restore(current.reconcile(kernel.tables))
    assert "KUBE-MARK-DROP" not in kernel.tables["nat"]


def test_a_kubelet_keeps_its_chains_when_the_layout_changes() -> None:
    kernel = IptablesKernel()
    kernel.tables["mangle"]["KUBE-KUBELET-CANARY"] = []
    classic = iptables_state.State(RULES)
    kernel.restore(classic.reconcile(kernel.tables))
    current = iptables_state.State(replace(RULES, layout="current"))
    kernel.restore(current.reconcile(kernel.tables))
    assert kernel.tables["nat"]["KUBE-MARK-DROP"]
    assert any("dropping marked packets" in line for line in kernel.tables["filter"]["KUBE-FIREWALL"])
    del kernel.tables["mangle"]["KUBE-KUBELET-CANARY"]
    kernel.restore(current.reconcile(kernel.tables))
    assert "KUBE-MARK-DROP" not in kernel.tables["nat"]
    assert not any("dropping marked packets" in line for line in kernel.tables["filter"]["KUBE-FIREWALL"])
    kernel.restore(iptables_state.sweep(kernel.tables))
    assert kernel.tables == IptablesKernel().tables
