"""What plugins ask of a node: effects as values. A plugin is a generator of them; who runs it carries each out and sends the answer back.

So all decisions stay here, where nothing touches a kernel or a disk, and between any two effects a plugin can be stopped: tests do so at each.
An effect that fails is thrown into the generator as a GlassnetError, at the place that asked.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from glassnet.cni.request import Attachment
from glassnet.net.values import Value
from glassnet.netstack.model import Address, BridgePort, Link, Route, Shaping
from glassnet.netstack.ops import Operation

if TYPE_CHECKING:
    from glassnet.ruleset.nft_reader import Rule

T = TypeVar("T")


class Where(Enum):
    """Which network namespace: that of the node, or the container's."""

    NODE = "node"
    POD = "pod"


class Effect(Value, Generic[T]):
    """Something to be done or looked up; its answer has type T."""


class Apply(Effect[None]):
    """Carry out rtnetlink operations in order."""

    where: Where
    operations: tuple[Operation, ...]


class Remove(Effect[None]):
    """Delete a link; answered as soon as nobody sees it any more. An absent one is fine."""

    where: Where
    name: str


class FindLink(Effect[Link | None]):
    """A link by its name, None when there is none."""

    where: Where
    name: str


class LinkState(Effect[str]):
    """The operational state of a link as `ip link` shows it, in small letters; "" when there is no such link."""

    where: Where
    name: str


class FindPort(Effect[BridgePort | None]):
    """A port of a bridge by its name, None when it is no port."""

    where: Where
    name: str


class ListLinks(Effect[tuple[Link, ...]]):
    """Every link."""

    where: Where


class ListAddresses(Effect[tuple[Address, ...]]):
    """The addresses of a link."""

    where: Where
    dev: str


class ListRoutes(Effect[tuple[Route, ...]]):
    """Every route of the main table, of both families."""

    where: Where


class ReadShaping(Effect[Shaping]):
    """How a link of the node holds packets back; an empty value when there is no such link."""

    dev: str


class RouteDevice(Effect[str]):
    """The interface that a packet to an address leaves by; "" when there is no route."""

    where: Where
    address: str


class ReadSetting(Effect[str | None]):
    """The value of a net.* sysctl, None when there is no such."""

    where: Where
    name: str


class WriteSettings(Effect[None]):
    """Write net.* sysctls."""

    where: Where
    values: Mapping[str, str]


class Ensure(Effect[None]):
    """Write those net.* sysctls that have another value; those in `optional` may be absent, or refuse."""

    where: Where
    values: Mapping[str, str] = {}
    optional: Mapping[str, str] = {}


class Sleep(Effect[None]):
    """Let time pass (seconds)."""

    seconds: float


class Reserve(Effect[tuple[str, ...]]):
    """Take an address out of each set of ranges, all or none; their texts without prefix length.

    `place` is the directory of the leases. See `host_local.choose`, which whoever carries it out calls under the directory's lock.
    """

    place: str
    sets: tuple[Any, ...]
    wanted: tuple[str, ...]
    holder: Attachment


class Leases(Effect[Mapping[str, Attachment]]):
    """Who holds which address."""

    place: str


class Held(Effect[tuple[str, ...]]):
    """The addresses of one container's interface."""

    place: str
    holder: Attachment


class Release(Effect[None]):
    """Give addresses back; an absent lease is fine."""

    place: str
    addresses: tuple[str, ...]


class Restore(Effect[None]):
    """Have iptables-restore add or delete lines of the nat table, all or none. `otherwise` are tried when they are refused.

    `shared` are chains and rules that several containers need: what of them is there already stays as it is (see `nat_table`).
    What is added under the name `keep` comes back when somebody flushes the table; it is forgotten by lines that add nothing.
    """

    family: int
    lines: str
    otherwise: str = ""
    keep: str = ""
    shared: str = ""


class SavedRules(Effect[str]):
    """The nat table, or one chain of it ("" when there is no such), as `iptables -S` prints it."""

    family: int
    chain: str = ""


class NftMark(NamedTuple):
    """What tells that an nftables script has been carried out: a chain has at least `rules` rules with a comment, or at all (note "")."""

    family: str
    table: str
    chain: str
    note: str
    rules: int


class Nft(Effect[str]):
    """Have nft run a script; what it printed (JSON for listings).

    With `marks` it is kept under the name `keep`, to be run again when somebody has flushed what they tell of: rules that have
    the comments are deleted before. Without marks `keep` is forgotten.
    """

    script: str
    keep: str = ""
    marks: tuple[NftMark, ...] = ()


class NftChange(Effect[None]):
    """Carry out messages of nf_tables (`ruleset.nft_messages`) as one transaction, whole or not at all; no program is run."""

    messages: tuple[bytes, ...]


class NftTable(NamedTuple):
    """What a table has: its chains with their comments, and the rules of some or all of them."""

    chains: Mapping[str, str]
    rules: tuple[Rule, ...]


class NftListing(Effect[NftTable]):
    """The chains of an nf_tables table, and the rules of one chain or of all (""); nothing when there is no such table. `family` is a number."""

    family: int
    table: str
    chain: str = ""


class HasProgram(Effect[bool]):
    """Whether the node has a program."""

    name: str


class ForgetConnections(Effect[None]):
    """Delete what connection tracking knows of UDP to ports of the node, so that the next packets meet the new rules."""

    family: int
    ports: tuple[int, ...]


class Delegate(Effect[dict[str, Any]]):
    """Call another plugin, found in the call's CNI_PATH, with the same environment, `environment` over it; its answer ({} for none)."""

    plugin: str
    command: str
    config: Mapping[str, Any]
    environment: Mapping[str, str] = {}


class ReadFile(Effect[str | None]):
    """A file's text, None when there is none."""

    path: str


class WriteFile(Effect[None]):
    """Write a file, whole or not at all; directories are made."""

    path: str
    text: str


class RemoveFile(Effect[None]):
    """Remove a file; an absent one is fine."""

    path: str


class ListFiles(Effect[tuple[str, ...]]):
    """Names in a directory, in order; none when it is not there."""

    path: str


class Random(Effect[bytes]):
    """Random bytes."""

    count: int


Steps = Generator[Effect[Any], Any, T]


def ask(effect: Effect[T]) -> Steps[T]:
    """Have an effect carried out: `answer = yield from ask(FindLink(Where.NODE, "cni0"))`."""
    answer: T = yield effect
    return answer
