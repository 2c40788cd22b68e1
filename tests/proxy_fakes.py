"""Kernels in memory: what nf_tables messages, or the input of iptables-restore, leave behind. Errors are those the kernel makes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from glassnet.proxy.backends.iptables_state import Saved
from glassnet.proxy.backends.nftables_state import Observed
from glassnet.ruleset import nft_messages as m
from glassnet.ruleset import nft_reader as reader
from glassnet.ruleset.nft_reader import attributes, string


class NfTablesKernel:
    """One table: sets, chains, rules, elements. References are checked when a transaction ends."""

    def __init__(self) -> None:
        self.note = ""
        self.sets: dict[str, bytes] = {}
        self.chains: dict[str, list[bytes]] = {}
        self.elements: dict[tuple[str, bytes], bytes] = {}

    def commit(self, messages: Iterable[m.Message]) -> None:
        for message in messages:
            kind, body = message[4], message[20:]
            getattr(self, f"_message_{kind}")(attributes(body), body)
        self._check()

    def _message_0(self, parts: dict[int, bytes], _: bytes) -> None:
        self.note = reader.note_of(parts.get(6, b"")) or self.note

    def _message_2(self, _: dict[int, bytes], __: bytes) -> None:
        self.__init__()  # type: ignore[misc]

    def _message_3(self, parts: dict[int, bytes], _: bytes) -> None:
        self.chains.setdefault(string(parts[3]), [])

    def _message_5(self, parts: dict[int, bytes], _: bytes) -> None:
        assert not self.chains.pop(string(parts[3])), f"chain {string(parts[3])} has rules"

    def _message_6(self, parts: dict[int, bytes], _: bytes) -> None:
        self.chains[string(parts[2])].append(_without_numbers(parts[4]))

    def _message_8(self, parts: dict[int, bytes], _: bytes) -> None:
        self.chains[string(parts[2])].clear()

    def _message_9(self, parts: dict[int, bytes], _: bytes) -> None:
        name = string(parts[2])
        if not name.startswith("__"):
            self.sets[name] = parts.get(11, b"")

    def _message_11(self, parts: dict[int, bytes], _: bytes) -> None:
        del self.sets[string(parts[2])]

    def _message_12(self, parts: dict[int, bytes], body: bytes) -> None:
        name = string(parts[2])
        if name.startswith("__"):
            return
        for each in _pairs(name, reader.elements(body)):
            assert self.elements.get((name, each[0]), each[1]) == each[1], (
                f"{name} {each[0]!r} is there with other data"
            )
            self.elements[name, each[0]] = each[1]

    def _message_14(self, parts: dict[int, bytes], body: bytes) -> None:
        name = string(parts[2])
        for key, _ in _pairs(name, reader.elements(body)):
            assert self.elements.pop((name, key), None) is not None, f"{name} {key!r} is not there"

    def _check(self) -> None:
        text = b"".join(rule for rules in self.chains.values() for rule in rules) + b"".join(self.elements.values())
        for name in (*self._own("affinity-"), *self._own("endpoint-")):
            assert name.encode() + b"\0" in text, f"nothing uses {name}"
        for (name, _), rest in self.elements.items():
            assert name in self.sets
            verdict = attributes(attributes(rest).get(2, b"")).get(2)
            if verdict:
                assert string(attributes(verdict)[2]) in self.chains

    def _own(self, prefix: str) -> list[str]:
        return [name for name in (*self.sets, *self.chains) if name.startswith(prefix)]

    def observed(self) -> Observed:
        """What a listing shows."""
        seen = Observed(self.note, chains=set(self.chains), sets=set(self.sets))
        seen.elements = dict(self.elements)
        return seen

    def content(self) -> tuple[Any, ...]:
        """All of it, with the slots of an entry as a set: which endpoint has which slot depends on history and means nothing."""
        out: dict[tuple[str, bytes], Any] = {}
        for (name, key), rest in self.elements.items():
            if name.endswith("endpoints") and "no-" not in name:
                out.setdefault((name, key[:-4]), ([], []))
                out[name, key[:-4]][0].append(key[-4:])
                out[name, key[:-4]][1].append(rest)
            else:
                out[name, key] = rest
        slots = {place: (sorted(v[0]), sorted(v[1])) if isinstance(v, tuple) else v for place, v in out.items()}
        return slots, dict(self.sets), {name: tuple(rules) for name, rules in self.chains.items()}


def _without_numbers(expressions: bytes) -> bytes:
    """A rule without the numbers that sets have inside one transaction: the kernel does not keep them."""
    out = b""
    for _, _, each in reader.walk(expressions):
        parts = attributes(each)
        skipped = {b"lookup\0": 4, b"dynset\0": 2}.get(parts[1])
        out += parts[1] + b"".join(m.attr(kind, data) for kind, _, data in reader.walk(parts[2]) if kind != skipped)
    return out


def _pairs(name: str, found: list[reader.Element]) -> list[tuple[bytes, bytes]]:
    if name != "service-cidrs":
        return [(each.key, each.rest) for each in found]
    seen = Observed()
    seen.take(name, found)
    return [(key, end) for (_, key), end in seen.elements.items()]


class IptablesKernel:
    """Tables, chains and rules. A table's part of the input is carried out whole; what it refers to must be there."""

    BUILTIN = {
        "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
        "filter": ("INPUT", "FORWARD", "OUTPUT"),
        "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    }

    def __init__(self) -> None:
        self.tables: Saved = {table: {chain: [] for chain in chains} for table, chains in self.BUILTIN.items()}

    def restore(self, text: str) -> None:
        chains: dict[str, list[str]] = {}
        for line in text.splitlines():
            words = line.split(" ")
            match line[:2]:
                case "-A":
                    chains[words[1]].append(line)
                case "-I":
                    chains[words[1]].insert(0, f"-A{line[2:]}")
                case "-D":
                    chains[words[1]].remove(f"-A{line[2:]}")
                case "-X":
                    assert not chains.pop(words[1]), f"{words[1]} is not empty"
                case "CO":
                    self._check(chains)
                case _ if line.startswith("*"):
                    chains = self.tables[line[1:]]
                case _ if line.startswith(":"):
                    chains[line[1:].split(" ")[0]] = []

    @staticmethod
    def _check(chains: dict[str, list[str]]) -> None:
        targets = {
            line.rpartition(" -j ")[2].split(" ")[0] for lines in chains.values() for line in lines if " -j " in line
        }
        missing = {name for name in targets if name.startswith("KUBE-") and name not in chains}
        assert not missing, f"rules lead to {missing}"

    def content(self) -> dict[tuple[str, str], Any]:
        """All of it; order means nothing in shared chains but at their end."""
        return {
            (table, chain): lines if chain.startswith(("KUBE-SVC", "KUBE-SVL", "KUBE-XLB", "KUBE-EXT-", "KUBE-FW")) else (sorted(lines), lines[-1:] if (table, chain) == ("nat", "KUBE-SERVICES") else [])
            for table, chains in self.tables.items()
            for chain, lines in chains.items()
        }  # fmt: skip
