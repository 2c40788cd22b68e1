"""A JSON object read key by key: each value of its type, nothing left unread. Errors name the key, as a user finds it in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Any

from glassnet.cni.errors import UNSUPPORTED_FIELD, ConfigError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_IFNAME_MAX = 15  # IFNAMSIZ less the end mark
_SHOWN = 80  # characters of a value that an error repeats


def wrong_interface(name: str) -> str:
    """What is wrong with an interface's name (dev_valid_name in the kernel's net/core/dev.c), in the reference library's words; "" for nothing."""
    if len(name.encode(errors="surrogateescape")) > _IFNAME_MAX:
        return "interface name is too long"
    if name in (".", ".."):
        return "interface name is . or .."
    if any(one in "/:\0" or one.isspace() for one in name):
        return "interface name contains / or : or whitespace characters"
    return "" if _writable(name) else "interface name is not UTF-8"


def shown(value: Any) -> str:
    """A value as an error repeats it: JSON, cut off where it gets long."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "brackets inside each other"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _writable(text: str) -> bool:
    """Whether a text can go to the kernel: no NUL, no half of a surrogate pair (JSON may have both)."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= one <= "\udfff" for one in text))


def read_address(text: str) -> Address:
    """An IP address, without a zone. Raises ValueError."""
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return ip_address(text)


def read_interface(text: str) -> IPv4Interface | IPv6Interface:
    """An address with a prefix length in digits (Python would take a netmask too). Raises ValueError."""
    address, _, length = text.partition("/")
    if not (length.isascii() and length.isdigit()) or "%" in address:
        raise ValueError(f"{text!r} does not appear to be an address with a prefix length")
    return ip_interface(text)


class Fields:
    """One object of a configuration; `where` leads to it from the top ("ipam", "ranges"). Null stands for an absent key, as in Go."""

    __slots__ = ("_asked", "_data", "where")

    def __init__(self, data: Mapping[str, Any], where: str = "") -> None:
        self._data, self.where = data, where
        self._asked: set[str] = set()

    def error(self, key: str, message: str) -> ConfigError:
        """An error about a key."""
        return ConfigError(f"{self.where}.{key}" if self.where and key else key or self.where, message)

    def raw(self, key: str) -> Any:
        """A value of whatever type; None when there is none."""
        self._asked.add(key)
        return self._data.get(key)

    def has(self, key: str) -> bool:
        """Whether the key is given."""
        return self.raw(key) is not None

    def text(self, key: str, default: str = "") -> str:
        """A string. Raises ConfigError, as all below do."""
        value = self.raw(key)
        if value is None:
            return default
        return self._checked(key, value)

    def _checked(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.error(key, f"{shown(value)}: want a string")
        if not _writable(value):
            raise self.error(key, f"{shown(value)}: want a string without NUL and of whole characters")
        return value

    def device(self, key: str, default: str) -> str:
        """The name of an interface, `default` for an absent or empty one."""
        name = self.text(key) or default
        if wrong := wrong_interface(name):
            raise self.error(key, f"{shown(name)}: {wrong}")
        return name

    def flag(self, key: str, default: bool = False) -> bool:
        """true or false."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"{shown(value)}: want true or false")
        return value

    def number(self, key: str, default: int = 0, low: int = 0, high: int = 2**31 - 1) -> int:
        """A whole number from `low` to `high`."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, f"{shown(value)}: want a whole number")
        if not low <= value <= high:
            raise self.error(key, f"{shown(value)}: want a number from {low} to {high}")
        return value

    def items(self, key: str) -> list[Any]:
        """A list of anything."""
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(key, f"{shown(value)}: want a list")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        return [self._checked(key, value) for value in self.items(key)]

    def table(self, key: str) -> Fields:
        """An object; an empty one when there is none."""
        value = self.raw(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, f"{shown(value)}: want an object")
        return Fields(value or {}, f"{self.where}.{key}" if self.where else key)

    def tables(self, key: str) -> list[Fields]:
        """A list of objects."""
        return [self.entry(key, value) for value in self.items(key)]

    def entry(self, key: str, value: Any) -> Fields:
        """An object out of a list under a key."""
        if not isinstance(value, dict):
            raise self.error(key, f"{shown(value)}: want an object")
        return Fields(value, f"{self.where}.{key}" if self.where else key)

    def address(self, key: str) -> Address | None:
        """An IP address."""
        text = self.text(key)
        try:
            return read_address(text) if text else None
        except ValueError:
            raise self.error(key, f"{shown(text)}: want an IP address") from None

    def network(self, key: str) -> Network | None:
        """A network such as 10.200.0.0/24: no bit may be set behind the prefix."""
        text = self.text(key)
        try:
            return read_interface(text).network if text and ip_network(text) else None
        except ValueError as error:
            raise self.error(
                key, f"{shown(text) if len(text) > _SHOWN else error}; want a network such as 10.200.0.0/24"
            ) from None

    def prefixed(self, key: str) -> str:
        """An address with its prefix length, such as 10.200.0.2/24, in the one way it is written; "" for none."""
        text = self.text(key)
        try:
            return str(read_interface(text)) if text else ""
        except ValueError:
            raise self.error(
                key, f"{shown(text)}: want an address with a prefix length, such as 10.200.0.2/24"
            ) from None

    def done(self) -> None:
        """Call it when every known key has been asked for: one that is left is none of ours. Keys with a "/" belong to others.

        Raises ConfigError (code 2) with the key, its value, and the key that may have been meant.
        """
        for key, value in self._data.items():
            if key in self._asked or "/" in key or key.startswith("_"):
                continue
            import difflib  # only who errs waits for it

            near = difflib.get_close_matches(key, self._asked, 1) if len(key) <= _SHOWN else ()
            hint = f'; did you mean "{near[0]}"?' if near else ""
            error = self.error(key[:_SHOWN], f"{shown(value)}: there is no such key{hint}")
            error.code = UNSUPPORTED_FIELD
            raise error
