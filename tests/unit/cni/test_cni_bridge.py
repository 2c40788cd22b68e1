"""bridge's decisions: what it reads, what it would do to the kernel, what it undoes wherever it is stopped; and bytes this kernel cannot take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from typing import Any

import pytest

from glassnet.cni import bridge, bridge_vlans, plugins, spoof_check, wiring
from glassnet.cni import effects as e
from glassnet.cni.errors import CniError
from glassnet.cni.request import Attachment, Call, read_call
from glassnet.cni.result import Ip
from glassnet.kernel import netlink
from glassnet.net.errors import GlassnetError
from glassnet.netstack import ops
from glassnet.netstack.model import Address, BridgePort, Link
from glassnet.ruleset import nft_reader as reader

IPAM = {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd00:22::/64"}]]}


def call(command: str = "ADD", cni_args: str = "", **changes: Any) -> Call:
    config = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0", "isGateway": True, "ipam": IPAM}
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0",
                   "CNI_PATH": "/opt/cni/bin", "CNI_ARGS": cni_args}  # fmt: skip
    return read_call("bridge", environment, json.dumps({**config, **changes}), 9)


# -- configuration


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"vlan": 4095}, 7, '"vlan": 4095: want a number from 0 to 4094'),
        ({"vlan": "7"}, 7, '"vlan": "7": want a whole number'),
        ({"vlanTrunk": [{"minID": 5}]}, 7, "minID and maxID should be configured simultaneously, maxID is missing"),
        ({"vlanTrunk": [{"maxID": 5}]}, 7, "minID and maxID should be configured simultaneously, minID is missing"),
        ({"vlanTrunk": [{"minID": 6, "maxID": 5}]}, 7, "minID is greater than maxID in trunk parameter"),
        ({"vlanTrunk": [{"id": 0}]}, 7, '"vlanTrunk.id": 0: want a number from 1 to 4094'),
        ({"vlanTrunk": [{}]}, 7, 'want "id", or "minID" and "maxID"'),
        ({"vlanTrunk": [{"id": 3, "max": 4}]}, 2, "there is no such key"),
        ({"portIsolation": "true"}, 7, '"portIsolation": "true": want true or false'),
        ({"ipMasqBackend": "ebtables"}, 7, 'unknown ipmasq backend "ebtables"'),
        ({"hairpinMode": True, "promiscMode": True}, 999, "cannot set hairpin mode and promiscuous mode"),
        ({"disableContainerInterface": True}, 999, "cannot use IPAM when DisableContainerInterface flag is set"),
        ({"macspoofcheck": True}, 2, 'did you mean "macspoofchk"?'),
        ({"runtimeConfig": {"mac": "zz"}}, 7, "want six bytes"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_told(changes: dict[str, Any], code: int, says: str) -> None:
    with pytest.raises(CniError) as caught:
        bridge.parse(call(**changes))
    assert caught.value.code == code and says in str(caught.value)


def test_the_mac_of_the_runtime_comes_first() -> None:
    given = {"runtimeConfig": {"mac": "02:00:00:00:00:01"}, "args": {"cni": {"mac": "02:00:00:00:00:02"}}}
    assert bridge.parse(call(cni_args="MAC=02:00:00:00:00:03", **given)).mac == "02:00:00:00:00:01"
    del given["runtimeConfig"]
    assert bridge.parse(call(cni_args="MAC=02:00:00:00:00:03", **given)).mac == "02:00:00:00:00:02"
    assert bridge.parse(call(cni_args="MAC=02:00:00:00:00:AB")).mac == "02:00:00:00:00:ab"


def test_macs_follow_from_addresses() -> None:
    assert wiring.hardware("10.22.0.2") == "0a:58:0a:16:00:02"
    first, second = wiring.hardware("fd00:1::2"), wiring.hardware("fd00:2::2")
    assert first != second and first.startswith("0a:58:") and len(first) == 17


# -- VLANs


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, []),
        ({"vlan": 7}, [ops.DelPortVlan("p", 1, 4094), ops.AddPortVlan("p", 7, pvid=True, untagged=True)]),
        ({"vlan": 7, "preserveDefaultVlan": True}, [ops.AddPortVlan("p", 7, pvid=True, untagged=True)]),
        (
            {"vlanTrunk": [{"id": 9}, {"minID": 5, "maxID": 7}, {"minID": 6, "maxID": 8}, {"id": 20}]},
            [ops.DelPortVlan("p", 1, 4094), ops.AddPortVlan("p", 5, 9), ops.AddPortVlan("p", 20, 20),
             ops.AddPortVlan("p", 1, pvid=True, untagged=True)],
        ),
        (
            {"vlan": 6, "vlanTrunk": [{"minID": 5, "maxID": 7}], "preserveDefaultVlan": True},
            [ops.AddPortVlan("p", 5, 5), ops.AddPortVlan("p", 7, 7), ops.AddPortVlan("p", 6, pvid=True, untagged=True)],
        ),
    ],
)  # fmt: skip
def test_a_port_gets_its_vlans(changes: dict[str, Any], wanted: list[ops.Operation]) -> None:
    assert bridge_vlans.port_operations("p", bridge_vlans.read(call(**changes).fields)) == wanted


def test_the_gateway_of_a_vlan_is_a_port_too() -> None:
    vlans = bridge_vlans.Vlans(7, (8, 9))
    made = bridge_vlans.gateway_operations(
        "br0", vlans, "veth1", "net", ("02:00:00:00:00:01", "0a:58:0a:16:00:01"), 1450
    )
    assert made[0] == ops.AddVeth(
        "veth1", "br0.7", hardware="02:00:00:00:00:01", peer_hardware="0a:58:0a:16:00:01", mtu=1450, master="br0"
    )
    assert ops.AddPortVlan("veth1", 7, pvid=True, untagged=True) in made
    assert not [one for one in made if isinstance(one, ops.AddPortVlan) and one.first in (8, 9)]
    assert {one.name for one in made if isinstance(one, ops.SetLink) and one.up} == {"veth1", "br0.7"}
    with pytest.raises(CniError, match="longer than 15 bytes"):
        bridge_vlans.gateway_name("a-long-bridge", 100)


class _Numbers:
    """Stands for a socket: every link has number 7."""

    def index(self, name: str) -> int:
        return 7


@pytest.mark.parametrize(
    ("operation", "kind", "wanted"),
    [
        # what bridge(8) of iproute2 6.1 sends behind the ifinfomsg: vlan add vid 7 pvid untagged; vid 5-9; vlan del vid 1-4094
        (ops.AddPortVlan("p", 7, pvid=True, untagged=True), 19, "0c001a00 0800020006000700"),
        (ops.AddPortVlan("p", 5, 9), 19, "14001a00 0800020008000500 0800020010000900"),
        (ops.DelPortVlan("p", 1, 4094), 17, "14001a00 0800020008000100 080002001000fe0f"),
    ],
)
def test_vlans_are_packed_as_iproute2_does(operation: Any, kind: int, wanted: str) -> None:
    sent, flags, body = netlink._PACK[type(operation)](_Numbers(), operation)  # type: ignore[arg-type]
    assert (sent, flags) == (kind, 0)
    assert body.hex() == ("07000000 07000000 00000000 00000000" + wanted).replace(" ", "")


def test_a_bridge_that_filters_vlans_is_packed_as_iproute2_does() -> None:
    _, _, body = netlink._PACK[ops.AddBridge](_Numbers(), ops.AddBridge("br0", vlan_filtering=True))  # type: ignore[arg-type]
    # IFLA_LINKINFO { IFLA_INFO_KIND "bridge", IFLA_INFO_DATA { IFLA_BR_VLAN_FILTERING 1 } }
    assert body.endswith(
        bytes.fromhex("1c001280 0a000100 627269646765 0000 0c000280 0500070001000000".replace(" ", ""))
    )


# -- the bridge and its addresses


def link(name: str = "br0", kind: str = "bridge", up: bool = True, **more: Any) -> Link:
    return Link(5, name, 1500, up, kind, hardware="0a:58:0a:16:00:01", **more)


def test_a_bridge_gets_only_what_it_lacks() -> None:
    conf, ips = bridge.parse(call()), (Ip("10.22.0.2/24", "10.22.0.1"),)
    assert bridge.bridge_operations(conf, ips, None) == [
        ops.AddBridge("br0", "0a:58:0a:16:00:01", exist_ok=True),
        ops.SetLink("br0", up=True),
    ]
    assert bridge.bridge_operations(conf, ips, link()) == []
    assert bridge.bridge_operations(conf, ips, link(up=False)) == [ops.SetLink("br0", up=True)]
    promisc = bridge.parse(call(promiscMode=True))
    assert bridge.bridge_operations(promisc, ips, link()) == [ops.SetLink("br0", up=True, promisc=True)]
    assert bridge.bridge_operations(promisc, ips, link(promiscuous=True)) == []
    assert bridge.bridge_operations(bridge.parse(call(vlan=7)), ips, link()) == [ops.SetBridge("br0", True)]
    with pytest.raises(CniError, match='"br0" already exists but is not a bridge'):
        bridge.bridge_operations(conf, ips, link(kind="dummy"))


def address(text: str) -> Address:
    one = ip_interface(text)
    return Address(int(one.ip), one.max_prefixlen, one.network.prefixlen, "br0")


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ([], ["+10.22.0.1/24", "+fd00:22::1/64"]),
        (["10.22.0.1/24", "fd00:22::1/64", "fe80::1/64"], []),
        (["10.22.0.1/24"], ["+fd00:22::1/64"]),
        (["10.99.0.1/24"], None),
        (["10.22.0.1/16"], None),
        (["fd00:22::7/56", "10.22.0.1/24"], None),
        (["fd00:99::1/64", "10.22.0.1/24"], ["+fd00:22::1/64"]),
        (["169.254.1.1/16", "10.22.0.1/24"], ["+fd00:22::1/64"]),
    ],
)
def test_gateways_come_to_the_bridge_unless_it_is_another_networks(there: list[str], wanted: list[str] | None) -> None:
    ips = (Ip("10.22.0.2/24", "10.22.0.1"), Ip("fd00:22::2/64", "fd00:22::1"))
    mine, held = call(), [address(one) for one in there]
    if wanted is None:
        with pytest.raises(CniError, match="already has an IP address different from"):
            bridge.address_operations(mine, bridge.parse(mine), ips, held)
        forced = call(forceAddress=True)
        made = bridge.address_operations(forced, bridge.parse(forced), ips, held)
        assert isinstance(made[0], ops.DelAddress) and made[0].address in there
    else:
        made = bridge.address_operations(mine, bridge.parse(mine), ips, held)
        assert (
            [f"+{one.address}" for one in made if isinstance(one, ops.AddAddress)] == wanted == [*wanted][: len(made)]
        )


def test_the_gateway_of_another_range_of_the_network_is_its_own() -> None:
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}, {"subnet": "10.23.0.0/24"}]]}
    mine = call(ipam=ipam)
    ips = (Ip("10.23.0.2/24", "10.23.0.1"),)
    made = bridge.address_operations(mine, bridge.parse(mine), ips, [address("10.22.0.1/24")])
    assert made == [ops.AddAddress("10.23.0.1/24", "br0", exist_ok=True)]


# -- a whole ADD, stopped anywhere


class World:
    """Answers of a node where all goes well; notes what was asked."""

    def __init__(self, fail: int = -1) -> None:
        self.asked: list[Any] = []
        self.fail = fail

    def answer(self, effect: Any) -> Any:
        self.asked.append(effect)
        if len(self.asked) - 1 == self.fail:
            raise GlassnetError("the node is out of order")
        answers: dict[type, Callable[[], Any]] = {
            e.Random: lambda: bytes(range(effect.count)),
            e.Reserve: lambda: ("10.22.0.2", "fd00:22::2"),
            e.FindLink: lambda: link(effect.name) if effect.name == "br0" else None,
            e.LinkState: lambda: "up",
            e.FindPort: lambda: BridgePort(effect.name, "br0"),
            e.HasProgram: lambda: True,
            e.NftListing: lambda: e.NftTable({spoof_check.chain(Attachment("c1", "eth0")): ""}, ()),
            e.SavedRules: lambda: "",
            e.Held: lambda: ("10.22.0.2", "fd00:22::2"),
        }
        return answers.get(type(effect), tuple)()


def drive(steps: Any, world: World) -> Any:
    send, value = steps.send, None
    while True:
        try:
            effect = send(value)
        except StopIteration as done:
            return done.value
        try:
            value, send = world.answer(effect), steps.send
        except GlassnetError as error:
            value, send = error, steps.throw


def whole() -> Call:
    return call(macspoofchk=True, ipMasq=True, enabledad=True, permanentNeighbours=True)


def operations(asked: list[Any]) -> Iterator[ops.Operation]:
    for effect in asked:
        if isinstance(effect, e.Apply):
            yield from effect.operations


def test_add_asks_for_little() -> None:
    world = World()
    plain = call()
    answer = drive(plugins.perform(plain), world)
    assert [one["address"] for one in answer["ips"]] == ["10.22.0.2/24", "fd00:22::2/64"]
    later = World()
    later_there = (address("10.22.0.1/24"), address("fd00:22::1/64"))
    answers = later.answer
    later.answer = lambda effect: (
        (later.asked.append(effect), later_there)[1] if isinstance(effect, e.ListAddresses) else answers(effect)
    )  # type: ignore[method-assign]
    drive(plugins.perform(plain), later)
    kinds = [type(effect).__name__ for effect in later.asked]
    assert kinds == [
        "Reserve",
        "FindLink",
        "ListAddresses",
        "Ensure",
        "Random",
        "Apply",
        "Ensure",
        "Apply",
        "LinkState",
        "Apply",
        "Ensure",
    ]


def test_wherever_add_is_stopped_it_takes_back_what_it_did() -> None:
    complete = World()
    drive(plugins.perform(whole()), complete)
    assert len(complete.asked) > 12
    for number, effect in enumerate(complete.asked):
        world = World(fail=number)
        with pytest.raises(GlassnetError, match="out of order"):
            drive(plugins.perform(whole()), world)
        before, undone = world.asked[: number + 1], world.asked[number + 1 :]
        reserved = any(isinstance(one, e.Reserve) for one in world.asked[:number])
        assert any(isinstance(one, e.Release) for one in undone) == reserved, effect
        paired = any(isinstance(one, ops.AddVeth) for one in operations(before))
        assert any(isinstance(one, e.Remove) for one in undone) == paired, effect
        guarded = any(isinstance(one, e.NftChange) for one in before)
        assert any(isinstance(one, e.NftChange) for one in undone) == guarded, effect
        masked = any(isinstance(one, e.Restore) for one in before)
        assert any(isinstance(one, e.Restore) for one in undone) or not masked, effect
        known = any(isinstance(one, ops.SetNeighbour) and one.dev == "br0" for one in operations(before))
        assert any(isinstance(one, ops.DelNeighbour) for one in operations(undone)) == known, effect


def test_del_goes_on_after_every_failure_and_tells_of_it() -> None:
    complete = World()
    gone = call("DEL", macspoofchk=True, ipMasq=True)
    drive(plugins.perform(gone), complete)
    wanted = {type(one) for one in complete.asked if isinstance(one, (e.Remove, e.NftChange, e.Restore, e.Release))}
    assert wanted == {e.Remove, e.NftChange, e.Restore, e.Release}
    for number, effect in enumerate(complete.asked):
        world = World(fail=number)
        if isinstance(effect, e.Restore):
            drive(plugins.perform(gone), world)  # looks what is left instead
            continue
        if isinstance(effect, e.Held) and number == 0:
            drive(plugins.perform(gone), world)  # the rules are looked for by the container then
            continue
        with pytest.raises(GlassnetError, match="out of order"):
            drive(plugins.perform(gone), world)
        follows = {e.Held: {e.Release}, e.HasProgram: {e.Restore}}
        follows[e.NftListing] = {e.NftChange, e.Restore}
        left = wanted - {type(effect)} - follows.get(type(effect), set())
        assert {type(one) for one in world.asked} >= left, effect


def test_an_address_that_stays_tentative_is_told() -> None:
    pauses = []

    def answer(effect: Any) -> Any:
        if isinstance(effect, e.Sleep):
            pauses.append(effect.seconds)
            return None
        return (Address(1, 128, 64, "eth0", tentative=True),)

    world = World()
    world.answer = answer  # type: ignore[method-assign]
    with pytest.raises(CniError, match="link eth0 still has tentative addresses after 10 seconds"):
        drive(wiring.detected((Ip("fd00:22::2/64"),), "eth0"), world)
    assert 9.9 < sum(pauses) < 10.2


def test_a_port_that_never_comes_up_is_told() -> None:
    world = World()
    world.answer = lambda effect: "lowerlayerdown" if isinstance(effect, e.LinkState) else None  # type: ignore[method-assign]
    with pytest.raises(CniError, match="bridge port in error state: lowerlayerdown"):
        drive(wiring.passing("veth1"), world)


def test_status_misses_br_netfilter_only_for_kubernetes() -> None:
    absent = World()
    answers = absent.answer
    absent.answer = lambda effect: (
        None if isinstance(effect, e.ReadSetting) else {} if isinstance(effect, e.Leases) else answers(effect)
    )  # type: ignore[method-assign]
    assert drive(plugins.perform(call("STATUS")), absent) is None
    with pytest.raises(CniError) as caught:
        drive(plugins.perform(call("STATUS", cni_args="K8S_POD_NAME=web")), absent)
    assert caught.value.code == 51 and caught.value.details == "modprobe br_netfilter"


# -- spoof check


def rule(one: Attachment, port: str, handle: int) -> reader.Rule:
    packed = spoof_check.added("net", one, port, "0a:58:00:00:00:01")[-4]
    return reader.rule(packed[20:])._replace(handle=handle)


def test_the_rules_let_one_mac_through() -> None:
    made = [
        reader.rule(one[20:])
        for one in spoof_check.added("net", Attachment("c1", "eth0"), "veth1", "0a:58:00:00:00:01")[-4:]
    ]
    assert [one.words for one in made] == [
        ("meta 6", f"== {b'veth1'.ljust(16, bytes(1)).hex()}", "jump cni-br-iface-c1-eth0"),
        ("jump cni-br-iface-c1-eth0-mac",),
        ("payload 0 6 6", "== 0a5800000001", "return"),
        ("drop",),
    ]
    assert {one.note for one in made} == {"macspoofchk-c1-eth0"}


def test_orphans_are_ours_by_network_and_others_by_a_link_that_is_gone() -> None:
    one, two, theirs, other = (Attachment(name, "eth0") for name in ("c1", "c2", "c3", "c4"))
    rules = tuple(rule(each, f"veth{number}", number) for number, each in enumerate((one, two, theirs, other)))
    chains = {}
    for each, owner in ((one, "net: net"), (two, "net: net"), (theirs, ""), (other, "net: other")):
        chains |= {spoof_check.chain(each): owner, f"{spoof_check.chain(each)}-mac": owner}
    listing = e.NftTable(chains, rules)
    everything = {"veth0", "veth1", "veth2", "veth3"}
    names = [spoof_check.chain(each) for each in (one, two, theirs, other)]
    found = spoof_check.orphans(listing, "net", {two}, everything)
    assert found == {names[0], f"{names[0]}-mac"}
    found = spoof_check.orphans(listing, "net", {two}, everything - {"veth2"})
    assert found == {names[0], f"{names[0]}-mac", names[2], f"{names[2]}-mac"}
