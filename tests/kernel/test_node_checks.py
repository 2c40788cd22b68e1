"""Each check of `glassnet preflight node` on a machine that has the fault, and on one that has not."""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from pods_machine import Node, node_of_namespaces, until

from glassnet.kernel import node_checks
from glassnet.kernel.node_checks import clock, features, firewalls, links, places, rivals, settings
from glassnet.kernel.node_checks.result import Check, Result, Verdict
from glassnet.kernel.preflight import in_a_child
from glassnet.kernel.spawn import KernelProcess
from glassnet.netstack.ops import AddRoute

pytestmark = pytest.mark.kernel


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with node_of_namespaces() as made:
        yield made


def of(found: Sequence[Result], *names: str) -> list[tuple[str, str]]:
    """(check, verdict) of what is not ok, of some checks when named."""
    return [(r.check, str(r.verdict)) for r in found if r.verdict != Verdict.OK and (not names or r.check in names)]


async def program(node: Node, name: str) -> KernelProcess:
    """A process of this name on the machine."""
    shutil.copy("/bin/sleep", node.machine.root / "tmp" / name)
    process = await node.machine.spawn([f"/tmp/{name}", "600"], env={})
    await until(lambda: any(each == name for _, each in node_checks.result.processes(node.machine)))
    return process


async def nft(node: Node, script: str) -> None:
    await node.run("nft", "-f", "-", stdin=script.replace(" }", "\n}\n").encode())


# -- kernel


async def test_this_kernel_has_all_and_nothing_is_left_by_trying() -> None:
    async with node_of_namespaces() as node:
        before = await node.run("nft", "list", "ruleset"), await node.run("ip", "link")
        assert of(await features.kernel_features(node.machine)) == []
        assert (await node.run("nft", "list", "ruleset"), await node.run("ip", "link")) == before


def test_what_the_kernel_lacks_is_told_in_its_words() -> None:
    found = features.probe_result("a match", features.iptables_rule("-A", "FORWARD", "-m", "nosuchmatch", "-j", "ACCEPT"), "the way out")  # fmt: skip
    assert (found.verdict, found.remedy) == (Verdict.ERROR, "the way out")
    assert "nosuchmatch" in found.found
    assert "no-such" in in_a_child(lambda: features.run_quietly("no-such-program"))


def test_old_kernels() -> None:
    assert [features.judge_kernel(text).verdict for text in ("4.19.0-20-amd64", "5.10.0", "6.1.0-9-amd64")] == ["error", "warning", "ok"]  # fmt: skip


async def test_forwarding(node: Node) -> None:
    node.machine.sysctl({"net.ipv4.ip_forward": 0, "net.ipv6.conf.all.forwarding": 0})
    assert of(await settings.ip_forward(node.machine)) == [("forwarding IPv4", "warning"), ("forwarding IPv6", "warning")]  # fmt: skip
    node.machine.sysctl({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})
    assert of(await settings.ip_forward(node.machine)) == []


async def test_the_reverse_path(node: Node) -> None:
    node.machine.sysctl({"net.ipv4.conf.all.rp_filter": 1})
    assert of(await settings.rp_filter(node.machine)) == [("reverse path filter", "warning")]
    node.machine.sysctl({"net.ipv4.conf.all.rp_filter": 2})
    assert of(await settings.rp_filter(node.machine)) == []


async def test_a_strict_reverse_path_on_a_node_s_link_matters_beside_tunnels(node: Node) -> None:
    node.machine.sysctl({"net.ipv4.conf.all.rp_filter": 0})
    for words in ("eth0 type veth peer name wire", "pods0 type veth peer name pod0"):
        await node.run("ip", "link", "add", *words.split())
    await node.run("ip", "addr", "add", "10.9.9.1/24", "dev", "eth0")
    await node.run("ip", "link", "set", "eth0", "up")
    node.machine.netns.apply([AddRoute("0.0.0.0/0", gateway="10.9.9.254", dev="eth0")])
    node.machine.sysctl({"net.ipv4.conf.pods0.rp_filter": 1, "net.ipv4.conf.eth0.rp_filter": 1})
    assert of(await settings.rp_filter(node.machine)) == []
    await node.run(
        "ip", "link", "add", "glassnet-vxlan", "type", "vxlan", "id", "1", "dstport", "8472", "local", "10.9.9.1"
    )
    (found,) = await settings.rp_filter(node.machine)
    assert (found.verdict, "strict on eth0, and" in found.found) == (Verdict.WARNING, True)
    node.machine.sysctl({"net.ipv4.conf.all.rp_filter": 2})  # the larger of both counts
    assert of(await settings.rp_filter(node.machine)) == []


