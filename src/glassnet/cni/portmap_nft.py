"""portmap's rules by nftables: tables `ip cni_hostport` and `ip6 cni_hostport` of the reference plugin.

    prerouting, output  to the node's own addresses -> hostports_all -> hostip_hostports, hostports: DNAT, the comment is the container's ID
    masquerading        from the container, or 127.0.0.1, to the container: masquerade

Only packets to the node itself are looked at (`fib daddr type local`): without that, all that is routed through the node to such a port was taken
(GHSA-jv3w-x3r3-g6rm). Conditions stand in each rule, not in the base chains as there: so they are those of the container's own network.
A chain `container/NETWORK/ID/ADDRESS` without rules says which network a container's rules are for. Source: containernetworking/plugins,
plugins/meta/portmap/portmap_nftables.go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Any, NamedTuple

from glassnet.cni.effects import Nft, NftMark, Steps, ask
from glassnet.cni.errors import OTHER, CniError
from glassnet.cni.portmap_model import Conf, Holder, Target, conflict, refuse
from glassnet.cni.request import Call
from glassnet.net.errors import GlassnetError

TABLE, NOTE = "cni_hostport", "CNI portmap plugin"
_FAMILIES = {4: "ip", 6: "ip6"}
_RULES = ("hostports", "hostip_hostports", "masquerading")  # the chains that containers have rules in
_OWNER = "container/"
_COMMENT_MAX = 127
_BATCH = 200  # lines of a script that deletes: it is an argument of nft, which has 128 KiB at most

Json = dict[str, Any]


def key(call: Call, family: int) -> str:
    """What the rules are kept under."""
    return f"portmap-nft{family}-{call.name}-{call.container_id}"


# -- ADD


def add(call: Call, conf: Conf, target: Target) -> Steps[None]:
    """Put the rules of one address in place. Raises CniError when somebody else has a port."""
    there = yield from _listed(target.family)
    if not conf.conditions[target.family]:
        for holder in _holders(there, note(call.container_id)):
            for one in conf.mappings:
                if one.fits(target.family) and conflict(one, holder):
                    raise refuse(one, holder._replace(network=_network_of(_owners(there), holder.container_id)))
    before = _removal(target.family, there, call.name, call.container_id)
    try:
        yield from ask(Nft(before + script(call, conf, target), keep=key(call, target.family), marks=marks(call, conf, target)))  # fmt: skip
    except GlassnetError as error:
        raise CniError(OTHER, f"unable to set up nftables rules for port mappings: {error}") from None


def script(call: Call, conf: Conf, target: Target) -> str:
    """What makes all there has to be; only the container's own rules must not be there before."""
    family = _FAMILIES[target.family]
    place = f"{family} {TABLE}"
    lines = [f'add table {place} {{ comment "{NOTE}"; }}']
    lines += [f"add chain {place} {name}" for name in ("hostports", "hostip_hostports", "hostports_all")]
    lines.append(f"flush chain {place} hostports_all")
    lines += [f"add rule {place} hostports_all jump {name}" for name in ("hostip_hostports", "hostports")]
    for name in ("prerouting", "output"):
        lines.append(f"add chain {place} {name} {{ type nat hook {name} priority -100; }}")
        lines.append(f"flush chain {place} {name}")
        lines.append(f"add rule {place} {name} fib daddr type local jump hostports_all")
    if conf.snat:
        lines.append(f"add chain {place} masquerading {{ type nat hook postrouting priority 100; }}")
    lines.append(f"add chain {place} {Owner(call.name, call.container_id, target.ip).chain}")
    for chain, rule in _own_rules(conf, target):
        lines.append(f'add rule {place} {chain} {rule} comment "{note(call.container_id)}"')
    return "\n".join(lines) + "\n"


def _own_rules(conf: Conf, target: Target) -> Iterator[tuple[str, str]]:
    """(chain, rule)."""
    family, conditions = _FAMILIES[target.family], "".join(f"{word} " for word in conf.conditions[target.family])
    for one in conf.mappings:
        if one.fits(target.family):
            place = f"{family} daddr {one.only} " if one.only else ""
            match = f"{conditions}{place}{one.protocol} dport {one.host_port}"
            yield "hostports", f"{match} dnat to {target.place(one.container_port)}"
    if conf.snat:
        for source in _sources(conf, target):
            yield "masquerading", f"{family} saddr {source} {family} daddr {target.ip} masquerade"


def _sources(conf: Conf, target: Target) -> list[str]:
    if conf.masq_all:
        return ["0.0.0.0/0" if target.family == 4 else "::/0"]
    return [target.ip, "127.0.0.1"] if target.family == 4 else [target.ip]


def marks(call: Call, conf: Conf, target: Target) -> tuple[NftMark, ...]:
    """What tells that the rules are there."""
    family, mine = _FAMILIES[target.family], note(call.container_id)
    chains = [chain for chain, _ in _own_rules(conf, target)]
    base = (("hostports_all", 2), ("prerouting", 1), ("output", 1))
    return (
        *(NftMark(family, TABLE, chain, mine, chains.count(chain)) for chain in dict.fromkeys(chains)),
        *(NftMark(family, TABLE, chain, "", count) for chain, count in base),
    )


def note(container_id: str) -> str:
    """The comment of a container's rules."""
    return container_id[:_COMMENT_MAX]


