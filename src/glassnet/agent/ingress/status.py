"""Where Ingresses say that they are served: status.loadBalancer.ingress, written by one of all replicas.

Source: Kubernetes documentation, "Ingress" (status); networking.k8s.io/v1 IngressLoadBalancerIngress.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from glassnet.kube import kinds
from glassnet.kube.api import Api
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Event, Key, View
from glassnet.net.errors import ApiError, GlassnetError

log = logging.getLogger(__name__)
QUIET, AGAIN = 0.05, 5.0  # seconds to wait for more of the same; until a write that failed is tried anew
_AT_ONCE = 16  # writes under way
Place = dict[str, str]  # {"ip": …} or {"hostname": …}


def places_of(service: Any) -> list[Place]:
    """Where a Service is reached from outside: what its load balancer says; without one its external addresses, then its own."""
    if service is None:
        return []
    spec = service.spec
    if spec.type == "ExternalName":
        return [{"hostname": spec.external_name}] if spec.external_name else []
    told = [{"ip": each.ip} if each.ip else {"hostname": each.hostname} for each in service.status.load_balancer.ingress if each.ip or each.hostname]  # fmt: skip
    outside = [{"ip": each} for each in spec.external_ips]
    if spec.type == "LoadBalancer":
        return told + [each for each in outside if each not in told]
    own = [{"ip": each} for each in spec.cluster_ips or (spec.cluster_ip,) if each not in ("", "None")]
    return outside or own


class Publisher:
    """Keeps the status of the Ingresses that are ours. `service` is the Service in front of us, `addresses` are said beside what it has.

    `ours` tells which Ingresses are served here. The status of others is not touched; that of one that was ours, while this process knew it, is
    cleared if it still says what we said.
    """

    def __init__(
        self, view: View, api: Api, ours: Callable[[], Iterable[Key]], *, service: Key | None = None, addresses: Iterable[Place] = (), may_write: Callable[[], bool] = lambda: True
    ) -> None:  # fmt: skip
        self._view, self._api, self._ours, self._service, self._addresses = view, api, ours, service, list(addresses)
        self._may_write = may_write
        self._was_ours: dict[Key, list[Place]] = {}  # what they said when we last had a say
        self._wake = asyncio.Event()
        self.written = self.failed = 0

    def places(self) -> list[Place]:
        """What the status of each Ingress is to say."""
        of_service = places_of(self._view.get(kinds.SERVICE, self._service)) if self._service is not None else []
        return of_service + [each for each in self._addresses if each not in of_service]

    def look(self) -> None:
        """Something may have changed."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. To be run by one replica at a time."""
        self._wake.set()
        forget = self._view.subscribe(self._event, replay=False)
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(QUIET)
                self._wake.clear()
                if not await self._round():
                    asyncio.get_running_loop().call_later(AGAIN, self._wake.set)
        finally:
            forget()

    def _event(self, event: Event) -> None:
        if event.kind is kinds.INGRESS or (event.kind is kinds.SERVICE and event.key == self._service):
            self._wake.set()

    async def _round(self) -> bool:
        """Write what differs; whether all was written."""
        wanted, ours = self.places(), set(self._ours())
        work: list[tuple[Key, list[Place]]] = []
        for key in ours:
            ingress = self._view.get(kinds.INGRESS, key)
            if ingress is None:
                continue
            if _said(ingress) != wanted:
                work.append((key, wanted))
            self._was_ours[key] = wanted
        for key in self._was_ours.keys() - ours:
            said = self._was_ours.pop(key)
            ingress = self._view.get(kinds.INGRESS, key)
            if ingress is not None and said and _said(ingress) == said:
                work.append((key, []))
        gate = asyncio.Semaphore(_AT_ONCE)
        results = await asyncio.gather(*(self._write(gate, key, places) for key, places in sorted(work)))
        return all(results)

    async def _write(self, gate: asyncio.Semaphore, key: Key, places: list[Place]) -> bool:
        async with gate:
            if not self._may_write():
                return False
            kind: Kind = kinds.INGRESS
            try:
                await self._api.patch(
                    kind, key.namespace, key.name, {"status": {"loadBalancer": {"ingress": places or None}}}, "status"
                )
            except GlassnetError as error:
                if isinstance(error, ApiError) and error.status == 404:
                    return True  # it has gone
                self.failed += 1
                log.warning(
                    "status of ingress %s could not be written: %s", key, error, extra={"object": f"Ingress/{key}"}
                )
                return False
            self.written += 1
            return True


def _said(ingress: Any) -> list[Place]:
    return [
        {"ip": each.ip} if each.ip else {"hostname": each.hostname} for each in ingress.status.load_balancer.ingress
    ]
