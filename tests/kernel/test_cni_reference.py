"""Ours beside the reference plugins of Debian's containernetworking-plugins 1.1.1: the same configurations to both, and what is then there compared."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest

import cni_matrix
from cni_matrix import DIFFERENCES, NETWORK, ROWS, V4, V6, WRONG, Row, Wrong, bridge, host_local
from cni_site import AGENT, ALONE, REFERENCE, Site, cni_site
from cni_state import differences, snapshot
from glassnet.cni.plugins import PLUGINS

pytestmark = pytest.mark.kernel


def served(row: Row) -> bool:
    """Whether the plugins are there."""
    return all(one["type"] in PLUGINS for one in row.plugins)


CASES = [(row, version) for row in ROWS for version in row.versions if served(row)]


class Chain:
    """A network's plugins called as a runtime calls them: in order, each with the result of the one before, DEL in reverse."""

    def __init__(self, site: Site, row: Row, version: str, where: str) -> None:
        self.site, self.row, self.version, self.where = site, row, version, where
        self.results: dict[str, Any] = {}

    def configs(self, previous: Any) -> list[dict[str, Any]]:
        out = []
        for one in self.row.plugins:
            able = {key: value for key, value in self.row.runtime.items() if one.get("capabilities", {}).get(key)}
            config = {**one, "name": NETWORK, "cniVersion": self.version, **({"runtimeConfig": able} if able else {})}
            out.append({**config, **({"prevResult": previous} if previous else {})})
        return out

    async def add(self, pod: str) -> Any:
        """The last result, or the error."""
        answer: Any = None
        for number in range(len(self.row.plugins)):
            config = self.configs(answer)[number]
            answer = await self.call("ADD", config, pod)
            if isinstance(answer, str):
                if number:  # as a runtime does
                    await self.delete(pod)
                return answer
            self.results[pod] = answer
        return answer

    async def check(self, pod: str) -> Any:
        return [await self.call("CHECK", one, pod) for one in self.configs(self.results.get(pod))]

    async def delete(self, pod: str) -> Any:
        previous = self.results.get(pod) if self.version in cni_matrix.NEW else None
        return [await self.call("DEL", one, pod) for one in reversed(self.configs(previous))]

    async def call(self, command: str, config: dict[str, Any], pod: str) -> Any:
        """The answer; an error as its code and message in one text."""
        answer = await self.site.call(config["type"], command, config, pod, args=self.row.args, where=self.where)
        return f"{answer['code']} {answer['msg']}" if answer and "code" in answer else answer


async def life(row: Row, version: str, where: str, full: bool = True) -> dict[str, Any]:
    """What a network answers and leaves: ADD of all, CHECK, DEL of the first twice, DEL of all. With `full` it is looked at between them."""
    async with cni_site() as site:
        await site.sh(";".join(f"ip netns add {pod}" for pod in row.pods))
        if row.prepare:
            await site.sh(row.prepare)
        chain = Chain(site, row, version, where)
        seen: dict[str, Any] = {"result": {pod: await chain.add(pod) for pod in row.pods}}
        renaming, added = await snapshot(site, NETWORK, row.pods, row.macs, settings=full)
        seen["check"] = {pod: await chain.check(pod) for pod in row.pods}
        seen["delete"] = [await chain.delete("c1") for _ in range(2)]
        if full:
            seen["added"] = added
            if len(row.pods) > 1:
                _, seen["left"] = await snapshot(site, NETWORK, row.pods, row.macs, settings=False)
        seen["delete"] += [await chain.delete(pod) for pod in row.pods[1:]]
        _, seen["gone"] = await snapshot(site, NETWORK, (), row.macs, settings=False)
        if errors := [pod for pod, answer in seen["result"].items() if isinstance(answer, str)]:
            if where is not REFERENCE:
                nothing_left(added, errors)
            del seen["check"], seen["delete"]
            return {"result": renaming.of(seen["result"])}
        return {key: renaming.of(value) for key, value in seen.items()}


def nothing_left(added: dict[str, Any], pods: list[str]) -> None:
    """An ADD that failed leaves no link, lease or rule that names the container."""
    for pod in pods:
        assert "eth0" not in added[pod]["links"]
        assert not re.search(rf"\b{pod}\b", json.dumps([added["node"], added["files"]]))


