"""Where labs live on disk, and which of them run.

One directory per lab under `state_root()`. Its `lock` file is held (flock) by the lab's process for as long as it lives: whether a
lab runs is asked of the kernel, never of a process name or a stale file.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassnet.net.errors import LabError, UsageError

PROFILE = "profile.yaml"  # what the lab was made by
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def state_root() -> Path:
    """Directory of all labs of this user: $GLASSNET_STATE, /var/lib/glassnet for root, $XDG_STATE_HOME/glassnet otherwise."""
    if chosen := os.environ.get("GLASSNET_STATE"):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/glassnet")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(base) / "glassnet"


@dataclass(frozen=True, slots=True)
class LabDir:
    """The files of one lab."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def kubeconfig(self) -> Path:
        return self.path / "kubeconfig"

    @property
    def log(self) -> Path:
        return self.path / "lab.log"

    @property
    def store(self) -> Path:
        return self.path / "store.sqlite"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def control(self) -> Path:
        return self.path / "control.sock"

    def settings(self) -> dict[str, Any]:
        """The settings the lab was made with ({} when there are none)."""
        return _read_json(self.path / "settings.json")

    def process(self) -> dict[str, Any]:
        """What the lab's process says of itself: pid (as the host sees it), api port, machines (name -> pid inside)."""
        return _read_json(self.path / "process.json")

    def write(self, name: str, text: str, mode: int = 0o600) -> None:
        """Write one file of the lab whole, or not at all."""
        target, draft = self.path / name, self.path / f".{name}.new"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
            file.write(text)
        draft.replace(target)

    def take_lock(self) -> int:
        """Make the directory and take its lock. Returns the descriptor that holds it. Raises LabError when the lab runs."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise LabError(
                f"lab {self.name!r} is running already; `glassnet down {self.name}` ends it, `--name OTHER` makes a second one"
            ) from None
        return descriptor

    def running(self) -> bool:
        """True while a process holds the lab's lock."""
        try:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def lab_dir(name: str) -> LabDir:
    """The directory of the lab `name`, made or not. Raises UsageError for a name that cannot be one."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"lab name {name!r}: want 1 to 40 lower-case letters, digits and hyphens, e.g. `--name lab-2`")
    return LabDir(state_root() / name)


def all_labs() -> list[LabDir]:
    """Every lab that has a directory, running or left behind, by name."""
    try:
        return [LabDir(path) for path in sorted(state_root().iterdir()) if (path / "lock").exists()]
    except FileNotFoundError:
        return []


def running_lab(name: str | None) -> LabDir:
    """The lab meant by `name`, or the only one running. Raises LabError when there is none, or more than one to choose from."""
    if name:
        found = lab_dir(name)
        if found.running():
            return found
        raise LabError(f"lab {name!r} is not running; `glassnet up --name {name}` brings it up")
    live = [lab for lab in all_labs() if lab.running()]
    if len(live) == 1:
        return live[0]
    if not live:
        raise LabError("no lab is running; `glassnet up` brings one up")
    raise LabError(
        f"{len(live)} labs are running ({', '.join(lab.name for lab in live)}); choose one with --name or GLASSNET_LAB"
    )


def end(lab: LabDir, patience: float = 0.5, keep: bool = False) -> bool:
    """End a lab's process and (without `keep`) remove its directory; True when there was something to end or to remove.

    The process is the first one of the lab's PID namespace: with it the kernel ends everything inside. SIGTERM first,
    SIGKILL after `patience` seconds. Raises LabError when even that does not free the lock.
    """
    if not lab.path.exists():
        return False
    if lab.running():
        _end_process(lab, patience)
    if not keep:
        shutil.rmtree(lab.path, ignore_errors=True)
    return True


def _end_process(lab: LabDir, patience: float) -> None:
    pid = lab.process().get("pid")
    deadline = time.monotonic() + 5
    while pid is None and time.monotonic() < deadline and lab.running():  # it is only just starting
        time.sleep(0.02)
        pid = lab.process().get("pid")
    if pid is None:
        if lab.running():
            raise LabError(
                f"lab {lab.name!r}: {lab.lock} is held by a process that did not say its number; see {lab.log}"
            )
        return
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not lab.running():  # it ended meanwhile: the number may be somebody else's
            return
        for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
            signal.pidfd_send_signal(handle, number)
            deadline = time.monotonic() + wait
            while lab.running():
                if time.monotonic() > deadline:
                    break
                time.sleep(0.005)
            else:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
    raise LabError(f"lab {lab.name!r}: process {pid} does not end; see {lab.log}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
