"""Membership in ipsets: the entries of `ipset save`, by the type's dimensions.

Source: ipset(8). Directions (src, dst) pick the packet's field for each dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glassnet.net.tristate import Answer, Unknown
from glassnet.ruleset.model import SetObject
from glassnet.tracer.packet import PORTED, Packet


def ipset_holds(found: SetObject | None, name: str, directions: Sequence[str], packet: Packet) -> Answer:
    """Whether a set holds the packet's fields."""
    if found is None:
        return Unknown(f"set {name}", "it is not part of the dump (ipset save)")
    if (found.value_type == "inet6" and packet.bits == 32) or (found.value_type == "inet" and packet.bits == 128):
        return False
    if found.key_type == ("set",):
        members: dict[str, SetObject] = found.index or {}
        answers = [ipset_holds(members.get(words[0]), words[0], directions, packet) for words, _ in found.elements]
        return next((a for a in answers if a is True), next((a for a in answers if isinstance(a, Unknown)), False))
    best: tuple[int, bool] = (-1, False)
    for words, excluded in found.elements:
        fit = _fits(words, found.key_type, directions, packet)
        if isinstance(fit, Unknown):
            return fit
        if fit > best[0]:
            best = (fit, not excluded)
    return best[1]


def _fits(words: Sequence[Any], kinds: Sequence[str], directions: Sequence[str], packet: Packet) -> int | Unknown:
    """How specific the entry is that matches (-1: it does not)."""
    length = 0
    for place, (word, kind) in enumerate(zip(words, kinds, strict=False)):
        inward = directions[min(place, len(directions) - 1)] == "src"
        if kind in ("ip", "net"):
            network, mask, bits = word
            if bits != packet.bits or (packet.src if inward else packet.dst) & mask != network:
                return -1
            length += mask.bit_count()
        elif kind == "port":
            protocol, low, high = word
            if protocol != packet.protocol:
                return -1
            value = (
                (packet.sport if inward else packet.dport)
                if packet.protocol in PORTED
                else packet.icmp_type << 8 | packet.icmp_code
            )
            if not low <= value <= high:
                return -1
        elif kind == "iface":
            if word != (packet.iif if inward else packet.oif):
                return -1
        elif kind == "mark":
            if packet.mark != word:
                return -1
        else:
            return Unknown(f"a set of {kind}", "this kind of set is not understood")
    return length
