"""kube-proxy's command line flags, as a table: name, where its value goes in a KubeProxyConfiguration, and what it does.

Source: Kubernetes reference, kube-proxy(8). With --config, only --hostname-override and the flags that are about one run count, as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from glassnet.net.errors import UsageError
from glassnet.proxy import config as configs
from glassnet.proxy.config import ProxyConfig


class Flag(NamedTuple):
    """One flag; `path` is the field it sets ("iptables.masqueradeAll")."""

    name: str
    kind: Literal["text", "number", "bool", "list", "gates"]
    path: str
    help: str


FLAGS: tuple[Flag, ...] = (
    Flag("kubeconfig", "text", "clientConnection.kubeconfig", "Kubeconfig of the API server; in a pod, its service account is used."),
    Flag("hostname-override", "text", "hostnameOverride", "Name of this node's Node object (default: the host name)."),
    Flag("bind-address", "text", "bindAddress", "Address whose family health and metrics servers use."),
    Flag("healthz-bind-address", "text", "healthzBindAddress", "IP:PORT of /healthz and /livez; empty for none."),
    Flag("metrics-bind-address", "text", "metricsBindAddress", "IP:PORT of /metrics; empty for none."),
    Flag("bind-address-hard-fail", "bool", "bindAddressHardFail", "End when one of these ports is taken."),
    Flag("proxy-mode", "text", "mode", "iptables or nftables."),
    Flag("cluster-cidr", "text", "clusterCIDR", "Range of the pods; one a family, with a comma between."),
    Flag("detect-local-mode", "text", "detectLocalMode", "ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix."),
    Flag("pod-bridge-interface", "text", "detectLocal.bridgeInterface", "Bridge of the local pods."),
    Flag("pod-interface-name-prefix", "text", "detectLocal.interfaceNamePrefix", "What interfaces of local pods begin with."),
    Flag("nodeport-addresses", "list", "nodePortAddresses", "CIDRs of the addresses that serve node ports, or primary."),
    Flag("masquerade-all", "bool", "{mode}.masqueradeAll", "Masquerade all traffic to ClusterIPs."),
    Flag("iptables-masquerade-bit", "number", "iptables.masqueradeBit", "Bit of the packet mark that asks for masquerading."),
    Flag("iptables-sync-period", "text", "iptables.syncPeriod", "How long a failed sync may wait for the next try."),
    Flag("iptables-min-sync-period", "text", "iptables.minSyncPeriod", "The least time between two syncs."),
    Flag("iptables-localhost-nodeports", "bool", "iptables.localhostNodePorts", "Node ports on 127.0.0.1."),
    Flag("config-sync-period", "text", "configSyncPeriod", "Taken for compatibility; watches need no resync."),
    Flag("conntrack-max-per-core", "number", "conntrack.maxPerCore", "Connections to track, a processor; 0 leaves the limit alone."),
    Flag("conntrack-min", "number", "conntrack.min", "Connections to track at least."),
    Flag("conntrack-tcp-timeout-established", "text", "conntrack.tcpEstablishedTimeout", "Idle time of TCP connections; 0 leaves it alone."),
    Flag("conntrack-tcp-timeout-close-wait", "text", "conntrack.tcpCloseWaitTimeout", "Time in CLOSE_WAIT; 0 leaves it alone."),
    Flag("conntrack-tcp-be-liberal", "bool", "conntrack.tcpBeLiberal", "Do not drop packets out of window."),
    Flag("conntrack-udp-timeout", "text", "conntrack.udpTimeout", "Idle time of unanswered UDP flows; 0 leaves it alone."),
    Flag("conntrack-udp-timeout-stream", "text", "conntrack.udpStreamTimeout", "Idle time of UDP flows; 0 leaves it alone."),
    Flag("oom-score-adj", "number", "oomScoreAdj", "The kernel's out-of-memory score of this process."),
    Flag("profiling", "bool", "enableProfiling", "Taken for compatibility; there is no profiler."),
    Flag("show-hidden-metrics-for-version", "text", "showHiddenMetricsForVersion", "Taken for compatibility; no metric is hidden."),
    Flag("feature-gates", "gates", "featureGates", "Taken for compatibility."),
    Flag("v", "number", "logging.verbosity", "Verbosity of the log; 2 and more show each sync."),
)  # fmt: skip
WITH_CONFIG = ("hostname-override", "v")


def apply(config: ProxyConfig, given: Mapping[str, Any], from_file: bool = False) -> tuple[ProxyConfig, list[str]]:
    """The configuration with the flags that were given, and warnings about those that a file overrules. Raises UsageError."""
    body: dict[str, Any] = msgspec.to_builtins(config)
    warnings = []
    mode = given.get("proxy-mode") or config.mode or "iptables"
    for flag in FLAGS:
        value = given.get(flag.name)
        if value is None:
            continue
        if from_file and flag.name not in WITH_CONFIG:
            warnings.append(f"--{flag.name} is ignored: --config is given, set {flag.path.format(mode=mode)} there")
            continue
        section = body
        *sections, last = flag.path.format(mode=mode).split(".")
        for name in sections:
            section = section[name]
        section[last] = _value(flag, value)
    made = msgspec.convert(body, ProxyConfig)
    configs.check(made, "command line")
    return made, warnings


def _value(flag: Flag, value: Any) -> Any:
    if flag.kind == "list":
        return [part.strip() for part in str(value).split(",") if part.strip()]
    if flag.kind == "gates":
        pairs = [part.partition("=") for part in str(value).split(",") if part.strip()]
        if not all(text.lower() in ("true", "false") for _, _, text in pairs):
            raise UsageError(f"--{flag.name}: {value!r} is not of the form Gate=true,Other=false")
        return {name.strip(): text.lower() == "true" for name, _, text in pairs}
    return value
