"""portmap's decisions without a kernel: configurations, rules as text, who holds a port, what is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glassnet.agent.cni.kept_rules import Kept
from glassnet.agent.cni.nat_rules import lost, taken_away
from glassnet.agent.cni.rule_keeper import DELAY, PATIENCE, concerns, lost_script
from glassnet.cni import effects as e
from glassnet.cni import nat_table, plugins, portmap, portmap_iptables, portmap_nft
from glassnet.cni.errors import CniError
from glassnet.cni.portmap_model import Holder, Mapping, Target, conflict
from glassnet.cni.request import Call, read_call
from glassnet.net.errors import CommandError, GlassnetError
from glassnet.ruleset.nft_reader import Rule

PREVIOUS = {
    "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
    "ips": [{"address": "10.22.0.5/24", "interface": 1}, {"address": "fd00:22::5/64", "interface": 1}],
}


def make(mappings: Any = None, command: str = "ADD", **changes: Any) -> Call:
    mappings = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}] if mappings is None else mappings
    config = {"cniVersion": "1.1.0", "name": "mynet", "type": "portmap", "prevResult": PREVIOUS,
              "runtimeConfig": {"portMappings": mappings}, **changes}  # fmt: skip
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": "ctr1", "CNI_NETNS": "/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/x"}  # fmt: skip
    return read_call("portmap", environment, json.dumps(config), 3)


def mapped(**changes: Any) -> list[dict[str, Any]]:
    return [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", **changes}]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"mappings": mapped(hostPort=0)}, 7, "Invalid host port number: 0"),
        ({"mappings": mapped(hostPort=65536)}, 7, "Invalid host port number: 65536"),
        ({"mappings": mapped(containerPort=0, hostPort=0)}, 7, "Invalid container port number: 0"),
        ({"mappings": mapped(containerPort=-1)}, 7, "Invalid container port number: -1"),
        ({"mappings": [{"hostPort": 1, "containerPort": 1}]}, 7, 'unknown protocol "" specified'),
        ({"mappings": mapped(protocol="icmp")}, 7, "want tcp, udp, sctp"),
        ({"mappings": mapped(hostIP="here")}, 7, "want an IP address"),
        ({"externalSetMarkChain": "X", "markMasqBit": 0}, 7, "Cannot specify externalSetMarkChain and markMasqBit"),
        ({"markMasqBit": 32}, 7, "MasqMarkBit must be between 0 and 31"),
        ({"backend": "ipfw"}, 7, 'unrecognized backend "ipfw"'),
        ({"backend": "nftables", "conditionsV4": ["-d", "10.0.0.0/8"]}, 7, "these are no conditions of nftables"),
        ({"conditionsV6": ["-d", "a\nb"]}, 7, "a condition is one line"),
        ({"snat": "yes"}, 7, "want true or false"),
        ({"snatt": True}, 2, 'did you mean "snat"'),
    ],
)
def test_errors_of_a_configuration(changes: dict[str, Any], code: int, words: str) -> None:
    with pytest.raises(CniError) as caught:
        portmap.parse(make(**changes))
    assert caught.value.code == code and words in str(caught.value)


def test_what_is_read() -> None:
    conf = portmap.parse(make(mapped(protocol="UDP", hostIP="0.0.0.0"), markMasqBit=0, masqAll=True))
    assert conf.mappings == (Mapping(8080, 80, "udp", "0.0.0.0"),) and conf.mark == 1 and conf.snat and conf.masq_all
    assert conf.mappings[0].only == "" and conf.mappings[0].fits(4) and not conf.mappings[0].fits(6)


def test_only_the_containers_own_addresses_are_led_to() -> None:
    call = make()
    assert call.previous is not None
    assert portmap.targets(call, call.previous) == [Target(4, "10.22.0.5/24"), Target(6, "fd00:22::5/64")]
    ips = tuple(one._replace(interface=0) for one in call.previous.ips)  # the bridge's
    assert portmap.targets(call, call.previous._replace(ips=ips)) == []
    ips = tuple(one._replace(interface=None) for one in call.previous.ips)
    assert len(portmap.targets(call, call.previous._replace(ips=ips))) == 2


class Host:
    """Answers effects; `refused` are kinds that fail."""

    def __init__(self, saved: str = "", refused: tuple[type, ...] = (), listed: str = "") -> None:
        self.saved, self.refused, self.listed = saved, refused, listed
        self.seen: list[e.Effect[Any]] = []

    def run(self, steps: e.Steps[Any]) -> Any:
        value: Any = None
        try:
            effect = next(steps)
            while True:
                self.seen.append(effect)
                if isinstance(effect, self.refused):
                    effect = steps.throw(CommandError(["iptables-restore"], 1, "refused"))
                    continue
                value = self.answer(effect)
                effect = steps.send(value)
        except StopIteration as done:
            return done.value

    def answer(self, effect: e.Effect[Any]) -> Any:
        match effect:
            case e.SavedRules(chain=chain):
                return self.saved if not chain else "".join(f"{one}\n" for one in self.saved.splitlines() if one.startswith(f"-A {chain} "))  # fmt: skip
            case e.HasProgram(name=name):
                return name == "iptables"
            case e.RouteDevice():
                return "cni.0"
            case e.ReadSetting():
                return "0"
            case e.Nft():
                return self.listed
        return None

    def of(self, kind: type) -> list[Any]:
        return [one for one in self.seen if isinstance(one, kind)]


def test_add_hands_the_previous_result_on() -> None:
    call, host = make(), Host()
    answer = host.run(plugins.perform(call))
    assert answer["ips"][0]["address"] == "10.22.0.5/24"
    assert [one.family for one in host.of(e.Restore)] == [4, 6]
    assert host.of(e.WriteSettings) == [e.WriteSettings(e.Where.NODE, {"net.ipv4.conf.cni/0.route_localnet": "1"})]
    quiet = Host()
    assert quiet.run(plugins.perform(make([]))) == answer and not quiet.seen
    with pytest.raises(CniError, match="must be called as chained plugin"):
        Host().run(portmap.add(make(prevResult=None)))


def test_udp_is_forgotten_once_the_rules_are_there() -> None:
    host = Host(refused=(e.ForgetConnections,))
    host.run(portmap.add(make([*mapped(protocol="udp"), *mapped(protocol="udp", hostPort=53), *mapped()])))
    kinds = [type(one) for one in host.seen]
    assert host.of(e.ForgetConnections)[0] == e.ForgetConnections(4, (53, 8080))
    assert kinds.index(e.ForgetConnections) > kinds.index(e.Restore)


def test_a_refused_add_takes_back_what_it_did() -> None:
    host = Host(refused=(e.Restore,))
    with pytest.raises(GlassnetError, match="refused"):
        host.run(portmap.add(make()))
    assert [one.lines.startswith(":CNI-DN-") and "-X" in one.lines for one in host.of(e.Restore)] == [False, True, True]


def test_ports_are_grouped_by_fifteen_and_protocol() -> None:
    many = [{"hostPort": 9000 + n, "containerPort": 80, "protocol": "tcp"} for n in range(17)]
    call = make([*many, *mapped(protocol="sctp")])
    lines = portmap_iptables.own_lines(call, portmap.parse(call), Target(4, "10.22.0.5/24"))
    entries = [line for line in lines.splitlines() if line.startswith("-A CNI-HOSTPORT-DNAT")]
    assert [line.count(",") for line in entries] == [0, 14, 1] and "-p sctp" in entries[0]


def test_conditions_are_quoted_and_long_names_cut() -> None:
    call = make(conditionsV4=["-m", "comment", "--comment", 'a "b" c'])
    lines = portmap_iptables.own_lines(call, portmap.parse(call), Target(4, "10.22.0.5/24"))
    assert r'-A CNI-HOSTPORT-DNAT -m comment --comment "a \"b\" c" -p tcp' in lines
    assert len(portmap_iptables.comment("n" * 300, "c")) < 300 and portmap_iptables.comment("n" * 300, "c").endswith(
        '..."'
    )


HELD = """\
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \\"other\\" id: \\"c9\\"" -m multiport --dports 80,8080 -j CNI-DN-0123456789abcdef01234
-A CNI-DN-0123456789abcdef01234 -d 192.0.2.7/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.9:80
"""


def test_who_holds_a_port() -> None:
    with pytest.raises(CniError, match='host port 8080/tcp is held by container "c9" of network "other"'):
        Host(HELD).run(portmap.add(make()))
    Host(HELD).run(portmap.add(make(mapped(hostIP="192.0.2.8"))))
    Host(HELD).run(portmap.add(make(mapped(protocol="udp"))))
    Host(HELD).run(portmap.add(make(mapped(hostPort=80))))  # in the list, but for the other family
    Host(HELD.replace("c9", "ctr1")).run(portmap.add(make()))
    Host(HELD.replace("DNAT -p", "DNAT -d 192.0.2.7/32 -p")).run(
        portmap.add(make())
    )  # conditions: may be another's packets
    Host(HELD).run(portmap.add(make(conditionsV4=["-i", "eth0"], conditionsV6=["-i", "eth0"])))
    holder = Holder("n", "c", 8080, "tcp", "")
    assert conflict(Mapping(8080, 1, "tcp", "192.0.2.1"), holder) and not conflict(Mapping(8081, 1, "tcp"), holder)


def test_delete_finds_what_leads_to_the_chain() -> None:
    chain = portmap_iptables.chain_name("mynet", "ctr1")
    host = Host(f"-A CNI-HOSTPORT-DNAT -p tcp -j {chain}\n-A CNI-HOSTPORT-DNAT -p udp -j CNI-DN-other\n")
    host.run(portmap.delete(make(command="DEL")))
    first = host.of(e.Restore)[0]
    assert chain == "CNI-DN-5145007e2a8415ce07579"
    assert first.lines == f"-D CNI-HOSTPORT-DNAT -p tcp -j {chain}\n:{chain} - [0:0]\n-X {chain}\n"
    assert first.keep == "portmap4-mynet-ctr1" and len(host.of(e.Restore)) == 2
    idle = Host()
    idle.run(portmap.delete(make([], command="DEL")))
    assert {type(one) for one in idle.seen} == {e.ReadFile}


def test_a_family_that_the_node_lacks_hinders_no_delete() -> None:
    class OnlyFour(Host):
        def answer(self, effect: e.Effect[Any]) -> Any:
            if isinstance(effect, e.SavedRules) and effect.family == 6:
                raise CommandError(["ip6tables"], 3, "no table")
            return super().answer(effect)

        def run(self, steps: e.Steps[Any]) -> Any:
            effect = next(steps)
            while True:
                try:
                    answer = self.answer(effect)
                except GlassnetError as error:
                    try:
                        effect = steps.throw(error)
                    except StopIteration:
                        return None
                    continue
                try:
                    effect = steps.send(answer)
                except StopIteration:
                    return None

    OnlyFour().run(portmap.delete(make(command="DEL", prevResult=None)))
    with pytest.raises(CniError, match="could not teardown ipv6 dnat: "):
        OnlyFour().run(portmap.delete(make(command="DEL")))


def test_the_backend_follows_the_conditions() -> None:
    def used(**changes: Any) -> type:
        host = Host()
        host.run(portmap.add(make(**changes)))
        return e.Nft if host.of(e.Nft) else e.Restore

    assert used() is e.Restore and used(backend="nftables") is e.Nft
    assert used(conditionsV4=["!", "-d", "10.0.0.0/8"]) is e.Restore
    assert used(conditionsV4=["ip", "daddr", "!=", "10.0.0.0/8"]) is e.Nft


def test_the_nftables_script_takes_only_what_is_for_the_node() -> None:
    call = make(mapped(hostIP="192.0.2.7"), conditionsV4=["ip", "saddr", "!=", "10.0.0.0/8"])
    script = portmap_nft.script(call, portmap.parse(call), Target(4, "10.22.0.5/24"))
    jumps = [line for line in script.splitlines() if "hostports_all" in line and "fib" in line]
    assert len(jumps) == 2 and all("fib daddr type local jump hostports_all" in line for line in jumps)
    assert (
        'hostports ip saddr != 10.0.0.0/8 ip daddr 192.0.2.7 tcp dport 8080 dnat to 10.22.0.5:80 comment "ctr1"'
        in script
    )
    assert "add chain ip cni_hostport container/mynet/ctr1/0a160005" in script
    assert portmap_nft.read_owner("container/mynet/ctr1/0a160005") == ("mynet", "ctr1", "10.22.0.5")
    assert portmap_nft.read_owner("hostports") is None and portmap_nft.read_owner("container/a/b/xyz") is None
    call = make(masqAll=True)
    script = portmap_nft.script(call, portmap.parse(call), Target(6, "fd00:22::5/64"))
    assert (
        "dnat to [fd00:22::5]:80" in script and "masquerading ip6 saddr ::/0 ip6 daddr fd00:22::5 masquerade" in script
    )


# -- the table, and what is lost of it

SHARED = ":S - [0:0]\n-A S -j MARK\n-I POSTROUTING -j S\n"
OWN = ":CNI-DN-a - [0:0]\n-A CNI-DN-a -j DNAT\n-A CNI-DN-a -j MARK\n-A S -p tcp -j CNI-DN-a\n-A S -p udp -j CNI-DN-a\n"
WHOLE = "-N S\n-N CNI-DN-a\n-A POSTROUTING -j S\n-A S -j MARK\n-A S -p tcp -j CNI-DN-a\n-A S -p udp -j CNI-DN-a\n-A CNI-DN-a -j DNAT\n-A CNI-DN-a -j MARK\n"


def without(*words: str) -> nat_table.Table:
    return nat_table.parse("".join(f"{line}\n" for line in WHOLE.splitlines() if line not in words))


def test_what_is_missing() -> None:
    assert nat_table.checks(SHARED) == "-C S -j MARK\n-C POSTROUTING -j S\n"
    assert nat_table.missing_shared(SHARED, without()) == "" and nat_table.missing_own(OWN, without()) == ""
    assert nat_table.missing_shared(SHARED, {}) == SHARED and nat_table.missing_own(OWN, {}) == OWN
    assert nat_table.missing_shared(SHARED, without("-A POSTROUTING -j S")) == "-I POSTROUTING -j S\n"
    refilled = ":CNI-DN-a - [0:0]\n-A CNI-DN-a -j DNAT\n-A CNI-DN-a -j MARK\n"
    assert nat_table.missing_own(OWN, without("-A CNI-DN-a -j MARK")) == refilled
    some = "-D S -p tcp -j CNI-DN-a\n-A S -p tcp -j CNI-DN-a\n-A S -p udp -j CNI-DN-a\n"
    assert nat_table.missing_own(OWN, without("-A S -p udp -j CNI-DN-a")) == some
    assert nat_table.adding("-D S -j X\n" + OWN) == OWN
    assert nat_table.parse(":S - [0:0]\n-A S -j MARK\nCOMMIT\n# x\n") == {"S": ["-A S -j MARK"]}


def test_shared_lines_come_back_once() -> None:
    kept = {"1": Kept(1, 4, SHARED, OWN), "2": Kept(1, 4, SHARED, OWN.replace("CNI-DN-a", "CNI-DN-b"))}
    lines, count = lost(kept, {})
    assert lines.count("-I POSTROUTING") == 1 and count == 2 and lost({"1": kept["1"]}, without()) == ("", 0)


def test_a_flush_is_told_from_a_container_taken_away() -> None:
    def kept(written: float, name: str = "a") -> Kept:
        return Kept(1, 4, SHARED, OWN.replace("CNI-DN-a", f"CNI-DN-{name}"), written=written)

    shared = {"S": ["-A S -j MARK"], "POSTROUTING": ["-A POSTROUTING -j S"]}
    beside = {**shared, "CNI-DN-b": []}
    assert taken_away({"a": kept(1.0)}, {}, 100.0) == []  # all is gone: a flush
    assert taken_away({"a": kept(1.0)}, shared, 100.0) == ["a"]
    assert taken_away({"a": kept(1.0), "b": kept(2.0, "b")}, beside, 100.0) == ["a"]
    assert taken_away({"a": kept(1.0), "b": kept(99.9, "b")}, beside, 100.0) == []  # b brought back what is shared
    assert taken_away({"a": kept(1.0), "b": kept(2.0, "b")}, beside, 0.0) == []


def test_notices_that_matter() -> None:
    names = {b"CNI-DN-a", b"CNI-HOSTPORT-DNAT", b"cni_hostport"}
    assert concerns(0xA08, b"nat\0CNI-HOSTPORT-DNAT\0CNI-DN-a\0", names) == PATIENCE
    assert not concerns(0xA08, b"nat\0CNI-HOSTPORT-DNAT\0CNI-DN-gone\0", names)
    assert not concerns(0xA08, b"nat\0CNI-DN-gone\0CNI-HOSTPORT-DNAT\0", names)
    assert concerns(0xA08, b"nat\0PREROUTING\0CNI-HOSTPORT-DNAT\0", names) == DELAY
    assert concerns(0xA02, b"nat\0", names) and concerns(0xA02, b"cni_hostport\0", names)
    assert not concerns(0xA06, b"nat\0CNI-DN-a\0", names)  # new, not gone
    assert not concerns(0xA08, b"nat\0KUBE-SERVICES\0", names)


def test_an_nftables_script_runs_again_when_its_rules_are_fewer() -> None:
    kept = Kept(1, script="again\n", marks=(e.NftMark("ip", "t", "c", "me", 2), e.NftMark("ip", "t", "base", "", 1)))
    base, mine = Rule("t", "base", 1, "", ()), Rule("t", "c", 7, "me", ())
    assert lost_script(kept, {("ip", "t"): [base, mine, mine._replace(handle=8)]}) == ""
    assert lost_script(kept, {("ip", "t"): []}) == "again\n"
    assert lost_script(kept, {("ip", "t"): [base, mine]}) == "delete rule ip t c handle 7\nagain\n"
    assert lost_script(kept, {("ip", "t"): [base, mine]}, alone=False) == "again\n"
