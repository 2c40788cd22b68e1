"""`glassnet cni` on a node of namespaces: packets through every ready configuration; programs, the agent, leases and checks by the real command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shlex
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import glassnet
from cni_site import AGENT, ALONE, Site, cni_site
from glassnet.agent.cni.node import AgentEffects, carry_out
from glassnet.agent.cni.runtime import CniAgent
from glassnet.apiserver import auth, http
from glassnet.apiserver.local import LocalApi
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store
from glassnet.cni import ready
from glassnet.cni.effects import Effect, Random
from glassnet.cni.host_local import lease_text
from glassnet.cni.node import NodeFacts, chain_name, rules
from glassnet.cni.plugins import PLUGINS, answer
from glassnet.cni.ready import Wish
from glassnet.kernel.netns import KernelNetNs
from glassnet.kube import kinds
from glassnet.net.errors import GlassnetError
from glassnet.netstack.ops import AddAddress, AddRoute, AddVeth, SetLink

pytestmark = pytest.mark.kernel
SOURCES = Path(glassnet.__file__).parent.parent
NODE, OUTSIDE, ELSEWHERE = "192.0.2.1", "192.0.2.2", "10.99.0.9"  # the last one is a pod of another node
NODE6, OUTSIDE6 = "2001:db8::1", "2001:db8::2"
POD_CIDR, POD_CIDR6 = "10.244.1.0/24", "fd00:244:1::/64"


class Cluster:
    """A node with a way to a host outside, which knows the way back to the pods, as with user-defined routes."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.spaces: dict[str, KernelNetNs] = {}
        self.agent = CniAgent(site.machine, os.urandom)

    async def netns(self, name: str) -> KernelNetNs:
        await self.site.run("ip", "netns", "add", name)
        path = self.site.path(f"/run/netns/{name}")
        self.spaces[name] = KernelNetNs(name, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        return self.spaces[name]

    async def connect(self, *pods: str) -> None:
        """The host outside; `pods` are ranges that it reaches by the node."""
        outside = await self.netns("outside")
        self.site.machine.netns.apply(
            [
                AddVeth("ens3", "eth0", peer_netns=outside.fd, mtu=1450),
                SetLink("ens3", up=True),
                AddAddress(f"{NODE}/24", "ens3"),
                AddAddress(f"{NODE6}/64", "ens3", nodad=True),
            ]
        )
        outside.apply(
            [
                SetLink("eth0", up=True),
                AddAddress(f"{OUTSIDE}/24", "eth0"),
                AddAddress(f"{OUTSIDE6}/64", "eth0", nodad=True),
                AddAddress(f"{ELSEWHERE}/32", "eth0"),
                *(AddRoute(one, gateway=NODE6 if ":" in one else NODE, dev="eth0") for one in pods),
            ]
        )
        self.site.machine.netns.apply(
            [AddRoute("default", gateway=OUTSIDE, dev="ens3"), AddRoute("::/0", gateway=OUTSIDE6, dev="ens3")]
        )

    def configure(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            body = json.loads(text)
            if "plugins" in body:
                body["plugins"] = [one for one in body["plugins"] if one["type"] in PLUGINS]
            path = self.site.path(f"/etc/cni/net.d/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(body))

    async def container(self, name: str, pod: str = "", **capabilities: Any) -> tuple[str, ...]:
        """A container joined to the configured network; its addresses."""
        arguments = (("K8S_POD_NAMESPACE", "demo"), ("K8S_POD_NAME", pod)) if pod else ()
        netns = await self.netns(name)
        return (await self.agent.add(netns, name, arguments=arguments, capabilities=capabilities)).addresses

    async def seen(self, source: str, target: str, address: str) -> str:
        """Send a datagram from one namespace to an address of another; whom that one takes for the sender."""
        loop, family = asyncio.get_running_loop(), socket.AF_INET6 if ":" in address else socket.AF_INET
        with (
            self.spaces[target].socket(family, socket.SOCK_DGRAM) as there,
            self.spaces[source].socket(family, socket.SOCK_DGRAM) as here,
        ):
            there.bind((address, 0))
            here.connect((address, there.getsockname()[1]))
            here.send(b"hello")
            _, sender = await asyncio.wait_for(loop.sock_recvfrom(there, 100), 5)
            await loop.sock_sendto(there, b"hello", sender)
            assert await asyncio.wait_for(loop.sock_recv(here, 100), 5) == b"hello"
        return str(sender[0])

    async def command(self, *words: str, status: int = 0) -> str:
        """Run `glassnet cni …` on the node; all it printed. It must end with `status`."""
        line = f"PYTHONPATH={SOURCES} NO_COLOR=1 {sys.executable} -m glassnet cni {shlex.join(words)} 2>&1; ended=$?; echo; echo $ended"
        *lines, ended = (await self.site.sh(line)).rstrip().splitlines()
        text = "\n".join(lines).strip()
        assert int(ended) == status, text
        return text

    async def close(self) -> None:
        await self.agent.close()
        for each in self.spaces.values():
            each.close()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with cni_site() as site:
        made = Cluster(site)
        try:
            yield made
        finally:
            await made.close()


# -- ready configurations


@pytest.mark.parametrize(
    ("kind", "bridge", "elsewhere"),
    [
        ("kubenet", "cbr0", "pod"),
        ("glassnet", "cni0", "node"),
        ("bridge", "cni0", "node"),
        ("ptp", "", "node"),
        ("hardway", "cnio0", "node"),
        ("docker", "docker0", "node"),
    ],
)
async def test_packets_pass_as_each_network_says(cluster: Cluster, kind: str, bridge: str, elsewhere: str) -> None:
    """Between containers, and to the world outside, which sees the node's address or the pod's own."""
    await cluster.connect(POD_CIDR)
    cluster.configure(ready.files(kind, Wish(pod_cidrs=() if kind == "docker" else (POD_CIDR,))))
    (one,), (two,) = await cluster.container("c1"), await cluster.container("c2")
    assert (one, two) == (("172.17.0.2", "172.17.0.3") if kind == "docker" else ("10.244.1.2", "10.244.1.3"))
    assert await cluster.seen("c1", "c2", two) == one
    assert await cluster.seen("c1", "outside", OUTSIDE) == NODE
    assert await cluster.seen("c1", "outside", ELSEWHERE) == {"pod": one, "node": NODE}[elsewhere]
    if bridge:
        links = json.loads(await cluster.site.run("ip", "-j", "-d", "link", "show", "master", bridge))
        hairpin = {link["linkinfo"]["info_slave_data"]["hairpin"] for link in links}
        assert len(links) == 2 and hairpin == {kind in ("kubenet", "glassnet", "bridge")}
    for name in ("c1", "c2"):
        await cluster.agent.delete(cluster.agent.network().name, name, cluster.spaces[name])
    assert await cluster.site.leases(cluster.agent.network().name) == []


@pytest.mark.parametrize("kind", ["kubenet", "glassnet", "bridge"])
async def test_both_families_pass(cluster: Cluster, kind: str) -> None:
    await cluster.connect(POD_CIDR, POD_CIDR6)
    cluster.configure(ready.files(kind, Wish(pod_cidrs=(POD_CIDR, POD_CIDR6))))
    _, one = await cluster.container("c1")
    _, two = await cluster.container("c2")
    assert await cluster.seen("c1", "c2", two) == one
    assert await cluster.seen("c1", "outside", OUTSIDE6) == (one if kind == "kubenet" else NODE6)
    assert await cluster.seen("c1", "outside", OUTSIDE) == NODE


@pytest.mark.parametrize("kind", ["kubenet", "glassnet", "bridge", "ptp", "docker"])
async def test_ports_of_the_node_lead_to_the_container(cluster: Cluster, kind: str) -> None:
    """portmap is chained after each, and the runtime's port mappings reach it; the container sees who asks."""
    await cluster.connect()
    cluster.configure(ready.files(kind, Wish(pod_cidrs=(POD_CIDR,))))
    loop, mapping = asyncio.get_running_loop(), {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
    (address,) = await cluster.container("c1", portMappings=[mapping])
    with (
        cluster.spaces["c1"].socket(socket.AF_INET, socket.SOCK_STREAM) as server,
        cluster.spaces["outside"].socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        server.bind((address, 80))
        server.listen()
        await asyncio.wait_for(loop.sock_connect(client, (NODE, 8080)), 5)
        connection, who = await asyncio.wait_for(loop.sock_accept(server), 5)
        connection.close()
    assert who[0] == OUTSIDE


# -- the plugin glassnet


async def test_glassnet_configures_itself_from_the_node(cluster: Cluster) -> None:
    """Pod CIDRs and cluster CIDRs out of the node's file, the MTU of the default route's device; code 11 before the file is there."""
    await cluster.connect(POD_CIDR)
    site, conf = cluster.site, {"cniVersion": "1.1.0", "name": "pods", "type": "glassnet"}
    await cluster.netns("c1")
    early = await site.call("glassnet", "ADD", conf, "c1")
    assert early["code"] == 11 and "pod CIDRs of this node are not known" in early["msg"]
    assert (await site.call("glassnet", "STATUS", conf))["code"] == 50
    assert not (await site.sh("ip -o link show type bridge; iptables-save -t nat | grep CNI || true")).strip()

    facts = site.path("/run/glassnet/node.json")
    facts.write_text(json.dumps({"podCIDRs": [POD_CIDR], "clusterCIDRs": ["10.0.0.0/8"]}))
    assert await site.call("glassnet", "STATUS", conf) is None
    result = await site.call("glassnet", "ADD", conf, "c1")
    assert [one["address"] for one in result["ips"]] == ["10.244.1.2/24"]
    assert result["interfaces"][2]["mtu"] == 1450
    assert await cluster.seen("c1", "outside", ELSEWHERE) == "10.244.1.2"
    assert await cluster.seen("c1", "outside", OUTSIDE) == NODE
    checked = {**conf, "prevResult": result}
    assert await site.call("glassnet", "CHECK", checked, "c1") is None


async def test_masquerade_rules_stand_once_a_node_and_come_back(cluster: Cluster) -> None:
    await cluster.connect(POD_CIDR)
    site, conf = cluster.site, {"cniVersion": "1.1.0", "name": "pods", "type": "glassnet", "podCIDRs": [POD_CIDR]}
    call = partial(site.call, where=ALONE)  # an agent might put flushed rules back before anybody looks
    results = {}
    for name in ("c1", "c2", "c3"):
        await cluster.netns(name)
        results[name] = await call("glassnet", "ADD", conf, name)
    saved = await site.run("iptables", "-t", "nat", "-S")
    chain = chain_name("pods")
    assert saved.count(f"-j {chain}") == 1 and saved.count("MASQUERADE") == 1
    await site.run("iptables", "-t", "nat", "-F")
    off = await call("glassnet", "CHECK", {**conf, "prevResult": results["c1"]}, "c1")
    assert "masquerade rules are missing" in off["msg"]
    await cluster.netns("c4")
    await call("glassnet", "ADD", conf, "c4")
    assert await call("glassnet", "CHECK", {**conf, "prevResult": results["c1"]}, "c1") is None
    assert await cluster.seen("c1", "outside", OUTSIDE) == NODE

    alive = [{"containerID": "c1", "ifname": "eth0"}]
    await call("glassnet", "GC", {**conf, "cni.dev/valid-attachments": alive}, "", netns="")
    assert await site.leases("pods") == ["10.244.1.2"]
    assert await cluster.seen("c1", "outside", OUTSIDE) == NODE
    await call("glassnet", "GC", {**conf, "cni.dev/valid-attachments": []}, "", netns="")
    assert await site.leases("pods") == [] and chain not in await site.run("iptables-save", "-t", "nat")
    assert await call("glassnet", "GC", {**conf, "cni.dev/valid-attachments": []}, "", netns="") is None


async def test_the_agent_puts_masquerade_rules_back_when_they_are_flushed(cluster: Cluster) -> None:
    conf = {"cniVersion": "1.1.0", "name": "pods", "type": "glassnet", "podCIDRs": [POD_CIDR]}
    await cluster.netns("c1")
    await cluster.site.call("glassnet", "ADD", conf, "c1")
    await cluster.site.run("iptables", "-t", "nat", "-F")
    wanted, deadline = rules("pods", 4, NodeFacts((POD_CIDR,))), time.monotonic() + 10
    while [
        one for one in (await cluster.site.run("iptables-save", "-t", "nat")).splitlines() if one in wanted
    ] != wanted:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await cluster.site.call("glassnet", "GC", {**conf, "cni.dev/valid-attachments": []}, "", netns="")
    assert chain_name("pods") not in await cluster.site.run("iptables-save", "-t", "nat")


@pytest.mark.parametrize("tool", ["nft", "legacy"])
@pytest.mark.parametrize("where", [AGENT, ALONE])
async def test_rules_are_mended_whatever_was_done_to_them(cluster: Cluster, tool: str, where: str) -> None:
    """By the next ADD, with both kinds of iptables; and never made twice, by however many at once."""
    site = cluster.site
    for name in ("iptables-restore", "iptables-save", "iptables"):
        await site.run("ln", "-sf", f"/usr/sbin/xtables-{tool}-multi", f"/usr/sbin/{name}")
    conf = {"cniVersion": "1.1.0", "name": "pods", "type": "glassnet", "podCIDRs": [POD_CIDR]}
    chain, number = chain_name("pods"), 0
    for fault in (
        "true",
        "iptables -t nat -F",
        "iptables -t nat -F POSTROUTING",
        f"iptables -t nat -F {chain}",
        f"iptables -t nat -F; iptables -t nat -X {chain}",
        f"iptables -t nat -D {chain} 2",
        "true",
    ):
        await site.sh(fault)
        names = [f"c{number + more}" for more in range(3)]
        number += len(names)
        for name in names:
            await cluster.netns(name)
        answers = await asyncio.gather(*(site.call("glassnet", "ADD", conf, name, where=where) for name in names))
        assert all("ips" in one for one in answers), answers
        saved = (await site.run("iptables-save", "-t", "nat")).splitlines()
        assert [one for one in saved if chain in one and one.startswith("-A")] == rules(
            "pods", 4, NodeFacts((POD_CIDR,))
        )
    narrower = {**conf, "nonMasqueradeCIDRs": ["10.0.0.0/8"]}
    for each in (narrower, conf):  # a rule more, and a rule less than there is
        await cluster.netns(name := f"c{number}")
        number += 1
        await site.call("glassnet", "ADD", each, name, where=where)
        saved = (await site.run("iptables-save", "-t", "nat")).splitlines()
        facts = NodeFacts((POD_CIDR,), tuple(each.get("nonMasqueradeCIDRs", ())))
        assert [one for one in saved if chain in one and one.startswith("-A")] == rules("pods", 4, facts)
    await site.call("glassnet", "GC", {**conf, "cni.dev/valid-attachments": []}, "", netns="", where=where)
    assert chain not in await site.run("iptables-save", "-t", "nat")


async def test_a_pod_that_reaches_itself_by_way_of_a_service_comes_back(cluster: Cluster) -> None:
    """hairpinMode is on unless it is switched off: the answer leaves by the port it came in by."""
    await cluster.connect(POD_CIDR)
    conf = {"cniVersion": "1.1.0", "name": "pods", "type": "glassnet", "podCIDRs": [POD_CIDR]}
    await cluster.netns("c1")
    await cluster.site.call("glassnet", "ADD", conf, "c1", args="K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web")
    await cluster.site.sh(
        "iptables -t nat -A PREROUTING -d 10.32.0.1 -p udp -j DNAT --to 10.244.1.2;"
        "iptables -t nat -A POSTROUTING -s 10.244.1.2 -d 10.244.1.2 -j MASQUERADE"
    )
    loop = asyncio.get_running_loop()
    with (
        cluster.spaces["c1"].socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
        cluster.spaces["c1"].socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
    ):
        there.bind(("10.244.1.2", 53))
        here.sendto(b"hello", ("10.32.0.1", 53))
        data, sender = await asyncio.wait_for(loop.sock_recvfrom(there, 100), 5)
    assert (data, sender[0]) == (b"hello", "10.244.1.1")


async def test_del_works_whatever_is_gone(cluster: Cluster) -> None:
    site, conf = cluster.site, {"cniVersion": "1.1.0", "name": "pods", "type": "glassnet", "podCIDRs": [POD_CIDR]}
    await cluster.netns("c1")
    await site.call("glassnet", "ADD", conf, "c1")
    bare = {"cniVersion": "1.1.0", "name": "pods", "type": "glassnet"}
    for _ in range(2):
        assert await site.call("glassnet", "DEL", bare, "c1", netns="") is None
        assert await site.leases("pods") == []
        assert not (await site.run("ip", "-o", "link", "show", "type", "veth")).strip()


# -- install and uninstall


async def test_install_leaves_alone_what_is_not_ours(cluster: Cluster) -> None:
    bin_dir, conf_dir = cluster.site.path("/srv/bin"), cluster.site.path("/srv/conf")
    bin_dir.mkdir(parents=True)
    for name in ("bridge", "loopback", "dhcp"):
        (bin_dir / name).write_text("#!/bin/sh\n")
    words = ("install", "--bin-dir", "/srv/bin", "--conf-dir", "/srv/conf")
    told = await cluster.command(*words, status=1)
    assert "/srv/bin: bridge, loopback are not glassnet's; use another directory, or --force" in told
    assert sorted(os.listdir(bin_dir)) == ["bridge", "dhcp", "loopback"] and not conf_dir.exists()

    told = await cluster.command(*words, "--force")
    assert "/srv/conf/10-glassnet.conflist: network glassnet" in told
    assert "An agent answers at /run/glassnet/cni.sock" in told
    assert set(os.listdir(bin_dir)) == {*PLUGINS, "dhcp"}
    assert json.loads((conf_dir / "10-glassnet.conflist").read_text())["plugins"][0] == {"type": "glassnet"}
    again = await cluster.command(*words)
    assert "(renewed)" in again and "(as it was)" in again

    (conf_dir / "10-glassnet.conflist").write_text("{}")
    assert "there already, and different; nothing is written" in await cluster.command(*words, status=1)
    (conf_dir / "05-other.conf").write_text("{}")
    told = await cluster.command(*words, "--force")
    assert "/srv/conf/05-other.conf comes first: runtimes take that one" in told

    assert "bridge" in await cluster.command("uninstall", "--bin-dir", "/srv/bin")
    assert os.listdir(bin_dir) == ["dhcp"]
    assert "nothing of glassnet's is there" in await cluster.command("uninstall", "--bin-dir", "/srv/bin")


async def test_installed_programs_join_containers_with_and_without_their_agent(cluster: Cluster) -> None:
    told = await cluster.command("install", "--bin-dir", "/srv/bin", "--socket", "/run/other.sock")
    assert "No agent answers at /run/other.sock" in told and "glassnet cni serve --socket /run/other.sock" in told
    conf = json.loads(await cluster.command("conf", "bridge", "--pod-cidr", POD_CIDR))
    one = {"cniVersion": conf["cniVersion"], "name": conf["name"], **conf["plugins"][0]}
    await cluster.netns("c1")
    result = await cluster.site.call("bridge", "ADD", one, "c1", where="/srv/bin")
    assert [ip["address"] for ip in result["ips"]] == ["10.244.1.2/24"]
    assert await cluster.site.call("bridge", "DEL", {**one, "prevResult": result}, "c1", where="/srv/bin") is None


# -- the agent


class Serving:
    """`glassnet cni serve` on the node."""

    def __init__(self, cluster: Cluster, *words: str) -> None:
        self.cluster, self.words = cluster, words
        self.log = cluster.site.path("/srv/serve.log")

    async def start(self, **environment: str) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as file:
            env = {"PYTHONPATH": str(SOURCES), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment}
            argv = [sys.executable, "-m", "glassnet", "cni", "serve", "--socket", "/run/srv.sock", *self.words]
            self.process = await self.cluster.site.machine.spawn(
                argv, env=env, stdout=file.fileno(), stderr=file.fileno()
            )
        await self.says("ready: plugins of")

    async def says(self, text: str) -> None:
        deadline = time.monotonic() + 15
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            await asyncio.sleep(0.02)

    async def end(self, number: int = signal.SIGTERM) -> int:
        self.process.signal(number)
        return await asyncio.wait_for(self.process.wait(), 15)


async def test_the_agent_serves_until_it_is_told_to_end(cluster: Cluster) -> None:
    """It says that it is ready, answers, refuses a second one beside it, and ends with the calls that have begun."""
    await cluster.command("install", "--bin-dir", "/srv/bin", "--socket", "/run/srv.sock")
    notified = cluster.site.machine.netns.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(cluster.site.path("/run/notify")))
    serving = Serving(cluster)
    await serving.start(NOTIFY_SOCKET="/run/notify")
    try:
        assert notified.recv(100) == b"READY=1"
        told = await cluster.command("serve", "--socket", "/run/srv.sock", status=1)
        assert "another agent listens there" in told
        conf = {"cniVersion": "1.1.0", "name": "pods", "type": "glassnet", "podCIDRs": [POD_CIDR]}
        for name in ("c1", "c2", "c3"):
            await cluster.netns(name)
        calls = [asyncio.create_task(cluster.site.call("glassnet", "ADD", conf, name, where="/srv/bin")) for name in ("c1", "c2")]  # fmt: skip
        results = await asyncio.gather(*calls)
        assert {one["ips"][0]["address"] for one in results} == {"10.244.1.2/24", "10.244.1.3/24"}
        assert b"/run/srv.sock" in cluster.site.path("/srv/bin/glassnet").read_bytes()
    finally:
        assert await serving.end() == 0
        notified.close()
    assert "ended: SIGTERM; containers keep their network" in serving.log.read_text()
    assert not cluster.site.path("/run/srv.sock").exists()
    assert await cluster.seen("c1", "c2", results[1]["ips"][0]["address"].partition("/")[0])
    alone = await cluster.site.call("glassnet", "ADD", conf, "c3", where="/srv/bin")
    assert alone["ips"][0]["address"] == "10.244.1.4/24"


async def test_calls_that_have_begun_end_before_the_agent_does(cluster: Cluster) -> None:
    """Each is answered whole or told to come again; none is left half done."""
    await cluster.command("install", "--bin-dir", "/srv/bin", "--socket", "/run/srv.sock")
    serving = Serving(cluster)
    await serving.start()
    conf = {"cniVersion": "1.1.0", "name": "pods", "type": "glassnet", "podCIDRs": [POD_CIDR]}
    names = [f"c{number}" for number in range(12)]
    for name in names:
        await cluster.netns(name)
    calls = [asyncio.create_task(cluster.site.call("glassnet", "ADD", conf, name, where="/srv/bin")) for name in names]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert await serving.end() == 0
    answers = await asyncio.gather(*calls)
    joined = [one for one in answers if "ips" in one]
    assert joined and {one["code"] for one in answers if one not in joined} <= {11}
    assert len(await cluster.site.leases("pods")) == len(joined)
    assert (await cluster.site.run("ip", "-o", "link", "show", "type", "veth")).count("\n") == len(joined)


@contextlib.asynccontextmanager
async def api_on(cluster: Cluster) -> AsyncIterator[LocalApi]:
    """An API server in the node's network, with a kubeconfig at /srv/kubeconfig."""
    cluster.site.machine.netns.apply([SetLink("lo", up=True)])
    server = ApiServer(Store(":memory:"), now=lambda: datetime.now(UTC), random=random.Random(1))
    listening = cluster.site.machine.netns.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", 0))
    app = http.build_app(server, lambda _: auth.User("me", ("system:masters",)), auth.authorize)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
        "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{listening.getsockname()[1]}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }  # fmt: skip
    path = cluster.site.path("/srv/kubeconfig")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    try:
        yield LocalApi(server)
    finally:
        await runner.cleanup()


async def test_pod_cidrs_come_from_the_node_object(cluster: Cluster) -> None:
    """Asked once by conf; watched by the agent, from before the Node has any."""
    async with api_on(cluster) as api:
        await api.create(kinds.NODE, "", {"metadata": {"name": "worker-7"}, "spec": {}})
        asked = ("conf", "kubenet", "--kubeconfig", "/srv/kubeconfig", "--node", "worker-7")
        assert "Node worker-7 has no spec.podCIDRs" in await cluster.command(*asked, status=1)
        serving = Serving(cluster, "--kubeconfig", "/srv/kubeconfig", "--node", "worker-7", "--cluster-cidr", "10.244.0.0/16")  # fmt: skip
        await serving.start()
        try:
            await serving.says("Node worker-7 has no spec.podCIDRs yet")
            facts = cluster.site.path("/run/glassnet/node.json")
            assert not facts.exists()
            await api.patch(
                kinds.NODE, "", "worker-7", {"spec": {"podCIDR": POD_CIDR, "podCIDRs": [POD_CIDR, POD_CIDR6]}}
            )
            await serving.says("written to /run/glassnet/node.json")
            assert json.loads(facts.read_text()) == {"podCIDRs": [POD_CIDR, POD_CIDR6], "clusterCIDRs": ["10.244.0.0/16"]}  # fmt: skip
            printed = json.loads(await cluster.command(*asked))
            assert printed["plugins"][0]["podCIDRs"] == [POD_CIDR, POD_CIDR6]
        finally:
            assert await serving.end(signal.SIGINT) == 0
        assert facts.exists()  # plugins alone go on with it
        assert "nobody" in await cluster.command(*asked[:-1], "nobody", status=1)


# -- leases and checks


async def rows(cluster: Cluster, *words: str, status: int = 0) -> dict[str, dict[str, Any]]:
    return {row["address"]: row for row in json.loads(await cluster.command("leases", "--json", *words, status=status))}


def aged(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


async def test_leases_tell_who_lives_and_give_back_what_leaked(cluster: Cluster) -> None:
    cluster.configure(ready.files("bridge", Wish(pod_cidrs=(POD_CIDR,))))
    assert await rows(cluster) == {}
    await cluster.container("c1", pod="web-1")
    await cluster.container("c2", pod="web-2")
    place = cluster.site.path("/var/lib/cni/networks/bridge")
    for number, age in ((100, 3600), (101, 0), (102, 10**9)):
        (place / f"10.244.1.{number}").write_bytes(lease_text(f"gone{number}", "eth0").encode())
        aged(place / f"10.244.1.{number}", age)
    await cluster.site.run("ip", "netns", "del", "c2")
    cluster.spaces.pop("c2").close()
    aged(place / "10.244.1.3", 600)
    found = await rows(cluster, status=1)
    assert {address: (row["state"], row["pod"]) for address, row in found.items()} == {
        "10.244.1.2": ("alive", "demo/web-1"),
        "10.244.1.3": ("leaked", "demo/web-2"),
        "10.244.1.100": ("leaked", ""),
        "10.244.1.101": ("leaked", ""),
        "10.244.1.102": ("leaked", ""),
    }
    assert found["10.244.1.3"]["why"] == "kept result without namespace: /run/netns/c2 is gone"
    assert found["10.244.1.100"]["why"] == "no such container: no namespace has the address"
    assert found["10.244.1.102"]["why"] == "from before the last boot"
    table = await cluster.command("leases", status=1)
    assert "demo/web-1" in table and table.endswith("5 addresses given away, 4 leaked")
    refused = await cluster.command("leases", "--release-leaked", status=1)  # nobody there to say yes
    assert "Give back 3 addresses?" in refused and len(await cluster.site.leases("bridge")) == 5

    told = await cluster.command("leases", "--release-leaked", "--yes", status=1)
    assert "3 addresses given back" in told and "1 that leaked are younger than a minute" in told
    assert await cluster.site.leases("bridge") == ["10.244.1.101", "10.244.1.2"]
    assert not [name for name in os.listdir(cluster.site.path("/var/lib/cni/results")) if "c2" in name]
    saved = await cluster.site.run("iptables-save", "-t", "nat")
    assert 'id: \\"c2\\"' not in saved and 'id: \\"c1\\"' in saved


async def test_an_address_is_alive_in_a_namespace_without_a_name(cluster: Cluster) -> None:
    """A process's namespace counts as one under /run/netns does."""
    cluster.configure(ready.files("bridge", Wish(pod_cidrs=(POD_CIDR,))))
    await cluster.container("c1")
    holder = await cluster.site.machine.spawn(
        ["nsenter", "--net=/run/netns/c1", "sleep", "60"], env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    )
    try:
        deadline = time.monotonic() + 5
        while os.stat(f"/proc/{holder.pid}/ns/net").st_ino != cluster.spaces["c1"].inode:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await cluster.site.run("ip", "netns", "del", "c1")
        assert (await rows(cluster))["10.244.1.2"]["state"] == "alive"
    finally:
        holder.signal(signal.SIGKILL)
        await holder.wait()


async def test_check_names_what_is_off_and_what_mends_it(cluster: Cluster) -> None:
    cluster.configure(ready.files("hardway", Wish(pod_cidrs=(POD_CIDR,))))
    assert "2 networks: all as it should be" in await cluster.command("check")
    await cluster.container("c1", pod="web-1")
    await cluster.container("c2", pod="web-2")
    told = await cluster.command("check")
    assert told.endswith("2 attachments and 2 networks: all as it should be")  # in spite of 0.3.1, which had no CHECK

    site = cluster.site
    for fault, says, undo in (
        ("ip link set cnio0 down", "ip link set dev cnio0 up", "ip link set cnio0 up"),
        ("ip netns exec c2 ip address del 10.244.1.3/24 dev eth0", "nsenter --net=/run/netns/c2 ip address", "ip netns exec c2 ip address add 10.244.1.3/24 dev eth0; ip netns exec c2 ip route add default via 10.244.1.1"),
        ("mv /var/lib/cni/networks/bridge/10.244.1.3 /tmp/lease", "glassnet cni leases", "mv /tmp/lease /var/lib/cni/networks/bridge/10.244.1.3"),
    ):  # fmt: skip
        await site.sh(fault)
        told = await cluster.command("check", "web-2", status=1)
        assert "off demo/web-2 eth0  network bridge" in told and says in told, told
        await site.sh(undo)
        assert "all as it should be" in await cluster.command("check", "demo/web-2")
    await site.sh("sysctl -qw net.ipv4.ip_forward=0")
    told = await cluster.command("status", status=1)
    assert "off /etc/cni/net.d/10-bridge.conf" in told and "sysctl -w net.ipv4.ip_forward=1" in told
    assert "no attachment of 'nobody' was kept" in await cluster.command("check", "nobody", status=1)


async def test_a_damaged_configuration_is_told_by_its_file(cluster: Cluster) -> None:
    path = cluster.site.path("/etc/cni/net.d/10-bad.conf")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"name": "x",\n "type": }')
    told = await cluster.command("status", status=1)
    assert "off /etc/cni/net.d/10-bad.conf" in told and "10-bad.conf:2" in told


async def test_gc_takes_away_what_is_of_nobody(cluster: Cluster) -> None:
    cluster.configure(ready.files("bridge", Wish(pod_cidrs=(POD_CIDR,))))
    await cluster.container("c1", pod="web-1")
    await cluster.container("c2", pod="web-2")
    await cluster.site.run("ip", "netns", "del", "c2")
    cluster.spaces.pop("c2").close()
    assert "which attachments live?" in await cluster.command("gc", "bridge", status=2)
    assert "there is no network 'nope' on this node" in await cluster.command("gc", "nope", "--alive", status=1)
    await cluster.command("gc", "bridge", "--alive")
    assert len(await cluster.site.leases("bridge")) == 2  # both are young
    aged(cluster.site.path("/var/lib/cni/networks/bridge/10.244.1.3"), 600)
    await cluster.command("gc", "bridge", "--alive")
    assert await cluster.site.leases("bridge") == ["10.244.1.2"]
    assert "all as it should be" in await cluster.command("check")
    cluster.site.path("/srv").mkdir(exist_ok=True)
    cluster.site.path("/srv/valid.json").write_text("[]")
    await cluster.command("gc", "bridge", "--valid", "/srv/valid.json")
    assert await cluster.site.leases("bridge") == []
    assert 'id: \\"c1\\"' not in await cluster.site.run("iptables-save", "-t", "nat")
    cluster.site.path("/srv/valid.json").write_text('{"c1": 1}')
    assert "want a list" in await cluster.command("gc", "bridge", "--valid", "/srv/valid.json", status=2)


async def test_the_agent_and_the_commands_know_of_each_others_changes(cluster: Cluster) -> None:
    """The agent keeps leases in memory: an address that the command gave back is given away again."""
    conf = {"cniVersion": "1.1.0", "name": "pods", "type": "glassnet", "podCIDRs": ["10.244.1.0/29"]}
    for number in range(5):
        await cluster.netns(f"c{number}")
        assert "ips" in await cluster.site.call("glassnet", "ADD", conf, f"c{number}", where=AGENT)
    await cluster.netns("late")
    assert "no IP addresses available" in (await cluster.site.call("glassnet", "ADD", conf, "late"))["msg"]
    await cluster.site.run("ip", "netns", "del", "c1")
    cluster.spaces.pop("c1").close()
    aged(cluster.site.path("/var/lib/cni/networks/pods/10.244.1.3"), 600)
    assert "1 address given back" in await cluster.command("leases", "--release-leaked", "--yes")
    assert (await cluster.site.call("glassnet", "ADD", conf, "late"))["ips"][0]["address"] == "10.244.1.3/29"


async def test_an_add_that_fails_at_any_step_leaves_nothing_of_the_container(cluster: Cluster) -> None:
    """The bridge and the node's rules are everybody's; all else goes."""
    await cluster.connect(POD_CIDR)
    conf = {"cniVersion": "1.1.0", "name": "pods", "type": "glassnet", "podCIDRs": [POD_CIDR]}
    netns = await cluster.netns("c1")
    environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0", "CNI_PATH": AGENT}  # fmt: skip
    for fatal in range(1, 100):
        count = 0
        perform = AgentEffects(cluster.site.cni, netns, environment).perform

        async def failing(effect: Effect[Any], fatal: int = fatal, perform: Any = perform) -> Any:
            nonlocal count
            count += not isinstance(effect, Random)  # which cannot fail
            if count == fatal and not isinstance(effect, Random):
                raise GlassnetError("the disk is full")
            return await perform(effect)

        try:
            await carry_out(answer("glassnet", environment, json.dumps(conf), netns.fd), failing)
        except GlassnetError as error:
            assert "the disk is full" in str(error)
        else:
            await cluster.site.call("glassnet", "DEL", conf, "c1")
            if count < fatal:
                break  # to the end without a failure
        assert await cluster.site.leases("pods") == []
        assert not await cluster.site.sh("ip -o link show type veth | grep -v ens3 || true")
    else:
        raise AssertionError("an ADD of a hundred steps")
