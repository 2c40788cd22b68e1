"""bridge: joins a container to a bridge on the node by a veth pair.

Source: CNI SPEC.md; behaviour, keys and messages of the reference plugin (containernetworking/plugins, bridge).
"""

from __future__ import annotations

from ipaddress import ip_interface
from typing import NamedTuple

from glassnet.cni import host_local, ipam, masquerade, wiring
from glassnet.cni.effects import (
    FindLink,
    Held,
    ListAddresses,
    ListLinks,
    Random,
    ReadSetting,
    Remove,
    Steps,
    Where,
    WriteSettings,
    ask,
)
from glassnet.cni.errors import LIMITED_CONNECTIVITY, NOT_AVAILABLE, OTHER, CniError
from glassnet.cni.request import Attachment, Call
from glassnet.cni.result import Interface, Ip, Result
from glassnet.net.errors import GlassnetError
from glassnet.netstack.model import Address, Link
from glassnet.netstack.ops import (
    AddAddress,
    AddBridge,
    AddVeth,
    DelAddress,
    DelNeighbour,
    Operation,
    SetBridgePort,
    SetLink,
    SetNeighbour,
)


class Conf(NamedTuple):
    """The plugin's keys."""

    bridge: str
    is_gateway: bool
    default_route: bool
    force_address: bool
    ip_masq: bool
    mtu: int
    hairpin: bool
    promisc: bool
    isolated: bool
    duplicate_detection: bool
    permanent_neighbours: bool
    mac: str


def parse(call: Call) -> Conf:
    """Read the configuration. Raises ConfigError."""
    fields = call.fields
    default_route = fields.flag("isDefaultGateway")
    conf = Conf(
        fields.text("bridge") or "cni0",
        fields.flag("isGateway") or default_route,
        default_route,
        fields.flag("forceAddress"),
        fields.flag("ipMasq"),
        fields.number("mtu", high=65535),
        fields.flag("hairpinMode"),
        fields.flag("promiscMode"),
        fields.flag("portIsolation"),
        fields.flag("enabledad"),
        fields.flag("permanentNeighbours"),
        wiring.wanted_hardware(call),
    )
    if conf.hairpin and conf.promisc:
        raise CniError(OTHER, "cannot set hairpin mode and promiscuous mode at the same time.")
    for key in ("ipam", "runtimeConfig", "cni.dev/valid-attachments"):
        fields.raw(key)
    fields.done()
    return conf


# -- ADD


def add(call: Call) -> Steps[Result]:
    """Join the container. Raises CniError; nothing is left then."""
    conf = parse(call)
    if (yield from ask(FindLink(Where.POD, call.ifname))) is not None:
        raise CniError(OTHER, f"container veth name provided ({call.ifname}) already exists")
    given = yield from ipam.add(call)
    host_name = f"veth{(yield from ask(Random(4))).hex()}"
    try:
        return (yield from _join(call, conf, given, host_name))
    except BaseException:
        yield from wiring.tried(
            lambda: ask(Remove(Where.NODE, host_name)),
            lambda: masquerade.delete(call, [one.address for one in given.ips] if conf.ip_masq else []),
            lambda: ipam.delete(call),
        )
        raise


def _join(call: Call, conf: Conf, given: Result, host_name: str) -> Steps[Result]:
    ips = wiring.with_gateways(given.ips) if conf.is_gateway else given.ips
    routes = wiring.default_routes(given.routes, ips) if conf.default_route else given.routes
    host_mac = wiring.host_hardware((yield from ask(Random(6))))
    mac = conf.mac or (wiring.hardware(ips[0].ip) if ips else "")
    present = yield from ask(FindLink(Where.NODE, conf.bridge))
    there = (yield from ask(ListAddresses(Where.NODE, conf.bridge))) if present and conf.is_gateway else ()
    operations = bridge_operations(conf, ips, present, there)
    operations += [
        AddVeth(host_name, call.ifname, call.pod, host_mac, mac, conf.mtu),
        SetLink(host_name, up=True, master=conf.bridge, alias=wiring.alias(call)),
    ]
    if conf.hairpin or conf.isolated:
        operations.append(SetBridgePort(host_name, hairpin=conf.hairpin or None, isolated=conf.isolated or None))
    yield from wiring.apply(Where.NODE, operations)
    bridge = present or (yield from ask(FindLink(Where.NODE, conf.bridge)))
    if bridge is None:
        raise CniError(OTHER, f'could not lookup "{conf.bridge}": it has been deleted meanwhile')
    yield from wiring.allow_ipv6(ips, Where.POD, call.ifname)
    inside = wiring.interface_operations(call.ifname, ips, conf.duplicate_detection)
    inside += wiring.route_operations(routes, ips, call.ifname)
    if conf.permanent_neighbours and conf.is_gateway:
        inside += [SetNeighbour(one.gateway, bridge.hardware, call.ifname) for one in ips]
        yield from wiring.apply(Where.NODE, [SetNeighbour(one.ip, mac, conf.bridge) for one in ips])
    yield from wiring.apply(Where.POD, inside)
    if conf.is_gateway:
        yield from wiring.forward(ips)
        yield from _services(call)
    if conf.ip_masq:
        yield from masquerade.add(call, [one.address for one in ips])
    interfaces = (
        Interface(conf.bridge, bridge.hardware, mtu=bridge.mtu),
        Interface(host_name, host_mac, mtu=conf.mtu),
        Interface(call.ifname, mac, call.netns, mtu=conf.mtu),
    )
    return Result(interfaces, tuple(one._replace(interface=2) for one in ips), routes, given.dns)


