"""Nodes that tell each other many times a second that they live: the messages, and who is alive by them. No clock of its own: time comes in.

A message counts when it bears the right authentication, is newer than the last, and repeats the number that this process gave itself when it
began: so who is heard hears us, and a message that was recorded and sent again later says nothing.
"""

from __future__ import annotations

import hmac
import struct
from typing import NamedTuple

INTERVAL = 0.15
"""Seconds between messages."""
SILENCE = 0.5
"""Seconds without a message after which a node counts as dead."""
PATIENCE = 1.0
"""Seconds after the own start in which nodes that were never heard are waited for."""
PORT = 10270
"""UDP port of the messages."""
_HEAD = struct.Struct("!8sQ8s?BB")  # own number, count, the other's number, leaving, MACs, length of the name
_MAGIC = b"glassnet speaker 1\n"
_SIGNED = 16  # octets of the authentication code that are sent


class LoadBalancerSettings(NamedTuple):
    """`namespace` has the ConfigMap of the pools, unless `file` is given. `links` are those to answer on; none: those with the node's addresses.

    `key` authenticates the nodes' heartbeats, `port` is their UDP port; `bird` is BIRD's program.
    """

    namespace: str = "glassnet-system"
    file: str = ""
    links: tuple[str, ...] = ()
    port: int = PORT
    key: bytes = b""
    bird: str = "/usr/sbin/bird"


class Message(NamedTuple):
    """One message: who sends it, its process's own instance, a number that grows, the instance of whom it is for (zeros while that is not known).

    `leaving`: it is about to end, and others are to take its addresses; `macs` are its links' hardware addresses.
    """

    name: str
    instance: bytes
    number: int
    echo: bytes = bytes(8)
    leaving: bool = False
    macs: tuple[bytes, ...] = ()


def encode(message: Message, key: bytes) -> bytes:
    """A message as it is sent, with a code over it that takes the key to make."""
    name, macs = message.name.encode(), message.macs[:32]
    head = _HEAD.pack(message.instance, message.number, message.echo, message.leaving, len(macs), len(name))
    body = _MAGIC + head + name + b"".join(macs)
    return body + hmac.digest(key, body, "sha256")[:_SIGNED]


def decode(data: bytes, key: bytes) -> Message | None:
    """A message out of a datagram; None for what is none, or was made with another key."""
    body, code = data[:-_SIGNED], data[-_SIGNED:]
    if len(body) < len(_MAGIC) + _HEAD.size or not body.startswith(_MAGIC):
        return None
    if not hmac.compare_digest(code, hmac.digest(key, body, "sha256")[:_SIGNED]):
        return None
    instance, count, echo, leaving, macs, length = _HEAD.unpack_from(body, len(_MAGIC))
    rest = body[len(_MAGIC) + _HEAD.size :]
    if len(rest) != length + 6 * macs:
        return None
    try:
        name = rest[:length].decode()
    except UnicodeDecodeError:
        return None
    found = tuple(rest[at : at + 6] for at in range(length, len(rest), 6))
    return Message(name, instance, count, echo, leaving, found)


class _Peer:
    __slots__ = ("alive", "count", "died", "heard", "instance", "leaving", "left", "macs", "past")

    def __init__(self) -> None:
        self.instance, self.count, self.heard = bytes(8), -1, -1e9
        self.died = (bytes(8), 0.0)  # which process of it fell silent, and when it was heard last
        self.alive = self.leaving = self.left = False
        self.macs: tuple[bytes, ...] = ()
        self.past: tuple[bytes, ...] = ()  # instances that are over


class Taken(NamedTuple):
    """What a datagram said: who sent it ("" for nobody we know), whether who is alive or leaving has changed by it, whom to answer at once
    (an instance; b"" for nobody)."""

    name: str = ""
    changed: bool = False
    answer: bytes = b""


NOTHING = Taken()


