"""What of a server's word is believed, and when. Servers restart empty, come back from a backup, or lag behind others: a node must not lose
its rules for that. Pure.

Source: Kubernetes documentation, "API Concepts", section resource versions; KEP-5504 (resourceVersions can be compared as numbers).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key
from glassnet.net.errors import GlassnetError

_MANY = 10  # objects: fewer may well go between two lists


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an informer waits for what, in seconds.

    `first` and `longest` bound the pauses between tries, `refused` those while a kind is forbidden or not served. `silence` is the time without
    a word, bookmarks included (about one a minute), after which a connection counts as dead. `check` is when, after a watch broke, the server is
    asked whether it has come as far as was seen. `again` is the pause before another list of a server
    that is behind. An empty or drastically shrunken list is believed when a second one says the same after `shrunk`; a state older than what was
    seen when it has lasted for `older`; what is gone in a state that is both, after `lost`.
    """

    first: float = 0.5
    longest: float = 30.0
    refused: float = 60.0
    silence: float = 100.0
    check: float = 5.0
    again: float = 5.0
    shrunk: float = 30.0
    older: float = 60.0
    lost: float = 600.0


PATIENCE = Patience()


class NotBelieved(GlassnetError):
    """A server says what would take much away, or back: it is not believed yet. The text says what, and when it will be."""


class Unreadable(GlassnetError):
    """One object cannot be read; what was known of it stays."""


@dataclass(slots=True)
class Doubt:
    """Objects that a list did not have, and the moment (monotonic clock) at which another list may say the same.

    `restored` says that the list was of a state older than theirs, so that their resourceVersions compare with nothing.
    """

    until: float
    restored: bool = False
    keys: set[Key] = field(default_factory=set)


def older(version: str, than: str) -> bool:
    """Whether a resourceVersion is certainly older than another: both are numbers, and it is less."""
    return bool(version and than) and version.isdigit() and than.isdigit() and int(version) < int(than)


def newest(one: str, other: str) -> str:
    """The newer of two resourceVersions; the second where that cannot be told."""
    return one if older(other, one) else other


def drastic(missing: int, held: int) -> bool:
    """Whether a list has lost so much that it looks like a server's loss: all there was, or more than half of many."""
    return missing > 0 and (missing == held or (missing >= _MANY and missing * 2 > held))


def shrunken(kind: Kind, missing: int, held: int, seconds: float) -> NotBelieved:
    """What is said of a drastically shrunken list."""
    return NotBelieved(f"the list of {kind.resource} lacks {missing} of the {held} that were known: they stay until another list says the same in {seconds:.3g} s")  # fmt: skip


def empty(kind: Kind, seconds: float) -> NotBelieved:
    """What is said of a first list without anything, of a kind that no cluster is without."""
    return NotBelieved(f"the list of {kind.resource} is empty, which it is in no cluster: did the server lose its data? It is believed if that lasts for another {seconds:.3g} s")  # fmt: skip


def behind(kind: Kind, version: str, seen: str, seconds: float) -> NotBelieved:
    """What is said of a server whose state is older than what was seen."""
    what = f"resourceVersion {version}" if version else "a resourceVersion"
    return NotBelieved(f"{kind.resource}: the server is at {what} older than {seen}, which was seen before: stale, or restored from a backup; nothing is taken back unless that lasts for another {max(0.0, seconds):.3g} s")  # fmt: skip
