"""What CNI plugins can leave on a node, as text to compare: links, addresses, routes, neighbours, rules, files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cni_site import Site

_SHELL = r"""
ip -o link | sed -E 's/ (state|qlen|qdisc) [^ ]+//g; s/^[0-9]+: //; s/<[^>]*>//; s/link-netns.*//'
ip -o addr | grep -v ' fe80:' | sed 's/^[0-9]*: //; s/ *valid_lft.*//'
{ ip route show table all; ip -6 route show table all; } | grep -vE 'fe80:|ff00:' | sed 's/linkdown//'
ip rule; ip neigh show nud permanent; sysctl net.ipv4.ip_forward; ip netns | sed 's/ .*//'
for each in iptables-save ip6tables-save; do $each 2>/dev/null | sed -E '/^[#:*]|^COMMIT/d'; done
nft list tables; nft -s list ruleset 2>/dev/null | grep -E 'glassnet|cni-|CNI-' || true
"""  # what the kernel does in its own time is left out: link-local addresses, states
_HINTS = ("last_reserved_ip.", "lock", "rules.lock")  # notes that stay: of host-local, and a lock


async def traces(site: Site) -> list[str]:
    """Every trace, a line each, in order."""
    lines = [line.strip() for line in (await site.sh(_SHELL)).splitlines() if not line.startswith("#")]
    for place in ("var/lib/cni", "run/glassnet", "run/cni"):
        lines += files(site.machine.root, place)
    return sorted(lines)


def files(root: Path, place: str) -> list[str]:
    """The files below a directory, with what is in them."""
    out = []
    for directory, _, names in os.walk(root / place):
        for name in names:
            path = Path(directory) / name
            if not name.startswith(_HINTS) and path.is_file():
                out.append(f"/{path.relative_to(root)}: {path.read_bytes()!r}")
    return out


def base(**changes: Any) -> dict[str, Any]:
    """A network with all that a bridge can have."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.200.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    conf = {
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "bridge",
        "bridge": "cnio0",
        "isGateway": True,
        "ipMasq": True,
        "ipam": ipam,
    }
    return {**conf, **changes}
