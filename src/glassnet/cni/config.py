"""Network configurations as CNI 0.3.0 to 1.1.0 have them. Source: CNI SPEC.md, "Section 1: Network configuration format"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network
from typing import Any, NamedTuple

from glassnet.net.errors import ParseError

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SUFFIXES = (".conf", ".conflist", ".json")


class Ipam(NamedTuple):
    """host-local's part: the ranges (each with a gateway, "" for the first address) and the routes pods get."""

    ranges: tuple[tuple[str, str], ...]  # (subnet, gateway)
    routes: tuple[tuple[str, str], ...]  # (destination, gateway)


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
    ipam: Ipam


def choose_file(names: Iterable[str]) -> str | None:
    """The configuration a runtime takes from a directory: the first by name with a known suffix."""
    return min((name for name in names if name.endswith(SUFFIXES)), default=None)


def parse(text: str, source: str) -> NetConf:
    """Read a configuration, a list's first bridge plugin included. Raises ParseError naming file, line and key."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise ParseError(error.msg, source, error.lineno, error.colno) from None
    if not isinstance(whole, dict):
        raise ParseError("want a JSON object", source, 1)
    version = str(whole.get("cniVersion", "0.3.1"))
    if version not in VERSIONS:
        raise ParseError(
            f'"cniVersion": {version} is not one of {", ".join(VERSIONS)}', source, _line(text, "cniVersion")
        )
    name = whole.get("name")
    if not name or not isinstance(name, str):
        raise ParseError('"name": the network has no name', source, _line(text, "name"))
    plugins = whole["plugins"] if isinstance(whole.get("plugins"), list) else [whole]
    conf = next((p for p in plugins if p.get("type") == "bridge"), None)
    if conf is None:
        kinds = ", ".join(str(p.get("type")) for p in plugins)
        raise ParseError(
            f'"type": {kinds}: this network is made by another plugin than bridge', source, _line(text, "type")
        )
    return NetConf(
        version,
        name,
        "bridge",
        str(conf.get("bridge") or "cni0"),
        bool(conf.get("isGateway") or conf.get("isDefaultGateway")),
        bool(conf.get("ipMasq")),
        bool(conf.get("hairpinMode")),
        bool(conf.get("promiscMode")),
        int(conf.get("mtu") or 0),
        bool(conf.get("isDefaultGateway")),
        _ipam(conf.get("ipam") or {}, text, source),
    )


def _ipam(ipam: Mapping[str, Any], text: str, source: str) -> Ipam:
    if ipam.get("type") != "host-local":
        raise ParseError(f'"ipam": type {ipam.get("type")!r}: want host-local', source, _line(text, "ipam"))
    sets = ipam.get("ranges") or ([[ipam]] if ipam.get("subnet") else [])
    ranges = []
    for entry in (entry for ranged in sets for entry in ranged):
        try:
            ranges.append((str(IPv4Network(entry["subnet"])), str(entry.get("gateway") or "")))
        except (KeyError, ValueError) as error:
            raise ParseError(f'"subnet": {entry.get("subnet")}: {error}', source, _line(text, "subnet")) from None
    if not ranges:
        raise ParseError('"ranges": no range to give addresses from', source, _line(text, "ipam"))
    routes = tuple((str(route["dst"]), str(route.get("gw") or "")) for route in ipam.get("routes") or ())
    return Ipam(tuple(ranges), routes)


def _line(text: str, key: str) -> int:
    """Line of a key's first mention."""
    position = text.find(f'"{key}"')
    return text.count("\n", 0, position) + 1 if position >= 0 else 1
