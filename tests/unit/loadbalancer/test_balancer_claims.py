"""Who answers: elections, signs of life, taking over and giving up, frames, and what BIRD is told. All of it without a clock or a network."""

from __future__ import annotations

import pytest

from glassnet.loadbalancer import bird, elect, heartbeat, neighbour, pools
from glassnet.loadbalancer.bird import Site
from glassnet.loadbalancer.claim import AGAIN, EVERY, PROBE_WAIT, YIELD, Act, Claims, State
from glassnet.loadbalancer.heartbeat import INTERVAL, SILENCE, Members, Message

LOW, HIGH = b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\x09"
IP = "192.0.2.1"


def test_a_node_that_goes_moves_only_its_own_addresses_and_all_share_the_load() -> None:
    nodes, ips = [f"node-{number}" for number in range(5)], [f"192.0.2.{number}" for number in range(250)]
    before = {ip: elect.winner(ip, nodes) for ip in ips}
    after = {ip: elect.winner(ip, nodes[1:]) for ip in ips}
    assert all(after[ip] == before[ip] for ip in ips if before[ip] != "node-0")
    assert min(list(before.values()).count(node) for node in nodes) > 25
    assert elect.winner(IP, []) == ""
    assert elect.winner(IP, reversed(nodes)) == elect.winner(IP, nodes)


# -- signs of life


class Pair:
    """Two that hear each other; `time` is theirs."""

    def __init__(self, key: bytes = b"") -> None:
        self.time = 100.0
        self.a, self.b = Members("a", b"aaaaaaaa", key, self.time), Members("b", b"bbbbbbbb", key, self.time)
        self.a.expect({"b"})
        self.b.expect({"a"})

    def beat(self, times: int = 1, heard: bool = True) -> set[str]:
        """Both send; what `a` finds dead."""
        died: set[str] = set()
        for _ in range(times):
            self.time += INTERVAL
            for one, other in ((self.a, self.b), (self.b, self.a)):
                data = one.message_to(other.me, False, (LOW,))
                if heard and (answer := other.take(data, self.time).answer):
                    one.take(other.message_to(one.me, False, (HIGH,), answer), self.time)
            died |= self.a.tick(self.time)
            self.b.tick(self.time)
        return died


def test_who_falls_silent_is_dead_soon_and_who_is_heard_again_lived_all_the_while() -> None:
    pair = Pair(b"a key")
    pair.beat(3)
    assert pair.a.alive() == ["b"] and pair.b.alive() == ["a"]
    assert pair.a.takes_part("b", pair.time) and pair.b.whose(LOW) == "a"
    assert pair.beat(2, heard=False) == set()
    assert pair.beat(3, heard=False) == {"b"} and 5 * INTERVAL < 2 * SILENCE
    assert not pair.a.takes_part("b", pair.time) and pair.a.silent("b")
    pair.beat()
    assert pair.a.alive() == ["b"]
    assert [name for name, _ in pair.a.splits] == ["b"] and pair.a.splits[0][1] > SILENCE


def test_own_standstill_kills_nobody() -> None:
    pair = Pair()
    pair.beat(3)
    pair.time += 30
    assert pair.a.tick(pair.time) == set()
    assert pair.a.alive() == ["b"]


def test_strangers_and_old_messages_count_for_nothing() -> None:
    pair = Pair(b"a key")
    early = pair.b.message_to("a", False, ())
    pair.beat(2)
    for data in (b"", b"x" * 200, heartbeat.encode(Message("b", b"bbbbbbbb", 99), b"another key"), early[:-1] + b"!"):
        assert pair.a.take(data, pair.time).name == ""
    assert pair.a.refused == 4
    recorded = pair.b.message_to("a", False, ())
    pair.beat(5, heard=False)
    assert pair.a.alive() == []
    pair.a.take(early, pair.time)  # from before b knew of a
    assert pair.a.alive() == []
    fresh = Members(
        "a", b"cccccccc", b"a key", pair.time
    )  # a new process of a: what was recorded for the old one is no sign of life
    fresh.expect({"b"})
    fresh.take(recorded, pair.time)
    assert fresh.alive() == []
    again = Members(
        "b", b"BBBBBBBB", b"a key", pair.time
    )  # b begins anew, and what its old process said counts no more
    again.expect({"a"})
    last, pair.b = pair.b.message_to("a", False, ()), again
    pair.beat(2)
    assert pair.a.alive() == ["b"] and pair.a.splits == []
    assert pair.a.take(last, pair.time).name == ""
    unknown = Members("z", b"zzzzzzzz", b"a key", pair.time)
    assert pair.a.take(unknown.message_to("a", False, ()), pair.time).name == ""


