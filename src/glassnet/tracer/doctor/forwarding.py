"""Checks of forwarding: packets of pods that a FORWARD rule or policy kills, or the reverse path filter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from glassnet.net import address
from glassnet.tracer.doctor.blame import Culprit, by_policy, culprit, lost
from glassnet.tracer.doctor.case import Case, Probe
from glassnet.tracer.doctor.finding import CRITICAL, Finding, lines
from glassnet.tracer.explain import owner_of
from glassnet.tracer.fib import Question, hop_text
from glassnet.tracer.machine import Machine
from glassnet.tracer.trace import Way

_REVERSE = "reverse path filter"


def killed(case: Case, probes: Iterable[Probe]) -> dict[tuple[str, str], tuple[Culprit, list[str]]]:
    """What drops forwarded packets of some flows: culprit -> the flows. Drops that a network policy asks for are not among them."""
    found: dict[tuple[str, str], tuple[Culprit, list[str]]] = {}
    for probe in probes:
        for way in probe.trace.ways:
            guilty = culprit(way, case.world)
            if guilty is None or guilty.hook != "forward" or by_policy(guilty):
                continue
            flows = found.setdefault(guilty.key, (guilty, []))[1]
            title = probe.title + (" (the answer)" if guilty.answer else "")
            if title not in flows:
                flows.append(title)
    return found


def forward_drop(case: Case) -> Iterator[Finding]:
    """Packets between pods of different nodes, and from pods to the outside, that die in a forward chain."""
    found = killed(case, case.pod_probes)
    others = killed(case, case.node_port_probes.values()) if found else {}
    for key, (guilty, flows) in found.items():
        machine = case.world.machines.get(guilty.machine)
        if machine is None:
            continue
        every = flows + (others[key][1] if key in others else [])
        chain = guilty.place
        named = f"{chain.table.name} {chain.name}" if chain is not None else "a forward chain"
        owner = owner_of(chain)[0] if chain is not None else ""
        what = f"policy drop of {named}" if guilty.chain is not None else f"a rule in {named}"
        yield Finding(
            "forward-drop",
            CRITICAL,
            machine.name,
            f"{what} on {machine.name}{f' ({owner})' if owner else ''} drops forwarded packets of pods",
            (guilty.text, *lines(every)),
            _accept(case, machine, guilty),
            machine.node or machine.name,
        )


def _accept(case: Case, machine: Machine, guilty: Culprit) -> tuple[str, ...]:
    """How to let pods' packets through."""
    chain = guilty.place
    if chain is None:
        return ()
    six = chain.table.family == "ip6"
    ranges = sorted({cidr for _, cidr in case.objects.pod_ranges() if (":" in cidr) == six})
    if chain.table.tool == "nft":
        name = f"{chain.table.family} {chain.table.name} {chain.name}"
        if guilty.rule is not None and guilty.rule.handle:
            return (f"nft delete rule {name} handle {guilty.rule.handle}   # or accept the pods' packets before it",)
        return tuple(
            f"nft insert rule {name} {family(cidr)} {side} {cidr} accept"
            for cidr in ranges[:6]
            for side in ("saddr", "daddr")
        )
    tool = f"{'ip6tables' if six else 'iptables'}{'-legacy' if chain.table.tool == 'iptables-legacy' else ''}"
    if chain.table.name != "filter":
        tool += f" -t {chain.table.name}"
    spots = [f"{tool} -I FORWARD -{side} {cidr} -j ACCEPT" for cidr in ranges[:6] for side in "sd"]
    if guilty.rule is not None:
        return (
            f"{tool} -D {guilty.rule.text.removeprefix('-A ')}   # or accept the pods' packets before it",
            *spots,
        )
    return (f"{tool} -P {chain.name} ACCEPT   # or accept the pods' packets:", *spots)


def family(cidr: str) -> str:
    """nft's word for an address's family."""
    return "ip6" if ":" in cidr else "ip"


def rp_filter(case: Case) -> Iterator[Finding]:
    """Packets that come by another device than the one their sender is reached by, where the filter is strict."""
    found: dict[tuple[str, str], tuple[Way, list[str]]] = {}
    for probe in (*case.pod_probes, *case.node_port_probes.values()):
        for way in probe.trace.ways:
            part = lost(way, case.world)
            if part is None or _REVERSE not in part.detail:
                continue
            held = found.setdefault((part.machine, part.packet.iif), (part, []))[1]
            title = probe.title + (" (the answer)" if part is way.reply else "")
            if title not in held:
                held.append(title)
    for (name, dev), (part, flows) in found.items():
        machine = case.world.machines[name]
        packet = part.packet
        back = machine.fib.lookup(Question(packet.bits, packet.src, packet.dst))[0]
        route = back.route.text if back.route is not None else "none"
        source = address.text_of(packet.src, packet.bits)
        sysctls = [f"net.ipv4.conf.{which}.rp_filter" for which in ("all", dev.replace(".", "/"))]
        yield Finding(
            "rp-filter",
            CRITICAL,
            name,
            f"the reverse path filter of {name} drops packets that come by {dev}",
            (
                *(f"{sysctl} = {machine.stack.sysctl(sysctl)}" for sysctl in sysctls),
                part.detail,
                f"route back to {source}: {route} ({hop_text(back, packet.bits) or back.type}), not by {dev}",
                *lines(flows),
            ),
            (
                f"mend the route to {source}, so that it leads by {dev}; or, when the ways differ on purpose:",
                *(f"sysctl -w {sysctl}=2   # loose" for sysctl in sysctls if machine.stack.sysctl(sysctl) == "1"),
            ),
            machine.node or name,
        )
