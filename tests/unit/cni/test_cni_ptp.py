"""ptp's decisions: routes of both ends, and what is undone wherever ADD is stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from glassnet.cni import effects as e
from glassnet.cni import plugins, ptp
from glassnet.cni.errors import CniError
from glassnet.cni.request import Call, read_call
from glassnet.cni.result import Ip
from glassnet.net.errors import GlassnetError, KernelError
from glassnet.netstack import ops
from glassnet.netstack.model import Link

IPAM = {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd00:22::/64"}]]}
IPS = (Ip("10.22.0.2/24", "10.22.0.1"), Ip("fd00:22::2/64", "fd00:22::1"))


def call(command: str = "ADD", **changes: Any) -> Call:
    config = {"cniVersion": "1.1.0", "name": "p2p", "type": "ptp", "ipam": IPAM}
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0",
                   "CNI_PATH": "/opt/cni/bin"}  # fmt: skip
    return read_call("ptp", environment, json.dumps({**config, **changes}), 9)


def test_a_wrong_key_is_told() -> None:
    for changes, code in (({"isGateway": True}, 2), ({"mtu": "9000"}, 7), ({"ipMasqBackend": "x"}, 7)):
        with pytest.raises(CniError) as caught:
            ptp.parse(call(**changes))
        assert caught.value.code == code


def test_the_node_has_the_gateways_and_a_route_to_each_address() -> None:
    assert ptp.host_operations("veth1", IPS) == [
        ops.SetLink("veth1", up=True),
        ops.AddAddress("10.22.0.1/32", "veth1"),
        ops.AddAddress("fd00:22::1/128", "veth1"),
        ops.AddRoute("10.22.0.2/32", dev="veth1", protocol=3, scope=254),
        ops.AddRoute("fd00:22::2/128", dev="veth1", protocol=3, scope=0),
    ]
    shared = (Ip("10.22.0.2/24", "10.22.0.1"), Ip("10.22.0.3/24", "10.22.0.1"))
    made = ptp.host_operations("veth1", shared)
    assert len([one for one in made if isinstance(one, ops.AddAddress)]) == 1


def test_all_of_the_containers_network_goes_by_way_of_the_node() -> None:
    assert ptp.inside_operations("eth0", IPS[:1]) == [
        ops.SetLink("eth0", up=True),
        ops.AddAddress("10.22.0.2/24", "eth0", noprefixroute=True),
        ops.AddRoute("10.22.0.1/32", dev="eth0", source="10.22.0.2", protocol=3, exist_ok=True),
        ops.AddRoute("10.22.0.0/24", "10.22.0.1", "eth0", source="10.22.0.2", protocol=3, exist_ok=True),
    ]
    alone = ptp.inside_operations("eth0", (Ip("10.22.0.2/32", "169.254.1.1"),))
    assert [one.destination for one in alone if isinstance(one, ops.AddRoute)] == ["169.254.1.1/32"]


class World:
    """Answers of a node where all goes well; notes what was asked."""

    def __init__(self, fail: int = -1, taken: int = 0, inside: Link | None = None) -> None:
        self.asked: list[Any] = []
        self.fail, self.taken, self.inside = fail, taken, inside

    def answer(self, effect: Any) -> Any:
        self.asked.append(effect)
        if len(self.asked) - 1 == self.fail:
            raise GlassnetError("the node is out of order")
        pair = isinstance(effect, e.Apply) and any(isinstance(one, ops.AddVeth) for one in effect.operations)
        if pair and self.taken:
            self.taken -= 1
            raise KernelError("AddVeth", 17)
        answers: dict[type, Callable[[], Any]] = {
            e.Random: lambda: bytes([len(self.asked)] * effect.count),
            e.Reserve: lambda: ("10.22.0.2", "fd00:22::2"),
            e.FindLink: lambda: self.inside,
            e.LinkState: lambda: "up",
            e.HasProgram: lambda: True,
            e.NftListing: lambda: e.NftTable({}, ()),
            e.SavedRules: lambda: "",
            e.Held: lambda: ("10.22.0.2", "fd00:22::2"),
        }
        return answers.get(type(effect), tuple)()

    def drive(self, steps: Any) -> Any:
        send, value = steps.send, None
        while True:
            try:
                effect = send(value)
            except StopIteration as done:
                return done.value
            try:
                value, send = self.answer(effect), steps.send
            except GlassnetError as error:
                value, send = error, steps.throw


def test_wherever_add_is_stopped_it_takes_back_what_it_did() -> None:
    complete = World()
    answer = complete.drive(plugins.perform(call(ipMasq=True)))
    assert [one["interface"] for one in answer["ips"]] == [1, 1]
    for number in range(len(complete.asked)):
        world = World(fail=number)
        with pytest.raises(GlassnetError, match="out of order"):
            world.drive(plugins.perform(call(ipMasq=True)))
        before, undone = world.asked[: number + 1], world.asked[number + 1 :]
        assert any(isinstance(one, e.Release) for one in undone) == (number > 0)
        pair = any(isinstance(op, ops.AddVeth) for one in before if isinstance(one, e.Apply) for op in one.operations)
        assert any(isinstance(one, e.Remove) for one in undone) == pair
        masked = any(isinstance(one, e.Restore) for one in before)
        assert any(isinstance(one, e.Restore) for one in undone) or not masked


def test_a_name_that_is_taken_is_nobodys_to_remove() -> None:
    world = World(taken=2)
    answer = world.drive(plugins.perform(call()))
    names = [
        op.name
        for one in world.asked
        if isinstance(one, e.Apply)
        for op in one.operations
        if isinstance(op, ops.AddVeth)
    ]
    assert len(set(names)) == 3 and answer["interfaces"][0]["name"] == names[-1]
    assert not [one for one in world.asked if isinstance(one, e.Remove)]
    world = World(taken=1, inside=Link(2, "eth0"))
    with pytest.raises(CniError, match=r"container veth name provided \(eth0\) already exists"):
        world.drive(plugins.perform(call()))
    assert not [one for one in world.asked if isinstance(one, e.Remove)]
    assert [one for one in world.asked if isinstance(one, e.Release)]
    world = World(taken=99)
    with pytest.raises(CniError, match="failed to find a unique veth name"):
        world.drive(plugins.perform(call()))
