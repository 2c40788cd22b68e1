"""Checks of the bridges that pods are behind: packets back out of their port, answers past the rules, the bridge's own address."""

from __future__ import annotations

from collections.abc import Iterator

from glassnet.net import address
from glassnet.tracer.doctor.blame import culprit, endpoint_of, lost
from glassnet.tracer.doctor.case import Case, cluster_ip
from glassnet.tracer.doctor.cni_files import in_use
from glassnet.tracer.doctor.finding import CRITICAL, INFO, WARNING, Finding, some
from glassnet.tracer.doctor.marks import mark_thieves
from glassnet.tracer.machine import Machine
from glassnet.tracer.objects import Port
from glassnet.tracer.trace import Trace, Way

_TRIES = 40  # flows simulated for one bridge
_SERVICES = 4  # tried for one pod, until one leads back to it


def hairpin(case: Case) -> Iterator[Finding]:
    """A pod that is the endpoint of a Service, and the packet it sends there comes back to itself: by the bridge port it came in."""
    for (name, bridge), pods in case.bridged.items():
        node = case.world.machines[name]
        link = node.link(bridge)
        if link is not None and link.promiscuous:
            continue
        failed: list[tuple[Machine, Way]] = []
        services: dict[str, None] = {}
        for pod in pods[:_TRIES]:
            own = case.addresses(pod)
            ports = [port for text in own for port in case.ports_by_endpoint.get(text, ())]
            way = _to_itself(case, node, pod, ports, own)
            if way is not None:
                failed.append((pod, way))
                services |= dict.fromkeys(f"{port.namespace}/{port.name}" for port in ports)
        if failed:
            yield _hairpin_finding(case, node, bridge, failed, list(services))


def _to_itself(case: Case, node: Machine, pod: Machine, ports: list[Port], own: list[str]) -> Way | None:
    """The way from a pod through a Service back to itself, if it fails."""
    for port in [port for port in ports if port.protocol in ("TCP", "UDP")][:_SERVICES]:
        trace = _through(case, pod, port)
        ways = [way for way in trace.ways if endpoint_of(way, node.name) in own]
        if ways:
            return next((way for way in ways if _by_bridge(case, way, pod)), None)
    return None


def _by_bridge(case: Case, way: Way, pod: Machine) -> bool:
    """Whether a way is lost at the bridge's port, or at the pod for its own address as the source; other checks tell of rules, marks, routes."""
    guilty = culprit(way, case.world)
    if guilty is None or guilty.hook or mark_thieves(way):
        return False
    return "hairpin" in guilty.detail or guilty.machine == pod.name


def _hairpin_finding(
    case: Case, node: Machine, bridge: str, failed: list[tuple[Machine, Way]], services: list[str]
) -> Finding:
    """A bridge without hairpin mode is how the reference plugins set it up, and costs a share of the packets: a note. It is more than that where a
    pod is the only endpoint, hence gets none through, or where some ports of the bridge have the mode and others do not.
    """
    details = list(dict.fromkeys(_detail(case, way) for _, way in failed))
    ports = [case.world.port_of(pod) for pod, _ in failed]
    off = [name for name in ports if name in node.stack.ports and not node.stack.ports[name].hairpin]
    evidence = [f"bridge link: {name} master {bridge} hairpin off" for name in off[:3]]
    evidence += details[:3]
    own = {text for pod, _ in failed for text in case.addresses(pod)}
    alone = [name for name in services if len(ips := case.endpoints_by_service.get(name, set())) == 1 and ips <= own]
    evidence += [f"only endpoint: Service {name}" for name in alone[:3]]
    evidence.append(f"Services: {some(services, 12)}")
    evidence.append(f"pods: {some([pod.name for pod, _ in failed], 12)}")
    mixed = len({port.hairpin for port in node.stack.ports.values() if port.master == bridge}) > 1
    remedy = [
        'set "hairpinMode": true in the bridge plugin\'s CNI configuration (new pods get it)',
        *(f"bridge link set dev {name} hairpin on" for name in off[:10]),
    ]
    if not off:
        remedy = ["have the proxy masquerade what comes back to its sender (endpoint to itself)"]
    return Finding(
        "hairpin",
        WARNING if alone or mixed or not off else INFO,
        node.name,
        f"pods behind {bridge} of {node.name} cannot reach themselves through their Services",
        tuple(evidence),
        tuple(remedy),
        node.name,
    )


def bridge_nf(case: Case) -> Iterator[Finding]:
    """A client and an endpoint on one bridge that does not call iptables: the answer is switched past the translation."""
    for (name, bridge), pods in case.bridged.items():
        node = case.world.machines[name]
        if "sysctl" in node.stack.missing:
            continue
        for bits, tables in ((32, "iptables"), (128, "ip6tables")):
            sysctl = f"net.bridge.bridge-nf-call-{tables}"
            if node.stack.sysctl(sysctl) == "1":
                continue
            failed = _bypassed(case, node, pods, bits)
            served = _alone(case, pods, bits)
            if not failed and not served:
                continue
            value = node.stack.sysctls.get(sysctl)
            shown = [
                f"{pod.name} > {cluster_ip(port.service)}:{port.port} ({port.text}): {detail}"
                for pod, port, detail in failed[:1]
            ]
            names = list(
                dict.fromkeys(f"{port.namespace}/{port.name}" for port in served or [port for _, port, _ in failed])
            )
            yield Finding(
                "bridge-nf",
                CRITICAL if failed else WARNING,
                node.name,
                f"answers between pods on {bridge} of {node.name} bypass the Service rules"
                + ("" if failed else ", as soon as it has two"),
                (
                    f"{sysctl} = {value}" if value is not None else f"{sysctl} is absent: br_netfilter is not loaded",
                    *shown,
                    f"Services: {some(names, 12)}",
                ),
                (
                    "modprobe br_netfilter",
                    f"sysctl -w {sysctl}=1   # and in /etc/sysctl.d, with br_netfilter in /etc/modules-load.d",
                ),
                name,
            )


