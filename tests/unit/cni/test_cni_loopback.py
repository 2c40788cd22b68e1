"""loopback: the container's lo goes up and down."""

from __future__ import annotations

from typing import Any

import pytest
from carried import Carried, call

from glassnet.cni import effects as e
from glassnet.cni import loopback
from glassnet.cni.effects import Where
from glassnet.cni.errors import CniError
from glassnet.cni.plugins import perform
from glassnet.netstack.model import Address, Link
from glassnet.netstack.ops import SetLink

LO = Address(0x7F000001, 32, 8, "lo", "host")
LO6 = Address(1, 128, 128, "lo", "host")


def carried(*addresses: Address, up: bool = True) -> Carried:
    return Carried(
        {
            e.Apply: lambda one: None,
            e.ListAddresses: lambda one: addresses,
            e.FindLink: lambda one: Link(1, "lo", 65536, up),
        }
    )


@pytest.mark.parametrize("version", ["0.2.0", "0.4.0", "1.1.0"])
def test_add_in_every_version(version: str) -> None:
    """Whatever CNI_IFNAME is; the reference plugin prints the newest shape under any version."""
    world = carried(LO, LO6)
    body = world.run(perform(call({"cniVersion": version, "type": "loopback"}, "loopback", CNI_IFNAME="eth7")))
    assert world.seen[0] == e.Apply(Where.POD, (SetLink("lo", up=True),)) and body is not None
    if version == "0.2.0":
        assert body == {"cniVersion": "0.2.0", "ip4": {"ip": "127.0.0.1/8"}, "ip6": {"ip": "::1/128"}, "dns": {}}
        return
    assert body["interfaces"] == [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "/run/netns/c1"}]
    shown: list[dict[str, Any]] = [{"interface": 0, "address": "127.0.0.1/8"}, {"interface": 0, "address": "::1/128"}]
    if version == "0.4.0":
        shown = [{"version": family, **one} for family, one in zip("46", shown, strict=True)]
    assert body["ips"] == shown


def test_a_previous_result_goes_through() -> None:
    previous = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}], "extra": 1}
    body = carried(LO).run(perform(call({"cniVersion": "1.0.0", "prevResult": previous}, "loopback")))
    assert body == {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}], "dns": {}}


def test_an_address_that_does_not_belong_there() -> None:
    with pytest.raises(CniError, match="loopback interface found with non-loopback address"):
        carried(LO, Address(0x01020304, 32, 32, "lo")).run(loopback.add(call({}, "loopback")))


def test_del_with_and_without_a_namespace() -> None:
    world = carried()
    world.run(loopback.delete(call({}, "loopback", "DEL")))
    assert world.seen == [e.Apply(Where.POD, (SetLink("lo", up=False),))]
    world = carried()
    world.run(loopback.delete(call({}, "loopback", "DEL", CNI_NETNS="")._replace(pod=-1)))
    assert world.seen == []


def test_check_and_status() -> None:
    carried(LO).run(loopback.check(call({}, "loopback", "CHECK")))
    with pytest.raises(CniError, match="loopback interface is down"):
        carried(LO, up=False).run(loopback.check(call({}, "loopback", "CHECK")))
    carried().run(loopback.status(call({}, "loopback", "STATUS")))


def test_there_is_nothing_to_configure() -> None:
    with pytest.raises(CniError, match="there is no such key") as caught:
        carried().run(loopback.add(call({"mtu": 9}, "loopback")))
    assert caught.value.code == 2
