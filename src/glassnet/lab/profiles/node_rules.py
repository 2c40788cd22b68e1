"""The rules that a node has of its cloud or of docker, as inputs of iptables-restore. Pure.

Sources: docker's bridge driver (moby, libnetwork/drivers/bridge); kubernetes-sigs/ip-masq-agent; kubernetes, cluster/gce/gci/configure-helper.sh
(IP-MASQ); aws/amazon-vpc-cni-k8s, pkg/networkutils (AWS-SNAT-CHAIN, AWS-CONNMARK-CHAIN). Chains and comments are theirs: that is how people
find them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_interface

from glassnet.lab.profiles.model import Docker, NodeParts

Lines = dict[str, list[str]]  # table -> chains (":NAME -") and rules
AWS_MARK = 0x80  # aws-vpc-cni-k8s, AWS_VPC_K8S_CNI_CONNMARK


def tables(parts: NodeParts, address: str, address6: str) -> Mapping[int, str]:
    """What iptables-restore (4) and ip6tables-restore (6, in a lab that has IPv6) take on a node with these addresses."""
    out: dict[int, str] = {}
    for family, own in ((4, address), (6, address6)):
        lines: Lines = {}
        if family == 4 and parts.docker.bridge:
            _docker(lines, parts.docker)
        agent = parts.masquerade.agent
        if own and agent:
            beyond = [one for one in parts.masquerade.beyond if (":" in one) == (family == 6)]
            _AGENTS[agent](lines, beyond, own)
        if lines:
            out[family] = "".join(_text(table, lines[table]) for table in sorted(lines))
    return out


def _text(table: str, lines: list[str]) -> str:
    chains = [line for line in lines if line.startswith(":")]
    rules = [line for line in lines if not line.startswith(":")]
    return "\n".join([f"*{table}", *chains, *rules, "COMMIT"]) + "\n"


def _docker(lines: Lines, docker: Docker) -> None:
    bridge, network = docker.bridge, ip_interface(docker.network).network
    lines.setdefault("nat", []).extend(
        [
            ":DOCKER - [0:0]",
            "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
            "-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
            f"-A POSTROUTING -s {network} ! -o {bridge} -j MASQUERADE",
            f"-A DOCKER -i {bridge} -j RETURN",
        ]
    )
    first, second = "DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2"
    lines.setdefault("filter", []).extend(
        [
            *(f":{chain} - [0:0]" for chain in ("DOCKER", first, second, "DOCKER-USER")),
            "-A FORWARD -j DOCKER-USER",
            f"-A FORWARD -j {first}",
            f"-A FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            f"-A FORWARD -o {bridge} -j DOCKER",
            f"-A FORWARD -i {bridge} ! -o {bridge} -j ACCEPT",
            f"-A FORWARD -i {bridge} -o {bridge} -j ACCEPT",
            f"-A {first} -i {bridge} ! -o {bridge} -j {second}",
            f"-A {first} -j RETURN",
            f"-A {second} -o {bridge} -j DROP",
            f"-A {second} -j RETURN",
            "-A DOCKER-USER -j RETURN",
        ]
    )


def _masq_agent(lines: Lines, beyond: Iterable[str], _: str) -> None:
    _masquerade(lines, beyond, "IP-MASQ-AGENT", "ip-masq-agent")


def _masq(lines: Lines, beyond: Iterable[str], _: str) -> None:
    _masquerade(lines, beyond, "IP-MASQ", "ip-masq")


def _masquerade(lines: Lines, beyond: Iterable[str], chain: str, who: str) -> None:
    jump = f"{who}: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom {chain} chain"
    local, last = (
        f"{who}: local traffic is not subject to MASQUERADE",
        f"{who}: outbound traffic is subject to MASQUERADE (must be last in chain)",
    )
    lines.setdefault("nat", []).extend(
        [
            f":{chain} - [0:0]",
            f'-A POSTROUTING -m comment --comment "{jump}" -m addrtype ! --dst-type LOCAL -j {chain}',
            *(f'-A {chain} -d {one} -m comment --comment "{local}" -j RETURN' for one in beyond),
            f'-A {chain} -m comment --comment "{last}" -j MASQUERADE',
        ]
    )


def _aws_snat(lines: Lines, beyond: Iterable[str], address: str) -> None:
    """SNAT for pods, and the mark by which answers to what came in by the first interface leave by it (routing rule 1024 of the node)."""
    cidrs, mark = list(beyond), f"{AWS_MARK:#x}/{AWS_MARK:#x}"
    note, out = '-m comment --comment "AWS SNAT CHAIN"', '-m comment --comment "AWS, SNAT"'
    restore = f"-j CONNMARK --restore-mark --nfmask {AWS_MARK:#x} --ctmask {AWS_MARK:#x}"
    new = '-m comment --comment "AWS, outbound connections"'
    lines.setdefault("nat", []).extend(
        [
            ":AWS-CONNMARK-CHAIN-0 - [0:0]",
            ":AWS-SNAT-CHAIN-0 - [0:0]",
            f"-A PREROUTING -i eni+ {new} -j AWS-CONNMARK-CHAIN-0",
            f'-A PREROUTING -m comment --comment "AWS, CONNMARK" {restore}',
            f"-A POSTROUTING {note} -j AWS-SNAT-CHAIN-0",
            *(
                f'-A AWS-CONNMARK-CHAIN-0 -d {one} -m comment --comment "AWS CONNMARK CHAIN, VPC CIDR" -j RETURN'
                for one in cidrs
            ),
            f'-A AWS-CONNMARK-CHAIN-0 -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark {mark}',
            *(f"-A AWS-SNAT-CHAIN-0 -d {one} {note} -j RETURN" for one in cidrs),
            f"-A AWS-SNAT-CHAIN-0 ! -o vlan+ {out} -m addrtype ! --dst-type LOCAL -j SNAT --to-source {address} --random-fully",
        ]
    )
    primary = '-m comment --comment "AWS, primary ENI"'
    lines.setdefault("mangle", []).extend(
        [
            f"-A PREROUTING -i eth0 {primary} -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark {mark}",
            f"-A PREROUTING -i eni+ {primary} {restore}",
        ]
    )


_AGENTS: dict[str, Callable[[Lines, Iterable[str], str], None]] = {
    "ip-masq-agent": _masq_agent,
    "ip-masq": _masq,
    "aws-snat": _aws_snat,
}
