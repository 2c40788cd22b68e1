"""A JSON object read key by key: each value of its type, nothing left unread. Errors name the key, as a user finds it in the file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from glassnet.cni.errors import UNSUPPORTED_FIELD, ConfigError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


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
        if not isinstance(value, str):
            raise self.error(key, f"{json.dumps(value)}: want a string")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """true or false."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"{json.dumps(value)}: want true or false")
        return value

    def number(self, key: str, default: int = 0, low: int = 0, high: int = 2**31 - 1) -> int:
        """A whole number from `low` to `high`."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, f"{json.dumps(value)}: want a whole number")
        if not low <= value <= high:
            raise self.error(key, f"{value}: want a number from {low} to {high}")
        return value

    def items(self, key: str) -> list[Any]:
        """A list of anything."""
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(key, f"{json.dumps(value)}: want a list")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        found = self.items(key)
        for value in found:
            if not isinstance(value, str):
                raise self.error(key, f"{json.dumps(value)}: want a string")
        return found

    def table(self, key: str) -> Fields:
        """An object; an empty one when there is none."""
        value = self.raw(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, f"{json.dumps(value)}: want an object")
        return Fields(value or {}, f"{self.where}.{key}" if self.where else key)

    def tables(self, key: str) -> list[Fields]:
        """A list of objects."""
        return [self.entry(key, value) for value in self.items(key)]

    def entry(self, key: str, value: Any) -> Fields:
        """An object out of a list under a key."""
        if not isinstance(value, dict):
            raise self.error(key, f"{json.dumps(value)}: want an object")
        return Fields(value, f"{self.where}.{key}" if self.where else key)

    def address(self, key: str) -> Address | None:
        """An IP address."""
        text = self.text(key)
        try:
            return ip_address(text) if text else None
        except ValueError:
            raise self.error(key, f"{text!r}: want an IP address") from None

    def network(self, key: str, strict: bool = True) -> Network | None:
        """A network such as 10.200.0.0/24; with `strict` no bit may be set behind the prefix."""
        text = self.text(key)
        try:
            return ip_network(text, strict) if text else None
        except ValueError as error:
            raise self.error(key, f"{error}; want a network such as 10.200.0.0/24") from None

    def done(self) -> None:
        """Call it when every known key has been asked for: one that is left is none of ours. Keys with a "/" belong to others.

        Raises ConfigError (code 2) with the key, its value, and the key that may have been meant.
        """
        for key, value in self._data.items():
            if key in self._asked or "/" in key or key.startswith("_"):
                continue
            near = difflib.get_close_matches(key, self._asked, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            error = self.error(key, f"{json.dumps(value)}: there is no such key{hint}")
            error.code = UNSUPPORTED_FIELD
            raise error
