"""bandwidth: limits what reaches a container and what it sends, in bits a second. It comes after a plugin that made a veth pair.

What reaches the container waits in a token bucket (tbf) on the pair's end on the node. What it sends is redirected from there to a link of kind
ifb, and waits in that one's. With subnets, packets that are not to wait pass by in a class of their own (htb).

Source: behaviour, keys, names and messages of the reference plugin (containernetworking/plugins, bandwidth: tbf as in its versions up to 1.4,
htb, where there are subnets, as in those that followed); CNI CONVENTIONS.md, capability bandwidth.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from ipaddress import ip_network
from typing import NamedTuple

from glassnet.cni import wiring
from glassnet.cni.effects import Apply, FindLink, ListLinks, ReadShaping, Remove, Steps, Where, ask
from glassnet.cni.errors import INVALID_CONFIG, NOT_AVAILABLE, OTHER, CniError
from glassnet.cni.fields import Fields
from glassnet.cni.request import Attachment, Call
from glassnet.cni.result import Interface, Result
from glassnet.net.errors import GlassnetError, KernelError
from glassnet.netstack.model import Link, Shaping
from glassnet.netstack.ops import (
    AddHtb,
    AddHtbClass,
    AddIfb,
    AddIngress,
    AddRedirect,
    AddSubnetFilter,
    AddTbf,
    DelQdisc,
    MarkLink,
    Operation,
    ProbeShaping,
)

RATES = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
SHAPED, UNSHAPED = 48, 1  # minor numbers of the two classes
LATENCY = 0.025  # seconds a packet waits at most, once the burst is used up
UNLIMITED = 100_000_000_000  # bytes a second, for the class of packets that do not wait
_TICKS = 15.625  # of the kernel, in a microsecond (64 ns each: PSCHED_SHIFT)
_U32_MAX = 2**32 - 1


class Limit(NamedTuple):
    """What one direction may: bytes a second, and bytes at once. Rate 0: no limit."""

    rate: int
    burst: int

    @property
    def buffer(self) -> int:
        """The time the burst takes at the rate, in ticks; 275 s at most, which is where the reference's count begins anew."""
        microseconds = int(self.burst * 1_000_000 / self.rate)
        return min(int(microseconds * _TICKS), _U32_MAX)

    @property
    def limit(self) -> int:
        """How many bytes may wait."""
        return min(int(self.rate * LATENCY) + self.burst, _U32_MAX)


class Conf(NamedTuple):
    """The plugin's keys. `shaped` are the subnets that alone are limited, `unshaped` those that alone are not."""

    ingress: Limit
    egress: Limit
    shaped: tuple[str, ...]
    unshaped: tuple[str, ...]

    @property
    def default(self) -> int:
        """The class of packets from and to all other subnets."""
        return UNSHAPED if self.shaped else SHAPED


# -- configuration


def parse(call: Call) -> Conf:
    """Read the configuration. Limits in it come before those of the runtime, and so do subnets. Raises CniError."""
    own, given = call.fields, call.runtime.table("bandwidth")
    rates = own if any(own.has(key) for key in RATES) else given
    subnets = own if any(own.has(key) for key in ("shapedSubnets", "unshapedSubnets")) else given
    conf = Conf(
        _limit(rates, "ingress"), _limit(rates, "egress"), _subnets(subnets, "shaped"), _subnets(subnets, "unshaped")
    )
    if conf.shaped and conf.unshaped:
        raise CniError(
            INVALID_CONFIG,
            "unshapedSubnets and shapedSubnets cannot be both specified, one of them should be discarded",
        )
    own.done()
    return conf


