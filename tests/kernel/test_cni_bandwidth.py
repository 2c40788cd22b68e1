"""The bandwidth plugin: rates measured with traffic, queues compared with those the reference plugin makes, what is left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cni_site import AGENT, ALONE, REFERENCE, Site, cni_site
from glassnet.agent.cni.runtime import CniAgent
from glassnet.agent.pods.capabilities import bandwidth
from glassnet.cni import effects as e
from glassnet.cni import plugins
from glassnet.cni.bandwidth import ifb_name
from glassnet.kernel.capture import capture
from glassnet.kernel.netns import KernelNetNs
from glassnet.net.errors import GlassnetError, KernelError
from glassnet.netstack.ops import ProbeShaping
from glassnet.tracer.snapshot import read_world

pytestmark = pytest.mark.kernel
MBIT = 1_000_000
POD, NODE, OTHER = "10.55.0.2", "10.55.0.1", "10.56.0.1"
LIMITS = {"ingressRate": MBIT, "ingressBurst": 800_000, "egressRate": 2 * MBIT, "egressBurst": 1_600_000}


class Chain:
    """Containers on a veth pair each, as a plugin before ours would have left them."""

    def __init__(self, site: Site) -> None:
        self.site, self.made = site, 0

    async def container(self, name: str) -> dict[str, Any]:
        """A network namespace with eth0, whose other end is on the node; the result that comes before."""
        self.made += 1
        host = f"veth{self.made}"
        await self.site.sh(
            f"ip netns add {name} && ip link add {host} type veth peer name eth0 netns {name} &&"
            f"ip addr add {NODE}/24 dev {host} && ip addr add {OTHER}/32 dev {host} && ip link set {host} up &&"
            f"ip -n {name} link set lo up && ip -n {name} addr add {POD}/24 dev eth0 && ip -n {name} link set eth0 up &&"
            f"ip -n {name} route add default via {NODE}"
        )
        interfaces = [{"name": host}, {"name": "eth0", "sandbox": f"/run/netns/{name}"}]
        return {
            "cniVersion": "1.0.0",
            "interfaces": interfaces,
            "ips": [{"interface": 1, "address": f"{POD}/24"}],
            "dns": {},
        }

    async def remove(self, name: str) -> None:
        """The container, its namespace and its pair are gone."""
        await self.site.sh(f"ip link del veth{self.made}; ip netns del {name}")

    async def links(self) -> list[str]:
        """The ifb links of the node."""
        found = json.loads(await self.site.run("ip", "-j", "link", "show", "type", "ifb"))
        return [one["ifname"] for one in found if one]

    async def shaping(self, dev: str) -> dict[str, Any]:
        """What tc shows of a link, without what differs from link to link."""
        qdiscs = json.loads(await self.site.run("tc", "-j", "-d", "qdisc", "show", "dev", dev))
        filters = json.loads(await self.site.run("tc", "-j", "-d", "filter", "show", "dev", dev, "ingress"))
        for one in filters:
            actions = one.get("options", {}).get("actions", [])
            for action in actions:
                action.pop("index")
                action["to_dev"] = action["to_dev"][:3]
            del actions[1:]  # the reference's library adds one that is never reached
        return {"qdiscs": qdiscs, "filters": filters}

    async def rate(self, name: str, towards: bool, address: str = NODE, seconds: float = 1.5) -> float:
        """Bits a second that TCP gets through to or from a container, once the burst is used up."""
        with open_netns(self.site, name) as pod:
            there, here = (pod, self.site.machine.netns) if towards else (self.site.machine.netns, pod)
            listening = there.socket(socket.AF_INET, socket.SOCK_STREAM)
            sending = here.socket(socket.AF_INET, socket.SOCK_STREAM)
        sending.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0)
        )  # nothing goes on after its end
        target = (POD if towards else address, 5001)
        loop = asyncio.get_running_loop()
        receiving = None
        try:
            listening.bind(target)
            listening.listen()
            if towards:
                sending.bind((address, 0))
            await loop.sock_connect(sending, target)
            receiving, _ = await loop.sock_accept(listening)
            receiving.setblocking(False)
            return await asyncio.wait_for(measured(sending, receiving, seconds), 20)
        finally:
            for one in (listening, sending, receiving):
                if one:
                    one.close()


async def measured(sending: socket.socket, receiving: socket.socket, seconds: float) -> float:
    """Send without end, and count what comes in a time, from half a second on."""
    loop = asyncio.get_running_loop()

    async def send() -> None:
        while True:
            await loop.sock_sendall(sending, bytes(1 << 16))

    task = asyncio.create_task(send())
    try:
        begin = time.monotonic() + 0.5
        while time.monotonic() < begin:
            await loop.sock_recv(receiving, 1 << 16)
        begin, count = time.monotonic(), 0
        while time.monotonic() < begin + seconds:
            count += len(await loop.sock_recv(receiving, 1 << 16))
        return count * 8 / (time.monotonic() - begin)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def open_netns(site: Site, name: str) -> Any:
    """A container's network namespace; closed behind a `with`."""
    return contextlib.closing(KernelNetNs(name, os.open(site.path(f"/run/netns/{name}"), os.O_RDONLY), kept=True))


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    async with cni_site() as site:
        yield Chain(site)


