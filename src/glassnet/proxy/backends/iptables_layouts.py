"""The layouts of the iptables chains, and what one leaves behind that another has no use for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from glassnet.proxy.backends.iptables import FIREWALL, MARK_MASQ, PREFIXES, Spelling
from glassnet.proxy.backends.iptables_classic import MARK_DROP, Classic
from glassnet.proxy.model import Rules
from glassnet.proxy.naming import Recipe

CURRENT, CLASSIC = "current", "classic"
LAYOUTS: Mapping[str, type[Spelling]] = {CURRENT: Spelling, CLASSIC: Classic}
SHARED_WITH_KUBELET = (FIREWALL, MARK_DROP)  # they stay when we go, where there is a kubelet

_AIM = re.compile(r" -d \S+").search


def spelling(rules: Rules, recipe: Recipe | None = None, comments: bool = True) -> Spelling:
    """The spelling of the rules' layout."""
    return LAYOUTS[rules.layout](rules, recipe, comments)


def chains(table: str, layouts: Iterable[type[Spelling]] = LAYOUTS.values()) -> tuple[str, ...]:
    """The shared chains of one table in any of the layouts."""
    return tuple(dict.fromkeys(name for each in layouts for name in each.top.get(table, ())))


def jumps(layouts: Iterable[type[Spelling]] = LAYOUTS.values()) -> tuple[tuple[str, str, str], ...]:
    """The jumps (table, chain, rule) of any of the layouts."""
    return tuple(dict.fromkeys(each for layout in layouts for each in layout.jumps))


def firewall(rules: Rules) -> list[str]:
    """Our lines of KUBE-FIREWALL in any layout: the chain is the kubelet's too."""
    lines = (
        line
        for layout in LAYOUTS.values()
        for (_, chain), found in layout(rules).fixed().items()
        if chain == FIREWALL
        for line in found
    )
    return list(dict.fromkeys(lines))


def is_ours(table: str, chain: str, kubelet: bool) -> bool:
    """Whether a chain is a Service proxy's own. `kubelet`: there is one on the node, which has chains of the same names."""
    if kubelet and chain in SHARED_WITH_KUBELET:
        return False
    return chain in chains(table) or (table == "nat" and chain.startswith(PREFIXES))


def used_by_others(table: str, chain: str, saved: Mapping[str, Iterable[str]]) -> bool:
    """Whether a rule that is not ours jumps to a chain of one table, which then cannot go. `saved`: the table's chains and their lines."""
    mine = {f"-A {where} {rule}" for each, where, rule in jumps() if each == table}
    return any(
        line.endswith(f"-j {chain}") and line not in mine
        for name, lines in saved.items()
        if not is_ours(table, name, False)
        for line in lines
    )


def in_pairs(lines: Iterable[str]) -> bool:
    """Whether no Service is sent on before the same traffic is marked: in the classic layout both are rules of one chain."""
    sent: set[tuple[str, str]] = set()
    for line in lines:
        match, _, target = line.rpartition(" -j ")
        before, _, comment = match.partition(" -m comment ")
        aim = _AIM(before)
        traffic = (aim[0] if aim else "", comment)  # destination; Service, what it is, port
        if target != MARK_MASQ:
            sent.add(traffic)
        elif traffic in sent:
            return False
    return True
