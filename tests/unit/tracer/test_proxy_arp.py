"""A router that answers ARP for everybody on a link, as a cloud's network does: who gets a packet then."""

from __future__ import annotations

import pytest
from tests.tracer_worlds import number

from glassnet.netstack.model import Address, Link, Neighbour
from glassnet.netstack.namespace import NetStack
from glassnet.ruleset.model import Ruleset
from glassnet.tracer.machine import HOST, NODE, POD, Machine
from glassnet.tracer.world import World

OURS, THEIRS, ROUTER = "0a:00:00:00:00:01", "0a:00:00:00:00:02", "12:34:56:78:9a:bc"


def machine(name: str, kind: str, address: str, mac: str, node: str = "") -> Machine:
    stack = NetStack()
    stack.links = {"eth0": Link(2, "eth0", hardware=mac)}
    stack.addresses = [Address(number(address), 32, 16, "eth0")]
    return Machine(name, kind, stack, Ruleset(), node)


def world(answers: str = "1", known: str = "") -> World:
    """Two nodes, a pod of the second with an address of their network, and a router; `known` is the MAC the first has for the second."""
    found = World()
    first = machine("first", NODE, "10.240.0.4", OURS)
    if known:
        entry = Neighbour(number("10.240.0.35"), 32, "eth0", known, "REACHABLE")
        first.stack.neighbours[entry.value, 32, "eth0"] = entry
    router = machine("router", HOST, "10.240.0.1", ROUTER)
    router.stack.sysctls["net.ipv4.conf.eth0.proxy_arp_pvlan"] = answers
    for each in (first, machine("second", NODE, "10.240.0.35", THEIRS), machine("d/p", POD, "10.240.0.36", "0a:00:00:00:00:03", "second"), router):  # fmt: skip
        found.add(each)
    return found


def asked(place: World, address: str) -> str:
    found = place.neighbour(place.machines["first"], "eth0", number(address), 32)
    return found[0].name if found else ""


@pytest.mark.parametrize(
    ("answers", "known", "address", "who"),
    [
        ("1", "", "10.240.0.36", "router"),  # a pod of another node
        ("0", "", "10.240.0.36", ""),
        ("1", ROUTER, "10.240.0.35", "router"),  # the neighbour table tells
        ("1", THEIRS, "10.240.0.35", "second"),
        ("1", "", "10.240.0.35", "second"),
        ("1", "", "10.240.9.9", "router"),  # nobody has it: the router will know
        ("1", "", "10.240.0.1", "router"),
    ],
)
def test_who_gets_the_packet(answers: str, known: str, address: str, who: str) -> None:
    assert asked(world(answers, known), address) == who


def test_a_router_of_another_network_does_not_answer() -> None:
    place = world()
    place.machines["router"].stack.addresses = [Address(number("10.9.0.1"), 32, 24, "eth0")]
    assert asked(place, "10.240.0.36") == ""
