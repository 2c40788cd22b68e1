"""The text that `nft list ruleset` prints, read to the objects that `nft -j list ruleset` prints: libnftables-json(5).

Rules stay text until they are asked for: a rule object has `text` and `line` in place of `expr`, and `parse_rule(text, family)` gives what
`expr` would hold. Everything else, the elements of sets and maps too, is read at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from glassnet.net.errors import ParseError
from glassnet.ruleset import nft_elements as elements
from glassnet.ruleset import nft_grammar as grammar
from glassnet.ruleset.nft_lexer import NotUnderstoodError, Tokens, milliseconds, seconds, unquote
from glassnet.ruleset.nft_statements import parse_rule, split_tail, synproxy_options

Json = Any
Object = dict[str, Json]

__all__ = ["parse_nft_text", "parse_rule"]

FAMILIES = frozenset({"ip", "ip6", "inet", "arp", "bridge", "netdev"})
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_BRIDGE_PRIORITIES = {"dstnat": -300, "filter": -200, "out": 100, "srcnat": 300}
_SPECIAL = re.compile(r'"[^"]*"|[{};#"]')
_PRIORITY = re.compile(r"(?P<name>[a-z]+)?\s*(?P<sign>[+-])?\s*(?P<number>[0-9]{1,10})?")
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_HANDLE = re.compile(r"#\s*handle\s+([0-9]{1,18})\s*$")
_BYTES = {"bytes": 1, "kbytes": 1024, "mbytes": 1024 * 1024}


def parse_nft_text(text: str, source: str = "") -> list[Object]:
    """The objects of a listing, in its order; ParseError for text that is no listing.

    Tables, chains, sets with their elements and the other objects are in the form of libnftables-json(5). A rule has `text` (the line as
    printed, without its handle), `line`, and where printed `handle` and `comment`; `parse_rule` gives its statements. An object with a line
    that was not understood has `unknown`, a list of `{"text", "reason", "line"}`; where that line was its elements, it has no `elem`. Equal
    parts may be one object: do not change them.
    """
    return _Reader(text, source).ruleset()


class _Reader:
    """Lines of a listing, and the objects found so far."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        junk = _NOT_TEXT.search(text)
        if junk:
            line = text.count("\n", 0, junk.start()) + 1
            raise ParseError(f"not text: byte {ord(junk[0])}", source, line)
        self.lines = text.split("\n")
        self.line = 0  # lines read so far: the number of the current one
        self.rest = ""  # what follows on the current line
        self.out: list[Object] = []

    def fail(self, message: str, line: int = 0) -> ParseError:
        return ParseError(message, self.source, line or min(self.line, len(self.lines)), 0)

    # ---- items: what ends with a line, a semicolon, or a brace that opens a block

    def items(self, closed: bool, blocks: bool) -> Iterator[tuple[int, str, str]]:
        """(line, text, comment behind it) of each item up to the brace that closes this block.

        With `blocks` an item ends at the `{` that opens it, and has it at its end; without, braces are part of an item. `closed` tells
        that a closing brace is due.
        """
        opened = self.line
        while True:
            if self.rest:
                text, self.rest = self.rest, ""
            elif self.line < len(self.lines):
                text = self.lines[self.line].strip()
                self.line += 1
            else:
                break
            if not text:
                continue
            if text == "}":
                if not closed:
                    raise self.fail("a closing brace too many")
                return
            line = self.line
            item, note = self._item(text, blocks)
            if item == "}":
                if not closed:
                    raise self.fail("a closing brace too many")
                return
            if item:
                yield line, item, note
        if closed:
            raise self.fail("the text ends inside a block", opened)

    def _item(self, text: str, blocks: bool) -> tuple[str, str]:
        """The first item of the text, with more lines while braces are open; the rest of the line is kept."""
        if "{" not in text and '"' not in text and "#" not in text and ";" not in text and "}" not in text:
            return text, ""
        parts: list[str] = []
        depth = 0
        opened = self.line
        while True:
            end, mark, depth = self._scan(text, blocks, depth)
            if mark == "#":
                parts.append(text[:end])
                return "\n".join(parts).strip(), text[end:]
            if mark == "{":
                self.rest = text[end + 1 :].strip()
                note = ""
                if self.rest[:1] == "#":
                    note, self.rest = self.rest, ""
                return text[: end + 1], note
            if mark == ";":
                parts.append(text[:end])
                self.rest = text[end + 1 :].strip()
                return "\n".join(parts).strip(), ""
            if mark == "}":
                before = text[:end].strip()
                if before:
                    parts.append(before)
                    self.rest = text[end:]
                    return "\n".join(parts).strip(), ""
                self.rest = text[end + 1 :].strip()
                return "}", ""
            parts.append(text[:end].rstrip())
            if depth <= 0:
                return "\n".join(parts).strip(), ""
            if self.line >= len(self.lines):
                raise self.fail("the text ends inside braces", opened)
            text = self.lines[self.line].strip()
            self.line += 1

    def _scan(self, text: str, blocks: bool, depth: int) -> tuple[int, str, int]:
        """Where an item ends in a line, by which mark ("" when it goes on to the line's end), and how many braces are open then."""
        if depth and '"' not in text and "#" not in text and "}" not in text and "{" not in text:
            return len(text), "", depth
        for match in _SPECIAL.finditer(text):
            mark = match[0]
            if mark == '"':
                raise self.fail("a quotation mark without its other one")
            if mark == "{":
                if blocks:
                    return match.start(), mark, depth
                depth += 1
            elif mark == "}":
                if depth == 0:
                    return match.start(), mark, depth
                depth -= 1
            elif mark == ";" and depth == 0:
                return match.start(), mark, depth
            elif mark == "#" and not text.startswith(("xt_", " xt_"), match.end()):
                return match.start(), "" if depth else mark, depth
        return len(text), "", depth

    # ---- tables and what they hold

    def ruleset(self) -> list[Object]:
        """All tables."""
        for line, item, note in self.items(closed=False, blocks=True):
            words = item.removesuffix("{").split()
            if item[-1] == "{" and words[:1] == ["table"] and len(words) in (2, 3):
                self._table(words[1:], note)
            elif words[:1] != ["include"]:
                raise self.fail(f"a table was expected, not {item[:60]!r}", line)
        return self.out

    def _table(self, words: list[str], note: str) -> None:
        family = words[0] if len(words) == 2 else "ip"
        if family not in FAMILIES:
            raise self.fail(f"unknown family {family[:40]!r}")
        table: Object = {"family": family, "name": unquote(words[-1]), **_handle(note)}
        self.out.append({"table": table})
        for line, item, note in self.items(closed=True, blocks=True):
            words = item.removesuffix("{").split()
            if item[-1] == "{":
                self._block(table, line, words, note)
            elif words[0] == "flags":
                flags = _flags(item)
                table["flags"] = flags[0] if len(flags) == 1 else flags
            elif words[0] == "comment":
                table["comment"] = _comment(item)
            else:
                raise self.fail(f"unknown in a table: {item[:60]!r}", line)

    def _block(self, table: Object, line: int, words: list[str], note: str) -> None:
        """One object of a table."""
        kind = " ".join(words[:-1])
        found: Object = {
            "family": table["family"],
            "table": table["name"],
            "name": unquote(words[-1]) if words else "",
            **_handle(note),
        }
        if kind == "chain":
            self._chain(found)
            return
        reader = _OBJECTS.get(kind)
        if kind not in ("set", "map") and reader is None:
            raise self.fail(f"unknown object {' '.join(words)[:60]!r}", line)
        self.out.append({kind: found})
        for line, item, _ in self.items(closed=True, blocks=False):
            try:
                if item.startswith("comment "):
                    found["comment"] = _comment(item)
                elif reader is None:
                    self._set_item(found, kind, item)
                else:
                    reader(found, item)
            except NotUnderstoodError as error:
                found.setdefault("unknown", []).append({"text": item[:200], "reason": str(error), "line": line})
        if kind == "flowtable" and len(found.get("dev", ())) == 1:
            found["dev"] = found["dev"][0]

    def _set_item(self, found: Object, kind: str, item: str) -> None:
        if item.startswith("elements"):
            body = item.partition("{")[2].rstrip()
            data = found.get("map") if kind == "map" else None
            found["elem"] = elements.read(body[:-1] if body.endswith("}") else body, found.get("type", ""), data)
        else:
            elements.describe(found, item)

    def _chain(self, found: Object) -> None:
        chain = {
            "family": found["family"],
            "table": found["table"],
            **{k: v for k, v in found.items() if k not in ("family", "table")},
        }
        self.out.append({"chain": chain})
        family, table, name = chain["family"], chain["table"], chain["name"]
        for line, item, note in self.items(closed=True, blocks=False):
            if item.startswith("type ") and " hook " in item:
                self._base(chain, item)
                continue
            if item.startswith("policy ") and len(item.split()) == 2:
                chain["policy"] = item.split()[1]
                continue
            if item.startswith('comment "') and item.count('"') == 2:
                chain["comment"] = _comment(item)
                continue
            rule: Object = {"family": family, "table": table, "chain": name, **_handle(note)}
            if "\n" in item:
                item = " ".join(item.split("\n"))
            if item[-1] == '"':
                comment = split_tail(item)[1]
                if comment is not None:
                    rule["comment"] = comment
            rule["text"], rule["line"] = item, line
            self.out.append({"rule": rule})

    def _base(self, chain: Object, item: str) -> None:
        """`type filter hook forward priority filter - 10`, with `device` or `devices` before the priority."""
        head, found, priority = item.partition(" priority ")
        words = head.replace("{", " ").replace("}", " ").replace(",", " ").replace("=", " ").split()
        if not found or len(words) < 4 or words[2] != "hook":
            raise self.fail(f"a hook was expected in {item[:60]!r}")
        chain["type"], chain["hook"] = words[1], words[3]
        if len(words) > 5 and words[4] in ("device", "devices"):
            devices = [unquote(word) for word in words[5:]]
            chain["dev"] = devices[0] if len(devices) == 1 else devices
        try:
            chain["prio"] = _priority(priority, chain["family"])
        except NotUnderstoodError as error:
            raise self.fail(str(error)) from None
        chain.setdefault("policy", "accept")


