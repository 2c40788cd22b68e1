"""The View's indexes say what a look at every object would say, whatever came before."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.kube import kinds, selectors, types
from glassnet.kube.types import LabelSelector, LabelSelectorRequirement, Pod
from glassnet.kube.view import Key, View

LABELS = st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2)
PUT = st.tuples(
    st.just("pod"), st.integers(0, 5), LABELS, st.sampled_from(["", "n1", "n2"]), st.sampled_from(["", "o1", "o2"])
)
SERVE = st.tuples(st.just("service"), st.integers(0, 3), LABELS, st.just(""), st.just(""))
GONE = st.tuples(
    st.sampled_from(["pod gone", "service gone"]), st.integers(0, 5), st.just({}), st.just(""), st.just("")
)
SELECTORS = [
    selectors.of({"a": "x"}),
    selectors.of({"a": "x", "b": "y"}),
    (),
    selectors.of(LabelSelector(match_expressions=(LabelSelectorRequirement("a", "Exists"),))),
    selectors.of(LabelSelector({"b": "x"}, (LabelSelectorRequirement("a", "NotIn", ("x",)),))),
    selectors.of(LabelSelector(match_expressions=(LabelSelectorRequirement("a", "In", ("x", "y")),))),
]


def decode(kind: Any, body: dict[str, Any]) -> Any:
    return types.decode(kind, msgspec.json.encode(body))


def step(view: View, what: str, number: int, labels: dict[str, str], node: str, owner: str) -> None:
    name = f"{what.split()[0]}{number}"
    meta: dict[str, Any] = {"name": name, "namespace": "default"}
    if what == "pod":
        references = [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": owner, "controller": True}] if owner else []
        meta |= {"labels": labels, "ownerReferences": references}
        affinity = {"podAntiAffinity": {}, "nodeAffinity": {}} if number % 2 else {"podAntiAffinity": {"x": 1}}
        view.apply(kinds.POD, decode(kinds.POD, {"metadata": meta, "spec": {"nodeName": node, "affinity": affinity}}))
    elif what == "service":
        view.apply(kinds.SERVICE, decode(kinds.SERVICE, {"metadata": meta, "spec": {"selector": labels}}))
    else:
        kind = kinds.POD if what == "pod gone" else kinds.SERVICE
        found = view.get(kind, Key("default", name))
        if found is not None:
            view.apply(kind, found, deleted=True)


def names(found: Any) -> list[str]:
    return sorted(obj.metadata.name for obj in found)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(PUT, SERVE, GONE), max_size=20))
def test_indexes_equal_a_search(history: list[Any]) -> None:
    view = View()
    for event in history:
        step(view, *event)
    pods: list[Pod] = list(view.pods.values())
    for selector in SELECTORS:
        wanted = [p for p in pods if selectors.matches(selector, p.metadata.labels)]
        assert names(view.pods_matching("default", selector)) == names(wanted)
        assert names(view.pods_matching("other", selector)) == []
    for labels in ({"a": "x"}, {"a": "x", "b": "y"}, {"b": "x"}, {}):
        serving = [s for s in view.services.values() if s.spec.selector and s.spec.selector.items() <= labels.items()]
        assert names(view.services_selecting("default", labels)) == names(serving)
    for node in ("n1", "n2"):
        assert names(view.pods_on(node)) == names(p for p in pods if p.spec.node_name == node)
        assert view.pod_count(node) == len(names(view.pods_on(node)))
    for owner in ("o1", "o2"):
        owned = [p for p in pods if any(ref.uid == owner for ref in p.metadata.owner_references)]
        assert names(view.controlled_by(owner, kinds.POD)) == names(owned)
        assert names(obj for _, obj in view.owned_by(owner)) == names(owned)
    assert names(view.pods_apart()) == names(p for p in pods if (p.spec.affinity or {}).get("podAntiAffinity"))


def test_an_emptied_view_holds_nothing() -> None:
    view = View()
    for number in range(4):
        step(view, "pod", number, {"a": "x"}, "n1", "o1")
        step(view, "service", number, {"a": "x"}, "", "")
    for number in range(4):
        step(view, "pod gone", number, {}, "", "")
        step(view, "service gone", number, {}, "", "")
    indexes = [
        value for name, value in vars(view).items() if name.startswith(("_by_", "_pods_", "_services_", "_slices"))
    ]
    assert len(indexes) == 7
    assert not any(indexes)
