"""Changes of records -> what the server is told: operations of its control socket, or whole zones as files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from glassnet.dns.compute import soa
from glassnet.dns.model import DnsSettings, Record
from glassnet.dns.table import Delta


class Operation(NamedTuple):
    """One command of the control socket; fields that it does not take are ""."""

    command: str
    zone: str
    owner: str = ""
    ttl: str = ""
    type: str = ""
    data: str = ""
    flags: str = ""


def transaction(delta: Delta, settings: DnsSettings) -> list[Operation]:
    """The operations that bring a change about: in each zone it concerns one transaction, in which records go before others come.

    The server counts the zone's serial up by itself.
    """
    out: list[Operation] = []
    touched = {record.zone for record in delta.removed} | {record.zone for record in delta.added}
    for zone in sorted(touched):
        out.append(Operation("zone-begin", zone))
        for record in sorted(delta.removed):
            if record.zone == zone:
                out.append(Operation("zone-unset", zone, record.owner, "", record.type, record.data))
        for record in sorted(delta.added):
            if record.zone == zone:
                out.append(Operation("zone-set", zone, record.owner, str(settings.ttl), record.type, record.data))
        out.append(Operation("zone-commit", zone))
    return out


def zone_files(records: Iterable[Record], serials: Mapping[str, int], settings: DnsSettings) -> Iterator[tuple[str, str]]:  # fmt: skip
    """(zone, text of its file) of every zone, as RFC 1035 section 5 has it."""
    texts: dict[str, list[str]] = {
        zone: [f"$TTL {settings.ttl}\n{zone} SOA {soa(serials[zone], settings)}\n"] for zone in settings.zones
    }
    for zone, owner, kind, data in records:
        texts[zone].append(f"{owner} {kind} {data}\n")
    for zone, lines in texts.items():
        yield zone, "".join(lines)
