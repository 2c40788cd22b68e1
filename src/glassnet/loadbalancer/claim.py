"""For which addresses one node answers on a link: taking over without two answering, giving up without a time in which nobody does.

A node that takes over from one that is heard simply announces; that one stops when it hears so. Taking over from one that has fallen silent it
asks first, as RFC 5227 has it, for silence may also mean that messages do not come through. No clock of its own: time comes in.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from enum import Enum
from typing import NamedTuple

PROBES, PROBE_GAP, PROBE_WAIT = 2, 0.02, 0.06
"""How often it asks whether somebody has an address, seconds between, seconds after the first until nobody has."""
REPEATS = (0.1, 0.5, 2.0)
"""Seconds after which an announcement is made again: frames get lost, and equipment is slow."""
EVERY = 30.0
"""Seconds between announcements of what is held all the time: by them two that both answer find each other."""
YIELD = 1.0
"""Seconds for which the old owner goes on answering while nothing is heard of the new one."""
AGAIN = 1.0
"""Seconds after which an address that somebody else has is asked for again."""
STRIFE = 3.0
"""Seconds for which a live node may announce what is ours before that is a conflict: facts reach nodes at different times."""

GAP = 1.0
"""Seconds without another announcement after which such a dispute was over."""


class State(Enum):
    """What a node does about an address: asks whether it is free, answers, answers until another does, waits for who has it to go."""

    PROBING = 1
    HOLDING = 2
    YIELDING = 3
    BLOCKED = 4


class Act(NamedTuple):
    """A thing to do now: "probe" or "announce" an address."""

    what: str
    ip: str


class Conflict(NamedTuple):
    """Somebody else answers for an address, too; `mac` is its hardware address, `held` whether we go on answering."""

    ip: str
    mac: bytes
    held: bool


class _Claim:
    __slots__ = ("deadline", "probes", "rival", "rival_last", "rival_since", "state")

    def __init__(self, state: State, deadline: float) -> None:
        self.state, self.deadline, self.probes = state, deadline, 0
        self.rival, self.rival_since, self.rival_last = b"", -1e9, -1e9


class Claims:
    """All addresses of one link. `mac` is its own hardware address: of two that cannot agree the lower one goes on."""

    def __init__(self, mac: bytes) -> None:
        self.mac = mac
        self._claims: dict[str, _Claim] = {}
        self._acts: list[tuple[float, str, str]] = []  # when, what, address
        self.conflicts: dict[str, Conflict] = {}

    def answers(self, ip: str) -> bool:
        """Whether questions for an address are answered."""
        claim = self._claims.get(ip)
        return claim is not None and claim.state in (State.HOLDING, State.YIELDING)

    def state(self, ip: str) -> State | None:
        """What is done about an address."""
        claim = self._claims.get(ip)
        return claim.state if claim is not None else None

    def claimed(self) -> Collection[str]:
        """All addresses that something is done about."""
        return self._claims.keys()

    def held(self) -> list[str]:
        """The addresses that are ours to answer for."""
        return [ip for ip, claim in self._claims.items() if claim.state is State.HOLDING]

    def yielding(self) -> bool:
        """Whether an address still waits for its new owner."""
        return any(claim.state is State.YIELDING for claim in self._claims.values())

    # -- what the election says

    def own(self, ip: str, doubtful: bool, now: float) -> None:
        """This node is to speak for an address. `doubtful`: a node that says nothing might be doing so still."""
        claim = self._claims.get(ip)
        if claim is not None and claim.state is State.YIELDING:
            self._hold(ip, claim, now)
        elif claim is None:
            claim = self._claims[ip] = _Claim(State.PROBING, now)
            if doubtful:
                self._probe(ip, claim, now)
            else:
                self._hold(ip, claim, now)
        elif claim.state is not State.HOLDING and not doubtful:
            self._hold(ip, claim, now)  # who has it is heard again, and will give it up

    def give_up(self, ip: str, now: float, at_once: bool = False) -> None:
        """Another node is to speak for an address, or (`at_once`) nobody is."""
        claim = self._claims.get(ip)
        if claim is None:
            return
        if at_once or claim.state in (State.PROBING, State.BLOCKED):
            self._drop(ip)
        elif claim.state is State.HOLDING:
            claim.state, claim.deadline = State.YIELDING, now + YIELD
            self._at(claim.deadline, "deadline", ip)

    def announce_all(self, now: float) -> None:
        """Tell everybody again: a node that was silent is heard, and the other half of a network may believe something else."""
        for ip in self.held():
            for later in (0.0, *REPEATS[:2]):  # who hears us only now may give the address up a moment later
                self._at(now + later, "announce", ip)

    # -- what is heard

    def heard(self, ip: str, mac: bytes, live: bool, now: float) -> None:
        """Somebody says that `mac` has an address; `live`: a node that is heard, and so decides as we do."""
        claim = self._claims.get(ip)
        if claim is None or mac == self.mac:
            return
        if claim.state is State.YIELDING:
            self._drop(ip)
        elif claim.state in (State.PROBING, State.BLOCKED) and not live:
            self._block(ip, claim, mac, now)
        elif claim.state is State.HOLDING:
            self._dispute(ip, claim, mac, live, now)

    def heard_probe(self, ip: str, mac: bytes, now: float) -> None:
        """Somebody else asks for an address for itself, as we do: the lower hardware address has it."""
        claim = self._claims.get(ip)
        if claim is not None and claim.state is State.PROBING and mac < self.mac:
            self._block(ip, claim, mac, now)

    def _dispute(self, ip: str, claim: _Claim, mac: bytes, live: bool, now: float) -> None:
        if claim.rival != mac or now - claim.rival_last > GAP:
            claim.rival, claim.rival_since = mac, now
        claim.rival_last = now
        if live:
            if now - claim.rival_since > STRIFE:
                self.conflicts[ip] = Conflict(ip, mac, True)
            self._at(now + REPEATS[0], "announce", ip)
        elif mac < self.mac:
            self._block(ip, claim, mac, now)
        else:
            self.conflicts[ip] = Conflict(ip, mac, True)
            self._at(now + REPEATS[0], "announce", ip)  # the other one yields when it hears this

    # -- time

    def due(self, now: float) -> list[Act]:
        """What is to be done by now."""
        acts: dict[Act, None] = {}
        while self._acts and self._acts[0][0] <= now:
            _, what, ip = heapq.heappop(self._acts)
            claim = self._claims.get(ip)
            if claim is None:
                continue
            if what == "announce" and claim.state is State.HOLDING:
                acts[Act("announce", ip)] = None
            elif what == "round" and claim.state is State.HOLDING:
                acts[Act("announce", ip)] = None
                self._at(now + EVERY, "round", ip)
            elif what == "probe" and claim.state is State.PROBING and claim.probes < PROBES:
                claim.probes += 1
                acts[Act("probe", ip)] = None
            elif what == "deadline" and claim.deadline <= now:
                self._expired(ip, claim, now)
        return list(acts)

    def next_due(self) -> float | None:
        """When `due` has something to say at the earliest."""
        return self._acts[0][0] if self._acts else None

    def _expired(self, ip: str, claim: _Claim, now: float) -> None:
        if claim.state is State.PROBING:
            self._hold(ip, claim, now)  # nobody has it
        elif claim.state is State.YIELDING:
            self._drop(ip)
        elif claim.state is State.BLOCKED:
            self._probe(ip, claim, now)

    def _at(self, when: float, what: str, ip: str) -> None:
        heapq.heappush(self._acts, (when, what, ip))

    def _probe(self, ip: str, claim: _Claim, now: float) -> None:
        claim.state, claim.probes, claim.deadline = State.PROBING, 0, now + PROBE_WAIT
        for number in range(PROBES):
            self._at(now + number * PROBE_GAP, "probe", ip)
        self._at(claim.deadline, "deadline", ip)

    def _hold(self, ip: str, claim: _Claim, now: float) -> None:
        claim.state, claim.rival = State.HOLDING, b""
        self.conflicts.pop(ip, None)
        self._at(now, "announce", ip)
        for later in REPEATS:
            self._at(now + later, "announce", ip)
        self._at(now + EVERY, "round", ip)

    def _block(self, ip: str, claim: _Claim, mac: bytes, now: float) -> None:
        claim.state, claim.deadline = State.BLOCKED, now + AGAIN
        self.conflicts[ip] = Conflict(ip, mac, False)
        self._at(claim.deadline, "deadline", ip)

    def _drop(self, ip: str) -> None:
        del self._claims[ip]
        self.conflicts.pop(ip, None)