async def test_bridged_packets_that_pass_netfilter_by(node: Node) -> None:
    both = [f"net.bridge.bridge-nf-call-{name}" for name in ("iptables", "ip6tables")]
    node.machine.sysctl(dict.fromkeys(both, 0))
    assert of(await settings.bridge_calls(node.machine)) == [("bridge-nf-call", "warning")] * 2
    node.machine.sysctl(dict.fromkeys(both, 1))
    assert of(await settings.bridge_calls(node.machine)) == []


async def test_limits_that_are_not_a_namespace_s_own(node: Node) -> None:
    """They are the whole machine's, which tests leave alone: the judgement is tried, and that the machine's are read."""
    assert [settings.judge_conntrack(*each).verdict for each in ((262144, 7), (65536, 7), (262144, 262000))] == ["ok", "warning", "error"]  # fmt: skip
    assert [settings.judge_inotify(*each).verdict for each in ((1024, 100000), (128, 100000), (1024, 8192))] == ["ok", "warning", "warning"]  # fmt: skip
    assert len(await settings.conntrack(node.machine)) == len(await settings.inotify(node.machine)) == 1


# -- others


async def test_kube_proxy_s_rules_and_then_itself(node: Node) -> None:
    assert of(await rivals.kube_proxy(node.machine)) == []
    await node.run("iptables-nft-restore", stdin=b"*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n")
    await nft(node, "table ip kube-proxy { chain c { type nat hook prerouting priority -100; } }")
    (found,) = await rivals.kube_proxy(node.machine)
    assert found.verdict == Verdict.WARNING
    assert "KUBE-SERVICES of iptables-nft" in found.found
    assert "table ip kube-proxy" in found.found
    await program(node, "kube-proxy")
    assert of(await rivals.kube_proxy(node.machine)) == [("kube-proxy", "error")]


@pytest.mark.parametrize(("link", "owner"), [("flannel.1", "flannel"), ("cilium_host", "Cilium"), ("antrea-gw0", "Antrea"), ("vxlan.calico", "Calico"), ("cali12345678901", "Calico"), ("weave", "Weave Net"), ("kube-ipvs0", "ipvs")])  # fmt: skip
async def test_links_of_other_networks(node: Node, link: str, owner: str) -> None:
    assert of(await rivals.other_networks(node.machine)) == []
    await node.run("ip", "link", "add", link, "type", "bridge")
    (found,) = await rivals.other_networks(node.machine)
    assert (found.verdict, owner in found.found, link in found.found) == (Verdict.WARNING, True, True)


async def test_agents_of_other_networks(node: Node) -> None:
    process = await program(node, "flanneld")
    assert of(await rivals.other_networks(node.machine)) == [("other networks", "error")]
    process.signal(9)
    await process.wait()
    assert of(await rivals.other_networks(node.machine)) == []


async def test_cni_configurations_that_come_first(node: Node) -> None:
    place = node.machine.root / "etc/cni/net.d"
    place.mkdir(parents=True, exist_ok=True)
    for each in place.iterdir():
        each.unlink()
    assert of(await rivals.cni_configurations(node.machine)) == []
    (place / "10-glassnet.conflist").write_text("{}")
    assert of(await rivals.cni_configurations(node.machine)) == []
    (place / "10-kindnet.conflist").write_text("{}")
    assert of(await rivals.cni_configurations(node.machine)) == [("CNI configurations", "warning")]
    (place / "05-cilium.conflist").write_text("{}")
    (found,) = await rivals.cni_configurations(node.machine)
    assert found.verdict == Verdict.ERROR
    assert "05-cilium.conflist" in found.found
    assert "kindnet" not in found.found


