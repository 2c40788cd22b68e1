"""portmap's rules by iptables: chains and comments of the reference plugin, so that either can take away what the other made.

    PREROUTING, OUTPUT  to the node's own addresses -> CNI-HOSTPORT-DNAT     by protocol and port -> CNI-DN-<container>
    CNI-DN-<container>  from the container's network or 127.0.0.1: mark it; then DNAT
    POSTROUTING         -> CNI-HOSTPORT-MASQ: masquerade what is marked

Source: containernetworking/plugins, plugins/meta/portmap/portmap_iptables.go.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from glassnet.cni import nat_table
from glassnet.cni.effects import Restore, SavedRules, Steps, ask
from glassnet.cni.portmap_model import Conf, Holder, Target, conflict, refuse
from glassnet.cni.request import Call
from glassnet.net.errors import GlassnetError

DNAT, SETMARK, MASQ, OLD_SNAT = "CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SNAT"
_PORTS = 15  # as many as the multiport match takes
_COMMENT_MAX = 255
_WORD = re.compile(r"[\w.,:/=!@%+-]+").fullmatch
_OURS = re.compile(r'--comment "dnat name: \\"(?P<network>.*)\\" id: \\"(?P<id>[^"\\]*)\\"?')
_PLAIN = re.compile(
    rf'-A {DNAT} -p (?P<protocol>\w+) -m comment --comment "(?:[^"\\]|\\.)*"'
    r" -m multiport --dports (?P<ports>[0-9,]+) -j (?P<chain>CNI-DN-[0-9a-f]+)"
)
_DNAT_RULE = re.compile(r"(?: -d (?P<ip>[^ /]+)\S*)? -p (?P<protocol>\w+) .*--dport (?P<port>\d+) -j DNAT ")


def chain_name(network: str, container_id: str, kind: str = "DN") -> str:
    """The container's own chain: CNI-DN- and 21 hex digits (CNI-SN- in releases before 0.8)."""
    return f"CNI-{kind}-" + hashlib.sha512((network + container_id).encode()).hexdigest()[:21]


def key(call: Call, family: int) -> str:
    """What the rules are kept under."""
    return f"portmap{family}-{call.name}-{call.container_id}"


# -- ADD


def add(call: Call, conf: Conf, target: Target) -> Steps[None]:
    """Put the rules of one address in place. Raises CniError when somebody else has a port."""
    there = nat_table.parse((yield from ask(SavedRules(target.family, DNAT)))).get(DNAT, [])
    yield from _free(call, conf, target, there)
    mine = chain_name(call.name, call.container_id)
    before = "".join(f"-D {rule[3:]}\n" for rule in there if nat_table.target(rule) == mine)
    lines = before + own_lines(call, conf, target)
    yield from ask(Restore(target.family, lines, keep=key(call, target.family), shared=shared_lines(conf)))


def shared_lines(conf: Conf) -> str:
    """What all containers' mappings need."""
    out = ""
    if conf.snat and not conf.mark_chain:
        mark = f"{conf.mark:#x}/{conf.mark:#x}"
        out += (
            f":{SETMARK} - [0:0]\n"
            f'-A {SETMARK} -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark {mark}\n'
            f":{MASQ} - [0:0]\n"
            f"-A {MASQ} -m mark --mark {mark} -j MASQUERADE\n"
            f'-I POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j {MASQ}\n'
        )
    jump = f"-m addrtype --dst-type LOCAL -j {DNAT}\n"
    return f"{out}:{DNAT} - [0:0]\n-A PREROUTING {jump}-A OUTPUT {jump}"


def own_lines(call: Call, conf: Conf, target: Target) -> str:
    """The container's chain, and what leads to it."""
    mine = chain_name(call.name, call.container_id)
    rules = "".join(f"-A {mine} {rule}\n" for rule in _chain_rules(conf, target))
    return f":{mine} - [0:0]\n{rules}{_entries(call, conf, target.family)}"


def _chain_rules(conf: Conf, target: Target) -> Iterator[str]:
    """The rules as iptables-save prints them."""
    size = 32 if target.family == 4 else 128
    sources = [f"-s {target.network} "]
    if conf.masq_all:
        sources = [""]
    elif target.family == 4:
        sources.append("-s 127.0.0.1/32 ")
    for one in conf.mappings:
        if not one.fits(target.family):
            continue
        place = f"-d {one.only}/{size} " if one.only else ""
        match = f"{place}-p {one.protocol} -m {one.protocol} --dport {one.host_port}"
        if conf.snat:
            for source in sources:
                yield f"{source}{match} -j {conf.mark_chain or SETMARK}"
        yield f"{match} -j DNAT --to-destination {target.place(one.container_port)}"


def _entries(call: Call, conf: Conf, family: int) -> str:
    """One rule for each protocol and 15 ports."""
    mine, note = chain_name(call.name, call.container_id), comment(call.name, call.container_id)
    conditions = "".join(f"{_quoted(word)} " for word in conf.conditions[family])
    out = ""
    for protocol in sorted({one.protocol for one in conf.mappings}):
        ports = [str(one.host_port) for one in conf.mappings if one.protocol == protocol]
        for start in range(0, len(ports), _PORTS):
            some = ",".join(ports[start : start + _PORTS])
            out += f"-A {DNAT} {conditions}-p {protocol} {note} -m multiport --dports {some} -j {mine}\n"
    return out


