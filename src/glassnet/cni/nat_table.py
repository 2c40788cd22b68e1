"""The nat table as text: what iptables-save or `iptables -S` prints is read, what is missing of wanted lines is found.

Lines are those of iptables-restore. Two kinds are told apart:

    shared   chains and rules that many containers need: `:CHAIN - [0:0]` makes a chain that is missing and empties none, `-A` and `-I` add a
             rule that is missing
    own      one container's: `:CHAIN - [0:0]` makes or empties a chain, `-A CHAIN …` fills it, `-A OTHER … -j CHAIN` leads to it

Own lines are counted, not compared: how iptables prints a rule depends on its version. Source: iptables-restore(8), iptables(8).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

Table = Mapping[str, Sequence[str]]
_TARGET = re.compile(r" (?:-j|-g) (\S+)")
_DELETED = re.compile(r"^-X (\S+)$", re.M)


def parse(text: str) -> dict[str, list[str]]:
    """The rules of each chain, each as an `-A` line."""
    chains: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            chains.setdefault(line[1:].partition(" ")[0], [])
        elif line.startswith(("-N ", "-P ")):
            chains.setdefault(line.split(" ")[1], [])
        elif line.startswith("-A "):
            chains.setdefault(line.split(" ")[1], []).append(line)
    return chains


def target(rule: str) -> str:
    """The chain or target that a rule leads to; "" for none."""
    found = _TARGET.findall(rule)
    return found[-1] if found else ""


def checks(shared: str) -> str:
    """Lines that are refused unless all shared rules are there (iptables-restore takes -C as iptables does)."""
    return "".join(f"-C {line[3:]}\n" for line in shared.splitlines() if line.startswith(("-A ", "-I ")))


def missing_shared(shared: str, table: Table) -> str:
    """The shared lines that are missing."""
    out = []
    for line in shared.splitlines():
        if line.startswith(":"):
            there = line[1:].partition(" ")[0] in table
        else:
            there = f"-A {line[3:]}" in table.get(line.split(" ")[1], ())
        if not there:
            out.append(line + "\n")
    return "".join(out)


def own_chains(lines: str) -> list[str]:
    """The chains that own lines fill."""
    return [line[1:].partition(" ")[0] for line in lines.splitlines() if line.startswith(":")]


def deleted_chains(lines: str) -> list[str]:
    """The chains that lines delete."""
    return _DELETED.findall(lines)


def adding(lines: str) -> str:
    """What lines add: all but what they delete before."""
    return "".join(f"{line}\n" for line in lines.splitlines() if line.startswith((":", "-A ")))


def missing_own(lines: str, table: Table) -> str:
    """What puts own lines back of which some are missing; "" when none is."""
    chains = set(own_chains(lines))
    rules = [line for line in lines.splitlines() if line.startswith("-A ")]
    inside = [line for line in rules if line.split(" ")[1] in chains]
    jumps = [line for line in rules if line.split(" ")[1] not in chains]
    sizes = Counter(line.split(" ")[1] for line in inside)
    out = ""
    if any(len(table.get(chain, ())) < sizes[chain] or chain not in table for chain in chains):
        out += "".join(f":{chain} - [0:0]\n" for chain in own_chains(lines)) + _joined(inside)
    for (place, to), wanted in _by_place(jumps).items():
        there = [rule for rule in table.get(place, ()) if target(rule) == to]
        if len(there) < len(wanted):
            out += _joined(f"-D {rule[3:]}" for rule in there) + _joined(wanted)
    return out


def _by_place(jumps: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    out: dict[tuple[str, str], list[str]] = {}
    for line in jumps:
        out.setdefault((line.split(" ")[1], target(line)), []).append(line)
    return out


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
