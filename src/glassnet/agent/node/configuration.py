"""The agent's configuration: one YAML file, the environment, flags; and for every value where it came from.

What is written later in that line counts: default, file, environment variable, flag. The proxy's own part is a KubeProxyConfiguration.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import yaml

from glassnet.cni import ready, runtime
from glassnet.cni.result import VERSIONS
from glassnet.kube import manifest, sections
from glassnet.kube.manifest import Manifest
from glassnet.kube.sections import Fault, Section
from glassnet.loadbalancer.heartbeat import LoadBalancerSettings
from glassnet.net import address
from glassnet.net.errors import GlassnetError, UsageError
from glassnet.proxy import config as configs
from glassnet.proxy.config import ProxyConfig

CONF_KINDS = ("glassnet", "kubenet", "bridge", "ptp", "docker")
MODES, FORMATS, LEVELS = ("auto", "direct", "vxlan"), ("text", "json"), ("debug", "info", "warning", "error")
_LEAST_MTU, _VXLAN_IDS = 1280, 1 << 24  # RFC 8200, section 5; RFC 7348, section 5
LEAST_KEY = 16  # octets
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class CniPart(Section, frozen=True):
    """`conf` is the name of a ready configuration, or a network list in full."""

    enabled: bool = True
    socket: str = "/run/glassnet/cni.sock"
    install: bool = False
    bin_dir: str = "/opt/cni/bin"
    conf_dir: str = "/etc/cni/net.d"
    conf: str | dict[str, Any] = "glassnet"


class ProxyPart(Section, frozen=True):
    """`config` has the fields of kube-proxy's configuration."""

    enabled: bool = True
    config: ProxyConfig = ProxyConfig()


class RoutesPart(Section, frozen=True):
    """`mtu` is that of the links between nodes; 0: looked up."""

    enabled: bool = True
    mode: str = "auto"
    mtu: int = 0
    vxlan_id: int = msgspec.field(name="vxlanID", default=1)
    vxlan_port: int = 8472


class LoadBalancerPart(Section, frozen=True):
    """Announcing addresses of Services of type LoadBalancer. `pools_file` stands in for the ConfigMap in `namespace`."""

    enabled: bool = False
    namespace: str = "glassnet-system"
    pools_file: str = ""
    links: tuple[str, ...] = ()
    heartbeat_port: int = 10270
    heartbeat_key_file: str = ""
    bird: str = "/usr/sbin/bird"


class LoggingPart(Section, frozen=True):
    format: str = "text"
    level: str = "info"


class AgentConfig(Section, frozen=True):
    """The whole configuration."""

    node_name: str = ""
    kubeconfig: str = ""
    servers: tuple[str, ...] = ()
    cluster_cidrs: tuple[str, ...] = msgspec.field(name="clusterCIDRs", default=())
    health_bind_address: str = "0.0.0.0:10256"
    metrics_bind_address: str = "127.0.0.1:10249"
    cni: CniPart = CniPart()
    proxy: ProxyPart = ProxyPart()
    routes: RoutesPart = RoutesPart()
    load_balancer: LoadBalancerPart = LoadBalancerPart()
    logging: LoggingPart = LoggingPart()


class Option(NamedTuple):
    """A flag, and with it the environment variable GLASSNET_<FLAG>; `path` is the field it sets."""

    flag: str
    kind: Literal["text", "number", "bool", "list"]
    path: str
    help: str

    @property
    def variable(self) -> str:
        """The environment variable's name."""
        return "GLASSNET_" + self.flag.upper().replace("-", "_")


