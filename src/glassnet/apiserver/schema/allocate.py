"""ClusterIPs and node ports: which are taken, which one a Service gets.

Sources: KEP-3070 and KEP-3668 (static and dynamic bands), KEP-563 (dual stack), KEP-1880 (ServiceCIDR).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import chain
from typing import Any, Protocol

from glassnet.apiserver.schema.errors import FieldError, invalid, invalid_value
from glassnet.apiserver.schema.service_spec import family_of
from glassnet.kube import kinds
from glassnet.net.errors import ApiError

Obj = dict[str, Any]
PortKey = tuple[int, str]


class Chooser(Protocol):
    """The part of `random.Random` needed here."""

    def randint(self, a: int, b: int) -> int:
        """A number from a to b, both included."""


class ServiceAllocator:
    """Ledger of ClusterIPs and node ports. `assign` fills them into a Service, or refuses it in Kubernetes' words.

    `random` chooses where to look for a free value; without it the lowest free one of a band is taken.
    """

    def __init__(
        self, service_cidr: str, node_ports: tuple[int, int] = (30000, 32767), random: Chooser | None = None
    ) -> None:
        self._first = service_cidr
        self._networks: dict[str, IPv4Network | IPv6Network] = {}
        self.ranges(())
        self._ports = node_ports
        self._random = random
        self._addresses: dict[str, str] = {}  # address -> namespace/name of the owner
        self._taken: dict[PortKey, str] = {}

    def ranges(self, cidrs: Iterable[str]) -> None:
        """Take note of what ranges ServiceCIDRs give; the cluster's first comes before them, and a family has one."""
        self._networks = {}
        for cidr in (self._first, *cidrs):
            network = ip_network(cidr, strict=False)
            self._networks.setdefault(f"IPv{network.version}", network)

    def reserve(self, obj: Obj) -> None:
        """Take note of what a stored Service holds."""
        owner = _owner(obj)
        for address in _cluster_ips(obj):
            self._addresses[address] = owner
        for key in _node_ports(obj):
            self._taken[key] = owner

    def release(self, obj: Obj) -> None:
        """Forget what a Service that is gone, or an older version of one, held."""
        owner = _owner(obj)
        for address in _cluster_ips(obj):
            if self._addresses.get(address) == owner:
                del self._addresses[address]
        for key in _node_ports(obj):
            if self._taken.get(key) == owner:
                del self._taken[key]

    def assign(self, obj: Obj, old: Obj | None) -> None:
        """Fill in clusterIP(s), nodePorts and healthCheckNodePort, keeping those of `old`. Changes nothing in the ledger.

        Raises ApiError 422 for one that is taken, out of range, or when the range is full.
        """
        spec, before = obj["spec"], (old or {}).get("spec") or {}
        kind = spec.get("type")
        if kind == "ExternalName":
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
                spec.pop(field, None)
        else:
            self._assign_address(obj, spec, before)
        self._assign_ports(obj, spec, before)

    def _assign_address(self, obj: Obj, spec: Obj, before: Obj) -> None:
        given = spec.get("clusterIPs") or [spec.get("clusterIP") or before.get("clusterIP")]
        if spec.get("clusterIP"):
            given = [spec["clusterIP"], *given[1:]]
        if given[0] == "None":
            spec["clusterIP"], spec["clusterIPs"] = "None", ["None"]
            if not spec.get("selector"):
                spec["ipFamilyPolicy"] = spec.get("ipFamilyPolicy") or "SingleStack"
            return
        held = {family_of(address): address for address in before.get("clusterIPs") or () if address != "None"}
        families = spec["ipFamilies"] = self._families(obj, spec)
        wanted = given + [None] * (len(families) - len(given))
        found = []
        for family, address in zip(families, wanted, strict=False):
            address = address or held.get(family) or self._free_address(self._networks[family])
            if self._addresses.get(address) != _owner(obj):
                self._check_address(obj, address, self._networks[family])
            found.append(address)
        spec["clusterIP"], spec["clusterIPs"] = found[0], found

    def _families(self, obj: Obj, spec: Obj) -> list[str]:
        """The families that a Service has addresses of: those it names, and by its policy the other one too. Raises ApiError 422."""
        policy, families = spec.get("ipFamilyPolicy", "SingleStack"), list(spec.get("ipFamilies") or ["IPv4"])
        if policy == "RequireDualStack" and len(self._networks) == 1:
            raise _refuse(
                obj,
                invalid_value("spec.ipFamilyPolicy", policy, "this cluster is not configured for dual-stack services"),
            )
        if policy == "SingleStack":
            families = families[:1]
        elif len(families) == 1:
            families += [family for family in self._networks if family not in families]
        for index, family in enumerate(families):
            if family not in self._networks and not (index and policy == "PreferDualStack"):
                raise _refuse(obj, invalid_value(f"spec.ipFamilies[{index}]", family, "not configured on this cluster"))
        return [family for family in families if family in self._networks]

    def _check_address(self, obj: Obj, address: str, network: IPv4Network | IPv6Network) -> None:
        shown = [address]
        if ip_address(address) not in network or address in (str(network[0]), str(network[-1])):
            why = f"failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The range of valid IPs is {network}"
        elif address in self._addresses:
            why = f"failed to allocate IP {address}: provided IP is already allocated"
        else:
            return
        raise _refuse(obj, invalid_value("spec.clusterIPs", shown, why))

    def _free_address(self, network: IPv4Network | IPv6Network) -> str:
        """A random free address of the upper, dynamic band; of the lower one when that is full."""
        first, last = int(network[1]), int(network[-2])
        size = last - first + 1
        offset = min(max(16, size // 16), 256) if size > 16 else 0
        for low, high in ((first + offset, last), (first, first + offset - 1)):
            if high < low:
                continue
            start = self._start(low, high)
            for number in chain(range(start, high + 1), range(low, start)):
                address = str(network[number - int(network[0])])
                if address not in self._addresses:
                    return address
        raise ApiError(
            500,
            "InternalError",
            f"failed to allocate a serviceIP: range is full: every address of {network} is a Service's",
        )

    def _assign_ports(self, obj: Obj, spec: Obj, before: Obj) -> None:
        wants = spec.get("type") == "NodePort" or (
            spec.get("type") == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts", True)
        )
        old_ports = {(p.get("protocol"), p.get("port")): p.get("nodePort") for p in before.get("ports") or ()}
        mine: dict[PortKey, str] = {}
        for index, port in enumerate(spec.get("ports") or ()):
            number = port.get("nodePort")
            if not wants and not number:
                port.pop("nodePort", None)
                continue
            number = (
                number
                or old_ports.get((port.get("protocol"), port.get("port")))
                or next(
                    (
                        n
                        for n, protocol in mine
                        if protocol != port["protocol"]
                        and (n, port["protocol"]) not in self._taken
                        and _same(spec, port, n)
                    ),
                    None,
                )
            )
            key = (number or self._free_port(port["protocol"], mine), port["protocol"])
            self._check_port(obj, key, mine, f"spec.ports[{index}].nodePort")
            port["nodePort"] = key[0]
            mine[key] = _owner(obj)
        self._assign_health_port(obj, spec, before, mine)

    def _assign_health_port(self, obj: Obj, spec: Obj, before: Obj, mine: dict[PortKey, str]) -> None:
        if spec.get("type") != "LoadBalancer" or spec.get("externalTrafficPolicy") != "Local":
            spec.pop("healthCheckNodePort", None)
            return
        number = spec.get("healthCheckNodePort") or before.get("healthCheckNodePort") or self._free_port("TCP", mine)
        self._check_port(obj, (number, "TCP"), mine, "spec.healthCheckNodePort")
        spec["healthCheckNodePort"] = number

    def _check_port(self, obj: Obj, key: PortKey, mine: dict[PortKey, str], path: str) -> None:
        low, high = self._ports
        if not low <= key[0] <= high:
            why = f"provided port is not in the valid range. The range of valid ports is {low}-{high}"
        elif self._taken.get(key, _owner(obj)) != _owner(obj) or key in mine:
            why = "provided port is already allocated"
        else:
            return
        raise _refuse(obj, invalid_value(path, key[0], why))

    def _start(self, low: int, high: int) -> int:
        return self._random.randint(low, high) if self._random and low <= high else low

    def _free_port(self, protocol: str, mine: dict[PortKey, str]) -> int:
        """A random free port of the upper, dynamic band; of the lower one when that is full."""
        low, high = self._ports
        size = high - low + 1
        split = low + (min(max(16, size // 32), 128) if size >= 16 else 0)
        for first, last in ((split, high), (low, split - 1)):
            start = self._start(first, last)
            for number in (*range(start, last + 1), *range(first, start)):
                if not any((number, p) in self._taken or (number, p) in mine for p in ("TCP", "UDP", "SCTP")):
                    return int(number)
        raise ApiError(
            500, "InternalError", f"failed to allocate a nodePort: range is full: every port of {low}-{high} is taken"
        )


def _same(spec: Obj, port: Obj, number: int) -> bool:
    """A second protocol on the same Service port shares the node port of the first."""
    return any(other.get("nodePort") == number and other.get("port") == port.get("port") for other in spec["ports"])


def _refuse(obj: Obj, fault: FieldError) -> ApiError:
    return invalid(kinds.SERVICE, obj["metadata"].get("name", ""), [fault])


def _owner(obj: Obj) -> str:
    return f"{obj['metadata'].get('namespace', '')}/{obj['metadata'].get('name', '')}"


def _cluster_ips(obj: Obj) -> Iterable[str]:
    return [address for address in (obj.get("spec") or {}).get("clusterIPs") or () if address and address != "None"]


def _node_ports(obj: Obj) -> Iterable[PortKey]:
    spec = obj.get("spec") or {}
    found = [
        (port["nodePort"], port.get("protocol", "TCP")) for port in spec.get("ports") or () if port.get("nodePort")
    ]
    if spec.get("healthCheckNodePort"):
        found.append((spec["healthCheckNodePort"], "TCP"))
    return found
