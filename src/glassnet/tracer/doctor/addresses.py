"""Checks of addresses: ranges of pods that are missing or overlap, pods outside their node's range, addresses that leaked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glassnet.net import address
from glassnet.tracer import path
from glassnet.tracer.doctor.case import Case
from glassnet.tracer.doctor.cni_files import in_use
from glassnet.tracer.doctor.finding import CRITICAL, WARNING, Finding, lines, some
from glassnet.tracer.machine import Machine
from glassnet.tracer.objects import pod_addresses, service_addresses

_SCARCE = 0.95
Span = tuple[int, int, int]  # network, mask, bits


def leaked(case: Case) -> Iterator[Finding]:
    """Addresses that IPAM keeps for containers that are gone; and ranges that are used up."""
    if not case.objects.of("pods"):
        return
    living = {text for pod in case.objects.of("pods") for text in pod_addresses(pod)}
    for node in case.nodes:
        waiting = [pod for pod in _pods(case, node.name) if not pod_addresses(pod) and not _finished(pod)]
        gone = sorted(set(node.leases) - living, key=address.number)
        for cidr, span in _ranges(case, node):
            mine = [text for text in node.leases if _inside(text, span)]
            lost = [text for text in gone if _inside(text, span)]
            size = (1 << (span[2] - span[1].bit_count())) - (3 if span[2] == 32 else 2)
            scarce = size > 0 and len(mine) >= size * _SCARCE
            if not mine or (len(lost) <= len(waiting) and not scarce):
                continue
            yield Finding(
                "leaked-ips",
                CRITICAL if scarce else WARNING,
                node.name,
                f"{len(mine)} of {size} addresses of {cidr} on {node.name} are given away, {len(lost)} of them leaked",
                (
                    *lines(
                        [
                            f"{text}: {node.leases[text] or '(empty file)'}: no running pod has this address"
                            for text in lost
                        ]
                    ),
                    *(
                        (f"{len(waiting)} pods of {node.name} have no address yet: some of these may be theirs",)
                        if waiting
                        else ()
                    ),
                ),
                (
                    "CNI verb GC, with the containers that live (CNI 1.1); or, for addresses whose container `crictl pods` does not show:",
                    *lines([f"rm /var/lib/cni/networks/*/{text}" for text in lost], 10),
                ),
                node.name,
            )


def pod_ranges(case: Case) -> Iterator[Finding]:
    """Nodes without a range while others have one or pods wait for it; ranges that overlap with anything."""
    ranged = {name for name, _ in case.objects.pod_ranges()}
    for name in case.objects.nodes:
        if name in ranged:
            continue
        waiting = [f"{_name(pod)}" for pod in _pods(case, name) if not pod_addresses(pod) and not _finished(pod)]
        if not ranged and not waiting:
            continue
        others = f"Nodes with a range: {some(sorted(ranged))}" if ranged else "no Node has a range"
        yield Finding(
            "no-pod-cidr",
            CRITICAL if waiting else WARNING,
            name,
            f"Node {name} has no spec.podCIDR"
            + (f", and {len(waiting)} of its pods wait for an address" if waiting else ""),
            (f"Node {name} spec.podCIDR: (empty)", others, *((f"waiting: {some(waiting)}",) if waiting else ())),
            (
                "kube-controller-manager: --allocate-node-cidrs=true, and --cluster-cidr with room for one more range (--node-cidr-mask-size)",
                f'or by hand: kubectl patch node {name} -p \'{{"spec":{{"podCIDR":"CIDR","podCIDRs":["CIDR"]}}}}\'',
            ),
            name,
        )
    yield from _overlaps(case)


def _overlaps(case: Case) -> Iterator[Finding]:
    spans = [
        (f"Node {name} spec.podCIDR: {cidr}", name, span)
        for name, cidr in case.objects.pod_ranges()
        if (span := _span(cidr))
    ]
    others = list(_other_ranges(case))
    for place, (text, name, span) in enumerate(spans):
        pods = [
            (other, "Node " + owner)
            for other, owner, found in spans[place + 1 :]
            if owner != name and _overlap(span, found)
        ]
        rest = [(other, whose) for other, whose, found in others if _overlap(span, found)]
        for whose, other in {whose: other for other, whose in reversed([*pods, *rest])}.items():
            yield Finding(
                "no-pod-cidr",
                CRITICAL,
                name,
                f"the pod range of {name} overlaps with {whose}",
                (text, other),
                (
                    "give the pods, the Services and the nodes ranges of their own: --cluster-cidr, --service-cluster-ip-range; a Node's podCIDR cannot change, so delete and add the Node",
                ),
                name,
            )


def _other_ranges(case: Case) -> Iterator[tuple[str, str, Span]]:
    """(evidence, whose, range) of what pod ranges must not overlap with: Services, the nodes' own addresses."""
    for each in case.objects.of("servicecidrs"):
        for cidr in each.get("spec", {}).get("cidrs") or ():
            if span := _span(cidr):
                yield f"ServiceCIDR {each['metadata']['name']} spec.cidrs: {cidr}", "the range of Services", span
    if not case.objects.of("servicecidrs"):
        for (namespace, name), service in case.objects.services.items():
            for text, where in service_addresses(service):
                if where == "spec.clusterIP" and (span := _span(text)):
                    yield f"Service {namespace}/{name} spec.clusterIP: {text}", "the ClusterIPs of Services", span
    for text, name in case.objects.nodes_by_address.items():
        if span := _span(text):
            yield f"Node {name} status.addresses: {text}", "the nodes' network", span


