"""The kubelet of one node: registers it, runs the pods bound to it, keeps its lease."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from glassnet.agent.changes import Writer
from glassnet.agent.cni import programs
from glassnet.agent.cni.facts import pod_cidrs, write_facts
from glassnet.agent.cni.runtime import CniAgent
from glassnet.agent.pods import environment, node_status
from glassnet.agent.pods.node_status import NodeConfig
from glassnet.agent.pods.volumes import Volumes
from glassnet.agent.pods.worker import PodWorker
from glassnet.cni.node import NodeFacts
from glassnet.cni.runtime import PLUGIN_PATH
from glassnet.dns import resolv_conf
from glassnet.kernel.api import Machine, NetNs
from glassnet.kube import kinds
from glassnet.kube.api import Api
from glassnet.kube.runtime import ContainerRuntime, PodSandbox
from glassnet.kube.types import Container, Pod
from glassnet.kube.view import Event, Key, View
from glassnet.net.errors import ApiError, GlassnetError

__all__ = ["Kubelet", "NodeConfig", "dispatch", "heartbeats", "look_for_networks"]
LEASE_SECONDS = 40
HEARTBEAT = 10.0
LOOK = 0.5  # seconds between two looks for a network


class Kubelet:
    """One node's kubelet. Implements `worker.Node`."""

    def __init__(
        self,
        view: View,
        api: Api,
        machine: Machine,
        runtime: ContainerRuntime,
        config: NodeConfig,
        *,
        now: Callable[[], datetime],
        random: Callable[[int], bytes] = os.urandom,
        permanent_neighbours: bool = False,
        own_network: bool = True,
    ) -> None:
        """Without `own_network` pods' networks are somebody else's: it calls the programs in PLUGIN_PATH as a runtime does, and is not ready
        before there is a network for them."""
        self._view, self._api, self._machine, self._runtime, self._config = view, api, machine, runtime, config
        self._now = now
        self._writer = Writer(api, now)
        self.name, self.address, self.addresses = config.name, config.address, config.addresses
        self._own_network, self._lacking = own_network, ""
        self.cni = CniAgent(machine, random, permanent_neighbours, programs=not own_network)
        self._resources = node_status.resources()
        self._volumes = Volumes(machine, view, api, self._resources)
        self._workers: dict[str, PodWorker] = {}

    # -- the node

    async def register(self) -> None:
        """Put the CNI programs in their place, take down what an agent before left, create the Node object or refresh the one there is."""
        if self._own_network:
            programs.install(self._machine.root / PLUGIN_PATH.lstrip("/"))
            await self.cni.sweep()
            await self.cni.serve()
        self._lacking = "" if self._own_network else self.cni.lacking()
        body = node_status.body(self._config, self._resources, self._now(), self._lacking)
        try:
            await self._api.create(kinds.NODE, "", body)
        except ApiError as error:
            if error.status != 409:
                raise
            patch = {"metadata": {"labels": body["metadata"]["labels"]}}
            await self._api.patch(kinds.NODE, "", self.name, patch)
            await self._api.patch(kinds.NODE, "", self.name, {"status": body["status"]}, "status")
        if self._own_network:
            self._tell_plugins()
        await self.heartbeat()

    async def look_for_network(self) -> None:
        """Say so when the node has a network for pods now, or has none any more."""
        if (lacking := self.cni.lacking()) != self._lacking:
            conditions = node_status.conditions(self._now(), lacking)
            await self._api.patch(kinds.NODE, "", self.name, {"status": {"conditions": conditions}}, "status")
            self._lacking = lacking

    def _tell_plugins(self) -> None:
        """Plugins that configure themselves find the node's pod CIDRs in a file."""
        node = self._view.nodes.get(Key("", self.name))
        if node is not None and (ranges := pod_cidrs(node)):
            write_facts(self._machine.root, NodeFacts(ranges, self._config.cluster_cidrs))

    async def heartbeat(self) -> None:
        """Renew the node's lease."""
        renewed = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self.name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": renewed}
        try:
            await self._api.patch(kinds.LEASE, "kube-node-lease", self.name, {"spec": spec})
        except ApiError as error:
            if error.status != 404:
                raise
            await self._api.create(kinds.LEASE, "kube-node-lease", {"metadata": {"name": self.name}, "spec": spec})

    # -- its pods

    def pod_changed(self, pod: Pod) -> None:
        """A pod bound to this node is new or has changed."""
        worker = self._workers.get(pod.metadata.uid)
        if worker is not None:
            worker.update(pod)
        elif not pod.finished() or pod.metadata.deletion_timestamp:
            self._workers[pod.metadata.uid] = PodWorker(self, pod)

    def pod_gone(self, uid: str) -> None:
        """A pod's object is no more: its worker takes down what there still is, as after a forced deletion."""
        worker = self._workers.pop(uid, None)
        if worker is not None:
            worker.vanished()

    async def stop(self) -> None:
        """Take down what runs on this node; the pods' objects stay as they are."""
        workers, self._workers = list(self._workers.values()), {}
        await asyncio.gather(*(worker.close() for worker in workers))
        await self.cni.close()

    # -- what workers ask

    def now(self) -> datetime:
        return self._now()

    def current(self, pod: Pod) -> Pod:
        found = self._view.pods.get(Key(pod.metadata.namespace, pod.metadata.name))
        return found if found is not None and found.metadata.uid == pod.metadata.uid else pod

    def files(self, pod: Pod, pod_ip: str) -> dict[str, str]:
        """The files of a pod that are its own."""
        node_resolv = self._read("etc/resolv.conf")
        resolver = {"/etc/resolv.conf": resolv_conf.of_pod(pod, self._config.cluster_dns, node_resolv).text()}
        if pod.spec.host_network:
            return resolver
        hostname = (pod.spec.hostname or pod.metadata.name)[:63]
        own = {"/etc/hosts": environment.hosts_file(pod, pod_ip, hostname), "/etc/hostname": hostname + "\n"}
        return own | resolver

    def _read(self, path: str) -> str:
        try:
            return (self._machine.root / path).read_text()
        except OSError:
            return ""

    def env(self, pod: Pod, container: Container, pod_ip: str) -> dict[str, str]:
        return environment.resolve(container, pod, pod_ip, self.address, self._view, self._resources)

    async def volumes(self, pod: Pod) -> dict[str, str]:
        return await self._volumes.lay_out(pod)

    def discard_volumes(self, pod: Pod) -> None:
        self._volumes.discard(pod)

    def netns(self, sandbox: PodSandbox) -> NetNs:
        found: NetNs = sandbox.kernel.netns  # type: ignore[attr-defined]
        return found

    def stand_in(self, container: Container) -> str:
        return self._runtime.stand_in(container)

    async def sandbox(self, pod: Pod, files: Mapping[str, str]) -> PodSandbox:
        return await self._runtime.sandbox(pod, files)

    async def write(self, change: Any) -> None:
        await self._writer.carry_out(change)


