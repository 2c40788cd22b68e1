"""rtnetlink operations as values. `kernel.netlink` packs and sends them; planners (cni, routes, lab) only build lists of them.

Addresses are text with a prefix length ("10.200.0.1/24"); interfaces go by name. Source of the meanings: rtnetlink(7), ip-link(8),
ip-address(8), ip-route(8), ip-neighbour(8), bridge(8).
"""

from __future__ import annotations

from glassnet.net.values import Value

PROTO_KERNEL, PROTO_BOOT, PROTO_STATIC, PROTO_DHCP = 2, 3, 4, 16


class AddBridge(Value):
    """`ip link add NAME type bridge [vlan_filtering 1]`; `hardware` is its MAC or "" for the kernel's choice. `exist_ok` accepts one that is there."""

    name: str
    hardware: str = ""
    mtu: int = 0
    exist_ok: bool = False
    vlan_filtering: bool = False


class AddVeth(Value):
    """`ip link add NAME type veth peer name PEER`; the peer is born in the namespace behind descriptor `peer_netns` (-1: the same).

    `master` is the bridge that NAME is a port of from the beginning.
    """

    name: str
    peer: str
    peer_netns: int = -1
    hardware: str = ""
    peer_hardware: str = ""
    mtu: int = 0
    index: int = 0
    peer_index: int = 0
    master: str = ""


class AddDummy(Value):
    """`ip link add NAME type dummy`."""

    name: str
    mtu: int = 0


class AddVxlan(Value):
    """`ip link add NAME type vxlan id VNI dstport PORT local LOCAL nolearning`: frames in UDP (RFC 7348), each to the machine its FDB entry names.

    `local` is the outer source, and tells the outer family: "0.0.0.0" and "::" leave the source to the routes. `port` is the far one, and ours.
    """

    name: str
    vni: int
    port: int
    local: str
    hardware: str = ""
    mtu: int = 0


class SetVxlan(Value):
    """`ip link set NAME type vxlan local LOCAL`: another outer source, of the same family."""

    name: str
    local: str


class DelLink(Value):
    """`ip link del NAME`; with `missing_ok` an absent link is fine."""

    name: str
    missing_ok: bool = False


class SetLink(Value):
    """`ip link set NAME …`: each field that is not None is set. `master` "" means nomaster; `netns` is a descriptor.

    `hairpin` and `isolated` are those of a bridge's port (`ip link set NAME type bridge_slave …`); it must be one already. `notify` is
    `sysctl net.ipv4.conf.NAME.arp_notify`: from now on neighbours are told when the link goes up or its MAC is set. `rp_filter` is that
    sysctl of the link: 0 none, 1 strict, 2 loose (RFC 3704).
    """

    name: str
    up: bool | None = None
    master: str | None = None
    mtu: int | None = None
    hardware: str | None = None
    netns: int | None = None
    rename: str | None = None
    promisc: bool | None = None
    alias: str | None = None
    allmulti: bool | None = None
    txqlen: int | None = None
    hairpin: bool | None = None
    isolated: bool | None = None
    notify: bool | None = None
    rp_filter: int | None = None


class NoLinkLocal(Value):
    """`ip link set NAME addrgenmode none`: no IPv6 address of its own making. Nothing to do where the link has no IPv6."""

    name: str


class SetBridge(Value):
    """`ip link set NAME type bridge vlan_filtering 0|1`."""

    name: str
    vlan_filtering: bool


class AddPortVlan(Value):
    """`bridge vlan add dev NAME vid FIRST-LAST [pvid] [untagged]`; `last` 0 means FIRST alone."""

    name: str
    first: int
    last: int = 0
    pvid: bool = False
    untagged: bool = False


class DelPortVlan(Value):
    """`bridge vlan del dev NAME vid FIRST-LAST`."""

    name: str
    first: int
    last: int = 0


class SetBridgePort(Value):
    """`bridge link set dev NAME hairpin on|off isolated on|off`."""

    name: str
    hairpin: bool | None = None
    isolated: bool | None = None


class AddAddress(Value):
    """`ip addr add ADDRESS dev DEV [nodad] [noprefixroute]`; IPv4 gets its broadcast address. `exist_ok` accepts one that is there."""

    address: str
    dev: str
    exist_ok: bool = False
    nodad: bool = True
    noprefixroute: bool = False


class DelAddress(Value):
    """`ip addr del ADDRESS dev DEV`."""

    address: str
    dev: str
    missing_ok: bool = False


class AddRoute(Value):
    """`ip route add|replace DESTINATION via GATEWAY dev DEV src SOURCE metric METRIC proto PROTOCOL table TABLE`.

    `destination` "default" or a prefix; `gateway` "" means on-link; `onlink` as in ip-route(8). `scope` -1: global through a gateway,
    link without one. `exist_ok` leaves one that is there as it is.
    """

    destination: str
    gateway: str = ""
    dev: str = ""
    source: str = ""
    metric: int = 0
    protocol: int = PROTO_STATIC
    table: int = 254
    mtu: int = 0
    onlink: bool = False
    replace: bool = False
    advmss: int = 0
    scope: int = -1
    exist_ok: bool = False


