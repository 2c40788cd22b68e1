"""Whatever comes in, the answer names it, nothing on the node has changed, and DEL finds nothing to complain about."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

import pytest

from cni_site import AGENT, ALONE, Site, cni_site
from cni_traces import base, traces
from glassnet.agent.cni import node as agent_cni
from glassnet.kernel.netns import KernelNetNs
from glassnet.netstack.ops import AddVeth

pytestmark = pytest.mark.kernel
WHERE = pytest.mark.parametrize("where", [AGENT, ALONE], ids=["agent", "alone"])


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A node with a bridge and container c0 on it, and a namespace for c1."""
    async with cni_site() as made:
        for name in ("c0", "c1"):
            await made.run("ip", "netns", "add", name)
        answer = await made.call("bridge", "ADD", base(), "c0")
        assert answer["ips"][0]["address"] == "10.200.0.2/24"
        try:
            yield made
        finally:
            await made.call("bridge", "DEL", base(), "c0")


class Case(NamedTuple):
    """A call that must fail: what differs from a good one, the code, and words of the answer."""

    code: int
    words: str
    conf: dict[str, Any] | str = {}
    call: dict[str, Any] = {}
    plugin: str = "bridge"


def previous(**body: Any) -> dict[str, Any]:
    return {"prevResult": {"cniVersion": "1.1.0", **body}}


def ranges(**entry: Any) -> dict[str, Any]:
    return {"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.200.0.0/24", **entry}]]}}


TEXTS = [
    Case(6, "standard input:1:1: Expecting value", ""),
    Case(6, "standard input:2:10: Expecting value", '{"name": "net",\n "type": }'),
    Case(6, "want a JSON object", "[1]"),
    Case(6, "too many brackets", "[" * 50_000),
    Case(7, "invalid characters found in network name", {"name": "../x"}),
    Case(7, "invalid characters found in network name", '{"name": "n\ufffdt"}'),
    Case(7, "missing network name", {"name": ""}),
    Case(7, '"name": 5: want a string', {"name": 5}),
    Case(999, "File name too long", {"name": "n" * 300}),
    Case(1, "incompatible CNI versions", {"cniVersion": "9.0.0"}),
    Case(1, "incompatible CNI versions", {"cniVersion": "1.1"}),
    Case(2, '"isGatway": true: there is no such key; did you mean "isGateway"?', {"isGatway": True}),
    Case(2, '"ipam.ranges.rangestart": "10.200.0.9": there is no such key; did you mean "rangeStart"?', ranges(rangestart="10.200.0.9")),
    Case(2, "there is no such key", {"note": "x" * 1_000_000}),
    Case(2, "there is no such key", {"note": json.loads("[" * 500 + "]" * 500)}),
    Case(7, '"mtu": "1500": want a whole number', {"mtu": "1500"}),
    Case(7, '"mtu": 100000: want a number from 0 to 65535', {"mtu": 100_000}),
    Case(7, '"ipMasq": "yes": want true or false', {"ipMasq": "yes"}),
    Case(7, '"ipam": 5: want an object', {"ipam": 5}),
    Case(7, '"args": 5: want an object', {"args": 5}),
    Case(7, '"runtimeConfig": []: want an object', {"runtimeConfig": []}),
    Case(7, "want a string without NUL", {"bridge": "cni\0x"}),
    Case(7, "want a string without NUL and of whole characters", {"bridge": "\ud800"}),
    Case(7, "interface name is too long", {"bridge": "a-bridge-of-17-by"}),
    Case(7, "interface name contains / or : or whitespace characters", {"bridge": "a/b"}),
    Case(7, "want a string without NUL", {"ipam": {"type": "host-local", "subnet": "10.0.0.0/24", "dataDir": "/run/\0"}}),
    Case(7, "has host bits set", ranges(subnet="10.200.0.1/24")),
    Case(7, "want an IP address", ranges(gateway="fe80::1%eth0")),
    Case(7, "no IP ranges specified", {"ipam": {"type": "host-local"}}),
    Case(6, "could not parse prevResult", {"prevResult": "x"}),
    Case(1, 'could not parse prevResult: its version is "9.9.9"', previous(cniVersion="9.9.9")),
    Case(6, "there are 1 interfaces", previous(interfaces=[{"name": "a"}], ips=[{"address": "10.0.0.1/8", "interface": 1}])),
    Case(6, '"garbage": want an address', previous(ips=[{"address": "garbage"}])),
    Case(7, "want six bytes such as", {"runtimeConfig": {"mac": "zz"}}),
]  # fmt: skip

