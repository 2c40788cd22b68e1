"""What a Service asks of its load balancer: addresses, pool, families, whom it shares an address with. And what it has, by its status.

Source: Kubernetes API, ServiceSpec (loadBalancerIP, loadBalancerClass, ipFamilies, ipFamilyPolicy), ServiceStatus.
"""

from __future__ import annotations

from typing import NamedTuple

from glassnet.kube.types import Condition, Service
from glassnet.kube.view import Key
from glassnet.net import address

CLASS = "glassnet.dev/loadbalancer"
"""The loadBalancerClass that is ours."""
POOL, IPS, SHARING = f"{CLASS}-pool", f"{CLASS}-ips", f"{CLASS}-sharing-key"
"""Annotations of Services."""
CONDITION, ASSIGNED = "glassnet.dev/LoadBalancer", "Assigned"
"""The type of the condition that marks a status as ours, and its reason while the Service has what it asked for."""

INVALID = "InvalidRequest"
Age = tuple[float, str, str]
Port = tuple[str, int]  # protocol, number


class Wish(NamedTuple):
    """`families` it may have addresses of, `least` how many of them it must have; `ips` asked for by name; `fault` why none of it can be."""

    families: tuple[str, ...]
    least: int
    ips: tuple[str, ...] = ()
    pool: str = ""
    fault: str = ""


class Holder(NamedTuple):
    """A Service as far as sharing an address goes. `reach` is where its packets may go: to each node, or to those with its own endpoints."""

    age: Age
    ports: frozenset[Port]
    sharing: str
    reach: tuple[str, ...]

    def goes_with(self, other: Holder) -> bool:
        """Whether both can have one address: asked for by both, no port twice, and packets of both may go to the same nodes."""
        return bool(self.sharing) and self.sharing == other.sharing and self.reach == other.reach and not self.ports & other.ports  # fmt: skip


def key_of(service: Service) -> Key:
    """Namespace and name."""
    return Key(service.metadata.namespace, service.metadata.name)


def age(service: Service) -> Age:
    """By this the older of two is told: creation, then name."""
    born = service.metadata.creation_timestamp
    return (born.timestamp() if born else float("inf"), *key_of(service))


def is_ours(service: Service, default_class: bool) -> bool:
    """Whether we are the load balancer that a Service wants; one without a class wants the cluster's default."""
    spec = service.spec
    return spec.type == "LoadBalancer" and (spec.load_balancer_class == CLASS or (default_class and spec.load_balancer_class is None))  # fmt: skip


def wish(service: Service) -> Wish:
    """What a Service asks for."""
    spec, notes = service.spec, service.metadata.annotations
    families = spec.ip_families or tuple(dict.fromkeys(address.family(ip) for ip in spec.cluster_ips if ip != "None"))
    families = families or (address.IPV4,)
    least = len(families) if spec.ip_family_policy == "RequireDualStack" else 1
    texts = [text.strip() for text in notes.get(IPS, "").split(",") if text.strip()]
    if texts and spec.load_balancer_ip and texts != [spec.load_balancer_ip]:
        return Wish(families, least, fault=f"spec.loadBalancerIP {spec.load_balancer_ip} and annotation {IPS} {', '.join(texts)}: give one of them")  # fmt: skip
    where = f"annotation {IPS}" if texts else "spec.loadBalancerIP"
    ips: dict[str, str] = {}
    for text in texts or ([spec.load_balancer_ip] if spec.load_balancer_ip else []):
        ip = address.canonical(text)
        fault = "" if ip else f"{where}: {text!r} is no IP address"
        if ip and address.family(ip) not in families:
            fault = f"{where}: {ip} is {address.family(ip)}, the Service has ipFamilies {', '.join(families)}"
        elif ip and address.family(ip) in ips:
            fault = f"{where}: {ips[address.family(ip)]} and {ip} are of one family: a Service gets one of each"
        if fault:
            return Wish(families, least, fault=fault)
        ips[address.family(ip)] = ip
    return Wish(families, least, tuple(ips.values()), notes.get(POOL, "").strip())


def holder(service: Service) -> Holder:
    """A Service as far as sharing goes."""
    spec = service.spec
    ports = frozenset((port.protocol, port.port) for port in spec.ports)
    reach: tuple[str, ...] = ("Cluster",)
    if spec.external_traffic_policy == "Local":
        reach = ("Local", service.metadata.namespace, *(f"{name}={value}" for name, value in sorted(spec.selector.items())))  # fmt: skip
        if not spec.selector:
            reach += (service.metadata.name,)  # its endpoints are made by hand: nobody else's
    return Holder(age(service), ports, service.metadata.annotations.get(SHARING, "").strip(), reach)


# -- what it has


def shown(service: Service) -> tuple[str, ...]:
    """The addresses in its status, canonical."""
    return tuple(filter(None, (address.canonical(each.ip) for each in service.status.load_balancer.ingress)))


def condition(service: Service) -> Condition | None:
    """Our condition."""
    return next((each for each in service.status.conditions if each.type == CONDITION), None)


def message(ips: tuple[str, ...], pools: tuple[str, ...]) -> str:
    """The condition's message of a Service that has addresses; `recorded` reads it."""
    return f"{' '.join(ips)} (pool {', '.join(dict.fromkeys(pools))})"


def recorded(service: Service) -> tuple[str, ...]:
    """The addresses that we have given a Service last, by its condition."""
    found = condition(service)
    if found is None or found.status != "True":
        return ()
    return tuple(filter(None, (address.canonical(word) for word in found.message.partition(" (")[0].split())))


def given(service: Service) -> tuple[str, ...]:
    """The addresses that are in a Service's status because we put them there: those that nodes announce."""
    ours = recorded(service) if service.spec.type == "LoadBalancer" else ()
    return tuple(ip for ip in shown(service) if ip in ours)


def is_foreign(service: Service) -> bool:
    """Whether the status has something that another load balancer must have put there: a name, a proxy's address, an address we did not give."""
    ingress, ours = service.status.load_balancer.ingress, recorded(service)
    return any(each.hostname or each.ip_mode == "Proxy" or address.canonical(each.ip) not in ours for each in ingress)
