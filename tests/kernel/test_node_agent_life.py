"""`glassnet agent` from its start to its cleanup: configuration, rights, one a node, parts switched off, and a node that is as it was."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node_agents import NAME, POD_CIDR, VIRTUAL, AgentNode, agent_node

pytestmark = pytest.mark.kernel


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[AgentNode]:
    async with agent_node(tmp_path) as made:
        yield made


async def test_a_second_agent_refuses_and_names_the_first(site: AgentNode) -> None:
    await site.start()
    await site.ready()
    inside = re.search(r"agent of (\S+):", site.log.read_text())
    assert inside and inside[1] == NAME
    told = await site.command("--config", "/srv/agent.yaml", status=1)
    number = json.loads(site.path("/run/glassnet/agent.lock").read_text())["pid"]
    assert f"an agent runs on this node already: process {number} (glassnet agent of {NAME})" in told
    assert "an agent runs" in await site.command("--config", "/srv/agent.yaml", "--cleanup", status=1)
    assert (await site.asked("readyz"))[0] == 200
    assert await site.end(signal.SIGKILL) != 0
    await site.start()  # a lock dies with its process
    await site.ready()


async def test_the_socket_is_roots_alone(site: AgentNode) -> None:
    await site.start()
    await site.ready()
    assert (await site.sh("stat -c %a:%u /run/glassnet /run/glassnet/cni.sock")).split() == ["700:0", "600:0"]


async def test_the_service_manager_hears_of_start_life_and_end(site: AgentNode) -> None:
    notified = site.machine.netns.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(site.path("/run/notify")))
    heard: list[str] = []

    async def told() -> str:
        while True:
            try:
                heard.append(notified.recv(1000).decode())
            except BlockingIOError:
                return "\n".join(heard)

    await site.api.stop()  # READY does not wait for a server that may be away for hours
    await site.start(NOTIFY_SOCKET="/run/notify", WATCHDOG_USEC="200000")
    await site.until(told, lambda said: "READY=1" in said and said.count("WATCHDOG=1") > 2)
    assert "STATUS=waiting for" in await told()
    await site.api.start()
    await site.until(told, lambda said: "STATUS=programmed" in said)
    assert await site.end() == 0
    assert "STOPPING=1" in await told()
    notified.close()


@pytest.mark.parametrize("part", ["cni", "proxy", "routes"])
async def test_a_part_can_run_alone(site: AgentNode, part: str) -> None:
    """Only what it needs is asked of the API, and only what is its own is made."""
    off = [f"--{other}=false" for other in ("cni", "proxy", "routes") if other != part]
    await site.start(*off)
    await site.ready()
    parts = json.loads((await site.asked("readyz"))[1])["parts"]
    assert parts == {part: True}
    asked = "\n".join(site.api.asked)
    assert ("/services?" in asked, "/endpointslices?" in asked) == (part == "proxy", part == "proxy")
    lists = [path for path in site.api.asked if "/nodes?" in path]
    assert lists and all(("metadata.name" in path) is (part != "routes") for path in lists)
    assert ("glassnet" in await site.run("nft", "list", "tables")) is (part == "proxy")
    assert site.path("/run/glassnet/cni.sock").exists() is (part == "cni")
    assert site.path("/srv/net.d/10-glassnet.conflist").exists() is (part == "cni")
    assert ("glassnet-vxlan" in await site.run("ip", "-o", "link")) is (part == "routes")
    if part == "proxy":
        selectors = [path for path in site.api.asked if "/services?" in path or "/endpointslices?" in path]
        assert all("service-proxy-name" in path for path in selectors)
        assert all("headless" in path for path in selectors if "/endpointslices?" in path)
    assert (await site.asked("healthz"))[0] == 200


async def test_files_of_others_stay(site: AgentNode) -> None:
    """A network that is not the agent's is never written over, a program of another's neither; both are said."""
    for path, text in (("/srv/bin/bridge", "#!/bin/sh\n"), ("/srv/net.d/10-glassnet.conflist", '{"mine": true}\n')):
        site.path(path).parent.mkdir(parents=True, exist_ok=True)
        site.path(path).write_text(text)
    await site.start()
    await site.says("10-glassnet.conflist is not the agent's")
    health = await site.until(site.health, lambda found: found["parts"]["cni"].get("problem"))
    assert not health["parts"]["cni"]["ready"]
    assert site.path("/srv/bin/bridge").read_text() == "#!/bin/sh\n"
    assert site.path("/srv/net.d/10-glassnet.conflist").read_text() == '{"mine": true}\n'
    assert "/srv/bin: bridge stay as they are" in site.log.read_text()
    assert os.access(site.path("/srv/bin/glassnet"), os.X_OK)
    assert (await site.asked("readyz"))[0] == 503


async def test_a_network_in_full_is_written_as_it_is(site: AgentNode) -> None:
    site.config["cni"]["conf"] = {"name": "mine", "plugins": [{"type": "glassnet", "bridge": "br7"}, {"type": "portmap", "capabilities": {"portMappings": True}}]}  # fmt: skip
    await site.start()
    await site.ready()
    written = json.loads(site.path("/srv/net.d/10-glassnet.conflist").read_text())
    assert (written["name"], written["plugins"][0]["bridge"], len(written["plugins"])) == ("mine", "br7", 2)
    await site.pod("c1")
    assert "cni mine" in await site.run("ip", "link", "show", "br7")


async def test_it_runs_with_few_capabilities_and_gives_up_the_others(site: AgentNode) -> None:
    """Started with three it does all of its work; started with all it keeps four; with too few it names what is missing."""
    few = "net_admin,net_raw,sys_admin"
    only = ("setpriv", "--bounding-set", f"-all,{few}".replace(",", ",+"), "--inh-caps", "-all")
    await site.start(wrapped=only)
    await site.ready()
    await site.pod("c1")
    await site.serve("c1", "one")
    await site.api.service("web", VIRTUAL, "10.244.1.2")
    await site.api.node("other", "10.244.9.0/24", "192.0.2.9")
    assert await site.until(lambda: site.told(VIRTUAL), bool) == "one"
    assert await site.until(lambda: site.run("ip", "route", "show", "10.244.9.0/24"), bool)
    assert await site.end() == 0
    await site.start()
    await site.ready()
    number = json.loads(site.path("/run/glassnet/agent.lock").read_text())["pid"]
    status = await site.run("cat", f"/proc/{number}/status")
    found = {line.split(":")[0]: int(line.split()[1], 16) for line in status.splitlines() if line.startswith("Cap")}
    kept = 1 << 1 | 1 << 12 | 1 << 13 | 1 << 21  # DAC_OVERRIDE, NET_ADMIN, NET_RAW, SYS_ADMIN
    assert found["CapEff"] == found["CapPrm"] == found["CapBnd"] == kept
    assert found["CapInh"] == found["CapAmb"] == 0
    assert await site.end() == 0
    await site.start(wrapped=("setpriv", "--bounding-set", "-all,+net_raw"))
    await site.says("the agent lacks CAP_NET_ADMIN, CAP_SYS_ADMIN")


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
async def test_rules_of_both_modes_need_no_more(site: AgentNode, mode: str) -> None:
    """Both tools of iptables start with what is left to them."""
    site.config["proxy"]["config"]["mode"] = mode
    await site.api.service("web", VIRTUAL, "10.244.1.2")
    only = ("setpriv", "--bounding-set", "-all,+net_admin,+net_raw,+sys_admin", "--inh-caps", "-all")
    await site.start(wrapped=only)
    await site.ready()
    listing = ("iptables-save", "-t", "nat") if mode == "iptables" else ("nft", "list", "table", "ip", "glassnet")
    assert "demo/web" in await site.run(*listing)


async def test_the_log_is_lines_of_json(site: AgentNode) -> None:
    site.config["logging"] = {"format": "json", "level": "debug"}
    await site.start()
    await site.ready()
    assert await site.end() == 0
    lines = [json.loads(line) for line in site.log.read_text().splitlines()]
    assert {"cni", "proxy", "routes", "agent"} <= {line["part"] for line in lines}
    assert all({"time", "level", "part", "message"} <= set(line) for line in lines)
    assert any(line.get("object") == f"Node/{NAME}" for line in lines)


# -- cleanup

BUILT_IN = "".join(
    f"*{table}\n{''.join(f':{chain} ACCEPT [0:0]' + chr(10) for chain in chains)}COMMIT\n"
    for table, chains in (
        ("nat", ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")),
        ("filter", ("INPUT", "FORWARD", "OUTPUT")),
        ("mangle", ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")),
        ("raw", ("PREROUTING", "OUTPUT")),
    )
)


async def as_it_is(site: AgentNode) -> dict[str, str]:
    """All that an agent could change of a node, but for counters."""
    return {
        "links": await site.sh("ip -o link | sed 's/^[0-9]*: //' | sort"),
        "routes": await site.sh("ip route; ip -6 route | grep -v '^fe80'; ip neigh show proxy"),
        "nft": await site.sh("nft -s list ruleset"),
        "iptables": await site.sh("iptables-save | grep -v '^#' | sed 's/\\[.*//'; ip6tables-save | grep -v '^#' | sed 's/\\[.*//'"),
        "files": await site.sh("find /srv/bin /srv/net.d /run/glassnet /var/lib/cni /etc/cni /opt/cni ! -type d 2>/dev/null | sort; true"),
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
async def test_cleanup_leaves_the_node_as_it_was(site: AgentNode, mode: str) -> None:
    site.config["proxy"]["config"]["mode"] = mode
    for path, text in (("/srv/bin/portmap", "#!/bin/sh\n"), ("/srv/net.d/99-other.conf", '{"name": "o", "type": "bridge"}')):  # fmt: skip
        site.path(path).parent.mkdir(parents=True, exist_ok=True)
        site.path(path).write_text(text)
    await site.sh(
        "iptables -t nat -A POSTROUTING -s 172.16.0.0/12 -j MASQUERADE; ip6tables -A INPUT -s fc00::1 -j DROP"
    )
    await site.sh("nft add table inet others; nft add chain inet others c; ip route add 172.31.0.0/16 via 192.0.2.200 proto static")  # fmt: skip
    # tables and built-in chains of iptables, which everybody shares, stay when they are empty: they are there from the beginning
    for tool in ("iptables-restore", "ip6tables-restore"):
        await site.run(tool, "-n", stdin=BUILT_IN)
    before = await as_it_is(site)
    await site.start()
    await site.ready()
    await site.pod("c1")
    await site.api.service("web", VIRTUAL, "10.244.1.2")
    await site.api.node("other", "10.244.9.0/24", "192.0.2.9")
    await site.api.node("far", "10.244.10.0/24", "198.51.100.9")
    await site.until(lambda: site.run("ip", "route", "show", "10.244.9.0/24"), bool)
    await site.until(lambda: site.run("ip", "route", "show", "10.244.10.0/24"), bool)
    assert await site.end() == 0
    made = await as_it_is(site)
    assert all(made[name] != before[name] for name in ("links", "routes", "nft", "files"))

    words = ("--config", "/srv/agent.yaml", "--cleanup")
    refused = await site.command(*words, status=2)
    assert "1 containers have links of ours" in refused and "kubectl drain" in refused
    assert await as_it_is(site) == made
    kept = await site.command(*words, "--keep-pods")
    assert "link glassnet-vxlan" in kept and "route 10.244.9.0/24" in kept
    assert "cni0" in await site.run("ip", "-o", "link")
    await site.call("DEL", "c1")
    told = await site.command(*words)
    for line in ("link cni0", "file /srv/bin/glassnet", "file /srv/net.d/10-glassnet.conflist", "file /run/glassnet/node.json"):  # fmt: skip
        assert f"removed {line}" in told, told
    after = await as_it_is(site)
    for name, text in before.items():
        assert after[name] == text, name
    assert POD_CIDR.rpartition(".")[0] not in await site.run("iptables-save")
    assert await site.command(*words) == "nothing of glassnet's is on this node"
