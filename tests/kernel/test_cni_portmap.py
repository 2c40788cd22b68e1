"""portmap on a machine of namespaces: packets to host ports, the reference plugin's rules, rules that come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from cni_site import AGENT, ALONE, REFERENCE, Site, cni_site
from glassnet.agent.cni.node import Node as CniNode
from glassnet.agent.cni.server import CniServer
from glassnet.kernel.api import NetNs, Sandbox
from glassnet.netstack.ops import AddAddress, AddRoute, AddVeth, SetLink

pytestmark = pytest.mark.kernel
OUTSIDE, NODE, NODE6 = "192.0.2.2", "192.0.2.1", "2001:db8:f::1"
BACKENDS = ("iptables", "nftables")


def bridge(**changes: Any) -> dict[str, Any]:
    ranges = [[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd00:22::/64"}]]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
    base = {
        "cniVersion": "1.0.0",
        "name": "mynet",
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
    }
    return {**base, "ipam": ipam, **changes}


def mapping(host: int, container: int = 80, protocol: str = "tcp", ip: str = "") -> dict[str, Any]:
    return {"hostPort": host, "containerPort": container, "protocol": protocol, **({"hostIP": ip} if ip else {})}


def portmap(*mappings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    base = {"cniVersion": "1.0.0", "name": "mynet", "type": "portmap", "capabilities": {"portMappings": True}}
    return {**base, "runtimeConfig": {"portMappings": list(mappings)}, **changes}


def result(*addresses: str, **changes: Any) -> dict[str, Any]:
    """A previous result made up."""
    interfaces = [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/x"}]
    return {
        "cniVersion": "1.0.0",
        "interfaces": interfaces,
        "ips": [{"address": one, "interface": 1} for one in addresses],
        **changes,
    }


class Ports:
    """A site with pods, and a host beyond it."""

    def __init__(self, site: Site) -> None:
        self.site, self.machine = site, site.machine
        self.made: list[Sandbox] = []
        self.open: list[socket.socket] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def sandbox(self) -> Sandbox:
        number = len(self.made)
        self.made.append(await self.machine.sandbox(f"ns-{number}", f"pod-{number}", {}))
        return self.made[-1]

    async def pod(
        self, container: str, *mappings: dict[str, Any], where: str = AGENT, **changes: Any
    ) -> tuple[Sandbox, Any]:
        """A pod on the bridge with its ports mapped; its sandbox and result."""
        made = await self.sandbox()
        given = await self.site.call("bridge", "ADD", bridge(), container, netns=made.netns.name)
        assert "code" not in given, given
        config = portmap(*mappings, prevResult=given, **changes)
        answer = await self.site.call("portmap", "ADD", config, container, netns=made.netns.name, where=where)
        assert answer == given, answer
        return made, given

    async def outside(self) -> Sandbox:
        host = await self.sandbox()
        self.machine.netns.apply([AddVeth("eth9", "eth0", peer_netns=host.netns.fd), AddAddress(f"{NODE}/24", "eth9"),
                                  AddAddress(f"{NODE6}/64", "eth9", nodad=True), SetLink("eth9", up=True)])  # fmt: skip
        host.netns.apply([AddAddress(f"{OUTSIDE}/24", "eth0"), AddAddress("2001:db8:f::2/64", "eth0", nodad=True),
                          SetLink("eth0", up=True), AddRoute("default", gateway=NODE, dev="eth0")])  # fmt: skip
        return host

    def serve(
        self, netns: NetNs, port: int, word: str = "", protocol: str = "tcp", family: int = socket.AF_INET
    ) -> None:
        """Answer in a namespace with a word and the address of whoever asks."""
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        listening = netns.socket(family, kind)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("", port))
        self.open.append(listening)
        if protocol == "tcp":
            listening.listen(50)
        self.tasks.append(asyncio.create_task(_answer(listening, word, protocol)))

    async def ask(self, netns: NetNs, address: str, port: int, protocol: str = "tcp", seconds: float = 3) -> str:
        """What the server says; "" when nobody answers."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        loop = asyncio.get_running_loop()
        with netns.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as client:
            try:
                async with asyncio.timeout(seconds):
                    await loop.sock_connect(client, (address, port))
                    await loop.sock_sendall(client, b"?")
                    return (await loop.sock_recv(client, 200)).decode()
            except (OSError, TimeoutError):
                return ""

    async def nat(self, family: int = 4) -> list[str]:
        """The table as iptables-save prints it, without counters."""
        text = await self.site.run("iptables-save" if family == 4 else "ip6tables-save", "-t", "nat")
        return [
            line.rpartition(" ")[0] if line.startswith(":") else line for line in text.splitlines() if line[0] in ":-"
        ]

    async def nft(self) -> str:
        text = await self.site.run("nft", "list", "ruleset")
        return "\n".join(line for line in text.splitlines() if not line.startswith("#"))

    def kept(self) -> list[str]:
        place = self.site.path("/run/glassnet/cni/rules")
        return sorted(one.name for one in place.iterdir()) if place.is_dir() else []


