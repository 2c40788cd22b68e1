"""Roles and bindings: what is refused, in the words of the real server; what is filled in."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from glassnet.apiserver import schema
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind

Obj = dict[str, Any]
REF = {"kind": "ClusterRole", "name": "view"}
RULE = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}


def faults(kind: Kind, obj: Obj, namespace: str = "") -> list[str]:
    obj = {"metadata": {"name": "system:x", **({"namespace": namespace} if namespace else {})}, **copy.deepcopy(obj)}
    schema.default(schema.load(), kind, obj)
    return [str(fault) for fault in schema.validate_create(kind, obj)]


@pytest.mark.parametrize(
    ("kind", "obj", "fault"),
    [
        (kinds.ROLE, {"rules": [{**RULE, "verbs": []}]}, "rules[0].verbs: Required value: verbs must contain at least one value"),
        (kinds.ROLE, {"rules": [RULE, {**RULE, "apiGroups": []}]}, "rules[1].apiGroups: Required value: resource rules must supply at least one api group"),
        (kinds.ROLE, {"rules": [{**RULE, "resources": []}]}, "rules[0].resources: Required value: resource rules must supply at least one resource"),
        (kinds.ROLE, {"rules": [{"nonResourceURLs": ["/x"], "verbs": ["get"]}]}, 'rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs'),
        (kinds.CLUSTER_ROLE, {"rules": [{**RULE, "nonResourceURLs": ["/x"]}]}, 'rules[0].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs'),
        (kinds.CLUSTER_ROLE_BINDING, {"roleRef": {**REF, "kind": "Role"}}, 'roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"'),
        (kinds.ROLE_BINDING, {"roleRef": {**REF, "name": ""}}, "roleRef.name: Required value"),
        (kinds.ROLE_BINDING, {"roleRef": {**REF, "apiGroup": "x"}}, 'roleRef.apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"'),
        (kinds.ROLE_BINDING, {"roleRef": REF, "subjects": [{"kind": "ServiceAccount", "name": "a"}]}, "subjects[0].namespace: Required value"),
        (kinds.ROLE_BINDING, {"roleRef": REF, "subjects": [{"kind": "Robot", "name": "a"}]}, 'subjects[0].kind: Unsupported value: "Robot": supported values: "Group", "ServiceAccount", "User"'),
        (kinds.ROLE_BINDING, {"roleRef": REF, "subjects": [{"kind": "User"}]}, "subjects[0].name: Required value"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(kind: Kind, obj: Obj, fault: str) -> None:
    found = faults(kind, obj, "demo" if kind.namespaced else "")
    assert len(found) == 1
    assert found[0].replace("'", '"') == fault or sorted(found[0].split()) == sorted(fault.split())


def test_good_ones_pass_and_groups_are_filled_in() -> None:
    binding: Obj = {"metadata": {"name": "system:node"}, "roleRef": dict(REF), "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "a", "namespace": "d"}]}  # fmt: skip
    schema.default(schema.load(), kinds.CLUSTER_ROLE_BINDING, binding)
    assert schema.validate_create(kinds.CLUSTER_ROLE_BINDING, binding) == []
    assert binding["roleRef"]["apiGroup"] == binding["subjects"][0]["apiGroup"] == "rbac.authorization.k8s.io"
    assert "apiGroup" not in binding["subjects"][1]
    assert faults(kinds.CLUSTER_ROLE, {"rules": [RULE, {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]}) == []


def test_a_binding_keeps_its_role() -> None:
    old = {"metadata": {"name": "b", "namespace": "demo"}, "roleRef": {**REF, "apiGroup": "rbac.authorization.k8s.io"}}
    new = copy.deepcopy(old)
    new["roleRef"]["name"] = "edit"
    assert "roleRef" in str(schema.validate_update(kinds.ROLE_BINDING, new, old)[0])
    assert schema.validate_update(kinds.ROLE_BINDING, copy.deepcopy(old), old) == []


def test_names_that_no_path_could_hold() -> None:
    assert [str(fault) for fault in schema.validate_create(kinds.ROLE, {"metadata": {"name": "a/b", "namespace": "d"}})]
