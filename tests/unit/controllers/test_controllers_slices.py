"""EndpointSlices and Endpoints through time: few writes, full slices, and a fixed point that does not depend on the way there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from controllers_world import World, template
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.controllers import endpoints, endpointslice
from glassnet.kube import kinds, types
from glassnet.kube.change import Change, Create, Delete, Patch
from glassnet.kube.view import Key, View

KEY = Key("default", "web")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def service(view: View, **spec: Any) -> None:
    wanted = {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}], **spec}
    body = {"metadata": {"name": "web", "namespace": "default", "uid": "s"}, "spec": wanted}
    view.apply(kinds.SERVICE, types.decode(kinds.SERVICE, msgspec.json.encode(body)))


def pod(view: View, number: int, ready: bool = True, port: int = 8080, terminating: bool = False, **more: Any) -> None:
    meta: dict[str, Any] = {
        "name": f"p{number:03}",
        "namespace": "default",
        "uid": f"u{number}",
        "labels": {"app": "web"},
    }
    meta |= more.get("metadata", {})
    if terminating:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    body = {
        "metadata": meta,
        "spec": {
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}],
            **more.get("spec", {}),
        },
        "status": {
            "phase": more.get("phase", "Running"),
            "podIP": more.get("address", f"10.0.{number // 200}.{number % 200}"),
            "podIPs": [{"ip": ip} for ip in more.get("ips", ())],
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }
    view.apply(kinds.POD, types.decode(kinds.POD, msgspec.json.encode(body)))


def carry_out(view: View, changes: list[Change], count: list[int]) -> None:
    """What a server would do with changes of slices."""
    for change in changes:
        if isinstance(change, Create):
            count[0] += 1
            body = msgspec.json.decode(msgspec.json.encode(change.body))
            body["metadata"] |= {"name": f"web-{count[0]:03}", "namespace": "default", "uid": f"e{count[0]}"}
            view.apply(kinds.ENDPOINT_SLICE, types.decode(kinds.ENDPOINT_SLICE, msgspec.json.encode(body)))
        elif isinstance(change, Patch):
            found = view.endpoint_slices[Key("default", change.name)]
            body = msgspec.to_builtins(found)
            body["metadata"]["labels"] = {**body["metadata"]["labels"], **change.body["metadata"]["labels"]}
            body["endpoints"] = change.body["endpoints"]
            view.apply(kinds.ENDPOINT_SLICE, msgspec.convert(body, types.EndpointSlice))
        elif isinstance(change, Delete):
            view.apply(kinds.ENDPOINT_SLICE, view.endpoint_slices[Key("default", change.name)], deleted=True)


def shown(view: View) -> set[Any]:
    return {
        (
            e.addresses,
            e.conditions.ready,
            e.conditions.serving,
            e.conditions.terminating,
            s.ports[0].port if s.ports else 0,
        )
        for s in view.slices_of(KEY)
        for e in s.endpoints
    }


def settle(view: View, count: list[int]) -> int:
    """Bring slices up to date; the number of writes that took."""
    changes = endpointslice.reconcile(view, KEY, NOW).changes
    carry_out(view, changes, count)
    assert endpointslice.reconcile(view, KEY, NOW).changes == []
    return len(changes)


@pytest.mark.parametrize(
    ("ready", "terminating", "publish", "conditions"),
    [
        (True, False, False, (True, True, False)),
        (False, False, False, (False, False, False)),
        (True, True, False, (False, True, True)),
        (False, True, False, (False, False, True)),
        (False, False, True, (True, False, False)),
        (True, True, True, (True, True, True)),
    ],
)
def test_conditions(ready: bool, terminating: bool, publish: bool, conditions: tuple[bool, bool, bool]) -> None:
    view = View()
    service(view, publishNotReadyAddresses=publish)
    pod(view, 1, ready=ready, terminating=terminating)
    settle(view, [0])
    ((_, *found, _),) = shown(view)
    assert tuple(found) == conditions


@pytest.mark.parametrize("more", [{"phase": "Succeeded"}, {"phase": "Failed"}, {"address": ""}], ids=str)
def test_pods_that_do_not_count(more: dict[str, str]) -> None:
    view = View()
    service(view)
    pod(view, 1, **more)
    settle(view, [0])
    assert shown(view) == set()
    assert len(list(view.slices_of(KEY))) == 1


def test_a_named_port_of_two_numbers_makes_two_slices() -> None:
    view = View()
    service(view)
    for number in range(4):
        pod(view, number, port=8080 + number % 2)
    settle(view, [0])
    assert sorted((s.ports[0].port, len(s.endpoints)) for s in view.slices_of(KEY)) == [(8080, 2), (8081, 2)]


def test_hundreds_of_pods_fill_slices_of_a_hundred() -> None:
    view, count = View(), [0]
    service(view)
    for number in range(250):
        pod(view, number)
    settle(view, count)
    assert sorted(len(s.endpoints) for s in view.slices_of(KEY)) == [50, 100, 100]
    pod(view, 7, ready=False)
    assert settle(view, count) == 1
    pod(view, 250)
    assert settle(view, count) == 1
    view.apply(kinds.POD, view.pods[Key("default", "p120")], deleted=True)
    assert settle(view, count) == 1


def test_a_ready_pod_of_another_readiness_is_one_patch_with_the_time() -> None:
    view, count = View(), [0]
    service(view)
    pod(view, 1)
    settle(view, count)
    pod(view, 1, ready=False)
    (change,) = endpointslice.reconcile(view, KEY, NOW).changes
    assert isinstance(change, Patch)
    trigger = change.body["metadata"]["annotations"]["endpoints.kubernetes.io/last-change-trigger-time"]
    assert trigger == "2026-01-01T00:00:00Z"


def test_a_port_of_another_number_leaves_no_old_slice() -> None:
    view, count = View(), [0]
    service(view)
    pod(view, 1)
    settle(view, count)
    pod(view, 1, port=9090)
    settle(view, count)
    assert [s.ports[0].port for s in view.slices_of(KEY)] == [9090]


def test_a_service_whose_port_gets_another_name() -> None:
    view, count = View(), [0]
    service(view)
    pod(view, 1)
    settle(view, count)
    service(view, ports=[{"name": "web", "port": 80, "targetPort": "http"}])
    settle(view, count)
    assert [s.ports[0].name for s in view.slices_of(KEY)] == ["web"]


def test_headless_without_ports_and_a_port_no_pod_has() -> None:
    view, count = View(), [0]
    service(view, clusterIP="None", ports=[])
    pod(view, 1, spec={"hostname": "h", "subdomain": "web"})
    settle(view, count)
    (found,) = view.slices_of(KEY)
    assert found.metadata.labels["service.kubernetes.io/headless"] == ""
    assert [e.hostname for e in found.endpoints] == ["h"]
    other = View()
    service(other, ports=[{"port": 80, "targetPort": "absent"}])
    pod(other, 1)
    settle(other, [0])
    assert {e.addresses for s in other.slices_of(KEY) for e in s.endpoints} == {("10.0.0.1",)}
    (made,) = endpoints.reconcile(other, KEY, NOW).changes
    assert isinstance(made, Create)
    assert "subsets" not in made.body


def test_a_service_that_goes_takes_its_slices_but_no_one_else_s() -> None:
    view, count = View(), [0]
    service(view)
    pod(view, 1)
    settle(view, count)
    labels = {"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "hand"}
    by_hand = {"metadata": {"name": "hand", "namespace": "default", "labels": labels}, "addressType": "IPv4"}
    view.apply(kinds.ENDPOINT_SLICE, types.decode(kinds.ENDPOINT_SLICE, msgspec.json.encode(by_hand)))
    view.apply(kinds.SERVICE, view.services[KEY], deleted=True)
    settle(view, count)
    assert [s.metadata.name for s in view.slices_of(KEY)] == ["hand"]


STEP = st.tuples(
    st.sampled_from(["ready", "unready", "terminating", "port", "gone", "relabel", "address"]),
    st.integers(0, 6),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=14))
def test_any_history_leads_where_a_fresh_start_leads(history: list[tuple[str, int, bool]]) -> None:
    view, count = View(), [0]
    service(view)
    for what, number, settled in history:
        key = Key("default", f"p{number:03}")
        if what == "gone":
            if key in view.pods:
                view.apply(kinds.POD, view.pods[key], deleted=True)
        elif what == "relabel":
            pod(view, number, metadata={"labels": {"app": "other"}})
        elif what == "address":
            pod(view, number, address=f"10.9.9.{number}")
        else:
            pod(view, number, what != "unready", 9090 if what == "port" else 8080, what == "terminating")
        if settled:
            settle(view, count)
    settle(view, count)
    fresh = View()
    for kind in (kinds.SERVICE, kinds.POD):
        for obj in view.all(kind):
            fresh.apply(kind, obj)
    settle(fresh, [0])
    assert shown(view) == shown(fresh)
    assert sum(len(s.endpoints) for s in view.slices_of(KEY)) == len(shown(view))


async def test_slices_that_others_delete_or_empty_are_restored(world: World) -> None:
    labels = {"app": "web"}
    world.create(kinds.SERVICE, "web", {"selector": labels, "ports": [{"port": 80}]})
    world.create(kinds.POD, "p", template(labels)["spec"], metadata={"labels": labels})
    await world.converge()
    (found,) = world.view.slices_of(KEY)
    assert [e.target_ref.name for e in found.endpoints if e.target_ref] == ["p"]
    await world.api.delete(kinds.ENDPOINT_SLICE, "default", found.metadata.name)
    await world.api.delete(kinds.ENDPOINTS, "default", "web")
    await world.converge()
    (again,) = world.view.slices_of(KEY)
    assert again.endpoints == found.endpoints
    assert world.get(kinds.ENDPOINTS, "web").subsets[0]["addresses"][0]["targetRef"]["name"] == "p"
    world.patch(kinds.ENDPOINT_SLICE, again.metadata.name, {"endpoints": []})
    await world.converge()
    assert [s.endpoints for s in world.view.slices_of(KEY)] == [found.endpoints]


async def test_a_selector_that_selects_nothing_empties_them(world: World) -> None:
    labels = {"app": "web"}
    world.create(kinds.SERVICE, "web", {"selector": labels, "ports": [{"port": 80}]})
    world.create(kinds.POD, "p", template(labels)["spec"], metadata={"labels": labels})
    await world.converge()
    world.patch(kinds.SERVICE, "web", {"spec": {"selector": {"app": "other"}}})
    await world.converge()
    assert [s.endpoints for s in world.view.slices_of(KEY)] == [()]
    assert world.get(kinds.ENDPOINTS, "web").subsets == ()


def slices_by_family(view: View) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for piece in view.slices_of(KEY):
        found.setdefault(piece.address_type, []).extend([list(e.addresses) for e in piece.endpoints])
    return found


def test_a_slice_for_each_family_of_the_service() -> None:
    view, count = View(), [0]
    service(view, ipFamilies=["IPv4", "IPv6"])
    pod(view, 1, address="10.0.0.1", ips=["10.0.0.1", "fd00::1"])
    pod(view, 2, address="10.0.0.2", ips=["10.0.0.2"])
    for _ in range(2):
        carry_out(view, endpointslice.reconcile(view, KEY, NOW).changes, count)
    assert slices_by_family(view) == {"IPv4": [["10.0.0.1"], ["10.0.0.2"]], "IPv6": [["fd00::1"]]}
    assert endpointslice.reconcile(view, KEY, NOW).changes == []
    pod(view, 2, address="10.0.0.2", ips=["10.0.0.2", "fd00::2"])
    (change,) = endpointslice.reconcile(view, KEY, NOW).changes
    assert isinstance(change, Patch)
    service(view, ipFamilies=["IPv6"])
    carry_out(view, endpointslice.reconcile(view, KEY, NOW).changes, count)
    assert slices_by_family(view) == {"IPv6": [["fd00::1"], ["fd00::2"]]}
