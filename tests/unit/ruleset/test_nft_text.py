"""Listings of nft read from text give what nft's own JSON gives; what is not understood is said; what is broken is refused."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glassnet.net.errors import ParseError
from glassnet.ruleset.nft_lexer import NotUnderstoodError, milliseconds
from glassnet.ruleset.nft_statements import split_tail
from glassnet.ruleset.nft_text import parse_nft_text, parse_rule

DATA = Path(__file__).resolve().parents[2] / "data" / "nft"
QUICK = settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])


def text_of(name: str) -> str:
    return gzip.decompress((DATA / f"{name}.nft.gz").read_bytes()).decode()


def json_of(name: str) -> list[dict[str, Any]]:
    found = json.loads(gzip.decompress((DATA / f"{name}.json.gz").read_bytes()))["nftables"]
    return [each for each in found if "metainfo" not in each]


def timeless(value: Any) -> Any:
    """Without times that run."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k != "expires"}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def normal(each: dict[str, Any]) -> str:
    """An object of either form, without what nft 1.0.6 leaves out of JSON (see the data's README)."""
    ((kind, found),) = each.items()
    found = {k: v for k, v in found.items() if k not in ("handle", "line", "auto-merge", "dev")}
    if kind in ("table", "chain"):
        found.pop("comment", None)
        found.pop("flags", None) if kind == "table" else None
    if kind in ("set", "map"):
        found["flags"] = sorted(set(found.get("flags", [])) - {"dynamic"})
        found["elem"] = sorted(json.dumps(e, sort_keys=True) for e in timeless(found.get("elem", [])))
    if kind == "rule" and "text" in found:
        found["expr"] = parse_rule(found.pop("text"), found["family"])
    return json.dumps({kind: found}, sort_keys=True)


def adds_to_map(each: dict[str, Any]) -> bool:
    """Whether nft 1.0.6 had no JSON for a statement of the rule and printed its text."""
    return any(isinstance(e, str) for e in each.get("rule", {}).get("expr", []))


def same(text: str, objects: list[dict[str, Any]]) -> None:
    read, told = Counter(map(normal, parse_nft_text(text))), Counter(map(normal, objects))
    assert not (read - told) and not (told - read)


# ---- against nft itself


@pytest.mark.parametrize("name", ["rules", "rules-a"])
def test_hand_written_rules_read_as_nft_tells_them(name: str) -> None:
    objects = json_of("rules")
    odd = {(e["rule"]["chain"], e["rule"]["expr"][0]) for e in objects if adds_to_map(e)}
    read = [
        e
        for e in parse_nft_text(text_of(name))
        if (e.get("rule", {}).get("chain"), e.get("rule", {}).get("text")) not in odd
    ]
    told = [e for e in objects if not adds_to_map(e)]
    assert len(read) == len(told) > 700 and len(odd) == 3
    assert Counter(map(normal, read)) == Counter(map(normal, told))


def test_handles_are_those_of_the_json() -> None:
    def handles(objects: list[dict[str, Any]], kind: str) -> set[tuple[str, str, str, int]]:
        found = [e[kind] for e in objects if kind in e]
        return {
            (f["family"], f.get("table", f.get("name")), f.get("chain", f.get("name", "")), f["handle"]) for f in found
        }

    read, told = parse_nft_text(text_of("rules-a")), json_of("rules")
    for kind in ("table", "chain", "rule", "set", "map", "counter", "quota", "ct helper"):
        assert handles(read, kind) == handles(told, kind), kind


def test_setups_in_the_manner_of_known_programs() -> None:
    same(text_of("setups"), json_of("setups"))


@pytest.mark.parametrize("index", range(16))
def test_kube_proxy(index: int) -> None:
    lines = gzip.decompress((DATA / "kube-proxy.jsonl.gz").read_bytes()).decode().splitlines()
    scenario = json.loads(lines[index])
    same(scenario["text"], [e for e in scenario["json"] if "metainfo" not in e])


