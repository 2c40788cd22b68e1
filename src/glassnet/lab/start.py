"""Starting a lab: everything `glassnet up` does before, and beside, the lab's own process."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from glassnet.kernel.spawn import PATH
from glassnet.kube.manifest import Manifest, parse
from glassnet.lab.profiles import catalog
from glassnet.lab.profiles.layout import topology
from glassnet.lab.profiles.ranges import settle
from glassnet.lab.profiles.reading import read
from glassnet.lab.settings import Settings
from glassnet.lab.state import PROFILE, LabDir, end, lab_dir
from glassnet.net.errors import GlassnetError, LabError, ParseError, PreflightError, UsageError

_INVALID = re.compile(
    r'^\S+ "[^"]*" is invalid: |^\S+ in version .*? strict decoding error: '
)  # the error names the object already
NEEDED = {
    "mount": "mount",
    "unshare": "util-linux",
    "setsid": "util-linux",
    "iptables-restore": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
}
SUFFIXES = (".yaml", ".yml", ".json")


def read_manifests(places: Sequence[str]) -> list[Manifest]:
    """Read manifests from files, directories (their .yaml, .yml, .json files by name, as kubectl does) and "-" (standard input).

    Raises ParseError with file and line, UsageError for a place that cannot be read.
    """
    out: list[Manifest] = []
    for place in places:
        if place == "-":
            out += parse(sys.stdin.read(), "standard input")
            continue
        path = Path(place)
        files = sorted(f for f in path.iterdir() if f.suffix in SUFFIXES) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"-f {place}: the directory holds no {', '.join(SUFFIXES)} file")
        for file in files:
            try:
                out += parse(file.read_text(), str(file))
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"-f {file}: {getattr(error, 'strerror', None) or error}") from None
    return out


def listen(port: int) -> socket.socket:
    """The API's listening socket on the host's loopback; port 0 lets the kernel choose. Raises UsageError when it is taken."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
        sock.listen(512)
    except OSError as error:
        sock.close()
        raise UsageError(
            f"--api-port {port}: 127.0.0.1:{port}: {error.strerror}; leave the option out for any free port"
        ) from None
    return sock


def start(settings: Settings, manifests: Sequence[Manifest], api_port: int = 0) -> Iterator[dict[str, Any]]:
    """Start the lab's process and yield what it says, one dict at a time, until the lab is up.

    The last dict has the key "up". A lab of the same settings that was killed is resumed with its objects.
    Raises LabError (running already, died), UsageError, PreflightError, ParseError (a manifest the API refuses).
    """
    text, source = catalog.text_of(settings.profile)
    profile = read(text, source)
    settings = settle(settings, profile)
    topology(settings, profile)  # what cannot be is told before anything is made
    _check_programs(settings)
    lab = lab_dir(settings.name)
    try:
        lock = lab.take_lock()
    except OSError as error:
        raise PreflightError(f"{lab.path}: {error.strerror}; GLASSNET_STATE names another directory for labs") from None
    fresh = _make_fresh(lab, settings, text)
    listener = None
    try:
        listener = listen(api_port)
        lab.write("settings.json", settings.to_json())
        lab.write(PROFILE, text)
        lab.write("manifests.json", json.dumps([m.body for m in manifests]))
        (lab.path / "process.json").unlink(missing_ok=True)
        child, said = _spawn(lab, lock, listener)
    except BaseException as error:
        os.close(lock)
        if fresh:
            end(lab)
        if isinstance(error, OSError):
            raise LabError(f"{lab.path}: {error.strerror}; GLASSNET_STATE names another place for labs") from None
        raise
    finally:
        if listener:
            listener.close()
    os.close(lock)  # the lab's process holds it now
    try:
        yield from _follow(lab, child, said, manifests)
    except BaseException:
        end(lab, keep=not fresh)  # what a killed lab had left stays as it was found
        raise


def _check_programs(settings: Settings) -> None:
    """Raises PreflightError naming every program that a lab itself runs and this machine lacks."""
    needed = NEEDED | ({"knotd": "knot"} if settings.dns == "knot" else {})
    needed |= {"nginx": "nginx"} if "ingress" in settings.addons else {}
    lacking = {name: package for name, package in needed.items() if not shutil.which(name, path=PATH)}
    if lacking:
        packages = " ".join(sorted(set(lacking.values())))
        raise PreflightError(
            f"this machine lacks {', '.join(lacking)}: `apt-get install {packages}`; `glassnet preflight` checks everything"
            + ("; `--dns none` goes without names" if "knotd" in lacking else "")
        )


def _make_fresh(lab: LabDir, settings: Settings, profile: str) -> bool:
    """Decide between resuming and starting anew; True for anew."""
    old = lab.settings()
    if not (old and lab.store.exists()):
        return True
    made_by = lab.path / PROFILE
    if old != json.loads(settings.to_json()) or not made_by.exists() or made_by.read_text() != profile:
        raise LabError(
            f"lab {lab.name!r} was killed and left its objects in {lab.path}, made with other settings or another profile; "
            f"`glassnet down {lab.name}` removes them, the same options as before bring it up again"
        )
    return False


def _spawn(lab: LabDir, lock: int, listener: socket.socket) -> tuple[subprocess.Popen[bytes], int]:
    said, say = os.pipe()
    log = os.open(lab.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "glassnet.lab.daemon", str(lab.path), str(lock), str(listener.fileno()), str(say)],
            pass_fds=(lock, listener.fileno(), say),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(say)
        os.close(log)
    return child, said


def _follow(
    lab: LabDir, child: subprocess.Popen[bytes], said: int, manifests: Sequence[Manifest]
) -> Iterator[dict[str, Any]]:
    with os.fdopen(said) as lines:
        for line in lines:
            event: dict[str, Any] = json.loads(line)
            if "error" in event:
                raise _error(event, manifests)
            yield event
            if "up" in event:
                return
    child.wait()
    tail = "\n  ".join(lab.log.read_text(errors="replace").splitlines()[-8:]) if lab.log.exists() else ""
    raise LabError(f"lab {lab.name!r} died while coming up; the end of its log:\n  {tail}")


def _error(event: dict[str, Any], manifests: Sequence[Manifest]) -> GlassnetError:
    text = str(event["error"])
    if "manifest" in event:
        manifest: Manifest = manifests[event["manifest"]]
        return manifest.error(_INVALID.sub("", text), event.get("field", ""))
    kinds: dict[str, type[GlassnetError]] = {
        "PreflightError": PreflightError,
        "UsageError": UsageError,
        "ParseError": ParseError,
    }
    return kinds.get(event.get("kind", ""), LabError)(text)
