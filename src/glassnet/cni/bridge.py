"""bridge: joins a container to a bridge on the node by a veth pair.

Sources: CNI SPEC.md; behaviour, keys and messages of the reference plugin (containernetworking/plugins, bridge).

Where it differs from the reference, on purpose: several addresses of a family work, each with its gateway, also those of the ranges of one
host-local network; an ADD that fails takes its interface away; the node's end of a pair is a port of the bridge from its first moment and
never an interface with addresses, so nothing has to be switched off in it (accept_ra).

Kubernetes Services need that what crosses the bridge passes iptables (`net.bridge.bridge-nf-call-iptables`): the answer of a pod to another pod
of its node would not find its way back through the Service's address else. ADD of a Kubernetes pod, which is told by CNI_ARGS, switches it on.
Where the kernel has no br_netfilter the setting is absent, and STATUS says so with code 51, but only when it is called with a pod's CNI_ARGS: for
all other networks nothing is amiss, and ADD itself never fails for it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from ipaddress import ip_interface
from typing import Any, NamedTuple

from glassnet.cni import bridge_vlans, host_local, ipam, masquerade, spoof_check, wiring
from glassnet.cni.bridge_vlans import Vlans
from glassnet.cni.effects import (
    Ensure,
    FindLink,
    FindPort,
    ListAddresses,
    Random,
    ReadFile,
    ReadSetting,
    Remove,
    Steps,
    Where,
    ask,
)
from glassnet.cni.errors import LIMITED_CONNECTIVITY, NOT_AVAILABLE, OTHER, CniError
from glassnet.cni.request import Call
from glassnet.cni.result import Interface, Ip, Result
from glassnet.cni.wiring import Undo
from glassnet.net.errors import GlassnetError, KernelError
from glassnet.netstack.model import Address, Link
from glassnet.netstack.ops import (
    AddAddress,
    AddBridge,
    AddVeth,
    DelAddress,
    DelNeighbour,
    NoLinkLocal,
    Operation,
    SetBridge,
    SetLink,
    SetNeighbour,
)

_SERVICES = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
_TRIES = 10  # for a name nobody has


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
    spoof_check: bool
    interface_down: bool
    vlans: Vlans
    permanent_neighbours: bool
    mac: str

    @property
    def gateway_device(self) -> str:
        """What holds the gateways' addresses. Raises CniError when it cannot have its name."""
        return bridge_vlans.gateway_name(self.bridge, self.vlans.vlan) if self.vlans.vlan else self.bridge


def parse(call: Call) -> Conf:
    """Read the configuration. Raises ConfigError."""
    fields = call.fields
    default_route = fields.flag("isDefaultGateway")
    conf = Conf(
        fields.device("bridge", "cni0"),
        fields.flag("isGateway") or default_route,
        default_route,
        fields.flag("forceAddress"),
        fields.flag("ipMasq"),
        fields.number("mtu", high=65535),
        fields.flag("hairpinMode"),
        fields.flag("promiscMode"),
        fields.flag("portIsolation"),
        fields.flag("enabledad"),
        fields.flag("macspoofchk"),
        fields.flag("disableContainerInterface"),
        bridge_vlans.read(fields),
        fields.flag("permanentNeighbours"),
        wiring.wanted_hardware(call),
    )
    masquerade.backend(call)
    if conf.hairpin and conf.promisc:
        raise CniError(OTHER, "cannot set hairpin mode and promiscuous mode at the same time.")
    if conf.interface_down and ipam.kind(call):
        raise CniError(OTHER, "cannot use IPAM when DisableContainerInterface flag is set")
    for key in ("ipam", "runtimeConfig", "cni.dev/valid-attachments", "cni.dev/attachments"):
        fields.raw(key)
    fields.done()
    return conf


# -- ADD


def add(call: Call) -> Steps[Result]:
    """Join the container. Raises CniError; nothing is left then."""
    conf = parse(call)
    given = yield from ipam.add(call)
    undo: Undo = [lambda: ipam.delete(call)]
    return (yield from wiring.all_or_nothing(_join(call, conf, given, undo), undo))


