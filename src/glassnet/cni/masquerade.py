"""ipMasq: what a container sends beyond its own network leaves with the node's address. Rules by iptables, as the reference plugins make them,
or by nftables (`masquerade_nft`).

Source: containernetworking/plugins, pkg/ip and pkg/utils (chains, comments): either side can take the other's rules away. All interfaces that
a container has in one network share a chain.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_interface

from glassnet.cni import masquerade_nft
from glassnet.cni.effects import HasProgram, Restore, SavedRules, Steps, ask
from glassnet.cni.errors import NOT_AVAILABLE, CniError
from glassnet.cni.request import Call
from glassnet.net.errors import GlassnetError

_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
IPTABLES, NFTABLES = "iptables", "nftables"
_NAMED = re.compile(r'-j (CNI-[0-9a-f]{24})\b')  # fmt: skip
_INSIDE = re.compile(r"-A (CNI-[0-9a-f]{24}) ")
_SOURCE = re.compile(r" -s (\S+)")
_COMMENT = re.compile(r'name: \\?"(?P<name>[^"\\]*)\\?" id: \\?"(?P<id>[^"\\]*)\\?"')


def chain_name(network: str, container_id: str) -> str:
    """The container's chain in the nat table: CNI- and 24 hex digits."""
    return "CNI-" + hashlib.sha512((network + container_id).encode()).hexdigest()[:24]


def comment(network: str, container_id: str) -> str:
    """The comment that says whose a rule is, quoted for iptables-restore."""
    return f'"name: \\"{network}\\" id: \\"{container_id}\\""'


# -- which backend


def backend(call: Call) -> str:
    """The backend that the configuration names; "" for none. Raises ConfigError."""
    found = call.fields.text("ipMasqBackend")
    if found not in ("", IPTABLES, NFTABLES):
        raise call.fields.error("ipMasqBackend", f'unknown ipmasq backend "{found}"; want {IPTABLES} or {NFTABLES}')
    return found


def _chosen(call: Call) -> Steps[str]:
    """The named backend, or iptables where there is iptables."""
    if found := backend(call):
        return found
    return IPTABLES if (yield from _has(4)) else NFTABLES


def _has(family: int, program: str = "restore") -> Steps[bool]:
    return (yield from ask(HasProgram(f"{_program(family)}-{program}")))


def _program(family: int) -> str:
    return "iptables" if family == 4 else "ip6tables"


def status(call: Call) -> Steps[None]:
    """The named backend can be used. Raises CniError (50)."""
    if backend(call) == IPTABLES and not (yield from _has(4)):
        way_out = f'install iptables, or set "ipMasqBackend" to "{NFTABLES}"'
        raise CniError(NOT_AVAILABLE, "ipMasq: there is no iptables-restore on this node", way_out)


# -- ADD, DEL, CHECK and GC


def add(call: Call, addresses: Iterable[str]) -> Steps[None]:
    """Put rules for a container's addresses (with prefix lengths) in place."""
    if (yield from _chosen(call)) == NFTABLES:
        yield from masquerade_nft.add(call, addresses)
        return
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
    """Take a container's rules away, whoever made them, by whichever backend. Without addresses they are looked for by the container's ID."""
    found = yield from masquerade_nft.delete(call)
    if (found and call.fields.raw("ipMasqBackend") == NFTABLES) or not (yield from _has(4)):
        return
    known = dict(_families(addresses))
    for family in known or (4, 6):
        yield from _delete_family(call, family, known.get(family, []))


def _delete_family(call: Call, family: int, mine: list[str]) -> Steps[None]:
    if mine:
        lines = removed_lines(call.name, call.container_id, mine)
        empty = chain_removal(chain_name(call.name, call.container_id))
        try:
            yield from ask(Restore(family, lines, otherwise=empty, keep=_key(call, family)))
            return
        except GlassnetError:
            pass  # others have been at work on these rules: look what is left of them
    if not (yield from _has(family, "save")):
        return
    saved = yield from ask(SavedRules(family))
    if lines := left_lines(saved, call.name, call.container_id, mine):
        yield from ask(Restore(family, lines, keep=_key(call, family)))


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


def left_lines(saved: str, network: str, container_id: str, addresses: Iterable[str] = ()) -> str:
    """Lines that take away what is left of a container's rules; with `addresses` only those, when other interfaces of it use the chain."""
    chain = chain_name(network, container_id)
    lines = saved.splitlines()
    jumps = [line for line in lines if line.startswith("-A POSTROUTING ") and f"-j {chain}" in line]
    if not jumps and not any(line.startswith((f":{chain} ", f"-N {chain}", f"-A {chain} ")) for line in lines):
        return ""
    mine = {f"{one.ip}/{one.max_prefixlen}" for one in map(ip_interface, addresses)}
    gone = [line for line in jumps if not mine or ((found := _SOURCE.search(line)) and found[1] in mine)]
    removal = "".join(line.replace("-A", "-D", 1) + "\n" for line in gone)
    return removal if len(gone) < len(jumps) else f":{chain} - [0:0]\n{removal}-X {chain}\n"


def check(call: Call, addresses: Iterable[str]) -> Steps[list[str]]:
    """The rules that are missing, as text."""
    if (yield from _chosen(call)) == NFTABLES:
        return (yield from masquerade_nft.check(call, addresses))
    missing: list[str] = []
    for family, mine in _families(addresses):
        saved = set((yield from ask(SavedRules(family))).splitlines())
        lines = added_lines(call.name, call.container_id, family, mine).splitlines()
        missing += [line for line in lines if line.startswith("-A") and line not in saved]
    return missing


def collect(call: Call, families: Iterable[int] = (4, 6)) -> Steps[list[str]]:
    """GC: take away the rules of containers of this network that are not in the list, of both backends; what could not be done, as text."""
    containers = {one.container_id for one in call.valid()}
    problems: list[str] = []
    try:
        yield from masquerade_nft.collect(call)
    except GlassnetError as error:
        problems.append(str(error))
    for family in families:
        try:
            if not (yield from _has(family, "save")):
                continue
            saved = yield from ask(SavedRules(family))
        except GlassnetError as error:
            problems.append(str(error))
            continue
        for container_id in _orphans(saved, call.name, containers):
            try:
                yield from ask(Restore(family, left_lines(saved, call.name, container_id)))
            except GlassnetError as error:
                problems.append(str(error))
    return problems


def _orphans(saved: str, network: str, containers: set[str]) -> list[str]:
    """The containers of the network that have rules and are gone."""
    found: dict[str, None] = {}
    for line in saved.splitlines():
        note, target = _COMMENT.search(line), _NAMED.search(line) or _INSIDE.match(line)
        mine = note is not None and note["name"] == network and note["id"] not in containers
        if note and target and mine and target[1] == chain_name(network, note["id"]):
            found[note["id"]] = None
    return list(found)


def owners(lines: str) -> set[tuple[str, str]]:
    """The networks and containers that lines of the nat table are for, by their comments."""
    return {(found["name"], found["id"]) for found in _COMMENT.finditer(lines)}


def _key(call: Call, family: int) -> str:
    return f"masquerade{family}-{call.name}-{call.container_id}"


def _families(addresses: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    every = list(addresses)
    for family, mark in ((4, "."), (6, ":")):
        if mine := [one for one in every if (":" in one) == (mark == ":")]:
            yield family, mine
