"""Which expressions nft's language has, and of which type each is: header fields, meta and ct keys, extension headers.

Sources: nft(8), sections PAYLOAD EXPRESSIONS, META EXPRESSIONS and CONNTRACK EXPRESSIONS; names of types as `nft describe` has them.
"""

from __future__ import annotations

_PORTS = {"sport": "inet_service", "dport": "inet_service"}


def _integers(names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), "integer")


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


PAYLOADS: dict[str, dict[str, str]] = {
    "ether": {"saddr": "ether_addr", "daddr": "ether_addr", "type": "ether_type"},
    "vlan": {**_integers("id dei cfi pcp"), "type": "ether_type"},
    "arp": {
        **_integers("htype hlen plen"),
        "ptype": "ether_type",
        "operation": "arp_op",
        "saddr ip": "ipv4_addr",
        "daddr ip": "ipv4_addr",
        "saddr ether": "ether_addr",
        "daddr ether": "ether_addr",
    },
    "ip": {
        **_integers("version hdrlength length id frag-off ttl checksum"),
        "saddr": "ipv4_addr",
        "daddr": "ipv4_addr",
        "protocol": "inet_proto",
        "dscp": "dscp",
        "ecn": "ecn",
    },
    "ip6": {
        **_integers("version flowlabel length hoplimit"),
        "saddr": "ipv6_addr",
        "daddr": "ipv6_addr",
        "nexthdr": "inet_proto",
        "dscp": "dscp",
        "ecn": "ecn",
    },
    "icmp": {**_integers("checksum id sequence mtu gateway"), "type": "icmp_type", "code": "icmp_code"},
    "icmpv6": {
        **_integers("checksum parameter-problem packet-too-big id sequence mtu max-delay"),
        "type": "icmpv6_type",
        "code": "icmpv6_code",
        "taddr": "ipv6_addr",
        "daddr": "ipv6_addr",
    },
    "igmp": {**_integers("mrt checksum"), "type": "igmp_type", "group": "ipv4_addr"},
    "ah": {**_integers("hdrlength reserved spi sequence"), "nexthdr": "inet_proto"},
    "esp": _integers("spi sequence"),
    "comp": {**_integers("flags cpi"), "nexthdr": "inet_proto"},
    "udp": {**_PORTS, **_integers("length checksum")},
    "udplite": {**_PORTS, **_integers("length csumcov checksum")},
    "tcp": {**_PORTS, **_integers("sequence ackseq doff reserved window checksum urgptr"), "flags": "tcp_flag"},
    "dccp": {**_PORTS, "type": "dccp_pkttype"},
    "sctp": {**_PORTS, **_integers("vtag checksum")},
    "th": dict(_PORTS),
    "gre": {**_integers("flags version hdrversion"), "protocol": "ether_type"},
    "vxlan": _integers("vni flags"),
    "geneve": {**_integers("vni flags"), "type": "ether_type"},
}
TUNNELS = frozenset({"vxlan", "geneve", "gre", "gretap"})

META = {
    "l4proto": "inet_proto", "nfproto": "nf_proto", "protocol": "ether_type", "mark": "mark", "iif": "iface_index", "oif": "iface_index",
    "iifname": "ifname", "oifname": "ifname", "iiftype": "iface_type", "oiftype": "iface_type", "iifgroup": "devgroup",
    "oifgroup": "devgroup", "iifkind": "ifname", "oifkind": "ifname", "skuid": "uid", "skgid": "gid", "pkttype": "pkt_type",
    "length": "integer", "priority": "classid", "nftrace": "integer", "cpu": "integer", "rtclassid": "realm", "cgroup": "cgroup",
    "random": "integer", "time": "moment", "day": "day", "hour": "hour", "ipsec": "boolean", "secpath": "boolean",
    "secmark": "string", "sdif": "iface_index", "sdifname": "ifname", "ibrname": "ifname", "obrname": "ifname",
    "ibriport": "ifname", "obriport": "ifname", "ibrpvid": "integer", "ibrvproto": "ether_type", "ibrhwaddr": "ether_addr",
    "broute": "integer",
}  # fmt: skip
UNQUALIFIED_META = _names(
    "mark iif oif iifname oifname iiftype oiftype iifgroup oifgroup iifkind oifkind skuid skgid pkttype nftrace cpu rtclassid cgroup "
    "time day hour ibriport obriport ibrname obrname sdif sdifname"
)

