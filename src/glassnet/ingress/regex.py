"""Regular expressions in paths: those that PCRE and Python read alike.

NGINX compiles them with PCRE, and a bad one would stop the whole configuration; `explain` runs them with Python's `re`. So only what both
have, with the same meaning, is taken (pcre2pattern(3), re): literals, classes, groups, look-ahead, repetition, alternation, anchors.
Named groups are refused: NGINX makes variables of them.
"""

from __future__ import annotations

import re
from functools import lru_cache

from glassnet.net.errors import UsageError

MOST_REPEATS = 1000
"""Limit of {n,m}, nested ones multiplied: a longer one makes PCRE refuse the pattern, or take very long over it."""
MOST_GROUPS = 50
_SHORT = "dDwWsS"
_META = set("\\^$.|?*+()[]{}")
_POSIX = ("alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "xdigit")
_POSIX_PYTHON = {
    "alnum": "a-zA-Z0-9", "alpha": "a-zA-Z", "blank": r" \t", "cntrl": r"\x00-\x1f\x7f", "digit": "0-9", "graph": r"\x21-\x7e",
    "lower": "a-z", "print": r"\x20-\x7e", "punct": r"!-/:-@\[-`{-~", "space": r"\s", "upper": "A-Z", "xdigit": "0-9A-Fa-f",
}  # fmt: skip
_BRACES = re.compile(r"\{([0-9]{1,4})(,([0-9]{0,4}))?\}")
_FLAGS = re.compile(r"/?\(\?([is]+)\)")


class BadRegex(UsageError):
    """A regular expression that NGINX would not take, or that we do not."""


class _Reader:
    """Reads a pattern once; `python` collects what Python's `re` is to have."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.groups, self.closed = text, 0, 0, 0
        self.python: list[str] = []

    def bad(self, why: str) -> BadRegex:
        return BadRegex(f"regular expression {self.text[:80]!r}, character {self.at + 1}: {why}")

    def sees(self, text: str) -> bool:
        return self.text.startswith(text, self.at)

    def take(self, length: int = 1) -> str:
        got = self.text[self.at : self.at + length]
        self.at += length
        return got

    def alternatives(self, depth: int, repeats: int) -> None:
        """Up to the end or the closing bracket."""
        if depth > 20:
            raise self.bad("groups are nested too deep")
        while self.at < len(self.text) and not self.sees(")"):
            if self.sees("|"):
                self.python.append(self.take())
            else:
                self.piece(depth, repeats)

    def piece(self, depth: int, repeats: int) -> None:
        """One atom and its quantifier. The atom is read again with the count of what it is repeated by, hence the look ahead."""
        start, mark, groups, closed = self.at, len(self.python), self.groups, self.closed
        repeatable = self.atom(depth, repeats)
        quantifier, most = self.quantifier()
        if not quantifier:
            return
        if not repeatable:
            self.at = start
            raise self.bad("there is nothing that could be repeated")
        if most * repeats > MOST_REPEATS:
            raise self.bad(f"more than {MOST_REPEATS} repetitions")
        if most > 1:
            end = self.at
            self.at, self.groups, self.closed = start, groups, closed
            del self.python[mark:]
            self.atom(depth, repeats * most)
            self.at = end
        self.python.append(quantifier)

    def quantifier(self) -> tuple[str, int]:
        """The quantifier here with `?` or `+` behind, and its limit (1 for those without one)."""
        match = _BRACES.match(self.text, self.at)
        most = 1
        if match:
            low, high = int(match[1]), int(match[3] or match[1])
            if high < low:
                raise self.bad("the limits of the repetition are in the wrong order")
            most = max(low, high, 1)
            got = self.take(len(match[0]))
        elif self.at < len(self.text) and self.text[self.at] in "*+?":
            got = self.take()
        else:
            return "", 1
        if self.at < len(self.text) and self.text[self.at] in "?+":
            got += self.take()
        return got, most

    def atom(self, depth: int, repeats: int) -> bool:
        """One atom; whether it may be repeated."""
        char = self.text[self.at]
        if char == "(":
            return self.group(depth, repeats)
        if char == "[":
            self.charset()
        elif char == "\\":
            return self.escape()
        elif char in "^$":
            self.python.append({"^": r"\A", "$": r"(?=\n?\Z)"}[self.take()])
            return False
        elif char in "*+?{":
            raise self.bad("there is nothing that could be repeated" if char != "{" else "a literal { is written \\{")
        elif char in "]}":
            raise self.bad(f"a literal {char} is written \\{char}")
        elif not " " <= char <= "~":
            raise self.bad("only printable ASCII; octets of others are written \\xHH")
        else:
            self.python.append("[^\\n]" if char == "." and not self.dotall else "." if char == "." else re.escape(char))
            self.take()
        return True

    dotall = False

    def group(self, depth: int, repeats: int) -> bool:
        """A group; look-ahead is not to be repeated."""
        opening = next((each for each in ("(?:", "(?=", "(?!", "(?>", "(?i:") if self.sees(each)), "(")
        if opening == "(" and (self.sees("(?") or self.sees("(*")):
            raise self.bad(
                "of the groups with ? only (?:…), (?=…), (?!…), (?>…) and (?i:…) are taken, and (?i) after the first slash"
            )
        self.python.append(self.take(len(opening)))
        number = 0
        if opening == "(":
            self.groups += 1
            if self.groups > MOST_GROUPS:
                raise self.bad(f"more than {MOST_GROUPS} groups")
            number = self.groups
        self.alternatives(depth + 1, repeats)
        if not self.sees(")"):
            raise self.bad("a group is not closed")
        self.python.append(self.take())
        self.closed = max(self.closed, number)
        return opening not in ("(?=", "(?!")

    def escape(self) -> bool:
        """An escape outside of a class; assertions are not to be repeated."""
        self.take()
        if self.at >= len(self.text):
            raise self.bad("a backslash at the end")
        char = self.text[self.at]
        if char in "bB":
            self.python.append("\\" + self.take())
            return False
        if char in "AzZ":
            self.python.append({"A": r"\A", "z": r"\Z", "Z": r"(?=\n?\Z)"}[self.take()])
            return False
        if char in _SHORT:
            self.python.append("\\" + self.take())
            return True
        if char in "123456789":
            raise self.bad("references to groups are not taken")
        self.python.append(re.escape(self.character()))
        return True

    def character(self) -> str:
        """The character that an escape (after its backslash) stands for."""
        char = self.take()
        if char == "x":
            digits = self.take(2)
            if not re.fullmatch("[0-9A-Fa-f]{2}", digits) or digits == "00":
                raise self.bad("\\x takes two digits, and not 00")
            return chr(int(digits, 16))
        if char in "tnrf":
            return {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}[char]
        if char.isalnum() or not " " <= char <= "~":
            raise self.bad(f"\\{char} is not taken")
        return char

    def charset(self) -> None:
        """A class in square brackets."""
        self.take()
        self.python.append("[")
        if self.sees("^"):
            self.python.append(self.take())
        first = True
        while first or not self.sees("]"):
            if self.at >= len(self.text) or (first and self.sees("]")):
                raise self.bad("a class is empty or not closed")
            first = False
            low = self.member()
            if not self.sees("-") or self.text[self.at + 1 : self.at + 2] in ("]", ""):
                continue
            self.take()
            self.python.append("-")
            high = self.member()
            if not low or not high or ord(low) > ord(high):
                raise self.bad("the ends of a range are in the wrong order, or are no characters")
        self.take()
        self.python.append("]")

    def member(self) -> str:
        """One member of a class: its character, "" when it is a set of them."""
        posix = re.compile(r"\[:(\^?)([a-z]+):\]").match(self.text, self.at)
        if posix:
            if posix[1] or posix[2] not in _POSIX:
                raise self.bad(f"{posix[0]} is not taken")
            self.at = posix.end()
            self.python.append(_POSIX_PYTHON[posix[2]])
            return ""
        if self.text[self.at : self.at + 2] in ("[:", "[.", "[="):
            raise self.bad("a literal [ is written \\[")
        if self.sees("\\"):
            self.take()
            if self.at >= len(self.text):
                raise self.bad("a backslash at the end")
            if self.text[self.at] in _SHORT:
                self.python.append("\\" + self.take())
                return ""
            char = self.character()
        else:
            char = self.take()
            if not " " <= char <= "~":
                raise self.bad("only printable ASCII; octets of others are written \\xHH")
        self.python.append(f"\\x{ord(char):02x}")
        return char


@lru_cache(4096)
def python(pattern: str) -> re.Pattern[str]:
    """The pattern for Python, anchored at the start as NGINX has it; for a path's octets as Latin-1 text. Raises BadRegex."""
    flags = _FLAGS.match(pattern)
    reader = _Reader(pattern)
    if flags:
        reader.at = flags.end()
        reader.python += "/" if pattern[0] == "/" else ""
        reader.dotall = "s" in flags[1]
    reader.alternatives(0, 1)
    if reader.at < len(pattern):
        raise reader.bad("a closing bracket without an opening one")
    options = re.ASCII | re.DOTALL
    if flags and "i" in flags[1]:
        options |= re.IGNORECASE
    try:
        return re.compile(rf"\A(?:{''.join(reader.python)})", options)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadRegex(f"regular expression {pattern[:80]!r}: {error}") from error


def check(path: str) -> None:
    """Raises BadRegex unless the path, "/" and then a pattern, is one that NGINX takes."""
    python(path)


def groups(pattern: str) -> int:
    """How many groups it has."""
    return python(pattern).groups


def anchored(pattern: str) -> str:
    """The pattern as NGINX is to have it: from the start of the path on, which is a slash."""
    return f"^(?=/)(?:{pattern})" if _alternatives(pattern) else f"^(?:{pattern})"


def literal(pattern: str) -> str:
    """The text that everything the pattern matches begins with, as far as it is plain to see; "" when it is not."""
    if _FLAGS.match(pattern) or _alternatives(pattern):
        return ""
    found: list[str] = []
    for char in pattern:
        if char in _META:
            if char in "?*{" and found:
                found.pop()
            break
        found.append(char)
    return "".join(found)


_TOKENS = re.compile(r"\\.|\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]|.", re.DOTALL)


@lru_cache(4096)
def _alternatives(pattern: str) -> bool:
    """Whether there is a | outside of all groups."""
    depth = 0
    for token in _TOKENS.findall(pattern):
        if token == "|" and not depth:
            return True
        depth += (token == "(") - (token == ")")
    return False
