"""glassnet: the bridge plugin for a node that configures itself. `{"type": "glassnet", "name": "pods"}` is a whole configuration.

Pod CIDRs come from the configuration, else from NODE_FILE, which an agent that knows the Node object writes; the MTU from the device of the
default route; what leaves the cluster is masqueraded by rules that a node has once (as kubenet did), not once a container.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any, NamedTuple

from glassnet.cni import bridge, masquerade, wiring
from glassnet.cni.effects import FindLink, ListRoutes, ReadFile, Restore, SavedRules, Steps, Where, ask
from glassnet.cni.errors import NOT_AVAILABLE, OTHER, TRY_AGAIN, CniError
from glassnet.cni.fields import Fields
from glassnet.cni.request import Call
from glassnet.cni.result import Result
from glassnet.net.errors import GlassnetError
from glassnet.netstack.model import Link
from glassnet.netstack.ops import SetLink

NODE_FILE = "/run/glassnet/node.json"
BRIDGE = "cni0"
_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}
_SHARED = ("args", "runtimeConfig", "cni.dev/valid-attachments", "cni.dev/attachments")  # keys handed on to bridge


class NodeFacts(NamedTuple):
    """What an agent knows of this node: its pods' ranges, those of all pods (none: not known), and the MTU pods may have (0: not known)."""

    pod_cidrs: tuple[str, ...] = ()
    cluster_cidrs: tuple[str, ...] = ()
    mtu: int = 0


class Conf(NamedTuple):
    """The plugin's keys."""

    bridge: str
    mtu: int
    pod_cidrs: tuple[str, ...]
    masquerade: bool
    non_masquerade: tuple[str, ...]
    hairpin: bool


def parse(call: Call) -> Conf:
    """Read the configuration. Raises ConfigError."""
    fields = call.fields
    conf = Conf(
        fields.text("bridge") or BRIDGE,
        fields.number("mtu", high=65535),
        _networks(fields, "podCIDRs"),
        fields.flag("masquerade", True),
        _networks(fields, "nonMasqueradeCIDRs"),
        fields.flag("hairpinMode", True),
    )
    for key in _SHARED:
        fields.raw(key)
    fields.done()
    return conf


def _networks(fields: Fields, key: str) -> tuple[str, ...]:
    found = []
    for text in fields.texts(key):
        try:
            found.append(str(ip_network(text)))
        except ValueError as error:
            raise fields.error(key, f"{error}; want networks such as 10.200.0.0/24") from None
    return tuple(found)


# -- what the node knows of itself


def render_facts(facts: NodeFacts) -> str:
    """The text of NODE_FILE."""
    body = {"podCIDRs": list(facts.pod_cidrs), "clusterCIDRs": list(facts.cluster_cidrs)}
    return json.dumps({**body, **({"mtu": facts.mtu} if facts.mtu else {})}) + "\n"


def read_facts(text: str | None) -> NodeFacts:
    """What NODE_FILE says; nothing for no file. Raises ConfigError for one that says something else."""
    if text is None:
        return NodeFacts()
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, Mapping):
        raise CniError(TRY_AGAIN, f"{NODE_FILE} is no JSON object", "the agent that knows the Node object writes it")
    fields = Fields(body, NODE_FILE)
    return NodeFacts(_networks(fields, "podCIDRs"), _networks(fields, "clusterCIDRs"), fields.number("mtu", high=65535))


def _facts(conf: Conf, missing: int) -> Steps[NodeFacts]:
    """The pod CIDRs of the node, and what is not masqueraded. Raises CniError with the code `missing` when nobody has told them."""
    known = read_facts((yield from ask(ReadFile(NODE_FILE))))
    pods = conf.pod_cidrs or known.pod_cidrs
    if not pods:
        raise CniError(
            missing,
            "the pod CIDRs of this node are not known (yet)",
            f'no "podCIDRs" in the configuration, none in {NODE_FILE}: does the Node object have spec.podCIDRs '
            "(kubectl get node -o yaml), and does an agent that watches it run (glassnet cni serve --kubeconfig FILE)?",
        )
    return NodeFacts(pods, conf.non_masquerade or known.cluster_cidrs, known.mtu)


def _mtu(conf: Conf, facts: NodeFacts, there: Link | None) -> Steps[int]:
    """The MTU of the configuration, else what the agent says, else of the bridge that is there, else of the default route's device, else 0."""
    if conf.mtu or facts.mtu:
        return conf.mtu or facts.mtu
    if there is not None:
        return there.mtu
    routes = [one for one in (yield from ask(ListRoutes(Where.NODE))) if one.length == 0 and one.hops]
    for route in sorted(routes, key=lambda one: (one.bits, one.metric)):
        link = yield from ask(FindLink(Where.NODE, route.hops[0].dev))
        if link is not None:
            return link.mtu
    return 0


def as_bridge(call: Call, conf: Conf, pods: Sequence[str], mtu: int) -> Call:
    """The call of the bridge plugin that does the work."""
    body: dict[str, Any] = {
        "bridge": conf.bridge,
        "isDefaultGateway": True,
        "hairpinMode": conf.hairpin,
        "mtu": mtu,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": cidr}] for cidr in pods]},
    }
    return _handed_on(call, body)


def _handed_on(call: Call, body: dict[str, Any]) -> Call:
    body |= {key: call.config[key] for key in _SHARED if key in call.config}
    fields = Fields(body)
    for key in _SHARED:
        fields.raw(key)
    return call._replace(plugin="bridge", fields=fields, config={**call.config, **body, "type": "bridge"})


