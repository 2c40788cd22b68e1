"""What bridge and ptp have in common: hardware addresses, what a container's interface gets, leaving nothing behind.

Source: containernetworking/plugins, pkg/ipam (routes without a gateway take that of their family) and pkg/ip.
Hardware addresses follow from IP addresses (0a:58 and the address), as the reference plugins made them up to 0.7: pods are easy to tell
in captures, and an address that comes back at once does not meet stale neighbour entries. Those of IPv6 addresses are a hash's bytes: the last
four of an address tell the pods of two networks on one bridge not apart.

An address is usable as soon as ADD has returned: IPv6 addresses come without duplicate address detection, or ADD waits for its end; and ADD
waits until the kernel lets frames through the pair, which it does some time after both ends are up (in a queue of its own, linkwatch).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, TypeVar

from glassnet.cni import host_local, ipam, result, static
from glassnet.cni.effects import (
    Apply,
    Ensure,
    FindLink,
    Held,
    LinkState,
    ListAddresses,
    ListLinks,
    ListRoutes,
    Remove,
    Sleep,
    Steps,
    Where,
    ask,
)
from glassnet.cni.errors import OTHER, CniError, ConfigError
from glassnet.cni.request import Attachment, Call
from glassnet.cni.result import Dns, Interface, Ip, Result, RouteEntry
from glassnet.net.errors import GlassnetError
from glassnet.netstack.model import Link
from glassnet.netstack.ops import PROTO_BOOT, AddAddress, AddRoute, Operation, SetLink

T = TypeVar("T")
Undo = list[Callable[[], Steps[Any]]]
DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}").fullmatch


_PATIENCE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.0)  # seconds
_DETECTION = 10.0  # seconds for duplicate address detection


def hardware(address: str) -> str:
    """The MAC of an address: 0a:58 and its four bytes, or four of a hash of an IPv6 address."""
    packed = ip_address(address).packed
    return "0a:58:" + (packed if len(packed) == 4 else hashlib.sha256(packed).digest()[:4]).hex(":")


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
    """What the node's end of a pair is marked with: whose it is. GC finds links by it, but for names that do not fit (254 bytes, IFALIASZ)."""
    mark = f"cni {call.name} {call.container_id} {call.ifname}"
    return mark if len(mark.encode()) < 255 else f"cni {hashlib.sha256(mark.encode()).hexdigest()}"


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


def read_dns(call: Call, given: Result) -> Dns:
    """The resolver's settings: those of the configuration if it has any, else those of the address plugin. Raises ConfigError."""
    fields = call.fields.table("dns")
    own = result.read_dns(fields)
    fields.done()
    return own if any(own) else given.dns


def interface_operations(ifname: str, ips: Sequence[Ip], duplicate_detection: bool = False) -> list[Operation]:
    """The container's interface goes up with its addresses."""
    return [
        SetLink(ifname, up=True, notify=True),
        *(AddAddress(one.address, ifname, nodad=not duplicate_detection) for one in ips),
    ]


def prepare_ipv6(ips: Sequence[Ip], dev: str, duplicate_detection: bool) -> Steps[None]:
    """Before a container's interface goes up: IPv6 is on if it gets such addresses, neighbours will be told of them, and the address the
    kernel makes itself is usable at once too, or looked for twice."""
    if not any(one.family == 6 for one in ips):
        return
    place = f"net.ipv6.conf.{dev.replace('.', '/')}"
    on = {"net.ipv6.conf.lo.disable_ipv6": "0", f"{place}.disable_ipv6": "0"}
    detection = {f"{place}.accept_dad": "1", f"{place}.enhanced_dad": "1"}
    more = detection if duplicate_detection else {f"{place}.accept_dad": "0"}
    yield from ask(Ensure(Where.POD, on, {**more, f"{place}.ndisc_notify": "1"}))


def detected(ips: Sequence[Ip], dev: str) -> Steps[None]:
    """Wait until it is known that nobody else has the container's IPv6 addresses. Raises CniError when somebody has, or nobody knows in time."""
    if not any(one.family == 6 for one in ips):
        return
    waited, pause = 0.0, 0.05
    while True:
        there = yield from ask(ListAddresses(Where.POD, dev))
        if twice := [one.text for one in there if one.duplicate]:
            raise CniError(
                OTHER, f"link {dev} has address {twice[0]} in DADFAILED state", "another host has this address"
            )
        if not any(one.tentative for one in there):
            return
        if waited >= _DETECTION:
            raise CniError(OTHER, f"link {dev} still has tentative addresses after {_DETECTION:.0f} seconds")
        yield from ask(Sleep(pause))
        waited += pause


def passing(name: str) -> Steps[None]:
    """Wait until frames pass the pair whose end on the node has this name. Raises CniError when they do not."""
    for pause in (*_PATIENCE, 0.0):
        state = yield from ask(LinkState(Where.NODE, name))
        if state == "up":
            return
        if not state:
            break
        yield from ask(Sleep(pause))
    raise CniError(OTHER, f"bridge port in error state: {state or 'gone'}", f"the port is {name}")