def test_a_node_listed_by_a_later_nft() -> None:
    read, told = map(normal, parse_nft_text(text_of("cluster-node-1.1.3"))), map(normal, json_of("cluster-node-1.1.3"))
    missing = set(told) - set(read)
    assert missing and all('"xt"' in each for each in missing)  # the container runtime's rules, made with iptables-nft


def test_iptables_nft_is_read_with_its_translations() -> None:
    objects = parse_nft_text(text_of("iptables-nft"))
    missing = {normal(e) for e in json_of("iptables-nft")} - {normal(e) for e in objects}
    assert all('"xt"' in each for each in missing)
    statements = [s for e in objects if "rule" in e for s in parse_rule(e["rule"]["text"], e["rule"]["family"])]
    assert not [s for s in statements if "unknown" in s]
    assert {s["xt"]["name"] for s in statements if "xt" in s} == {"nfacct", "recent", "sctp"}


# ---- rules nft could not be asked about here, and forms of other versions


def payload(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


MARK = {"meta": {"key": "mark"}}


@pytest.mark.parametrize(
    ("text", "expr"),
    [
        ("queue to 5", [{"queue": {"num": 5}}]),
        ("queue flags bypass,fanout to 1-5", [{"queue": {"num": {"range": [1, 5]}, "flags": ["bypass", "fanout"]}}]),
        ("queue num 0-3 bypass", [{"queue": {"num": {"range": [0, 3]}, "flags": "bypass"}}]),
        ("queue to numgen inc mod 4", [{"queue": {"num": {"numgen": {"mode": "inc", "mod": 4, "offset": 0}}}}]),
        ("flow add @ft", [{"flow": {"op": "add", "flowtable": "@ft"}}]),
        ("last used never", [{"last": None}]),
        ("last used 5s", [{"last": {"used": 5000}}]),
        ('meta secmark set "sm"', [{"secmark": "sm"}]),
        ("fib daddr check missing", [match({"fib": {"result": "check", "flags": ["daddr"]}}, False)]),
        ("meta mark set mark or 0x4000", [{"mangle": {"key": MARK, "value": {"|": [MARK, 16384]}}}]),
        ("meta mark and 0x4000 == 0x4000", [match({"&": [MARK, 16384]}, 16384)]),
        ("meta mark set meta mark lshift 4", [{"mangle": {"key": MARK, "value": {"<<": [MARK, 4]}}}]),
        ("tcp dport {80,443}", [match(payload("tcp", "dport"), {"set": [80, 443]})]),
        ('tcp dport { "http", https, "ssh"-"smtp" }', [match(payload("tcp", "dport"), {"set": [80, 443, {"range": [22, 25]}]})]),
        ("tcp flags & (fin | syn) == syn", [match({"&": [payload("tcp", "flags"), {"|": ["fin", "syn"]}]}, "syn")]),
        ("ct state 0x8", [match({"ct": {"key": "state"}}, "new", "in")]),
        ("ct original saddr 10.0.0.1", [match({"ct": {"key": "saddr", "dir": "original"}}, "10.0.0.1")]),
        ("meta l4proto 6 th dport 53", [match({"meta": {"key": "l4proto"}}, "tcp"), match(payload("th", "dport"), 53)]),
        ("ip saddr . tcp dport 10.0.0.1 . 80", [match({"concat": [payload("ip", "saddr"), payload("tcp", "dport")]}, {"concat": ["10.0.0.1", 80]})]),
        ("ip saddr ip daddr", [match(payload("ip", "saddr"), payload("ip", "daddr"))]),
        ("tcp dport vmap { 80 : accept, * : drop }", [{"vmap": {"key": payload("tcp", "dport"), "data": {"set": [[80, {"accept": None}], ["*", {"drop": None}]]}}}]),
        ("vxlan vni 10", [match(payload("vxlan", "vni"), 10)]),
        ("vxlan ip saddr 10.0.0.1", [match({"payload": {"tunnel": "vxlan", "protocol": "ip", "field": "saddr"}}, "10.0.0.1")]),
        ("dnat ip addr . port to ip saddr map { 1.1.1.1 : 2.2.2.2 . 80 }", [{"dnat": {"family": "ip", "addr": {"map": {"key": payload("ip", "saddr"), "data": {"set": [["1.1.1.1", {"concat": ["2.2.2.2", 80]}]]}}}}}]),
        ("redirect to :tcp dport map { 80 : 8080 }", [{"redirect": {"port": {"map": {"key": payload("tcp", "dport"), "data": {"set": [[80, 8080]]}}}}}]),
        ('dnat to 1.2.3.4:"http"', [{"dnat": {"addr": "1.2.3.4", "port": 80}}]),
        ("dnat to [fe80::1]-[fe80::5]:80", [{"dnat": {"addr": {"range": ["fe80::1", "fe80::5"]}, "port": 80}}]),
        ('dup to 1.2.3.4 device "lo"', [{"dup": {"addr": "1.2.3.4", "dev": "lo"}}]),
        ("add @m { ip saddr timeout 1m : 1.2.3.4 . 80 }", [{"map": {"op": "add", "elem": {"elem": {"val": payload("ip", "saddr"), "timeout": 60}}, "data": {"concat": ["1.2.3.4", 80]}, "map": "@m"}}]),
        ("reject with icmp type host-unreachable", [{"reject": {"type": "icmp", "expr": "host-unreachable"}}]),
        ("limit rate 1 mbytes/second burst 512 kbytes", [{"limit": {"rate": 1, "burst": 512, "per": "second", "rate_unit": "mbytes", "burst_unit": "kbytes"}}]),
        ('xt match "comment" counter packets 1 bytes 2', [{"xt": {"type": "match", "name": "comment"}}, {"counter": {"packets": 1, "bytes": 2}}]),
        ("ip daddr 10.0.0.1 # xt_comment counter", [match(payload("ip", "daddr"), "10.0.0.1"), {"xt": {"type": "", "name": "comment"}}, {"counter": None}]),
        ('accept comment "# handle 3" # handle 7', [{"accept": None}]),
    ],
)  # fmt: skip
def test_rule(text: str, expr: list[dict[str, Any]]) -> None:
    assert parse_rule(text) == expr


@pytest.mark.parametrize(
    ("family", "refusal"),
    [("ip", "icmp"), ("ip6", "icmpv6"), ("inet", "icmpx"), ("bridge", "icmpx")],
)
def test_a_bare_reject_depends_on_the_family(family: str, refusal: str) -> None:
    assert parse_rule("reject", family) == [{"reject": {"type": refusal, "expr": "port-unreachable"}}]
    assert parse_rule("reject") == [{"reject": None}]


@pytest.mark.parametrize(
    ("text", "known", "unknown"),
    [
        ("ip saddr 1.2.3.4 frobnicate 5 accept", 1, "frobnicate 5 accept"),
        ("tcp dport 80 ip saddr example.com drop", 1, "ip saddr example.com drop"),
        ("tcp dport no-such-service accept", 0, "tcp dport no-such-service accept"),
        ("ct no-such-key 5", 0, "ct no-such-key 5"),
        ("meta mark set", 0, "meta mark set"),
        ("counter packets 1 bytes x accept", 0, "counter packets 1 bytes x accept"),
        ("accept ip saddr { 1.2.3.4, ", 1, "ip saddr { 1.2.3.4,"),
        ("jump", 0, "jump"),
        ("counter log level", 1, "log level"),
        ("dnat to somewhere", 0, "dnat to somewhere"),
        ("ip ttl many drop", 0, "ip ttl many drop"),
        ("ct state fresh accept", 0, "ct state fresh accept"),
        ("exthdr frag perhaps", 0, "exthdr frag perhaps"),
    ],
)
def test_what_is_not_understood_is_kept_as_text(text: str, known: int, unknown: str) -> None:
    statements = parse_rule(text)
    assert len(statements) == known + 1 and "unknown" not in json.dumps(statements[:-1])
    assert statements[-1]["unknown"] == unknown and statements[-1]["reason"]


# ---- the frame


FRAME = """
# Warning: table ip nat is managed by iptables-nft, do not touch!
table netdev n { # handle 4
	flags dormant
	comment "what { for }"
	flowtable f {
		hook ingress priority filter + 5
		devices = { "lo", eth0 }
		flags offload
		counter
	}
	chain c { # handle 2
		type filter hook ingress devices = { "lo", "eth0" } priority filter - 10; policy drop;
		comment "first"
		tcp dport { 1,
				2 # a note
			} accept comment "x;{" # handle 9
		drop; accept
	}
}
table inet t { set a { type inet_service; flags interval; elements = { 1-5, 80 }; }; chain b { accept } }
"""


def test_frame() -> None:
    assert parse_nft_text(FRAME) == [
        {"table": {"family": "netdev", "name": "n", "handle": 4, "flags": "dormant", "comment": "what { for }"}},
        {"flowtable": {"family": "netdev", "table": "n", "name": "f", "hook": "ingress", "prio": 5, "dev": ["lo", "eth0"]}},
        {
            "chain": {
                "family": "netdev",
                "table": "n",
                "name": "c",
                "handle": 2,
                "type": "filter",
                "hook": "ingress",
                "dev": ["lo", "eth0"],
                "prio": -10,
                "policy": "drop",
                "comment": "first",
            }
        },
        {
            "rule": {
                "family": "netdev",
                "table": "n",
                "chain": "c",
                "handle": 9,
                "comment": "x;{",
                "text": 'tcp dport { 1, 2 } accept comment "x;{"',
                "line": 15,
            }
        },
        {"rule": {"family": "netdev", "table": "n", "chain": "c", "text": "drop", "line": 18}},
        {"rule": {"family": "netdev", "table": "n", "chain": "c", "text": "accept", "line": 18}},
        {"table": {"family": "inet", "name": "t"}},
        {"set": {"family": "inet", "table": "t", "name": "a", "type": "inet_service", "flags": ["interval"], "elem": [{"range": [1, 5]}, 80]}},
        {"chain": {"family": "inet", "table": "t", "name": "b"}},
        {"rule": {"family": "inet", "table": "t", "chain": "b", "text": "accept", "line": 21}},
    ]  # fmt: skip
    assert parse_nft_text("") == []


@pytest.mark.parametrize(
    ("family", "priority", "number"),
    [
        ("ip", "filter", 0),
        ("ip", "mangle + 5", -145),
        ("inet", "raw - 1", -301),
        ("ip", "-350", -350),
        ("ip6", "12", 12),
        ("inet", "srcnat", 100),
        ("ip", "security", 50),
        ("bridge", "filter", -200),
        ("bridge", "dstnat", -300),
        ("bridge", "out", 100),
    ],
)
def test_priorities(family: str, priority: str, number: int) -> None:
    text = f"table {family} t {{\n\tchain c {{\n\t\ttype filter hook output priority {priority}; policy accept;\n\t}}\n}}\n"
    assert parse_nft_text(text)[1]["chain"]["prio"] == number


def elements_of(kind: str, elements: str, word: str = "set") -> Any:
    text = f"table ip t {{\n\t{word} s {{\n\t\t{kind}\n\t\telements = {{ {elements} }}\n\t}}\n}}\n"
    return parse_nft_text(text)[1][word]


@pytest.mark.parametrize(
    ("kind", "elements", "expected"),
    [
        ("type ipv4_addr", "1.2.3.4 timeout 1h2m expires 59m3s250ms", [{"elem": {"val": "1.2.3.4", "timeout": 3720, "expires": 3543}}]),
        ("type ipv4_addr", "1.2.3.4 counter packets 1 bytes 2 comment \"a, : } .\"", [{"elem": {"val": "1.2.3.4", "counter": {"packets": 1, "bytes": 2}, "comment": "a, : } ."}}]),
        ("type ipv4_addr . inet_service", '10.0.0.0/8 . "http", 1.2.3.4 . 5-6', [{"concat": [{"prefix": {"addr": "10.0.0.0", "len": 8}}, 80]}, {"concat": ["1.2.3.4", {"range": [5, 6]}]}]),
        ("typeof ip6 daddr", "fe80::1-fe80::ff, ::/0,\n\t\t\t     ::1 ,", [{"range": ["fe80::1", "fe80::ff"]}, {"prefix": {"addr": "::", "len": 0}}, "::1"]),
        ("type ifname", '"a . b", "c, d"', ["a . b", "c, d"]),
        ("type tcp_flag", "syn, syn | ack", ["syn", {"|": ["syn", "ack"]}]),
    ],
)  # fmt: skip
def test_elements_of_sets(kind: str, elements: str, expected: Any) -> None:
    assert elements_of(kind, elements)["elem"] == expected


def test_elements_of_maps() -> None:
    found = elements_of("type ipv4_addr . inet_proto . inet_service : verdict", '1.2.3.4 . tcp . 80 comment "a : b" : goto x/y__1.2.3.4/80, * : drop', "map")  # fmt: skip
    key = {"elem": {"val": {"concat": ["1.2.3.4", "tcp", 80]}, "comment": "a : b"}}
    assert found["elem"] == [[key, {"goto": {"target": "x/y__1.2.3.4/80"}}], ["*", {"drop": None}]]
    assert found["type"] == ["ipv4_addr", "inet_proto", "inet_service"] and found["map"] == "verdict"
    found = elements_of("typeof numgen inc mod 2 : ip daddr . tcp dport", "0 : 1.2.3.4 . 80", "map")
    assert (found["type"], found["map"], found["elem"]) == (
        "integer",
        "ipv4_addr . inet_service",
        [[0, {"concat": ["1.2.3.4", 80]}]],
    )


def test_elements_that_are_not_understood_are_said() -> None:
    found = elements_of("type ipv4_addr", "1.2.3.4, nonsense here")
    assert "elem" not in found and found["unknown"][0]["line"] == 4 and "nonsense" in found["unknown"][0]["text"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("table ip t {", 1),
        ("table ip t {\n\tchain c {\n\t\taccept\n", 2),
        ("table ip t {\n}\n}\n", 3),
        ("table ip t {\n\tset s {\n\t\ttype ipv4_addr\n\t\telements = { 1.2.3.4,\n", 4),
        ("table ip t {\n\tchain c {\n\t\taccept comment \"half\n\t}\n}\n", 3),
        ("table ip t {\n\tnonsense\n}\n", 2),
        ("table ip t {\n\tnonsense x {\n\t}\n}\n", 2),
        ("table nonsense t {\n}\n", 1),
        ("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n", 1),
        ('{"nftables": []}', 1),
        ("table ip t {\n\x00\x01\n}\n", 2),
        ("table ip t {\n\tchain c {\n\t\ttype filter hook input priority nonsense;\n\t}\n}\n", 3),
        ("{\n}\n", 1),
    ],
)  # fmt: skip
def test_broken_text_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(ParseError) as caught:
        parse_nft_text(text, "rules.nft")
    assert (caught.value.source, caught.value.line) == ("rules.nft", line)


