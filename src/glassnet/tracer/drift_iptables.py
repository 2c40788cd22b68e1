"""kube-proxy's chains (ours have the same names) against what the API asks for, line by line.

What should be there is spelled by the iptables backend, with options told from the listing itself. An option that a single rule tells is
taken from the majority, so that a rule somebody changed does not pass for the option.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from glassnet.kube.view import Key
from glassnet.net import address
from glassnet.proxy.backends import iptables as backend
from glassnet.proxy.backends import iptables_layouts as layouts
from glassnet.proxy.backends.iptables_state import LARGE
from glassnet.proxy.model import LocalDetector, Rules, ServicePort
from glassnet.proxy.naming import Recipe
from glassnet.ruleset.model import Chain, Table
from glassnet.tracer.drift_model import CHANGED, KUBE_PROXY, MISSING, Cluster, Comparer, Deviation, Ports
from glassnet.tracer.listing import Line
from glassnet.tracer.objects import Reference

FAMILIES = {"ip": address.IPV4, "ip6": address.IPV6}
_MARK = re.compile(r"--(?:set-x?mark|or-mark|mark) (0x[0-9a-f]+)").search
_OUTSIDE = re.compile(r"-A KUBE-(?:SV[CL]-\S+|SERVICES) (?:.*)! (-[si]) (\S+) .*cluster IP\".* -j KUBE-MARK-MASQ").match
_POD = re.compile(r"-A KUBE-(?:EXT|XLB)-\S+ (-[si]) (\S+) .*(?:pod traffic for |Redirect pods trying )").match
_ALL = re.compile(r"-A KUBE-(?:SV[CL]-\S+|SERVICES) -d .*cluster IP\".* -j KUBE-MARK-MASQ").match
_LAST = re.compile(r"-A KUBE-SERVICES (?:(!)? ?-d (\S+) )?.*service nodeports; NOTE.* -j KUBE-NODEPORTS").match
_CHANCE = re.compile(r"--probability ([0-9.]+)")
_SPACES = re.compile(r"  +")
_NUMBERED = re.compile(r" -p (6|17|132) ")
_NAMES = {"6": " -p tcp ", "17": " -p udp ", "132": " -p sctp "}
_SERVICE = re.compile(r"KUBE-(?:SVC|SVL|XLB|FW|EXT|SEP)-[A-Z2-7]{16}").fullmatch
_KUBELET = re.compile(r"0x8000/0x8000|KUBE-MARK-DROP").search
_COMMENTED = re.compile(r' -m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+)')
_AIM = re.compile(r" -[jg] (\S+)").search


def normal(text: str) -> str:
    """A rule without what versions of iptables spell in different ways."""
    text = _SPACES.sub(" ", text)
    if "--probability" in text:
        text = _CHANCE.sub(lambda found: f"--probability {float(found[1]):.7f}", text)
    return _NUMBERED.sub(lambda found: _NAMES[found[1]], text)


@dataclass(slots=True)
class Listed:
    """One family's tables of one tool on one machine: table -> chain -> rules."""

    machine: str
    family: str
    tool: str
    tables: dict[str, Table]
    lines: dict[str, dict[str, list[Line]]]

    @property
    def title(self) -> str:
        """`ip nat (iptables-nft)`."""
        return f"{'iptables' if self.family == address.IPV4 else 'ip6tables'} ({self.tool})"


def read(machine: str, tables: Iterable[Table]) -> Listed | None:
    """The tables of one tool and family, when a Service proxy's chains are in them (and they are not those of the ipvs mode)."""
    found = {table.name: table for table in tables}
    nat = found.get("nat")
    if nat is None:
        return None
    if "KUBE-SERVICES" not in nat.chains and not any(map(_SERVICE, nat.chains)):
        return None
    lines = {name: {each: _lines(chain) for each, chain in table.chains.items()} for name, table in found.items()}
    if any("--match-set KUBE-" in line.text for line in lines["nat"].get("KUBE-SERVICES", ())):
        return None
    return Listed(machine, FAMILIES[nat.family], nat.tool, found, lines)


