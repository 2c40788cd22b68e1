"""host-local's leases on a machine's disk, file for file as the reference plugin keeps them, so that either may go on where the other left off."""

from __future__ import annotations

import os
from pathlib import Path

from glassnet.cni import host_local
from glassnet.cni.config import NetConf
from glassnet.net.errors import GlassnetError

NETWORKS = "var/lib/cni/networks"


class Leases:
    """The leases of one machine. `root` is where its / can be written, `name` what errors call it."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._taken: dict[
            str, set[str]
        ] = {}  # addresses known as taken by network: saves listing the directory for each pod

    def reserve(self, conf: NetConf, container_id: str, ifname: str) -> host_local.Lease:
        """Take the next free address. Raises host_local.Exhausted, GlassnetError when the disk refuses."""
        place = self._root / NETWORKS / conf.name
        try:
            return self._reserve(place, conf, container_id, ifname)
        except OSError as error:
            raise GlassnetError(f"{self._name}: /{NETWORKS}/{conf.name}: {error.strerror}") from None

    def _reserve(self, place: Path, conf: NetConf, container_id: str, ifname: str) -> host_local.Lease:
        taken = self._taken.get(conf.name)
        if taken is None or not place.is_dir():
            taken = self._load(place, conf.name)
        last = _read(place / host_local.LAST)
        text = host_local.lease_text(container_id, ifname)
        fresh = False
        while True:
            try:
                lease = host_local.choose(conf.ipam, taken, last)
            except host_local.Exhausted:
                if fresh:
                    raise
                taken, fresh = self._load(place, conf.name), True  # another hand may have given some back
                continue
            taken.add(lease.ip)
            if _create(place / lease.ip, text):
                _replace(place / host_local.LAST, lease.ip)
                return lease

    def _load(self, place: Path, network: str) -> set[str]:
        if not (place / host_local.LOCK).exists():
            place.mkdir(parents=True, exist_ok=True)
            (place / host_local.LOCK).touch(0o750)
        taken = self._taken[network] = {name for name in os.listdir(place) if host_local.is_lease(name)}
        return taken

    def find(self, network: str, container_id: str, ifname: str) -> list[str]:
        """Addresses of a container's interface."""
        place = self._root / NETWORKS / network
        try:
            files = {name: _read(place / name) for name in os.listdir(place) if host_local.is_lease(name)}
        except OSError:
            return []
        return host_local.owned(files, container_id, ifname)

    def release(self, network: str, address: str) -> None:
        """Give an address back; idempotent."""
        self._taken.get(network, set()).discard(address)
        try:
            (self._root / NETWORKS / network / address).unlink(missing_ok=True)
        except OSError as error:
            raise GlassnetError(f"{self._name}: /{NETWORKS}/{network}/{address}: {error.strerror}") from None


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _create(path: Path, text: str) -> bool:
    """Write a new file; False when there is one already, as the other plugin's lease. Nothing is left of a half-written one."""
    try:
        with open(path, "xb") as file:
            file.write(text.encode())
    except FileExistsError:
        return False
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _replace(path: Path, text: str) -> None:
    """The last address is a hint: on a full disk the lease counts without it."""
    try:
        path.write_text(text)
    except OSError:
        path.unlink(missing_ok=True)