def test_every_cut_of_a_listing_is_refused_or_read() -> None:
    lines = gzip.decompress((DATA / "kube-proxy.jsonl.gz").read_bytes()).decode().splitlines()
    text = json.loads(lines[0])["text"].rstrip()
    for end in range(20, len(text) - 1, 7):
        with pytest.raises(ParseError):
            parse_nft_text(text[:end])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('accept comment "a" # handle 5', ("accept", "a", 5)),
        ('comment "only"', ("", "only", None)),
        ('log prefix " comment " accept', ('log prefix " comment " accept', None, None)),
        ('log prefix "x comment "', ('log prefix "x comment "', None, None)),
        ('drop comment "# handle 5"', ("drop", "# handle 5", None)),
        ("accept # handle 12", ("accept", None, 12)),
    ],
)
def test_tails_of_rules(text: str, expected: tuple[str, str | None, int | None]) -> None:
    assert split_tail(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("4m15s308ms", 255308), ("1d2h", 93600000), ("30", 30000), ("5ms", 5), ("1w", 604800000)]
)
def test_durations(text: str, expected: int) -> None:
    assert milliseconds(text) == expected
    with pytest.raises(NotUnderstoodError):
        milliseconds(text + "x")


# ---- anything at all


def survives(text: str) -> None:
    try:
        objects = parse_nft_text(text)
    except ParseError:
        return
    for each in objects:
        if "rule" in each:
            parse_rule(each["rule"]["text"], each["rule"]["family"])
    json.dumps(objects)


