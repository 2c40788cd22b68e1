"""MTU: that of the link to the other nodes, and those of pods' links."""

from __future__ import annotations

from collections.abc import Sequence

from glassnet.kernel.api import Host
from glassnet.kernel.network_state import list_links, list_routes
from glassnet.kernel.node_checks.result import Check, Result, ok, warning
from glassnet.netstack.model import Link

OVERHEAD = {4: 50, 6: 70}  # VXLAN in IPv4, in IPv6 (RFC 7348: outer Ethernet, IP, UDP, VXLAN)
_LEAST = 1280  # RFC 8200, section 5


async def mtu(host: Host) -> Sequence[Result]:
    """Pods' links must fit through the link of the default route, with VXLAN around their packets where that is used."""
    links = {link.name: link for link in list_links(host.netns)}
    defaults = (hop.dev for route in list_routes(host.netns) if not route.length for hop in route.hops)
    name = next((each for each in defaults if each in links), "")
    if not name:
        return [warning("MTU", "there is no default route: which link leads to the other nodes is not known", "set routes.mtu in the agent's configuration")]  # fmt: skip
    outer = links[name].mtu
    if outer - OVERHEAD[6] < _LEAST:
        return [warning("MTU", f"{name} has MTU {outer}: too little for VXLAN with IPv6 pods, which need {_LEAST + OVERHEAD[6]}", f"a larger MTU on {name} and its network, or routes.mode direct")]  # fmt: skip
    inner = [link for link in links.values() if _of_pods(link) and link.name != name]
    if large := sorted(link.name for link in inner if link.mtu > outer):
        return [warning("MTU", f"{', '.join(large)} have a larger MTU than {name} ({outer}): large packets of pods are lost or cut", f"MTU {outer} or less in the network's configuration; pods made anew")]  # fmt: skip
    if large := sorted(link.name for link in inner if link.mtu > outer - OVERHEAD[4]):
        return [warning("MTU", f"{', '.join(large)} leave no room for VXLAN through {name} ({outer})", f"MTU {outer - OVERHEAD[4]} for pods where routes go by VXLAN; with routes.mode direct all is well")]  # fmt: skip
    return [ok("MTU", f"{name} has {outer}; pods get {outer}, or {outer - OVERHEAD[4]} with VXLAN")]


def _of_pods(link: Link) -> bool:
    return link.kind in ("veth", "bridge") and link.up


CHECKS: tuple[Check, ...] = (mtu,)
