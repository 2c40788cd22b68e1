"""How a cluster's DNS is set up, as far as the API tells: the workload that runs `glassnet dns serve`, its flags, the Service before it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from glassnet.dns import resolv_conf, upstream
from glassnet.dns import settings as checks
from glassnet.dns.model import DnsSettings
from glassnet.dns.resolv_conf import ResolvConf
from glassnet.kube import kinds, selectors
from glassnet.kube.types import Pod, Service, Workload
from glassnet.kube.view import Key, View
from glassnet.net import address
from glassnet.net.errors import UsageError

_MANY = ("upstream", "stub-domain")
_ONE = ("cluster-domain", "ttl", "pods", "service", "resolv-conf")
_LEFT_OUT = "(left out)"  # a snapshot has no values of variables


class Deployed(NamedTuple):
    """`where` is the workload, Kind NAMESPACE/NAME, "" when none was found; `notes` are what is not known, and why."""

    settings: DnsSettings
    upstreams_known: bool = False
    where: str = ""
    notes: tuple[str, ...] = ()


def find(view: View, node_text: Callable[[str], str | None] = lambda node: None) -> Deployed:
    """The cluster's DNS. `node_text` gives a node's resolv.conf, None when it is not known."""
    for kind in (kinds.DEPLOYMENT, kinds.DAEMON_SET, kinds.STATEFUL_SET):
        for workload in view.all(kind):
            for container in _containers(workload):
                if (words := _flags(container)) is not None:
                    where = f"{kind.name} {workload.metadata.namespace}/{workload.metadata.name}"
                    return _read(where, _given(words, container), _servers_of_pods(view, workload, node_text))
    note = "no Deployment runs `glassnet dns serve`: upstreams and stub domains are not known, the names are explained as glassnet would serve them"  # fmt: skip
    return Deployed(DnsSettings(), notes=(note,))


def _containers(workload: Workload) -> Iterable[Mapping[str, Any]]:
    spec = workload.spec.template.get("spec") or {}
    return spec.get("containers") or ()


def _flags(container: Mapping[str, Any]) -> list[str] | None:
    """The words after `dns serve` of a container's command; None when it runs something else."""
    words = [str(word) for word in (*(container.get("command") or ()), *(container.get("args") or ()))]
    for number, pair in enumerate(itertools.pairwise(words)):
        if pair == ("dns", "serve"):
            return words[number + 2 :]
    return None


def _given(words: list[str], container: Mapping[str, Any]) -> dict[str, list[str]]:
    """Values by flag, without its dashes; where a flag is not given, its variable's."""
    found: dict[str, list[str]] = {}
    left = iter(words)
    for word in left:
        name, equals, value = word.removeprefix("--").partition("=")
        if name in _MANY or name in _ONE:
            found.setdefault(name, []).append(value if equals else next(left, ""))
    for variable in container.get("env") or ():
        name = str(variable.get("name", "")).removeprefix("GLASSNET_DNS_").lower().replace("_", "-")
        if (name in _MANY or name in _ONE) and name not in found:
            value = str(variable.get("value", _LEFT_OUT))
            found[name] = value.split() if name in _MANY and value != _LEFT_OUT else [value]
    return found


def _servers_of_pods(view: View, workload: Workload, node_text: Callable[[str], str | None]) -> ResolvConf | None:
    """The resolver of the workload's own pods; None when it is not known."""
    selector = selectors.of(workload.spec.selector)
    for pod in view.pods_matching(workload.metadata.namespace, selector):
        text = node_text(pod.spec.node_name)
        if text is not None and not resolv_conf.in_cluster(pod):
            return resolv_conf.of_pod(pod, "", text)
    return None


