"""What becomes of a URL, for a person: the rule and the endpoints (package `ingress`), and which address each hop sees (package `tracer`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from glassnet.agent.ingress.references import references
from glassnet.ingress import classes, compute, explain
from glassnet.ingress.explain import Explanation
from glassnet.ingress.model import CONTROLLER, OTHER_CONTROLLER, Settings
from glassnet.kube import kinds, types
from glassnet.kube.api import Api
from glassnet.kube.types import Data, Meta
from glassnet.kube.view import Key, View
from glassnet.net import address
from glassnet.net.errors import ApiError, UsageError
from glassnet.tracer.names import Names
from glassnet.tracer.objects import Objects
from glassnet.tracer.trace import Request, Trace, Tracer
from glassnet.tracer.world import World

READ = (kinds.INGRESS, kinds.INGRESS_CLASS, kinds.SERVICE, kinds.ENDPOINT_SLICE)
SETTINGS = Settings(controllers=(CONTROLLER, OTHER_CONTROLLER))
_MOST = 10  # endpoints that are traced to
Json = dict[str, Any]


class Question(NamedTuple):
    """A request, and who makes it: `source` as `glassnet trace` takes it, "" for nobody in particular; `service` in front of the controller, if it
    is not to be found by the Ingress's status."""

    request: explain.Request
    source: str = ""
    service: Key | None = None


class Hop(NamedTuple):
    """One way of the request: from, to, and the address that the other end sees ("" if that is not known); `how` for people, `command` to look closer."""

    source: str
    to: str
    seen: str
    how: str
    command: str


class Answer(NamedTuple):
    """All that is known. `unread` are Secrets that were named and could not be read, `not_ours` are Ingresses of that host that nobody here serves."""

    found: Explanation
    hops: tuple[Hop, ...]
    problems: tuple[str, ...]
    unread: tuple[str, ...]
    not_ours: tuple[str, ...]


def view_of(objects: Mapping[str, Iterable[Json]]) -> View:
    """A View of objects as a snapshot has them: by plural kind, as JSON."""
    view = View()
    for kind in (*READ, kinds.SECRET, kinds.CONFIG_MAP):
        for item in objects.get(kind.plural, ()):
            view.apply(kind, types.decode(kind, json.dumps(item)))
    return view


async def read(api: Api, settings: Settings = SETTINGS) -> View:
    """A View of what an API server has: the Secrets and ConfigMaps that our Ingresses name, too. Raises ApiError."""
    objects = {kind.plural: await api.list(kind) for kind in READ}
    view = view_of(objects)
    named = references(classes.ours(view, settings), settings.default_certificate)
    for kind, keys in ((kinds.SECRET, named.secrets), (kinds.CONFIG_MAP, named.config_maps)):
        for key in keys:
            try:
                body = await api.get(kind, key.namespace, key.name)
            except ApiError as error:
                if error.status not in (403, 404):
                    raise
                continue
            view.apply(kind, types.decode(kind, json.dumps(body)))
    return view


def answer(
    view: View, question: Question, world: World | None = None, settings: Settings = SETTINGS, *, secrets: bool = True
) -> Answer:
    """What becomes of a request. `secrets` is False where the View has none because nobody could read them: that is then no fault of anybody's."""
    ours = classes.ours(view, settings)
    unread: list[str] = []
    if not secrets:
        for key in sorted(references(ours, settings.default_certificate).secrets):
            if view.get(kinds.SECRET, key) is None:
                unread.append(str(key))
                stand_in = Data(Meta(key.name, key.namespace), {"auth": "bm9ib2R5OiEK"}, type="Opaque")  # nobody:!
                view.apply(kinds.SECRET, stand_in)
    site = compute.compute(view, settings)
    found = explain.explain(site, question.request)
    keys = {Key(each.metadata.namespace, each.metadata.name) for each in ours}
    host = found.server.host if found.server else ""
    others = [
        f"Ingress {each.metadata.namespace}/{each.metadata.name}: {classes.why(each, view, settings)[1]}"
        for each in view.all(kinds.INGRESS)
        if Key(each.metadata.namespace, each.metadata.name) not in keys and any(_same(rule.host, question.request.host, host) for rule in each.spec.rules)
    ]  # fmt: skip
    involved = (
        {found.location.source.ingress}
        if found.location
        else {key for key, _ in (found.server.ingresses if found.server else ())}
    )
    problems = tuple(
        f"{each.reason}: {each.message}"
        for each in site.problems
        if each.key in involved and not (unread and "ecret" in each.message)
    )
    return Answer(found, tuple(_hops(view, found, question, world)), problems, tuple(unread), tuple(others))