def dispatch(view: View, kubelets: Mapping[str, Kubelet]) -> Callable[[], None]:
    """Tell each kubelet of its pods, with one subscription for all of them. Returns the un-subscriber."""

    def on_event(event: Event) -> None:
        if event.kind is not kinds.POD:
            return
        pod = event.new or event.old
        if event.old is not None and event.new is not None and event.old.metadata.uid != event.new.metadata.uid:
            _gone(kubelets, event.old)  # a namesake has come in its place, and nobody saw the gap
        if (kubelet := kubelets.get(pod.spec.node_name)) is not None:
            if event.new is not None:
                kubelet.pod_changed(pod)
            else:
                kubelet.pod_gone(pod.metadata.uid)

    return view.subscribe(on_event)


def _gone(kubelets: Mapping[str, Kubelet], pod: Pod) -> None:
    if (kubelet := kubelets.get(pod.spec.node_name)) is not None:
        kubelet.pod_gone(pod.metadata.uid)


async def look_for_networks(kubelets: Mapping[str, Kubelet]) -> None:
    """Have every kubelet look whether somebody has brought, or taken away, its node's network; until cancelled."""
    while True:
        for kubelet in kubelets.values():
            try:
                await kubelet.look_for_network()
            except GlassnetError:
                continue  # the next look tells
        await asyncio.sleep(LOOK)


async def heartbeats(kubelets: Mapping[str, Kubelet]) -> None:
    """Renew every lease, one timer for all, until cancelled."""
    while True:
        await asyncio.sleep(HEARTBEAT)
        for kubelet in kubelets.values():
            try:
                await kubelet.heartbeat()
            except GlassnetError:
                continue  # the next beat tries again; the API says in its log what was wrong
