"""What CNI plugins leave on a node and in containers, in a normal form: numbers, names and MACs drawn by lot replaced, so that two nodes compare.

Left out: link-local addresses and what the kernel makes by itself (local and multicast routes), neighbours, states that come a moment later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cni_site import Site

SETTINGS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/bridge")
_MARK = "#----"
_POD = ("ip -j -d link", "ip -j addr", "ip -j -4 route show table all", "ip -j -6 route show table all")
_NODE = (*_POD, "ip -j rule", "tc -j qdisc show", "nft -j list ruleset bridge", "iptables-save", "ip6tables-save")
_LISTS = "grep -s '' /proc/sys/net/ipv4/conf/*/* /proc/sys/net/ipv6/conf/*/*"
_FILTERS = "tc qdisc show | grep -q ingress && for d in $(ls /sys/class/net); do echo @$d; tc -j -d filter show dev $d ingress; done || true"
_MOMENTARY = {"ifindex", "link_index", "link_netnsid", "operstate", "group", "linkmode", "num_tx_queues", "num_rx_queues",
              "gso_max_size", "gso_max_segs", "tso_max_size", "tso_max_segs", "gro_max_size", "gso_ipv4_max_size",
              "gro_ipv4_max_size", "min_mtu", "max_mtu", "inet6_addr_gen_mode", "refcnt", "state",
              "tentative", "stats", "parentbus", "parentdev"}  # fmt: skip
_TIMERS = re.compile(r"timer|_age|designated|root_|bridge_id|port_|topology|_id$|no$|_cost|_count|_interval|hash")
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_VETH = re.compile(r"veth[0-9a-f]{8}")


def script(parts: Sequence[str]) -> str:
    """One shell for all listings: a process each would take longer than the plugins."""
    return f"; echo; echo '{_MARK}'; ".join(parts)


async def snapshot(
    site: Site, network: str, pods: Sequence[str], macs: Collection[str] = (), settings: bool = True
) -> tuple[Renaming, Any]:
    """Everything on the node and in each of the containers, and what takes the lots out of other values of that moment.

    Reading `settings`, a file each, takes half the time of all.
    """
    more = f"; grep -rs '' {' '.join(f'/proc/sys/{one}' for one in SETTINGS)}; true"
    first = _LISTS if settings else "true"
    node = (await site.sh(script([first + more if settings else first, *_NODE, _FILTERS]))).split(_MARK)
    inner = {}
    for pod in pods:
        line = f'nsenter --net=/run/netns/{pod} sh -c "{script([first, *_POD])}" || true'
        inner[pod] = (await site.sh(line)).split(_MARK)
    renaming = Renaming(node, inner, macs)
    whole: dict[str, Any] = {
        "node": _node(node),
        **{pod: _pod(text) for pod, text in inner.items() if len(text) > 1},
        "files": _files(site, network),
    }
    return renaming, renaming.of(whole)


class Renaming:
    """Takes what was drawn by lot out of a value: names of veths become whose end they are (`port` of a bridge, or `veth`), MACs but those in `macs` become MAC."""

    def __init__(self, node: Sequence[str], inner: Mapping[str, Sequence[str]], macs: Collection[str]) -> None:
        self._macs = {*macs, "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"}
        self.names: dict[str, str] = {}
        indexes = {link["ifindex"]: link for link in _json(node[1])}
        for pod, text in inner.items():
            for link in _json(text[1]) if len(text) > 1 else ():
                other = indexes.get(link.get("link_index"), {})
                if _VETH.fullmatch(other.get("ifname", "")):
                    kind = "port" if "master" in other else "veth"
                    self.names[other["ifname"]] = f"{kind}({pod} {link['ifname']})"

    def text(self, text: str) -> str:
        """The text with everything in it renamed."""
        text = _VETH.sub(lambda found: self.names.get(found[0], "veth(?)"), text)
        return _MAC.sub(lambda found: found[0] if found[0] in self._macs else "MAC", text)

    def of(self, value: Any) -> Any:
        """The value with everything in it renamed; keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.of(one) for key, one in value.items()}
        return [self.of(one) for one in value] if isinstance(value, list | tuple) else value


def _json(text: str) -> list[dict[str, Any]]:
    return [one for line in text.strip().splitlines() if line.startswith("[") for one in json.loads(line) if one]


def _node(text: Sequence[str]) -> dict[str, Any]:
    found = _pod(text)
    found["rules"] = _json(text[5])
    found["qdiscs"] = {
        f"{one['dev']} {one['kind']} {one['handle']}": _settled(one)
        for one in _json(text[6])
        if one["kind"] != "noqueue"
    }
    found["nft"] = _nft(text[7])
    found["iptables"], found["ip6tables"] = (_rules(text[8]), _rules(text[9]))
    found["filters"] = {
        dev: _plain(_json(rest)) for dev, _, rest in (part.partition("\n") for part in text[10].split("@")[1:])
    }
    return found


