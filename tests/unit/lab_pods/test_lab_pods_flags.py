"""Go's flags and durations, and variables in commands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.lab.pods.environment import expand, pack, process_env, unpack
from glassnet.lab.pods.flags import FlagError, parse_duration, parse_flags


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("1s", 1), ("1m30s", 90), ("250ms", 0.25), ("1.5h", 5400), ("-2s", -2), (".5s", 0.5), ("1us", 1e-6)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "s", "1 s", "1s2", "ten"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)


def test_flags_in_every_spelling() -> None:
    defaults = {"port": 80, "text": "", "on": False, "off": True}
    flags = parse_flags(["--port", "81", "-text=a=b", "--on", "--off=false", "rest", "--", "--on"], defaults)
    assert flags.values == {"port": 81, "text": "a=b", "on": True, "off": False}
    assert flags.rest == ("rest", "--on")


@pytest.mark.parametrize("args", [["--nope"], ["--port"], ["--port=x"], ["--on=2"]])
def test_unfit_flags(args: list[str]) -> None:
    with pytest.raises(FlagError):
        parse_flags(args, {"port": 80, "on": False})


def test_references_in_commands() -> None:
    words = expand(["$(A)-$(B)", "$$(A)", "$A", "$(NOT)", "$$$(A)"], {"A": "1", "B": "$(A)"})
    assert words == ("1-$(A)", "$(A)", "$A", "$(NOT)", "$1")


def test_processes_get_a_path_and_a_name() -> None:
    env = process_env({"PATH": "/mine"}, "web-0", tty=True)
    assert env == {"PATH": "/mine", "HOSTNAME": "web-0", "HOME": "/root", "TERM": "xterm"}


@given(st.dictionaries(st.text("ABC_", min_size=1), st.text(st.characters(codec="utf-8", exclude_characters="\0"))))
def test_a_packed_environment_comes_back(env: dict[str, str]) -> None:
    assert unpack(pack(env)) == env
