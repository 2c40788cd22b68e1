"""Why a name has no answer: what would have to be there, and what is there in its place."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from glassnet.dns import names
from glassnet.dns.lookup import Names, pod_address
from glassnet.kube import kinds
from glassnet.kube.types import Pod, Service, SliceEndpoint
from glassnet.kube.view import Key

MOST = 5  # names that are listed; more are counted
_OWN = {"A": "IPv4", "AAAA": "IPv6"}


class _Question(NamedTuple):
    """A question about something below svc.Z: labels before the Service's, and the Service."""

    names: Names
    kind: str
    before: tuple[str, ...]
    key: Key


def why(known: Names, name: str, kind: str) -> tuple[str, ...]:
    """What is missing for an absolute name of the cluster to have an answer of a type."""
    name, zone = name.lower(), known.settings.zone
    if not names.fits(name):
        return ("longer than DNS allows (63 octets a label, 255 a name): it is not sent",)
    if name == zone or not names.within(name, zone):
        return _reverse(name, kind)
    labels = name.removesuffix(f".{zone}").split(".")
    if labels[-1] == "svc":
        return tuple(_below_svc(known, kind, labels[:-1]))
    if labels[-1] == "pod":
        return tuple(_below_pod(known, kind, labels[:-1]))
    if name in (f"dns-version.{zone}", f"ns.dns.{zone}", f"dns.{zone}"):
        return (f"the name is the cluster's own and has no {kind} record",)
    return (f"nothing of the cluster is called so: Services are SERVICE.NAMESPACE.svc.{zone}",)


def _reverse(name: str, kind: str) -> tuple[str, ...]:
    if kind != "PTR":
        return (f"a name of the reverse tree has no {kind} record",)
    return ("no Service has this address for its ClusterIP, and no ready endpoint of a headless Service has it; pods have no reverse names otherwise",)  # fmt: skip


def _below_pod(known: Names, kind: str, labels: list[str]) -> Iterator[str]:
    if not known.settings.pod_zone:
        yield "names of pods are switched off (--pods disabled)"
    elif not labels or known.exists(f"{'.'.join(labels)}.{known.settings.pod_zone}"):
        yield f"names of pods begin with an address, such as 10-1-2-3.{'.'.join(labels) or 'NAMESPACE'}.{known.settings.pod_zone}"  # fmt: skip
    elif known.view.get(kinds.NAMESPACE, Key("", labels[-1])) is None:
        yield f"there is no Namespace {labels[-1]}"
    elif ip := pod_address(labels[0]):
        yield f"{ip} is an {'IPv6' if ':' in ip else 'IPv4'} address: there is no {kind} record"
    else:
        yield f"{labels[0]} is no address with dashes; pods have no names by their own name, unless a headless Service and spec.hostname give them one"  # fmt: skip


def _below_svc(known: Names, kind: str, labels: list[str]) -> Iterator[str]:
    if not labels:
        yield "a place for namespaces: it has no records"
        return
    namespace = labels[-1]
    missing = known.view.get(kinds.NAMESPACE, Key("", namespace)) is None
    if missing:
        yield f"there is no Namespace {namespace}{_similar(namespace, (key.name for key in known.view.namespaces))}"
    elif len(labels) == 1:
        yield f"the name of a Namespace: it has no {kind} record"
    if len(labels) == 1:
        return
    key = Key(namespace, labels[-2])
    service = None if missing else known.view.services.get(key)
    if service is None:
        yield from _no_service(known, key, missing)
        return
    yield from _of_service(_Question(known, kind, tuple(labels[:-2]), key), service)


def _no_service(known: Names, key: Key, missing: bool) -> Iterator[str]:
    if key.name.startswith("_"):
        return
    if not missing:
        inside = (each.metadata.name for each in known.view.all(kinds.SERVICE, key.namespace))
        yield f"there is no Service {key.name} in Namespace {key.namespace}{_similar(key.name, inside)}"
    elsewhere = sorted(other.namespace for other in known.view.services if other.name == key.name)
    if elsewhere:
        yield f"a Service {key.name} is in {_listed(elsewhere)}: {key.name}.{elsewhere[0]}"
    if (pod := known.view.pods.get(key)) is not None and not missing:
        yield f"{key} is a Pod: it has a name through a headless Service alone{_subdomain(pod)}"


