"""Death at every step: an agent, or a plugin without one, is killed at each step of ADD, DEL and GC. What it began is taken away by a DEL, or
a GC, that knows nothing of it; then ADD works."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cni_site import AGENT, Site, cni_site
from cni_traces import base, traces
from glassnet.agent.cni import programs as cni_shim

pytestmark = pytest.mark.kernel
VICTIM, SOCKET = "/opt/cni/victim", "/run/glassnet/victim.sock"
MOST = 400  # steps: more than any call has


class Case(NamedTuple):
    """A plugin's configuration; `interface`: ADD makes one in the container; `stride`: from one step that is tried to the next;
    `under`: the network of a bridge that the container is on already, for plugins that come behind another."""

    plugin: str
    conf: dict[str, Any]
    interface: bool = True
    stride: int = 5
    under: dict[str, Any] = {}

    def steps(self, way: Any) -> Iterator[int]:
        """The steps at which to kill; fewer of a plugin without agent, which does the same."""
        stride = self.stride if way is Graveyard.through_agent else self.stride * 5
        yield from range(1, MOST, stride)
        raise AssertionError("no call takes that many steps")


STATIC = {"type": "static", "addresses": [{"address": "10.200.0.9/24", "gateway": "10.200.0.1"}]}
DUAL = {"type": "host-local", "ranges": [[{"subnet": "10.200.0.0/24"}], [{"subnet": "fd00:c::/64"}]]}
PTP = {"cniVersion": "1.1.0", "name": "net", "type": "ptp", "ipMasq": True, "ipam": base()["ipam"]}
PORTS = {
    "cniVersion": "1.1.0",
    "name": "net",
    "type": "portmap",
    "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
}
RATES = {
    "cniVersion": "1.1.0",
    "name": "net",
    "type": "bandwidth",
    "ingressRate": 10**6,
    "ingressBurst": 10**5,
    "egressRate": 10**6,
    "egressBurst": 10**5,
}
CHANGES = {
    "cniVersion": "1.1.0",
    "name": "net",
    "type": "tuning",
    "mtu": 1400,
    "promisc": True,
    "sysctl": {"net.core.somaxconn": "99"},
}
CASES = {
    "bridge": Case("bridge", base(), stride=1),
    "dual": Case("bridge", base(ipam=DUAL, hairpinMode=True)),
    "static": Case("bridge", base(ipam=STATIC)),
    "l2": Case("bridge", base(ipam={}, isGateway=False, ipMasq=False)),
    "nftables": Case("bridge", base(ipMasqBackend="nftables", macspoofchk=True)),
    "ptp": Case("ptp", PTP),
    "portmap": Case("portmap", PORTS, interface=False, under=base(name="under")),
    "bandwidth": Case("bandwidth", RATES, interface=False, under=base(name="under")),
    "tuning": Case("tuning", CHANGES, interface=False, under=base(name="under")),
    "host-local": Case("host-local", base(type="host-local"), interface=False),
}


class Graveyard:
    """A node with a healthy agent, and agents that die."""

    def __init__(self, site: Site, orders: int, answers: Any) -> None:
        self.site, self._orders, self._answers = site, orders, answers

    async def _line(self) -> str:
        return str(await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, self._answers.readline), 20))

    def _order(self, order: dict[str, Any]) -> None:
        os.write(self._orders, json.dumps(order).encode() + b"\n")

    async def through_agent(self, at: int, case: Case, command: str, **call: Any) -> tuple[bool, Any]:
        """A call to an agent that is killed at a step: whether it was, and what the plugin's program answered."""
        self._order({"at": at, "socket": SOCKET})
        assert await self._line() == "ready\n"
        answer = await self.site.call(case.plugin, command, case.conf | call.pop("more", {}), where=VICTIM, **call)
        status, _ = json.loads(await self._line())
        assert status in (0, -signal.SIGKILL)
        return status != 0, answer

    async def alone(
        self, at: int, case: Case, command: str, container: str = "c1", netns: str = "/run/netns/c1", **call: Any
    ) -> tuple[bool, Any]:
        """A call of a plugin without agent, killed at a step."""
        variables = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": call.get("ifname", "eth0"),
            "CNI_PATH": AGENT, "PATH": os.environ["PATH"],
        }  # fmt: skip
        text = json.dumps(case.conf | call.get("more", {}))
        self._order({"at": at, "plugin": case.plugin, "environment": variables, "text": text})
        status, printed = json.loads(await self._line())
        return status == -signal.SIGKILL, json.loads(printed) if printed.strip() else None

    async def healthy(self, case: Case, command: str, **more: Any) -> Any:
        """The same through the agent that lives."""
        call = {"container": "", "netns": "", "ifname": ""} if command == "GC" else {}
        return await self.site.call(case.plugin, command, case.conf | more, **call)

    async def become(self, wanted: list[str], why: object) -> None:
        """The node shows nothing else than it did; the kernel takes dead namespaces down in its own time."""
        deadline = time.monotonic() + 5
        for wait in itertools.repeat(0.02):
            if (now := await traces(self.site)) == wanted or time.monotonic() > deadline:
                break
            await asyncio.sleep(wait)
        assert now == wanted, why


