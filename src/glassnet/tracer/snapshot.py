"""From files to a world: what each file of a snapshot is, told by its name and its place, and what is missing.

Layout: `NODE/…` the dumps of a node, `NODE/pods/NAMESPACE_POD/…` those of a pod's namespace, `hosts/NAME/…` those of machines outside,
`cluster.json` (or any `*.json` with Kubernetes objects) the API objects. A node's own files at the top are taken as one node.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from glassnet.net import address
from glassnet.net.errors import ParseError
from glassnet.netstack.namespace import NetStack
from glassnet.netstack.parse_ip import add_part
from glassnet.ruleset.model import IPTABLES_NFT, LEGACY, Ruleset, Table
from glassnet.ruleset.parse_ipset import parse_ipset
from glassnet.ruleset.parse_iptables import parse_iptables
from glassnet.ruleset.parse_nft import parse_nft_json, parse_nft_text
from glassnet.tracer.evaluate.nft_sets import prepare
from glassnet.tracer.machine import HOST, NODE, POD, Machine
from glassnet.tracer.objects import unreadable
from glassnet.tracer.snapshot_cni import read_node_state
from glassnet.tracer.world import World

# What a file is, by its name (without its ending .txt, .json, .nft, .out, .log).
_KINDS: tuple[tuple[str, str], ...] = (
    (r"ip-?(?:address(?:es)?|addr|a)", "addr"),
    (r"ip-?(?:links?|l)", "link"),
    (r"ip-?(?:routes?|r)-?6|ip-?6-?routes?", "route6"),
    (r"ip-?(?:routes?|r)", "route"),
    (r"ip-?rules?-?6|ip-?6-?rules?", "rule6"),
    (r"ip-?rules?", "rule"),
    (r"ip-?(?:neigh(?:bou?rs?)?|n)", "neigh"),
    (r"bridge(?:-links?)?", "bridge-link"),
    (r"bridge-fdb", "bridge-fdb"),
    (r"sysctls?(?:-net|-a)?", "sysctl"),
    (r"ss(?:-.*)?", "listen"),
    (r"conntrack-(?:stats|s)", "conntrack-stats"),
    (r"conntrack-?6?(?:-l|-list|-extended)?", "conntrack"),
    (r"xt_recent", "recent"),
    (r"ipset(?:-save)?", "ipset"),
    (r"nft-.*ruleset.*|nft(?:-list)?-?ruleset|nft|nftables|ruleset", "nft"),
    (r"ip(?P<six>6?)tables-(?P<tool>legacy|nft)(?:-save)?(?:-c)?|ip(?P<six2>6?)tables(?:-save)?(?:-c)?", "iptables"),
)
_MATCHERS = [(re.compile(pattern, re.ASCII).fullmatch, kind) for pattern, kind in _KINDS]
_ENDINGS = re.compile(r"\.(?:txt|json|nft|out|log|rules|v4|v6|save)$")
NEEDED = {
    "addr": "addresses: which packets are for the machine itself",
    "route": "routes: where packets go",
    "rules": "packet filter rules",
    "sysctl": "sysctls: forwarding, reverse path filter, bridge-nf-call-iptables",
}


def kind_of(name: str) -> str:
    """What a file holds, told by its name; "" for what is none of ours."""
    stem = _ENDINGS.sub("", name.lower()).replace("_", "-") if name != "xt_recent.txt" else "xt_recent"
    for match, kind in _MATCHERS:
        if match(stem):
            return kind
    return ""


def read_world(files: Mapping[str, bytes], source: str = "") -> World:
    """The world that a snapshot's files (path -> bytes) describe. Never raises for a file that cannot be read: it becomes a note.

    Raises ParseError when nothing in it is of use.
    """
    world = read_objects(files, source)
    folders: dict[str, dict[str, bytes]] = {}
    for name in sorted(files):
        folder, _, base = name.rpartition("/")
        if kind_of(base):
            folders.setdefault(folder, {})[base] = files[name]
    pods = _pods_by_folder(world)
    for folder in sorted(folders, key=lambda each: (each.count("/"), each)):
        _machine(world, folder, folders[folder], pods)
    if not world.machines:
        raise ParseError(
            "nothing here is a dump of a node: expected files such as iptables-save.txt, nft-ruleset.json, ip-addr.json, ip-route.json",
            source,
        )
    read_node_state(world, files)
    world.synthesize_pods()
    _cluster_notes(world)
    _times(world, files)
    return world


def read_objects(files: Mapping[str, bytes], source: str = "") -> World:
    """The API objects of a snapshot's files, without its machines. Never raises: what cannot be read becomes a note."""
    world = World(source=source)
    for name in sorted(files):
        base = name.rpartition("/")[2]
        if base.endswith(".json") and not kind_of(base) and base not in ("flows.json", "manifest.json") and b'"kind"' in files[name]:  # fmt: skip
            _objects(world, files[name], name)
    return world


