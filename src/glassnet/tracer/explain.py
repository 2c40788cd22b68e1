"""From a rule, a chain, a route or an address to the API object and field that caused it.

Names of chains are told in three ways: by the comment kube-proxy writes, by the name itself (nftables mode), or by computing the hash of
every Service port (kube-proxy's iptables names, of both eras; see `proxy.naming`).
"""

from __future__ import annotations

import re
from functools import cached_property

from glassnet.net import address
from glassnet.proxy.naming import Recipe
from glassnet.ruleset.model import Chain, Rule
from glassnet.ruleset.parse_iptables import comment_of, parse_rule
from glassnet.tracer.fib import Decision
from glassnet.tracer.objects import EndpointRef, Objects, Port, Reference
from glassnet.tracer.packet import PROTOCOL_NAMES, Connection, Step

_ERAS = (Recipe(), Recipe(colon_without_port_name=True))
_IPTABLES = re.compile(r"KUBE-(SVC|SVL|XLB|FW|EXT|SEP)-([A-Z2-7]{16})").fullmatch
# kube-proxy's nftables names: KIND-HASH-namespace/service/protocol/port[__address/port]
_NFT = re.compile(
    r"(service|local|external|firewall|endpoint|affinity)-[A-Z2-7]{8}-([^/]+)/([^/]+)/([a-z]+)/([^_]*)(?:__(.+)/(\d+))?"
).fullmatch
_SET = re.compile(r"@([A-Za-z0-9_./-]+)").search
_NAME = re.compile(r"([a-z0-9.-]+)/([a-z0-9.-]+)(?::([a-z0-9-]*))?")
ROLES = {
    "SVC": "all endpoints", "SVL": "endpoints on this node", "XLB": "endpoints on this node (kube-proxy before 1.24)",
    "FW": "the load balancer's addresses, and source ranges", "EXT": "traffic from outside", "SEP": "one endpoint",
    "service": "all endpoints", "external": "traffic from outside", "firewall": "the load balancer's source ranges",
    "local": "endpoints on this node",
    "endpoint": "one endpoint", "affinity": "clients bound to one endpoint",
}  # fmt: skip
DROPS_MARKED, MARKS_TO_DROP = "kubelet", "kubelet (of the classic layout: the proxy)"
# Chains and tables that no single object asks for: whose they are and what for.
OWNERS: tuple[tuple[str, str, str], ...] = (
    (r"KUBE-MARK-MASQ|masquerading", "kube-proxy", "marks packets whose source has to be rewritten (mark 0x4000)"),
    (r"KUBE-MARK-DROP", MARKS_TO_DROP, "marks packets to be dropped, which KUBE-FIREWALL does (mark 0x8000)"),
    (r"KUBE-POSTROUTING", "kube-proxy", "rewrites the source of marked packets"),
    (r"KUBE-SERVICES|services", "kube-proxy", "sends packets for Service addresses to the chain of their Service"),
    (r"KUBE-NODEPORTS", "kube-proxy", "node ports, and health checks of load balancers"),
    (r"KUBE-EXTERNAL-SERVICES", "kube-proxy", "refuses packets to external addresses and node ports without endpoints"),
    (r"KUBE-FORWARD", "kube-proxy", "accepts forwarded packets that are marked or belong to known connections"),
    (r"KUBE-PROXY-FIREWALL|firewall-check", "kube-proxy", "drops what loadBalancerSourceRanges does not allow"),
    (r"KUBE-FIREWALL", DROPS_MARKED, "drops martian packets to 127.0.0.0/8, and in the classic layout what KUBE-MARK-DROP marked"),
    (r"KUBE-(PROXY|KUBELET)-CANARY", "kube-proxy or kubelet", "a chain to notice that somebody flushed the tables"),
    (r"cluster-ips-check", "kube-proxy", "refuses packets to ClusterIPs without such a port, drops those to unallocated ones"),
    (r"(service|nodeport)-endpoints-check|reject-chain", "kube-proxy", "refuses packets to Services without endpoints"),
    (r"KUBE-ROUTER-.*|KUBE-(POD-FW|NWPLCY)-.*", "kube-router", "network policy"),
    (r"cali-.*", "Calico", ""),
    (r"FLANNEL-.*", "flannel", ""),
    (r"CNI-HOSTPORT-.*|CNI-DN-.*|CNI-SN-.*", "CNI plugin portmap", "host ports of pods"),
    (r"CNI-FORWARD|CNI-ADMIN", "CNI plugin firewall", ""),
    (r"CNI-MASQ-[0-9a-f]{16}", "CNI plugin glassnet", "masquerades what pods send outside the cluster"),
    (r"CNI-[0-9a-f]{24}", "CNI plugin bridge or ptp", "masquerades what a pod sends outside its network (ipMasq)"),
    (r"DOCKER.*", "Docker", ""),
    (r"ufw6?-.*", "ufw", ""),
    (r"(IN|FWD|FWDI|FWDO|PRE|POST)_.*|(INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING)_(ZONES|direct|POLICIES).*", "firewalld", ""),
)  # fmt: skip
CLOUD = "glassnet-cloud"
"""The table of a lab's load balancer, see `loadbalancer.edge`."""
_CLOUD_CHAINS = {
    "to": "takes a flow to this node",
    "pool": "chooses a node for a new flow",
    "known": "flows keep the node they have",
}
_OWNERS = [(re.compile(pattern).fullmatch, owner, purpose) for pattern, owner, purpose in OWNERS]


