"""resolv.conf of a pod, as the kubelet composes it from dnsPolicy, dnsConfig and the node's own file; and what a resolver reads in it.

Sources: Kubernetes documentation, "DNS for Services and Pods"; the kubelet's pkg/kubelet/network/dns; resolv.conf(5).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from glassnet.kube.types import Pod

MOST_SERVERS, MOST_SEARCHES, MOST_SEARCH_TEXT, MOST_DOMAIN = (
    3,
    32,
    2048,
    253,
)  # the kubelet's limits; the last two in characters
MOST_NDOTS = 15  # RES_MAXNDOTS of glibc


class ResolvConf(NamedTuple):
    """What a resolv.conf says: addresses, search domains, options by name (None: an option without a value).

    `problems` is what was left out of it, and why.
    """

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[tuple[str, str | None], ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def ndots(self) -> int:
        """A name with fewer dots is tried in the search domains first; 1 where nothing is said."""
        value = dict(self.options).get("ndots")
        return min(int(value), MOST_NDOTS) if value is not None and value.isdecimal() else 1

    def text(self) -> str:
        """The file; "" when there is nothing to say."""
        lines = [f"search {' '.join(self.searches)}"] if self.searches else []
        lines += [f"nameserver {server}" for server in self.servers]
        if self.options:
            words = [name if value is None else f"{name}:{value}" for name, value in self.options]
            lines.append(f"options {' '.join(words)}")
        return "\n".join(lines) + ("\n" if lines else "")


def parse(text: str) -> ResolvConf:
    """A resolv.conf(5). Of several lines `search` or `options` the last one counts, as for the kubelet; lines it does not know are passed over."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        match line.split():
            case ["nameserver", server, *_]:
                servers.append(server)
            case ["search", *domains]:
                searches = [each if each == "." else each.removesuffix(".") for each in domains]
            case ["options", *words]:
                options = words
    return ResolvConf(tuple(servers), tuple(searches), _merged(map(_option, options)))


def of_pod(pod: Pod, cluster_dns: str, node_text: str, domain: str = "cluster.local") -> ResolvConf:
    """The resolver of a pod.

    `cluster_dns` are the addresses of the cluster's DNS, with commas between; a cluster without one leaves pods the node's resolver.
    `node_text` is the node's resolv.conf, `domain` the cluster's. ClusterFirst on the host's network is Default.
    """
    policy, own = pod.spec.dns_policy, pod.spec.dns_config or {}
    base = ResolvConf() if policy == "None" else parse(node_text)
    servers, searches, options = base.servers, base.searches, base.options
    if cluster_dns and in_cluster(pod):
        servers = tuple(each.strip() for each in cluster_dns.split(","))
        if domain:
            searches = (f"{pod.metadata.namespace}.svc.{domain}", f"svc.{domain}", domain, *searches)
        options = (("ndots", "5"),)
    stated = ((entry.get("name") or "", entry.get("value") or None) for entry in own.get("options") or ())
    return _within_limits(
        list(dict.fromkeys((*servers, *(own.get("nameservers") or ())))),
        list(dict.fromkeys((*searches, *(own.get("searches") or ())))),
        _merged((*options, *stated)),
    )


def in_cluster(pod: Pod) -> bool:
    """Whether a pod is to ask the cluster's DNS."""
    policy = pod.spec.dns_policy
    return policy == "ClusterFirstWithHostNet" or (policy in ("ClusterFirst", "") and not pod.spec.host_network)


def _option(word: str) -> tuple[str, str | None]:
    name, _, value = word.partition(":")
    return name, value or None


def _merged(options: Iterable[tuple[str, str | None]]) -> tuple[tuple[str, str | None], ...]:
    """One of each name: the place of the first, the value of the last."""
    return tuple(dict(options).items())


def _within_limits(servers: list[str], searches: list[str], options: tuple[tuple[str, str | None], ...]) -> ResolvConf:
    """What a resolver can take; the rest is left out from the end, and said."""
    good = [each for each in searches[:MOST_SEARCHES] if len(each) <= MOST_DOMAIN]
    while len(" ".join(good)) > MOST_SEARCH_TEXT:
        good.pop()
    problems = []
    for what, given, kept in (("nameservers", servers, servers[:MOST_SERVERS]), ("search domains", searches, good)):
        if left := [each for each in given if each not in kept]:
            problems.append(f"too many or too long {what}: left out are {', '.join(left)}")
    return ResolvConf(tuple(servers[:MOST_SERVERS]), tuple(good), options, tuple(problems))