@pytest.mark.parametrize("length", range(0, 83, 7))
def test_messages_that_are_cut_are_none(length: int) -> None:
    data = heartbeat.encode(Message("node-a", b"aaaaaaaa", 7, macs=(LOW, HIGH)), b"k")
    assert heartbeat.decode(data, b"k") == Message("node-a", b"aaaaaaaa", 7, macs=(LOW, HIGH))
    assert heartbeat.decode(data[:length], b"k") is None


# -- claims


def test_taking_over_from_one_that_lives_announces_at_once() -> None:
    old, new = Claims(HIGH), Claims(LOW)
    old.own(IP, False, 0)
    assert old.due(0) == [Act("announce", IP)] and old.answers(IP)
    old.give_up(IP, 10)
    new.own(IP, False, 10)
    assert old.answers(IP) and old.yielding()
    assert new.due(10) == [Act("announce", IP)]
    old.heard(IP, LOW, True, 10.001)
    assert new.answers(IP) and not old.answers(IP)


def test_an_old_owner_stops_when_nothing_is_heard_of_the_new_one() -> None:
    old = Claims(HIGH)
    old.own(IP, False, 0)
    old.give_up(IP, 10)
    old.due(10 + YIELD - 0.01)
    assert old.answers(IP)
    old.due(10 + YIELD)
    assert not old.answers(IP) and old.state(IP) is None


def test_taking_over_from_a_silent_one_asks_first() -> None:
    claims = Claims(LOW)
    claims.own(IP, True, 0)
    assert claims.due(0) == [Act("probe", IP)] and not claims.answers(IP)
    assert claims.due(PROBE_WAIT / 2) == [Act("probe", IP)]
    assert claims.due(PROBE_WAIT) == [Act("announce", IP)] and claims.answers(IP)


def test_who_answers_the_question_keeps_the_address_until_it_answers_no_more() -> None:
    claims = Claims(LOW)
    claims.own(IP, True, 0)
    claims.due(0)
    claims.heard(IP, HIGH, False, 0.01)
    assert claims.state(IP) is State.BLOCKED and claims.conflicts[IP].mac == HIGH and not claims.conflicts[IP].held
    claims.due(AGAIN)
    assert not claims.answers(IP)
    for now in (AGAIN + 0.011, AGAIN + 0.04, AGAIN + 0.5):
        claims.due(now)
    assert claims.answers(IP) and not claims.conflicts


def test_of_two_that_ask_at_once_one_has_it() -> None:
    low, high = Claims(LOW), Claims(HIGH)
    for claims, other in ((low, HIGH), (high, LOW)):
        claims.own(IP, True, 0)
        claims.due(0)
        claims.heard_probe(IP, other, 0.001)
    low.due(1)
    high.due(0.5)
    assert low.answers(IP) and not high.answers(IP)


def test_of_two_that_hold_and_do_not_hear_each_other_one_goes_on() -> None:
    low, high = Claims(LOW), Claims(HIGH)
    for claims, other in ((low, HIGH), (high, LOW)):
        claims.own(IP, False, 0)
        claims.due(5)
        claims.heard(IP, other, False, 6)
    assert low.answers(IP) and not high.answers(IP)
    assert low.conflicts[IP].held and not high.conflicts[IP].held
    assert Act("announce", IP) in low.due(6.2)


def test_a_live_node_that_announces_for_a_moment_is_no_conflict_and_what_is_held_is_said_again() -> None:
    claims = Claims(HIGH)
    claims.own(IP, False, 0)
    claims.due(3)
    claims.heard(IP, LOW, True, 4)
    assert claims.answers(IP) and not claims.conflicts
    claims.heard(IP, LOW, True, 9)  # another time: the address has moved and come back
    assert claims.answers(IP) and not claims.conflicts
    for tenth in range(90, 130, 5):
        claims.heard(IP, LOW, True, tenth / 10)
    assert claims.conflicts[IP].held
    claims.due(EVERY - 1)
    assert claims.due(EVERY) == [Act("announce", IP)]
    claims.give_up(IP, EVERY, at_once=True)
    assert claims.next_due() is None or claims.due(10 * EVERY) == []