class Members:
    """The speakers of a cluster as one of them, `me`, hears them. `instance` is 8 random octets; `now` are seconds of a clock that never goes back."""

    def __init__(self, me: str, instance: bytes, key: bytes, now: float) -> None:
        self.me, self._instance, self._key = me, instance, key
        self._peers: dict[str, _Peer] = {}
        self._count = 0
        self._begun = self._ticked = now
        self.splits: list[tuple[str, float]] = []  # nodes that were silent for so many seconds, and lived all the while
        self.refused = 0  # datagrams that were none of a speaker with our key

    def expect(self, names: set[str]) -> bool:
        """From now on these are the other nodes; whether one that was alive is no longer among them."""
        gone = [name for name in self._peers if name not in names]
        lost = [self._peers.pop(name).alive for name in gone]
        for name in names - self._peers.keys() - {self.me}:
            self._peers[name] = _Peer()
        return any(lost)

    def begin(self, now: float) -> None:
        """From now on others can be heard."""
        self._begun = self._ticked = now

    def message_to(self, name: str, leaving: bool, macs: tuple[bytes, ...], echo: bytes = b"") -> bytes:
        """What to send a node now; `echo` is the instance of one that is not known yet."""
        self._count += 1
        peer = self._peers.get(name)
        known = echo or (peer.instance if peer is not None else bytes(8))
        return encode(Message(self.me, self._instance, self._count, known, leaving, macs), self._key)

    def take(self, data: bytes, now: float) -> Taken:
        """A datagram came in."""
        message = decode(data, self._key)
        if message is None:
            self.refused += 1
            return NOTHING
        peer = self._peers.get(message.name)
        if peer is None or message.instance in peer.past:
            return NOTHING
        fresh = message.instance != peer.instance
        if (
            message.echo != self._instance
        ):  # it does not know us yet: once it does, it has proved that it is not a recording
            return Taken(message.name, False, message.instance if fresh else b"")
        if not fresh and message.number <= peer.count:
            return NOTHING
        if fresh and any(peer.instance):
            peer.past = (*peer.past[-63:], peer.instance)
        peer.instance, peer.count, peer.macs, peer.heard = message.instance, message.number, message.macs, now
        changed = not peer.alive or peer.leaving != message.leaving
        if not peer.alive and peer.died[0] == message.instance:
            self.splits.append((message.name, now - peer.died[1]))
        peer.alive, peer.leaving, peer.left = True, message.leaving, False
        return Taken(message.name, changed, message.instance if fresh else b"")

    def tick(self, now: float) -> set[str]:
        """Call it every INTERVAL, with all datagrams taken; the nodes that have died since the last time.

        Time in which this process itself stood still counts against nobody.
        """
        stood = now - self._ticked - INTERVAL
        self._ticked = now
        died = set()
        for name, peer in self._peers.items():
            if stood > INTERVAL:
                peer.heard = min(now, peer.heard + stood)
            if peer.alive and now - peer.heard > SILENCE:
                peer.left = peer.leaving
                peer.alive = peer.leaving = False
                peer.died = (peer.instance, peer.heard)
                died.add(name)
        return died

    def takes_part(self, name: str, now: float) -> bool:
        """Whether a node is to be counted on: alive and not leaving; never heard, but we have only begun."""
        peer = self._peers.get(name)
        if peer is None:
            return False
        if peer.count < 0 and now - self._begun < PATIENCE:
            return True
        return peer.alive and not peer.leaving

    def silent(self, name: str) -> bool:
        """Whether a node says nothing, though it should: it is dead, or its messages do not come through, or it runs no speaker."""
        peer = self._peers.get(name)
        return peer is not None and not peer.alive

    def dead(self, name: str) -> bool:
        """Whether a node fell silent without having said that it is about to: its connections are lost. Of others only the speaker has ended."""
        peer = self._peers.get(name)
        return peer is not None and peer.count >= 0 and not peer.alive and not peer.left

    def settled(self, now: float) -> bool:
        """Whether all have been heard that are going to be."""
        return now - self._begun >= PATIENCE or all(peer.alive for peer in self._peers.values())

    def whose(self, mac: bytes) -> str:
        """The node whose link has a hardware address; "" for none that was ever heard."""
        return next((name for name, peer in self._peers.items() if mac in peer.macs), "")

    def alive(self) -> list[str]:
        """The nodes that are heard."""
        return [name for name, peer in self._peers.items() if peer.alive]

    def macs(self) -> set[bytes]:
        """The hardware addresses of all that were ever heard."""
        return {mac for peer in self._peers.values() for mac in peer.macs}
