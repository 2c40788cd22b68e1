"""One network namespace as the engine sees it: its rules, its network configuration, its sets and tables of state."""

from __future__ import annotations

from dataclasses import dataclass, field

from glassnet.netstack.model import Link
from glassnet.netstack.namespace import NetStack
from glassnet.ruleset.model import Ruleset
from glassnet.tracer.fib import Fib
from glassnet.tracer.packet import Connection

NODE, POD, HOST = "node", "pod", "host"


@dataclass(slots=True)
class Machine:
    """A node, a pod or a host outside. `name` as users write it (pods: namespace/name), `node` the node a pod runs on.

    `recent` holds the source addresses of xt_recent tables (session affinity in iptables mode), `connections` the dumped entries by
    either tuple.
    """

    name: str
    kind: str
    stack: NetStack
    ruleset: Ruleset
    node: str = ""
    fib: Fib = field(init=False)
    recent: dict[str, set[int]] = field(default_factory=dict)
    connections: dict[tuple[int, int, int, int, int], tuple[Connection, bool]] = field(default_factory=dict)
    broken: tuple[str, ...] = ()  # what is not known of its rules, and why
    cluster_address: tuple[int, ...] = ()
    source: str = ""
    leases: dict[str, str] = field(
        default_factory=dict
    )  # address -> the first line of its IPAM file, the container's ID
    cni_conf: dict[str, str] = field(default_factory=dict)  # files of the CNI's configuration directory
    statistics: str = ""  # what `conntrack -S` printed
    tables: list[tuple[str, bytes]] = field(default_factory=list)  # dumps of the connection table: (file, text)

    def __post_init__(self) -> None:
        self.fib = Fib(self.stack)

    @property
    def ruleset_known(self) -> bool:
        """False when nobody dumped the rules, or a listing could not be read."""
        return not self.broken

    def link(self, name: str) -> Link | None:
        """The link of this name."""
        return self.stack.links.get(name)

    def bridge_of(self, dev: str) -> str:
        """The bridge that `dev` is a port of, or ""."""
        link = self.stack.links.get(dev)
        port = self.stack.ports.get(dev)
        master = (link.master if link else "") or (port.master if port else "")
        bridge = self.stack.links.get(master)
        return master if bridge is not None and bridge.kind in ("bridge", "") else ""
