"""What a lab is made with: the words of `glassnet up`, kept beside the lab so that it can be told apart and resumed."""

from __future__ import annotations

from typing import Literal

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one lab. CIDRs are text such as "10.240.0.0/24"; `workers` counts the machines that run pods.

    "" and 0 stand for what the profile says: `profiles.ranges.settle` puts that in their place. `proxy`, `cni`, `routes` and `dns` are the
    parts of a cluster's network; "none" leaves one to whoever is to bring it. `cni` is the name of a ready configuration. `addons` are what
    a cluster's users put on top. `iptables_layout` is how the proxy's iptables chains are laid out: today's kube-proxy's, or 1.18's.
    The cloud's probes and deadlines are `cloud_speed` times as fast as the real one's.
    """

    name: str = "lab"
    profile: str = "hardway"
    workers: int = 0
    proxy: Literal["", "iptables", "nftables", "none"] = ""
    iptables_layout: Literal["", "current", "classic"] = ""
    cni: str = ""
    routes: Literal["", "vpc", "none"] = ""
    dns: Literal["knot", "none"] = "knot"
    addons: tuple[Literal["ingress"], ...] = ()
    load_balancer: Literal["", "floating-ip", "pass-through", "node-port-targets", "none"] = ""
    cloud_speed: int = 10
    ip_family: Literal["", "ipv4", "dual"] = ""
    node_cidr: str = ""
    pod_cidr: str = ""
    service_cidr: str = ""
    public_cidr: str = ""

    def to_json(self) -> str:
        """The settings as JSON text."""
        return msgspec.json.encode(self).decode()


def from_json(text: str) -> Settings:
    """Read `to_json` back. Raises msgspec.ValidationError."""
    return msgspec.json.decode(text, type=Settings)