def conf(previous: dict[str, Any] | None, **keys: Any) -> dict[str, Any]:
    base = {"cniVersion": "1.0.0", "name": "net", "type": "bandwidth"}
    return {**base, **({"prevResult": previous} if previous else {}), **keys}


GC = {"cniVersion": "1.1.0", "name": "net", "type": "bandwidth"}
FAST = {"ingressRate": 20 * MBIT, "ingressBurst": 800_000, "egressRate": 40 * MBIT, "egressBurst": 800_000}


@pytest.mark.parametrize("where", [AGENT, ALONE])
async def test_traffic_is_held_back_both_ways(chain: Chain, where: str) -> None:
    previous = await chain.container("c1")
    assert await chain.rate("c1", towards=True, seconds=0.3) > 200 * MBIT
    answer = await chain.site.call("bandwidth", "ADD", conf(previous, **FAST), where=where)
    assert [one["name"] for one in answer["interfaces"]] == ["veth1", "eth0", ifb_name("net", "c1")]
    assert 0.7 * 20 < await chain.rate("c1", towards=True) / MBIT < 1.2 * 20
    assert 0.7 * 40 < await chain.rate("c1", towards=False) / MBIT < 1.2 * 40
    assert await chain.site.call("bandwidth", "DEL", conf(answer, **FAST), where=where) is None
    assert await chain.links() == []


async def test_one_way_leaves_the_other_alone(chain: Chain) -> None:
    previous = await chain.container("c1")
    answer = await chain.site.call("bandwidth", "ADD", conf(previous, ingressRate=20 * MBIT, ingressBurst=800_000))
    assert answer == previous and await chain.links() == []
    assert await chain.rate("c1", towards=True, seconds=0.5) < 30 * MBIT
    assert await chain.rate("c1", towards=False, seconds=0.3) > 200 * MBIT


@pytest.mark.parametrize(
    "limits", [LIMITS, {"egressRate": 12_345_678, "egressBurst": 98_765}, {"ingressRate": 8, "ingressBurst": 64}]
)
async def test_queues_are_those_the_reference_makes(chain: Chain, limits: dict[str, int]) -> None:
    seen = []
    for where in (REFERENCE, AGENT):
        previous = await chain.container("c1")
        host = previous["interfaces"][0]["name"]
        answer = await chain.site.call("bandwidth", "ADD", conf(previous, **limits), where=where)
        ifbs = [one["name"] for one in answer["interfaces"][2:]]
        for one in answer["interfaces"][2:]:
            (link,) = json.loads(await chain.site.run("ip", "-j", "link", "show", one["name"]))
            assert (
                one == {"name": one["name"], "mac": link["address"]} and "UP" in link["flags"] and link["mtu"] == 1500
            )
        seen.append({dev[:3]: await chain.shaping(dev) for dev in (host, *ifbs)})
        for other in (REFERENCE, AGENT, ALONE):
            assert await chain.site.call("bandwidth", "CHECK", conf(answer, **limits), where=other) is None
        await chain.site.call(
            "bandwidth", "DEL", conf(answer, **limits), where=AGENT if where == REFERENCE else REFERENCE
        )
        assert await chain.links() == []
        await chain.remove("c1")
    text = [json.dumps(one, sort_keys=True).replace("veth1", "V").replace("veth2", "V") for one in seen]
    assert text[0] == text[1]