async def test_firewalld_and_ufw(node: Node) -> None:
    assert of(await firewalls.firewall_services(node.machine)) == []
    await nft(node, "table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; } }")
    assert of(await firewalls.firewall_services(node.machine)) == [("firewalld", "warning")]
    await program(node, "firewalld")
    assert of(await firewalls.firewall_services(node.machine)) == [("firewalld", "error")]
    await node.run("iptables-nft-restore", stdin=b"*filter\n:ufw-before-forward - [0:0]\n-A FORWARD -j ufw-before-forward\nCOMMIT\n")  # fmt: skip
    assert of(await firewalls.firewall_services(node.machine)) == [("firewalld", "error"), ("ufw", "warning")]


@pytest.mark.parametrize("tool", ["nft", "legacy"])
async def test_a_policy_that_drops_what_is_forwarded(node: Node, tool: str) -> None:
    await node.run(f"iptables-{tool}", "-P", "INPUT", "DROP")  # no matter: not forwarded
    assert of(await firewalls.forward_policy(node.machine)) == []
    await node.run(f"iptables-{tool}", "-P", "FORWARD", "DROP")
    (found,) = await firewalls.forward_policy(node.machine)
    assert (found.verdict, f"iptables-{tool}" in found.found) == (Verdict.ERROR, True)


async def test_tables_of_others_that_drop(node: Node) -> None:
    await node.run("iptables-nft", "-P", "FORWARD", "DROP")  # told by another check
    await nft(node, "table inet mine { chain out { type filter hook output priority 0; policy drop; } }")
    assert of(await firewalls.foreign_tables(node.machine)) == []
    await nft(node, "table inet corp { chain forw { type filter hook forward priority 0; policy drop; } }")
    (found,) = await firewalls.foreign_tables(node.machine)
    assert (found.verdict, "inet corp forw (hook forward)" in found.found) == (Verdict.WARNING, True)


async def test_rules_in_both_kinds_of_iptables(node: Node) -> None:
    await node.run("iptables-nft", "-A", "FORWARD", "-j", "ACCEPT")
    assert of(await firewalls.both_iptables(node.machine)) == []
    await node.run("iptables-legacy", "-A", "FORWARD", "-j", "ACCEPT")
    assert of(await firewalls.both_iptables(node.machine)) == [("both kinds of iptables", "warning")]


async def test_looking_makes_no_legacy_tables(node: Node) -> None:
    for check in (*rivals.CHECKS, *firewalls.CHECKS):
        await check(node.machine)
    assert firewalls.legacy_tables(node.machine.netns) == set()


# -- links, clock, places


async def test_mtu(node: Node) -> None:
    assert of(await links.mtu(node.machine)) == [("MTU", "warning")]  # no default route
    await node.run("ip", "link", "add", "eth0", "mtu", "1500", "type", "veth", "peer", "name", "wire")
    await node.run("ip", "addr", "add", "10.9.9.1/24", "dev", "eth0")
    await node.run("ip", "link", "set", "eth0", "up")
    node.machine.netns.apply([AddRoute("0.0.0.0/0", gateway="10.9.9.254", dev="eth0")])
    assert of(await links.mtu(node.machine)) == []

    async def said(mtu: str) -> str:
        await node.run("ip", "link", "set", "br0", "mtu", mtu)
        return (await links.mtu(node.machine))[0].found

    await node.run("ip", "link", "add", "br0", "type", "bridge")
    await node.run("ip", "link", "set", "br0", "up")
    assert "br0 have a larger MTU than eth0" in await said("9000")
    assert "br0 leave no room for VXLAN" in await said("1500")
    assert "pods get 1500, or 1450 with VXLAN" in await said("1450")
    await node.run("ip", "link", "set", "eth0", "mtu", "1300")
    assert "too little for VXLAN" in (await links.mtu(node.machine))[0].found


async def test_the_clock(node: Node) -> None:
    """The clock is the whole machine's: the judgement is tried, and that the kernel's word is read as adjtimex(2) gives it."""
    state, status = clock.read_clock()
    assert 0 <= state <= 5
    assert bool(status & 0x40) == (state == 5)
    assert clock.judge_clock(0, 0x2001, ["chronyd"]).verdict == Verdict.OK
    assert "no time service runs" in clock.judge_clock(5, 0x40, []).found
    assert "chronyd runs, but" in clock.judge_clock(5, 0x40, ["chronyd"]).found
    await program(node, "chronyd")
    (found,) = await clock.clock(node.machine)
    assert ("chronyd (pid" in found.found) is (state == 5)


