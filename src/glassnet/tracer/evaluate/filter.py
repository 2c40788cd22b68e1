"""The packet filter of one machine: base chains at each hook in their true order, connection tracking and translation between them.

Source: net/netfilter/{core,nf_tables_core,nf_nat_core,nf_conntrack_core}.c, net/ipv4/netfilter/ip_tables.c of Linux. Chains of the same
priority run in the opposite order of their registration (nf_hook_entries_grow). All nat chains of a hook run inside one hook of nf_nat, at
its own priority; the first that translates decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from glassnet.net.tristate import Answer, Chance, Unknown
from glassnet.ruleset.model import NFT, Chain, Rule
from glassnet.tracer.evaluate import nft_rules, xt_rules
from glassnet.tracer.evaluate import verdicts as v
from glassnet.tracer.evaluate.nat import apply_known, choices, translate, wanted_side
from glassnet.tracer.evaluate.nft_values import Spread
from glassnet.tracer.evaluate.verdicts import Translation, Verdict
from glassnet.tracer.evaluate.xt_matches import conjunction
from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import Branch, Connection, complementary

Outcome = tuple[Branch, Verdict]
_FAMILIES = {32: ("ip", "inet"), 128: ("ip6", "inet")}
_NAT_PRIORITY = {"prerouting": -100, "output": -100, "input": 100, "postrouting": 100}
_CONNTRACK_PRIORITY = -200
_DEPTH = 256
ACCEPTED = Verdict(v.ACCEPT)


class Stage(NamedTuple):
    """One thing that runs at a hook: a base chain, connection tracking, or all nat chains together."""

    priority: int
    kind: str
    chains: tuple[Chain, ...] = ()


class Filter:
    """Runs packets through the hooks of one machine.

    `limit` bounds how many branches one packet may have; beyond it the outcome is unknown. `find` looks a packet up among the connections
    this trace made on the machine.
    """

    def __init__(
        self, machine: Machine, find: Callable[[Branch], tuple[Connection, bool] | None], limit: int = 20_000
    ) -> None:
        self.machine, self.find, self.left = machine, find, limit
        self._stages: dict[tuple[str, int], list[Stage]] = {}

    def run(self, hook: str, branch: Branch, after: Callable[[Branch, str], str] | None = None) -> Iterator[Outcome]:
        """Send a packet through a hook. `after(branch, kind)` is called behind each stage and may end the packet with a reason."""
        branch.packet.hook = hook
        for reason in self.machine.broken:
            doubt = f"the rules of {self.machine.name} are not all known: {reason}"
            if doubt not in branch.doubts:
                branch.doubts = (*branch.doubts, doubt)
        yield from self._stage(self.stages(hook, branch.packet.bits), 0, branch, after)

    def stages(self, hook: str, bits: int) -> list[Stage]:
        """What runs at a hook, in order."""
        key = (hook, bits)
        found = self._stages.get(key)
        if found is None:
            found = self._stages[key] = self._order(hook, bits)
        return found

    def _order(self, hook: str, bits: int) -> list[Stage]:
        chains = self.machine.ruleset.base_chains(hook, _FAMILIES[bits])
        chains.reverse()
        plain = [Stage(c.priority, c.type, (c,)) for c in chains if c.type != "nat"]
        nat = sorted((c for c in chains if c.type == "nat"), key=lambda c: c.priority)
        tables = [t for t in self.machine.ruleset.tables if t.family in _FAMILIES[bits]]
        if any(c.type == "nat" and c.hook for t in tables for c in t.chains.values()) and hook in _NAT_PRIORITY:
            plain.append(Stage(_NAT_PRIORITY[hook], "nat", tuple(nat)))
        if hook in ("prerouting", "output") and any(len(c) for t in tables for c in t.chains.values()):
            plain.append(Stage(_CONNTRACK_PRIORITY, "conntrack"))
        return sorted(plain, key=lambda stage: stage.priority)

    def _stage(
        self, stages: list[Stage], place: int, branch: Branch, after: Callable[[Branch, str], str] | None
    ) -> Iterator[Outcome]:
        while place < len(stages):
            stage = stages[place]
            place += 1
            if stage.kind == "conntrack":
                self._track(branch)
                continue
            outcomes = list(self._nat(stage, branch) if stage.kind == "nat" else self._base(stage.chains[0], branch))
            going = []
            for each, verdict in outcomes:
                if verdict.kind == v.ACCEPT:
                    lost = after(each, stage.kind) if after else ""
                    if lost:
                        yield each, Verdict("lost", lost)
                    else:
                        going.append(each)
                else:
                    yield each, verdict
            if len(going) != 1:
                for each in going:
                    yield from self._stage(stages, place, each, after)
                return
            branch = going[0]
        yield branch, ACCEPTED

    # -- connection tracking

    def _track(self, branch: Branch) -> None:
        packet = branch.packet
        if packet.state == "untracked" or packet.connection is not None:
            return
        found = self.find(branch)
        if found is not None:
            connection, packet.reply = found
            packet.connection = connection.copy()
            packet.connection.replied |= packet.reply
            packet.state = "established" if packet.reply or connection.replied else "new"
            way = "a reply of" if packet.reply else "belongs to"
            branch.add(
                "conntrack", self.machine.name, f"{packet.state}: {way} {connection.text}", fact=packet.connection
            )
            return
        packet.state, packet.reply = "new", False
        packet.connection = Connection(
            packet.bits, packet.protocol, packet.src, packet.sport, packet.dst, packet.dport,
            packet.dst, packet.dport, packet.src, packet.sport,
        )  # fmt: skip

    # -- translation

    def _nat(self, stage: Stage, branch: Branch) -> Iterator[Outcome]:
        packet = branch.packet
        connection = packet.connection
        if connection is None or packet.state == "untracked":
            yield branch, ACCEPTED
            return
        source = wanted_side(packet.hook)
        if packet.reply or (connection.snat if source else connection.dnat) or connection.known:
            action = apply_known(packet, source)
            if action:
                branch.add("nat", self.machine.name, action, fact=connection)
            yield branch, ACCEPTED
            return
        yield from self._nat_chains(stage.chains, 0, branch, source)

    def _nat_chains(self, chains: tuple[Chain, ...], place: int, branch: Branch, source: bool) -> Iterator[Outcome]:
        if place == len(chains):
            connection = branch.packet.connection
            assert connection is not None
            if source:
                connection.snat = True
            else:
                connection.dnat = True
            yield branch, ACCEPTED
            return
        for each, verdict in self._base(chains[place], branch):
            connection = each.packet.connection
            assert connection is not None
            if verdict.kind != v.ACCEPT or (connection.snat if source else connection.dnat):
                yield each, verdict
            else:
                yield from self._nat_chains(chains, place + 1, each, source)

    # -- chains

    def _base(self, chain: Chain, branch: Branch) -> Iterator[Outcome]:
        for each, verdict in self._walk(chain, branch, 0, 0):
            if verdict.kind != v.END:
                yield each, verdict
            elif chain.policy == "accept":
                yield each, ACCEPTED
            else:
                each.add("policy", self.machine.name, f"policy {chain.policy}", chain=chain.where)
                yield each, Verdict(v.DROP, "policy")

    def _walk(self, chain: Chain, branch: Branch, start: int, depth: int) -> Iterator[Outcome]:
        self.left -= 1
        if self.left < 0 or depth > _DEPTH:
            yield branch, Verdict(v.UNKNOWN, "too many ways to follow" if self.left < 0 else "chains nested too deeply")
            return
        is_xt = chain.table.tool != NFT
        places = iter(xt_rules.candidates(chain, branch.packet, start) if is_xt else range(start, len(chain.raw)))
        for place in places:
            rule = chain.rule(place)
            results = self._xt(rule, branch) if is_xt else self._nft(rule, branch)
            if results is None:
                continue
            going: list[Branch] = []
            for each, verdict in results:
                yield from self._follow(chain, each, verdict, depth, going)
            if not going:
                return
            if len(going) > 1:
                going = _merged(going)
            for each in going[1:]:
                yield from self._walk(chain, each, place + 1, depth)
            branch = going[0]
        yield branch, Verdict(v.END)

    def _follow(
        self, chain: Chain, branch: Branch, verdict: Verdict | None, depth: int, going: list[Branch]
    ) -> Iterator[Outcome]:
        """What a rule's verdict leads to; branches that go on with the next rule are put into `going`."""
        if verdict is None:
            going.append(branch)
        elif verdict.kind in (v.JUMP, v.GOTO):
            target = chain.table.chains.get(verdict.detail)
            if target is None:
                yield (
                    branch,
                    Verdict(v.UNKNOWN, f"chain {verdict.detail} is not in the listing of table {chain.table.name}"),
                )
                return
            for each, found in self._walk(target, branch, 0, depth + 1):
                if found.kind != v.END or verdict.kind == v.GOTO:
                    yield each, found
                else:
                    going.append(each)
        elif verdict.kind == v.RETURN:
            yield branch, Verdict(v.END)
        else:
            yield branch, verdict

    # -- rules: None when the rule does not match, else branches with verdicts (None: on to the next rule)

    def _xt(self, rule: Rule, branch: Branch) -> list[tuple[Branch, Verdict | None]] | None:
        compiled: xt_rules.Compiled | None = rule.compiled
        if compiled is None:
            compiled = rule.compiled = xt_rules.Compiled(rule)
        answer = conjunction(compiled.answers(branch.packet, self.machine))
        if answer is False:
            return None
        matched, missed = _split(branch, answer)
        results: list[tuple[Branch, Verdict | None]] = []
        effect = compiled.act(matched.packet)
        results += self._effect(rule, matched, effect, answer)
        if missed is not None:
            results.append((missed, None))
        return results

    def _nft(self, rule: Rule, branch: Branch) -> list[tuple[Branch, Verdict | None]] | None:
        compiled: nft_rules.Compiled | None = rule.compiled
        if compiled is None:
            compiled = rule.compiled = nft_rules.Compiled(rule)
        results: list[tuple[Branch, Verdict | None]] = []
        self._operations(rule, compiled.operations, 0, branch, results, False)
        return None if len(results) == 1 and results[0][0] is branch and results[0][1] is None else results

    def _operations(
        self,
        rule: Rule,
        operations: list[tuple[bool, nft_rules.Operation]],
        place: int,
        branch: Branch,
        results: list[tuple[Branch, Verdict | None]],
        changed: bool,
        reason: str = "",
    ) -> None:
        machine, end = self.machine, len(operations)
        while place < end:
            is_test, operation = operations[place]
            if is_test:
                first = place
                while place < end and operations[place][0]:
                    place += 1
                answer = conjunction(operations[i][1](branch.packet, machine) for i in range(first, place))
                if answer is False:
                    results.append((branch, None))
                    return
                branch, missed = _split(branch, answer)
                if isinstance(answer, Chance):
                    reason = answer.reason
                if missed is not None:
                    self._operations(rule, operations, place, branch, results, changed, reason)
                    results.append((missed, None))
                    return
                continue
            place += 1
            effect = operation(branch.packet, machine)
            if effect is None:
                continue
            if effect is False:
                results.append((branch, None))
                return
            if isinstance(effect, Unknown):
                effect = Verdict(v.UNKNOWN, str(effect))
            if not isinstance(effect, Spread):
                results += self._effect(rule, branch, effect, True, reason)
                return
            for share, each in effect.values:
                fork = branch.fork(share)
                if each is False:
                    results.append((fork, None))
                elif isinstance(each, nft_rules.Setting):
                    nft_rules.apply_setting(fork.packet, *each)
                    self._operations(rule, operations, place, fork, results, True, effect.reason)
                elif each is None:
                    self._operations(rule, operations, place, fork, results, changed, effect.reason)
                else:
                    results += self._effect(rule, fork, each, True, f"{effect.reason}")
            return
        branch.add("rule", machine.name, _words(None, branch, reason), rule, rule.chain.where)
        results.append((branch, None))

    def _effect(
        self, rule: Rule, branch: Branch, effect: Any, answer: Answer, reason: str = ""
    ) -> Iterable[tuple[Branch, Verdict | None]]:
        if isinstance(answer, (Chance, Unknown)):
            reason = answer.reason
        if isinstance(effect, Translation):
            return self._translation(rule, branch, effect, reason)
        branch.add("rule", self.machine.name, _words(effect, branch, reason), rule, rule.chain.where)
        return [(branch, effect)]

    def _translation(
        self, rule: Rule, branch: Branch, effect: Translation, reason: str
    ) -> list[tuple[Branch, Verdict | None]]:
        found: list[tuple[Branch, Verdict | None]] = []
        ways = choices(effect, branch.packet)
        if not ways:
            return [(branch, Verdict(v.UNKNOWN, "a range of addresses too large to follow"))]
        for share, each in ways:
            fork = branch if len(ways) == 1 else branch.fork(share)
            action = translate(fork.packet, each, self.machine)
            if isinstance(action, Unknown):
                fork.add("rule", self.machine.name, str(action), rule, rule.chain.where)
                found.append((fork, Verdict(v.UNKNOWN, str(action))))
                continue
            words = f"{action} ({reason})" if reason else action
            fork.add("rule", self.machine.name, words, rule, rule.chain.where, fact=fork.packet.connection)
            found.append((fork, ACCEPTED))
        return found


