"""Which addresses a node has given away, to whom, and whether there still is anybody who uses them. Facts in, rows out.

A lease is alive when its address is configured in some network namespace, or when the node's end of the container's veth pair is there with
carrier. Whoever gathers the facts looks twice before anything is taken back: a lease comes before its address is configured.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from glassnet.cni import host_local, ipam, plugins
from glassnet.cni.errors import ConfigError
from glassnet.cni.fields import Fields
from glassnet.cni.request import Attachment
from glassnet.cni.result import VERSIONS
from glassnet.cni.runtime import Kept, Network

ALIVE, LEAKED = "alive", "leaked"
SETTLED = 60.0  # seconds: a lease that is younger may belong to a container that is just being started


class Lease(NamedTuple):
    """A lease file. `changed` is its time of change, seconds since 1970."""

    network: str
    place: str
    address: str
    holder: Attachment
    changed: float


class Facts(NamedTuple):
    """What there is on a node. `kept_at` tells when a result was kept, by network and attachment; `namespaces` are paths that exist."""

    leases: tuple[Lease, ...]
    kept: tuple[Kept, ...]
    addresses: frozenset[str]
    wired: frozenset[tuple[str, str, str]]
    namespaces: frozenset[str]
    kept_at: dict[tuple[str, Attachment], float]
    booted: float
    now: float


class Row(NamedTuple):
    """One address: whose, since when (seconds), and whether it is in use. `place` is "" for a kept result without a lease."""

    address: str
    network: str
    pod: str
    holder: Attachment
    age: float
    state: str
    why: str
    changed: float
    place: str

    @property
    def settled(self) -> bool:
        """Old enough that no container can be on its way to it."""
        return self.age >= SETTLED


def places(networks: Iterable[Network]) -> dict[str, str]:
    """Where networks that name a directory of their own keep their leases: directory -> network."""
    found = {}
    for network in networks:
        for plugin in network.plugins:
            body = plugin.get("ipam")
            if isinstance(body, dict) and body.get("type") == "host-local" and isinstance(body.get("dataDir"), str):
                found[f"{body['dataDir']}/{network.name}"] = network.name
    return found


def rows(facts: Facts) -> list[Row]:
    """A row for each lease, and for each address that a kept result has without one; by network and address."""
    kept = {(one.network.name, one.container.attachment): one for one in facts.kept}
    found = [_row(lease, kept.get((lease.network, lease.holder)), facts) for lease in facts.leases]
    leased = {(one.network, one.address) for one in facts.leases}
    found += [row for one in facts.kept for row in _unleased(one, facts, leased)]
    return sorted(found, key=lambda row: (row.network, ":" in row.address, _number(row.address), row.holder))


def _number(address: str) -> int:
    return int(ip_address(address)) if host_local.is_lease(address) else 0


def _row(lease: Lease, kept: Kept | None, facts: Facts) -> Row:
    why = _alive(lease.network, lease.address, lease.holder, facts)
    return Row(
        lease.address,
        lease.network,
        _pod(kept),
        lease.holder,
        max(0.0, facts.now - lease.changed),
        ALIVE if why else LEAKED,
        why or _lost(lease, kept, facts),
        lease.changed,
        lease.place,
    )


def _alive(network: str, address: str, holder: Attachment, facts: Facts) -> str:
    if address in facts.addresses:
        return "a namespace has the address"
    return "its veth pair is up" if (network, holder.container_id, holder.ifname) in facts.wired else ""


def _lost(lease: Lease, kept: Kept | None, facts: Facts) -> str:
    if lease.changed < facts.booted:
        return "from before the last boot"
    if kept is not None:
        return _without(kept, facts)
    return "no such container: no namespace has the address"


def _without(kept: Kept, facts: Facts) -> str:
    if kept.container.netns in facts.namespaces:
        return f"{kept.container.netns} is there, without the address"
    return f"kept result without namespace: {kept.container.netns or 'none'} is gone"


def _pod(kept: Kept | None) -> str:
    """namespace/name out of CNI_ARGS; "" when a runtime gave none."""
    arguments = dict(kept.container.arguments) if kept else {}
    name = arguments.get("K8S_POD_NAME", "")
    return f"{arguments.get('K8S_POD_NAMESPACE', '')}/{name}".lstrip("/") if name else ""


def _unleased(kept: Kept, facts: Facts, leased: Collection[tuple[str, str]]) -> Iterable[Row]:
    network, holder = kept.network.name, kept.container.attachment
    changed = facts.kept_at.get((network, holder), 0.0)
    for address in kept_addresses(kept):
        if (network, address) in leased:
            continue
        why = _alive(network, address, holder, facts)
        host = "host-local" in {_ipam_of(one) for one in kept.network.plugins}
        if why:
            why += ", no lease" if host else ""
        lost = "from before the last boot" if changed < facts.booted else _without(kept, facts)
        age = max(0.0, facts.now - changed)
        yield Row(address, network, _pod(kept), holder, age, ALIVE if why else LEAKED, why or lost, changed, "")


def _ipam_of(plugin: object) -> str:
    body = plugin.get("ipam") if isinstance(plugin, dict) else None
    kind = str(body.get("type", "")) if isinstance(body, dict) else ""
    return "host-local" if isinstance(plugin, dict) and plugin.get("type") == "glassnet" else kind


def kept_addresses(kept: Kept) -> list[str]:
    """The container's addresses in a kept result, without prefix length."""
    body = kept.result
    ips = body.get("ips") if isinstance(body.get("ips"), list) else []
    texts = [one.get("address") for one in ips or () if isinstance(one, dict)]
    texts += [one.get("ip") for key in ("ip4", "ip6") if isinstance(one := body.get(key), dict)]
    return [text.partition("/")[0] for text in texts if isinstance(text, str)]


