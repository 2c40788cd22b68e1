"""Narrow, frozen views of API objects: the fields glassnet's own logic reads, and no others.

Decode with `decode(kind, raw)`. Unknown fields are skipped, absent ones take the API's defaults as far as they matter here.
Whole objects (for storing, printing, patching) stay JSON-like dicts in `apiserver`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import field

from glassnet.kube import kinds
from glassnet.kube.ingress import Ingress, IngressClass
from glassnet.kube.kinds import Kind
from glassnet.kube.meta import Meta as Meta
from glassnet.kube.meta import Obj as Obj
from glassnet.kube.meta import OwnerReference as OwnerReference


class LabelSelectorRequirement(Obj, frozen=True, rename="camel", gc=False):
    key: str
    operator: str
    values: tuple[str, ...] = ()


class LabelSelector(Obj, frozen=True, rename="camel", gc=False):
    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()


# ---- pods


class ContainerPort(Obj, frozen=True, rename="camel", gc=False):
    container_port: int
    name: str = ""
    protocol: str = "TCP"
    host_port: int = 0
    host_ip: str = field(name="hostIP", default="")


class KeyRef(Obj, frozen=True, rename="camel", gc=False):
    """configMapKeyRef and secretKeyRef; `key` is "" in envFrom references."""

    name: str = ""
    key: str = ""
    optional: bool = False


class FieldRef(Obj, frozen=True, rename="camel", gc=False):
    field_path: str = ""


class EnvSource(Obj, frozen=True, rename="camel", gc=False):
    field_ref: FieldRef | None = None
    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None
    resource_field_ref: dict[str, Any] | None = None


class EnvVar(Obj, frozen=True, rename="camel", gc=False):
    name: str
    value: str = ""
    value_from: EnvSource | None = None


class EnvFrom(Obj, frozen=True, rename="camel", gc=False):
    prefix: str = ""
    config_map_ref: KeyRef | None = None
    secret_ref: KeyRef | None = None


class HTTPHeader(Obj, frozen=True, rename="camel", gc=False):
    name: str
    value: str = ""


class HTTPGet(Obj, frozen=True, rename="camel", gc=False):
    port: int | str
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[HTTPHeader, ...] = ()


class TCPSocket(Obj, frozen=True, rename="camel", gc=False):
    port: int | str
    host: str = ""


class ExecAction(Obj, frozen=True, rename="camel", gc=False):
    command: tuple[str, ...] = ()


class GRPCAction(Obj, frozen=True, rename="camel", gc=False):
    port: int
    service: str = ""


class Handler(Obj, frozen=True, rename="camel", gc=False):
    http_get: HTTPGet | None = None
    tcp_socket: TCPSocket | None = None
    exec: ExecAction | None = None
    grpc: GRPCAction | None = None
    sleep: dict[str, int] | None = None


class Probe(Handler, frozen=True, rename="camel", gc=False):
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class Lifecycle(Obj, frozen=True, rename="camel", gc=False):
    post_start: Handler | None = None
    pre_stop: Handler | None = None


class VolumeMount(Obj, frozen=True, rename="camel", gc=False):
    name: str
    mount_path: str
    sub_path: str = ""
    read_only: bool = False


class Container(Obj, frozen=True, rename="camel", gc=False):
    name: str
    image: str = ""
    image_pull_policy: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    ports: tuple[ContainerPort, ...] = ()
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFrom, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    restart_policy: str = ""  # "Always" marks a sidecar among initContainers
    resources: dict[str, Any] | None = None
    termination_message_path: str = "/dev/termination-log"


class Toleration(Obj, frozen=True, rename="camel", gc=False):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class TopologySpread(Obj, frozen=True, rename="camel", gc=False):
    max_skew: int = 1
    topology_key: str = ""
    when_unsatisfiable: str = "DoNotSchedule"
    label_selector: LabelSelector | None = None


class PodSpec(Obj, frozen=True, rename="camel", gc=False):
    node_name: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[dict[str, Any], ...] = ()
    node_selector: dict[str, str] = {}
    affinity: dict[str, Any] | None = None
    tolerations: tuple[Toleration, ...] = ()
    topology_spread_constraints: tuple[TopologySpread, ...] = ()
    host_network: bool = False
    host_aliases: tuple[dict[str, Any], ...] = ()
    hostname: str = ""
    subdomain: str = ""
    dns_policy: str = "ClusterFirst"
    dns_config: dict[str, Any] | None = None
    restart_policy: str = "Always"
    termination_grace_period_seconds: int = 30
    active_deadline_seconds: int | None = None
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    share_process_namespace: bool = False
    scheduler_name: str = "default-scheduler"
    scheduling_gates: tuple[dict[str, str], ...] = ()
    readiness_gates: tuple[dict[str, str], ...] = ()
    priority: int | None = None


class Condition(Obj, frozen=True, rename="camel", gc=False):
    type: str
    status: str = "Unknown"
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None
    last_update_time: datetime | None = None
    observed_generation: int | None = None


class PodIP(Obj, frozen=True, rename="camel", gc=False):
    ip: str = ""


class ContainerStatus(Obj, frozen=True, rename="camel", gc=False):
    name: str
    ready: bool = False
    restart_count: int = 0
    started: bool | None = None
    container_id: str = field(name="containerID", default="")
    image: str = ""
    state: dict[str, dict[str, Any]] = {}
    last_state: dict[str, dict[str, Any]] = {}


class PodStatus(Obj, frozen=True, rename="camel", gc=False):
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] = ()
    pod_ip: str = field(name="podIP", default="")
    pod_ips: tuple[PodIP, ...] = field(name="podIPs", default=())
    host_ip: str = field(name="hostIP", default="")
    start_time: datetime | None = None
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Obj, frozen=True, rename="camel", gc=False):
    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    def ready(self) -> bool:
        """True when the Ready condition is "True"."""
        return any(c.type == "Ready" and c.status == "True" for c in self.status.conditions)

    def finished(self) -> bool:
        """True in the phases Succeeded and Failed."""
        return self.status.phase in ("Succeeded", "Failed")


# ---- nodes, namespaces


class Taint(Obj, frozen=True, rename="camel", gc=False):
    key: str
    effect: str
    value: str = ""
    time_added: datetime | None = None


class NodeSpec(Obj, frozen=True, rename="camel", gc=False):
    pod_cidr: str = field(name="podCIDR", default="")
    pod_cidrs: tuple[str, ...] = field(name="podCIDRs", default=())
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False


class NodeAddress(Obj, frozen=True, rename="camel", gc=False):
    type: str
    address: str


class NodeStatus(Obj, frozen=True, rename="camel", gc=False):
    addresses: tuple[NodeAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()
    allocatable: dict[str, Any] = {}


class Node(Obj, frozen=True, rename="camel", gc=False):
    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    def internal_ips(self) -> tuple[str, ...]:
        """Addresses of type InternalIP, in order."""
        return tuple(a.address for a in self.status.addresses if a.type == "InternalIP")


class PhaseStatus(Obj, frozen=True, rename="camel", gc=False):
    phase: str = ""


class NamespaceSpec(Obj, frozen=True, rename="camel", gc=False):
    finalizers: tuple[str, ...] = ()


class Namespace(Obj, frozen=True, rename="camel", gc=False):
    metadata: Meta
    spec: NamespaceSpec = NamespaceSpec()
    status: PhaseStatus = PhaseStatus()


# ---- services and endpoints


class ServicePortSpec(Obj, frozen=True, rename="camel", gc=False):
    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None
    node_port: int = 0
    app_protocol: str | None = None


class LoadBalancerIngress(Obj, frozen=True, rename="camel", gc=False):
    ip: str = ""
    hostname: str = ""
    ip_mode: str | None = None


class LoadBalancerStatus(Obj, frozen=True, rename="camel", gc=False):
    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Obj, frozen=True, rename="camel", gc=False):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
    conditions: tuple[Condition, ...] = ()


class ServiceSpec(Obj, frozen=True, rename="camel", gc=False):
    type: str = "ClusterIP"
    cluster_ip: str = field(name="clusterIP", default="")
    cluster_ips: tuple[str, ...] = field(name="clusterIPs", default=())
    ip_families: tuple[str, ...] = field(name="ipFamilies", default=())
    ports: tuple[ServicePortSpec, ...] = ()
    selector: dict[str, str] = {}
    session_affinity: str = "None"
    session_affinity_config: dict[str, Any] | None = None
    external_ips: tuple[str, ...] = field(name="externalIPs", default=())
    external_name: str = ""
    external_traffic_policy: str = "Cluster"
    internal_traffic_policy: str = "Cluster"
    load_balancer_source_ranges: tuple[str, ...] = ()
    load_balancer_class: str | None = None
    health_check_node_port: int = 0
    publish_not_ready_addresses: bool = False
    traffic_distribution: str | None = None
    ip_family_policy: str = "SingleStack"
    load_balancer_ip: str = field(name="loadBalancerIP", default="")


class Service(Obj, frozen=True, rename="camel", gc=False):
    metadata: Meta
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class ServiceCidrSpec(Obj, frozen=True, rename="camel", gc=False):
    cidrs: tuple[str, ...] = ()


class ServiceCidr(Obj, frozen=True, rename="camel", gc=False):
    metadata: Meta
    spec: ServiceCidrSpec = ServiceCidrSpec()


class EndpointConditions(Obj, frozen=True, rename="camel", gc=False):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class TargetRef(Obj, frozen=True, rename="camel", gc=False):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class NamedHint(Obj, frozen=True, rename="camel", gc=False):
    name: str


class EndpointHints(Obj, frozen=True, rename="camel", gc=False):
    for_zones: tuple[NamedHint, ...] = ()
    for_nodes: tuple[NamedHint, ...] = ()


class SliceEndpoint(Obj, frozen=True, rename="camel", gc=False):
    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    hostname: str = ""
    target_ref: TargetRef | None = None
    node_name: str = ""
    zone: str = ""
    hints: EndpointHints | None = None


class SlicePort(Obj, frozen=True, rename="camel", gc=False):
    name: str | None = None
    port: int | None = None
    protocol: str | None = "TCP"
    app_protocol: str | None = None


class EndpointSlice(Obj, frozen=True, rename="camel", gc=False):
    metadata: Meta
    address_type: str = "IPv4"
    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[SlicePort, ...] | None = ()


class Endpoints(Obj, frozen=True, rename="camel", gc=False):
    metadata: Meta
    subsets: tuple[dict[str, Any], ...] = ()


# ---- workloads: `template` stays a JSON-like dict, it is copied whole into children


class WorkloadSpec(Obj, frozen=True, rename="camel", gc=False):
    """Union of the spec fields of Deployment, ReplicaSet, DaemonSet, StatefulSet; absent ones keep their defaults."""

    replicas: int | None = None
    selector: LabelSelector = LabelSelector()
    template: dict[str, Any] = {}
    strategy: dict[str, Any] = {}
    update_strategy: dict[str, Any] = {}
    min_ready_seconds: int = 0
    revision_history_limit: int = 10
    progress_deadline_seconds: int = 600
    paused: bool = False
    service_name: str = ""
    pod_management_policy: str = "OrderedReady"
    ordinals: dict[str, int] | None = None


class WorkloadStatus(Obj, frozen=True, rename="camel", gc=False):
    """Union of the status fields of the same kinds; controllers compare with it and patch what differs."""

    observed_generation: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    updated_replicas: int = 0
    unavailable_replicas: int = 0
    fully_labeled_replicas: int = 0
    current_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""
    collision_count: int = 0
    current_number_scheduled: int = 0
    desired_number_scheduled: int = 0
    number_misscheduled: int = 0
    number_ready: int = 0
    number_available: int = 0
    number_unavailable: int = 0
    updated_number_scheduled: int = 0
    conditions: tuple[Condition, ...] = ()


class Workload(Obj, frozen=True, rename="camel", gc=False):
    """A Deployment, ReplicaSet, DaemonSet or StatefulSet."""

    metadata: Meta
    spec: WorkloadSpec = WorkloadSpec()
    status: WorkloadStatus = WorkloadStatus()


class ReplicationControllerSpec(Obj, frozen=True, rename="camel", gc=False):
    replicas: int | None = None
    selector: dict[str, str] = {}
    template: dict[str, Any] = {}
    min_ready_seconds: int = 0


class ReplicationController(Obj, frozen=True, rename="camel", gc=False):
    metadata: Meta
    spec: ReplicationControllerSpec = ReplicationControllerSpec()
    status: WorkloadStatus = WorkloadStatus()


class JobSpec(Obj, frozen=True, rename="camel", gc=False):
    parallelism: int = 1
    completions: int | None = None
    backoff_limit: int = 6
    active_deadline_seconds: int | None = None
    ttl_seconds_after_finished: int | None = None
    suspend: bool = False
    completion_mode: str = "NonIndexed"
    selector: LabelSelector = LabelSelector()
    template: dict[str, Any] = {}


class JobStatus(Obj, frozen=True, rename="camel", gc=False):
    active: int = 0
    ready: int = 0
    succeeded: int = 0
    failed: int = 0
    completed_indexes: str = ""
    start_time: datetime | None = None
    completion_time: datetime | None = None
    conditions: tuple[Condition, ...] = ()


class Job(Obj, frozen=True, rename="camel", gc=False):
    metadata: Meta
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()


class Data(Obj, frozen=True, rename="camel", gc=False):
    """A ConfigMap or a Secret; a Secret's values and those of `binary_data` are base64 text."""

    metadata: Meta
    data: dict[str, str] = {}
    binary_data: dict[str, str] | None = None
    type: str = ""


