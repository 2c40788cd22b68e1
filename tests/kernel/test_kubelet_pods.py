"""The kubelet with everything real but the API's wire: namespaces, bridge, servers and processes, probes through the network."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pods_machine import Node, node_of_namespaces
from test_cni_agent import conf

from glassnet.agent.pods.kubelet import Kubelet, NodeConfig, dispatch
from glassnet.apiserver.local import LocalApi, feed
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store
from glassnet.kube import kinds
from glassnet.kube.view import Key, View
from glassnet.netstack.ops import AddAddress, AddVeth, SetLink

pytestmark = pytest.mark.kernel


def now() -> datetime:
    return datetime.now(UTC)


class Cluster:
    """One node and an API in memory."""

    def __init__(self, node: Node) -> None:
        self.node, self.view = node, View()
        self.server = ApiServer(Store(":memory:"), now=now, random=random.Random(1), service_cidr="10.32.0.0/24")
        self.api = LocalApi(self.server)
        feed(self.server, self.view)
        (node.machine.root / "etc/cni/net.d/10-bridge.conf").write_text(conf())
        config = NodeConfig("node-a", "10.200.0.1", pod_cidr="10.200.0.0/24")
        self.kubelet = Kubelet(
            self.view, self.api, node.machine, node.runtime, config, now=now, permanent_neighbours=True
        )
        self.unsubscribe = dispatch(self.view, {"node-a": self.kubelet})

    async def pod(self, name: str, container: dict[str, Any], **spec: Any) -> None:
        body = {
            "metadata": {"name": name},
            "spec": {"nodeName": "node-a", "containers": [{"name": "c", **container}], **spec},
        }
        await self.api.create(kinds.POD, "default", body)

    def seen(self, name: str) -> Any:
        return next((pod for key, pod in self.view.pods.items() if key.name == name), None)

    async def ready(self, *names: str, seconds: float = 8.0) -> float:
        """Wait until pods are Ready; how long that took."""
        begun = time.monotonic()
        while not all((pod := self.seen(name)) is not None and pod.ready() for name in names):
            assert time.monotonic() - begun < seconds, [
                (name, self.seen(name).status) for name in names if not self.seen(name).ready()
            ]
            await asyncio.sleep(0.005)
        return time.monotonic() - begun

    async def gone(self, *names: str) -> None:
        begun = time.monotonic()
        while any(self.seen(name) is not None for name in names):
            assert time.monotonic() - begun < 8
            await asyncio.sleep(0.01)

    async def traces(self) -> dict[str, Any]:
        """All that pods leave on a node."""
        root = self.node.machine.root
        return {
            "nat": await self.node.run("iptables", "-t", "nat", "-S"),
            "links": [link["ifname"] for link in json.loads(await self.node.run("ip", "-j", "link"))],
            "neighbours": await self.node.run("ip", "neigh"),
            "leases": sorted(p.name for p in (root / "var/lib/cni/networks/bridge").glob("10.*")),
            "results": sorted(p.name for p in (root / "var/lib/cni/results").iterdir()),
            "volumes": sorted(p.name for p in (root / "var/lib/kubelet/pods").iterdir()),
            "namespaces": sorted(p.name for p in (root / "run/netns").iterdir())
            if (root / "run/netns").exists()
            else [],
        }


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with node_of_namespaces() as node:
        made = Cluster(node)
        await made.kubelet.register()
        try:
            yield made
        finally:
            await made.kubelet.stop()


async def test_a_probed_pod_is_ready_at_once(cluster: Cluster) -> None:
    await cluster.pod("first", {"image": "nginx"})
    await cluster.ready("first")  # makes the bridge
    probe = {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 10}
    await cluster.pod("web", {"image": "nginx", "readinessProbe": probe, "livenessProbe": probe})
    took = await cluster.ready("web")
    assert took < 2, "the early tries find it long before the period's first"
    address = cluster.seen("web").status.pod_ip
    assert address == "10.200.0.3" and "nginx" in (await cluster.node.curl(f"http://{address}/")).lower()


async def test_a_process_sees_its_files_volumes_and_variables(cluster: Cluster) -> None:
    await cluster.api.create(kinds.CONFIG_MAP, "default", {"metadata": {"name": "conf"}, "data": {"word": "glass"}})
    script = "cat /etc/hosts /etc/hostname /conf/word; ls /tmp2; echo $WHO; hostname -i; exec sleep 600"
    await cluster.pod(
        "proc",
        {
            "image": "busybox",
            "command": ["sh", "-c", script],
            "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "volumeMounts": [{"name": "conf", "mountPath": "/conf"}, {"name": "tmp", "mountPath": "/tmp2"}],
        },
        volumes=[{"name": "conf", "configMap": {"name": "conf"}}, {"name": "tmp", "emptyDir": {}}],
        terminationGracePeriodSeconds=1,
    )
    await cluster.ready("proc")
    cluster.node.view.apply(kinds.POD, cluster.seen("proc"))
    deadline = time.monotonic() + 5
    while "10.200.0.2\n10.200.0.2" not in (text := await log(cluster, "proc")):
        assert time.monotonic() < deadline, text
        await asyncio.sleep(0.02)
    assert "10.200.0.2\tproc\n" in text and "\nproc\n" in text and "glass" in text


async def log(cluster: Cluster, name: str) -> str:
    parts = [part async for part in cluster.node.streams.logs(Key("default", name), "c", {})]
    return b"".join(parts).decode()


async def test_nothing_is_left_of_pods_however_they_end(cluster: Cluster) -> None:
    await cluster.pod("stays", {"image": "nginx"})
    await cluster.ready("stays")
    before = await cluster.traces()
    volumes = {"volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 1}
    mounts = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    await cluster.pod("server", {"image": "nginx", **mounts}, **volumes)
    await cluster.pod("process", {"image": "busybox", "command": ["sleep", "600"], **mounts}, **volumes)
    await cluster.pod("forced", {"image": "busybox", "command": ["sleep", "600"], **mounts}, **volumes)
    await cluster.ready("server", "process", "forced")
    await cluster.pod("brief", {"image": "busybox", "command": ["true"], **mounts}, restartPolicy="Never", **volumes)
    assert (await cluster.traces()) != before
    await cluster.api.delete(kinds.POD, "default", "server")
    await cluster.api.delete(kinds.POD, "default", "process")
    await cluster.api.delete(kinds.POD, "default", "forced", grace=0)
    await cluster.gone("server", "process", "forced")
    deadline = time.monotonic() + 8
    while (after := await cluster.traces()) != before:  # the finished one has given all back too
        assert time.monotonic() < deadline, (before, after)
        await asyncio.sleep(0.05)
    assert cluster.seen("brief").status.phase == "Succeeded"


async def test_an_agent_started_anew_takes_over_the_node(cluster: Cluster) -> None:
    await cluster.pod("web", {"image": "nginx"})
    await cluster.ready("web")
    cluster.unsubscribe()
    crashed = cluster.kubelet  # its process is gone: what it made is not taken down
    for worker in crashed._workers.values():
        for task in list(worker._tasks):
            task.cancel()
        await worker._sandbox.remove()  # the sandboxes' processes ended with it
    crashed._workers.clear()
    await crashed.cni.close()
    fresh = Kubelet(
        cluster.view,
        cluster.api,
        cluster.node.machine,
        cluster.node.runtime,
        NodeConfig("node-a", "10.200.0.1"),
        now=now,
    )
    await fresh.register()
    assert (await cluster.traces())["leases"] == []
    fresh.pod_changed(cluster.seen("web"))
    deadline = time.monotonic() + 5
    while cluster.seen("web").status.pod_ip != "10.200.0.3":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await fresh.stop()
    assert (await cluster.traces())["leases"] == []


async def test_many_pods_come_up_and_go_together(cluster: Cluster) -> None:
    names = [f"p{number}" for number in range(60)]
    for name in names:
        await cluster.pod(name, {"image": "nginx", "readinessProbe": {"tcpSocket": {"port": 80}}})
    await cluster.ready(*names, seconds=20)
    assert len({cluster.seen(name).status.pod_ip for name in names}) == 60
    for name in names:
        await cluster.api.delete(kinds.POD, "default", name)
    await cluster.gone(*names)
    left = await cluster.traces()
    assert "CNI-" not in left["nat"] and left["leases"] == [] and left["namespaces"] == []


async def test_host_paths_are_the_machines_own(cluster: Cluster) -> None:
    """A link on the machine's disk leads within that disk, whatever lies there on the host."""
    await cluster.node.run("sh", "-c", "mkdir /srv/real && ln -s /srv/real /srv/link")
    script = "echo here > /data/file; exec sleep 600"
    await cluster.pod(
        "paths",
        {
            "image": "busybox",
            "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "d", "mountPath": "/data"}],
        },
        volumes=[{"name": "d", "hostPath": {"path": "/srv/link/made", "type": "DirectoryOrCreate"}}],
        terminationGracePeriodSeconds=1,
    )
    await cluster.ready("paths")
    deadline = time.monotonic() + 5
    while await cluster.node.run("sh", "-c", "cat /srv/real/made/file || true") != "here\n":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    await cluster.pod(
        "absent", {"image": "nginx"}, volumes=[{"name": "d", "hostPath": {"path": "/srv/none", "type": "Directory"}}]
    )
    words = 'MountVolume.SetUp failed for volume "d" : hostPath type check failed: /srv/none is not a directory'
    deadline = time.monotonic() + 5
    while words not in [event["message"] for event in await cluster.api.list(kinds.EVENT, "default")]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    await cluster.node.run("mkdir", "/srv/none")
    await cluster.ready("absent")


