"""What the nodes have against what the API asks for: every difference, with the object it is about.

What should be there is computed anew, with the proxy's own code (`proxy.compute` and the backends), for whichever kinds of rules a node has:
kube-proxy's iptables chains (ours have the same names), kube-proxy's nftables table, our own nftables table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from glassnet.kube.view import Key
from glassnet.net import address
from glassnet.ruleset.model import IPTABLES_NFT, LEGACY, NFT, Table
from glassnet.tracer import drift_glassnet, drift_iptables, drift_kube_proxy
from glassnet.tracer.drift_iptables import Listed, Told
from glassnet.tracer.drift_model import CHANGED, EXTRA, INTRUDER, KUBE_PROXY, MISSING, Cluster, Deviation, Ports
from glassnet.tracer.machine import NODE, Machine
from glassnet.tracer.objects import Objects
from glassnet.tracer.world import World

__all__ = ["CHANGED", "EXTRA", "INTRUDER", "MISSING", "Deviation", "Drift", "check", "drift"]
_LIBERAL = "net.netfilter.nf_conntrack_tcp_be_liberal"
_FAMILIES = {address.IPV4: "ip", address.IPV6: "ip6"}


@dataclass(slots=True)
class Drift:
    """The outcome: deviations; what was compared (machine -> kinds of rules); notes on what could not be."""

    deviations: list[Deviation] = field(default_factory=list)
    compared: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def drift(world: World) -> list[Deviation]:
    """Every difference between what the API objects ask for and what the nodes have."""
    return check(world).deviations


def check(world: World) -> Drift:
    """Compare all nodes, and say what was compared."""
    out = Drift()
    objects = Objects(world.objects)
    if not objects.services:
        out.notes.append("the snapshot holds no Services: there is nothing to compare the nodes with")
        return out
    cluster = Cluster(objects)
    out.notes += cluster.notes
    if not objects.of("endpointslices"):
        out.notes.append("the snapshot holds no EndpointSlices: no Service is taken to have endpoints")
    systems = _Systems(world, cluster)
    for machine in world.of_kind(NODE):
        if not machine.ruleset_known:
            out.notes.append(f"{machine.name}: nobody dumped its rules")
            continue
        systems.compare(machine, out)
    return out


_O = TypeVar("_O", drift_kube_proxy.Options, drift_glassnet.Options)


class _Systems:
    """The Service proxies' rules of all machines, and the options they tell."""

    def __init__(self, world: World, cluster: Cluster) -> None:
        self.cluster = cluster
        self.listed: dict[tuple[str, str], list[Listed]] = {}
        self.told: dict[tuple[str, str, str], Told] = {}
        self.kube: dict[tuple[str, str], drift_kube_proxy.Options] = {}
        self.ours: dict[tuple[str, str], drift_glassnet.Options] = {}
        self._ports: dict[tuple[str, str], dict[Key, Ports]] = {}
        for machine in world.of_kind(NODE):
            self._read(machine)

    def _read(self, machine: Machine) -> None:
        for family, short in _FAMILIES.items():
            found: list[Listed] = []
            for tool in (IPTABLES_NFT, LEGACY):
                tables = [t for t in machine.ruleset.tables if t.family == short and t.tool == tool]
                listed = drift_iptables.read(machine.name, tables)
                if listed is not None:
                    found.append(listed)
                    every = [port for ports in self.ports(machine.name, family).values() for port in ports]
                    self.told[machine.name, family, tool] = drift_iptables.options(listed, every)
            self.listed[machine.name, family] = found
            for table in machine.ruleset.tables:
                if table.tool == NFT and table.family == short and table.name == drift_kube_proxy.TABLE:
                    self.kube[machine.name, family] = drift_kube_proxy.options(table)
                elif table.tool == NFT and table.family == short and table.name == drift_glassnet.TABLE:
                    self.ours[machine.name, family] = drift_glassnet.options(table)

    def ports(self, machine: str, family: str) -> dict[Key, Ports]:
        """What the Services need of a machine."""
        found = self._ports.get((machine, family))
        if found is None:
            found = self._ports[machine, family] = self.cluster.ports(machine, family)
        return found

    def compare(self, machine: Machine, out: Drift) -> None:
        """All families of one machine."""
        kinds: dict[str, list[str]] = {}
        for family in _FAMILIES:
            kinds[family] = self._family(machine, family, out)
        out.compared[machine.name] = [kind for found in kinds.values() for kind in found]
        for family, found in kinds.items():
            wanted = self.ports(machine.name, family)
            if wanted and not found and not _others(machine):
                note = f"no rules of a Service proxy for {family}, though {len(wanted)} Services have such an address"
                out.deviations.append(Deviation(machine.name, MISSING, family, KUBE_PROXY, (), note=note))
            elif len(found) > 1:
                note = f"rules of several Service proxies at once: {', '.join(found)}"
                out.deviations.append(Deviation(machine.name, EXTRA, family, KUBE_PROXY, (), note=note))
            elif wanted and not found:
                out.notes.append(
                    f"{machine.name}: its Services are served by {_others(machine)}, which is not compared"
                )

    def _family(self, machine: Machine, family: str, out: Drift) -> list[str]:
        found = []
        ports = self.ports(machine.name, family)
        for listed in self.listed[machine.name, family]:
            told = self.told[machine.name, family, listed.tool]
            rules = drift_iptables.agree(self.told.values(), told, machine.stack.sysctl(_LIBERAL, ""))
            out.deviations += drift_iptables.Comparison(listed, self.cluster, rules, told.colon, ports).run()
            found.append(listed.title)
        key = (machine.name, family)
        if key in self.kube:
            table = _table(machine, family, drift_kube_proxy.TABLE)
            how = _agreed(self.kube, key)
            out.deviations += drift_kube_proxy.Comparison(machine.name, table, self.cluster, how, ports).run()
            found.append(f"nftables table {table.family} {table.name}")
        if key in self.ours:
            table = _table(machine, family, drift_glassnet.TABLE)
            own = _agreed(self.ours, key)
            out.deviations += drift_glassnet.Comparison(machine.name, table, self.cluster, own, ports).run()
            found.append(f"nftables table {table.family} {table.name}")
        return found


def _agreed(told: dict[tuple[str, str], _O], key: tuple[str, str]) -> _O:
    """A machine's options; the condition on pods, when it tells none, is what all the others say."""
    mine = told[key]
    others = {each.source for (machine, family), each in told.items() if family == key[1] and machine != key[0]}
    if not mine.source and not mine.masquerade_all and len(others) == 1:
        return replace(mine, source=others.pop())
    return mine


def _table(machine: Machine, family: str, name: str) -> Table:
    return next(t for t in machine.ruleset.tables if (t.family, t.name, t.tool) == (_FAMILIES[family], name, NFT))


_SIGNS: Sequence[tuple[str, Callable[[Machine], bool]]] = (
    ("kube-proxy's ipvs mode", lambda m: any(name.startswith("KUBE-CLUSTER-IP") for name in m.ruleset.ipsets)),
    ("Cilium", lambda m: any(name.startswith(("cilium_", "lxc_health")) for name in m.stack.links)),
    ("OVN-Kubernetes", lambda m: "ovn-k8s-mp0" in m.stack.links),
)


def _others(machine: Machine) -> str:
    """A Service proxy whose rules are of another kind."""
    return next((name for name, sign in _SIGNS if sign(machine)), "")