def test_clocks_apart() -> None:
    assert [clock.judge_difference(each).verdict for each in (0.5, -1, 10, -10, 3600, -3600)] == ["ok", "ok", "warning", "warning", "error", "error"]  # fmt: skip
    assert "ahead" in clock.judge_difference(10).found
    assert "behind" in clock.judge_difference(-10).found


async def test_directories(node: Node) -> None:
    root = node.machine.root
    for name in ("opt/cni/bin", "etc/cni/net.d", "var/lib/cni"):
        (root / name).mkdir(parents=True, exist_ok=True)
    assert of(await places.directories(node.machine)) == []
    shutil.rmtree(root / "opt/cni/bin")
    (found,) = await places.directories(node.machine)
    assert (found.verdict, "/opt/cni/bin is not there" in found.found) == (Verdict.WARNING, True)
    await node.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/opt")
    await node.run("sh", "-c", "rm -r /etc/cni/net.d && touch /etc/cni/net.d")
    said = {result.found.split()[0]: str(result.verdict) for result in await places.directories(node.machine)}
    assert said == {"/opt/cni/bin": "error", "/etc/cni/net.d": "error"}


async def test_the_container_runtime(node: Node) -> None:
    assert of(await places.container_runtime(node.machine)) == [("container runtime", "warning")]
    place = node.machine.root / "run/containerd/containerd.sock"
    place.parent.mkdir(parents=True)
    place.write_text("no socket")
    assert of(await places.container_runtime(node.machine)) == [("container runtime", "warning")]
    place.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place))
        assert of(await places.container_runtime(node.machine)) == []


async def test_ports_that_others_have(node: Node) -> None:
    assert of(await places.ports(node.machine)) == []
    with (
        node.machine.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as health,
        node.machine.netns.socket(socket.AF_INET6, socket.SOCK_DGRAM) as vxlan,
    ):
        health.bind(("127.0.0.1", places.HEALTH))
        assert of(await places.ports(node.machine)) == []  # nobody listens
        health.listen()
        vxlan.bind(("::", places.VXLAN))
        said = [result.found for result in await places.ports(node.machine)]
        assert [text.split(" is taken")[0] for text in said] == ["TCP 10256", "UDP 8472"]
    await node.run("ip", "link", "add", "flannel.1", "type", "vxlan", "id", "1", "dstport", "8472", "local", "127.0.0.1")  # fmt: skip
    await node.run("ip", "link", "add", "other", "type", "vxlan", "id", "77", "dstport", "4789", "local", "127.0.0.1")
    assert [result.found for result in await places.ports(node.machine)] == ["the VXLAN link flannel.1 (id 1) has UDP 8472"]  # fmt: skip


async def test_a_check_that_cannot_look_says_so_and_the_others_go_on(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    async def blind_check(host: object) -> Sequence[Result]:
        raise OSError("no eyes")

    checks: tuple[Check, ...] = (blind_check, places.container_runtime)
    monkeypatch.setattr(node_checks, "CHECKS", checks)
    found = [result async for result in node_checks.results(node.machine)]
    assert [(r.check, str(r.verdict)) for r in found] == [("blind check", "warning"), ("container runtime", "warning")]
    assert "no eyes" in found[0].found


def test_every_check_is_in_the_document() -> None:
    """docs/design/preflight.md has a line for each name a check may give its findings."""
    text = (Path(__file__).resolve().parents[2] / "docs/design/preflight.md").read_text()
    names = ("kernel version", "rights", "bridge and veth", "vxlan", "token bucket (bandwidth)", "nftables", "iptables (", "br_netfilter",
             "forwarding IPv4", "forwarding IPv6", "reverse path filter", "bridge-nf-call", "connection tracking", "inotify", "kube-proxy",
             "other networks", "CNI configurations", "firewall services", "firewalld", "ufw", "policy of FORWARD", "nftables policies",
             "both kinds of iptables", "MTU", "clock", "clock and API server", "directories", "container runtime", "ports")  # fmt: skip
    assert [name for name in names if name not in text] == []
