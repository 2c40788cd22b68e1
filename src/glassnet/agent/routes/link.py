"""The VXLAN link of a node: made, set right, taken away; never one that is another's."""

from __future__ import annotations

import errno
import logging

from glassnet.kernel.api import NetNs
from glassnet.kernel.network_state import find_link
from glassnet.kernel.route_state import list_vxlans, vxlan_addresses
from glassnet.kernel.route_watch import RouteWatch
from glassnet.net.errors import KernelError
from glassnet.netstack.model import Vxlan
from glassnet.netstack.ops import AddAddress, DelLink
from glassnet.routes.compute import Mesh
from glassnet.routes.model import MARK, Problem, RoutesSettings
from glassnet.routes.plan import link_addresses, link_operations

log = logging.getLogger(__name__)


class TunnelLink:
    """`state` is the link as it was last seen, None for none; `usable` whether tunnels can go over it, `why` why not."""

    def __init__(self, netns: NetNs, settings: RoutesSettings) -> None:
        self._netns, self._settings = netns, settings
        self.state: Vxlan | None = None
        self.usable, self.why = False, "not made yet"
        self.watch: RouteWatch | None = None

    def ensure(self, mesh: Mesh, mtu: int) -> list[Problem]:
        """Have the link be as it should; what is wrong with it, or with its addresses. Raises KernelError when the kernel tells nothing."""
        found = list_vxlans(self._netns)
        name = self._settings.link
        self.state = next((link for link in found if link.name == name and link.alias == MARK), None)
        if self._settings.mode == "direct":  # one of another mode's time goes when all routes are direct
            return self._unusable("mode direct has none", [])
        if not mesh.outer:
            return self._unusable(f"Node {mesh.here} has no InternalIP", [])
        self._take([link.name for link in found if link.alias == MARK and link.name != name])
        if self.state is None and (other := find_link(self._netns, name)) is not None:
            kind = f"a {other.kind or 'device'}" if other.kind != "vxlan" else "a VXLAN link"
            return self._unusable(
                f"{name} is {kind} without our mark (alias {MARK!r}): remove it, or name another link", ["NoVXLAN"]
            )
        trouble = self._make(mesh, mtu)
        self.state = next((link for link in list_vxlans(self._netns) if link.name == name and link.alias == MARK), None)
        if self.watch is not None:
            self.watch.follow(self.state.index if self.state else 0)
        return trouble

    def _make(self, mesh: Mesh, mtu: int) -> list[Problem]:
        conf = self._settings
        wanted = Vxlan(
            conf.link, conf.vxlan_id, conf.vxlan_port, mesh.local, False, mesh.mac, mtu, True, MARK,
            addresses=link_addresses(mesh.cidrs),
        )  # fmt: skip
        there = self.state
        if there is not None:
            there = there._replace(addresses=vxlan_addresses(self._netns, there))
        operations = link_operations(wanted, there)
        failures = self._netns.attempt(operations)
        trouble = []
        for number, error in failures.items():
            if not isinstance(operations[number], AddAddress):
                return self._unusable(f"{error}{_way_out(error)}", ["NoVXLAN"])
            text = f"{error}: this node itself reaches pods elsewhere by an address of another link, if at all"
            trouble.append(Problem("NoVXLANAddress", text, local=True))
        self.usable, self.why = True, ""
        return trouble

    def _unusable(self, why: str, reasons: list[str]) -> list[Problem]:
        self.usable, self.why = False, why
        return [Problem(reason, f"no VXLAN: {why}", local=True) for reason in reasons]

    def remove(self) -> None:
        """Take away every link with our mark. Raises KernelError."""
        self._take([link.name for link in list_vxlans(self._netns) if link.alias == MARK])
        self.state, self.usable, self.why = None, False, "taken away"

    def _take(self, names: list[str]) -> None:
        if names:
            self._netns.apply([DelLink(name, missing_ok=True) for name in names])


def _way_out(error: KernelError) -> str:
    return {
        errno.EOPNOTSUPP: "; modprobe vxlan, or mode direct",
        errno.EEXIST: "; remove the other link (ip -d link show type vxlan), or give another vxlan_id or vxlan_port",
        errno.EADDRINUSE: "; another program has the UDP port (ss -ulpn): stop it, or give another vxlan_port",
        errno.EPERM: "; CAP_NET_ADMIN is needed",
    }.get(error.number, "")
