"""The configuration of `glassnet controller`: one file, overruled by the environment, overruled by flags.

leaderElection has the fields and defaults of Kubernetes' own components (component-base LeaderElectionConfiguration).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from glassnet.controllers.podcidrs import Space
from glassnet.kube import manifest, sections
from glassnet.kube.sections import Fault, Section
from glassnet.net import address
from glassnet.net.errors import UsageError
from glassnet.proxy.config import host_port, seconds

PORT = 10268
LEVELS, FORMATS = ("debug", "info", "warning", "error"), ("text", "json")
NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


class LeaderElection(Section, frozen=True):
    """Who of several controllers works. Durations are Go's ("15s")."""

    leader_elect: bool = True
    resource_namespace: str = ""  # "": the pod's own, else kube-system
    resource_name: str = "glassnet-controller"
    identity: str = ""  # "": POD_NAME or the host's name, and a number of its own
    lease_duration: str = "15s"
    renew_deadline: str = "10s"
    retry_period: str = "2s"


class PodCidrs(Section, frozen=True):
    """Pod CIDRs for Nodes that have none; off, for kube-controller-manager may be doing it."""

    allocate: bool = False
    cluster_cidrs: tuple[str, ...] = msgspec.field(name="clusterCIDRs", default=())
    node_mask_size_ipv4: int = msgspec.field(name="nodeMaskSizeIPv4", default=24)
    node_mask_size_ipv6: int = msgspec.field(name="nodeMaskSizeIPv6", default=64)


class LoadBalancer(Section, frozen=True):
    """Addresses for Services of type LoadBalancer. Without `namespace` the ConfigMap of the pools is where the Lease is."""

    enabled: bool = False
    namespace: str = ""
    pools_file: str = ""
    default_class: bool = True


class Logging(Section, frozen=True):
    format: str = "text"
    level: str = "info"


class ControllerConfig(Section, frozen=True):
    """All of it. `bind_address` "" serves no health and no metrics."""

    kubeconfig: str = ""  # "": the service account of the pod
    servers: tuple[str, ...] = ()
    bind_address: str = f"127.0.0.1:{PORT}"
    leader_election: LeaderElection = LeaderElection()
    pod_cidrs: PodCidrs = msgspec.field(name="podCIDRs", default=PodCidrs())
    load_balancer: LoadBalancer = LoadBalancer()
    logging: Logging = Logging()


# flag -> (path in the file, kind, help). The environment has the same names: GLASSNET_LEADER_ELECT for --leader-elect.
FLAGS: dict[str, tuple[str, str, str]] = {
    "kubeconfig": ("kubeconfig", "text", "Kubeconfig file; without one, the pod's service account is used."),
    "servers": ("servers", "list", "URLs of API servers, in place of the kubeconfig's; tried in turn."),
    "bind-address": ("bindAddress", "text", "IP:PORT of /healthz, /readyz, /leaderz, /metrics; empty serves none."),
    "leader-elect": ("leaderElection.leaderElect", "bool", "Work only while holding the Lease, as one of several."),
    "leader-elect-resource-namespace": ("leaderElection.resourceNamespace", "text", "Namespace of the Lease; the pod's own, or kube-system."),
    "leader-elect-resource-name": ("leaderElection.resourceName", "text", "Name of the Lease."),
    "leader-elect-identity": ("leaderElection.identity", "text", "What to call itself in the Lease; must be its own."),
    "leader-elect-lease-duration": ("leaderElection.leaseDuration", "text", "How long others wait for a leader that says nothing."),
    "leader-elect-renew-deadline": ("leaderElection.renewDeadline", "text", "How long a leader goes on without a renewal."),
    "leader-elect-retry-period": ("leaderElection.retryPeriod", "text", "Time between tries."),
    "allocate-pod-cidrs": ("podCIDRs.allocate", "bool", "Give Nodes without pod CIDRs one of each --cluster-cidr."),
    "cluster-cidr": ("podCIDRs.clusterCIDRs", "list", "The cluster's pod ranges, with commas: one or two, of different families."),
    "node-cidr-mask-size-ipv4": ("podCIDRs.nodeMaskSizeIPv4", "number", "Prefix length of a Node's IPv4 range."),
    "node-cidr-mask-size-ipv6": ("podCIDRs.nodeMaskSizeIPv6", "number", "Prefix length of a Node's IPv6 range."),
    "load-balancer": ("loadBalancer.enabled", "bool", "Give Services of type LoadBalancer addresses out of pools."),
    "load-balancer-namespace": ("loadBalancer.namespace", "text", "Where the ConfigMap glassnet-loadbalancer is; that of the Lease."),
    "load-balancer-pools-file": ("loadBalancer.poolsFile", "text", "A file of pools, in place of the ConfigMap."),
    "default-class": ("loadBalancer.defaultClass", "bool", "Serve Services without a loadBalancerClass, too."),
    "log-format": ("logging.format", "text", "text, or json: one object a line."),
    "log-level": ("logging.level", "text", "debug, info, warning or error."),
}  # fmt: skip


def load(text: str | None, source: str, environment: Mapping[str, str], flags: Mapping[str, Any]) -> ControllerConfig:
    """The configuration of a file's text (None: no file), the environment and flags (None: not given).

    Raises ParseError or UsageError that names every fault with its line, variable or flag.
    """
    item = manifest.document(text, source) if text is not None else None
    body: dict[str, Any] = dict(item.body) if item else {}
    faults = sections.unknown(ControllerConfig, body)
    body = sections.prune(ControllerConfig, body)
    origins: dict[str, str] = {}
    for flag, (path, kind, _) in FLAGS.items():
        variable = "GLASSNET_" + flag.upper().replace("-", "_")
        value, origin = (flags[flag], f"--{flag}") if flags.get(flag) is not None else (environment.get(variable), variable)  # fmt: skip
        if value is not None:
            origins[path] = origin
            _put(body, path, _typed(value, kind, origin))
    config, wrong = sections.convert(body, ControllerConfig)
    for path, message in (*faults, *wrong, *_check(config)):
        if origin := origins.get(path.split("[")[0], ""):
            raise UsageError(f"{origin}: {message}")
    sections.refuse([*faults, *wrong, *_check(config)], source, item)
    return config


