"""The lab's own process: leaves the host behind, builds the machines, runs the API, the controllers and every node's agents."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from glassnet.kernel import libc
from glassnet.kernel.enter import enter_lab_namespaces
from glassnet.lab.cluster import Cluster
from glassnet.lab.profiles.layout import topology as lay_out
from glassnet.lab.profiles.reading import read
from glassnet.lab.settings import Settings, from_json
from glassnet.lab.state import PROFILE, LabDir
from glassnet.net.errors import ApiError, GlassnetError

log = logging.getLogger("glassnet.lab")


class Voice:
    """The pipe to `glassnet up`: one JSON object a line. A listener that has gone is no reason to stop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def say(self, **event: Any) -> None:
        """Tell one event."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.write(self._descriptor, json.dumps(event).encode() + b"\n")

    def fail(self, error: BaseException, **more: Any) -> None:
        """Tell why the lab does not come up."""
        self.say(error=str(error), kind=type(error).__name__, **more)

    def hush(self) -> None:
        """Nothing more to say."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class ManifestError(GlassnetError):
    """The API refused a manifest."""

    def __init__(self, index: int, error: ApiError) -> None:
        super().__init__(str(error))
        self.index = index
        causes = error.details.get("causes") or []
        named = re.search(r'unknown field "([^"]+)"|Go struct field \w+\.(\S+) of type', str(error))
        self.field = str(causes[0].get("field", "")) if causes else (named[1] or named[2]) if named else ""


def main() -> None:
    """`python -m glassnet.lab.daemon DIRECTORY LOCK-FD LISTENER-FD VOICE-FD`, started by `lab.start`."""
    lab, listener, voice = LabDir(Path(sys.argv[1])), socket.socket(fileno=int(sys.argv[3])), Voice(int(sys.argv[4]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    port = listener.getsockname()[1]
    try:
        settings = from_json((lab.path / "settings.json").read_text())
        topology = lay_out(settings, read((lab.path / PROFILE).read_text(), str(lab.path / PROFILE)))
        voice.say(name="namespaces", step="making namespaces")
        rootless = os.geteuid() != 0

        def started(pid: int) -> None:
            lab.write("process.json", json.dumps({"pid": pid, "api_port": port, "machines": {}}))

        enter_lab_namespaces(rootless, started)
        place = lab.path / "machines"
        place.mkdir(exist_ok=True)
        libc.mount("tmpfs", str(place), "tmpfs", libc.MS_NOSUID | libc.MS_NODEV, "mode=755")
        _forget_proxies()
        asyncio.run(_run(lab, settings, Cluster(lab, settings, topology, place, rootless, listener), voice))
    except ManifestError as error:
        voice.fail(error, manifest=error.index, field=error.field)
        _leave(1)
    except GlassnetError as error:
        log.error("%s", error)
        voice.fail(error)
        _leave(1)
    except OSError as error:
        log.error("%s", error)
        voice.fail(GlassnetError(f"{lab.path}: {error.strerror}; GLASSNET_STATE names another place for labs"))
        _leave(1)
    except Exception as error:
        traceback.print_exc()
        voice.fail(error)
        _leave(1)
    _leave(0)


def _forget_proxies() -> None:
    """HTTP proxies of the host's environment: none of them can be reached from a lab's namespaces, and its agents talk HTTP."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)


def _leave(status: int) -> NoReturn:
    """End at once: the kernel takes down whatever is left in the lab's PID namespace."""
    sys.stderr.flush()
    os._exit(status)


async def _run(lab: LabDir, settings: Settings, cluster: Cluster, voice: Voice) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    coming_up = asyncio.create_task(_bring_up(lab, cluster, voice))
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([coming_up, stopping], return_when=asyncio.FIRST_COMPLETED)
    if coming_up in done:
        coming_up.result()  # raises what went wrong
        voice.hush()
        broken = asyncio.create_task(cluster.broken())
        done, _ = await asyncio.wait([stopping, broken], return_when=asyncio.FIRST_COMPLETED)
        if broken in done:
            broken.result()


async def _bring_up(lab: LabDir, cluster: Cluster, voice: Voice) -> None:
    voice.say(name="machines", step="building machines")
    await cluster.build()
    process = json.loads((lab.path / "process.json").read_text())
    lab.write("process.json", json.dumps({**process, "machines": cluster.machines()}))
    voice.say(name="api", step="starting the API, controllers and agents")
    await cluster.serve()
    manifests = json.loads((lab.path / "manifests.json").read_text())
    for index, body in enumerate(manifests):
        try:
            await cluster.apply(body)
        except ApiError as error:
            raise ManifestError(index, error) from None
    while waiting := cluster.waiting():
        ready, total = cluster.ready()
        voice.say(name="pods", step=f"{ready} of {total} pods are Ready; waiting for {waiting[0]}")
        await cluster.changed(1.0)
    await cluster.settled()
    voice.say(name="up", up=cluster.summary())


if __name__ == "__main__":
    main()
