"""The plugin programs as files: what they may be written over, what is removed, which interpreter a script can name."""

from __future__ import annotations

from pathlib import Path

import pytest

from glassnet.agent.cni.programs import foreign_programs, install, shebang_fault, uninstall
from glassnet.cni.plugins import PLUGINS
from glassnet.net.errors import GlassnetError


@pytest.mark.parametrize("machine", ["x86_64", "riscv64"])
def test_ours_are_renewed_and_removed_and_others_left_alone(tmp_path: Path, machine: str) -> None:
    other = tmp_path / "dhcp"
    other.write_text("#!/bin/sh\n")
    assert install(tmp_path, force=False, machine=machine) == list(PLUGINS)
    assert foreign_programs(tmp_path) == []
    install(tmp_path, force=False, machine=machine)
    assert sorted(uninstall(tmp_path)) == sorted(PLUGINS)
    assert [path.name for path in tmp_path.iterdir()] == ["dhcp"]
    assert uninstall(tmp_path / "nowhere") == []


@pytest.mark.parametrize("kind", ["file", "dangling link", "directory"])
def test_nothing_is_written_when_a_name_is_taken(tmp_path: Path, kind: str) -> None:
    taken = tmp_path / "loopback"
    if kind == "file":
        taken.write_bytes(b"\x7fELF")
    elif kind == "directory":
        taken.mkdir()
    else:
        taken.symlink_to("/nowhere/loopback")
    with pytest.raises(GlassnetError, match=r"loopback is not glassnet's; use another directory, or --force"):
        install(tmp_path, force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["loopback"]


@pytest.mark.parametrize(
    ("python", "says"),
    [
        ("/" + "a" * 130, "longer than the 127 bytes"),
        ("/srv/my python/bin/python", "a space in its path"),
        ("", "its path is not known"),
        ("/usr/bin/python3", ""),
        ("/" + "a" * 120, ""),
    ],
)
def test_an_interpreter_that_no_script_can_name_is_refused(python: str, says: str) -> None:
    found = shebang_fault(python)
    assert says in found and bool(found) == bool(says)


def test_a_script_is_refused_before_any_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/srv/my python/bin/python")
    with pytest.raises(GlassnetError, match="a space in its path"):
        install(tmp_path, machine="riscv64")
    assert list(tmp_path.iterdir()) == []
    install(tmp_path, machine="x86_64")  # a native program starts no interpreter by its first line
