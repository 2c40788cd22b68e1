"""ipMasq by nftables: one rule for each address, in one table for all networks, as the reference plugins make them.

Source: containernetworking/plugins, pkg/ip (ipmasq_nftables): table, chains and comments; either side can take the other's rules away. A rule
belongs to the attachment whose hash its comment begins with. Rules are written and read by netlink: the nft program is not needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from glassnet.cni.effects import NftChange, NftListing, Steps, ask
from glassnet.cni.request import Attachment, Call
from glassnet.ruleset import nft_expressions as x
from glassnet.ruleset import nft_messages as m
from glassnet.ruleset import nft_reader as reader

TABLE, CHECKS, HOOK = "cni_plugins_masquerade", "masq_checks", "postrouting"
_POSTROUTING, _SRCNAT = 4, 100
_MULTICAST = ("224.0.0.0/4", "ff00::/8")
_NOTES = (
    "Masquerading for plugins from github.com/containernetworking/plugins",
    "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet",
)


def _hash(text: str) -> str:
    return hashlib.sha512(text.encode()).hexdigest()[:16]


def mark(network: str, one: Attachment) -> str:
    """What the comments of an attachment's rules begin with."""
    return f"{_hash(network)}-{_hash(f'{one.ifname}:{one.container_id}')}"


def note(network: str, one: Attachment) -> str:
    """The comment of an attachment's rules."""
    names = f"net: {network}, if: {one.ifname}, id: {one.container_id}".replace('"', "")
    return f"{mark(network, one)}, {names}"


def added(network: str, one: Attachment, addresses: Iterable[str]) -> list[m.Message]:
    """Messages that put the rules for an attachment's addresses (with prefix lengths) in place."""
    place = (m.INET, TABLE)
    out = [
        m.new_table(*place, _NOTES[0]),
        m.new_chain(*place, CHECKS, _NOTES[1]),
        m.base_chain(*place, HOOK, "nat", _POSTROUTING, _SRCNAT),
        m.flush_chain(*place, HOOK),
    ]
    for group in _MULTICAST:
        network_ = ip_interface(group)
        out.append(m.new_rule(*place, HOOK, [*_family(network_), *_within(network_, x.EQ), x.goes(m.RETURN)]))
    out.append(m.new_rule(*place, HOOK, [x.goes(m.GOTO, CHECKS)]))
    return out + rules(network, one, addresses)


def rules(network: str, one: Attachment, addresses: Iterable[str]) -> list[m.Message]:
    """The attachment's own rules."""
    out = []
    for address in map(ip_interface, addresses):
        offset = 12 if address.version == 4 else 8
        source = x.payload(x.NETWORK, offset, address.max_prefixlen // 8)
        expressions = [*_family(address), source, x.compare(x.EQ, address.ip.packed), *_within(address, x.NEQ)]
        expressions.append(x.masquerade(0))
        out.append(m.new_rule(m.INET, TABLE, CHECKS, expressions, note(network, one)))
    return out


def _family(address: IPv4Interface | IPv6Interface) -> list[bytes]:
    return [x.meta(x.NFPROTO), x.compare(x.EQ, bytes([m.IPV4 if address.version == 4 else m.IPV6]))]


def _within(address: IPv4Interface | IPv6Interface, operator: int) -> list[bytes]:
    """Whether a packet goes to the network of an address; whole bytes are compared where the prefix allows, as nft(8) does it."""
    offset = 16 if address.version == 4 else 24
    network, length = address.network, address.network.prefixlen
    if length and length % 8 == 0:
        packed = network.network_address.packed[: length // 8]
        return [x.payload(x.NETWORK, offset, length // 8), x.compare(operator, packed)]
    whole = x.payload(x.NETWORK, offset, address.max_prefixlen // 8)
    masked = x.bits(network.netmask.packed, bytes(address.max_prefixlen // 8))
    return [whole, masked, x.compare(operator, network.network_address.packed)]


def add(call: Call, addresses: Iterable[str]) -> Steps[None]:
    """Put rules for a container's addresses in place."""
    yield from ask(NftChange(tuple(added(call.name, call.attachment, addresses))))


def delete(call: Call) -> Steps[bool]:
    """Take a container's rules away, whatever its addresses; whether there were any."""
    begin = mark(call.name, call.attachment)
    listing = yield from ask(NftListing(m.INET, TABLE, CHECKS))
    return (yield from _remove([rule for rule in listing.rules if rule.note.startswith(begin)]))


def _remove(gone: Sequence[reader.Rule]) -> Steps[bool]:
    if gone:
        yield from ask(NftChange(tuple(m.delete_rule(m.INET, TABLE, CHECKS, rule.handle) for rule in gone)))
    return bool(gone)


def check(call: Call, addresses: Iterable[str]) -> Steps[list[str]]:
    """What is missing, as text."""
    listing = yield from ask(NftListing(m.INET, TABLE))
    begin = mark(call.name, call.attachment)
    mine = {rule.words for rule in listing.rules if rule.chain == CHECKS and rule.note.startswith(begin)}
    missing = [
        f"inet {TABLE} {CHECKS}: ip saddr {ip_interface(address).ip} … masquerade"
        for address in addresses
        if reader.rule(rules(call.name, call.attachment, [address])[0][20:]).words not in mine
    ]
    if not any(rule.chain == HOOK and f"goto {CHECKS}" in rule.words for rule in listing.rules):
        missing.append(f"inet {TABLE} {HOOK}: goto {CHECKS}")
    return missing


def collect(call: Call) -> Steps[None]:
    """GC: take away the rules of this network's attachments that are not in the list."""
    network, valid = f"{_hash(call.name)}-", {mark(call.name, one) for one in call.valid()}
    listing = yield from ask(NftListing(m.INET, TABLE, CHECKS))
    yield from _remove(
        [rule for rule in listing.rules if rule.note.startswith(network) and rule.note[:33] not in valid]
    )
