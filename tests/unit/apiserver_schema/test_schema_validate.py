"""Refusals in Kubernetes' words: the field's path, the kind of fault, the rule."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from glassnet.apiserver import schema
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError

Obj = dict[str, Any]
C: Obj = {"name": "c", "image": "i"}
P: list[Obj] = [{"port": 80}]


def faults(kind: Kind, obj: Obj) -> list[str]:
    obj = copy.deepcopy(obj)
    obj.setdefault("metadata", {"name": "x", "namespace": "demo"})
    schema.default(schema.load(), kind, obj)
    return [str(fault) for fault in schema.validate_create(kind, obj)]


def has(found: list[str], want: str) -> bool:
    return any(fault == want or (want.endswith("…") and fault.startswith(want[:-1])) for fault in found)


POD_FAULTS = [
    ({}, "spec.containers: Required value"),
    ({"containers": [{"image": "i"}]}, "spec.containers[0].name: Required value"),
    ({"containers": [{"name": "c"}]}, "spec.containers[0].image: Required value"),
    ({"containers": [C, C]}, 'spec.containers[1].name: Duplicate value: "c"'),
    ({"containers": [C], "initContainers": [C]}, 'spec.containers[0].name: Duplicate value: "c"'),
    ({"containers": [{**C, "name": "A_B"}]}, 'spec.containers[0].name: Invalid value: "A_B": a lowercase RFC 1123 label must…'),
    ({"containers": [{**C, "ports": [{"containerPort": 65536}]}]}, "spec.containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive"),
    ({"containers": [{**C, "ports": [{}]}]}, "spec.containers[0].ports[0].containerPort: Required value"),
    ({"containers": [{**C, "ports": [{"containerPort": 1, "protocol": "X"}]}]}, 'spec.containers[0].ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"'),
    ({"containers": [{**C, "ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}]}, 'spec.containers[0].ports[1].name: Duplicate value: "a"'),
    ({"containers": [{**C, "ports": [{"containerPort": 1, "name": "sixteen-letters-"}]}]}, 'spec.containers[0].ports[0].name: Invalid value: "sixteen-letters-": must be no more than 15 characters'),
    ({"containers": [{**C, "ports": [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]}]}, 'spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//5"'),
    ({"hostNetwork": True, "containers": [{**C, "ports": [{"containerPort": 1, "hostPort": 5}]}]}, "spec.containers[0].ports[0].containerPort: Invalid value: 1: must match `hostPort` when `hostNetwork` is true"),
    ({"containers": [{**C, "env": [{"value": "v"}]}]}, "spec.containers[0].env[0].name: Required value"),
    ({"containers": [{**C, "env": [{"name": "A", "value": "v", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}]}, 'spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty'),
    ({"containers": [{**C, "livenessProbe": {}}]}, "spec.containers[0].livenessProbe: Required value: must specify a handler type"),
    ({"containers": [{**C, "readinessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}]}, "spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"),
    ({"containers": [{**C, "livenessProbe": {"tcpSocket": {"port": 0}}}]}, "spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive"),
    ({"containers": [{**C, "livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}}]}, "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"),
    ({"containers": [{**C, "imagePullPolicy": "Often"}]}, 'spec.containers[0].imagePullPolicy: Unsupported value: "Often": supported values: "Always", "IfNotPresent", "Never"'),
    ({"containers": [C], "restartPolicy": "Maybe"}, 'spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "Never", "OnFailure"'),
    ({"containers": [C], "dnsPolicy": "X"}, 'spec.dnsPolicy: Unsupported value: "X": supported values: "ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"'),
    ({"containers": [{**C, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}, 'spec.containers[0].volumeMounts[0].name: Not found: "v"'),
    ({"containers": [C], "volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]}, 'spec.volumes[1].name: Duplicate value: "v"'),
    ({"containers": [C], "volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}, "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"),
    ({"containers": [{**C, "resources": {"limits": {"cpu": "500m"}, "requests": {"cpu": "0.6"}}}]}, 'spec.containers[0].resources.requests: Invalid value: "0.6": must be less than or equal to cpu limit of 500m'),
    ({"containers": [{**C, "resources": {"limits": {"memory": "-1Gi"}}}]}, 'spec.containers[0].resources.limits[memory]: Invalid value: "-1Gi": must be greater than or equal to 0'),
    ({"containers": [C], "nodeName": "A b"}, 'spec.nodeName: Invalid value: "A b": a lowercase RFC 1123 subdomain must…'),
    ({"containers": [C], "terminationGracePeriodSeconds": -1}, "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "want"), POD_FAULTS)
def test_pods(spec: Obj, want: str) -> None:
    found = faults(kinds.POD, {"spec": spec})
    assert has(found, want), found


SERVICE_FAULTS = [
    ({}, "spec.ports: Required value"),
    ({"ports": [{"port": 80}, {"port": 81}]}, "spec.ports[0].name: Required value"),
    ({"ports": [{"port": 0}]}, "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
    ({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}, 'spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}'),
    ({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}, 'spec.ports[1].name: Duplicate value: "a"'),
    ({"ports": [{"port": 80, "nodePort": 30000}]}, "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"),
    ({"type": "NodePort", "ports": [{"port": 80, "name": "a", "nodePort": 30001}, {"port": 81, "name": "b", "nodePort": 30001}]}, "spec.ports[1].nodePort: Duplicate value: 30001"),
    ({"type": "Foo", "ports": P}, 'spec.type: Unsupported value: "Foo": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"'),
    ({"type": "NodePort", "clusterIP": "None", "ports": P}, "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"),
    ({"clusterIP": "10.32.0", "ports": P}, 'spec.clusterIPs[0]: Invalid value: "10.32.0": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)'),
    ({"type": "ExternalName"}, "spec.externalName: Required value"),
    ({"externalIPs": ["127.0.0.1"], "ports": P}, 'spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be…'),
    ({"loadBalancerSourceRanges": ["10.0.0.0/8"], "ports": P}, "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"),
    ({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0"], "ports": P}, 'spec.loadBalancerSourceRanges[0]: Invalid value: "10.0.0.0": must be a valid CIDR value…'),
    ({"externalTrafficPolicy": "Local", "ports": P}, 'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services'),
    ({"healthCheckNodePort": 31000, "ports": P}, "spec.healthCheckNodePort: Invalid value: 31000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"),
    ({"sessionAffinity": "Sticky", "ports": P}, 'spec.sessionAffinity: Unsupported value: "Sticky": supported values: "ClientIP", "None"'),
    ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}, "ports": P}, "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400"),
    ({"ipFamilies": ["IPv4", "IPv4"], "ports": P}, 'spec.ipFamilies[1]: Duplicate value: "IPv4"'),
    ({"ipFamilyPolicy": "Both", "ports": P}, 'spec.ipFamilyPolicy: Unsupported value: "Both": supported values: "PreferDualStack", "RequireDualStack", "SingleStack"'),
    ({"internalTrafficPolicy": "X", "ports": P}, 'spec.internalTrafficPolicy: Unsupported value: "X": supported values: "Cluster", "Local"'),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "want"), SERVICE_FAULTS)
def test_services(spec: Obj, want: str) -> None:
    found = faults(kinds.SERVICE, {"spec": spec})
    assert has(found, want), found


TEMPLATE: Obj = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [C]}}
SELECTOR: Obj = {"matchLabels": {"a": "b"}}
SLICE: Obj = {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]}


def ingress(path: Obj) -> Obj:
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    return {"spec": {"rules": [{"http": {"paths": [{"backend": backend, **path}]}}]}}


def policy(rule: Obj) -> Obj:
    return {"spec": {"podSelector": {}, "ingress": [rule]}}


OTHER_FAULTS: list[tuple[Kind, Obj, str]] = [
    (kinds.DEPLOYMENT, {"spec": {"template": TEMPLATE}}, "spec.selector: Required value"),
    (kinds.DEPLOYMENT, {"spec": {"selector": {}, "template": TEMPLATE}}, "spec.selector: Invalid value: {}: empty selector is invalid for deployment"),
    (kinds.STATEFUL_SET, {"spec": {"selector": {}, "template": TEMPLATE}}, "spec.selector: Invalid value: {}: empty selector is invalid for statefulset"),
    (kinds.DEPLOYMENT, {"spec": {"selector": {"matchLabels": {"a": "c"}}, "template": TEMPLATE}}, 'spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`'),
    (kinds.DEPLOYMENT, {"spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "Foo"}]}, "template": TEMPLATE}}, 'spec.selector.matchExpressions[0].operator: Invalid value: "Foo": not a valid selector operator'),
    (kinds.DEPLOYMENT, {"spec": {"selector": SELECTOR, "template": TEMPLATE, "replicas": -1}}, "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
    (kinds.DEPLOYMENT, {"spec": {"selector": SELECTOR, "template": {**TEMPLATE, "spec": {"containers": [C], "restartPolicy": "Never"}}}}, 'spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"'),
    (kinds.DEPLOYMENT, {"spec": {"selector": SELECTOR, "template": TEMPLATE, "strategy": {"type": "Fast"}}}, 'spec.strategy.type: Unsupported value: "Fast": supported values: "Recreate", "RollingUpdate"'),
    (kinds.DEPLOYMENT, {"spec": {"selector": SELECTOR, "template": TEMPLATE, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}}, "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"),
    (kinds.JOB, {"spec": {"template": {"spec": {"containers": [C]}}}}, 'spec.template.spec.restartPolicy: Unsupported value: "Always": supported values: "Never", "OnFailure"'),
    (kinds.JOB, {"spec": {"parallelism": -1, "template": {"spec": {"containers": [C], "restartPolicy": "Never"}}}}, "spec.parallelism: Invalid value: -1: must be greater than or equal to 0"),
    (kinds.ENDPOINT_SLICE, {"endpoints": []}, "addressType: Required value"),
    (kinds.ENDPOINT_SLICE, {**SLICE, "addressType": "IPv6"}, 'endpoints[0].addresses[0]: Invalid value: "10.0.0.1": must be an IPv6 address'),
    (kinds.ENDPOINT_SLICE, {**SLICE, "endpoints": [{"addresses": []}]}, "endpoints[0].addresses: Required value: must contain at least 1 address"),
    (kinds.ENDPOINT_SLICE, {**SLICE, "ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}, 'ports[1].name: Duplicate value: "a"'),
    (kinds.INGRESS, ingress({"path": "x", "pathType": "Prefix"}), 'spec.rules[0].http.paths[0].path: Invalid value: "x": must be an absolute path'),
    (kinds.INGRESS, ingress({"path": "/", "pathType": "Regex"}), 'spec.rules[0].http.paths[0].pathType: Unsupported value: "Regex": supported values: "Exact", "ImplementationSpecific", "Prefix"'),
    (kinds.INGRESS, {"spec": {}}, "spec: Invalid value: {}: either `defaultBackend` or `rules` must be specified"),
    (kinds.NETWORK_POLICY, policy({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}), 'spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`…'),
    (kinds.NETWORK_POLICY, policy({"ports": [{"port": 80, "endPort": 79}]}), "spec.ingress[0].ports[0].endPort: Invalid value: 79: must be greater than or equal to `port`"),
    (kinds.NETWORK_POLICY, policy({"from": [{}]}), "spec.ingress[0].from[0]: Required value: must specify a peer"),
    (kinds.CONFIG_MAP, {"data": {"a b": "c"}}, 'data[a b]: Invalid value: "a b": a valid config key must consist of…'),
    (kinds.CONFIG_MAP, {"metadata": {"name": "A"}}, 'metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must…'),
    (kinds.CONFIG_MAP, {"metadata": {"name": "a", "labels": {"x": "b c"}}}, 'metadata.labels: Invalid value: "b c": a valid label must…'),
    (kinds.CONFIG_MAP, {"metadata": {"name": "a", "annotations": {"k": "v" * (256 * 1024)}}}, "metadata.annotations: Too long: may not be more than 262144 bytes"),
    (kinds.SERVICE, {"metadata": {"name": "1a"}, "spec": {"ports": P}}, 'metadata.name: Invalid value: "1a": a DNS-1035 label must…'),
    (kinds.NAMESPACE, {"metadata": {"name": "a.b"}}, 'metadata.name: Invalid value: "a.b": a lowercase RFC 1123 label must…'),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "obj", "want"), OTHER_FAULTS)
def test_other_kinds(kind: Kind, obj: Obj, want: str) -> None:
    found = faults(kind, obj)
    assert has(found, want), found


def updated(kind: Kind, old: Obj, new: Obj) -> list[str]:
    pair = []
    for given in (old, new):
        obj = copy.deepcopy({"metadata": {"name": "x", "namespace": "demo"}, **given})
        schema.default(schema.load(), kind, obj)
        pair.append(obj)
    return [str(fault) for fault in schema.validate_update(kind, pair[1], pair[0])]


POD: Obj = {"spec": {"containers": [C], "tolerations": [{"key": "a", "operator": "Exists"}]}}
UPDATES: list[tuple[Kind, Obj, Obj, str]] = [
    (kinds.POD, POD, {"spec": {**POD["spec"], "nodeName": "other"}}, "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`…"),
    (kinds.POD, POD, {"spec": {"containers": [C]}}, "spec: Forbidden: pod updates may not change fields other than…"),
    (kinds.DEPLOYMENT, {"spec": {"selector": SELECTOR, "template": TEMPLATE}}, {"spec": {"selector": {"matchLabels": {"a": "b", "c": "d"}}, "template": {**TEMPLATE, "metadata": {"labels": {"a": "b", "c": "d"}}}}}, 'spec.selector: Invalid value: {"matchLabels":{"a":"b","c":"d"}}: field is immutable'),
    (kinds.SERVICE, {"spec": {"clusterIP": "10.32.0.5", "ports": P}}, {"spec": {"clusterIP": "10.32.0.6", "ports": P}}, 'spec.clusterIPs[0]: Invalid value: ["10.32.0.6"]: may not change once set'),
    (kinds.ENDPOINT_SLICE, SLICE, {"addressType": "IPv6", "endpoints": []}, 'addressType: Invalid value: "IPv6": field is immutable'),
    (kinds.CONFIG_MAP, {"immutable": True, "data": {"a": "b"}}, {"immutable": True, "data": {"a": "c"}}, "data: Forbidden: field is immutable when `immutable` is set"),
    (kinds.CONFIG_MAP, {"immutable": True}, {}, "immutable: Forbidden: field is immutable when `immutable` is set"),
    (kinds.SECRET, {"type": "a"}, {"type": "b"}, 'type: Invalid value: "b": field is immutable'),
    (kinds.NODE, {"spec": {"podCIDRs": ["10.200.0.0/24"]}}, {"spec": {"podCIDRs": ["10.200.1.0/24"]}}, "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"),
    (kinds.STATEFUL_SET, {"spec": {"selector": SELECTOR, "template": TEMPLATE}}, {"spec": {"selector": SELECTOR, "template": TEMPLATE, "serviceName": "x"}}, "spec: Forbidden: updates to statefulset spec for fields other than 'replicas'…"),
    (kinds.CONFIG_MAP, {"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}, 'metadata.name: Invalid value: "b": field is immutable'),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "old", "new", "want"), UPDATES)
def test_what_an_update_may_not_change(kind: Kind, old: Obj, new: Obj, want: str) -> None:
    found = updated(kind, old, new)
    assert has(found, want), found
    assert updated(kind, old, old) == []


def test_what_a_pod_update_may_change() -> None:
    spec = {
        "containers": [{**C, "image": "j"}],
        "tolerations": [*POD["spec"]["tolerations"], {"key": "b", "operator": "Exists"}],
        "activeDeadlineSeconds": 5,
    }
    old = copy.deepcopy(POD)
    old["spec"]["containers"][0]["imagePullPolicy"] = spec["containers"][0]["imagePullPolicy"] = "Always"
    assert updated(kinds.POD, old, {"spec": spec}) == []


def test_the_answer_carries_the_causes() -> None:
    found = schema.validate_create(kinds.DEPLOYMENT, {"metadata": {"name": "x"}, "spec": {"template": {"spec": {}}}})
    error = schema.invalid(kinds.DEPLOYMENT, "x", found)
    assert (error.status, error.reason) == (422, "Invalid")
    assert error.message.startswith('Deployment.apps "x" is invalid: [spec.selector: Required value, ')
    assert error.details["causes"][0] == {
        "reason": "FieldValueRequired",
        "message": "Required value",
        "field": "spec.selector",
    }
    assert (error.details["group"], error.details["kind"], error.details["name"]) == ("apps", "Deployment", "x")


def test_one_fault_stands_without_brackets_and_is_said_once() -> None:
    fault = schema.FieldError("FieldValueRequired", "Required value", "spec.ports")
    assert (
        schema.invalid(kinds.SERVICE, "x", [fault, fault]).message
        == 'Service "x" is invalid: spec.ports: Required value'
    )


# ---- decoding


def test_unknown_fields_are_named_with_their_path() -> None:
    obj = {
        "spec": {"foo": 1, "template": {"spec": {"containers": [{"nam": "x"}]}}},
        "metadata": {"labels": {"any": "thing"}},
    }
    assert schema.unknown_fields(schema.load(), kinds.DEPLOYMENT, obj) == [
        'unknown field "spec.foo"',
        'unknown field "spec.template.spec.containers[0].nam"',
    ]


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        ({"spec": {"replicas": "3"}}, "json: cannot unmarshal string into Go struct field Deployment.spec.replicas of type int32"),
        ({"spec": {"paused": 1}}, "json: cannot unmarshal number into Go struct field Deployment.spec.paused of type bool"),
        ({"spec": {"replicas": True}}, "json: cannot unmarshal bool into Go struct field Deployment.spec.replicas of type int32"),
        ({"spec": []}, "json: cannot unmarshal array into Go struct field Deployment.spec of type"),
        ({"metadata": {"labels": {"a": 1}}}, "json: cannot unmarshal number into Go struct field Deployment.metadata.labels.a of type string"),
        ({"spec": {"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}}}, "quantities must match the regular expression"),
    ],
)  # fmt: skip
def test_wrong_json_types_are_bad_requests(obj: Obj, text: str) -> None:
    with pytest.raises(ApiError) as refused:
        schema.unknown_fields(schema.load(), kinds.DEPLOYMENT, obj)
    assert refused.value.status == 400
    assert text in refused.value.message


def test_pruning_drops_unknown_fields_and_nulls() -> None:
    obj: Obj = {
        "spec": {"foo": 1, "replicas": None, "paused": True},
        "metadata": {"name": "x", "labels": {"a": None, "b": "c"}},
    }
    schema.prune(schema.load(), kinds.DEPLOYMENT, obj)
    assert obj == {"spec": {"paused": True}, "metadata": {"name": "x", "labels": {"b": "c"}}}
