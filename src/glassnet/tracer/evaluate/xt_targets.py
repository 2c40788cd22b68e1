"""What the targets of iptables do: from a target's words to a function that changes a packet and says how it goes on.

Source: iptables-extensions(8) and net/netfilter/xt_*.c, nf_nat_*.c of Linux. A target that is not listed ends as unknown, with its text.
"""

from __future__ import annotations

from collections.abc import Callable

from glassnet.net import address
from glassnet.ruleset.model import XtPart
from glassnet.tracer.evaluate import verdicts as v
from glassnet.tracer.evaluate.verdicts import Effect, Translation, Verdict
from glassnet.tracer.packet import Packet

Action = Callable[[Packet], Effect | None]  # None: on to the next rule

# Those that leave the path of the packet as it is, as far as rules can see.
_PASS = frozenset((
    "LOG", "NFLOG", "ULOG", "TRACE", "AUDIT", "TCPMSS", "CHECKSUM", "CLASSIFY", "ECN", "SET", "TEE", "RATEEST",
    "IDLETIMER", "LED", "CONNSECMARK", "SECMARK", "TCPOPTSTRIP", "HMARK",
))  # fmt: skip
_SIMPLE = {"ACCEPT": v.ACCEPT, "DROP": v.DROP, "RETURN": v.RETURN}


def compile_target(part: XtPart | None, chains: object, goto: bool) -> Action:
    """What a rule does once it matches. `chains` holds the names of the table's chains."""
    if part is None:
        return lambda packet: None
    if part.name in _SIMPLE:
        verdict = Verdict(_SIMPLE[part.name])
        return lambda packet: verdict
    if part.name in chains:  # type: ignore[operator]
        jump = Verdict(v.GOTO if goto else v.JUMP, part.name)
        return lambda packet: jump
    if part.name in _PASS:
        return lambda packet: None
    maker = _TARGETS.get(part.name)
    text = " ".join([f"-j {part.name}", *(f"--{o.name} {' '.join(o.values)}".strip() for o in part.options)])
    if maker is None:
        lost = Verdict(v.UNKNOWN, f"{text}: this target is not understood, and the table has no chain of that name")
        return lambda packet: lost
    try:
        return maker(part)
    except (ValueError, IndexError, KeyError) as error:
        lost = Verdict(v.UNKNOWN, f"{text}: {error}")
        return lambda packet: lost


def _always(effect: Effect) -> Action:
    return lambda packet: effect


def _reject(part: XtPart) -> Action:
    return _always(Verdict(v.REJECT, part.get("reject-with", "icmp-port-unreachable")))


def _queue(part: XtPart) -> Action:
    if any(o.name == "queue-bypass" for o in part.options):
        return _always(Verdict(v.QUEUE, f"queue {part.get('queue-num', '0')}, accepted when no program listens"))
    return _always(Verdict(v.QUEUE, f"queue {part.get('queue-num', '0')}, dropped when no program listens"))


def _pair(text: str, default: int = 0xFFFFFFFF) -> tuple[int, int]:
    value, _, mask = text.partition("/")
    return int(value, 0), int(mask, 0) if mask else default


def mark_change(part: XtPart) -> Callable[[int], int] | None:
    """The change of a mark that MARK and CONNMARK spell alike."""
    for option in part.options:
        word = option.values[0] if option.values else ""
        match option.name:
            case "set-xmark":
                value, mask = _pair(word)
                return lambda mark: (mark & ~mask & 0xFFFFFFFF) ^ value
            case "set-mark":
                value, mask = _pair(word)
                clear = value | mask
                return lambda mark: (mark & ~clear & 0xFFFFFFFF) | value
            case "or-mark":
                value = int(word, 0)
                return lambda mark: mark | value
            case "and-mark":
                value = int(word, 0)
                return lambda mark: mark & value
            case "xor-mark":
                value = int(word, 0)
                return lambda mark: mark ^ value
    return None


def _mark(part: XtPart) -> Action:
    change = mark_change(part)
    if change is None:
        raise ValueError("this option is not understood")

    def act(packet: Packet) -> None:
        packet.mark = change(packet.mark)

    return act


def _hops(part: XtPart) -> Action:
    (option,) = part.options
    kind, value = option.name.rpartition("-")[2], int(option.values[0])

    def act(packet: Packet) -> None:
        ttl = {"set": value, "inc": packet.ttl + value, "dec": packet.ttl - value}[kind]
        packet.ttl = min(max(ttl, 0), 255)

    return act


def _dscp(part: XtPart) -> Action:
    value = int(part.get("set-dscp"), 0)

    def act(packet: Packet) -> None:
        packet.dscp = value

    return act


