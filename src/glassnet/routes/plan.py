"""Ways -> netstack operations: what stands in the kernel for a Node, what takes one state to another, and the VXLAN link itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from glassnet.netstack.model import Vxlan
from glassnet.netstack.ops import (
    AddAddress,
    AddRoute,
    AddVxlan,
    DelAddress,
    DelFdb,
    DelLink,
    DelNeighbour,
    DelRoute,
    MarkLink,
    NoLinkLocal,
    Operation,
    SetFdb,
    SetLink,
    SetNeighbour,
    SetVxlan,
)
from glassnet.routes.compute import Tunnelled, Ways
from glassnet.routes.model import MARK
from glassnet.routes.vpc import PROTOCOL

Entry = SetFdb | SetNeighbour | AddRoute
Key = tuple[str, str]  # what it is, and which: one of a key is in the kernel at a time
FDB, NEIGHBOUR, ROUTE = "fdb", "neighbour", "route"
STANDBY = 30_114  # the metric of a route that waits; larger than any that daemons use
_MAIN, _LOOSE = 254, 2


def key_of(entry: Entry) -> Key:
    """What an entry is known by. Routes of ours in other tables, or with a metric, have keys of their own: nobody wants them."""
    match entry:
        case SetFdb():
            return FDB, entry.hardware
        case SetNeighbour():
            return NEIGHBOUR, entry.address
    more = f" metric {entry.metric}" if entry.metric else ""
    return ROUTE, entry.destination + more + (f" table {entry.table}" if entry.table != _MAIN else "")


def standby(route: AddRoute) -> AddRoute:
    """The route that waits behind another's: nobody's packets go by it before the other has gone."""
    waiting: AddRoute = route._replace(metric=STANDBY)
    return waiting


def entries(ways: Ways, link: str) -> dict[Key, Entry]:
    """What stands in the kernel for a Node's ways; `link` is the VXLAN link."""
    found: list[Entry] = []
    for hop in ways.hops:
        if isinstance(hop, Tunnelled):
            found += [
                SetFdb(hop.mac, hop.remote, link),
                SetNeighbour(hop.gateway, hop.mac, link),
                AddRoute(hop.cidr, gateway=hop.gateway, dev=link, protocol=PROTOCOL, onlink=True),
            ]
        else:
            found.append(AddRoute(hop.cidr, gateway=hop.gateway, dev=hop.dev, protocol=PROTOCOL))
    return {key_of(entry): entry for entry in found}


def removal(entry: Entry) -> Operation:
    """The operation that takes an entry away, and no other's; fine when it has gone."""
    match entry:
        case SetFdb():
            return DelFdb(entry.hardware, entry.dev)
        case SetNeighbour():
            return DelNeighbour(entry.address, entry.dev)
    return DelRoute(
        entry.destination,
        entry.gateway,
        entry.dev,
        table=entry.table,
        protocol=entry.protocol,
        missing_ok=True,
        metric=entry.metric,
    )


def difference(
    keys: Iterable[Key], there: Mapping[Key, Entry], wanted: Mapping[Key, Entry]
) -> list[tuple[Key, Operation]]:
    """Operations that take what is there to what is wanted, for some keys, each with its key.

    First what routes stand on, then the routes (one that changes goes and comes in a row: never is another's replaced), then what no route
    needs any more.
    """
    before: list[tuple[Key, Operation]] = []
    routes: list[tuple[Key, Operation]] = []
    after: list[tuple[Key, Operation]] = []
    for key in keys:
        old, new = there.get(key), wanted.get(key)
        if old == new:
            continue
        if key[0] == ROUTE:
            routes += [(key, removal(old))] if old is not None else []
            routes += [(key, new)] if new is not None else []
        elif new is not None:  # these are replaced as they stand
            before.append((key, new))
        elif old is not None:
            after.append((key, removal(old)))
    return [*before, *routes, *after]


def link_operations(wanted: Vxlan, there: Vxlan | None) -> list[Operation]:
    """Operations that make the VXLAN link, or set right the one of ours that is there. What cannot be changed is made anew."""
    fixed = there is not None and (
        (there.vni, there.port, there.learning) != (wanted.vni, wanted.port, wanted.learning)
        or (there.local and (":" in there.local) != (":" in wanted.local))
        or (wanted.local in _ANY and there.local not in ("", *_ANY))
    )
    made: list[Operation] = []
    if there is None or fixed:
        made += [DelLink(wanted.name, missing_ok=True)] if fixed else []
        made += [
            AddVxlan(wanted.name, wanted.vni, wanted.port, wanted.local, wanted.hardware, wanted.mtu),
            NoLinkLocal(wanted.name),
            MarkLink(wanted.name, MARK),  # with the one that makes it: no link of ours is ever without
            SetLink(wanted.name, rp_filter=_LOOSE),
        ]
        made += [AddAddress(one, wanted.name, exist_ok=True) for one in wanted.addresses]
        return made
    if wanted.local not in _ANY and there.local != wanted.local:
        made.append(SetVxlan(wanted.name, wanted.local))
    if (there.hardware, there.mtu, there.up, there.rp_filter) != (wanted.hardware, wanted.mtu, True, _LOOSE):
        made.append(
            SetLink(
                wanted.name,
                up=True,
                mtu=wanted.mtu,
                hardware=wanted.hardware if there.hardware != wanted.hardware else None,
                rp_filter=_LOOSE,
            )
        )
    made += [DelAddress(one, wanted.name, missing_ok=True) for one in there.addresses if one not in wanted.addresses]
    made += [AddAddress(one, wanted.name, exist_ok=True) for one in wanted.addresses if one not in there.addresses]
    return made


_ANY = ("0.0.0.0", "::")


def link_addresses(cidrs: Iterable[str]) -> tuple[str, ...]:
    """The addresses of a node's VXLAN link: the first of each of its pod CIDRs, alone.

    What the node itself sends to pods elsewhere has it for its source, and they answer by the tunnel it came from. No pod gets it: it stands
    for the range (IPv4), or for the range's routers (IPv6; RFC 4291 section 2.6.1).
    """
    return tuple(sorted(f"{cidr.partition('/')[0]}/{128 if ':' in cidr else 32}" for cidr in cidrs))