WORDS = st.sampled_from(sorted({word for line in text_of("rules").splitlines() for word in line.split()}))


@QUICK
@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    survives(text)
    survives(f"table ip t {{\nchain c {{\n{text}\n}}\n}}\n")
    survives(f"table ip t {{\nset c {{\n{text}\n}}\n}}\n")
    json.dumps(parse_rule(text))


@QUICK
@given(st.lists(WORDS, max_size=25).map(" ".join))
def test_any_words_of_the_language(text: str) -> None:
    statements = parse_rule(text, "ip")
    json.dumps(statements)
    assert all("unknown" not in s for s in statements[:-1])
    survives(f"table ip t {{\nset c {{\n{text}\n}}\n}}\n")
    survives(text)


@QUICK
@given(st.data())
def test_mutated_listings(data: st.DataObject) -> None:
    text = text_of("rules")
    start = data.draw(st.integers(0, len(text) - 1))
    piece = list(text[start : start + data.draw(st.integers(1, 3000))])
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, max(0, len(piece) - 1)))
        piece[place : place + data.draw(st.integers(0, 5))] = data.draw(
            st.text(alphabet='{}"#;,:.()|&@ \n\tab1\x00', max_size=4)
        )
    mutated = "".join(piece)
    survives(mutated)
    survives(f"table inet t {{\n\tchain c {{\n{mutated}")
    survives("table inet t {\n\tchain c {\n" + mutated.replace("{", "").replace("}", "") + "\n}\n}\n")


