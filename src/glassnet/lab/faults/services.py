"""Faults that a Service shows: policies without endpoints, a pod that cannot reach itself, a node port that one node answers only."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from glassnet.kube import kinds
from glassnet.lab.faults.rules import add_rule
from glassnet.lab.faults.scene import NAMESPACE, Fault, Scene
from glassnet.loadbalancer.request import CLASS, CONDITION

BALANCER = "198.51.100.80"  # RFC 5737, TEST-NET-2


async def local_policy(scene: Scene) -> list[str]:
    """A load balancer's Service with externalTrafficPolicy Local, and a pod on one node only."""
    others = [spec.name for spec in scene.others()]
    await scene.pod(scene.spec.name)
    spec = await scene.service(type="LoadBalancer", externalTrafficPolicy="Local")
    status = {"status": {"loadBalancer": {"ingress": [{"ip": BALANCER}]}}}
    await scene.ground.api.patch(kinds.SERVICE, NAMESPACE, scene.fault, status, "status")
    router, wrong = scene.ground.topology.router, scene.others()[0]
    way = [f"{BALANCER}/32", "via", wrong.address]
    await scene.change(["ip", "route", "replace", *way], ["ip", "route", "del", *way], on=router)
    port, public = spec["ports"][0]["nodePort"], scene.others()[0].public
    return [
        f"Service {NAMESPACE}/{scene.fault} (externalTrafficPolicy: Local) has its only endpoint on {scene.spec.name}: {', '.join(others)} drop its traffic,",
        f"and the router sends its load balancer's address {BALANCER} to {wrong.name}",
        f"glassnet host internet -- curl -m 2 http://{public}:{port}/hostname",
    ]


async def hairpin(scene: Scene) -> list[str]:
    """Every port of the bridge without hairpin mode, the bridge not promiscuous, and a Service whose endpoint is behind it."""
    await scene.pod(scene.spec.name)
    virtual = (await scene.service())["clusterIP"]
    bridge = scene.bridge()
    changed = []
    for port in json.loads(await scene.run("bridge", "-j", "-d", "link", "show")):
        if port.get("master") == bridge and port.get("hairpin"):
            words = ["bridge", "link", "set", "dev", port["ifname"], "hairpin"]
            await scene.change([*words, "off"], [*words, "on"])
            changed.append(port["ifname"])
    (link,) = json.loads(await scene.run("ip", "-j", "link", "show", "dev", bridge))
    if "PROMISC" in link["flags"]:
        words = ["ip", "link", "set", "dev", bridge, "promisc"]
        await scene.change([*words, "off"], [*words, "on"])
        changed.append(bridge)
    note = f"switched off on {', '.join(changed)}" if changed else "it was off already, as the network's file has it"
    return [
        f"pod {NAMESPACE}/{scene.fault} cannot reach its own Service {virtual}:80: no hairpin on {bridge} ({note})",
        f"glassnet kubectl -n {NAMESPACE} exec {scene.fault} -- curl -m 2 http://{virtual}/hostname",
    ]


async def one_node(scene: Scene) -> list[str]:
    """A NodePort Service with its pod on one node, and every other node dropping what it would forward there."""
    others = scene.others()
    await scene.pod(scene.spec.name)
    port = (await scene.service(type="NodePort"))["ports"][0]["nodePort"]
    for spec in others:
        words = ["-i", "eth0", "-o", "eth0", "-m", "comment", "--comment", "no transit", "-j", "DROP"]
        await add_rule(scene, spec.name, "filter", "FORWARD", words, first=True)
    return [
        f"node port {port} of Service {NAMESPACE}/{scene.fault} answers on {scene.spec.name} only: {', '.join(s.name for s in others)} drop in FORWARD",
        f"glassnet host internet -- curl -m 2 http://{others[0].public}:{port}/hostname",
    ]


async def load_balancer(scene: Scene) -> list[str]:
    """A Service that asks our own load balancer for an address of a pool that has none left, with the condition its controller then writes."""
    await scene.pod(scene.spec.name)
    await scene.service(type="LoadBalancer", loadBalancerClass=CLASS)
    said = f"no address is free in pool {scene.fault} (198.51.100.80/32)"
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {
        "type": CONDITION,
        "status": "False",
        "reason": "PoolExhausted",
        "message": said,
        "lastTransitionTime": when,
    }
    await scene.ground.api.patch(
        kinds.SERVICE, NAMESPACE, scene.fault, {"status": {"conditions": [condition]}}, "status"
    )
    return [
        f"Service {NAMESPACE}/{scene.fault} waits for an address: {said}",
        f"glassnet kubectl -n {NAMESPACE} get service {scene.fault}",
    ]


FAULTS = (
    Fault("load-balancer", 34, "a Service of type LoadBalancer gets no address: its pool is used up", load_balancer),
    Fault("local-policy", 5, "externalTrafficPolicy Local, and nodes without an endpoint", local_policy),
    Fault("hairpin", 6, "a pod cannot reach itself through its Service", hairpin),
    Fault("nodeport-one-node", 19, "a node port answers on the node with the pod only", one_node),
)
