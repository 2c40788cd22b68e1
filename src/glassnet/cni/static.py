"""static: addresses that the configuration, CNI_ARGS or the runtime name. It keeps nothing, so there is nothing to give back.

Source: behaviour of the reference plugin (containernetworking/plugins, static): what the runtime asks for comes before CNI_ARGS and the file.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from typing import NamedTuple

from glassnet.cni.effects import Steps
from glassnet.cni.errors import OTHER, CniError, ConfigError
from glassnet.cni.fields import Fields
from glassnet.cni.request import Call
from glassnet.cni.result import Dns, Ip, Result, RouteEntry, read_dns, read_routes


class Ipam(NamedTuple):
    """The addresses, and what else goes into the result."""

    ips: tuple[Ip, ...]
    routes: tuple[RouteEntry, ...]
    dns: Dns


def parse(call: Call) -> Ipam:
    """Read the `ipam` part and what is asked for from outside. Raises ConfigError."""
    fields = call.fields.table("ipam")
    fields.raw("type")
    ips = [_ip(one, "address") for one in fields.tables("addresses")]
    routes, dns = read_routes(fields, "routes"), read_dns(fields.table("dns"))
    fields.done()
    asked = [_address(text, "ips") for text in _asked(call)]
    if asked:
        ips = [Ip(address) for address in asked]
    if gateways := call.args.get("GATEWAY"):
        ips = [_with_gateway(ip, gateways) for ip in ips]
    if not ips:
        raise fields.error("addresses", "no address is given")
    return Ipam(tuple(ips), routes, dns)


def _asked(call: Call) -> list[str]:
    from_runtime = call.runtime.texts("ips")
    from_args = call.fields.table("args").table("cni").texts("ips")
    from_environment = [text.strip() for text in call.args.get("IP", "").split(",") if text.strip()]
    return from_runtime or from_args or from_environment


def _ip(fields: Fields, key: str) -> Ip:
    gateway = fields.address("gateway")
    address = _address(fields.text(key), key)
    fields.done()
    return Ip(address, str(gateway) if gateway else "")


def _address(text: str, key: str) -> str:
    try:
        found = ip_interface(text)
    except ValueError:
        raise ConfigError(key, f"{text!r}: want an address with a prefix length, such as 10.10.0.1/24") from None
    if "/" not in text:
        raise ConfigError(key, f"{text!r}: the prefix length is missing, as in {text}/24")
    return str(found)


def _with_gateway(ip: Ip, gateways: str) -> Ip:
    for text in gateways.split(","):
        try:
            if ip_address(text.strip()) in ip_interface(ip.address).network:
                return ip._replace(gateway=str(ip_address(text.strip())))
        except ValueError:
            raise ConfigError("GATEWAY", f"{text!r} in CNI_ARGS: want an IP address") from None
    return ip


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
    there = {one.address for one in call.previous.ips} if call.previous else set()
    for one in parse(call).ips:
        if one.address not in there:
            raise CniError(OTHER, f"static: Failed to find address {one.address} in the previous result")
    yield from ()


def status(call: Call) -> Steps[None]:
    """A configuration with an address can always serve. Raises ConfigError."""
    parse(call)
    yield from ()


def collect(call: Call) -> Steps[None]:
    """Nothing is kept."""
    yield from ()
