"""What Service proxies read of an API server, and the watches that bring it: the same for a node's proxy and for those of a lab."""

from __future__ import annotations

from collections.abc import Callable

from glassnet.client.informer import Informer
from glassnet.client.rest import RestApi
from glassnet.kube import kinds, narrow
from glassnet.kube.kinds import Kind
from glassnet.kube.view import View
from glassnet.net.errors import GlassnetError
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


def service_informers(
    api: RestApi, view: View, on_error: Callable[[Kind, GlassnetError], None], node: str = ""
) -> dict[Kind, Informer]:
    """An informer for each kind of WATCHED, not running yet. They keep only the fields that proxies look at.

    `node` is the one Node object to watch; all of them without. `on_error` hears why a watch has to be begun anew.
    """

    def informer(kind: Kind) -> Informer:
        labels, fields = selection(kind, node)
        return Informer(
            api,
            kind,
            view,
            label_selector=labels,
            field_selector=fields,
            decode=narrow.decode,
            on_error=lambda error: on_error(kind, error),
        )

    return {kind: informer(kind) for kind in WATCHED}
