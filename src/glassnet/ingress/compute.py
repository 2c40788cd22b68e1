"""From the API's objects to the Site."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from glassnet.ingress import classes, order, paths
from glassnet.ingress.backends import Backends
from glassnet.ingress.hosts import Host, Hosts
from glassnet.ingress.model import Problem, Server, Settings, Site
from glassnet.ingress.options import passthrough, redirects
from glassnet.ingress.spelling import Spelling
from glassnet.ingress.taken import Taken
from glassnet.ingress.tls import Certificates
from glassnet.kube.view import Key, View


def compute(view: View, settings: Settings) -> Site:
    """What NGINX is to do for our Ingresses. Never raises: what cannot be had is left out, and among the problems."""
    everything = [Taken(each, view, settings) for each in classes.ours(view, settings)]
    backends = Backends(view, settings)
    hosts, certificates = Hosts(backends), Certificates(view)
    default_certificate, problems = certificates.default(settings)
    for each in everything:
        if not each.options.is_canary:
            hosts.add(each)
            certificates.add(each, hosts)
    for each in everything:
        if each.options.is_canary:
            hosts.add_canary(each)
    servers, late = _servers(hosts, certificates, everything, settings)
    spelling = Spelling(backends, hosts.default, settings.https_port)
    servers = tuple(each._replace(spelled=spelling.server(each)) for each in servers)
    used = {name for name in certificates.by_host.values() if name} | {default_certificate} - {""}
    return Site(
        servers,
        dict(sorted(backends.upstreams.items())),
        tuple(certificates.used[name] for name in sorted(used)),
        hosts.default,
        default_certificate,
        tuple(sorted({name: text for each in everything for name, text in each.files.items()}.items())),
        (*problems, *late, *spelling.problems, *(problem for each in everything for problem in each.problems)),
    )


def _servers(
    hosts: Hosts, certificates: Certificates, everything: Iterable[Taken], settings: Settings
) -> tuple[tuple[Server, ...], list[Problem]]:
    """A server for every host of a rule, every name of an alias, and every host of a certificate that would else be served with another."""
    servers = {name: _server(name, host, certificates) for name, host in hosts.by_name.items()}
    for name, like in _aliases(hosts, everything):
        main = servers[like]
        if name.startswith("*") == like.startswith("*") and like and certificates.of(name) == main.certificate:
            servers[like] = main._replace(aliases=(*main.aliases, name))
        else:
            servers[name] = main._replace(host=name, aliases=(), certificate=certificates.of(name), like=like)
    _add_www(servers, certificates, everything)
    _pass_through(servers, everything, settings)
    copies, problems = _add_certificates(servers, hosts, certificates, settings)
    copied, late = _with_others(servers, copies, settings)
    return copied, [*problems, *late]


def _size(server: Server) -> int:
    return len(server.locations) + (server.default is not None)


def _add_certificates(
    servers: dict[str, Server], hosts: Hosts, certificates: Certificates, settings: Settings
) -> tuple[int, list[Problem]]:
    """A server for every host of a certificate that would else be served with another: it has copies of the locations. Their number."""
    known = {name for each in servers.values() for name in (each.host, *each.aliases)}
    copies, problems = 0, []
    for name in sorted(certificates.by_host.keys() - known):
        above = paths.parent(name)
        like = servers[above if above in hosts.by_name else ""]
        if above in known and certificates.of(name) == certificates.of(above):
            continue  # the wildcard's server has that certificate
        copies += _size(like)
        if copies > settings.copies:
            problems.append(Problem("Ingress", certificates.owners[name], "TooManyCertificates", f"host {name} of spec.tls has no rule of its own, and its copies of the rules without host would be more than {settings.copies} locations: it has the default certificate"))  # fmt: skip
            continue
        servers[name] = like._replace(host=name, aliases=(), certificate=certificates.of(name), like=like.host, tls=True)  # fmt: skip
    return copies, problems


def _server(name: str, host: Host, certificates: Certificates) -> Server:
    locations = tuple(sorted(host.locations.values(), key=order.precedence))
    return Server(name, locations, host.default, (), certificates.of(name), host.tls, tuple(host.ingresses.items()))


def _aliases(hosts: Hosts, everything: Iterable[Taken]) -> Iterator[tuple[str, str]]:
    """Further names of hosts (server-alias): (name, host). A rule's host goes before, and the older Ingress."""
    owners: dict[str, str] = {}
    for taken in everything:
        if taken.options.is_canary or not taken.options.server_aliases or not taken.hosts:
            continue
        like = taken.hosts[0]
        for text in taken.options.server_aliases:
            try:
                name = paths.host(text)
            except paths.BadHost as error:
                taken.wrong("BadHost", f"server-alias: {error}; it is left out")
                continue
            if name in hosts.by_name:
                taken.wrong("Conflict", f"server-alias: {text!r} is the host of a rule, which keeps it")
            elif owners.setdefault(name, like) != like:
                taken.wrong("Conflict", f"server-alias: {text!r} is that of an older Ingress, which keeps it")
            else:
                yield name, like


def _add_www(servers: dict[str, Server], certificates: Certificates, everything: Iterable[Taken]) -> None:
    """A server for the other one of example.com and www.example.com, where from-to-www-redirect asks for it and nobody else has it."""
    taken = {name for each in servers.values() for name in (each.host, *each.aliases)}
    for each in everything:
        for host in each.hosts if each.options.redirects.www and not each.options.is_canary else ():
            other = redirects.www(host)[0]
            if host and not host.startswith("*") and other not in taken:
                taken.add(other)
                servers[other] = Server(other, certificate=certificates.of(other), redirect=host)


def _pass_through(servers: dict[str, Server], everything: Iterable[Taken], settings: Settings) -> None:
    """Hosts whose TLS goes to the endpoints of their path / unopened (ssl-passthrough)."""
    for each in everything:
        if not each.options.passthrough or each.options.is_canary:
            continue
        if passthrough.MODULE not in settings.modules:
            each.wrong("PassthroughUnavailable", "ssl-passthrough: NGINX's stream module is not installed; TLS ends at the controller")  # fmt: skip
            continue
        for host in each.hosts:
            server = servers[host]
            root = next((found for found in server.locations if found.path == "/" and found.source.ingress == each.key), None)  # fmt: skip
            if not host or host.startswith("*") or root is None:
                each.wrong("PassthroughUnavailable", f"ssl-passthrough: host {host or '*'} needs a name without * and a path / of type Prefix; TLS ends at the controller")  # fmt: skip
            else:
                servers[host] = server._replace(passthrough=root.backend)


def _with_others(
    servers: dict[str, Server], copies: int, settings: Settings
) -> tuple[tuple[Server, ...], list[Problem]]:
    """Wildcards' servers told to serve names of more labels as the server of all others does: each needs a copy of that one's locations."""
    every = servers[""]
    problems, out = [], []
    for name in sorted(servers):
        server = servers[name]
        if server.deep:
            copies += _size(every)
            server = server._replace(others=copies <= settings.copies)
            if not server.others:
                key = server.ingresses[0][0] if server.ingresses else Key("", "")
                problems.append(Problem("Ingress", key, "TooManyWildcards", f"host {name}: names of more labels are not served by the rules without host, whose copies would be more than {settings.copies} locations"))  # fmt: skip
        out.append(server)
    return tuple(out), problems
