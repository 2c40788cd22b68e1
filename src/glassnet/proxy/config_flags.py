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
    """One flag; `path` is the field it sets ("iptables.masqueradeAll"), `{mode}` in it the section of the mode in use."""

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
    Flag("iptables-sync-period", "text", "{mode}.syncPeriod", "How long a failed sync may wait for the next try."),
    Flag("iptables-min-sync-period", "text", "{mode}.minSyncPeriod", "The least time between two syncs."),
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
_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")


def apply(config: ProxyConfig, given: Mapping[str, Any], from_file: bool = False) -> tuple[ProxyConfig, list[str]]:
    """The configuration with the flags that were given (those that are not None), and warnings about those that a file overrules.

    Values may be text, or of the flag's kind already. Raises UsageError that names the flag or the field at fault.
    """
    body: dict[str, Any] = msgspec.to_builtins(config)
    warnings = []
    mode = (not from_file and given.get("proxy-mode")) or config.mode
    mode = mode if mode in configs.MODES else "iptables"
    for flag in FLAGS:
        value = given.get(flag.name)
        if value is None or (flag.name == "hostname-override" and value == ""):
            continue
        if from_file and flag.name not in WITH_CONFIG:
            warnings.append(f"--{flag.name} is ignored: --config is given, set {flag.path.format(mode=mode)} there")
            continue
        section = body
        *sections, last = flag.path.format(mode=mode).split(".")
        for name in sections:
            section = section[name]
        section[last] = _value(flag, value)
    made = configs.with_ports(msgspec.convert(body, ProxyConfig))
    configs.check(made, "command line")
    return made, warnings


def _value(flag: Flag, value: Any) -> Any:
    text = str(value).strip()
    match flag.kind:
        case "list":
            return [part.strip() for part in text.split(",") if part.strip()]
        case "gates":
            pairs = [part.partition("=") for part in text.split(",") if part.strip()]
            return {name.strip(): _truth(flag, value, word) for name, _, word in pairs}
        case "bool":
            return _truth(flag, value, text)
        case "number":
            try:
                return int(text)
            except ValueError:
                raise UsageError(f"--{flag.name}: {value!r} is no whole number") from None
    if flag.name == "hostname-override":
        if not text:
            raise UsageError("--hostname-override: a name of blanks is none")
        return text.lower()
    return text


def _truth(flag: Flag, value: Any, word: str) -> bool:
    """A truth value as Go's flags have them."""
    if (word := word.strip().lower()) not in _TRUE + _FALSE:
        form = "true or false" if flag.kind == "bool" else "of the form Gate=true,Other=false"
        raise UsageError(f"--{flag.name}: {value!r} is not {form}")
    return word in _TRUE
