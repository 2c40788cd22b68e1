"""portmap: ports of the node lead to ports of a container. Rules by iptables or nftables, those of the reference plugin.

Source: containernetworking/plugins, plugins/meta/portmap (keys, chains, comments); either side can take the other's rules away.
Better than there: a port that another container holds is refused, and an ADD that comes again replaces the rules of the one before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from glassnet.cni import kept, portmap_iptables, portmap_nft
from glassnet.cni.effects import (
    ForgetConnections,
    HasProgram,
    ReadFile,
    ReadSetting,
    RouteDevice,
    Steps,
    Where,
    WriteSettings,
    ask,
)
from glassnet.cni.errors import NOT_AVAILABLE, OTHER, CniError
from glassnet.cni.fields import Fields
from glassnet.cni.portmap_model import BACKENDS, IPTABLES, NFTABLES, PROTOCOLS, Conf, Mapping, Target
from glassnet.cni.request import Call
from glassnet.cni.result import Result
from glassnet.net.errors import GlassnetError

_BIT = 13  # kube-proxy's is 14


class _Backend(NamedTuple):
    """One kind of rules, as functions."""

    program: str
    module: Any


_KINDS = {IPTABLES: _Backend("iptables", portmap_iptables), NFTABLES: _Backend("nft", portmap_nft)}


def parse(call: Call) -> Conf:
    """Read the configuration. Raises ConfigError, code 7 for ports out of range."""
    fields = call.fields
    mark_chain, bit = fields.text("externalSetMarkChain"), fields.number("markMasqBit", -1)
    if mark_chain and bit >= 0:
        raise fields.error("externalSetMarkChain", "Cannot specify externalSetMarkChain and markMasqBit")
    if bit > 31:
        raise fields.error("markMasqBit", f"{bit}: MasqMarkBit must be between 0 and 31")
    conf = Conf(
        _mappings(call),
        fields.flag("snat", True),
        fields.flag("masqAll"),
        {4: tuple(fields.texts("conditionsV4")), 6: tuple(fields.texts("conditionsV6"))},
        1 << (bit if bit >= 0 else _BIT),
        mark_chain,
        fields.text("backend"),
    )
    if conf.backend not in ("", *BACKENDS):
        raise fields.error("backend", f'unrecognized backend "{conf.backend}"; want {" or ".join(BACKENDS)}')
    for family, words in conf.conditions.items():
        if any("\n" in word for word in words):
            raise fields.error(f"conditionsV{family}", f"{list(words)}: a condition is one line")
        wanted = _kind_of(words)
        if wanted and conf.backend and wanted != conf.backend:
            raise fields.error(f"conditionsV{family}", f"{list(words)}: these are no conditions of {conf.backend}")
    for key in ("ipam", "runtimeConfig", "cni.dev/valid-attachments", "cni.dev/attachments"):
        fields.raw(key)
    fields.done()
    return conf


def _mappings(call: Call) -> tuple[Mapping, ...]:
    out = []
    for one in call.runtime.tables("portMappings"):
        ports = [_port(one, "containerPort", "container"), _port(one, "hostPort", "host")]
        protocol = one.text("protocol").lower()
        if protocol not in PROTOCOLS:
            raise one.error("protocol", f'unknown protocol "{protocol}" specified; want {", ".join(PROTOCOLS)}')
        address = one.address("hostIP")
        out.append(Mapping(ports[1], ports[0], protocol, str(address) if address else ""))
    return tuple(dict.fromkeys(out))


def _port(fields: Fields, key: str, whose: str) -> int:
    number = fields.number(key, low=-(2**31))
    if not 1 <= number <= 65535:
        raise fields.error(key, f"Invalid {whose} port number: {number}; want one from 1 to 65535")
    return number


def _kind_of(conditions: tuple[str, ...]) -> str:
    """The backend that conditions are for: those of iptables begin with an option, or the "!" before one."""
    if not conditions or not conditions[0]:
        return ""
    return IPTABLES if conditions[0][0] in "-!" else NFTABLES


def _backend(conf_backend: str, conditions: Iterable[tuple[str, ...]]) -> Steps[str]:
    """The backend in use: the one asked for, the one that conditions are for, iptables, nftables where there is no iptables."""
    if conf_backend:
        return conf_backend
    for words in conditions:
        if kind := _kind_of(words):
            return kind
    if not (yield from ask(HasProgram("iptables"))) and (yield from ask(HasProgram("nft"))):
        return NFTABLES
    return IPTABLES


def _used(call: Call) -> Steps[str]:
    """The backend of a configuration that is not read whole: DEL goes on with a bad one."""
    conditions = [tuple(str(one) for one in call.config.get(key) or ()) for key in ("conditionsV4", "conditionsV6")]
    backend = call.config.get("backend")
    return (yield from _backend(backend if backend in BACKENDS else "", conditions))


# -- ADD


def add(call: Call) -> Steps[Result]:
    """Map the ports; the previous result is handed on. Raises CniError; nothing is left then."""
    conf = parse(call)
    if call.previous is None:
        raise CniError(OTHER, "must be called as chained plugin")
    if not conf.mappings:
        return call.previous
    kind = _KINDS[(yield from _backend(conf.backend, conf.conditions.values()))]
    try:
        for target in targets(call, call.previous):
            yield from _route_localhost(conf, target)
            yield from kind.module.add(call, conf, target)
            yield from _forget(conf, target)
    except BaseException:
        yield from _undo(call)
        raise
    return call.previous


def _undo(call: Call) -> Steps[None]:
    try:
        yield from delete(call)
    except GlassnetError:
        return  # the error that led here is the one to be told


def targets(call: Call, result: Result) -> list[Target]:
    """The first address of each family that is the container's: one on another interface, or on the node, is not."""
    found: dict[int, Target] = {}
    for one in result.ips:
        if one.interface is not None:
            link = result.interfaces[one.interface]
            if link.name != call.ifname or not link.sandbox:
                continue
        found.setdefault(one.family, Target(one.family, one.address))
    return [found[family] for family in sorted(found)]