async def compare(row: Row, version: str, where: str, full: bool = True) -> set[str]:
    """The names of the differences that were meant. Raises AssertionError for those that were not."""
    reference, ours = await asyncio.gather(life(row, version, REFERENCE, full), life(row, version, where, full))
    for one in (reference, ours):  # where one side failed there is nothing more to compare
        if set(one) == {"result"}:
            reference, ours = {"result": reference["result"]}, {"result": ours["result"]}
    used, left = set(), {}
    for path, values in differences(reference, ours).items():
        names = {one.name for one in DIFFERENCES if one.covers(path, values)}
        used |= names
        if not names:
            left[path] = {"reference": values[0], "ours": values[1]}
    assert not left, f"{row.name} {version}:\n{json.dumps(left, indent=2)}"
    return used


@pytest.mark.parametrize(("row", "version"), CASES, ids=[f"{row.name}-{version}" for row, version in CASES])
async def test_the_same_results_and_traces(row: Row, version: str) -> None:
    full = version == row.versions[-1]
    used = await compare(row, version, AGENT, full)
    gone = {one.name for one in DIFFERENCES if one.row == row.name and full} - used
    assert not gone, "differences that are no more: take them out"


@pytest.mark.parametrize("row", cni_matrix.sample(12), ids=lambda row: f"{row.name}: {row.keys} {row.versions[0]}")
async def test_random_combinations_of_keys(row: Row) -> None:
    await compare(row, row.versions[0], AGENT)


# -- bad input


async def refusal(site: Site, wrong: Wrong, where: str) -> str:
    """What a call that must fail says."""
    base: dict[str, Any] = {"cniVersion": "1.0.0", "name": NETWORK, "type": wrong.plugin}
    if wrong.plugin == "bridge":
        base |= bridge()
    conf = wrong.conf if isinstance(wrong.conf, str) else json.dumps({**base, **wrong.conf})
    answer = await site.call(wrong.plugin, wrong.command, conf, "c1", where=where, **wrong.environment)
    return f"{answer['code']} {answer['msg']}" if answer and "code" in answer else "an answer"


async def test_bad_input_gets_the_answer_that_the_document_has() -> None:
    found: dict[str, dict[str, str]] = {}
    async with cni_site() as site:
        for wrong in WRONG:
            for side, where, want in (("reference", REFERENCE, wrong.reference), ("ours", AGENT, wrong.ours or wrong.reference)):  # fmt: skip
                await site.sh(
                    "ip netns del c1; ip link del br0; rm -rf /var/lib/cni/networks/*; ip netns add c1 || true"
                )
                if (said := await refusal(site, wrong, where)) != want:
                    found[f"{wrong.what}: {side}"] = {"want": want, "said": said}
    assert not found, json.dumps(found, indent=2)


# -- taking over


async def joined(site: Site, where: str, pod: str, conf: dict[str, Any], **environment: str) -> Any:
    await site.run("ip", "netns", "add", pod)
    result = await site.call("bridge", "ADD", conf, pod, where=where, **environment)
    assert "code" not in result, result
    return result


async def check(site: Site, where: str, pod: str, conf: dict[str, Any], result: Any) -> None:
    """CHECK by a side that has not done the ADD."""
    assert await site.call("bridge", "CHECK", {**conf, "prevResult": result}, pod, where=where) is None


@pytest.mark.parametrize("ours", [AGENT, ALONE])
async def test_each_side_goes_on_where_the_other_left_off(ours: str) -> None:
    conf = {"cniVersion": "1.0.0", "name": NETWORK, **bridge(isGateway=True, ipMasq=True, ipam=host_local(V4, V6))}
    sides = (REFERENCE, ours, REFERENCE, ours)
    async with cni_site() as site:
        results = [await joined(site, where, f"c{number}", conf) for number, where in enumerate(sides)]
        assert [one["ips"][0]["address"] for one in results] == [f"10.22.0.{number}/24" for number in (2, 3, 4, 5)]
        for one, other in ((0, 1), (1, 2), (3, 0)):
            target = results[other]["ips"][0]["address"].split("/")[0]
            assert "1 received" in await site.inside(f"c{one}", "ping", "-c1", "-W2", target)
        for number, where in enumerate(reversed(sides)):
            await check(site, where, f"c{number}", conf, results[number])
        for where, pod in ((REFERENCE, 0), (ours, 2)):  # what the other made, with its addresses taken away
            await site.inside(f"c{pod}", "ip", "addr", "flush", "dev", "eth0", "scope", "global")
            answer = await site.call("bridge", "CHECK", {**conf, "prevResult": results[pod]}, f"c{pod}", where=where)
            assert "Failed to match addr" in answer["msg"]
        for number, where in enumerate(reversed(sides)):
            for _ in range(2):
                taken = {**conf, "prevResult": results[number]}
                assert await site.call("bridge", "DEL", taken, f"c{number}", where=where) is None
        assert await site.cni.keeper.repair(time.time()) == 0  # what the reference took away is not put back
        _, left = await snapshot(site, NETWORK, ())
        assert await site.leases(NETWORK) == [] and not [name for name in left["node"]["links"] if "veth" in name]
        assert not left["node"]["iptables"].get("nat") and not left["node"]["ip6tables"].get("nat")
        await joined(site, REFERENCE, "c9", conf)
        assert await site.leases(NETWORK) == ["10.22.0.6", "fd00:22::6"]


