"""host-local: which addresses a container gets. On disk a lease is a file named by the address, holding container ID and interface.

Source: behaviour and files of the reference plugin (containernetworking/plugins, host-local): each set of ranges gives one address, round
robin after the last one it gave; `last_reserved_ip.N` remembers that one, `lock` is locked with flock(2) while addresses change hands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from glassnet.cni.effects import Held, Leases, ReadFile, Release, Reserve, Steps, ask
from glassnet.cni.errors import INVALID_CONFIG, NOT_AVAILABLE, OTHER, CniError, ConfigError
from glassnet.cni.fields import Address, Fields, Network, read_address, shown
from glassnet.cni.request import Attachment, Call
from glassnet.cni.result import VERSIONS, Dns, Ip, Result, RouteEntry, read_routes
from glassnet.net.errors import GlassnetError

LAST, LOCK = "last_reserved_ip.", "lock"
DATA = "/var/lib/cni/networks"


class Range(NamedTuple):
    """Addresses to give out: those of `subnet` from `start` to `end`, without `gateway`."""

    subnet: Network
    start: Address
    end: Address
    gateway: Address

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"


class Ipam(NamedTuple):
    """The configuration: sets of ranges, each of which gives one address; where leases lie; what else goes into the result."""

    sets: tuple[tuple[Range, ...], ...]
    place: str
    routes: tuple[RouteEntry, ...] = ()
    resolv_conf: str = ""
    wanted: tuple[str, ...] = ()


class Exhausted(GlassnetError):
    """A set of ranges has no free address left, or not the one that was asked for."""


# -- configuration


def parse(call: Call) -> Ipam:
    """Read the `ipam` part of a call's configuration, and what CNI_ARGS and the runtime ask for. Raises ConfigError."""
    fields = call.fields.table("ipam")
    fields.raw("type")
    entries = [*_sets(call.runtime, "ipRanges"), *_older(fields), *_sets(fields, "ranges")]
    sets = [_set(one, fields) for one in entries]
    if not sets:
        raise fields.error("ranges", "no IP ranges specified")
    _apart(sets, fields)
    families = [ranges[0].subnet.version for ranges in sets]
    if call.version in VERSIONS[:2] and len(set(families)) < len(families):
        raise fields.error("ranges", f"CNI version {call.version} does not support more than 1 address per family")
    place = f"{fields.text('dataDir') or DATA}/{call.name}"
    ipam = Ipam(tuple(sets), place, read_routes(fields, "routes"), fields.text("resolvConf"), _wanted(call))
    fields.done()
    return ipam


def ranges_of(plugin: Mapping[str, Any]) -> tuple[tuple[Range, ...], ...]:
    """The sets of ranges in a plugin's configuration, as a reader of files sees them. Raises ConfigError."""
    fields = Fields(plugin).table("ipam")
    return tuple(_set(entry, fields) for entry in [*_older(fields), *_sets(fields, "ranges")])


def _older(fields: Fields) -> list[list[Fields]]:
    """The range that stands in the open, as it did before there were sets."""
    open_range = {key: fields.raw(key) for key in ("subnet", "rangeStart", "rangeEnd", "gateway")}
    return [[Fields(open_range, fields.where)]] if open_range["subnet"] is not None else []


def _sets(fields: Fields, key: str) -> list[list[Fields]]:
    out = []
    for ranges in fields.items(key):
        if not isinstance(ranges, list) or not ranges:
            raise fields.error(key, "want a list of sets, each a list of ranges")
        out.append([fields.entry(key, one) for one in ranges])
    return out


def _set(entries: list[Fields], fields: Fields) -> tuple[Range, ...]:
    ranges = tuple(_range(entry) for entry in entries)
    for number, one in enumerate(ranges):
        if one.subnet.version != ranges[0].subnet.version:
            raise fields.error("ranges", f"mixed address families in a set: {ranges[0].subnet} and {one.subnet}")
        if clash := next((other for other in ranges[:number] if _overlap(one, other)), None):
            raise fields.error("ranges", f"subnet {one.subnet} overlaps with {clash.subnet}: {one} and {clash}")
    return ranges


def _apart(sets: list[tuple[Range, ...]], fields: Fields) -> None:
    for number, ranges in enumerate(sets):
        for other in (each for earlier in sets[:number] for each in earlier):
            if clash := next((one for one in ranges if _overlap(one, other)), None):
                raise fields.error("ranges", f"range set {number} overlaps with an earlier one: {clash} and {other}")


def _overlap(one: Range, other: Range) -> bool:
    return (
        one.subnet.version == other.subnet.version
        and int(one.start) <= int(other.end)
        and int(other.start) <= int(one.end)
    )


