"""Faults of pod addresses: leases of pods that are gone, a node without a range, a pod outside its node's range."""

from __future__ import annotations

import json
import secrets

from glassnet.cni.host_local import lease_text
from glassnet.kube import kinds
from glassnet.lab.faults.scene import CONFIG, NAMESPACE, Fault, Scene
from glassnet.net.errors import LabError

LEAKED = 100
NETWORKS = "var/lib/cni/networks"
WIDE, BARE = "glassnet-faults-wide", "glassnet-faults-without-range"
OTHER, OTHER_RANGE, OTHER_FILE = "other0", "172.28.77.0/24", "00-other.conf"


async def leaked(scene: Scene) -> list[str]:
    """Lease files of containers that never were, from the end of the range."""
    directory, one = f"{NETWORKS}/{scene.cni().name}", scene.range()
    place = scene.machine.root / directory
    scene.note("directory", machine=scene.spec.name, path=directory)
    place.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    for value in range(int(one.end), int(one.start), -1):
        address = str(type(one.end)(value))
        if len(files) < LEAKED and not (place / address).exists() and address != str(one.gateway):
            files[address] = lease_text(secrets.token_hex(32), "eth0")
    scene.note("leases", machine=scene.spec.name, directory=directory, files=files)
    for address, text in files.items():
        (place / address).write_bytes(text.encode())
    return [
        f"{len(files)} addresses of {one.subnet} on {scene.spec.name} are leased to containers that do not exist",
        f"glassnet node {scene.spec.name} -- ls /{directory}",
    ]


async def without_range(scene: Scene) -> list[str]:
    """A Node that has the whole cluster's range, so that it overlaps all others, and one for which nothing is left."""
    if not scene.ground.topology.cluster_cidr:
        raise LabError(f"{scene.fault}: nodes of this lab have no pod CIDRs, for its pods are on the nodes' network")
    cluster = scene.ground.topology.cluster_cidr
    taint = {"key": "glassnet.dev/fault", "effect": "NoExecute"}
    closed = {"unschedulable": True, "taints": [taint]}
    ranges = {"podCIDR": cluster, "podCIDRs": [cluster]}
    await scene.object(kinds.NODE, "", {"metadata": {"name": WIDE}, "spec": {**closed, **ranges}})
    await scene.object(kinds.NODE, "", {"metadata": {"name": BARE}, "spec": closed})
    return [
        f"Node {BARE} gets no podCIDR: Node {WIDE} has all of {cluster}, which overlaps every other node's",
        "glassnet kubectl get nodes -o custom-columns=NAME:.metadata.name,RANGE:.spec.podCIDR",
    ]


async def outside(scene: Scene) -> list[str]:
    """A second network configuration that sorts first, and a pod made with it."""
    node, path = scene.spec.name, f"{CONFIG}/{OTHER_FILE}"
    if scene.bridge() == OTHER or (scene.machine.root / path).exists():
        raise LabError(f"{node} has /{path} already")
    ipam = {"type": "host-local", "ranges": [[{"subnet": OTHER_RANGE}]], "routes": [{"dst": "0.0.0.0/0"}]}
    conf = {"cniVersion": "0.3.1", "name": "other", "type": "bridge", "bridge": OTHER, "isGateway": True,
            "ipMasq": True, "ipam": ipam}  # fmt: skip
    scene.note("directory", machine=node, path=f"{NETWORKS}/other")
    scene.note("link", machine=node, name=OTHER, bridge=True)
    await scene.object(kinds.NAMESPACE, "", {"metadata": {"name": NAMESPACE}})
    scene.note("delete", kind=["v1", "Pod"], namespace=NAMESPACE, name=scene.fault)
    scene.write(path, json.dumps(conf, indent=4) + "\n")
    ip = await scene.pod(node)
    return [
        f"/{path} sorts first on {node}: pod {NAMESPACE}/{scene.fault} has {ip}, outside {scene.spec.pod_cidr}; other nodes have no way to it",
        f"glassnet kubectl -n {NAMESPACE} get pods -o wide",
    ]


FAULTS = (
    Fault("leaked-ips", 24, "leases of pods that do not exist", leaked),
    Fault("no-pod-cidr", 26, "a Node without a pod range, since another's overlaps all", without_range),
    Fault("pod-outside-cidr", 27, "another network configuration sorts first, and a pod has its address", outside),
)