OPTIONS: tuple[Option, ...] = (
    Option("node-name", "text", "nodeName", "Name of this node's Node object (default: NODE_NAME, else the host name)."),
    Option("kubeconfig", "text", "kubeconfig", "Kubeconfig of the API server; without one, the service account of the pod."),
    Option("servers", "list", "servers", "URLs of API servers, in place of the kubeconfig's; tried in turn."),
    Option("cluster-cidrs", "list", "clusterCIDRs", "Ranges of all pods: not masqueraded, told from what comes from outside."),
    Option("health-bind-address", "text", "healthBindAddress", "IP:PORT of /healthz, /livez, /readyz; empty for none."),
    Option("metrics-bind-address", "text", "metricsBindAddress", "IP:PORT of /metrics; empty for none."),
    Option("cni", "bool", "cni.enabled", "Serve the CNI plugins of this node."),
    Option("cni-socket", "text", "cni.socket", "Where the plugins' programs find the agent."),
    Option("cni-install", "bool", "cni.install", "Put the plugins' programs into the runtime's directory."),
    Option("cni-bin-dir", "text", "cni.binDir", "Where the runtime looks for plugins."),
    Option("cni-conf-dir", "text", "cni.confDir", "Where the runtime looks for a network; empty: none is written."),
    Option("cni-conf", "text", "cni.conf", f"Which network: {', '.join(CONF_KINDS)} (a list in full: in the file)."),
    Option("proxy", "bool", "proxy.enabled", "Run the Service proxy."),
    Option("proxy-mode", "text", "proxy.config.mode", "iptables or nftables."),
    Option("routes", "bool", "routes.enabled", "Keep routes to the pods of the other nodes."),
    Option("routes-mode", "text", "routes.mode", "auto (direct where nodes share a link, else VXLAN), direct, vxlan."),
    Option("routes-mtu", "number", "routes.mtu", "MTU between nodes; 0: that of the link."),
    Option("routes-vxlan-id", "number", "routes.vxlanID", "Number of the VXLAN network."),
    Option("routes-vxlan-port", "number", "routes.vxlanPort", "UDP port of VXLAN."),
    Option("load-balancer", "bool", "loadBalancer.enabled", "Announce addresses of Services of type LoadBalancer."),
    Option("load-balancer-namespace", "text", "loadBalancer.namespace", "Where the ConfigMap glassnet-loadbalancer is."),
    Option("load-balancer-pools-file", "text", "loadBalancer.poolsFile", "A file of pools, in place of the ConfigMap."),
    Option("load-balancer-links", "list", "loadBalancer.links", "Links to answer on; none: those with the Node's addresses."),
    Option("load-balancer-heartbeat-port", "number", "loadBalancer.heartbeatPort", "UDP port by which nodes tell each other that they live."),
    Option("load-balancer-heartbeat-key-file", "text", "loadBalancer.heartbeatKeyFile", "File with the key that authenticates them, the same on all nodes."),
    Option("log-format", "text", "logging.format", "text or json (a line a record)."),
    Option("log-level", "text", "logging.level", "debug, info, warning or error."),
)  # fmt: skip
# fields of KubeProxyConfiguration that the agent has of its own, and where
INSTEAD = {
    "hostnameOverride": "nodeName",
    "healthzBindAddress": "healthBindAddress",
    "metricsBindAddress": "metricsBindAddress",
    "clientConnection": "kubeconfig",
    "logging": "logging",
    "configSyncPeriod": "nothing: watches need no resync",
}


_UNSAID = {f"proxy.config.{name}" for name in (*INSTEAD, "ipvs", "winkernel", "windowsRunAsService")}


class Configured(NamedTuple):
    """A configuration, where each of its values came from (by path; defaults are left out), and what is worth a warning."""

    config: AgentConfig
    origins: dict[str, str]
    warnings: tuple[str, ...] = ()


def load(
    text: str | None, source: str, environment: Mapping[str, str], flags: Mapping[str, Any], host_name: str
) -> Configured:
    """The configuration of a file's text (None: no file), the environment, and flags by name (None: not given).

    Raises UsageError that names every fault with its file and line, variable or flag.
    """
    origins: dict[str, str] = {}
    item = manifest.document(text, source) if text is not None else None
    body: dict[str, Any] = dict(item.body) if item else {}
    faults = sections.unknown(AgentConfig, _without_header(body))
    warnings = tuple(f"{source}:{sections.line(item, path)}: {words}" for path, words in _ignored(body))
    body = sections.prune(AgentConfig, body)
    if isinstance(inner := _at(body, "proxy.config"), dict):
        for name in INSTEAD:
            inner.pop(name, None)
    for path in _leaves(AgentConfig, body):
        origins[path] = f"{source}:{sections.line(item, path)}"
    for path, value, origin in _given(environment, flags):
        _put(body, path, value)
        origins[path] = origin
    if not _at(body, "nodeName"):
        body["nodeName"], origins["nodeName"] = host_name.strip().lower(), "host name"
    config, wrong = sections.convert(body, AgentConfig)
    faults += wrong
    config = _settled(config)
    known = {path.split("[")[0] for path, _ in wrong}
    faults += [fault for fault in find_faults(config) if fault[0].split("[")[0] not in known]
    _refuse(faults, origins, item, source)
    return Configured(config, origins, warnings)


