"""Ready configurations: every one is what our own runtime and plugins take, and says what it is asked to say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from glassnet.cni import host_local, ready, runtime
from glassnet.cni.plugins import PLUGINS, plugin_module
from glassnet.cni.ready import KINDS, Wish, files
from glassnet.cni.request import read_call
from glassnet.net.errors import UsageError

BOTH = ("10.244.1.0/24", "fd00:244:1::/64")


def network(kind: str, wish: Wish) -> runtime.Network:
    name, text = next(iter(files(kind, wish).items()))
    assert runtime.choose_file([name, "20-other.conf"]) == name
    return runtime.parse_network(text, name)


def read(plugin: Mapping[str, Any], net: runtime.Network) -> None:
    """The plugin's own reading of its configuration."""
    environment = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin"}
    text = json.dumps({**plugin, "name": net.name, "cniVersion": net.version})
    plugin_module(str(plugin["type"])).parse(read_call(str(plugin["type"]), environment, text))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cidrs", [BOTH[:1], BOTH])
def test_plugins_understand_every_key(kind: str, cidrs: tuple[str, ...]) -> None:
    net = network(kind, Wish(pod_cidrs=cidrs, mtu=1400))
    for plugin in net.plugins:
        if plugin["type"] in PLUGINS:
            read(plugin, net)
    main = net.plugins[0]
    ranges = main.get("podCIDRs") or [str(one.subnet) for each in host_local.ranges_of(main) for one in each]
    assert tuple(ranges) == cidrs
    assert main["mtu"] == 1400


@pytest.mark.parametrize("kind", [kind for kind, each in KINDS.items() if each.needs_cidrs])
def test_without_a_range_the_error_says_where_to_get_one(kind: str) -> None:
    with pytest.raises(UsageError, match=r"needs the pod CIDR of this node: --pod-cidr .* or --kubeconfig FILE"):
        files(kind, Wish())


@pytest.mark.parametrize(
    ("cidrs", "says"),
    [
        (("10.200.0.1/24",), "has host bits set; want a network such as 10.200.0.0/24"),
        (("pods",), "pods: .*; want a network such as 10.200.0.0/24"),
        (("10.1.0.0/24", "10.2.0.0/24"), "want one, or one of each address family"),
        ((*BOTH, "10.2.0.0/24"), "want one, or one of each address family"),
    ],
)
def test_a_bad_range_is_named(cidrs: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        files("bridge", Wish(pod_cidrs=cidrs))


def test_an_unknown_kind_is_told_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'flannel' is no ready configuration; want one of glassnet, kubenet"):
        files("flannel", Wish())


def test_kubenet_is_the_bridge_cbr0_with_hairpin_and_keeps_addresses_inside_the_cluster() -> None:
    net = network("kubenet", Wish(pod_cidrs=BOTH))
    main = net.plugins[0]
    assert (net.name, main["bridge"], main["hairpinMode"]) == ("kubenet", "cbr0", True)
    assert main["nonMasqueradeCIDRs"] == ["10.0.0.0/8", "::/0"]  # kubenet had a rule for one family
    assert [one["type"] for one in net.plugins] == ["glassnet", "portmap", "bandwidth"]
    mine = network("kubenet", Wish(pod_cidrs=BOTH, non_masquerade=("10.244.0.0/16", "fd00:244::/32")))
    assert mine.plugins[0]["nonMasqueradeCIDRs"] == ["10.244.0.0/16", "fd00:244::/32"]


def test_hardway_is_the_guides_two_files() -> None:
    found = files("hardway", Wish(pod_cidrs=("10.200.0.0/24",)))
    assert list(found) == ["10-bridge.conf", "99-loopback.conf"]
    assert json.loads(found["10-bridge.conf"]) == {
        "cniVersion": "0.3.1", "name": "bridge", "type": "bridge", "bridge": "cnio0", "isGateway": True, "ipMasq": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.200.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }  # fmt: skip
    assert json.loads(found["99-loopback.conf"]) == {"cniVersion": "0.3.1", "name": "lo", "type": "loopback"}


def test_docker_has_its_private_range_unless_another_is_asked_for() -> None:
    assert str(host_local.ranges_of(network("docker", Wish()).plugins[0])[0][0].subnet) == ready.DOCKER
    main = network("docker", Wish(pod_cidrs=("172.28.0.0/16",), bridge="br1")).plugins[0]
    assert (main["bridge"], main["ipMasq"], str(host_local.ranges_of(main)[0][0].subnet)) == ("br1", True, "172.28.0.0/16")  # fmt: skip


def test_glassnet_says_nothing_that_it_was_not_asked_to_say() -> None:
    net = network("glassnet", Wish())
    assert net.plugins[0] == {"type": "glassnet"}
    assert network("glassnet", Wish(name="pods", version="1.0.0"))[:2] == ("1.0.0", "pods")


def test_ports_of_the_node_are_asked_for_by_the_runtime() -> None:
    for kind in ("glassnet", "kubenet", "bridge", "ptp", "docker"):
        chained = network(kind, Wish(pod_cidrs=BOTH)).plugin("portmap")
        assert chained["capabilities"] == {"portMappings": True}
