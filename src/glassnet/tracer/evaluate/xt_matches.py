"""What the matches of iptables mean: one small compiler a module, from its options to a question about a packet.

Source: iptables-extensions(8) and net/netfilter/xt_*.c of Linux. A match or option that is not listed here becomes Unknown with its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from glassnet.net import address
from glassnet.net.tristate import Answer, Chance, Unknown, negate
from glassnet.ruleset.model import Option, XtPart
from glassnet.tracer.evaluate.sets import ipset_holds
from glassnet.tracer.evaluate.xt_fields import (
    ICMP6_TYPES,
    ICMP_TYPES,
    Maker,
    Test,
    dport,
    dscp,
    either_port,
    icmp,
    length,
    port_ranges,
    sport,
    syn,
    tcp_flags,
    tos,
    ttl,
)
from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import PROTOCOLS, Packet

_PROTO = PROTOCOLS | {
    "ipv6-icmp": 58,
    "icmp6": 58,
    "ipencap": 4,
    "all": 0,
    "0": 0,
    "udplite": 136,
    "igmp": 2,
    "ipv6": 41,
    "vrrp": 112,
    "ospf": 89,
}


def compile_match(part: XtPart) -> Test:
    """The question a match asks. Never raises: what cannot be read answers Unknown."""
    tests: list[Test] = []
    if part.name == "rpfilter":
        return _rpfilter(Option("", []), part)
    module = MODULES.get(part.name)
    for option in part.options:
        maker = (module or {}).get(option.name)
        try:
            if maker is None:
                raise ValueError("this match is not understood" if module is None else "this option is not understood")
            tests.append(_signed(maker(option, part), option.negated))
        except (ValueError, IndexError, KeyError) as error:
            tests.append(_unknown(f"-m {part.name or 'ip'} {_text(option)}", str(error) or "not readable"))
    if not part.options and module is None:
        return _unknown(f"-m {part.name}", "this match is not understood")
    if part.name in _IMPLIED and not any(o.name in ("protocol",) for o in part.options):
        number = _IMPLIED[part.name]
        tests.insert(0, lambda packet, machine: packet.protocol == number)
    found = tests[0] if len(tests) == 1 else _all(tests)
    return _tracked(part, tests, found) if part.name in _TRACKED else found


def _all(tests: list[Test]) -> Test:
    return lambda packet, machine: conjunction(test(packet, machine) for test in tests)


def _tracked(part: XtPart, tests: list[Test], found: Test) -> Test:
    """Without a connection these modules say No, negated or not; xt_conntrack's state alone is asked all the same."""
    by_state = next(
        (test for test, o in zip(tests, part.options, strict=False) if o.name in ("ctstate", "state")), None
    )
    if by_state is None:
        return lambda packet, machine: packet.connection is not None and found(packet, machine)
    return lambda packet, machine: (by_state if packet.connection is None else found)(packet, machine)


_TRACKED = frozenset(("conntrack", "connmark", "state"))
_IMPLIED = {"tcp": 6, "udp": 17, "sctp": 132, "udplite": 136, "dccp": 33, "icmp": 1, "icmp6": 58}


def conjunction(answers: Iterable[Answer]) -> Answer:
    """All of them: one No decides, then what is not known, then the product of the chances."""
    chance, reasons, unknown = 1.0, [], None
    open_chance = False
    for answer in answers:
        if answer is False:
            return False
        if isinstance(answer, Unknown):
            unknown = unknown or answer
        elif isinstance(answer, Chance):
            reasons.append(answer.reason)
            if answer.probability is None:
                open_chance = True
            else:
                chance *= answer.probability
    if unknown is not None:
        return unknown
    if reasons:
        return Chance(None if open_chance else chance, "; ".join(reasons))
    return True


def _signed(test: Test, negated: bool) -> Test:
    return (lambda packet, machine: negate(test(packet, machine))) if negated else test


