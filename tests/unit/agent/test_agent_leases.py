"""Lease files against a directory: other hands, processes that die, disks that refuse, files of other plugins."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from glassnet.agent.cni import leases
from glassnet.agent.cni.leases import Busy, LeaseFiles
from glassnet.cni import host_local
from glassnet.cni.host_local import Exhausted, Range
from glassnet.cni.request import Attachment
from glassnet.net.errors import GlassnetError

PLACE = "/var/lib/cni/networks/net"
_COARSE = 5  # CLOCK_REALTIME_COARSE, which stamps files
C1, C2 = Attachment("c1", "eth0"), Attachment("c2", "eth0")


def sets(*subnets: str) -> tuple[tuple[Range, ...], ...]:
    return host_local.ranges_of({"ipam": {"ranges": [[{"subnet": one}] for one in subnets]}})


SMALL = sets("10.200.0.0/29")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / PLACE.lstrip("/")
    made.mkdir(parents=True)
    return made


def files(root: Path) -> LeaseFiles:
    return LeaseFiles(root, "node-a")


def content(place: Path) -> dict[str, str]:
    return {path.name: path.read_bytes().decode() for path in place.iterdir()}


def test_files_of_the_reference_plugin(tmp_path: Path) -> None:
    mine = files(tmp_path)
    assert mine.reserve(PLACE, sets("10.1.0.0/24", "fd00::/64"), (), C1) == ("10.1.0.2", "fd00::2")
    place = tmp_path / PLACE.lstrip("/")
    assert content(place) == {
        "10.1.0.2": "c1\r\neth0", "fd00::2": "c1\r\neth0", "lock": "",
        "last_reserved_ip.0": "10.1.0.2", "last_reserved_ip.1": "fd00::2",
    }  # fmt: skip
    assert [oct((place / name).stat().st_mode & 0o777) for name in ("10.1.0.2", "lock")] == ["0o644", "0o750"]
    assert sorted(mine.held(PLACE, C1)) == ["10.1.0.2", "fd00::2"] and mine.holders(PLACE) == {
        "10.1.0.2": C1,
        "fd00::2": C1,
    }
    mine.release(PLACE, ("10.1.0.2", "fd00::2", "10.9.9.9"))
    assert sorted(content(place)) == ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]


def test_all_or_none(tmp_path: Path, place: Path) -> None:
    both = sets("10.1.0.0/24", "10.2.0.0/30")
    mine = files(tmp_path)
    mine.reserve(PLACE, both, (), C1)
    with pytest.raises(Exhausted, match="for range 1: no IP addresses"):
        mine.reserve(PLACE, both, (), C2)
    assert mine.held(PLACE, C2) == () and sorted(mine.holders(PLACE)) == ["10.1.0.2", "10.2.0.2"]
    with pytest.raises(Exhausted, match=r"10\.1\.0\.2 has been allocated to c1, duplicate allocation is not allowed"):
        mine.reserve(PLACE, both, (), C1)


def test_no_set_gives_another_ones_gateway(tmp_path: Path) -> None:
    split = host_local.ranges_of(
        {
            "ipam": {
                "ranges": [
                    [
                        {
                            "subnet": "10.1.0.0/24",
                            "rangeStart": "10.1.0.1",
                            "rangeEnd": "10.1.0.3",
                            "gateway": "10.1.0.9",
                        }
                    ],
                    [
                        {
                            "subnet": "10.1.0.0/24",
                            "rangeStart": "10.1.0.8",
                            "rangeEnd": "10.1.0.10",
                            "gateway": "10.1.0.2",
                        }
                    ],
                ]
            }
        }
    )
    mine = files(tmp_path)
    given = [mine.reserve(PLACE, split, (), Attachment(f"c{number}", "eth0")) for number in range(2)]
    assert given == [("10.1.0.1", "10.1.0.8"), ("10.1.0.3", "10.1.0.10")]
    with pytest.raises(Exhausted):
        mine.reserve(PLACE, split, (), Attachment("c3", "eth0"))


def test_files_of_old_plugins_and_half_written_ones(tmp_path: Path, place: Path) -> None:
    for name, text in {"10.200.0.2": "c1", "10.200.0.3": "c2\neth0\n", "10.200.0.4": "", "10.200.0.5": "\xff"}.items():
        (place / name).write_bytes(text.encode("latin-1"))
    (place / "last_reserved_ip.0").write_text("10.200")
    mine = files(tmp_path)
    assert mine.held(PLACE, C1) == ("10.200.0.2",) == mine.held(PLACE, Attachment("c1", "eth1"))
    assert mine.held(PLACE, C2) == ("10.200.0.3",) and mine.holders(PLACE)["10.200.0.4"] == Attachment("", "")
    assert mine.reserve(PLACE, SMALL, (), Attachment("c3", "eth0")) == ("10.200.0.6",)
    mine.release(PLACE, tuple(mine.holders(PLACE)))
    assert mine.holders(PLACE) == {}


# -- other hands


def test_another_hand_within_one_tick(tmp_path: Path, place: Path) -> None:
    """The directory's time of change is made to stand still: what another hand does shows nowhere else."""
    mine, theirs = files(tmp_path), files(tmp_path)
    mine.reserve(PLACE, SMALL, (), C1)
    stamp = os.stat(place).st_mtime_ns

    def at_once(change: Callable[[], Any]) -> None:
        change()
        os.utime(place, ns=(stamp, stamp))

    at_once(lambda: theirs.reserve(PLACE, SMALL, (), C2))
    assert mine.held(PLACE, C2) == ("10.200.0.3",)
    assert sorted(mine.holders(PLACE)) == ["10.200.0.2", "10.200.0.3"]
    at_once(lambda: theirs.release(PLACE, ("10.200.0.2",)))
    at_once(lambda: theirs.reserve(PLACE, SMALL, ("10.200.0.2",), Attachment("c9", "eth0")))
    mine.release(PLACE, ("10.200.0.2",))  # mine to give back no more
    assert (place / "10.200.0.2").read_text().startswith("c9")


