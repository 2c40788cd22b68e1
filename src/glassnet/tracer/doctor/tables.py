"""Checks of whose tables a node's rules are in."""

from __future__ import annotations

from collections.abc import Iterator

from glassnet.ruleset.model import IPTABLES_NFT, LEGACY, Chain
from glassnet.tracer.doctor.case import Case
from glassnet.tracer.doctor.finding import WARNING, Finding, lines
from glassnet.tracer.explain import owner_of
from glassnet.tracer.machine import Machine

_TOOL = {LEGACY: "iptables-legacy", IPTABLES_NFT: "iptables-nft"}


def mixed_iptables(case: Case) -> Iterator[Finding]:
    """kube-proxy's rules in the legacy tables and in those of nft: the kernel runs both, the older of them without an update.

    The chains of kubelet (KUBE-FIREWALL, canaries) do not count: both sets of them say the same.
    """
    for node in case.nodes:
        for family in ("ip", "ip6"):
            both = {tool: _chains(node, family, tool) for tool in (LEGACY, IPTABLES_NFT)}
            if not all(both.values()):
                continue
            prefix = "ip6tables" if family == "ip6" else "iptables"
            evidence = [_count(tool, chains) for tool, chains in both.items()]
            for chains in both.values():
                entry = next((c for c in chains if c.name == "KUBE-SERVICES"), chains[0])
                rule = entry.rule(0)
                evidence.append(f"{entry.table.source}:{rule.line}: {rule.text}")
            fewer = min(both, key=lambda tool: sum(map(len, both[tool])))
            yield Finding(
                "mixed-iptables",
                WARNING,
                node.name,
                f"kube-proxy's rules are in both the legacy and the nft tables of {node.name} ({prefix})",
                lines(evidence),
                (
                    f"make kube-proxy, the CNI plugins and the host use one {prefix} (update-alternatives --set {prefix} …; kube-proxy's image)",
                    f"then take the stale ones away, likely those of {_TOOL[fewer]}: "
                    f"{prefix}-{'legacy' if fewer == LEGACY else 'nft'}-save | grep -v KUBE- | {prefix}-{'legacy' if fewer == LEGACY else 'nft'}-restore",
                ),
                node.name,
            )


def _chains(node: Machine, family: str, tool: str) -> list[Chain]:
    """Chains of kube-proxy that hold rules, in tables of one tool. nft lists those of iptables-nft too."""
    tools = (tool, "nft") if tool == IPTABLES_NFT else (tool,)
    return [
        chain
        for table in node.ruleset.tables
        if table.family == family and table.tool in tools
        for chain in table.chains.values()
        if chain.name.startswith("KUBE-") and len(chain) and _proxys(chain)
    ]


def _proxys(chain: Chain) -> bool:
    """A chain of kube-proxy that decides where Service packets go; KUBE-MARK-MASQ and the like may be kubelet's."""
    head = chain.name.split("-")[1]
    return head in ("SVC", "SVL", "XLB", "FW", "EXT", "SEP") or (
        owner_of(chain)[0] == "kube-proxy"
        and chain.name in ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES")
    )


def _count(tool: str, chains: list[Chain]) -> str:
    rules = sum(map(len, chains))
    return f"{_TOOL[tool]}: {rules} rules in {len(chains)} chains, in {chains[0].table.source}"
