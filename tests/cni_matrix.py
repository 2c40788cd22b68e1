"""Configurations that both our plugins and the reference ones get, and the differences that are meant; docs/design/cni.md has the tables."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

OLD, NEW = ("0.1.0", "0.2.0", "0.3.0", "0.3.1"), ("0.4.0", "1.0.0")
ALL = (*OLD, *NEW)
NETWORK = "mynet"
V4, V6 = {"subnet": "10.22.0.0/24"}, {"subnet": "fd00:22::/64"}
DEFAULTS = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
MAC = "02:11:22:33:44:55"
Conf = dict[str, Any]


class Row(NamedTuple):
    """A network of one plugin or a chain, joined by two containers. `keys` is what the document calls it, `prepare` shell on the node,
    `args` CNI_ARGS and `runtime` what a runtime gives for capabilities (for c1 alone when `once`)."""

    name: str
    keys: str
    plugins: tuple[Conf, ...]
    versions: tuple[str, ...] = ("1.0.0",)
    args: str = ""
    runtime: Mapping[str, Any] = {}
    prepare: str = ""
    macs: tuple[str, ...] = ()
    pods: tuple[str, ...] = ("c1", "c2")

    @property
    def types(self) -> str:
        """The plugins of the chain with the plugin that gives addresses."""
        return ", ".join(str(one["type"]) for one in self.plugins)


def host_local(*ranges: Conf, **more: Any) -> Conf:
    """An `ipam` part with each range in a set of its own."""
    return {"type": "host-local", "ranges": [[one] for one in ranges or (V4,)], **more}


def bridge(**keys: Any) -> Conf:
    """A bridge; with addresses unless told otherwise."""
    return {"type": "bridge", "bridge": "br0", "ipam": host_local(), **keys}


def ptp(**keys: Any) -> Conf:
    """A ptp with addresses."""
    return {"type": "ptp", "ipam": host_local(routes=DEFAULTS[:1]), **keys}


DUAL = host_local(V4, V6, routes=DEFAULTS)
STATIC = {"type": "static", "addresses": [{"address": "10.22.0.7/24", "gateway": "10.22.0.254"}], "routes": DEFAULTS[:1],
          "dns": {"nameservers": ["10.22.0.53"], "domain": "example.org", "search": ["a", "b"], "options": ["ndots:1"]}}  # fmt: skip
RESOLVER = r"printf 'nameserver 10.0.0.53\nsearch a b\nsearch c\noptions ndots:5\ndomain d\n# x\n' > /run/resolv.conf"


def _bridges() -> list[Row]:
    full = host_local(V4, routes=[*DEFAULTS[:1], {"dst": "10.98.0.0/16"}, {"dst": "10.99.0.0/16", "gw": "10.22.0.9"}])
    return [
        Row("bridge", "`isGateway`", (bridge(isGateway=True),), ALL),
        Row("bridge-dual", "`isGateway`, `ipMasq`, both families", (bridge(isGateway=True, ipMasq=True, ipam=DUAL),), ("0.2.0", *NEW)),
        Row("bridge-plain", "addresses, no gateway", (bridge(),)),
        Row("bridge-layer2", "no `ipam`", ({"type": "bridge", "bridge": "br0"},), NEW),
        Row("bridge-layer2-mtu", "no `ipam`, `mtu`, `hairpinMode`", ({"type": "bridge", "bridge": "br0", "mtu": 1300, "hairpinMode": True},)),
        Row("bridge-named-cni0", "no `bridge`", ({"type": "bridge", "isGateway": True, "ipam": host_local()},)),
        Row("bridge-default", "`isDefaultGateway`", (bridge(isDefaultGateway=True),), NEW),
        Row("bridge-default-dual", "`isDefaultGateway`, both families", (bridge(isDefaultGateway=True, ipam=host_local(V4, V6)),)),
        Row("bridge-default-twice", "`isDefaultGateway`, default route of `ipam`", (bridge(isDefaultGateway=True, ipam=full),)),
        Row("bridge-masquerade", "`ipMasq`", (bridge(ipMasq=True),), NEW),
        Row("bridge-mtu", "`mtu`", (bridge(isGateway=True, mtu=1400),)),
        Row("bridge-hairpin", "`hairpinMode`", (bridge(isGateway=True, hairpinMode=True),)),
        Row("bridge-promisc", "`promiscMode`", (bridge(isGateway=True, promiscMode=True),)),
        Row("bridge-routes", "`routes`, with and without `gw`", (bridge(isGateway=True, ipam=full),), ("0.2.0", *NEW)),
        Row("bridge-routes-plain", "`routes`, no gateway on the bridge", (bridge(ipam=full),)),
        Row("bridge-routes-v6", "IPv4 `routes`, IPv6 alone", (bridge(isGateway=True, ipam=host_local(V6, routes=[{"dst": "10.99.0.0/16"}])),)),
        Row("bridge-routes-old", "IPv6 `routes`, IPv4 alone", (bridge(isGateway=True, ipam=host_local(routes=DEFAULTS)),), ("0.1.0", "0.2.0")),
        Row("bridge-force", "`forceAddress` on a bridge with another address", (bridge(isGateway=True, forceAddress=True),),
            prepare="ip link add br0 type bridge; ip addr add 10.22.0.77/16 brd + dev br0"),
        Row("bridge-conflict", "a bridge with another address", (bridge(isGateway=True),),
            prepare="ip link add br0 type bridge; ip addr add 10.22.0.77/16 brd + dev br0"),
        Row("bridge-same-address", "a bridge that has the gateway's address", (bridge(isGateway=True),),
            prepare="ip link add br0 type bridge; ip addr add 10.22.0.1/24 brd + dev br0"),
        Row("bridge-dns", "`dns`", (bridge(isGateway=True, dns={"nameservers": ["10.0.0.9"], "domain": "x", "search": ["y"]}),), ("0.2.0", *NEW)),
        Row("bridge-resolver", "`resolvConf` of host-local", (bridge(isGateway=True, ipam=host_local(resolvConf="/run/resolv.conf")),),
            prepare=RESOLVER),
        Row("bridge-static", "static with `routes`, `dns`", (bridge(isGateway=True, ipam=STATIC),), NEW, pods=("c1",)),
        Row("bridge-static-plain", "static, no gateway", (bridge(isGateway=True, ipam={"type": "static", "addresses": [{"address": "10.22.0.7/24"}]}),),
            pods=("c1",)),
        Row("bridge-mac", "capability `mac`", (bridge(isGateway=True, capabilities={"mac": True}),), runtime={"mac": MAC}, macs=(MAC,), pods=("c1",)),
        Row("bridge-mac-args", "`args.cni.mac`", (bridge(isGateway=True, args={"cni": {"mac": MAC}}),), macs=(MAC,), pods=("c1",)),
        Row("bridge-mac-environment", "CNI_ARGS `MAC`", (bridge(isGateway=True),), args=f"IgnoreUnknown=1;MAC={MAC}", macs=(MAC,), pods=("c1",)),
        Row("bridge-mac-first", "capability `mac` before `args.cni.mac`", (bridge(capabilities={"mac": True}, args={"cni": {"mac": "02:00:00:00:00:09"}}),),
            runtime={"mac": MAC}, macs=(MAC, "02:00:00:00:00:09"), pods=("c1",)),
        Row("bridge-kubernetes", "CNI_ARGS as the kubelet's", (bridge(isGateway=True),),
            args="IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u"),
        Row("bridge-spoof", "`macspoofchk`", (bridge(isGateway=True, macspoofchk=True),)),
        Row("bridge-dad", "`enabledad`", (bridge(isGateway=True, enabledad=True, ipam=host_local(V6)),)),
        Row("bridge-v6", "IPv6 alone", (bridge(isDefaultGateway=True, ipMasq=True, ipam=host_local(V6)),), NEW),
        Row("bridge-v6-off", "IPv6 where `disable_ipv6` is 1", (bridge(isGateway=True, ipam=host_local(V6)),),
            prepare="for p in c1 c2; do ip netns exec $p sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1; done"),
    ]  # fmt: skip


def _addresses() -> list[Row]:
    several = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.22.0.0/30"}, {"subnet": "10.23.0.0/24"}], [V6, {"subnet": "fd00:23::/64"}]],
    }
    part = host_local({**V4, "rangeStart": "10.22.0.30", "rangeEnd": "10.22.0.30", "gateway": "10.22.0.5"})
    asked = {"ips": ["10.22.0.40/24", "fd00:22::40"]}
    two = {
        "type": "static",
        "addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd01::5/64"}],
    }
    return [
        Row("host-local", "`subnet`", ({"type": "host-local", "ipam": {"type": "host-local", **V4, "routes": DEFAULTS[:1]}},), ALL),
        Row("host-local-dual", "`ranges` of both families", ({"type": "host-local", "ipam": DUAL},), ("0.2.0", "0.3.1", *NEW)),
        Row("host-local-both", "`subnet` and `ranges`", ({"type": "host-local", "ipam": {**host_local(V6), **V4}},)),
        Row("host-local-several", "several ranges in a set", ({"type": "host-local", "ipam": several},), pods=("c1", "c2", "c3")),
        Row("host-local-part", "`rangeStart`, `rangeEnd`, `gateway`", ({"type": "host-local", "ipam": part},), pods=("c1",)),
        Row("host-local-exhausted", "`rangeStart` = `rangeEnd`, two containers", ({"type": "host-local", "ipam": part},)),
        Row("host-local-gateway", "`gateway` outside the subnet", ({"type": "host-local", "ipam": host_local({**V4, "gateway": "10.77.0.1"})},)),
        Row("host-local-directory", "`dataDir`", ({"type": "host-local", "ipam": host_local(dataDir="/run/cni/leases")},)),
        Row("host-local-resolver", "`resolvConf`", ({"type": "host-local", "ipam": host_local(resolvConf="/run/resolv.conf")},),
            prepare=RESOLVER),
        Row("host-local-asked", "CNI_ARGS `IP`", ({"type": "host-local", "ipam": host_local()},), args="IP=10.22.0.40", pods=("c1",)),
        Row("host-local-asked-twice", "CNI_ARGS `IP`, two containers", ({"type": "host-local", "ipam": host_local()},), args="IP=10.22.0.40"),
        Row("host-local-asked-args", "`args.cni.ips`", ({"type": "host-local", "ipam": DUAL, "args": {"cni": asked}},), pods=("c1",)),
        Row("host-local-asked-runtime", "capability `ips`", ({"type": "host-local", "ipam": DUAL, "capabilities": {"ips": True}},), runtime=asked, pods=("c1",)),
        Row("host-local-ranges-runtime", "capability `ipRanges`", ({"type": "host-local", "ipam": {"type": "host-local"}, "capabilities": {"ipRanges": True}},),
            runtime={"ipRanges": [[V4], [V6]]}),
        Row("static", "`addresses`, `routes`, `dns`", ({"type": "static", "ipam": STATIC},), ALL, pods=("c1",)),
        Row("static-two", "both families", ({"type": "static", "ipam": two},), ALL, pods=("c1",)),
        Row("static-environment", "CNI_ARGS `IP`, `GATEWAY`", ({"type": "static", "ipam": two},), args="IP=10.1.0.6/24;GATEWAY=10.1.0.2,fd01::1", pods=("c1",)),
        Row("static-args", "`args.cni.ips`", ({"type": "static", "ipam": two, "args": {"cni": {"ips": ["10.3.0.1/16"]}}},), pods=("c1",)),
        Row("static-runtime", "capability `ips`", ({"type": "static", "ipam": two, "capabilities": {"ips": True}},), runtime={"ips": ["10.3.0.1/16"]}, pods=("c1",)),
        Row("static-none", "no address", ({"type": "static", "ipam": {"type": "static"}},), pods=("c1",)),
        Row("loopback", "", ({"type": "loopback"},), ("1.0.0", *OLD, "0.4.0"), pods=("c1",)),
    ]  # fmt: skip


def _chains() -> list[Row]:
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}, {"hostPort": 53, "containerPort": 53, "protocol": "udp"},
                              {"hostPort": 8081, "containerPort": 81, "protocol": "tcp"}]}  # fmt: skip
    at = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.7"},
                           {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "0.0.0.0"}]}  # fmt: skip
    many = {"portMappings": [{"hostPort": 9000 + n, "containerPort": 80, "protocol": "tcp"} for n in range(17)]}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    rates = {"ingressRate": 1_000_000, "ingressBurst": 800_000, "egressRate": 2_000_000, "egressBurst": 1_600_000}
    tuned = {"type": "tuning", "sysctl": {"net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": "1"}}
    under = bridge(isGateway=True, ipam=host_local(V4, routes=DEFAULTS[:1]))
    one = ("c1",)
    return [
        Row("ptp", "", (ptp(),), ALL),
        Row("ptp-dual", "`ipMasq`, both families", (ptp(ipMasq=True, ipam=DUAL),), NEW),
        Row("ptp-mtu", "`mtu`, `dns`", (ptp(mtu=1400, dns={"nameservers": ["10.0.0.9"]}),)),
        Row("ptp-resolver", "`resolvConf` of host-local", (ptp(ipam=host_local(resolvConf="/run/resolv.conf")),), prepare=RESOLVER),
        Row("ptp-routes", "`routes`", (ptp(ipam=host_local(V4, routes=[{"dst": "10.99.0.0/16", "gw": "10.22.0.1"}])),)),
        Row("ptp-portmap", "a chain", (ptp(), portmap), NEW, runtime=ports, pods=one),
        Row("portmap", "capability `portMappings`", (under, portmap), ("0.3.1", *NEW), runtime=ports, pods=one),
        Row("portmap-taken", "the same ports for two containers", (under, portmap), runtime=ports),
        Row("portmap-none", "no ports", (under, portmap)),
        Row("portmap-dual", "both families", (bridge(isGateway=True, ipMasq=True, ipam=DUAL), portmap), runtime=ports, pods=one),
        Row("portmap-address", "`hostIP`", (under, portmap), runtime=at, pods=one),
        Row("portmap-many", "17 ports", (under, portmap), runtime=many, pods=one),
        Row("portmap-no-snat", "`snat` false", (under, {**portmap, "snat": False}), runtime=ports, pods=one),
        Row("portmap-bit", "`markMasqBit`", (under, {**portmap, "markMasqBit": 5}), runtime=ports, pods=one),
        Row("portmap-external", "`externalSetMarkChain`", (under, {**portmap, "externalSetMarkChain": "KUBE-MARK-MASQ"}), runtime=ports, pods=one,
            prepare="iptables -t nat -N KUBE-MARK-MASQ"),
        Row("portmap-conditions", "`conditionsV4`", (under, {**portmap, "conditionsV4": ["!", "-d", "192.0.2.0/24"]}), runtime=ports, pods=one),
        Row("bandwidth", "both directions", (under, {"type": "bandwidth", **rates}), ("0.3.1", *NEW)),
        Row("bandwidth-in", "`ingressRate`, `ingressBurst`", (under, {"type": "bandwidth", "ingressRate": 5_000_000, "ingressBurst": 1_000_000}), pods=one),
        Row("bandwidth-capability", "capability `bandwidth`", (under, {"type": "bandwidth", "capabilities": {"bandwidth": True}}), runtime={"bandwidth": rates}, pods=one),
        Row("bandwidth-none", "no rate", (under, {"type": "bandwidth"}), pods=one),
        Row("tuning", "`sysctl`", (under, tuned), ("0.3.1", *NEW)),
        Row("tuning-link", "`mac`, `mtu`, `promisc`, `allmulti`", (under, {"type": "tuning", "mac": MAC, "mtu": 1300, "promisc": True, "allmulti": True}), macs=(MAC,), pods=one),
        Row("tuning-capability", "capability `mac`", (under, {"type": "tuning", "capabilities": {"mac": True}}), runtime={"mac": MAC}, macs=(MAC,), pods=one),
        Row("podman", "bridge, portmap, tuning as podman writes them", (
            bridge(isGateway=True, ipMasq=True, hairpinMode=True, capabilities={"ips": True}, ipam=host_local({**V4, "gateway": "10.22.0.1"}, routes=DEFAULTS[:1])),
            portmap, {"type": "tuning"}), ("0.4.0",), runtime=ports, pods=one),
    ]  # fmt: skip


ROWS = (*_bridges(), *_addresses(), *_chains())


def sample(count: int, seed: int = 1) -> list[Row]:
    """Random combinations of the keys of bridge and host-local."""
    draw, rows = random.Random(seed), []
    for number in range(count):
        families = draw.choice([(V4,), (V6,), (V4, V6), (V6, V4)])
        version = draw.choice(ALL)
        ranges = [{**one, **draw.choice([{}, _inner(one)])} for one in families]
        routes = [one for one in DEFAULTS if draw.random() < 0.5] + draw.choice(
            [[], [{"dst": "10.99.0.0/16"}], [{"dst": "fd99::/32"}]]
        )
        ipam = host_local(*ranges, **({"routes": routes} if draw.random() < 0.7 else {}))
        flags = {
            key: True
            for key in ("isGateway", "isDefaultGateway", "ipMasq", "forceAddress", "macspoofchk")
            if draw.random() < 0.4
        }
        flags |= {draw.choice(("hairpinMode", "promiscMode")): True} if draw.random() < 0.4 else {}
        keys: Conf = {**flags, **({"mtu": draw.choice((1280, 1400, 9000))} if draw.random() < 0.4 else {})}
        if draw.random() < 0.3:
            keys["dns"] = {"nameservers": ["10.0.0.1"]}
        text = ", ".join(sorted(keys)) or "nothing"
        rows.append(Row(f"sample-{number}", text, (bridge(ipam=ipam, **keys),), (version,), pods=("c1",)))
    return rows


def _inner(one: Conf) -> Conf:
    base = str(one["subnet"]).partition("/")[0].removesuffix("0").removesuffix("::") + (
        "::" if ":" in one["subnet"] else ""
    )
    return {"rangeStart": f"{base}10", "rangeEnd": f"{base}20", "gateway": f"{base}19"}


# -- differences


class Difference(NamedTuple):
    """A difference that is meant: where (a regular expression for the path), what either side has there (regular expressions), and why.
    `row` shows it: when it does no longer, the difference is to be taken out."""

    name: str
    path: str
    reference: str
    ours: str
    what: str
    why: str
    row: str

    def covers(self, path: str, values: Sequence[Any]) -> bool:
        """Whether it explains a difference found."""
        return all(
            re.fullmatch(expression, str(text), re.DOTALL)
            for expression, text in ((self.path, path), (self.reference, values[0]), (self.ours, values[1]))
        )


_ANY, _WHEN = r"(?s:.*)", r"(added|left|gone)"
_VETH = rf"{_WHEN}\.node\..*(veth|port)\(c\d eth0\)"

DIFFERENCES: tuple[Difference, ...] = (
    Difference("mark", rf"{_VETH}\.ifalias", "-", r"cni mynet c\d eth0", "the node's end of a pair has an alias, `cni NETWORK CONTAINER IFNAME`",
               "GC and DEL find it by that, with the namespace gone and without any record", "bridge"),
    Difference("queue", rf"({_WHEN}\.c\d\.links\.eth0|{_VETH})\.txqlen", "-", "1000", "veths have the kernel's queue length, 1000; in 1.1.1 none",
               "newer reference plugins have it too; a shaper on a link without it drops at once", "bridge"),
    Difference("no-detection", rf"{_WHEN}\.(node|c\d)\.addresses\..*\.nodad", "-", "True", "IPv6 addresses are added with the flag nodad, and no wait for them",
               "they answer at once; the reference's gateway is tentative for 1-2 s", "bridge-dual"),
    Difference("detection-setting", rf"{_WHEN}\.c\d\.settings\.ipv6/conf/eth0\.accept_dad", "0", "1", "`accept_dad` stays where there is no IPv6 address",
               "the container's settings are its own", "bridge"),
    Difference("port-advertisements", rf"{_WHEN}\.node\.settings\.ipv6/conf/port.*\.accept_ra", "0", "1", "`accept_ra` of a bridge's port stays; that of the bridge is 0",
               "a port hands all packets to its bridge", "bridge"),
    Difference("own-mac", r"gone\.node\.links\.br0\.address", "00:00:00:00:00:00", "MAC", "a bridge with the gateway's address gets a MAC of its own",
               "without one its MAC is that of a port, and containers lose their gateway's when that port goes", "bridge-same-address"),
    Difference("check-mac", r"check\.c\d", r".*Bridge interface br0 Mac doesn't match.*", r"\[None\]", "CHECK takes any MAC of a bridge that is no gateway",
               "such a bridge takes over the MAC of a port and changes it with its ports: the reference's CHECK fails for no fault", ""),
    Difference("check-layer2", r"check\.c\d", r"\['999 no plugin name provided'\]", r"\[None\]", "CHECK works without `ipam`", "1.1.1 asks an address plugin without a name", "bridge-layer2"),
    Difference("check-route", r"check\.c\d", r".*Expected Route \{Dst.* GW:<nil>\} not found.*", r"\[None\]", "CHECK looks for a route without `gw` by its destination",
               "ADD gives it the gateway of its family, and the reference's CHECK then looks for one without", "bridge-routes"),
    Difference("default-once", r"result\.c\d", r"999 failed to add route .*file exists", _ANY, "`isDefaultGateway` adds no second default route to one of `ipam` without `gw`",
               "the reference adds it, and fails", "bridge-default-twice"),
    Difference("dns-of-ipam", r"result\.c\d\.dns\.(domain|nameservers|options|search)", "-", _ANY, "what the address plugin says of DNS is in the result",
               "newer reference plugins tell it too; 1.1.1 drops it", "bridge-resolver"),
    Difference("route-scope", rf"{_WHEN}\.c\d\.routes\.\S+ dev eth0( scope link)?", "-|True", "-|True", "a route without any gateway has scope link",
               "as `ip route` makes it; packets go the same way", "bridge-routes-v6"),
    Difference("routes-old", rf"{_WHEN}\.c\d\.routes\.\S+ dev eth0 metric 1024", "-", "True", "at 0.1.0 and 0.2.0 routes of a family without an address are there",
               "they are at every other version; the reference loses them, as its old results have no place for them", "bridge-routes-old"),
    Difference("no-address", r"(result|check)\.c\d", _ANY, r".*7 \"ipam.addresses\": no address is given.*", "static without an address is an error",
               "nobody wants it, and bridge and ptp fail then in words that do not tell where", "static-none"),
    Difference("gateway-for-all", r"result\.c1\.ips\.\[\d\]\.gateway", r"-|10\.1\.0\.1", r"fd01::1|10\.1\.0\.2",
               "GATEWAY in CNI_ARGS counts for the configuration's addresses too", "so the reference means it, but looks at them before it has read them", "static-environment"),
    Difference("loopback-version", r"result\.c\d\.(interfaces|ip4|ip6|ips|ips\.\[\d\]\.version)",
               r"-|\[\{('name': 'lo'|'interface': 0, 'address': '127).*", r"-|[46]|\{'ip': '(127|::1).*", "loopback's result is in the version that was asked for",
               "1.1.1 prints the shape of 1.0.0 for all", "loopback"),
    Difference("announced", rf"{_WHEN}\.c\d\.settings\.ipv(4/conf/eth0\.arp|6/conf/eth0\.ndisc)_notify", "0", "1",
               "a container's interface announces IPv6 addresses too (`ndisc_notify`), and IPv4 ones without `ipam`", "an address that moves is found at once by its neighbours", "bridge-layer2"),
    Difference("no-link-local", rf"{_VETH}\.addr_gen_mode", "0", "1", "the node's end of a pair gets no link-local address", "a port of a bridge needs none, and each would cost a multicast group", "bridge"),
    Difference("ptp-prefix", rf"{_WHEN}\.c\d\.addresses\.eth0\.\[\d\]\.noprefixroute", "-", "True", "ptp adds addresses without the kernel's route to their network",
               "the reference lets the kernel make it, and deletes it", "ptp"),
    Difference("ptp-detection", rf"{_WHEN}\.c\d\.settings\.ipv6/conf/eth0\.accept_dad", "1", "0", "ptp switches duplicate detection off, as bridge does",
               "nobody else is on the link; the address answers at once", "ptp-dual"),
    Difference("port-taken", r"result\.c2", r"\{.*", r"\d+ .*", "portmap refuses a port of the node that another container has", "in the reference the first one keeps it and the second hears nothing", "portmap-taken"),
    Difference("portmap-check", r"check\.c\d", r".*999 could not check ipv6 dnat: .*", r"\[None, None(, None)?\]", "CHECK of portmap looks for each address in its own family",
               "1.1.1 looks for IPv4's rules in ip6tables too, and fails wherever that works", "portmap-address"),
    Difference("one-redirect", rf"{_WHEN}\.node\.filters\.(veth|port).*\.actions\.\[1\]", r"\{.*mirred.*", "-", "bandwidth's filter redirects once", "the reference's second action, an artefact of its library, never runs", "bandwidth-capability"),
    Difference("bandwidth-link", rf"{_WHEN}\.node\.links\.bwp[0-9a-f]{{12}}\.(ifalias|txqlen)", "-", r"cni mynet c\d eth0|1000", "bandwidth's link has an alias and the kernel's queue length", "as the pair's end has", "bandwidth-capability"),
    Difference("tuning-check", r"check\.c\d", r".*conf/IFNAME/.*no such file or directory.*", r"\[None, None\]", "CHECK of tuning puts the interface's name for IFNAME", "1.1.1 does so in ADD alone", "tuning"),
    Difference("tuning-file", rf"{_WHEN}\.files\./run/cni/tuning/.*", r"\d+ '\{.*", r"""\d+ '\{.*"containerID": .*""", "tuning's file says whose it is", "GC finds it by that", "tuning-link"),
)  # fmt: skip

