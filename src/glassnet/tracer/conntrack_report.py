"""The connection table of one node, told in the words of the cluster: which entry is whose, which is wrong and why, and who fills the table.

Sources of the rules: Kubernetes documentation, "Virtual IPs and Service Proxies"; kube-proxy's clean-up of stale entries; nf_conntrack_core.c
and nf_nat_core.c (Linux) for when two entries clash; conntrack(8) for the commands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from glassnet.net.address import IPV6, with_port
from glassnet.net.errors import UsageError
from glassnet.netstack.parse_conntrack import ConntrackEntry, FlowTuple
from glassnet.tracer.cluster_facts import NODE_PORT, Facts, Party, ServicePortFact

HEALTHY, STALE, BEFORE, HAIRPIN = "healthy", "stale-endpoint", "before-rules", "hairpin"
CLASH, ORPHAN, UNREPLIED = "clash", "orphan", "unreplied"
CLASSES = (STALE, BEFORE, CLASH, HAIRPIN, ORPHAN, UNREPLIED, HEALTHY)
By = Literal["pod", "service", "node", "source", "destination"]


@dataclass(frozen=True, slots=True)
class Classified:
    """An entry, joined.

    `kind` is one of CLASSES, `reason` one line. `client` opened the connection, `server` answers (or should), `seen_as` is who the server takes
    for the client. `service` is namespace/name[:port] or "", `via` which of its addresses was asked for: ClusterIP, NodePort, ExternalIP,
    LoadBalancerIP. `command` deletes this entry and no other ("" where that is not right), `effect` says what happens then.
    """

    entry: ConntrackEntry
    kind: str
    reason: str
    client: Party
    server: Party
    seen_as: Party
    service: str = ""
    via: str = ""
    command: str = ""
    effect: str = ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes that take part: with an address of their own, or as the home of a pod."""
        return tuple(dict.fromkeys(p.node for p in (self.client, self.server, self.seen_as) if p.node))


class Count(NamedTuple):
    """How many entries a name takes part in."""

    name: str
    entries: int


class _Parties(dict[str, Party]):
    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    def __missing__(self, text: str) -> Party:
        self[text] = found = self.facts.party(text)
        return found


class _Join(NamedTuple):
    entry: ConntrackEntry
    client: Party
    server: Party
    seen_as: Party
    service: ServicePortFact | None
    via: str
    mine: bool  # this node's rules should have translated it
    vacant: bool  # the Service is known to have no endpoint that serves


class _Verdict(NamedTuple):
    kind: str
    reason: str
    delete: bool = False


def classify(entries: Iterable[ConntrackEntry], facts: Facts, node: str = "") -> list[Classified]:
    """Join each entry of one node's table and give it the first class that fits, in the order of CLASSES.

    stale-endpoint: sent to an address that is no serving endpoint of that Service port (when endpoints are known). before-rules: to a Service's address, but not
    translated (unless unanswered and the Service has no endpoint: what the rules refuse looks so, and is unreplied). clash: its reply tuple is
    another entry's, or would be had the source port not been rewritten. hairpin: client and endpoint are the same address. orphan: a party is of
    a pod range but no living pod's (when pods are known). unreplied: packets in one direction only.

    `node` is the name of the node the table is of; without it, the node's addresses are those to which node ports are seen translated. Another
    node's node ports are that node's to translate.
    """
    table = list(entries)
    parties = _Parties(facts)
    own = _own_addresses(table, facts, node)
    clashes = _clashes(table)
    zoned = any(entry.zone for entry in table)
    return [_classified(_join(entry, facts, parties, own), clashes.get(i), zoned) for i, entry in enumerate(table)]


