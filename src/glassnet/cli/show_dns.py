"""Prints what `glassnet dns explain` found."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from glassnet.dns.deployed import Front
from glassnet.dns.explain import Explanation, Query, advice
from glassnet.dns.lookup import FORWARDED, NODATA, NOERROR, Reply

_SAYS = {
    "NXDOMAIN": "no such name",
    "NODATA": "the name is there, records of this type are not",
    "SERVFAIL": "nobody can be asked",
    "REFUSED": "not a name of the cluster, and there is no upstream",
    "FORWARDED": "not a name of the cluster: an upstream decides",
    "UNKNOWN": "the pod does not ask the cluster's DNS",
}


def show(found: Explanation, front: Front, notes: Iterable[str]) -> None:
    """Print all of it."""
    out = Console(highlight=False, soft_wrap=True)
    out.print(Text(f"{found.name} from {found.pod}: {_outcome(found)}", style="bold"))
    if not found.hosts:
        conf = found.conf
        out.print(Text(f"resolver  {found.asked} ({front.what}), ndots {conf.ndots}, search {' '.join(conf.searches) or 'none'}"))  # fmt: skip
    if front.problem and not found.hosts:
        out.print(Text(f"problem   {front.problem}", style="red"))
        out.print(Text(f"          next: glassnet trace {found.pod} {_place(found.asked)} --proto udp"))
        out.print(Text("          with it mended, the queries would go thus:"))
    for number, query in enumerate(found.queries, 1):
        _query(out, number, query, found.ours)
    if not found.hosts:
        count = f"{found.cost} {'query' if found.cost == 1 else 'queries'}"
        most = "" if found.code == NOERROR else "up to " if found.code in (FORWARDED, "UNKNOWN") else ""
        out.print(Text(f"cost      {most}{count}"))
        for line in advice(found):
            out.print(Text(f"          {line}"))
    for note in notes:
        out.print(Text(f"note      {note}", style="dim"))


def _place(ip: str) -> str:
    return f"[{ip}]:53" if ":" in ip else f"{ip}:53"


def _outcome(found: Explanation) -> str:
    if found.hosts:
        return f"/etc/hosts of the pod has it ({found.hosts}), no query is sent"
    if found.code != NOERROR:
        return f"{found.code}, {_SAYS[found.code]}"
    good = next(query for query in found.queries if query.code == NOERROR)
    data = [each.partition(" ")[2] for _, reply in good.replies if reply.code == NOERROR for each in reply.data]
    return ", ".join(dict.fromkeys(data))


def _query(out: Console, number: int, query: Query, ours: bool) -> None:
    how = f"search domain {query.domain}" if query.domain else "as it is"
    out.print(Text.assemble((f"{number:<9} {query.name}", "bold"), (f"  {how}", "dim")))
    width = max(len(kind) for kind, _ in query.replies)
    for kind, reply in query.replies:
        out.print(Text(f"          {kind:<{width}}  {_reply(reply, ours)}", style="green" if reply.code == NOERROR else ""))  # fmt: skip
        for cause in reply.causes:
            out.print(Text(f"          {'':{width}}  because {cause}", style="blue"))
    for reason in query.why:
        out.print(Text(f"          why: {reason}", style="yellow"))


def _reply(reply: Reply, ours: bool) -> str:
    data = ", ".join(each if each.startswith("CNAME") else each.partition(" ")[2] for each in reply.data)
    if reply.code == NOERROR:
        return f"{data}  (rule {reply.rule})" if reply.rule else data
    if reply.code == FORWARDED:
        where = _forwarded(reply) if ours else "whoever answers at the pod's name server"
        return f"{data}, then {where}" if data else where
    return f"{reply.code}{f', after {data}' if data else ''}" if reply.code != NODATA else reply.code


def _forwarded(reply: Reply) -> str:
    if reply.servers is None:
        return "forwarded, to which upstream is not known"
    first, *rest = reply.servers
    return f"forwarded to {first}" + (f" (or, when it is silent, {', '.join(map(str, rest))})" if rest else "")