class Owner(NamedTuple):
    """Whose rules with a comment and to an address are; told by the name of a chain without rules."""

    network: str
    container_id: str
    ip: str

    @property
    def chain(self) -> str:
        return f"{_OWNER}{self.network}/{self.container_id}/{ip_address(self.ip).packed.hex()}"


def read_owner(chain: str) -> Owner | None:
    """The owner that a chain tells of; None when it is another chain."""
    words = chain.split("/")
    if len(words) != 4 or words[0] + "/" != _OWNER:
        return None
    try:
        return Owner(words[1], words[2], str(ip_address(bytes.fromhex(words[3]))))
    except ValueError:
        return None


# -- what is there


def _listed(family: int) -> Steps[list[Json]]:
    """The table's chains and rules; none when there is no table."""
    try:
        text = yield from ask(Nft(f"list table {_FAMILIES[family]} {TABLE}"))
    except GlassnetError as error:
        if "No such file or directory" in str(error):
            return []
        raise
    return list(json.loads(text)["nftables"]) if text.strip() else []


def _rules(there: Iterable[Json]) -> Iterator[Json]:
    return (one["rule"] for one in there if "rule" in one)


def _chains(there: Iterable[Json]) -> list[str]:
    return [one["chain"]["name"] for one in there if "chain" in one]


def _owners(there: Iterable[Json]) -> list[Owner]:
    return [owner for name in _chains(there) if (owner := read_owner(name)) is not None]


def _network_of(owners: Iterable[Owner], mine: str) -> str:
    """The network of rules with a comment; "" when nobody tells, as for those of the reference plugin."""
    return next((one.network for one in owners if note(one.container_id) == mine), "")


def _deletions(family: int, there: list[Json], mine: str, ip: str = "") -> Iterator[str]:
    """Lines that delete the rules with a comment; with `ip` only those that lead to that address."""
    for rule in _rules(there):
        if rule.get("comment") == mine and rule["chain"] in _RULES and (not ip or f'"{ip}"' in json.dumps(rule)):
            yield f"delete rule {_FAMILIES[family]} {TABLE} {rule['chain']} handle {rule['handle']}\n"


def _holders(there: list[Json], mine: str) -> Iterator[Holder]:
    """Who has which port, the network left out; those with conditions are passed over."""
    for rule in _rules(there):
        whose = rule.get("comment", "")
        if rule["chain"] not in _RULES[:2] or whose in ("", mine):
            continue
        port, protocol, ip, others = 0, "", "", False
        for expression in rule["expr"]:
            match = expression.get("match")
            if match is None:
                continue
            left, right = match["left"].get("payload", {}), match["right"]
            if left.get("field") == "dport" and match["op"] == "==" and isinstance(right, int):
                port, protocol = right, left["protocol"]
            elif left.get("field") == "daddr" and match["op"] == "==" and isinstance(right, str):
                ip = right
            else:
                others = True
        if port and not others:
            yield Holder("", whose, port, protocol, ip)


# -- DEL and GC


def delete(call: Call, family: int) -> Steps[None]:
    """Take the rules of a family away, whoever made them."""
    for tries in (3, 2, 1):
        there = yield from _listed(family)
        lines = _removal(family, there, call.name, call.container_id)
        try:
            yield from ask(Nft(lines, keep=key(call, family)))
            return
        except GlassnetError as error:
            if tries == 1:
                raise CniError(OTHER, f"error deleting nftables rules: {error}") from None


def _removal(family: int, there: list[Json], network: str, container_id: str) -> str:
    """What deletes a container's rules of a network; when another network has some with its comment too, those that lead to its address here."""
    owners = [one for one in _owners(there) if one.container_id == container_id]
    mine = [one for one in owners if one.network == network]
    ips = {one.ip for one in mine} if len(mine) < len(owners) else {""}
    lines = [line for ip in ips for line in _deletions(family, there, note(container_id), ip)]
    lines += [f"delete chain {_FAMILIES[family]} {TABLE} {one.chain}\n" for one in mine]
    return "".join(lines)


def collect(call: Call, family: int, containers: set[str]) -> Steps[list[str]]:
    """Take away the rules of containers of the network that are not in the list; what could not be done, as text."""
    try:
        there = yield from _listed(family)
        lines: list[str] = []
        for one in dict.fromkeys(owner._replace(ip="") for owner in _owners(there)):
            if one.network == call.name and one.container_id not in containers:
                yield from ask(Nft("", keep=key(call._replace(container_id=one.container_id), family)))
                lines += _removal(family, there, call.name, one.container_id).splitlines(keepends=True)
        for start in range(0, len(lines), _BATCH):
            yield from ask(Nft("".join(lines[start : start + _BATCH])))
    except GlassnetError as error:
        return [str(error)]
    return []


# -- CHECK and STATUS


def missing(call: Call, conf: Conf, target: Target) -> Steps[str]:
    """What is missing, in words; "" for nothing."""
    there = list(_rules((yield from _listed(target.family))))
    for mark in marks(call, conf, target):
        found = [rule for rule in there if rule["chain"] == mark.chain]
        if sum(not mark.note or rule.get("comment") == mark.note for rule in found) < mark.rules:
            return f'missing hostport rules in "{mark.chain}" chain'
    return ""


def problem() -> Steps[str]:
    """Why nft does not work; "" when it does."""
    try:
        yield from ask(Nft("list tables"))
    except GlassnetError as error:
        return str(error)
    return ""