def _join(call: Call, conf: Conf, given: Result, undo: Undo) -> Steps[Result]:
    ips = wiring.with_gateways(given.ips) if conf.is_gateway else given.ips
    routes = wiring.default_routes(given.routes, ips) if conf.default_route else given.routes
    dns = wiring.read_dns(call, given)
    bridge, more = yield from _bridge(call, conf, ips)
    port, container = yield from _connect(call, conf, ips, undo)
    if conf.spoof_check:
        undo.append(lambda: spoof_check.delete(call))
        yield from spoof_check.add(call, port.name, container.mac)
    if not conf.interface_down:
        yield from wiring.prepare_ipv6(ips, call.ifname, conf.duplicate_detection)
        inside = wiring.interface_operations(call.ifname, ips, conf.duplicate_detection)
        inside += wiring.route_operations(routes, ips, call.ifname)
        yield from wiring.apply(Where.POD, inside)
        yield from wiring.passing(port.name)
        yield from _make_known(conf, ips, bridge, container, undo)
        if conf.duplicate_detection:
            yield from wiring.detected(ips, call.ifname)
    if conf.is_gateway and ips:
        yield from wiring.forward(ips, dict.fromkeys(_SERVICES, "1") if call.args.get("K8S_POD_NAME") else {})
    if conf.ip_masq and ips:
        addresses = [one.address for one in ips]
        undo.append(lambda: masquerade.delete(call, addresses))
        yield from masquerade.add(call, addresses)
    interfaces = (Interface(conf.bridge, bridge.hardware, mtu=bridge.mtu), port, container, *more)
    return Result(interfaces, tuple(one._replace(interface=2) for one in ips), routes, dns)


def _bridge(call: Call, conf: Conf, ips: Sequence[Ip]) -> Steps[tuple[Link, tuple[Interface, ...]]]:
    """The bridge as it is when it has all the network needs, and the VLAN's gateway if there is one."""
    present = yield from ask(FindLink(Where.NODE, conf.bridge))
    gateways = conf.is_gateway and bool(ips)
    device = conf.gateway_device if gateways else conf.bridge
    there = (yield from ask(ListAddresses(Where.NODE, device))) if present and gateways else ()
    addresses = address_operations(call, conf, ips, there) if gateways else []
    operations = bridge_operations(conf, ips, present)
    if operations:
        yield from wiring.apply(Where.NODE, operations)
    # whoever is in the bridge must not tell the node its routes
    yield from ask(Ensure(Where.NODE, {}, {f"net.ipv6.conf.{conf.bridge.replace('.', '/')}.accept_ra": "0"}))
    bridge = present
    if operations or present is None:
        bridge = yield from ask(FindLink(Where.NODE, conf.bridge))
    if bridge is None:
        raise CniError(OTHER, f'could not lookup "{conf.bridge}": it has been deleted meanwhile')
    more: tuple[Interface, ...] = ()
    if gateways and conf.vlans.vlan:
        more = yield from _vlan_gateway(call, conf, ips, bridge)
    if gateways and not bridge.hardware.startswith("0a:58:") and not (yield from _own_mac(conf.bridge)):
        addresses.append(SetLink(conf.bridge, hardware=bridge.hardware))
    yield from wiring.apply(Where.NODE, addresses)
    return bridge, more


def _own_mac(bridge: str) -> Steps[bool]:
    """Whether a bridge's MAC was set: without that it is that of a port, and changes with its ports. (NET_ADDR_SET in netdevice.h.)"""
    kind = yield from ask(ReadFile(f"/sys/class/net/{bridge}/addr_assign_type"))
    return kind is not None and kind.strip() == "3"


def bridge_operations(conf: Conf, ips: Sequence[Ip], present: Link | None) -> list[Operation]:
    """What the bridge lacks but for addresses: itself, being up. Raises CniError when there is something else of its name."""
    promisc = True if conf.promisc else None
    if present is None:
        mac = wiring.hardware(ips[0].gateway) if conf.is_gateway and ips else ""
        return [
            AddBridge(conf.bridge, mac, conf.mtu, exist_ok=True, vlan_filtering=conf.vlans.used),
            SetLink(conf.bridge, up=True, promisc=promisc),
        ]
    if present.kind != "bridge":
        raise CniError(OTHER, f'"{conf.bridge}" already exists but is not a bridge')
    out: list[Operation] = [SetBridge(conf.bridge, vlan_filtering=True)] if conf.vlans.used else []
    if not present.up or (conf.promisc and not present.promiscuous):
        out.append(SetLink(conf.bridge, up=True, promisc=promisc))
    return out


