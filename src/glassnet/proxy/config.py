"""KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1: read, checked, written.

Source: Kubernetes reference, "kube-proxy Configuration (v1alpha1)"; pkg/proxy/apis/config/validation for the checks. An unknown field is an
error here (kube-proxy lets it pass with a warning for v1alpha1): what is misspelt has no effect, and nobody sees it.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from typing import Any

import msgspec

from glassnet.kube import manifest
from glassnet.kube.manifest import Manifest
from glassnet.net import address
from glassnet.net.errors import ParseError
from glassnet.proxy import nodeports

API_VERSION, KIND = "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration"
MODES = ("iptables", "nftables")
DETECT_MODES = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|us|µs|ns|m|s)")


class _Section(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    pass


class ClientConnection(_Section, frozen=True):
    kubeconfig: str = ""
    accept_content_types: str = ""
    content_type: str = "application/json"
    qps: float = 5
    burst: int = 10


class Iptables(_Section, frozen=True):
    masquerade_bit: int = 14
    masquerade_all: bool = False
    localhost_node_ports: bool = True
    sync_period: str = "30s"
    min_sync_period: str = "0s"


class Nftables(_Section, frozen=True):
    masquerade_bit: int = 14
    masquerade_all: bool = False
    sync_period: str = "30s"
    min_sync_period: str = "0s"


class Ipvs(_Section, frozen=True):
    sync_period: str = "0s"
    min_sync_period: str = "0s"
    scheduler: str = ""
    exclude_cidrs: tuple[str, ...] = msgspec.field(name="excludeCIDRs", default=())
    strict_arp: bool = msgspec.field(name="strictARP", default=False)
    tcp_timeout: str = "0s"
    tcp_fin_timeout: str = "0s"
    udp_timeout: str = "0s"


class Winkernel(_Section, frozen=True):
    network_name: str = ""
    source_vip: str = ""
    enable_dsr: bool = msgspec.field(name="enableDSR", default=False)
    root_hns_endpoint_name: str = ""
    forward_health_check_vip: bool = msgspec.field(name="forwardHealthCheckVIP", default=False)


class DetectLocal(_Section, frozen=True):
    bridge_interface: str = ""
    interface_name_prefix: str = ""


class Conntrack(_Section, frozen=True):
    max_per_core: int = 32768
    min: int = 131072
    tcp_established_timeout: str = "24h0m0s"
    tcp_close_wait_timeout: str = "1h0m0s"
    tcp_be_liberal: bool = False
    udp_timeout: str = "0s"
    udp_stream_timeout: str = "0s"


class Logging(_Section, frozen=True):
    format: str = "text"
    flush_frequency: Any = "5s"
    verbosity: int = 0
    vmodule: tuple[dict[str, Any], ...] = ()
    options: dict[str, Any] = {}


class ProxyConfig(_Section, frozen=True):
    """The whole configuration, with kube-proxy's defaults, but for minSyncPeriod: a change is written at once, as it costs little here."""

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
    body = text.removeprefix("-").removeprefix("+")
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
    unknown = _unknown(ProxyConfig, body, "")
    warnings = [f"{source}:{item.line(path)}: {message}" for path, message in unknown]
    if unknown and not lenient:
        raise ParseError("\n".join(f"line {item.line(path)}: {message}" for path, message in unknown), source)
    try:
        config = msgspec.convert(_prune(ProxyConfig, body), ProxyConfig)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        path = path.rstrip("`")
        raise item.error(f"{path}: {message[:1].lower()}{message[1:]}", path) from None
    check(config, source, item)
    return config, warnings


def check(config: ProxyConfig, source: str = "", item: Manifest | None = None) -> None:
    """Whether values make sense together. Raises ParseError that names all faults."""
    faults = list(_faults(config))
    if faults:
        lines = [f"{f'line {item.line(path)}: ' if item else ''}{path}: {message}" for path, message in faults]
        raise ParseError("; ".join(lines) if len(lines) == 1 else "\n" + "\n".join(lines), source)


def _unknown(kind: type[Any], body: Any, path: str) -> list[tuple[str, str]]:
    """(path, message) of fields a section does not have."""
    out: list[tuple[str, str]] = []
    fields = {each.encode_name: each for each in msgspec.structs.fields(kind)}
    for name, value in body.items() if isinstance(body, dict) else ():
        here = f"{path}.{name}" if path else str(name)
        if name not in fields:
            close = difflib.get_close_matches(str(name), fields, 1)
            out.append((here, f"unknown field {here!r}" + (f"; did you mean {close[0]!r}?" if close else "")))
        elif isinstance(fields[name].type, type) and issubclass(fields[name].type, _Section):
            out += _unknown(fields[name].type, value, here)
    return out


def _prune(kind: type[Any], body: Any) -> Any:
    """Without nulls, which stand for the default, and unknown fields."""
    if not isinstance(body, dict):
        return body
    fields = {each.encode_name: each for each in msgspec.structs.fields(kind)}
    return {
        name: _prune(fields[name].type, value)
        if isinstance(fields[name].type, type) and issubclass(fields[name].type, _Section)
        else value
        for name, value in body.items()
        if name in fields and value is not None
    }


def _faults(config: ProxyConfig) -> Any:
    """(path, message) of each fault."""
    if config.mode not in ("", *MODES):
        yield (
            "mode",
            f"{config.mode!r} is not among iptables, nftables (ipvs and kernelspace are not offered: nftables is faster than ipvs)",
        )
    for path, ip in (("bindAddress", config.bind_address),):
        if not address.canonical(ip):
            yield path, f"{ip!r} is no IP address"
    for path, place in (("healthzBindAddress", config.healthz_bind_address), ("metricsBindAddress", config.metrics_bind_address)):  # fmt: skip
        if place and not _host_port(place):
            yield path, f"{place!r} is not of the form IP:PORT"
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
    for path, value in (("conntrack.maxPerCore", config.conntrack.max_per_core), ("conntrack.min", config.conntrack.min)):  # fmt: skip
        if value < 0:
            yield path, "must not be negative"
    if config.oom_score_adj is not None and not -1000 <= config.oom_score_adj <= 1000:
        yield "oomScoreAdj", "must be between -1000 and 1000"
    yield from _detect_faults(config)


def _cidr_faults(config: ProxyConfig) -> Any:
    families: list[str] = []
    for cidr in config.cluster_cidrs:
        if not _network(cidr):
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
        elif not _network(word):
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


def _network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text


def _host_port(text: str) -> bool:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    return bool(address.canonical(host)) and port.isdigit() and 0 < int(port) < 65536


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