def _same(host: str, asked: str, server: str) -> bool:
    plain = asked.partition(":")[0].lower()
    return host.lower() in (plain, server) and bool(host)


# -- who sees whom


def _front(view: View, found: Explanation, question: Question) -> Key | None:
    """The Service in front of the controller: the one that has an address of the Ingress's status."""
    if question.service is not None:
        return question.service
    ingress = view.get(kinds.INGRESS, found.location.source.ingress) if found.location else None
    if ingress is None:
        return None
    said = {each.ip or each.hostname for each in ingress.status.load_balancer.ingress}
    for service in view.all(kinds.SERVICE):
        spec = service.spec
        has = {each.ip or each.hostname for each in service.status.load_balancer.ingress} | {
            *spec.external_ips,
            *spec.cluster_ips,
        }
        if said & has:
            return Key(service.metadata.namespace, service.metadata.name)
    return None


def _hops(view: View, found: Explanation, question: Question, world: World | None) -> Iterable[Hop]:
    front = _front(view, found, question)
    if front is None or (service := view.get(kinds.SERVICE, front)) is None:
        where = f"there is no Service {front}" if front else "no Service has an address of the Ingress's status"
        yield Hop(
            question.source or "client",
            "controller",
            "",
            f"{where}: --through NAMESPACE/NAME names the one in front of the controller",
            "",
        )
        return
    secure = question.request.scheme == "https"
    port = next(
        (
            each.name or str(each.port)
            for each in service.spec.ports
            if each.name == question.request.scheme or each.port == (443 if secure else 80)
        ),
        "",
    )
    source = question.source or "internet"
    command = f"glassnet trace {source} svc/{front.name}{':' + port if port else ''} -n {front.namespace}"
    endpoints = [each for choice in found.choices for each in choice.endpoints][:_MOST]
    if world is None:
        yield Hop(source, f"Service {front}", "", _policy(service), command)
        for each in endpoints:
            yield Hop(
                "controller",
                f"{each.address}:{each.port} {each.pod}".strip(),
                "",
                "its own address, unless something on the way masquerades",
                f"glassnet trace CONTROLLER-POD {each.address}:{each.port}",
            )
        return
    names, tracer = Names(world, Objects(world.objects), front.namespace), Tracer(world)
    ends: dict[str, None] = {}
    for end, hop in _traced(
        tracer.trace(names.request(source, f"svc/{front.name}{':' + port if port else ''}")), source, command
    ):
        ends[end] = None
        yield hop
    for controller in ends:
        for each in endpoints if found.status == 0 else ():
            yield from _on(tracer, names, controller, each)


def _on(tracer: Tracer, names: Names, controller: str, endpoint: Any) -> Iterable[Hop]:
    """From a controller to an endpoint."""
    target = address.with_port(endpoint.address, endpoint.port)
    try:
        request: Request = names.request(controller, target)
    except UsageError as error:
        yield Hop(controller, target, "", str(error), "")
        return
    for _, hop in _traced(tracer.trace(request), controller, f"glassnet trace {controller} {target}"):
        yield hop


def _traced(trace: Trace, source: str, command: str) -> Iterable[tuple[str, Hop]]:
    """Where a traced packet ends, and which source it has there: each pair once."""
    told = set()
    for way in trace.ways:
        seen = address.text_of(way.packet.src, trace.request.bits)
        if (way.machine, seen, way.result) not in told:
            told.add((way.machine, seen, way.result))
            how = (
                way.result
                if way.result in ("ok", "delivered")
                else f"{way.result}: {way.detail}"
                if way.detail
                else way.result
            )
            yield way.machine, Hop(source, way.machine, seen, how, command)


def _policy(service: Any) -> str:
    if service.spec.external_traffic_policy == "Local":
        return (
            "externalTrafficPolicy: Local: the controller sees the client's address; from inside the cluster, the pod's"
        )
    return "externalTrafficPolicy: Cluster: from outside, the controller may see the address of the node that was asked; from a pod, the pod's"
