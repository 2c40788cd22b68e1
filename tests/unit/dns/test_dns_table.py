"""The Table and the loop: whatever happens, in whatever order, the outcome is that of a fresh look."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import dns_objects as objects
from dns_objects import endpoint, endpoints, external, headless, service
from glassnet.agent.dns.loop import DnsLoop
from glassnet.dns import compute, plan
from glassnet.dns.model import NOTHING, Answer, DnsSettings, Record
from glassnet.dns.table import Table
from glassnet.kube import kinds
from glassnet.kube.change import Record as EventRecord
from glassnet.kube.view import View

SETTINGS = DnsSettings()
PORTS = (("http", "TCP", 80),)


class Served:
    """A server that has what it was told, as transactions, and knows zones as they come and go."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.records: set[Record] = set()
        self.came: Any = None
        self.whole = False

    async def complete(self) -> None:
        self.table.take()
        self.records, self.whole = set(self.table.records()), True

    async def sync(self) -> int:
        delta = self.table.take()
        assert delta.removed <= self.records and not delta.added & self.records
        self.records = (self.records - delta.removed) | delta.added
        return len(delta.removed) + len(delta.added)


def fresh(view: View) -> set[Record]:
    """All records, computed from nothing."""
    answers = [compute.apex(SETTINGS)]
    answers += [compute.namespace(each.metadata.name, SETTINGS) for each in view.all(kinds.NAMESPACE)]
    answers += [compute.service(each, view.slices_of(key), SETTINGS) for key, each in view.services.items()]
    return {record for answer in answers for record in answer.records}


def _service(kind: int, name: str, number: int) -> dict[str, Any]:
    match kind:
        case 0:
            return service(name, f"10.0.{number}.1", *PORTS)
        case 1:
            return headless(name, *PORTS, publishNotReadyAddresses=number == 3)
        case 2:
            return external(name, f"host{number}.example.com" if number else "10.0.0.1")
        case _:
            return service(name, (f"fd00::{number + 1}", f"10.0.{number}.2"))


NAMES = st.sampled_from(["a", "b", "c"])
EVENTS = st.one_of(
    st.builds(_service, st.integers(0, 3), NAMES, st.integers(0, 3)),
    st.builds(
        lambda name, slice_, hosts, ready: endpoints(
            name, *(endpoint(f"10.1.0.{n}", hostname=h, ready=ready) for n, h in hosts), ports=PORTS, name=f"s{slice_}"
        ),
        NAMES,
        st.integers(0, 1),
        st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["", "x", "y"])), max_size=3),
        st.booleans(),
    ),
    st.sampled_from([objects.namespace("demo"), objects.namespace("namespace")]),
)


@given(st.lists(st.tuples(EVENTS, st.booleans()), max_size=25))
def test_after_any_events_the_records_are_those_of_a_fresh_look(history: list[tuple[dict[str, Any], bool]]) -> None:
    async def run() -> None:
        view, table = View(), Table()
        served = Served(table)
        half = len(history) // 2
        for body, deleted in history[:half]:
            objects.put(view, body, deleted=deleted)
        loop = DnsLoop(view, table, served, SETTINGS, lambda: asyncio.sleep(0))
        task = asyncio.create_task(loop.run())
        await asyncio.wait_for(loop.first_sync.wait(), 5)
        assert served.records == fresh(view)
        for number, (body, deleted) in enumerate(history[half:]):
            objects.put(view, body, deleted=deleted)
            if number % 3 == 0:
                await asyncio.sleep(0)
        for _ in range(500):
            if served.records == fresh(view):
                break
            await asyncio.sleep(0.001)
        assert served.records == fresh(view)
        assert table.zones() == {record.zone for record in served.records}
        assert dict(table.aliases()) == {r.owner: r.data for r in served.records if r.type == "CNAME" and "*" not in r.owner}  # fmt: skip
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_nothing_is_served_before_the_first_lists_are_complete() -> None:
    async def run() -> None:
        view, table, lists = View(), Table(), asyncio.Event()
        served = Served(table)
        events: list[EventRecord] = []
        loop = DnsLoop(view, table, served, SETTINGS, lists.wait, report=events.append)
        task = asyncio.create_task(loop.run())
        objects.put(view, service("web", "10.0.0.1"), external("bad", "10.0.0.9"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not served.whole and not loop.first_sync.is_set()
        lists.set()
        await asyncio.wait_for(loop.first_sync.wait(), 5)
        assert served.records == fresh(view)
        assert [(each.reason, each.type, each.regarding["name"]) for each in events] == [("BadExternalName", "Warning", "bad")]  # fmt: skip
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_changes_that_take_each_other_back_are_none() -> None:
    table = Table()
    one = Answer(frozenset({Record("demo.", "a.demo.", "A", "10.0.0.1")}))
    table.put("a", one)
    assert table.take().added == one.records
    table.put("a", NOTHING)
    table.put("a", one)
    assert not table.take()
    assert table.of("a") == one and len(table) == 1


def test_a_transaction_removes_before_it_adds_and_points_at_a_namespace_last() -> None:
    table = Table()
    table.put("n", compute.namespace("demo", SETTINGS))
    table.put("s", compute.service(objects.decoded(service("web", "10.0.0.1")), (), SETTINGS))
    table.take()
    table.put("s", compute.service(objects.decoded(external("web", "example.com")), (), SETTINGS))
    table.put("n2", compute.namespace("other", SETTINGS))
    found = plan.transaction(table.take(), {*SETTINGS.zones, "demo.svc.cluster.local.", "0.10.in-addr.arpa."}, SETTINGS)
    assert [(each.command, each.zone, each.type) for each in found if each.zone.startswith("demo")] == [
        ("zone-begin", "demo.svc.cluster.local.", ""),
        ("zone-unset", "demo.svc.cluster.local.", "A"),
        ("zone-set", "demo.svc.cluster.local.", "CNAME"),
        ("zone-commit", "demo.svc.cluster.local.", ""),
    ]
    zones = list(dict.fromkeys(each.zone for each in found))
    assert zones == ["demo.svc.cluster.local.", "pod.cluster.local.", "cluster.local.", "0.10.in-addr.arpa."]
    assert not [each for each in found if each.zone.startswith("other")]  # a new zone comes as a file


def test_zone_files_have_one_soa_first_and_all_records() -> None:
    table = Table()
    table.put("n", compute.namespace("demo", SETTINGS))
    table.put("s", compute.service(objects.decoded(service("web", "10.0.0.1", *PORTS)), (), SETTINGS))
    texts = dict(plan.zone_files(table.records(), {"demo.svc.cluster.local.": 7}, SETTINGS))
    first, second, *rest = texts["demo.svc.cluster.local."].splitlines()
    assert first == "$TTL 5"
    assert second == "demo.svc.cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5"
    assert sorted(rest) == [
        "_http._tcp.web.demo.svc.cluster.local. SRV 0 100 80 web.demo.svc.cluster.local.",
        "demo.svc.cluster.local. NS ns.dns.cluster.local.",
        "web.demo.svc.cluster.local. A 10.0.0.1",
    ]
