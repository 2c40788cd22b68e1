"""Addresses told to a router by BGP: a second BIRD on the switch learns them, uses all nodes, and unlearns a node that is drained."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from balancer_site import NODES, ROUTER, VIP, VIP6, Site, balanced_site, until

pytestmark = pytest.mark.kernel
POOLS = f"""
pools: [{{name: public, addresses: [10.240.0.100-10.240.0.120, 'fd40::100-fd40::120'], announce: bgp}}]
bgp:
  asn: 64512
  communities: ["64512:7"]
  peers: [{{name: top, address: {ROUTER[0]}, asn: 64500, passwordFile: PASSWORD}}]
"""
CONF = f"""
log stderr all;
router id {ROUTER[0]};
protocol device {{}}
protocol kernel {{ ipv4 {{ export all; }}; merge paths on; }}
protocol kernel {{ ipv6 {{ export all; }}; merge paths on; }}
template bgp node {{
  local {ROUTER[0]} as 64500; password "sesame"; passive; direct;
  ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }};
}}
"""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with balanced_site() as made:
        secret = tmp_path / "password"
        secret.write_text("sesame\n")
        made.pools.write_text(POOLS.replace("PASSWORD", str(secret)))
        conf = CONF + "".join(f"protocol bgp from node {{ neighbor {ips[0]} as 64512; }}\n".replace("from", f"n{at} from") for at, ips in enumerate(NODES.values()))  # fmt: skip
        (made.router.root / "srv").mkdir(exist_ok=True)
        (made.router.root / "srv/bird.conf").write_text(conf)
        process = await made.router.spawn(
            ["/usr/sbin/bird", "-f", "-c", "/srv/bird.conf", "-s", "/srv/bird.ctl"], env={}
        )
        try:
            yield made
        finally:
            for node in made.nodes.values():
                await node.end()
            process.signal(signal.SIGKILL)
            await process.wait()


async def hops(site: Site, ip: str = VIP) -> set[str]:
    """The next hops that the router's kernel has for an address."""
    family = "-6" if ":" in ip else "-4"
    found = json.loads((await site.router.run(["ip", "-j", family, "route", "show", ip])).decode() or "[]")
    return {hop["gateway"] for route in found for hop in (route.get("nexthops") or [route])}


async def reaches(site: Site, wanted: set[str], ip: str = VIP) -> None:
    for _ in range(400):
        if await hops(site, ip) == wanted:
            return
        await _pause()
    raise AssertionError(f"{await hops(site, ip)} instead of {wanted}")


async def _pause() -> None:
    import asyncio

    await asyncio.sleep(0.05)


async def test_the_router_uses_all_nodes_and_none_that_is_drained(site: Site) -> None:
    site.service(ips=(VIP, VIP6))
    site.endpoints(*NODES)
    await site.start(hear=False)
    await reaches(site, {ips[0] for ips in NODES.values()})
    await reaches(site, {ips[1] for ips in NODES.values()}, VIP6)
    told = (await site.router.run(["birdc", "-s", "/srv/bird.ctl", "show route all for " + VIP])).decode()
    assert "(64512,7)" in told
    assert site.owners() == []  # announced by BGP alone
    await site.nodes["node-a"].stop()
    await reaches(site, {NODES[name][0] for name in ("node-b", "node-c")})
    site.endpoints("node-b")
    site.service(ips=(VIP, VIP6), externalTrafficPolicy="Local", healthCheckNodePort=30999)
    await reaches(site, {NODES["node-b"][0]})
    site.forget("web")
    await reaches(site, set())
    assert not (site.nodes["node-a"].machine.root / "run/glassnet/bird").exists()


async def test_bird_that_is_gone_comes_back_and_is_told_of(site: Site) -> None:
    site.service()
    site.endpoints(*NODES)
    await site.start("node-a", hear=False)
    await reaches(site, {NODES["node-a"][0]})
    node = site.nodes["node-a"]
    assert node.part is not None and node.part.bird is not None
    first = node.part.bird.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: node.told("BirdGone"))
    assert "ended by signal 9" in node.told("BirdGone")[0]
    await until(lambda: node.part and node.part.bird and node.part.bird.pid != first and node.part.bird.answering, 10)
    await reaches(site, {NODES["node-a"][0]})
    assert len(node.told("BGPSessionUp")) == 2
