"""Coverage-guided fuzzing of everything that reads a dump: only ParseError may leave a parser.

`python -m tests.fuzz_parsers --seconds 60` mutates real dumps, keeps what reaches new lines of the parsers, and stops at the first other
error with the input that caused it (in hexadecimal, fit for a regression test).
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from tests.tracer_worlds import CAPTURES, capture_files

from glassnet.net.errors import ParseError
from glassnet.netstack import parse_conntrack, parse_ip
from glassnet.netstack.namespace import NetStack
from glassnet.ruleset import nft_text, parse_ipset, parse_iptables, parse_nft
from glassnet.tracer.evaluate.nft_rules import Compiled as NftCompiled
from glassnet.tracer.evaluate.xt_rules import Compiled as XtCompiled

_TOKENS = [
    b"*nat", b"COMMIT", b"-A ", b" -j ", b" ! ", b"--", b"{", b"}", b"[", b"]", b'"', b"\\", b"\n", b"\0", b"/33", b":", b",", b"4294967296", b"-1",
    b"elements = {", b"map", b"vmap", b"@", b"src=", b"dport=", b"null", b"1e999", b"\xff\xfe", b"::/129", b"table ip t {", b"chain c {", b". ",
]  # fmt: skip


def _iptables(data: bytes) -> None:
    for table in parse_iptables.parse_iptables(data.decode("utf-8", "replace"), "f"):
        for chain in table.chains.values():
            for rule in chain.rules():
                XtCompiled(rule)


def _nft_json(data: bytes) -> None:
    _nft(parse_nft.parse_nft_json(data, "f"))


def _nft_text(data: bytes) -> None:
    _nft(parse_nft.parse_nft_text(data.decode("utf-8", "replace"), "f"))


def _nft(tables: list[Any]) -> None:
    for table in tables:
        for chain in table.chains.values():
            for rule in chain.rules():
                NftCompiled(rule)


def _ip(part: str) -> Callable[[bytes], None]:
    return lambda data: parse_ip.add_part(NetStack(), part, data, "f")


def _text(function: Callable[[str, str], Any]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        function(data.decode("utf-8", "replace"), "f")

    return run


IPSET = b"create a hash:ip,port family inet\nadd a 10.0.0.1,tcp:80-90 timeout 5\ncreate b list:set size 8\nadd b a\ncreate c hash:net family inet6\nadd c fd00::/64 nomatch\n"


def _pieces(data: bytes, size: int = 3000) -> list[bytes]:
    """The start of a dump, and a piece out of its middle: small inputs are tried more often."""
    return [data[:size], data[len(data) // 2 : len(data) // 2 + size // 2]]


def targets() -> dict[str, tuple[Callable[[bytes], None], list[bytes]]]:
    """Parser -> (how to call it, inputs to start from)."""
    files, nft = capture_files(CAPTURES[0]), capture_files(CAPTURES[2])
    node = "worker-0/"
    parts = {"addr": "ip-addr.json", "route": "ip-route.json", "rule": "ip-rule.json", "neigh": "ip-neigh.json", "bridge-link": "bridge-link.json",
             "bridge-fdb": "bridge-fdb.json", "sysctl": "sysctl-net.txt", "listen": "ss-listen.txt"}  # fmt: skip
    found = {part: (_ip(part), [files[node + name], *_pieces(files[node + name])]) for part, name in parts.items()}
    found["iptables"] = (_iptables, [files[node + "iptables-save.txt"][:6000] + b"\nCOMMIT\n"])
    found["nft-json"] = (_nft_json, [nft[node + "nft-ruleset.json"][:8000], nft[node + "nft-ruleset.json"]])
    found["nft-text"] = (_nft_text, [nft[node + "nft-ruleset.nft"][:6000], nft[node + "nft-ruleset.nft"]])
    found["ipset"] = (_text(parse_ipset.parse_ipset), [IPSET])
    found["conntrack"] = (_text(parse_conntrack.parse_conntrack), _pieces(files[node + "conntrack.txt"]))
    return found


class Coverage:
    """Lines of the parsers' modules that a call reached."""

    def __init__(self) -> None:
        modules = (parse_iptables, parse_nft, parse_ip, parse_ipset, parse_conntrack, nft_text)
        self._files = {module.__file__ for module in modules}
        self.seen: set[tuple[str, int]] = set()
        self._new = False

    def run(self, call: Callable[[bytes], None], data: bytes) -> bool:
        """Call a parser; True when it reached lines nothing reached before."""
        self._new = False
        sys.settrace(self._trace)
        try:
            call(data)
        finally:
            sys.settrace(None)
        return self._new

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        place = (frame.f_code.co_filename, frame.f_lineno)
        if place not in self.seen:
            self.seen.add(place)
            self._new = True
        return self._trace


def mutations(corpus: list[bytes], chance: random.Random) -> Iterator[bytes]:
    """Inputs made from those that were of use so far."""
    while True:
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(data) + 1)
            match chance.randrange(6):
                case 0:
                    data = data[:place]
                case 1:
                    del data[place : place + chance.randint(1, 40)]
                case 2:
                    data[place:place] = chance.choice(_TOKENS)
                case 3:
                    other = chance.choice(corpus)
                    start = chance.randrange(len(other) + 1)
                    data[place:place] = other[start : start + chance.randint(1, 80)]
                case 4 if data:
                    data[chance.randrange(len(data))] = chance.randrange(256)
                case _:
                    data[place : place + 20] = data[place : place + 20] * 2
        yield bytes(data)


def fuzz(seed: int, runs: int, deadline: float, names: list[str]) -> dict[str, tuple[int, int]]:
    """parser -> (inputs tried, inputs that reached something new). Raises AssertionError for an error other than ParseError."""
    chance = random.Random(seed)
    found: dict[str, tuple[int, int]] = {}
    for name, (call, corpus) in targets().items():
        if names and name not in names:
            continue
        coverage, kept, tried = Coverage(), list(corpus), 0
        share = time.monotonic() + (deadline - time.monotonic()) / max(1, len(targets()) - len(found))
        for data in itertools.chain(corpus, itertools.islice(mutations(kept, chance), runs)):
            if time.monotonic() > share:
                break
            tried += 1
            try:
                new = coverage.run(call, data)
            except ParseError:
                new = coverage._new
            except Exception as error:
                raise AssertionError(f"{name}: {type(error).__name__}: {error}\ninput: {data[:300].hex()}") from error
            if new and len(data) < 20_000:
                kept.append(data)
        found[name] = (tried, len(kept) - len(corpus))
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Coverage-guided fuzzing of the parsers.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("parsers", nargs="*")
    words = parser.parse_args()
    print(f"seed {words.seed}")
    for name, (tried, kept) in fuzz(words.seed, 10_000_000, time.monotonic() + words.seconds, words.parsers).items():
        print(f"{name:12} {tried:8} inputs, {kept} of them reached new lines")


if __name__ == "__main__":
    main()
