"""JSON patch, merge patch, strategic merge patch: what the RFCs and Kubernetes' directives ask for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.apiserver.schema import json_patch, load, merge_patch, strategic_merge
from glassnet.kube import kinds
from glassnet.net.errors import ApiError

Obj = dict[str, Any]
leaf = st.one_of(st.booleans(), st.integers(-5, 5), st.text("ab/~", max_size=3))
values = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=3)
)

APPLIED: list[tuple[str, Any, list[Obj], Any]] = [
    ("add a member", {"a": 1}, [{"op": "add", "path": "/b", "value": 2}], {"a": 1, "b": 2}),
    ("add replaces a member", {"a": 1}, [{"op": "add", "path": "/a", "value": None}], {"a": None}),
    ("insert into an array", [1, 3], [{"op": "add", "path": "/1", "value": 2}], [1, 2, 3]),
    ("append", [1], [{"op": "add", "path": "/-", "value": [2]}], [1, [2]]),
    ("remove a member", {"a": 1, "b": 2}, [{"op": "remove", "path": "/a"}], {"b": 2}),
    ("remove an element", [1, 2, 3], [{"op": "remove", "path": "/1"}], [1, 3]),
    ("replace", {"a": {"b": 1}}, [{"op": "replace", "path": "/a/b", "value": 2}], {"a": {"b": 2}}),
    ("replace an element in its place", [1, 2, 3], [{"op": "replace", "path": "/1", "value": 9}], [1, 9, 3]),
    ("replace everything", {"a": 1}, [{"op": "replace", "path": "", "value": [1]}], [1]),
    ("move", {"a": {"b": 1}, "c": {}}, [{"op": "move", "from": "/a/b", "path": "/c/d"}], {"a": {}, "c": {"d": 1}}),
    ("move an element", [1, 2, 3], [{"op": "move", "from": "/0", "path": "/2"}], [2, 3, 1]),
    ("copy", {"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/b/-", "value": 2}], {"a": [1], "b": [1, 2]}),
    ("test passes", {"a": [1, {"b": "c"}]}, [{"op": "test", "path": "/a", "value": [1, {"b": "c"}]}], {"a": [1, {"b": "c"}]}),
    ("~1 is a slash", {"a/b": 1}, [{"op": "remove", "path": "/a~1b"}], {}),
    ("~01 is ~1", {"~1": 1}, [{"op": "replace", "path": "/~01", "value": 2}], {"~1": 2}),
    ("the empty name", {"": 1}, [{"op": "remove", "path": "/"}], {}),
    ("unknown members of an operation are ignored", {}, [{"op": "add", "path": "/a", "value": 1, "x": 2}], {"a": 1}),
]  # fmt: skip

REFUSED: list[tuple[str, Any, Any, int]] = [
    ("test fails", {"a": 1}, [{"op": "test", "path": "/a", "value": 2}], 422),
    ("true is not 1", {"a": True}, [{"op": "test", "path": "/a", "value": 1}], 422),
    ("nor deep inside", {"a": [{"b": 1}]}, [{"op": "test", "path": "/a", "value": [{"b": True}]}], 422),
    ("no such member to remove", {}, [{"op": "remove", "path": "/a"}], 422),
    ("no such member to replace", {}, [{"op": "replace", "path": "/a", "value": 1}], 422),
    ("no such parent", {}, [{"op": "add", "path": "/a/b", "value": 1}], 422),
    ("beyond the end", [1], [{"op": "add", "path": "/2", "value": 1}], 422),
    ("leading zero", [1, 2], [{"op": "remove", "path": "/01"}], 422),
    ("- names no element", [1], [{"op": "remove", "path": "/-"}], 422),
    ("into a text", {"a": "b"}, [{"op": "add", "path": "/a/c", "value": 1}], 422),
    ("into its own child", {"a": {"b": 1}}, [{"op": "move", "from": "/a", "path": "/a/b"}], 422),
    ("unknown operation", {}, [{"op": "spam", "path": "/a"}], 400),
    ("no value", {}, [{"op": "add", "path": "/a"}], 400),
    ("no from", {}, [{"op": "move", "path": "/a"}], 400),
    ("no pointer", {}, [{"op": "add", "path": "a", "value": 1}], 400),
    ("not a list", {}, {"op": "add", "path": "/a", "value": 1}, 400),
    ("not an operation", {}, ["add"], 400),
]  # fmt: skip


@pytest.mark.parametrize(("document", "operations", "want"), [c[1:] for c in APPLIED], ids=[c[0] for c in APPLIED])
def test_json_patch(document: Any, operations: list[Obj], want: Any) -> None:
    before = copy.deepcopy(document)
    assert json_patch(document, operations) == want
    assert document == before


@pytest.mark.parametrize(("document", "operations", "status"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_json_patch_refuses(document: Any, operations: Any, status: int) -> None:
    before = copy.deepcopy(document)
    with pytest.raises(ApiError) as refused:
        json_patch(document, operations)
    assert refused.value.status == status
    assert document == before


@given(values)
def test_a_value_added_is_found_by_its_pointer(value: Any) -> None:
    name = "a/~b"
    added = json_patch({}, [{"op": "add", "path": "/a~1~0b", "value": value}])
    assert added == {name: value}
    assert (
        json_patch(added, [{"op": "test", "path": "/a~1~0b", "value": value}, {"op": "remove", "path": "/a~1~0b"}])
        == {}
    )


MERGED = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a"], {"b": 1}, {"b": 1}),
    ({"a": 1}, ["c"], ["c"]),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("document", "patch", "want"), MERGED)
def test_merge_patch(document: Any, patch: Any, want: Any) -> None:
    before = copy.deepcopy((document, patch))
    assert merge_patch(document, patch) == want
    assert (document, patch) == before


@given(st.dictionaries(st.text("ab", max_size=2), values), st.dictionaries(st.text("ab", max_size=2), values))
def test_merging_twice_is_merging_once(document: Obj, patch: Obj) -> None:
    once = merge_patch(document, patch)
    assert merge_patch(once, patch) == once


# ---- strategic merge

POD: Obj = {
    "metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x/one", "x/two"]},
    "spec": {
        "containers": [
            {"name": "web", "image": "nginx:1", "args": ["a", "b"], "ports": [{"containerPort": 80}, {"containerPort": 81}]},
            {"name": "log", "image": "busybox"},
        ],
        "volumes": [{"name": "data", "emptyDir": {}}],
        "nodeSelector": {"zone": "a", "disk": "ssd"},
    },
}  # fmt: skip


def pod_with(patch: Obj) -> Obj:
    before = copy.deepcopy(POD)
    result = strategic_merge(load(), kinds.POD, POD, patch)
    assert before == POD
    return result


def names(pod: Obj) -> list[str]:
    return [container["name"] for container in pod["spec"]["containers"]]


def test_lists_merge_by_their_key() -> None:
    pod = pod_with({"spec": {"containers": [{"name": "web", "image": "nginx:2"}, {"name": "new", "image": "i"}]}})
    assert sorted(names(pod)) == ["log", "new", "web"]
    web = next(c for c in pod["spec"]["containers"] if c["name"] == "web")
    assert web == {**POD["spec"]["containers"][0], "image": "nginx:2"}


def test_lists_without_a_key_are_replaced() -> None:
    pod = pod_with({"spec": {"containers": [{"name": "web", "args": ["c"]}]}})
    assert pod["spec"]["containers"][0]["args"] == ["c"]


def test_maps_merge_and_null_removes() -> None:
    pod = pod_with({"metadata": {"labels": {"a": None, "c": "3"}}, "spec": {"nodeSelector": None}})
    assert pod["metadata"]["labels"] == {"b": "2", "c": "3"}
    assert "nodeSelector" not in pod["spec"]


def test_delete_directive_takes_an_item() -> None:
    pod = pod_with({"spec": {"containers": [{"name": "log", "$patch": "delete"}]}})
    assert names(pod) == ["web"]


def test_delete_directive_in_a_nested_list() -> None:
    pod = pod_with({"spec": {"containers": [{"name": "web", "ports": [{"containerPort": 80, "$patch": "delete"}]}]}})
    assert pod["spec"]["containers"][0]["ports"] == [{"containerPort": 81}]


def test_replace_directive() -> None:
    pod = pod_with(
        {
            "metadata": {"labels": {"$patch": "replace", "z": "9"}},
            "spec": {"containers": [{"$patch": "replace"}, {"name": "only"}]},
        }
    )
    assert pod["metadata"]["labels"] == {"z": "9"}
    assert pod["spec"]["containers"] == [{"name": "only"}]


def test_primitive_lists_merge_and_shrink() -> None:
    assert pod_with({"metadata": {"finalizers": ["x/two", "x/three"]}})["metadata"]["finalizers"] == [
        "x/one",
        "x/two",
        "x/three",
    ]
    shrunk = pod_with({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/one"]}})
    assert shrunk["metadata"]["finalizers"] == ["x/two"]


def test_retain_keys_drops_what_it_does_not_name() -> None:
    volumes = [{"name": "data", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}]
    assert pod_with({"spec": {"volumes": volumes}})["spec"]["volumes"] == [{"name": "data", "hostPath": {"path": "/x"}}]


def test_element_order_is_obeyed() -> None:
    order = [{"name": "log"}, {"name": "new"}, {"name": "web"}]
    pod = pod_with({"spec": {"$setElementOrder/containers": order, "containers": [{"name": "new", "image": "i"}]}})
    assert names(pod) == ["log", "new", "web"]
    turned = pod_with({"spec": {"$setElementOrder/containers": [{"name": "log"}, {"name": "web"}]}})
    assert names(turned) == ["log", "web"]


def test_service_ports_merge_by_port() -> None:
    service = {"spec": {"ports": [{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81}]}}
    merged = strategic_merge(load(), kinds.SERVICE, service, {"spec": {"ports": [{"port": 80, "targetPort": 8080}]}})
    assert merged["spec"]["ports"] == [
        {"name": "a", "port": 80, "nodePort": 30001, "targetPort": 8080},
        {"name": "b", "port": 81},
    ]


@pytest.mark.parametrize(
    "patch",
    [
        [],
        "x",
        {"spec": {"$patch": "spam"}},
        {"spec": {"containers": [{"image": "no name"}]}},
        {"spec": {"containers": ["x"]}},
    ],
)
def test_misuse_is_a_bad_request(patch: Any) -> None:
    with pytest.raises(ApiError) as refused:
        strategic_merge(load(), kinds.POD, POD, patch)
    assert refused.value.status == 400


@given(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xyz")), st.lists(st.sampled_from("pqrs"), unique=True))
def test_merging_a_whole_object_into_any_other_gives_its_fields(labels: dict[str, str], containers: list[str]) -> None:
    patch: Obj = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": n, "image": n} for n in containers]}}
    merged = pod_with(patch)
    assert merged["metadata"]["labels"] == {**POD["metadata"]["labels"], **labels}
    assert set(names(merged)) == {"web", "log", *containers}
    assert strategic_merge(load(), kinds.POD, merged, patch) == merged
