"""Tables of nft against what the API asks for: sets and maps element by element, chains in one spelling."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from glassnet.ruleset.model import SetObject, Table
from glassnet.tracer import listing
from glassnet.tracer.drift_model import CHANGED, EXTRA, MISSING, Cluster, Deviation
from glassnet.tracer.listing import Element, Line
from glassnet.tracer.objects import Reference

Asked = Mapping[tuple[str, ...], tuple[str, Reference]]  # key -> (data or verdict, whose)
_DRAW = re.compile(r"numgen (?:random|inc) mod (\d+) (v?map) \{ (.*) \}")
_REJECT = re.compile(r"reject with icmp(?:v6|x)? port-unreachable")
_CHOICE = re.compile(r"(saddr (?:!= )?)(\{ [^}]* \}|[0-9a-f.:]+(?:/\d+)?)")


def normal(text: str) -> str:
    """A rule in one spelling: refusals, endpoints of a draw in any order, ranges put together."""
    if "numgen" in text:
        text = _DRAW.sub(_drawn, text).replace("dnat ip to", "dnat to").replace("dnat ip6 to", "dnat to")
    if "saddr" in text:
        text = _CHOICE.sub(lambda found: found[1] + _ranges(found[2]), text)
    return _REJECT.sub("reject", text).replace("[", "").replace("]", "")


def _drawn(found: re.Match[str]) -> str:
    pairs = [entry.partition(" : ") for entry in found[3].split(", ")]
    if sorted(slot for slot, _, _ in pairs) != sorted(str(n) for n in range(int(found[1]))):
        return found[0]
    return f"one of {found[1]}: {', '.join(sorted(value for _, _, value in pairs))}"


def _ranges(text: str) -> str:
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for word in text.strip("{} ").split(", "):
        first, dash, last = word.partition("-")
        try:
            if dash:
                networks += ipaddress.summarize_address_range(ipaddress.ip_address(first), ipaddress.ip_address(last))
            else:
                networks.append(ipaddress.ip_network(word, strict=False))
        except (ValueError, TypeError):
            return text
    if len({each.version for each in networks}) != 1:
        return text
    return ", ".join(map(str, sorted(ipaddress.collapse_addresses(networks))))  # type: ignore[type-var]


@dataclass(slots=True)
class SetComparer:
    """Compares the sets and maps of one table."""

    machine: str
    table: Table
    cluster: Cluster
    owner: Callable[[str, Element], Reference | None]  # whose an element is that nobody asked for

    def title(self, name: str, kind: str = "set") -> str:
        """How a set is called in a report."""
        found = self.table.sets.get(name)
        return f"{found.kind if found else kind} {name} of {self.table.family} {self.table.name}"

    def compare(self, name: str, asked: Asked, kind: str, program: Reference) -> list[Deviation]:
        """One set or map; one deviation for each object."""
        there = self.table.sets.get(name)
        if there is None:
            return [self._gone(name, kind, asked, program)]
        expected: dict[Reference, list[str]] = {}
        found: dict[Reference, list[Line]] = {}
        left = dict(asked)
        for each in listing.elements(there):
            want = left.pop(each.key, None)
            if want is not None and want[0] == each.value:
                continue
            subject = want[1] if want is not None else self.owner(name, each) or Reference("", "", "somebody else")
            if want is not None:
                expected.setdefault(subject, []).append(Element(each.key, want[0]).text)
            found.setdefault(subject, []).append(self._line(there, each))
        for key, (value, subject) in left.items():
            expected.setdefault(subject, []).append(Element(key, value).text)
        out = []
        for subject in dict.fromkeys((*expected, *found)):
            gone, more = tuple(expected.get(subject, ())), tuple(found.get(subject, ()))
            kind = CHANGED if gone and more else MISSING if gone else EXTRA
            out.append(Deviation(self.machine, kind, self.title(name), subject, gone, more))
        return out

    def _line(self, there: SetObject, each: Element) -> Line:
        return Line(each.text, there.source, there.line)

    def _gone(self, name: str, kind: str, asked: Asked, program: Reference) -> Deviation:
        texts = tuple(Element(key, value).text for key, (value, _) in asked.items())
        return Deviation(self.machine, MISSING, self.title(name, kind), program, texts, note=f"the {kind} is not there")
