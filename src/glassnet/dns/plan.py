"""Changes of records -> what the server is told: operations of its control socket, or whole zones as files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from glassnet.dns.compute import soa
from glassnet.dns.model import DnsSettings, Record
from glassnet.dns.table import Delta, Table


class Operation(NamedTuple):
    """One command of the control socket; fields that it does not take are ""."""

    command: str
    zone: str = ""
    owner: str = ""
    ttl: str = ""
    type: str = ""
    data: str = ""
    flags: str = ""
    section: str = ""
    item: str = ""
    id: str = ""


def transaction(delta: Delta, zones: Collection[str], settings: DnsSettings) -> list[Operation]:
    """The operations that bring a change about in those zones: in each one transaction, in which records go before others come.

    Zones of names come before those of addresses, and the cluster's own last of them: a namespace is there before it is pointed at. The server
    counts each zone's serial up by itself.
    """
    changes: dict[str, list[Operation]] = {}
    for record in sorted(delta.removed):
        changes.setdefault(record.zone, []).append(Operation("zone-unset", record.zone, record.owner, "", record.type, record.data))  # fmt: skip
    for record in sorted(delta.added):
        changes.setdefault(record.zone, []).append(Operation("zone-set", record.zone, record.owner, str(settings.ttl), record.type, record.data))  # fmt: skip
    out: list[Operation] = []
    for zone in sorted(changes.keys() & zones, key=lambda each: (each.endswith(".arpa."), -each.count("."), each)):
        out += [Operation("zone-begin", zone), *changes[zone], Operation("zone-commit", zone)]
    return out


def zones(table: Table, settings: DnsSettings, forwards: bool) -> dict[str, str]:
    """Every zone to be known, and the module that helps to answer for it ("" for none). `forwards`: there is an upstream.

    A name that stands for another is a zone of its own when there is somebody (`settings.alias_server`) who looks the other one up.
    """
    found = {zone: _module(zone, settings, forwards) for zone in (*settings.zones, *table.zones())}
    if settings.alias_server is not None:
        found |= dict.fromkeys(table.aliases(), "mod-dnsproxy/alias")
    return found


def _module(zone: str, settings: DnsSettings, forwards: bool) -> str:
    if zone == settings.pod_zone:
        return "mod-synthrecord/pods"
    return "mod-dnsproxy/reverse" if forwards and zone.endswith(".arpa.") else ""


def zones_changed(come: Mapping[str, str], go: Collection[str]) -> list[Operation]:
    """The operations that make zones known, with their modules, and forget others; files are there already."""
    if not come and not go:
        return []
    out = [Operation("conf-begin")]
    out += [Operation("conf-unset", section="zone", item="domain", data=zone) for zone in sorted(go)]
    for zone, module in sorted(come.items()):
        out.append(Operation("conf-set", section="zone", item="domain", data=zone))
        if module:
            out.append(Operation("conf-set", section="zone", id=zone, item="module", data=module))
    out.append(Operation("conf-commit"))
    return out + [Operation("zone-reload", zone, flags="B") for zone in sorted(come) if has_file(come[zone])]


def has_file(module: str) -> bool:
    """Whether a zone with this module has records of its own."""
    return module != "mod-dnsproxy/alias"


def zone_files(records: Iterable[Record], serials: Mapping[str, int], settings: DnsSettings) -> Iterator[tuple[str, str]]:  # fmt: skip
    """(zone, text of its file), as RFC 1035 section 5 has it, of every zone that has a serial number; records of others are left out."""
    texts = {zone: [f"$TTL {settings.ttl}\n{zone} SOA {soa(serial, settings)}\n"] for zone, serial in serials.items()}
    for zone, owner, kind, data in records:
        if zone in texts:
            texts[zone].append(f"{owner} {kind} {data}\n")
    for zone, lines in texts.items():
        yield zone, "".join(lines)