def _range(fields: Fields) -> Range:
    subnet = fields.network("subnet")
    if subnet is None:
        raise fields.error("subnet", 'want a network such as "10.200.0.0/24"')
    if subnet.num_addresses < 4:
        raise fields.error("subnet", f"network {subnet} too small to allocate from")
    last = subnet[-2] if subnet.version == 4 else subnet[-1]
    found: dict[str, Address] = {}
    for key, default in (("rangeStart", subnet[1]), ("rangeEnd", last), ("gateway", subnet[1])):
        address = fields.address(key) or default
        if address.version != subnet.version or (address not in subnet and key != "gateway"):
            raise fields.error(key, f"{address} not in network {subnet}")
        found[key] = address
    fields.done()
    if int(found["rangeStart"]) > int(found["rangeEnd"]):
        raise fields.error("rangeStart", f"{found['rangeStart']} comes after rangeEnd {found['rangeEnd']}")
    return Range(subnet, found["rangeStart"], found["rangeEnd"], found["gateway"])


def _wanted(call: Call) -> tuple[str, ...]:
    """The addresses that are asked for: by CNI_ARGS, `args.cni.ips` and the capability `ips`. Raises ConfigError."""
    texts = [call.args["IP"]] if call.args.get("IP") else []
    texts += call.fields.table("args").table("cni").texts("ips") + call.runtime.texts("ips")
    found = []
    for text in texts:
        try:
            found.append(str(read_address(text.partition("/")[0])))
        except ValueError:
            raise ConfigError("ips", f"{shown(text)}: want an IP address") from None
    return tuple(dict.fromkeys(found))


# -- decisions on leases


def choose(
    ranges: tuple[Range, ...],
    number: int,
    taken: Collection[str],
    last: str,
    wanted: str = "",
    gateways: Collection[Address] = (),
) -> str:
    """The address that set `number` gives: `wanted` if it is free, or the next after `last` (the last one given, "" for none).

    Nobody gets the gateway of one of the ranges, nor one of `gateways` (those of the other sets). Raises Exhausted in the reference plugin's words.
    """
    kept = {*gateways, *(one.gateway for one in ranges)}
    if wanted:
        if problem := _refusal(ip_address(wanted), ranges, kept, taken):
            raise Exhausted(f"failed to allocate for range {number}: {problem}")
        return wanted
    for _, address in _after(ranges, last):
        if address not in kept and (text := str(address)) not in taken:
            return text
    raise Exhausted(f"failed to allocate for range {number}: no IP addresses available in range set: {_spans(ranges)}")


def _spans(ranges: Sequence[Range]) -> str:
    return ",".join(str(one) for one in ranges)


def _refusal(address: Address, ranges: Sequence[Range], kept: Collection[Address], taken: Collection[str]) -> str:
    if address in kept:
        return f"requested ip {address} is subnet's gateway"
    if not lies_in(ranges, str(address)):
        return f"requested IP address {address} is not in range set {_spans(ranges)}"
    return (
        f"requested IP address {address} is not available in range set {_spans(ranges)}"
        if str(address) in taken
        else ""
    )


def _after(ranges: tuple[Range, ...], last: str) -> Iterator[tuple[Range, Address]]:
    """Every address of a set once, from the one after `last` on; from the beginning when `last` is in no range."""
    begin, number = 0, int(ranges[0].start)
    if is_lease(last):
        found = ip_address(last)
        for index, one in enumerate(ranges):
            if found.version == one.subnet.version and int(one.start) <= int(found) <= int(one.end):
                begin, number = index, int(found) + 1
    for step in range(len(ranges) + 1):
        one = ranges[(begin + step) % len(ranges)]
        make = type(one.start)
        low = number if step == 0 else int(one.start)
        high = number - 1 if step == len(ranges) else int(one.end)
        for value in range(low, high + 1):
            yield one, make(value)


def assign(sets: Sequence[tuple[Range, ...]], wanted: Sequence[str]) -> tuple[str, ...]:
    """For each set the wanted address that lies in it, "" for none. Raises CniError for one that lies in none, or a second one of a set."""
    out, left = [], list(wanted)
    for ranges in sets:
        mine = next((text for text in left if lies_in(ranges, text)), "")
        if mine:
            left.remove(mine)
        out.append(mine)
    if left:
        places = "; ".join(_spans(ranges) for ranges in sets)
        raise CniError(
            INVALID_CONFIG,
            f"failed to allocate all requested IPs: {' '.join(left)}",
            f"each range set gives one address: {places}",
        )
    return tuple(out)


def _holds(one: Range, text: str) -> bool:
    address = ip_address(text)
    return address.version == one.subnet.version and int(one.start) <= int(address) <= int(one.end)


