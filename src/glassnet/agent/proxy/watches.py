"""What Service proxies read of an API server, and the watches that bring it: the same for a node's proxy and for those of a lab."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from glassnet.client.watches import Watches
from glassnet.kube import kinds, narrow
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


def watch_services(
    watches: Watches,
    node: str = "",
    wanted: Iterable[Kind] = WATCHED,
    *,
    never_empty: bool = False,
    decode: Callable[[Kind, bytes], Any] = narrow.decode,
) -> None:
    """Watch each kind of `wanted`, and keep only the fields that `decode` leaves: those that proxies look at. `node` is the one Node to watch; all of them without.

    On a real cluster (`never_empty`) there is always the Service of the API itself, and its endpoints, and some Node: a first list that is empty
    is not believed at once.
    """
    for kind in wanted:
        labels, fields = selection(kind, node)
        sure = never_empty and kind is not kinds.SERVICE_CIDR and not fields.startswith("metadata.name=")
        watches.add(kind, label_selector=labels, field_selector=fields, decode=decode, never_empty=sure)
