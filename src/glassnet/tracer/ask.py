"""Whose is it: a chain, a rule or an address, told with the objects and fields behind it and the nodes where it is found."""

from __future__ import annotations

import re
from typing import Any

from glassnet.net import address
from glassnet.net.errors import UsageError
from glassnet.ruleset.model import NFT, Chain, Rule, Table
from glassnet.ruleset.parse_iptables import comment_of, parse_rule
from glassnet.tracer.evaluate.nft_rules import Compiled
from glassnet.tracer.explain import Explainer, owner_of
from glassnet.tracer.fib import Question
from glassnet.tracer.objects import EndpointRef, Port, Reference
from glassnet.tracer.world import World

_CHAIN = re.compile(r"[A-Za-z0-9_./:-]+").fullmatch
_JUMP = re.compile(r"(?:-j|-g|jump|goto) (\S+)").search


def ask(world: World, explainer: Explainer, words: str) -> dict[str, Any]:
    """`{"what", "kind", "whose": […], "where": […], "says": […]}` for a chain's name, a rule's text, or an address. Raises UsageError."""
    text = words.strip()
    if not text:
        raise UsageError("explain what? A chain (KUBE-SVC-…), a rule (-A KUBE-SERVICES …) or an address")
    host, port = _address(text)
    if host:
        return _of_address(world, explainer, host, port)
    if text.startswith(("-A ", "-I ")) or " " in text:
        return _of_rule(world, explainer, text)
    if not _CHAIN(text):
        raise UsageError(f"{text!r} is neither a chain, nor a rule, nor an address")
    return _of_chain(world, explainer, text)


def _address(text: str) -> tuple[str, int]:
    bare = text.partition("/")[0]
    if address.canonical(bare.strip("[]")):
        return address.canonical(bare.strip("[]")), 0
    host, colon, port = text.rpartition(":")
    found = address.canonical(host.strip("[]")) if colon and port.isdigit() else ""
    return found, int(port) if found else 0


# -- chains


def _of_chain(world: World, explainer: Explainer, name: str) -> dict[str, Any]:
    places = [
        (machine.name, table, table.chains[name])
        for machine in world.machines.values()
        for table in machine.ruleset.tables
        if name in table.chains
    ]
    port, endpoint, role = explainer.chain(name)
    if port is None and places:
        port = _port_by_comment(explainer, [chain for _, _, chain in places])
    whose, says = _chain_owner(explainer, name, port, endpoint, role, [chain for _, _, chain in places])
    if not places and not whose and not says:
        raise UsageError(f"no chain {name!r} in this network, and no Service port whose chain would have that name")
    where = [
        f"{node}: table {table.family} {table.name} ({table.tool}), rules: {len(chain)}{_callers(table, name)}"
        for node, table, chain in places
    ]
    return {
        "what": name,
        "kind": "chain",
        "whose": whose,
        "says": says,
        "where": where or ["on no node of this network"],
    }


def _port_by_comment(explainer: Explainer, chains: list[Chain]) -> Port | None:
    for chain in chains:
        for rule in chain.rules():
            found = explainer.by_comment(_comment(rule))
            if found is not None:
                return found
    return None


def _comment(rule: Rule) -> str:
    return rule.comment or (comment_of(parse_rule(rule.text)) if rule.text.startswith("-A ") else "")


def _chain_owner(
    explainer: Explainer, name: str, port: Port | None, endpoint: EndpointRef | None, role: str, chains: list[Chain]
) -> tuple[list[str], list[str]]:
    if port is not None:
        whose = [port.refer(f"spec.ports[{port.port_name or port.index}]", f"{port.protocol} {port.port}").text]
        if endpoint is not None:
            whose.append(endpoint.reference.text)
        elif not name.startswith("KUBE-SEP"):
            whose += [each.reference.text for each in explainer.endpoints(port)]
        return whose, [f"{role} of Service port {port.text}" if role else f"part of Service port {port.text}"]
    if role and not chains:
        return [], []
    for chain in chains:
        owner, purpose = owner_of(chain)
        if owner:
            pods = [each.text for each in _pods_behind(explainer, chain)]
            return [*pods, owner], [purpose] if purpose else []
    if role:
        return [], [f"{role} of a Service port that no longer exists, or whose Service is not in the snapshot"]
    return [], ["a base chain: every packet of its hook passes it"] if any(chain.hook for chain in chains) else []


def _pods_behind(explainer: Explainer, chain: Chain) -> list[Reference]:
    """The pod a chain of a CNI plugin is for: the rule that leads to it names its address."""
    if not chain.name.startswith("CNI-"):
        return []
    found: list[Reference] = []
    for other in chain.table.chains.values():
        if other.hook:
            found += [
                each for rule in other.rules() if rule.text.endswith(f" {chain.name}") for each in explainer.rule(rule)
            ]
    return found