def lease_text(container_id: str, ifname: str) -> str:
    """Content of a lease file."""
    return f"{container_id}\r\n{ifname}"


def read_lease(text: str) -> Attachment:
    """Whose a lease is; a file without interface is from an old plugin."""
    container_id, _, ifname = text.strip().partition("\n")
    return Attachment(container_id.strip(), ifname.strip())


def is_lease(name: str) -> bool:
    """True for a lease's file name, false for the others that lie beside them."""
    try:
        return str(read_address(name)) == name
    except ValueError:
        return False


def lies_in(ranges: Sequence[Range], address: str) -> bool:
    """Whether a set of ranges has an address."""
    return any(_holds(one, address) for one in ranges)


# -- the plugin


def add(call: Call) -> Steps[Result]:
    """Take an address of each set. Raises CniError."""
    ipam = parse(call)
    assign(ipam.sets, ipam.wanted)
    dns = yield from _dns(ipam)
    try:
        addresses = yield from ask(Reserve(ipam.place, ipam.sets, ipam.wanted, call.attachment))
    except Exhausted as error:
        raise CniError(OTHER, str(error)) from None
    return Result(ips=tuple(ip_of(ipam, address) for address in addresses), routes=ipam.routes, dns=dns)


def ip_of(ipam: Ipam, address: str) -> Ip:
    """An address of the network with its prefix length and gateway. Raises CniError when no range has it."""
    home = next((one for ranges in ipam.sets for one in ranges if _holds(one, address)), None)
    if home is None:
        raise CniError(OTHER, f"{address} is in no range of the network")
    return Ip(f"{address}/{home.subnet.prefixlen}", str(home.gateway))


def _dns(ipam: Ipam) -> Steps[Dns]:
    if not ipam.resolv_conf:
        return Dns()
    text = yield from ask(ReadFile(ipam.resolv_conf))
    if text is None:
        raise CniError(OTHER, f"open {ipam.resolv_conf}: no such file or directory")
    return parse_resolv_conf(text)


def parse_resolv_conf(text: str) -> Dns:
    """A resolv.conf(5): the last `domain` counts; `search` and `options` add up, as in the reference plugin."""
    found: dict[str, list[str]] = {"nameserver": [], "domain": [], "search": [], "options": []}
    for line in text.splitlines():
        words = line.split()
        if words and not line.startswith((";", "#")) and len(words) > 1 and words[0] in found:
            found[words[0]] += words[1:]
    domain = found["domain"][-1] if found["domain"] else ""
    return Dns(tuple(found["nameserver"]), domain, tuple(found["search"]), tuple(found["options"]))


def delete(call: Call) -> Steps[None]:
    """Give back what the container's interface holds."""
    place = place_of(call)
    mine = yield from ask(Held(place, call.attachment))
    if mine:
        yield from ask(Release(place, mine))


def place_of(call: Call) -> str:
    """Where a network's leases lie: all that DEL and GC read of a configuration, so that no error in it keeps an address."""
    return f"{call.fields.table('ipam').text('dataDir') or DATA}/{call.name}"


def check(call: Call) -> Steps[None]:
    """The container holds an address of each set, and those of the previous result. Raises CniError."""
    ipam = parse(call)
    mine = yield from ask(Held(ipam.place, call.attachment))
    if not mine:
        raise CniError(OTHER, f"host-local: Failed to find address added by container {call.container_id}")
    for one in call.previous.ips if call.previous else ():
        if one.ip not in mine and any(lies_in(ranges, one.ip) for ranges in ipam.sets):
            owner = (yield from ask(Leases(ipam.place))).get(one.ip)
            whose = f"held by {owner.container_id} {owner.ifname}" if owner else "not reserved"
            raise CniError(OTHER, f"{one.ip} of {call.container_id} {call.ifname} is {whose} in {ipam.place}")


def status(call: Call) -> Steps[None]:
    """Each set has an address left to give. Raises CniError (50)."""
    ipam = parse(call)
    taken = yield from ask(Leases(ipam.place))
    for number, ranges in enumerate(ipam.sets):
        try:
            choose(ranges, number, taken, "")
        except Exhausted as error:
            raise CniError(NOT_AVAILABLE, str(error)) from None


def collect(call: Call) -> Steps[None]:
    """GC: give back every address whose holder is not in the list. Raises CniError."""
    place, valid = place_of(call), call.valid()
    containers = {one.container_id for one in valid}
    leases = yield from ask(Leases(place))
    gone = tuple(
        ip for ip, owner in leases.items() if owner not in valid and (owner.ifname or owner.container_id not in containers)
    )  # fmt: skip
    if gone:
        yield from ask(Release(place, gone))
