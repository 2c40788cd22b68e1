"""A runtime's part of CNI for an agent that starts pods itself: which network, ADD and DEL for a pod, what an agent before left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from glassnet.agent.cni.node import Node
from glassnet.agent.cni.server import CniServer
from glassnet.cni import effects as e
from glassnet.cni import runtime
from glassnet.cni.errors import ConfigError
from glassnet.cni.runtime import PLUGIN_PATH, Network
from glassnet.kernel.api import Host, NetNs
from glassnet.net.errors import GlassnetError

T = TypeVar("T")
CONFIG = "/etc/cni/net.d"


class Attachment(NamedTuple):
    """One pod's interface: its addresses, the first of which is the pod's own."""

    addresses: tuple[str, ...]
    network: str

    @property
    def address(self) -> str:
        return self.addresses[0] if self.addresses else ""


class CniAgent:
    """A runtime's part of CNI on one machine, for an agent that starts pods itself.

    With `permanent_neighbours` pods and node know each other's MAC for good: such entries do not count against gc_thresh3. With
    `programs` every plugin is the program in PLUGIN_PATH, whosever that is; else our own are carried out here.
    """

    def __init__(
        self, host: Host, random: Callable[[int], bytes], permanent_neighbours: bool = False, programs: bool = False
    ) -> None:
        self.node, self._permanent, self._programs = Node(host, random), permanent_neighbours, programs
        self._machine, self._server = host, CniServer(self.node)

    def network(self) -> Network:
        """The network in use: read anew each time, as a runtime does. Raises GlassnetError when there is none, ParseError for a bad one."""
        return self._network()[0]

    def lacking(self) -> str:
        """Why there is no network, in a runtime's words; "" when there is one."""
        try:
            there = runtime.choose_file(os.listdir(self._machine.root / CONFIG.lstrip("/")))
        except OSError:
            there = None
        return "" if there else "cni plugin not initialized"

    def _network(self) -> tuple[Network, str]:
        directory = self._machine.root / CONFIG.lstrip("/")
        try:
            name = runtime.choose_file(os.listdir(directory))
            if name is None:
                raise GlassnetError(
                    f"{self._machine.name}: cni plugin not initialized: no network config found in {CONFIG}"
                )
            text = (directory / name).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise GlassnetError(f"{self._machine.name}: {CONFIG}: {error}") from None
        source = f"{self._machine.name}:{CONFIG}/{name}"
        return runtime.parse_network(text, source), source

    async def add(
        self,
        netns: NetNs,
        container_id: str,
        ifname: str = "eth0",
        arguments: Sequence[tuple[str, str]] = (),
        capabilities: Mapping[str, Any] | None = None,
    ) -> Attachment:
        """ADD with the machine's configuration, the result kept as libcni keeps it. Raises GlassnetError naming what failed;
        nothing is left then, nor when the caller is cancelled."""
        network, source = self._network()
        path, pod = f"/run/netns/{netns.name}", netns.fd
        container = runtime.Container(
            container_id, path, ifname, pod, tuple(arguments), capabilities or {}, self._programs
        )
        try:
            result = await self._run(runtime.add(self._as_here(network), container), netns)
        except ConfigError as error:
            raise runtime.located(error, network.text, source) from None
        return Attachment(tuple(ip.ip for ip in result.ips), network.name)

    async def delete(self, network: str, container_id: str, netns: NetNs | None = None, ifname: str = "eth0") -> None:
        """DEL: idempotent; what ADD kept says what there is to take down. Raises GlassnetError when the kernel refuses."""
        path = f"/run/netns/{netns.name}" if netns else ""
        pod = netns.fd if netns else -1
        container = runtime.Container(container_id, path, ifname, pod, programs=self._programs)
        await self._run(runtime.delete(container, network), netns)

    async def sweep(self, keep: Container[str] = ()) -> None:
        """Take down what an agent before us joined, but for the containers in `keep`; found by the results it kept (CNI's GC).

        It goes on after an error. Raises GlassnetError with them all.
        """
        problems = []
        for kept in await self._run(runtime.list_kept(), None):
            if kept.container.container_id not in keep:
                try:
                    await self._run(runtime.delete(kept.container, kept.network.name), None)
                except GlassnetError as error:
                    problems.append(str(error))
        if problems:
            raise GlassnetError("; ".join(problems))

    async def _run(self, steps: e.Steps[T], netns: NetNs | None) -> T:
        return await self.node.run(steps, netns, {"CNI_PATH": PLUGIN_PATH})

    def _as_here(self, network: Network) -> Network:
        """The network with what this agent adds to every bridge of its own."""
        if not self._permanent:
            return network
        plugins = tuple(
            {**one, "permanentNeighbours": True} if one.get("type") == "bridge" else one for one in network.plugins
        )
        return network._replace(plugins=plugins)

    async def serve(self) -> None:
        """Answer the plugin programs of the machine too. Raises GlassnetError when another agent does so."""
        await self._server.start()

    async def close(self) -> None:
        """End what runs in the background."""
        await self._server.close()
        await self.node.close()