def address_operations(call: Call, conf: Conf, ips: Sequence[Ip], there: Sequence[Address]) -> list[Operation]:
    """The gateways' addresses that are missing. Raises CniError when there are those of another network.

    As in the reference, any other IPv4 address is another network's, and an IPv6 one whose network overlaps.
    """
    wanted = list(dict.fromkeys(f"{one.gateway}/{ip_interface(one.address).network.prefixlen}" for one in ips))
    present = {f"{one.text}/{one.length}" for one in there}
    missing = [gateway for gateway in wanted if gateway not in present]
    out: list[Operation] = []
    for gateway in missing:
        mine = ip_interface(gateway)
        for held in map(ip_interface, sorted(present - set(wanted))):
            if held.version != mine.version or held.ip.is_link_local:
                continue
            if held.version == 6 and not held.network.overlaps(mine.network):
                continue
            if str(held) in _gateways_of(call):
                continue
            if not conf.force_address:
                raise CniError(
                    OTHER,
                    f'failed to set bridge addr: "{conf.gateway_device}" already has an IP address different from {gateway}',
                    f'it has {held}; another network uses this bridge: name another bridge, or set "forceAddress"',
                )
            out.append(DelAddress(str(held), conf.gateway_device, missing_ok=True))
    out = list(dict.fromkeys(out))
    return [*out, *(AddAddress(gateway, conf.gateway_device, exist_ok=True) for gateway in missing)]


def _gateways_of(call: Call) -> set[str]:
    """The gateways of all ranges of the network itself, with prefix lengths: one container gets only some of them."""
    if ipam.kind(call) != "host-local":
        return set()
    return {f"{one.gateway}/{one.subnet.prefixlen}" for ranges in host_local.parse(call).sets for one in ranges}


def _vlan_gateway(call: Call, conf: Conf, ips: Sequence[Ip], bridge: Link) -> Steps[tuple[Interface, ...]]:
    """The node's own interface in the VLAN; it stays when containers go, as the bridge does."""
    name = conf.gateway_device
    found = yield from ask(FindLink(Where.NODE, name))
    if found is None:
        random = yield from ask(Random(10))
        macs = (wiring.host_hardware(random[4:]), wiring.hardware(ips[0].gateway))
        port = f"veth{random[:4].hex()}"
        operations = bridge_vlans.gateway_operations(conf.bridge, conf.vlans, port, call.name, macs, bridge.mtu)
        try:
            yield from wiring.apply(Where.NODE, operations)
        except GlassnetError as error:
            yield from wiring.tried(lambda: ask(Remove(Where.NODE, port)))
            raise CniError(OTHER, f"failed to create vlan interface: {error}") from None
        return (Interface(name, macs[1], mtu=bridge.mtu),)
    if found.kind != "veth":
        raise CniError(OTHER, f'failed to create vlan interface: "{name}" already exists but is not a veth')
    if not found.up:
        yield from wiring.apply(Where.NODE, [SetLink(name, up=True)])
    return (Interface(name, found.hardware, mtu=found.mtu),)


def _connect(call: Call, conf: Conf, ips: Sequence[Ip], undo: Undo) -> Steps[tuple[Interface, Interface]]:
    """Make the pair; the node's end and the container's."""
    for _ in range(_TRIES):
        random = yield from ask(Random(16))
        name, host_mac = f"veth{random[:4].hex()}", wiring.host_hardware(random[4:10])
        # two hosts of one address must not have one MAC as well: nobody would notice
        follows = ips and not conf.duplicate_detection
        mac = conf.mac or (wiring.hardware(ips[0].ip) if follows else wiring.host_hardware(random[10:]))
        operations = pair_operations(call, conf, name, host_mac, mac)
        undo.append(lambda name=name: ask(Remove(Where.NODE, name)))  # type: ignore[misc]
        try:
            yield from wiring.apply(Where.NODE, operations)
        except KernelError as error:
            if error.number != errno.EEXIST:
                raise
            undo.pop()  # it is somebody else's
            if (yield from ask(FindLink(Where.POD, call.ifname))) is not None:
                raise CniError(OTHER, f"container veth name provided ({call.ifname}) already exists") from None
            continue
        return Interface(name, host_mac, mtu=conf.mtu), Interface(call.ifname, mac, call.netns, mtu=conf.mtu)
    raise CniError(OTHER, "failed to find a unique veth name")


