"""Who has an address: two Services may ask for the same external IP and port, or (while one goes and another comes) the same ClusterIP.

A ClusterIP goes before any external address, so that nobody can draw its traffic to himself (CVE-2020-8554); among equals the older Service
has it, then the first by namespace and name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from glassnet.kube.view import Key
from glassnet.proxy.model import ServicePort

Entry = tuple[str, str, int]  # address ("" for a node port), protocol, port


class Claim(NamedTuple):
    """Sorts first for the Service that has the address: `rank` 0 for a ClusterIP, 1 for others; `age` the creation time as the API writes it."""

    rank: int
    age: str
    key: Key


def entries(ports: Iterable[ServicePort]) -> dict[Entry, int]:
    """All a Service asks for, with the rank of each."""
    out: dict[Entry, int] = {}
    for port in ports:
        for ip in (*port.external_ips, *port.load_balancer_ips):
            out[ip, port.protocol, port.port] = 1
        if port.node_port:
            out["", port.protocol, port.node_port] = 1
        out[port.cluster_ip, port.protocol, port.port] = 0
    return out


class Claims:
    """The book of all addresses of one IP family. Work is in proportion to what changes."""

    def __init__(self) -> None:
        self._holders: dict[Entry, Claim] = {}
        self._waiting: dict[Entry, list[Claim]] = {}

    def update(self, key: Key, age: str, old: Iterable[ServicePort], new: Iterable[ServicePort]) -> set[Key]:
        """Put what a Service asks for in the place of what it asked for before; the other Services for which the outcome changed."""
        before, after = entries(old), entries(new)
        touched: set[Key] = set()
        for entry in before.keys() - after.keys():
            touched |= self._drop(entry, key)
        for entry, rank in after.items():
            there = self._holders.get(entry)
            claim = Claim(rank, age, key)
            if there == claim:
                continue
            if there is None:
                self._holders[entry] = claim
                continue
            touched |= self._enter(entry, claim, key)
        touched.discard(key)
        return touched

    def _enter(self, entry: Entry, claim: Claim, key: Key) -> set[Key]:
        held = self._holders[entry]
        line = sorted({claim, *(c for c in (held, *self._waiting.get(entry, ())) if c.key != key)})
        return self._seat(entry, held, line)

    def _drop(self, entry: Entry, key: Key) -> set[Key]:
        held = self._holders.get(entry)
        if held is None:
            return set()
        return self._seat(entry, held, [c for c in (held, *self._waiting.get(entry, ())) if c.key != key])

    def _seat(self, entry: Entry, held: Claim, line: list[Claim]) -> set[Key]:
        if line:
            self._holders[entry] = line[0]
        else:
            del self._holders[entry]
        if len(line) > 1:
            self._waiting[entry] = line[1:]
        else:
            self._waiting.pop(entry, None)
        now = line[0].key if line else None
        return set() if now == held.key else {each for each in (held.key, now) if each is not None}

    def granted(
        self, key: Key, ports: tuple[ServicePort, ...]
    ) -> tuple[tuple[ServicePort, ...], list[tuple[Entry, Key]]]:
        """The ports with what the Service has of what it asks for, and what it does not get, with the one who has it."""
        if not self._waiting:
            return ports, []
        lost = [
            (entry, holder.key)
            for entry in entries(ports)
            if entry in self._waiting and (holder := self._holders[entry]).key != key
        ]
        if not lost:
            return ports, []
        gone = {entry for entry, _ in lost}
        return tuple(port for each in ports if (port := _without(each, gone))), lost


def _without(port: ServicePort, gone: set[Entry]) -> ServicePort | None:
    """A port less the addresses another has; None when that is its ClusterIP."""
    if (port.cluster_ip, port.protocol, port.port) in gone:
        return None
    return msgspec.structs.replace(
        port,
        external_ips=tuple(ip for ip in port.external_ips if (ip, port.protocol, port.port) not in gone),
        load_balancer_ips=tuple(ip for ip in port.load_balancer_ips if (ip, port.protocol, port.port) not in gone),
        node_port=0 if ("", port.protocol, port.node_port) in gone else port.node_port,
    )
