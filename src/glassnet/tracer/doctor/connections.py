"""Checks of the connection tables: entries that lead nowhere, entries without translation, clashes, and tables that are full."""

from __future__ import annotations

from collections.abc import Iterator

from glassnet.net.errors import ParseError
from glassnet.netstack.parse_conntrack import ConntrackEntry
from glassnet.tracer import conntrack_report
from glassnet.tracer.conntrack_capacity import CRITICAL as NEARLY_FULL
from glassnet.tracer.conntrack_capacity import FULL, HIGH, ConntrackStats, Pressure, parse_conntrack_stats, pressure
from glassnet.tracer.conntrack_report import Classified
from glassnet.tracer.doctor.case import Case
from glassnet.tracer.doctor.finding import CRITICAL, INFO, WARNING, Finding, lines
from glassnet.tracer.machine import Machine

_MANY = 100  # insert_failed since boot, from which on it is no chance


def stale(case: Case) -> Iterator[Finding]:
    """UDP entries that keep sending to what is no endpoint any more: a client with a fixed source port never gets away from it."""
    facts = case.facts
    served = (
        {fact.name for fact, _ in facts.virtual.values() if fact.live and fact.protocol == "udp"} if facts else set()
    )
    for node, service, found in _grouped(case, conntrack_report.STALE):
        udp = [each for each in found if each.entry.protocol == "udp"]
        if not udp:
            continue
        vacant = service not in served
        unanswered = any(each.entry.unreplied for each in udp)
        yield Finding(
            "stale-conntrack",
            CRITICAL if unanswered else WARNING,
            _service(service),
            f"{len(udp)} UDP flow{_s(udp)} to {service} on {node.name} go{'es' if len(udp) == 1 else ''} to "
            + ("an endpoint that is gone, and the Service has none left" if vacant else "an endpoint that is gone"),
            lines([_line(case, node, each) for each in udp]),
            lines([f"{each.command}   # {each.effect}" for each in udp if each.command], 10),
            node.name,
        )


def before_rules(case: Case) -> Iterator[Finding]:
    """Entries to a Service's address that were made before its rules: they are never translated."""
    for node, service, found in _grouped(case, conntrack_report.BEFORE):
        known = (
            case.facts is not None and case.facts.endpoints_known
        )  # what the rules refuse looks the same: unanswered
        alive = [each for each in found if not each.entry.over and (known or not each.entry.unreplied)]
        if not alive:
            continue
        yield Finding(
            "conntrack-before-rules",
            CRITICAL if any(each.entry.unreplied for each in alive) else WARNING,
            _service(service),
            f"{len(alive)} connection{_s(alive)} to {service} on {node.name} {'is' if len(alive) == 1 else 'are'} "
            "older than its rules and not translated",
            lines([_line(case, node, each) for each in alive]),
            lines([f"{each.command}   # {each.effect}" for each in alive if each.command], 10),
            node.name,
        )


def full(case: Case) -> Iterator[Finding]:
    """Tables with little room left, and those that were full."""
    for node in case.nodes:
        found = _pressure(case, node)
        if found is None or found.verdict not in (FULL, NEARLY_FULL, HIGH):
            continue
        count, maximum = found.count, found.maximum
        share = f"{found.ratio:.0%} full" if found.ratio is not None else "short of room"
        talkers = (
            conntrack_report.top([each.entry for each in case.table(node)], case.facts, "pod") if case.facts else []
        )
        evidence = [
            *(
                f"net.netfilter.{name} = {value}"
                for name, value in (("nf_conntrack_count", count), ("nf_conntrack_max", maximum))
                if value
            ),
            *found.reasons,
            *(f"{each.name} takes part in {each.entries} entries" for each in talkers[:3]),
        ]
        room = 2 * max(maximum or 0, 131072)
        yield Finding(
            "conntrack-full",
            CRITICAL if found.verdict in (FULL, NEARLY_FULL) else WARNING,
            node.name,
            f"the connection table of {node.name} is {share}"
            if found.ratio is not None and found.ratio >= 0.75
            else f"the connection table of {node.name} was full: packets were dropped",
            tuple(evidence),
            (
                f"sysctl -w net.netfilter.nf_conntrack_max={room}   # kube-proxy: conntrack.min, conntrack.maxPerCore",
                f"sysctl -w net.netfilter.nf_conntrack_buckets={room}   # {room * 328 >> 20} MB when full",
            ),
            node.name,
        )


