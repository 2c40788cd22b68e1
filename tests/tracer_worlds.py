"""Worlds for tests of the tracer: the dumps of a real cluster, and machines made of single rulesets."""

from __future__ import annotations

import functools
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glassnet.kernel.archive import read_files
from glassnet.net import address
from glassnet.netstack.model import Address, Link, NextHop, Route
from glassnet.netstack.namespace import NetStack
from glassnet.ruleset.model import Ruleset, Table
from glassnet.tracer.machine import Machine
from glassnet.tracer.snapshot import read_world
from glassnet.tracer.trace import Tracer
from glassnet.tracer.world import World

DATA = Path(__file__).parent / "data" / "snapshots"
CAPTURES = ("hardway-iptables", "hardway-iptables-legacy", "hardway-nftables")


def capture_path(name: str) -> str:
    """Where a capture lies."""
    return str(DATA / f"{name}.tar.xz")


@functools.cache
def capture_files(name: str) -> dict[str, bytes]:
    """The files of a capture. Copy before changing."""
    return read_files(capture_path(name))


@functools.cache
def capture(name: str) -> tuple[World, Tracer]:
    """A capture's world, read once."""
    world = read_world(capture_files(name), name)
    return world, Tracer(world)


def flows(name: str) -> list[dict[str, Any]]:
    """What happened to real packets in a capture."""
    found: list[dict[str, Any]] = json.loads(capture_files(name)["flows.json"])
    return found


def scenarios() -> Iterator[dict[str, Any]]:
    """Small scenarios with the ruleset kube-proxy wrote and the kernel's verdicts."""
    for line in lzma.decompress((DATA / "flows-with-rules.jsonl.xz").read_bytes()).splitlines():
        yield json.loads(line)


def number(text: str) -> int:
    """An address as a number."""
    return address.number(address.canonical(text))


def lone_node(tables: list[Table], addresses: list[str], pods: str = "10.0.0.0/8") -> World:
    """One node `node` with these rules: `addresses` on eth0, pods behind cni0, everything else by way of eth0."""
    stack = NetStack()
    stack.links = {"lo": Link(1, "lo", 65536, kind="loopback"), "eth0": Link(2, "eth0"), "cni0": Link(3, "cni0")}
    for text in addresses:
        bits = 128 if ":" in text else 32
        stack.addresses.append(Address(number(text), bits, bits, "eth0"))
    stack.addresses += [Address(number("127.0.0.1"), 32, 8, "lo", "host"), Address(1, 128, 128, "lo", "host")]
    network, mask, bits = address.prefix(pods)
    stack.routes = [
        Route(0, 0, 32, hops=(NextHop("eth0"),)),
        Route(0, 0, 128, hops=(NextHop("eth0"),)),
        Route(network, mask.bit_count(), bits, hops=(NextHop("cni0"),)),
    ]
    stack.sysctls = {
        "net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1", "net.ipv4.conf.all.route_localnet": "1",
        "net.ipv4.conf.all.accept_local": "1",
    }  # fmt: skip
    world = World()
    world.add(Machine("node", "node", stack, Ruleset(tables)))
    return world