def _limit(fields: Fields, way: str) -> Limit:
    rate, burst = (fields.number(f"{way}{what}", high=2**64 - 1) for what in ("Rate", "Burst"))
    key = f"{way}Burst"
    if rate and not burst:
        raise fields.error(key, "if rate is set, burst must also be set")
    if burst and not rate:
        raise fields.error(f"{way}Rate", "if burst is set, rate must also be set")
    if burst // 8 >= _U32_MAX:
        raise fields.error(key, "burst cannot be more than 4GB")
    for name, value in ((f"{way}Rate", rate), (key, burst)):
        if 0 < value < 8:
            raise fields.error(name, f"{value}: want 8 bits, one byte, at least")
    return Limit(rate // 8, burst // 8)


def _subnets(fields: Fields, kind: str) -> tuple[str, ...]:
    key = f"{kind}Subnets"
    out = []
    for text in fields.texts(key):
        try:
            out.append(str(ip_network(text, strict=False)))
        except ValueError as error:
            raise fields.error(key, f'bad subnet "{text}" provided, details {error}') from None
    return tuple(out)


# -- names and operations


def ifb_name(network: str, container_id: str, ifname: str = "") -> str:
    """The name of a container's ifb link: bwp and twelve hex digits."""
    return "bwp" + hashlib.sha512(f"{network}{container_id}{ifname}".encode()).hexdigest()[:12]


def _ifb_of(call: Call) -> Steps[tuple[str, Link | None]]:
    """The name of this interface's ifb, and the link if there is one. A container's first interface in a network has the reference's name."""
    name = ifb_name(call.name, call.container_id)
    link = yield from ask(FindLink(Where.NODE, name))
    mark = wiring.owner(link.alias) if link else None
    if mark is None or mark[2] == call.ifname:
        return name, link
    name = ifb_name(call.name, call.container_id, call.ifname)
    return name, (yield from ask(FindLink(Where.NODE, name)))


def queue_operations(conf: Conf, limit: Limit, dev: str, inbound: bool) -> list[Operation]:
    """What holds packets back on a link. `inbound`: they go to the container, so that their sources are what subnets are about."""
    subnets = conf.shaped or conf.unshaped
    if not subnets:
        return [AddTbf(dev, limit.rate, limit.buffer, limit.limit)]
    out: list[Operation] = [
        AddHtb(dev, conf.default),
        AddHtbClass(dev, UNSHAPED, UNLIMITED),
        AddHtbClass(dev, SHAPED, limit.rate, limit.buffer),
    ]
    return out + [
        AddSubnetFilter(dev, one, SHAPED if conf.shaped else UNSHAPED, source=inbound)
        for one in subnets
    ]  # fmt: skip


def _host_end(call: Call, result: Result) -> Steps[Link]:
    """The pair's end on the node. Raises CniError when the container's interface has none among those of the result."""
    if not result.interfaces:
        raise CniError(OTHER, "no interfaces provided", "the previous result names none")
    inside = yield from ask(FindLink(Where.POD, call.ifname))
    if inside is None or inside.kind != "veth" or not inside.peer:
        what = "there is no such interface" if inside is None else f"it is of kind {inside.kind or 'none'}"
        raise CniError(OTHER, f"container interface {call.ifname} has no veth peer: {what}")
    for one in result.interfaces:
        if not one.sandbox:
            link = yield from ask(FindLink(Where.NODE, one.name))
            if link and link.kind == "veth" and (link.index, link.peer) == (inside.peer, inside.index):
                return link
    raise CniError(OTHER, "no veth peer of container interface found in host ns")


# -- ADD


def add(call: Call) -> Steps[Result]:
    """Limit the container's traffic. Raises CniError; nothing is left then."""
    conf = parse(call)
    if call.previous is None:
        raise CniError(INVALID_CONFIG, "must be called as chained plugin")
    if not conf.ingress.rate and not conf.egress.rate:
        return call.previous
    host = yield from _host_end(call, call.previous)
    undoing: list[Apply | Remove] = []
    try:
        if conf.ingress.rate:
            yield from _apply(queue_operations(conf, conf.ingress, host.name, inbound=True))
            undoing.append(Apply(Where.NODE, (DelQdisc(host.name),)))
        if not conf.egress.rate:
            return call.previous
        made = yield from _limit_egress(call, conf, host, undoing)
    except BaseException:
        yield from wiring.tried(*(lambda each=each: ask(each) for each in reversed(undoing)))
        raise
    return call.previous._replace(interfaces=(*call.previous.interfaces, made))


def _limit_egress(call: Call, conf: Conf, host: Link, undoing: list[Apply | Remove]) -> Steps[Interface]:
    """The ifb link with its queue; packets are sent there only when all is ready. What undoes each step is added to `undoing`."""
    name, _ = yield from _ifb_of(call)
    yield from _apply([AddIfb(name, host.mtu, host.queue), MarkLink(name, wiring.alias(call))])
    undoing.append(Remove(Where.NODE, name))
    yield from _apply(queue_operations(conf, conf.egress, name, inbound=False))
    yield from _apply([AddIngress(host.name)])
    undoing.append(Apply(Where.NODE, (DelQdisc(host.name, ingress=True),)))
    yield from _apply([AddRedirect(host.name, name)])
    link = yield from ask(FindLink(Where.NODE, name))
    return Interface(name, link.hardware if link else "", mtu=host.mtu)


def _apply(operations: Sequence[Operation]) -> Steps[None]:
    yield from ask(Apply(Where.NODE, tuple(operations)))


# -- DEL and GC


def delete(call: Call) -> Steps[None]:
    """Take the ifb link away; what is on the pair goes with the pair. Nothing else is needed for it than network, container and interface."""
    name, link = yield from _ifb_of(call)
    if link is not None:
        yield from ask(Remove(Where.NODE, name))


def collect(call: Call) -> Steps[None]:
    """GC: take away the ifb links of containers that are not in the list. It goes on after a failure, and tells them all. Raises CniError."""
    valid = call.valid()
    problems: list[str] = []
    for link in (yield from ask(ListLinks(Where.NODE))):
        found = wiring.owner(link.alias) if link.kind == "ifb" else None
        if found and found[0] == call.name and Attachment(*found[1:]) not in valid:
            try:
                yield from ask(Remove(Where.NODE, link.name))
            except GlassnetError as error:
                problems.append(str(error))
    if problems:
        raise CniError(OTHER, "; ".join(problems))


# -- CHECK and STATUS


def check(call: Call) -> Steps[None]:
    """The queues are as configured, and what the container sends is redirected to its own. Raises CniError."""
    conf = parse(call)
    if call.previous is None:
        raise CniError(INVALID_CONFIG, "must be called as a chained plugin")
    if not conf.ingress.rate and not conf.egress.rate:
        return
    host = yield from _host_end(call, call.previous)
    shaping = yield from ask(ReadShaping(host.name))
    if conf.ingress.rate:
        _compare(conf, conf.ingress, host.name, shaping)
    if conf.egress.rate:
        name, link = yield from _ifb_of(call)
        if link is None or not link.up:
            raise CniError(OTHER, f"get ifb device: {name} {'is down' if link else 'does not exist'}")
        _compare(conf, conf.egress, name, (yield from ask(ReadShaping(name))))
        if name not in shaping.redirected:
            raise CniError(OTHER, f"what comes in at {host.name} is not redirected to {name}")


def _compare(conf: Conf, limit: Limit, dev: str, found: Shaping) -> None:
    kind = "htb" if conf.shaped or conf.unshaped else "tbf"
    root = found.root
    if root is None or root.kind != kind:
        raise CniError(OTHER, "Failed to find qdisc", f"{dev} has {root.kind if root else 'none'}, want {kind}")
    if kind == "htb" and root.default != conf.default:
        raise CniError(OTHER, "Default class does not match", f"of {dev}: {root.default}, want {conf.default}")
    if conf.shaped:
        return  # the default class is the one without a limit
    for what, there, want in (
        ("Rate", root.rate, limit.rate),
        ("Limit", root.limit, limit.limit if kind == "tbf" else 0),
        ("Buffer", root.buffer, limit.buffer),
    ):
        if there != want:
            raise CniError(OTHER, f"{what} doesn't match", f"of {dev}: {there}, want {want}")


def status(call: Call) -> Steps[None]:
    """The kernel has what limits are made of. Raises CniError (50)."""
    conf = parse(call)
    kinds = ["ifb", "mirred", "tbf", *(["htb"] if conf.shaped or conf.unshaped else [])]
    for kind in kinds:
        try:
            yield from ask(Apply(Where.NODE, (ProbeShaping(kind),)))
        except KernelError as error:
            if error.number not in (errno.EINVAL, errno.EEXIST):
                raise CniError(NOT_AVAILABLE, f"the kernel has no {kind}: {error}", "modprobe it") from None
