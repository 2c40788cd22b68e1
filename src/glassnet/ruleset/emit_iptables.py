"""Rules as iptables-save spells them. Source: iptables-save(8) output of 1.8.9."""

from __future__ import annotations

from glassnet.ruleset.model import (
    AddressType,
    CtState,
    Destination,
    Dnat,
    Dport,
    Jump,
    Mark,
    Masquerade,
    Match,
    Probability,
    Protocol,
    Recent,
    Rule,
    SetMark,
    Source,
    Target,
    Unknown,
    Verdict,
)


def emit(chain: str, rule: Rule) -> str:
    """`-A CHAIN …` in the order iptables-save has: addresses, protocol, comment, the other matches, target."""
    words = [f"-A {chain}"]
    words += [_basic(match) for match in rule.matches if isinstance(match, Source | Destination)]
    protocol = next((m.protocol for m in rule.matches if isinstance(m, Dport)), None) or next(
        (m.name for m in rule.matches if isinstance(m, Protocol)), None
    )
    if protocol:
        words.append(f"-p {protocol}")
    if rule.comment:
        words.append(f'-m comment --comment "{rule.comment}"')
    words += [_match(match) for match in rule.matches if not isinstance(match, Source | Destination | Protocol)]
    if rule.target is not None:
        words.append(_target(rule.target))
    return " ".join(words)


def _basic(match: Source | Destination) -> str:
    flag = "-s" if isinstance(match, Source) else "-d"
    return f"{'! ' if match.negate else ''}{flag} {match.cidr}"


def _match(match: Match) -> str:
    match match:
        case Dport():
            return f"-m {match.protocol} --dport {match.port}"
        case CtState():
            return f"-m conntrack {'! ' if match.negate else ''}--ctstate {','.join(match.states)}"
        case Mark():
            return f"-m mark {'! ' if match.negate else ''}--mark {match.value:#x}/{match.mask:#x}"
        case AddressType():
            return f"-m addrtype --{match.side}-type {match.kind}"
        case Probability():
            return f"-m statistic --mode random --probability {match.share:.10f}"
        case Recent(seconds=0):
            return f"-m recent --name {match.name} --set"
        case Recent():
            return f"-m recent --name {match.name} --rcheck --seconds {match.seconds} --reap"
        case Unknown():
            return match.text
    raise ValueError(f"no iptables match for {match!r}")


def _target(target: Target) -> str:
    match target:
        case Jump():
            return f"-j {target.chain}"
        case Verdict():
            return f"-j {target.name}"
        case Dnat():
            return f"-j DNAT --to-destination {target.to}"
        case Masquerade():
            return "-j MASQUERADE" + (" --random-fully" if target.random_fully else "")
        case SetMark():
            return f"-j MARK --{target.operation}-mark {target.bits:#x}"
