"""The lab's container runtime: one per node (implements kube.runtime.ContainerRuntime)."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from glassnet.kernel.api import Machine
from glassnet.kube.types import Container, Pod
from glassnet.lab.pods.hosted import Parts
from glassnet.lab.pods.images import stand_in_text
from glassnet.lab.pods.logs import BUILT_IN_LIMIT, PROCESS_LIMIT
from glassnet.lab.pods.sandbox import ContainerLogs, LabPod, Makings
from glassnet.lab.pods.surroundings import PodIdentity

KEPT = 256
"""Pods without a sandbox whose logs a node keeps at most; the oldest go first."""


class Record:
    """What is known of a pod on this node: its sandbox while it has one, and its logs until the pod is forgotten."""

    __slots__ = ("forgotten", "logs", "sandbox")

    def __init__(self) -> None:
        self.sandbox: LabPod | None = None
        self.logs: dict[str, ContainerLogs] = {}
        self.forgotten = False


class LabRuntime:
    """Makes sandboxes on one machine of the lab."""

    def __init__(
        self,
        machine: Machine,
        node_name: str,
        *,
        random: Callable[[int], bytes] = os.urandom,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        process_log_limit: int = PROCESS_LIMIT,
        built_in_log_limit: int = BUILT_IN_LIMIT,
        parts: Parts = MappingProxyType({}),
    ) -> None:
        """`random` gives n random bytes, `now` an aware time; the limits are bytes of log per container; `parts` are the commands of glassnet
        that work in this process."""
        self._node = node_name
        self._makings = Makings(machine, random, now, process_log_limit, built_in_log_limit, parts)
        self._records: dict[str, Record] = {}

    async def sandbox(self, pod: Pod, files: Mapping[str, str]) -> LabPod:
        """See ContainerRuntime.sandbox. Raises KernelError."""
        identity = self._identity(pod)
        netns_name = f"cni-{uuid.UUID(bytes=self._makings.random(16), version=4)}"
        kernel = await self._makings.machine.sandbox(netns_name, identity.hostname, files, identity.host_network)
        record = self._records.setdefault(identity.uid, Record())
        record.sandbox = LabPod(identity, kernel, netns_name, self._makings, record.logs, self._removed)
        return record.sandbox

    def _identity(self, pod: Pod) -> PodIdentity:
        meta, spec = pod.metadata, pod.spec
        hostname = self._makings.machine.name if spec.host_network else (spec.hostname or meta.name)[:63].rstrip("-.")
        return PodIdentity(
            namespace=meta.namespace,
            name=meta.name,
            uid=meta.uid,
            node=self._node,
            hostname=hostname,
            host_network=spec.host_network,
            grace=spec.termination_grace_period_seconds,
        )

    def stand_in(self, container: Container) -> str:
        """See ContainerRuntime.stand_in."""
        return stand_in_text(container)

    def record(self, uid: str) -> Record | None:
        """What is known of a pod."""
        return self._records.get(uid)

    def forget(self, uid: str) -> None:
        """The pod is gone from the API: drop its logs, at once or with its sandbox."""
        record = self._records.get(uid)
        if record is None:
            return
        record.forgotten = True
        if record.sandbox is None:
            del self._records[uid]

    def _removed(self, sandbox: LabPod) -> None:
        uid = sandbox.identity.uid
        record = self._records.get(uid)
        if record is None or record.sandbox is not sandbox:
            return
        record.sandbox = None
        if record.forgotten:
            del self._records[uid]
            return
        self._records[uid] = self._records.pop(uid)  # the youngest without a sandbox
        idle = [key for key, known in self._records.items() if known.sandbox is None]
        for key in idle[: max(0, len(idle) - KEPT)]:
            del self._records[key]
