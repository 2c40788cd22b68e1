"""The bandwidth plugin without a kernel: numbers, names, messages, what is refused."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from glassnet.agent.pods.capabilities import bandwidth as capability
from glassnet.cni import bandwidth
from glassnet.cni.bandwidth import Limit, ifb_name, parse, queue_operations
from glassnet.cni.effects import Apply, Effect
from glassnet.cni.errors import CniError
from glassnet.cni.request import Call, read_call
from glassnet.kernel.network_state import attributes
from glassnet.kernel.traffic_control import PACK
from glassnet.net.errors import GlassnetError, KernelError
from glassnet.netstack.ops import AddHtbClass, AddIfb, AddRedirect, AddSubnetFilter, AddTbf, MarkLink, ProbeShaping

ENVIRONMENT = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin"}


def call(command: str = "ADD", **keys: Any) -> Call:
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "bandwidth", **keys}
    return read_call("bandwidth", {**ENVIRONMENT, "CNI_COMMAND": command}, json.dumps(conf), 3)


class Numbers:
    """Numbers of interfaces, as a socket would know them."""

    def index(self, name: str) -> int:
        return {"veth1": 7, "bwp1": 9}[name]


def packed(operation: Any) -> tuple[int, dict[int, bytes], bytes]:
    """Type, attributes and fixed part of an operation's message."""
    kind, _, body = PACK[type(operation)](Numbers(), operation)
    start = 16 if kind == 16 else 20
    return kind, attributes(body, start), body[:start]


