"""Objects read key by key: types, the words of errors, nothing left unread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from glassnet.cni.errors import ConfigError
from glassnet.cni.fields import Fields, shown, wrong_interface


def refused(data: dict[str, Any], read: Callable[[Fields], Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(Fields(data, "ipam"))
    return caught.value


@pytest.mark.parametrize(
    ("value", "read", "words"),
    [
        (5, lambda f: f.text("k"), "5: want a string"),
        ("a\0", lambda f: f.text("k"), '"a\\u0000": want a string without NUL and of whole characters'),
        ("\ud800", lambda f: f.text("k"), '"\\ud800": want a string without NUL and of whole characters'),
        (["a", "\0"], lambda f: f.texts("k"), '"\\u0000": want a string without NUL and of whole characters'),
        ("yes", lambda f: f.flag("k"), '"yes": want true or false'),
        (1, lambda f: f.flag("k"), "1: want true or false"),
        ("7", lambda f: f.number("k"), '"7": want a whole number'),
        (True, lambda f: f.number("k"), "true: want a whole number"),
        (1.5, lambda f: f.number("k"), "1.5: want a whole number"),
        (float("inf"), lambda f: f.number("k"), "Infinity: want a whole number"),
        (-1, lambda f: f.number("k", high=9), "-1: want a number from 0 to 9"),
        (1e300, lambda f: f.number("k", high=9), "want a number from 0 to 9"),
        ({}, lambda f: f.items("k"), "{}: want a list"),
        ([5], lambda f: f.texts("k"), "5: want a string"),
        ([], lambda f: f.table("k"), "[]: want an object"),
        (["x"], lambda f: f.tables("k"), '"x": want an object'),
        ("10.0.0.256", lambda f: f.address("k"), '"10.0.0.256": want an IP address'),
        ("fe80::1%eth0", lambda f: f.address("k"), '"fe80::1%eth0": want an IP address'),
        ("10.0.0.1/24", lambda f: f.network("k"), "has host bits set; want a network such as 10.200.0.0/24"),
        ("10.0.0.0", lambda f: f.network("k"), "want a network such as 10.200.0.0/24"),
        ("10.0.0.0/255.255.255.0", lambda f: f.network("k"), "want a network such as 10.200.0.0/24"),
        ("10.0.0.0/٢", lambda f: f.network("k"), "want a network such as 10.200.0.0/24"),
        ("10.0.0.1", lambda f: f.prefixed("k"), '"10.0.0.1": want an address with a prefix length'),
        ("fe80::1%1/64", lambda f: f.prefixed("k"), "want an address with a prefix length"),
        ("a b", lambda f: f.device("k", "d"), '"a b": interface name contains / or : or whitespace characters'),
        ("x" * 300, lambda f: f.address("k"), "…: want an IP address"),
    ],
)  # fmt: skip
def test_wrong_values(value: Any, read: Callable[[Fields], Any], words: str) -> None:
    error = refused({"k": value}, read)
    assert error.code == 7 and error.key == "ipam.k" and words in error.message and len(error.message) < 300


def test_right_values() -> None:
    fields = Fields(
        {"a": "x", "b": True, "c": 5.0, "d": ["x"], "e": "FD00::0001", "f": "10.0.0.0/8", "g": "FD00::1/064", "h": {}}
    )
    assert (fields.text("a"), fields.flag("b"), fields.number("c"), fields.texts("d")) == ("x", True, 5, ["x"])
    assert (str(fields.address("e")), str(fields.network("f")), fields.prefixed("g")) == (
        "fd00::1",
        "10.0.0.0/8",
        "fd00::1/64",
    )
    assert not fields.table("h").has("x")
    fields.done()


def test_null_is_an_absent_key() -> None:
    fields = Fields(dict.fromkeys("abcdefgh"))
    assert (fields.text("a", "d"), fields.flag("b", True), fields.number("c", 4), fields.items("d")) == (
        "d",
        True,
        4,
        [],
    )
    assert (fields.address("e"), fields.network("f"), fields.prefixed("g"), fields.tables("h")) == (None, None, "", [])


def test_unknown_keys_have_code_2_and_a_hint() -> None:
    fields = Fields({"isGatway": True, "_note": 1, "cni.dev/x": 2}, "")
    fields.flag("isGateway")
    with pytest.raises(ConfigError) as caught:
        fields.done()
    assert caught.value.code == 2
    assert str(caught.value) == '"isGatway": true: there is no such key; did you mean "isGateway"?'


def test_long_unknown_keys_and_values_are_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        Fields({"k" * 1_000_000: "v" * 1_000_000}).done()
    assert len(str(caught.value)) < 300


def test_brackets_too_deep_to_repeat() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    assert shown(value) == "brackets inside each other"


@pytest.mark.parametrize("name", ["eth0", "a.b", "...", "ä" * 7, "123456789012345"])
def test_names_of_interfaces(name: str) -> None:
    assert wrong_interface(name) == ""
