"""Reading configurations: the guide's own, lists, and every way to get one wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glassnet.cni import config
from glassnet.net.errors import ParseError

GUIDE = """{
    "cniVersion": "0.3.1",
    "name": "bridge",
    "type": "bridge",
    "bridge": "cnio0",
    "isGateway": true,
    "ipMasq": true,
    "ipam": {
        "type": "host-local",
        "ranges": [
          [{"subnet": "10.200.0.0/24"}]
        ],
        "routes": [{"dst": "0.0.0.0/0"}]
    }
}
"""


def conf(**changes: Any) -> str:
    return json.dumps({**json.loads(GUIDE), **changes}, indent=1)


def test_the_guides_configuration() -> None:
    read = config.parse(GUIDE, "10-bridge.conf")
    assert (read.version, read.name, read.bridge) == ("0.3.1", "bridge", "cnio0")
    assert read.is_gateway and read.ip_masq and not read.hairpin and not read.promisc and not read.default_route
    (one,) = read.ipam.ranges
    assert (str(one.subnet), str(one), str(one.gateway)) == ("10.200.0.0/24", "10.200.0.1-10.200.0.254", "10.200.0.1")
    assert read.ipam.routes == (("0.0.0.0/0", ""),)


def test_a_list_gives_its_bridge() -> None:
    whole = json.loads(GUIDE)
    plugin = {key: value for key, value in whole.items() if key not in ("cniVersion", "name")}
    text = json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [plugin, {"type": "loopback"}]})
    read = config.parse(text, "x.conflist")
    assert (read.version, read.name, read.bridge) == ("1.0.0", "pods", "cnio0")


@pytest.mark.parametrize("version", config.VERSIONS)
def test_versions(version: str) -> None:
    assert config.parse(conf(cniVersion=version), "x").version == version


def test_what_is_absent() -> None:
    text = json.dumps({"name": "n", "type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.0.0/16"}})
    read = config.parse(text, "x")
    assert (read.bridge, read.mtu, read.is_gateway, read.ip_masq) == ("cni0", 0, False, False)
    assert [str(one) for one in read.ipam.ranges] == ["10.1.0.1-10.1.255.254"] and read.ipam.routes == ()


def test_a_default_gateway_is_a_gateway() -> None:
    read = config.parse(conf(isGateway=False, isDefaultGateway=True), "x")
    assert read.is_gateway and read.default_route


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["99-loopback.conf", "10-bridge.conf"], "10-bridge.conf"),
        (["b.conflist", "a.conf", "0.txt", ".swp"], "a.conf"),
        (["10-x.json"], "10-x.json"),
        (["README"], None),
        ([], None),
    ],
)
def test_the_file_is_the_first_by_name(names: list[str], chosen: str | None) -> None:
    assert config.choose_file(names) == chosen


def ipam(**entry: Any) -> dict[str, Any]:
    return {"type": "host-local", "ranges": [[entry]]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cniVersion": "2.0.0"}, '"cniVersion": 2.0.0 is not one of 0.3.0'),
        ({"cniVersion": 1}, '"cniVersion": 1: want a string'),
        ({"name": ""}, '"name": the network has no name'),
        ({"name": "../x"}, "want a name for the network"),
        ({"type": "ptp"}, 'failed to find plugin "ptp" in path [/opt/cni/bin]'),
        ({"plugins": [{"type": "bridge"}, {"type": "portmap"}]}, 'failed to find plugin "portmap"'),
        ({"plugins": ["bridge"]}, "failed to find plugin null"),
        ({"plugins": [{"type": "loopback"}]}, "takes the bridge plugin"),
        ({"plugins": {}}, '"plugins": {}: want a list'),
        ({"mtu": "1500"}, '"mtu": "1500": want a number'),
        ({"mtu": True}, '"mtu": true: want a number'),
        ({"ipMasq": "yes"}, '"ipMasq": "yes": want true or false'),
        ({"vlan": 7}, '"vlan": bridges here have no VLANs'),
        ({"ipam": {"type": "dhcp"}}, '"ipam": type "dhcp": want host-local'),
        ({"ipam": None}, '"ipam": type null: want host-local'),
        ({"ipam": {"type": "host-local"}}, "no range to give addresses from"),
        ({"ipam": {"type": "host-local", "ranges": [{"subnet": "10.0.0.0/8"}]}}, "no range to give addresses from"),
        ({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/8"}], [{"subnet": "10.1.0.0/16"}]]}}, "2 range sets"),
        ({"ipam": ipam(subnet="10.200.0.0/33")}, '"subnet": '),
        ({"ipam": ipam(subnet="10.200.0.1/24")}, "host bits set"),
        ({"ipam": ipam(subnet="fd00::/64")}, "want an IPv4 network"),
        ({"ipam": ipam(subnet="10.200.0.0/31")}, "too small to allocate from"),
        ({"ipam": ipam()}, "want an object with a subnet"),
        ({"ipam": ipam(subnet="10.200.0.0/24", gateway="10.201.0.1")}, '"gateway": 10.201.0.1 not in network'),
        ({"ipam": ipam(subnet="10.200.0.0/24", rangeStart="x")}, '"rangeStart": '),
        ({"ipam": ipam(subnet="10.200.0.0/24", rangeStart="10.200.0.9", rangeEnd="10.200.0.8")}, "comes after rangeEnd"),
        ({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/8"}, {"subnet": "10.1.0.0/16"}]]}}, "overlaps"),
        ({"ipam": {**ipam(subnet="10.200.0.0/24"), "routes": [{"gw": "10.0.0.1"}]}}, '"routes": '),
        ({"ipam": {**ipam(subnet="10.200.0.0/24"), "routes": [{"dst": "here"}]}}, '"routes": '),
        ({"ipam": {**ipam(subnet="10.200.0.0/24"), "routes": ["x"]}}, '"routes": '),
    ],
)  # fmt: skip
def test_errors_name_file_line_and_key(changes: dict[str, Any], words: str) -> None:
    text = conf(**changes)
    with pytest.raises(ParseError) as caught:
        config.parse(text, "10-bridge.conf")
    error = caught.value
    assert words in str(error) and str(error).startswith("10-bridge.conf:")
    key = error.message.split('"')[1]
    assert error.line == 1 or f'"{key}"' in text.splitlines()[error.line - 1]


@pytest.mark.parametrize(("text", "line"), [('{\n "name": }', 2), ("[]", 1), ("", 1)])
def test_text_that_is_no_object(text: str, line: int) -> None:
    with pytest.raises(ParseError) as caught:
        config.parse(text, "x.conf")
    assert caught.value.line == line and caught.value.source == "x.conf"
