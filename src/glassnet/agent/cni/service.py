"""The node's CNI agent as a service of its own: it answers the plugin programs, and keeps what the Node object says where plugins find it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from typing import Any

from glassnet.agent.cni.facts import pod_cidrs, write_facts
from glassnet.agent.cni.node import Node
from glassnet.agent.cni.server import SOCKET, CniServer
from glassnet.agent.service_manager import tell_systemd
from glassnet.client.informer import Informer
from glassnet.client.kubeconfig import Access
from glassnet.client.rest import RestApi
from glassnet.cni.node import NODE_FILE, NodeFacts
from glassnet.kernel.host import HostMachine
from glassnet.kube import kinds
from glassnet.kube.view import Event, View
from glassnet.net.errors import GlassnetError

log = logging.getLogger(__name__)


class CniService:
    """`run` until SIGTERM or SIGINT; calls that have begun are brought to their end, pods keep their network.

    With `access` the Node object `node` is watched, and its pod CIDRs written to NODE_FILE, with `cluster_cidrs` as those of all pods.
    """

    def __init__(
        self, path: str = SOCKET, access: Access | None = None, node: str = "", cluster_cidrs: Sequence[str] = ()
    ) -> None:
        self._path, self._access, self._node, self._cluster = path, access, node, tuple(cluster_cidrs)
        self._written: NodeFacts | None = None

    async def run(self) -> str:
        """Serve; the name of the signal that ended it. Raises GlassnetError when another agent serves already."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str] = loop.create_future()

        def end(name: str) -> None:
            if not ended.done():
                ended.set_result(name)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end, signal.Signals(number).name)
        machine = HostMachine()
        cni = Node(machine)
        server = CniServer(cni, self._path)
        try:
            await server.start()
            log.info("ready: plugins of %s are answered at %s", machine.name, self._path)
            tell_systemd("READY=1")
            reason = await self._until(ended, machine)
            tell_systemd("STOPPING=1")
            return reason
        finally:
            await server.close()
            await cni.close()
            machine.close()

    async def _until(self, ended: asyncio.Future[str], machine: HostMachine) -> str:
        if self._access is None:
            return await ended
        api = RestApi(self._access)
        watching = asyncio.create_task(self._watch(api, machine))
        try:
            return await ended
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await api.close()

    async def _watch(self, api: RestApi, machine: HostMachine) -> None:
        view = View()

        def heard(event: Event) -> None:
            if event.kind is kinds.NODE and event.new is not None:
                self._learn(event.new, machine)

        def failed(error: GlassnetError) -> None:
            log.warning("watch of Node %s: %s; pod CIDRs stay as they are", self._node, error)

        view.subscribe(heard)
        informer = Informer(
            api, kinds.NODE, view, field_selector=f"metadata.name={self._node}", on_error=failed
        )  # fmt: skip
        telling = asyncio.create_task(self._tell_absence(informer, view))
        try:
            await informer.run()
        finally:
            telling.cancel()

    async def _tell_absence(self, informer: Informer, view: View) -> None:
        await informer.synced.wait()
        if not list(view.all(kinds.NODE)):
            log.warning("there is no Node %r yet; --node names it when it is not the host's name", self._node)

    def _learn(self, node: Any, machine: HostMachine) -> None:
        facts = NodeFacts(pod_cidrs(node), self._cluster)
        if not facts.pod_cidrs:
            log.warning("Node %s has no spec.podCIDRs yet", self._node)
            return
        if facts == self._written:
            return
        try:
            write_facts(machine.root, facts)
        except GlassnetError as error:
            log.error("%s", error)
            return
        self._written = facts
        log.info("pod CIDRs of Node %s: %s, written to %s", self._node, ", ".join(facts.pod_cidrs), NODE_FILE)
