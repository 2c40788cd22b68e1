"""What the plugin `glassnet` is to know of its node, out of the Node object and into the file where it looks."""

from __future__ import annotations

from pathlib import Path

from glassnet.client.kubeconfig import Access
from glassnet.client.rest import RestApi
from glassnet.cni.node import NODE_FILE, NodeFacts, render_facts
from glassnet.kube import kinds
from glassnet.kube.types import Node
from glassnet.net.errors import GlassnetError


def pod_cidrs(node: Node) -> tuple[str, ...]:
    """The pod CIDRs of a Node object; none while it has none."""
    return tuple(node.spec.pod_cidrs) or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())


def write_facts(root: Path, facts: NodeFacts) -> None:
    """Write NODE_FILE, whole or not at all. `root` is where the node's / can be written. Raises GlassnetError."""
    path = root / NODE_FILE.lstrip("/")
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(render_facts(facts))
        beside.replace(path)
    except OSError as error:
        raise GlassnetError(f"{NODE_FILE}: {error.strerror}") from None


async def node_pod_cidrs(access: Access, node: str) -> tuple[str, ...]:
    """The pod CIDRs of a Node object, asked once. Raises GlassnetError when there is no such Node, or it has none."""
    api = RestApi(access)
    try:
        spec = (await api.get(kinds.NODE, "", node)).get("spec") or {}
    finally:
        await api.close()
    found = tuple(spec.get("podCIDRs") or ()) or ((spec["podCIDR"],) if spec.get("podCIDR") else ())
    if not found:
        raise GlassnetError(
            f"Node {node} has no spec.podCIDRs: does the controller manager allocate them (--allocate-node-cidrs)? --pod-cidr gives them by hand"
        )
    return found
