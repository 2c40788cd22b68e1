"""ptp: joins a container to the node by a veth pair of its own, each end with host routes: no bridge, all goes through the node's routing.

Sources: CNI SPEC.md; behaviour, keys and messages of the reference plugin (containernetworking/plugins, ptp). The container's address has the
prefix length that the address plugin gave, but what is in its network goes by way of the node too.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from ipaddress import ip_address, ip_interface
from typing import Any, NamedTuple

from glassnet.cni import ipam, masquerade, wiring
from glassnet.cni.effects import (
    Ensure,
    FindLink,
    ListAddresses,
    ListRoutes,
    Random,
    ReadSetting,
    Remove,
    Steps,
    Where,
    ask,
)
from glassnet.cni.errors import LIMITED_CONNECTIVITY, OTHER, CniError
from glassnet.cni.request import Call
from glassnet.cni.result import Interface, Ip, Result
from glassnet.cni.wiring import Undo
from glassnet.net.errors import KernelError
from glassnet.netstack.ops import PROTO_BOOT, AddAddress, AddRoute, AddVeth, Operation, SetLink

_TRIES = 10  # for a name nobody has
_HOST, _GLOBAL = 254, 0  # scopes of routes


class Conf(NamedTuple):
    """The plugin's keys."""

    ip_masq: bool
    mtu: int
    mac: str


def parse(call: Call) -> Conf:
    """Read the configuration. Raises ConfigError."""
    fields = call.fields
    conf = Conf(fields.flag("ipMasq"), fields.number("mtu", high=65535), wiring.wanted_hardware(call))
    masquerade.backend(call)
    for key in ("ipam", "runtimeConfig", "cni.dev/valid-attachments", "cni.dev/attachments"):
        fields.raw(key)
    fields.done()
    return conf


# -- ADD


def add(call: Call) -> Steps[Result]:
    """Join the container. Raises CniError; nothing is left then."""
    conf = parse(call)
    if not ipam.kind(call):
        raise CniError(OTHER, "no plugin name provided", 'ptp needs addresses: set "type" in "ipam"')
    given = yield from ipam.add(call)
    undo: Undo = [lambda: ipam.delete(call)]
    return (yield from wiring.all_or_nothing(_join(call, conf, given, undo), undo))


def _join(call: Call, conf: Conf, given: Result, undo: Undo) -> Steps[Result]:
    dns = wiring.read_dns(call, given)
    for one in given.ips:
        if not one.gateway:
            raise CniError(
                OTHER,
                f"failed to add IP addr to veth: {one.address} has no gateway",
                'give it one in "ipam" ("gateway"): the node takes that address at its end of the pair',
            )
    yield from wiring.forward(given.ips, {})
    host, container = yield from connect(call, conf.mac or wiring.hardware(given.ips[0].ip), conf.mtu, undo)
    name = f"net.ipv6.conf.{host.name}.accept_ra"  # a container must not tell the node its routes
    yield from ask(Ensure(Where.NODE, {}, {name: "0"}))
    yield from wiring.apply(Where.NODE, host_operations(host.name, given.ips))
    yield from wiring.prepare_ipv6(given.ips, call.ifname, duplicate_detection=False)
    inside = inside_operations(call.ifname, given.ips)
    yield from wiring.apply(Where.POD, [*inside, *wiring.route_operations(given.routes, given.ips, call.ifname)])
    yield from wiring.passing(host.name)
    if conf.ip_masq:
        addresses = [one.address for one in given.ips]
        undo.append(lambda: masquerade.delete(call, addresses))
        yield from masquerade.add(call, addresses)
    return Result((host, container), tuple(one._replace(interface=1) for one in given.ips), given.routes, dns)


def connect(
    call: Call, mac: str, mtu: int, undo: Undo, prefix: str = "veth", first: str = ""
) -> Steps[tuple[Interface, Interface]]:
    """Make the pair: its end on the node is called `first`, or where that is taken or "" `prefix` and hex digits. Raises CniError."""
    name = first
    for _ in range(_TRIES):
        random = yield from ask(Random(10))
        name, host_mac = name or f"{prefix}{random[:4].hex()}", wiring.host_hardware(random[4:])
        undo.append(lambda name=name: ask(Remove(Where.NODE, name)))  # type: ignore[misc]
        try:
            yield from wiring.apply(
                Where.NODE,
                [
                    AddVeth(name, call.ifname, call.pod, host_mac, mac, mtu),
                    SetLink(name, alias=wiring.alias(call)),
                ],
            )
        except KernelError as error:
            if error.number != errno.EEXIST:
                raise
            undo.pop()  # it is somebody else's
            name = ""
            if (yield from ask(FindLink(Where.POD, call.ifname))) is not None:
                raise CniError(OTHER, f"container veth name provided ({call.ifname}) already exists") from None
            continue
        return Interface(name, host_mac, mtu=mtu), Interface(call.ifname, mac, call.netns, mtu=mtu)
    raise CniError(OTHER, "failed to find a unique veth name")


