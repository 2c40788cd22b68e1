"""The tuning plugin without a kernel: keys, files, settings, and an ADD stopped at each of its effects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glassnet.cni import tuning
from glassnet.cni.effects import Apply, Effect, FindLink, ReadFile, RemoveFile, WriteFile, WriteSettings
from glassnet.cni.errors import CniError
from glassnet.cni.request import Call, read_call
from glassnet.cni.tuning import backup, operations_of, parse, read_backup, setting_of
from glassnet.net.errors import GlassnetError, KernelError
from glassnet.netstack.model import Link
from glassnet.netstack.ops import SetLink

ENVIRONMENT = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin"}
LINK = Link(2, "eth0", 1450, hardware="0a:58:00:00:00:02", queue=1000)
MAC = "c2:00:00:00:00:01"


def call(command: str = "ADD", environment: str = "", **keys: Any) -> Call:
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "tuning", **keys}
    variables = {**ENVIRONMENT, "CNI_COMMAND": command, "CNI_ARGS": environment}
    return read_call("tuning", variables, json.dumps(conf), 3)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("net.core.somaxconn", "net.core.somaxconn"),
        ("net/core/somaxconn", "net.core.somaxconn"),
        ("net.ipv4.conf.IFNAME.arp_filter", "net.ipv4.conf.eth0/5.arp_filter"),
        ("net/ipv4/conf/eth1.7/arp_filter", "net.ipv4.conf.eth1/7.arp_filter"),
        ("net.ipv4.conf.eth1/7.arp_filter", "net.ipv4.conf.eth1/7.arp_filter"),
    ],
)
def test_names_of_settings(key: str, name: str) -> None:
    assert setting_of(key, "eth0.5") == name


@pytest.mark.parametrize(
    "key",
    [
        "",
        ".",
        "/",
        "net",
        "net.",
        "kernel.hostname",
        "net/../kernel/x",
        "net..x",
        "/net/core/x",
        "net./.x",
        "network.x",
    ],
)
def test_names_that_lead_elsewhere(key: str) -> None:
    with pytest.raises(CniError, match="invalid net sysctl key"):
        setting_of(key, "eth0")


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"mac": "zz"}, "invalid MAC address"),
        ({"mtu": -1}, '"mtu"'),
        ({"mtu": "1400"}, "want a whole number"),
        ({"promisc": 1}, "want true or false"),
        ({"allmulti": "yes"}, "want true or false"),
        ({"sysctl": ["net.x"]}, "want an object"),
        ({"sysctl": {"net.core.somaxconn": 5}}, "sysctl.net.core.somaxconn.*want a string"),
        ({"args": {"cni": {"txQLen": None, "mtu": "x"}}}, "args.cni.mtu"),
        ({"dataDirectory": "/x"}, 'did you mean "dataDir"'),
    ],
)
def test_refused(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(CniError, match=text) as caught:
        parse(call(**keys))
    assert caught.value.code in (2, 7)


def test_arguments_come_before_the_configuration() -> None:
    own = {
        "sysctl": {"net.a": "1", "net.b": "1"},
        "promisc": True,
        "mtu": 1400,
        "allmulti": True,
        "txQLen": 5,
        "mac": MAC,
    }
    args = {
        "sysctl": {"net.b": "2"},
        "promisc": False,
        "mtu": 1300,
        "allmulti": False,
        "txQLen": 0,
        "mac": "C2-00-00-00-00-02",
    }
    conf = parse(call(args={"cni": args, "podman_labels": {}}, **own))
    assert conf.settings == {"net.a": "1", "net.b": "2"} and conf[1:6] == ("c2:00:00:00:00:02", False, 1300, False, 0)
    assert parse(call()) == ({}, "", False, None, None, None, "/run/cni/tuning")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, {}),
        ("", {}),
        ("{", {}),
        ("[]", {}),
        ('{"mac": "zz", "mtu": "1", "other": 1, "promisc": null}', {}),
        ('{\n "mac": "b6:fa:a7:de:5c:a0",\n "promisc": false,\n "mtu": 1450,\n "allmulti": false\n}',
         {"mac": "b6:fa:a7:de:5c:a0", "promisc": False, "mtu": 1450, "allmulti": False}),
    ],
)  # fmt: skip
def test_files(text: str | None, found: dict[str, Any]) -> None:
    assert read_backup(text) == found


def test_what_is_kept_is_what_changes() -> None:
    assert backup(parse(call(mtu=1)), LINK) == {"mtu": 1450}
    conf = parse(call(mac=MAC, promisc=True, allmulti=False, txQLen=0))
    assert backup(conf, LINK) == {"mac": LINK.hardware, "promisc": False, "allmulti": False, "txQLen": 1000}
    assert operations_of("eth0", {"mtu": 0, "mac": "", "network": "net"}) == []


def test_an_add_that_is_stopped_leaves_interface_and_file_as_they_were() -> None:
    previous = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c1"}]}
    keys = {"mac": MAC, "mtu": 1300, "allmulti": True, "sysctl": {"net.core.somaxconn": "1"}, "prevResult": previous}
    for at in range(20):
        link, file, said = World(), {}, None
        try:
            said = run(tuning.add(call(**keys)), link, file, at)
        except GlassnetError as error:
            assert str(error) == "stopped" and link.state == World().state and not file, f"stopped at effect {at}"
        else:
            break
    assert at >= 5 and said.interfaces[0].mac == MAC and said.interfaces[0].mtu == 1300
    assert link.state == {"mtu": 1300, "hardware": MAC, "allmulti": True}
    assert run(tuning.delete(call("DEL", **keys)), link, file) is None
    assert link.state == World().state and not file


class World:
    """An interface, as far as the plugin changes it."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"mtu": LINK.mtu, "hardware": LINK.hardware, "allmulti": False}

    def apply(self, operation: Any) -> None:
        assert isinstance(operation, SetLink)
        if (operation.mtu or 68) < 68:
            raise KernelError("SetLink", 22)
        self.state |= {key: getattr(operation, key) for key in self.state if getattr(operation, key) is not None}


def run(steps: Any, world: World, files: dict[str, str], at: int = -1) -> Any:
    """Carry a plugin out on values; the effect of a number fails, after the first half of what it does."""
    number = 0
    try:
        effect: Effect[Any] = next(steps)
        while True:
            answer: Any = None
            match effect:
                case Apply():
                    half = len(effect.operations) // 2 if number == at else len(effect.operations)
                    for operation in effect.operations[:half]:
                        world.apply(operation)
                case FindLink():
                    answer = LINK
                case ReadFile():
                    answer = files.get(effect.path)
                case WriteFile() if number != at:
                    files[effect.path] = effect.text
                case RemoveFile():
                    files.pop(effect.path, None)
                case WriteSettings() | WriteFile():
                    pass
            number += 1
            effect = steps.throw(GlassnetError("stopped")) if number - 1 == at else steps.send(answer)
    except StopIteration as done:
        return done.value
