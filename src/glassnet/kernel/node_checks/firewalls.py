"""Rules of others that drop what pods send: firewalld, ufw, policies; and rules in both kinds of iptables."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from glassnet.kernel.api import Host
from glassnet.kernel.iptables import legacy_tables
from glassnet.kernel.node_checks.result import Check, Result, error, ok, running, warning
from glassnet.net.errors import KernelError

_IPTABLES_TABLES = ("filter", "nat", "mangle", "raw", "security")  # those of iptables-nft are told by saved_rules
_ALLOW = "accept what comes from and goes to the pods' and nodes' ranges there"


class Chain(NamedTuple):
    """A base chain of nftables."""

    family: str
    table: str
    name: str
    hook: str
    policy: str


async def saved_rules(host: Host) -> dict[str, str]:
    """What each kind of iptables has for IPv4 ("nft", "legacy"); a legacy table that is not in use is not asked for, as that would make it."""
    tools = ["nft", *(["legacy"] if legacy_tables(host.netns) else [])]
    found = {}
    for tool in tools:
        try:
            found[tool] = (await host.run([f"iptables-{tool}-save"])).decode(errors="replace")
        except KernelError:
            continue  # the tool is not there: nobody has used it here
    return found


async def base_chains(host: Host) -> list[Chain]:
    """The base chains of nftables, those of iptables-nft among them; none without the tool."""
    try:
        answer = json.loads(await host.run(["nft", "-j", "list", "chains"]) or b"{}")
    except (KernelError, ValueError):
        return []
    chains = (each["chain"] for each in answer.get("nftables", ()) if "chain" in each)
    return [Chain(c["family"], c["table"], c["name"], c["hook"], c.get("policy", "accept")) for c in chains if "hook" in c]  # fmt: skip


async def firewall_services(host: Host) -> Sequence[Result]:
    """firewalld and ufw filter what is forwarded, and write their rules anew when they are told to."""
    found = []
    if seen := running(host, "firewalld"):
        found.append(error("firewalld", f"{', '.join(seen)} is running: it drops what zones do not let through, and a reload removes what others wrote", "systemctl disable --now firewalld; or pods' links and ranges into its zone trusted"))  # fmt: skip
    elif any(chain.table == "firewalld" for chain in await base_chains(host)):
        found.append(warning("firewalld", "it does not run, but its table is there", "nft delete table inet firewalld"))
    for tool, text in (await saved_rules(host)).items():
        if re.search(r"^-A FORWARD .*-j ufw6?-", text, re.M):
            found.append(warning("ufw", f"its chains are in FORWARD of iptables-{tool}", "ufw route allow from and to the pods' ranges, DEFAULT_FORWARD_POLICY=ACCEPT in /etc/default/ufw; or ufw disable"))  # fmt: skip
    return found or [ok("firewall services", "neither firewalld nor ufw")]


async def forward_policy(host: Host) -> Sequence[Result]:
    """A policy DROP on FORWARD, as docker sets it, drops packets between pods of different nodes."""
    bad = [tool for tool, text in (await saved_rules(host)).items() if _filter_policy(text, "FORWARD") == "DROP"]
    if bad:
        return [error("policy of FORWARD", f"DROP in iptables-{' and iptables-'.join(bad)}: packets between pods of different nodes are dropped", "iptables -P FORWARD ACCEPT (docker sets it anew: \"iptables\": false or ip-forward-no-drop in /etc/docker/daemon.json)")]  # fmt: skip
    return [ok("policy of FORWARD", "ACCEPT")]


def _filter_policy(text: str, chain: str) -> str:
    """The policy of a chain in the table filter of an iptables-save."""
    part = text.partition("*filter")[2].partition("COMMIT")[0]
    found = re.search(rf"^:{chain} (\w+)", part, re.M)
    return found[1] if found else ""


async def foreign_tables(host: Host) -> Sequence[Result]:
    """A packet must pass every table's chain: what one accepts, another may still drop."""
    bad = [
        f"{each.family} {each.table} {each.name} (hook {each.hook})"
        for each in await base_chains(host)
        if each.policy == "drop" and each.hook in ("forward", "input") and not _of_iptables(each)
    ]
    if bad:
        return [warning("nftables policies", f"drop in {', '.join(sorted(bad))}", f"{_ALLOW}; glassnet trace says what a packet meets")]  # fmt: skip
    return [ok("nftables policies", "no other table drops by policy")]


def _of_iptables(chain: Chain) -> bool:
    return chain.family in ("ip", "ip6") and chain.table in _IPTABLES_TABLES and chain.name.isupper()


async def both_iptables(host: Host) -> Sequence[Result]:
    """Rules in the kernel's two kinds of tables: each tool shows its own alone, and packets meet both."""
    counts = {
        tool: sum(line.startswith("-A") for line in text.splitlines())
        for tool, text in (await saved_rules(host)).items()
    }
    if len(used := [f"{count} rules in iptables-{tool}" for tool, count in counts.items() if count]) > 1:
        return [warning("both kinds of iptables", " and ".join(used), "find out who writes into which (iptables-legacy-save, iptables-nft-save), and have all use one: update-alternatives --config iptables")]  # fmt: skip
    return [ok("both kinds of iptables", used[0] if used else "no rules in either")]


CHECKS: tuple[Check, ...] = (firewall_services, forward_policy, foreign_tables, both_iptables)
