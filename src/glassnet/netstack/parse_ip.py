"""What iproute2, sysctl and ss print, as values: `ip -j addr|link|route|rule|neigh`, `bridge -j link|fdb`, `sysctl net`, `ss -lnptu`.

Only ParseError leaves this module. Fields that are not known are passed over: newer tools add some.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from glassnet.net import address
from glassnet.net.errors import ParseError
from glassnet.netstack.model import (
    Address,
    BridgePort,
    Link,
    Listener,
    Neighbour,
    NextHop,
    Route,
    RoutingRule,
)
from glassnet.netstack.namespace import NetStack

_TABLES = {"255": "local", "254": "main", "253": "default"}


def _rows(data: bytes, source: str) -> list[dict[str, Any]]:
    text = data.strip()
    if not text:
        return []
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        hint = "; the file was cut off" if "truncated" in str(error) else ""
        raise ParseError(f"not the JSON of `ip -j`: {error}{hint}", source) from None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ParseError("not a list of objects, as `ip -j` prints it", source)
    return [row for row in found if row]


def _guard(source: str, row: dict[str, Any], error: Exception) -> ParseError:
    return ParseError(f"cannot read {msgspec.json.encode(row).decode()[:120]}: {error}", source)


def parse_links(data: bytes, source: str = "") -> tuple[list[Link], list[Address]]:
    """`ip -j link` or `ip -j addr`."""
    links, addresses = [], []
    for row in _rows(data, source):
        try:
            links.append(_link(row))
            addresses += [
                _address(row["ifname"], item) for item in row.get("addr_info", ()) if item and "local" in item
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _guard(source, row, error) from None
    return links, addresses


def _link(row: dict[str, Any]) -> Link:
    flags = row.get("flags", ())
    info = row.get("linkinfo", {})
    return Link(
        int(row["ifindex"]),
        str(row["ifname"]),
        int(row.get("mtu", 0)),
        "UP" in flags,
        str(info.get("info_kind", row.get("link_type", "") if row.get("link_type") == "loopback" else "")),
        str(row.get("master", "")),
        int(row.get("link_index", 0)),
        str(row.get("address", "")),
        str(row.get("ifalias", "")),
        "NO-CARRIER" not in flags,
        bool(row.get("promiscuity", 0)),
    )


def _address(dev: str, item: dict[str, Any]) -> Address:
    text = address.canonical(item["local"])
    bits = 128 if ":" in text else 32
    return Address(address.number(text), bits, int(item["prefixlen"]), dev, str(item.get("scope", "global")))


def parse_routes(data: bytes, source: str = "", bits: int = 0) -> list[Route]:
    """`ip -j route show table all`; `bits` tells the family of `default` lines (0: from the other addresses of the line, else IPv4)."""
    found = []
    for row in _rows(data, source):
        try:
            found.append(_route(row, bits))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _guard(source, row, error) from None
    return found


def _route(row: dict[str, Any], bits: int) -> Route:
    destination = str(row["dst"])
    hints = [destination, str(row.get("gateway", "")), str(row.get("prefsrc", ""))]
    family = 128 if any(":" in hint for hint in hints) or "pref" in row else bits or 32
    if destination == "default":
        network = length = 0
    else:
        network, mask, family = address.prefix(destination)
        length = mask.bit_count()
    table = str(row.get("table", "main"))
    metrics: dict[str, Any] = {}
    for metric in row.get("metrics", ()):
        metrics |= metric
    source = address.canonical(str(row.get("prefsrc", "")))
    return Route(
        network,
        length,
        family,
        _TABLES.get(table, table),
        str(row.get("type", "unicast")),
        _hops(row, family),
        address.number(source) if source else None,
        int(row.get("metric", 0)),
        str(row.get("scope", "global")),
        str(row.get("protocol", "")),
        int(metrics.get("mtu", 0)),
        int(str(row.get("tos", "0")), 0),
    )


def _hops(row: dict[str, Any], bits: int) -> tuple[NextHop, ...]:
    if "nexthops" in row:
        return tuple(_hop(hop, bits) for hop in row["nexthops"])
    if "dev" in row or "gateway" in row or "via" in row:
        return (_hop(row, bits),)
    return ()


def _hop(row: dict[str, Any], bits: int) -> NextHop:
    via = row.get("via")
    text = address.canonical(str(row.get("gateway") or (via.get("host", "") if isinstance(via, dict) else "")))
    flags = row.get("flags", ())
    return NextHop(
        str(row.get("dev", "")),
        address.number(text) if text else None,
        int(row.get("weight", 1)),
        not ("dead" in flags or "linkdown" in flags),
        (128 if ":" in text else 32) if text else 0,
    )


_RULE_KEYS = {
    "priority", "src", "srclen", "dst", "dstlen", "table", "action", "iif", "oif", "fwmark", "fwmask", "not", "protocol", "suppress_prefixlen",
    "suppress_prefixlength", "goto", "sport", "dport", "sport_start", "sport_end", "dport_start", "dport_end", "ipproto", "iif_detached",
    "oif_detached", "lookup",
}  # fmt: skip


def parse_rules(data: bytes, source: str = "", bits: int = 32) -> list[RoutingRule]:
    """`ip -j rule`."""
    found = []
    for row in _rows(data, source):
        try:
            found.append(_rule(row, bits))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _guard(source, row, error) from None
    return sorted(found, key=lambda rule: rule.priority)


def _rule(row: dict[str, Any], bits: int) -> RoutingRule:
    table = str(row.get("table", row.get("lookup", "")))
    mark = int(str(row.get("fwmark", "0")), 0)
    strange = [key for key in row if key not in _RULE_KEYS]
    return RoutingRule(
        int(row.get("priority", 0)),
        bits,
        _TABLES.get(table, table),
        str(row.get("action", "lookup")),
        _selector(row, "src"),
        _selector(row, "dst"),
        str(row.get("iif", "")),
        str(row.get("oif", "")),
        mark,
        int(str(row.get("fwmask", "0xffffffff" if "fwmark" in row else "0")), 0),
        str(row.get("ipproto", "")),
        (_ports(row, "sport"), _ports(row, "dport")),
        "not" in row,
        int(row.get("suppress_prefixlen", row.get("suppress_prefixlength", -1))),
        int(row.get("goto", 0)),
        _rule_text(row),
        " ".join(f"{key} {row[key]}" for key in strange),
    )


def _selector(row: dict[str, Any], key: str) -> tuple[int, int] | None:
    text = str(row.get(key, "all"))
    if text == "all":
        return None
    network, mask, _ = address.prefix(f"{text}/{row[key + 'len']}" if key + "len" in row else text)
    return network, mask


def _ports(row: dict[str, Any], key: str) -> tuple[int, int] | None:
    if key in row:
        low, _, high = str(row[key]).partition("-")
        return int(low), int(high or low)
    if key + "_start" in row:
        return int(row[key + "_start"]), int(row.get(key + "_end", row[key + "_start"]))
    return None


def _rule_text(row: dict[str, Any]) -> str:
    words = [f"{row.get('priority', 0)}:"]
    if "not" in row:
        words.append("not")
    for key, length in (("src", "srclen"), ("dst", "dstlen")):
        if key in row:
            words += ["from" if key == "src" else "to", f"{row[key]}/{row[length]}" if length in row else str(row[key])]
    if "fwmark" in row:
        words += ["fwmark", f"{row['fwmark']}/{row['fwmask']}" if "fwmask" in row else str(row["fwmark"])]
    for key in ("iif", "oif"):
        if key in row:
            words += [key, str(row[key])]
    words += ["lookup", str(row["table"])] if "table" in row else [str(row.get("action", ""))]
    return " ".join(words)


def parse_neighbours(data: bytes, source: str = "") -> list[Neighbour]:
    """`ip -j neigh`."""
    found = []
    for row in _rows(data, source):
        try:
            text = address.canonical(str(row["dst"]))
            state = row.get("state", ())
            state = state[0] if isinstance(state, list) and state else str(state or "")
            bits = 128 if ":" in text else 32
            found.append(Neighbour(address.number(text), bits, str(row["dev"]), str(row.get("lladdr", "")), str(state)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _guard(source, row, error) from None
    return found


def parse_bridge_links(data: bytes, source: str = "") -> list[BridgePort]:
    """`bridge -j -d link`."""
    found = []
    for row in _rows(data, source):
        try:
            found.append(
                BridgePort(
                    str(row["ifname"]),
                    str(row.get("master", "")),
                    str(row.get("state", "forwarding")),
                    bool(row.get("hairpin", False)),
                    bool(row.get("isolated", False)),
                )
            )
        except (KeyError, TypeError) as error:
            raise _guard(source, row, error) from None
    return found


def parse_fdb(data: bytes, source: str = "") -> dict[tuple[str, str], str]:
    """`bridge -j fdb`: (bridge, MAC) -> port. Entries of no bridge (a link's own) are left out, a VXLAN's go by its own name."""
    found = {}
    for row in _rows(data, source):
        try:
            if row.get("master"):
                found[str(row["master"]), str(row["mac"])] = str(row["ifname"])
            elif "dst" in row:
                found[str(row["ifname"]), str(row["mac"])] = str(row["dst"])
        except (KeyError, TypeError) as error:
            raise _guard(source, row, error) from None
    return found


def parse_sysctls(text: str, source: str = "") -> dict[str, str]:
    """`sysctl -a`: dotted name -> value; slashes inside a part (an interface eth0.5) stay."""
    if "\0" in text:
        raise ParseError("binary data, not a listing of sysctl", source)
    found = {}
    for line in text.split("\n"):
        name, equals, value = line.partition("=")
        if equals:
            found[name.strip()] = value.strip()
    return found


_SOCKET = re.compile(r"(?:\[(?P<six>[^\]]*)\]|(?P<four>[^\s:]*|\*))(?:%(?P<dev>[^:\s]+))?:(?P<port>\d+)$").match


def parse_listeners(text: str, source: str = "") -> list[Listener]:
    """`ss -lntupH` and the like (with or without its heading)."""
    if "\0" in text:
        raise ParseError("binary data, not a listing of ss", source)
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0] in ("Netid", "State"):
            continue
        if words[0] in ("LISTEN", "UNCONN"):
            words.insert(0, "tcp" if words[0] == "LISTEN" else "udp")
        if len(words) < 5:
            raise ParseError(f"not a line of ss: {line[:60]!r}", source, number)
        if words[0] not in ("tcp", "udp", "sctp") or words[1] not in ("LISTEN", "UNCONN"):
            continue
        listener = _listener(words)
        if listener is not None:
            found.append(listener)
    return found


def _listener(words: list[str]) -> Listener | None:
    place = _SOCKET(words[4])
    if place is None:
        return None
    text = place["six"] if place["six"] is not None else place["four"]
    process = words[-1] if len(words) > 6 and words[-1].startswith("users:") else ""
    if text in ("*", ""):
        return Listener(words[0], 0, 128, int(place["port"]), True, process)
    text = address.canonical(text.partition("%")[0]) or "0.0.0.0"
    bits = 128 if ":" in text else 32
    return Listener(words[0], address.number(text), bits, int(place["port"]), bits == 128 and text == "::", process)


def add_part(stack: NetStack, part: str, data: bytes, source: str = "") -> None:
    """Read one dump into the namespace's picture. `part` names what it is: addr, link, route, route6, rule, rule6, neigh, bridge-link, bridge-fdb, sysctl, listen.

    Raises ParseError.
    """
    text = data.decode("utf-8", "replace") if part in ("sysctl", "listen") else ""
    match part:
        case "addr" | "link":
            links, addresses = parse_links(data, source)
            for link in links:
                stack.links.setdefault(link.name, link)
            stack.addresses += [item for item in addresses if item not in stack.addresses]
        case "route" | "route6":
            known = set(stack.routes)
            bits = 128 if part == "route6" else 32
            stack.routes += [route for route in parse_routes(data, source, bits) if route not in known]
        case "rule" | "rule6":
            stack.rules += parse_rules(data, source, 128 if part == "rule6" else 32)
        case "neigh":
            stack.neighbours |= {(n.value, n.bits, n.dev): n for n in parse_neighbours(data, source)}
        case "bridge-link":
            stack.ports |= {port.name: port for port in parse_bridge_links(data, source)}
        case "bridge-fdb":
            stack.fdb |= parse_fdb(data, source)
        case "sysctl":
            stack.sysctls |= parse_sysctls(text, source)
        case "listen":
            stack.listeners = (stack.listeners or []) + parse_listeners(text, source)
