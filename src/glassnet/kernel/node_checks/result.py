"""What a check says, and how checks read a machine's files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from glassnet.kernel.api import Host
from glassnet.kernel.sysctl import read_sysctl


class Verdict(StrEnum):
    """ok; warning: works, or may; error: will not work."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Result(NamedTuple):
    """One finding: which check, the verdict, what was found, and the way out ("" when all is well)."""

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""


Check = Callable[[Host], Awaitable[Sequence[Result]]]


def ok(check: str, found: str) -> Result:
    """All is well."""
    return Result(check, Verdict.OK, found)


def warning(check: str, found: str, remedy: str) -> Result:
    """It works, or may."""
    return Result(check, Verdict.WARNING, found, remedy)


def error(check: str, found: str, remedy: str) -> Result:
    """It will not work."""
    return Result(check, Verdict.ERROR, found, remedy)


def net_sysctl(host: Host, name: str) -> str | None:
    """A net.* setting of the machine's network namespace; None when there is no such. Raises KernelError."""
    with host.netns.entered():
        return read_sysctl(name)


def text_of(path: Path) -> str:
    """A file's text, "" when it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def processes(host: Host) -> Iterator[tuple[int, str]]:
    """(pid, program's name) of all processes of the machine, as its /proc numbers them. Names come from argv[0]: comm ends after 15 characters."""
    for place in (host.root / "proc").glob("[0-9]*"):
        argv = text_of(place / "cmdline").split("\0")[0]
        name = argv.rpartition("/")[2] or text_of(place / "comm")
        if name:
            yield int(place.name), name.removesuffix(":").split()[0]


def running(host: Host, *names: str) -> list[str]:
    """`NAME (pid N)` for each process of these names."""
    return [f"{name} (pid {pid})" for pid, name in sorted(processes(host)) if name in names]
