"""What the agent says of itself: /healthz, /livez, /readyz. Which of them fails when is told in docs/design/node-agent.md."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from glassnet.agent.node.cni import CniPart
from glassnet.agent.proxy.part import ProxyPart
from glassnet.agent.proxy.servers import Handler
from glassnet.client.watches import Standing

_HEADERS = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}


class RoutesState(Protocol):
    """What health asks of a node's routes."""

    problems: dict[str, str]

    @property
    def routes(self) -> int: ...


class BalancerState(Protocol):
    """What health asks of a node's load balancer."""

    @property
    def problems(self) -> list[str]: ...

    @property
    def announced(self) -> list[str]: ...


class AgentHealth:
    """The state of each part that is switched on. `programmed` says of a part whether it has done its work once."""

    def __init__(
        self,
        standing: Callable[[], list[Standing]],
        cni: CniPart | None,
        proxy: ProxyPart | None,
        routes: RoutesState | None,
        programmed: Callable[[], dict[str, bool]],
        balancer: BalancerState | None = None,
    ) -> None:
        self._standing, self._cni, self._proxy, self._routes = standing, cni, proxy, routes
        self._programmed, self._balancer = programmed, balancer

    def parts(self) -> dict[str, Any]:
        """Each part in detail."""
        done = self._programmed()
        found: dict[str, Any] = {"api": self._api()}
        if self._cni is not None:
            found["cni"] = {"ready": done["cni"], **self._cni.state()}
        if self._proxy is not None:
            found["proxy"] = {"ready": done["proxy"], "mode": self._proxy.mode, **json.loads(self._proxy.health.livez(time.time())[1])}  # fmt: skip
        if self._routes is not None:
            found["routes"] = {
                "ready": done["routes"],
                "routes": self._routes.routes,
                "problems": dict(self._routes.problems),
            }
        if self._balancer is not None:
            found["loadBalancer"] = {"ready": done["loadBalancer"], "announced": self._balancer.announced, "problems": self._balancer.problems}  # fmt: skip
        return found

    def _api(self) -> dict[str, Any]:
        now, kinds = time.monotonic(), {}
        standing = self._standing()
        for each in standing:
            told: dict[str, Any] = {"synced": each.synced, "restarts": each.restarts, "relists": each.relists}
            told["lastContactSeconds"] = round(now - each.last_contact, 1) if each.last_contact else None
            kinds[each.kind.plural] = {**told, **({"error": each.error} if each.error else {})}
        forbidden = sorted(each.kind.resource for each in standing if each.forbidden)
        contacts = [each.last_contact for each in standing if each.last_contact]
        return {
            "answering": any(each.last_contact and not each.error for each in standing),
            "lastContactSeconds": round(now - max(contacts), 1) if contacts else None,
            "forbidden": forbidden,
            "kinds": kinds,
        }

    def healthz(self) -> tuple[int, dict[str, Any]]:
        """As kube-proxy answers on its port when there is a proxy: is this node to get traffic? Without one: 200."""
        if self._proxy is None:
            return 200, {"healthy": True}
        status, body = self._proxy.health.healthz(time.time())
        return status, json.loads(body)

    def alive(self) -> bool:
        """Whether to start the process anew would help: False only when it is stuck."""
        return self._proxy is None or not self._proxy.stuck(time.time())

    def livez(self) -> tuple[int, dict[str, Any]]:
        """503 when the process is stuck. (An event loop that stands still answers nobody, which probes take for the same.)"""
        good = self.alive()
        return (200 if good else 503), {"alive": good}

    def readyz(self) -> tuple[int, dict[str, Any]]:
        """503 until every part has been programmed once; never again after that."""
        done = self._programmed()
        return (200 if all(done.values()) else 503), {"ready": all(done.values()), "parts": done}


def health_handler(health: AgentHealth, counted: Callable[[str, int], None]) -> Handler:
    """/healthz, /livez, /readyz; with ?verbose each part in detail. `counted` hears each answer of the first two."""
    paths: Mapping[str, Callable[[], tuple[int, dict[str, Any]]]] = {
        "/healthz": health.healthz,
        "/livez": health.livez,
        "/readyz": health.readyz,
    }

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path not in paths:
            return web.Response(status=404, text="404 page not found\n")
        status, body = paths[request.path]()
        if request.path != "/readyz":
            counted(request.path, status)
        if "verbose" in request.query:
            body = {**body, "parts": health.parts()}
            return web.Response(status=status, headers=_HEADERS, text=json.dumps(body, indent=2) + "\n")
        return web.Response(status=status, headers=_HEADERS, text=json.dumps(body, separators=(",", ":")))

    return answer