def _lines(chain: Chain) -> list[Line]:
    source = chain.table.source
    assert chain.make is not None or not len(chain)
    made = (chain.make(chain, index) for index in range(len(chain)))  # type: ignore[misc]
    return [Line(rule.text, source, rule.line) for rule in made]


@dataclass(frozen=True, slots=True)
class Told:
    """Options told from a listing. `detector` None: nothing tells it; `liberal`: INVALID packets are not dropped."""

    rules: Rules
    colon: bool
    liberal: bool


def options(listed: Listed, names: Iterable[ServicePort]) -> Told:
    """The proxy's options as the listing shows them."""
    nat, rules = listed.lines.get("nat", {}), listed.lines.get("filter", {})
    told_by = (*nat.get(backend.MARK_MASQ, ()), *nat.get(backend.POSTROUTING, ()), *rules.get(backend.FORWARD, ()))
    marks = Counter(found[1] for line in told_by if (found := _MARK(line.text)))
    votes: Counter[tuple[str, str]] = Counter()
    every = 0
    for name, chain in nat.items():
        if not name.startswith(("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-XLB-", backend.SERVICES)):
            continue
        for line in chain if name == backend.SERVICES else chain[:3]:
            found = _OUTSIDE(line.text) or _POD(line.text)
            if found:
                votes[found[1], found[2]] += 1
            elif _ALL(line.text):
                every += 1
    detector = None
    if votes:
        (option, value), _ = votes.most_common(1)[0]
        kind = "source" if option == "-s" else "prefix" if value.endswith("+") else "interface"
        detector = LocalDetector(kind, value.removesuffix("+"))
    last = [found for line in nat.get(backend.SERVICES, ()) if (found := _LAST(line.text))]
    serving = tuple(sorted(found[2].partition("/")[0] for found in last if found[2] and not found[1])) or None
    forward = [line.text for line in rules.get(backend.FORWARD, ())]
    nodeports = [line.text for line in nat.get(backend.NODE_PORTS, ())]
    told = Rules(
        family=listed.family,
        detector=detector,
        masquerade_all=every > sum(votes.values()),
        mark=int(marks.most_common(1)[0][0], 16) if marks else 0x4000,
        node_port_addresses=serving,
        localhost_node_ports="127.0.0.1" in serving if serving else not any(found[1] and found[2] == "127.0.0.0/8" for found in last),
        random_fully=not any("MASQUERADE" in line.text and "--random-fully" not in line.text for line in nat.get(backend.POSTROUTING, ())),
        counters=any("nfacct" in text for text in (*forward, *nodeports)),
        layout=_layout(nat),
    )  # fmt: skip
    liberal = not any("--ctstate INVALID" in text for text in forward)
    return Told(told, _colon(nat, names), liberal)


def _layout(nat: Mapping[str, list[Line]]) -> str:
    """The layout of the chains: the classic one marks and sends on in shared chains, today's in a Service's own."""
    shared = (*nat.get(backend.SERVICES, ()), *nat.get(backend.NODE_PORTS, ()))
    old = any(line.text.endswith(f"-j {backend.MARK_MASQ}") for line in shared) or any(n.startswith("KUBE-XLB-") for n in nat)  # fmt: skip
    return layouts.CLASSIC if old else layouts.CURRENT


def _colon(nat: Mapping[str, object], ports: Iterable[ServicePort]) -> bool:
    """True when names of chains are those of the old era, with a colon behind Services whose port has no name."""
    old, new = Recipe(colon_without_port_name=True), Recipe()
    votes = 0
    for port in ports:
        if ":" not in port.name:
            for kind in ("KUBE-SVC", "KUBE-SVL"):
                votes += (old.service(kind, port.name, port.protocol) in nat) - (new.service(kind, port.name, port.protocol) in nat)  # fmt: skip
    return votes > 0