def _bypassed(case: Case, node: Machine, pods: list[Machine], bits: int) -> list[tuple[Machine, Port, str]]:
    """(client, Service port, what happens) for Services with an endpoint on the client's bridge whose answer is lost."""
    homes = {text: pod for pod in pods for text in case.addresses(pod)}
    found: list[tuple[Machine, Port, str]] = []
    done: set[Port] = set()
    for text, server in homes.items():
        for port in case.ports_by_endpoint.get(text, ()):
            client = next((pod for pod in pods if pod is not server), None)
            if client is None or port in done or len(done) >= _TRIES or port.protocol not in ("TCP", "UDP"):
                continue
            if (128 if ":" in cluster_ip(port.service) else 32) != bits:
                continue
            done.add(port)
            for way in _through(case, client, port).ways:
                if endpoint_of(way, node.name) == text and lost(way, case.world) is not None and way.reply is not None:
                    found.append((client, port, _detail(case, way)))
                    break
    return found


def _alone(case: Case, pods: list[Machine], bits: int) -> list[Port]:
    """Ports of Services that lead to the only pod of a bridge: it has no client there yet to show the fault."""
    if len(pods) != 1:
        return []
    ports = [port for text in case.addresses(pods[0]) for port in case.ports_by_endpoint.get(text, ())]
    return [port for port in ports if (128 if ":" in cluster_ip(port.service) else 32) == bits]


def bridge_address(case: Case) -> Iterator[Finding]:
    """The bridge is the pods' gateway: its address has to be theirs, out of the node's range."""
    for (name, bridge), pods in case.bridged.items():
        node = case.world.machines[name]
        if "addr" in node.stack.missing:
            continue
        for cidr in [cidr for owner, cidr in case.objects.pod_ranges() if owner == name]:
            try:
                network, mask, bits = address.prefix(cidr)
            except ValueError:
                continue
            finding = _judge_address(case, node, bridge, pods, (network, mask, bits, cidr))
            if finding is not None:
                yield finding


def _judge_address(
    case: Case, node: Machine, bridge: str, pods: list[Machine], span: tuple[int, int, int, str]
) -> Finding | None:
    network, mask, bits, cidr = span
    own = [a for a in node.stack.addresses if a.dev == bridge and a.bits == bits and a.scope == "global"]
    gateways = _gateways(pods, bits)
    own_range = [a for pod in pods for a in pod.stack.addresses if a.bits == bits and a.value & mask == network]
    if not own_range:
        return None  # `pod-outside-cidr` tells of that
    expected = address.text_of(network + 1, bits)
    values = {a.value for a in own}
    if network + 1 in values and not (gateways - values):
        return None
    severity = CRITICAL if gateways - values or not own else WARNING
    if not (gateways - values) and any(value & mask == network for value in values):
        severity = INFO
    has = ", ".join(f"{a.text}/{a.length}" for a in own) or "no address"
    evidence = [
        f"ip addr: {bridge} of {node.name} has {has}",
        f"Node {node.name} spec.podCIDR: {cidr}, whose first address is {expected}",
    ]
    evidence += [f"gateway of its pods: {address.text_of(value, bits)}" for value in sorted(gateways)[:2]]
    conf = in_use(node)
    if conf is not None and conf.ranges:
        evidence.append(
            f"{conf.file}: ranges {', '.join(conf.ranges)}" + (f", gateway {conf.gateway}" if conf.gateway else "")
        )
    length = mask.bit_count()
    return Finding(
        "bridge-address",
        severity,
        node.name,
        f"{bridge} of {node.name} has {has}, not {expected}/{length}",
        tuple(evidence),
        (
            *(f"ip addr del {a.text}/{a.length} dev {bridge}" for a in own if a.value != network + 1),
            f"ip addr add {expected}/{length} dev {bridge}",
            "or delete the bridge when no pod needs it (ip link del), and let the CNI plugin make it anew",
        ),
        node.name,
    )


def _gateways(pods: list[Machine], bits: int) -> set[int]:
    """The next hops of pods' default routes, of pods that somebody dumped."""
    return {
        hop.gateway
        for pod in pods
        if "addr" not in pod.stack.missing
        for route in pod.stack.routes
        if route.bits == bits and not route.length and route.type == "unicast"
        for hop in route.hops
        if hop.gateway is not None
    }


def _through(case: Case, pod: Machine, port: Port) -> Trace:
    return case.trace(pod, cluster_ip(port.service), port.port, port.protocol.lower())


def _detail(case: Case, way: Way) -> str:
    part = lost(way, case.world)
    return part.detail if part is not None else ""