def pair_operations(call: Call, conf: Conf, name: str, host_mac: str, mac: str) -> list[Operation]:
    """The pair as one batch: a port of the bridge that says whose it is, with its VLANs."""
    return [
        AddVeth(name, call.ifname, call.pod, host_mac, mac, conf.mtu, master=conf.bridge),
        SetLink(name, up=True, alias=wiring.alias(call), hairpin=conf.hairpin or None, isolated=conf.isolated or None),
        NoLinkLocal(name),
        *bridge_vlans.port_operations(name, conf.vlans),
    ]


def _make_known(conf: Conf, ips: Sequence[Ip], bridge: Link, container: Interface, undo: Undo) -> Steps[None]:
    """Tell the neighbours, who may know another MAC for the addresses, and the switches behind the bridge, which may know another place for
    the MAC: setting it has the kernel announce the addresses, now that frames pass the pair.

    Where all MACs follow from addresses (an agent's own pods, with permanent neighbours) nobody can know another one.
    """
    inside: list[Operation] = []
    if ips and (conf.mac or conf.duplicate_detection or not conf.permanent_neighbours):
        inside.append(SetLink(container.name, hardware=container.mac))
    if conf.permanent_neighbours and conf.is_gateway and ips:
        device, hardware = conf.gateway_device, bridge.hardware
        inside += [SetNeighbour(one.gateway, hardware, container.name) for one in ips]
        undo.append(lambda: wiring.apply(Where.NODE, [DelNeighbour(one.ip, device) for one in ips]))
        yield from wiring.apply(Where.NODE, [SetNeighbour(one.ip, container.mac, device) for one in ips])
    yield from wiring.apply(Where.POD, inside)


# -- DEL and GC


def delete(call: Call) -> Steps[None]:
    """Take the container off; what is gone already is fine. It goes on after a failure, and tells all that failed. Raises GlassnetError."""
    addresses = yield from wiring.addresses_of(call)
    yield from wiring.each(
        wiring.unwire(call), _uncheck(call), _unmask(call, addresses), _forget(call, addresses), ipam.delete(call)
    )


def _uncheck(call: Call) -> Steps[None]:
    if call.fields.flag("macspoofchk"):
        yield from spoof_check.delete(call)


def _unmask(call: Call, addresses: list[str]) -> Steps[None]:
    if call.fields.flag("ipMasq"):
        yield from masquerade.delete(call, addresses)


def _forget(call: Call, addresses: list[str]) -> Steps[None]:
    bridge, vlan = call.fields.text("bridge") or "cni0", call.fields.number("vlan")
    device = f"{bridge}.{vlan}" if vlan else bridge
    yield from wiring.apply(Where.NODE, [DelNeighbour(one.partition("/")[0], device) for one in addresses])


def collect(call: Call) -> Steps[None]:
    """GC: take away every trace of containers that are not in the list. It goes on after a failure, and tells them all. Raises CniError."""
    call.valid()
    parts: list[Steps[Any]] = [wiring.collect(call), spoof_check.collect(call)]
    if call.fields.flag("ipMasq"):
        parts.append(masquerade.collect(call))
    yield from wiring.each(*parts, ipam.collect(call))


# -- CHECK and STATUS


def check(call: Call) -> Steps[None]:
    """The bridge, both ends of the pair, addresses, routes, rules and leases are as the previous result says. Raises CniError."""
    conf = parse(call)
    told = wiring.previous(call)
    yield from ipam.check(call)
    yield from _check_bridge(conf, told)
    container = yield from wiring.check_inside(call, told, up=not conf.interface_down)
    port = yield from _check_port(call, conf, told)
    if conf.is_gateway:
        there = {one.text for one in (yield from ask(ListAddresses(Where.NODE, conf.gateway_device)))}
        for ip in told.ips:
            if ip.gateway and ip.gateway not in there:
                raise CniError(OTHER, f"bridge {conf.gateway_device} has lost the gateway's address {ip.gateway}")
    if conf.spoof_check and (missing := (yield from spoof_check.check(call, port, container.mac))):
        raise CniError(OTHER, f"macspoofchk rules are missing: {missing[0]}")
    if conf.ip_masq and (missing := (yield from masquerade.check(call, [one.address for one in told.ips]))):
        raise CniError(OTHER, f"masquerade rules are missing: {missing[0]}")


