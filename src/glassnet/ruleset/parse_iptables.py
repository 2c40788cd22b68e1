"""Listings of iptables-save and ip6tables-save (legacy and nf_tables, versions 1.4 to 1.8), with and without counters.

Source of the form: iptables-save(8), iptables-extensions(8), iptables.c and xshared.c of the iptables project. Loading looks at the first
words of a line only; a rule is taken apart when somebody asks for it.
"""

from __future__ import annotations

import re

from glassnet.net.errors import ParseError
from glassnet.ruleset.model import IPTABLES_NFT, LEGACY, Chain, Option, Rule, Table, XtPart, XtRule, uncollected

# Base chains and their priorities: include/uapi/linux/netfilter_ipv4.h. nat's output chain is at dstnat, its input at srcnat.
PRIORITY = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0, "security": 50}
HOOKS = {
    "PREROUTING": "prerouting", "INPUT": "input", "FORWARD": "forward", "OUTPUT": "output", "POSTROUTING": "postrouting",
}  # fmt: skip
BUILT_IN = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
_RULE = re.compile(r"(?:\[\d+:\d+\] )?-A (\S+)(?: |$)").match
_CHAIN = re.compile(r":(\S+) (ACCEPT|DROP|QUEUE|RETURN|-)(?: \[\d+:\d+\])?\s*$").match
_WORD = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|(\S+))').match
_PROTOCOLS = {
    "6": "tcp",
    "17": "udp",
    "132": "sctp",
    "1": "icmp",
    "58": "ipv6-icmp",
    "33": "dccp",
    "ipv6-icmp": "icmp6",
    "icmpv6": "icmp6",
}
_SHORT = {
    "-s": "src", "--source": "src", "--src": "src", "-d": "dst", "--destination": "dst", "--dst": "dst", "-p": "protocol",
    "--protocol": "protocol", "--proto": "protocol", "-i": "in", "--in-interface": "in", "-o": "out", "--out-interface": "out",
    "-f": "fragment", "--fragment": "fragment",
}  # fmt: skip


def parse_iptables(text: str, source: str = "", family: str = "", tool: str = "") -> list[Table]:
    """Tables of one listing, in its order. `family` (ip or ip6) and `tool` are told from the listing's first line when not given.

    Raises ParseError with the line: text that is no listing, a rule outside a table or for a chain that is not declared, a missing COMMIT.
    """
    if "\0" in text:
        raise ParseError(
            "binary data, not a listing of iptables-save", source, text.count("\n", 0, text.index("\0")) + 1
        )
    family, tool = family or _family(text, source), tool or _tool(text)
    with uncollected():
        return _Reader(text, source, family, tool).read()


class _Reader:
    def __init__(self, text: str, source: str, family: str, tool: str) -> None:
        self.lines = text.split("\n")
        self.source, self.family, self.tool = source, family, tool
        self.tables: list[Table] = []
        self.table: Table | None = None
        self.rules: dict[str, list[int]] = {}

    def read(self) -> list[Table]:
        rule = _RULE
        for number, line in enumerate(self.lines):
            if line.startswith(("-A ", "[")):
                found = rule(line)
                try:
                    self.rules[found[1]].append(number)  # type: ignore[index]
                except (KeyError, TypeError):
                    self.refuse_rule(line, number + 1, found[1] if found else "")
            elif line.startswith(":"):
                self.chain(line, number + 1)
            elif line.startswith("*"):
                self.open(line, number + 1)
            elif line.startswith("COMMIT"):
                self.close(number + 1)
            elif line and not line.startswith("#") and line.strip():
                raise ParseError(f"not a line of iptables-save: {line[:60]!r}", self.source, number + 1)
        if self.table is not None:
            raise ParseError(
                f"the listing ends inside table {self.table.name}: no COMMIT; it was cut off",
                self.source,
                len(self.lines),
            )
        return self.tables

    def refuse_rule(self, line: str, number: int, chain: str) -> None:
        if self.table is None:
            raise ParseError("a rule before the first table (`*filter` and the like)", self.source, number)
        if not chain:
            raise ParseError(f"not a rule: {line[:60]!r}", self.source, number)
        raise ParseError(
            f"a rule for chain {chain}, which table {self.table.name} does not declare", self.source, number
        )

    def open(self, line: str, number: int) -> None:
        if self.table is not None:
            raise ParseError(
                f"table {line[1:].strip()} begins before table {self.table.name} has its COMMIT: two listings mixed, or one cut off",
                self.source,
                number,
            )
        name = line[1:].strip()
        if not name or not name.isidentifier():
            raise ParseError(f"not a table's name: {line[:60]!r}", self.source, number)
        self.table = Table(self.family, name, self.tool, self.source, line=number)
        self.rules = {}

    def chain(self, line: str, number: int) -> None:
        if self.table is None:
            raise ParseError("a chain before the first table", self.source, number)
        found = _CHAIN(line)
        if not found:
            raise ParseError(f"not a chain: {line[:60]!r}", self.source, number)
        name, policy = found[1], found[2].lower()
        chain = Chain(self.table, name, line=number, make=self.make)
        if found[2] != "-" and name in HOOKS:
            chain.hook, chain.policy, chain.type = HOOKS[name], policy, _type(self.table.name, name)
            chain.priority = _priority(self.table.name, name)
        self.table.chains[name] = chain
        chain.raw = self.rules.setdefault(name, [])

    def close(self, number: int) -> None:
        if self.table is None:
            raise ParseError("COMMIT without a table", self.source, number)
        self.tables.append(self.table)
        self.table = None

    def make(self, chain: Chain, index: int) -> Rule:
        number = chain.raw[index]
        line = self.lines[number]
        return Rule(chain, index + 1, line[line.index("-A ") :].rstrip("\r"), number + 1)