async def test_a_host_port_leads_to_its_pod(cluster: Cluster) -> None:
    plugins = [json.loads(conf()), {"type": "portmap", "capabilities": {"portMappings": True}}]
    place = cluster.node.machine.root / "etc/cni/net.d"
    (place / "10-bridge.conf").unlink()
    (place / "10-x.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "bridge", "plugins": plugins}))
    outside = await cluster.node.machine.sandbox("outside", "outside", {})
    try:
        cluster.node.machine.netns.apply(
            [AddVeth("eth9", "eth0", peer_netns=outside.netns.fd), AddAddress("192.0.2.1/24", "eth9"), SetLink("eth9", up=True)]
        )  # fmt: skip
        outside.netns.apply([AddAddress("192.0.2.2/24", "eth0"), SetLink("eth0", up=True)])
        ports = [
            {"containerPort": 80, "hostPort": 8080},
            {"containerPort": 81, "hostPort": 8081, "hostIP": "192.0.2.1"},
        ]
        await cluster.pod("web", {"image": "nginx", "ports": ports})
        await cluster.ready("web")
        words = ["curl", "-sS", "--max-time", "5", "http://192.0.2.1:8080/"]
        answer = await cluster.node.run("nsenter", "--net=/run/netns/outside", *words)
        assert "nginx" in answer.lower() and "nginx" in (await cluster.node.curl("http://127.0.0.1:8080/")).lower()
        assert "-d 192.0.2.1/32 -p tcp -m tcp --dport 8081 -j DNAT" in await cluster.node.run(
            "iptables", "-t", "nat", "-S"
        )
        await cluster.api.delete(kinds.POD, "default", "web", grace=0)
        deadline = time.monotonic() + 8  # the object goes at once, its parts on the node after it
        while "CNI-DN-" in await cluster.node.run("iptables", "-t", "nat", "-S"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    finally:
        await outside.remove()