async def test_the_runtimes_limits_and_which_come_first(chain: Chain) -> None:
    previous = await chain.container("c1")
    runtime = {"runtimeConfig": {"bandwidth": {"ingressRate": 8 * MBIT, "ingressBurst": 2**31 - 1}}}
    for own in ({}, {"ingressRate": MBIT, "ingressBurst": 800_000}):
        limits = []
        for where in (REFERENCE, AGENT):
            await chain.site.call("bandwidth", "ADD", conf(previous, **runtime, **own), where=where)
            limits.append((await chain.shaping("veth1"))["qdiscs"][0]["options"])
            await chain.site.sh("tc qdisc del dev veth1 root")
        assert limits[0] == limits[1] and limits[1]["rate"] == (125_000 if own else MBIT)
    assert await chain.site.call("bandwidth", "ADD", conf(previous), where=AGENT) == previous


async def test_subnets_that_are_not_held_back_or_that_alone_are(chain: Chain) -> None:
    for number, (key, free, held) in enumerate((("unshapedSubnets", OTHER, NODE), ("shapedSubnets", NODE, OTHER))):
        previous = await chain.container(f"c{number}")
        subnets = {key: ["10.56.0.0/16", "fd00:db8:abcd:1234:e000::/68"]}
        answer = await chain.site.call("bandwidth", "ADD", conf(previous, **FAST, **subnets), f"c{number}")
        assert await chain.site.call("bandwidth", "CHECK", conf(answer, **FAST, **subnets), f"c{number}") is None
        for towards, limit in ((True, 20), (False, 40)):
            assert await chain.rate(f"c{number}", towards, free, 0.3) > 200 * MBIT
            assert 0.7 * limit < await chain.rate(f"c{number}", towards, held, 1) / MBIT < 1.2 * limit
        await chain.site.call("bandwidth", "DEL", conf(answer, **FAST, **subnets), f"c{number}")
        await chain.remove(f"c{number}")
    assert await chain.links() == []


