"""What bridge and ptp have in common: hardware addresses, what a container's interface gets, leaving nothing behind.

Source: containernetworking/plugins, pkg/ipam (routes without a gateway take that of their family) and pkg/ip.
Hardware addresses follow from IP addresses (0a:58 and the address), as the reference plugins made them up to 0.7: pods are easy to tell
in captures, and an address that comes back at once does not meet stale neighbour entries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from glassnet.cni.effects import (
    Apply,
    FindLink,
    ListAddresses,
    ListRoutes,
    ReadSetting,
    Steps,
    Where,
    WriteSettings,
    ask,
)
from glassnet.cni.errors import OTHER, CniError, ConfigError
from glassnet.cni.request import Call
from glassnet.cni.result import Interface, Ip, Result, RouteEntry
from glassnet.net.errors import GlassnetError
from glassnet.netstack.ops import PROTO_BOOT, AddAddress, AddRoute, Operation, SetLink

DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}").fullmatch


def hardware(address: str) -> str:
    """The MAC of an address: 0a:58 and its four bytes, the last four of an IPv6 address."""
    return "0a:58:" + ip_address(address).packed[-4:].hex(":")


def host_hardware(random: bytes) -> str:
    """The MAC of a pair's end on the node, out of six random bytes: locally administered, no group address (IEEE 802)."""
    return ":".join(f"{byte:02x}" for byte in (random[0] & 0xFE | 0x02, *random[1:6]))


def wanted_hardware(call: Call) -> str:
    """The MAC that is asked for: by the runtime (capability mac), `args.cni.mac` or CNI_ARGS; "" for none. Raises ConfigError."""
    found = (
        call.runtime.text("mac") or call.fields.table("args").table("cni").text("mac") or call.args.get("MAC", "")
    )  # fmt: skip
    if found and not _MAC(found):
        raise ConfigError("mac", f"{found!r}: want six bytes such as 0a:58:0a:c8:00:02")
    return found.lower()


def alias(call: Call) -> str:
    """What the node's end of a pair is marked with: whose it is. GC finds links by it. (At most 255 bytes, IFALIASZ.)"""
    return f"cni {call.name} {call.container_id} {call.ifname}"[:255]


def owner(link_alias: str) -> tuple[str, str, str] | None:
    """Network, container and interface of a link's mark; None when it is not ours."""
    words = link_alias.split(" ")
    return (words[1], words[2], words[3]) if len(words) == 4 and words[0] == "cni" else None


def with_gateways(ips: Sequence[Ip]) -> tuple[Ip, ...]:
    """Addresses, each with a gateway: the first of the network where none is given."""
    return tuple(one if one.gateway else one._replace(gateway=str(ip_interface(one.address).network[1])) for one in ips)


def default_routes(routes: Sequence[RouteEntry], ips: Sequence[Ip]) -> tuple[RouteEntry, ...]:
    """The routes and, for each family of the addresses that has none, a default route through its gateway."""
    out = list(routes)
    for family, destination in DEFAULT.items():
        mine = next((one for one in ips if one.family == family), None)
        if mine is not None and not any(one.dst == destination for one in out):
            out.append(RouteEntry(destination, mine.gateway))
    return tuple(out)


def route_operations(routes: Sequence[RouteEntry], ips: Sequence[Ip], dev: str) -> list[Operation]:
    """Routes as operations; one that is there already comes first and stays."""
    out: list[Operation] = []
    for one in routes:
        gateway = one.gw or next((ip.gateway for ip in ips if ip.family == one.family), "")
        out.append(
            AddRoute(
                destination_of(one.dst),
                gateway=gateway,
                dev=dev,
                protocol=PROTO_BOOT,
                metric=one.priority,
                mtu=one.mtu,
                advmss=one.advmss,
                table=one.table if one.table >= 0 else 254,
                scope=one.scope,
                exist_ok=True,
            )
        )
    return out


