"""One table over time: what the kernel was last given, and the messages that lead to what is wanted now, as one transaction.

Pure. Work is in proportion to what changed, not to the cluster: a Service's elements are spelled again from what it was and from what it
is, and the difference is sent. Nothing is listed, save at the start and when somebody else has touched the table (`reconcile`).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from glassnet.kube.view import Key
from glassnet.proxy.backends import nftables
from glassnet.proxy.backends.nftables import Element, Elements, SlotKey, Slots
from glassnet.proxy.backends.nftables_layout import FAMILIES, TABLE, Layout
from glassnet.proxy.model import Rules, ServicePort
from glassnet.ruleset import nft_messages as m
from glassnet.ruleset import nft_reader as reader
from glassnet.ruleset.nft_messages import Message
from glassnet.ruleset.nft_reader import Element as Listed

Ports = tuple[ServicePort, ...]
NOTHING = Elements()


@dataclass(slots=True)
class Observed:
    """What a table holds, as read from the kernel: its comment, elements of the frame's sets (-> what follows the key), chains, sets."""

    note: str = ""
    elements: dict[Element, bytes] = field(default_factory=dict)
    chains: set[str] = field(default_factory=set)
    sets: set[str] = field(default_factory=set)

    def take(self, name: str, listing: Iterable[Listed]) -> None:
        """The elements of one set. Ranges of ClusterIPs come as a start and an end."""
        start: tuple[str, bytes] | None = None
        for each in sorted(listing) if name == "service-cidrs" else listing:
            if name != "service-cidrs":
                self.elements[name, each.key] = each.rest
            elif not each.end:
                start = (name, each.key)
                self.elements[start] = b""
            elif start:
                self.elements[start] = each.key


class Touched(NamedTuple):
    """What somebody did to an element: what follows its key `now` (None: it is gone), and what was `seen` to follow it last."""

    now: bytes | None
    seen: bytes


