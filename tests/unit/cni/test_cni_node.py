"""The plugin `glassnet`: what it makes of the node, by the effects it asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glassnet.cni import effects as e
from glassnet.cni import node
from glassnet.cni.errors import NOT_AVAILABLE, TRY_AGAIN, UNSUPPORTED_FIELD, CniError
from glassnet.cni.node import NodeFacts, chain_name, read_facts, render_facts, rules
from glassnet.cni.plugins import answer
from glassnet.cni.result import VERSIONS
from glassnet.net.errors import KernelError
from glassnet.netstack.model import Link, NextHop, Route
from glassnet.netstack.ops import AddAddress, AddBridge, AddVeth

NODE = json.dumps({"podCIDRs": ["10.1.0.0/24", "fd00:1::/64"], "clusterCIDRs": ["10.1.0.0/16"]})
DEFAULT = Route(0, 0, 32, hops=(NextHop("ens3", 1),))


class Machine:
    """Answers effects as a bare node would, and remembers them."""

    def __init__(
        self,
        facts: str | None = NODE,
        links: tuple[Link, ...] = (Link(2, "ens3", 1450),),
        routes: tuple[Route, ...] = (DEFAULT,),
        fits: int = 0,
    ) -> None:
        self.fits = fits
        self.facts, self.routes = facts, routes
        self.links = {link.name: link for link in links}
        self.seen: list[e.Effect[Any]] = []

    def run(self, command: str, conf: dict[str, Any] | None = None, **environment: str) -> Any:
        """Carry out a call; its answer."""
        body = {"cniVersion": "1.1.0", "name": "pods", "type": "glassnet", **(conf or {})}
        words = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": "/run/netns/c1",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            **environment,
        }
        steps = answer("glassnet", words, json.dumps(body), 3)
        value: Any = None
        try:
            effect = steps.send(None)
            while True:
                self.seen.append(effect)
                if isinstance(effect, e.Restore) and len(self.of(e.Restore)) <= self.fits:
                    effect = steps.throw(KernelError("iptables-restore refused it", 1))
                    continue
                value = self.answer(effect)
                effect = steps.send(value)
        except StopIteration as done:
            return done.value

    def answer(self, effect: e.Effect[Any]) -> Any:
        match effect:
            case e.ReadFile(path=node.NODE_FILE):
                return self.facts
            case e.FindLink(where=e.Where.NODE, name=name):
                return self.links.get(name)
            case e.Apply(operations=operations):
                for one in operations:
                    if isinstance(one, AddBridge):
                        self.links[one.name] = Link(9, one.name, 1450, kind="bridge", hardware="0a:58:0a:01:00:01")
            case e.Reserve(sets=sets):
                return tuple(str(each[0].subnet[2]) for each in sets)
            case e.Random(count=count):
                return bytes(range(count))
            case e.ListRoutes():
                return self.routes
            case e.Held() | e.ListAddresses() | e.ListLinks():
                return ()
            case e.Leases():
                return {}
            case e.SavedRules():
                return ""
            case e.ReadSetting():
                return "1"
        return None

    def of(self, kind: type) -> list[Any]:
        """The effects of a kind, or the operations of one."""
        found = [one for one in self.seen if isinstance(one, kind)]
        return found or [
            one for each in self.seen if isinstance(each, e.Apply) for one in each.operations if isinstance(one, kind)
        ]


def test_a_bare_configuration_takes_all_from_the_node() -> None:
    machine = Machine()
    result = machine.run("ADD")
    assert [one["address"] for one in result["ips"]] == ["10.1.0.2/24", "fd00:1::2/64"]
    assert [one["dst"] for one in result["routes"]] == ["0.0.0.0/0", "::/0"]
    (veth,) = machine.of(AddVeth)
    (bridge,) = machine.of(AddBridge)
    assert (bridge.name, bridge.mtu, veth.mtu) == ("cni0", 1450, 1450)
    assert {one.address for one in machine.of(AddAddress)} >= {"10.1.0.1/24", "fd00:1::1/64"}
    reserve = machine.of(e.Reserve)[0]
    assert reserve.place == "/var/lib/cni/networks/pods"


def test_the_configuration_comes_before_the_node() -> None:
    machine = Machine(facts=None)
    result = machine.run(
        "ADD", {"podCIDRs": ["10.9.0.0/24"], "mtu": 1300, "bridge": "cbr0", "nonMasqueradeCIDRs": ["10.0.0.0/8"]}
    )
    assert [one["address"] for one in result["ips"]] == ["10.9.0.2/24"]
    assert machine.of(AddVeth)[0].mtu == 1300 and not machine.of(e.ListRoutes)
    assert "-d 10.0.0.0/8" in machine.of(e.Restore)[0].lines


def test_the_bridge_that_is_there_tells_the_mtu() -> None:
    """A dump of all routes at every ADD would take longer than the rest."""
    machine = Machine(links=(Link(9, "cni0", 1380, kind="bridge", hardware="0a:58:0a:01:00:01"),))
    machine.run("ADD")
    assert machine.of(AddVeth)[0].mtu == 1380 and not machine.of(e.ListRoutes)


def test_of_several_default_routes_the_preferred_one_tells_the_mtu() -> None:
    backup = Route(0, 0, 32, hops=(NextHop("wlan0", 1),), metric=600)
    other = Route(0, 0, 128, hops=(NextHop("tun0", 1),))
    machine = Machine(
        links=(Link(2, "ens3", 9000), Link(3, "wlan0", 1400), Link(4, "tun0", 1280)), routes=(other, backup, DEFAULT)
    )
    machine.run("ADD")
    assert machine.of(AddVeth)[0].mtu == 9000
    bare = Machine(routes=())
    bare.run("ADD")
    assert bare.of(AddVeth)[0].mtu == 0


def test_masquerade_is_there_before_the_container_is() -> None:
    machine = Machine()
    machine.run("ADD")
    kinds = [type(one) for one in machine.seen]
    assert kinds.index(e.Restore) < kinds.index(e.Reserve)
    four, six = machine.of(e.Restore)
    assert (four.family, six.family) == (4, 6)
    assert four.lines.splitlines() == [one.replace("-A", "-C", 1) for one in rules("pods", 4, read_facts(NODE))]


def test_rules_that_do_not_stand_are_made_by_the_transaction_that_fits() -> None:
    """Nothing there; a set that is not the right one; a chain that nothing leads to. A refusal of all is an error."""
    for fits in range(1, 5):
        machine = Machine(fits=fits)
        machine.run("ADD", {"podCIDRs": ["10.1.0.0/24"], "nonMasqueradeCIDRs": ["10.0.0.0/8"]})
        texts = [one.lines for one in machine.of(e.Restore)]
        assert len(texts) == fits + 1
        chain = chain_name("pods")
        assert texts[-1].startswith(("", f"-N {chain}\n", f":{chain} - [0:0]\n-D", f"-F {chain}\n-X", "-C")[fits])
    with pytest.raises(KernelError, match="refused"):
        Machine(fits=99).run("ADD", {"podCIDRs": ["10.1.0.0/24"]})


def test_masquerade_false_makes_no_rule() -> None:
    machine = Machine()
    machine.run("ADD", {"masquerade": False})
    assert not machine.of(e.Restore)


def test_rules_keep_what_goes_to_the_cluster_as_it_is() -> None:
    chain = chain_name("pods")
    jump, *rest = rules("pods", 4, NodeFacts(("10.1.0.0/24",), ("10.1.0.0/16", "fd00::/8")))
    assert jump == f'-A POSTROUTING -m comment --comment "masquerade what leaves the cluster: network pods" -j {chain}'
    digest = rest[0].partition("cluster, ")[2][:8]
    note = f'-m comment --comment "masquerade what leaves the cluster, {digest}: network pods"'
    assert rest == [
        f"-A {chain} -d 10.1.0.0/24 {note} -j RETURN",
        f"-A {chain} -d 10.1.0.0/16 {note} -j RETURN",
        f"-A {chain} -s 10.1.0.0/24 ! -d 224.0.0.0/4 {note} -j MASQUERADE",
    ]
    assert digest not in rules("pods", 4, NodeFacts(("10.1.0.0/24",), ()))[1]
    assert rules("pods", 6, NodeFacts(("10.1.0.0/24",), ())) == []
    assert rules("pods", 6, NodeFacts(("fd00::/64",), ("::/0",))) == []
    assert len(chain_name("n" * 300)) <= 28


@pytest.mark.parametrize(("command", "code"), [("ADD", TRY_AGAIN), ("CHECK", TRY_AGAIN), ("STATUS", NOT_AVAILABLE)])
def test_without_pod_cidrs_nothing_is_done_and_the_reason_told(command: str, code: int) -> None:
    for text in (None, '{"podCIDRs": []}'):
        machine = Machine(facts=text)
        with pytest.raises(CniError, match="the pod CIDRs of this node are not known") as raised:
            machine.run(command, {"prevResult": {"cniVersion": "1.1.0"}} if command == "CHECK" else None)
        assert raised.value.code == code and "/run/glassnet/node.json" in raised.value.details
        assert not machine.of(e.Apply) and not machine.of(e.Reserve)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"podCIDRs": ["x"]}', '{"podCIDRs": "10.1.0.0/24"}'])
def test_a_damaged_node_file_is_named(text: str) -> None:
    with pytest.raises(CniError, match=r"/run/glassnet/node\.json"):
        Machine(facts=text).run("ADD")


def test_the_node_file_is_read_as_it_was_written() -> None:
    facts = NodeFacts(("10.1.0.0/24", "fd00::/64"), ("10.1.0.0/16",))
    assert read_facts(render_facts(facts)) == facts
    assert read_facts(None) == NodeFacts()


@pytest.mark.parametrize(
    ("conf", "code", "says"),
    [
        ({"podCIDR": ["10.1.0.0/24"]}, UNSUPPORTED_FIELD, 'did you mean "podCIDRs"'),
        ({"ipam": {"type": "host-local"}}, UNSUPPORTED_FIELD, "there is no such key"),
        ({"podCIDRs": ["10.1.0.1/24"]}, 7, "has host bits set; want networks such as 10.200.0.0/24"),
        ({"hairpinMode": "yes"}, 7, "want true or false"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_named(conf: dict[str, Any], code: int, says: str) -> None:
    with pytest.raises(CniError, match=says) as raised:
        Machine().run("ADD", conf)
    assert raised.value.code == code


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_spoken(version: str) -> None:
    assert Machine().run("ADD", {"cniVersion": version})["cniVersion"] == version


def test_del_needs_neither_ranges_nor_a_right_configuration() -> None:
    machine = Machine(facts=None)
    machine.run("DEL", {"podCIDRs": "nonsense", "what": 1})
    assert machine.of(e.Held) and not machine.of(e.Restore)


def test_gc_takes_the_rules_with_the_last_container_only() -> None:
    alive = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    machine = Machine()
    machine.run("GC", alive)
    assert not machine.of(e.Restore)
    machine.run("GC", {"cni.dev/valid-attachments": []})
    assert [one.family for one in machine.of(e.Restore)] == [4, 6]
    assert all(f"-X {chain_name('pods')}" in one.lines for one in machine.of(e.Restore))


def test_what_the_runtime_asks_for_is_handed_on() -> None:
    machine = Machine()
    wish = {
        "runtimeConfig": {"mac": "02:00:00:00:00:07", "ips": ["10.1.0.7/24"]},
        "capabilities": {"mac": True, "ips": True},
    }
    result = machine.run("ADD", wish)
    assert result["interfaces"][2]["mac"] == "02:00:00:00:00:07"
    assert machine.of(e.Reserve)[0].wanted == ("10.1.0.7",)
