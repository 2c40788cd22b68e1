"""glassnet's agents of a whole lab: Service proxies, the router's routes, names; they know of objects what the API server tells over HTTPS.

What a node's agent reads for itself is read once here for all nodes: one set of watches, one View.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any

from glassnet.agent.changes import Writer
from glassnet.agent.dns.watches import watch_names
from glassnet.agent.events import EventRecorder
from glassnet.agent.proxy.loop import ProxySettings
from glassnet.agent.proxy.watches import watch_services
from glassnet.agent.routes.vpc import RouteLoop
from glassnet.client.rest import RestApi
from glassnet.client.watches import Watches
from glassnet.kernel.api import Machine, NetNs
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key, View
from glassnet.lab.addons.names import Names
from glassnet.lab.proxies import Proxies
from glassnet.lab.topology import MAIN_TABLE
from glassnet.net.errors import LabError
from glassnet.proxy.compute import HEADLESS, PROXY_NAME

PATIENCE = 30.0  # seconds until the first complete lists must be there
ROUTER_LINK = "eth0"
NONE = "none"  # in place of a proxy mode


class Agents:
    """`workers` get a proxy each, if `proxy`; the machine behind `router`, if there is one, routes to their pods, in its `table`. `run` takes
    loops that go on until the lab ends."""

    def __init__(
        self,
        api: RestApi,
        workers: Mapping[str, Machine],
        router: NetNs | None,
        settings: ProxySettings,
        *,
        proxy: bool = True,
        names: bool = True,
        table: int = MAIN_TABLE,
        run: Callable[[Coroutine[Any, Any, None]], None],
        now: Callable[[], datetime],
    ) -> None:
        self._workers, self._router, self._settings, self._run = workers, router, settings, run
        self._table = table
        self._wanted = proxy
        self.view = View()
        self._events = EventRecorder(Writer(api, now))
        self._watches = Watches(api, self.view)
        watch_services(self._watches)
        self._proxies: Proxies | None = None
        self._named: Watches | None = None
        self.names: Names | None = None
        if names:
            shown = View()  # of namespaces and headless Services, which proxies know nothing of
            self._named = Watches(api, shown)
            watch_names(self._named)
            self.names = Names(shown, self._named.synced, self._events)

    async def start(self) -> None:
        """Read; proxies and routes start once all there is to know is known. Raises LabError when the API server does not give its lists."""
        self._run(self._watches.run())
        if self._named is not None:
            self._run(self._named.run())
        try:
            await asyncio.wait_for(self._watches.synced(), PATIENCE)
        except TimeoutError:
            missing = [watch for watch in self._watches.standing() if not watch.synced]
            why = "; ".join(f"{watch.kind.resource}: {watch.error or 'no answer'}" for watch in missing)
            raise LabError(f"the lab's agents got no complete lists of its API server: {why}") from None
        self._run(self._events.run())
        if self._router is not None:
            self._run(RouteLoop(self.view, self._router, ROUTER_LINK, self._table).run())
        self._proxies = Proxies(self.view, self._workers, self._settings, self._events)
        if self._wanted:
            await self._proxies.start()
        self._run(self._proxies.run())

    async def switch(self, mode: str, layout: str = "") -> float:
        """Have every node's proxy in another mode and layout of iptables chains ("": the one it has), or ("none") end them and leave their rules; the seconds it took. Raises LabError."""
        if self._proxies is None:
            raise LabError("the lab is only coming up; try again when it is up")
        if mode == NONE:
            return await self._proxies.end()
        return await self._proxies.switch(mode, layout)

    # -- how far they are

    def follows(self, view: View) -> bool:
        """True when what the server's own View has for proxies has come here too."""
        return all(
            _versions(self.view, kind) == _versions(view, kind) for kind in (kinds.SERVICE, kinds.ENDPOINT_SLICE)
        )

    def settled(self) -> bool:
        """True when the kernel of every node has what has come here."""
        return self._proxies is not None and self._proxies.settled()

    def standing(self) -> list[dict[str, Any]]:
        """How each watch stands, for `glassnet status`: seconds since the server last spoke, lists and restarts so far, what is wrong."""
        now = time.monotonic()
        return [
            {
                "resource": watch.kind.resource,
                "synced": watch.synced,
                "silent_s": round(now - watch.last_contact, 1),
                "relists": watch.relists,
                "restarts": watch.restarts,
                "error": watch.error,
            }
            for watch in self._watches.standing()
        ]


def _versions(view: View, kind: Kind) -> dict[Key, str]:
    """Which objects of a kind concern proxies, each with its resourceVersion."""
    return {
        Key(obj.metadata.namespace, obj.metadata.name): obj.metadata.resource_version
        for obj in view.all(kind)
        if _concerns(kind, obj)
    }


def _concerns(kind: Kind, obj: Any) -> bool:
    """What `agent.proxy.watches` asks the server for, told of an object that is at hand."""
    if PROXY_NAME in obj.metadata.labels:
        return False
    return obj.spec.cluster_ip != "None" if kind is kinds.SERVICE else HEADLESS not in obj.metadata.labels
