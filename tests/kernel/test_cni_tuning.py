"""The tuning plugin: what the kernel has afterwards, the file that either implementation restores from, what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cni_site import AGENT, ALONE, REFERENCE, Site, cni_site

pytestmark = pytest.mark.kernel
FILE = "/run/cni/tuning/c1_eth0.json"
MAC = "c2:11:22:33:44:55"
CHANGES = {"mac": MAC, "promisc": True, "mtu": 1300, "allmulti": True}
OTHERS = [AGENT, ALONE, REFERENCE]


class Chain:
    """A node with container c1, whose eth0 is what came before made it."""

    def __init__(self, site: Site) -> None:
        self.site = site

    async def container(self) -> None:
        await self.site.sh(
            "ip netns add c1 && ip link add veth1 type veth peer name eth0 netns c1 && ip -n c1 link set lo up &&"
            "ip link set veth1 up && ip -n c1 link set eth0 mtu 1450 up txqueuelen 900 && ip -n c1 addr add 10.55.0.2/24 dev eth0"
        )

    def conf(self, **keys: Any) -> dict[str, Any]:
        interfaces = [{"name": "veth1"}, {"name": "eth0", "mac": "0a:58:00:00:00:01", "sandbox": "/run/netns/c1"}]
        previous = {
            "cniVersion": "1.0.0",
            "interfaces": interfaces,
            "ips": [{"interface": 1, "address": "10.55.0.2/24"}],
            "dns": {},
        }
        return {"cniVersion": "1.0.0", "name": "net", "type": "tuning", "prevResult": previous, **keys}

    async def call(self, command: str, where: str, environment: str = "", netns: str = "c1", **keys: Any) -> Any:
        config = self.conf(**keys)
        return await self.site.call("tuning", command, config, "c1", where=where, args=environment, netns=netns)

    async def link(self) -> dict[str, Any]:
        """What of eth0 the plugin changes."""
        (found,) = json.loads(await self.site.run("ip", "-n", "c1", "-j", "-d", "link", "show", "eth0"))
        flags = {flag for flag in found["flags"] if flag in ("PROMISC", "ALLMULTI")}
        return {"mac": found["address"], "mtu": found["mtu"], "queue": found["txqlen"], "flags": flags}

    async def setting(self, name: str) -> str:
        return (await self.site.inside("c1", "sysctl", "-n", name)).strip()

    def kept(self, path: str = FILE) -> Any:
        file = self.site.path(path)
        return json.loads(file.read_text()) if file.exists() else None


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    async with cni_site() as site:
        made = Chain(site)
        await made.container()
        yield made


@pytest.mark.parametrize("undo", OTHERS)
@pytest.mark.parametrize("do", OTHERS)
async def test_each_restores_what_the_other_changed(chain: Chain, do: str, undo: str) -> None:
    before = await chain.link()
    assert before["mtu"] == 1450
    answer = await chain.call("ADD", do, **CHANGES)
    assert answer["interfaces"][1] == {"name": "eth0", "mac": MAC, "sandbox": "/run/netns/c1"}
    assert await chain.link() == {"mac": MAC, "mtu": 1300, "queue": 900, "flags": {"PROMISC", "ALLMULTI"}}
    kept = chain.kept()
    assert {key: kept[key] for key in CHANGES} == {
        "mac": before["mac"],
        "promisc": False,
        "mtu": 1450,
        "allmulti": False,
    }
    for where in (undo, *OTHERS):
        if where != REFERENCE:  # its CHECK compares a pointer's text in one case, and panics in none
            assert await chain.call("CHECK", where, **CHANGES) is None
    for _ in range(2):
        assert await chain.call("DEL", undo, **CHANGES) is None
        assert await chain.link() == before and chain.kept() is None


async def test_only_what_is_changed_is_kept(chain: Chain) -> None:
    for where in (REFERENCE, AGENT):
        await chain.call("ADD", where, mtu=1300, dataDir="/var/mine")
        kept = chain.kept("/var/mine/c1_eth0.json")
        assert {key: value for key, value in kept.items() if key not in ("network", "containerID", "ifname")} == {
            "mtu": 1450
        }
        assert chain.site.path("/var/mine/c1_eth0.json").read_text().startswith('{\n "mtu": 1450')
        await chain.call("DEL", where, mtu=1300, dataDir="/var/mine")
        assert chain.kept("/var/mine/c1_eth0.json") is None


async def test_the_length_of_the_queue(chain: Chain) -> None:
    await chain.call("ADD", AGENT, txQLen=77)
    assert (await chain.link())["queue"] == 77 and await chain.call("CHECK", AGENT, txQLen=77) is None
    assert (await chain.call("CHECK", AGENT, txQLen=78))["msg"] == (
        "Error: Tuning configured Transmission Queue Length of eth0 is 78, current value is 77"
    )
    await chain.call("DEL", AGENT, txQLen=77)
    assert (await chain.link())["queue"] == 900


@pytest.mark.parametrize("where", OTHERS)
async def test_settings_are_written_in_the_container(chain: Chain, where: str) -> None:
    host = await chain.site.run("sysctl", "-n", "net.core.somaxconn")
    settings = {
        "net.core.somaxconn": "500",
        "net.ipv4.conf.IFNAME.arp_filter": "1",
        "net/ipv4/conf/all/log_martians": "1",
    }
    assert await chain.call("ADD", where, sysctl=settings) == chain.conf()["prevResult"]
    names = ("net.core.somaxconn", "net.ipv4.conf.eth0.arp_filter", "net.ipv4.conf.all.log_martians")
    assert [await chain.setting(name) for name in names] == ["500", "1", "1"]
    assert await chain.site.run("sysctl", "-n", "net.core.somaxconn") == host and chain.kept() is None
    settings.pop("net.ipv4.conf.IFNAME.arp_filter")
    assert await chain.call("CHECK", where, sysctl=settings) is None
    await chain.site.inside("c1", "sysctl", "-q", "net.core.somaxconn=1")
    assert (await chain.call("CHECK", where, sysctl=settings))["msg"] == (
        "Error: Tuning configured value of /proc/sys/net/core/somaxconn is 500, current value is 1"
    )


async def test_settings_of_an_interface_with_a_dot_and_of_several_numbers(chain: Chain) -> None:
    await chain.site.sh("ip -n c1 link add eth0.5 type veth peer name other")
    settings = {
        "net.ipv4.conf.eth0/5.arp_filter": "1",
        "net/ipv4/conf/eth0.5/arp_notify": "1",
        "net.ipv4.ping_group_range": "0 10",
    }
    for where in (AGENT, ALONE):
        await chain.call("ADD", where, sysctl=settings)
        assert await chain.call("CHECK", where, sysctl=settings) is None
    path = "/proc/sys/net/ipv4/conf/eth0.5"
    assert await chain.site.inside("c1", "cat", f"{path}/arp_filter", f"{path}/arp_notify") == "1\n1\n"
    assert await chain.setting("net.ipv4.ping_group_range") == "0\t10"


@pytest.mark.parametrize(
    "key", ["kernel.hostname", "net/../kernel/hostname", "net.ipv4.//.//.kernel", "net", "vm.swappiness"]
)
async def test_only_settings_of_the_network(chain: Chain, key: str) -> None:
    hostname = await chain.site.run("hostname")
    answer = await chain.call("ADD", AGENT, sysctl={"net.core.somaxconn": "77", key: "1"})
    assert answer["msg"] == f'invalid net sysctl key: "{key}"' and await chain.site.run("hostname") == hostname
    assert await chain.setting("net.core.somaxconn") != "77"  # looked at before any is written


async def test_the_nodes_list_of_what_is_allowed(chain: Chain) -> None:
    file = chain.site.path("/etc/cni/tuning/allowlist.conf")
    file.parent.mkdir(parents=True)
    file.write_text("^net.core.somaxconn$\n\n ^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$\n")
    assert "code" not in await chain.call(
        "ADD", AGENT, sysctl={"net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": "1"}
    )
    for where in (AGENT, ALONE):
        answer = await chain.call("ADD", where, sysctl={"net.ipv4.ip_forward": "1"})
        assert answer["msg"] == (
            "Sysctl net.ipv4.ip_forward is not allowed. Only the following sysctls are allowed: "
            "[^net.core.somaxconn$ ^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$]"
        )
    file.write_text("(")
    assert "allowlist.conf: '('" in (await chain.call("ADD", AGENT, sysctl={"net.ipv4.ip_forward": "1"}))["msg"]


async def test_which_mac_comes_first(chain: Chain) -> None:
    macs = [f"c2:00:00:00:00:0{n}" for n in range(1, 5)]
    keys: dict[str, Any] = {"mac": macs[0]}
    for where in (REFERENCE, AGENT):
        seen = []
        for more, environment in (
            ({}, ""),
            ({}, f"IgnoreUnknown=1;MAC={macs[1]}"),
            ({"runtimeConfig": {"mac": macs[2]}}, f"MAC={macs[1]}"),
            ({"runtimeConfig": {"mac": macs[2]}, "args": {"cni": {"mac": macs[3], "mtu": 1234}}}, f"MAC={macs[1]}"),
        ):
            answer = await chain.call("ADD", where, environment, **keys, **more)
            assert (await chain.link())["mac"] == answer["interfaces"][1]["mac"]
            seen.append(answer["interfaces"][1]["mac"])
            last = (await chain.link())["mtu"]
            await chain.call("DEL", where, environment, **keys, **more)
        assert seen == macs and last == 1234


async def test_args_without_settings_of_the_configurations_own(chain: Chain) -> None:
    answer = await chain.call("ADD", AGENT, args={"cni": {"sysctl": {"net.core.somaxconn": "333"}}})
    assert "code" not in answer and await chain.setting("net.core.somaxconn") == "333"


async def test_an_add_that_fails_leaves_the_interface_as_it_was(chain: Chain) -> None:
    before = await chain.link()
    for where in (AGENT, ALONE):
        answer = await chain.call("ADD", where, **{**CHANGES, "mtu": 99999})
        assert answer["code"] == 999 and "mtu=99999" in answer["msg"]
        assert await chain.link() == before and chain.kept() is None
    for where in OTHERS:
        assert (await chain.call("ADD", where, mac="zz"))["msg"] == (
            "invalid args zz for MAC addr: address zz: invalid MAC address"
        )
        assert (
            'failed to get "eth7": Link not found'
            in (await chain.site.call("tuning", "ADD", chain.conf(mtu=1300), "c1", ifname="eth7", where=where))["msg"]
        )
        assert (await chain.call("ADD", where, prevResult=None, mtu=1300))["msg"] == "Required prevResult missing"
    assert "net.ipv4.nope" in (await chain.call("ADD", AGENT, sysctl={"net.ipv4.nope": "1"}))["msg"]
    assert await chain.link() == before


async def test_two_of_the_kind_in_one_chain(chain: Chain) -> None:
    before = await chain.link()
    answer = await chain.call("ADD", AGENT, mac=MAC, mtu=1400)
    await chain.call("ADD", AGENT, mtu=1300, allmulti=True, prevResult=answer)
    await chain.call("DEL", AGENT, mtu=1300, allmulti=True)
    await chain.call("DEL", AGENT, mac=MAC, mtu=1400)
    assert await chain.link() == before and chain.kept() is None


@pytest.mark.parametrize("where", [AGENT, ALONE])
async def test_del_with_the_namespace_gone_removes_the_file(chain: Chain, where: str) -> None:
    await chain.call("ADD", where, **CHANGES)
    assert chain.kept()
    for _ in range(2):
        assert await chain.call("DEL", where, netns="", prevResult=None) is None
        assert chain.kept() is None


async def test_gc_removes_files_of_this_networks_containers(chain: Chain) -> None:
    await chain.call("ADD", AGENT, mtu=1300)
    place = chain.site.path("/run/cni/tuning")
    mine = chain.kept()
    for name, network in (("c2", "net"), ("c3", "other")):
        (place / f"{name}_eth0.json").write_text(json.dumps({**mine, "containerID": name, "network": network}))
    (place / "c4_eth0.json").write_text('{\n "mtu": 1450\n}')  # the reference's: nobody knows whose
    (place / "c5_eth0.json").write_text("{")
    gc = {
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "tuning",
        "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],
    }
    for where in (AGENT, ALONE):
        assert await chain.site.call("tuning", "GC", gc, where=where) is None
        assert sorted(one.name[:2] for one in place.glob("*.json")) == ["c1", "c3", "c4", "c5"]
    gc["cni.dev/valid-attachments"] = []
    assert await chain.site.call("tuning", "GC", gc) is None and chain.kept() is None


async def test_check_tells_what_is_off(chain: Chain) -> None:
    await chain.call("ADD", AGENT, **CHANGES)
    for where in (AGENT, REFERENCE):
        for changed, text in (
            (
                {"mac": "c2:00:00:00:00:01"},
                f"Error: Tuning configured Ethernet of eth0 is c2:00:00:00:00:01, current value is {MAC}",
            ),
            ({"mtu": 1200}, "Error: Tuning configured MTU of eth0 is 1200, current value is 1300"),
        ):
            assert (await chain.call("CHECK", where, **{**CHANGES, **changed}))["msg"] == text
    assert (await chain.call("CHECK", AGENT, **{**CHANGES, "allmulti": False}))["msg"] == (
        "Error: Tuning configured all-multicast mode of eth0 is false, current value is true"
    )
    await chain.site.inside("c1", "ip", "link", "set", "eth0", "promisc", "off")
    for where in (AGENT, REFERENCE):
        assert (await chain.call("CHECK", where, **CHANGES))["msg"] == (
            "Error: Tuning link eth0 configured promisc is true, current value is 0"
        )


async def test_status(chain: Chain) -> None:
    base = {"cniVersion": "1.1.0", "name": "net", "type": "tuning"}
    assert await chain.site.call("tuning", "STATUS", {**base, "sysctl": {"net.core.somaxconn": "1"}}) is None
    assert (await chain.site.call("tuning", "STATUS", {**base, "sysctls": {}}))["code"] == 2
    assert (await chain.site.call("tuning", "STATUS", {**base, "sysctl": {"kernel.hostname": "x"}}))["code"] == 7
    assert (await chain.site.call("tuning", "STATUS", {**base, "sysctl": {"net.core.somaxconn": 1}}))["code"] == 7
