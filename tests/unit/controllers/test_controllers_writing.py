"""How the control plane writes: Events that count, conflicts that are tried again, refusals that are said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controllers_world import World, template

from glassnet.agent.changes import Writer
from glassnet.agent.cluster.control_plane import ControlPlane
from glassnet.apiserver.local import LocalApi
from glassnet.kube import kinds
from glassnet.kube.change import Delete, Patch, Record
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError

LABELS = {"app": "web"}
POD = {"kind": "Pod", "namespace": "default", "name": "p", "uid": "u"}


class Unwilling(LocalApi):
    """An API that answers a number of creations with an error."""

    def __init__(self, world: World, error: ApiError, times: int) -> None:
        super().__init__(world.server)
        self.error, self.left = error, times

    async def create(
        self, kind: Kind, namespace: str, body: Mapping[str, Any], subresource: str = "", name: str = ""
    ) -> dict[str, Any]:
        if kind is kinds.POD and not subresource and self.left:
            self.left -= 1
            raise self.error
        return await super().create(kind, namespace, body, subresource, name)


def replace_api(world: World, api: LocalApi) -> None:
    world.plane._unsubscribe()
    world.plane = ControlPlane(world.view, api, cluster_cidr="10.200.0.0/16", now=lambda: world.time)


def web(world: World) -> None:
    spec = {"replicas": 1, "selector": {"matchLabels": LABELS}, "template": template(LABELS)}
    world.create(kinds.REPLICA_SET, "web", spec)


async def test_events_that_say_the_same_are_counted(world: World) -> None:
    writer = Writer(world.api, lambda: world.time)
    for seconds in (0, 60, 60):
        world.later(seconds)
        await writer.carry_out(Record(POD, "Warning", "BackOff", "Back-off", "kubelet, node-0"))
    await writer.carry_out(Record(POD, "Warning", "BackOff", "Another", "kubelet, node-0"))
    one, other = sorted(await world.api.list(kinds.EVENT, "default"), key=lambda e: -e["count"])
    assert (one["count"], one["firstTimestamp"], one["lastTimestamp"]) == (
        3, "2026-01-01T00:00:00Z", "2026-01-01T00:02:00Z",
    )  # fmt: skip
    assert one["source"] == {"component": "kubelet", "host": "node-0"}
    assert one["involvedObject"] == POD
    assert (other["count"], other["message"]) == (1, "Another")


async def test_an_event_whose_object_was_swept_is_written_anew(world: World) -> None:
    writer = Writer(world.api, lambda: world.time)
    await writer.carry_out(Record(POD, "Normal", "Pulled", "Pulled", "kubelet"))
    (event,) = await world.api.list(kinds.EVENT, "default")
    await world.api.delete(kinds.EVENT, "default", event["metadata"]["name"])
    await writer.carry_out(Record(POD, "Normal", "Pulled", "Pulled", "kubelet"))
    (again,) = await world.api.list(kinds.EVENT, "default")
    assert again["count"] == 1


async def test_what_is_gone_counts_as_deleted_and_a_namesake_is_spared(world: World) -> None:
    writer = Writer(world.api, lambda: world.time)
    await writer.carry_out(Delete(kinds.POD, "default", "never"))
    world.create(kinds.CONFIG_MAP, "c")
    await writer.carry_out(Delete(kinds.CONFIG_MAP, "default", "c", uid="another"))
    assert world.get(kinds.CONFIG_MAP, "c") is not None


async def test_a_patch_of_an_older_version_conflicts(world: World) -> None:
    writer = Writer(world.api, lambda: world.time)
    old = world.create(kinds.CONFIG_MAP, "c")["metadata"]["resourceVersion"]
    world.patch(kinds.CONFIG_MAP, "c", {"data": {"a": "1"}})
    try:
        await writer.carry_out(Patch(kinds.CONFIG_MAP, "default", "c", {"data": {"a": "2"}}, resource_version=old))
    except ApiError as error:
        assert error.status == 409
    else:
        raise AssertionError("no conflict")
    assert world.get(kinds.CONFIG_MAP, "c").data == {"a": "1"}


async def test_a_conflict_is_tried_again(world: World) -> None:
    replace_api(world, Unwilling(world, ApiError(409, "Conflict", "moved on"), 3))
    web(world)
    for _ in range(4):
        await world.settle()
        world.later(0)
    await world.converge()
    assert len(world.pods()) == 1


async def test_a_refusal_is_said_and_tried_again(world: World) -> None:
    replace_api(world, Unwilling(world, ApiError(403, "Forbidden", "pods are not wanted here"), 2))
    web(world)
    for _ in range(3):
        await world.settle()
        world.later(0)
    await world.converge()
    assert len(world.pods()) == 1
    events = await world.api.list(kinds.EVENT, "default")
    failed = [e for e in events if e["reason"] == "FailedCreate"]
    assert [(e["message"], e["type"], e["count"]) for e in failed] == [
        ("Error creating: pods are not wanted here", "Warning", 2)
    ]


async def test_a_controller_that_stumbles_does_not_stop_the_others(world: World) -> None:
    def stumble(*_: Any) -> Any:
        raise ZeroDivisionError

    world.plane._controllers["daemonset"] = stumble
    world.create(kinds.DAEMON_SET, "bad", {"selector": {"matchLabels": LABELS}, "template": template(LABELS)})
    web(world)
    await world.converge()
    assert len(world.pods()) == 1
    assert "daemonset" in {item[0] for item in world.plane._queue._timers}
