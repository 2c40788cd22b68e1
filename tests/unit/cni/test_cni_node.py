"""The plugin `glassnet`: what it makes of the node, and what it has the bridge plugin do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glassnet.cni import bridge, host_local, node
from glassnet.cni import effects as e
from glassnet.cni.bridge import Conf
from glassnet.cni.errors import NOT_AVAILABLE, TRY_AGAIN, UNSUPPORTED_FIELD, CniError
from glassnet.cni.host_local import Ipam
from glassnet.cni.node import NodeFacts, chain_name, read_facts, render_facts, rules
from glassnet.cni.plugins import answer
from glassnet.cni.request import Call
from glassnet.cni.result import VERSIONS, Interface, Ip, Result
from glassnet.net.errors import GlassnetError, KernelError
from glassnet.netstack.model import Link, NextHop, Route

NODE = json.dumps({"podCIDRs": ["10.1.0.0/24", "fd00:1::/64"], "clusterCIDRs": ["10.1.0.0/16"]})
DEFAULT = Route(0, 0, 32, hops=(NextHop("ens3", 1),))
ALL = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}


class Bridge:
    """Stands for the bridge plugin, whose own tests tell what it does: keeps how it was called, as that plugin reads it."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.confs: list[Conf] = []
        self.ipams: list[Ipam] = []
        self.fault: GlassnetError | None = None

    def add(self, call: Call) -> e.Steps[Result]:
        self._read(call)
        yield from e.ask(e.Random(1))
        return Result((Interface("eth0", sandbox=call.netns),), (Ip("10.1.0.2/24", "10.1.0.1", 0),))

    def check(self, call: Call) -> e.Steps[None]:
        self._read(call)
        yield from ()

    status = check

    def _read(self, call: Call) -> None:
        self.calls.append(call)
        self.confs.append(bridge.parse(call))
        self.ipams.append(host_local.parse(call))

    def delete(self, call: Call) -> e.Steps[None]:
        self.calls.append(call)
        if self.fault:
            raise self.fault
        yield from ()

    collect = delete


class Machine:
    """Answers effects as a bare node would, and remembers them. The `fits`-th transaction on rules is the first that is not refused."""

    def __init__(
        self,
        facts: str | None = NODE,
        links: tuple[Link, ...] = (Link(2, "ens3", 1450),),
        routes: tuple[Route, ...] = (DEFAULT,),
        fits: int = 0,
    ) -> None:
        self.facts, self.routes, self.fits = facts, routes, fits
        self.links = {link.name: link for link in links}
        self.seen: list[e.Effect[Any]] = []
        self.saved = ""

    def run(self, command: str, conf: dict[str, Any] | None = None, **environment: str) -> Any:
        """Carry out a call; its answer."""
        body = {"cniVersion": "1.1.0", "name": "pods", "type": "glassnet", **(conf or {})}
        words = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0"}
        steps = answer("glassnet", {**words, "CNI_PATH": "/opt/cni/bin", **environment}, json.dumps(body), 3)
        try:
            effect = steps.send(None)
            while True:
                self.seen.append(effect)
                if isinstance(effect, e.Restore) and len(self.of(e.Restore)) <= self.fits:
                    effect = steps.throw(KernelError("iptables-restore refused it", 1))
                else:
                    effect = steps.send(self.answer(effect))
        except StopIteration as done:
            return done.value

    def answer(self, effect: e.Effect[Any]) -> Any:
        match effect:
            case e.ReadFile(path=node.NODE_FILE):
                return self.facts
            case e.FindLink(where=e.Where.NODE, name=name):
                return self.links.get(name)
            case e.ListRoutes(where=e.Where.NODE):
                return self.routes
            case e.SavedRules():
                return self.saved
        return None

    def of(self, kind: type) -> list[Any]:
        """The effects of a kind."""
        return [one for one in self.seen if isinstance(one, kind)]


@pytest.fixture(autouse=True)
def below(monkeypatch: pytest.MonkeyPatch) -> Bridge:
    made = Bridge()
    monkeypatch.setattr(node, "bridge", made)
    return made


def test_a_bare_configuration_takes_all_from_the_node(below: Bridge) -> None:
    Machine().run("ADD")
    (conf,), (ipam,) = below.confs, below.ipams
    assert (conf.bridge, conf.mtu, conf.hairpin, conf.default_route, conf.ip_masq) == ("cni0", 1450, True, True, False)
    assert [str(one.subnet) for ranges in ipam.sets for one in ranges] == ["10.1.0.0/24", "fd00:1::/64"]
    assert len(ipam.sets) == 2 and ipam.place == "/var/lib/cni/networks/pods"


def test_the_configuration_comes_before_the_node(below: Bridge) -> None:
    machine = Machine(facts=None)
    given = {"podCIDRs": ["10.9.0.0/24"], "mtu": 1300, "bridge": "cbr0", "hairpinMode": False}
    machine.run("ADD", {**given, "nonMasqueradeCIDRs": ["10.0.0.0/8"]})
    (conf,), (ipam,) = below.confs, below.ipams
    assert (conf.bridge, conf.mtu, conf.hairpin) == ("cbr0", 1300, False)
    assert [str(one.subnet) for ranges in ipam.sets for one in ranges] == ["10.9.0.0/24"]
    assert not machine.of(e.ListRoutes)
    assert "-d 10.0.0.0/8" in machine.of(e.Restore)[0].lines