def host_operations(name: str, ips: Sequence[Ip]) -> list[Operation]:
    """The node's end: up, with the gateways as addresses of their own and a route to each address of the container."""
    gateways = dict.fromkeys(f"{one.gateway}/{one.bits}" for one in ips)
    return [
        SetLink(name, up=True),
        *(AddAddress(gateway, name) for gateway in gateways),
        *(
            AddRoute(f"{one.ip}/{one.bits}", dev=name, protocol=PROTO_BOOT, scope=_HOST if one.family == 4 else _GLOBAL)
            for one in ips
        ),
    ]


def inside_operations(ifname: str, ips: Sequence[Ip]) -> list[Operation]:
    """The container's end: its addresses, a route to each gateway, and through it one to the rest of its network."""
    out: list[Operation] = [SetLink(ifname, up=True)]
    for one in ips:
        network = ip_interface(one.address).network
        out.append(AddAddress(one.address, ifname, noprefixroute=True))
        near = AddRoute(f"{one.gateway}/{one.bits}", dev=ifname, source=one.ip, protocol=PROTO_BOOT, exist_ok=True)
        out.append(near)
        if network.prefixlen < one.bits:
            out.append(AddRoute(str(network), one.gateway, ifname, source=one.ip, protocol=PROTO_BOOT, exist_ok=True))
    return out


# -- DEL and GC


def delete(call: Call) -> Steps[None]:
    """Take the container off; what is gone already is fine. It goes on after a failure, and tells all that failed. Raises GlassnetError."""
    addresses = yield from wiring.addresses_of(call)
    yield from wiring.each(wiring.unwire(call), _unmask(call, addresses), ipam.delete(call))


def _unmask(call: Call, addresses: list[str]) -> Steps[None]:
    if call.fields.flag("ipMasq"):
        yield from masquerade.delete(call, addresses)


def collect(call: Call) -> Steps[None]:
    """GC: take away every trace of containers that are not in the list. It goes on after a failure, and tells them all. Raises CniError."""
    call.valid()
    parts: list[Steps[Any]] = [wiring.collect(call)]
    if call.fields.flag("ipMasq"):
        parts.append(masquerade.collect(call))
    yield from wiring.each(*parts, ipam.collect(call))


# -- CHECK and STATUS


def check(call: Call) -> Steps[None]:
    """Both ends of the pair, addresses, routes, rules and leases are as the previous result says. Raises CniError."""
    conf = parse(call)
    told = wiring.previous(call)
    yield from ipam.check(call)
    yield from wiring.check_inside(call, told)
    inside = yield from ask(FindLink(Where.POD, call.ifname))
    name = next((one.name for one in told.interfaces if not one.sandbox), "")
    outside = (yield from ask(FindLink(Where.NODE, name))) if name else None
    if outside is None or inside is None or outside.peer != inside.index or outside.index != inside.peer:
        raise CniError(OTHER, f"ptp: Host interface name in prevResult: {name or 'none'} not found")
    if not outside.up:
        raise CniError(OTHER, f"ptp: Interface {name} is down")
    yield from _check_host(name, told)
    if conf.ip_masq and (missing := (yield from masquerade.check(call, [one.address for one in told.ips]))):
        raise CniError(OTHER, f"masquerade rules are missing: {missing[0]}")


def _check_host(name: str, told: Result) -> Steps[None]:
    """The node's end has the gateways, and the routes to the container lead to it."""
    there = {one.text for one in (yield from ask(ListAddresses(Where.NODE, name)))}
    routes = yield from ask(ListRoutes(Where.NODE))
    for one in told.ips:
        if one.gateway and one.gateway not in there:
            raise CniError(OTHER, f"ptp: interface {name} has lost the gateway's address {one.gateway}")
        value = int(ip_address(one.ip))
        mine = [route for route in routes if (route.network, route.length, route.bits) == (value, one.bits, one.bits)]
        if not any(hop.dev == name for route in mine for hop in route.hops):
            raise CniError(OTHER, f"ptp: the route to {one.ip} by {name} is missing on the node")


def status(call: Call) -> Steps[None]:
    """Addresses are left to give, and the node forwards. Raises CniError (50, 51)."""
    conf = parse(call)
    yield from ipam.status(call)
    if conf.ip_masq:
        yield from masquerade.status(call)
    name = "net.ipv4.ip_forward"
    if (yield from _joined(call)) and (yield from ask(ReadSetting(Where.NODE, name))) == "0":
        raise CniError(LIMITED_CONNECTIVITY, f"{name} is 0: containers reach nobody beyond this node")


def _joined(call: Call) -> Steps[bool]:
    """Whether a container of the network has an IPv4 address by one of our pairs."""
    for link in (yield from wiring.pairs(call)):
        there = yield from ask(ListAddresses(Where.NODE, link.name))
        if any(one.bits == 32 for one in there):
            return True
    return False