CALLS = [
    Case(4, "invalid characters in containerID", call={"CNI_CONTAINERID": "../x"}),
    Case(4, "invalid characters in containerID", call={"CNI_CONTAINERID": "c\udcff"}),
    Case(4, "interface name is not UTF-8", call={"ifname": "a\udcff"}),
    Case(4, "interface name is too long", call={"ifname": "a234567890123456"}),
    Case(4, "required env variables [CNI_NETNS,CNI_PATH] missing", call={"CNI_NETNS": "", "CNI_PATH": ""}),
    Case(4, "unknown CNI_COMMAND: FOO", call={"CNI_COMMAND": "FOO"}),
    Case(4, "CNI_ARGS: invalid pair", call={"args": "K=V;rubbish"}),
    Case(7, "want an IP address", call={"args": "IP=\udcff"}),
    Case(4, 'CNI_NETNS: failed to open netns "/run/netns/nobody": no such file', call={"netns": "nobody"}),
    Case(4, "CNI_NETNS: failed to open netns", call={"netns": "/run/netns/\udcff"}),
    Case(4, 'CNI_NETNS: failed to open netns "/etc/hostname": it is not a network namespace', call={"netns": "/etc/hostname"}),
    Case(4, "it is not a network namespace", call={"netns": "/run"}),
    Case(4, "it is not a network namespace", call={"netns": "/run/fifo"}),
    Case(4, "it is not a network namespace", call={"netns": "/proc/self/ns/uts"}),
    Case(4, "it is the node's own network namespace", call={"netns": "/proc/self/ns/net"}),
    Case(4, "it is the node's own network namespace", call={"netns": "/proc/self/ns/net"}, plugin="loopback"),
    Case(999, "container veth name provided (lo) already exists", call={"ifname": "lo"}),
    Case(999, "duplicate allocation is not allowed", call={"container": "c0", "netns": "c0"}),
    Case(999, "10.200.0.2 has been allocated to c0, duplicate allocation is not allowed", call={"container": "c0", "netns": "c1"}),
    Case(999, "requested IP address 10.200.0.2 is not available in range set", call={"args": "IP=10.200.0.2"}),
    Case(999, "requested ip 10.200.0.1 is subnet's gateway", call={"args": "IP=10.200.0.1"}),
    Case(7, "failed to allocate all requested IPs: 10.9.9.9", {"runtimeConfig": {"ips": ["10.9.9.9"]}}),
    Case(999, 'failed to find plugin "nope" in path [', {"ipam": {"type": "nope"}}),
    Case(999, "invalid plugin name", {"ipam": {"type": "a/b"}}),
    Case(999, '"cnio0" already has an IP address different from 10.200.0.1/16',
         {"name": "other", "ipam": {"type": "host-local", "subnet": "10.200.0.0/16"}}),
    Case(999, "no IP addresses available in range set: 10.201.0.1-10.201.0.2", {"name": "full", "ipam": {"type": "host-local", "subnet": "10.201.0.0/30"}}),
    Case(2, '"mtu": 1: there is no such key', {"mtu": 1}, plugin="loopback"),
]  # fmt: skip


async def refused(site: Site, cases: Iterable[Case], where: str) -> None:
    """The calls fail as they should, and leave the node as it was, as do the DELs that follow."""
    before = await traces(site)
    for case in cases:
        conf: Any = case.conf
        if isinstance(conf, dict):
            plain = {"cniVersion": "1.1.0", "name": "net", "type": case.plugin}
            conf = {**(base() if case.plugin == "bridge" else plain), **conf}
        call = {"container": "c1", **case.call}
        answer = await site.call(case.plugin, "ADD", conf, call.pop("container"), where=where, **call)
        assert answer is not None and answer.get("code") == case.code and case.words in answer["msg"], (case, answer)
        assert len(answer["msg"]) < 1500 and answer["cniVersion"] in ("1.1.0", "0.1.0")
        assert await traces(site) == before, case
        name = conf.get("name") if isinstance(conf, dict) else "net"
        again = base(name=name if name in ("other", "full") else "net")
        if "container" not in case.call:  # the others name c0, whose DEL would take it down
            assert await site.call("bridge", "DEL", again, "c1", where=where, netns="") is None, case
    assert await traces(site) == before


