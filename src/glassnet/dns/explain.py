"""What becomes of a name that a pod looks up: each query in its order, its answer, whose doing that is, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from glassnet.dns import absence, names
from glassnet.dns.lookup import FORWARDED, NODATA, NOERROR, NXDOMAIN, REFUSED, SERVFAIL, Names, Reply
from glassnet.dns.resolv_conf import ResolvConf
from glassnet.dns.search_list import Candidate, Walk, combined
from glassnet.kube import kinds
from glassnet.kube.types import Pod
from glassnet.kube.view import Key, View
from glassnet.net import address

BOTH = ("A", "AAAA")  # what getaddrinfo(3) asks for
UNKNOWN = "UNKNOWN"  # another server is asked, of which nothing is known


class Query(NamedTuple):
    """One name that is asked for, once for each type: (type, reply). `domain` is the search domain it comes from; `why` says what was missing."""

    name: str
    domain: str
    replies: tuple[tuple[str, Reply], ...]
    why: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        """What the resolver makes of it."""
        return combined(reply.code for _, reply in self.replies)


class Explanation(NamedTuple):
    """All of it. `asked` is the server that the resolver asks first, `ours` whether that is the cluster's DNS.

    `hosts` is a line of the pod's /etc/hosts that answers, without any query; `shorter` are names for the same with fewer queries, and how many.
    `local`: the name looks like one of the cluster, such as SERVICE.NAMESPACE.
    """

    name: str
    pod: str
    conf: ResolvConf
    asked: str
    ours: bool
    queries: tuple[Query, ...]
    hosts: str = ""
    shorter: tuple[tuple[str, int], ...] = ()
    local: bool = False

    @property
    def code(self) -> str:
        """The outcome: NOERROR, FORWARDED (an upstream decides), UNKNOWN, or why there is none."""
        if self.hosts:
            return NOERROR
        if not self.ours:
            return UNKNOWN
        codes = [query.code for query in self.queries]
        for code in (NOERROR, FORWARDED, SERVFAIL, REFUSED, NODATA):
            if code in codes:
                return code
        return NXDOMAIN

    @property
    def cost(self) -> int:
        """Queries that the resolver sends."""
        return sum(len(query.replies) for query in self.queries)


def explain(name: str, types: tuple[str, ...], pod: Pod, conf: ResolvConf, known: Names, ours: frozenset[str]) -> Explanation:  # fmt: skip
    """What becomes of a name in a pod. `conf` is the pod's resolver, `ours` the addresses at which the cluster's DNS is asked.

    An address is looked up by its reverse name, once. Without `types` it is as getaddrinfo(3) does it: A and AAAA.
    """
    asked = conf.servers[0] if conf.servers else "127.0.0.1"  # resolv.conf(5): without one, the machine itself
    mine = asked in ours
    whole = Explanation(name, f"{pod.metadata.namespace}/{pod.metadata.name}", conf, asked, mine, ())
    if not types and (line := _in_hosts(name, pod, known.settings.zone)):
        return whole._replace(hosts=line)
    if ip := address.canonical(name):
        name, types = names.reverse(ip)[1], types or ("PTR",)
    server = known if mine else None
    queries = _search(name, types or BOTH, conf, server)
    found = whole._replace(queries=queries, local=_local(name, pod.metadata.namespace, known.view))
    return found._replace(shorter=tuple(_shorter(found, types or BOTH, server)))


def _local(name: str, namespace: str, view: View) -> bool:
    """Whether a name looks like one of the cluster: SERVICE, SERVICE.NAMESPACE, SERVICE.NAMESPACE.svc, HOST.SERVICE."""
    rest, _, last = name.lower().rstrip(".").rpartition(".")
    return not rest or last == "svc" or view.get(kinds.NAMESPACE, Key("", last)) is not None or Key(namespace, last) in view.services  # fmt: skip


def _search(name: str, types: tuple[str, ...], conf: ResolvConf, known: Names | None) -> tuple[Query, ...]:
    walk, queries = Walk(name, conf), []
    for candidate in walk:
        queries.append(_query(candidate, types, known))
        walk.told(queries[-1].code)
    return tuple(queries)


def _shorter(found: Explanation, types: tuple[str, ...], known: Names | None) -> Iterator[tuple[str, int]]:
    """Names that lead to the same one by way of a search domain, sooner."""
    good = found.queries[-1].name
    if found.code != NOERROR or found.queries[-1].domain:
        return
    for domain in found.conf.searches:
        name = good.removesuffix(f".{domain}.")
        queries = _search(name, types, found.conf, known) if name != good else ()
        cost = sum(len(query.replies) for query in queries)
        if queries and queries[-1].name == good and cost < found.cost:
            yield name, cost


def _query(candidate: Candidate, types: tuple[str, ...], known: Names | None) -> Query:
    if known is None:
        return Query(candidate.name, candidate.domain, tuple((each, Reply(FORWARDED, servers=None)) for each in types))
    replies = tuple((each, known.ask(candidate.name, each)) for each in types)
    query = Query(candidate.name, candidate.domain, replies)
    if query.code not in (NODATA, NXDOMAIN):
        return query
    reasons = [reason for each, _ in replies for reason in absence.why(known, candidate.name, each)]
    return query._replace(why=tuple(dict.fromkeys(reasons)))


def _in_hosts(name: str, pod: Pod, zone: str) -> str:
    """The line of a pod's /etc/hosts that has a name: nsswitch.conf asks files before DNS."""
    wanted = name.lower().rstrip(".")
    if wanted == "localhost":
        return "127.0.0.1 localhost"
    host = (pod.spec.hostname or pod.metadata.name)[:63]
    own = [host]
    if pod.spec.subdomain:
        own.append(f"{host}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{zone.rstrip('.')}")
    if wanted in own and not pod.spec.host_network:
        return f"{pod.status.pod_ip} {' '.join(own)}"
    for alias in pod.spec.host_aliases:
        if wanted in (text.lower() for text in alias.get("hostnames") or ()):
            return f"{alias.get('ip')} {' '.join(alias.get('hostnames') or ())}"
    return ""


