"""Directories, sockets and ports that the agent needs."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from glassnet.kernel.api import Host
from glassnet.kernel.network_state import attributes
from glassnet.kernel.node_checks.result import Check, Result, error, ok, warning

DIRECTORIES = ("/opt/cni/bin", "/etc/cni/net.d", "/var/lib/cni", "/run")
RUNTIMES = ("/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/cri-dockerd.sock", "/run/k3s/containerd/containerd.sock")  # fmt: skip
HEALTH, METRICS, VXLAN = 10256, 10249, 8472
_GETLINK, _IFNAME, _LINKINFO, _INFO_KIND, _INFO_DATA, _VXLAN_ID, _VXLAN_PORT = 16 + 2, 3, 18, 1, 2, 1, 15
_LISTEN = "0A"  # include/net/tcp_states.h
OWN_LINK = "glassnet-vxlan"


async def directories(host: Host) -> Sequence[Result]:
    """Where plugins, configurations and leases go. The agent makes what is absent, if it may write above."""
    found = []
    for text in DIRECTORIES:
        place = host.root / text.lstrip("/")
        existing = place
        while not existing.exists() and existing != host.root:
            existing = existing.parent
        if not existing.is_dir():
            found.append(error("directories", f"{text} is no directory", f"move it away; mkdir -p {text}"))
        elif not _writable(existing):
            found.append(error("directories", f"{text} cannot be written: it lies on a read-only file system, or is another user's", f"make {text} writable for root; or name other directories (cni.binDir, cni.confDir; the runtime's configuration must name them, too)"))  # fmt: skip
        elif existing != place and text != "/var/lib/cni":
            found.append(warning("directories", f"{text} is not there", f"mkdir -p {text} (the agent makes it; a runtime may look elsewhere)"))  # fmt: skip
    return found or [ok("directories", ", ".join(DIRECTORIES))]


def _writable(place: Path) -> bool:
    return os.access(place, os.W_OK) and not os.statvfs(place).f_flag & os.ST_RDONLY


async def container_runtime(host: Host) -> Sequence[Result]:
    """Who will call the plugins."""
    there = [text for text in RUNTIMES if _is_socket(host.root / text.lstrip("/"))]
    if not there:
        return [warning("container runtime", "no socket of containerd, CRI-O or cri-dockerd", "start the runtime; without one nobody calls CNI plugins")]  # fmt: skip
    return [ok("container runtime", ", ".join(there))]


def _is_socket(place: Path) -> bool:
    try:
        return stat.S_ISSOCK(place.stat().st_mode)
    except OSError:
        return False


async def ports(host: Host) -> Sequence[Result]:
    """Ports of the agent that somebody else has: a kube-proxy that runs, another network's VXLAN."""
    found = []
    listening = _ports(host, "tcp")
    for port, what in ((HEALTH, "health (healthBindAddress)"), (METRICS, "metrics (metricsBindAddress)")):
        if port in listening:
            found.append(warning("ports", f"TCP {port} is taken: the agent's {what} cannot be served there", "end who has it (ss -lntp), kube-proxy perhaps; or another address in the agent's configuration. The agent itself has it where it runs already"))  # fmt: skip
    if VXLAN in _ports(host, "udp"):
        found.append(warning("ports", f"UDP {VXLAN} is taken: no VXLAN between nodes", "end who has it (ss -lnup); or another routes.vxlanPort on all nodes"))  # fmt: skip
    for name, number, port in vxlan_links(host):
        if port == VXLAN and name != OWN_LINK:
            found.append(warning("ports", f"the VXLAN link {name} (id {number}) has UDP {port}", f"ip link del {name} when its network is gone; or another routes.vxlanPort on all nodes"))  # fmt: skip
    return found or [ok("ports", f"TCP {HEALTH}, TCP {METRICS}, UDP {VXLAN} are free")]


def _ports(host: Host, protocol: str) -> set[int]:
    """Ports that sockets listen on (TCP) or are bound to (UDP), of both families (proc_net_tcp, proc_pid_net(5))."""
    found: set[int] = set()
    with host.netns.entered():
        for suffix in ("", "6"):
            try:
                lines = Path(f"/proc/thread-self/net/{protocol}{suffix}").read_text().splitlines()[1:]
            except FileNotFoundError:
                continue
            fields = (line.split() for line in lines)
            found |= {int(each[1].rpartition(":")[2], 16) for each in fields if protocol == "udp" or each[3] == _LISTEN}
    return found


def vxlan_links(host: Host) -> Iterator[tuple[str, int, int]]:
    """(name, VNI, UDP port) of each VXLAN link: their sockets are the kernel's and in no list."""
    for body in host.netns.request(_GETLINK, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0), dump=True):
        parts = attributes(body, 16)
        info = attributes(parts.get(_LINKINFO, b""), 0)
        if info.get(_INFO_KIND, b"").rstrip(b"\0") == b"vxlan":
            data = attributes(info.get(_INFO_DATA, b""), 0)
            number = int.from_bytes(data.get(_VXLAN_ID, b""), "little")
            yield parts[_IFNAME].rstrip(b"\0").decode(), number, int.from_bytes(data.get(_VXLAN_PORT, b""), "big")


CHECKS: tuple[Check, ...] = (directories, container_runtime, ports)