@pytest.fixture
async def yard() -> AsyncIterator[Graveyard]:
    async with cni_site() as site:
        cni_shim.install(site.path(VICTIM), socket=SOCKET)
        orders, ours = os.pipe2(os.O_CLOEXEC)
        mine, answers = os.pipe2(os.O_CLOEXEC)
        text = (Path(__file__).parents[1] / "cni_victim.py").read_text()
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(Path(cni_shim.__file__).parents[2])}
        log = (
            os.open("/dev/null", os.O_WRONLY)
            if "VICTIM_LOG" not in os.environ
            else os.open(os.environ["VICTIM_LOG"], os.O_WRONLY | os.O_CREAT)
        )
        process = await site.machine.spawn(
            [sys.executable, "-c", text], env=env, stdin=orders, stdout=answers, stderr=log
        )
        for each in (orders, answers, log):
            os.close(each)
        with os.fdopen(mine) as lines:
            await site.run("ip", "netns", "add", "c0")
            await site.run("ip", "netns", "add", "c1")
            await site.call("bridge", "ADD", base(name="other", ipMasq=True), "c0")
            try:
                yield Graveyard(site, ours, lines)
            finally:
                os.close(ours)
                await process.wait()
                await site.call("bridge", "DEL", base(name="other", ipMasq=True), "c0")


VALID: dict[str, Any] = {"cni.dev/valid-attachments": []}
WAYS = pytest.mark.parametrize("way", [Graveyard.through_agent, Graveyard.alone], ids=["agent", "alone"])
PLUGINS = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def told(answer: Any, way: Any) -> None:
    """A runtime is told what has happened and what to do; nobody can tell it of a plugin that was killed itself."""
    if way is Graveyard.through_agent:
        assert (answer["code"], answer["msg"]) == (11, f"the agent at {SOCKET} ended before it answered")
        assert "try again" in answer["details"] and "DEL or GC" in answer["details"]
    else:
        assert answer is None


async def started(yard: Graveyard, case: Case) -> tuple[Case, list[str]]:
    """The case as it begins, with the result of the plugin before, and the traces of a node after a first ADD and DEL: the bridge stays."""
    case = await joined(yard, case)
    assert "code" not in await yard.healthy(case, "ADD")
    assert await yard.healthy(case, "DEL") is None
    await left(yard, case)
    before = await traces(yard.site)
    return await joined(yard, case), before


async def joined(yard: Graveyard, case: Case) -> Case:
    """The container comes onto the bridge that the plugin works behind."""
    if not case.under:
        return case
    previous = await yard.site.call("bridge", "ADD", case.under)
    assert "code" not in previous, previous
    return case._replace(conf=case.conf | {"prevResult": previous})


async def left(yard: Graveyard, case: Case) -> None:
    """The container goes from that bridge again."""
    if case.under:
        assert await yard.site.call("bridge", "DEL", case.under) is None


async def gone(yard: Graveyard, case: Case, before: list[str], why: object) -> Case:
    """Nothing is left of the container; the case for the next time."""
    await left(yard, case)
    await yard.become(before, why)
    return await joined(yard, case)


@WAYS
@PLUGINS
async def test_add(yard: Graveyard, case: Case, way: Any) -> None:
    case, before = await started(yard, case)
    for step in case.steps(way):
        killed, answer = await way(yard, step, case, "ADD")
        if not killed:
            assert "code" not in answer, answer
        else:
            told(answer, way)
        if step % 3 == 2 and case.interface:  # the container has died as well
            await yard.site.run("ip", "netns", "del", "c1")
            assert await yard.site.call(case.plugin, "DEL", case.conf, "c1", netns="") is None
            await yard.site.run("ip", "netns", "add", "c1")
        else:
            assert await yard.healthy(case, "DEL") is None, step
        case = await gone(yard, case, before, step)
        assert await yard.healthy(case, "GC", **VALID) is None, step
        assert "code" not in await yard.healthy(case, "ADD"), step
        assert await yard.healthy(case, "DEL") is None, step
        if not killed:
            break
        case = await gone(yard, case, before, step) if case.under else case
    assert step > case.stride
    await left(yard, case)
    assert await traces(yard.site) == before


@WAYS
@PLUGINS
async def test_del(yard: Graveyard, case: Case, way: Any) -> None:
    case, before = await started(yard, case)
    for step in case.steps(way):
        previous = await yard.healthy(case, "ADD")
        more = {"prevResult": previous} if step % 2 else {}
        killed, answer = await way(yard, step, case, "DEL", more=more)
        if killed:
            told(answer, way)
        assert await yard.site.call(case.plugin, "DEL", case.conf | more) is None, step
        case = await gone(yard, case, before, step)
        if not killed:
            break
    await left(yard, case)


@WAYS
@PLUGINS
async def test_gc(yard: Graveyard, case: Case, way: Any) -> None:
    case, before = await started(yard, case)
    for step in case.steps(way):
        await yard.healthy(case, "ADD")
        killed, answer = await way(yard, step, case, "GC", container="", netns="", ifname="", more=VALID)
        if killed:
            told(answer, way)
        assert await yard.healthy(case, "GC", **VALID) is None, step
        case = await gone(yard, case, before, step)
        if not killed:
            break
    await left(yard, case)
