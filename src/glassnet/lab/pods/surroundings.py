"""What a built-in server sees of the pod it serves in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from glassnet.kernel.api import Sandbox
from glassnet.lab.pods.logs import LogRing, nanoseconds

_MAX_LINKS = 40  # path_resolution(7)
DEFAULT_GRACE = 30
"""terminationGracePeriodSeconds of a pod that does not say."""


class PodIdentity(NamedTuple):
    """The few facts of a pod that outlive the API object they came from."""

    namespace: str
    name: str
    uid: str
    node: str
    hostname: str
    host_network: bool = False
    grace: int = DEFAULT_GRACE


class Surroundings:
    """One container's place: whose it is, its log, its namespaces, and the way to end it."""

    __slots__ = ("clock", "container", "end", "image", "log_ring", "mounts", "pod", "sandbox")

    def __init__(
        self,
        pod: PodIdentity,
        container: str,
        image: str,
        sandbox: Sandbox,
        log_ring: LogRing,
        clock: Callable[[], datetime],
        mounts: Mapping[str, Path],
    ) -> None:
        self.pod, self.container, self.image = pod, container, image
        self.sandbox, self.log_ring, self.clock = sandbox, log_ring, clock
        self.mounts = mounts
        self.end: Callable[[int, str], None] = _nowhere

    def log(self, text: str, stream: int = 1) -> None:
        """Write one line to the container's log."""
        line = text.replace("\n", "\\n").encode("utf-8", "replace")[: 4 * 1024]
        self.log_ring.append(nanoseconds(self.clock()), line, stream)

    def file(self, path: str) -> Path | None:
        """Where a path in the pod is on this machine, when it lies in a volume; None otherwise or when it leads out of it."""
        for mounted, source in self.mounts.items():
            inside = path.removeprefix(mounted.rstrip("/"))
            if inside != path and (not inside or inside.startswith("/")):
                return inside_of(source, inside)
        return None


def inside_of(root: Path, path: str) -> Path | None:
    """Follow a path and its symbolic links below `root`; None when they lead out of it, or in circles.

    `root` may lie behind a link of /proc, which Path.resolve would take for what it reads as: so links are followed by hand.
    """
    wanted, found, links = path.split("/")[::-1], list[str](), 0
    while wanted:
        name = wanted.pop()
        if name in ("", "."):
            continue
        if name == "..":
            if not found:
                return None
            found.pop()
            continue
        here = root.joinpath(*found, name)
        if not here.is_symlink():
            found.append(name)
            continue
        target, links = os.readlink(here), links + 1
        if target.startswith("/") or links > _MAX_LINKS:
            return None
        wanted.extend(target.split("/")[::-1])
    return root.joinpath(*found)


def _nowhere(code: int, message: str) -> None:
    """A server that is not started yet ends nothing."""
