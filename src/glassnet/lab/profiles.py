"""Profiles: settings -> Topology. `hardway` is the cluster of Kubernetes The Hard Way: three controllers, N workers, a VPC router.

Addresses: github.com/kelseyhightower/kubernetes-the-hard-way, docs/03-compute-resources.md and 11-pod-network-routes.md (the GCP edition).
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Network, NetmaskValueError

from glassnet.cni import ready
from glassnet.lab.settings import Settings
from glassnet.lab.topology import VPC_BRIDGE, Cable, MachineSpec, Topology, hardware, node_setup
from glassnet.net.errors import UsageError
from glassnet.netstack.ops import AddAddress, AddBridge, AddRoute, Operation, SetLink, SetNeighbour

CONTROLLERS, FIRST_CONTROLLER, FIRST_WORKER, POD_PREFIX = 3, 10, 20, 24
INTERNET = IPv4Network("192.0.2.0/24")  # RFC 5737, TEST-NET-1
INTERNET_ROUTER, INTERNET_HOST = str(INTERNET[1]), str(INTERNET[10])

NODE_SYSCTLS: dict[str, object] = {
    "net.ipv4.ip_forward": 1,
    "net.bridge.bridge-nf-call-iptables": 1,
    "net.bridge.bridge-nf-call-ip6tables": 1,
    "net.ipv6.conf.all.forwarding": 1,
}
ROUTER_SYSCTLS: dict[str, object] = {
    "net.ipv4.ip_forward": 1,
    # a cloud's router does not tell instances of a shorter way: there is none
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
}


def topology(settings: Settings) -> Topology:
    """The lab these settings ask for. Raises UsageError that names the setting and a value that would do."""
    if settings.profile != "hardway":
        raise UsageError(f"--profile {settings.profile}: there is one profile, hardway")
    return _hardway(settings)


def _hardway(settings: Settings) -> Topology:
    nodes, pods, services, public = _networks(settings)
    gateway = str(nodes[1])
    pod_cidrs = list(pods.subnets(new_prefix=POD_PREFIX))[: settings.workers]
    specs = [_node(f"controller-{i}", FIRST_CONTROLLER + i, nodes, public, gateway) for i in range(CONTROLLERS)]
    specs += [
        _node(f"worker-{i}", FIRST_WORKER + i, nodes, public, gateway, str(cidr), "zone-a" if i == 0 else "zone-b")
        for i, cidr in enumerate(pod_cidrs)
    ]
    names = "".join(f"{spec.address} {spec.name}\n" for spec in specs)
    named = settings.dns != "none"
    resolver = f"nameserver {INTERNET_HOST}\n" if named else ""
    nodes_done = tuple(_with_files(spec, names, resolver, network=settings.cni != "none") for spec in specs)
    router = MachineSpec(
        "vpc-router",
        "router",
        gateway,
        INTERNET_ROUTER,
        files={"/etc/hosts": _hosts("vpc-router", names)},
        sysctls=ROUTER_SYSCTLS,
        setup=_router_setup(nodes_done, nodes, gateway),
        rules=_public_rules(nodes_done),
    )
    internet = MachineSpec(
        "internet",
        "internet",
        INTERNET_HOST,
        files={"/etc/hosts": _hosts("internet", ""), "/etc/resolv.conf": resolver},
        setup=_internet_setup(),
    )
    fabric = MachineSpec(
        "fabric",
        "fabric",
        files={"/etc/hosts": _hosts("fabric", "")},
        sysctls={"net.bridge.bridge-nf-call-iptables": 0, "net.bridge.bridge-nf-call-ip6tables": 0},
        setup=(AddBridge(VPC_BRIDGE), SetLink(VPC_BRIDGE, up=True)),
    )
    cables = [Cable(spec.name, "eth0", hardware(spec.address), "fabric", spec.name) for spec in (*nodes_done, router)]
    cables.append(Cable("internet", "eth0", hardware(INTERNET_HOST), "vpc-router", "eth1"))
    return Topology(
        (fabric, router, internet, *nodes_done),
        tuple(cables),
        str(pods),
        str(services),
        str(services[1]),
        str(services[10]) if named else "",
        "vpc-router",
    )


def _networks(settings: Settings) -> tuple[IPv4Network, IPv4Network, IPv4Network, IPv4Network]:
    words = {
        "--node-cidr": settings.node_cidr,
        "--pod-cidr": settings.pod_cidr,
        "--service-cidr": settings.service_cidr,
        "--public-cidr": settings.public_cidr,
    }
    networks = {option: _network(option, text) for option, text in words.items()}
    options = list(networks)
    for index, option in enumerate(options):
        for other in options[index + 1 :]:
            if networks[option].overlaps(networks[other]):
                raise UsageError(
                    f"{option} {networks[option]} and {other} {networks[other]} overlap; give one of them another range"
                )
        if networks[option].overlaps(INTERNET):
            raise UsageError(
                f"{option} {networks[option]} overlaps {INTERNET}, where the host `internet` is; give it another range"
            )
    _check_sizes(settings.workers, networks)
    return tuple(networks.values())  # type: ignore[return-value]


def _check_sizes(workers: int, networks: dict[str, IPv4Network]) -> None:
    if workers < 1:
        raise UsageError(f"--nodes {workers}: a lab has at least 1 worker")
    for option in ("--node-cidr", "--public-cidr"):
        room = networks[option].num_addresses - 1 - FIRST_WORKER
        if room < workers:
            fits = (
                f"it has room for {room} workers"
                if room > 0
                else "it is too small for any worker (the first has host number 20)"
            )
            raise UsageError(
                f"--nodes {workers} does not fit into {option} {networks[option]}: {fits}; {_wider(option, workers)}"
            )
    pods = networks["--pod-cidr"]
    rooms = 2 ** (POD_PREFIX - pods.prefixlen) if pods.prefixlen <= POD_PREFIX else 0
    if rooms < workers:
        raise UsageError(
            f"--pod-cidr {pods} has {rooms} /{POD_PREFIX} ranges, and each of the {workers} workers needs one; a /16 has 256"
        )
    if networks["--service-cidr"].num_addresses < 16:
        raise UsageError(f"--service-cidr {networks['--service-cidr']} is too small: at least a /28, e.g. 10.32.0.0/24")


def _wider(option: str, workers: int) -> str:
    bits = (workers + FIRST_WORKER + 1).bit_length()
    base = "10.240.0.0" if option == "--node-cidr" else "198.18.0.0"
    return f"e.g. {option} {base}/{min(24, 32 - bits)}"


def _network(option: str, text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise UsageError(f"{option} {text}: {error}; want an IPv4 range such as 10.240.0.0/24") from None


def _node(
    name: str, number: int, nodes: IPv4Network, public: IPv4Network, gateway: str, pod_cidr: str = "", zone: str = ""
) -> MachineSpec:
    address = str(nodes[number])
    return MachineSpec(
        name,
        "worker" if pod_cidr else "controller",
        address,
        str(public[number]),
        pod_cidr,
        zone,
        sysctls=NODE_SYSCTLS,
        setup=node_setup(address, nodes, gateway),
    )


def _with_files(spec: MachineSpec, names: str, resolver: str, network: bool = True) -> MachineSpec:
    files = {"/etc/hosts": _hosts(spec.name, names), "/etc/resolv.conf": resolver}
    if spec.pod_cidr and network:
        files |= cni_files(spec.pod_cidr)
    files["/etc/hostname"] = spec.name + "\n"
    return MachineSpec(
        spec.name,
        spec.role,
        spec.address,
        spec.public,
        spec.pod_cidr,
        spec.zone,
        files,
        spec.sysctls,
        spec.setup,
        spec.rules,
    )


def cni_files(pod_cidr: str) -> dict[str, str]:
    """/etc/cni/net.d as the guide's bootstrapping of a worker writes it."""
    found = ready.files("hardway", ready.Wish(pod_cidrs=(pod_cidr,)))
    return {f"/etc/cni/net.d/{name}": text for name, text in found.items()}