def _objects(world: World, data: bytes, name: str) -> None:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        world.notes.append(f"{name}: not JSON ({error}): its objects are left out")
        return
    lists: list[Any] = []
    if isinstance(found, dict) and isinstance(found.get("items"), list):
        lists = [found["items"]]
    elif isinstance(found, dict):
        lists = [each for each in found.values() if isinstance(each, list)]
    elif isinstance(found, list):
        lists = [found]
    for items in lists:
        for item in items:
            if isinstance(item, dict) and item.get("kind") and isinstance(item.get("metadata"), dict):
                if item["kind"] == "Secret":
                    continue  # never kept
                broken = unreadable(item)
                if broken:
                    world.notes.append(
                        f"{name}: {item['kind']} {item['metadata'].get('name', '')} is left out: {broken}"
                    )
                    continue
                world.objects.setdefault(plural(item["kind"]), []).append(item)


def plural(kind: str) -> str:
    """`Pod` -> `pods`, `NetworkPolicy` -> `networkpolicies`."""
    low = kind.lower()
    if low.endswith("y"):
        return low[:-1] + "ies"
    return low + ("" if low.endswith("s") and low == "endpoints" else "es" if low.endswith("s") else "s")


def _pods_by_folder(world: World) -> dict[str, dict[str, Any]]:
    found = {}
    for pod in world.objects.get("pods", ()):
        meta = pod["metadata"]
        found[f"{meta.get('namespace')}_{meta.get('name')}"] = pod
    return found


def _machine(world: World, folder: str, files: dict[str, bytes], pods: dict[str, dict[str, Any]]) -> None:
    parts = [part for part in folder.split("/") if part]
    kind, node = NODE, ""
    name = parts[-1] if parts else (world.source.rstrip("/").rpartition("/")[2].removesuffix(".tar.gz") or "node")
    if len(parts) >= 2 and parts[-2] == "pods":
        kind, node = POD, parts[-3] if len(parts) >= 3 else ""
        name = parts[-1].replace("_", "/", 1)
        pod = pods.get(parts[-1])
        if pod is not None:
            if pod.get("spec", {}).get("hostNetwork"):
                return
            node = node or pod.get("spec", {}).get("nodeName", "")
    elif len(parts) >= 2 and parts[-2] == "hosts":
        kind = HOST
        if not any(kind_of(base) in ("addr", "route") for base in files):
            return
    elif len(parts) >= 2 and parts[-2] == "nodes":
        pass
    world.add(build_machine(name, kind, node, files, folder, world.notes))


def build_machine(
    name: str, kind: str, node: str, files: Mapping[str, bytes], folder: str, notes: list[str]
) -> Machine:
    """One machine out of its files. Files that cannot be read become notes, with what that leaves unknown."""
    stack, ruleset = NetStack(), Ruleset()
    seen: set[str] = set()
    listings: dict[str, list[Table]] = {}
    recent: dict[str, set[int]] = {}
    broken: list[str] = []
    machine_tables: list[tuple[str, bytes]] = []
    statistics = ""
    for base in sorted(files, key=_preference):
        what, where = kind_of(base), f"{folder}/{base}" if folder else base
        try:
            if what == "iptables" or what == "nft":
                _listing(listings, base, files[base], where)
                seen.add("rules")
            elif what == "ipset":
                ruleset.ipsets |= parse_ipset(_text(files[base]), where)
            elif what == "recent":
                recent |= parse_recent(_text(files[base]))
            elif what == "conntrack":
                machine_tables.append((where, files[base]))
            elif what == "conntrack-stats":
                statistics = _text(files[base])
            else:
                add_part(stack, what, files[base], where)
                seen.add(what)
        except ParseError as error:
            notes.append(f"{error}; {_loss(what, name)}")
            if what in ("iptables", "nft"):
                broken.append(where)
    if "link" in seen and "addr" not in seen and any(stack.addresses):
        seen.add("addr")
    ruleset.tables = _combine(listings)
    prepare(ruleset.tables)
    stack.missing = {part for part in ("addr", "route", "sysctl") if part not in seen}
    _missing(name, kind, seen, notes)
    machine = Machine(name, kind, stack, ruleset, node, source=folder)
    machine.recent = recent
    machine.broken = _unknown_rules(name, kind, "rules" in seen, broken, listings)
    machine.tables, machine.statistics = machine_tables, statistics
    return machine