def releasable(first: Sequence[Row], second: Sequence[Row]) -> list[Row]:
    """What may be given back: leaked at both looks, to the same holder since the same time, and settled."""
    before = {(one.network, one.address, one.holder, one.changed) for one in first if one.state == LEAKED}
    return [
        row
        for row in second
        if row.state == LEAKED and row.settled and (row.network, row.address, row.holder, row.changed) in before
    ]


def living(facts: Facts, network: str) -> list[Attachment]:
    """Every attachment of a network that something speaks for, or that is young: what GC may take for valid when no runtime tells."""
    found = [row.holder for row in rows(facts) if row.network == network and (row.state == ALIVE or not row.settled)]
    found += [
        one.container.attachment
        for one in facts.kept
        if one.network.name == network and one.container.netns in facts.namespaces
    ]
    found += [Attachment(container, ifname) for name, container, ifname in facts.wired if name == network]
    return list(dict.fromkeys(found))


# -- what CHECK, STATUS and GC say


def newest(network: Network) -> Network:
    """The network in the newest version, where all its plugins are ours: CHECK, STATUS and GC came late (0.4.0 and 1.1.0)."""
    ours = all(
        one.get("type") in plugins.PLUGINS and _delegate(one) in ("", *ipam.OURS, *plugins.PLUGINS)
        for one in network.plugins
    )
    return network._replace(version=VERSIONS[-1]) if ours else network


def _delegate(plugin: object) -> str:
    try:
        return Fields(plugin).table("ipam").text("type") if isinstance(plugin, dict) else ""
    except ConfigError:
        return ""


class Advice(NamedTuple):
    """What shows a fault, and what mends it."""

    show: str
    mend: str


_AGAIN = "delete the pod (kubectl delete pod NAME), its successor is joined anew; or DEL and ADD of this container"
_ADVICE = (
    (r"^(/etc/cni/net\.d/[^:]+):", "cat {0}", "mend the file, or move it away; `glassnet cni conf` prints ready ones"),
    (r"(?:Interface|bridge) (\S+) is down", "ip link show dev {0}", "ip link set dev {0} up"),
    (r"Interface (\S+) Error: (?:does not exist|is no bridge)", "ip link show dev {0}", "the next ADD makes it; pods of the old one: " + _AGAIN),
    (r"Interface (\S+): (?:does not exist|is not a veth that is up)", "ip link show dev {0}", _AGAIN),
    (r"lost the gateway's address (\S+)", "ip address show to {0}", "ip address add {0}/PREFIX dev BRIDGE; the next ADD does it too"),
    (r"is not a port of (\S+)", "bridge link show", "ip link set dev VETH master {0}"),
    (r"failed to open netns|Failed to (?:open|match)|not found|is down|doesn't match|Expected Route", "nsenter --net={netns} ip address; nsenter --net={netns} ip route", _AGAIN),
    (r"asquerade", "iptables -t nat -S POSTROUTING", "who flushed the nat table? " + _AGAIN),
    (r"find address added|not reserved|held by", "glassnet cni leases", _AGAIN),
    (r"ip_forward", "sysctl net.ipv4.ip_forward", "sysctl -w net.ipv4.ip_forward=1"),
    (r"no IP addresses available", "glassnet cni leases", "glassnet cni leases --release-leaked; or a wider range"),
    (r"pod CIDRs of this node", "cat /run/glassnet/node.json", "glassnet cni serve --kubeconfig FILE --node NAME, or \"podCIDRs\" in the configuration"),
    (r"failed to find plugin", "ls /opt/cni/bin", "glassnet cni install --bin-dir /opt/cni/bin, for the plugins it has"),
)  # fmt: skip


def advice(message: str, netns: str) -> Advice:
    """How to look at what a plugin's error names, and how to mend it."""
    for pattern, show, mend in _ADVICE:
        if match := re.search(pattern, message):
            words = [*match.groups(), ""]
            return Advice(show.format(*words, netns=netns), mend.format(*words, netns=netns))
    return Advice("glassnet doctor", _AGAIN)