def _merged(branches: list[Branch]) -> list[Branch]:
    """Branches that go on alike become one: their shares add up, and a question whose answers lead to the same is none."""
    found: list[Branch] = []
    for branch in branches:
        for place, other in enumerate(found):
            if branch.packet != other.packet:
                continue
            if branch.doubts == other.doubts:
                other.weight += branch.weight
                break
            if complementary(branch.doubts, other.doubts):
                found[place] = other
                other.doubts = other.doubts[:-1]
                break
        else:
            found.append(branch)
    return found


def _split(branch: Branch, answer: Answer) -> tuple[Branch, Branch | None]:
    """The branches where a question is answered with yes and with no (None: it cannot be)."""
    if answer is True:
        return branch, None
    if isinstance(answer, Chance):
        if answer.probability is None:
            missed = branch.fork(1.0, f"unless: {answer.reason}")
            branch.doubts = (*branch.doubts, f"if: {answer.reason}")
            return branch, missed
        missed = branch.fork(1 - answer.probability)
        branch.weight *= answer.probability
        return branch, missed
    assert isinstance(answer, Unknown)
    missed = branch.fork(1.0, f"if it does not match: {answer}")
    branch.doubts = (*branch.doubts, f"if it matches: {answer}")
    return branch, missed


def _words(effect: Verdict | None, branch: Branch, reason: str) -> str:
    """What a matching rule did, for a person."""
    if effect is None:
        said = f"mark {branch.packet.mark:#x}" if branch.packet.mark else "goes on"
    elif effect.kind in (v.JUMP, v.GOTO):
        said = f"{effect.kind} {effect.detail}"
    elif effect.kind == v.REJECT:
        said = f"reject with {effect.detail}"
    else:
        said = f"{effect.kind}: {effect.detail}" if effect.detail else effect.kind
    return f"{said} ({reason})" if reason else said