def destination_of(dst: str) -> str:
    """A destination as `ip route` names it."""
    return "default" if dst == "0.0.0.0/0" else str(ip_network(dst, strict=False))


def interface_operations(ifname: str, ips: Sequence[Ip], duplicate_detection: bool = False) -> list[Operation]:
    """The container's interface goes up with its addresses."""
    return [
        SetLink(ifname, up=True),
        *(AddAddress(one.address, ifname, nodad=not duplicate_detection) for one in ips),
    ]


def allow_ipv6(ips: Sequence[Ip], where: Where, dev: str) -> Steps[None]:
    """An interface that gets IPv6 addresses must not have the family switched off (net.ipv6.conf.DEV.disable_ipv6)."""
    if any(one.family == 6 for one in ips):
        name = f"net.ipv6.conf.{dev.replace('.', '/')}.disable_ipv6"
        if (yield from ask(ReadSetting(where, name))) == "1":
            yield from ask(WriteSettings(where, {name: "0"}))


def forward(ips: Sequence[Ip]) -> Steps[None]:
    """Let the node forward the families of the addresses."""
    names = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
    for family in sorted({one.family for one in ips}):
        if (yield from ask(ReadSetting(Where.NODE, names[family]))) != "1":
            yield from ask(WriteSettings(Where.NODE, {names[family]: "1"}))


def tried(*undoing: Callable[[], Steps[Any]]) -> Steps[None]:
    """Undo what there is to undo: each on its own, for the error that led here is the one to be told."""
    for each in undoing:
        try:
            yield from each()
        except GlassnetError:
            continue


# -- CHECK


def previous(call: Call) -> Result:
    """The result that CHECK compares with. Raises CniError without one."""
    if call.previous is None:
        raise CniError(7, "Required prevResult missing")
    return call.previous


def check_inside(call: Call, result: Result) -> Steps[Interface]:
    """The container has the interface, addresses and routes of a result. Raises CniError naming the first that is off."""
    mine = result.inside(call.ifname)
    if mine is None or mine.sandbox != call.netns:
        raise CniError(
            OTHER, f"Sandbox in prevResult {mine.sandbox if mine else ''} doesn't match configured netns: {call.netns}"
        )
    link = yield from ask(FindLink(Where.POD, call.ifname))
    if link is None:
        raise CniError(OTHER, f"Container Interface name in prevResult: {call.ifname} not found", f"in {call.netns}")
    if mine.mac and link.hardware != mine.mac:
        raise CniError(OTHER, f"Interface {call.ifname} Mac {link.hardware} doesn't match prevResult Mac: {mine.mac}")
    if not link.up:
        raise CniError(OTHER, f"Interface {call.ifname} in {call.netns} is down")
    there = {f"{one.text}/{one.length}" for one in (yield from ask(ListAddresses(Where.POD, call.ifname)))}
    place = result.interfaces.index(mine)
    for ip in result.ips:
        if ip.interface in (None, place) and ip.address not in there:
            raise CniError(
                OTHER, f"Failed to match addr {ip.address} on interface {call.ifname}", f"it has {sorted(there)}"
            )
    yield from _check_routes(call, result)
    return mine


def _check_routes(call: Call, result: Result) -> Steps[None]:
    found = yield from ask(ListRoutes(Where.POD))
    there = {(one.network, one.length, one.bits, hop.dev) for one in found for hop in one.hops}
    for route in result.routes:
        network = ip_network(route.dst, strict=False)
        key = (int(network.network_address), network.prefixlen, network.max_prefixlen, call.ifname)
        if route.table in (-1, 254) and key not in there:
            raise CniError(OTHER, f"Expected Route {route.dst} not found in routing table", f"of {call.netns}")


def apply(where: Where, operations: Sequence[Operation]) -> Steps[None]:
    """Carry operations out, if there are any."""
    if operations:
        yield from ask(Apply(where, tuple(operations)))