def _priority(text: str, family: str) -> int:
    match = _PRIORITY.fullmatch(text.strip())
    names = _BRIDGE_PRIORITIES if family == "bridge" else _PRIORITIES
    name = match["name"] or "" if match else "?"
    if not match or (name and name not in names) or not (name or match["number"]):
        raise NotUnderstoodError(f"unknown priority {text[:40]!r}")
    offset = int(match["number"] or 0)
    return names.get(name, 0) + (-offset if match["sign"] == "-" else offset)


def _handle(note: str) -> Object:
    match = _HANDLE.match(note) if note else None
    return {"handle": int(match[1])} if match else {}


def _comment(item: str) -> str:
    return unquote(item[len("comment ") :].strip())


def _flags(item: str) -> list[str]:
    return [flag.strip() for flag in item.partition(" ")[2].split(",") if flag.strip()]


# ---- other objects, one item of their block at a time


def _counter(found: Object, item: str) -> None:
    tokens = Tokens(item)
    tokens.expect("packets")
    found["packets"] = tokens.integer()
    tokens.expect("bytes")
    found["bytes"] = tokens.integer()


def _quota(found: Object, item: str) -> None:
    said = grammar.quota(Tokens(item))
    found["bytes"] = said["val"] * _BYTES[said["val_unit"]]
    found["used"] = said.get("used", 0) * _BYTES[said.get("used_unit", "bytes")]
    found["inv"] = said.get("inv", False)


