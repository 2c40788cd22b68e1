"""Rules that are to come back when somebody flushes them, on a node's disk: one small file for each, in /run, as rules themselves live until a boot.

Written by whoever carries out an ADD, the agent or a process of its own, and removed at DEL or GC; `agent.cni.rule_keeper` puts back what is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator

from glassnet.agent.cni.whole_files import replace
from glassnet.cni import nat_table
from glassnet.cni.effects import Nft, NftMark, Restore
from glassnet.cni.kept import PLACE, file_name
from glassnet.kernel.api import Node
from glassnet.net.errors import GlassnetError
from glassnet.net.values import Value


class Kept(Value):
    """What was added: lines of the nat table of a family (4, 6), or an nftables script. `netns` is the number of the namespace they are in."""

    netns: int
    family: int = 0
    shared: str = ""
    lines: str = ""
    script: str = ""
    marks: tuple[NftMark, ...] = ()
    written: float = 0.0  # seconds since 1970

    def chains(self) -> set[str]:
        """The chains that it fills or leads to."""
        names = {name for text in (self.shared, self.lines) for name in nat_table.own_chains(text)}
        return names | {mark.table for mark in self.marks}


class KeptRules:
    """The files of one machine, those of its network namespace."""

    def __init__(self, node: Node) -> None:
        self._place, self._node = node.root / PLACE.lstrip("/"), node

    @property
    def _netns(self) -> int:
        return self._node.netns.inode

    def after(self, effect: Restore | Nft) -> bool:
        """Keep what an effect has added. Whether it did add what is to be kept. Raises GlassnetError."""
        if not effect.keep:
            return False
        if isinstance(effect, Nft):
            kept = Kept(self._netns, script=effect.script, marks=effect.marks)
        else:
            lines = nat_table.adding(effect.lines)
            kept = Kept(self._netns, effect.family, effect.shared, lines)
        if not _adds(effect):
            return False
        path = self._place / file_name(effect.keep)
        try:
            replace(path, _written(kept))
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return self.after(effect)
        except OSError as error:
            raise GlassnetError(f"{path}: {error.strerror}") from None
        return True

    def before(self, effect: Restore | Nft) -> None:
        """Forget what an effect is going to take away: first, so that nobody puts it back."""
        if _adds(effect):
            return
        if effect.keep:
            self.remove(file_name(effect.keep))
        elif isinstance(effect, Restore) and (gone := nat_table.deleted_chains(effect.lines)):
            self._forget(effect.family, gone)

    def _forget(self, family: int, chains: Iterable[str]) -> None:
        """Forget what fills chains that go."""
        gone = set(chains)
        for name, kept in self.all().items():
            if kept.family == family and gone & set(nat_table.own_chains(kept.lines)):
                self.remove(name)

    def remove(self, name: str) -> None:
        """Remove one file; an absent one is fine."""
        with contextlib.suppress(OSError):
            (self._place / name).unlink()

    def all(self) -> dict[str, Kept]:
        """What is kept, by file; other namespaces' and half files of a crash are passed over."""
        found = {}
        for name in self._names():
            with contextlib.suppress(OSError, ValueError, TypeError):
                path = self._place / name
                kept = _read(path.read_text(), path.stat().st_mtime)
                if kept.netns == self._netns:
                    found[name] = kept
        return found

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._place) if not name.startswith("."))
        except OSError:
            return []

    @contextlib.contextmanager
    def lock(self, wait: bool = True) -> Iterator[bool]:
        """Nobody else changes rules in more than one step meanwhile. Without `wait` it may be in vain: then False. Raises GlassnetError."""
        path = self._place.with_name("rules.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise GlassnetError(f"{path}: {error.strerror}") from None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(fd)


def _written(kept: Kept) -> str:
    return json.dumps({name: getattr(kept, name) for name in ("netns", "family", "shared", "lines", "script", "marks")})


def _read(text: str, written: float) -> Kept:
    """Raises ValueError or TypeError for what is none."""
    body = json.loads(text)
    marks = tuple(NftMark(*mark) for mark in body.pop("marks", ()))
    return Kept(**{**body, "marks": marks, "written": written})


def _adds(effect: Restore | Nft) -> bool:
    if isinstance(effect, Nft):
        return bool(effect.marks)
    return any(line.startswith("-A ") for line in effect.lines.splitlines())