def advice(found: Explanation) -> Iterator[str]:
    """How the same answer is had with fewer queries; nothing when there is no such way."""
    if not found.ours or len(found.queries) < 2 or found.code not in (NOERROR, FORWARDED):
        return
    good = [query for query in found.queries if query.code == found.code][-1]
    one, dots = len(good.replies), found.name.count(".")
    if found.code == FORWARDED and found.local:
        yield "the name looks like one of the cluster, and upstreams hardly know it: what counts is why the cluster does not"
        return
    yield f"{good.name} with the dot at the end: {one} in place of {found.cost}"
    for name, cost in found.shorter:
        yield f"or {name}: {cost}"
    if not good.domain and 0 < dots < found.conf.ndots:
        yield f"or ndots: {dots} in the pod's dnsConfig.options: names with {dots} or more dots are asked as they are first"  # fmt: skip


def report(found: Explanation) -> dict[str, Any]:
    """All of it as JSON has it."""
    return {
        "name": found.name,
        "pod": found.pod,
        "outcome": found.code,
        "hosts": found.hosts,
        "resolver": {"servers": found.conf.servers, "search": found.conf.searches, "ndots": found.conf.ndots, "options": dict(found.conf.options), "left_out": found.conf.problems},
        "asked": found.asked,
        "cluster_dns": found.ours,
        "queries": [_as_json(query) for query in found.queries],
        "cost": found.cost,
        "shorter": [{"name": name, "cost": cost} for name, cost in found.shorter],
        "advice": list(advice(found)),
    }  # fmt: skip


def _as_json(query: Query) -> dict[str, Any]:
    replies = [
        {"type": kind, "code": reply.code, "data": reply.data, "rule": reply.rule, "because": reply.causes,
         "servers": None if reply.servers is None else [str(each) for each in reply.servers]}
        for kind, reply in query.replies
    ]  # fmt: skip
    return {"name": query.name, "search_domain": query.domain, "outcome": query.code, "replies": replies, "why": query.why}  # fmt: skip
