"""`glassnet ingress serve`: Ingress as a process of its own, by the API server's watches."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple

from glassnet.agent.ingress.part import IngressPart, Publishing, Tuning
from glassnet.agent.ingress.status import Place as Address
from glassnet.agent.ingress.watches import NamedContents, watch_ingresses
from glassnet.agent.leader import Leader
from glassnet.agent.placement import Place
from glassnet.agent.single import Ground, now, serve
from glassnet.client.kubeconfig import Access
from glassnet.client.rest import RestApi
from glassnet.ingress.model import Settings
from glassnet.kube.view import Key

LEASE = "glassnet-ingress"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Publish(NamedTuple):
    """Whose address the status of Ingresses gets: a Service's, these; nobody's when both are empty. `namespace` is the Lease's, "" for the pod's;
    `elect` is False where there is no other replica."""

    service: Key | None = None
    addresses: tuple[Address, ...] = ()
    namespace: str = ""
    elect: bool = True


class IngressService:
    """`run` until SIGTERM or SIGINT. `directory` is NGINX's own; `bind_address` is where health and metrics are, "" for nowhere; `delay` is for how
    many seconds it goes on serving after SIGTERM, while others learn that it is to end."""

    def __init__(
        self, access: Access, settings: Settings, directory: Path, bind_address: str, *, publish: Publish, tuning: Tuning, delay: float = 0.0
    ) -> None:  # fmt: skip
        self._access, self._settings, self._directory, self._bind = access, settings, directory, bind_address
        self._publish, self._tuning, self._delay = publish, tuning, delay

    async def run(self) -> str:
        """Run; the reason it ended for. Raises GlassnetError for what cannot be started."""
        return await serve(self._access, self._bind, self._part, self._delay)

    def _part(self, ground: Ground) -> IngressPart:
        contents = NamedContents(ground.api, ground.view)
        watch_ingresses(ground.watches, contents)
        return IngressPart(
            ground.view, ground.machine, Place(str(self._directory), self._directory), self._settings, ground.synced,
            contents=contents, publishing=self._publishing(ground.api), report=ground.events, tuning=self._tuning,
        )  # fmt: skip

    def _publishing(self, api: RestApi) -> Publishing | None:
        how = self._publish
        if how.service is None and not how.addresses:
            return None
        namespace = how.namespace or _own_namespace()
        identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{os.urandom(4).hex()}"
        leader = Leader(api, namespace, LEASE, identity, now=now) if how.elect else None
        return Publishing(api, how.service, how.addresses, leader)


def _own_namespace() -> str:
    """The pod's namespace; kube-system where this is no pod."""
    try:
        return os.environ.get("POD_NAMESPACE") or _NAMESPACE_FILE.read_text().strip()
    except OSError:
        return "kube-system"