def agree(told: Iterable[Told], mine: Told, liberal: str = "") -> Rules:
    """The options of one machine, where it does not tell one itself with what all the others say. `liberal`: the sysctl
    nf_conntrack_tcp_be_liberal, which makes kube-proxy leave INVALID packets alone."""
    others = [each for each in told if each.rules.family == mine.rules.family and each is not mine]
    rules = mine.rules
    most = not others or sum(each.liberal for each in others) * 2 >= len(others)
    if mine.liberal and (liberal == "1" or (not liberal and most)):
        rules = replace(rules, drop_invalid=False)
    detectors = {each.rules.detector for each in others}
    if rules.detector is None and not rules.masquerade_all and len(detectors) == 1:
        rules = replace(rules, detector=detectors.pop())
    if not rules.random_fully and others and all(each.rules.random_fully for each in others):
        rules = replace(rules, random_fully=True)
    return rules


class Comparison:
    """One family of one machine."""

    def __init__(self, listed: Listed, cluster: Cluster, rules: Rules, colon: bool, ports: Mapping[Key, Ports]) -> None:
        self.listed, self.cluster, self.ports = listed, cluster, ports
        recipe = Recipe(colon_without_port_name=colon)
        endpoints = sum(len(port.cluster) for each in ports.values() for port in each)
        self.spelling = layouts.spelling(rules, recipe, endpoints <= LARGE)
        self.owners: dict[str, Reference] = {}
        self.top: dict[tuple[str, str], list[tuple[str, Reference]]] = {
            (table, chain): [] for table, chains in self.spelling.top.items() for chain in chains
        }
        self.own: dict[str, tuple[list[str], Reference]] = {}
        self._spell()

    def _spell(self) -> None:
        for place, lines in self.spelling.fixed().items():
            self.top[place] += [(line, KUBE_PROXY) for line in lines]
        for ports in self.ports.values():
            for port in ports:
                subject = self.cluster.subject(port.name, port.protocol)
                piece = self.spelling.piece((port,))
                self.own.update({name: (lines, subject) for name, lines in piece.chains.items()})
                for place, lines in piece.top.items():
                    self.top[place] += [(line, subject) for line in lines]
        self.top["nat", backend.SERVICES] += [(line, KUBE_PROXY) for line in self.spelling.last()]

    def run(self) -> list[Deviation]:
        """All deviations."""
        out: list[Deviation] = []
        canaries = any(backend.CANARY in chains for chains in self.listed.lines.values())
        for (table, chain), wanted in self.top.items():
            if chain == backend.CANARY and not canaries:  # they matter to the proxy alone, and not every one has them
                continue
            out += self._shared(table, chain, wanted)
        nat = self._comparer("nat")
        there = self.listed.lines.get("nat", {})
        for name, (lines, subject) in self.own.items():
            found = there.get(name)
            if found is not None and self._uncommented(lines, found):
                continue
            if found is None or [line.text for line in found] != lines:
                out += nat.chain(name, [(text, subject) for text in lines], found, ordered=True)
        for name in there:
            if name.startswith(backend.PREFIXES) and name not in self.own:
                out.append(nat.stray(self.listed.tables["nat"].chains[name], there[name], self._owner(name)))
        return out + self._jumps()

    def _uncommented(self, wanted: list[str], there: list[Line]) -> bool:
        """Whether a chain differs in comments alone, because the cluster became large, or small again: only chains that change are written anew."""
        if self.spelling.comments and any("--comment" in line.text for line in there):
            return False
        return [_bare(text) for text in wanted] == [_bare(line.text) for line in there]

    def _comparer(self, table: str) -> Comparer:
        found = self.listed.tables.get(table)
        if found is None:
            found = Table("ip" if self.listed.family == address.IPV4 else "ip6", table, self.listed.tool, "")
        return Comparer(self.listed.machine, found, self.cluster, normal, self._subject_of)

    def _shared(self, table: str, chain: str, wanted: list[tuple[str, Reference]]) -> list[Deviation]:
        """A chain of several Services', or of kube-proxy's own. Among rules of Services order means nothing, but some must stay the last."""
        compare, there = self._comparer(table), self.listed.lines.get(table, {}).get(chain)
        if chain == backend.FIREWALL:
            return self._firewall(compare, wanted, there)
        if there is None:
            place = Deviation(self.listed.machine, MISSING, compare.title(chain), KUBE_PROXY, (), note="the chain is not there")  # fmt: skip
            return [place] if not wanted else compare.chain(chain, wanted, None, False)
        fixed = all(subject is KUBE_PROXY for _, subject in wanted) and chain != backend.SERVICES
        out = compare.chain(chain, wanted, there, ordered=fixed and bool(wanted))
        last = self.spelling.last() if (table, chain) == ("nat", backend.SERVICES) else []
        if last and not out and [normal(line.text) for line in there[-len(last) :]] != [normal(text) for text in last]:
            note = "node ports are looked up before some Services: this must be the last rule"
            found = tuple(line for line in there if _LAST(line.text))
            out.append(Deviation(self.listed.machine, CHANGED, compare.title(chain), KUBE_PROXY, tuple(last), found, note=note))  # fmt: skip
        return out

    def _firewall(
        self, compare: Comparer, wanted: list[tuple[str, Reference]], there: list[Line] | None
    ) -> list[Deviation]:
        """KUBE-FIREWALL: the kubelet's as well."""
        asked = {normal(text) for text, _ in wanted}
        have = {normal(line.text) for line in there or ()}
        out = []
        if asked - have:
            out.append(Deviation(self.listed.machine, MISSING, compare.title(backend.FIREWALL), KUBE_PROXY, tuple(t for t, _ in wanted)))  # fmt: skip
        foreign = [
            line
            for line in there or ()
            if normal(line.text) not in asked and not _KUBELET(line.text) and "block incoming localnet" not in line.text
        ]
        return out + [compare.intruder(compare.title(backend.FIREWALL), line) for line in foreign]

    def _jumps(self) -> list[Deviation]:
        """The jumps from the kernel's chains."""
        out = []
        for table, chain, rule in self.spelling.jumps:
            there = {normal(line.text) for line in self.listed.lines.get(table, {}).get(chain, ())}
            wanted = f"-A {chain} {rule}"
            if normal(wanted) in there:
                continue
            target = rule.rpartition(" ")[2]
            if target == backend.FIREWALL and not self.top["filter", backend.FIREWALL]:
                continue
            note = f"no packet gets from {chain} to {target}"
            out.append(Deviation(self.listed.machine, MISSING, self._comparer(table).title(chain), KUBE_PROXY, (wanted,), note=note))  # fmt: skip
        return out

    # -- whose a line is

    def _subject_of(self, text: str) -> Reference | None:
        """Whose a rule is that nobody asked for: of a Service it names, when it looks like kube-proxy's; None for a foreign one."""
        aim = _AIM(text)
        target = aim[1] if aim else ""
        named = self.cluster.named(_comment(text))
        if named is not None and named.name:
            return named
        if _SERVICE(target):
            return self._owner(target)
        if "kubernetes " in text and "--comment" in text:
            return KUBE_PROXY
        return None

    def _owner(self, name: str) -> Reference | None:
        """Whose a chain is: by its hash, by the comments in it, by who jumps there."""
        if name in self.own:
            return self.own[name][1]
        port, _, _ = self.cluster.explainer.chain(name)
        if port is not None:
            return self.cluster.subject(port.text, port.protocol)
        if not self.owners:
            self._learn()
        return self.owners.get(name)

    def _learn(self) -> None:
        nat = self.listed.lines.get("nat", {})
        waiting: dict[str, str] = {}
        for name, chain in nat.items():
            for line in chain:
                aim = _AIM(line.text)
                named = self.cluster.named(_comment(line.text)) if "--comment" in line.text else None
                if named is not None:
                    self.owners.setdefault(name, named)
                    if aim and _SERVICE(aim[1]):
                        self.owners.setdefault(aim[1], named)
                elif aim and _SERVICE(aim[1]):
                    waiting.setdefault(aim[1], name)
        for name, parent in waiting.items():
            if parent in self.owners:
                self.owners.setdefault(name, self.owners[parent])


def _bare(text: str) -> str:
    """A rule without its comment."""
    return normal(_COMMENTED.sub("", text))


def _comment(text: str) -> str:
    start = text.find('--comment "')
    if start < 0:
        return ""
    return text[start + 11 :].partition('"')[0]
