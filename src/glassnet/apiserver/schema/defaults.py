"""API defaulting: what the server fills in before it stores an object. Source: Kubernetes 1.36 API reference, defaults of each type."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from glassnet.apiserver.schema.service_spec import family_of
from glassnet.apiserver.schema.types import Schema
from glassnet.kube import kinds
from glassnet.kube.kinds import RBAC, Kind

Obj = dict[str, Any]


def default(schema: Schema, kind: Kind, obj: Obj) -> None:
    """Fill in the defaults of an object in place; idempotent. `schema` gives the place for kinds without rules of their own."""
    if rule := _RULES.get(kind):
        rule(obj)


def _fill(obj: Obj, **values: Any) -> None:
    for name, value in values.items():
        if obj.get(name) is None:
            obj[name] = value


def _pod(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    default_pod_spec(spec)
    _fill(spec, enableServiceLinks=True)


def default_pod_spec(spec: Obj) -> None:
    """Defaults of a PodSpec, in pods and in templates."""
    _fill(
        spec,
        dnsPolicy="ClusterFirst",
        restartPolicy="Always",
        schedulerName="default-scheduler",
        securityContext={},
        terminationGracePeriodSeconds=30,
    )
    if spec.get("serviceAccountName"):
        _fill(spec, serviceAccount=spec["serviceAccountName"])
    elif spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    for volume in spec.get("volumes") or ():
        _volume(volume)
    for container in (spec.get("initContainers") or []) + (spec.get("containers") or []):
        _container(container, bool(spec.get("hostNetwork")))
    for constraint in spec.get("topologySpreadConstraints") or ():
        _fill(constraint, whenUnsatisfiable="DoNotSchedule")


def _container(container: Obj, host_network: bool) -> None:
    image = container.get("image") or ""
    tag = image.rsplit("/", 1)[-1].partition(":")[2]
    fresh = ("@" not in image) and tag in ("", "latest")
    _fill(
        container,
        imagePullPolicy="Always" if fresh else "IfNotPresent",
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    for port in container.get("ports") or ():
        _fill(port, protocol="TCP")
        if host_network:
            _fill(port, hostPort=port.get("containerPort"))
    for name in ("readinessProbe", "livenessProbe", "startupProbe"):
        if probe := container.get(name):
            _fill(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
            _handler(probe)
    for hook in (container.get("lifecycle") or {}).values():
        _handler(hook)
    for variable in container.get("env") or ():
        if reference := (variable.get("valueFrom") or {}).get("fieldRef"):
            _fill(reference, apiVersion="v1")


def _handler(handler: Obj) -> None:
    if get := handler.get("httpGet"):
        _fill(get, path="/", scheme="HTTP")
    if grpc := handler.get("grpc"):
        _fill(grpc, service="")


def _volume(volume: Obj) -> None:
    if len(volume) == 1:
        volume["emptyDir"] = {}
    for source in ("configMap", "secret", "downwardAPI", "projected"):
        if found := volume.get(source):
            _fill(found, defaultMode=420)
    for item in (volume.get("downwardAPI") or {}).get("items") or ():
        _fill(item.get("fieldRef") or {}, apiVersion="v1")
    for projection in (volume.get("projected") or {}).get("sources") or ():
        if token := projection.get("serviceAccountToken"):
            _fill(token, expirationSeconds=3600)
        for item in (projection.get("downwardAPI") or {}).get("items") or ():
            _fill(item.get("fieldRef") or {}, apiVersion="v1")
    if "hostPath" in volume:
        _fill(volume["hostPath"], type="")


def _template(spec: Obj) -> None:
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    default_pod_spec(template.setdefault("spec", {}))


def _deployment(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _template(spec)
    _fill(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy={})
    strategy = spec["strategy"]
    _fill(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _fill(strategy, rollingUpdate={})
        _fill(strategy["rollingUpdate"], maxUnavailable="25%", maxSurge="25%")


def _replica_set(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _template(spec)
    _fill(spec, replicas=1)


def _daemon_set(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _template(spec)
    _fill(spec, revisionHistoryLimit=10, updateStrategy={})
    strategy = spec["updateStrategy"]
    _fill(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _fill(strategy, rollingUpdate={})
        _fill(strategy["rollingUpdate"], maxUnavailable=1, maxSurge=0)


def _stateful_set(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _template(spec)
    _fill(
        spec,
        replicas=1,
        revisionHistoryLimit=10,
        podManagementPolicy="OrderedReady",
        updateStrategy={},
        persistentVolumeClaimRetentionPolicy={},
    )
    _fill(spec["persistentVolumeClaimRetentionPolicy"], whenDeleted="Retain", whenScaled="Retain")
    strategy = spec["updateStrategy"]
    _fill(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _fill(strategy, rollingUpdate={})
        _fill(strategy["rollingUpdate"], partition=0)


def _replication_controller(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, replicas=1)
    _template(spec)
    labels = (spec["template"]["metadata"] or {}).get("labels") or {}
    if labels and not spec.get("selector"):
        spec["selector"] = dict(labels)
    if labels and not obj.setdefault("metadata", {}).get("labels"):
        obj["metadata"]["labels"] = dict(labels)


def _job(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _template(spec)
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    _fill(spec, parallelism=1, backoffLimit=6, completionMode="NonIndexed", suspend=False)
    _fill(spec, podReplacementPolicy="Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed")
    if not spec.get("manualSelector") and (uid := obj.get("metadata", {}).get("uid")):
        labels = spec["template"]["metadata"].setdefault("labels", {})
        name = obj["metadata"].get("name", "")
        for prefix in ("batch.kubernetes.io/", ""):
            labels.setdefault(f"{prefix}controller-uid", uid)
            labels.setdefault(f"{prefix}job-name", name)
        _fill(spec, selector={"matchLabels": {"batch.kubernetes.io/controller-uid": uid}})


def _service(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, type="ClusterIP", sessionAffinity="None")
    external, kind = spec["type"] in ("NodePort", "LoadBalancer"), spec["type"]
    for port in spec.get("ports") or ():
        _fill(port, protocol="TCP")
        if kind != "ExternalName" and port.get("targetPort") in (None, "", 0):
            port["targetPort"] = port.get("port")
    if spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        _fill(config, timeoutSeconds=10800)
    elif spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    if kind != "ExternalName":
        ips = [ip for ip in spec.get("clusterIPs") or (spec.get("clusterIP"),) if ip and ip != "None"]
        families = spec.get("ipFamilies") or [family_of(ip) for ip in ips] or ["IPv4"]
        policy = "RequireDualStack" if max(len(families), len(ips)) > 1 else "SingleStack"
        _fill(spec, internalTrafficPolicy="Cluster", ipFamilies=families, ipFamilyPolicy=policy)
    if external or spec.get("externalIPs"):
        _fill(spec, externalTrafficPolicy="Cluster")
    if kind == "LoadBalancer":
        _fill(spec, allocateLoadBalancerNodePorts=True)


def _endpoints(obj: Obj) -> None:
    for subset in obj.get("subsets") or ():
        for port in subset.get("ports") or ():
            _fill(port, protocol="TCP")


def _endpoint_slice(obj: Obj) -> None:
    for port in obj.get("ports") or ():
        _fill(port, name="", protocol="TCP")


def _network_policy(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, podSelector={})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for rule in (spec.get("ingress") or []) + (spec.get("egress") or []):
        for port in rule.get("ports") or ():
            _fill(port, protocol="TCP")


def _ingress(obj: Obj) -> None:
    for rule in obj.setdefault("spec", {}).get("rules") or ():
        for path in (rule.get("http") or {}).get("paths") or ():
            _fill(path, pathType="ImplementationSpecific")


def _secret(obj: Obj) -> None:
    _fill(obj, type="Opaque")
    for name, text in (obj.pop("stringData", None) or {}).items():
        obj.setdefault("data", {})[name] = _base64(text)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _namespace(obj: Obj) -> None:
    name = obj.get("metadata", {}).get("name")
    if name:
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name
    _fill(obj.setdefault("spec", {}), finalizers=["kubernetes"])
    _fill(obj.setdefault("status", {}), phase="Active")


def _node(obj: Obj) -> None:
    obj.setdefault("spec", {})
    obj.setdefault("status", {})


def _role_binding(obj: Obj) -> None:
    _fill(obj.setdefault("roleRef", {}), apiGroup=RBAC)
    for subject in obj.get("subjects") or ():
        _fill(subject, **({"apiGroup": RBAC} if subject.get("kind") in ("User", "Group") else {}))


_RULES: dict[Kind, Callable[[Obj], None]] = {
    kinds.POD: _pod,
    kinds.DEPLOYMENT: _deployment,
    kinds.REPLICA_SET: _replica_set,
    kinds.DAEMON_SET: _daemon_set,
    kinds.STATEFUL_SET: _stateful_set,
    kinds.REPLICATION_CONTROLLER: _replication_controller,
    kinds.JOB: _job,
    kinds.SERVICE: _service,
    kinds.ENDPOINTS: _endpoints,
    kinds.ENDPOINT_SLICE: _endpoint_slice,
    kinds.NETWORK_POLICY: _network_policy,
    kinds.INGRESS: _ingress,
    kinds.SECRET: _secret,
    kinds.NAMESPACE: _namespace,
    kinds.NODE: _node,
    kinds.CLUSTER_ROLE_BINDING: _role_binding,
    kinds.ROLE_BINDING: _role_binding,
}
