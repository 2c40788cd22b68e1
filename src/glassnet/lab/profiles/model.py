"""A profile, as its file has it. Every field is told in docs/design/profiles.md. Pure."""

from __future__ import annotations

from glassnet.kube.sections import Section

# field -> the words it may have
WORDS = {
    "networks.ipFamily": ("ipv4", "dual"),
    "vpc.link": ("shared", "routed", "host"),
    "vpc.routes": ("vpc", "none"),
    "node.masquerade.agent": ("", "ip-masq-agent", "ip-masq", "aws-snat"),
    "proxy.mode": ("iptables", "nftables", "none"),
    "proxy.iptablesLayout": ("current", "classic"),
    "proxy.detectLocal": ("pods", "nodes", "none"),
    "loadBalancer.kind": ("none", "floating-ip", "pass-through", "node-port-targets"),
}
# field -> the least and the greatest it may be
BOUNDS = {
    "workers.count": (1, 1000),
    "workers.step": (1, 1 << 16),
    "workers.firstHost": (2, 1 << 24),  # 1 is the gateway
    "controllers.count": (1, 9),
    "controllers.firstHost": (2, 1 << 24),
    "controllers.firstPublic": (0, 1 << 24),
    "vpc.routeTable.number": (1, 252),  # 253 to 255 are the kernel's
    "networks.nodePrefix": (8, 30),
    "networks.ipv6.nodePrefix": (16, 120),
}


class Machines(Section, frozen=True):
    """Nodes of one role: `name` with {number}, {address} or {tag} in it; host number i of the nodes' network is `first_host` + i * `step`."""

    count: int = 3
    name: str = "worker-{number}"
    first_host: int = 20
    step: int = 1
    zones: tuple[str, ...] = ()
    region: str = "lab"
    labels: dict[str, str] = {}


class Controllers(Section, frozen=True):
    """The machines that the API is reached at. They run no pods and have no Node objects."""

    count: int = 1
    name: str = "control-plane"
    first_host: int = 250
    first_public: int = 0

    def public_host(self) -> int:
        """The host number of the first one's public address: `first_public`, or that of its own address."""
        return self.first_public or self.first_host


class SixNetworks(Section, frozen=True):
    """The networks of IPv6, used with `ipFamily: dual`."""

    nodes: str = "fd00:10:240::/64"
    pods: str = "fd00:10:244::/48"
    services: str = "fd00:10:32::/108"
    node_prefix: int = 64


class Networks(Section, frozen=True):
    """`pods` "" puts pods on the nodes' network: a node has the host numbers between its own and the next node's for them."""

    nodes: str = ""
    services: str = ""
    pods: str = ""
    node_prefix: int = 24
    public: str = "203.0.113.0/24"
    dns: str = ""
    ip_family: str = "ipv4"
    ipv6: SixNetworks = SixNetworks()


class Cni(Section, frozen=True):
    """`conf` is the name of a ready configuration; `nodes` has another one for some nodes, by name."""

    conf: str = ""
    mtu: int = 0
    non_masquerade: tuple[str, ...] = ()
    nodes: dict[str, str] = {}


class RouteTable(Section, frozen=True):
    """A table of the VPC's router that holds for what comes from the nodes' network; without a name pods' routes are in its main table."""

    name: str = ""
    number: int = 100


class Vpc(Section, frozen=True):
    """`link`: how nodes reach each other. `shared`: as on one Ethernet. `routed`: by the router, which answers ARP for every address.
    `host`: their own address is all they have on the link, everything goes to the router. `mtu` 0 is Ethernet's.
    """

    link: str = "shared"
    mtu: int = 0
    hardware_prefix: str = "0a:58"
    gateway_hardware: str = ""
    routes: str = "vpc"
    route_table: RouteTable = RouteTable()


class Docker(Section, frozen=True):
    """docker's bridge and rules as they lie on a node, without docker: `network` is the bridge's address. No `bridge`, no rules."""

    bridge: str = ""
    network: str = "172.17.0.1/16"


class Masquerade(Section, frozen=True):
    """Rules of the node, not of CNI, that give what leaves the cluster the node's address; what goes to `beyond` keeps its own."""

    agent: str = ""
    beyond: tuple[str, ...] = ()


class NodeParts(Section, frozen=True):
    """Further things a node has. `routes` are destinations that DHCP gave it by way of the gateway."""

    docker: Docker = Docker()
    masquerade: Masquerade = Masquerade()
    routes: tuple[str, ...] = ()
    sysctls: dict[str, str | int] = {}


class Proxy(Section, frozen=True):
    """`detect_local`: by which range local pods are told, "pods", "nodes" or "none"."""

    mode: str = "iptables"
    iptables_layout: str = "current"
    detect_local: str = "pods"


class Balancer(Section, frozen=True):
    """The cloud's load balancer at the VPC's edge; VIPs come from `addresses`."""

    kind: str = "none"
    addresses: tuple[str, ...] = ()


class Profile(Section, frozen=True):
    """A whole file."""

    name: str = ""
    text: str = ""
    networks: Networks = Networks()
    cni: Cni = Cni()
    source: tuple[str, ...] = ()
    controllers: Controllers = Controllers()
    workers: Machines = Machines()
    vpc: Vpc = Vpc()
    node: NodeParts = NodeParts()
    proxy: Proxy = Proxy()
    load_balancer: Balancer = Balancer()

    def on_nodes_network(self) -> bool:
        """Whether pods have their addresses on the nodes' network."""
        return not self.networks.pods