async def test_texts_through_the_agent(site: Site) -> None:
    await refused(site, TEXTS, AGENT)


async def test_texts_alone(site: Site) -> None:
    await refused(site, TEXTS[::8], ALONE)


@WHERE
async def test_calls(site: Site, where: str) -> None:
    await site.run("mkfifo", "/run/fifo")
    full = site.path("/var/lib/cni/networks/full")
    full.mkdir(parents=True)
    (full / "10.201.0.2").write_text("c9\r\neth0")
    await refused(site, CALLS if where == AGENT else CALLS[1::2], where)


@WHERE
async def test_del_in_the_nodes_own_namespace_touches_no_interface_of_the_node(site: Site, where: str) -> None:
    """As when the number of a dead container's process has become that of one of the node."""
    await site.sh("ip link add eth0 type veth peer name eth0p; ip link set lo up")
    before = await traces(site)
    for plugin in ("bridge", "loopback"):
        conf = base() if plugin == "bridge" else {"cniVersion": "1.1.0", "name": "net", "type": plugin}
        assert await site.call(plugin, "DEL", conf, "c1", netns="/proc/self/ns/net", where=where) is None
        assert await site.call(plugin, "DEL", conf, "c1", netns="/etc/hostname", where=where) is None
    assert await traces(site) == before and "UP" in await site.run("ip", "link", "show", "lo")


@WHERE
async def test_del_whatever_the_configuration_says(site: Site, where: str) -> None:
    """What is wrong with a configuration must not keep a container's interface, rules or addresses."""
    before = await traces(site)
    for change in ({"mtu": "x"}, {"typo": 1}, {"prevResult": "x"}, {"prevResult": {"ips": [{"address": "garbage"}]}}):
        assert "ips" in await site.call("bridge", "ADD", base(), "c1", where=where)
        assert await site.call("bridge", "DEL", base(**change), "c1", where=where, args="rubbish") is None
        assert await traces(site) == before, change


# -- disks and programs that refuse


@WHERE
@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ("mount --bind /var/lib/cni /var/lib/cni; mount -o remount,bind,ro /var/lib/cni", "Read-only file system"),
        ("mount -t tmpfs -o size=64k tmpfs /var/lib/cni; mkdir -p /var/lib/cni/networks/net;"
         " touch /var/lib/cni/networks/net/lock; cat /dev/zero > /var/lib/cni/fill 2>/dev/null || true", "No space left on device"),
        ("mount -t tmpfs -o nr_inodes=2 tmpfs /var/lib/cni", "No space left on device"),
    ],
    ids=["read-only", "full", "no inodes"],
)  # fmt: skip
async def test_a_disk_that_takes_no_lease(site: Site, where: str, mount: str, words: str) -> None:
    await site.sh(mount)
    before = await traces(site)
    answer = await site.call("bridge", "ADD", base(), "c1", where=where)
    assert answer["code"] == 999 and words in answer["msg"] and "/var/lib/cni" in answer["msg"], answer
    assert await traces(site) == before
    assert await site.call("bridge", "DEL", base(), "c1", where=where) is None
    assert await traces(site) == before
    await site.sh("umount /var/lib/cni")
    assert "ips" in await site.call("bridge", "ADD", base(), "c1", where=where)
    assert await site.call("bridge", "DEL", base(), "c1", where=where) is None


@WHERE
async def test_without_iptables(site: Site, where: str) -> None:
    await site.cni.restores[4].close()
    before = await traces(site)
    await site.sh("mv /usr/sbin/iptables-restore /usr/sbin/away")
    answer = await site.call("bridge", "ADD", base(ipMasqBackend="iptables"), "c1", where=where)
    assert answer["code"] == 999 and "iptables-restore" in answer["msg"], answer
    await site.sh("mv /usr/sbin/away /usr/sbin/iptables-restore")
    assert await traces(site) == before
    assert await site.call("bridge", "DEL", base(), "c1", where=where) is None
    assert await traces(site) == before


