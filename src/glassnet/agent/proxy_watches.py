"""What Service proxies read of an API server, and the watches that bring it: the same for a node's proxy and for those of a lab."""

from __future__ import annotations

from glassnet.client.watches import Watches
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.proxy.compute import HEADLESS, PROXY_NAME

WATCHED = (kinds.SERVICE, kinds.ENDPOINT_SLICE, kinds.NODE, kinds.SERVICE_CIDR)


def selection(kind: Kind, node: str = "") -> tuple[str, str]:
    """Label and field selector of one kind: no Services of other proxies, no headless ones, nor their slices (which carry the Services'
    labels); with `node`, that Node alone."""
    match kind:
        case kinds.SERVICE:
            return f"!{PROXY_NAME}", "spec.clusterIP!=None"
        case kinds.ENDPOINT_SLICE:
            return f"!{HEADLESS},!{PROXY_NAME}", ""
        case kinds.NODE if node:
            return "", f"metadata.name={node}"
    return "", ""


def watch_services(watches: Watches, node: str = "") -> None:
    """Watch each kind of WATCHED, and keep only the fields that proxies look at. `node` is the one Node to watch; all of them without."""
    for kind in WATCHED:
        labels, fields = selection(kind, node)
        watches.add(kind, label_selector=labels, field_selector=fields)