async def _answer(listening: socket.socket, word: str, protocol: str) -> None:
    loop = asyncio.get_running_loop()
    while True:
        if protocol == "udp":
            _, peer = await loop.sock_recvfrom(listening, 100)
            await loop.sock_sendto(listening, f"{word}{peer[0]}".encode(), peer)
            continue
        client, peer = await loop.sock_accept(listening)
        with client:
            await loop.sock_sendall(client, f"{word}{peer[0]}".encode())


@contextlib.asynccontextmanager
async def ports_site() -> AsyncIterator[Ports]:
    async with cni_site() as site:
        made = Ports(site)
        try:
            yield made
        finally:
            for task in made.tasks:
                task.cancel()
            await asyncio.gather(*made.tasks, return_exceptions=True)
            for each in made.open:
                each.close()
            for sandbox in made.made:
                await sandbox.remove()


@pytest.fixture
async def ports() -> AsyncIterator[Ports]:
    async with ports_site() as made:
        yield made


async def eventually(question: Callable[[], Awaitable[Any]], seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := await question()):
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)
    return answer


# -- packets


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", [AGENT, ALONE])
async def test_packets_come_from_everywhere(ports: Ports, backend: str, where: str) -> None:
    host = await ports.outside()
    mapped = [mapping(8080), mapping(5353, 53, "udp"), mapping(8081, 80, "tcp", "::")]
    pod, given = await ports.pod("c1", *mapped, where=where, backend=backend)
    other, _ = await ports.pod("c2")
    for netns_family, address in ((socket.AF_INET, NODE), (socket.AF_INET6, NODE6)):
        ports.serve(pod.netns, 80, "pod ", family=netns_family)
        ports.serve(pod.netns, 53, "pod ", "udp", family=netns_family)
        sender = OUTSIDE if netns_family == socket.AF_INET else "2001:db8:f::2"
        assert await ports.ask(host.netns, address, 8080) == f"pod {sender}"
        assert await ports.ask(host.netns, address, 5353, "udp") == f"pod {sender}"
        assert (await ports.ask(ports.machine.netns, address, 8080)).startswith("pod ")  # from the node itself
        assert (await ports.ask(other.netns, address, 8080)).startswith("pod ")
        assert (await ports.ask(pod.netns, address, 8080)).startswith("pod ")  # its own port: hairpin
    assert await ports.ask(ports.machine.netns, "127.0.0.1", 8080) == "pod 10.22.0.1"
    assert (await ports.ask(ports.machine.netns, "127.0.0.1", 5353, "udp")).startswith("pod ")
    assert await ports.ask(host.netns, NODE6, 8081) and not await ports.ask(host.netns, NODE, 8081, seconds=0.3)
    config = portmap(*mapped, prevResult=given, backend=backend)
    assert await ports.site.call("portmap", "CHECK", config, "c1", netns=pod.netns.name, where=where) is None
    assert await ports.site.call("portmap", "DEL", config, "c1", netns="", where=where) is None
    assert not await ports.ask(host.netns, NODE, 8080, seconds=0.5) and not await ports.ask(
        host.netns, NODE6, 8080, seconds=0.5
    )
    answer = await ports.site.call("portmap", "CHECK", config, "c1", netns=pod.netns.name, where=where)
    assert answer["code"] == 999 and answer["msg"].startswith("could not check ipv4 dnat: ")
    assert not [name for name in ports.kept() if name.startswith("portmap")]


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_host_ip_is_one_address(ports: Ports, backend: str) -> None:
    host = await ports.outside()
    ports.machine.netns.apply([AddAddress("192.0.2.7/24", "eth9")])
    pod, _ = await ports.pod("c1", mapping(8080, ip="192.0.2.7"), backend=backend)
    ports.serve(pod.netns, 80, "pod ")
    assert await ports.ask(host.netns, "192.0.2.7", 8080) == f"pod {OUTSIDE}"
    assert not await ports.ask(host.netns, NODE, 8080, seconds=0.5)


