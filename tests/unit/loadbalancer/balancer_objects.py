"""Services for the tests of load balancers, and an API that takes in what is written."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import Any

from glassnet.kube import kinds
from glassnet.kube.change import Patch, Record
from glassnet.kube.types import Service, decode
from glassnet.kube.view import Key
from glassnet.loadbalancer import pools, request, status
from glassnet.loadbalancer.assign import Allocator

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def service(name: str, born: int = 0, *, ports: tuple[int, ...] = (80,), notes: dict[str, str] | None = None, state: Any = None, labels: dict[str, str] | None = None, namespace: str = "demo", **spec: Any) -> Service:  # fmt: skip
    """A Service of type LoadBalancer, `born` seconds after the beginning."""
    body = {
        "metadata": {"name": name, "namespace": namespace, "uid": name, "creationTimestamp": f"2026-01-01T00:{born // 60:02}:{born % 60:02}Z",
                     "annotations": notes or {}, "labels": labels or {}},
        "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "selector": {"app": name}, "ports": [{"port": port} for port in ports], **spec},
        "status": state or {},
    }  # fmt: skip
    made: Service = decode(kinds.SERVICE, json.dumps(body))
    return made


class Cluster:
    """Services, and a controller's work on them; what is written comes back as the API would show it."""

    def __init__(self, text: str, default_class: bool = True) -> None:
        self.pools, self._default = pools.parse(text), default_class
        self.allocator = Allocator(self.pools, default_class)
        self.services: dict[Key, Service] = {}
        self.records: list[Record] = []
        self.patches = 0
        self._queue: dict[Key, None] = {}

    def put(self, *services: Service, work: bool = True) -> None:
        """What users write. A status that was given stays, as a write of the spec leaves it alone."""
        for each in services:
            key = request.key_of(each)
            if (old := self.services.get(key)) is not None:
                each = _with(each, status=old.status)
            self._take(each)
        if work:
            self.work()

    def _take(self, each: Service) -> None:
        key = request.key_of(each)
        self.services[key] = each
        self._queue |= dict.fromkeys([key, *self.allocator.put(each)])

    def remove(self, name: str, work: bool = True) -> None:
        key = Key("demo", name)
        del self.services[key]
        self._queue.pop(key, None)
        self._queue |= dict.fromkeys(self.allocator.remove(key))
        if work:
            self.work()

    def anew(self, text: str = "") -> None:
        """Another controller takes over, maybe with other pools."""
        if text:
            self.pools = pools.parse(text)
        self.allocator = Allocator(self.pools, self._default)
        ordered = sorted(self.services.values(), key=request.age)
        for each in ordered:
            self.allocator.put(each)
        self._queue = dict.fromkeys(map(request.key_of, ordered))
        self.work()

    def work(self, shuffled: random.Random | None = None) -> None:
        """Until there is nothing left to do."""
        for _ in range(10_000):
            if not self._queue:
                return
            key = shuffled.choice(list(self._queue)) if shuffled else next(iter(self._queue))
            del self._queue[key]
            each = self.services[key]
            verdict, others = self.allocator.decide(each)
            self._queue |= dict.fromkeys(others)
            for change in status.changes(each, verdict, NOW):
                if isinstance(change, Record):
                    self.records.append(change)
                elif isinstance(change, Patch):
                    self.patches += 1
                    self._take(_patched(self.services[key], change.body["status"]))
        raise AssertionError("it never ends")

    def ips(self, name: str) -> list[str]:
        """The addresses in a Service's status."""
        return [each.ip for each in self.services[Key("demo", name)].status.load_balancer.ingress]

    def reason(self, name: str) -> str:
        """The reason of our condition."""
        found = request.condition(self.services[Key("demo", name)])
        return found.reason if found is not None else ""

    def said(self, name: str) -> str:
        """The message of our condition."""
        found = request.condition(self.services[Key("demo", name)])
        return found.message if found is not None else ""


def _with(each: Service, **fields: Any) -> Service:
    import msgspec

    return msgspec.structs.replace(each, **fields)


def _patched(each: Service, patch: Any) -> Service:
    """A strategic merge patch of the status, as far as these patches go."""
    import msgspec

    now = msgspec.to_builtins(each.status)
    if "loadBalancer" in patch:
        now["loadBalancer"] = {name: value for name, value in patch["loadBalancer"].items() if value is not None}
    for condition in patch.get("conditions", ()):
        others = [one for one in now.get("conditions", ()) if one["type"] != condition["type"]]
        now["conditions"] = others + ([] if condition.get("$patch") == "delete" else [condition])
    return _with(each, status=msgspec.convert(now, type(each.status)))