def to_dict(config: ControllerConfig) -> dict[str, Any]:
    """The configuration as a file has it, defaults included."""
    body: dict[str, Any] = msgspec.to_builtins(config)
    return body


def spaces(config: ControllerConfig) -> list[Space]:
    """The ranges that pod CIDRs are taken from; none when they are not to be allocated."""
    parts = config.pod_cidrs
    sizes = {address.IPV4: parts.node_mask_size_ipv4, address.IPV6: parts.node_mask_size_ipv6}
    return [Space(each, sizes[address.family(each)]) for each in parts.cluster_cidrs] if parts.allocate else []


def identity(config: ControllerConfig, environment: Mapping[str, str]) -> str:
    """What this process calls itself in the Lease."""
    own = environment.get("POD_NAME") or os.uname().nodename
    return config.leader_election.identity or f"{own}_{uuid.uuid4()}"


def lease_namespace(config: ControllerConfig) -> str:
    """Where the Lease is."""
    if config.leader_election.resource_namespace:
        return config.leader_election.resource_namespace
    try:
        with open(NAMESPACE_FILE) as file:
            return file.read().strip() or "kube-system"
    except OSError:
        return "kube-system"


def _put(body: dict[str, Any], path: str, value: Any) -> None:
    *parts, last = path.split(".")
    for part in parts:
        inner = body.get(part)
        body[part] = body = dict(inner) if isinstance(inner, dict) else {}
    body[last] = value


def _typed(value: Any, kind: str, origin: str) -> Any:
    """A flag's or variable's value as the file would have it. Raises UsageError."""
    if not isinstance(value, str):
        return value
    if kind == "bool":
        if value.lower() not in ("true", "false", "1", "0"):
            raise UsageError(f"{origin}: {value!r} is neither true nor false")
        return value.lower() in ("true", "1")
    if kind == "number":
        if not value.isdigit():
            raise UsageError(f"{origin}: {value!r} is no number")
        return int(value)
    return [word.strip() for word in value.split(",") if word.strip()] if kind == "list" else value


def _check(config: ControllerConfig) -> list[Fault]:
    faults: list[Fault] = []
    if config.bind_address:
        try:
            ip, port = host_port(config.bind_address)
            if not ip or not 0 <= port < 65536:
                raise ValueError
        except ValueError:
            faults.append(("bindAddress", f"bindAddress: {config.bind_address!r} is no IP:PORT such as 127.0.0.1:{PORT} or [::1]:{PORT}"))  # fmt: skip
    for number, url in enumerate(config.servers):
        if not url.startswith(("http://", "https://")):
            faults.append((f"servers[{number}]", f"servers: {url!r} is no http or https URL"))
    if (place := config.load_balancer.pools_file) and not place.startswith("/"):
        faults.append(("loadBalancer.poolsFile", f"loadBalancer.poolsFile: {place!r} is no absolute path"))
    for path, value, choices in (
        ("logging.format", config.logging.format, FORMATS),
        ("logging.level", config.logging.level, LEVELS),
    ):
        if value not in choices:
            faults.append((path, f"{path}: {value!r} is not among {', '.join(choices)}"))
    return [*faults, *_check_leader(config.leader_election), *_check_ranges(config.pod_cidrs)]


def _check_leader(leader: LeaderElection) -> list[Fault]:
    faults: list[Fault] = []
    times: dict[str, float] = {}
    for name, text in (("leaseDuration", leader.lease_duration), ("renewDeadline", leader.renew_deadline), ("retryPeriod", leader.retry_period)):  # fmt: skip
        try:
            times[name] = seconds(text)
        except ValueError as error:
            faults.append((f"leaderElection.{name}", f"leaderElection.{name}: {error}"))
    if len(times) == 3:
        duration, renew, retry = times.values()
        if not (duration >= 1 and duration > renew > 1.2 * retry > 0):
            faults.append(("leaderElection.leaseDuration", "leaderElection: leaseDuration must be 1s or more and above renewDeadline, which must be above 1.2 times retryPeriod (15s, 10s, 2s)"))  # fmt: skip
    if not leader.resource_name:
        faults.append(("leaderElection.resourceName", "leaderElection.resourceName: a Lease needs a name"))
    return faults


def _check_ranges(ranges: PodCidrs) -> list[Fault]:
    path = "podCIDRs.clusterCIDRs"
    if ranges.allocate and not ranges.cluster_cidrs:
        return [("podCIDRs.allocate", f"podCIDRs.allocate: {path} must name the ranges to take pod CIDRs from (--cluster-cidr 10.244.0.0/16)")]  # fmt: skip
    faults: list[Fault] = []
    for number, each in enumerate(ranges.cluster_cidrs):
        v6 = address.family(each) == address.IPV6
        try:
            if "/" not in each:
                raise ValueError(f"{each!r} is no range such as 10.244.0.0/16")
            Space(each, ranges.node_mask_size_ipv6 if v6 else ranges.node_mask_size_ipv4)
        except ValueError as error:
            faults.append((f"{path}[{number}]", f"{path}: {error}"))
    families = [address.family(each) for each in ranges.cluster_cidrs]
    if len(set(families)) < len(families):
        faults.append((path, f"{path}: one range of each family, {', '.join(ranges.cluster_cidrs)} are given"))
    return faults