async def test_what_is_routed_through_the_node_is_left_alone(ports: Ports) -> None:
    host = await ports.outside()
    await ports.pod("c1", mapping(8080), backend="nftables")
    far, _ = await ports.pod("c2")
    ports.serve(far.netns, 8080, "far ")
    assert await ports.ask(host.netns, "10.22.0.3", 8080) == f"far {OUTSIDE}"


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_udp_client_that_sends_on_follows_the_port(ports: Ports, backend: str) -> None:
    host, loop = await ports.outside(), asyncio.get_running_loop()
    ports.serve(ports.machine.netns, 5353, "node ", "udp")
    with host.netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        await loop.sock_connect(client, (NODE, 5353))

        async def ask() -> bytes:
            await loop.sock_sendall(client, b"?")
            return await asyncio.wait_for(loop.sock_recv(client, 100), 3)

        assert (await ask()).startswith(b"node ")
        pod = await ports.sandbox()
        given = await ports.site.call("bridge", "ADD", bridge(), "c1", netns=pod.netns.name)
        ports.serve(pod.netns, 53, "pod ", "udp")
        config = portmap(mapping(5353, 53, "udp"), prevResult=given, backend=backend)
        await ports.site.call("portmap", "ADD", config, "c1", netns=pod.netns.name)
        assert (await ask()).startswith(b"pod ")


async def test_without_snat_the_sender_stays(ports: Ports) -> None:
    pod, _ = await ports.pod("c1", mapping(8080), snat=False)
    other, _ = await ports.pod("c2")
    host = await ports.outside()
    ports.serve(pod.netns, 80, "pod ")
    assert await ports.ask(host.netns, NODE, 8080) == f"pod {OUTSIDE}"
    assert "SETMARK" not in "\n".join(await ports.nat())
    route = "/proc/sys/net/ipv4/conf/cni0/route_localnet"
    assert (await ports.site.run("cat", route)).strip() == "0"
    _, _ = await ports.pod("c3", mapping(8081))
    assert (await ports.site.run("cat", route)).strip() == "1" and other


# -- the reference plugin's rules

EXAMPLES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one": ([mapping(8080)], {}),
    "protocols": ([mapping(8080), mapping(53, 53, "udp"), mapping(99, 98, "sctp"), mapping(8081)], {}),
    "host-ips": ([mapping(8080, ip="192.0.2.7"), mapping(8081, ip="0.0.0.0"), mapping(8082, ip="::1")], {}),
    "no-snat": ([mapping(8080)], {"snat": False}),
    "conditions": ([mapping(8080)], {"conditionsV4": ["!", "-d", "192.0.2.0/24"], "conditionsV6": ["!", "-d", "2001:db8::/64"]}),
    "bit": ([mapping(8080)], {"markMasqBit": 5}),
    "external": ([mapping(8080)], {"externalSetMarkChain": "KUBE-MARK-MASQ"}),
    "many": ([mapping(9000 + number) for number in range(17)], {}),
}  # fmt: skip


@pytest.mark.parametrize("tool", ["nft", "legacy"])
async def test_rules_are_those_of_the_reference_and_either_takes_the_others_away(ports: Ports, tool: str) -> None:
    if tool == "legacy":
        await legacy(ports)
    await ports.sandbox()
    for text in ("iptables", "ip6tables"):
        await ports.site.run(text, "-t", "nat", "-N", "KUBE-MARK-MASQ")
    addresses = [result("10.22.0.5/24", "fd00:22::5/64")]
    for name, (mappings, changes) in EXAMPLES.items():
        config = portmap(*mappings, prevResult=addresses[0], **changes)
        seen = {}
        for maker, remover in ((REFERENCE, AGENT), (AGENT, REFERENCE), (ALONE, ALONE)):
            assert "code" not in await ports.site.call("portmap", "ADD", config, "ctr1", netns="ns-0", where=maker)
            seen[maker] = await ports.nat(4), await ports.nat(6)
            assert await ports.site.call("portmap", "DEL", config, "ctr1", netns="ns-0", where=remover) is None
            left = [*await ports.nat(4), *await ports.nat(6)]
            assert not [line for line in left if "CNI-DN" in line], (name, maker)
            await eventually(lambda: _nothing(ports))  # else the flush that follows looks like the cause
            for text in ("iptables", "ip6tables"):  # begin anew: marks of other bits would stay
                await ports.site.sh(f"{text} -t nat -F; {text} -t nat -X; {text} -t nat -N KUBE-MARK-MASQ")
        for other in (AGENT, ALONE):
            assert seen[other][0] == seen[REFERENCE][0], (name, other)
            if (
                tool == "legacy"
            ):  # ip6tables-legacy -C finds rules that are not there, and so the reference leaves some out
                assert set(seen[other][1]) >= set(seen[REFERENCE][1]), (name, other)
            else:
                assert seen[other][1] == seen[REFERENCE][1], (name, other)