def _loosely(call: Call) -> Call:
    """The call of the bridge plugin for DEL and GC, which must work whatever the rest of the configuration says."""
    return _handed_on(call, {"bridge": call.fields.text("bridge") or BRIDGE, "ipam": {"type": "host-local"}})


# -- masquerade, once a node


def chain_name(network: str) -> str:
    """The network's chain in the nat table."""
    return "CNI-MASQ-" + hashlib.sha512(network.encode()).hexdigest()[:16]


def rules(network: str, family: int, facts: NodeFacts) -> list[str]:
    """The rules of one family as iptables-save prints them: the jump first. None where nothing is masqueraded.

    Those of the chain carry a digest of them all: so a set that is there with more rules than it should have is told from the right one.
    """
    pods, beyond = _of(family, facts.pod_cidrs), _of(family, facts.cluster_cidrs)
    if not pods or _EVERYTHING[family] in beyond:
        return []
    chain, kept = chain_name(network), tuple(dict.fromkeys((*pods, *beyond)))
    note = _note(network, hashlib.sha256(repr((kept, pods)).encode()).hexdigest()[:8])
    return [
        f"-A POSTROUTING {_note(network)} -j {chain}",
        *(f"-A {chain} -d {cidr} {note} -j RETURN" for cidr in kept),
        *(f"-A {chain} -s {cidr} ! -d {_MULTICAST[family]} {note} -j MASQUERADE" for cidr in pods),
    ]


def _note(network: str, digest: str = "") -> str:
    text = f"masquerade what leaves the cluster{', ' if digest else ''}{digest}: network {network}"
    return f'-m comment --comment "{text[:255]}"'


def _of(family: int, cidrs: Iterable[str]) -> list[str]:
    return [one for one in cidrs if (":" in one) == (family == 6)]


def _put(call: Call, facts: NodeFacts) -> Steps[None]:
    """Have the rules be what they should be, whatever they were. To ask whether they stand takes less than to make them anew.

    Each transaction can only succeed in the state that it is for, so that of calls side by side none makes a second jump.
    """
    chain = chain_name(call.name)
    for family in (4, 6):
        if not (wanted := rules(call.name, family, facts)):
            continue
        jump, made = wanted[0], "".join(f"{rule}\n" for rule in wanted)
        stand, begin = made.replace("-A ", "-C "), f":{chain} - [0:0]\n"
        new = f"-N {chain}\n{begin}{made}"
        changed = f"{begin}{jump.replace('-A', '-D', 1)}\n{made}"
        no_jump = f"-F {chain}\n-X {chain}\n{new}"
        yield from _first_that_fits(call, family, (stand, new, changed, no_jump, stand))


def _first_that_fits(call: Call, family: int, transactions: Sequence[str]) -> Steps[None]:
    for number, lines in enumerate(transactions):
        try:
            yield from ask(Restore(family, lines, keep=f"masquerade{family}-{call.name}" if number else ""))
            return
        except GlassnetError:
            if number == len(transactions) - 1:
                raise


def take_rules(network: str) -> Steps[None]:
    """Take a network's rules away, if there are any."""
    chain = chain_name(network)
    lines = f":{chain} - [0:0]\n-D POSTROUTING {_note(network)} -j {chain}\n-X {chain}\n"
    for family in (4, 6):
        yield from wiring.tried(
            lambda family=family: ask(  # type: ignore[misc]
                Restore(family, lines, otherwise=masquerade.chain_removal(chain), keep=f"masquerade{family}-{network}")
            )
        )


# -- the verbs


def add(call: Call) -> Steps[Result]:
    """Join the container. Raises CniError; nothing of the container is left then. Code 11 while the pod CIDRs are not known."""
    conf = parse(call)
    facts = yield from _facts(conf, TRY_AGAIN)
    there = yield from ask(FindLink(Where.NODE, conf.bridge))
    mtu = yield from _mtu(conf, facts, there)
    if conf.masquerade:
        yield from _put(call, facts)  # before the container can send anything
    result = yield from bridge.add(as_bridge(call, conf, facts.pod_cidrs, mtu))
    if there is None:  # it is ours then, and says so
        yield from wiring.apply(Where.NODE, [SetLink(conf.bridge, alias=f"cni {call.name}")])
    return result


def delete(call: Call) -> Steps[None]:
    """Take the container off; what is gone already is fine. The node's rules stay for the others."""
    yield from bridge.delete(_loosely(call))


def check(call: Call) -> Steps[None]:
    """As bridge does, and the node's rules are there. Raises CniError."""
    conf = parse(call)
    facts = yield from _facts(conf, TRY_AGAIN)
    yield from bridge.check(as_bridge(call, conf, facts.pod_cidrs, conf.mtu))
    if not conf.masquerade:
        return
    for family in (4, 6):
        wanted = rules(call.name, family, facts)
        there = (yield from ask(SavedRules(family))) if wanted else ""
        saved = set(there.splitlines())
        if missing := [line for line in wanted if line not in saved]:
            raise CniError(OTHER, f"masquerade rules are missing: {missing[0]}", "the next ADD makes them anew")


def status(call: Call) -> Steps[None]:
    """The pod CIDRs are known, and the bridge can serve. Raises CniError (50, 51)."""
    conf = parse(call)
    facts = yield from _facts(conf, NOT_AVAILABLE)
    yield from bridge.status(as_bridge(call, conf, facts.pod_cidrs, conf.mtu))


def collect(call: Call) -> Steps[None]:
    """GC as bridge does; with no container left the node's rules go too. Raises CniError with all that went wrong."""
    problem: GlassnetError | None = None
    try:
        yield from bridge.collect(_loosely(call))
    except GlassnetError as error:
        problem = error
    if not call.valid():
        yield from take_rules(call.name)
    if problem is not None:
        raise problem
