"""The iptables rules of one node over time: what is wanted, what the kernel was last given, and the difference as iptables-restore text.

Pure: it is given `iptables-save` text where it has to look, and gives back text to load. When loading fails the caller starts over with `full`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from glassnet.kube.view import Key
from glassnet.proxy.backends.iptables import TOP_LEVEL, Backend, PortRules, jump_rules
from glassnet.proxy.naming import is_service_chain
from glassnet.ruleset.diff import ChainChanges
from glassnet.ruleset.emit_iptables import rule_text
from glassnet.ruleset.model import Chain

TABLES = ("filter", "mangle", "nat")
KUBELET_CANARY = "KUBE-KUBELET-CANARY"


@dataclass(slots=True)
class Observed:
    """What of an `iptables-save` matters here: user chains by table, and the rules of built-in chains as text."""

    chains: dict[str, set[str]] = field(default_factory=dict)
    jumps: set[tuple[str, str]] = field(default_factory=set)

    def has(self, table: str, chain: str) -> bool:
        return chain in self.chains.get(table, ())


def observe(text: str) -> Observed:
    """Read `iptables-save` text."""
    observed, table = Observed(), ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
            observed.chains[table] = set()
        elif line.startswith(":"):
            name, policy, *_ = line[1:].split()
            if policy == "-":
                observed.chains[table].add(name)
        elif line.startswith("-A ") and line.split(" ", 2)[1] not in observed.chains[table]:
            observed.jumps.add((table, line))
    return observed


class IptablesNode:
    """The rules of one node. Chains that are the same objects on other nodes are held once in memory."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._services: dict[Key, tuple[PortRules, ...]] = {}
        self._top: dict[str, tuple[Chain, ...]] = {}

    def full(self, services: Mapping[Key, tuple[PortRules, ...]], observed: Observed) -> str:
        """Text that brings the kernel from what was observed to what `services` want, in one load a table.

        Existing chains are rewritten in place, so that nothing is out of service meanwhile; our chains that nobody wants are deleted.
        """
        self._services = {key: rules for key, rules in services.items() if rules}
        self._top = self.backend.top_chains(self._ordered())
        changes = ChainChanges({table: list(chains) for table, chains in self._top.items()})
        own = [chain for rules in self._ordered() for chain in rules.chains]
        changes.written["nat"] += own
        wanted = {chain.name for chain in own}
        stale = (name for name in observed.chains.get("nat", ()) if is_service_chain(name) and name not in wanted)
        changes.deleted["nat"] = sorted(stale)
        for table, chain, rule in jump_rules():
            line = rule_text(rule)
            if (table, f"-A {chain} {line}") not in observed.jumps:
                changes.lines.setdefault(table, []).append(f"-I {chain} {line}")
        return changes.text()

    def update(self, services: Mapping[Key, tuple[PortRules, ...]]) -> str:
        """Text for the Services that changed (an empty tuple: gone); "" when the kernel has it all already."""
        changes = ChainChanges()
        for key, rules in services.items():
            old = self._services.get(key, ())
            if rules:
                self._services[key] = rules
            else:
                self._services.pop(key, None)
            changes.compare("nat", _own(old), _own(rules))
        top = self.backend.top_chains(self._ordered())
        for table in TOP_LEVEL:
            changes.compare(table, self._top[table], top[table])
        self._top = top
        return changes.text() if changes else ""

    def whole(self) -> dict[str, tuple[Chain, ...]]:
        """Every chain that is wanted, by table."""
        own = tuple(chain for rules in self._ordered() for chain in rules.chains)
        return {table: (*chains, *(own if table == "nat" else ())) for table, chains in self._top.items()}

    def _ordered(self) -> list[PortRules]:
        return [rules for key in sorted(self._services) for rules in self._services[key]]


def _own(rules: Iterable[PortRules]) -> list[Chain]:
    return [chain for port in rules for chain in port.chains]


def sweep(observed: Observed) -> str:
    """Text that takes away all that this mode makes; KUBE-FIREWALL stays where a kubelet uses it too. "" when there is nothing."""
    shared = any(KUBELET_CANARY in chains for chains in observed.chains.values())
    changes = ChainChanges()
    for table, chain, rule in jump_rules():
        line = rule_text(rule)
        if (table, f"-A {chain} {line}") in observed.jumps and not (shared and line.endswith("KUBE-FIREWALL")):
            changes.lines.setdefault(table, []).append(f"-D {chain} {line}")
    for table, chains in observed.chains.items():
        ours = [
            name
            for name in chains
            if name in TOP_LEVEL.get(table, ()) or (table == "nat" and is_service_chain(name))
            if not (shared and name == "KUBE-FIREWALL")
        ]
        changes.deleted[table] = sorted(ours)
    return changes.text() if changes else ""