IPAM = [
    ("rubbish", "echo this is no JSON", 999, "netplugin failed: this is no JSON"),
    ("silent", "exit 3", 999, "netplugin failed with no error message: exit status 3"),
    ("refuses", 'echo \'{"code": 11, "msg": "later", "details": "d"}\'; exit 1', 11, "later"),
    ("coded", 'echo \'{"code": "x", "msg": "later"}\'; exit 1', 999, "later"),
    ("list", "echo '[]'", 999, "netplugin failed: []"),
    ("empty", "true", 999, "IPAM plugin returned missing IP config"),
    ("none", "echo '{\"ips\": []}'", 999, "IPAM plugin returned missing IP config"),
    ("wrong", 'echo \'{"ips": [{"address": "x"}]}\'', 6, "could not parse the answer of wrong"),
    ("newer", 'echo \'{"cniVersion": "7", "ips": []}\'', 1, "could not parse the answer of newer"),
    ("bytes", "printf '\\377\\376'", 999, "netplugin failed: "),
    ("killed", "kill -9 $$", 999, "netplugin failed with no error message"),
]  # fmt: skip


@WHERE
async def test_address_plugins_that_fail(site: Site, where: str) -> None:
    """Each is asked to take back what it may have given (SPEC.md, section 4)."""
    for name, script, code, words in IPAM:
        program = site.path(f"{where}/{name}")
        program.write_text(
            f"#!/bin/sh\ncat >/dev/null\necho $CNI_COMMAND >> /run/asked\n[ $CNI_COMMAND = ADD ] || exit 0\n{script}\n"
        )
        program.chmod(0o755)
        site.path("/run/asked").unlink(missing_ok=True)
        before = await traces(site)
        answer = await site.call("bridge", "ADD", base(ipam={"type": name}), "c1", where=where)
        assert answer["code"] == code and words in answer["msg"], (name, answer)
        assert site.path("/run/asked").read_text().split() == ["ADD", "DEL"]
        assert await site.call("bridge", "DEL", base(ipam={"type": name}), "c1", where=where) is None
        assert await traces(site) == before, name
    program.chmod(0o644)
    answer = await site.call("bridge", "ADD", base(ipam={"type": name}), "c1", where=where)
    assert answer["code"] == 999, answer


async def test_an_address_plugin_that_hangs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_cni, "DELEGATE_TIMEOUT", 0.3)
    program = site.path(f"{AGENT}/hangs")
    program.write_text("#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\necho $$ > /run/hanging\nexec sleep 1000\n")
    program.chmod(0o755)
    before = await traces(site)
    answer = await site.call("bridge", "ADD", base(ipam={"type": "hangs"}), "c1")
    assert answer["code"] == 999 and "no end after 0.3 s" in answer["msg"], answer
    assert await traces(site) == before
    assert await site.sh("kill -0 $(cat /run/hanging) 2>/dev/null && echo alive || echo gone") == "gone\n"
    other = await site.call("bridge", "ADD", base(), "c1")  # the agent serves on
    assert "ips" in other and await site.call("bridge", "DEL", base(), "c1") is None


# -- what happens meanwhile


