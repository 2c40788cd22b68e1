"""routed: joins a container to the node by a veth pair and routes, as clouds' plugins do that give pods addresses of the nodes' network.

The container's gateway is an address that nobody has (169.254.1.1, fe80::1): a permanent neighbour entry says that the pair's end on the node
has it. The node has a route to each address of the container. Beside the keys of ptp:

| key | meaning |
|---|---|
| linkPrefix | what the pair's end on the node is called: this and eleven hex digits that follow from the pod's name |
| hostAddress | the container has its address with all its bits (/32, /128), not with the prefix length that the address plugin gave |
| rulePriority | a routing rule of this priority for each address: `to ADDRESS lookup main`; 0 for none |
| proxyARP | the node answers ARP for everything on the pair |
| routeProtocol | who the node's routes say made them (rtnetlink(7)); 3, boot, is not shown |

Sources: aws/amazon-vpc-cni-k8s, cmd/routed-eni-cni-plugin (links eni…, rules of priority 512) and Azure/azure-container-networking,
network/transparent_endpointclient_linux.go (links azv…, proxy_arp).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from glassnet.cni import host_local, ipam, ptp, wiring
from glassnet.cni.effects import Ensure, FindLink, Leases, ListRoutes, Steps, Where, ask
from glassnet.cni.errors import OTHER, CniError
from glassnet.cni.request import Attachment, Call
from glassnet.cni.result import Interface, Ip, Result, RouteEntry
from glassnet.cni.wiring import Undo
from glassnet.net.errors import GlassnetError
from glassnet.netstack.ops import AddAddress, AddRoute, AddRule, DelRule, Operation, SetLink, SetNeighbour

GATEWAYS = {4: "169.254.1.1", 6: "fe80::1"}
_DIGITS, _PREFIX = 11, 4
_MAIN, _OURS, _BOOT = 254, 114, 3


class Conf(NamedTuple):
    """The plugin's keys."""

    prefix: str
    mtu: int
    mac: str
    host_address: bool
    priority: int
    proxy_arp: bool
    protocol: int


def parse(call: Call) -> Conf:
    """Read the configuration. Raises ConfigError."""
    fields = call.fields
    conf = Conf(
        fields.device("linkPrefix", "veth"),
        fields.number("mtu", high=65535),
        wiring.wanted_hardware(call),
        fields.flag("hostAddress"),
        fields.number("rulePriority", high=32765),
        fields.flag("proxyARP"),
        fields.number("routeProtocol", _BOOT, low=1, high=255),
    )
    if len(conf.prefix) > _PREFIX:
        raise fields.error(
            "linkPrefix", f"{conf.prefix!r} is longer than {_PREFIX} characters: {_DIGITS} digits follow it"
        )
    for key in ("ipam", "runtimeConfig", "cni.dev/valid-attachments", "cni.dev/attachments"):
        fields.raw(key)
    fields.done()
    return conf


def link_name(call: Call, prefix: str) -> str:
    """What the pair's end on the node is called: the pod's name and interface tell, or the container's ID where no pod is named."""
    pod = f"{call.args.get('K8S_POD_NAMESPACE', '')}.{call.args.get('K8S_POD_NAME', '')}"
    whose = pod if len(pod) > 1 else call.container_id
    text = whose if call.ifname == "eth0" else f"{whose}.{call.ifname}"
    return prefix + hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:_DIGITS]


# -- ADD


def add(call: Call) -> Steps[Result]:
    """Join the container. Raises CniError; nothing is left then."""
    conf = parse(call)
    if not ipam.kind(call):
        raise CniError(OTHER, "no plugin name provided", 'routed needs addresses: set "type" in "ipam"')
    given = yield from ipam.add(call)
    undo: Undo = [lambda: ipam.delete(call)]
    return (yield from wiring.all_or_nothing(_join(call, conf, given, undo), undo))


def _join(call: Call, conf: Conf, given: Result, undo: Undo) -> Steps[Result]:
    dns = wiring.read_dns(call, given)
    ips = [one._replace(gateway=GATEWAYS[one.family], address=_address(one, conf)) for one in given.ips]
    yield from wiring.forward(ips, {})
    mac = conf.mac or wiring.hardware(ips[0].ip)
    host, container = yield from ptp.connect(call, mac, conf.mtu, undo, conf.prefix, link_name(call, conf.prefix))
    place = f"net.ipv6.conf.{host.name}"
    # a container must not tell the node its routes; and the node must be able to ask for the container's neighbour entry at once
    settings = {f"{place}.accept_ra": "0", f"{place}.accept_dad": "0"}
    if conf.proxy_arp:
        settings[f"net.ipv4.conf.{host.name}.proxy_arp"] = "1"
    yield from ask(Ensure(Where.NODE, {}, settings))
    if conf.priority:
        undo.append(lambda: _forget(conf.priority, [one.ip for one in ips]))
    yield from wiring.apply(Where.NODE, host_operations(host.name, ips, conf))
    yield from wiring.prepare_ipv6(ips, call.ifname, duplicate_detection=False)
    yield from wiring.apply(Where.POD, inside_operations(call.ifname, ips, host.mac))
    yield from wiring.passing(host.name)
    routes = tuple(RouteEntry(wiring.DEFAULT[one.family], one.gateway) for one in ips)
    return Result((host, container), tuple(one._replace(interface=1) for one in ips), routes, dns)