def _pod(text: Sequence[str]) -> dict[str, Any]:
    return {
        "settings": _settings(text[0]),
        "links": {one["ifname"]: _link(one) for one in _json(text[1])},
        "addresses": {one["ifname"]: [a for a in map(_settled, one["addr_info"]) if not _local(a["local"])] for one in _json(text[2])},
        "routes": {_route(one): True for part in text[3:5] for one in _json(part) if not _made_by_kernel(one)},
    }  # fmt: skip


def _link(link: dict[str, Any]) -> dict[str, Any]:
    kind = link.get("linkinfo", {})
    flags = sorted({*link["flags"]} - {"LOWER_UP", "NO-CARRIER", "M-DOWN", "RUNNING"})
    data, port = (
        {key: one for key, one in kind.get(name, {}).items() if not _TIMERS.search(key)}
        for name in ("info_data", "info_slave_data")
    )
    more = {"flags": flags, "kind": kind.get("info_kind"), "data": data, "port": _settled(port)}
    return {**{key: one for key, one in _settled(link).items() if key not in ("linkinfo", "link")}, **more}


def _settled(one: dict[str, Any]) -> dict[str, Any]:
    out = {key: value for key, value in one.items() if key not in _MOMENTARY}
    if "flags" in out and isinstance(out["flags"], list):
        out["flags"] = sorted({*out["flags"]} - {"LOWER_UP", "NO-CARRIER", "linkdown", "dead", "M-DOWN"})
    return out


def _plain(value: Any) -> Any:
    """Filters without the numbers that the kernel gives actions."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key not in ("index", "ref", "bind")}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _local(address: str) -> bool:
    return address.startswith(("fe80:", "ff"))


def _made_by_kernel(route: dict[str, Any]) -> bool:
    return (
        route.get("type") in ("local", "broadcast", "multicast", "anycast")
        or _local(route["dst"])
        or route.get("dev") == "lo"
    )


def _route(route: dict[str, Any]) -> str:
    words = {key: value for key, value in _settled(route).items() if key not in ("flags", "pref")}
    flags = " ".join(_settled(route).get("flags", []))
    return " ".join([str(words.pop("dst")), *(f"{key} {value}" for key, value in sorted(words.items())), flags]).strip()


def _settings(text: str) -> dict[str, dict[str, str]]:
    """sysctls, by interface; those that hold random numbers and times left out."""
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        path, colon, value = line.partition(":")
        if colon and path.startswith("/proc/sys/net/") and not path.endswith(("stable_secret", "mc_forwarding")):
            name = path.removeprefix("/proc/sys/net/")
            place, _, key = name.rpartition("/")
            found.setdefault(place, {})[key] = value
    return found


def _rules(saved: str) -> dict[str, Any]:
    """Tables as iptables-save prints them, by chain; counters and what is empty left out."""
    tables: dict[str, Any] = {}
    table: dict[str, list[str]] = {}
    for line in saved.splitlines():
        if line.startswith("*"):
            table = tables.setdefault(line[1:].strip(), {})
        elif line.startswith(":"):
            name, policy, _ = line[1:].split(" ", 2)
            if policy != "ACCEPT":
                table[name] = [] if policy == "-" else [policy]
        elif line.startswith("-A "):
            _, name, rule = line.split(" ", 2)
            table.setdefault(name, []).append(rule)
    return {name: chains for name, chains in tables.items() if chains}


def _nft(text: str) -> list[Any]:
    body = json.loads(text) if text.strip() else {"nftables": []}
    found = [{kind: {key: one for key, one in what.items() if key != "handle"}} for each in body["nftables"] for kind, what in each.items() if kind != "metainfo"]  # fmt: skip
    return [one for one in found if next(iter(one.values())).get("family", "bridge") == "bridge"]


def _files(site: Site, network: str) -> dict[str, Any]:
    """Leases and what else plugins keep, as `mode content`."""
    found = {}
    for place in (f"/var/lib/cni/networks/{network}", "/run/cni"):
        root = site.path(place)
        for path in sorted(root.rglob("*")) if root.is_dir() else ():
            if path.is_file():
                name = f"/{path.relative_to(site.machine.root)}"
                found[name] = f"{path.stat().st_mode & 0o777:o} {path.read_text()!r}"
    return found


ABSENT = "-"


def differences(reference: Any, ours: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two values differ: path -> (the reference's, ours). What only one has is one difference, with all that is in it."""
    if reference == ours:
        return {}
    if isinstance(reference, list) and isinstance(ours, list) and _deep(reference) and _deep(ours):
        reference, ours = ({f"[{number}]": one for number, one in enumerate(each)} for each in (reference, ours))
    if not isinstance(reference, dict) or not isinstance(ours, dict):
        return {path: (reference, ours)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*reference, *ours}):
        found |= differences(reference.get(key, ABSENT), ours.get(key, ABSENT), f"{path}.{key}" if path else key)
    return found


def _deep(values: list[Any]) -> bool:
    return not values or any(isinstance(one, dict | list) for one in values)
