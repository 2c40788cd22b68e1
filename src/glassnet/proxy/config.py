"""KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1: read, checked, written.

Source: Kubernetes reference, "kube-proxy Configuration (v1alpha1)"; pkg/proxy/apis/config/validation for the checks. An unknown field is an
error here (kube-proxy lets it pass with a warning for v1alpha1): what is misspelt has no effect, and nobody sees it. An empty or zero value in a
file stands for the default wherever kube-proxy takes it so (pkg/proxy/apis/config/v1alpha1, SetDefaults): kubeadm writes such files.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from glassnet.kube import manifest, sections
from glassnet.kube.manifest import Manifest
from glassnet.kube.sections import Section
from glassnet.net import address
from glassnet.net.errors import ParseError
from glassnet.proxy import nodeports

API_VERSION, KIND = "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration"
MODES = ("iptables", "nftables")
DETECT_MODES = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
HEALTHZ_PORT, METRICS_PORT = 10256, 10249
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|us|\u00b5s|\u03bcs|ns|m|s)")
_PORTS = re.compile(r"([0-9]{1,5})(?:([-+])([0-9]{1,5}))?")


class ClientConnection(Section, frozen=True):
    kubeconfig: str = ""
    accept_content_types: str = ""
    content_type: str = "application/json"
    qps: float = 5
    burst: int = 10


class Iptables(Section, frozen=True):
    masquerade_bit: int = 14
    masquerade_all: bool = False
    localhost_node_ports: bool = True
    sync_period: str = "30s"
    min_sync_period: str = "0s"


class Nftables(Section, frozen=True):
    masquerade_bit: int = 14
    masquerade_all: bool = False
    sync_period: str = "30s"
    min_sync_period: str = "0s"


class Ipvs(Section, frozen=True):
    sync_period: str = "30s"
    min_sync_period: str = "0s"
    scheduler: str = ""
    exclude_cidrs: tuple[str, ...] = msgspec.field(name="excludeCIDRs", default=())
    strict_arp: bool = msgspec.field(name="strictARP", default=False)
    tcp_timeout: str = "0s"
    tcp_fin_timeout: str = "0s"
    udp_timeout: str = "0s"


class Winkernel(Section, frozen=True):
    network_name: str = ""
    source_vip: str = ""
    enable_dsr: bool = msgspec.field(name="enableDSR", default=False)
    root_hns_endpoint_name: str = ""
    forward_health_check_vip: bool = False


class DetectLocal(Section, frozen=True):
    bridge_interface: str = ""
    interface_name_prefix: str = ""


class Conntrack(Section, frozen=True):
    max_per_core: int = 32768
    min: int = 131072
    tcp_established_timeout: str = "24h0m0s"
    tcp_close_wait_timeout: str = "1h0m0s"
    tcp_be_liberal: bool = False
    udp_timeout: str = "0s"
    udp_stream_timeout: str = "0s"


class Logging(Section, frozen=True):
    format: str = "text"
    flush_frequency: Any = "5s"
    verbosity: int = 0
    vmodule: tuple[dict[str, Any], ...] = ()
    options: dict[str, Any] = {}


class ProxyConfig(Section, frozen=True):
    """The whole configuration, with kube-proxy's defaults, but for two.

    minSyncPeriod is 0: a change is written at once, as it costs little here. contentType is JSON, which is what this client speaks.
    """

    feature_gates: dict[str, bool] = {}
    client_connection: ClientConnection = ClientConnection()
    logging: Logging = Logging()
    hostname_override: str = ""
    bind_address: str = "0.0.0.0"
    healthz_bind_address: str = "0.0.0.0:10256"
    metrics_bind_address: str = "127.0.0.1:10249"
    bind_address_hard_fail: bool = False
    enable_profiling: bool = False
    show_hidden_metrics_for_version: str = ""
    mode: str = ""
    iptables: Iptables = Iptables()
    ipvs: Ipvs = Ipvs()
    nftables: Nftables = Nftables()
    winkernel: Winkernel = Winkernel()
    detect_local_mode: str = ""
    detect_local: DetectLocal = DetectLocal()
    cluster_cidr: str = msgspec.field(name="clusterCIDR", default="")
    node_port_addresses: tuple[str, ...] = ()
    oom_score_adj: int | None = -999
    conntrack: Conntrack = Conntrack()
    config_sync_period: str = "15m0s"
    port_range: str = ""
    windows_run_as_service: bool = False

    @property
    def backend(self) -> Iptables | Nftables:
        """The section of the mode in use."""
        return self.nftables if self.mode == "nftables" else self.iptables

    @property
    def cluster_cidrs(self) -> tuple[str, ...]:
        """The ranges of clusterCIDR, one a family."""
        return tuple(part.strip() for part in self.cluster_cidr.split(",") if part.strip())


def seconds(text: str) -> float:
    """A duration as Go writes them ("1h2m3.5s"), in seconds. Raises ValueError."""
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0.0
    parts = _DURATION.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        raise ValueError(f"{text!r} is no duration such as 30s or 1h30m")
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return -total if text.startswith("-") else total


def parse(text: str, source: str, lenient: bool = False) -> tuple[ProxyConfig, list[str]]:
    """Read a configuration from YAML or JSON; the second value are warnings.

    Unknown fields are errors, with `lenient` warnings. Raises ParseError that names all faults, each with its line.
    """
    found = manifest.parse(text, source, named=False)
    if len(found) != 1:
        raise ParseError(f"one {KIND} is wanted, {len(found)} objects are here", source)
    item = found[0]
    if (item.body.get("apiVersion"), item.body.get("kind")) != (API_VERSION, KIND):
        raise item.error(f"apiVersion {API_VERSION} and kind {KIND} are wanted", "kind")
    body = {key: value for key, value in item.body.items() if key not in ("apiVersion", "kind", "metadata")}
    unknown = sections.unknown(ProxyConfig, body)
    addresses = {"healthzBindAddress": "", "metricsBindAddress": ""}  # their defaults depend on bindAddress
    config, faults = sections.convert({**addresses, **sections.prune(ProxyConfig, body)}, ProxyConfig)
    config = settled(config)
    wrong = {path.split("[")[0] for path, _ in faults}
    faults += [(path, f"{path}: {message}") for path, message in find_faults(config) if path.split("[")[0] not in wrong]
    warnings = [f"{source}:{sections.line(item, path)}: {message}" for path, message in unknown] if lenient else []
    sections.refuse(faults if lenient else [*unknown, *faults], source, item)
    return config, warnings


def settled(config: ProxyConfig) -> ProxyConfig:
    """A configuration as it counts: kube-proxy's defaults for what a file leaves empty, ports where addresses have none."""
    return with_ports(_defaulted(config))