def top(entries: Iterable[ConntrackEntry], facts: Facts, by: str = "pod") -> list[Count]:
    """How many entries each pod, service, node, source or destination (address:port) takes part in, most first, then by name.

    An entry counts once for each pod or node in it. Raises UsageError for another `by`.
    """
    parties = _Parties(facts)

    def service(entry: ConntrackEntry) -> Sequence[str]:
        found, _ = _service(entry, facts, frozenset())
        return (found.name,) if found else ()

    def pods(entry: ConntrackEntry) -> Iterable[str]:
        return {p.name for p in _ends(entry, parties) if p.kind == "pod"}

    def nodes(entry: ConntrackEntry) -> Iterable[str]:
        return {p.node for p in _ends(entry, parties) if p.node and p.kind != "lost"}

    names: Mapping[str, Callable[[ConntrackEntry], Iterable[str]]] = {
        "pod": pods,
        "service": service,
        "node": nodes,
        "source": lambda entry: (entry.original.src,),
        "destination": lambda entry: (_place(entry.original.dst, entry.original.dport),),
    }
    if by not in names:
        raise UsageError(f"count by {by!r}? Want one of {', '.join(names)}")
    counts: Counter[str] = Counter()
    for entry in entries:
        counts.update(names[by](entry))
    return [Count(name, n) for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _ends(entry: ConntrackEntry, parties: _Parties) -> tuple[Party, Party, Party, Party]:
    original, reply = entry.original, entry.reply
    return parties[original.src], parties[original.dst], parties[reply.src], parties[reply.dst]


def _place(ip: str, port: int) -> str:
    return with_port(ip, port) if port else ip


# ---- joining


def _own_addresses(table: list[ConntrackEntry], facts: Facts, node: str) -> frozenset[str]:
    if node:
        return frozenset(ip for ip, name in facts.nodes.items() if name == node)
    ports = facts.node_ports
    return frozenset(
        entry.original.dst
        for entry in table
        if entry.dnat and entry.original.dst in facts.nodes and (entry.protocol, entry.original.dport) in ports
    )


def _service(entry: ConntrackEntry, facts: Facts, own: frozenset[str]) -> tuple[ServicePortFact | None, str]:
    dst, dport = entry.original.dst, entry.original.dport
    found = facts.virtual.get((entry.protocol, dst, dport))
    if found:
        return found
    fact = facts.node_ports.get((entry.protocol, dport))
    if fact and dst not in facts.pods and (entry.dnat or dst in facts.nodes or dst in own):
        return fact, NODE_PORT
    return None, ""


def _join(entry: ConntrackEntry, facts: Facts, parties: _Parties, own: frozenset[str]) -> _Join:
    service, via = _service(entry, facts, own)
    reply = entry.reply
    mine = service is not None and (via != NODE_PORT or entry.dnat or entry.original.dst in own)
    vacant = service is not None and facts.endpoints_known and not service.live
    return _Join(entry, parties[entry.original.src], parties[reply.src], parties[reply.dst], service, via, mine, vacant)


def _clashes(table: list[ConntrackEntry]) -> dict[int, ConntrackEntry]:
    """Entry's index -> another one that has, or without rewriting would have, the same reply tuple in the same zone."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, entry in enumerate(table):
        original, reply = entry.original, entry.reply
        zone = entry.zone_reply if entry.zone_reply is not None else entry.zone
        base = (entry.protocol_number, zone or 0, reply.src, reply.sport, reply.dst, reply.icmp and reply.icmp[:2])
        groups.setdefault((*base, _selector(original)), []).append(i)
        if entry.port_rewritten:
            groups.setdefault((*base, reply.icmp[2] if reply.icmp else reply.dport), []).append(i)
    out: dict[int, ConntrackEntry] = {}
    for group in groups.values():
        first = table[group[0]]
        second = next((table[i] for i in group if not _same(table[i], first)), None)
        if second is not None:
            for i in group:
                out.setdefault(i, second if _same(table[i], first) else first)
    return out


def _same(one: ConntrackEntry, other: ConntrackEntry) -> bool:
    """True for two lines about one connection: it may be in a dump twice, or several events be about it."""
    return one.original == other.original and one.zone_original == other.zone_original


def _selector(original: FlowTuple) -> int:
    """What source translation may rewrite to tell flows apart: the source port, ICMP's id."""
    return original.icmp[2] if original.icmp else original.sport


# ---- judging


def _classified(join: _Join, clash: ConntrackEntry | None, zoned: bool) -> Classified:
    verdict = _stale(join) or _before(join) or _clash(join, clash) or _hairpin(join) or _orphan(join)
    verdict = verdict or _unreplied(join) or _Verdict(HEALTHY, _story(join))
    entry, service = join.entry, join.service
    delete = verdict.delete and not entry.over and entry.event != "DESTROY"
    return Classified(
        entry,
        verdict.kind,
        verdict.reason,
        join.client,
        join.server,
        join.seen_as,
        service.name if service else "",
        join.via,
        _command(entry, zoned) if delete else "",
        _effect(join, verdict.kind) if delete else "",
    )


def _left(entry: ConntrackEntry) -> str:
    """How a sentence about an entry that matters no more ends."""
    if not entry.over:
        return ""
    return f"; the connection is over, the entry goes by itself{_in(entry)}"


def _in(entry: ConntrackEntry) -> str:
    return "" if entry.timeout is None else f" in {entry.timeout} s"


def _stale(join: _Join) -> _Verdict | None:
    entry, service = join.entry, join.service
    place = (entry.reply.src, entry.reply.sport)
    if service is None or not entry.dnat or place in service.live or not (service.live or join.vacant):
        return None
    if place in service.listed:
        why = "is listed but neither ready nor serving"
    elif join.server.kind == "lost":
        why = "is no endpoint of it any more, and no living pod has the address"
    elif join.server.name:
        why = f"is no endpoint of it any more (the address is that of {join.server.kind} {join.server.name})"
    else:
        why = "is no endpoint of it any more"
    text = f"{service.name} sends this {entry.protocol} flow to {_place(*place)}, which {why}{_left(entry)}"
    return _Verdict(STALE, text, delete=True)


def _before(join: _Join) -> _Verdict | None:
    entry, service = join.entry, join.service
    place = (entry.original.dst, entry.original.dport)
    if service is None or entry.dnat or not join.mine or place in service.live:
        return None
    if join.vacant and entry.unreplied:
        return None  # what the rules refuse leaves such an entry too: REJECT's answer to a local client confirms it
    text = f"{_place(*place)} is the {join.via} of {service.name}, but the destination was not translated: the entry was made before the rules"
    return _Verdict(BEFORE, text + _left(entry), delete=True)


def _clash(join: _Join, other: ConntrackEntry | None) -> _Verdict | None:
    if other is None:
        return None
    entry = join.entry
    where = f"{_place(other.original.src, other.original.sport)} > {_place(other.original.dst, other.original.dport)} (line {other.line})"
    reply = entry.reply
    if entry.port_rewritten and reply != other.reply:
        now = reply.icmp[2] if reply.icmp else reply.dport
        what = "id" if reply.icmp else "source port"
        return _Verdict(
            CLASH,
            f"{what} {_selector(entry.original)} became {now}: unchanged, its replies would look like those of {where}",
        )
    return _Verdict(
        CLASH,
        f"its replies {_place(reply.src, reply.sport)} > {_place(reply.dst, reply.dport)} clash with those of {where}",
    )


def _hairpin(join: _Join) -> _Verdict | None:
    entry, service = join.entry, join.service
    if service is None or not entry.dnat or entry.original.src != entry.reply.src:
        return None
    text = f"{join.client} reached itself through {service.name}"
    if not entry.snat:
        text += "; its source was not masqueraded, so it answers itself directly and the connection fails"
    elif entry.unreplied:
        text += f" as {entry.reply.dst}; no answer: the packet may not leave by the bridge port it came in by (hairpin mode)"
    else:
        text += f", and sees {entry.reply.dst} as the client"
    return _Verdict(HAIRPIN, text)


def _orphan(join: _Join) -> _Verdict | None:
    place = (join.server.address, join.entry.reply.sport)
    serves = join.service is not None and place in join.service.live  # whether or not a pod is known for it
    for party, role in ((join.client, "client"), (join.server, "server"), (join.seen_as, "receiver of replies")):
        if party.kind == "lost" and not (serves and party.address == join.server.address):
            home = f" of {party.node}" if party.node else ""
            text = f"the {role} {party.address} lies in the pod range{home}, but no living pod has that address{_left(join.entry)}"
            return _Verdict(ORPHAN, text, delete=True)
    return None


def _unreplied(join: _Join) -> _Verdict | None:
    entry = join.entry
    if not entry.unreplied:
        return None
    place = _place(entry.reply.src, entry.reply.sport)
    if join.service and join.vacant:
        return _Verdict(
            UNREPLIED,
            f"{join.service.name} has no endpoint that serves: the rules refuse {join.client}; the entry goes by itself{_in(entry)}",
        )
    what = "no answer to the SYN" if entry.state == "SYN_SENT" else "packets in one direction only"
    return _Verdict(UNREPLIED, f"{what}: {place} has not answered {join.client}; the entry goes by itself{_in(entry)}")


def _story(join: _Join) -> str:
    entry = join.entry
    text = f"{join.client} to {join.server}"
    if join.service:
        text += f" through {join.service.name} ({join.via})"
        if not entry.dnat and not join.mine:
            text += ", left to the other node to translate"
    if entry.snat and entry.reply.dst != entry.original.src:
        text += f", seen as {join.seen_as}"
    return text


# ---- deleting


def _command(entry: ConntrackEntry, zoned: bool) -> str:
    """`conntrack -D` with the whole original tuple and the reply's source: it leaves an entry alone that was made anew meanwhile."""
    original, reply = entry.original, entry.reply
    protocol = str(entry.protocol_number) if entry.protocol == "unknown" else entry.protocol
    words = ["conntrack -D -f", "ipv6" if entry.family == IPV6 else "ipv4", "-p", protocol]
    words += ["--orig-src", original.src, "--orig-dst", original.dst]
    if original.icmp:
        kind, code, ident = original.icmp
        words.append(f"--{entry.protocol}-type {kind} --{entry.protocol}-code {code} --{entry.protocol}-id {ident}")
    elif entry.protocol == "gre":
        words.append(f"--srckey {original.sport} --dstkey {original.dport}")
    elif original.sport or original.dport:
        words.append(f"--sport {original.sport} --dport {original.dport}")
    words += ["--reply-src", reply.src]
    if entry.protocol in ("tcp", "udp", "udplite", "sctp") and reply.sport:
        words += ["--reply-port-src", str(reply.sport)]
    if entry.zone_original is not None:
        words += ["--orig-zone", str(entry.zone_original)]
    if entry.zone_reply is not None:
        words += ["--reply-zone", str(entry.zone_reply)]
    if zoned and entry.zone_original is None and entry.zone_reply is None:
        words += ["-w", str(entry.zone or 0)]
    return " ".join(words)


def _effect(join: _Join, kind: str) -> str:
    entry = join.entry
    if entry.protocol == "tcp":
        return _tcp_effect(join, kind)
    if entry.protocol in ("sctp", "dccp"):
        return "the next packet that is no handshake has no entry and counts as invalid, until the ends set the association up anew"
    return "safe: the next packet makes a new entry and meets the rules of now"


def _tcp_effect(join: _Join, kind: str) -> str:
    entry = join.entry
    if entry.state in ("SYN_SENT", "SYN_SENT2"):
        return "the client's next SYN makes a new entry and meets the rules of now"
    if kind == ORPHAN and join.client.kind == "lost":
        return "nothing breaks: the client is gone"
    if kind == ORPHAN:
        return "nothing gets better or worse for the client, whose server is gone; it only frees the entry"
    if join.vacant:
        return "the connection breaks: the rules refuse its next packet, as the Service has no endpoint, so the client learns of it at once"
    return (
        "the connection breaks: its next packet goes to a present endpoint that does not know it and answers RST, so the client reconnects at "
        "once instead of waiting for its timeout (with nf_conntrack_tcp_loose=0 the packet is invalid and dropped)"
    )
