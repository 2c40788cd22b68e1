"""Network configurations as CNI 0.3.0 to 1.1.0 have them. Source: CNI SPEC.md, "Section 1: Network configuration format";
keys of the bridge, host-local and loopback plugins: their pages on cni.dev."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

from glassnet.net.errors import ParseError

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SUFFIXES = (".conf", ".conflist", ".json")
PLUGINS = ("bridge", "loopback")
PLUGIN_PATH = "/opt/cni/bin"


class Range(NamedTuple):
    """Addresses to give out: those of `subnet` from `start` to `end`, without `gateway`."""

    subnet: IPv4Network
    start: IPv4Address
    end: IPv4Address
    gateway: IPv4Address

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"


class Ipam(NamedTuple):
    """host-local's part: one set of ranges, the routes pods get as (destination, gateway), a resolver's settings as given."""

    ranges: tuple[Range, ...]
    routes: tuple[tuple[str, str], ...]


class NetConf(NamedTuple):
    """A bridge network."""

    version: str
    name: str
    type: str
    bridge: str
    is_gateway: bool
    ip_masq: bool
    hairpin: bool
    promisc: bool
    mtu: int
    default_route: bool
    force_address: bool
    ipam: Ipam


class Header(NamedTuple):
    """What every configuration has: the version it is written in and the network's name."""

    version: str
    name: str


def choose_file(names: Iterable[str]) -> str | None:
    """The configuration a runtime takes from a directory: the first by name with a known suffix."""
    return min((name for name in names if name.endswith(SUFFIXES)), default=None)


def parse_header(text: str, source: str) -> Header:
    """Version and name of any plugin's configuration. Raises ParseError naming file, line and key."""
    return _Reader(text, source).header()


def parse(text: str, source: str) -> NetConf:
    """Read a bridge network's configuration, or a list of plugins with a bridge. Raises ParseError naming file, line and key."""
    return _Reader(text, source).bridge()


class _Reader:
    """One configuration's text, and errors that point into it."""

    def __init__(self, text: str, source: str) -> None:
        self._text, self._source = text, source
        try:
            self._whole = json.loads(text)
        except json.JSONDecodeError as error:
            raise ParseError(error.msg, source, error.lineno, error.colno) from None
        if not isinstance(self._whole, dict):
            raise ParseError("want a JSON object", source, 1)

    def _fail(self, key: str, message: str) -> ParseError:
        position = self._text.find(f'"{key}"')
        line = self._text.count("\n", 0, position) + 1 if position >= 0 else 1
        return ParseError(f'"{key}": {message}', self._source, line)

    def _read(self, conf: Mapping[str, Any], key: str, want: type, default: Any) -> Any:
        value = conf.get(key)
        if value is None:
            return default
        if not isinstance(value, want) or (want is int and isinstance(value, bool)):
            raise self._fail(key, f"{json.dumps(value)}: want {_JSON_NAMES[want]}")
        return value

    def header(self) -> Header:
        version = self._read(self._whole, "cniVersion", str, "0.3.1")
        if version not in VERSIONS:
            raise self._fail("cniVersion", f"{version} is not one of {', '.join(VERSIONS)}")
        name = self._read(self._whole, "name", str, "")
        if not name or "/" in name:
            raise self._fail("name", f"{name!r}: want a name for the network" if name else "the network has no name")
        return Header(version, name)

    def bridge(self) -> NetConf:
        version, name = self.header()
        conf = self._plugin()
        default_route = self._read(conf, "isDefaultGateway", bool, False)
        if conf.get("vlan"):
            raise self._fail("vlan", "bridges here have no VLANs; leave the key out")
        return NetConf(
            version,
            name,
            "bridge",
            self._read(conf, "bridge", str, "") or "cni0",
            self._read(conf, "isGateway", bool, False) or default_route,
            self._read(conf, "ipMasq", bool, False),
            self._read(conf, "hairpinMode", bool, False),
            self._read(conf, "promiscMode", bool, False),
            self._read(conf, "mtu", int, 0),
            default_route,
            self._read(conf, "forceAddress", bool, False),
            self._ipam(self._read(conf, "ipam", dict, {})),
        )

    def _plugin(self) -> Mapping[str, Any]:
        """The bridge's part. A list with a plugin that is not there fails as a whole, as with any runtime."""
        plugins = self._read(self._whole, "plugins", list, [self._whole])
        found = None
        for plugin in plugins:
            kind = plugin.get("type") if isinstance(plugin, dict) else None
            if kind not in PLUGINS:
                raise self._fail("type", f"failed to find plugin {json.dumps(kind)} in path [{PLUGIN_PATH}]")
            found = plugin if kind == "bridge" and found is None else found
        if found is None:
            raise self._fail("type", "a pod's network takes the bridge plugin, loopback alone reaches nobody")
        return dict(found)

    def _ipam(self, ipam: Mapping[str, Any]) -> Ipam:
        if ipam.get("type") != "host-local":
            raise self._fail("ipam", f"type {json.dumps(ipam.get('type'))}: want host-local")
        sets = self._read(ipam, "ranges", list, []) or ([[ipam]] if ipam.get("subnet") else [])
        if not sets or not all(isinstance(ranges, list) and ranges for ranges in sets):
            raise self._fail("ranges" if "ranges" in ipam else "ipam", "no range to give addresses from")
        if len(sets) > 1:
            raise self._fail("ranges", f"{len(sets)} range sets mean {len(sets)} addresses a pod; want one set")
        ranges = tuple(self._range(entry) for entry in sets[0])
        for number, one in enumerate(ranges):
            if any(one.start <= other.end and other.start <= one.end for other in ranges[:number]):
                raise self._fail("ranges", f"{one} overlaps another range of the set")
        return Ipam(ranges, tuple(self._route(route) for route in self._read(ipam, "routes", list, [])))

    def _range(self, entry: Any) -> Range:
        if not isinstance(entry, dict) or not isinstance(entry.get("subnet"), str):
            raise self._fail("ranges", f"{json.dumps(entry)}: want an object with a subnet")
        try:
            subnet = IPv4Network(entry["subnet"])
        except ValueError as error:
            raise self._fail("subnet", f"{error}; want an IPv4 network such as 10.200.0.0/24") from None
        if subnet.prefixlen > 30:
            raise self._fail("subnet", f"network {subnet} too small to allocate from")
        first, last = subnet[1], subnet[-2]
        start = self._address(entry, "rangeStart", subnet, first)
        end = self._address(entry, "rangeEnd", subnet, last)
        if start > end:
            raise self._fail("rangeStart", f"{start} comes after rangeEnd {end}")
        return Range(subnet, start, end, self._address(entry, "gateway", subnet, first))

    def _address(self, entry: Mapping[str, Any], key: str, subnet: IPv4Network, default: IPv4Address) -> IPv4Address:
        text = self._read(entry, key, str, "")
        if not text:
            return default
        try:
            address = IPv4Address(text)
        except ValueError as error:
            raise self._fail(key, str(error)) from None
        if address not in subnet:
            raise self._fail(key, f"{address} not in network {subnet}")
        return address

    def _route(self, route: Any) -> tuple[str, str]:
        try:
            gateway = route.get("gw") or ""
            return str(IPv4Network(route["dst"])), str(IPv4Address(gateway)) if gateway else ""
        except (AttributeError, KeyError, TypeError):
            raise self._fail("routes", f'{json.dumps(route)}: want {{"dst": NETWORK, "gw": ADDRESS}}') from None
        except ValueError as error:
            raise self._fail("routes", str(error)) from None


_JSON_NAMES: dict[type, str] = {
    str: "a string",
    int: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