def owner_of(chain: Chain) -> tuple[str, str]:
    """(program, purpose) of a chain that no single object asks for; ("", "") when it is nobody's we know."""
    table = chain.table
    if table.tool == "nft" and table.name == "firewalld":
        return "firewalld", ""
    if table.tool == "nft" and table.name == "glassnet":
        return "glassnet", table.comment
    if table.tool == "nft" and table.name == CLOUD:
        return "the lab's cloud", _CLOUD_CHAINS.get(chain.name.partition("-")[0], table.comment)
    for match, owner, purpose in _OWNERS:
        if match(chain.name):
            return owner, purpose
    if table.tool == "nft" and table.name == "kube-proxy":
        return "kube-proxy", table.comment
    return "", ""


class Explainer:
    """Finds the objects behind what a snapshot holds."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    # -- names of chains

    @cached_property
    def _services_by_hash(self) -> dict[str, Port]:
        found = {}
        for port in self.objects.ports:
            for recipe in _ERAS:
                found[recipe.service("", port.text, port.protocol)[1:]] = port
        return found

    @cached_property
    def _endpoints_by_hash(self) -> dict[str, tuple[Port, EndpointRef]]:
        found = {}
        for port in self.objects.ports:
            for each in self.endpoints(port):
                for recipe in _ERAS:
                    name = recipe.endpoint(port.text, port.protocol, address.with_port(each.ip, each.port))
                    found[name[len("KUBE-SEP-") :]] = (port, each)
        return found

    def endpoints(self, port: Port) -> list[EndpointRef]:
        """Endpoints of a Service port."""
        return [e for e in self.objects.endpoints.get((port.namespace, port.name), ()) if e.port_name == port.port_name]

    def chain(self, name: str, comment: str = "") -> tuple[Port | None, EndpointRef | None, str]:
        """(Service port, endpoint, role) of a chain of kube-proxy's."""
        found = _IPTABLES(name)
        if found:
            kind, digits = found[1], found[2]
            if kind == "SEP":
                port, endpoint = self._endpoint(digits, comment)
                return port, endpoint, ROLES[kind]
            return self._services_by_hash.get(digits) or self.by_comment(comment), None, ROLES[kind]
        named = _NFT(name)
        if named:
            kind, namespace, service, protocol, port_name, ip, number = named.groups()
            text = f"{namespace}/{service}:{port_name}" if port_name else f"{namespace}/{service}"
            port = next((p for p in self.objects.by_text.get(text, ()) if p.protocol.lower() == protocol), None)
            endpoint = None
            if ip and port is not None:
                endpoint = next((e for e in self.endpoints(port) if e.ip == ip and e.port == int(number)), None)
            return port, endpoint, ROLES[kind]
        return None, None, ""

    def _endpoint(self, digits: str, comment: str) -> tuple[Port | None, EndpointRef | None]:
        """The endpoint whose chain's name has this hash: of the Service port that the comment names, else of any."""
        named = self.by_comment(comment)
        if named is None:
            return self._endpoints_by_hash.get(digits, (None, None))
        for each in self.endpoints(named):
            text = address.with_port(each.ip, each.port)
            if any(recipe.endpoint(named.text, named.protocol, text).endswith(digits) for recipe in _ERAS):
                return named, each
        return named, None

    def by_comment(self, comment: str) -> Port | None:
        """The Service port a comment of kube-proxy's names."""
        found = _NAME.match(comment)
        if not found:
            return None
        text = f"{found[1]}/{found[2]}:{found[3]}" if found[3] else f"{found[1]}/{found[2]}"
        ports = self.objects.by_text.get(text, ())
        return ports[0] if ports else None

    # -- steps of a trace

    def because(self, step: Step) -> list[Reference]:
        """The objects and fields behind one step of a trace."""
        if step.rule is not None:
            return self.rule(step.rule, step)
        if step.kind == "route" and isinstance(step.fact, Decision):
            return self.route(step.fact)
        return []

    def rule(self, rule: Rule, step: Step | None = None) -> list[Reference]:
        """The objects behind a rule. With the step, those this packet met it for."""
        if rule.chain.table.name == CLOUD:
            return self._cloud(rule, step)
        comment = rule.comment or self._comment(rule)
        port, endpoint, _ = self.chain(rule.chain.name, comment)
        target = _target(step) if step is not None else ""
        if target:
            aim, aim_endpoint, _ = self.chain(target, comment)
            if aim is not None:
                return self._towards(rule, step, aim, aim_endpoint, target)
        named = self.by_comment(comment)
        if endpoint is None and port is not None and isinstance(step, Step) and isinstance(step.fact, Connection):
            endpoint = self._chosen(port, step.fact)
        if endpoint is not None and port is not None:
            return [port.spec("targetPort"), endpoint.reference]
        if port is not None:
            return self._inside(rule, port, comment)
        if named is not None:
            return self._check(named, comment, rule)
        if step is not None and isinstance(step.fact, Connection) and step.fact.translates_destination:
            return (
                self._translated(step.fact) if step.action.startswith("destination") else self._masqueraded(step.fact)
            )
        if step is not None and rule.chain.table.tool == "nft":
            return self._element(rule, step) or self._cni(rule)
        return self._cni(rule)

    def _cloud(self, rule: Rule, step: Step | None) -> list[Reference]:
        """A rule of the cloud's load balancer: the Service's address it is for, and the node that was chosen."""
        if step is None:
            return []
        port, where = self._destination(step)
        if isinstance(step.fact, Connection):
            name = PROTOCOL_NAMES.get(step.fact.protocol, "")
            port, where = self.service_at(name, address.text_of(step.fact.dst, step.fact.bits), step.fact.dport)
        found = [where] if port is not None else []
        if port is not None and "@allowed" in rule.text:
            found = [
                port.refer(
                    "spec.loadBalancerSourceRanges",
                    ", ".join(port.service["spec"].get("loadBalancerSourceRanges") or ()),
                )
            ]
        elif port is not None and step.action.startswith("destination"):
            found = [port.spec("nodePort")]
        kind, _, name = rule.chain.name.partition("-")
        return [*found, Reference("Node", "", name)] if kind == "to" else found

    def _translated(self, connection: Connection) -> list[Reference]:
        """The Service and the endpoint behind a translation that a shared chain made."""
        name = PROTOCOL_NAMES.get(connection.protocol, "")
        port, _ = self.service_at(name, address.text_of(connection.dst, connection.bits), connection.dport)
        endpoint = self._chosen(port, connection) if port is not None else None
        return [port.spec("targetPort"), endpoint.reference] if port is not None and endpoint is not None else []

    def _masqueraded(self, connection: Connection) -> list[Reference]:
        """The Service on whose behalf a source was rewritten."""
        name = PROTOCOL_NAMES.get(connection.protocol, "")
        port, where = self.service_at(name, address.text_of(connection.dst, connection.bits), connection.dport)
        if port is None:
            return []
        if where.field == "spec.clusterIP":
            return [port.refer("spec.clusterIP", "the answer has to come back here")]
        return [port.refer("spec.externalTrafficPolicy", port.service["spec"].get("externalTrafficPolicy", "Cluster"))]

    def _element(self, rule: Rule, step: Step) -> list[Reference]:
        """A lookup in a shared set or map: the Service whose address or node port the packet is for."""
        found = _SET(rule.text)
        port, where = self._destination(step)
        if found is None or port is None:
            return []
        name, spec = found[1], port.service.get("spec", {})
        if "no-endpoint" in name:
            local = spec.get("externalTrafficPolicy") == "Local" and any(e.ready for e in self.endpoints(port))
            why = "no endpoint on this node" if local else "no endpoint is ready"
            return [
                where,
                self._without(port, why),
                *([port.refer("spec.externalTrafficPolicy", "Local")] if local else []),
            ]
        if "firewall" in name:
            return [port.refer("spec.loadBalancerSourceRanges", ", ".join(spec.get("loadBalancerSourceRanges") or ()))]
        if name == "hairpin-connections":
            return [port.refer("spec.clusterIP", "a pod reaches itself: the answer has to come back here")]
        return [where]

    def _destination(self, step: Step) -> tuple[Port | None, Reference]:
        """The Service port a packet is addressed to, and the field that says so."""
        protocol, _, words = step.packet.partition(" ")
        ip, _, number = words.rpartition(" > ")[2].rpartition(":")
        return self.service_at(protocol, ip.strip("[]"), int(number) if number.isdigit() else 0)

    def service_at(self, protocol: str, ip: str, number: int) -> tuple[Port | None, Reference]:
        """The Service port that an address and port, or a node port, belongs to, and the field that says so."""
        for each, where in self.objects.by_address.get(ip, ()):
            if each.port == number and each.protocol.lower() == protocol:
                return each, each.refer(where, ip)
        port = self.objects.by_node_port.get((protocol.upper(), number))
        return (port, port.spec("nodePort")) if port is not None else (None, Reference("", "", ""))

    def _comment(self, rule: Rule) -> str:
        if rule.text.startswith("-A "):
            return comment_of(parse_rule(rule.text))
        return ""

    def _chosen(self, port: Port, connection: Connection) -> EndpointRef | None:
        ip = address.text_of(connection.reply_src, connection.bits)
        return next((e for e in self.endpoints(port) if e.ip == ip and e.port == connection.reply_sport), None)

    def _towards(
        self, rule: Rule, step: Step | None, port: Port, endpoint: EndpointRef | None, target: str
    ) -> list[Reference]:
        """A jump to a Service's chain: which of its addresses led there, or which endpoint was chosen."""
        if endpoint is not None:
            return [endpoint.reference]
        if _IPTABLES(rule.chain.name) or _NFT(rule.chain.name):
            return self._policy(port, target)
        found = []
        words = step.packet.rpartition(" > ")[2] if step is not None else ""
        ip, _, number = words.rpartition(":")
        for each, where in self.objects.by_address.get(ip.strip("[]"), ()):
            if each is port or each.text == port.text:
                found = [port.refer(where, ip), port.spec("port")]
        if not found and port.node_port and number == str(port.node_port):
            found = [port.spec("nodePort")]
        return found or [port.refer("spec.ports", port.port_name)]

    def _policy(self, port: Port, target: str) -> list[Reference]:
        spec = port.service.get("spec", {})
        kind = target.split("-")[1] if target.startswith("KUBE-") else target.split("-")[0]
        if kind in ("SVL", "XLB"):
            name = "externalTrafficPolicy" if spec.get("externalTrafficPolicy") == "Local" else "internalTrafficPolicy"
            return [port.refer(f"spec.{name}", spec.get(name, ""))]
        if kind in ("FW", "firewall"):
            return [port.refer("spec.loadBalancerSourceRanges", ", ".join(spec.get("loadBalancerSourceRanges") or ()))]
        return [port.spec("port")]

    def _inside(self, rule: Rule, port: Port, comment: str) -> list[Reference]:
        """A rule inside a Service's own chain."""
        spec = port.service.get("spec", {})
        text = rule.text
        if "KUBE-MARK-MASQ" in text or "0x00004000" in text or "16384" in text:
            if rule.chain.name.startswith(("KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-")) or rule.chain.name.startswith(
                "external-"
            ):
                return [port.refer("spec.externalTrafficPolicy", spec.get("externalTrafficPolicy", "Cluster"))]
            return [
                port.refer("spec.clusterIP", "the client is no pod of this cluster: the answer has to come back here")
            ]
        if "recent" in text or "affinity" in text:
            timeout = spec.get("sessionAffinityConfig", {}).get("clientIP", {}).get("timeoutSeconds", 10800)
            return [port.refer("spec.sessionAffinity", f"{spec.get('sessionAffinity', '')}, {timeout} s")]
        if "no local endpoints" in comment:
            return self._check(port, comment, rule)
        if rule.chain.name.startswith(("KUBE-FW", "firewall-")) and spec.get("loadBalancerSourceRanges"):
            return [port.refer("spec.loadBalancerSourceRanges", ", ".join(spec.get("loadBalancerSourceRanges") or ()))]
        return [port.refer(f"spec.ports[{port.port_name or port.index}]")]

    def _check(self, port: Port, comment: str, rule: Rule) -> list[Reference]:
        """A rule outside the Service's chains that names it in its comment."""
        spec = port.service.get("spec", {})
        if "no local endpoints" in comment:
            return [
                port.refer("spec.externalTrafficPolicy", spec.get("externalTrafficPolicy", "")),
                self._without(port, "no endpoint on this node"),
            ]
        if "no endpoints" in comment:
            return [self._without(port, "no endpoint is ready")]
        if "health check" in comment:
            return [port.refer("spec.healthCheckNodePort", str(spec.get("healthCheckNodePort", "")))]
        if "firewall" in comment:
            return [port.refer("spec.loadBalancerSourceRanges", ", ".join(spec.get("loadBalancerSourceRanges") or ()))]
        if "KUBE-MARK-MASQ" in rule.text:  # the classic layout marks before it sends on
            if rule.chain.name == "KUBE-NODEPORTS" or "cluster IP" not in comment:
                return [port.refer("spec.externalTrafficPolicy", spec.get("externalTrafficPolicy", "Cluster"))]
            why = "the client is no pod of this cluster: the answer has to come back here"
            return [port.refer("spec.clusterIP", why)]
        return [port.refer(f"spec.ports[{port.port_name or port.index}]")]

    def _without(self, port: Port, why: str) -> Reference:
        count = len(self.endpoints(port))
        return Reference(
            "EndpointSlice",
            port.namespace,
            port.name,
            "endpoints",
            f"{why} (of {count})" if count else f"{why}: there are none",
        )

    def _cni(self, rule: Rule) -> list[Reference]:
        """Rules of CNI plugins name the pod's address or, in the comment, its container."""
        if rule.chain.name not in ("POSTROUTING", "FORWARD") and not rule.chain.name.startswith("CNI-"):
            return []
        found = re.search(r"(?:-s |ip saddr )([0-9a-f.:]+)", rule.text)
        pod = self.objects.pods_by_address.get(found[1].removesuffix("/32")) if found else None
        if pod is None:
            return []
        return [
            Reference(
                "Pod",
                pod["metadata"].get("namespace", ""),
                pod["metadata"]["name"],
                "status.podIP",
                found[1] if found else "",
            )
        ]

    def route(self, decision: Decision) -> list[Reference]:
        """The node whose pods, or the pod, a route is for."""
        route = decision.route
        if route is None or not route.length:
            return []
        text = address.text_of(route.network, route.bits)
        for name, cidr in self.objects.pod_ranges():
            network, mask, bits = address.prefix(cidr)
            if bits == route.bits and route.network & mask == network and route.length >= mask.bit_count():
                if route.length == route.bits and text in self.objects.pods_by_address:
                    break
                return [Reference("Node", "", name, "spec.podCIDR", cidr)]
        return self.objects.find_address(text) if route.length == route.bits else []


def _target(step: Step) -> str:
    """The chain a step jumped to."""
    words = step.action.split()
    return words[1] if len(words) > 1 and words[0] in ("jump", "goto") else ""