async def _nothing(ports: Ports) -> bool:
    return not ports.kept()


async def test_rules_as_values(ports: Ports) -> None:
    await ports.sandbox()
    config = portmap(mapping(8080), prevResult=result("10.22.0.5/24"))
    await ports.site.call("portmap", "ADD", config, "ctr1", netns="ns-0")
    dn = "CNI-DN-5145007e2a8415ce07579"
    assert [line for line in await ports.nat() if line.startswith(f"-A {dn}")] == [
        f"-A {dn} -s 10.22.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK",
        f"-A {dn} -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK",
        f"-A {dn} -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.22.0.5:80",
    ]
    config = portmap(mapping(8080), prevResult=result("10.22.0.5/24"), masqAll=True)
    await ports.site.call("portmap", "ADD", config, "ctr1", netns="ns-0")  # again, with other keys: replaced
    assert [line for line in await ports.nat() if line.startswith(f"-A {dn}")] == [
        f"-A {dn} -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK",
        f"-A {dn} -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.22.0.5:80",
    ]
    assert sum(line.endswith(f"-j {dn}") for line in await ports.nat()) == 1


async def legacy(ports: Ports) -> None:
    """Have the node's iptables be the legacy one."""
    for name in ("iptables", "ip6tables"):
        for end in ("", "-save", "-restore"):
            await ports.site.sh(f"ln -sf /usr/sbin/xtables-legacy-multi /usr/local/sbin/{name}{end}")
    assert "legacy" in await ports.site.run("iptables", "--version")