def _defaulted(config: ProxyConfig) -> ProxyConfig:
    """With kube-proxy's defaults in place of values that are empty or zero in a file."""
    bind = config.bind_address or "0.0.0.0"
    wide, loopback = ("[::]", "[::1]") if address.family(bind) == address.IPV6 else ("0.0.0.0", "127.0.0.1")
    client, logs = config.client_connection, config.logging
    replace = msgspec.structs.replace
    return replace(
        config,
        bind_address=bind,
        healthz_bind_address=config.healthz_bind_address or wide,
        metrics_bind_address=config.metrics_bind_address or loopback,
        config_sync_period=_period(config.config_sync_period, ProxyConfig().config_sync_period),
        iptables=replace(config.iptables, sync_period=_period(config.iptables.sync_period, Iptables().sync_period)),
        nftables=replace(config.nftables, sync_period=_period(config.nftables.sync_period, Nftables().sync_period)),
        ipvs=replace(config.ipvs, sync_period=_period(config.ipvs.sync_period, Ipvs().sync_period)),
        client_connection=replace(
            client,
            content_type=client.content_type or ClientConnection().content_type,
            qps=client.qps or ClientConnection().qps,
            burst=client.burst or ClientConnection().burst,
        ),
        logging=replace(
            logs,
            format=logs.format or Logging().format,
            flush_frequency=logs.flush_frequency or Logging().flush_frequency,
        ),
    )


def _period(text: str, default: str) -> str:
    try:
        return text if seconds(text) else default
    except ValueError:
        return text


def with_ports(config: ProxyConfig) -> ProxyConfig:
    """With the usual ports where healthzBindAddress and metricsBindAddress are addresses alone; empty ones stay: not served."""
    return msgspec.structs.replace(
        config,
        healthz_bind_address=with_port(config.healthz_bind_address, HEALTHZ_PORT),
        metrics_bind_address=with_port(config.metrics_bind_address, METRICS_PORT),
    )


def with_port(place: str, port: int) -> str:
    """An address with the port it lacks; what is neither an address nor one with a port stays, for the check to name it."""
    ip = address.canonical(place[1:-1] if place.startswith("[") and place.endswith("]") else place)
    return address.with_port(ip, port) if ip else place


def check(config: ProxyConfig, source: str = "", item: Manifest | None = None) -> None:
    """Whether values make sense together. Raises ParseError that names all faults, with their lines when `item` is what they were read from."""
    sections.refuse([(path, f"{path}: {message}") for path, message in find_faults(config)], source, item)


