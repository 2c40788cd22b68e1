"""All that is known of one network namespace. (Apart from `model`, which processes of one call load: `dataclasses` costs them 2 ms.)"""

from __future__ import annotations

from dataclasses import dataclass, field

from glassnet.netstack.model import Address, BridgePort, Link, Listener, Neighbour, Route, RoutingRule


@dataclass(slots=True)
class NetStack:
    """All of one network namespace. `missing` names the parts nobody dumped: what depends on them is unknown."""

    links: dict[str, Link] = field(default_factory=dict)
    addresses: list[Address] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    rules: list[RoutingRule] = field(default_factory=list)
    neighbours: dict[tuple[int, int, str], Neighbour] = field(default_factory=dict)
    ports: dict[str, BridgePort] = field(default_factory=dict)
    fdb: dict[tuple[str, str], str] = field(default_factory=dict)  # (bridge, MAC) -> port
    sysctls: dict[str, str] = field(default_factory=dict)
    listeners: list[Listener] | None = None
    missing: set[str] = field(default_factory=set)

    def sysctl(self, name: str, default: str = "0") -> str:
        """The value of a sysctl by its dotted name."""
        return self.sysctls.get(name, default)

    def has(self, value: int, bits: int) -> Address | None:
        """The address entry with this value."""
        return next((a for a in self.addresses if a.value == value and a.bits == bits), None)
