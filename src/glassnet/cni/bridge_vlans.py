"""VLANs of a bridge: which a container's port belongs to, and the interface through which the node is the gateway of one.

Source: containernetworking/plugins, bridge: keys and their meaning. Three versions of it differ; this follows the newest: `vlan` with
`vlanTrunk` is the trunk's native VLAN (1 when there is none), and a port is taken out of the bridge's default VLAN unless
`preserveDefaultVlan` says otherwise (older versions left it in: containers of all VLANs heard each other's broadcasts).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from glassnet.cni.errors import OTHER, CniError
from glassnet.cni.fields import Fields
from glassnet.netstack.ops import AddPortVlan, AddVeth, DelPortVlan, Operation, SetLink

_LAST, _NAME_MAX = 4094, 15


class Vlans(NamedTuple):
    """The keys: `vlan` (0: none) is untagged, those of `trunk` are tagged."""

    vlan: int = 0
    trunk: tuple[int, ...] = ()
    keep_default: bool = False

    @property
    def used(self) -> bool:
        return bool(self.vlan or self.trunk)

    @property
    def native(self) -> int:
        """The VLAN of frames without a tag."""
        return self.vlan or (1 if self.trunk else 0)


def read(fields: Fields) -> Vlans:
    """Read the keys. Raises ConfigError."""
    vlan = fields.number("vlan", high=_LAST)
    numbers: set[int] = set()
    for entry in fields.tables("vlanTrunk"):
        numbers.update(_numbers(entry))
        entry.done()
    return Vlans(vlan, tuple(sorted(numbers)), fields.flag("preserveDefaultVlan"))


def _numbers(entry: Fields) -> Iterator[int]:
    for key in ("minID", "maxID", "id"):
        if entry.has(key):
            entry.number(key, low=1, high=_LAST)
    for key, other in (("minID", "maxID"), ("maxID", "minID")):
        if entry.has(other) and not entry.has(key):
            raise entry.error(key, f"minID and maxID should be configured simultaneously, {key} is missing")
    low, high = entry.number("minID"), entry.number("maxID")
    if low > high:
        raise entry.error("minID", f"minID is greater than maxID in trunk parameter: {low} and {high}")
    if low:
        yield from range(low, high + 1)
    if entry.has("id"):
        yield entry.number("id")
    elif not low:
        raise entry.error("id", 'want "id", or "minID" and "maxID"')


def port_operations(port: str, vlans: Vlans) -> list[Operation]:
    """Put a port into its VLANs."""
    if not vlans.used:
        return []
    out: list[Operation] = [] if vlans.keep_default else [DelPortVlan(port, 1, _LAST)]
    out += [AddPortVlan(port, first, last) for first, last in _spans(one for one in vlans.trunk if one != vlans.native)]
    return [*out, AddPortVlan(port, vlans.native, pvid=True, untagged=True)]


def _spans(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending numbers as ranges, both ends included."""
    out: list[tuple[int, int]] = []
    for one in numbers:
        if out and out[-1][1] == one - 1:
            out[-1] = (out[-1][0], one)
        else:
            out.append((one, one))
    return out


def gateway_name(bridge: str, vlan: int) -> str:
    """The node's own interface in a VLAN. Raises CniError when the name gets too long."""
    name = f"{bridge}.{vlan}"
    if len(name.encode()) > _NAME_MAX:
        raise CniError(
            OTHER,
            f"failed to create vlan interface: {name} is longer than {_NAME_MAX} bytes",
            'give the key "bridge" a shorter name',
        )
    return name


def gateway_operations(
    bridge: str, vlans: Vlans, port: str, network: str, macs: tuple[str, str], mtu: int
) -> list[Operation]:
    """Make the node's interface in a VLAN: one end of a pair whose other end, `port`, is a port of the bridge. `macs` are those of port and interface."""
    name = gateway_name(bridge, vlans.vlan)
    return [
        AddVeth(port, name, hardware=macs[0], peer_hardware=macs[1], mtu=mtu, master=bridge),
        *port_operations(port, vlans._replace(trunk=())),
        SetLink(port, up=True, alias=f"cni {network}"),
        SetLink(name, up=True, alias=f"cni {network}"),
    ]