def _route_localhost(conf: Conf, target: Target) -> Steps[None]:
    """Packets from 127.0.0.1 leave the node by the container's interface only if that one may route them (ip-sysctl.rst: route_localnet)."""
    if not conf.snat or target.family != 4:
        return
    device = yield from ask(RouteDevice(Where.NODE, target.ip))
    if not device:
        return
    name = f"net.ipv4.conf.{device.replace('.', '/')}.route_localnet"
    try:
        if (yield from ask(ReadSetting(Where.NODE, name))) != "1":
            yield from ask(WriteSettings(Where.NODE, {name: "1"}))
    except GlassnetError as error:
        raise CniError(OTHER, f"unable to enable route_localnet: {error}", name) from None


def _forget(conf: Conf, target: Target) -> Steps[None]:
    """A client that sends on and on would stay with what the port led to before: its entry outlives the rules."""
    ports = tuple(sorted({one.host_port for one in conf.mappings if one.protocol == "udp"}))
    if ports:
        try:
            yield from ask(ForgetConnections(target.family, ports))
        except GlassnetError:
            return  # the rules are right; without connection tracking there is nothing to forget


# -- DEL and GC


def delete(call: Call) -> Steps[None]:
    """Take the mappings away; what is gone already is fine. Raises CniError."""
    if not (yield from _has_mappings(call)):
        return
    backend = yield from _used(call)
    families = sorted({one.family for one in call.previous.ips}) if call.previous else []
    problems = {}
    for family in families or (4, 6):
        try:
            yield from _KINDS[backend].module.delete(call, family)
        except GlassnetError as error:
            problems[family] = error
    if problems and (
        families or len(problems) == 2
    ):  # without a result a family that the node does not have is no fault
        first = min(problems)
        raise CniError(OTHER, f"could not teardown ipv{first} dnat: {problems[first]}")


def _has_mappings(call: Call) -> Steps[bool]:
    """A runtime that forgot what it asked for is helped by what is kept."""
    given = call.config.get("runtimeConfig")
    if isinstance(given, dict) and given.get("portMappings"):
        return True
    for family in (4, 6):
        for key in (portmap_iptables.key(call, family), portmap_nft.key(call, family)):
            if (yield from ask(ReadFile(kept.path(key)))) is not None:
                return True
    return False


def collect(call: Call) -> Steps[None]:
    """GC: both kinds of rules, of containers of this network that are not in the list. It goes on after a failure, and tells them all.

    Raises CniError.
    """
    containers = {one.container_id for one in call.valid()}
    problems: list[str] = []
    for kind in _KINDS.values():
        if (yield from ask(HasProgram(kind.program))):
            for family in (4, 6):
                problems += yield from kind.module.collect(call, family, containers)
    if problems:
        raise CniError(OTHER, "; ".join(problems))


# -- CHECK and STATUS


def check(call: Call) -> Steps[None]:
    """The rules of each address are there, in its own family. Raises CniError naming what is missing."""
    conf = parse(call)
    if call.previous is None:
        raise CniError(OTHER, "Required prevResult missing")
    if not conf.mappings:
        return
    backend = yield from _backend(conf.backend, conf.conditions.values())
    for target in targets(call, call.previous):
        try:
            missing = yield from _KINDS[backend].module.missing(call, conf, target)
        except GlassnetError as error:
            raise CniError(OTHER, f"could not check ipv{target.family} dnat: {error}") from None
        if missing:
            raise CniError(OTHER, f"could not check ipv{target.family} dnat: {missing}")


def status(call: Call) -> Steps[None]:
    """What the configuration needs works on this node. Raises CniError (50)."""
    conf = parse(call)
    backend = yield from _backend(conf.backend, conf.conditions.values())
    problem = yield from _KINDS[backend].module.problem()
    if problem:
        raise CniError(
            NOT_AVAILABLE, f"portmap: {backend} is not usable: {problem}", "install it, or set the other backend"
        )