def test_another_hand_takes_the_last_one_free(tmp_path: Path, place: Path) -> None:
    mine, theirs = files(tmp_path), files(tmp_path)
    for number in range(4):
        mine.reserve(PLACE, SMALL, (), Attachment(f"c{number}", "eth0"))
    stamp = os.stat(place).st_mtime_ns
    theirs.release(PLACE, ("10.200.0.4",))
    theirs.reserve(PLACE, SMALL, ("10.200.0.6",), C2._replace(container_id="x"))
    os.utime(place, ns=(stamp, stamp))
    assert mine.reserve(PLACE, SMALL, (), Attachment("y", "eth0")) == ("10.200.0.4",)
    assert len(mine.holders(PLACE)) == 5


def test_the_lock_of_another_hand(tmp_path: Path, place: Path) -> None:
    lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT)
    mine = files(tmp_path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for change in (lambda: mine.reserve(PLACE, SMALL, (), C1), lambda: mine.release(PLACE, ("10.200.0.2",))):
            with pytest.raises(
                Busy, match="node-a: /var/lib/cni/networks/net/lock is locked by another process"
            ) as caught:
                change()
            assert caught.value.code == 11
        assert mine.held(PLACE, C1) == ()  # looking needs no lock
    finally:
        os.close(lock)
    assert mine.reserve(PLACE, SMALL, (), C1) == ("10.200.0.2",)


def test_a_directory_made_anew(tmp_path: Path, place: Path) -> None:
    mine = files(tmp_path)
    mine.reserve(PLACE, SMALL, (), C1)
    shutil.rmtree(place)
    assert mine.held(PLACE, C1) == () and mine.holders(PLACE) == {}
    mine.release(PLACE, ("10.200.0.2",))
    assert mine.reserve(PLACE, SMALL, (), C1) == ("10.200.0.2",)


# -- disks that refuse


def refusing(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        path = next((one for one in arguments if isinstance(one, str | os.PathLike)), None)
        raise OSError(number, os.strerror(number), *([str(path)] if path else []))

    monkeypatch.setattr(os, name, refuse)


@pytest.mark.parametrize("unnamed", [True, False], ids=["with O_TMPFILE", "without"])
@pytest.mark.parametrize(
    ("function", "number"), [("write", errno.ENOSPC), ("link", errno.EDQUOT), ("link", errno.EROFS)]
)
def test_a_full_disk_leaves_no_half_lease(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool, function: str, number: int
) -> None:
    mine = files(tmp_path)
    if not unnamed:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY | os.O_CREAT)  # EINVAL, as from a kernel that has none
    mine.reserve(PLACE, SMALL, (), C1)
    before = content(place)
    with monkeypatch.context() as broken:
        refusing(broken, function, number)
        with pytest.raises(GlassnetError, match=os.strerror(number)) as caught:
            mine.reserve(PLACE, SMALL, (), C2)
    assert str(caught.value).startswith(f"node-a: {PLACE}") and content(place) == before
    assert mine.held(PLACE, C2) == () and mine.reserve(PLACE, SMALL, (), C2) == ("10.200.0.3",)


def test_half_a_write(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    left = [3, 0]  # bytes that fit
    monkeypatch.setattr(os, "write", lambda file, data: whole(file, data[: left.pop(0)]))
    with pytest.raises(GlassnetError, match="No space left on device"):
        files(tmp_path).reserve(PLACE, SMALL, (), C1)
    assert sorted(content(place)) == ["lock"]


def test_a_file_left_by_one_who_was_killed(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a second name of a lease: whoever comes next must not write into it."""
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY | os.O_CREAT)
    mine = files(tmp_path)
    mine.reserve(PLACE, SMALL, (), C1)
    os.link(place / "10.200.0.2", place / "lease.new")
    assert mine.reserve(PLACE, SMALL, (), C2) == ("10.200.0.3",)
    assert content(place)["10.200.0.2"] == "c1\r\neth0" and "lease.new" not in content(place)


@pytest.mark.parametrize("function", ["mkdir", "open"])
def test_a_read_only_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    if function == "open":
        (tmp_path / PLACE.lstrip("/")).mkdir(parents=True)
    refusing(monkeypatch, function, errno.EROFS)
    with pytest.raises(GlassnetError, match=f"^node-a: {PLACE}.*: Read-only file system"):
        files(tmp_path).reserve(PLACE, SMALL, (), C1)


def test_giving_back_goes_on_after_an_error_and_tells_all(tmp_path: Path, place: Path) -> None:
    for name in ("10.200.0.3", "10.200.0.5"):
        (place / name).mkdir()
    mine = files(tmp_path)
    mine.reserve(PLACE, SMALL, (), C1)
    mine.reserve(PLACE, SMALL, (), C2)
    with pytest.raises(GlassnetError) as caught:
        mine.release(PLACE, tuple(mine.holders(PLACE)))
    assert str(caught.value).count("Is a directory") == 2 and f"{PLACE}/10.200.0.3" in str(caught.value)
    assert sorted(mine.holders(PLACE)) == ["10.200.0.3", "10.200.0.5"]


def test_a_plain_file_in_the_directorys_place(tmp_path: Path) -> None:
    (tmp_path / "var/lib/cni").mkdir(parents=True)
    (tmp_path / "var/lib/cni/networks").write_text("")
    mine = files(tmp_path)
    for use in (lambda: mine.reserve(PLACE, SMALL, (), C1), lambda: mine.held(PLACE, C1), lambda: mine.holders(PLACE)):
        with pytest.raises(GlassnetError, match=r"node-a: /var/lib/cni/networks.*: Not a directory"):
            use()


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(GlassnetError, match="File name too long"):
        files(tmp_path).reserve(f"{PLACE}{'x' * 300}", SMALL, (), C1)


# -- any order


class Disk(RuleBasedStateMachine):
    """ADD, DEL, restarts of the agent and another plugin at the same directory, in any order."""

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="leases-"))
        self.mine, self.theirs = files(self.root), files(self.root)
        self.live: dict[str, str] = {}
        self.number = 0

    def add(self, hand: LeaseFiles) -> None:
        self.number += 1
        holder = Attachment(f"c{self.number}", "eth0")
        if len(self.live) == 5:
            with pytest.raises(Exhausted):
                hand.reserve(PLACE, SMALL, (), holder)
            return
        (address,) = hand.reserve(PLACE, SMALL, (), holder)
        assert address not in self.live.values()
        self.live[holder.container_id] = address

    def delete(self, hand: LeaseFiles, which: int) -> None:
        container = sorted(self.live)[which % len(self.live)]
        held = hand.held(PLACE, Attachment(container, "eth0"))
        assert held == (self.live.pop(container),)
        hand.release(PLACE, held)

    @rule(other=st.booleans())
    def added(self, other: bool) -> None:
        self.add(self.theirs if other else self.mine)

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 9), other=st.booleans())
    def deleted(self, which: int, other: bool) -> None:
        self.delete(self.theirs if other else self.mine, which)

    @rule()
    def restarted(self) -> None:
        self.mine = files(self.root)

    @rule()
    def gone(self) -> None:
        assert self.mine.held(PLACE, Attachment("nobody", "eth0")) == ()

    @invariant()
    def leases_are_the_live_containers(self) -> None:
        place = self.root / PLACE.lstrip("/")
        found = {path.name: path.read_bytes() for path in place.glob("10.*")}
        assert found == {ip: f"{container}\r\neth0".encode() for container, ip in self.live.items()}

    def teardown(self) -> None:
        shutil.rmtree(self.root)


TestDisk = Disk.TestCase
TestDisk.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_tick_is_longer_than_the_kernels() -> None:
    resolution = time.clock_getres(_COARSE)
    assert resolution * 1e9 * 2 <= leases.TICK
