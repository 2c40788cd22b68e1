"""What a lab is made with: the words of `glassnet up`, kept beside the lab so that it can be told apart and resumed."""

from __future__ import annotations

from typing import Literal

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one lab. CIDRs are text such as "10.240.0.0/24"; `workers` counts the machines that run pods.

    `proxy`, `cni`, `routes` and `dns` are the parts of a cluster's network; "none" leaves one to whoever is to bring it. `addons`
    are what a cluster's users put on top. `iptables_layout` is how the proxy's iptables chains are laid out: today's kube-proxy's, or 1.18's.
    """

    name: str = "lab"
    profile: str = "hardway"
    workers: int = 3
    proxy: Literal["iptables", "nftables", "none"] = "iptables"
    cni: Literal["hardway", "none"] = "hardway"
    routes: Literal["vpc", "none"] = "vpc"
    dns: Literal["knot", "none"] = "knot"
    addons: tuple[Literal["ingress"], ...] = ()
    iptables_layout: Literal["current", "classic"] = "current"
    node_cidr: str = "10.240.0.0/24"
    pod_cidr: str = "10.200.0.0/16"
    service_cidr: str = "10.32.0.0/24"
    public_cidr: str = "203.0.113.0/24"

    def to_json(self) -> str:
        """The settings as JSON text."""
        return msgspec.json.encode(self).decode()


def from_json(text: str) -> Settings:
    """Read `to_json` back. Raises msgspec.ValidationError."""
    return msgspec.json.decode(text, type=Settings)
