"""Server-side apply and managedFields: ownership, conflicts, force, removal, status entries (KEP-555)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.apiserver.schema import apply, load, managed_update
from glassnet.apiserver.schema.fieldset import from_fields_v1, to_fields_v1
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError

Obj = dict[str, Any]


def deployment(**spec: Any) -> Obj:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "nginx:1"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "demo"},
        "spec": {"selector": {"matchLabels": labels}, "template": template, **spec},
    }


def service(*ports: Obj) -> Obj:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": list(ports)}}


def put(
    live: Obj | None, config: Obj, manager: str, *, force: bool = False, now: str = "T1", kind: Kind = kinds.DEPLOYMENT
) -> Obj:
    before = copy.deepcopy((live, config))
    result = apply(load(), kind, live, config, manager, force, now)
    assert before == (live, config), "the inputs stay as they are"
    return result


def entry(obj: Obj, manager: str, operation: str = "Apply", subresource: str = "") -> Obj:
    found = [
        e for e in obj["metadata"].get("managedFields", ())
        if (e["manager"], e["operation"], e.get("subresource", "")) == (manager, operation, subresource)
    ]  # fmt: skip
    assert len(found) == 1, obj["metadata"].get("managedFields")
    return found[0]


def managers(obj: Obj) -> set[tuple[str, str]]:
    return {(e["manager"], e["operation"]) for e in obj["metadata"].get("managedFields", ())}


def test_a_first_apply_creates_and_owns_what_it_names() -> None:
    made = put(None, deployment(replicas=2), "kubectl")
    assert made["spec"] == deployment(replicas=2)["spec"]
    owned = entry(made, "kubectl")
    assert (owned["apiVersion"], owned["fieldsType"], owned["time"]) == ("apps/v1", "FieldsV1", "T1")
    spec = owned["fieldsV1"]["f:spec"]
    assert spec["f:replicas"] == {}
    assert spec["f:selector"] == {}, "a selector is one value"
    containers = spec["f:template"]["f:spec"]["f:containers"]
    assert containers == {'k:{"name":"web"}': {".": {}, "f:image": {}, "f:name": {}}}
    assert "f:metadata" not in owned["fieldsV1"], "name and namespace belong to nobody"


def test_applying_the_same_again_changes_nothing_not_even_the_time() -> None:
    made = put(None, deployment(replicas=2), "kubectl")
    assert put(made, deployment(replicas=2), "kubectl", now="T2") == made


def test_a_change_of_a_foreign_field_is_a_conflict() -> None:
    made = put(None, deployment(replicas=2), "kubectl")
    with pytest.raises(ApiError) as refused:
        put(made, deployment(replicas=3), "scaler")
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    assert (
        refused.value.message == 'Apply failed with 1 conflict: conflict with "kubectl" using apps/v1: .spec.replicas'
    )
    assert refused.value.details["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "kubectl" using apps/v1',
            "field": ".spec.replicas",
        }
    ]


def test_a_conflict_with_an_update_names_the_fields_inside_lists() -> None:
    made = deployment()
    managed_update(load(), kinds.DEPLOYMENT, None, made, "kubectl-client-side-apply", "Update", "T1")
    other = deployment(replicas=1)
    other["spec"]["template"]["spec"]["containers"][0]["image"] = "nginx:2"
    with pytest.raises(ApiError) as refused:
        put(made, other, "kubectl")
    assert refused.value.message == (
        'Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using apps/v1: '
        '.spec.template.spec.containers[name="web"].image'
    )


def test_several_conflicts_are_listed() -> None:
    made = put(None, deployment(replicas=2, paused=True), "a")
    with pytest.raises(ApiError) as refused:
        put(made, deployment(replicas=3, paused=False), "b")
    assert refused.value.message == (
        'Apply failed with 2 conflicts: conflicts with "a" using apps/v1:\n- .spec.paused\n- .spec.replicas'
    )
    assert len(refused.value.details["causes"]) == 2


def test_force_takes_the_field_over() -> None:
    made = put(None, deployment(replicas=2), "a")
    taken = put(made, deployment(replicas=3), "b", force=True, now="T2")
    assert taken["spec"]["replicas"] == 3
    assert "f:replicas" in entry(taken, "b")["fieldsV1"]["f:spec"]
    assert "f:replicas" not in entry(taken, "a")["fieldsV1"]["f:spec"]
    assert "f:selector" in entry(taken, "a")["fieldsV1"]["f:spec"], "what is the same stays shared"


def test_the_same_value_is_shared_without_conflict() -> None:
    both = put(put(None, deployment(replicas=2), "a"), deployment(replicas=2), "b")
    assert managers(both) == {("a", "Apply"), ("b", "Apply")}
    left = put(both, deployment(), "a", now="T2")
    assert left["spec"]["replicas"] == 2, "b still wants it"
    gone = put(left, deployment(), "b", now="T3")
    assert "replicas" not in gone["spec"]


def test_a_field_its_only_owner_drops_goes() -> None:
    made = put(None, deployment(replicas=2, minReadySeconds=5), "a")
    assert "minReadySeconds" not in put(made, deployment(replicas=2), "a")["spec"]


def test_fields_of_updates_survive_an_apply_that_never_had_them() -> None:
    made = put(None, deployment(), "a")
    scaled = copy.deepcopy(made)
    scaled["spec"]["replicas"] = 7
    managed_update(load(), kinds.DEPLOYMENT, made, scaled, "scaler", "Update", "T2")
    assert put(scaled, deployment(), "a", now="T3")["spec"]["replicas"] == 7


def test_list_items_come_and_go_by_key() -> None:
    tcp, udp = {"port": 53, "protocol": "TCP", "name": "t"}, {"port": 53, "protocol": "UDP", "name": "u"}
    made = put(None, service(tcp, udp), "a", kind=kinds.SERVICE)
    owned = entry(made, "a")["fieldsV1"]["f:spec"]["f:ports"]
    assert set(owned) == {'k:{"port":53,"protocol":"TCP"}', 'k:{"port":53,"protocol":"UDP"}'}
    web = {"port": 80, "name": "w"}
    both = put(made, service(web), "b", kind=kinds.SERVICE)
    assert [p["name"] for p in both["spec"]["ports"]] == ["t", "u", "w"]
    less = put(both, service(tcp), "a", kind=kinds.SERVICE)
    assert [p["name"] for p in less["spec"]["ports"]] == ["t", "w"]


def test_the_default_protocol_is_part_of_the_key() -> None:
    made = put(None, service({"port": 80, "name": "w"}), "a", kind=kinds.SERVICE)
    assert set(entry(made, "a")["fieldsV1"]["f:spec"]["f:ports"]) == {'k:{"port":80,"protocol":"TCP"}'}
    stored = copy.deepcopy(made)
    stored["spec"]["ports"][0]["protocol"] = "TCP"  # defaulting
    again = put(stored, service({"port": 80, "name": "x"}), "a", kind=kinds.SERVICE)
    assert [p["name"] for p in again["spec"]["ports"]] == ["x"]


def test_finalizers_are_a_set() -> None:
    config = deployment()
    config["metadata"]["finalizers"] = ["x/one"]
    made = put(None, config, "a")
    config["metadata"]["finalizers"] = ["x/two"]
    both = put(made, config, "b")
    assert both["metadata"]["finalizers"] == ["x/one", "x/two"]
    assert entry(both, "b")["fieldsV1"]["f:metadata"] == {"f:finalizers": {'v:"x/two"': {}}}


def test_an_update_owns_what_it_changed() -> None:
    made = deployment(replicas=1)
    managed_update(load(), kinds.DEPLOYMENT, None, made, "kubectl-create", "Update", "T1")
    assert managers(made) == {("kubectl-create", "Update")}
    scaled = copy.deepcopy(made)
    scaled["spec"]["replicas"] = 2
    managed_update(load(), kinds.DEPLOYMENT, made, scaled, "kubectl-scale", "Update", "T2")
    assert entry(scaled, "kubectl-scale", "Update")["fieldsV1"] == {"f:spec": {"f:replicas": {}}}
    assert "f:replicas" not in entry(scaled, "kubectl-create", "Update")["fieldsV1"]["f:spec"]


def test_an_update_that_changes_nothing_leaves_the_books() -> None:
    made = put(None, deployment(), "a")
    same = copy.deepcopy(made)
    managed_update(load(), kinds.DEPLOYMENT, made, same, "b", "Update", "T2")
    assert same == made


def test_a_removed_field_belongs_to_nobody() -> None:
    made = put(None, deployment(replicas=2), "a")
    less = copy.deepcopy(made)
    del less["spec"]["replicas"]
    managed_update(load(), kinds.DEPLOYMENT, made, less, "b", "Update", "T2")
    assert managers(less) == {("a", "Apply")}
    assert "f:replicas" not in entry(less, "a")["fieldsV1"]["f:spec"]


def test_apply_and_update_of_one_manager_are_two_entries_and_so_is_status() -> None:
    made = put(None, deployment(), "m")
    scaled = copy.deepcopy(made)
    scaled["spec"]["replicas"] = 2
    managed_update(load(), kinds.DEPLOYMENT, made, scaled, "m", "Update", "T2")
    seen = copy.deepcopy(scaled)
    seen["status"] = {"replicas": 2}
    managed_update(load(), kinds.DEPLOYMENT, scaled, seen, "m", "Update", "T3", "status")
    assert managers(seen) == {("m", "Apply"), ("m", "Update")}
    assert entry(seen, "m", "Update", "status")["fieldsV1"] == {"f:status": {"f:replicas": {}}}
    assert entry(seen, "m", "Update")["fieldsV1"] == {"f:spec": {"f:replicas": {}}}


def test_clients_may_clear_and_rewrite_the_books() -> None:
    made = put(None, deployment(replicas=2), "a")
    cleared = copy.deepcopy(made)
    cleared["metadata"]["managedFields"] = [{}]
    managed_update(load(), kinds.DEPLOYMENT, made, cleared, "b", "Update", "T2")
    assert "managedFields" not in cleared["metadata"]
    moved = copy.deepcopy(made)  # what kubectl does when it changes over to server-side apply
    moved["metadata"]["managedFields"][0]["manager"] = "kubectl"
    managed_update(load(), kinds.DEPLOYMENT, made, moved, "b", "Update", "T2")
    assert managers(moved) == {("kubectl", "Apply")}


def test_ownership_by_a_name_with_a_subresource_is_said_in_the_conflict() -> None:
    made = deployment()
    made["status"] = {"replicas": 1}
    managed_update(load(), kinds.DEPLOYMENT, None, made, "ctl", "Update", "T1", "status")
    with pytest.raises(ApiError) as refused:
        put(made, deployment() | {"status": {"replicas": 2}}, "a")
    assert 'conflict with "ctl" with subresource "status" using apps/v1: .status.replicas' in refused.value.message


steps = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"'])
paths = st.sets(st.lists(steps, min_size=1, max_size=4).map(tuple), max_size=8)


@given(paths)
def test_sets_of_paths_survive_their_written_form(found: set[tuple[str, ...]]) -> None:
    assert from_fields_v1(to_fields_v1(found)) == found


labels = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12"), max_size=4)


@given(st.lists(st.tuples(st.sampled_from("mn"), labels), min_size=1, max_size=6))
def test_after_any_applies_by_force_the_object_is_what_its_managers_last_asked_for(
    history: list[tuple[str, dict[str, str]]],
) -> None:
    live: Obj | None = None
    wanted: dict[str, dict[str, str]] = {}
    for manager, chosen in history:
        config = {"metadata": {"name": "c"}, "data": dict(chosen)} if chosen else {"metadata": {"name": "c"}}
        live = put(live, config, manager, force=True, kind=kinds.CONFIG_MAP)
        assert live == put(live, config, manager, force=True, now="T9", kind=kinds.CONFIG_MAP)
        taken = {key for key, value in chosen.items()}
        for other, theirs in wanted.items():
            if other != manager:
                wanted[other] = {k: v for k, v in theirs.items() if k not in taken or chosen[k] == v}
        wanted[manager] = chosen
    assert live is not None
    assert (live.get("data") or {}) == {key: value for asked in wanted.values() for key, value in asked.items()}