def bridge_operations(
    conf: Conf, ips: tuple[Ip, ...], present: Link | None, there: tuple[Address, ...]
) -> list[Operation]:
    """What the bridge lacks: itself, a MAC of its own, the gateways' addresses. Raises CniError when it belongs to another network.

    A bridge without a MAC of its own takes over that of a port, and changes it with its ports.
    """
    out: list[Operation] = []
    if present is None:
        mac = wiring.hardware(ips[0].gateway) if conf.is_gateway and ips else ""
        out += [AddBridge(conf.bridge, mac, conf.mtu, exist_ok=True)]
        # the link goes up before the address comes: the address is then added to the link made here, whatever had its name before
        out += [SetLink(conf.bridge, up=True, promisc=True if conf.promisc else None)]
    elif present.kind != "bridge":
        raise CniError(OTHER, f'"{conf.bridge}" already exists but is not a bridge')
    else:
        if conf.is_gateway and not present.hardware.startswith("0a:58:"):
            out.append(SetLink(conf.bridge, hardware=present.hardware))
        if not present.up or (conf.promisc and not present.promiscuous):
            out.append(SetLink(conf.bridge, up=True, promisc=True if conf.promisc else None))
    if conf.is_gateway:
        for gateway in dict.fromkeys(f"{one.gateway}/{ip_interface(one.address).network.prefixlen}" for one in ips):
            out += _gateway(conf, gateway, there)
    return out


def _gateway(conf: Conf, gateway: str, there: tuple[Address, ...]) -> list[Operation]:
    out: list[Operation] = []
    wanted = ip_interface(gateway)
    for one in there:
        text = f"{one.text}/{one.length}"
        if text == str(wanted):
            return []
        held = ip_interface(text)
        if held.version == wanted.version and not held.ip.is_link_local and held.network.overlaps(wanted.network):
            if not conf.force_address:
                raise CniError(
                    OTHER,
                    f'failed to set bridge addr: "{conf.bridge}" already has an IP address different from {gateway}',
                    f'it has {text}; another network uses this bridge: name another bridge, or set "forceAddress"',
                )
            out.append(DelAddress(text, conf.bridge, missing_ok=True))
    return [*out, AddAddress(gateway, conf.bridge, exist_ok=True)]


def _services(call: Call) -> Steps[None]:
    """Pods of one bridge that talk by way of a Service: the answer crosses the bridge alone, so it must pass the node's rules there."""
    if not call.args.get("K8S_POD_NAME"):
        return
    for name in ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"):
        if (yield from ask(ReadSetting(Where.NODE, name))) == "0":
            yield from ask(WriteSettings(Where.NODE, {name: "1"}))


# -- DEL and GC


def delete(call: Call) -> Steps[None]:
    """Take the container off; what is gone already is fine. It goes on after a failure, and raises the first."""
    fields = call.fields
    addresses = [one.address for one in call.previous.ips] if call.previous else []
    if not addresses:
        addresses = yield from _leased(call)
    problems: list[GlassnetError] = []
    for each in (_unwire(call), _unmask(call, addresses), _forget(call, addresses), ipam.delete(call)):
        try:
            yield from each
        except GlassnetError as error:
            problems.append(error)
    fields.raw("ipam")
    if problems:
        raise problems[0]


def _leased(call: Call) -> Steps[list[str]]:
    """The addresses of a container whose ADD did not end: its leases tell."""
    if ipam.kind(call) != "host-local":
        return []
    mine = yield from ask(Held(host_local.place_of(call), call.attachment))
    return [f"{ip}/{128 if ':' in ip else 32}" for ip in mine]


