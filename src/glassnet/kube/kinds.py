"""The kinds glassnet serves and watches: one `Kind` constant each.

Names, short names and scope are those of Kubernetes 1.36 discovery.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A served resource type. `group` is "" for core; `plural` is the name in paths."""

    group: str
    version: str
    name: str
    plural: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """`v1` or `group/v1`, as in an object's apiVersion field."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """`pods` or `deployments.apps`, as in error messages."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


NAMESPACE = Kind("", "v1", "Namespace", "namespaces", False, ("ns",))
NODE = Kind("", "v1", "Node", "nodes", False, ("no",))
POD = Kind("", "v1", "Pod", "pods", True, ("po",), ("all",))
SERVICE = Kind("", "v1", "Service", "services", True, ("svc",), ("all",))
ENDPOINTS = Kind("", "v1", "Endpoints", "endpoints", True, ("ep",))
REPLICATION_CONTROLLER = Kind("", "v1", "ReplicationController", "replicationcontrollers", True, ("rc",), ("all",))
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps", True, ("cm",))
SECRET = Kind("", "v1", "Secret", "secrets", True)
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts", True, ("sa",))
EVENT = Kind("", "v1", "Event", "events", True, ("ev",))
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments", True, ("deploy",), ("all",))
REPLICA_SET = Kind("apps", "v1", "ReplicaSet", "replicasets", True, ("rs",), ("all",))
DAEMON_SET = Kind("apps", "v1", "DaemonSet", "daemonsets", True, ("ds",), ("all",))
STATEFUL_SET = Kind("apps", "v1", "StatefulSet", "statefulsets", True, ("sts",), ("all",))
JOB = Kind("batch", "v1", "Job", "jobs", True, (), ("all",))
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", True)
INGRESS = Kind("networking.k8s.io", "v1", "Ingress", "ingresses", True, ("ing",))
INGRESS_CLASS = Kind("networking.k8s.io", "v1", "IngressClass", "ingressclasses", False)
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", True, ("netpol",))
SERVICE_CIDR = Kind("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", False)
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases", True)
RBAC = "rbac.authorization.k8s.io"
CLUSTER_ROLE = Kind(RBAC, "v1", "ClusterRole", "clusterroles", False)
CLUSTER_ROLE_BINDING = Kind(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", False)
ROLE = Kind(RBAC, "v1", "Role", "roles", True)
ROLE_BINDING = Kind(RBAC, "v1", "RoleBinding", "rolebindings", True)

ALL: tuple[Kind, ...] = (
    NAMESPACE, NODE, POD, SERVICE, ENDPOINTS, REPLICATION_CONTROLLER, CONFIG_MAP, SECRET, SERVICE_ACCOUNT, EVENT,
    DEPLOYMENT, REPLICA_SET, DAEMON_SET, STATEFUL_SET, JOB, ENDPOINT_SLICE, INGRESS, INGRESS_CLASS, NETWORK_POLICY,
    SERVICE_CIDR, LEASE, CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING,
)  # fmt: skip

BY_API_KIND: dict[tuple[str, str], Kind] = {(kind.api_version, kind.name): kind for kind in ALL}
BY_PATH: dict[tuple[str, str, str], Kind] = {(kind.group, kind.version, kind.plural): kind for kind in ALL}