async def test_a_namespace_that_goes_between_the_lease_and_the_rules(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor holds it until the answer; then the link goes with it, and DEL finds the rest."""
    before = await traces(site)
    restore = site.cni.restores[4].restore

    async def late(*arguments: Any) -> None:
        await site.run("ip", "netns", "del", "c1")
        await restore(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(site.cni.restores[4], "restore", late)
        assert "ips" in await site.call("bridge", "ADD", base(), "c1")
    assert await site.leases("net") == ["10.200.0.2", "10.200.0.3"]
    assert await site.call("bridge", "DEL", base(), "c1") is None
    await site.run("ip", "netns", "add", "c1")
    for _ in range(250):  # the kernel takes a namespace down in its own time
        if (after := await traces(site)) == before:
            break
        await asyncio.sleep(0.02)
    assert after == before


async def test_an_interface_that_comes_between_the_lease_and_the_link(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.sh("ip link add x0 type veth peer name x1")
    before = await traces(site)
    reserve, inside = site.cni.leases.reserve, os.open(site.path("/run/netns/c1"), os.O_RDONLY | os.O_CLOEXEC)
    pod = KernelNetNs("c1", inside)

    def late(*arguments: Any) -> Any:
        pod.apply([AddVeth("eth0", "eth0p")])
        return reserve(*arguments)

    monkeypatch.setattr(site.cni.leases, "reserve", late)
    answer = await site.call("bridge", "ADD", base(), "c1")
    assert answer["code"] == 999 and "already exists" in answer["msg"], answer
    assert await traces(site) == before
    assert "eth0p" in await site.inside("c1", "ip", "link")  # whose it is nobody knows: ADD leaves it
    pod.close()


async def test_an_effect_that_fails_as_nobody_has_foreseen(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await traces(site)

    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("by nobody")

    with monkeypatch.context() as patched:
        patched.setattr(site.cni.restores[4], "restore", broken)
        answer = await site.call("bridge", "ADD", base(cniVersion="1.0.0"), "c1")
    assert answer["code"] == 999 and answer["msg"] == "unexpected error: ZeroDivisionError: by nobody", answer
    assert answer["cniVersion"] == "1.0.0" and "test_cni_bad_input.py:" in answer["details"]
    assert await traces(site) == before


# -- large and at the limits


@WHERE
async def test_a_megabyte_of_configuration(site: Site, where: str) -> None:
    before = await traces(site)
    conf = base(args={"cni": {"labels": {f"k{number}": "v" * 100 for number in range(9000)}}})
    assert len(json.dumps(conf)) > 1_000_000
    assert "ips" in await site.call("bridge", "ADD", conf, "c1", where=where)
    assert await site.call("bridge", "DEL", conf, "c1", where=where) is None
    assert await traces(site) == before


@WHERE
async def test_gc_with_ten_thousand_attachments(site: Site, where: str) -> None:
    before = await traces(site)
    assert "ips" in await site.call("bridge", "ADD", base(), "c1", where=where)
    valid = [{"containerID": f"other{number}", "ifname": "eth0"} for number in range(9_999)]
    conf = base(**{"cni.dev/valid-attachments": [*valid, {"containerID": "c0", "ifname": "eth0"}]})
    assert await site.call("bridge", "GC", conf, "", netns="", ifname="", where=where) is None
    assert await traces(site) == before


@WHERE
@pytest.mark.parametrize(
    ("network", "container"), [("n" * 60, "c" * 120), ("n" * 255, "c" * 1000)], ids=["long", "longer"]
)
async def test_names_at_their_limits(site: Site, where: str, network: str, container: str) -> None:
    """A link's mark and a rule's comment have 255 bytes: GC finds what is told there, and must not mistake what is not."""
    short = len(network) + len(container) < 230
    long = base(name=network, ipMasq=short, bridge="cnio1", isGateway=False)
    await site.sh("ip link add cnio1 address 02:00:00:00:00:01 type bridge; ip netns add c2")
    before = await traces(site)
    names, gc = [container, container[:-1] + "d"], {"netns": "", "ifname": "", "where": where}
    for name, inside in zip(names, ("c1", "c2"), strict=True):
        answer = await site.call("bridge", "ADD", long, name, netns=inside, where=where)
        assert "ips" in answer, answer
    both = await traces(site)
    entries = [{"containerID": name, "ifname": "eth0"} for name in names]
    assert await site.call("bridge", "GC", {**long, "cni.dev/valid-attachments": entries}, "", **gc) is None
    assert await traces(site) == both
    assert await site.call("bridge", "DEL", long, names[0], netns="" if short else "c1", where=where) is None
    assert "eth0" not in await site.inside("c1", "ip", "link") and "eth0" in await site.inside("c2", "ip", "link")
    assert await site.call("bridge", "GC", {**long, "cni.dev/valid-attachments": []}, "", **gc) is None
    assert ("eth0" in await site.inside("c2", "ip", "link")) != short
    assert await site.call("bridge", "DEL", long, names[1], netns="c2", where=where) is None
    assert await traces(site) == before
