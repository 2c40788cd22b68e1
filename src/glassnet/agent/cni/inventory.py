"""What CNI left on a node: leases, kept results, addresses of its network namespaces; and CHECK, STATUS and GC of what is there.

Facts are gathered here, `cni.inventory` decides. It reads the node's own files and kernel, so it runs on the node: a real one, or one of a lab.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from glassnet.agent.cni.alone import LoneEffects
from glassnet.agent.cni.effects import NodeState
from glassnet.cni import host_local, inventory, node, runtime, wiring
from glassnet.cni.effects import Held, Release, Steps, ask
from glassnet.cni.errors import CniError
from glassnet.cni.inventory import Facts, Lease, Row
from glassnet.cni.request import Attachment
from glassnet.cni.runtime import Container, Kept, Network
from glassnet.kernel import network_state
from glassnet.kernel.addresses import Addresses
from glassnet.kernel.api import Node
from glassnet.kernel.netns import KernelNetNs
from glassnet.net.errors import GlassnetError

T = TypeVar("T")
CONFIG = "/etc/cni/net.d"
_NAMED = ("run/netns", "var/run/netns", "run/docker/netns")


class Configured(NamedTuple):
    """A file of a node's CNI configuration: a network, or why it is none."""

    path: str
    network: Network | None
    fault: str = ""


class Verdict(NamedTuple):
    """What CHECK or STATUS said of something; no `fault`: it is right."""

    about: str
    network: str
    fault: str = ""
    details: str = ""
    netns: str = ""