def outside_range(case: Case) -> Iterator[Finding]:
    """Pods whose address is not of their node's range: routes made of ranges do not lead there."""
    ranges: dict[str, list[Span]] = {}
    for name, cidr in case.objects.pod_ranges():
        if span := _span(cidr):
            ranges.setdefault(name, []).append(span)
    outside: dict[str, list[tuple[str, str]]] = {}
    inside = 0
    for pod in case.objects.of("pods"):
        node = pod.get("spec", {}).get("nodeName", "")
        if pod.get("spec", {}).get("hostNetwork") or node not in ranges:
            continue
        for text in pod_addresses(pod):
            spans = [span for span in ranges[node] if span[2] == (128 if ":" in text else 32)]
            if spans and not any(_inside(text, span) for span in spans):
                outside.setdefault(node, []).append((_name(pod), text))
            else:
                inside += 1
    for name, pods in outside.items():
        unreached = _unreached(case, name, pods)
        if unreached or inside:
            yield _outside_finding(case, name, pods, unreached)


def _outside_finding(case: Case, name: str, pods: list[tuple[str, str]], unreached: list[str]) -> Finding:
    cidrs = [cidr for owner, cidr in case.objects.pod_ranges() if owner == name]
    evidence = [
        f"Node {name} spec.podCIDR: {', '.join(cidrs)}",
        *lines([f"Pod {pod} status.podIP: {text}" for pod, text in pods]),
    ]
    node = case.world.machines.get(name)
    conf = in_use(node) if node is not None else None
    remedy = [
        f"make the CNI configuration of {name} use {', '.join(cidrs)}, and delete these pods: new ones get an address of it"
    ]
    if conf is not None:
        ranges = f" (ranges {', '.join(conf.ranges)})" if conf.ranges else ""
        evidence.append(f"CNI configuration in use: {conf.file}{ranges}: the first by name")
        if conf.ignored:
            evidence.append(f"not used: {', '.join(conf.ignored)}")
            remedy.insert(
                0, f"rm /etc/cni/net.d/{conf.file}   # when it is a left-over, so that {conf.ignored[0]} is used"
            )
    return Finding(
        "pod-outside-cidr",
        CRITICAL if unreached else WARNING,
        name,
        f"{len(pods)} pod{'s' if len(pods) > 1 else ''} on {name} {'have addresses' if len(pods) > 1 else 'has an address'} outside the node's range",
        (*evidence, *unreached),
        tuple(remedy),
        name,
    )


def _unreached(case: Case, name: str, pods: list[tuple[str, str]]) -> list[str]:
    """What happens to packets of another node to one of these pods, when they are lost."""
    other = next((node for node in case.nodes if node.name != name), None)
    if other is None:
        return []
    pod, text = pods[0]
    trace = case.trace(other, text, 80)
    return [
        f"{other.name} > {pod} ({text}): {way.detail}"
        for way in trace.ways[:1]
        if way.kind not in (path.DELIVERED, path.REFUSED, path.UNKNOWN) or way.machine != pod
    ]


def _ranges(case: Case, node: Machine) -> Iterator[tuple[str, Span]]:
    """The ranges a node's IPAM draws from: of its configuration, else of the Node."""
    conf = in_use(node)
    texts = conf.ranges if conf is not None else ()
    for text in texts or [cidr for name, cidr in case.objects.pod_ranges() if name == node.name]:
        if span := _span(text):
            yield text, span


def _span(text: str) -> Span | None:
    try:
        return address.prefix(text)
    except ValueError:
        return None


def _inside(text: str, span: Span) -> bool:
    network, mask, bits = span
    return bits == (128 if ":" in text else 32) and address.number(text) & mask == network


def _overlap(one: Span, other: Span) -> bool:
    mask = one[1] & other[1]
    return one[2] == other[2] and one[0] & mask == other[0] & mask


def _pods(case: Case, node: str) -> list[dict[str, Any]]:
    return [
        pod
        for pod in case.objects.of("pods")
        if pod.get("spec", {}).get("nodeName") == node and not pod["spec"].get("hostNetwork")
    ]


def _finished(pod: dict[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _name(pod: dict[str, Any]) -> str:
    return f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"
