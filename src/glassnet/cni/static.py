"""static: addresses that the configuration, CNI_ARGS or the runtime name. It keeps nothing, so there is nothing to give back.

Source: behaviour of the reference plugin (containernetworking/plugins, static): what the runtime asks for comes before CNI_ARGS and the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_interface
from typing import NamedTuple

from glassnet.cni.effects import Steps
from glassnet.cni.errors import INVALID_CONFIG, OTHER, CniError, ConfigError
from glassnet.cni.fields import Fields, read_address, read_interface, shown
from glassnet.cni.request import Call
from glassnet.cni.result import VERSIONS, Dns, Ip, Result, RouteEntry, read_dns, read_routes


class Ipam(NamedTuple):
    """The addresses, and what else goes into the result."""

    ips: tuple[Ip, ...]
    routes: tuple[RouteEntry, ...]
    dns: Dns


def parse(call: Call) -> Ipam:
    """Read the `ipam` part and what is asked for from outside: CNI_ARGS adds to it, `args.cni.ips` and then the runtime's `ips` take its place.

    Raises ConfigError.
    """
    fields = call.fields.table("ipam")
    fields.raw("type")
    ips = [_ip(one) for one in fields.tables("addresses")]
    routes, dns = read_routes(fields, "routes"), read_dns(fields.table("dns"))
    fields.done()
    ips += [Ip(_address(text.strip(), "ip")) for text in call.args.get("IP", "").split(",") if text.strip()]
    ips = _with_gateways(ips, call.args.get("GATEWAY", ""))
    for asked in (call.fields.table("args").table("cni").texts("ips"), call.runtime.texts("ips")):
        if asked:
            ips = [Ip(_address(text, "ips")) for text in asked]
    if not ips:
        raise fields.error("addresses", "no address is given")
    families = [one.family for one in ips]
    if call.version in VERSIONS[:2] and len(set(families)) < len(families):
        raise fields.error("addresses", f"CNI version {call.version} does not support more than 1 address per family")
    return Ipam(tuple(ips), routes, dns)


def _ip(fields: Fields) -> Ip:
    gateway = fields.address("gateway")
    address = _address(fields.text("address"), "address")
    fields.done()
    return Ip(address, str(gateway) if gateway else "")


def _address(text: str, key: str) -> str:
    try:
        return str(read_interface(text))
    except ValueError:
        raise ConfigError(
            key, f"the '{key}' field is expected to be in CIDR notation, such as 10.10.0.1/24, got: {shown(text)}"
        ) from None


def _with_gateways(ips: Sequence[Ip], gateways: str) -> list[Ip]:
    """The addresses, each with the gateway that lies in its network."""
    out = list(ips)
    for text in filter(None, map(str.strip, gateways.split(","))):
        try:
            gateway = read_address(text)
        except ValueError:
            raise ConfigError("GATEWAY", f"invalid gateway address: {shown(text)} in CNI_ARGS") from None
        out = [
            one._replace(gateway=str(gateway)) if gateway in ip_interface(one.address).network else one for one in out
        ]
    return out


def add(call: Call) -> Steps[Result]:
    """The addresses as they were given."""
    yield from ()
    ipam = parse(call)
    return Result(ips=ipam.ips, routes=ipam.routes, dns=ipam.dns)


def delete(call: Call) -> Steps[None]:
    """Nothing is kept."""
    yield from ()


def check(call: Call) -> Steps[None]:
    """The previous result has every address. Raises CniError."""
    if call.previous is None:
        raise CniError(INVALID_CONFIG, "Required prevResult missing")
    there = {one.address: one.gateway for one in call.previous.ips}
    for one in parse(call).ips:
        if one.address not in there:
            raise CniError(OTHER, f"static: Failed to find address {one.address} in the previous result")
        if one.gateway and there[one.address] != one.gateway:
            raise CniError(OTHER, f"static: Failed to match addr {one.address}: its gateway is not {one.gateway}")
    yield from ()


def status(call: Call) -> Steps[None]:
    """A configuration with an address can always serve. Raises ConfigError."""
    parse(call)
    yield from ()


def collect(call: Call) -> Steps[None]:
    """Nothing is kept."""
    yield from ()
