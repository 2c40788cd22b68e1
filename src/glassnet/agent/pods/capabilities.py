"""What a pod's object asks of CNI plugins beyond an address: capabilities, by the names of CNI's CONVENTIONS.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from glassnet.apiserver.schema.quantity import amount
from glassnet.net.errors import GlassnetError

ANNOTATION = "kubernetes.io/{}-bandwidth"
SMALLEST, LARGEST = 10**3, 10**15
BURST = 2**31 - 1  # bits; as the kubelet, which has no annotation for it


def bandwidth(annotations: Mapping[str, str]) -> dict[str, Any]:
    """The capability `bandwidth` of a pod, {} for none: bits a second out of kubernetes.io/ingress-bandwidth and …/egress-bandwidth.

    Source: Kubernetes, "Network Plugins: Support traffic shaping"; bounds as in pkg/util/bandwidth. Raises GlassnetError for no such quantity.
    """
    limits: dict[str, int] = {}
    for way in ("ingress", "egress"):
        key = ANNOTATION.format(way)
        if key not in annotations:
            continue
        value = amount(annotations[key])
        if value is None:
            raise GlassnetError(
                f"annotation {key}: {annotations[key]!r}: want bits a second as a quantity, such as 10M"
            )
        if not SMALLEST <= value <= LARGEST:
            size = f"small (< {SMALLEST // 10**3}kbit)" if value < SMALLEST else f"large (> {LARGEST // 10**15}Pbit)"
            raise GlassnetError(f"annotation {key}: {annotations[key]!r}: resource is unreasonably {size}")
        limits |= {f"{way}Rate": math.ceil(value), f"{way}Burst": BURST}
    return {"bandwidth": limits} if limits else {}