async def test_a_pods_annotations_in_a_whole_chain(chain: Chain) -> None:
    """As the agent starts pods: bridge, bandwidth and tuning by the node's configuration; annotations become the capability."""
    site = chain.site
    plugins_of_chain = [
        {"type": "bridge", "isGateway": True, "ipam": {"type": "host-local", "subnet": "10.57.0.0/24"}},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "99"}, "mtu": 1400},
    ]
    network = {"cniVersion": "1.1.0", "name": "pods", "plugins": plugins_of_chain}
    site.path("/etc/cni/net.d/10-pods.conflist").write_text(json.dumps(network))
    agent = CniAgent(site.machine, os.urandom)
    able = bandwidth({"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "20M"})
    await site.sh("ip netns add c1; ip netns add c2")
    try:
        with open_netns(site, "c1") as pod, open_netns(site, "c2") as free:
            await agent.add(pod, "c1", capabilities=able)
            await agent.add(free, "c2", capabilities=bandwidth({}))
            assert await chain.links() == [ifb_name("pods", "c1")]
            qdiscs = json.loads(await site.run("tc", "-j", "qdisc", "show"))
            rates = {one["dev"][:3]: one["options"]["rate"] * 8 for one in qdiscs if one["kind"] == "tbf"}
            assert rates == {"vet": 10 * MBIT, "bwp": 20 * MBIT}
            assert await site.inside("c1", "sysctl", "-n", "net.core.somaxconn") == "99\n"
            assert "mtu 1400" in await site.inside("c1", "ip", "link", "show", "eth0")
            files, missing = await capture(site.machine)
            assert [one["kind"] for one in json.loads(files["tc-qdisc.json"])].count("tbf") == 2 and not missing
            for kept in (b"== pods-c1-eth0\n{", b'"ingressRate":10000000', b"== pods-c2-eth0\n{"):
                assert kept in files["cni-results.txt"].replace(b": ", b":")
            assert not read_world({f"node-a/{name}": data for name, data in files.items()}).objects
            for name, netns in (("c1", pod), ("c2", None)):
                await agent.delete("pods", name, netns)
        assert await chain.links() == [] and not list(site.path("/run/cni/tuning").iterdir())
        assert "veth" not in await site.run("ip", "-br", "link")
    finally:
        await agent.close()


@pytest.mark.parametrize("where", [AGENT, ALONE])
async def test_del_without_namespace_or_result_and_again(chain: Chain, where: str) -> None:
    previous = await chain.container("c1")
    await chain.site.call("bandwidth", "ADD", conf(previous, **LIMITS), where=where)
    await chain.remove("c1")
    assert await chain.links() == [ifb_name("net", "c1")]
    for _ in range(2):
        assert await chain.site.call("bandwidth", "DEL", conf(None, ingressRate=1), where=where, netns="") is None
        assert await chain.links() == []


async def test_two_interfaces_of_a_container_in_one_network(chain: Chain) -> None:
    previous = await chain.container("c1")
    await chain.site.sh(
        "ip link add vethb type veth peer name net1 netns c1 && ip link set vethb up && ip -n c1 link set net1 up"
    )
    second = {"interfaces": [{"name": "vethb"}, {"name": "net1", "sandbox": "/run/netns/c1"}], "cniVersion": "1.0.0"}
    answers = {
        "eth0": await chain.site.call("bandwidth", "ADD", conf(previous, **LIMITS)),
        "net1": await chain.site.call("bandwidth", "ADD", conf(second, **LIMITS), ifname="net1"),
    }
    assert len(await chain.links()) == 2
    for ifname, answer in answers.items():
        assert await chain.site.call("bandwidth", "CHECK", conf(answer, **LIMITS), ifname=ifname) is None
    await chain.site.call("bandwidth", "DEL", conf(answers["net1"], **LIMITS), ifname="net1")
    assert await chain.links() == [ifb_name("net", "c1")]
    await chain.site.call("bandwidth", "DEL", conf(answers["eth0"], **LIMITS))
    assert await chain.links() == []


async def test_gc_takes_links_of_containers_that_are_gone(chain: Chain) -> None:
    for name in ("c1", "c2", "c3"):
        previous = await chain.container(name)
        network = "other" if name == "c3" else "net"
        await chain.site.call("bandwidth", "ADD", {**conf(previous, **LIMITS), "name": network}, name)
    valid = [{"containerID": "c2", "ifname": "eth0"}]
    for where in (AGENT, ALONE):
        gc = {**GC, **LIMITS, "cni.dev/valid-attachments": valid}
        assert await chain.site.call("bandwidth", "GC", gc, where=where) is None
        assert sorted(await chain.links()) == sorted([ifb_name("net", "c2"), ifb_name("other", "c3")])


async def test_check_tells_what_is_off(chain: Chain) -> None:
    previous = await chain.container("c1")
    answer = await chain.site.call("bandwidth", "ADD", conf(previous, **LIMITS))
    ifb = ifb_name("net", "c1")

    async def said(where: str = AGENT, **changes: int) -> str:
        found = await chain.site.call("bandwidth", "CHECK", conf(answer, **{**LIMITS, **changes}), where=where)
        return str(found["msg"]) if found else ""

    for change in ({"ingressRate": 3 * MBIT}, {"egressRate": 3 * MBIT}):
        assert await said(**change) == await said(REFERENCE, **change) == "Rate doesn't match"
    await chain.site.sh("tc filter del dev veth1 ingress")
    assert "is not redirected" in await said() and await said(REFERENCE) == ""
    await chain.site.sh(f"tc qdisc del dev {ifb} root")
    assert await said() == await said(REFERENCE) == "Failed to find qdisc"
    await chain.site.sh(f"ip link del {ifb}")
    assert (await said()).startswith("get ifb device: ") and (await said(REFERENCE)).startswith("get ifb device: ")


async def test_an_add_that_fails_leaves_nothing(chain: Chain) -> None:
    """At every step: the error comes in the place of an effect, and then links and queues are as before."""
    previous = await chain.container("c1")

    async def state() -> str:
        return await chain.site.sh(
            "tc qdisc show dev veth1; ip -br link show type ifb; tc filter show dev veth1 ingress"
        )

    before, steps = await state(), 0
    with open_netns(chain.site, "c1") as pod:
        while not await stopped(chain, conf(previous, **LIMITS), pod, steps):
            assert await state() == before, f"stopped at effect {steps}"
            steps += 1
    assert steps >= 8
    answer = await chain.site.call("bandwidth", "ADD", conf(previous, **LIMITS))  # it is there already
    assert answer["code"] == 999 and "File exists" in answer["msg"]
    assert await chain.site.call("bandwidth", "CHECK", conf({**previous}, **LIMITS)) is None


async def stopped(chain: Chain, config: dict[str, Any], pod: KernelNetNs, at: int) -> bool:
    """Run ADD, with the effect of a number refused; whether it came to its end before that."""
    variables = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/",
    }

    def limited() -> e.Steps[Any]:
        steps = plugins.answer("bandwidth", variables, json.dumps(config), pod.fd)
        effect, number = next(steps), 0
        while True:
            try:
                if number == at:
                    effect = steps.throw(GlassnetError("stopped"))
                else:
                    effect = steps.send((yield effect))
            except StopIteration as done:
                return done.value
            number += 1

    try:
        await chain.site.cni.run(limited(), pod, variables)
    except GlassnetError as error:
        assert str(error) == "stopped"
        return False
    return True


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"ingressRate": 8}, "if rate is set, burst must also be set"),
        ({"egressBurst": 8}, "if burst is set, rate must also be set"),
        ({"ingressRate": 8, "ingressBurst": 8 * (2**32 - 1)}, "burst cannot be more than 4GB"),
    ],
)
async def test_refused_as_by_the_reference(chain: Chain, keys: dict[str, int], text: str) -> None:
    previous = await chain.container("c1")
    for where in (REFERENCE, AGENT):
        answer = await chain.site.call("bandwidth", "ADD", conf(previous, **keys), where=where)
        assert answer["msg"].endswith(text)


