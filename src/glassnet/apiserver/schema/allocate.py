"""ClusterIPs and node ports: who has which, and the next free one.

Dynamic allocation takes the upper band of a range first and leaves the lower one to those who name their address
(KEP-3070 for ClusterIPs, KEP-3668 for node ports).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, Protocol

from glassnet.apiserver.schema import service_spec
from glassnet.apiserver.schema.errors import invalid, invalid_value
from glassnet.kube import kinds
from glassnet.net.errors import ApiError

Obj = dict[str, Any]


class Chooser(Protocol):
    """The part of `random.Random` needed here."""

    def randrange(self, start: int, stop: int) -> int:
        """A number from start up to but not including stop."""


class Range:
    """Numbers `first`..`last`, the lowest `band` of them kept for those who ask by name as long as others are free."""

    def __init__(self, first: int, last: int, band: int, chooser: Chooser | None) -> None:
        self.first, self.last, self._chooser = first, last, chooser
        self._split = min(first + band, last + 1)
        self.taken: set[int] = set()

    def next(self) -> int | None:
        """A free number, taken at once; None when the range is full."""
        for low, high in ((self._split, self.last + 1), (self.first, self._split)):
            if low < high and (number := self._free(low, high)) is not None:
                self.taken.add(number)
                return number
        return None

    def _free(self, low: int, high: int) -> int | None:
        start = self._chooser.randrange(low, high) if self._chooser else low
        for span in (range(start, high), range(low, start)):
            for number in span:
                if number not in self.taken:
                    return number
        return None


class ServiceAllocator:
    """Addresses of one service CIDR and one range of node ports. Without `chooser` the lowest free value of a band is taken."""

    def __init__(
        self, service_cidr: str, node_port_range: tuple[int, int] = (30000, 32767), chooser: Chooser | None = None
    ) -> None:
        self._network = ipaddress.ip_network(service_cidr)
        size = self._network.num_addresses
        first, last = int(self._network.network_address) + 1, int(self._network.broadcast_address)
        if self._network.version == 4:
            last -= 1  # the broadcast address
        self._addresses = Range(first, last, max(_band(size, 16, 256) - 1, 0), chooser)
        low, high = node_port_range
        self._ports = Range(low, high, _band(high - low + 1, 32, 128), chooser)

    @property
    def family(self) -> str:
        """IPv4 or IPv6."""
        return f"IPv{self._network.version}"

    def assign(self, obj: Obj, old: Obj | None = None) -> Callable[[], None]:
        """Give a Service in place what it lacks, take what it names, free what `old` held and it no longer does.

        Returns a function that undoes the bookkeeping, for a write that then fails (or a dry run). Raises ApiError: 422 for a value
        that is taken or out of range, 500 when a range is full; nothing is taken or freed then.
        """
        addresses, ports = set(self._addresses.taken), set(self._ports.taken)

        def undo() -> None:
            self._addresses.taken, self._ports.taken = addresses, ports

        spec, before = obj.setdefault("spec", {}), (old or {}).get("spec") or {}
        try:
            self._assign_addresses(obj, spec, before)
            self._assign_ports(obj, spec, before)
            self._assign_health_port(obj, spec, before)
        except ApiError:
            undo()
            raise
        self._free_unused(spec, before)
        return undo

    def reserve(self, obj: Obj) -> None:
        """Book what a stored Service has (at start-up); values outside the ranges are left alone."""
        spec = obj.get("spec") or {}
        self._addresses.taken |= self._held_addresses(spec)
        self._ports.taken |= _held_ports(spec)

    def release(self, obj: Obj) -> None:
        """Free what a deleted Service had."""
        spec = obj.get("spec") or {}
        self._addresses.taken -= self._held_addresses(spec)
        self._ports.taken -= _held_ports(spec)

    def _free_unused(self, spec: Obj, before: Obj) -> None:
        self._addresses.taken -= self._held_addresses(before) - self._held_addresses(spec)
        self._ports.taken -= _held_ports(before) - _held_ports(spec)

    def _held_addresses(self, spec: Obj) -> set[int]:
        if not service_spec.needs_cluster_ip(spec):
            return set()
        return {int(ip) for text in _cluster_ips(spec) if (ip := _parse(text)) is not None and ip in self._network}

    def _assign_addresses(self, obj: Obj, spec: Obj, before: Obj) -> None:
        if not service_spec.needs_cluster_ip(spec):
            return
        wanted = _cluster_ips(spec)
        if wanted == ["None"]:
            spec.setdefault("clusterIP", "None")
            spec["clusterIPs"] = wanted
            self._families(spec, headless=True)
            return
        held = self._held_addresses(before)
        for text in wanted:
            if (ip := _parse(text)) is not None and int(ip) not in held:
                self._take_address(obj, wanted, ip)
        if not wanted:
            number = self._addresses.next()
            if number is None:
                raise _full("failed to allocate a serviceIP")
            wanted = [str(ipaddress.IPv4Address(number) if self.family == "IPv4" else ipaddress.IPv6Address(number))]
        spec["clusterIP"], spec["clusterIPs"] = wanted[0], wanted
        self._families(spec, headless=False)

    def _take_address(self, obj: Obj, wanted: list[str], ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        number = int(ip)
        if ip not in self._network or not self._addresses.first <= number <= self._addresses.last:
            why = f"provided IP is not in the valid range. The range of valid IPs is {self._network}"
        elif number in self._addresses.taken:
            why = "provided IP is already allocated"
        else:
            self._addresses.taken.add(number)
            return
        raise _refused(obj, "spec.clusterIPs", wanted, f"failed to allocate IP {ip}: {why}")

    def _families(self, spec: Obj, headless: bool) -> None:
        if headless and not spec.get("selector"):  # whoever writes its endpoints may write both families
            spec.setdefault("ipFamilyPolicy", "RequireDualStack")
            if spec["ipFamilyPolicy"] != "SingleStack":
                other = "IPv6" if self.family == "IPv4" else "IPv4"
                spec["ipFamilies"] = spec.get("ipFamilies") or [self.family, other]
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        spec["ipFamilies"] = spec.get("ipFamilies") or [self.family]

    def _assign_ports(self, obj: Obj, spec: Obj, before: Obj) -> None:
        held, mine = _held_ports(before), dict[int, set[str]]()
        ports = (spec.get("ports") or []) if spec.get("type") in ("NodePort", "LoadBalancer") else []
        for index, port in enumerate(ports):
            if number := port.get("nodePort"):
                protocols = mine.setdefault(number, set())
                shared = bool(protocols) and port.get("protocol", "TCP") not in protocols
                protocols.add(port.get("protocol", "TCP"))
                if number not in held and not shared:
                    self._take_port(obj, f"spec.ports[{index}].nodePort", number)
        if service_spec.needs_node_ports(spec):
            for port in ports:
                if not port.get("nodePort"):
                    port["nodePort"] = self._shared(port, ports, mine) or self._next_port()
                    mine.setdefault(port["nodePort"], set()).add(port.get("protocol", "TCP"))

    def _shared(self, port: Obj, ports: list[Obj], mine: dict[int, set[str]]) -> int | None:
        """The node port of the same port number in another protocol, if this one's protocol is free there."""
        for other in ports:
            number = other.get("nodePort")
            if number and other.get("port") == port.get("port") and port.get("protocol", "TCP") not in mine.get(number, ()):
                return int(number)
        return None

    def _next_port(self) -> int:
        number = self._ports.next()
        if number is None:
            raise _full("failed to allocate a nodePort")
        return number

    def _take_port(self, obj: Obj, path: str, number: int) -> None:
        low, high = self._ports.first, self._ports.last
        if not low <= number <= high:
            why = f"provided port is not in the valid range. The range of valid ports is {low}-{high}"
        elif number in self._ports.taken:
            why = "provided port is already allocated"
        else:
            self._ports.taken.add(number)
            return
        raise _refused(obj, path, number, why)

    def _assign_health_port(self, obj: Obj, spec: Obj, before: Obj) -> None:
        if not service_spec.needs_health_port(spec):
            return
        number = spec.get("healthCheckNodePort")
        if not number:
            spec["healthCheckNodePort"] = self._next_port()
        elif number not in _held_ports(before):
            try:
                self._take_port(obj, "spec.healthCheckNodePort", number)
            except ApiError as refused:
                why = refused.details["causes"][0]["message"].split(": ", 2)[-1]
                raise _internal(f"failed to allocate requested HealthCheck NodePort {number}: {why}") from None


def _band(size: int, step: int, most: int) -> int:
    """How many of the lowest values stay for static use; small ranges keep none."""
    return 0 if size < 16 else min(max(16, size // step), most)


def _cluster_ips(spec: Obj) -> list[str]:
    return list(spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else []))


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _held_ports(spec: Obj) -> set[int]:
    held = {port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")}
    return held | {spec["healthCheckNodePort"]} if spec.get("healthCheckNodePort") else held


def _refused(obj: Obj, path: str, value: Any, why: str) -> ApiError:
    return invalid(kinds.SERVICE, (obj.get("metadata") or {}).get("name") or "", [invalid_value(path, value, why)])


def _full(what: str) -> ApiError:
    return _internal(f"{what}: range is full")


def _internal(text: str) -> ApiError:
    return ApiError(500, "InternalError", f"Internal error occurred: {text}", {"causes": [{"message": text}]})