def _hosts(name: str, names: str) -> str:
    return f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {name}\n{names}"


def _router_setup(nodes: tuple[MachineSpec, ...], network: IPv4Network, gateway: str) -> tuple[Operation, ...]:
    return (
        AddAddress(f"{gateway}/{network.prefixlen}", "eth0"),
        SetLink("eth0", up=True),
        AddAddress(f"{INTERNET_ROUTER}/{INTERNET.prefixlen}", "eth1"),
        SetLink("eth1", up=True),
        *(SetNeighbour(node.address, hardware(node.address), "eth0") for node in nodes),
        SetNeighbour(INTERNET_HOST, hardware(INTERNET_HOST), "eth1"),
    )


def _internet_setup() -> tuple[Operation, ...]:
    return (
        AddAddress(f"{INTERNET_HOST}/{INTERNET.prefixlen}", "eth0"),
        SetLink("eth0", up=True),
        AddRoute("default", gateway=INTERNET_ROUTER, dev="eth0"),
    )


def _public_rules(nodes: tuple[MachineSpec, ...]) -> str:
    """One-to-one NAT between public and private addresses; also for a node that speaks to another's public address."""
    inward = ", ".join(f"{node.public} : {node.address}" for node in nodes)
    outward = ", ".join(f"{node.address} : {node.public}" for node in nodes)
    return f"""table ip glassnet-public {{
    comment "glassnet: public addresses of the lab's instances"
    map to_private {{
        type ipv4_addr : ipv4_addr
        elements = {{ {inward} }}
    }}
    map to_public {{
        type ipv4_addr : ipv4_addr
        elements = {{ {outward} }}
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat
        dnat to ip daddr map @to_private
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        oifname "eth1" snat to ip saddr map @to_public
        iifname "eth0" oifname "eth0" ct status dnat snat to ip saddr map @to_public
    }}
}}
"""