async def test_no_pair_no_result(chain: Chain) -> None:
    previous = await chain.container("c1")
    missing = {**previous, "interfaces": previous["interfaces"][1:], "ips": []}
    dummy = {**previous, "interfaces": [{"name": "lo"}, {"name": "lo", "sandbox": "/run/netns/c1"}]}
    for where in (REFERENCE, AGENT):
        said = [
            (await chain.site.call("bandwidth", "ADD", one, where=where, ifname=ifname))["msg"]
            for one, ifname in (
                (conf(None, **LIMITS), "eth0"),
                (conf({**previous, "interfaces": [], "ips": []}, **LIMITS), "eth0"),
                (conf(missing, **LIMITS), "eth0"),
                (conf(dummy, **LIMITS), "lo"),
            )
        ]
        assert said[:3] == [
            "must be called as chained plugin",
            "no interfaces provided",
            "no veth peer of container interface found in host ns",
        ]
        assert said[3].startswith("container interface lo has no veth peer: ")


async def test_status_asks_the_kernel_and_changes_nothing(chain: Chain) -> None:
    before = await chain.site.sh("ip link; tc qdisc show; tc actions list action mirred")
    for where in (AGENT, ALONE):
        assert await chain.site.call("bandwidth", "STATUS", {**GC, "shapedSubnets": ["::/0"]}, where=where) is None
    assert await chain.site.sh("ip link; tc qdisc show; tc actions list action mirred") == before
    with pytest.raises(KernelError) as caught:
        chain.site.machine.netns.apply([ProbeShaping("nosuchqdisc")])
    assert caught.value.number != 22
