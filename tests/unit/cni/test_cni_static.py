"""static: which addresses count, and the words of what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from carried import Carried, call

from glassnet.cni import static
from glassnet.cni.errors import CniError
from glassnet.cni.result import Dns, Ip, Result, RouteEntry


def conf(*addresses: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"ipam": {"type": "static", "addresses": list(addresses), **more}}


MINE = {"address": "10.10.0.1/24", "gateway": "10.10.0.254"}


def add(given: dict[str, Any], args: str = "") -> Result:
    return Carried().run(static.add(call(given, CNI_ARGS=args)))


def test_the_configurations_addresses() -> None:
    made = add(conf(MINE, {"address": "FD00::1/64"}, routes=[{"dst": "0.0.0.0/0"}], dns={"domain": "x"}))
    assert made.ips == (Ip("10.10.0.1/24", "10.10.0.254"), Ip("fd00::1/64"))
    assert made.routes == (RouteEntry("0.0.0.0/0"),) and made.dns == Dns(domain="x")


def test_the_arguments_add_and_the_runtime_replaces() -> None:
    args = "IP=10.1.1.2/24, 10.1.2.2/24;GATEWAY=10.1.1.1,10.10.0.9,10.99.0.1"
    whole = add(conf(MINE), args)
    assert whole.ips == (Ip("10.10.0.1/24", "10.10.0.9"), Ip("10.1.1.2/24", "10.1.1.1"), Ip("10.1.2.2/24"))
    asked = {"args": {"cni": {"ips": ["10.2.0.2/24"]}}}
    assert add({**conf(MINE), **asked}, args).ips == (Ip("10.2.0.2/24"),)
    assert add({**conf(MINE), **asked, "runtimeConfig": {"ips": ["10.3.0.3/24"]}}, args).ips == (Ip("10.3.0.3/24"),)


@pytest.mark.parametrize(
    ("given", "args", "code", "words"),
    [
        (conf(), "", 7, "no address is given"),
        (conf({"address": "10.10.0.1"}), "", 7, "the 'address' field is expected to be in CIDR notation"),
        (conf({"address": "10.10.0.1/255.255.255.0"}), "", 7, "CIDR notation"),
        (conf({"address": "fe80::1%1/64"}), "", 7, "CIDR notation"),
        (conf({"address": "x", "gateway": "y"}), "", 7, '"y": want an IP address'),
        (conf({"address": "10.0.0.1/8", "gw": "10.0.0.2"}), "", 2, "there is no such key"),
        (conf(MINE, adresses=[]), "", 2, 'did you mean "addresses"?'),
        (conf(MINE), "IP=10.1.1.2", 7, "the 'ip' field is expected to be in CIDR notation"),
        (conf(MINE), "GATEWAY=zz", 7, 'invalid gateway address: "zz"'),
        ({**conf(MINE), "runtimeConfig": {"ips": "10.0.0.1/8"}}, "", 7, "want a list"),
        ({"cniVersion": "0.2.0", **conf(MINE, {"address": "10.10.0.2/24"})}, "", 7, "more than 1 address per family"),
    ],
)  # fmt: skip
def test_what_is_refused(given: dict[str, Any], args: str, code: int, words: str) -> None:
    with pytest.raises(CniError) as caught:
        add(given, args)
    assert caught.value.code == code and words in str(caught.value)


def test_del_and_gc_read_nothing() -> None:
    for run, command in ((static.delete, "DEL"), (static.collect, "GC")):
        assert Carried().run(run(call(conf({"address": "bogus"}), command=command))) is None


@pytest.mark.parametrize(
    ("previous", "words"),
    [
        (None, "Required prevResult missing"),
        ({"ips": []}, "static: Failed to find address 10.10.0.1/24 in the previous result"),
        ({"ips": [{"address": "10.10.0.1/24", "gateway": "10.10.0.9"}]}, "static: Failed to match addr 10.10.0.1/24"),
        ({"ips": [{"address": "10.10.0.1/24", "gateway": "10.10.0.254"}]}, ""),
    ],
)
def test_check(previous: Any, words: str) -> None:
    asked = static.check(call({**conf(MINE), "prevResult": previous}, command="CHECK"))
    if not words:
        Carried().run(asked)
    else:
        with pytest.raises(CniError, match=words):
            Carried().run(asked)