def forward(ips: Sequence[Ip], optional: dict[str, str]) -> Steps[None]:
    """Let the node forward the families of the addresses; `optional` are other sysctls of the node, which may be absent."""
    names = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
    values = {names[family]: "1" for family in sorted({one.family for one in ips})}
    if values or optional:
        yield from ask(Ensure(Where.NODE, values, optional))


def all_or_nothing(work: Steps[T], undo: Undo) -> Steps[T]:
    """Work that puts into `undo` how to take back what it does; when it fails, or is stopped, that is done, the last first."""
    try:
        return (yield from work)
    except BaseException:
        yield from tried(*reversed(undo))
        raise


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


def check_inside(call: Call, told: Result, up: bool = True) -> Steps[Interface]:
    """The container has the interface, addresses and routes of a result. Raises CniError naming the first that is off."""
    mine = told.inside(call.ifname)
    if mine is None or mine.sandbox != call.netns:
        raise CniError(
            OTHER, f"Sandbox in prevResult {mine.sandbox if mine else ''} doesn't match configured netns: {call.netns}"
        )
    link = yield from ask(FindLink(Where.POD, call.ifname))
    if link is None:
        raise CniError(OTHER, f"Container Interface name in prevResult: {call.ifname} not found", f"in {call.netns}")
    if mine.mac and link.hardware != mine.mac:
        raise CniError(OTHER, f"Interface {call.ifname} Mac {link.hardware} doesn't match prevResult Mac: {mine.mac}")
    if up and not link.up:
        raise CniError(OTHER, f"Interface {call.ifname} in {call.netns} is down")
    there = {f"{one.text}/{one.length}" for one in (yield from ask(ListAddresses(Where.POD, call.ifname)))}
    place = told.interfaces.index(mine)
    for ip in told.ips:
        if ip.interface in (None, place) and ip.address not in there:
            raise CniError(
                OTHER, f"Failed to match addr {ip.address} on interface {call.ifname}", f"it has {sorted(there)}"
            )
    yield from _check_routes(call, told)
    return mine


def _check_routes(call: Call, told: Result) -> Steps[None]:
    found = yield from ask(ListRoutes(Where.POD))
    there = {(one.network, one.length, one.bits, hop.dev) for one in found for hop in one.hops}
    for route in told.routes:
        network = ip_network(route.dst, strict=False)
        key = (int(network.network_address), network.prefixlen, network.max_prefixlen, call.ifname)
        if route.table in (-1, 254) and key not in there:
            raise CniError(OTHER, f"Expected Route {route.dst} not found in routing table", f"of {call.netns}")


def apply(where: Where, operations: Sequence[Operation]) -> Steps[None]:
    """Carry operations out, if there are any."""
    if operations:
        yield from ask(Apply(where, tuple(operations)))


# -- DEL and GC


def addresses_of(call: Call) -> Steps[list[str]]:
    """The addresses of a container, for DEL: as ADD told, or where it did not come to its end what the leases or the configuration tell; none
    where nobody knows any more."""
    if call.previous and call.previous.ips:
        return [one.address for one in call.previous.ips]
    try:
        return (yield from _recorded(call))
    except GlassnetError:  # giving the addresses back, which comes next, tells what is wrong
        return []


def _recorded(call: Call) -> Steps[list[str]]:
    kind = ipam.kind(call)
    if kind == "host-local":
        mine = yield from ask(Held(host_local.place_of(call), call.attachment))
        return [f"{ip}/{128 if ':' in ip else 32}" for ip in mine]
    if kind == "static":
        return [one.address for one in (yield from static.add(call)).ips]
    there = (yield from ask(ListAddresses(Where.POD, call.ifname))) if call.pod >= 0 else ()
    return [f"{one.text}/{one.length}" for one in there if one.scope == "global"]


def unwire(call: Call) -> Steps[None]:
    """Take the container's interface away, and the node's end with it."""
    if call.pod >= 0:
        yield from ask(Remove(Where.POD, call.ifname))
        return
    for link in (yield from pairs(call)):  # the namespace is gone by name, something may hold it still
        if link.alias == alias(call):
            yield from ask(Remove(Where.NODE, link.name))


def pairs(call: Call) -> Steps[list[Link]]:
    """The node's ends of the pairs of a network."""
    found = yield from ask(ListLinks(Where.NODE))
    return [link for link in found if (whose := owner(link.alias)) and whose[0] == call.name]


def collect(call: Call) -> Steps[list[str]]:
    """GC: take away the pairs of attachments of this network that are not in the list; what could not be done, as text."""
    valid = call.valid()
    problems: list[str] = []
    for link in (yield from pairs(call)):
        found = owner(link.alias)
        if found and Attachment(*found[1:]) not in valid:
            try:
                yield from ask(Remove(Where.NODE, link.name))
            except GlassnetError as error:
                problems.append(str(error))
    return problems


def each(*parts: Steps[Any]) -> Steps[None]:
    """Do all of them, then tell what failed: the one error as it is, several in one. Raises GlassnetError."""
    problems: list[GlassnetError] = []
    for part in parts:
        try:
            found = yield from part
            problems += [CniError(OTHER, text) for text in found or ()]
        except GlassnetError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise CniError(OTHER, "; ".join(str(one) for one in problems))
