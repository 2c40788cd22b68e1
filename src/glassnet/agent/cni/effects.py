"""The effects of CNI plugins carried out on one machine: its kernel, its disk, its programs.

`Effects` does what takes no waiting; `carry_out` runs a plugin. Two kinds of machine complete it: `agent.cni.alone` for one call in a process
of its own, `agent.cni.node` for an agent that serves many calls at once. What only some plugins need is imported when they ask for it: loading is most
of what a process of its own takes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from glassnet.agent.cni.kept_rules import KeptRules
from glassnet.agent.cni.leases import LeaseFiles
from glassnet.agent.cni.whole_files import replace
from glassnet.cni import effects as e
from glassnet.cni.errors import OTHER, CniError, unexpected
from glassnet.kernel import network_state
from glassnet.kernel.api import NetNs, Node
from glassnet.kernel.libc import CLONE_NEWNET
from glassnet.kernel.sysctl import read_sysctl, write_sysctls
from glassnet.net.errors import GlassnetError, KernelError

if TYPE_CHECKING:
    from glassnet.kernel.nftables import NfTables

T = TypeVar("T")
DELEGATE_TIMEOUT = 60.0  # seconds for another plugin
_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)


def container_netns(descriptor: int, node: NetNs, environment: Mapping[str, str]) -> str:
    """Why a descriptor is not that of a container's network namespace; "" when it is.

    The node's own is refused as the reference library does: a process ID of a dead container may have become that of a process of the node,
    and DEL would take the node's interface away. CNI_NETNS_OVERRIDE=1 lets it pass.
    """
    try:
        kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != CLONE_NEWNET:
        return "it is not a network namespace"
    own, theirs = os.fstat(node.fd), os.fstat(descriptor)
    allowed = environment.get("CNI_NETNS_OVERRIDE", "").upper() in ("1", "TRUE")
    same = (own.st_dev, own.st_ino) == (theirs.st_dev, theirs.st_ino)
    return "it is the node's own network namespace" if same and not allowed else ""


class NodeState:
    """What outlives a call: the machine, its leases, its rules that are to come back. `random` gives bytes."""

    def __init__(self, node: Node, random: Callable[[int], bytes] = os.urandom) -> None:
        self.node, self.random = node, random
        self.leases = LeaseFiles(node.root, node.name)
        self.kept = KeptRules(node)
        self.programs: set[str] = set()  # those that have been seen
        self._nft: NfTables | None = None

    @property
    def nft(self) -> NfTables:
        """nf_tables of the machine. Its socket stays: closing one waits for the kernel to free what was deleted through it.

        Raises KernelError where the kernel has no netfilter by netlink.
        """
        from glassnet.kernel.nftables import NfTables

        if self._nft is None:
            try:
                self._nft = NfTables(self.node.netns)
            except OSError as error:
                raise KernelError("open a socket of netfilter", error.errno or 0) from None
        return self._nft

    def forget_nft(self) -> None:
        """Close the socket."""
        if self._nft is not None:
            self._nft.close()
            self._nft = None


class Effects:
    """What is done at once, in the namespaces of one call."""

    def __init__(self, state: NodeState, pod: NetNs | None) -> None:
        self.state, self.node, self.pod = state, state.node, pod

    def now(self, effect: e.Effect[Any]) -> Any:
        """Carry out one effect; its answer. Raises GlassnetError, also for what nobody has foreseen: a plugin must always come to undo its work."""
        try:
            return _NOW[type(effect)](self, effect)
        except GlassnetError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise GlassnetError(f"{self.node.name}: {where}{error.strerror}") from None
        except Exception as error:
            raise unexpected(error) from None

    def netns(self, where: e.Where) -> NetNs:
        """The namespace an effect is for. Raises GlassnetError when the call has none."""
        if where is e.Where.NODE:
            return self.node.netns
        if self.pod is None:
            raise GlassnetError("the call names no network namespace of a container")
        return self.pod

    def path(self, path: str) -> Path:
        """Where a file of the machine is for this process."""
        return self.node.root / path.lstrip("/")

    def plugin_program(self, plugin: str, path: str) -> str:
        """The program of another plugin, looked for as the specification says. Raises CniError when there is none."""
        places = [place for place in path.split(":") if place]
        if not plugin or "/" in plugin:
            raise CniError(OTHER, f"invalid plugin name: {plugin!r}")
        found = next((f"{place}/{plugin}" for place in places if self.path(f"{place}/{plugin}").is_file()), None)
        if found is None:
            raise CniError(OTHER, f'failed to find plugin "{plugin}" in path [{" ".join(places)}]')
        return found

    def _apply(self, effect: e.Apply) -> None:
        self.netns(effect.where).apply(effect.operations)

    def _find_link(self, effect: e.FindLink) -> Any:
        return network_state.find_link(self.netns(effect.where), effect.name)

    def _link_state(self, effect: e.LinkState) -> str:
        return network_state.link_state(self.netns(effect.where), effect.name)

    def _find_port(self, effect: e.FindPort) -> Any:
        return network_state.find_port(self.netns(effect.where), effect.name)

    def _list_links(self, effect: e.ListLinks) -> Any:
        return network_state.list_links(self.netns(effect.where))

    def _list_addresses(self, effect: e.ListAddresses) -> Any:
        return network_state.list_addresses(self.netns(effect.where), effect.dev)

    def _list_routes(self, effect: e.ListRoutes) -> Any:
        return network_state.list_routes(self.netns(effect.where))

    def _read_shaping(self, effect: e.ReadShaping) -> Any:
        from glassnet.kernel.traffic_control import read_shaping

        return read_shaping(self.node.netns, effect.dev)

    def _route_device(self, effect: e.RouteDevice) -> str:
        return network_state.route_device(self.netns(effect.where), effect.address)

    def _forget_connections(self, effect: e.ForgetConnections) -> None:
        from glassnet.kernel.conntrack import Conntrack

        tracked = Conntrack(self.node.netns)
        try:
            flows = tracked.udp("IPv4" if effect.family == 4 else "IPv6")
            tracked.delete([flow for flow in flows if flow.destination_port in effect.ports])
        finally:
            tracked.close()

    def _read_setting(self, effect: e.ReadSetting) -> str | None:
        with self.netns(effect.where).entered():
            return read_sysctl(effect.name)

    def _write_settings(self, effect: e.WriteSettings) -> None:
        with self.netns(effect.where).entered():
            write_sysctls(effect.values)

    def _ensure(self, effect: e.Ensure) -> None:
        with self.netns(effect.where).entered():
            for name, value in effect.optional.items():
                with contextlib.suppress(GlassnetError):
                    if read_sysctl(name) not in (None, value):
                        write_sysctls({name: value})
            write_sysctls({name: value for name, value in effect.values.items() if read_sysctl(name) != value})

    def _nft_change(self, effect: e.NftChange) -> None:
        self.state.nft.commit(effect.messages)

    def _nft_listing(self, effect: e.NftListing) -> e.NftTable:
        try:
            rules = self.state.nft.rules(effect.family, effect.table, effect.chain)
        except KernelError as error:
            if error.number != errno.EPROTONOSUPPORT:
                raise
            return e.NftTable({}, ())
        return e.NftTable(self.state.nft.chain_notes(effect.family, effect.table), tuple(rules))

    def _reserve(self, effect: e.Reserve) -> tuple[str, ...]:
        return self.state.leases.reserve(effect.place, effect.sets, effect.wanted, effect.holder)

    def _leases(self, effect: e.Leases) -> Any:
        return self.state.leases.holders(effect.place)

    def _held(self, effect: e.Held) -> tuple[str, ...]:
        return self.state.leases.held(effect.place, effect.holder)

    def _release(self, effect: e.Release) -> None:
        self.state.leases.release(effect.place, effect.addresses)

    def _has_program(self, effect: e.HasProgram) -> bool:
        if effect.name in self.state.programs:
            return True
        root = str(self.node.root).rstrip("/")
        found = any(os.path.exists(f"{root}{place}/{effect.name}") for place in _PROGRAMS)
        if found:
            self.state.programs.add(effect.name)
        return found

    def _read_file(self, effect: e.ReadFile) -> str | None:
        try:
            return self.path(effect.path).read_text(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failed(effect.path, error) from None

    def _write_file(self, effect: e.WriteFile) -> None:
        path = self.path(effect.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, effect.text)
        except OSError as error:
            raise self._failed(effect.path, error) from None

    def _remove_file(self, effect: e.RemoveFile) -> None:
        try:
            self.path(effect.path).unlink()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise self._failed(effect.path, error) from None

    def _list_files(self, effect: e.ListFiles) -> tuple[str, ...]:
        try:
            return tuple(sorted(name for name in os.listdir(self.path(effect.path)) if not name.startswith(".")))
        except OSError:
            return ()

    def _random(self, effect: e.Random) -> bytes:
        return self.state.random(effect.count)

    def _failed(self, path: str, error: OSError) -> GlassnetError:
        return GlassnetError(f"{self.node.name}: {path}: {error.strerror}")


_PROGRAMS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
_NOW: dict[type, Callable[[Effects, Any], Any]] = {
    e.Apply: Effects._apply,
    e.FindLink: Effects._find_link,
    e.LinkState: Effects._link_state,
    e.FindPort: Effects._find_port,
    e.ListLinks: Effects._list_links,
    e.ListAddresses: Effects._list_addresses,
    e.ListRoutes: Effects._list_routes,
    e.ReadShaping: Effects._read_shaping,
    e.RouteDevice: Effects._route_device,
    e.ForgetConnections: Effects._forget_connections,
    e.ReadSetting: Effects._read_setting,
    e.WriteSettings: Effects._write_settings,
    e.Ensure: Effects._ensure,
    e.NftChange: Effects._nft_change,
    e.NftListing: Effects._nft_listing,
    e.Reserve: Effects._reserve,
    e.Leases: Effects._leases,
    e.Held: Effects._held,
    e.Release: Effects._release,
    e.HasProgram: Effects._has_program,
    e.ReadFile: Effects._read_file,
    e.WriteFile: Effects._write_file,
    e.RemoveFile: Effects._remove_file,
    e.ListFiles: Effects._list_files,
    e.Random: Effects._random,
}