class NodeInventory:
    """CNI on the machine this runs on. `clock` gives seconds since 1970."""

    def __init__(self, node: Node, clock: Callable[[], float]) -> None:
        self._node, self._clock = node, clock
        self._state = NodeState(node)

    # -- facts

    def facts(self) -> Facts:
        """Look at the node. Raises GlassnetError."""
        kept = list(self._kept())
        addresses = self._addresses()
        leases = tuple(self._leases([one for one, _ in kept]))
        return Facts(
            leases,
            tuple(one for one, _ in kept),
            addresses,
            frozenset(self._wired()),
            frozenset(one.container.netns for one, _ in kept if self._path(one.container.netns).exists()),
            {(one.network.name, one.container.attachment): changed for one, changed in kept},
            self._booted(),
            self._clock(),
        )

    def _kept(self) -> Iterator[tuple[Kept, float]]:
        for path in _entries(self._path(runtime.RESULTS)):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                text, changed = path.read_text(), path.stat().st_mtime
                if (kept := runtime.read_kept(text)) is not None:
                    yield kept, changed

    def _leases(self, kept: Sequence[Kept]) -> Iterator[Lease]:
        networks = [one.network for one in self.configured() if one.network] + [one.network for one in kept]
        known = {f"{host_local.DATA}/{path.name}": path.name for path in _entries(self._path(host_local.DATA))}
        for place, network in (known | inventory.places(networks)).items():
            for path in _entries(self._path(place)):
                if host_local.is_lease(path.name):
                    with contextlib.suppress(OSError):
                        holder = host_local.read_lease(path.read_bytes().decode(errors="replace"))
                        yield Lease(network, place, path.name, holder, path.stat().st_mtime)

    def _addresses(self) -> frozenset[str]:
        """Every address of every network namespace that has a name or a process."""
        found: set[str] = set()
        for path in self._namespaces():
            try:
                netns = KernelNetNs(path.name, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                continue  # it has just ended
            try:
                addresses = Addresses(netns)
                found.update(addresses.all())
                addresses.close()
            except OSError:
                continue  # a file under a name of old, which is no namespace any more
            finally:
                netns.close()
        return frozenset(found)

    def _namespaces(self) -> Iterator[Path]:
        seen: set[tuple[int, int]] = set()
        root = self._node.root
        named = (path for place in _NAMED for path in _entries(root / place))
        held = (path / "ns/net" for path in _entries(root / "proc") if path.name.isdigit())
        for path in (*named, *held):
            with contextlib.suppress(OSError):
                found = os.stat(path)
                if (key := (found.st_dev, found.st_ino)) not in seen:
                    seen.add(key)
                    yield path

    def _wired(self) -> Iterator[tuple[str, str, str]]:
        for link in network_state.list_links(self._node.netns):
            owner = wiring.owner(link.alias)
            if owner is not None and link.up and link.carrier:
                yield owner

    def _booted(self) -> float:
        with contextlib.suppress(OSError):
            for line in (self._node.root / "proc/stat").read_text().splitlines():
                if line.startswith("btime "):
                    return float(line.split()[1])
        return 0.0

    def configured(self) -> list[Configured]:
        """The files of CONFIG, in the order in which a runtime looks at them."""
        found = []
        for path in _entries(self._path(CONFIG)):
            if not path.name.endswith(runtime.SUFFIXES):
                continue
            try:
                found.append(
                    Configured(
                        f"{CONFIG}/{path.name}", runtime.parse_network(path.read_text(), f"{CONFIG}/{path.name}")
                    )
                )
            except (GlassnetError, OSError, UnicodeDecodeError) as error:
                found.append(Configured(f"{CONFIG}/{path.name}", None, str(error)))
        return found

    # -- what is done

    def release(self, wanted: Sequence[Row]) -> list[str]:
        """Give back addresses: by DEL where a result was kept, and the lease. What could not be done, in words."""
        problems = []
        kept = {(one.network.name, one.container.attachment): one for one, _ in self._kept()}
        for row in wanted:
            try:
                one = kept.pop((row.network, row.holder), None)
                if one is not None:
                    self._run(runtime.delete(one.container._replace(netns=""), one.network.name), one.container)
                if row.place:
                    self._run(_give_back(row))
            except GlassnetError as error:
                problems.append(f"{row.address}: {error}")
        return problems

    def check(self, wanted: str = "") -> Iterator[Verdict]:
        """CHECK of every kept attachment; of a network's, or a pod's (NAME or NAMESPACE/NAME), or a container's when `wanted` names one."""
        for kept, _ in self._kept():
            arguments = dict(kept.container.arguments)
            name = arguments.get("K8S_POD_NAME", "")
            pod = f"{arguments.get('K8S_POD_NAMESPACE', '')}/{name}".lstrip("/")
            container = kept.container.container_id
            if wanted and wanted not in (kept.network.name, name, pod) and not container.startswith(wanted):
                continue
            about = f"{pod or container[:13]} {kept.container.ifname}"
            yield self._verdict(
                about, kept.network.name, kept.container.netns, lambda kept=kept: self._check(kept)  # type: ignore[misc]
            )  # fmt: skip

    def _check(self, kept: Kept) -> None:
        kept = kept._replace(network=inventory.newest(kept.network))
        path = self._path(kept.container.netns)
        try:
            netns = KernelNetNs(path.name, os.open(path, os.O_RDONLY | os.O_CLOEXEC), kept=True)
        except OSError as error:
            raise CniError(3, f'failed to open netns "{kept.container.netns}": {error.strerror}') from None
        try:
            container = kept.container._replace(pod=netns.fd)
            self._run(runtime.check(container, kept), container, netns)
        finally:
            netns.close()

    def status(self) -> Iterator[Verdict]:
        """STATUS of every configured network."""
        for one in self.configured():
            if one.network is None:
                yield Verdict(one.path, "", one.fault)
                continue
            network = inventory.newest(one.network)
            yield self._verdict(
                one.path, network.name, "", lambda network=network: self._run(runtime.status(network))  # type: ignore[misc]
            )  # fmt: skip

    def _verdict(self, about: str, network: str, netns: str, work: Callable[[], object]) -> Verdict:
        try:
            work()
        except GlassnetError as error:
            details = error.details if isinstance(error, CniError) else ""
            return Verdict(about, network, str(error), details, netns)
        return Verdict(about, network, netns=netns)

    def network(self, name: str) -> Network:
        """A network by its name: as it is configured, or as it was when its last container was joined. Raises GlassnetError."""
        configured = [one.network for one in self.configured() if one.network]
        for network in (*configured, *(one.network for one, _ in self._kept())):
            if network.name == name:
                return network
        there = ", ".join(dict.fromkeys(one.name for one in configured)) or "none"
        raise GlassnetError(f"there is no network {name!r} on this node; configured in {CONFIG}: {there}")

    def collect(self, network: Network, valid: Iterable[Attachment]) -> list[str]:
        """GC: take away what a network has of containers that are not in the list; the errors, in words."""
        containers = [Container(one.container_id, "", one.ifname) for one in valid]
        return self._run(runtime.collect(inventory.newest(network), containers))

    def in_use(self, network: str) -> list[Attachment]:
        """Whose addresses of a network are alive, whoever made them. Raises GlassnetError."""
        rows = inventory.rows(self.facts())
        return [row.holder for row in rows if row.network == network and row.state == inventory.ALIVE]

    def take_rules(self, network: str) -> None:
        """Take away the rules that a network of the plugin glassnet has once a node. Raises GlassnetError."""
        self._run(node.take_rules(network))

    def _run(self, steps: Steps[T], container: Container | None = None, netns: KernelNetNs | None = None) -> T:
        environment = {"CNI_PATH": runtime.PLUGIN_PATH}
        if container is not None:  # for plugins that are not ours
            arguments = ";".join(f"{key}={value}" for key, value in container.arguments)
            environment |= {"CNI_CONTAINERID": container.container_id, "CNI_IFNAME": container.ifname}
            environment |= {"CNI_NETNS": container.netns, "CNI_ARGS": arguments}
        return LoneEffects(self._state, netns, environment).run(steps)

    def _path(self, path: str) -> Path:
        return self._node.root / path.lstrip("/")


def _give_back(row: Row) -> Steps[None]:
    """Give an address back if it is (still) its holder's."""
    if row.address in (yield from ask(Held(row.place, row.holder))):
        yield from ask(Release(row.place, (row.address,)))


def _entries(directory: Path) -> list[Path]:
    """What a directory has, in order; nothing when it is not there. Hidden files are drafts."""
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except OSError:
        return []