# -- frames


@pytest.mark.parametrize(("ip", "asker"), [("192.0.2.1", "192.0.2.9"), ("2001:db8::1", "2001:db8::9")])
def test_questions_are_read_and_answered(ip: str, asker: str) -> None:
    probe = neighbour.read(neighbour.probe(ip, LOW))
    assert probe is not None and (probe.asks, probe.probe, probe.ip, probe.mac, probe.sender) == (
        True,
        True,
        ip,
        LOW,
        "",
    )
    asked = probe._replace(sender=asker, probe=False)
    answer = neighbour.answer(asked, HIGH)
    assert answer[:6] == LOW and answer[6:12] == HIGH
    heard = neighbour.read(answer)
    assert heard is not None and (heard.asks, heard.ip, heard.mac, heard.announced) == (False, ip, HIGH, False)
    to_all = neighbour.read(neighbour.answer(probe, HIGH))
    assert to_all is not None and not to_all.asks and to_all.ip == ip
    for frame in neighbour.announce(ip, HIGH):
        told = neighbour.read(frame)
        assert told is not None and (told.asks, told.ip, told.mac, told.announced) == (False, ip, HIGH, True)


def test_frames_that_are_cut_or_changed_say_nothing() -> None:
    for frame in (neighbour.probe("192.0.2.1", LOW), neighbour.probe("fd00::1", LOW)):
        assert all(neighbour.read(frame[:length]) is None for length in range(len(frame)))
    frame = bytearray(neighbour.probe("fd00::1", LOW))
    frame[-1] ^= 1  # its checksum is no longer right
    assert neighbour.read(bytes(frame)) is None
    frame = bytearray(neighbour.probe("fd00::1", LOW))
    frame[21] = 64  # it came by way of a router
    assert neighbour.read(bytes(frame)) is None


def test_solicitations_go_to_the_group_of_the_address() -> None:
    assert neighbour.solicited_group("fd00::12:3456").hex() == "ff0200000000000000000001ff123456"
    assert neighbour.probe("fd00::12:3456", LOW)[:6].hex() == "3333ff123456"


# -- BIRD


def test_bird_announces_each_address_and_never_takes_any() -> None:
    found = pools.parse("""
pools: [{name: a, addresses: [192.0.2.0/24, 'fd00:1::/120'], announce: bgp}]
bgp: {asn: 64512, communities: ["64512:7", "64512:1:2"], localPref: 50, podCIDRs: true, peers: [
  {name: top, address: 10.0.0.1, asn: 64500}, {name: far, address: 'fd00::1', asn: 64512, hops: 2}, {name: other, address: 10.0.0.3, asn: 1, nodeSelector: zone=b}]}
""")  # fmt: skip
    assert found.bgp is not None
    site = Site("n1", "10.0.0.11", "", {"zone": "a"}, ("10.244.1.0/24",))
    text = bird.render(found.bgp, site, ["192.0.2.9", "192.0.2.10", "fd00:1::5"], {"top": "sesame"})
    assert text.index("route 192.0.2.9/32 blackhole;") < text.index("route 192.0.2.10/32 blackhole;")
    assert "route fd00:1::5/128 blackhole;" in text and "route 10.244.1.0/24 blackhole;" in text
    assert text.count("protocol bgp") == 1 and "neighbor 10.0.0.1 port 179 as 64500;" in text
    assert 'password "sesame";' in text and "import none" in text and "protocol kernel" not in text
    assert "bgp_community.add((64512, 7));" in text and "bgp_large_community.add((64512, 1, 2));" in text
    assert bird.problems(found.bgp, site) == ["peer far: Node n1 has no IPv6 InternalIP to speak with fd00::1 from"]
    both = site._replace(ipv6="fd00::11", labels={"zone": "b"})
    text = bird.render(found.bgp, both, [], {})
    assert text.count("protocol bgp") == 3 and "multihop 2" in text and "next hop address fd00::11" in text
