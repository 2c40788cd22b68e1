"""The cells of each kind's table row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from glassnet.apiserver.schema.pod_cells import POD, POD_COLUMNS
from glassnet.apiserver.schema.text import age, duration, join, labels, selector_text
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind

Obj = dict[str, Any]
Row = Callable[[Obj, datetime], list[Any]]


class Column(NamedTuple):
    """A column; `wide` ones show with -o wide."""

    name: str
    type: str = "string"
    wide: bool = False

    def definition(self) -> Obj:
        """As a TableColumnDefinition."""
        form = "name" if self.name == "Name" else ""
        return {
            "name": self.name,
            "type": self.type,
            "format": form,
            "description": "",
            "priority": 1 if self.wide else 0,
        }


def _columns(narrow: str, wide: str = "") -> list[Column]:
    """Columns by name, those of -o wide apart; `#` before a name makes it one of integers."""
    return [Column(name.lstrip("#"), "integer" if name.startswith("#") else "string") for name in narrow.split("|")] + [
        Column(name.strip(), wide=True) for name in wide.split("|") if name
    ]


PLAIN = _columns("Name|Age")
_OLD_CLASS = "kubernetes.io/ingress.class"  # the annotation that came before spec.ingressClassName


def plain(obj: Obj, now: datetime) -> list[Any]:
    """Name and age."""
    return [obj["metadata"]["name"], age(obj, now)]


def _count(value: Any) -> int:
    return int(value or 0)


def _containers(spec: Obj) -> list[str]:
    found = ((spec.get("template") or {}).get("spec") or {}).get("containers") or []
    return [",".join(c["name"] for c in found), ",".join(c.get("image", "") for c in found)]


def _deployment(obj: Obj, now: datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    ready = f"{_count(status.get('readyReplicas'))}/{spec.get('replicas', 0)}"
    return [
        obj["metadata"]["name"],
        ready,
        _count(status.get("updatedReplicas")),
        _count(status.get("availableReplicas")),
        age(obj, now),
        *_containers(spec),
        selector_text(spec.get("selector")),
    ]


def _replica_set(obj: Obj, now: datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    chosen = spec.get("selector")
    text = selector_text(chosen) if obj.get("kind") != "ReplicationController" else labels(chosen)
    return [
        obj["metadata"]["name"],
        _count(spec.get("replicas")),
        _count(status.get("replicas")),
        _count(status.get("readyReplicas")),
        age(obj, now),
        *_containers(spec),
        text,
    ]


def _daemon_set(obj: Obj, now: datetime) -> list[Any]:
    spec, s = obj.get("spec") or {}, obj.get("status") or {}
    counts = [
        _count(s.get(n))
        for n in (
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        )
    ]
    node_selector = labels(((spec.get("template") or {}).get("spec") or {}).get("nodeSelector"))
    return [
        obj["metadata"]["name"],
        *counts,
        node_selector,
        age(obj, now),
        *_containers(spec),
        selector_text(spec.get("selector")),
    ]


def _stateful_set(obj: Obj, now: datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [
        obj["metadata"]["name"],
        f"{_count(status.get('readyReplicas'))}/{spec.get('replicas', 0)}",
        age(obj, now),
        *_containers(spec),
    ]


def _job(obj: Obj, now: datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    done = {c["type"] for c in status.get("conditions") or () if c.get("status") == "True"}
    state = next((name for name in ("Complete", "Failed") if name in done), "")
    if not state and obj["metadata"].get("deletionTimestamp"):
        state = "Terminating"
    state = state or next((n for n in ("Suspended", "FailureTarget", "SuccessCriteriaMet") if n in done), "Running")
    if spec.get("completions") is not None:
        completions = f"{_count(status.get('succeeded'))}/{spec['completions']}"
    else:
        parallel = _count(spec.get("parallelism"))
        completions = f"{_count(status.get('succeeded'))}/1" + (f" of {parallel}" if parallel > 1 else "")
    took = ""
    if start := status.get("startTime"):
        took = duration(start, status.get("completionTime"), now)
    return [
        obj["metadata"]["name"],
        state,
        completions,
        took,
        age(obj, now),
        *_containers(spec),
        selector_text(spec.get("selector")),
    ]


def _service(obj: Obj, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    kind = spec.get("type")
    found = [
        i.get("ip") or i.get("hostname")
        for i in ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    ]
    external = list(spec.get("externalIPs") or [])
    if kind == "LoadBalancer":
        shown = ",".join([*found, *external]) or "<pending>"
    elif kind == "ExternalName":
        shown = spec.get("externalName", "")
    else:
        shown = ",".join(external) or "<none>"
    ports = ",".join(
        f"{p['port']}{':' + str(p['nodePort']) if p.get('nodePort') else ''}/{p.get('protocol', 'TCP')}"
        for p in spec.get("ports") or ()
    )
    return [
        obj["metadata"]["name"],
        kind or "",
        spec.get("clusterIP") or "<none>",
        shown,
        ports or "<none>",
        age(obj, now),
        labels(spec.get("selector")),
    ]


def _node(obj: Obj, now: datetime) -> list[Any]:
    metadata, status = obj["metadata"], obj.get("status") or {}
    ready = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), None)
    state = "Unknown" if ready is None else "Ready" if ready["status"] == "True" else "NotReady"
    if (obj.get("spec") or {}).get("unschedulable"):
        state += ",SchedulingDisabled"
    prefix = "node-role.kubernetes.io/"
    given = metadata.get("labels") or {}
    roles = {key[len(prefix) :] for key in given if key.startswith(prefix)} | {given.get("kubernetes.io/role", "")}
    shown = ",".join(sorted(roles - {""})) or "<none>"
    info = status.get("nodeInfo") or {}
    addresses = {a["type"]: a["address"] for a in reversed(status.get("addresses") or [])}
    return [
        metadata["name"], state, shown, age(obj, now), info.get("kubeletVersion", ""), addresses.get("InternalIP", "<none>"),
        addresses.get("ExternalIP", "<none>"), info.get("osImage", "<unknown>"), info.get("kernelVersion", "<unknown>"), info.get("containerRuntimeVersion", "<unknown>"),
    ]  # fmt: skip


def _endpoints(obj: Obj, now: datetime) -> list[Any]:
    found = []
    for subset in obj.get("subsets") or ():
        addresses = [address["ip"] for address in subset.get("addresses") or ()]
        if not subset.get("ports"):
            found += addresses
        for port in subset.get("ports") or ():
            found += [f"[{ip}]:{port['port']}" if ":" in ip else f"{ip}:{port['port']}" for ip in addresses]
    return [obj["metadata"]["name"], join(found, 3), age(obj, now)]


def _endpoint_slice(obj: Obj, now: datetime) -> list[Any]:
    ports = [str(p.get("port") or p.get("name") or "*") for p in obj.get("ports") or ()]
    found = [a for e in obj.get("endpoints") or () for a in e.get("addresses") or ()]
    return [
        obj["metadata"]["name"],
        obj.get("addressType", ""),
        join(ports, 3, "<unset>"),
        join(found, 3, "<unset>"),
        age(obj, now),
    ]


def _event(obj: Obj, now: datetime) -> list[Any]:
    about = obj.get("involvedObject") or {}
    first = obj.get("firstTimestamp") or obj.get("eventTime")
    last, times = obj.get("lastTimestamp") or first, _count(obj.get("count")) or 1
    if series := obj.get("series"):
        last, times = series.get("lastObservedTime"), _count(series.get("count"))
    kind, name = about.get("kind", "").lower(), about.get("name", "")
    source = obj.get("source") or {}
    who = source.get("component") or obj.get("reportingComponent") or ""
    if where := source.get("host") or obj.get("reportingInstance"):
        who = f"{who}, {where}"
    return [
        duration(last, None, now) if last else "<unknown>", obj.get("type", ""), obj.get("reason", ""), f"{kind}/{name}" if name else kind,
        about.get("fieldPath", ""), who, (obj.get("message") or "").strip(), duration(first, None, now) if first else "<unknown>", times, obj["metadata"]["name"],
    ]  # fmt: skip


def _namespace(obj: Obj, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], (obj.get("status") or {}).get("phase", ""), age(obj, now)]


def _config_map(obj: Obj, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], len(obj.get("data") or {}) + len(obj.get("binaryData") or {}), age(obj, now)]


def _secret(obj: Obj, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], obj.get("type", ""), len(obj.get("data") or {}), age(obj, now)]


def _service_account(obj: Obj, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], len(obj.get("secrets") or ()), age(obj, now)]


def _ingress(obj: Obj, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    hosts = [rule["host"] for rule in spec.get("rules") or () if rule.get("host")]
    found = [
        i.get("ip") or i.get("hostname")
        for i in ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    ]
    return [
        obj["metadata"]["name"],
        spec.get("ingressClassName") or (obj["metadata"].get("annotations") or {}).get(_OLD_CLASS) or "<none>",
        join(hosts, 3, "*"),
        ",".join(found),
        "80, 443" if spec.get("tls") else "80",
        age(obj, now),
    ]


def _service_cidr(obj: Obj, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], ",".join((obj.get("spec") or {}).get("cidrs") or []), age(obj, now)]


def _ingress_class(obj: Obj, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    parameters = spec.get("parameters")
    shown = (
        f"{parameters['kind']}{'.' + parameters['apiGroup'] if parameters.get('apiGroup') else ''}/{parameters['name']}"
        if parameters
        else "<none>"
    )
    return [obj["metadata"]["name"], spec.get("controller", ""), shown, age(obj, now)]


def _network_policy(obj: Obj, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], selector_text((obj.get("spec") or {}).get("podSelector")), age(obj, now)]


def _lease(obj: Obj, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], (obj.get("spec") or {}).get("holderIdentity", ""), age(obj, now)]


def _role(obj: Obj, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], obj["metadata"].get("creationTimestamp") or "<unknown>"]


def _role_binding(obj: Obj, now: datetime) -> list[Any]:
    ref, found = obj.get("roleRef") or {}, obj.get("subjects") or ()
    shown = [
        ", ".join(f"{each['namespace']}/{each['name']}" if kind == "ServiceAccount" else each["name"] for each in found if each.get("kind") == kind)
        for kind in ("User", "Group", "ServiceAccount")
    ]  # fmt: skip
    return [obj["metadata"]["name"], f"{ref.get('kind', '')}/{ref.get('name', '')}", age(obj, now), *shown]


_SET_WIDE = "Containers|Images|Selector"
PRINTERS: dict[Kind, tuple[list[Column], Row]] = {
    kinds.POD: ([Column(name, kind, wide) for name, kind, wide in POD_COLUMNS], POD),
    kinds.DEPLOYMENT: (_columns("Name|Ready|#Up-to-date|#Available|Age", _SET_WIDE), _deployment),
    kinds.REPLICA_SET: (_columns("Name|#Desired|#Current|#Ready|Age", _SET_WIDE), _replica_set),
    kinds.REPLICATION_CONTROLLER: (_columns("Name|#Desired|#Current|#Ready|Age", _SET_WIDE), _replica_set),
    kinds.DAEMON_SET: (_columns("Name|#Desired|#Current|#Ready|#Up-to-date|#Available|Node Selector|Age", _SET_WIDE), _daemon_set),
    kinds.STATEFUL_SET: (_columns("Name|Ready|Age", "Containers|Images"), _stateful_set),
    kinds.JOB: (_columns("Name|Status|Completions|Duration|Age", _SET_WIDE), _job),
    kinds.SERVICE: (_columns("Name|Type|Cluster-IP|External-IP|Port(s)|Age", "Selector"), _service),
    kinds.NODE: (_columns("Name|Status|Roles|Age|Version", "Internal-IP|External-IP|OS-Image|Kernel-Version|Container-Runtime"), _node),
    kinds.ENDPOINTS: (_columns("Name|Endpoints|Age"), _endpoints),
    kinds.ENDPOINT_SLICE: (_columns("Name|AddressType|Ports|Endpoints|Age"), _endpoint_slice),
    kinds.EVENT: ([Column("Last Seen"), Column("Type"), Column("Reason"), Column("Object"), Column("Subobject", wide=True), Column("Source", wide=True), Column("Message"), Column("First Seen", wide=True), Column("Count", "integer", True), Column("Name", wide=True)], _event),
    kinds.NAMESPACE: (_columns("Name|Status|Age"), _namespace),
    kinds.CONFIG_MAP: (_columns("Name|#Data|Age"), _config_map),
    kinds.SECRET: (_columns("Name|Type|#Data|Age"), _secret),
    kinds.SERVICE_ACCOUNT: (_columns("Name|#Secrets|Age"), _service_account),
    kinds.INGRESS: (_columns("Name|Class|Hosts|Address|Ports|Age"), _ingress),
    kinds.INGRESS_CLASS: (_columns("Name|Controller|Parameters|Age"), _ingress_class),
    kinds.NETWORK_POLICY: (_columns("Name|Pod-Selector|Age"), _network_policy),
    kinds.SERVICE_CIDR: (_columns("Name|Cidrs|Age"), _service_cidr),
    kinds.LEASE: (_columns("Name|Holder|Age"), _lease),
    kinds.CLUSTER_ROLE: (_columns("Name|Created At"), _role),
    kinds.ROLE: (_columns("Name|Created At"), _role),
    kinds.CLUSTER_ROLE_BINDING: (_columns("Name|Role|Age", "Users|Groups|ServiceAccounts"), _role_binding),
    kinds.ROLE_BINDING: (_columns("Name|Role|Age", "Users|Groups|ServiceAccounts"), _role_binding),
}  # fmt: skip
