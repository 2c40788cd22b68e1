"""What a node says of itself: the Node object as its kubelet registers it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from glassnet import __version__
from glassnet.agent.pods.pod_status import stamp

KUBELET_VERSION = "v1.36.2+glassnet"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What a node says of itself. `address6` and `pod_cidr6` are the same for IPv6, "" without it."""

    name: str
    address: str
    external: str = ""
    pod_cidr: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    cluster_dns: str = ""
    cluster_cidrs: tuple[str, ...] = ()
    address6: str = ""
    pod_cidr6: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The node's own addresses, IPv4 first."""
        return tuple(filter(None, (self.address, self.address6)))


def body(config: NodeConfig, resources: Mapping[str, str], now: datetime, lacking: str = "") -> dict[str, Any]:
    """The whole Node object. `lacking` says in words why pods get no network here, "" when they do."""
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    labels = {
        "kubernetes.io/hostname": config.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": arch,
        **config.labels,
    }
    addresses = [{"type": "InternalIP", "address": each} for each in config.addresses]
    addresses += [{"type": "ExternalIP", "address": config.external}] if config.external else []
    addresses.append({"type": "Hostname", "address": config.name})
    status = {
        "capacity": resources,
        "allocatable": resources,
        "conditions": conditions(now, lacking),
        "addresses": addresses,
        "nodeInfo": _info(arch),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }
    ranges = [each for each in (config.pod_cidr, config.pod_cidr6) if each]
    spec = {"podCIDR": config.pod_cidr, "podCIDRs": ranges} if config.pod_cidr else {}
    return {"metadata": {"name": config.name, "labels": labels}, "spec": spec, "status": status}


def resources() -> dict[str, str]:
    """Capacity of the machine under all nodes: a lab's nodes share it."""
    return {"cpu": str(os.cpu_count() or 1), "memory": _memory(), "pods": "1100", "ephemeral-storage": "10Gi"}


def conditions(now: datetime, lacking: str = "") -> list[dict[str, Any]]:
    """The conditions a kubelet sets; without a network for pods it is not ready, and says why in the kubelet's words."""
    moment = stamp(now)
    ready = ("True", "KubeletReady", "kubelet is posting ready status")
    if lacking:
        said = f"NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: {lacking}"
        ready = ("False", "KubeletNotReady", f"container runtime network not ready: {said}")
    well = {
        "MemoryPressure": ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        "DiskPressure": ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        "PIDPressure": ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        "Ready": ready,
    }
    return [
        {
            "type": kind,
            "status": value,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": moment,
            "lastTransitionTime": moment,
        }
        for kind, (value, reason, message) in well.items()
    ]


def _info(arch: str) -> dict[str, str]:
    return {
        "machineID": "",
        "systemUUID": "",
        "bootID": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "kernelVersion": platform.release(),
        "osImage": _os_image(),
        "containerRuntimeVersion": f"glassnet://{__version__}",
        "kubeletVersion": KUBELET_VERSION,
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": arch,
    }


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