async def test_shared_rules_come_once_however_many_come_at_once(ports: Ports) -> None:
    await ports.sandbox()
    calls = [
        ports.site.call("portmap", "ADD", portmap(mapping(8000 + n), prevResult=result(f"10.22.0.{n + 2}/24")), f"c{n}",
                        netns="ns-0", where=AGENT if n % 4 else ALONE)
        for n in range(12)
    ]  # fmt: skip
    assert not [one for one in await asyncio.gather(*calls) if "code" in one]
    nat = await ports.nat()
    assert sum(line.startswith("-A CNI-HOSTPORT-DNAT") for line in nat) == 12
    for chain in ("PREROUTING", "OUTPUT", "POSTROUTING", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"):
        assert sum(line.startswith(f"-A {chain} ") for line in nat) == 1, chain


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_port_that_is_held_is_refused(ports: Ports, backend: str) -> None:
    await ports.sandbox()

    async def add(container: str, *mappings: dict[str, Any], address: str = "10.22.0.9/24", **changes: Any) -> Any:
        config = portmap(*mappings, prevResult=result(address), backend=backend, **changes)
        return await ports.site.call("portmap", "ADD", config, container, netns="ns-0")

    assert "code" not in await add("c1", mapping(8080), mapping(8081, ip="192.0.2.7"), name="first")
    before = await ports.nft()
    refused = await add("c2", mapping(8079), mapping(8080))
    assert refused["msg"] == 'host port 8080/tcp is held by container "c1" of network "first"'
    assert (await add("c2", mapping(8081)))["code"] == 999
    assert await ports.nft() == before or backend == "iptables"
    assert "CNI-DN-" not in "\n".join(line for line in await ports.nat() if "second" in line)
    assert "code" not in await add("c2", mapping(8081, ip="192.0.2.8"), mapping(8080, 80, "udp"))
    again = await add(
        "c1", mapping(8080), address="10.23.0.9/24", name="other"
    )  # the same container in another network
    assert "code" not in again
    assert "code" not in await add("c1", mapping(8080), name="first")  # once more


# -- GC and STATUS


@pytest.mark.parametrize("backend", BACKENDS)
async def test_gc_takes_what_is_not_in_the_list(ports: Ports, backend: str) -> None:
    await ports.sandbox()
    for network, container, port in (("mynet", "c1", 1), ("mynet", "c2", 2), ("mynet-c2", "x", 3), ("other", "c2", 4)):
        config = portmap(mapping(port), prevResult=result(f"10.22.0.{port + 2}/24"), name=network, backend=backend)
        assert "code" not in await ports.site.call("portmap", "ADD", config, container, netns="ns-0")
    if backend == "iptables":
        old = "iptables -t nat -N CNI-HOSTPORT-SNAT; iptables -t nat -N CNI-SN-000000000000000000000; iptables -t nat -A CNI-HOSTPORT-SNAT"
        await ports.site.sh(
            f"""{old} -m comment --comment 'snat name: "mynet" id: "gone"' -j CNI-SN-000000000000000000000"""
        )
    valid = [{"containerID": "c1", "ifname": "eth0"}]
    config = {**portmap(cniVersion="1.1.0", backend=backend), "cni.dev/valid-attachments": valid}
    assert await ports.site.call("portmap", "GC", config) is None
    text = "\n".join(await ports.nat()) if backend == "iptables" else await ports.nft()
    assert "10.22.0.3:80" in text and "10.22.0.4:80" not in text and "10.22.0.5:80" in text and "10.22.0.6:80" in text
    assert "CNI-SN" not in text
    assert len(ports.kept()) == 3 and not [one for one in ports.kept() if one.endswith("mynet-c2")]


@pytest.mark.parametrize("backend", BACKENDS)
async def test_status(ports: Ports, backend: str) -> None:
    config = portmap(cniVersion="1.1.0", backend=backend)
    for where in (AGENT, ALONE):
        assert await ports.site.call("portmap", "STATUS", config, where=where) is None
    await ports.site.sh("mkdir -p /tmp/none; for p in iptables ip6tables nft; do printf '#!/bin/sh\nexit 9' > /tmp/none/$p; chmod +x /tmp/none/$p; done")  # fmt: skip
    answer = await ports.site.call(
        "portmap", "STATUS", config, where=ALONE, PATH="/tmp/none:/usr/sbin:/usr/bin:/sbin:/bin"
    )
    assert answer["code"] == 50 and answer["msg"].startswith(f"portmap: {backend} is not usable: ")


# -- rules that come back


async def flushed(ports: Ports, line: str, backend: str) -> None:
    host = await ports.outside()
    pod, given = await ports.pod("c1", mapping(8080), backend=backend)
    ports.serve(pod.netns, 80, "pod ")
    rules = await ports.nat(), await ports.nat(6)
    await ports.site.sh(line)
    await eventually(lambda: ports.ask(host.netns, NODE, 8080, seconds=0.2))
    config = portmap(mapping(8080), prevResult=given, backend=backend)

    async def whole() -> bool:
        return await ports.site.call("portmap", "CHECK", config, "c1", netns=pod.netns.name) is None

    await eventually(whole)
    assert await ports.site.call("bridge", "CHECK", bridge(prevResult=given), "c1", netns=pod.netns.name) is None
    assert [sorted(one) for one in (await ports.nat(), await ports.nat(6))] == [sorted(one) for one in rules]
    assert await ports.site.call("portmap", "DEL", config, "c1", netns="") is None
    assert await ports.site.call("bridge", "DEL", bridge(prevResult=given), "c1", netns="") is None
    assert "CNI-DN" not in "\n".join(await ports.nat()) and "10.22.0" not in await ports.nft() and not ports.kept()


FLUSHES = (
    "iptables -t nat -F; ip6tables -t nat -F",
    "iptables -t nat -F PREROUTING",
    "iptables -t nat -F POSTROUTING",
    "iptables -t nat -F CNI-HOSTPORT-DNAT",
    "iptables -t nat -F $(iptables -t nat -S | grep -o 'CNI-DN-[0-9a-f]*' | head -1)",
    "iptables -t nat -F; iptables -t nat -X",
)  # fmt: skip


@pytest.mark.parametrize("line", [*FLUSHES, "nft flush ruleset", "nft delete table ip nat"])
async def test_iptables_rules_come_back(ports: Ports, line: str) -> None:
    await flushed(ports, line, "iptables")


@pytest.mark.parametrize("line", FLUSHES[:3])
async def test_legacy_rules_come_back(ports: Ports, line: str) -> None:
    await legacy(ports)
    await flushed(ports, line, "iptables")


@pytest.mark.parametrize("line", ["nft flush ruleset", "nft delete table ip cni_hostport", "nft flush chain ip cni_hostport hostports",
                                  "nft flush chain ip cni_hostport prerouting"])  # fmt: skip
async def test_nftables_rules_come_back(ports: Ports, line: str) -> None:
    await flushed(ports, line, "nftables")


async def test_an_agent_that_starts_puts_back_what_was_lost(ports: Ports) -> None:
    await ports.pod("c1", mapping(8080), where=ALONE)
    rules = await ports.nat()
    await ports.site.server.close()
    await ports.site.cni.close()
    await ports.site.sh("iptables -t nat -F; iptables -t nat -X")
    fresh = CniNode(ports.machine)
    server = CniServer(fresh)
    await server.start()
    try:
        await eventually(lambda: _same(ports, rules))
    finally:
        await server.close()
        await fresh.close()


async def _same(ports: Ports, rules: list[str]) -> bool:
    return sorted(await ports.nat()) == sorted(rules)


async def test_quiet_while_only_plugins_write(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    repair = ports.site.cni.keeper.repair

    async def counted(since: float) -> int:
        looks.append(time.monotonic())
        return await repair(since)

    monkeypatch.setattr(ports.site.cni.keeper, "repair", counted)
    for number in range(3):
        _, given = await ports.pod(f"c{number}", mapping(8080 + number))
        if number:
            config = portmap(mapping(8080 + number), prevResult=given)
            await ports.site.call("portmap", "DEL", config, f"c{number}", netns="")
            await ports.site.call("bridge", "DEL", bridge(prevResult=given), f"c{number}", netns="")
    await asyncio.sleep(0.3)
    assert not looks
    await ports.site.sh("iptables -t nat -F")

    async def looked() -> bool:
        return bool(looks)

    await eventually(looked)
    await asyncio.sleep(0.7)
    assert len(looks) <= 3  # its own writing is looked at at most once more


async def test_a_chain_of_somebody_else_that_is_missing_holds_nobody_else_up(ports: Ports) -> None:
    await ports.site.run("iptables", "-t", "nat", "-N", "KUBE-MARK-MASQ")
    await ports.site.run("ip6tables", "-t", "nat", "-N", "KUBE-MARK-MASQ")
    await ports.pod("c1", mapping(8080), externalSetMarkChain="KUBE-MARK-MASQ")
    await ports.pod("c2", mapping(8081))
    before = await ports.nat()
    await ports.site.run("nft", "flush", "ruleset")

    async def back(port: int) -> bool:
        return any(f"--dports {port}" in line for line in await ports.nat())

    await eventually(lambda: back(8081))
    assert not await back(8080) and ports.kept()
    await ports.site.run("iptables", "-t", "nat", "-N", "KUBE-MARK-MASQ")
    await eventually(lambda: back(8080))
    assert json.dumps(sorted(before)) == json.dumps(sorted(await ports.nat()))


async def test_a_container_that_another_plugin_took_away_stays_away(ports: Ports) -> None:
    await ports.sandbox()
    config = portmap(mapping(8080), prevResult=result("10.22.0.5/24"))
    await ports.site.call("portmap", "ADD", config, "c1", netns="ns-0")
    await ports.site.call("portmap", "DEL", config, "c1", netns="ns-0", where=REFERENCE)
    await eventually(lambda: _nothing(ports))
    assert "CNI-DN" not in "\n".join(await ports.nat())


async def test_pods_that_come_while_rules_are_flushed(ports: Ports) -> None:
    """New rules beside lost ones are no proof that those were taken away on purpose."""
    await ports.sandbox()

    async def add(number: int) -> None:
        config = portmap(mapping(8000 + number), prevResult=result(f"10.22.0.{number + 2}/24"))
        assert "code" not in await ports.site.call("portmap", "ADD", config, f"c{number}", netns="ns-0")

    for number in range(4):
        await add(number)
    await ports.site.sh("iptables -t nat -F; iptables -t nat -X")
    for number in range(4, 8):
        await add(number)

    async def whole() -> bool:
        return all(
            any(f"--dports {8000 + number} " in line for line in nat)
            for nat in [await ports.nat()]
            for number in range(8)
        )

    await eventually(whole)
    assert sum(line.startswith("-A CNI-HOSTPORT-DNAT") for line in await ports.nat()) == 8