def _of_service(asked: _Question, service: Service) -> Iterator[str]:
    for problem in asked.names.of_service(asked.key).problems:
        yield f"Service {asked.key}: {problem.message}"
    if service.spec.type == "ExternalName":
        if asked.before:
            yield f"Service {asked.key} is of type ExternalName: there is nothing below its name"
        return
    if not service.spec.cluster_ip:
        yield f"Service {asked.key} has no clusterIP yet"
        return
    headless = service.spec.cluster_ip == "None"
    if headless and not (ready := _ready(asked, service)):
        yield from _nobody_ready(asked, service)
    elif not asked.before:
        families = {("IPv6" if ":" in ip else "IPv4") for ip in (ready if headless else service.spec.cluster_ips or (service.spec.cluster_ip,))}  # fmt: skip
        if asked.kind in _OWN:
            yield f"Service {asked.key} has {' and '.join(sorted(families))} addresses only"
        else:
            yield f"the name of a Service has no {asked.kind} record{'; SRV records are at _PORT._PROTOCOL.SERVICE' if asked.kind == 'SRV' else ''}"  # fmt: skip
    elif asked.before[-1].startswith("_"):
        yield from _port(asked, service)
    elif not headless:
        yield f"Service {asked.key} has a ClusterIP: names of single endpoints exist for headless Services only"
    else:
        yield from _host(asked, service)


def _ends(asked: _Question) -> Iterator[SliceEndpoint]:
    for piece in asked.names.view.slices_of(asked.key):
        yield from piece.endpoints


def _counts(endpoint: SliceEndpoint, service: Service) -> bool:
    return endpoint.conditions.ready is not False or service.spec.publish_not_ready_addresses


def _ready(asked: _Question, service: Service) -> list[str]:
    return [ip for endpoint in _ends(asked) if _counts(endpoint, service) for ip in endpoint.addresses]


def _nobody_ready(asked: _Question, service: Service) -> Iterator[str]:
    ends = list(_ends(asked))
    if ends:
        yield f"headless Service {asked.key} has no ready endpoint; not ready: {_listed(_called(asked, each) for each in ends)}"  # fmt: skip
        yield "spec.publishNotReadyAddresses gives endpoints names before they are ready"
    elif service.spec.selector:
        selector = ",".join(f"{name}={value}" for name, value in sorted(service.spec.selector.items()))
        yield f"headless Service {asked.key} has no endpoints: no Pod that runs has the labels {selector}"
    else:
        yield f"headless Service {asked.key} has no endpoints, and no selector that would find any"


def _called(asked: _Question, endpoint: SliceEndpoint) -> str:
    """An endpoint that is not ready, and why as far as its Pod tells."""
    if endpoint.target_ref is None or not endpoint.target_ref.name:
        return ", ".join(endpoint.addresses)
    name = endpoint.target_ref.name
    pod: Pod | None = asked.names.view.pods.get(Key(asked.key.namespace, name))
    if pod is None:
        return f"Pod {name}"
    reasons = [each.reason or pod.status.phase for each in pod.status.conditions if each.type == "Ready" and each.status != "True"]  # fmt: skip
    return f"Pod {name} ({reasons[0] if reasons else pod.status.phase})"


def _port(asked: _Question, service: Service) -> Iterator[str]:
    """SRV records of ports (2.3.2, 2.4.2)."""
    ports = sorted({f"_{port.name}._{port.protocol.lower()}" for port in service.spec.ports if port.name})
    if asked.kind == "SRV" or len(asked.before) != 2:
        if ports:
            yield f"Service {asked.key} has the named ports {_listed(ports)}"
        else:
            yield f"no port of Service {asked.key} has a name, and without one there is no SRV record"
    else:
        yield f"a port has an SRV record, and none of type {asked.kind}"


def _host(asked: _Question, service: Service) -> Iterator[str]:
    """Names of endpoints of a headless Service (2.4.1)."""
    host = ".".join(asked.before)
    ends = list(_ends(asked))
    late = [each for each in ends if not _counts(each, service) and host in _hosts(each)]
    if late:
        yield f"{host} is not ready: {_called(asked, late[0])}"
        return
    for each in ends:
        if each.target_ref and each.target_ref.name == host and not each.hostname:
            yield f"Pod {host} is an endpoint, but has no spec.hostname with spec.subdomain: {asked.key.name}; its name is {names.address_label(each.addresses[0])}"  # fmt: skip
            return
    if any(host in _hosts(each) for each in ends):
        yield f"endpoint {host} has no {asked.kind} record"
        return
    have = sorted({name for each in ends if _counts(each, service) for name in _hosts(each)})
    yield f"headless Service {asked.key} has no ready endpoint {host}; it has {_listed(have)}"


def _hosts(endpoint: SliceEndpoint) -> list[str]:
    return [endpoint.hostname.lower()] if endpoint.hostname else [names.address_label(ip) for ip in endpoint.addresses]


def _subdomain(pod: Pod) -> str:
    if pod.spec.subdomain and pod.spec.hostname:
        return f": {pod.spec.hostname}.{pod.spec.subdomain}.{pod.metadata.namespace}"
    return " with spec.hostname and spec.subdomain, or 10-1-2-3.NAMESPACE.pod by its address"


def _similar(name: str, others: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, others, n=1, cutoff=0.6)
    return f"; there is {close[0]}" if close else ""


def _listed(items: Iterable[str], key: Callable[[str], str] | None = None) -> str:
    every = sorted(items, key=key)
    more = f" and {len(every) - MOST} more" if len(every) > MOST else ""
    return ", ".join(every[:MOST]) + more