@pytest.mark.parametrize(
    "text",
    ["(" * 5000, "jhash " * 5000, "meta mark set " * 5000, "vxlan geneve " * 5000, "tcp flags & (" * 3000, "ip saddr { " * 3000, "1" * 9999, "meta mark " + "9" * 9999,
     'comment "' * 5000, "-" * 9999, "ip6 saddr " + ":" * 20000, "meta mark 1 | " + "1 | " * 5000, "{" * 20000, "@" * 5000, "limit rate " + "9" * 5000 + "/second"],
)  # fmt: skip
def test_hostile_rules_end_soon(text: str) -> None:
    before = time.perf_counter()
    json.dumps(parse_rule(text))
    survives(f"table ip t {{\n\tchain c {{\n\t\t{text}\n\t}}\n}}\n")
    survives(f"table ip t {{\n\tset c {{\n\t\ttype ipv4_addr\n\t\telements = {{ {text} }}\n\t}}\n}}\n")
    assert time.perf_counter() - before < 2


def test_a_map_of_ten_thousand_services_is_read_at_once() -> None:
    lines = [f'10.{96 + (i >> 16)}.{i >> 8 & 255}.{i & 255} . tcp . 80 comment "ns/svc{i}:http" : goto service-{i:08X}-ns/svc{i}/tcp/http' for i in range(10000)]  # fmt: skip
    head = "table ip kube-proxy {\n\tmap service-ips {\n\t\ttype ipv4_addr . inet_proto . inet_service : verdict\n\t\telements = { "
    objects = parse_nft_text(head + ",\n\t\t\t     ".join(lines) + " }\n\t}\n}\n")
    elements = objects[1]["map"]["elem"]
    assert len(elements) == 10000
    assert elements[258][0] == {"elem": {"val": {"concat": ["10.96.1.2", "tcp", 80]}, "comment": "ns/svc258:http"}}
    assert elements[258][1] == {"goto": {"target": "service-00000102-ns/svc258/tcp/http"}}
