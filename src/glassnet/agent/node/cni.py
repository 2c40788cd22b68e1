"""CNI as one part of the agent: plugins answered from the first moment on, what the Node says in a file for them, a network for the runtime."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from glassnet.agent.cni import programs
from glassnet.agent.cni.facts import write_facts
from glassnet.agent.cni.node import Node
from glassnet.agent.cni.server import CniServer
from glassnet.agent.cni.whole_files import read_whole, write_whole
from glassnet.agent.node import configuration
from glassnet.agent.node.configuration import CniPart as CniConfig
from glassnet.cni.node import NODE_FILE, NodeFacts, read_facts
from glassnet.cni.plugins import PLUGINS
from glassnet.cni.runtime import choose_file
from glassnet.kernel.api import Host
from glassnet.net.errors import GlassnetError

log = logging.getLogger(__name__)
FILE = "10-glassnet.conflist"


class CniPart:
    """The CNI daemon of a node. `observe` hears of calls (see `agent.cni.server`)."""

    def __init__(self, config: CniConfig, machine: Host, observe: Callable[[str, bool, float], None]) -> None:
        self.config, self._machine = config, machine
        self._node = Node(machine)
        self._server = CniServer(self._node, config.socket, observe)
        self.facts = NodeFacts()
        self.serving = self.configured = False
        self.problem = ""

    async def start(self) -> None:
        """Answer plugins; with what an agent before us knew of the node. Raises GlassnetError when another agent does so, or the disk refuses."""
        if self.config.install:
            self._install()
        await self._server.start()
        self.serving = True
        log.info("plugins are answered at %s", self.config.socket)
        try:
            self.facts = read_facts(read_whole(self._machine.root / NODE_FILE.lstrip("/")))
        except GlassnetError as error:
            log.warning("%s", error)
        if self.facts.pod_cidrs:
            log.info("pod CIDRs as an earlier agent left them in %s: %s", NODE_FILE, ", ".join(self.facts.pod_cidrs))
        self._configure()

    def learn(self, facts: NodeFacts) -> None:
        """What the Node object says now; facts without pod CIDRs change nothing: pods go on getting addresses of the ranges known before."""
        if not facts.pod_cidrs or (facts == self.facts and self.configured):
            return
        if facts != self.facts:
            try:
                write_facts(self._machine.root, facts)
            except GlassnetError as error:
                self.problem = str(error)
                log.error("%s", error)
                return
            log.info(
                "pod CIDRs %s, MTU %s, written to %s", ", ".join(facts.pod_cidrs), facts.mtu or "of the link", NODE_FILE
            )
            self.facts = facts
        self._configure()

    async def close(self) -> None:
        """Listen no more; calls that have begun are brought to their end. Containers keep their network."""
        self.serving = False
        await self._server.close()
        await self._node.close()

    def state(self) -> dict[str, object]:
        """How it stands, for /healthz."""
        return {
            "serving": self.serving,
            "networkWritten": self.configured,
            "podCIDRs": list(self.facts.pod_cidrs),
            **({"problem": self.problem} if self.problem else {}),
        }

    @property
    def ready(self) -> bool:
        """Whether pods can be joined."""
        return self.serving and (self.configured or not self.config.conf_dir)

    # -- files for the runtime

    def _install(self) -> None:
        """Put programs into the runtime's directory; a name that another's program has stays with it."""
        place = Path(self.config.bin_dir)
        taken = programs.foreign_programs(place)
        if "glassnet" in taken:
            raise GlassnetError(f"{place}/glassnet is not a program of ours; move it away, or use another cni.binDir")
        names = [name for name in PLUGINS if name not in taken]
        programs.install(place, force=False, socket=self.config.socket, names=names)
        log.info("%s: %s", place, ", ".join(names))
        if taken:
            log.warning("%s: %s stay as they are, they are not ours", place, ", ".join(taken))

    def _configure(self) -> None:
        """Write the network's file, once the ranges that it needs are known: a runtime that finds it takes the node for ready."""
        if not self.config.conf_dir or (needs_ranges(self.config) and not self.facts.pod_cidrs):
            return
        path = Path(self.config.conf_dir) / FILE
        try:
            text = configuration.network_file(self.config, self.facts.pod_cidrs)
            there = read_whole(path)
            if there is None and os.path.lexists(path):
                raise GlassnetError(f"{path}: cannot be read")
            if there is not None and not configuration.is_our_network(there):
                raise GlassnetError(
                    f"{path} is not the agent's, and stays as it is; move it away, or use another cni.confDir"
                )
            if there != text:
                write_whole(path, text)
                log.info("%s: the runtime has its network now", path)
        except GlassnetError as error:
            self.configured, self.problem = False, str(error)
            log.error("%s", error)
            return
        self.configured, self.problem = True, ""
        first = choose_file(os.listdir(self.config.conf_dir))
        if first is not None and first != FILE:
            self.problem = f"{self.config.conf_dir}/{first} comes before {FILE}: the runtime takes that network"
            log.warning("%s", self.problem)


def needs_ranges(config: CniConfig) -> bool:
    """Whether the network can do nothing before the pod CIDRs are known."""
    if isinstance(config.conf, str):
        return config.conf != "docker"
    plugins = config.conf.get("plugins") or ()
    return any(
        (one.get("type") == "glassnet" and not one.get("podCIDRs")) or configuration.lacks_ranges(one)
        for one in plugins
        if isinstance(one, dict)
    )