def test_the_bridge_that_is_there_tells_the_mtu(below: Bridge) -> None:
    """A dump of all routes at every ADD would take longer than the rest."""
    machine = Machine(links=(Link(9, "cni0", 1380, kind="bridge"),))
    machine.run("ADD")
    assert below.confs[0].mtu == 1380 and not machine.of(e.ListRoutes)


def test_of_several_default_routes_the_preferred_one_tells_the_mtu(below: Bridge) -> None:
    backup = Route(0, 0, 32, hops=(NextHop("wlan0", 1),), metric=600)
    other = Route(0, 0, 128, hops=(NextHop("tun0", 1),))
    links = (Link(2, "ens3", 9000), Link(3, "wlan0", 1400), Link(4, "tun0", 1280))
    Machine(links=links, routes=(other, backup, DEFAULT)).run("ADD")
    Machine(links=links, routes=(other,)).run("ADD")
    Machine(links=links, routes=()).run("ADD")
    assert [one.mtu for one in below.confs] == [9000, 1280, 0]


def test_masquerade_is_there_before_the_container_is() -> None:
    machine = Machine()
    machine.run("ADD")
    four, six, *rest = (one for one in machine.seen if isinstance(one, e.Restore | e.Random))
    assert (four.family, six.family) == (4, 6) and [type(one) for one in rest] == [e.Random]
    assert four.lines.splitlines() == [one.replace("-A", "-C", 1) for one in rules("pods", 4, read_facts(NODE))]


def test_rules_that_do_not_stand_are_made_by_the_transaction_that_fits() -> None:
    """Nothing there; a set that is not the right one; a chain that nothing leads to. A refusal of all is an error."""
    chain = chain_name("pods")
    begins = ("-C", f"-N {chain}\n", f":{chain} - [0:0]\n-D POSTROUTING", f"-F {chain}\n-X {chain}\n-N", "-C")
    for fits in range(5):
        machine = Machine(fits=fits)
        machine.run("ADD", {"podCIDRs": ["10.1.0.0/24"], "nonMasqueradeCIDRs": ["10.0.0.0/8"]})
        texts = [one.lines for one in machine.of(e.Restore)]
        assert len(texts) == fits + 1 and texts[-1].startswith(begins[fits])
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


def test_check_looks_for_the_rules_of_both_families(below: Bridge) -> None:
    machine = Machine()
    previous = {"prevResult": {"cniVersion": "1.1.0"}}
    machine.saved = "\n".join([*rules("pods", 4, read_facts(NODE)), *rules("pods", 6, read_facts(NODE))])
    assert machine.run("CHECK", previous) is None
    machine.saved = "\n".join(rules("pods", 4, read_facts(NODE)))
    with pytest.raises(CniError, match="masquerade rules are missing: -A CNI-MASQ"):
        machine.run("CHECK", previous)
    assert machine.run("CHECK", {**previous, "masquerade": False}) is None
    assert len(below.confs) == 3


@pytest.mark.parametrize(("command", "code"), [("ADD", TRY_AGAIN), ("CHECK", TRY_AGAIN), ("STATUS", NOT_AVAILABLE)])
def test_without_pod_cidrs_nothing_is_done_and_the_reason_told(command: str, code: int, below: Bridge) -> None:
    for text in (None, '{"podCIDRs": []}'):
        machine = Machine(facts=text)
        with pytest.raises(CniError, match="the pod CIDRs of this node are not known") as raised:
            machine.run(command, {"prevResult": {"cniVersion": "1.1.0"}} if command == "CHECK" else None)
        assert raised.value.code == code and "/run/glassnet/node.json" in raised.value.details
        assert [type(one) for one in machine.seen] == [e.ReadFile] and not below.calls


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


def test_del_needs_neither_ranges_nor_a_right_configuration(below: Bridge) -> None:
    machine = Machine(facts=None)
    machine.run("DEL", {"podCIDRs": "nonsense", "what": 1, "bridge": "cbr0"})
    (call,) = below.calls
    assert call.fields.text("bridge") == "cbr0" and host_local.place_of(call) == "/var/lib/cni/networks/pods"
    assert not machine.seen


def test_gc_takes_the_rules_with_the_last_container_only(below: Bridge) -> None:
    machine = Machine()
    machine.run("GC", ALL)
    assert not machine.of(e.Restore) and below.calls[0].valid()
    machine.run("GC", {"cni.dev/valid-attachments": []})
    assert [one.family for one in machine.of(e.Restore)] == [4, 6]
    assert all(f"-X {chain_name('pods')}" in one.lines for one in machine.of(e.Restore))


def test_gc_goes_on_after_a_failure_and_tells_it(below: Bridge) -> None:
    machine, below.fault = Machine(), CniError(999, "veth1 stays")
    with pytest.raises(CniError, match="veth1 stays"):
        machine.run("GC", {"cni.dev/valid-attachments": []})
    assert machine.of(e.Restore)


def test_gc_without_a_list_takes_nothing(below: Bridge) -> None:
    machine = Machine()
    with pytest.raises(CniError, match="valid-attachments"):
        machine.run("GC")
    assert not machine.of(e.Restore)


def test_what_the_runtime_asks_for_is_handed_on(below: Bridge) -> None:
    capabilities = {"mac": True, "ips": True}
    wish = {"mac": "02:00:00:00:00:07", "ips": ["10.1.0.7/24"]}
    Machine().run("ADD", {"runtimeConfig": wish, "capabilities": capabilities}, CNI_ARGS="K8S_POD_NAME=web")
    assert below.confs[0].mac == "02:00:00:00:00:07" and below.ipams[0].wanted == ("10.1.0.7",)
    assert below.calls[0].args == {"K8S_POD_NAME": "web"}