def _quoted(word: str) -> str:
    """A word for iptables-restore, which knows double quotes alone."""
    return word if _WORD(word) else '"' + re.sub(r'(["\\])', r"\\\1", word) + '"'


def comment(network: str, container_id: str) -> str:
    """The match that says whose a rule is. iptables takes 255 bytes."""
    text = f'dnat name: "{network}" id: "{container_id}"'
    if len(text) > _COMMENT_MAX:
        text = text[:253] + "..."
    return '-m comment --comment "' + text.replace('"', '\\"') + '"'


def _free(call: Call, conf: Conf, target: Target, there: list[str]) -> Steps[None]:
    """Nobody else has the ports. Rules with conditions of their own are passed over: they may well share one."""
    if conf.conditions[target.family]:
        return
    for rule in there:
        found, whose = _PLAIN.fullmatch(rule), _OURS.search(rule)
        if not found or not whose or whose["id"] == call.container_id:
            continue
        ports = set(map(int, found["ports"].split(",")))
        if not any(one.host_port in ports and one.protocol == found["protocol"] for one in conf.mappings):
            continue
        inside = yield from ask(SavedRules(target.family, found["chain"]))
        for match in map(_DNAT_RULE.search, inside.splitlines()):
            if match:
                holder = Holder(whose["network"], whose["id"], int(match["port"]), match["protocol"], match["ip"] or "")
                for one in conf.mappings:
                    if one.fits(target.family) and conflict(one, holder):
                        raise refuse(one, holder)


# -- DEL and GC


def delete(call: Call, family: int) -> Steps[None]:
    """Take the rules of a family away, whoever made them."""
    yield from _remove(family, chain_name(call.name, call.container_id), key(call, family))


def _remove(family: int, chain: str, keep: str) -> Steps[None]:
    there = nat_table.parse((yield from ask(SavedRules(family, DNAT)))).get(DNAT, [])
    jumps = "".join(f"-D {rule[3:]}\n" for rule in there if nat_table.target(rule) == chain)
    gone = f":{chain} - [0:0]\n-X {chain}\n"
    yield from ask(Restore(family, jumps + gone, otherwise=gone, keep=keep))


def collect(call: Call, family: int, containers: set[str]) -> Steps[list[str]]:
    """Take away the rules of containers of the network that are not in the list; what could not be done, as text."""
    problems: list[str] = []
    try:
        table = nat_table.parse((yield from ask(SavedRules(family))))
    except GlassnetError as error:
        return [str(error)]
    mine = {chain_name(call.name, one) for one in containers} | {chain_name(call.name, one, "SN") for one in containers}
    for chain, jumps in _orphans(table, call.name, containers).items():
        if chain in mine:
            continue
        lines = "".join(f"-D {rule[3:]}\n" for rule in jumps) + f":{chain} - [0:0]\n-X {chain}\n"
        try:
            yield from ask(Restore(family, lines))
        except GlassnetError as error:
            problems.append(str(error))
    return problems


def _orphans(table: nat_table.Table, network: str, containers: set[str]) -> dict[str, list[str]]:
    """The chains of the network's containers that are gone, each with the rules that lead to it."""
    out: dict[str, list[str]] = {}
    for place in (DNAT, OLD_SNAT):
        for rule in table.get(place, ()):
            whose = re.search(r'name: \\"(.*?)\\" id: \\"([^"\\]*)\\"', rule)
            if whose and whose[1] == network and whose[2] not in containers:
                out.setdefault(nat_table.target(rule), []).append(rule)
    return {chain: rules for chain, rules in out.items() if chain.startswith(("CNI-DN-", "CNI-SN-"))}


# -- CHECK and STATUS


def missing(call: Call, conf: Conf, target: Target) -> Steps[str]:
    """The first rule that is missing, in words; "" for none."""
    table = nat_table.parse((yield from ask(SavedRules(target.family))))
    if lost := nat_table.missing_shared(shared_lines(conf), table):
        return f"rule [{lost.splitlines()[0]}] not found in table nat"
    mine = chain_name(call.name, call.container_id)
    if mine not in table:
        return f"chain {mine} not found in iptables table nat"
    for rule in _chain_rules(conf, target):
        if f"-A {mine} {rule}" not in table[mine]:
            return f"rule [{rule}] in chain {mine} not found in table nat"
    wanted = _entries(call, conf, target.family).splitlines()
    if sum(nat_table.target(rule) == mine for rule in table.get(DNAT, ())) < len(wanted):
        return f"rule [{wanted[0]}] in chain {DNAT} not found in table nat"
    return ""


def problem() -> Steps[str]:
    """Why iptables does not work for either family; "" when it does for one."""
    faults = []
    for family in (4, 6):
        try:
            if (yield from ask(SavedRules(family, "OUTPUT"))):
                return ""
            faults.append(f"the nat table of IPv{family} has no chain OUTPUT")
        except GlassnetError as error:
            faults.append(str(error))
    return "; ".join(faults)
