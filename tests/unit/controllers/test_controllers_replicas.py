"""ReplicaSets and ReplicationControllers: numbers, adoption, release, who goes first."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from controllers_world import START, World, template
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.controllers import replicaset
from glassnet.controllers.pods import deletion_order
from glassnet.controllers.result import template_hash
from glassnet.kube import kinds, types
from glassnet.kube.change import Create, Delete
from glassnet.kube.types import Pod
from glassnet.kube.view import Key, View

LABELS = {"app": "web"}


def pod(name: str, node: str = "a", phase: str = "Running", ready: bool = True, **more: Any) -> Pod:
    since = (START + timedelta(seconds=more.get("ready_at", 0))).isoformat()
    made = (START + timedelta(seconds=more.get("made_at", 0))).isoformat()
    annotations = {"controller.kubernetes.io/pod-deletion-cost": more["cost"]} if "cost" in more else {}
    body = {
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": made, "annotations": annotations},
        "spec": {"nodeName": node},
        "status": {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": since}],
            "containerStatuses": [{"name": "main", "restartCount": more.get("restarts", 0)}],
        },
    }
    return types.decode(kinds.POD, msgspec.json.encode(body))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pod("z", node="", phase="Pending", ready=False), pod("a", phase="Pending", ready=False)),
        (pod("z", phase="Pending", ready=False), pod("a", ready=False)),
        (pod("z", ready=False), pod("a")),
        (pod("z", cost="-5"), pod("a")),
        (pod("z", ready_at=50), pod("a", ready_at=10)),
        (pod("z", restarts=3), pod("a")),
        (pod("z", made_at=50), pod("a", made_at=10)),
    ],
    ids=["unassigned", "pending", "not ready", "cheaper", "ready lately", "restarted", "newer"],
)
def test_who_goes_first(first: Pod, second: Pod) -> None:
    assert [p.metadata.name for p in deletion_order([second, first])] == ["z", "a"]


def test_of_pods_on_one_node_one_goes_first() -> None:
    crowd = [pod("a", node="n1"), pod("y", node="n2"), pod("z", node="n2")]
    assert deletion_order(crowd)[0].metadata.name in ("y", "z")


def test_hash_is_stable_short_and_safe() -> None:
    body = template(LABELS)
    assert template_hash(body) == template_hash(dict(reversed(body.items())))
    assert template_hash(body) != template_hash(body, 1)
    assert set(template_hash(body)) <= set("bcdfghjklmnpqrstvwxz2456789")


@pytest.mark.parametrize("kind", [kinds.REPLICA_SET, kinds.REPLICATION_CONTROLLER], ids=["rs", "rc"])
async def test_scales_up_and_down_and_replaces(world: World, kind: Any) -> None:
    selector = {"matchLabels": LABELS} if kind is kinds.REPLICA_SET else LABELS
    world.create(kind, "web", {"replicas": 3, "selector": selector, "template": template(LABELS)})
    await world.converge()
    assert len(world.pods()) == 3
    assert {p.spec.node_name for p in world.pods()} == {"node-0", "node-1", "node-2"}
    world.view_delete(world.pods()[0])
    world.finish(world.pods()[0], "Failed")
    await world.converge()
    assert sum(not p.finished() for p in world.pods()) == 3
    world.patch(kind, "web", {"spec": {"replicas": 1}})
    await world.converge()
    assert sum(not p.finished() for p in world.pods()) == 1
    status = world.get(kind, "web").status
    assert (status.replicas, status.ready_replicas, status.available_replicas) == (1, 1, 1)


async def test_events_name_the_pods_made_and_deleted(world: World) -> None:
    world.create(
        kinds.REPLICA_SET, "web", {"replicas": 1, "selector": {"matchLabels": LABELS}, "template": template(LABELS)}
    )
    await world.converge()
    (name,) = (p.metadata.name for p in world.pods())
    world.patch(kinds.REPLICA_SET, "web", {"spec": {"replicas": 0}})
    await world.converge()
    events = await world.api.list(kinds.EVENT, "default")
    said = [(e["reason"], e["message"]) for e in events if e["involvedObject"]["kind"] == "ReplicaSet"]
    assert said == [("SuccessfulCreate", f"Created pod: {name}"), ("SuccessfulDelete", f"Deleted pod: {name}")]


async def test_adopts_orphans_and_releases_strangers(world: World) -> None:
    world.create(kinds.POD, "orphan", template(LABELS)["spec"], metadata={"labels": LABELS})
    world.create(
        kinds.REPLICA_SET, "web", {"replicas": 2, "selector": {"matchLabels": LABELS}, "template": template(LABELS)}
    )
    await world.converge()
    assert len(world.pods()) == 2
    assert world.get(kinds.POD, "orphan").metadata.controller().name == "web"
    world.patch(kinds.POD, "orphan", {"metadata": {"labels": {"app": "other"}}})
    await world.converge()
    assert world.get(kinds.POD, "orphan").metadata.controller() is None
    assert len(world.pods(app="web")) == 2


async def test_two_owners_of_one_selector_do_not_fight(world: World) -> None:
    for name in ("one", "two"):
        world.create(
            kinds.REPLICA_SET, name, {"replicas": 2, "selector": {"matchLabels": LABELS}, "template": template(LABELS)}
        )
    await world.converge()
    assert len(world.pods()) == 4
    assert sorted(p.metadata.controller().name for p in world.pods()) == ["one", "one", "two", "two"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["ready", "unready", "finish", "delete", "scale"]), st.integers(0, 5)), max_size=8
    )
)
def test_any_history_leads_to_the_number_asked_for(history: list[tuple[str, int]]) -> None:
    """A small world without a server: after every event the changes are applied, and the fixed point is as asked for."""
    view, key, wanted, count = View(), Key("default", "web"), 2, 0

    def owner(size: int) -> None:
        body = {
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {"replicas": size, "selector": {"matchLabels": LABELS}, "template": template(LABELS)},
        }
        view.apply(kinds.REPLICA_SET, types.decode(kinds.REPLICA_SET, msgspec.json.encode(body)))

    def put(name: str, phase: str, ready: bool) -> None:
        reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": True}
        body = {
            "metadata": {"name": name, "namespace": "default", "labels": LABELS, "ownerReferences": [reference]},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]},
        }
        view.apply(kinds.POD, types.decode(kinds.POD, msgspec.json.encode(body)))

    def fixed_point() -> None:
        nonlocal count
        for _ in range(5):
            changes = [c for c in replicaset.reconcile(view, key, START).changes if isinstance(c, Create | Delete)]
            if not changes:
                return
            for change in changes:
                if isinstance(change, Create):
                    count += 1
                    put(f"web-{count}", "Pending", False)
                else:
                    view.apply(kinds.POD, view.pods[Key("default", change.name)], deleted=True)
        raise AssertionError("no fixed point")

    owner(wanted)
    fixed_point()
    for what, number in history:
        living = sorted(view.pods.values(), key=lambda p: p.metadata.name)
        chosen = living[number % len(living)] if living else None
        if what == "scale":
            wanted = number
            owner(number)
        elif chosen is not None and what == "delete":
            view.apply(kinds.POD, chosen, deleted=True)
        elif chosen is not None:
            put(chosen.metadata.name, "Failed" if what == "finish" else "Running", what == "ready")
        fixed_point()
        assert sum(not p.finished() for p in view.pods.values()) == wanted
