"""The result of ADD, in every version of the specification: read from any, written in any.

Source: CNI SPEC.md of each version, "Result Types"; containernetworking/cni, pkg/types (how one version becomes another).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from glassnet.cni.errors import INCOMPATIBLE_VERSION, UNREADABLE, CniError, ConfigError
from glassnet.cni.fields import Fields, shown

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")


class Interface(NamedTuple):
    """An interface; `sandbox` is the path of its network namespace, "" for the node's. Of 1.1.0: mtu, socketPath, pciID."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""


class Ip(NamedTuple):
    """An address with prefix length; `interface` is its place in the list of interfaces."""

    address: str
    gateway: str = ""
    interface: int | None = None

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4

    @property
    def bits(self) -> int:
        """The length of its family's addresses."""
        return 128 if ":" in self.address else 32


class RouteEntry(NamedTuple):
    """A route for the container. Of 1.1.0: all but destination and gateway; -1 stands for none of table and scope."""

    dst: str
    gw: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int = -1
    scope: int = -1

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.dst else 4


class Dns(NamedTuple):
    """A resolver's settings (resolv.conf(5))."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Result(NamedTuple):
    """What a plugin did."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Ip, ...] = ()
    routes: tuple[RouteEntry, ...] = ()
    dns: Dns = Dns()

    def inside(self, ifname: str) -> Interface | None:
        """The container's interface of a name."""
        return next((one for one in self.interfaces if one.sandbox and one.name == ifname), None)


def read_routes(fields: Fields, key: str) -> tuple[RouteEntry, ...]:
    """Routes as configurations and results have them. Raises ConfigError."""
    return tuple(_route(one) for one in fields.tables(key))


def _route(fields: Fields) -> RouteEntry:
    destination, gateway = fields.prefixed("dst"), fields.address("gw")
    if not destination:
        raise fields.error("dst", 'want a network such as "0.0.0.0/0"')
    return RouteEntry(
        destination,
        str(gateway) if gateway else "",
        fields.number("mtu"),
        fields.number("advmss"),
        fields.number("priority"),
        fields.number("table", -1, high=2**32 - 1),
        fields.number("scope", -1, high=255),
    )


def read_dns(fields: Fields) -> Dns:
    """A resolver's settings. Raises ConfigError."""
    return Dns(
        tuple(fields.texts("nameservers")),
        fields.text("domain"),
        tuple(fields.texts("search")),
        tuple(fields.texts("options")),
    )


def parse_result(body: Mapping[str, Any], version: str, source: str = "prevResult") -> Result:
    """A result written in a version (its own `cniVersion` comes first). `source` is what errors call it. Raises CniError: 6 when it is none,
    1 for a version there is not."""
    fields = Fields(body, source)
    try:
        own = fields.text("cniVersion") or version
        if own not in VERSIONS:
            want = ", ".join(VERSIONS)
            raise CniError(
                INCOMPATIBLE_VERSION, f"could not parse {source}: its version is {shown(own)}", f"want one of {want}"
            )
        return _old(fields) if own in VERSIONS[:2] else _new(fields)
    except ConfigError as error:
        raise CniError(UNREADABLE, f"could not parse {source}: {error}") from None


def _new(fields: Fields) -> Result:
    interfaces = tuple(
        Interface(
            one.text("name"),
            one.text("mac"),
            one.text("sandbox"),
            one.number("mtu"),
            one.text("socketPath"),
            one.text("pciID"),
        )
        for one in fields.tables("interfaces")
    )
    ips = []
    for one in fields.tables("ips"):
        gateway = one.address("gateway")
        place = one.number("interface", -1, -1)
        if place >= len(interfaces):
            raise one.error("interface", f"{place}: there are {len(interfaces)} interfaces")
        ips.append(Ip(_address(one, "address"), str(gateway) if gateway else "", place if place >= 0 else None))
    return Result(interfaces, tuple(ips), read_routes(fields, "routes"), read_dns(fields.table("dns")))


def _old(fields: Fields) -> Result:
    """0.1.0 and 0.2.0: an address a family, with the family's routes."""
    ips: list[Ip] = []
    routes: list[RouteEntry] = []
    for key in ("ip4", "ip6"):
        if fields.has(key):
            one = fields.table(key)
            gateway = one.address("gateway")
            ips.append(Ip(_address(one, "ip"), str(gateway) if gateway else ""))
            routes += read_routes(one, "routes")
    return Result(ips=tuple(ips), routes=tuple(routes), dns=read_dns(fields.table("dns")))


def _address(fields: Fields, key: str) -> str:
    address = fields.prefixed(key)
    if not address:
        raise fields.error(key, "want an address with a prefix length, such as 10.200.0.2/24")
    return address


def render_result(result: Result, version: str) -> dict[str, Any]:
    """The result as a plugin prints it in a version; what the version has no words for is left out."""
    if version in VERSIONS[:2]:
        return _render_old(result, version)
    body: dict[str, Any] = {"cniVersion": version}
    if result.interfaces:
        body["interfaces"] = [_render_interface(one, version) for one in result.interfaces]
    if result.ips:
        body["ips"] = [_render_ip(one, version) for one in result.ips]
    if result.routes:
        body["routes"] = [_render_route(one, version) for one in result.routes]
    body["dns"] = _render_dns(result.dns)
    return body


def _render_old(result: Result, version: str) -> dict[str, Any]:
    body: dict[str, Any] = {"cniVersion": version}
    for family in (4, 6):
        ip = next((one for one in result.ips if one.family == family), None)
        if ip is not None:
            routes = [{"dst": one.dst, **_given(gw=one.gw)} for one in result.routes if one.family == family]
            body[f"ip{family}"] = {"ip": ip.address, **_given(gateway=ip.gateway, routes=routes)}
    body["dns"] = _render_dns(result.dns)
    return body


def _render_interface(one: Interface, version: str) -> dict[str, Any]:
    newer = version == "1.1.0"
    return {
        "name": one.name,
        **_given(mac=one.mac, mtu=one.mtu if newer else 0, sandbox=one.sandbox),
        **(_given(socketPath=one.socket_path, pciID=one.pci_id) if newer else {}),
    }


def _render_ip(one: Ip, version: str) -> dict[str, Any]:
    old = {"version": str(one.family)} if version.startswith("0.") else {}
    place = {} if one.interface is None else {"interface": one.interface}
    return {**old, **place, "address": one.address, **_given(gateway=one.gateway)}


def _render_route(one: RouteEntry, version: str) -> dict[str, Any]:
    body: dict[str, Any] = {"dst": one.dst, **_given(gw=one.gw)}
    if version == "1.1.0":
        body |= _given(mtu=one.mtu, advmss=one.advmss, priority=one.priority)
        body |= {key: value for key, value in (("table", one.table), ("scope", one.scope)) if value >= 0}
    return body


def _render_dns(dns: Dns) -> dict[str, Any]:
    return _given(
        nameservers=list(dns.nameservers), domain=dns.domain, search=list(dns.search), options=list(dns.options)
    )


def _given(**values: str | int | Sequence[Any]) -> dict[str, Any]:
    """Those that say something: what is empty is left out (Go's omitempty)."""
    return {key: value for key, value in values.items() if value}
