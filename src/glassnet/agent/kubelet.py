"""The kubelet of one node: registers it, runs the pods bound to it, keeps its lease."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from glassnet import __version__
from glassnet.agent import environment
from glassnet.agent.changes import Writer
from glassnet.agent.cni import CniAgent
from glassnet.agent.pod_worker import PodWorker
from glassnet.kernel.api import Machine, NetNs
from glassnet.kube import kinds
from glassnet.kube.api import Api
from glassnet.kube.runtime import ContainerRuntime, PodSandbox
from glassnet.kube.types import Container, Pod
from glassnet.kube.view import Event, Key, View
from glassnet.net.errors import ApiError, GlassnetError

LEASE_SECONDS = 40
HEARTBEAT = 10.0


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What a node says of itself."""

    name: str
    address: str
    external: str = ""
    pod_cidr: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    cluster_dns: str = ""


class Kubelet:
    """One node's kubelet. Implements `pod_worker.Node`."""

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
    ) -> None:
        self._view, self._api, self._machine, self._runtime, self._config = view, api, machine, runtime, config
        self._now = now
        self._writer = Writer(api, now)
        self.name, self.address = config.name, config.address
        self.cni = CniAgent(machine, random, permanent_neighbours)
        self._workers: dict[str, PodWorker] = {}

    # -- the node

    async def register(self) -> None:
        """Create the Node object, or refresh the one there is."""
        body = _node_body(self._config, self._now())
        try:
            await self._api.create(kinds.NODE, "", body)
        except ApiError as error:
            if error.status != 409:
                raise
            patch = {"metadata": {"labels": body["metadata"]["labels"]}}
            await self._api.patch(kinds.NODE, "", self.name, patch)
            await self._api.patch(kinds.NODE, "", self.name, {"status": body["status"]}, "status")
        await self.heartbeat()

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

    def ended(self, worker: PodWorker) -> None:
        """A worker has taken its pod down."""
        for uid, found in list(self._workers.items()):
            if found is worker:
                del self._workers[uid]

    # -- what workers ask

    def now(self) -> datetime:
        return self._now()

    def current(self, pod: Pod) -> Pod:
        found = self._view.pods.get(Key(pod.metadata.namespace, pod.metadata.name))
        return found if found is not None and found.metadata.uid == pod.metadata.uid else pod

    def files(self, pod: Pod, pod_ip: str) -> dict[str, str]:
        """The files of a pod that are its own."""
        if pod.spec.host_network:
            return {}
        hostname = (pod.spec.hostname or pod.metadata.name)[:63]
        node_resolv = self._read("etc/resolv.conf")
        return {
            "/etc/hosts": environment.hosts_file(pod, pod_ip, hostname),
            "/etc/hostname": hostname + "\n",
            "/etc/resolv.conf": environment.resolv_conf(pod, self._config.cluster_dns, node_resolv),
        }

    def _read(self, path: str) -> str:
        try:
            return (self._machine.root / path).read_text()
        except OSError:
            return ""

    def env(self, pod: Pod, container: Container, pod_ip: str) -> dict[str, str]:
        return environment.resolve(container, pod, pod_ip, self.address, self._view)

    def mounts(self, pod: Pod, container: Container, pod_ip: str) -> dict[str, str]:
        """Path in the pod -> path on the node, for each volume mount; volumes are laid out on the node's disk."""
        volumes = {str(v.get("name")): v for v in pod.spec.volumes}
        out: dict[str, str] = {}
        for mount in container.volume_mounts:
            place = self._volume(pod, volumes.get(mount.name, {}), pod_ip)
            out[mount.mount_path] = f"{place}/{mount.sub_path}" if mount.sub_path else place
        return out

    def _volume(self, pod: Pod, volume: Mapping[str, Any], pod_ip: str) -> str:
        if "hostPath" in volume:
            return str(volume["hostPath"].get("path"))
        place = f"/var/lib/kubelet/pods/{pod.metadata.uid}/volumes/{volume.get('name')}"
        root = self._machine.root / place.lstrip("/")
        files = environment.volume_files(volume, pod, pod_ip, self.address, self._view)
        if files is None and "emptyDir" not in volume:
            kind = next((name for name in volume if name != "name"), "unknown")
            raise environment.MissingReference(f"volume {volume.get('name')}: type {kind} is not supported here")
        try:
            root.mkdir(parents=True, exist_ok=True)
            for name, text in (files or {}).items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
        except OSError as error:
            raise environment.MissingReference(f"volume {volume.get('name')}: {place}: {error.strerror}") from None
        return place

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
        if event.kind is kinds.POD and event.new is not None:
            kubelet = kubelets.get(event.new.spec.node_name)
            if kubelet is not None:
                kubelet.pod_changed(event.new)

    return view.subscribe(on_event)


async def heartbeats(kubelets: Mapping[str, Kubelet]) -> None:
    """Renew every lease, one timer for all, until cancelled."""
    while True:
        await asyncio.sleep(HEARTBEAT)
        for kubelet in kubelets.values():
            try:
                await kubelet.heartbeat()
            except GlassnetError:
                continue  # the next beat tries again; the API says in its log what was wrong


def _node_body(config: NodeConfig, now: datetime) -> dict[str, Any]:
    moment = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    labels = {
        "kubernetes.io/hostname": config.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": arch,
        **config.labels,
    }
    addresses = [{"type": "InternalIP", "address": config.address}]
    addresses += [{"type": "ExternalIP", "address": config.external}] if config.external else []
    addresses.append({"type": "Hostname", "address": config.name})
    resources = {"cpu": str(os.cpu_count() or 1), "memory": _memory(), "pods": "1100", "ephemeral-storage": "10Gi"}
    good = [("MemoryPressure", "False", "KubeletHasSufficientMemory"), ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            ("PIDPressure", "False", "KubeletHasSufficientPID"), ("Ready", "True", "KubeletReady")]  # fmt: skip
    conditions = [
        {
            "type": kind,
            "status": value,
            "reason": reason,
            "message": "kubelet is posting ready status" if kind == "Ready" else "",
            "lastHeartbeatTime": moment,
            "lastTransitionTime": moment,
        }
        for kind, value, reason in good
    ]
    spec = {"podCIDR": config.pod_cidr, "podCIDRs": [config.pod_cidr]} if config.pod_cidr else {}
    info = {
        "machineID": "", "systemUUID": "", "bootID": Path("/proc/sys/kernel/random/boot_id").read_text().strip(), "kernelVersion": platform.release(),
        "osImage": _os_image(), "containerRuntimeVersion": f"glassnet://{__version__}", "kubeletVersion": "v1.36.2+glassnet",
        "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": arch,
    }  # fmt: skip
    status = {"capacity": resources, "allocatable": resources, "conditions": conditions, "addresses": addresses, "nodeInfo": info,
              "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}  # fmt: skip
    return {"metadata": {"name": config.name, "labels": labels}, "spec": spec, "status": status}


def _memory() -> str:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return line.split()[1] + "Ki"
    return "0"


def _os_image() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
