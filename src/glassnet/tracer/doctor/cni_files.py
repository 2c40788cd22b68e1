"""The CNI configuration a node uses: of its files, the first by name that is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from glassnet.tracer.machine import Machine

_ENDINGS = (".conf", ".conflist", ".json")


@dataclass(frozen=True, slots=True)
class Conf:
    """The file in use, those passed over, the network's name, its address ranges and gateway as far as IPAM's part says."""

    file: str
    ignored: tuple[str, ...]
    network: str
    ranges: tuple[str, ...]
    gateway: str


def in_use(node: Machine) -> Conf | None:
    """What a container runtime takes: of all files with a known ending the first by name that can be read; None when nobody dumped them."""
    names = sorted(name for name in node.cni_conf if name.endswith(_ENDINGS))
    for name in names:
        try:
            body = msgspec.json.decode(node.cni_conf[name])
        except (msgspec.DecodeError, RecursionError):
            continue
        if isinstance(body, dict) and (body.get("type") or body.get("plugins")):
            ranges, gateway = _ranges(body)
            others = tuple(other for other in names if other != name)
            return Conf(name, others, str(body.get("name", "")), ranges, gateway)
    return None


def _ranges(body: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """(subnets, gateway) of host-local's configuration, in both of its forms."""
    plugins = [body, *(each for each in body.get("plugins") or () if isinstance(each, dict))]
    subnets: list[str] = []
    gateway = ""
    for plugin in plugins:
        ipam = plugin.get("ipam")
        if not isinstance(ipam, dict):
            continue
        sets = [[ipam], *(each for each in ipam.get("ranges") or () if isinstance(each, list))]
        for each in (item for items in sets for item in items if isinstance(item, dict)):
            if isinstance(each.get("subnet"), str):
                subnets.append(each["subnet"])
            gateway = gateway or str(each.get("gateway") or "")
    return tuple(subnets), gateway