def _tos(part: XtPart) -> Action:
    value, mask = _pair(part.get("set-tos"), 0xFF)

    def act(packet: Packet) -> None:
        packet.dscp = ((packet.dscp << 2 & ~mask) ^ value) >> 2 & 63

    return act


def _connmark(part: XtPart) -> Action:
    names = {o.name for o in part.options}
    nfmask = int(part.get("nfmask", part.get("mask", "0xffffffff")), 0)
    ctmask = int(part.get("ctmask", part.get("mask", "0xffffffff")), 0)
    change = mark_change(part)

    def act(packet: Packet) -> None:
        connection = packet.connection
        if connection is None:
            return
        if "restore-mark" in names:
            packet.mark = (packet.mark & ~nfmask & 0xFFFFFFFF) ^ (connection.mark & ctmask)
        elif "save-mark" in names:
            connection.mark = (connection.mark & ~ctmask & 0xFFFFFFFF) ^ (packet.mark & nfmask)
        elif change is not None:
            connection.mark = change(connection.mark)

    return act


def parse_place(text: str) -> tuple[int | None, int | None, int | None, int | None]:
    """`ADDRESS[-ADDRESS][:PORT[-PORT]]`, `[ADDRESS]:PORT`, `:PORT`: (low, high, lowest port, highest port). Raises ValueError."""
    if text.startswith("["):
        body, _, rest = text[1:].partition("]")
        ports = rest.lstrip(":")
    elif text.count(":") > 1:
        body, ports = text, ""
    else:
        body, _, ports = text.partition(":")
    low = high = None
    if body:
        first, _, last = body.partition("-")
        if not address.canonical(first) or (last and not address.canonical(last)):
            raise ValueError(f"not an address: {body!r}")
        low = address.number(address.canonical(first))
        high = address.number(address.canonical(last)) if last else low
    if not ports:
        return low, high, None, None
    first, _, last = ports.partition("/")[0].partition("-")
    return low, high, int(first), int(last or first)


def _nat(part: XtPart) -> Action:
    source = part.name == "SNAT"
    text = part.get("to-source" if source else "to-destination")
    return _always(Translation(source, *parse_place(text), random_port=_random(part)))


def _random(part: XtPart) -> bool:
    return any(o.name in ("random", "random-fully") for o in part.options)


def _port_range(part: XtPart) -> tuple[int | None, int | None]:
    text = part.get("to-ports")
    if not text:
        return None, None
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def _masquerade(part: XtPart) -> Action:
    low, high = _port_range(part)
    return _always(Translation(True, port_low=low, port_high=high, own=True, random_port=_random(part)))


def _redirect(part: XtPart) -> Action:
    low, high = _port_range(part)
    return _always(Translation(False, port_low=low, port_high=high, own=True, random_port=_random(part)))


def _netmap(part: XtPart) -> Action:
    network, mask, _ = address.prefix(part.get("to"))

    def act(packet: Packet) -> Effect:
        return Translation(packet.hook in ("postrouting", "input"), netmap=(network, mask))

    return act


def _ct(part: XtPart) -> Action:
    names = {o.name for o in part.options}
    if "zone" in names or "zone-orig" in names or "zone-reply" in names:
        return _always(Verdict(v.UNKNOWN, "-j CT --zone: connection tracking zones are not modelled"))

    def act(packet: Packet) -> None:
        if "notrack" in names and packet.connection is None:
            packet.state = "untracked"

    return act


def _notrack(part: XtPart) -> Action:
    def act(packet: Packet) -> None:
        if packet.connection is None:
            packet.state = "untracked"

    return act


def _tproxy(part: XtPart) -> Action:
    value, mask = _pair(part.get("tproxy-mark", "0/0"))
    port = int(part.get("on-port", "0"))

    def act(packet: Packet) -> Effect:
        packet.mark = (packet.mark & ~mask & 0xFFFFFFFF) ^ value
        packet.local_socket = True
        return Verdict(v.ACCEPT, f"given to the transparent socket on port {port or packet.dport}")

    return act


_TARGETS: dict[str, Callable[[XtPart], Action]] = {
    "REJECT": _reject, "MARK": _mark, "CONNMARK": _connmark, "DNAT": _nat, "SNAT": _nat, "MASQUERADE": _masquerade, "REDIRECT": _redirect,
    "NETMAP": _netmap, "CT": _ct, "NOTRACK": _notrack, "TPROXY": _tproxy, "TTL": _hops, "HL": _hops, "DSCP": _dscp, "TOS": _tos, "NFQUEUE": _queue, "QUEUE": _queue,
}  # fmt: skip