def find_faults(config: ProxyConfig) -> Iterator[tuple[str, str]]:
    """(path, message) of each value that cannot be."""
    if config.mode not in ("", *MODES):
        yield (
            "mode",
            f"{config.mode!r} is not among iptables, nftables (ipvs and kernelspace are not offered: nftables is faster than ipvs)",
        )
    if not address.canonical(config.bind_address):
        yield "bindAddress", f"{config.bind_address!r} is no IP address"
    for path, place in (("healthzBindAddress", config.healthz_bind_address), ("metricsBindAddress", config.metrics_bind_address)):  # fmt: skip
        if place and not is_host_port(place):
            yield path, f"{place!r} is not of the form IP:PORT or [IP]:PORT"
    yield from _cidr_faults(config)
    for name in ("iptables", "nftables"):
        section = getattr(config, name)
        if not 0 <= section.masquerade_bit <= 31:
            yield f"{name}.masqueradeBit", "must be between 0 and 31"
        for field in ("sync_period", "min_sync_period"):
            yield from _duration_faults(f"{name}.{_camel(field)}", getattr(section, field), positive=field == "sync_period")  # fmt: skip
        with_faults = [*_duration_faults("", section.sync_period), *_duration_faults("", section.min_sync_period)]
        if not with_faults and seconds(section.min_sync_period) > seconds(section.sync_period):
            yield f"{name}.minSyncPeriod", f"must not be longer than {name}.syncPeriod"
    yield from _duration_faults("configSyncPeriod", config.config_sync_period, positive=True)
    for field in ("tcp_established_timeout", "tcp_close_wait_timeout", "udp_timeout", "udp_stream_timeout"):
        yield from _duration_faults(f"conntrack.{_camel(field)}", getattr(config.conntrack, field))
    for path, value in (
        ("conntrack.maxPerCore", config.conntrack.max_per_core),
        ("conntrack.min", config.conntrack.min),
        ("clientConnection.burst", config.client_connection.burst),
        ("logging.verbosity", config.logging.verbosity),
    ):
        if value < 0:
            yield path, "must not be negative"
    if config.port_range and not _port_range(config.port_range):
        yield "portRange", f"{config.port_range!r} is no range of ports such as 30000-32767"
    if config.oom_score_adj is not None and not -1000 <= config.oom_score_adj <= 1000:
        yield "oomScoreAdj", "must be between -1000 and 1000"
    yield from _detect_faults(config)


def _cidr_faults(config: ProxyConfig) -> Any:
    families: list[str] = []
    for cidr in config.cluster_cidrs:
        if not is_network(cidr):
            yield "clusterCIDR", f"{cidr!r} is no CIDR such as 10.200.0.0/16"
        elif address.family(cidr) in families:
            yield "clusterCIDR", f"{config.cluster_cidr!r} has two ranges of one family"
        families.append(address.family(cidr))
    words = config.node_port_addresses
    for index, word in enumerate(words):
        path = f"nodePortAddresses[{index}]"
        if word == nodeports.PRIMARY:
            if len(words) > 1:
                yield path, "'primary' stands alone"
        elif not is_network(word):
            yield path, f"{word!r} is neither a CIDR nor 'primary'"


def _detect_faults(config: ProxyConfig) -> Any:
    mode, local = config.detect_local_mode, config.detect_local
    if mode not in ("", *DETECT_MODES):
        yield "detectLocalMode", f"{mode!r} is not among {', '.join(DETECT_MODES)}"
    if mode == "BridgeInterface" and not local.bridge_interface:
        yield "detectLocal.bridgeInterface", "is needed with detectLocalMode BridgeInterface"
    if mode == "InterfaceNamePrefix" and not local.interface_name_prefix:
        yield "detectLocal.interfaceNamePrefix", "is needed with detectLocalMode InterfaceNamePrefix"
    for path, name in (("bridgeInterface", local.bridge_interface), ("interfaceNamePrefix", local.interface_name_prefix)):  # fmt: skip
        if len(name.encode()) > 15:
            yield f"detectLocal.{path}", f"{name!r} is longer than the 15 bytes an interface's name may have"


def _duration_faults(path: str, text: str, positive: bool = False) -> Any:
    try:
        value = seconds(text)
    except ValueError as error:
        yield path, str(error)
        return
    if value < 0 or (positive and not value):
        yield path, f"{text!r} must be {'greater than 0' if positive else '0 or more'}"


def is_network(text: str) -> bool:
    """Whether a text is a CIDR; bits behind the prefix do not count, as with kube-proxy."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return text.partition("/")[2].isdigit() and "%" not in text


def _number(text: str, most: int) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= most


def is_host_port(text: str) -> bool:
    """Whether a text is "IP:PORT" or "[IP]:PORT"."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in host and bare is host:  # an IPv6 address wants brackets
        return False
    return bool(address.canonical(bare)) and _number(port, 65535) and int(port) > 0


def _port_range(text: str) -> bool:
    """One port, FIRST-LAST, or FIRST+MORE, as k8s.io/apimachinery/pkg/util/net reads them."""
    found = _PORTS.fullmatch(text.strip())
    if not found:
        return False
    first, last = int(found[1]), int(found[3] or found[1])
    if found[2] == "+":
        last += first
    return first <= last <= 65535


def host_port(text: str) -> tuple[str, int]:
    """(address, port) of "IP:PORT" or "[IP]:PORT", checked before."""
    host, _, port = text.rpartition(":")
    return address.canonical(host.removeprefix("[").removesuffix("]")), int(port)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def to_dict(config: ProxyConfig) -> dict[str, Any]:
    """The configuration as a file has it, defaults included."""
    body: dict[str, Any] = msgspec.to_builtins(config)
    return {"apiVersion": API_VERSION, "kind": KIND, **body}


def configz(config: ProxyConfig) -> dict[str, Any]:
    """What /configz answers."""
    return {"kubeproxy.config.k8s.io": msgspec.to_builtins(config)}
