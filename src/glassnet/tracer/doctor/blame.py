"""From a simulated flow that fails to what made it fail: the rule, policy or route as written, with its file and line."""

from __future__ import annotations

from typing import NamedTuple

from glassnet.net import address
from glassnet.ruleset.model import Chain, Rule
from glassnet.tracer import path
from glassnet.tracer.explain import owner_of
from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import Step
from glassnet.tracer.trace import Way
from glassnet.tracer.world import World

_FINE = (path.DELIVERED, path.REFUSED, path.UNKNOWN, path.LEFT)


class Culprit(NamedTuple):
    """What ended a packet: on which machine, at which hook, in which words. `rule` or `chain` (its policy) when the filter did."""

    machine: str
    hook: str
    text: str
    detail: str
    rule: Rule | None = None
    chain: Chain | None = None
    answer: bool = False  # it was the answer that got lost

    @property
    def place(self) -> Chain | None:
        """The chain whose rule or policy it was."""
        return self.rule.chain if self.rule is not None else self.chain

    @property
    def key(self) -> tuple[str, str]:
        """The same for all flows that end for the same reason."""
        return self.machine, self.text


def lost(way: Way, world: World) -> Way | None:
    """The part of a way (there, or back) that is lost for certain; None when it is fine, or not known."""
    if way.doubts or way.kind not in (path.DELIVERED, path.REFUSED):
        return None if way.doubts or way.kind in _FINE or _guessed(way, world) else way
    reply = way.reply
    if reply is None or reply.doubts or reply.kind in _FINE or _guessed(reply, world):
        return None
    return reply


def _guessed(part: Way, world: World) -> bool:
    """Whether the loss follows from a dump that is not there: of routes, or of bridge ports."""
    machine = world.machines.get(part.machine)
    if machine is None:
        return True
    routes = any(route.bits == part.packet.bits and route.table != "local" for route in machine.stack.routes)
    if not routes and (part.kind == path.NO_ROUTE or "reverse path filter" in part.detail):
        return True
    return "hairpin" in part.detail and not machine.stack.ports


def endpoint_of(way: Way, node: str) -> str:
    """The endpoint that a node's rules chose for a way, or ""."""
    made = list(way.connections.get(node, ()))
    if way.machine == node and way.packet.connection is not None:  # dropped before the connection was confirmed
        made.append(way.packet.connection)
    return next((address.text_of(c.reply_src, c.bits) for c in made if c.translates_destination), "")


def culprit(way: Way, world: World) -> Culprit | None:
    """What made a way fail; None when it did not."""
    part = lost(way, world)
    if part is None:
        return None
    answer = part is way.reply
    last = part.steps[-1] if part.steps else None
    if part.kind in (path.DROPPED, path.REJECTED) and last is not None and last.kind in ("rule", "policy"):
        machine = world.machines.get(last.machine)
        if last.rule is not None:
            return Culprit(last.machine, last.hook, place(last.rule), part.detail, last.rule, None, answer)
        chain = _policy(machine, last) if machine is not None else None
        text = policy_text(chain) if chain is not None else part.detail
        return Culprit(last.machine, last.hook, text, part.detail, None, chain, answer)
    return Culprit(part.machine, "", part.detail, part.detail, answer=answer)


def place(rule: Rule) -> str:
    """A rule as written, with its file and line; without a line, with its chain."""
    table = rule.chain.table
    text = rule.text or rule.comment
    if rule.line and text.startswith("-A "):
        return f"{table.source}:{rule.line}: {text}"
    where = f"{table.family} {table.name} {rule.chain.name}"
    handle = f" # handle {rule.handle}" if rule.handle else ""
    line = f":{rule.line}" if rule.line else ""
    return f"{table.source}{line}: {where}: {text}{handle}"


def policy_text(chain: Chain) -> str:
    """A chain's policy, with its file and line."""
    line = f":{chain.line}" if chain.line else ""
    table = chain.table
    return f"{table.source}{line}: {table.family} {table.name} {chain.name}: policy {chain.policy}"


def _policy(machine: Machine, step: Step) -> Chain | None:
    found = [
        chain
        for chain in machine.ruleset.base_chains(step.hook, ("ip", "ip6", "inet"))
        if chain.where == step.chain and chain.policy != "accept"
    ]
    six = "[" in step.packet or step.packet.count(":") > 3
    return next((c for c in found if (c.table.family == "ip6") == six), found[0] if found else None)


def by_policy(found: Culprit) -> bool:
    """Whether the rule is one of a network policy: it drops because somebody asked for that."""
    if found.rule is None:
        return False
    owner, purpose = owner_of(found.rule.chain)
    words = f"{found.rule.chain.table.name} {found.rule.chain.name} {found.rule.comment} {purpose}".lower()
    return owner == "Calico" or "policy" in words or "policies" in words
