"""Faults by foreign rules: a stale copy in the other iptables tool, a mark that somebody clears, a policy that drops."""

from __future__ import annotations

import json
from collections.abc import Sequence

from glassnet.kernel import iptables
from glassnet.lab.faults.scene import HTTP, NAMESPACE, Fault, Scene
from glassnet.net.errors import CommandError, LabError
from glassnet.proxy.naming import Recipe, service_port_name

TOOL = "iptables-nft"  # tables of both proxies and of most others: the rules that a node's own administrator adds


async def add_rule(
    scene: Scene, machine: str, table: str, chain: str, words: Sequence[str], first: bool = False
) -> None:
    """Add a rule to a base chain; the chain and the table go with it if iptables had to make them."""
    await _note_chain(scene, machine, table, chain)
    argv = [TOOL, "-w", "5", "-t", table]
    await scene.change([*argv, "-I" if first else "-A", chain, *words], [*argv, "-D", chain, *words], on=machine)


async def _note_chain(scene: Scene, machine: str, table: str, chain: str) -> str:
    """Note that a chain goes if it is not there; its policy as iptables has it."""
    listing = json.loads(await scene.run("nft", "-j", "list", "ruleset", on=machine))["nftables"]
    parts = [part for part in listing if next(iter(part.values())).get("family") == "ip"]
    tables = {part["table"]["name"] for part in parts if "table" in part}
    chains = [part["chain"] for part in parts if "chain" in part and part["chain"]["table"] == table]
    found = next((each for each in chains if each["name"] == chain), None)
    if found is None:
        scene.note("empty-chain", machine=machine, table=table, chain=chain, whole=table not in tables)
        return "ACCEPT"
    return str(found.get("policy", "accept")).upper()


async def mixed(scene: Scene) -> list[str]:
    """Rules of a Service in the tool the node does not use, as an upgrade leaves them: they send to an endpoint that is gone."""
    await scene.pod(scene.spec.name)
    virtual = (await scene.service())["clusterIP"]
    tool = "legacy" if await iptables.choose(scene.machine) == "nft" else "nft"
    dead = scene.spare_address()
    name, names = service_port_name(NAMESPACE, scene.fault, "http"), Recipe()
    service, endpoint = names.service("KUBE-SVC", name, "TCP"), names.endpoint(name, "TCP", f"{dead}:{HTTP}")
    portals = ["-m", "comment", "--comment", "kubernetes service portals", "-j", "KUBE-SERVICES"]
    about = ["-m", "comment", "--comment", name]
    argv = [f"iptables-{tool}", "-w", "5", "-t", "nat"]
    chains = ["KUBE-SERVICES", service, endpoint]
    try:
        await scene.run(*argv, "-S", "POSTROUTING")
    except CommandError as error:
        raise LabError(f"{scene.fault}: {error}") from None
    for chain in chains:
        await scene.change([*argv, "-N", chain], [*argv, "-X", chain])
    rules = [
        [endpoint, "-p", "tcp", *about, "-m", "tcp", "-j", "DNAT", "--to-destination", f"{dead}:{HTTP}"],
        [service, *about, "-j", endpoint],
        ["KUBE-SERVICES", "-d", f"{virtual}/32", "-p", "tcp", *about, "-m", "tcp", "--dport", "80", "-j", service],
        ["PREROUTING", *portals],
        ["OUTPUT", *portals],
    ]
    for rule in rules:
        await scene.change([*argv, "-A", *rule], [*argv, "-D", *rule])
    return [
        f"{scene.spec.name} has KUBE- chains in iptables-{tool} too: they send Service {NAMESPACE}/{scene.fault} {virtual}:80 to {dead}:{HTTP}, which is gone",
        f"glassnet node {scene.spec.name} -- iptables-{tool} -t nat -S KUBE-SERVICES",
    ]


async def mark_clash(scene: Scene) -> list[str]:
    """Somebody's rule in mangle POSTROUTING that writes the whole mark: bit 0x4000 is gone before the masquerade looks for it."""
    words = ["-m", "comment", "--comment", "traffic class 1", "-j", "MARK", "--set-mark", "0x1"]
    await add_rule(scene, scene.spec.name, "mangle", "POSTROUTING", words)
    return [
        f"a rule in mangle POSTROUTING of {scene.spec.name} sets mark 0x1 without a mask: mark 0x4000, which asks for masquerade, is lost",
        f"glassnet host internet -- curl -m 2 http://{scene.spec.public}:NODEPORT (a Service without an endpoint on {scene.spec.name})",
    ]


async def forward_drop(scene: Scene) -> list[str]:
    """Policy DROP for all that is forwarded, as a container engine or a firewall sets it."""
    policy = await _note_chain(scene, scene.spec.name, "filter", "FORWARD")
    if policy == "DROP":
        raise LabError(f"{scene.spec.name} has policy DROP on FORWARD already")
    argv = [TOOL, "-w", "5", "-P", "FORWARD"]
    await scene.change([*argv, "DROP"], [*argv, policy])
    return [
        f"{scene.spec.name} drops what it forwards unless a rule accepts it: its pods reach no other pod by address",
        f"glassnet node {scene.spec.name} -- iptables -S FORWARD",
    ]


FAULTS = (
    Fault("mixed-iptables", 7, "stale Service rules in the iptables tool the node does not use", mixed),
    Fault("mark-clash", 12, "a foreign rule overwrites the mark that asks for masquerade", mark_clash),
    Fault("forward-drop", 20, "policy DROP on FORWARD", forward_drop),
)