@pytest.mark.parametrize(
    ("rate", "burst", "buffer", "limit"),
    [
        (125_000, 100_000, 12_500_000, 103_125),  # 1 Mbit/s and 800 kbit: 0.8 s of 64 ns
        (250_000, 200_000, 12_500_000, 206_250),
        (1, 1, 15_625_000, 1),
        (125_000, (2**31 - 1) // 8, 2**32 - 1, 268_438_580),  # more than the kernel counts
        (10**12, 2**32 - 2, int(4294 * 15.625), 2**32 - 1),
    ],
)
def test_numbers_of_a_bucket(rate: int, burst: int, buffer: int, limit: int) -> None:
    assert (Limit(rate, burst).buffer, Limit(rate, burst).limit) == (buffer, limit)


def test_names_fit_and_differ() -> None:
    names = {ifb_name("net", "c1"), ifb_name("net", "c2"), ifb_name("other", "c1"), ifb_name("net", "c1", "net1")}
    assert len(names) == 4 and all(len(name) == 15 and name.startswith("bwp") for name in names)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"ingressRate": 8}, "burst must also be set"),
        ({"egressBurst": 8}, "rate must also be set"),
        ({"egressRate": 7, "egressBurst": 80}, "want 8 bits, one byte, at least"),
        ({"ingressRate": -1, "ingressBurst": 8}, "ingressRate"),
        ({"ingressRate": "1M", "ingressBurst": 8}, "want a whole number"),
        ({"ingressRate": 8, "ingressBurst": 2**36}, "burst cannot be more than 4GB"),
        ({"runtimeConfig": {"bandwidth": {"ingressRate": 8}}}, "runtimeConfig.bandwidth.ingressBurst"),
        ({"runtimeConfig": {"bandwidth": []}}, "want an object"),
        ({"ingresRate": 8}, 'did you mean "ingressRate"'),
        ({"shapedSubnets": ["10.0.0.0/8", "hello"]}, 'bad subnet "hello" provided'),
        ({"shapedSubnets": ["::/0"], "unshapedSubnets": ["::/0"]}, "cannot be both specified"),
    ],
)
def test_refused(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(CniError, match=text) as caught:
        parse(call(**keys))
    assert caught.value.code in (2, 7)


def test_limits_and_subnets_come_each_from_one_place() -> None:
    runtime = {"bandwidth": {"ingressRate": 80, "ingressBurst": 800, "shapedSubnets": ["fd00::1/64"]}}
    conf = parse(call(runtimeConfig=runtime))
    assert conf == ((10, 100), (0, 0), ("fd00::/64",), ())
    conf = parse(call(runtimeConfig=runtime, egressRate=8, egressBurst=8, unshapedSubnets=["10.1.2.3/8"]))
    assert conf == ((0, 0), (1, 1), (), ("10.0.0.0/8",))
    assert parse(call(runtimeConfig=runtime, unshapedSubnets=["10.0.0.0/8"])).ingress.rate == 10


def test_what_comes_in_is_matched_by_its_source() -> None:
    conf = parse(call(ingressRate=80, ingressBurst=800, unshapedSubnets=["10.0.0.0/8"]))
    inbound, outbound = (queue_operations(conf, conf.ingress, "veth1", inbound=way)[-1] for way in (True, False))
    assert inbound == AddSubnetFilter("veth1", "10.0.0.0/8", 1, source=True)
    assert outbound == AddSubnetFilter("veth1", "10.0.0.0/8", 1)


def test_messages() -> None:
    kind, parts, head = packed(AddTbf("veth1", 125_000, 12_500_000, 103_125))
    assert kind == 36 and struct.unpack("=BxxxiIII", head) == (0, 7, 0x10000, 0xFFFFFFFF, 0) and parts[1] == b"tbf\0"
    assert struct.unpack_from("=I", attributes(parts[2], 0)[1], 8)[0] == 125_000 and 4 not in attributes(parts[2], 0)
    options = attributes(packed(AddTbf("veth1", 2**33, 1, 1))[1][2], 0)
    assert options[4] == struct.pack("=Q", 2**33) and struct.unpack_from("=I", options[1], 8)[0] == 2**32 - 1
    options = attributes(packed(AddHtbClass("veth1", 1, 10**11))[1][2], 0)
    assert {6, 7} <= set(options) and len(options[1]) == 44
    kind, parts, head = packed(AddIfb("bwp1", 1400, 1000))
    assert kind == 16 and parts[3] == b"bwp1\0" and attributes(parts[18], 0)[1] == b"ifb"
    kind, parts, head = packed(MarkLink("bwp1", "cni net c1 eth0"))
    assert struct.unpack("=BxHiII", head) == (0, 0, 0, 1, 1) and parts[20] == b"cni net c1 eth0\0"
    kind, parts, head = packed(AddRedirect("veth1", "bwp1"))
    action = attributes(attributes(attributes(parts[2], 0)[7], 0)[1], 0)
    assert kind == 44 and struct.unpack_from("=iI", attributes(action[2], 0)[2], 20) == (1, 9)


@pytest.mark.parametrize(
    ("subnet", "source", "keys"),
    [
        ("10.32.0.0/12", False, [("fff00000", "0a200000", 16)]),
        ("10.32.0.0/12", True, [("fff00000", "0a200000", 12)]),
        ("fd00:db8:abcd:1234:e000::/68", False,
         [("ffffffff", "fd000db8", 24), ("ffffffff", "abcd1234", 28), ("f0000000", "e0000000", 32)]),
        ("fd00::/16", True, [("ffff0000", "fd000000", 8)]),
        ("0.0.0.0/0", False, [("00000000", "00000000", 16)]),
    ],
)  # fmt: skip
def test_words_of_subnets(subnet: str, source: bool, keys: list[tuple[str, str, int]]) -> None:
    selector = attributes(packed(AddSubnetFilter("veth1", subnet, 1, source))[1][2], 0)[5]
    found = [
        (selector[at : at + 4].hex(), selector[at + 4 : at + 8].hex(), struct.unpack_from("=i", selector, at + 8)[0])
        for at in range(16, len(selector), 16)
    ]
    assert selector[2] == len(keys) and found == keys


def test_status_names_what_the_kernel_lacks() -> None:
    for lacking in ("", "ifb", "mirred", "tbf"):
        steps, asked = bandwidth.status(call("STATUS")), []
        try:
            effect: Effect[Any] = next(steps)
            while True:
                assert isinstance(effect, Apply)
                (probe,) = effect.operations
                assert isinstance(probe, ProbeShaping)
                asked.append(probe.what)
                effect = steps.throw(KernelError("probe", 95 if probe.what == lacking else 22))
        except StopIteration:
            assert lacking == "" and asked == ["ifb", "mirred", "tbf"]
        except CniError as error:
            assert error.code == 50 and f"the kernel has no {lacking}" in str(error)


@pytest.mark.parametrize(
    ("annotations", "limits"),
    [
        ({}, {}),
        ({"kubernetes.io/ingress-bandwidth": "10M"}, {"ingressRate": 10_000_000, "ingressBurst": 2**31 - 1}),
        ({"kubernetes.io/egress-bandwidth": "1.5Ki"}, {"egressRate": 1536, "egressBurst": 2**31 - 1}),
        ({"kubernetes.io/egress-bandwidth": "1000500m", "kubernetes.io/ingress-bandwidth": "1P"},
         {"ingressRate": 10**15, "ingressBurst": 2**31 - 1, "egressRate": 1001, "egressBurst": 2**31 - 1}),
    ],
)  # fmt: skip
def test_annotations(annotations: dict[str, str], limits: dict[str, int]) -> None:
    assert capability(annotations) == ({"bandwidth": limits} if limits else {})


@pytest.mark.parametrize(
    ("value", "text"), [("fast", "such as 10M"), ("999", "small"), ("2P", "large"), ("-1M", "small")]
)
def test_annotations_that_are_refused(value: str, text: str) -> None:
    with pytest.raises(GlassnetError, match=f"kubernetes.io/egress-bandwidth.*{text}"):
        capability({"kubernetes.io/egress-bandwidth": value})
