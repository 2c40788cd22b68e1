"""Streams into the lab's pods for the API server: exec, attach, logs, port-forward (implements kube.runtime.PodStreams)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from glassnet.kube import kinds
from glassnet.kube.runtime import ExecSession
from glassnet.kube.types import Pod
from glassnet.kube.view import Event, Key, View
from glassnet.lab.pods.calls import open_stream, plain_words
from glassnet.lab.pods.logs import LogRing, options_of, read_log
from glassnet.lab.pods.processes import ProcessContainer
from glassnet.lab.pods.runtime import LabRuntime, Record
from glassnet.lab.pods.sandbox import Instance, LabPod
from glassnet.lab.pods.sessions import LogSession
from glassnet.net.errors import ApiError

FORWARD_TIMEOUT = 10.0


def bad_request(message: str) -> ApiError:
    """400 in the API server's form."""
    return ApiError(400, "BadRequest", message)


class LabStreams:
    """Finds a pod's runtime by its node, and opens streams there."""

    def __init__(
        self,
        runtimes: Mapping[str, LabRuntime],
        view: View,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`runtimes` by node name (may grow later). Pods that leave the View are forgotten by their runtimes."""
        self._runtimes, self._view, self._now = runtimes, view, now
        view.subscribe(self._changed, replay=False)

    def _changed(self, event: Event) -> None:
        if event.kind is not kinds.POD:
            return
        gone: Pod | None = event.old
        if gone is None or (event.new is not None and event.new.metadata.uid == gone.metadata.uid):
            return
        if runtime := self._runtimes.get(gone.spec.node_name):
            runtime.forget(gone.metadata.uid)

    # -- finding

    def _pod(self, key: Key) -> Pod:
        pod = self._view.get(kinds.POD, key)
        if pod is None:
            details = {"name": key.name, "kind": "pods"}
            raise ApiError(404, "NotFound", f'pods "{key.name}" not found', details)
        return cast(Pod, pod)

    def _record(self, pod: Pod) -> Record | None:
        name = pod.metadata.name
        if not pod.spec.node_name:
            raise bad_request(f"pod {name} does not have a host assigned")
        runtime = self._runtimes.get(pod.spec.node_name)
        return runtime.record(pod.metadata.uid) if runtime is not None else None

    def _container(self, pod: Pod, container: str) -> str:
        """The container meant; "" means the only one. Raises ApiError as the API server does."""
        name = pod.metadata.name
        own = [one.name for one in pod.spec.containers]
        if not container:
            if len(own) == 1:
                return own[0]
            raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{' '.join(own)}]")
        if container not in own and container not in [one.name for one in pod.spec.init_containers]:
            raise bad_request(f"container {container} is not valid for pod {name}")
        return container

    def _running(self, key: Key, container: str) -> tuple[LabPod, str, Instance]:
        pod = self._pod(key)
        if pod.finished():
            raise bad_request(f"cannot exec into a container in a completed pod; current phase is {pod.status.phase}")
        name = self._container(pod, container)
        record = self._record(pod)
        sandbox = record.sandbox if record is not None else None
        instance = sandbox.instance(name) if sandbox is not None else None
        if sandbox is None or instance is None or instance.running is None or instance.status is not None:
            raise bad_request(f'container not found ("{name}"): it is not running in pod {key}')
        return sandbox, name, instance

    # -- PodStreams

    async def exec(self, pod: Key, container: str, command: Sequence[str], stdin: bool, tty: bool) -> ExecSession:
        """See PodStreams.exec. A program that is not there gives a session that says so and exits with 127."""
        if not command:
            raise bad_request("you must specify at least one command for the container")
        sandbox, name, _ = self._running(pod, container)
        return cast(ExecSession, await sandbox.exec(name, command, stdin, tty))

    async def attach(self, pod: Key, container: str, stdin: bool, tty: bool) -> ExecSession:
        """See PodStreams.attach. A built-in server's log is its output."""
        _, name, instance = self._running(pod, container)
        running = instance.running
        if isinstance(running, ProcessContainer):
            if tty and not running.tty:
                raise bad_request(f"container {name} was started without a tty")
            return running.attach(stdin and instance.stdin, instance.stdin_once)
        assert running is not None
        return LogSession(running.log, lambda: running.status.code if running.status is not None else 0)

    def logs(self, pod: Key, container: str, options: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """See PodStreams.logs."""
        return read_log(self._ring(pod, container, bool(options.get("previous"))), options_of(options, self._now()))

    def _ring(self, key: Key, container: str, previous: bool) -> LogRing:
        pod = self._pod(key)
        name = self._container(pod, container)
        record = self._record(pod)
        logs = record.logs.get(name) if record is not None else None
        if previous:
            if logs is None or logs.previous is None:
                raise bad_request(f'previous terminated container "{name}" in pod "{key.name}" not found')
            return logs.previous
        if logs is None or logs.current is None:
            raise bad_request(f'container "{name}" in pod "{key.name}" is waiting to start: {_waiting(pod, name)}')
        return logs.current

    async def forward(self, pod: Key, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See PodStreams.forward: 127.0.0.1 first, ::1 for a server that listens on IPv6 alone."""
        found = self._pod(pod)
        record = self._record(found)
        sandbox = record.sandbox if record is not None else None
        if sandbox is None or found.finished():
            raise bad_request(f"unable to forward port because pod is not running. Current status={found.status.phase}")
        netns = sandbox.kernel.netns
        said = []
        for family, host in (("tcp4", "127.0.0.1"), ("tcp6", "::1")):
            try:
                return await open_stream(netns, host, port, FORWARD_TIMEOUT)
            except OSError as error:
                shown = f"[{host}]" if ":" in host else host
                said.append(f"IPv{family[-1]}: dial {family} {shown}:{port}: connect: {plain_words(error)}")
        where = sandbox.netns_path or "the node's network namespace"
        raise ApiError(
            500, "InternalError", f'failed to connect to localhost:{port} inside namespace "{where}", {" ".join(said)}'
        )


def _waiting(pod: Pod, container: str) -> str:
    """The reason in a waiting container's status."""
    for status in (*pod.status.container_statuses, *pod.status.init_container_statuses):
        if status.name == container and (waiting := status.state.get("waiting")):
            return str(waiting.get("reason", "ContainerCreating"))
    return "ContainerCreating"
