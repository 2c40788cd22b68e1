"""ipMasq as text and as messages: the lines of both backends, what is left of them, whose they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glassnet.cni import effects as e
from glassnet.cni import masquerade, masquerade_nft
from glassnet.cni.errors import CniError
from glassnet.cni.request import Attachment, Call, read_call
from glassnet.net.errors import CommandError
from glassnet.ruleset import nft_reader as reader

CHAIN = "CNI-5145007e2a8415ce07579739"
NOTE = r'-m comment --comment "name: \"mynet\" id: \"ctr1\""'
SAVED = f"""*nat
:POSTROUTING ACCEPT [0:0]
:{CHAIN} - [0:0]
-A POSTROUTING -s 10.22.0.2/32 {NOTE} -j {CHAIN}
-A {CHAIN} -d 10.22.0.0/24 {NOTE} -j ACCEPT
-A {CHAIN} ! -d 224.0.0.0/4 {NOTE} -j MASQUERADE
COMMIT
"""


def call(command: str = "DEL", **changes: Any) -> Call:
    config = {"cniVersion": "1.1.0", "name": "mynet", "type": "bridge", "ipMasq": True}
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": "ctr1", "CNI_NETNS": "/run/netns/c1",
                   "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin"}  # fmt: skip
    return read_call("bridge", environment, json.dumps({**config, **changes}))


def test_lines_are_the_references() -> None:
    made = masquerade.added_lines("mynet", "ctr1", 4, ["10.22.0.2/24"])
    wanted = [line for line in SAVED.splitlines() if line.startswith((f":{CHAIN}", "-A"))]
    assert made.splitlines() == wanted
    assert masquerade.removed_lines("mynet", "ctr1", ["10.22.0.2/24"]) == (
        f":{CHAIN} - [0:0]\n-D POSTROUTING -s 10.22.0.2/32 {NOTE} -j {CHAIN}\n-X {CHAIN}\n"
    )
    assert "! -d ff00::/8" in masquerade.added_lines("mynet", "ctr1", 6, ["fd00:22::2/64"])


def test_what_is_left_is_found_by_the_container() -> None:
    removal = f":{CHAIN} - [0:0]\n-D POSTROUTING -s 10.22.0.2/32 {NOTE} -j {CHAIN}\n-X {CHAIN}\n"
    assert masquerade.left_lines(SAVED, "mynet", "ctr1") == removal
    assert masquerade.left_lines(SAVED, "mynet", "ctr1", ["10.22.0.2/24"]) == removal
    assert masquerade.left_lines(SAVED, "mynet", "ctr2") == ""
    assert masquerade.left_lines(SAVED, "my", "netctr1") == removal  # the hash is of both names run together
    listed = f"-N {CHAIN}\n-P POSTROUTING ACCEPT\n"
    assert masquerade.left_lines(listed, "mynet", "ctr1") == f":{CHAIN} - [0:0]\n-X {CHAIN}\n"


def test_another_interface_of_the_container_keeps_the_chain() -> None:
    second = SAVED.replace("COMMIT", f"-A POSTROUTING -s 10.22.0.3/32 {NOTE} -j {CHAIN}\nCOMMIT")
    assert masquerade.left_lines(second, "mynet", "ctr1", ["10.22.0.3/24"]) == (
        f"-D POSTROUTING -s 10.22.0.3/32 {NOTE} -j {CHAIN}\n"
    )


def drive(steps: Any, answers: dict[type, Any]) -> tuple[Any, list[Any]]:
    """The value a generator ends with, and what it asked; an answer that is an error is thrown in, a list gives one answer after the other."""
    asked: list[Any] = []
    send, value = steps.send, None
    while True:
        try:
            effect = send(value)
        except StopIteration as done:
            return done.value, asked
        asked.append(effect)
        answer = answers.get(type(effect))
        if isinstance(answer, list):
            answer = answer.pop(0)
        send, value = (steps.throw if isinstance(answer, Exception) else steps.send), answer


EMPTY = e.NftTable({}, ())


def test_the_backend_is_iptables_where_there_is_iptables() -> None:
    for there, kind in ((True, e.Restore), (False, e.NftChange)):
        _, asked = drive(masquerade.add(call("ADD"), ["10.22.0.2/24"]), {e.HasProgram: there})
        assert isinstance(asked[-1], kind)
    _, asked = drive(masquerade.add(call("ADD", ipMasqBackend="nftables"), ["10.22.0.2/24"]), {})
    assert [type(one) for one in asked] == [e.NftChange]
    with pytest.raises(CniError, match="no iptables-restore") as caught:
        drive(masquerade.status(call("STATUS", ipMasqBackend="iptables")), {e.HasProgram: False})
    assert caught.value.code == 50


def test_del_looks_closer_when_its_lines_are_refused() -> None:
    refused = CommandError(["iptables-restore"], 2, "line 3 failed")
    answers = {e.NftListing: EMPTY, e.HasProgram: True, e.SavedRules: SAVED, e.Restore: [refused, None]}
    _, asked = drive(masquerade.delete(call(), ["10.22.0.2/24"]), answers)
    assert [type(one).__name__ for one in asked] == [
        "NftListing", "HasProgram", "Restore", "HasProgram", "SavedRules", "Restore",
    ]  # fmt: skip
    assert asked[-1].lines.endswith(f"-X {CHAIN}\n")
    _, asked = drive(masquerade.delete(call(), []), {**answers, e.Restore: None})
    assert [one.family for one in asked if isinstance(one, e.Restore)] == [4, 6]


def test_gc_takes_only_this_networks_containers_that_are_gone() -> None:
    gone = call("GC", **{"cni.dev/valid-attachments": []})
    other = SAVED.replace("mynet", "other")
    answers = {e.NftListing: EMPTY, e.HasProgram: True, e.SavedRules: [SAVED + other, ""]}
    problems, asked = drive(masquerade.collect(gone), answers)
    lines = [one.lines for one in asked if isinstance(one, e.Restore)]
    assert problems == [] and len(lines) == 1 and f"-X {CHAIN}" in lines[0]
    kept = call("GC", **{"cni.dev/valid-attachments": [{"containerID": "ctr1", "ifname": "eth0"}]})
    answers[e.SavedRules] = [SAVED, ""]
    _, asked = drive(masquerade.collect(kept), answers)
    assert not [one for one in asked if isinstance(one, e.Restore)]


# -- nftables


def test_comments_are_the_references() -> None:
    one = Attachment("ctr1", "eth0")
    assert masquerade_nft.note("mynet", one) == "d23676b4f2d9fe04-7883a6f9ce71eedb, net: mynet, if: eth0, id: ctr1"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("10.22.0.2/24", ("meta 15", "== 02", "payload 1 12 4", "== 0a160002", "payload 1 16 3", "!= 0a1600", "masq")),
        ("10.22.0.2/20", ("meta 15", "== 02", "payload 1 12 4", "== 0a160002", "payload 1 16 4", "bitwise", "!= 0a160000", "masq")),
        ("fd00:22::2/64", ("meta 15", "== 0a", "payload 1 8 16", f"== fd000022{'0' * 22}02", "payload 1 24 8", "!= fd00002200000000", "masq")),
        ("10.22.0.2/0", ("meta 15", "== 02", "payload 1 12 4", "== 0a160002", "payload 1 16 4", "bitwise", "!= 00000000", "masq")),
    ],
)  # fmt: skip
def test_a_rule_compares_as_nft_does(address: str, words: tuple[str, ...]) -> None:
    (packed,) = masquerade_nft.rules("mynet", Attachment("ctr1", "eth0"), [address])
    assert reader.rule(packed[20:]).words == words


def listing(*owners: tuple[str, Attachment]) -> e.NftTable:
    rules = [
        reader.rule(masquerade_nft.rules(network, one, ["10.22.0.2/24"])[0][20:])._replace(handle=number)
        for number, (network, one) in enumerate(owners, 1)
    ]
    return e.NftTable({}, tuple(rules))


def test_rules_go_by_whose_they_are() -> None:
    mine, second, third = Attachment("ctr1", "eth0"), Attachment("ctr1", "eth1"), Attachment("ctr2", "eth0")
    there = listing(("mynet", mine), ("mynet", second), ("mynet", third), ("other", mine))
    found, asked = drive(masquerade_nft.delete(call()), {e.NftListing: there})
    assert found and len(asked[-1].messages) == 1
    valid = [{"containerID": "ctr2", "ifname": "eth0"}]
    _, asked = drive(masquerade_nft.collect(call("GC", **{"cni.dev/valid-attachments": valid})), {e.NftListing: there})
    assert len(asked[-1].messages) == 2
    missing, _ = drive(masquerade_nft.check(call("CHECK"), ["10.22.0.2/24", "10.22.0.9/24"]), {e.NftListing: there})
    assert [text.split()[5] for text in missing[:1]] == ["10.22.0.9"] and missing[1].endswith("goto masq_checks")