def _unknown(text: str, reason: str) -> Test:
    answer = Unknown(text.strip(), reason)
    return lambda packet, machine: answer


def _text(option: Option) -> str:
    return ("! " if option.negated else "") + "--" + " ".join([option.name, *option.values])


# -- the rule's own words


def _prefixes(option: Option, part: XtPart) -> list[tuple[int, int, int]]:
    return [address.prefix(text) for text in option.values[0].split(",")]


def _src(option: Option, part: XtPart) -> Test:
    ranges = _prefixes(option, part)
    if len(ranges) == 1:
        network, mask, _ = ranges[0]
        return lambda packet, machine: packet.src & mask == network
    return lambda packet, machine: any(packet.src & mask == network for network, mask, _ in ranges)


def _dst(option: Option, part: XtPart) -> Test:
    ranges = _prefixes(option, part)
    if len(ranges) == 1:
        network, mask, _ = ranges[0]
        return lambda packet, machine: packet.dst & mask == network
    return lambda packet, machine: any(packet.dst & mask == network for network, mask, _ in ranges)


def _protocol(option: Option, part: XtPart) -> Test:
    word = option.values[0]
    number = _PROTO[word.lower()] if not word.isdigit() else int(word)
    return lambda packet, machine: number in (0, packet.protocol)


def _interface(name: str) -> Callable[[str], bool]:
    if name.endswith("+"):
        start = name[:-1]
        return lambda dev: dev.startswith(start)
    return lambda dev: dev == name


def _in(option: Option, part: XtPart) -> Test:
    fits = _interface(option.values[0])
    return lambda packet, machine: fits(packet.iif if packet.hook in ("prerouting", "input", "forward") else "")


def _out(option: Option, part: XtPart) -> Test:
    fits = _interface(option.values[0])
    return lambda packet, machine: fits(packet.oif if packet.hook in ("forward", "output", "postrouting") else "")


def _yes(option: Option, part: XtPart) -> Test:
    return lambda packet, machine: True


def _no(option: Option, part: XtPart) -> Test:
    return lambda packet, machine: False


# -- connection tracking

_STATES = {
    "NEW": "new",
    "ESTABLISHED": "established",
    "RELATED": "related",
    "INVALID": "invalid",
    "UNTRACKED": "untracked",
}


def _ctstate(option: Option, part: XtPart) -> Test:
    wanted = set(option.values[0].split(","))
    if not wanted <= {*_STATES, "SNAT", "DNAT"}:
        raise ValueError("not a connection state")
    states = {_STATES[word] for word in wanted & set(_STATES)}
    snat, dnat = "SNAT" in wanted, "DNAT" in wanted

    def test(packet: Packet, machine: Machine) -> Answer:
        if packet.state in states:
            return True
        connection = packet.connection
        if connection is None:
            return False
        return (snat and connection.snat and connection.translates_source) or (
            dnat and connection.dnat and connection.translates_destination
        )

    return test


def _ctstatus(option: Option, part: XtPart) -> Test:
    wanted = set(option.values[0].upper().split(","))
    if not wanted <= {"NONE", "EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED"}:
        raise ValueError("not a connection status")

    def test(packet: Packet, machine: Machine) -> Answer:
        connection = packet.connection
        status: set[str] = set()  # NONE is a mask of no bits: it never matches
        if connection is not None and (packet.state != "new" or connection.confirmed):
            status = {"CONFIRMED"} | ({"SEEN_REPLY"} if connection.replied or packet.reply else set())
            status |= {"ASSURED"} if connection.assured else set()
        return bool(wanted & status)

    return test


def _ct_tuple(name: str) -> Callable[[Option, XtPart], Test]:
    def make(option: Option, part: XtPart) -> Test:
        if name.endswith("port"):
            low, high = port_ranges(option.values[0])[0]
            return lambda packet, machine: (
                packet.connection is not None and low <= getattr(packet.connection, name) <= high
            )
        network, mask, _ = address.prefix(option.values[0])
        return lambda packet, machine: (
            packet.connection is not None and getattr(packet.connection, name) & mask == network
        )

    return make


