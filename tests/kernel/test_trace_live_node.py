"""`glassnet trace --live` on a node that is no lab's: a namespace with rules of its own and a pod behind a cable."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
SETUP = """
mount -t tmpfs none /run && mkdir -p /run/netns && mount -t tmpfs none /var/lib && mkdir /var/lib/kubelet
hostname node && export GLASSNET_STATE=/run/labs
ip netns add pod && ip link set lo up && ip link add v0 type veth peer name eth0 netns pod
ip addr add 10.9.0.1/24 dev v0 && ip addr add fd00:9::1/64 dev v0 nodad && ip link set v0 up
ip -n pod addr add 10.9.0.2/24 dev eth0 && ip -n pod addr add fd00:9::2/64 dev eth0 nodad
ip -n pod link set eth0 up && ip -n pod route add default via 10.9.0.1 && ip route add default dev v0
iptables-nft -t nat -A PREROUTING -d 10.32.0.7 -p tcp --dport 80 -j DNAT --to-destination 10.9.0.1:8080
iptables-nft -t nat -A OUTPUT -d 10.32.0.7 -p tcp --dport 80 -j DNAT --to-destination 10.9.0.2:8080
ip6tables-nft -A INPUT -p ipv6-icmp -j ACCEPT
nft 'add table inet own; add chain inet own in { type filter hook input priority 5; }'
nft 'add rule inet own in meta mark set 7; add rule inet own in tcp dport 22 reject; add rule inet own in tcp dport 23 drop'
"""
FLOWS = (  # from, to, protocol, what the sender is told, how many rules match
    ("10.9.0.2", "10.32.0.7:80", "tcp", "refused", 2),
    ("node", "10.32.0.7:80", "tcp", "refused", 1),
    ("10.9.0.2", "10.9.0.1:22", "tcp", "refused", 2),
    ("node", "10.9.0.1:23", "tcp", "timeout", 2),
    ("10.9.0.2", "10.9.0.1:7", "udp", "refused", 1),
    ("fd00:9::2", "fd00:9::1", "icmp", "answered", 2),
)


def run(script: str) -> str:
    """Run a script in network, mount and host name namespaces of its own, after the setup."""
    words = ["unshare", "--net", "--mount", "--uts", "--propagation", "private", "sh", "-ec", SETUP + script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_node_sends_from_itself_and_from_its_pods() -> None:
    command = f"{sys.executable} -m glassnet trace --live -o json"
    script = "".join(f"{command} {source} {target} --proto {protocol} || true\necho ,\n" for source, target, protocol, *_ in FLOWS)  # fmt: skip
    printed = run(f"echo '['\n{script}nft -j list tables\necho ']'")
    *traces, tables = json.loads(printed)
    reports: list[dict[str, Any]] = [trace["live"] for trace in traces]
    for flow, found in zip(FLOWS, reports, strict=True):
        assert (found["verdict"], found["differences"]) == ("agreed", []), flow
        assert (found["result"], found["rules"]) == flow[3:], flow
    names = [item["table"]["name"] for item in tables["nftables"] if "table" in item]
    assert sorted(names) == ["filter", "nat", "own"]


def test_the_table_goes_with_the_process_that_made_it() -> None:
    script = f"{sys.executable} -m glassnet trace --live node 10.9.0.1:23 >/dev/null & "
    script += "for i in $(seq 200); do nft list tables | grep -q glassnet-trace && break; sleep 0.05; done\n"
    script += "nft list tables; kill -9 $!; wait $! || true; echo end; nft list tables"
    before, _, after = run(script).partition("end")
    assert "table ip glassnet-trace" in before
    assert "table inet own" in after and "glassnet-trace" not in after