CT = {
    "state": "ct_state", "status": "ct_status", "mark": "mark", "direction": "ct_dir", "expiration": "time", "helper": "string",
    "label": "ct_label", "zone": "integer", "id": "integer", "event": "ct_event", "secmark": "string", "protocol": "inet_proto",
    "l3proto": "nf_proto", "bytes": "integer", "packets": "integer", "avgpkt": "integer", "saddr": "", "daddr": "",
    "proto-src": "inet_service", "proto-dst": "inet_service",
}  # fmt: skip
CT_ADDRESSES = {
    "ip saddr": "ipv4_addr",
    "ip daddr": "ipv4_addr",
    "ip6 saddr": "ipv6_addr",
    "ip6 daddr": "ipv6_addr",
}

FIB_FLAGS = frozenset({"saddr", "daddr", "mark", "iif", "oif"})
FIB_RESULTS = {"type": "fib_addrtype", "oif": "iface_index", "oifname": "ifname", "check": "boolean"}
SOCKET = {"transparent": "integer", "mark": "mark", "wildcard": "integer"}
ROUTES = {"classid": "realm", "nexthop": "", "mtu": "integer", "ipsec": "boolean"}

EXTENSION_HEADERS: dict[str, dict[str, str]] = {
    "hbh": {**_integers("hdrlength"), "nexthdr": "inet_proto"},
    "dst": {**_integers("hdrlength"), "nexthdr": "inet_proto"},
    "frag": {**_integers("frag-off reserved2 reserved more-fragments id"), "nexthdr": "inet_proto"},
    "rt": {**_integers("hdrlength type seg-left"), "nexthdr": "inet_proto"},
    "rt0": {},
    "rt2": {},
    "rt4": _integers("last-entry flags"),
    "srh": _integers("last-entry flags tag"),
    "mh": {**_integers("hdrlength checksum"), "nexthdr": "inet_proto", "type": "mh_type"},
}
TCP_OPTIONS: dict[str, tuple[str, ...]] = {
    "eol": ("kind",),
    "nop": ("kind",),
    "maxseg": ("kind", "length", "size"),
    "window": ("kind", "length", "count"),
    "sack-perm": ("kind", "length"),
    "sack": ("kind", "length", "left", "right"),
    "sack0": ("kind", "length", "left", "right"),
    "sack1": ("kind", "length", "left", "right"),
    "sack2": ("kind", "length", "left", "right"),
    "sack3": ("kind", "length", "left", "right"),
    "timestamp": ("kind", "length", "tsval", "tsecr"),
    "fastopen": ("kind", "length"),
    "md5sig": ("kind", "length"),
    "mptcp": ("kind", "length", "subtype"),
}
IP_OPTIONS: dict[str, tuple[str, ...]] = {
    "lsrr": ("type", "length", "ptr", "addr"),
    "ra": ("type", "length", "value"),
    "rr": ("type", "length", "ptr", "addr"),
    "ssrr": ("type", "length", "ptr", "addr"),
}
SCTP_CHUNKS = _names(
    "data init init-ack sack heartbeat heartbeat-ack abort shutdown shutdown-ack error cookie-echo cookie-ack ecne cwr "
    "shutdown-complete asconf-ack forward-tsn asconf i-data"
)
SCTP_FIELDS = _names(
    "type flags length tsn stream ssn ppid init-tag a-rwnd num-outbound-streams num-inbound-streams initial-tsn cum-tsn-ack "
    "num-gap-ack-blocks num-dup-tsns lowest-tsn seqno new-cum-tsn mid fsn"
)