def _unwire(call: Call) -> Steps[None]:
    if call.pod >= 0:
        yield from ask(Remove(Where.POD, call.ifname))
        return
    for link in (yield from ask(ListLinks(Where.NODE))):  # the namespace is gone by name, something may hold it still
        if wiring.owner(link.alias) == (call.name, call.container_id, call.ifname):
            yield from ask(Remove(Where.NODE, link.name))


def _unmask(call: Call, addresses: list[str]) -> Steps[None]:
    if call.fields.flag("ipMasq"):
        yield from masquerade.delete(call, addresses)


def _forget(call: Call, addresses: list[str]) -> Steps[None]:
    bridge = call.fields.text("bridge") or "cni0"
    yield from wiring.apply(Where.NODE, [DelNeighbour(one.partition("/")[0], bridge) for one in addresses])


def collect(call: Call) -> Steps[None]:
    """GC: take away every trace of containers that are not in the list. It goes on after a failure, and tells them all. Raises CniError."""
    valid = call.valid()
    problems: list[str] = []
    for link in (yield from ask(ListLinks(Where.NODE))):
        found = wiring.owner(link.alias)
        if found and found[0] == call.name and Attachment(*found[1:]) not in valid:
            try:
                yield from ask(Remove(Where.NODE, link.name))
            except GlassnetError as error:
                problems.append(str(error))
    if call.fields.flag("ipMasq"):
        problems += yield from masquerade.collect(call)
    try:
        yield from ipam.collect(call)
    except GlassnetError as error:
        problems.append(str(error))
    if problems:
        raise CniError(OTHER, "; ".join(problems))


# -- CHECK and STATUS


def check(call: Call) -> Steps[None]:
    """The bridge, both ends of the pair, addresses, routes, rules and leases are as the previous result says. Raises CniError."""
    conf = parse(call)
    result = wiring.previous(call)
    yield from ipam.check(call)
    bridge = yield from ask(FindLink(Where.NODE, conf.bridge))
    if bridge is None or bridge.kind != "bridge":
        raise CniError(
            OTHER, f"Interface {conf.bridge} Error: {'does not exist' if bridge is None else 'is no bridge'}"
        )
    if not bridge.up:
        raise CniError(OTHER, f"Interface {conf.bridge} is down")
    yield from wiring.check_inside(call, result)
    ends = [one.name for one in result.interfaces if not one.sandbox and one.name != conf.bridge]
    for name in ends:
        link = yield from ask(FindLink(Where.NODE, name))
        if link is None or link.kind != "veth" or not link.up:
            raise CniError(
                OTHER, f"Interface {name}: {'does not exist' if link is None else 'is not a veth that is up'}"
            )
        if link.master != conf.bridge:
            raise CniError(
                OTHER, f"Interface {name} is not a port of {conf.bridge}", f"its master is {link.master or 'none'}"
            )
    if conf.is_gateway:
        there = {one.text for one in (yield from ask(ListAddresses(Where.NODE, conf.bridge)))}
        for ip in result.ips:
            if ip.gateway and ip.gateway not in there:
                raise CniError(OTHER, f"bridge {conf.bridge} has lost the gateway's address {ip.gateway}")
    if conf.ip_masq and (missing := (yield from masquerade.check(call, [one.address for one in result.ips]))):
        raise CniError(OTHER, f"masquerade rules are missing: {missing[0]}")


def status(call: Call) -> Steps[None]:
    """Addresses are left to give, and what there is works: the bridge is up and the node forwards. Raises CniError (50, 51)."""
    conf = parse(call)
    yield from ipam.status(call)
    bridge = yield from ask(FindLink(Where.NODE, conf.bridge))
    if bridge is None:
        return
    if bridge.kind != "bridge":
        raise CniError(NOT_AVAILABLE, f'"{conf.bridge}" already exists but is not a bridge')
    if not bridge.up:
        raise CniError(LIMITED_CONNECTIVITY, f"bridge {conf.bridge} is down", f"ip link set {conf.bridge} up")
    if conf.is_gateway and (yield from ask(ReadSetting(Where.NODE, "net.ipv4.ip_forward"))) == "0":
        there = yield from ask(ListAddresses(Where.NODE, conf.bridge))
        if any(one.bits == 32 for one in there):
            raise CniError(LIMITED_CONNECTIVITY, "net.ipv4.ip_forward is 0: pods reach nobody beyond this node")