def _ctdir(option: Option, part: XtPart) -> Test:
    reply = option.values[0].upper() == "REPLY"
    return lambda packet, machine: packet.connection is not None and packet.reply == reply


def _mark_words(option: Option) -> tuple[int, int]:
    value, _, mask = option.values[0].partition("/")
    return int(value, 0), int(mask, 0) if mask else 0xFFFFFFFF


def _mark(option: Option, part: XtPart) -> Test:
    value, mask = _mark_words(option)
    return lambda packet, machine: packet.mark & mask == value


def _connmark(option: Option, part: XtPart) -> Test:
    value, mask = _mark_words(option)
    return lambda packet, machine: packet.connection is not None and packet.connection.mark & mask == value


# -- addresses and devices


def _address_type(end: str) -> Callable[[Option, XtPart], Test]:
    def make(option: Option, part: XtPart) -> Test:
        wanted = {word.lower() for word in option.values[0].split(",")}
        inward = any(o.name == "limit-iface-in" for o in part.options)
        outward = any(o.name == "limit-iface-out" for o in part.options)

        def test(packet: Packet, machine: Machine) -> Answer:
            dev = packet.iif if inward else packet.oif if outward else ""
            if "addr" in machine.stack.missing and "route" in machine.stack.missing:
                return Unknown(
                    f"--{end}-type {','.join(sorted(wanted)).upper()}", f"nobody dumped the addresses of {machine.name}"
                )
            value = packet.dst if end == "dst" else packet.src
            if packet.bits == 128:
                return machine.fib.is_of_types6(value, dev, wanted)
            return machine.fib.type_of(value, packet.bits, dev) in wanted

        return test

    return make


def _physdev(end: str) -> Callable[[Option, XtPart], Test]:
    def make(option: Option, part: XtPart) -> Test:
        fits = _interface(option.values[0])
        return lambda packet, machine: fits(packet.physin if end == "in" else packet.physout)

    return make


def _physdev_is(end: str) -> Callable[[Option, XtPart], Test]:
    def make(option: Option, part: XtPart) -> Test:
        if end == "bridged":
            return lambda packet, machine: packet.bridged and bool(packet.physin)
        return lambda packet, machine: bool(packet.physin if end == "in" else packet.physout)

    return make


def _address_range(end: str) -> Callable[[Option, XtPart], Test]:
    def make(option: Option, part: XtPart) -> Test:
        first, _, last = option.values[0].partition("-")
        low, high = address.number(address.canonical(first)), address.number(address.canonical(last or first))
        return lambda packet, machine: low <= (packet.src if end == "src" else packet.dst) <= high

    return make


def _mac_source(option: Option, part: XtPart) -> Test:
    wanted = option.values[0].lower()

    def test(packet: Packet, machine: Machine) -> Answer:
        if not packet.hardware_source:
            return Unknown(f"--mac-source {wanted}", "the sender's MAC address is not known")
        return packet.hardware_source == wanted

    return test


def _packet_type(option: Option, part: XtPart) -> Test:
    wanted = option.values[0].lower()
    return lambda packet, machine: (
        ("multicast" if packet.dst >> 28 == 14 and packet.bits == 32 else "unicast") == wanted
    )


def _rpfilter(option: Option, part: XtPart) -> Test:
    loose = any(o.name == "loose" for o in part.options)
    inverted = any(o.name == "invert" for o in part.options)

    def test(packet: Packet, machine: Machine) -> Answer:
        by_device, at_all = machine.fib.reverse_path(packet, packet.iif)
        return (at_all if loose else by_device or packet.iif == "lo") != inverted

    return test


# -- chance, sets, state


