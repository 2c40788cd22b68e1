"""Who gets which address: the older Service first, and what is given stays as long as it can.

What the API shows is the memory: an address in a Service's status is taken, whoever put it there, until it is seen to be gone. So a controller
that begins anew decides as the one before it, and an address goes from one Service to the next only after the first has lost it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from glassnet.kube import selectors
from glassnet.kube.types import Service
from glassnet.kube.view import Key
from glassnet.loadbalancer import request
from glassnet.loadbalancer.pools import Pool, Pools
from glassnet.loadbalancer.ranges import Range, Space
from glassnet.loadbalancer.request import ASSIGNED, INVALID, Holder, Wish
from glassnet.net import address

NO_POOL, EXHAUSTED, TAKEN, OUTSIDE, NOT_ALLOWED, OTHER, UNKNOWN_CLASS = (
    "NoPool", "PoolExhausted", "AddressTaken", "AddressOutsidePools", "PoolNotAllowed", "OtherLoadBalancer", "UnknownClass",
)  # fmt: skip
"""Reasons of Events and conditions."""


class Verdict(NamedTuple):
    """What a Service's status is to be. `reason` is "" for one that is none of ours, ASSIGNED with `ips`, else why there are none (or fewer).

    With reason OTHER or UNKNOWN_CLASS its addresses are another's business and left as they are.
    """

    reason: str = ""
    message: str = ""
    ips: tuple[str, ...] = ()

    @property
    def hands_off(self) -> bool:
        """Whether the addresses in the status stay, whatever they are."""
        return self.reason in (OTHER, UNKNOWN_CLASS)


class _Refusal(NamedTuple):
    reason: str
    message: str


class Allocator:
    """All Services and all pools. Tell it of every Service (`put`, `remove`) before asking for any (`decide`)."""

    def __init__(self, pools: Pools, default_class: bool = True, reserved: Iterable[Range] = ()) -> None:
        self.pools, self._default = pools, default_class
        self._holders: dict[str, dict[Key, Holder]] = {}  # address -> who has it
        self._claims: dict[Key, tuple[str, ...]] = {}  # what is in its status, and what was decided
        self._decided: dict[Key, tuple[str, ...]] = {}
        self._services: dict[Key, Holder] = {}
        self._sharing: dict[str, dict[str, int]] = {}  # sharing key -> addresses, and how many have it by that key
        self._waiting: dict[Key, Holder] = {}
        self._reserved: dict[int, list[Range]] = {32: [], 128: []}
        for each in sorted(reserved):
            self._reserved[each.bits].append(each)
        self._spaces = {
            (pool.name, bits): Space(each for each in pool.ranges if each.bits == bits)
            for pool in pools.pools
            for bits in (32, 128)
        }

    # -- what comes in

    def put(self, service: Service) -> list[Key]:
        """A Service as it is now; others that may get, or lose, an address by that, the oldest first."""
        key = request.key_of(service)
        self._services[key] = request.holder(service)
        return self._claim(key, (*request.shown(service), *self._decided.get(key, ())))

    def remove(self, key: Key) -> list[Key]:
        """A Service has gone; those that may get an address by that, the oldest first."""
        self._decided.pop(key, None)
        self._waiting.pop(key, None)
        found = self._claim(key, ())
        self._services.pop(key, None)
        self._claims.pop(key, None)
        return found

    def _claim(self, key: Key, ips: Iterable[str]) -> list[Key]:
        """From now on a Service has these addresses and no others."""
        wanted, held = tuple(dict.fromkeys(ips)), self._claims.get(key, ())
        mine, freed, touched, same = self._services[key], False, set[Key](), set[str]()
        for ip in held:
            before = self._holders[ip].pop(key)
            self._count(before.sharing, ip, -1)
            freed = freed or ip not in wanted or before != mine
            if before == mine:
                same.add(ip)
            if not self._holders[ip]:
                del self._holders[ip]
                if ip not in wanted and (pool := self.pools.of(ip)) is not None:
                    self._spaces[pool.name, 128 if ":" in ip else 32].free(address.number(ip))
        for ip in wanted:
            holders = self._holders.setdefault(ip, {})
            if ip not in same:
                touched |= {other for other, its in holders.items() if not its.goes_with(mine)}
            holders[key] = mine
            self._count(mine.sharing, ip, 1)
        self._claims[key] = wanted
        if freed:
            touched |= self._waiting.keys()
        touched.discard(key)
        return sorted(touched, key=lambda each: self._services[each].age)

    def _count(self, sharing: str, ip: str, by: int) -> None:
        if not sharing:
            return
        counts = self._sharing.setdefault(sharing, {})
        counts[ip] = counts.get(ip, 0) + by
        if not counts[ip]:
            del counts[ip]
            if not counts:
                del self._sharing[sharing]

    # -- what comes out

    @property
    def waiting(self) -> int:
        """How many Services have fewer addresses than they asked for."""
        return len(self._waiting)

    def used(self) -> dict[str, int]:
        """Pool -> how many of its addresses somebody has."""
        counts = dict.fromkeys((pool.name for pool in self.pools.pools), 0)
        for ip in self._holders:
            if (pool := self.pools.of(ip)) is not None:
                counts[pool.name] += 1
        return counts

    def decide(self, service: Service) -> tuple[Verdict, list[Key]]:
        """What a Service's status is to be, and whom to ask about next: those that may get what it has given up."""
        key = request.key_of(service)
        verdict, short = self._verdict(service)
        mine = self._services[key]
        if short:
            self._waiting[key] = mine
        else:
            self._waiting.pop(key, None)
        if verdict.ips:
            self._decided[key] = verdict.ips
        else:
            self._decided.pop(key, None)
        return verdict, self._claim(key, (*request.shown(service), *verdict.ips))

    def _verdict(self, service: Service) -> tuple[Verdict, bool]:
        """What is to be, and whether the Service waits for (more) addresses."""
        spec = service.spec
        if not request.is_ours(service, self._default):
            strange = spec.load_balancer_class or ""
            if spec.type == "LoadBalancer" and strange.startswith("glassnet.dev/") and strange != request.CLASS:
                return Verdict(UNKNOWN_CLASS, f"there is no load balancer of class {strange}; ours is {request.CLASS}"), False  # fmt: skip
            return Verdict(), False
        if request.is_foreign(service) and not self._may_adopt(service):
            words = ", ".join(each.hostname or each.ip for each in service.status.load_balancer.ingress)
            return Verdict(OTHER, f"another load balancer has put {words} into the status: it is left to that one; give the Service a loadBalancerClass ({request.CLASS} for ours)"), False  # fmt: skip
        asked = request.wish(service)
        if asked.fault:
            return Verdict(INVALID, asked.fault), False
        return self._fulfil(service, asked)

    def _may_adopt(self, service: Service) -> bool:
        """Addresses of our pools without our mark, as of a load balancer before us: they are kept, and ours from now on."""
        ingress = service.status.load_balancer.ingress
        if any(each.hostname or each.ip_mode == "Proxy" for each in ingress) or request.recorded(service):
            return False
        return all(ip and self.pools.of(ip) is not None for ip in (address.canonical(each.ip) for each in ingress))

    def _fulfil(self, service: Service, asked: Wish) -> tuple[Verdict, bool]:
        key = request.key_of(service)
        found: dict[str, str] = {}
        for ip in (*request.shown(service), *self._decided.get(key, ()), *request.recorded(service)):
            family = address.family(ip)
            if family in asked.families and family not in found and self._may_keep(service, ip, asked):
                found[family] = ip
        refusals: list[_Refusal] = []
        for family in asked.families:
            if family not in found:
                got = self._get(service, asked, family, found)
                if isinstance(got, str):
                    found[family] = got
                elif got is not None:
                    refusals.append(got)
        wanted = max(asked.least, len(asked.ips))
        if len(found) < wanted:
            self._give_back(key, found.values())
            first = refusals[0] if refusals else _Refusal(NO_POOL, "no pool has addresses for it")
            return Verdict(*first), True
        ips = tuple(found[family] for family in asked.families if family in found)
        names = tuple(pool.name for ip in ips if (pool := self.pools.of(ip)) is not None)
        return Verdict(ASSIGNED, request.message(ips, names), ips), bool(refusals)

    def _give_back(self, key: Key, ips: Iterable[str]) -> None:
        """Addresses that were found for a Service and will not be its own after all."""
        for ip in ips:
            if ip not in self._claims.get(key, ()) and ip not in self._holders and (pool := self.pools.of(ip)):
                self._spaces[pool.name, 128 if ":" in ip else 32].free(address.number(ip))

    # -- one address

    def _may_keep(self, service: Service, ip: str, asked: Wish) -> bool:
        """Whether what a Service has, or had, is still right for it. Of two that cannot share an address the older keeps it."""
        pool = self.pools.of(ip)
        if pool is None or self._objection(service, pool, ip) or (asked.pool and pool.name != asked.pool):
            return False
        same_family = [each for each in asked.ips if address.family(each) == address.family(ip)]
        if asked.ips and ip not in same_family:
            return False
        key, mine = request.key_of(service), self._services[request.key_of(service)]
        had = ip in self._claims.get(key, ())
        return all(
            its.goes_with(mine) or (had and mine.age < its.age)
            for other, its in self._holders.get(ip, {}).items()
            if other != key
        )

    def _objection(self, service: Service, pool: Pool, ip: str) -> str:
        """Why a Service cannot have an address of a pool, whoever has it now; "" when it can."""
        bits, number = 128 if ":" in ip else 32, address.number(ip)
        if not allowed(pool, service):
            return f"pool {pool.name} is not for Service {request.key_of(service)} (its namespaces, serviceSelector)"
        if self._beyond_reserved(bits, number) != number:
            return f"{ip} of pool {pool.name} is a node's, or in a range of pods or Services"
        return ""

    def _get(self, service: Service, asked: Wish, family: str, found: dict[str, str]) -> str | _Refusal | None:
        """An address of a family, or why there is none; None for a family that nobody insists on."""
        for ip in asked.ips:
            if address.family(ip) == family:
                return self._get_asked(service, asked, ip)
        if asked.ips:
            return None
        bits = 32 if family == address.IPV4 else 128
        candidates = self._candidates(service, asked)
        if isinstance(candidates, _Refusal):
            return candidates
        fitting = [pool for pool in candidates if any(each.bits == bits for each in pool.ranges)]
        if not fitting:
            names = f"pool {asked.pool} has" if asked.pool else "no pool for it has"
            return _Refusal(NO_POOL, f"{names} {family} addresses: add some, or another pool")
        used = {pool.name for ip in found.values() if (pool := self.pools.of(ip)) is not None}
        fitting.sort(key=lambda pool: pool.name not in used)
        if (common := self._shared(service, fitting, bits)) is not None:
            return common
        for pool in fitting:
            number = self._spaces[pool.name, bits].take(partial(self._next_free, pool, bits))
            if number is not None:
                return address.text_of(number, bits)
        names = ", ".join(pool.name for pool in fitting)
        return _Refusal(EXHAUSTED, f"no {family} address is free in pool {names}: add addresses, or delete Services that have some")  # fmt: skip

    def _candidates(self, service: Service, asked: Wish) -> list[Pool] | _Refusal:
        """The pools that a Service may be given addresses of without naming one: those made for it first; or the one it has named."""
        if asked.pool:
            pool = self.pools.named(asked.pool)
            if pool is None:
                there = ", ".join(each.name for each in self.pools.pools) or "none"
                return _Refusal(NO_POOL, f"annotation {request.POOL}: there is no pool {asked.pool} (there are: {there})")  # fmt: skip
            if not allowed(pool, service):
                return _Refusal(NOT_ALLOWED, f"annotation {request.POOL}: pool {pool.name} is not for this Service (its namespaces, serviceSelector)")  # fmt: skip
            return [pool]
        found = [pool for pool in self.pools.pools if pool.auto and allowed(pool, service)]
        if not found:
            return _Refusal(NO_POOL, f"no pool is for this Service without being named (namespaces, serviceSelector, autoAssign); annotation {request.POOL} names one")  # fmt: skip
        return sorted(found, key=lambda pool: not (pool.namespaces or pool.services))

    def _get_asked(self, service: Service, asked: Wish, ip: str) -> str | _Refusal:
        pool = self.pools.of(ip)
        if pool is None:
            return _Refusal(OUTSIDE, f"{ip} is asked for and in no pool: add it to one, or ask for another")
        if asked.pool and pool.name != asked.pool:
            return _Refusal(OUTSIDE, f"{ip} is asked for and not in pool {asked.pool}, which is asked for, too, but in {pool.name}")  # fmt: skip
        if said := self._objection(service, pool, ip):
            return _Refusal(NOT_ALLOWED, said)
        key, mine = request.key_of(service), self._services[request.key_of(service)]
        rivals = [other for other, its in self._holders.get(ip, {}).items() if other != key and not its.goes_with(mine)]
        if rivals:
            first = min(rivals, key=lambda each: self._services[each].age)
            return _Refusal(TAKEN, f"{ip} is asked for, and Service {first} has it; to share it both need the annotation {request.SHARING}, different ports, and policy Cluster or one selector")  # fmt: skip
        return ip

    def _shared(self, service: Service, fitting: list[Pool], bits: int) -> str | None:
        """An address of somebody with the same sharing key."""
        key = request.key_of(service)
        mine, names = self._services[key], {pool.name for pool in fitting}
        for ip in self._sharing.get(mine.sharing, ()) if mine.sharing else ():
            pool = self.pools.of(ip)
            if pool is None or pool.name not in names or (128 if ":" in ip else 32) != bits:
                continue
            others = [its for other, its in self._holders[ip].items() if other != key]
            if all(its.goes_with(mine) for its in others) and not self._objection(service, pool, ip):
                return ip
        return None

    def _next_free(self, pool: Pool, bits: int, number: int) -> int:
        """The number itself when nobody has it, else one to go on from."""
        beyond = self._beyond_reserved(bits, number)
        if beyond != number:
            return beyond
        return number + (address.text_of(number, bits) in self._holders or pool.avoided(bits, number))

    def _beyond_reserved(self, bits: int, number: int) -> int:
        """The number, or the first one behind the ranges of others that it is in."""
        ranges = self._reserved[bits]
        for each in ranges[: bisect_right(ranges, (bits, number, 1 << 129))]:
            if each.first <= number <= each.last:
                number = each.last + 1
        return number


def allowed(pool: Pool, service: Service) -> bool:
    """Whether a Service may have addresses of a pool at all."""
    meta = service.metadata
    return (not pool.namespaces or meta.namespace in pool.namespaces) and selectors.matches(pool.services, meta.labels)