def _read(where: str, given: dict[str, list[str]], pods: ResolvConf | None) -> Deployed:
    notes = [f"{where}: the value of {name} is not in the snapshot" for name, values in given.items() if _LEFT_OUT in values]  # fmt: skip
    given = {name: values for name, values in given.items() if _LEFT_OUT not in values}
    one = {name: values[-1] for name, values in given.items()}
    try:
        found = checks.settings(
            domain=one.get("cluster-domain", "cluster.local"), stubs=given.get("stub-domain", ()), pods=one.get("pods", "insecure"),
            ttl=int(one.get("ttl", "5")), own_service=one.get("service", DnsSettings().own_service),
        )  # fmt: skip
        servers = tuple(upstream.server(each) for each in given.get("upstream", ()))
    except (UsageError, ValueError) as error:
        return Deployed(DnsSettings(), where=where, notes=(*notes, f"{where}: its flags cannot be read: {error}"))
    if not servers and pods is not None and "resolv-conf" not in one:
        servers = upstream.servers_of(pods.text())
    known = not notes and ("upstream" in given or one.get("resolv-conf") == "" or (pods is not None and "resolv-conf" not in one))  # fmt: skip
    if not known and not notes:
        notes.append(f"{where} has no --upstream: it asks the servers in the resolv.conf of its pods, which is not known here (--node-resolv-conf tells)")  # fmt: skip
    return Deployed(found._replace(upstreams=servers), known, where, tuple(notes))


class Front(NamedTuple):
    """Who is behind an address that pods have for their name server. `what` says it in words, `problem` why nobody answers there."""

    what: str
    problem: str = ""


def own_addresses(view: View, settings: DnsSettings) -> tuple[str, ...]:
    """The addresses of the Service before cluster DNS."""
    service = view.services.get(own_key(settings))
    return _ips(service) if service is not None else ()


def own_key(settings: DnsSettings) -> Key:
    """The Service before cluster DNS."""
    return Key(*settings.own_service.split("/", 1))


def _ips(service: Service) -> tuple[str, ...]:
    every = service.spec.cluster_ips or (service.spec.cluster_ip,)
    return tuple(ip for ip in map(address.canonical, every) if ip)


def behind(view: View, settings: DnsSettings) -> frozenset[str]:
    """All addresses at which the cluster's DNS is asked: those of its Service, and those of its endpoints."""
    ends = (ip for piece in view.slices_of(own_key(settings)) for each in piece.endpoints for ip in each.addresses)
    return frozenset((*own_addresses(view, settings), *map(address.canonical, ends)))


def front(view: View, ip: str, expected: frozenset[str]) -> Front:
    """Who answers at a name server's address. `expected` are addresses at which the cluster's DNS should be."""
    for key, service in view.services.items():
        if ip in _ips(service):
            return _service(view, key, service)
    for pod in view.pods.values():
        if ip and ip == pod.status.pod_ip and not pod.spec.host_network and not pod.finished():
            return Front(f"Pod {pod.metadata.namespace}/{pod.metadata.name}")
    if ip in expected:
        return Front("no Service", f"no Service has the address {ip}: nobody answers there")
    return Front("a server outside of the cluster's objects")


def _service(view: View, key: Key, service: Service) -> Front:
    if not any(port.port == 53 and port.protocol == "UDP" for port in service.spec.ports):
        return Front(f"Service {key}", f"Service {key} has no port 53/UDP")
    ready: list[str] = []
    late: list[str] = []
    for piece in view.slices_of(key):
        for each in piece.endpoints:
            (late if each.conditions.ready is False else ready).extend(each.addresses)
    if not ready:
        names = ", ".join(_pods(view, key, late)) or "it has no endpoints at all"
        return Front(f"Service {key}", f"Service {key} has no ready endpoint ({names}): queries there get no answer")
    return Front(f"Service {key}, {len(ready)} ready endpoint{'s' * (len(ready) != 1)}")


def _pods(view: View, key: Key, ips: Iterable[str]) -> Iterator[str]:
    for ip in ips:
        pod = next((pod for pod in view.all(kinds.POD, key.namespace) if pod.status.pod_ip == ip), None)
        yield f"Pod {pod.metadata.name} is not ready" if isinstance(pod, Pod) else f"{ip} is not ready"
