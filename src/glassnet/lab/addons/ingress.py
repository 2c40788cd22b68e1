"""`glassnet ingress serve` in a lab's own process: NGINX in the pod, what keeps its configuration here, as the pod's service account."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from glassnet.agent.changes import Writer
from glassnet.agent.events import EventRecorder
from glassnet.agent.ingress.part import IngressPart, Publishing, Tuning
from glassnet.agent.ingress.watches import NamedContents, watch_ingresses
from glassnet.agent.placement import Place
from glassnet.agent.proxy.servers import Listening
from glassnet.agent.single import until_told
from glassnet.client import kubeconfig
from glassnet.client.rest import RestApi
from glassnet.client.watches import Watches
from glassnet.ingress.model import Settings
from glassnet.kernel.api import Machine
from glassnet.kube.view import Key, View
from glassnet.lab.pods.flags import Flags, Value, parse_flags
from glassnet.lab.pods.surroundings import Surroundings
from glassnet.net.errors import LabError
from glassnet.proxy.config import host_port

DIRECTORY = "run/glassnet/ingress"  # of a node; a directory in it for each pod
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_FLAGS: dict[str, Value] = {
    "controller": (), "ingress-class": "nginx", "watch-without-class": False, "default-certificate": "", "publish-service": "",
    "resolver": (), "trust": (), "proxy-protocol": False, "workers": 1, "reload-interval": 300, "bind-address": "0.0.0.0:10254", "shutdown-delay": 0,
}  # fmt: skip


class Ingresses:
    """Runs the controllers of a lab's pods. `port` is the API server's on the loopback of the lab's own namespace."""

    def __init__(self, port: int, now: Callable[[], datetime]) -> None:
        self._port, self._now = port, now

    async def serve(self, machine: Machine, place: Surroundings, args: Sequence[str]) -> None:
        """`glassnet ingress serve` in a pod on a node, until cancelled. Raises GlassnetError."""
        flags = _flags(args)
        api, view = RestApi(self._access(place)), View()
        events, watches, contents = EventRecorder(Writer(api, self._now)), Watches(api, view), NamedContents(api, view)
        watch_ingresses(watches, contents)
        inside = f"{DIRECTORY}/{place.pod.uid}-{place.container}"
        outside = Path(machine.root) / inside
        namespace, _, name = flags.word("publish-service").partition("/")
        part = IngressPart(
            view, place.sandbox, Place("/" + inside, outside), _settings(flags), watches.synced,
            contents=contents, publishing=Publishing(api, Key(namespace, name)) if name else None, report=events,
            tuning=Tuning(flags.number("reload-interval") / 1000, log=partial(_told, place)),
        )  # fmt: skip
        listening = Listening(place.sandbox.netns, part.answer)
        tasks = [asyncio.create_task(work) for work in (events.run(), watches.run(), _say(part, place))]
        try:
            await listening.open(*host_port(flags.word("bind-address")))
            await until_told(part, flags.number("shutdown-delay"))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await listening.close()
            await api.close()
            shutil.rmtree(outside, ignore_errors=True)

    def _access(self, place: Surroundings) -> kubeconfig.Access:
        account = place.file(ACCOUNT)
        if account is None:
            raise LabError("the pod has no token of a service account (automountServiceAccountToken)")
        return kubeconfig.in_cluster(
            account, {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self._port)}
        )


def _flags(args: Sequence[str]) -> Flags:
    try:
        return parse_flags(args, _FLAGS)
    except ValueError as error:
        raise LabError(
            f"glassnet ingress serve: {error}; in the lab's own process it has --{', --'.join(_FLAGS)}"
        ) from None


def _settings(flags: Flags) -> Settings:
    base = Settings()
    return base._replace(
        controllers=flags.many("controller") or base.controllers,
        class_name=flags.word("ingress-class"),
        watch_without_class=flags.on("watch-without-class"),
        default_certificate=flags.word("default-certificate"),
        resolvers=flags.many("resolver"),
        trusted=flags.many("trust"),
        proxy_protocol=flags.on("proxy-protocol"),
        workers=flags.number("workers"),
    )


def _told(place: Surroundings, lines: bytes) -> None:
    """Lines of the access log into the container's."""
    for line in lines.decode(errors="replace").splitlines():
        place.log(line)


async def _say(part: IngressPart, place: Surroundings) -> None:
    """In the container's log: from when on it serves."""
    await part.loop.first_sync.wait()
    place.log(f"serving: generation {part.nginx.generation}, {len(part.loop.served)} Ingresses", 2)