async def test_the_reference_bridge_takes_addresses_from_our_host_local() -> None:
    conf = {"cniVersion": "1.0.0", "name": NETWORK, **bridge(isGateway=True)}
    async with cni_site() as site:
        result = await joined(site, REFERENCE, "c1", conf, CNI_PATH=AGENT)
        assert result["ips"] == [{"interface": 2, "address": "10.22.0.2/24", "gateway": "10.22.0.1"}]
        await joined(site, REFERENCE, "c2", conf)
        assert await site.leases(NETWORK) == ["10.22.0.2", "10.22.0.3"]
        previous = {**conf, "prevResult": result}
        assert await site.call("bridge", "CHECK", previous, "c1", where=REFERENCE, CNI_PATH=AGENT) is None
        assert await site.call("bridge", "DEL", previous, "c1", where=REFERENCE, CNI_PATH=AGENT) is None
        assert await site.leases(NETWORK) == ["10.22.0.3"]


FOREIGN = """#!/bin/sh
cat > /run/asked.$CNI_COMMAND
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS" >> /run/asked
[ -e /run/refuse ] && echo '{"code": 11, "msg": "no address today", "details": "tomorrow"}' && exit 1
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.22.0.99/24"}], "routes": [{"dst": "0.0.0.0/0"}]}'
exit 0
"""


@pytest.mark.parametrize("ours", [AGENT, ALONE])
async def test_our_bridge_takes_addresses_from_the_reference_and_from_a_shell_script(ours: str) -> None:
    place = "/opt/cni/other"
    async with cni_site() as site:
        await site.sh(f"mkdir -p {place} && ln -s {REFERENCE}/host-local {place}/their-host-local")
        program = site.path(f"{place}/foreign")
        program.write_text(FOREIGN)
        program.chmod(0o755)
        theirs = {
            "cniVersion": "1.0.0",
            "name": NETWORK,
            **bridge(isGateway=True, ipam={**host_local(), "type": "their-host-local"}),
        }
        result = await joined(site, ours, "c1", theirs, CNI_PATH=f"/nowhere:{place}")
        assert result["ips"] == [{"interface": 2, "address": "10.22.0.2/24", "gateway": "10.22.0.1"}]
        assert site.path(f"/var/lib/cni/networks/{NETWORK}/10.22.0.2").read_bytes() == b"c1\r\neth0"
        previous = {**theirs, "prevResult": result}
        for command in ("CHECK", "DEL"):
            assert await site.call("bridge", command, previous, "c1", where=ours, CNI_PATH=place) is None
        assert await site.leases(NETWORK) == []
        foreign = {
            "cniVersion": "0.4.0",
            "name": NETWORK,
            **bridge(isGateway=True, ipam={"type": "foreign", "theirs": [1, {"a": None}]}),
        }
        result = await joined(site, ours, "c2", foreign, CNI_PATH=place)
        assert result["ips"] == [{"version": "4", "interface": 2, "address": "10.22.0.99/24", "gateway": "10.22.0.1"}]
        assert "1 received" in await site.inside("c2", "ping", "-c1", "-W2", "10.22.0.1")
        assert json.loads(site.path("/run/asked.ADD").read_text()) == foreign
        site.path("/run/refuse").touch()
        await site.run("ip", "netns", "add", "c3")
        answer = await site.call("bridge", "ADD", foreign, "c3", where=ours, CNI_PATH=place)
        assert (answer["code"], answer["msg"], answer["details"]) == (11, "no address today", "tomorrow")
        site.path("/run/refuse").unlink()
        assert await site.call("bridge", "DEL", foreign, "c2", where=ours, CNI_PATH=place) is None
        assert site.path("/run/asked").read_text().splitlines()[-1] == "DEL c2 eth0 /run/netns/c2"


# -- the document


def test_the_document_has_the_tables() -> None:
    text = cni_matrix.DOCUMENT.read_text()
    assert all(table in text for table in cni_matrix.tables().values()), "run python tests/cni_matrix.py"
