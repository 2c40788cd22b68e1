"""What other pods have to say about where a pod may go: host ports, affinity, anti-affinity, spread.

Source: Kubernetes documentation, "Assigning Pods to Nodes", "Pod Topology Spread Constraints".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from glassnet.controllers import placement
from glassnet.kube import kinds, selectors
from glassnet.kube.types import Node, Pod, TopologySpread
from glassnet.kube.view import Key, View

Domain = tuple[str, str]  # topology key, value


class Neighbours:
    """The rules that other pods make for one pod, gathered once; then every node is asked about in constant time."""

    def __init__(self, view: View, pod: Pod) -> None:
        self._view, self._pod = view, pod
        self._ports = _host_ports(pod)
        self._avoided = self._domains_to_avoid()
        self._unwelcome = self._domains_of_the_unwelcoming()
        self._sought = [self._domains_sought(term) for term in _terms(pod, "podAffinity")]
        spread = pod.spec.topology_spread_constraints
        self._spread = [(constraint, _spread(view, pod, constraint)) for constraint in spread]
        owner = pod.metadata.controller()
        siblings: Iterable[Pod] = view.controlled_by(owner.uid, kinds.POD) if owner else ()
        self._siblings = Counter(other.spec.node_name for other in siblings)

    def refusal(self, node: Node) -> str:
        """Why the pod cannot join those on the node, in the scheduler's words; "" when it can."""
        if self._ports and self._ports & self._taken_ports(node):
            return "node(s) didn't have free ports for the requested pod ports"
        if _in(node, self._avoided):
            return "node(s) didn't match pod anti-affinity rules"
        if any(domains is not None and not _in(node, domains) for domains in self._sought):
            return "node(s) didn't match pod affinity rules"
        if _in(node, self._unwelcome):
            return "node(s) didn't satisfy existing pods anti-affinity rules"
        for constraint, counts in self._spread:
            if constraint.when_unsatisfiable == "DoNotSchedule":
                domain = node.metadata.labels.get(constraint.topology_key)
                if domain is None or counts[domain] + 1 - min(counts.values(), default=0) > constraint.max_skew:
                    return "node(s) didn't match pod topology spread constraints"
        return ""

    def soft_spread(self, node: Node) -> int:
        """Pods that the soft constraints count in the node's domains."""
        return sum(
            counts[node.metadata.labels.get(constraint.topology_key, "")]
            for constraint, counts in self._spread
            if constraint.when_unsatisfiable == "ScheduleAnyway"
        )

    def of_same_owner(self, node: str) -> int:
        """Pods of the same controller on a node."""
        return self._siblings[node]

    def _taken_ports(self, node: Node) -> set[tuple[int, str]]:
        return {
            port
            for other in self._view.pods_on(node.metadata.name)
            if not other.finished()
            for port in _host_ports(other)
        }

    def _domains_to_avoid(self) -> set[Domain]:
        return {
            domain
            for term in _terms(self._pod, "podAntiAffinity")
            for other in _selected(self._view, term, self._pod)
            for domain in _domain(self._view, other, term)
        }

    def _domains_of_the_unwelcoming(self) -> set[Domain]:
        return {
            domain
            for other in self._view.pods_apart()
            if other.spec.node_name and not other.finished()
            for term in _terms(other, "podAntiAffinity")
            if _matches(term, other, self._pod)
            for domain in _domain(self._view, other, term)
        }

    def _domains_sought(self, term: dict[str, Any]) -> set[Domain] | None:
        """Where pods that the term selects run; None when the pod is the first of those that seek each other."""
        found = list(_selected(self._view, term, self._pod))
        if not found and _matches(term, self._pod, self._pod):
            return None
        return {domain for other in found for domain in _domain(self._view, other, term)}


def wants_company(pod: Pod) -> bool:
    """True when pods elsewhere can make room for this one: affinity, or a spread to be kept."""
    return bool(_terms(pod, "podAffinity") or pod.spec.topology_spread_constraints)


def _host_ports(pod: Pod) -> set[tuple[int, str]]:
    return {(p.host_port, p.protocol) for c in pod.spec.containers for p in c.ports if p.host_port}


def _terms(pod: Pod, kind: str) -> list[dict[str, Any]]:
    return list(((pod.spec.affinity or {}).get(kind) or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or ())


def _matches(term: dict[str, Any], owner: Pod, pod: Pod) -> bool:
    """True when a term of `owner` selects `pod`; without namespaces it means its owner's own."""
    namespaces = term.get("namespaces") or [owner.metadata.namespace]
    return pod.metadata.namespace in namespaces and selectors.matches(
        placement.label_selector(term.get("labelSelector")), pod.metadata.labels
    )


def _selected(view: View, term: dict[str, Any], owner: Pod) -> Iterable[Pod]:
    for namespace in term.get("namespaces") or [owner.metadata.namespace]:
        for other in view.pods_matching(namespace, placement.label_selector(term.get("labelSelector"))):
            if other.spec.node_name and not other.finished():
                yield other


def _domain(view: View, pod: Pod, term: dict[str, Any]) -> Iterable[Domain]:
    """The domain a pod runs in, as a term sees it: none when its node lacks the label."""
    key = term.get("topologyKey") or ""
    node = view.nodes.get(Key("", pod.spec.node_name))
    if node is not None and (value := node.metadata.labels.get(key)) is not None:
        yield key, value


def _in(node: Node, domains: set[Domain]) -> bool:
    return any(node.metadata.labels.get(key) == value for key, value in domains)


def _spread(view: View, pod: Pod, constraint: TopologySpread) -> Counter[str]:
    """Pods that a constraint counts, by domain; every domain of an eligible node is there."""
    selector = selectors.of(constraint.label_selector) if constraint.label_selector else ()
    counts: Counter[str] = Counter()
    domains: dict[str, str] = {}
    for node in view.nodes.values():
        domain = node.metadata.labels.get(constraint.topology_key)
        if domain is not None and placement.selected(pod, node):
            domains[node.metadata.name] = domain
            counts[domain] += 0
    for other in view.pods_matching(pod.metadata.namespace, selector):
        if (domain := domains.get(other.spec.node_name)) is not None and not other.finished():
            counts[domain] += other.metadata.deletion_timestamp is None
    return counts