def _statistic(option: Option, part: XtPart) -> Test:
    mode = option.values[0]
    if mode == "random":
        share = float(part.get("probability"))
        share = 1 - share if _negated(part, "probability") else share
        if not 0 <= share <= 1:
            raise ValueError(f"not a probability: {share}")
        fixed: Answer = (
            Chance(share, f"a share of {share:.3g} of the packets, at random") if 0 < share < 1 else share > 0
        )
        return lambda packet, machine: fixed
    if mode != "nth":
        raise ValueError("not a mode of statistic")
    every = int(part.get("every"))
    nth = 1 - 1 / every if _negated(part, "every") else 1 / every
    return lambda packet, machine: Chance(nth, f"one packet in {every}")


def _negated(part: XtPart, name: str) -> bool:
    return any(option.name == name and option.negated for option in part.options)


def _said(option: Option, part: XtPart) -> Test:
    """Already part of the answer, its sign as well."""
    return lambda packet, machine: not option.negated


def _match_set(option: Option, part: XtPart) -> Test:
    name, directions = option.values[0], option.values[1].split(",")
    return lambda packet, machine: ipset_holds(machine.ruleset.ipsets.get(name), name, directions, packet)


def _recent(option: Option, part: XtPart) -> Test:
    if option.name in ("set", "remove"):
        return lambda packet, machine: True
    name = part.get("name", "DEFAULT")
    by_destination = any(o.name == "rdest" for o in part.options)
    bounded = any(o.name in ("hitcount", "rttl") for o in part.options)

    def test(packet: Packet, machine: Machine) -> Answer:
        held = (packet.dst if by_destination else packet.src) in machine.recent.get(name, ())
        if held and bounded:
            return Chance(None, f"depends on how often {name} saw this address")
        return held

    return test


def _rate(option: Option, part: XtPart) -> Test:
    reason = f"-m {part.name}: depends on how many packets came before"
    return lambda packet, machine: Chance(None, reason)


def _owner(option: Option, part: XtPart) -> Test:
    text = f"-m owner {_text(option)}"

    def test(packet: Packet, machine: Machine) -> Answer:
        if packet.hook not in ("output", "postrouting") or packet.iif:
            return False
        return Unknown(text, "the sending process's user is not known")

    return test


def _clock(option: Option, part: XtPart) -> Test:
    return lambda packet, machine: Chance(None, "-m time: depends on when the packet comes")


def _policy(option: Option, part: XtPart) -> Test:
    wanted = option.values[0]
    if wanted == "none":
        return lambda packet, machine: True  # no IPsec policy is part of a dump
    return _unknown(f"-m policy --pol {wanted}", "IPsec policies are not part of a dump")


_PORT_OPTIONS: dict[str, Callable[[Option, XtPart], Test]] = {
    "dport": dport,
    "sport": sport,
    "destination-port": dport,
    "source-port": sport,
}
_HASHLIMIT = (
    "hashlimit-upto", "hashlimit-above", "hashlimit", "hashlimit-burst", "hashlimit-mode", "hashlimit-name", "hashlimit-htable-expire",
    "hashlimit-htable-size", "hashlimit-htable-max", "hashlimit-htable-gcinterval", "hashlimit-srcmask", "hashlimit-dstmask",
    "hashlimit-rate-match", "hashlimit-rate-interval",
)  # fmt: skip