def _address(one: Ip, conf: Conf) -> str:
    return f"{one.ip}/{one.bits}" if conf.host_address else one.address


def host_operations(name: str, ips: Sequence[Ip], conf: Conf) -> list[Operation]:
    """The node's end: up, with a route and perhaps a rule for each address of the container."""
    out: list[Operation] = [SetLink(name, up=True)]
    for one in ips:
        out.append(AddRoute(f"{one.ip}/{one.bits}", dev=name, protocol=conf.protocol, replace=True))
        if conf.priority:
            out.append(_rule(AddRule, conf.priority, one.ip)._replace(exist_ok=True))
    return out


def inside_operations(ifname: str, ips: Sequence[Ip], gateway_mac: str) -> list[Operation]:
    """The container's end: its addresses without their networks, and the way to everywhere."""
    out: list[Operation] = [SetLink(ifname, up=True)]
    for one in ips:
        out.append(AddAddress(one.address, ifname, noprefixroute=True))
        out.append(AddRoute(f"{one.gateway}/{one.bits}", dev=ifname, protocol=_BOOT, exist_ok=True))
        out.append(AddRoute("default", one.gateway, ifname, protocol=_BOOT, exist_ok=True))
        out.append(SetNeighbour(one.gateway, gateway_mac, ifname))
    return out


def _rule(kind: type[AddRule | DelRule], priority: int, ip: str) -> Any:
    family = 6 if ":" in ip else 4
    return kind(_MAIN, family, priority, destination=f"{ip}/{128 if family == 6 else 32}", protocol=_OURS)


def _forget(priority: int, ips: Sequence[str]) -> Steps[None]:
    """Take the rules of addresses away."""
    yield from wiring.apply(Where.NODE, [_rule(DelRule, priority, ip) for ip in ips])


# -- DEL and GC


def delete(call: Call) -> Steps[None]:
    """Take the container off; what is gone already is fine. It goes on after a failure, and tells all that failed. Raises GlassnetError."""
    priority = call.fields.number("rulePriority")
    addresses = (yield from wiring.addresses_of(call)) if priority else []
    rules = _forget(priority, [address.split("/")[0] for address in addresses])
    yield from wiring.each(wiring.unwire(call), rules, ipam.delete(call))


def collect(call: Call) -> Steps[None]:
    """GC: take away every trace of containers that are not in the list. It goes on after a failure, and tells them all. Raises CniError."""
    call.valid()
    yield from wiring.each(wiring.collect(call), _collect_rules(call), ipam.collect(call))


def _collect_rules(call: Call) -> Steps[list[str]]:
    """The rules of addresses that are still leased to containers that are gone."""
    priority = call.fields.number("rulePriority")
    if not priority or ipam.kind(call) != "host-local":
        return []
    leases = yield from ask(Leases(host_local.place_of(call)))
    try:
        yield from _forget(priority, [ip for ip, whose in leases.items() if _is_gone(whose, call)])
    except GlassnetError as error:
        return [str(error)]
    return []


def _is_gone(whose: Attachment, call: Call) -> bool:
    return whose not in call.valid()


# -- CHECK and STATUS


def check(call: Call) -> Steps[None]:
    """Both ends of the pair, addresses, routes and leases are as the previous result says. Raises CniError."""
    parse(call)
    told = wiring.previous(call)
    yield from ipam.check(call)
    yield from wiring.check_inside(call, told)
    inside = yield from ask(FindLink(Where.POD, call.ifname))
    outside = yield from ask(FindLink(Where.NODE, _host_end(told).name))
    if outside is None or inside is None or outside.peer != inside.index or outside.index != inside.peer:
        raise CniError(OTHER, f"routed: Host interface name in prevResult: {_host_end(told).name or 'none'} not found")
    if not outside.up:
        raise CniError(OTHER, f"routed: Interface {outside.name} is down")
    routes = yield from ask(ListRoutes(Where.NODE))
    for one in told.ips:
        mine = [
            route
            for route in routes
            if (route.network, route.length, route.bits) == (int(ip_address(one.ip)), one.bits, one.bits)
        ]
        if not any(hop.dev == outside.name for route in mine for hop in route.hops):
            raise CniError(OTHER, f"routed: the route to {one.ip} by {outside.name} is missing on the node")


def _host_end(told: Result) -> Interface:
    return next((one for one in told.interfaces if not one.sandbox), Interface("", ""))


def status(call: Call) -> Steps[None]:
    """Addresses are left to give. Raises CniError (50)."""
    parse(call)
    yield from ipam.status(call)