class State:
    """What one node's table holds in one IP family."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.family = rules, FAMILIES[rules.family]
        self.layout = Layout(rules)
        self._f = self.family.number
        self._frame = self.layout.names()
        self._forget()

    def _forget(self) -> None:
        self._ports: dict[Key, Ports] = {}
        self._slots: dict[Key, dict[SlotKey, Slots]] = {}
        self._picks: dict[str, int] = {}  # ready chains beyond the frame's, with the number of Services that use them
        self._hairpins: dict[str, int] = {}

    def full(self, ports: Mapping[Key, Ports]) -> list[Message]:
        """The table anew with everything in it, in place of whatever was there."""
        self._forget()
        return [*self.layout.frame(), *self._globals(), *self.update(ports)]

    def update(self, changed: Mapping[Key, Ports | None]) -> list[Message]:
        """Messages for the Services that changed (None: gone); none when nothing differs."""
        work = _Work()
        for key, ports in changed.items():
            self._change(work, key, ports or ())
        return self._messages(work)

    def _change(self, work: _Work, key: Key, ports: Ports) -> None:
        before = self._ports.get(key, ())
        if before == ports:
            return
        moved = self._slots.get(key, {})
        old = nftables.elements(before, self.family, moved) if before else NOTHING
        slots = nftables.place_all(nftables.slots_of(before, moved), ports) if before and ports else {}
        new = nftables.elements(ports, self.family, slots) if ports else NOTHING
        if ports:
            self._ports[key] = ports
        else:
            self._ports.pop(key, None)
        if slots:
            self._slots[key] = slots
        else:
            self._slots.pop(key, None)
        work.take(old, new)
        for chain in new.picks - old.picks:
            self._picks[chain] = self._picks.get(chain, 0) + 1
            if self._picks[chain] == 1 and chain not in self._frame:
                work.picks[chain] = True
        for chain in old.picks - new.picks:
            self._picks[chain] -= 1
            if not self._picks[chain]:
                del self._picks[chain]
                if chain not in self._frame:
                    work.picks[chain] = False
        for ip in new.hairpins - old.hairpins:
            self._hairpins[ip] = self._hairpins.get(ip, 0) + 1
            if self._hairpins[ip] == 1:
                work.put(("hairpins", self.family.packed(ip) * 2), b"")
        for ip in old.hairpins - new.hairpins:
            self._hairpins[ip] -= 1
            if not self._hairpins[ip]:
                del self._hairpins[ip]
                work.drop(("hairpins", self.family.packed(ip) * 2), b"")

    def _messages(self, work: _Work) -> list[Message]:
        """In an order the kernel takes: what is referred to comes before what refers to it, and goes after it."""
        f, out = self._f, []
        makes = [chain for chain, wanted in work.picks.items() if wanted]
        drops = [chain for chain, wanted in work.picks.items() if not wanted]
        for chain in makes:
            out += self.layout.pick(chain)
        out += [self._affinity_set(name, seconds) for name, seconds in work.new_sets.items()]
        out += [m.new_chain(f, TABLE, name) for name in work.new_chains if name not in work.old_chains]
        out += [m.flush_chain(f, TABLE, name) for name in work.old_chains]
        for name, content in work.new_chains.items():
            out += nftables.chain_messages(self.family, name, content)
        for name, keys in by_set(work.removed):
            gone = (
                _element(name, key, rest) for key, rest in keys
            )  # with its comment, for an error to tell whose it is
            out += m.element_messages(f, TABLE, name, gone, delete=True)
        for name, keys in by_set(work.added):
            out += m.element_messages(f, TABLE, name, (_element(name, key, rest) for key, rest in keys))
        out += [m.delete_chain(f, TABLE, name) for name in work.old_chains if name not in work.new_chains]
        out += [m.delete_set(f, TABLE, name) for name in work.old_sets if name not in work.new_sets]
        for chain in drops:
            out += [m.flush_chain(f, TABLE, chain), m.delete_chain(f, TABLE, chain)]
        return out

    def _affinity_set(self, name: str, seconds: int) -> Message:
        kind = self.family.key_type(True)[0] >> 12
        order = m.udata(0, struct.pack("=I", 2))
        return m.new_set(
            self._f, TABLE, name, 0, key=(kind, self.family.length), flags=m.SET_DYNAMIC | m.SET_TIMEOUT, size=65535,
            timeout=seconds * 1000, user_data=order,
        )  # fmt: skip

    # -- what no Service asks for

    def _globals(self) -> list[Message]:
        """Addresses that serve node ports, and ranges of ClusterIPs."""
        wanted = self._global_elements()
        out = []
        for name, keys in by_set(wanted):
            out += m.element_messages(self._f, TABLE, name, (_element(name, key, rest) for key, rest in keys))
        return out

    def _global_elements(self) -> dict[Element, bytes]:
        out: dict[Element, bytes] = {
            ("node-port-ips", self.family.packed(ip)): b"" for ip in self.rules.node_port_addresses or ()
        }
        networks = [ipaddress.ip_network(text, strict=False) for text in self.rules.service_cidrs]
        for network in ipaddress.collapse_addresses(networks):  # type: ignore[type-var]
            after = int(network.broadcast_address) + 1
            end = after.to_bytes(self.family.length, "big") if after < 1 << 8 * self.family.length else b""
            out["service-cidrs", network.network_address.packed] = end
        return out

    def adopt(self, rules: Rules) -> list[Message]:
        """Messages for a change of what holds for the whole node, such as its addresses."""
        before, old = self._global_elements(), self.rules
        self.rules, self.layout = rules, Layout(rules)
        after = self._global_elements()
        work = _Work()
        work.removed = {each: rest for each, rest in before.items() if after.get(each) != rest}
        work.added = {each: rest for each, rest in after.items() if before.get(each) != rest}
        plain = (rules.node_port_addresses is None, rules.detector, rules.masquerade_all, rules.mark)
        same = plain == (old.node_port_addresses is None, old.detector, old.masquerade_all, old.mark)
        return [*([] if same else self.layout.chains()), *self._messages(work)]

    # -- the kernel's side

    def wanted(self) -> tuple[dict[Element, bytes], Elements]:
        """Every element of the table, and all chains and sets of Services; spelled anew, so not for the hot path."""
        everything = Elements()
        for key, ports in self._ports.items():
            mine = nftables.elements(ports, self.family, self._slots.get(key, {}))
            everything.of.update(mine.of)
            everything.chains.update(mine.chains)
            everything.sets.update(mine.sets)
            everything.picks |= mine.picks
        everything.of.update({("hairpins", self.family.packed(ip) * 2): b"" for ip in self._hairpins})
        return {**everything.of, **self._global_elements()}, everything

    def reconcile(self, observed: Observed) -> list[Message]:
        """Messages that make a table that is there what it should be, whoever wrote it; a frame of another kind is replaced whole.

        The frame's own rules are written anew in any case: they are few, and to compare rules with what the kernel shows is to guess.
        """
        if observed.note != self.layout.note():
            return self.full(dict(self._ports))
        elements, mine = self.wanted()
        work = _Work()
        work.added = {each: rest for each, rest in elements.items() if observed.elements.get(each) != rest}
        work.removed = {each: rest for each, rest in observed.elements.items() if elements.get(each) != rest}
        work.new_chains, work.new_sets = mine.chains, mine.sets
        frame = self._frame
        kept = mine.picks | frame
        ours = observed.chains - kept
        picks = {name for name in ours if name.rpartition("-")[0] in PICKS and name.rpartition("-")[2].isdigit()}
        work.old_chains = dict.fromkeys(ours - picks, True)
        work.picks = {**dict.fromkeys(mine.picks - frame, True), **dict.fromkeys(picks, False)}
        work.old_sets = dict.fromkeys(observed.sets - self.layout.set_names(), 0)
        return [*self.layout.chains(), *self._messages(work)]

    def mend(self, touched: Mapping[Element, Touched]) -> list[Message] | None:
        """Messages that undo what somebody did to single elements, without a listing: an element's comment names its Service.

        None when that cannot be told from the elements alone.
        """
        if any(name == "service-cidrs" for name, _ in touched):
            return None
        wanted = {**self._global_elements(), **{("hairpins", self.family.packed(ip) * 2): b"" for ip in self._hairpins}}
        notes = {reader.note_of(reader.attributes(each.seen).get(6, b"")) for each in touched.values()}
        owners = {Key(*note.partition(":")[0].split("/", 1)) for note in notes if "/" in note}
        for owner in owners & self._ports.keys():
            wanted.update(nftables.elements(self._ports[owner], self.family, self._slots.get(owner, {})).of)
        work = _Work()
        for element, each in touched.items():
            right = wanted.get(element)
            if each.now != right and not element[0].startswith("affinity-"):
                if each.now is not None:
                    work.removed[element] = each.now
                if right is not None:
                    work.added[element] = right
        return self._messages(work)

    def everything(self) -> dict[Key, Ports]:
        """What the table has for each Service."""
        return dict(self._ports)

    def services(self) -> Iterable[Key]:
        """The Services the table is for."""
        return self._ports.keys()

    def ports(self, key: Key) -> Ports:
        """What the table has for a Service."""
        return self._ports.get(key, ())


PICKS = ("pick", "local", "node-port-pick", "node-port-local")


class _Work:
    """Differences of several Services, put together."""

    def __init__(self) -> None:
        self.removed: dict[Element, bytes] = {}
        self.added: dict[Element, bytes] = {}
        self.new_chains: dict[str, nftables.OwnChain] = {}
        self.old_chains: dict[str, bool] = {}
        self.new_sets: dict[str, int] = {}
        self.old_sets: dict[str, int] = {}
        self.picks: dict[str, bool] = {}  # ready chain -> whether it is to be there

    def put(self, each: Element, rest: bytes) -> None:
        """An element comes; had it gone in the same transaction with the same data, nothing happens."""
        if self.removed.get(each) == rest:
            del self.removed[each]
        else:
            self.added[each] = rest

    def drop(self, each: Element, rest: bytes) -> None:
        """An element goes; if it came in the same transaction, it does not come."""
        if self.added.get(each) == rest:
            del self.added[each]
        else:
            self.removed[each] = rest

    def take(self, old: Elements, new: Elements) -> None:
        """One Service's change."""
        if old.of:
            for each, rest in old.of.items():
                if new.of.get(each) != rest:
                    self.drop(each, rest)
            for each, rest in new.of.items():
                if old.of.get(each) != rest:
                    self.put(each, rest)
        elif self.removed:
            for each, rest in new.of.items():
                self.put(each, rest)
        else:
            self.added.update(new.of)
        if old.chains or new.chains:
            for name, chain in new.chains.items():
                if old.chains.get(name) != chain:
                    self.new_chains[name] = chain
            self.old_chains.update({name: True for name, chain in old.chains.items() if new.chains.get(name) != chain})
            self.new_sets.update({name: s for name, s in new.sets.items() if old.sets.get(name) != s})
            self.old_sets.update({name: s for name, s in old.sets.items() if name not in new.sets})


def by_set(elements: Mapping[Element, bytes]) -> list[tuple[str, list[tuple[bytes, bytes]]]]:
    """Elements grouped by their set, in order of names."""
    groups: dict[str, list[tuple[bytes, bytes]]] = {}
    for (name, key), rest in elements.items():
        groups.setdefault(name, []).append((key, rest))
    return sorted(groups.items())


def _element(name: str, key: bytes, rest: bytes) -> bytes:
    return m.interval(key, rest) if name == "service-cidrs" else m.element(key, rest)
