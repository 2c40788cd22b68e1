"""macspoofchk: frames a container sends with a MAC other than its own are dropped. Rules of nftables' bridge family, at the node's end of the pair.

Source: containernetworking/plugins, pkg/link (spoofcheck): table, chains and comments; either side can take the other's rules away. Ours say
besides whose they are: the comment of a chain names the network, and GC goes by it. What others made is an orphan when its interface is gone.
Rules are written and read by netlink: the nft program is not needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from glassnet.cni.effects import ListLinks, NftChange, NftListing, NftTable, Steps, Where, ask
from glassnet.cni.request import Attachment, Call
from glassnet.ruleset import nft_expressions as x
from glassnet.ruleset import nft_messages as m
from glassnet.ruleset import nft_reader as reader

TABLE, HOOK = "nat", "PREROUTING"
_PLACE = (m.BRIDGE, TABLE)
_PREROUTING, _DSTNAT = 0, -300  # NF_BR_PRI_NAT_DST_BRIDGED
_NOTE_MAX = 127  # bytes of a comment


def chain(one: Attachment) -> str:
    """The chain of a container's interface; the rules on MACs are in a second one."""
    return f"cni-br-iface-{one.container_id}-{one.ifname}"


def note(one: Attachment) -> str:
    """The comment of a container's rules."""
    return f"macspoofchk-{one.container_id}-{one.ifname}"[:_NOTE_MAX]


def _owner(network: str) -> str:
    return f"net: {network}"[:_NOTE_MAX]


def added(network: str, one: Attachment, port: str, mac: str) -> list[m.Message]:
    """Messages that let only frames from `mac` in at `port`."""
    first, second, mine = chain(one), f"{chain(one)}-mac", note(one)
    sender = x.payload(x.LINK, 6, 6)
    return [
        m.new_table(*_PLACE),
        m.base_chain(*_PLACE, HOOK, "filter", _PREROUTING, _DSTNAT),
        *(m.new_chain(*_PLACE, name, _owner(network)) for name in (first, second)),
        *(m.flush_chain(*_PLACE, name) for name in (first, second)),
        m.new_rule(*_PLACE, HOOK, [*_arrives(port), x.goes(m.JUMP, first)], mine),
        m.new_rule(*_PLACE, first, [x.goes(m.JUMP, second)], mine),
        m.new_rule(
            *_PLACE, second, [sender, x.compare(x.EQ, bytes.fromhex(mac.replace(":", ""))), x.goes(m.RETURN)], mine
        ),
        m.new_rule(*_PLACE, second, [x.goes(m.DROP)], mine),
    ]


def _arrives(port: str) -> list[bytes]:
    return [x.meta(x.IIFNAME), x.compare(x.EQ, port.encode().ljust(16, b"\0"))]


def add(call: Call, port: str, mac: str) -> Steps[None]:
    """Put a container's rules in place."""
    yield from ask(NftChange(tuple(added(call.name, call.attachment, port, mac))))


def delete(call: Call) -> Steps[None]:
    """Take a container's rules and chains away; table and base chain stay."""
    mine = chain(call.attachment)
    listing = yield from ask(NftListing(*_PLACE, HOOK))
    yield from _remove(listing, {mine, f"{mine}-mac"}, {note(call.attachment)})


def _remove(listing: NftTable, chains: Collection[str], notes: Collection[str]) -> Steps[None]:
    """Remove chains and the rules that lead to them, or have one of the comments."""
    there = sorted(set(chains) & set(listing.chains))
    jumps = [
        rule for rule in listing.rules if rule.chain == HOOK and (rule.note in notes or _target(rule) in set(chains))
    ]
    messages = [m.delete_rule(*_PLACE, HOOK, rule.handle) for rule in jumps]
    messages += [m.flush_chain(*_PLACE, name) for name in there]
    messages += [m.delete_chain(*_PLACE, name) for name in there]
    if messages:
        yield from ask(NftChange(tuple(messages)))


def _target(rule: reader.Rule) -> str:
    return next((word[5:] for word in rule.words if word.startswith("jump ")), "")


def _port(rule: reader.Rule) -> str:
    """The interface that a rule of the base chain is about."""
    data = next((word[3:] for word in rule.words if word.startswith("== ")), "")
    return bytes.fromhex(data).rstrip(b"\0").decode(errors="replace")


def check(call: Call, port: str, mac: str) -> Steps[list[str]]:
    """What is missing, as text."""
    listing = yield from ask(NftListing(*_PLACE))
    there = {(rule.chain, rule.words) for rule in listing.rules}
    wanted = [reader.rule(each[20:]) for each in added(call.name, call.attachment, port, mac)[-4:]]
    return [
        f"bridge {TABLE} {rule.chain}: {'; '.join(rule.words)}"
        for rule in wanted
        if (rule.chain, rule.words) not in there
    ]


def collect(call: Call) -> Steps[None]:
    """GC: take away what belongs to attachments of this network that are not in the list, and to interfaces that are gone."""
    listing = yield from ask(
        NftListing(*_PLACE, HOOK)
    )  # before the links: what is being added now has its link already
    if not listing.chains:
        return
    valid = call.valid()
    names = {link.name for link in (yield from ask(ListLinks(Where.NODE)))}
    chains = orphans(listing, call.name, valid, names)
    yield from _remove(listing, chains, ())


def orphans(listing: NftTable, network: str, valid: Iterable[Attachment], links: Collection[str]) -> set[str]:
    """The chains to be removed, given what there is and the interfaces of the node."""
    keep = {name for one in valid for name in (chain(one), f"{chain(one)}-mac")}
    ours = {name for name, owner in listing.chains.items() if owner == _owner(network)}
    dead = {
        name
        for rule in listing.rules
        if rule.note.startswith("macspoofchk-") and (target := _target(rule)) and _port(rule) not in links
        for name in (target, f"{target}-mac")
    }
    return (ours - keep) | dead
