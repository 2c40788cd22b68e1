"""ipMasq: what a container sends beyond its own network leaves with the node's address. Rules by iptables, as the reference plugins make them.

Source: containernetworking/plugins, pkg/ip and pkg/utils (chains, comments): either side can take the other's rules away.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_interface

from glassnet.cni.effects import Restore, SavedRules, Steps, ask
from glassnet.cni.request import Call
from glassnet.net.errors import GlassnetError

_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_NAMED = re.compile(r'-j (CNI-[0-9a-f]{24})\b')  # fmt: skip
_COMMENT = re.compile(r'name: \\?"(?P<name>[^"\\]*)\\?" id: \\?"(?P<id>[^"\\]*)\\?"')


def chain_name(network: str, container_id: str) -> str:
    """The container's chain in the nat table: CNI- and 24 hex digits."""
    return "CNI-" + hashlib.sha512((network + container_id).encode()).hexdigest()[:24]


def comment(network: str, container_id: str) -> str:
    """The comment that says whose a rule is, quoted for iptables-restore."""
    return f'"name: \\"{network}\\" id: \\"{container_id}\\""'


def add(call: Call, addresses: Iterable[str]) -> Steps[None]:
    """Put rules for a container's addresses (with prefix lengths) in place."""
    for family, mine in _families(addresses):
        lines = added_lines(call.name, call.container_id, family, mine)
        yield from ask(Restore(family, lines, keep=_key(call, family)))


def added_lines(network: str, container_id: str, family: int, addresses: Iterable[str]) -> str:
    """Lines of the nat table."""
    chain, note = chain_name(network, container_id), comment(network, container_id)
    jumps, rules = "", ""
    for address in addresses:
        interface = ip_interface(address)
        jumps += f"-A POSTROUTING -s {interface.ip}/{interface.max_prefixlen} -m comment --comment {note} -j {chain}\n"
        rules += f"-A {chain} -d {interface.network} -m comment --comment {note} -j ACCEPT\n"
    last = f"-A {chain} ! -d {_MULTICAST[family]} -m comment --comment {note} -j MASQUERADE\n"
    return f":{chain} - [0:0]\n{jumps}{rules}{last}"


def delete(call: Call, addresses: Iterable[str]) -> Steps[None]:
    """Take the rules of a container's addresses away, whoever made them."""
    for family, mine in _families(addresses):
        yield from ask(
            Restore(
                family,
                removed_lines(call.name, call.container_id, mine),
                otherwise=chain_removal(chain_name(call.name, call.container_id)),
                keep=_key(call, family),
            )
        )


def removed_lines(network: str, container_id: str, addresses: Iterable[str]) -> str:
    """Lines that take the rules away."""
    chain, note = chain_name(network, container_id), comment(network, container_id)
    jumps = "".join(
        f"-D POSTROUTING -s {one.ip}/{one.max_prefixlen} -m comment --comment {note} -j {chain}\n"
        for one in map(ip_interface, addresses)
    )
    return f":{chain} - [0:0]\n{jumps}-X {chain}\n"


def chain_removal(chain: str) -> str:
    """Lines that take a chain away that no rule leads to (any more): for a nat table somebody has flushed."""
    return f":{chain} - [0:0]\n-X {chain}\n"


def check(call: Call, addresses: Iterable[str]) -> Steps[list[str]]:
    """The rules that are missing, as text."""
    missing: list[str] = []
    for family, mine in _families(addresses):
        saved = set((yield from ask(SavedRules(family))).splitlines())
        lines = added_lines(call.name, call.container_id, family, mine).splitlines()
        missing += [line for line in lines if line.startswith("-A") and line not in saved]
    return missing


def collect(call: Call, families: Iterable[int] = (4, 6)) -> Steps[list[str]]:
    """GC: take away the rules of containers of this network that are not in the list; what could not be done, as text."""
    containers = {one.container_id for one in call.valid()}
    problems: list[str] = []
    for family in families:
        try:
            saved = yield from ask(SavedRules(family))
            for lines in _orphans(saved, call.name, containers):
                yield from ask(Restore(family, lines))
        except GlassnetError as error:
            problems.append(str(error))
    return problems


def _orphans(saved: str, network: str, containers: set[str]) -> Iterator[str]:
    """For each chain that belongs to a container of the network that is gone: the lines that remove it."""
    jumps: dict[str, str] = {}
    for line in saved.splitlines():
        note, target = _COMMENT.search(line), _NAMED.search(line)
        if note and note["name"] == network and note["id"] not in containers:
            chain = chain_name(network, note["id"])
            jumps.setdefault(chain, "")
            if target and target[1] == chain and line.startswith("-A POSTROUTING"):
                jumps[chain] += line.replace("-A", "-D", 1) + "\n"
    for chain, removal in jumps.items():
        yield f":{chain} - [0:0]\n{removal}-X {chain}\n"


def _key(call: Call, family: int) -> str:
    return f"masquerade{family}-{call.name}-{call.container_id}"


def _families(addresses: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    every = list(addresses)
    for family, mark in ((4, "."), (6, ":")):
        if mine := [one for one in every if (":" in one) == (mark == ":")]:
            yield family, mine