def _without_header(body: dict[str, Any]) -> dict[str, Any]:
    """A pasted KubeProxyConfiguration may have its head with it."""
    inner = _at(body, "proxy.config")
    if isinstance(inner, dict) and inner.get("kind", configs.KIND) == configs.KIND:
        for name in ("apiVersion", "kind", "metadata"):
            inner.pop(name, None)
    return body


def _ignored(body: dict[str, Any]) -> Iterator[Fault]:
    inner = _at(body, "proxy.config")
    for name in inner if isinstance(inner, dict) else ():
        if name in INSTEAD and inner[name]:
            yield f"proxy.config.{name}", f"proxy.config.{name} is ignored here; what counts is {INSTEAD[name]}"


def _given(environment: Mapping[str, str], flags: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """(path, value, origin) of what the environment and flags say, flags last. Raises UsageError."""
    if environment.get("NODE_NAME"):
        yield "nodeName", environment["NODE_NAME"].strip(), "NODE_NAME"
    for option in OPTIONS:
        if option.variable in environment:
            origin = option.variable
            yield option.path, read_value(option.kind, environment[origin], origin), origin
    for option in OPTIONS:
        value = flags.get(option.flag)
        if value is not None:
            origin = f"--{option.flag}"
            yield option.path, read_value(option.kind, value, origin), origin


def read_value(kind: str, value: Any, origin: str) -> Any:
    """A value out of the text of a flag or variable. Raises UsageError that names it."""
    text = str(value).strip()
    if kind == "list":
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind == "bool":
        if text.lower() not in _TRUE + _FALSE:
            raise UsageError(f"{origin}: {text!r} is not true or false")
        return text.lower() in _TRUE
    if kind == "number":
        if not (text.isascii() and text.isdigit()):
            raise UsageError(f"{origin}: {text!r} is no whole number")
        return int(text)
    return text


def _at(body: Any, path: str) -> Any:
    for step in path.split("."):
        body = body.get(step) if isinstance(body, dict) else None
    return body


def _put(body: dict[str, Any], path: str, value: Any) -> None:
    *parts, last = path.split(".")
    for part in parts:
        inner = body.get(part)
        if not isinstance(inner, dict):
            inner = body[part] = {}
        body = inner
    body[last] = value


def _leaves(kind: type[Any], body: dict[str, Any], path: str = "") -> Iterator[str]:
    """Paths of the values a body has."""
    types = {each.encode_name: each.type for each in msgspec.structs.fields(kind)}
    for name, value in body.items():
        here = f"{path}.{name}" if path else name
        if sections.is_section(types[name]) and isinstance(value, dict):
            yield from _leaves(types[name], value, here)
        else:
            yield here


# -- what cannot be


def _settled(config: AgentConfig) -> AgentConfig:
    """With the usual ports where addresses have none, and the proxy's own defaults for what is left empty."""
    replace = msgspec.structs.replace
    inner = configs.settled(config.proxy.config)
    return replace(
        config,
        node_name=config.node_name.strip().lower(),
        health_bind_address=configs.with_port(config.health_bind_address, configs.HEALTHZ_PORT),
        metrics_bind_address=configs.with_port(config.metrics_bind_address, configs.METRICS_PORT),
        proxy=replace(config.proxy, config=inner),
    )


def find_faults(config: AgentConfig) -> Iterator[Fault]:
    """(path, message) of each value that cannot be."""
    yield from _address_faults(config)
    yield from _cni_faults(config.cni)
    routes, log = config.routes, config.logging
    for path, word, words in (
        ("routes.mode", routes.mode, MODES),
        ("logging.format", log.format, FORMATS),
        ("logging.level", log.level, LEVELS),
    ):
        if word not in words:
            yield path, f"{path}: {word!r} is not among {', '.join(words)}"
    if routes.mtu and not _LEAST_MTU <= routes.mtu <= 65535:
        yield (
            "routes.mtu",
            f"routes.mtu: {routes.mtu} is neither 0 nor between {_LEAST_MTU} (the least IPv6 may have) and 65535",
        )
    if not 0 < routes.vxlan_id < _VXLAN_IDS:
        yield "routes.vxlanID", f"routes.vxlanID: {routes.vxlan_id} is not between 1 and {_VXLAN_IDS - 1}"
    if not 0 < routes.vxlan_port <= 65535:
        yield "routes.vxlanPort", f"routes.vxlanPort: {routes.vxlan_port} is no port"
    yield from _balancer_faults(config.load_balancer)
    for path, message in configs.find_faults(config.proxy.config):
        yield f"proxy.config.{path}", f"proxy.config.{path}: {message}"
    if not (config.cni.enabled or config.proxy.enabled or config.routes.enabled or config.load_balancer.enabled):
        yield "", "cni, proxy, routes and loadBalancer are all switched off: nothing is left to do"


def _balancer_faults(part: LoadBalancerPart) -> Iterator[Fault]:
    if not 0 < part.heartbeat_port <= 65535:
        yield "loadBalancer.heartbeatPort", f"loadBalancer.heartbeatPort: {part.heartbeat_port} is no port"
    for name, place in (("poolsFile", part.pools_file), ("heartbeatKeyFile", part.heartbeat_key_file), ("bird", part.bird)):  # fmt: skip
        if place and not place.startswith("/"):
            yield f"loadBalancer.{name}", f"loadBalancer.{name}: {place!r} is no absolute path"


def _address_faults(config: AgentConfig) -> Iterator[Fault]:
    if not config.node_name:
        yield "nodeName", "nodeName: no name is known; --node-name gives it"
    for index, url in enumerate(config.servers):
        if not url.startswith(("http://", "https://")):
            path = f"servers[{index}]"
            yield path, f"{path}: {url!r} is no http or https URL"
        elif "@" in url.split("//")[1].split("/")[0]:
            yield (
                f"servers[{index}]",
                f"servers[{index}]: a user in a URL is shown to everybody; credentials belong into the kubeconfig",
            )
    for index, cidr in enumerate(config.cluster_cidrs):
        path = f"clusterCIDRs[{index}]"
        try:
            ip_network(cidr)
        except ValueError as error:
            yield path, f"{path}: {error}; want a network such as 10.200.0.0/16"
    for path, place in (
        ("healthBindAddress", config.health_bind_address),
        ("metricsBindAddress", config.metrics_bind_address),
    ):
        if place and not configs.is_host_port(place):
            yield path, f"{path}: {place!r} is not of the form IP:PORT or [IP]:PORT"


def _cni_faults(cni: CniPart) -> Iterator[Fault]:
    for path, place in (("cni.socket", cni.socket), ("cni.binDir", cni.bin_dir), ("cni.confDir", cni.conf_dir)):
        if not place.startswith("/") and not (place == "" and path == "cni.confDir"):
            yield path, f"{path}: {place!r} is no absolute path"
    if len(cni.socket.encode()) > 107:
        yield "cni.socket", "cni.socket: longer than the 107 bytes the path of a socket may have (unix(7))"
    if isinstance(cni.conf, str):
        if cni.conf not in CONF_KINDS:
            yield "cni.conf", f"cni.conf: {cni.conf!r} is neither among {', '.join(CONF_KINDS)} nor a network list"
        return
    try:
        runtime.parse_network(json.dumps(cni.conf), "")
    except GlassnetError as error:
        yield "cni.conf", f"cni.conf: {str(error).lstrip(':1 ')}"
        return
    if "plugins" not in cni.conf:
        yield "cni.conf", 'cni.conf: a network list is wanted: {"name": …, "plugins": […]}'


def _refuse(faults: list[Fault], origins: Mapping[str, str], item: Manifest | None, source: str) -> None:
    """Raise UsageError that tells all faults, each with its place, unless there are none."""
    told = []
    for path, message in faults:
        origin = origins.get(path.split("[")[0], "")
        if item is not None and (not origin or origin.startswith(f"{source}:")):
            number = sections.line(item, path)
            told.append((number, f"{source}:{number}: {message}" if number and path else f"{source}: {message}"))
        else:
            told.append((0, f"{origin}: {message}" if origin else message))
    lines = [line for _, line in sorted(told, key=lambda each: each[0])]
    if len(lines) == 1:
        raise UsageError(lines[0])
    if lines:
        raise UsageError("\n  ".join([f"{len(lines)} faults in the configuration:", *lines]))


# -- what it comes to


def proxy_config(config: AgentConfig) -> ProxyConfig:
    """The proxy's configuration as it counts: with what the agent has of its own."""
    inner = config.proxy.config
    first: dict[str, str] = {}
    for cidr in config.cluster_cidrs:
        first.setdefault(address.family(cidr), cidr)
    return msgspec.structs.replace(
        inner,
        hostname_override=config.node_name,
        healthz_bind_address=config.health_bind_address,
        metrics_bind_address=config.metrics_bind_address,
        cluster_cidr=inner.cluster_cidr or ",".join(first.values()),
    )


def balancer_settings(part: LoadBalancerPart) -> LoadBalancerSettings:
    """How this node announces addresses. Raises UsageError when the key cannot be read."""
    key = b""
    if part.heartbeat_key_file:
        try:
            key = Path(part.heartbeat_key_file).read_bytes().strip()
        except OSError as error:
            raise UsageError(f"loadBalancer.heartbeatKeyFile: {part.heartbeat_key_file}: {error.strerror}") from None
        if len(key) < LEAST_KEY:
            raise UsageError(f"loadBalancer.heartbeatKeyFile: {part.heartbeat_key_file}: {len(key)} octets are too few for a key; openssl rand -hex 32 makes one")  # fmt: skip
    return LoadBalancerSettings(part.namespace, part.pools_file, part.links, part.heartbeat_port, key, part.bird)


def network_file(cni: CniPart, pod_cidrs: tuple[str, ...]) -> str:
    """The text of the network's configuration file for a runtime, with our mark. Raises UsageError when a ready one lacks pod CIDRs."""
    if isinstance(cni.conf, str):
        wish = ready.Wish(pod_cidrs=() if cni.conf in ("glassnet", "docker") else pod_cidrs)
        body = json.loads(next(iter(ready.files(cni.conf, wish).values())))
    else:
        plugins = [_with_ranges(one, pod_cidrs) for one in cni.conf["plugins"]]
        body = {"cniVersion": VERSIONS[-1], **cni.conf, "plugins": plugins}
    return json.dumps({**body, OWNER_KEY: OWNER}, indent=2) + "\n"


def lacks_ranges(plugin: Mapping[str, Any]) -> bool:
    """Whether a plugin of a list in full gets its addresses of host-local, which is not told of which ranges: those of the node, then."""
    ipam = plugin.get("ipam")
    return (
        isinstance(ipam, dict) and ipam.get("type") == "host-local" and not (ipam.get("ranges") or ipam.get("subnet"))
    )


def _with_ranges(plugin: Mapping[str, Any], pod_cidrs: tuple[str, ...]) -> Mapping[str, Any]:
    if not lacks_ranges(plugin):
        return plugin
    return {**plugin, "ipam": {**plugin["ipam"], "ranges": [[{"subnet": cidr}] for cidr in pod_cidrs]}}


OWNER_KEY, OWNER = "glassnet.owner", "glassnet agent"


def is_our_network(text: str) -> bool:
    """Whether a network's configuration file was written by an agent."""
    try:
        body = json.loads(text)
    except ValueError:
        return False
    return isinstance(body, dict) and body.get(OWNER_KEY) == OWNER


def render(configured: Configured) -> str:
    """The whole configuration as YAML, with a comment to each value that says where it came from."""
    lines: list[str] = []
    _render(AgentConfig, msgspec.to_builtins(configured.config), configured.origins, "", lines)
    return "".join(lines)


def _render(kind: type[Any], body: dict[str, Any], origins: Mapping[str, str], path: str, lines: list[str]) -> None:
    indent = "  " * path.count(".") + "  " * bool(path)
    types = {each.encode_name: each.type for each in msgspec.structs.fields(kind)}
    for name, value in body.items():
        here = f"{path}.{name}" if path else name
        if here in _UNSAID:
            continue
        if sections.is_section(types[name]):
            lines.append(f"{indent}{name}:\n")
            _render(types[name], value, origins, here, lines)
            continue
        plain = yaml.safe_dump(value, default_flow_style=True, width=1 << 20).removesuffix("...\n").strip()
        lines.append(f"{indent}{name}: {plain}  # {origins.get(here, 'default')}\n")
