"""Worlds with one fault: a capture of a real cluster, its own faults mended, and then one thing changed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from tests.tracer_worlds import capture_files

from glassnet.tracer.doctor import Finding, diagnose
from glassnet.tracer.snapshot import read_world
from glassnet.tracer.world import World

Files = dict[str, bytes]
Change = Callable[[Files], None]
IPTABLES, LEGACY, NFTABLES = "hardway-iptables", "hardway-iptables-legacy", "hardway-nftables"


@functools.cache
def healthy(name: str) -> Files:
    """A capture without the faults it has. Copy before changing."""
    files = {path: data for path, data in capture_files(name).items() if path != "flows.json"}
    for path in list(files):
        if path.endswith("bridge-link.json"):
            files[path] = files[path].replace(b'"hairpin":false', b'"hairpin":true')
    path = "hosts/neighbor/ip-route.json"
    rows = json.loads(files[path])
    for row in rows:
        if row["dst"] == "198.51.100.0/24":
            row["gateway"] = "10.240.0.21"
    files[path] = json.dumps(rows).encode()
    return files


def world(name: str, *changes: Change) -> World:
    """A capture without the faults it has (no hairpin mode, a route of the neighbor's), and with these changes."""
    files = dict(healthy(name))
    for change in changes:
        change(files)
    return read_world(files, name)


def findings(name: str, *changes: Change) -> list[Finding]:
    """What is found in such a world."""
    return diagnose(world(name, *changes))


def only(name: str, *changes: Change) -> Finding:
    """The one finding there must be."""
    found = findings(name, *changes)
    assert len(found) == 1, [(each.pain, each.object, each.title) for each in found]
    return found[0]


def told(finding: Finding) -> str:
    """The evidence as one text."""
    return "\n".join(finding.evidence)


# ---- changes


def sysctl(node: str, name: str, value: str | None) -> Change:
    """Set a sysctl, or take it away."""

    def change(files: Files) -> None:
        path = f"{node}/sysctl-net.txt"
        rows = [line for line in files[path].decode().split("\n") if not line.startswith(f"{name} =")]
        files[path] = "\n".join([*rows, *([f"{name} = {value}"] if value is not None else [])]).encode()

    return change


def append(path: str, text: str) -> Change:
    """Put lines behind a file."""

    def change(files: Files) -> None:
        files[path] = files.get(path, b"").rstrip(b"\n") + b"\n" + text.encode()

    return change


def put(path: str, text: str | bytes) -> Change:
    """Write a file."""

    def change(files: Files) -> None:
        files[path] = text.encode() if isinstance(text, str) else text

    return change


def remove(path: str) -> Change:
    """Take a file away."""

    def change(files: Files) -> None:
        del files[path]

    return change


def replace(path: str, old: str, new: str) -> Change:
    """Change a text that must be in a file."""

    def change(files: Files) -> None:
        assert old.encode() in files[path], old
        files[path] = files[path].replace(old.encode(), new.encode())

    return change


def rule(node: str, table: str, text: str, first: bool = True, file: str = "iptables-save.txt") -> Change:
    """Put a rule before (or behind) all others of a table, after declaring its chain when it is a new one."""

    def change(files: Files) -> None:
        path = f"{node}/{file}"
        rows = files[path].decode().split("\n")
        start = rows.index(f"*{table}")
        end = rows.index("COMMIT", start)
        rules = [i for i in range(start, end) if rows[i].startswith("-A ")]
        spot = (rules[0] if rules else end) if first else end
        chain = text.split()[1]
        rows.insert(spot, text)
        if not any(row.startswith(f":{chain} ") for row in rows[start:end]):
            rows.insert(start + 1, f":{chain} - [0:0]")
        files[path] = "\n".join(rows).encode()

    return change


def rows(path: str, edit: Callable[[list[dict[str, Any]]], Any]) -> Change:
    """Change a JSON list; `edit` may give a new one."""

    def change(files: Files) -> None:
        body = json.loads(files[path])
        made = edit(body)
        files[path] = json.dumps(body if made is None else made).encode()

    return change


def objects(kind: str, edit: Callable[[dict[str, Any]], Any]) -> Change:
    """Change every API object of a plural kind; `edit` giving False takes the object away."""

    def change(files: Files) -> None:
        body = json.loads(files["cluster.json"])
        lists = body if isinstance(body, dict) and "items" not in body else {"all": body["items"]}
        for name, items in lists.items():
            if isinstance(items, list):
                lists[name] = [i for i in items if f"{i.get('kind', '').lower()}s" != kind or edit(i) is not False]
        files["cluster.json"] = json.dumps(lists if "all" not in lists else {"items": lists["all"]}).encode()

    return change


def named(name: str, edit: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """An edit of the object of this name alone."""
    return lambda item: edit(item) if item["metadata"]["name"] == name else None
