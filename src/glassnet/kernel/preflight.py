"""What a lab needs of a machine, tried out in namespaces that are gone right after; and how to get what is missing."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from glassnet.kernel import libc
from glassnet.kernel.netlink import RtNetlink
from glassnet.kernel.spawn import PATH
from glassnet.net.errors import GlassnetError, KernelError
from glassnet.netstack.ops import AddBridge, AddVeth

PROGRAMS = {
    "ip": "iproute2",
    "iptables-restore": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ethtool": "ethtool",
    "brctl": "bridge-utils",
    "ping": "iputils-ping",
    "ps": "procps",
    "lsns": "util-linux",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setsid": "util-linux",
    "mount": "mount",
    "curl": "curl",
    "knotd": "knot",
    "kubectl": "kubectl",
}


class Finding(NamedTuple):
    """One requirement: whether it is met, in words, and the way to meet it."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def findings() -> Iterator[Finding]:
    """Every requirement, one after the other."""
    for program, package in PROGRAMS.items():
        place = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{PATH}:{Path(sys.executable).parent}")
        remedy = (
            "make setup fetches it, GLASSNET_KUBECTL names one"
            if program == "kubectl"
            else f"apt-get install {package}"
        )
        yield Finding(f"program {program}", bool(place), place or "not found", remedy)
    for name, probe, remedy in _FEATURES:
        why = in_a_child(probe)
        yield Finding(name, not why, why or "works", remedy)


def missing() -> list[Finding]:
    """What is not there."""
    return [finding for finding in findings() if not finding.ok]


def in_a_child(probe: Callable[[], None]) -> str:
    """Try something in a child with namespaces of its own; "" when it works, the reason otherwise."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        text = ""
        try:
            _namespaces()
            probe()
        except (GlassnetError, OSError) as error:
            text = str(error)
        os.write(writer, text.encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


def _namespaces() -> None:
    if os.geteuid():
        user, group = os.geteuid(), os.getegid()
        libc.unshare(libc.CLONE_NEWUSER)
        for name, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(line)
    libc.unshare(libc.CLONE_NEWNS | libc.CLONE_NEWNET | libc.CLONE_NEWUTS | libc.CLONE_NEWIPC)
    libc.mount("", "/", flags=libc.MS_REC | libc.MS_PRIVATE)


def _nothing() -> None:
    """The namespaces themselves are the probe."""


def _links() -> None:
    netlink = RtNetlink()
    netlink.apply([AddBridge("br0"), AddVeth("v0", "v1")])


def _bridge_netfilter() -> None:
    Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")


def _nf_tables() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12):
        pass
    run_quietly("nft", "add", "table", "ip", "probe")


def _conntrack() -> None:
    run_quietly("iptables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")


def _matches() -> None:
    run_quietly(
        "iptables",
        "-t",
        "nat",
        "-A",
        "PREROUTING",
        "-m",
        "statistic",
        "--mode",
        "random",
        "--probability",
        "0.5",
        "-m",
        "comment",
        "--comment",
        "probe",
        "-j",
        "RETURN",
    )
    run_quietly(
        "iptables",
        "-t",
        "nat",
        "-A",
        "POSTROUTING",
        "-m",
        "addrtype",
        "--src-type",
        "LOCAL",
        "-j",
        "MASQUERADE",
        "--random-fully",
    )


def _overlay() -> None:
    libc.mount("tmpfs", "/tmp", "tmpfs")
    for name in ("upper", "work", "root"):
        os.mkdir(f"/tmp/{name}")
    options = "lowerdir=/usr,upperdir=/tmp/upper,workdir=/tmp/work" + (
        ",userxattr"
        if os.path.exists("/proc/self/uid_map") and Path("/proc/self/uid_map").read_text().split()[2] == "1"
        else ""
    )
    libc.mount("overlay", "/tmp/root", "overlay", 0, options)


def run_quietly(*argv: str) -> None:
    """Run a program in a probe, with a /run of its own. Raises KernelError with what it said."""
    libc.mount("tmpfs", "/run", "tmpfs")
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(writer, 2)
        try:
            os.execvpe(argv[0], argv, {"PATH": PATH})
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}".encode())
            os._exit(127)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise KernelError(" ".join(argv), 0, text.strip())


_FEATURES: tuple[tuple[str, Callable[[], None], str], ...] = (
    (
        "namespaces",
        _nothing,
        "sysctl kernel.unprivileged_userns_clone=1 and user.max_user_namespaces above 0, or run as root",
    ),
    ("bridge and veth", _links, "modprobe -a bridge veth"),
    ("bridge netfilter", _bridge_netfilter, "modprobe br_netfilter"),
    ("nf_tables", _nf_tables, "modprobe nf_tables"),
    ("conntrack", _conntrack, "modprobe nf_conntrack"),
    ("iptables matches", _matches, "modprobe -a xt_statistic xt_comment xt_addrtype xt_MASQUERADE"),
    ("overlayfs", _overlay, "modprobe overlay (rootless: Linux 5.11 or newer)"),
)
