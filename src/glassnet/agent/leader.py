"""One leader among many: a Lease of the API, held by whoever renewed it last.

Source: client-go tools/leaderelection (the meaning of the fields, when a record counts as abandoned, how it is given back);
coordination.k8s.io/v1 Lease. Clocks of different machines are never compared: a record is abandoned when *this* process has seen it
unchanged for as long as it says it is good for.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, NamedTuple

from glassnet.kube import kinds
from glassnet.kube.api import Api
from glassnet.net.errors import ApiError, GlassnetError, UsageError

log = logging.getLogger(__name__)
_JITTER = 1.2  # those who wait do not ask all at once: a try comes after 1 to 1 + _JITTER periods
_RELEASED = 1  # seconds: what a record that was given back says it is good for


class Standing(NamedTuple):
    """How this candidate stands. `holder` is "" when nobody is known to hold the Lease; ages are in seconds, -1 for never."""

    leading: bool
    holder: str
    transitions: int
    contact_age: float
    error: str


class Leader:
    """A candidate for the Lease `namespace`/`name`; `identity` must be its own among all candidates.

    duration, renew, retry: seconds a record is good for, seconds to go on without a successful renewal, seconds between tries.
    `now` gives the time of day, which is only ever written; `clock` must go on while the process is stopped or the machine asleep.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 15,
        renew: float = 10,
        retry: float = 2,
        now: Callable[[], datetime],
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        if not (duration >= 1 and duration > renew > retry * _JITTER > 0):
            raise UsageError(
                f"leader election: leaseDuration {duration:g} s must be 1 s or more and above renewDeadline {renew:g} s, "
                f"which must be above {_JITTER} times retryPeriod {retry:g} s"
            )
        self._api, self._namespace, self._name, self.identity = api, namespace, name, identity
        self._duration, self._renew, self._retry = duration, renew, retry
        self._now, self._clock = now, clock
        self._lease: dict[str, Any] | None = None  # as the API last showed it
        self._seen: dict[str, Any] = {}  # its record (spec), and since when this process knows it so
        self._seen_at = clock()
        self._contact: float | None = None  # when the API last answered
        self._until = 0.0  # when leadership ends unless it is renewed
        self._error = ""

    # -- what others may ask

    def leads(self) -> bool:
        """Whether work may write now. Asked before every write: a process that was stopped finds its time over when it wakes."""
        return self._clock() < self._until

    def standing(self) -> Standing:
        """For health, metrics and those who ask."""
        age = -1.0 if self._contact is None else self._clock() - self._contact
        transitions = int(self._seen.get("leaseTransitions") or 0)
        return Standing(self.leads(), str(self._seen.get("holderIdentity") or ""), transitions, age, self._error)

    # -- the loop

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, do the work while it is held, wait again when it is lost; until cancelled, or the work returns or raises.

        The work is cancelled as soon as the Lease is lost, and has ended before the Lease is given back.
        """
        try:
            while True:
                await self._acquire()
                log.info("leading: lease %s/%s is held by %s", self._namespace, self._name, self.identity)
                if await self._lead(work):
                    return
                holder = self.standing().holder
                taken = "it was not renewed in time" if holder in ("", self.identity) else f"it is held by {holder}"
                log.warning("not leading any more: lease %s/%s: %s", self._namespace, self._name, taken)
        finally:
            await self._release()

    async def _acquire(self) -> None:
        told = ""
        while not await self._try(self._renew):
            holder = self.standing().holder
            if holder != told and holder:
                told = holder
                log.info("waiting: lease %s/%s is held by %s", self._namespace, self._name, holder)
            await asyncio.sleep(self._retry * (1 + random.random() * _JITTER))

    async def _lead(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Work and renew; True when the work is over, False when the Lease is lost."""
        working: asyncio.Future[None] = asyncio.ensure_future(work())
        renewing = asyncio.create_task(self._renewals())
        try:
            await asyncio.wait([working, renewing], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            return working.done()
        finally:
            for task in (working, renewing):
                task.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)

    async def _renewals(self) -> None:
        """Until the Lease is lost."""
        while self.leads():
            await asyncio.sleep(min(self._retry, self._left()))
            if self.leads():
                await self._try(self._left())

    def _left(self) -> float:
        return max(0.0, self._until - self._clock())

    # -- one try

    async def _try(self, limit: float) -> bool:
        """Acquire or renew once, within `limit` seconds; whether the Lease is ours now. A failure leaves all as it was."""
        begun = self._clock()
        try:
            async with asyncio.timeout(limit):
                held = await self._put(begun)
        except TimeoutError:
            self._failed("no answer in time")
            return False
        except GlassnetError as error:
            if isinstance(error, ApiError) and error.status in (404, 409):
                self._lease = None  # somebody else wrote: look again before the next try
            self._failed(str(error))
            return False
        self._contact, self._error = self._clock(), ""
        if not held:
            self._until = 0.0
        elif self._clock() < begun + self._renew:
            self._until = begun + self._renew
        return self.leads()

    def _failed(self, reason: str) -> None:
        text = f"lease {self._namespace}/{self._name}: {reason}"
        if text != self._error:
            log.warning("%s", text)
        self._error = text

    async def _put(self, begun: float) -> bool:
        """Write our record where that is right: the record as last seen is ours, is nobody's, or is abandoned."""
        if self._lease is None or not self.leads():
            try:
                self._observe(await self._api.get(kinds.LEASE, self._namespace, self._name))
            except ApiError as error:
                if error.status != 404:
                    raise
                body = {"metadata": {"name": self._name, "namespace": self._namespace}, "spec": self._record(0)}
                self._observe(await self._api.create(kinds.LEASE, self._namespace, body))
                return True
        holder = self._seen.get("holderIdentity") or ""
        if holder not in ("", self.identity) and begun < self._seen_at + self._good_for():
            return False
        assert self._lease is not None
        transitions = int(self._seen.get("leaseTransitions") or 0)
        spec = {**self._seen, **self._record(transitions if holder == self.identity else transitions + 1)}
        if holder == self.identity and self._seen.get("acquireTime"):
            spec["acquireTime"] = self._seen["acquireTime"]
        self._observe(await self._api.update(kinds.LEASE, self._namespace, self._name, {**self._lease, "spec": spec}))
        return True

    def _observe(self, lease: dict[str, Any]) -> None:
        self._lease = lease
        record = lease.get("spec") or {}
        if record != self._seen:
            self._seen, self._seen_at = record, self._clock()

    def _good_for(self) -> float:
        """Seconds the record claims; our own where it makes no claim."""
        claimed = self._seen.get("leaseDurationSeconds")
        return float(claimed) if isinstance(claimed, int) and claimed > 0 else self._duration

    def _record(self, transitions: int) -> dict[str, Any]:
        stamp = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._duration)),
            "acquireTime": stamp,
            "renewTime": stamp,
            "leaseTransitions": transitions,
        }

    async def _release(self) -> None:
        """Give the Lease back, so that the next need not wait. What fails here costs the others a wait, and nothing else."""
        if not self.leads() or self._lease is None:
            return
        limit, self._until = self._left(), 0.0
        try:
            async with asyncio.timeout(limit):  # a renewal that was cut off may have been written: look first
                self._observe(await self._api.get(kinds.LEASE, self._namespace, self._name))
                if self._seen.get("holderIdentity") != self.identity:
                    return
                spec = {**self._seen, "holderIdentity": "", "leaseDurationSeconds": _RELEASED, "renewTime": self._record(0)["renewTime"]}  # fmt: skip
                await self._api.update(kinds.LEASE, self._namespace, self._name, {**self._lease, "spec": spec})
            log.info("lease %s/%s is given back", self._namespace, self._name)
        except (GlassnetError, TimeoutError) as error:
            log.warning("lease %s/%s could not be given back: %s", self._namespace, self._name, error)