def _callers(table: Table, name: str) -> str:
    """Which chains lead to a chain: searched in the text of the rules."""
    found = []
    for chain in table.chains.values():
        for rule in chain.rules():
            jump = _JUMP(rule.text)
            if jump and jump[1] == name:
                found.append(chain.name)
                break
    return f", reached from {', '.join(found[:4])}{' …' if len(found) > 4 else ''}" if found else ""


# -- rules


def _of_rule(world: World, explainer: Explainer, text: str) -> dict[str, Any]:
    """A rule as it stands in some listing; without one, as its words alone tell."""
    wanted = " ".join(text.split())
    found: list[tuple[str, Rule]] = []
    for machine in world.machines.values():
        for table in machine.ruleset.tables:
            for chain in _chains_for(table, wanted):
                found += [(machine.name, rule) for rule in chain.rules() if _same(rule, wanted)]
    if not found:
        return _loose_rule(explainer, text)
    rule = found[0][1]
    whose = [each.text for each in explainer.rule(rule)]
    owner, purpose = owner_of(rule.chain)
    if not whose and owner:
        whose = [owner]
    target = _JUMP(rule.text)
    port, endpoint, role = explainer.chain(target[1], _comment(rule)) if target else (None, None, "")
    says = (
        [f"leads to {role} of {port.text}" + (f": {endpoint.ip}:{endpoint.port}" if endpoint else "")]
        if port is not None
        else []
    )
    where = [
        f"{node}: {r.chain.where}, rule {r.number}" + (f" ({r.chain.table.source}:{r.line})" if r.line else "")
        for node, r in found
    ]
    return {
        "what": rule.text,
        "kind": "rule",
        "whose": whose,
        "says": says or ([purpose] if purpose else []),
        "where": where,
    }


def _chains_for(table: Table, wanted: str) -> list[Chain]:
    if wanted.startswith(("-A ", "-I ")):
        named = table.chains.get(wanted.split()[1])
        return [named] if named is not None and table.tool != NFT else []
    return list(table.chains.values()) if table.tool == NFT else []


def _same(rule: Rule, wanted: str) -> bool:
    if rule.chain.table.tool == NFT and not rule.text:
        rule.compiled = rule.compiled or Compiled(rule)
    return " ".join(rule.text.split()) == wanted.replace("-I ", "-A ", 1)


def _loose_rule(explainer: Explainer, text: str) -> dict[str, Any]:
    if not text.startswith(("-A ", "-I ")):
        raise UsageError(
            "no rule of this network reads like that (rules of nft have to be given as `glassnet trace --rules` shows them)"
        )
    parsed = parse_rule(text)
    port = explainer.by_comment(comment_of(parsed))
    target = parsed.target.name if parsed.target else ""
    by_chain, endpoint, role = explainer.chain(text.split()[1], comment_of(parsed))
    by_target, target_endpoint, target_role = explainer.chain(target)
    whose = [
        p.refer(f"spec.ports[{p.port_name or p.index}]").text
        for p in dict.fromkeys((port, by_chain, by_target))
        if p is not None
    ]
    whose += [e.reference.text for e in (endpoint, target_endpoint) if e is not None]
    if not whose:
        raise UsageError("this rule is in no listing of this network, and names no Service of it")
    says = [r for r in (role, target_role) if r]
    return {"what": text, "kind": "rule", "whose": whose, "says": says, "where": ["in no listing of this network"]}


# -- addresses


def _of_address(world: World, explainer: Explainer, host: str, port: int) -> dict[str, Any]:
    objects = explainer.objects
    references: list[Reference] = objects.find_address(host)
    endpoints = [e for found in objects.endpoints.values() for e in found if e.ip == host and port in (0, e.port)]
    says = list(dict.fromkeys(f"endpoint of Service {e.namespace}/{e.service}: {e.reference.text}" for e in endpoints))
    for each, where in objects.by_address.get(host, ()):
        if port in (0, each.port):
            says.append(
                f"{where} of Service {each.text}: {each.protocol} {each.port}, {len(explainer.endpoints(each))} endpoints"
            )
    node_port = (
        [p for (protocol, number), p in objects.by_node_port.items() if number == port]
        if host in objects.nodes_by_address
        else []
    )
    says += [f"node port of Service {p.text} ({p.protocol})" for p in node_port]
    value, bits = address.number(host), 128 if ":" in host else 32
    held = [f"{machine.name}: address of {dev}" for machine, dev in world.owners.get((value, bits), ())]
    for machine in world.of_kind("node"):
        decision = machine.fib.lookup(Question(bits, value))[0]
        if decision.route is not None and decision.type == "unicast" and decision.route.length:
            because = "; ".join(each.text for each in explainer.route(decision))
            held.append(f"{machine.name}: route {decision.route.text}" + (f", because {because}" if because else ""))
    if not references and not says and not held:
        raise UsageError(f"{host} belongs to nobody in this network: no pod, node, Service or range of theirs")
    what = address.with_port(host, port) if port else host
    return {"what": what, "kind": "address", "whose": [each.text for each in references], "says": says, "where": held}
