"""A machine of namespaces with CNI plugins on it: ours with and without an agent, and the reference ones, called as a runtime calls them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pods_machine import Node, node_of_namespaces

from glassnet.agent.cni import programs as cni_shim
from glassnet.agent.cni.node import Node as CniNode
from glassnet.agent.cni.server import SOCKET, CniServer

# where the programs of each kind lie on the node; SCRIPT is what AGENT is on processors without a native program
AGENT, ALONE, SCRIPT, REFERENCE = "/opt/cni/bin", "/opt/cni/alone", "/opt/cni/script", "/usr/lib/cni"


class Site:
    """A node. `call` answers with what a plugin printed; a dict with "code" is an error."""

    def __init__(self, node: Node) -> None:
        self.node, self.machine = node, node.machine
        self.cni = CniNode(node.machine, os.urandom)
        self.server = CniServer(self.cni)

    async def run(self, *argv: str, stdin: str = "") -> str:
        """Run a program on the node; what it printed. Raises CommandError."""
        return await self.node.run(*argv, stdin=stdin.encode())

    async def sh(self, line: str) -> str:
        """Run a line of shell on the node; what it printed."""
        return await self.run("sh", "-c", line)

    async def inside(self, netns: str, *argv: str) -> str:
        """Run a program in a network namespace made with `ip netns add`."""
        return await self.run("ip", "netns", "exec", netns, *argv)

    async def call(
        self,
        plugin: str,
        command: str,
        conf: dict[str, Any] | str,
        container: str = "c1",
        *,
        netns: str | None = None,
        ifname: str = "eth0",
        args: str = "",
        where: str = AGENT,
        **environment: str,
    ) -> Any:
        """Call a plugin: its answer, None when it printed nothing. `netns` is the name of a namespace (the container's, if not given) or a path."""
        path = container if netns is None else netns
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": path if "/" in path or not path else f"/run/netns/{path}",
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": where,
            **environment,
        }
        words = ["env", *(f"{key}={value}" for key, value in variables.items() if value)]
        text = conf if isinstance(conf, str) else json.dumps(conf)
        answer = await self.run(*words, "sh", "-c", '"$0" || true', f"{where}/{plugin}", stdin=text)
        return json.loads(answer) if answer.strip() else None

    async def leases(self, network: str) -> list[str]:
        """The addresses given away, with the files beside them left out."""
        place = self.machine.root / "var/lib/cni/networks" / network
        return sorted(name for name in os.listdir(place) if name[0].isdigit() or ":" in name) if place.is_dir() else []

    def path(self, path: str) -> Path:
        """Where a file of the node is for the test."""
        return self.machine.root / path.lstrip("/")


@contextlib.asynccontextmanager
async def cni_site() -> AsyncIterator[Site]:
    """A node with the agent's plugins in AGENT, plugins that find no agent in ALONE, the reference plugins in REFERENCE. Nothing is left of it."""
    async with node_of_namespaces() as node:
        site = Site(node)
        cni_shim.install(site.path(AGENT))
        cni_shim.install(site.path(ALONE), socket=f"{SOCKET}.none")
        cni_shim.install(site.path(SCRIPT), machine="other")
        await site.server.start()
        try:
            yield site
        finally:
            await site.server.close()
            await site.cni.close()
