"""What a node keeps in files rather than in the kernel: addresses that IPAM gave away, and the CNI's configuration.

`NODE/cni-networks/NETWORK/ADDRESS` are host-local's files as they lie in /var/lib/cni/networks (container ID, CRLF, interface name),
`NODE/cni-conf/NAME` those of /etc/cni/net.d. `cni-leases.txt` and `cni-conf.txt` hold all of them, each after a line `== NAME`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from glassnet.net import address
from glassnet.tracer.world import World

LEASES, CONF = "cni-networks/", "cni-conf/"


def read_node_state(world: World, files: Mapping[str, bytes]) -> None:
    """Give each machine the files of its folder."""
    machines = {machine.source: machine for machine in world.machines.values()}
    for name in sorted(files):
        for mark in (LEASES, CONF):
            before, found, rest = f"/{name}".partition(f"/{mark}")
            machine = machines.get(before.lstrip("/")) if found else None
            if machine is not None and mark == LEASES:
                _lease(machine.leases, rest, _text(files[name]))
            elif machine is not None:
                machine.cni_conf[rest] = _text(files[name])
        folder, _, base = name.rpartition("/")
        machine = machines.get(folder)
        if machine is None:
            continue
        if base == "cni-leases.txt":
            for place, body in _parts(_text(files[name])):
                _lease(machine.leases, place, body)
        elif base == "cni-conf.txt":
            machine.cni_conf.update(_parts(_text(files[name])))


def _lease(leases: dict[str, str], name: str, body: str) -> None:
    text = address.canonical(name.rpartition("/")[2])  # others are last_reserved_ip.N and the lock
    if text:
        leases[text] = body.split("\n", 1)[0].strip()


def _parts(text: str) -> Iterator[tuple[str, str]]:
    for part in f"\n{text}".split("\n== ")[1:]:
        name, _, body = part.partition("\n")
        yield name.strip(), body


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
