"""Where other names are asked for: read from resolv.conf or flags, and never ourselves (resolv.conf(5), RFC 8499 "forwarder")."""

from __future__ import annotations

from collections.abc import Iterable

from glassnet.dns import names
from glassnet.dns.model import PORT, DnsSettings, Server, Stub
from glassnet.net import address
from glassnet.net.errors import UsageError

_ANY = {"0.0.0.0", "::"}


def server(text: str) -> Server:
    """`ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`. Raises UsageError."""
    host, port = text.strip(), ""
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    ip = address.canonical(host)
    if not ip or not (port or str(PORT)).isdecimal() or not 0 < int(port or PORT) < 65536:
        raise UsageError(f"{text!r} is no DNS server: ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT, such as 192.0.2.53")
    return Server(ip, int(port or PORT))


def servers_of(resolv_conf: str) -> tuple[Server, ...]:
    """The name servers of a resolv.conf; lines that name none are left out."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and (ip := address.canonical(words[1].partition("%")[0])):
            found.append(Server(ip))
    return tuple(dict.fromkeys(found))


def stub(text: str) -> Stub:
    """`DOMAIN=SERVER[,SERVER…]`. Raises UsageError."""
    domain, equals, rest = text.partition("=")
    name = domain.strip().lower().rstrip(".")
    if not equals or not name or not names.is_name(name):
        raise UsageError(f"{text!r} is no stub domain: DOMAIN=ADDRESS, such as corp.example=192.0.2.53")
    return Stub(f"{name}.", tuple(server(each) for each in rest.split(",")))


def ourselves(server: Server, settings: DnsSettings, own: Iterable[str] = ()) -> bool:
    """Whether a server is this one: an address and port that it listens at. `own` are the addresses of the machine, and of its Service."""
    mine = set(own)
    for here in settings.listen:
        if here.port != server.port:
            continue
        if here.address == server.address:
            return True
        same = address.family(here.address) == address.family(server.address) or here.address == "::"
        if here.address in _ANY and same and (server.address in mine or _loopback(server.address)):
            return True
    return server.port == PORT and server.address in mine


def _loopback(ip: str) -> bool:
    return ip.startswith("127.") or ip == "::1"


def without_ourselves(
    servers: Iterable[Server], settings: DnsSettings, own: Iterable[str] = ()
) -> tuple[tuple[Server, ...], tuple[str, ...]]:
    """(those to ask, what is wrong with the others)."""
    good, wrong = [], []
    mine = tuple(own)
    for each in servers:
        if ourselves(each, settings, mine):
            wrong.append(f"{each} is this server itself: to forward there would be a loop. Name other servers, or a resolv.conf that does (on nodes with systemd-resolved /run/systemd/resolve/resolv.conf)")  # fmt: skip
        else:
            good.append(each)
    return tuple(dict.fromkeys(good)), tuple(wrong)


def for_name(name: str, upstreams: tuple[Server, ...], stubs: tuple[Stub, ...]) -> tuple[Server, ...]:
    """Who is asked for an absolute name: the closest stub domain's servers, or the upstreams."""
    close = [each for each in stubs if names.within(name, each.domain)]
    return max(close, key=lambda each: len(each.domain)).servers if close else upstreams