def _check_bridge(conf: Conf, told: Result) -> Steps[None]:
    bridge = yield from ask(FindLink(Where.NODE, conf.bridge))
    if bridge is None:
        raise CniError(OTHER, f"Interface {conf.bridge} not found")
    if bridge.kind != "bridge":
        raise CniError(OTHER, f"Interface {conf.bridge} does not have link type of bridge", f"it is {bridge.kind}")
    if not bridge.up:
        raise CniError(OTHER, f"Interface {conf.bridge} is down")
    mac = next((one.mac for one in told.interfaces if one.name == conf.bridge and not one.sandbox), "")
    if conf.is_gateway and mac and mac != bridge.hardware:  # without an address its MAC changes with its ports
        raise CniError(OTHER, f"Bridge interface {conf.bridge} Mac doesn't match: {mac}", f"it has {bridge.hardware}")
    if conf.promisc and not bridge.promiscuous:
        raise CniError(
            OTHER,
            f"Bridge interface {conf.bridge} configured Promisc Mode true doesn't match current state: false",
        )


def _check_port(call: Call, conf: Conf, told: Result) -> Steps[str]:
    """The node's end of the pair; its name."""
    inside = yield from ask(FindLink(Where.POD, call.ifname))
    names = [one.name for one in told.interfaces if not one.sandbox and one.name != conf.bridge]
    for name in names:
        link = yield from ask(FindLink(Where.NODE, name))
        if inside is None or link is None or link.peer != inside.index or link.index != inside.peer:
            continue
        if link.master != conf.bridge:
            master = link.master or "none"
            raise CniError(OTHER, f"Interface {name} is not a port of {conf.bridge}", f"its master is {master}")
        if not link.up:
            raise CniError(OTHER, f"Interface {name} is down")
        mac = next((one.mac for one in told.interfaces if one.name == name), "")
        if mac and mac != link.hardware:
            raise CniError(OTHER, f"Interface {name} Mac doesn't match: {mac} not found", f"it has {link.hardware}")
        port = yield from ask(FindPort(Where.NODE, name))
        for word, wanted, found in (
            ("hairpin", conf.hairpin, port is not None and port.hairpin),
            ("isolated", conf.isolated, port is not None and port.isolated),
        ):
            if wanted and not found:
                raise CniError(OTHER, f"Interface {name} is not {word}", f"bridge link set dev {name} {word} on")
        return name
    raise CniError(
        OTHER, f"CNI veth created for bridge {conf.bridge} was not found", f"want the other end of {call.ifname}"
    )


def status(call: Call) -> Steps[None]:
    """Addresses are left to give, and what there is works: the bridge is up and the node forwards. Raises CniError (50, 51)."""
    conf = parse(call)
    yield from ipam.status(call)
    if conf.ip_masq:
        yield from masquerade.status(call)
    bridge = yield from ask(FindLink(Where.NODE, conf.bridge))
    if bridge is not None:
        yield from _status_of(conf, bridge)
    if conf.is_gateway and any(key.startswith("K8S_POD_") for key in call.args):
        for name in _SERVICES:
            if (yield from ask(ReadSetting(Where.NODE, name))) is None:
                why = "pods of this node do not reach each other through Services"
                raise CniError(LIMITED_CONNECTIVITY, f"{name} is absent: {why}", "modprobe br_netfilter")


def _status_of(conf: Conf, bridge: Link) -> Steps[None]:
    if bridge.kind != "bridge":
        raise CniError(NOT_AVAILABLE, f'"{conf.bridge}" already exists but is not a bridge')
    if not bridge.up:
        raise CniError(LIMITED_CONNECTIVITY, f"bridge {conf.bridge} is down", f"ip link set {conf.bridge} up")
    if not conf.is_gateway:
        return
    there = yield from ask(ListAddresses(Where.NODE, conf.gateway_device))
    for bits, name in ((32, "net.ipv4.ip_forward"), (128, "net.ipv6.conf.all.forwarding")):
        given = any(one.bits == bits and one.scope == "global" for one in there)
        if given and (yield from ask(ReadSetting(Where.NODE, name))) == "0":
            why = f"{name} is 0: pods reach nobody beyond this node"
            raise CniError(LIMITED_CONNECTIVITY, why, f"sysctl -w {name}=1")