class DelRoute(Value):
    """`ip route del DESTINATION via GATEWAY dev DEV proto PROTOCOL metric METRIC`; of those that fit, the one with the least metric."""

    destination: str
    gateway: str = ""
    dev: str = ""
    table: int = 254
    protocol: int = 0
    missing_ok: bool = False
    metric: int = 0


class AddRule(Value):
    """`ip rule add from SOURCE to DESTINATION iif IIF fwmark MARK/MASK lookup TABLE priority PRIORITY protocol PROTOCOL`.

    `family` is 4 or 6; `mask` 0 is that of the whole mark.
    """

    table: int
    family: int = 4
    priority: int = 0
    source: str = ""
    destination: str = ""
    iif: str = ""
    mark: int = 0
    mask: int = 0
    protocol: int = 0
    exist_ok: bool = False


class DelRule(Value):
    """`ip rule del …`, with the same words."""

    table: int
    family: int = 4
    priority: int = 0
    source: str = ""
    destination: str = ""
    iif: str = ""
    mark: int = 0
    mask: int = 0
    protocol: int = 0
    missing_ok: bool = True


class SetNeighbour(Value):
    """`ip neigh replace ADDRESS lladdr HARDWARE dev DEV nud permanent`: such entries do not count against gc_thresh3."""

    address: str
    hardware: str
    dev: str


class SetProxyDelay(Value):
    """`ip ntable change name arp_cache dev DEV proxy_delay MILLISECONDS`: how long, at most, an answer to ARP on others' behalf waits (arp(7)).

    A user namespace has no sysctl for it.
    """

    dev: str
    milliseconds: int = 0


class DelNeighbour(Value):
    """`ip neigh del ADDRESS dev DEV`."""

    address: str
    dev: str
    missing_ok: bool = True


class SetFdb(Value):
    """`bridge fdb replace HARDWARE dev DEV dst REMOTE self permanent`: frames to this MAC go to the machine REMOTE."""

    hardware: str
    remote: str
    dev: str


class DelFdb(Value):
    """`bridge fdb del HARDWARE dev DEV self`."""

    hardware: str
    dev: str
    missing_ok: bool = True


# -- traffic control (tc(8)); rates are bytes a second, sizes bytes, times the kernel's ticks of 64 ns


class AddIfb(Value):
    """`ip link add NAME type ifb`: what is redirected to it comes back where it was, after it has waited in this link's queue."""

    name: str
    mtu: int = 0
    txqlen: int = 0


class MarkLink(Value):
    """`ip link set NAME alias ALIAS up`, asked for by name: it goes with the operation that makes the link in one system call."""

    name: str
    alias: str


class AddTbf(Value):
    """`tc qdisc add dev DEV root handle 1: tbf rate RATE limit LIMIT`; `buffer` is the time in which the burst goes out at RATE (tc-tbf(8))."""

    dev: str
    rate: int
    buffer: int
    limit: int


class AddHtb(Value):
    """`tc qdisc add dev DEV root handle 1: htb default DEFAULT`."""

    dev: str
    default: int


class AddHtbClass(Value):
    """`tc class add dev DEV parent 1: classid 1:MINOR htb rate RATE`."""

    dev: str
    minor: int
    rate: int
    buffer: int = 0


class AddSubnetFilter(Value):
    """`tc filter add dev DEV parent 1: u32 match ip dst SUBNET flowid 1:MINOR`; with `source` it matches the source."""

    dev: str
    subnet: str
    minor: int
    source: bool = False


class AddIngress(Value):
    """`tc qdisc add dev DEV ingress`: the place for filters of what comes in."""

    dev: str


class AddRedirect(Value):
    """`tc filter add dev DEV ingress matchall action mirred egress redirect dev TARGET` (as a u32 filter that matches everything)."""

    dev: str
    target: str


class DelQdisc(Value):
    """`tc qdisc del dev DEV root`, or `ingress`."""

    dev: str
    ingress: bool = False
    missing_ok: bool = True


class ProbeShaping(Value):
    """Ask for `what` (ifb, tbf, htb, mirred) in a way that is always refused: EINVAL says that the kernel has it. Nothing is made."""

    what: str


Operation = (
    AddBridge | AddVeth | AddDummy | AddVxlan | SetVxlan | DelLink | SetLink | NoLinkLocal | SetBridge | AddPortVlan | DelPortVlan
    | SetBridgePort | AddAddress | DelAddress | AddRoute | DelRoute | AddRule | DelRule | SetNeighbour | SetProxyDelay | DelNeighbour | SetFdb | DelFdb
    | AddIfb | MarkLink | AddTbf | AddHtb | AddHtbClass | AddSubnetFilter | AddIngress | AddRedirect | DelQdisc | ProbeShaping
)  # fmt: skip