def _priority(table: str, chain: str) -> int:
    if table == "nat" and chain in ("INPUT", "POSTROUTING"):
        return 100
    return PRIORITY.get(table, 0)


def _type(table: str, chain: str) -> str:
    if table == "nat":
        return "nat"
    return "route" if table == "mangle" and chain == "OUTPUT" else "filter"


def _family(text: str, source: str) -> str:
    head = text[:400]
    if "ip6tables" in head or "ip6tables" in source:
        return "ip6"
    return "ip"


def _tool(text: str) -> str:
    head = text[:400]
    # 1.8 says which back end it read; older ones know the legacy tables only.
    return IPTABLES_NFT if "(nf_tables)" in head or "tables-nft-save" in head else LEGACY


def words(text: str) -> list[tuple[str, bool]]:
    """The words of a rule, each with whether it was quoted (iptables-save quotes with `"` and escapes with a backslash)."""
    found, place, end = [], 0, len(text)
    while place < end:
        word = _WORD(text, place)
        if not word:
            break
        quoted = word[1] is not None
        found.append((re.sub(r"\\(.)", r"\1", word[1]) if quoted else word[2], quoted))
        place = word.end()
    return found


def parse_rule(text: str) -> XtRule:
    """One rule's text (`-A CHAIN …`) taken apart. What an option means is not looked at: see the evaluator."""
    parts: list[XtPart] = [XtPart("")]
    target: XtPart | None = None
    goto = negated = False
    option: Option | None = None
    found = words(text)
    place = 2
    while place < len(found):
        word, quoted = found[place]
        place += 1
        if quoted or not (word == "!" or (word.startswith("-") and not word[1:2].isdigit() and len(word) > 1)):
            if option is not None:
                option.values.append(word)
            continue
        if word == "!":
            if option is not None and not option.values and option.name in ("src", "dst", "protocol", "in", "out"):
                option.negated = True  # iptables 1.4 and older: `-s ! 10.0.0.0/8`
            else:
                negated = True
            continue
        if word in ("-m", "--match", "-j", "--jump", "-g", "--goto") and place < len(found):
            name = found[place][0]
            place += 1
            if word in ("-m", "--match"):
                parts.append(XtPart(name))
            else:
                target, goto = XtPart(name), word in ("-g", "--goto")
            option, negated = None, False
            continue
        option = Option(_SHORT.get(word, word.lstrip("-")), [], negated)
        negated = False
        _owner(parts, target, word, option).options.append(option)
    return XtRule([part for part in parts if part.name or part.options], target, goto)


def _owner(parts: list[XtPart], target: XtPart | None, word: str, option: Option) -> XtPart:
    """The part an option belongs to: the rule itself, the target, the last match, or the protocol's match that was not written out."""
    if word in _SHORT:
        return parts[0]
    if target is not None:
        return target
    if len(parts) == 1:
        name = parts[0].get("protocol")
        parts.append(XtPart(_PROTOCOLS.get(name, name)))
    return parts[-1]


def comment_of(rule: XtRule) -> str:
    """The text of the rule's `-m comment`, or ""."""
    return next((part.get("comment") for part in rule.matches if part.name == "comment"), "")
