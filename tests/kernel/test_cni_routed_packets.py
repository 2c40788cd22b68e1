"""routed in the kernel: a gateway that nobody has, addresses of the nodes' network, routing rules; and nothing of it left."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cni_site import AGENT, ALONE, Site, cni_site
from glassnet.net.errors import CommandError

pytestmark = pytest.mark.kernel
Json = dict[str, Any]
RANGES = [
    [{"subnet": "10.240.0.0/16", "rangeStart": "10.240.0.5", "rangeEnd": "10.240.0.7"}],
    [{"subnet": "fd00:22::/64"}],
]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with cni_site() as made:
        for address in ("10.240.0.4/32", "fd00:22:9::1/128"):  # the node's own
            await made.run("ip", "addr", "add", address, "dev", "lo")
        yield made


def conf(**changes: Any) -> Json:
    ipam = {"type": "host-local", "ranges": RANGES}
    return {"cniVersion": "1.1.0", "name": "vpc", "type": "routed", "linkPrefix": "eni", "ipam": ipam, **changes}


RULED = conf(hostAddress=True, rulePriority=512)


async def call(site: Site, command: str, configuration: Json, container: str, where: str = AGENT) -> Any:
    args = f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={container}"
    return await site.call("routed", command, configuration, container, where=where, args=args)


async def joined(site: Site, container: str, configuration: Json, where: str = AGENT) -> Json:
    if container not in await site.run("ip", "netns", "list"):
        await site.run("ip", "netns", "add", container)
    answer: Json = await call(site, "ADD", configuration, container, where)
    assert "code" not in answer, answer
    return answer


async def pings(site: Site, container: str, address: str) -> bool:
    """Whether one echo request is answered within a second: a first one that had to wait would not be."""
    try:
        return "1 received" in await site.inside(container, "ping", "-c1", "-W0.8", address)
    except CommandError:
        return False


async def rules(site: Site) -> list[str]:
    said = await site.run("ip", "rule") + await site.run("ip", "-6", "rule")
    return [line for line in said.splitlines() if line.startswith("512:")]


@pytest.mark.parametrize("where", [AGENT, ALONE])
async def test_both_families_work_as_soon_as_add_returns_and_nothing_is_left(site: Site, where: str) -> None:
    one = await joined(site, "c1", RULED, where)
    await joined(site, "c2", RULED, where)
    for address in ("10.240.0.5", "fd00:22::2"):
        assert await pings(site, "c2", address)
        assert "1 received" in await site.run("ping", "-c1", "-W0.8", address)
    assert [ip["address"] for ip in one["ips"]] == ["10.240.0.5/32", "fd00:22::2/128"]
    assert [ip["gateway"] for ip in one["ips"]] == ["169.254.1.1", "fe80::1"]
    assert [rule.split("\t")[1].split(" proto")[0] for rule in await rules(site)] == [
        "from all to 10.240.0.5 lookup main",
        "from all to 10.240.0.6 lookup main",
        "from all to fd00:22::2 lookup main",
        "from all to fd00:22::3 lookup main",
    ]
    assert await call(site, "CHECK", {**RULED, "prevResult": one}, "c1", where) is None
    for _ in range(2):
        assert await call(site, "DEL", {**RULED, "prevResult": one}, "c1", where) is None
        assert await site.leases("vpc") == ["10.240.0.6", "fd00:22::3"]
        assert len(json.loads(await site.run("ip", "-j", "link", "show", "type", "veth"))) == 1
        assert len(await rules(site)) == 2
    collect = {**RULED, "cni.dev/valid-attachments": []}
    assert await call(site, "GC", collect, "", where) is None
    assert (await rules(site), await site.leases("vpc")) == ([], [])
    assert json.loads(await site.run("ip", "-j", "link", "show", "type", "veth")) == []


async def test_the_pods_view_and_the_nodes(site: Site) -> None:
    answer = await joined(site, "c1", conf(linkPrefix="azv", proxyARP=True, routeProtocol=4))
    link, mac = answer["interfaces"][0]["name"], answer["interfaces"][0]["mac"]
    assert link.startswith("azv") and len(link) == 14
    assert [" ".join(line.split()) for line in (await site.inside("c1", "ip", "route")).splitlines()] == [
        "default via 169.254.1.1 dev eth0",
        "169.254.1.1 dev eth0 scope link",
    ]
    assert f"169.254.1.1 dev eth0 lladdr {mac} PERMANENT" in await site.inside("c1", "ip", "neigh")
    assert "inet 10.240.0.5/16" in await site.inside("c1", "ip", "addr", "show", "eth0")
    assert f"10.240.0.5 dev {link} proto static scope link" in await site.run("ip", "route")
    assert (await site.run("sysctl", "-n", f"net.ipv4.conf.{link}.proxy_arp")).strip() == "1"
    assert json.loads(await site.run("ip", "-j", "link", "show", link))[0]["ifalias"] == "cni vpc c1 eth0"
    assert await rules(site) == []


async def test_links_are_named_by_pods_and_a_taken_name_is_no_obstacle(site: Site) -> None:
    first = (await joined(site, "c1", conf()))["interfaces"][0]["name"]
    await call(site, "DEL", conf(), "c1")
    assert (await joined(site, "c1", conf()))["interfaces"][0]["name"] == first
    await call(site, "DEL", conf(), "c1")
    await site.run("ip", "link", "add", first, "type", "bridge")
    other = (await joined(site, "c1", conf()))["interfaces"][0]["name"]
    assert other != first and other.startswith("eni")
    assert await pings(site, "c1", "10.240.0.7") is False  # nobody has it
    await call(site, "DEL", conf(), "c1")
    assert first in await site.run("ip", "link")  # what is not ours stays


async def test_a_failed_add_leaves_nothing(site: Site) -> None:
    """The pod has an interface of this name already."""
    await site.run("ip", "netns", "add", "c1")
    await site.inside("c1", "ip", "link", "add", "eth0", "type", "bridge")
    answer = await call(site, "ADD", RULED, "c1")
    assert answer["msg"] == "container veth name provided (eth0) already exists"
    assert (await site.leases("vpc"), await rules(site)) == ([], [])
    assert json.loads(await site.run("ip", "-j", "link", "show", "type", "veth")) == []


async def test_check_names_what_is_off(site: Site) -> None:
    answer = await joined(site, "c1", RULED)
    link = answer["interfaces"][0]["name"]
    told = {**RULED, "prevResult": answer}
    await site.run("ip", "route", "del", "10.240.0.5", "dev", link)
    assert (await call(site, "CHECK", told, "c1"))[
        "msg"
    ] == f"routed: the route to 10.240.0.5 by {link} is missing on the node"
    await site.run("ip", "link", "set", link, "down")
    assert (await call(site, "CHECK", told, "c1"))["msg"] == f"routed: Interface {link} is down"


async def test_status_and_bad_configurations(site: Site) -> None:
    assert await call(site, "STATUS", conf(), "") is None
    for container in ("c1", "c2", "c3"):
        await joined(site, container, conf())
    assert (await call(site, "STATUS", conf(), ""))["code"] == 50
    await site.run("ip", "netns", "add", "c4")
    for wrong, says in (
        ({"linkPrefix": "longer"}, "linkPrefix"),
        ({"rulePriority": 40000}, "rulePriority"),
        ({"routeProtocol": 0}, "routeProtocol"),
        ({"ipam": {}}, "no plugin name provided"),
        ({"bridge": "br0"}, "bridge"),
        ({"proxyARP": "yes"}, "proxyARP"),
    ):
        answer = await call(site, "ADD", conf(**wrong), "c4")
        assert says in answer["msg"] + answer.get("details", ""), answer
