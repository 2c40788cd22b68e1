"""A cluster without nodes' work: the real server, the real control plane, and pods that are run by the test's own hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import msgspec

from glassnet.agent.cluster.control_plane import ControlPlane
from glassnet.apiserver.local import LocalApi, feed
from glassnet.apiserver.request import DeleteOptions
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.types import Pod
from glassnet.kube.view import Key, View

START = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """Objects in a server, its View, and a control plane that runs while `settle` is awaited."""

    def __init__(self, nodes: int = 3, service_cidr: str = "10.32.0.0/24") -> None:
        self.time = START
        self.server = ApiServer(Store(":memory:"), now=lambda: self.time, random=Random(7), service_cidr=service_cidr)
        self.api = LocalApi(self.server)
        self.view = View()
        feed(self.server, self.view)
        self.plane = ControlPlane(
            self.view, self.api, cluster_cidr="10.200.0.0/16", ca_pem="PEM", now=lambda: self.time
        )
        self._addresses = 0
        self._task: asyncio.Future[None] | None = None
        for index in range(nodes):
            self.add_node(f"node-{index}")

    def add_node(self, name: str, **metadata: Any) -> None:
        """A node that is Ready."""
        labels = {"kubernetes.io/hostname": name, **metadata.pop("labels", {})}
        self.server.create(kinds.NODE, "", {"metadata": {"name": name, "labels": labels, **metadata}})
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        self.patch(kinds.NODE, name, {"status": ready}, "status", namespace="")

    def create(self, kind: Kind, name: str, spec: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Create an object of the namespace `default`."""
        namespace = more.pop("namespace", "default" if kind.namespaced else "")
        body: dict[str, Any] = {"metadata": {"name": name, **more.pop("metadata", {})}, **more}
        if spec is not None:
            body["spec"] = spec
        return self.server.create(kind, namespace, body)

    def patch(self, kind: Kind, name: str, body: dict[str, Any], part: str = "", namespace: str = "default") -> None:
        """Merge-patch an object."""
        self.server.patch(kind, namespace, name, body, "application/merge-patch+json", subresource=part)

    def get(self, kind: Kind, name: str, namespace: str = "default") -> Any:
        """An object as the View has it, or None."""
        return self.view.get(kind, Key(namespace if kind.namespaced else "", name))

    def whole(self, kind: Kind, name: str, namespace: str = "default") -> dict[str, Any]:
        """An object as the server has it."""
        return msgspec.json.decode(self.server.get(kind, namespace if kind.namespaced else "", name))

    async def settle(self, each: Callable[[], None] | None = None, most: float = 20.0) -> None:
        """Let the control plane work until it has nothing to do; `each` is called between any two of its steps."""
        if self._task is None:
            self._task = asyncio.ensure_future(self.plane.run())
        end = asyncio.get_running_loop().time() + most
        quiet = 0
        while quiet < 3:
            assert asyncio.get_running_loop().time() < end, "the control plane does not come to rest"
            assert not self._task.done(), self._task
            await asyncio.sleep(0)
            if each:
                each()
            quiet = quiet + 1 if self.plane.idle() else 0

    async def close(self) -> None:
        """End the control plane."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def later(self, seconds: float) -> None:
        """The clock moves, and everything that was put off is due."""
        self.time += timedelta(seconds=seconds)
        queue = self.plane._queue
        for item, timer in list(queue._timers.items()):
            timer.cancel()
            queue._due(item)

    # -- what a kubelet would do

    def pods(self, **labels: str) -> list[Pod]:
        """Pods that are not being deleted, by name."""
        found = [p for p in self.view.pods.values() if labels.items() <= p.metadata.labels.items()]
        return sorted((p for p in found if p.metadata.deletion_timestamp is None), key=lambda p: p.metadata.name)

    def ready(self, pod: Pod, ready: bool = True) -> None:
        """The pod runs, and is (or is not) Ready."""
        self._addresses += 0 if pod.status.pod_ip else 1
        address = pod.status.pod_ip or f"10.200.{self._addresses // 250}.{self._addresses % 250 + 1}"
        stamp = self.time.strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": stamp}
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [condition]}
        self.patch(kinds.POD, pod.metadata.name, {"status": status}, "status", pod.metadata.namespace)

    def finish(self, pod: Pod, phase: str) -> None:
        """The pod's containers have ended."""
        stamp = self.time.strftime("%Y-%m-%dT%H:%M:%SZ")
        code = 0 if phase == "Succeeded" else 1
        state = {"terminated": {"exitCode": code, "finishedAt": stamp}}
        container = {"name": "main", "ready": False, "restartCount": 0, "image": "", "imageID": "", "state": state}
        status = {
            "phase": phase,
            "containerStatuses": [container],
            "conditions": [{"type": "Ready", "status": "False"}],
        }
        self.patch(kinds.POD, pod.metadata.name, {"status": status}, "status", pod.metadata.namespace)

    def run_pods(self) -> bool:
        """What kubelets would do now: bound pods become Ready, deleted ones go. True when there was something to do."""
        busy = False
        for pod in list(self.view.pods.values()):
            if pod.metadata.deletion_timestamp:
                self.view_delete(pod)
                busy = True
            elif pod.spec.node_name and not pod.ready() and not pod.finished():
                self.ready(pod)
                busy = True
        return busy

    def view_delete(self, pod: Pod) -> None:
        """The last word of a kubelet on a deleted pod."""
        self.server.delete(kinds.POD, pod.metadata.namespace, pod.metadata.name, DeleteOptions(grace=0))

    async def converge(self, each: Callable[[], None] | None = None) -> None:
        """Control plane and kubelets in turn, until both are content."""
        for _ in range(200):
            await self.settle(each)
            if not self.run_pods():
                return
        raise AssertionError("the cluster does not come to rest")


def template(labels: dict[str, str], image: str = "nginx", **spec: Any) -> dict[str, Any]:
    """A pod template with one container."""
    containers = [{"name": "main", "image": image, "ports": [{"containerPort": 80, "name": "http"}]}]
    return {"metadata": {"labels": labels}, "spec": {"containers": containers, **spec}}
