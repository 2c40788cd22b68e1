"""Reads a machine's network as its own tools print it: the files of a snapshot. Reads only, and asks no tool that would make what it looks for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glassnet.kernel.api import Host
from glassnet.kernel.iptables import legacy_tables
from glassnet.net.errors import CommandError, KernelError

_AT_ONCE = 4
_TIMEOUT = 60.0
_RECENT = (
    'cd /proc/net/xt_recent 2>/dev/null || exit 0; for f in *; do [ -f "$f" ] && echo "== $f" && cat "$f"; done; true'
)
_CNI = 'cd /var/lib/cni/networks 2>/dev/null || exit 0; for f in */*.*.*.* */*:*; do [ -f "$f" ] && echo "== $f" && cat "$f" && echo; done; true'
_CONF = 'cd /etc/cni/net.d 2>/dev/null || exit 0; for f in *.conf *.conflist *.json; do [ -f "$f" ] && echo "== $f" && cat "$f" && echo; done; true'
_RESULTS = 'cd /var/lib/cni/results 2>/dev/null || exit 0; for f in *; do [ -f "$f" ] && echo "== $f" && cat "$f" && echo; done; true'

# file -> command. Tools that a machine does not have are passed over: the manifest says which.
COMMANDS: dict[str, tuple[str, ...]] = {
    "iptables-save.txt": ("iptables-nft-save", "-c"),
    "ip6tables-save.txt": ("ip6tables-nft-save", "-c"),
    "nft-ruleset.json": ("nft", "-j", "list", "ruleset"),
    "nft-ruleset.nft": ("nft", "-a", "list", "ruleset"),
    "ipset-save.txt": ("ipset", "save"),
    "ip-addr.json": ("ip", "-j", "-d", "addr"),
    "ip-route.json": ("ip", "-j", "route", "show", "table", "all"),
    "ip-route6.json": ("ip", "-j", "-6", "route", "show", "table", "all"),
    "ip-rule.json": ("ip", "-j", "rule"),
    "ip-rule6.json": ("ip", "-j", "-6", "rule"),
    "ip-neigh.json": ("ip", "-j", "neigh"),
    "bridge-link.json": ("bridge", "-j", "-d", "link"),
    "bridge-fdb.json": ("bridge", "-j", "fdb"),
    "conntrack.txt": ("conntrack", "-L", "-o", "extended"),
    "conntrack6.txt": ("conntrack", "-L", "-f", "ipv6", "-o", "extended"),
    "conntrack-stats.txt": ("conntrack", "-S"),
    "sysctl-net.txt": ("sysctl", "-a", "--pattern", r"^net\."),
    "ss-listen.txt": ("ss", "-lntupH"),
    "xt_recent.txt": ("sh", "-c", _RECENT),
    "cni-leases.txt": ("sh", "-c", _CNI),
    "cni-conf.txt": ("sh", "-c", _CONF),
    "cni-results.txt": ("sh", "-c", _RESULTS),
    "tc-qdisc.json": ("tc", "-j", "-s", "qdisc"),
}
LEGACY = {
    "iptables-legacy-save.txt": ("iptables-legacy-save", "-c"),
    "ip6tables-legacy-save.txt": ("ip6tables-legacy-save", "-c"),
}
_POD_PARTS = {
    "ip-addr.json": "addr", "ip-route.json": "route show table all", "ip-rule.json": "rule", "ip-neigh.json": "neigh",
}  # fmt: skip


async def capture(host: Host, pods: Mapping[str, str] | None = None) -> tuple[dict[str, bytes], dict[str, str]]:
    """(files, file -> why it is not there) of one machine; paths are relative to the machine's folder.

    `pods` maps addresses to `namespace_name`: network namespaces under /run/netns that hold one become `pods/namespace_name/…`.
    """
    commands = dict(COMMANDS)
    if legacy_tables(host.netns):
        commands |= LEGACY
    gate = asyncio.Semaphore(_AT_ONCE)
    files: dict[str, bytes] = {}
    failed: dict[str, str] = {}

    async def one(name: str, argv: Sequence[str]) -> None:
        async with gate:
            try:
                data = await host.run(argv, timeout=_TIMEOUT)
            except CommandError as error:
                failed[name] = f"{' '.join(argv[:4])}: {error.detail.splitlines()[0] if error.detail else 'failed'}"
                return
            except KernelError as error:
                failed[name] = str(error)
                return
        if data.strip() or name.endswith(".nft"):
            files[name] = data

    await asyncio.gather(*(one(name, argv) for name, argv in commands.items()))
    if pods:
        await _pods(host, pods, gate, files)
    return files, failed


async def _pods(host: Host, pods: Mapping[str, str], gate: asyncio.Semaphore, files: dict[str, bytes]) -> None:
    """Every named network namespace that holds a pod's address."""
    try:
        names = (await host.run(["ls", "/run/netns"])).decode().split()
    except KernelError:
        return

    async def one(name: str) -> None:
        async with gate:
            try:
                found = await _namespace(host, name)
            except (KernelError, ValueError):
                return  # it went away while we looked
        folder = _owner(found["ip-addr.json"], pods)
        if folder:
            files.update({f"pods/{folder}/{part}": data for part, data in found.items()})

    await asyncio.gather(*(one(name) for name in names))


async def _namespace(host: Host, name: str) -> dict[str, bytes]:
    """What `ip` prints in a namespace: one process for all of it, and one for the sockets."""
    enter = ["nsenter", f"--net=/run/netns/{name}"]
    words = "\n".join(_POD_PARTS.values()) + "\n"
    text = await host.run([*enter, "ip", "-j", "-d", "-batch", "/dev/stdin"], stdin=words.encode())
    decoder, place, found = json.JSONDecoder(), 0, {}
    decoded = text.decode()
    for part in _POD_PARTS:
        while place < len(decoded) and decoded[place].isspace():
            place += 1
        value, place = decoder.raw_decode(decoded, place)
        found[part] = json.dumps(value, separators=(",", ":")).encode()
    found["ss-listen.txt"] = await host.run([*enter, "ss", "-lntupH"])
    return found


def _owner(addresses: bytes, pods: Mapping[str, str]) -> str:
    links: list[dict[str, Any]] = json.loads(addresses)
    texts: Iterable[str] = (item.get("local", "") for link in links for item in link.get("addr_info", ()))
    return next((pods[text] for text in texts if text in pods), "")