# -- bad input


class Wrong(NamedTuple):
    """A call that is refused: what either side answers, as code and message; `ours` "" when it is the same, else `why`."""

    what: str
    reference: str
    ours: str = ""
    why: str = ""
    plugin: str = "bridge"
    command: str = "ADD"
    conf: Conf | str = {}
    environment: Mapping[str, str] = {}


def _ipam(**keys: Any) -> Conf:
    return {"ipam": {"type": "host-local", **keys}}


def _range(**keys: Any) -> Conf:
    return _ipam(ranges=[[{**V4, **keys}]])


_B = bridge()
_KEY = "the specification's code, and the key as it stands in the file"
_VALUE = "says which value, and what is wanted"
_CODE = "the specification's code"

WRONG: tuple[Wrong, ...] = (
    Wrong(
        "no JSON",
        "6 error unmarshall network config: unexpected end of JSON input",
        "6 error unmarshall network config: standard input:1:10: Expecting value",
        _VALUE,
        conf='{"name": ',
    ),
    Wrong(
        "JSON that is no object",
        '6 error unmarshall network config: json: cannot unmarshal array into Go value of type struct { Name string "json:\\"name\\"" }',
        "6 error unmarshall network config: []: want a JSON object",
        _VALUE,
        conf="[]",
    ),
    Wrong("no name", "7 missing network name", conf={"name": ""}),
    Wrong("a name with a slash", "7 invalid characters found in network name", conf={"name": "a/b"}),
    Wrong("an unknown version", "1 incompatible CNI versions", conf={"cniVersion": "9.0.0"}),
    Wrong(
        "a version that is a number",
        "6 decoding version from network config: json: cannot unmarshal number into Go struct field .cniVersion of type string",
        '7 "cniVersion": 1: want a string',
        "names the key; the configuration can be read, but is wrong",
        conf={"cniVersion": 1},
    ),
    Wrong("CHECK before 0.4.0", "1 config version does not allow CHECK", command="CHECK", conf={"cniVersion": "0.3.1"}),
    Wrong(
        "CHECK without a result",
        "999 host-local: Failed to find address added by container c1",
        "7 Required prevResult missing",
        "the specification's code; the missing result is found before leases are asked",
        command="CHECK",
    ),
    Wrong("an unknown command", "4 unknown CNI_COMMAND: FOO", command="FOO"),
    Wrong(
        "no CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME",
        "4 required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing",
        environment={"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ""},
    ),
    Wrong("a container ID with a slash", "4 invalid characters in containerID", environment={"CNI_CONTAINERID": "a/b"}),
    Wrong("CNI_IFNAME of 16 bytes", "4 interface name is too long", environment={"CNI_IFNAME": "a234567890123456"}),
    Wrong("CNI_IFNAME `.`", "4 interface name is . or ..", environment={"CNI_IFNAME": "."}),
    Wrong(
        "CNI_IFNAME with a colon",
        "4 interface name contains / or : or whitespace characters",
        environment={"CNI_IFNAME": "a:b"},
    ),
    Wrong(
        "a namespace that is not there",
        '999 failed to open netns "/run/netns/none": failed to Statfs "/run/netns/none": no such file or directory',
        '4 CNI_NETNS: failed to open netns "/run/netns/none": no such file or directory',
        "code 4 is for the environment",
        environment={"CNI_NETNS": "/run/netns/none"},
    ),
    Wrong(
        "CNI_ARGS without =",
        '999 ARGS: invalid pair "a"',
        '4 CNI_ARGS: invalid pair "a"',
        "code 4 is for the environment",
        plugin="host-local",
        conf=_range(),
        environment={"CNI_ARGS": "a"},
    ),
    Wrong(
        "CNI_ARGS with an unknown key",
        '999 ARGS: unknown args ["FOO=1"]',
        "an answer",
        "CNI_ARGS are for all plugins of a chain: one cannot know the keys of others; IgnoreUnknown is not needed",
        environment={"CNI_ARGS": "FOO=1"},
    ),
    Wrong(
        "hairpinMode and promiscMode",
        "999 cannot set hairpin mode and promiscuous mode at the same time.",
        conf={"hairpinMode": True, "promiscMode": True},
    ),
    Wrong(
        "a flag that is text",
        "999 failed to load netconf: json: cannot unmarshal string into Go struct field NetConf.isGateway of type bool",
        '7 "isGateway": "true": want true or false',
        _KEY,
        conf={"isGateway": "true"},
    ),
    Wrong(
        "a misspelt key",
        "an answer",
        '2 "isGatway": true: there is no such key; did you mean "isGateway"?',
        "what is misspelt has no effect",
        conf={"isGatway": True},
    ),
    Wrong(
        "mac that is none",
        "999 failed to make veth pair: address zz: invalid MAC address",
        "7 \"mac\": 'zz': want six bytes such as 0a:58:0a:c8:00:02",
        _KEY,
        conf={"args": {"cni": {"mac": "zz"}}},
    ),
    Wrong(
        "an address plugin that is not there",
        '999 failed to find plugin "nope" in path [/usr/lib/cni]',
        '999 failed to find plugin "nope" in path [/opt/cni/bin]',
        _VALUE,
        conf={"ipam": {"type": "nope"}},
    ),
    Wrong(
        "an address plugin with a slash",
        "999 invalid plugin name: a/b",
        "999 invalid plugin name: 'a/b'",
        _VALUE,
        conf={"ipam": {"type": "a/b"}},
    ),
    Wrong(
        "prevResult of another version",
        "999 host-local: Failed to find address added by container c1",
        '1 could not parse prevResult: its version is "9.9"',
        _CODE,
        command="CHECK",
        conf={"prevResult": {"cniVersion": "9.9", "ips": []}},
    ),
    Wrong(
        "prevResult with a bad address",
        "999 host-local: Failed to find address added by container c1",
        '6 could not parse prevResult: "prevResult.ips.address": "bad": want an address with a prefix length, such as 10.200.0.2/24',
        "the result is read before anything is asked; code 6, and where it stands",
        command="CHECK",
        conf={"prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "bad"}]}},
    ),
    Wrong(
        "no range",
        "999 no IP ranges specified",
        '7 "ipam.ranges": no IP ranges specified',
        _KEY,
        plugin="host-local",
        conf=_ipam(),
    ),
    Wrong(
        "a subnet that is none",
        "999 invalid CIDR address: bogus",
        "7 \"ipam.subnet\": 'bogus' does not appear to be an IPv4 or IPv6 network; want a network such as 10.200.0.0/24",
        _KEY,
        plugin="host-local",
        conf=_ipam(subnet="bogus"),
    ),
    Wrong(
        "a subnet with host bits",
        "999 invalid range set 0: Network has host bits set. For a subnet mask of length 24 the network address is 10.22.0.0",
        '7 "ipam.subnet": 10.22.0.1/24 has host bits set; want a network such as 10.200.0.0/24',
        _KEY,
        plugin="host-local",
        conf=_ipam(subnet="10.22.0.1/24"),
    ),
    Wrong(
        "a subnet too small",
        "999 invalid range set 0: Network 10.22.0.0/31 too small to allocate from",
        '7 "ipam.subnet": network 10.22.0.0/31 too small to allocate from',
        _KEY,
        plugin="host-local",
        conf=_ipam(subnet="10.22.0.0/31"),
    ),
    Wrong(
        "rangeStart outside",
        "999 invalid range set 0: RangeStart 10.9.0.1 not in network 10.22.0.0/24",
        '7 "ipam.ranges.rangeStart": 10.9.0.1 not in network 10.22.0.0/24',
        _KEY,
        plugin="host-local",
        conf=_range(rangeStart="10.9.0.1"),
    ),
    Wrong(
        "rangeEnd outside",
        "999 invalid range set 0: RangeEnd 10.9.0.1 not in network 10.22.0.0/24",
        '7 "ipam.ranges.rangeEnd": 10.9.0.1 not in network 10.22.0.0/24',
        _KEY,
        plugin="host-local",
        conf=_range(rangeEnd="10.9.0.1"),
    ),
    Wrong(
        "rangeStart after rangeEnd",
        "999 invalid range set 0: RangeStart 10.22.0.9 not in network 10.22.0.0/24",
        '7 "ipam.ranges.rangeStart": 10.22.0.9 comes after rangeEnd 10.22.0.8',
        _KEY,
        plugin="host-local",
        conf=_range(rangeStart="10.22.0.9", rangeEnd="10.22.0.8"),
    ),
    Wrong(
        "a gateway that is none",
        "999 invalid IP address: xx",
        '7 "ipam.ranges.gateway": "xx": want an IP address',
        _KEY,
        plugin="host-local",
        conf=_range(gateway="xx"),
    ),
    Wrong(
        "a set without ranges",
        "999 invalid range set 0: empty range set",
        '7 "ipam.ranges": want a list of sets, each a list of ranges',
        _KEY,
        plugin="host-local",
        conf=_ipam(ranges=[[]]),
    ),
    Wrong(
        "a set of both families",
        "999 invalid range set 0: mixed address families",
        '7 "ipam.ranges": mixed address families in a set: 10.22.0.0/24 and fd00:22::/64',
        _KEY,
        plugin="host-local",
        conf=_ipam(ranges=[[V4, V6]]),
    ),
    Wrong(
        "ranges that overlap in a set",
        "999 invalid range set 0: subnets 10.22.0.1-10.22.0.254 and 10.22.0.1-10.22.0.126 overlap",
        '7 "ipam.ranges": subnet 10.22.0.0/25 overlaps with 10.22.0.0/24: 10.22.0.1-10.22.0.126 and 10.22.0.1-10.22.0.254',
        _KEY,
        plugin="host-local",
        conf=_ipam(ranges=[[V4, {"subnet": "10.22.0.0/25"}]]),
    ),
    Wrong(
        "sets that overlap",
        "999 range set 0 overlaps with 1",
        '7 "ipam.ranges": range set 1 overlaps with an earlier one: 10.22.0.1-10.22.0.126 and 10.22.0.1-10.22.0.254',
        _KEY,
        plugin="host-local",
        conf=_ipam(ranges=[[V4], [{"subnet": "10.22.0.0/25"}]]),
    ),
    Wrong(
        "two sets of a family at 0.2.0",
        "999 CNI version 0.2.0 does not support more than 1 address per family",
        '7 "ipam.ranges": CNI version 0.2.0 does not support more than 1 address per family',
        _CODE,
        plugin="host-local",
        conf={"cniVersion": "0.2.0", **_ipam(ranges=[[V4], [{"subnet": "10.23.0.0/24"}]])},
    ),
    Wrong(
        "an address that is asked for and is the gateway",
        "999 failed to allocate for range 0: requested ip 10.22.0.1 is subnet's gateway",
        plugin="host-local",
        conf=_range(),
        environment={"CNI_ARGS": "IP=10.22.0.1"},
    ),
    Wrong(
        "an address that is asked for and in no range",
        "999 failed to allocate all requested IPs: 10.9.0.1",
        "7 failed to allocate all requested IPs: 10.9.0.1",
        "seen before an address is taken",
        plugin="host-local",
        conf=_range(),
        environment={"CNI_ARGS": "IP=10.9.0.1"},
    ),
    Wrong(
        "a resolvConf that is not there",
        "999 open /run/none: no such file or directory",
        plugin="host-local",
        conf=_ipam(**V4, resolvConf="/run/none"),
    ),
    Wrong(
        "CHECK of a container without a lease",
        "999 host-local: Failed to find address added by container c1",
        plugin="host-local",
        command="CHECK",
        conf=_range(),
    ),
    Wrong(
        "static without prefix length",
        "999 the 'address' field is expected to be in CIDR notation, got: '10.1.0.1'",
        '7 "address": the \'address\' field is expected to be in CIDR notation, such as 10.10.0.1/24, got: "10.1.0.1"',
        _KEY,
        plugin="static",
        conf={"ipam": {"type": "static", "addresses": [{"address": "10.1.0.1"}]}},
    ),
    Wrong(
        "CNI_ARGS IP without prefix length",
        "999 the 'ip' field is expected to be in CIDR notation, got: '10.1.0.1'",
        '7 "ip": the \'ip\' field is expected to be in CIDR notation, such as 10.10.0.1/24, got: "10.1.0.1"',
        _KEY,
        plugin="static",
        conf={"ipam": STATIC},
        environment={"CNI_ARGS": "IP=10.1.0.1"},
    ),
    Wrong(
        "a gateway for static that is none",
        "999 invalid gateway address: zz",
        '7 "GATEWAY": invalid gateway address: "zz" in CNI_ARGS',
        _KEY,
        plugin="static",
        conf={"ipam": STATIC},
        environment={"CNI_ARGS": "GATEWAY=zz"},
    ),
    Wrong(
        "no ipam for static",
        "999 IPAM config missing 'ipam' key",
        '7 "ipam.addresses": no address is given',
        _KEY,
        plugin="static",
    ),
    Wrong("CHECK of loopback that is down", "999 loopback interface is down", plugin="loopback", command="CHECK"),
)


# -- the document's tables


def tables() -> dict[str, str]:
    """The tables by name: configurations, differences, errors."""
    return {"matrix": _rows(), "differences": _differences(), "errors": _errors()}


def _rows() -> str:
    lines = ["| plugins | configuration | versions | shows |", "|---|---|---|---|"]
    for row in ROWS:
        versions = "all" if {*row.versions} == {*ALL} else ", ".join(row.versions)
        shows = ", ".join(one.name for one in DIFFERENCES if one.row == row.name)
        lines.append(f"| {row.types} | {row.keys} | {versions} | {shows} |")
    return "\n".join(lines)


def _differences() -> str:
    lines = ["| name | here | why |", "|---|---|---|"]
    return "\n".join(lines + [f"| {one.name} | {one.what} | {one.why} |" for one in DIFFERENCES])


def _errors() -> str:
    lines = ["| call | reference | here | why |", "|---|---|---|---|"]
    lines += [
        f"| {one.plugin}: {one.what} | {_cell(one.reference)} | {_cell(one.ours)} | {one.why} |"
        for one in WRONG
        if one.ours
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text if text == "an answer" else f"`{text}`".replace("|", "\\|")


def written(text: str) -> str:
    """The document with its tables written anew, each behind its mark."""
    for name, table in tables().items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(?=\n\n|\Z)",
            lambda found, table=table: found[1] + table,
            text,
            count=1,
            flags=re.DOTALL,
        )
    return text


DOCUMENT = Path(__file__).resolve().parents[1] / "docs/design/cni.md"

if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
