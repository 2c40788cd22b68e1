"""Controllers: 100 nodes, 500 Deployments of two pods with a Service each, from nothing to the fixed point and back."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

from glassnet.agent.cluster.control_plane import ControlPlane
from glassnet.apiserver.local import LocalApi, feed
from glassnet.apiserver.request import DeleteOptions
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store
from glassnet.kube import kinds
from glassnet.kube.types import Pod
from glassnet.kube.view import Event, Key, View

NODES, SERVICES, PODS_EACH = 100, 500, 2


class Kubelets:
    """All nodes' kubelets in one: pods that are bound become Ready, pods that are deleted go."""

    def __init__(self, server: ApiServer, view: View) -> None:
        self._server, self._view = server, view
        self._work: deque[Key] = deque()
        self._addresses = 0
        view.subscribe(self._on_event, replay=False)

    def _on_event(self, event: Event) -> None:
        if event.kind is kinds.POD and event.new is not None and event.new.spec.node_name:
            pod: Pod = event.new
            if pod.metadata.deletion_timestamp or not pod.status.pod_ip:
                self._work.append(event.key)

    def step(self) -> bool:
        """One pod's worth of work; False when there is none."""
        if not self._work:
            return False
        key = self._work.popleft()
        pod = self._view.pods.get(key)
        if pod is None:
            return True
        if pod.metadata.deletion_timestamp:
            self._server.delete(kinds.POD, key.namespace, key.name, DeleteOptions(grace=0))
        elif not pod.status.pod_ip:
            self._addresses += 1
            address = f"10.200.{self._addresses // 250}.{self._addresses % 250 + 1}"
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            ready = {"type": "Ready", "status": "True", "lastTransitionTime": now}
            status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [ready]}
            body: dict[str, Any] = {"status": status}
            self._server.patch(
                kinds.POD, key.namespace, key.name, body, "application/merge-patch+json", subresource="status"
            )
        return True


async def settle(plane: ControlPlane, kubelets: Kubelets) -> float:
    """Seconds until nobody has anything to do."""
    start = time.perf_counter()
    while not plane.idle() or kubelets.step():
        kubelets.step()
        await asyncio.sleep(0)
    return time.perf_counter() - start


def objects(server: ApiServer) -> None:
    """Deployments with a Service each."""
    for index in range(SERVICES):
        name = f"app-{index:03}"
        labels = {"app": name}
        containers = [{"name": "main", "image": "nginx", "ports": [{"containerPort": 80}]}]
        template = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
        spec = {"replicas": PODS_EACH, "selector": {"matchLabels": labels}, "template": template}
        server.create(kinds.DEPLOYMENT, "default", {"metadata": {"name": name}, "spec": spec})
        ports = {"selector": labels, "ports": [{"port": 80}]}
        server.create(kinds.SERVICE, "default", {"metadata": {"name": name}, "spec": ports})


async def run() -> None:
    server = ApiServer(
        Store(":memory:"), now=lambda: datetime.now(UTC), random=random.Random(1), service_cidr="10.32.0.0/16"
    )
    view = View()
    feed(server, view)
    plane = ControlPlane(view, LocalApi(server), cluster_cidr="10.200.0.0/16", now=lambda: datetime.now(UTC))
    kubelets = Kubelets(server, view)
    task = asyncio.ensure_future(plane.run())
    for index in range(NODES):
        name = f"node-{index:03}"
        server.create(kinds.NODE, "", {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        server.patch(kinds.NODE, "", name, ready, "application/merge-patch+json", subresource="status")
    print(f"{NODES} nodes registered: {await settle(plane, kubelets):.2f} s")
    start = time.perf_counter()
    objects(server)
    print(f"{SERVICES} deployments, {SERVICES} services created: {time.perf_counter() - start:.2f} s")
    print(f"{SERVICES * PODS_EACH} pods ready, endpoints complete: {await settle(plane, kubelets):.2f} s")
    assert sum(pod.ready() for pod in view.pods.values()) == SERVICES * PODS_EACH
    assert sum(len(found.endpoints) for found in view.endpoint_slices.values()) == SERVICES * PODS_EACH
    start = time.perf_counter()
    server.patch(kinds.DEPLOYMENT, "default", "app-007", {"spec": {"replicas": 12}}, "application/merge-patch+json")
    print(f"one deployment scaled by ten: {await settle(plane, kubelets) * 1000:.0f} ms")
    for index in range(SERVICES):
        server.delete(kinds.DEPLOYMENT, "default", f"app-{index:03}", DeleteOptions(propagation="Background"))
    print(f"all deployments deleted: {await settle(plane, kubelets):.2f} s")
    assert not view.pods
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def main() -> None:
    """Print the times."""
    asyncio.run(run())


if __name__ == "__main__":
    main()
