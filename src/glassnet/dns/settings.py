"""Settings out of what a user writes; what cannot be is refused, with the way out."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

from glassnet.dns import names, upstream
from glassnet.dns.model import DnsSettings
from glassnet.net.errors import UsageError


def settings(
    *, domain: str, listen: Iterable[str] = (), stubs: Iterable[str] = (), transfer_to: Iterable[str] = (), **more: Any
) -> DnsSettings:
    """DnsSettings; `more` are its plain fields. Raises UsageError."""
    name = domain.strip().lower().rstrip(".")
    if not names.is_name(name):
        raise UsageError(f"cluster domain {domain!r} is no name of DNS, such as cluster.local")
    if not names.fits(f"{'a' * 63}.{'b' * 63}.svc.{name}"):
        raise UsageError(f"cluster domain {domain!r} is so long that names of Services would not fit in 255 octets")
    found = DnsSettings(domain=name, **more)
    if "/" not in found.own_service:
        raise UsageError(f"service {found.own_service!r} is no NAMESPACE/NAME, such as kube-system/kube-dns")
    addresses = tuple(upstream.server(each) for each in listen)
    stubbed = tuple(upstream.stub(each) for each in stubs)
    known: set[str] = set()
    for each in stubbed:
        if names.within(each.domain, found.zone) or each.domain in known:
            raise UsageError(f"stub domain {each.domain!r} is the cluster's own, or is given twice")
        known.add(each.domain)
        _, wrong = upstream.without_ourselves(each.servers, found)
        if wrong:
            raise UsageError(f"stub domain {each.domain}: {wrong[0]}")
    return found._replace(listen=addresses or found.listen, stubs=stubbed, transfer_to=tuple(map(_range, transfer_to)))


def with_upstreams(
    found: DnsSettings, given: Iterable[str], resolver: str, own_addresses: Iterable[str]
) -> tuple[DnsSettings, list[str]]:
    """Settings with the servers for other names: those given, else those of a resolv.conf(5); and which of these are ourselves, in words.

    Raises UsageError for one that is given and is no address, or is ourselves, and when nothing else is left.
    """
    named = tuple(map(upstream.server, given))
    good, wrong = upstream.without_ourselves(named or upstream.servers_of(resolver), found, own_addresses)
    if wrong and (named or not good):
        raise UsageError("; ".join(wrong))
    return found._replace(upstreams=good), list(wrong)


def _range(text: str) -> str:
    """An address or a prefix. Raises UsageError."""
    try:
        found = ip_network(text.strip(), strict=False)
    except ValueError:
        raise UsageError(f"{text!r} is no address and no prefix, such as 192.0.2.0/24, that zones may be transferred to") from None  # fmt: skip
    return str(found) if "/" in text else str(found.network_address)