def port_clash(case: Case) -> Iterator[Finding]:
    """Flows whose answers would look alike: a client with one source port to a Service and to its endpoint; entries lost to such."""
    for node in case.nodes:
        found = _clashes([each.entry for each in case.table(node)])
        stats = _stats(node)
        failed = stats.insert_failed if stats is not None else 0
        if not found and not failed:
            continue
        evidence = [_pair(case, node, one, other) for one, other in found]
        if failed:
            evidence.append(
                f"conntrack -S: insert_failed={failed}: packets dropped since boot, as another had made the same entry"
            )
        starved = any(one.unreplied or one.reply == other.reply for one, other in found)
        yield Finding(
            "port-clash",
            WARNING if starved or failed >= _MANY else INFO,
            node.name,
            f"{len(found)} flow{_s(found)} on {node.name} ha{'s' if len(found) == 1 else 've'} the source port of another to the same endpoint"
            if found
            else f"{failed} new connections on {node.name} lost a race for their entry",
            lines(evidence),
            (
                "let the client choose its source port, or use one address: the Service's or the pod's",
                "masquerade with fully random ports (iptables: --random-fully), and one DNS query at a time (resolv.conf: single-request-reopen)",
            ),
            node.name,
        )


# ---- joining


def _grouped(case: Case, kind: str) -> Iterator[tuple[Machine, str, list[Classified]]]:
    """(node, Service port, its entries of one class)."""
    for node in case.nodes:
        groups: dict[str, list[Classified]] = {}
        for each in case.table(node):
            if each.kind == kind:
                groups.setdefault(each.service, []).append(each)
        for service, found in groups.items():
            yield node, service, found


def _line(case: Case, node: Machine, each: Classified) -> str:
    return f"{case.table_file(node)}:{each.entry.line}: {each.entry.text} ({each.reason})"


def _service(text: str) -> str:
    return f"Service {text.partition(':')[0]}"


def _s(found: list[Classified] | list[tuple[ConntrackEntry, ConntrackEntry]]) -> str:
    return "" if len(found) == 1 else "s"


def _stats(node: Machine) -> ConntrackStats | None:
    try:
        return parse_conntrack_stats(node.statistics) if node.statistics else None
    except ParseError:
        return None


def _pressure(case: Case, node: Machine) -> Pressure | None:
    sysctls = {
        name: value for name, value in node.stack.sysctls.items() if name.startswith("net.netfilter.nf_conntrack_")
    }
    known = "net.netfilter.nf_conntrack_count" in sysctls
    count = None if known or not case.dumped(node) else len(case.table(node))
    try:
        return pressure(sysctls, count, _stats(node))
    except ParseError:
        return None


def _clashes(entries: list[ConntrackEntry]) -> list[tuple[ConntrackEntry, ConntrackEntry]]:
    """(entry, the one it clashes with): one client socket, by way of a Service and directly, to one endpoint."""
    groups: dict[tuple[object, ...], list[ConntrackEntry]] = {}
    for entry in entries:
        if entry.original.sport and not entry.over:
            source, reply = entry.original, entry.reply
            key = (entry.protocol, entry.zone, source.src, source.sport, reply.src, reply.sport)
            groups.setdefault(key, []).append(entry)
    found = []
    for group in groups.values():
        places = {(entry.original.dst, entry.original.dport) for entry in group}
        if len(places) < 2:
            continue
        first = next((entry for entry in group if not entry.port_rewritten), group[0])
        found += [(each, first) for each in group if each.original != first.original]
    return found


def _pair(case: Case, node: Machine, one: ConntrackEntry, other: ConntrackEntry) -> str:
    where = case.table_file(node)
    effect = (
        f"its source port became {one.reply.dport}"
        if one.port_rewritten and one.reply != other.reply
        else "its answers have the same addresses and ports"
    )
    return f"{where}:{one.line}: {one.text} clashes with line {other.line}: {other.text}: {effect}"