class Plain(Obj, frozen=True, rename="camel", gc=False):
    """Any kind of which only the metadata matters to glassnet's own logic."""

    metadata: Meta


STRUCTS: dict[Kind, type[Any]] = {
    kinds.NAMESPACE: Namespace,
    kinds.NODE: Node,
    kinds.POD: Pod,
    kinds.SERVICE: Service,
    kinds.ENDPOINTS: Endpoints,
    kinds.ENDPOINT_SLICE: EndpointSlice,
    kinds.SERVICE_CIDR: ServiceCidr,
    kinds.REPLICATION_CONTROLLER: ReplicationController,
    kinds.CONFIG_MAP: Data,
    kinds.SECRET: Data,
    kinds.DEPLOYMENT: Workload,
    kinds.REPLICA_SET: Workload,
    kinds.DAEMON_SET: Workload,
    kinds.STATEFUL_SET: Workload,
    kinds.JOB: Job,
    kinds.INGRESS: Ingress,
    kinds.INGRESS_CLASS: IngressClass,
}

_DECODERS: dict[Kind, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(STRUCTS.get(kind, Plain)) for kind in kinds.ALL
}


def decode(kind: Kind, raw: bytes | str) -> Any:
    """Decode one object of `kind` from JSON into its struct; a null counts as an absent field, as it does in the API.

    Raises msgspec.ValidationError when a field has another type than the API gives it.
    """
    try:
        return _DECODERS[kind].decode(raw)
    except msgspec.ValidationError:
        return msgspec.convert(without_nulls(msgspec.json.decode(raw)), STRUCTS.get(kind, Plain))


def without_nulls(value: Any) -> Any:
    """JSON-like data without fields that are null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