def _preference(base: str) -> tuple[int, str]:
    """The order of reading: plain listings before those with counters, JSON before text, other nft versions last."""
    return (
        ("-c." in base) + 2 * base.endswith(".nft") + 4 * bool(re.search(r"nft-\d", base)),
        base,
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _listing(listings: dict[str, list[Table]], base: str, data: bytes, where: str) -> None:
    """Read a listing of rules, unless one of the same kind was read already."""
    if kind_of(base) == "nft":
        if "nft" not in listings:
            tables = parse_nft_json(data, where) if data.lstrip()[:1] == b"{" else parse_nft_text(_text(data), where)
            listings["nft"] = tables
        return
    text = _text(data)
    tables = parse_iptables(
        text, where, "ip6" if base.lower().startswith("ip6") else "ip", LEGACY if "legacy" in base else ""
    )
    key = f"{'6' if base.lower().startswith('ip6') else '4'} {tables[0].tool if tables else 'none'}"
    listings.setdefault(key, tables)


def _combine(listings: dict[str, list[Table]]) -> list[Table]:
    """All tables once, in the order of their registration as far as listings tell it.

    nft lists the tables of iptables-nft too, without the options of their modules: iptables-save's reading takes their place. Legacy tables
    come last: a listing does not say when they were registered; see `nft list hooks`.
    """
    nft = listings.get("nft", [])
    saved = {
        (t.family, t.name): t
        for key, tables in listings.items()
        if key != "nft"
        for t in tables
        if t.tool == IPTABLES_NFT
    }
    legacy = [t for key, tables in listings.items() if key != "nft" for t in tables if t.tool == LEGACY]
    found = [saved.pop((table.family, table.name), table) for table in nft]
    return found + list(saved.values()) + legacy


def _unknown_rules(
    name: str, kind: str, seen: bool, broken: list[str], listings: dict[str, list[Table]]
) -> tuple[str, ...]:
    """Why rules of a machine are not known: a listing nobody could read, unless another one holds the same; none at all on a node."""
    if not seen and not broken:
        return (f"nobody dumped the rules of {name}",) if kind == NODE else ()
    return tuple(
        f"{where} cannot be read" for where in broken if not ("nft" in listings and where.endswith((".nft", ".json")))
    )


def _loss(what: str, name: str) -> str:
    return {
        "iptables": f"the rules of that listing are unknown on {name}",
        "nft": f"the nft tables are unknown on {name}",
        "addr": f"the addresses of {name} are unknown",
        "route": f"the routes of {name} are unknown",
        "conntrack": f"the connections of {name} are unknown",
    }.get(what, f"{what} of {name} is left out")


def _missing(name: str, kind: str, seen: set[str], notes: list[str]) -> None:
    if kind == HOST:
        return
    lacking = [part for part in NEEDED if part not in seen and not (kind == POD and part in ("rules", "sysctl"))]
    notes += [f"{name}: no dump of its {NEEDED[part]}" for part in lacking]


_RECENT = re.compile(r"src=(\S+)").match


def parse_recent(text: str) -> dict[str, set[int]]:
    """The xt_recent tables of /proc/net/xt_recent, each after a line `== NAME`."""
    found: dict[str, set[int]] = {}
    name = ""
    for line in text.split("\n"):
        if line.startswith("== "):
            name = line[3:].strip()
            found.setdefault(name, set())
        elif (entry := _RECENT(line)) and name and (text_ := address.canonical(entry[1])):
            found[name].add(address.number(text_))
    return found


def _cluster_notes(world: World) -> None:
    nodes = {node["metadata"]["name"] for node in world.objects.get("nodes", ())}
    present = {machine.name for machine in world.of_kind(NODE)}
    for name in sorted(nodes - present):
        world.notes.append(f"node {name} is in the API objects, but nobody dumped it: what happens there is not known")


_GENERATED = re.compile(
    rb"^# Generated by ip6?tables[^\n]* on (\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4})", re.MULTILINE
).search
_APART = timedelta(minutes=2)


def _times(world: World, files: Mapping[str, bytes]) -> None:
    """Say so when dumps were made at different times: iptables-save notes when it ran."""
    found: list[tuple[datetime, str]] = []
    for name, data in files.items():
        said = _GENERATED(data[:400]) if kind_of(name.rpartition("/")[2]) == "iptables" else None
        if said:
            with contextlib.suppress(ValueError):
                found.append((datetime.strptime(said[1].decode(), "%a %b %d %H:%M:%S %Y"), name))
    if not found:
        return
    (first, early), (last, late) = min(found), max(found)
    if last - first > _APART:
        world.notes.append(
            f"the dumps are of different times: {early} of {first}, {late} of {last}: what changed between them makes a path that never was"
        )