def _limit(found: Object, item: str) -> None:
    found.update(grammar.limit(Tokens(item)))


def _ct_helper(found: Object, item: str) -> None:
    words = item.split()
    for key, word in zip(words[::2], words[1::2], strict=False):
        if key not in ("type", "protocol", "l3proto"):
            raise NotUnderstoodError(f"unknown word {key!r}")
        found[key] = unquote(word)


def _ct_timeout(found: Object, item: str) -> None:
    if not item.startswith("policy"):
        _ct_helper(found, item)
        return
    policy = {}
    for part in item.partition("{")[2].replace("}", " ").split(","):
        state, colon, duration = part.partition(":")
        if not colon:
            raise NotUnderstoodError("a policy was expected")
        policy[state.strip()] = seconds(duration.strip())
    found["policy"] = policy


def _ct_expectation(found: Object, item: str) -> None:
    words = item.split()
    if words[0] == "timeout" and len(words) == 2:
        found["timeout"] = milliseconds(words[1])
    elif words[0] in ("size", "dport") and len(words) == 2:
        found[words[0]] = Tokens(words[1]).integer()
    else:
        _ct_helper(found, item)


def _synproxy(found: Object, item: str) -> None:
    flags = found.get("flags", [])
    found.update(synproxy_options(Tokens(item)))
    if flags and found["flags"] != flags:
        found["flags"] = [*flags, *found["flags"]]


def _secmark(found: Object, item: str) -> None:
    found["context"] = unquote(item)


def _tunnel(found: Object, item: str) -> None:
    raise NotUnderstoodError("tunnels are not read")


def _flowtable(found: Object, item: str) -> None:
    words = item.replace("{", " ").replace("}", " ").replace(",", " ").replace("=", " ").split()
    if words[0] == "hook" and len(words) > 3 and words[2] == "priority":
        found["hook"] = words[1]
        found["prio"] = _priority(" ".join(words[3:]), "")
    elif words[0] == "devices":
        found["dev"] = [unquote(word) for word in words[1:]]
    elif words[0] not in ("flags", "counter"):
        raise NotUnderstoodError(f"unknown word {words[0]!r}")


_OBJECTS: dict[str, Callable[[Object, str], None]] = {
    "counter": _counter, "quota": _quota, "limit": _limit, "ct helper": _ct_helper, "ct timeout": _ct_timeout,
    "ct expectation": _ct_expectation, "synproxy": _synproxy, "secmark": _secmark, "flowtable": _flowtable, "tunnel": _tunnel,
}  # fmt: skip