MODULES: dict[str, dict[str, Maker]] = {
    "": {"src": _src, "dst": _dst, "protocol": _protocol, "in": _in, "out": _out, "fragment": _no, "4": _yes, "6": _yes, "ipv4": _yes, "ipv6": _yes},
    "tcp": _PORT_OPTIONS | {"tcp-flags": tcp_flags, "syn": syn},
    "udp": dict(_PORT_OPTIONS),
    "udplite": dict(_PORT_OPTIONS),
    "sctp": dict(_PORT_OPTIONS),
    "dccp": dict(_PORT_OPTIONS),
    "multiport": {"dports": dport, "sports": sport, "ports": either_port, "destination-ports": dport, "source-ports": sport},
    "comment": {"comment": _yes},
    "conntrack": {
        "ctstate": _ctstate, "ctstatus": _ctstatus, "ctdir": _ctdir, "ctproto": _protocol, "ctorigsrc": _ct_tuple("src"),
        "ctorigdst": _ct_tuple("dst"), "ctreplsrc": _ct_tuple("reply_src"), "ctrepldst": _ct_tuple("reply_dst"),
        "ctorigsrcport": _ct_tuple("sport"), "ctorigdstport": _ct_tuple("dport"), "ctreplsrcport": _ct_tuple("reply_sport"),
        "ctrepldstport": _ct_tuple("reply_dport"),
    },
    "state": {"state": _ctstate},
    "mark": {"mark": _mark},
    "connmark": {"mark": _connmark},
    "addrtype": {"src-type": _address_type("src"), "dst-type": _address_type("dst"), "limit-iface-in": _yes, "limit-iface-out": _yes},
    "statistic": {"mode": _statistic, "probability": _said, "every": _said, "packet": _yes},
    "recent": {
        "rcheck": _recent, "update": _recent, "set": _recent, "remove": _recent, "name": _yes, "seconds": _yes, "reap": _yes, "mask": _yes,
        "rsource": _yes, "rdest": _yes, "hitcount": _yes, "rttl": _yes,
    },
    "set": {"match-set": _match_set, "return-nomatch": _yes},
    "physdev": {
        "physdev-in": _physdev("in"), "physdev-out": _physdev("out"), "physdev-is-in": _physdev_is("in"),
        "physdev-is-out": _physdev_is("out"), "physdev-is-bridged": _physdev_is("bridged"),
    },
    "iprange": {"src-range": _address_range("src"), "dst-range": _address_range("dst")},
    "icmp": {"icmp-type": icmp(ICMP_TYPES, 1)},
    "icmp6": {"icmpv6-type": icmp(ICMP6_TYPES, 58)},
    "mac": {"mac-source": _mac_source},
    "pkttype": {"pkt-type": _packet_type},
    "limit": {"limit": _rate, "limit-burst": _yes},
    "hashlimit": {name: (_rate if name in ("hashlimit-upto", "hashlimit-above", "hashlimit") else _yes) for name in _HASHLIMIT},
    "connlimit": {"connlimit-above": _rate, "connlimit-upto": _rate, "connlimit-mask": _yes, "connlimit-saddr": _yes, "connlimit-daddr": _yes},
    "connbytes": {"connbytes": _rate, "connbytes-dir": _yes, "connbytes-mode": _yes},
    "quota": {"quota": _rate},
    "owner": {"uid-owner": _owner, "gid-owner": _owner, "socket-exists": _owner, "suppl-groups": _yes},
    "length": {"length": length},
    "ttl": {"ttl-eq": ttl("eq"), "ttl-lt": ttl("lt"), "ttl-gt": ttl("gt")},
    "hl": {"hl-eq": ttl("eq"), "hl-lt": ttl("lt"), "hl-gt": ttl("gt")},
    "dscp": {"dscp": dscp},
    "nfacct": {"nfacct-name": _yes},
    "policy": {"pol": _policy, "dir": _yes},
    "helper": {"helper": _no},
    "time": dict.fromkeys(("timestart", "timestop", "datestart", "datestop", "weekdays", "monthdays", "kerneltz", "utc", "contiguous"), _clock),
    "cpu": {"cpu": _rate},
    "rt": dict.fromkeys(("rt-type", "rt-segsleft", "rt-len"), _no),
    "frag": dict.fromkeys(("fragid", "fraglen", "fragfirst", "fragmore", "fraglast", "fragres"), _no),
    "hbh": {"hbh-len": _no},
    "dst": {"dst-len": _no},
    "tos": {"tos": tos},
}  # fmt: skip
MODULES["ipv6-icmp"] = MODULES["icmpv6"] = MODULES["icmp6"]
