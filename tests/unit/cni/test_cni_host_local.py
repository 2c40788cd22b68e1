"""Giving addresses out: round robin, exhaustion in the reference plugin's words, and that no sequence of ADD and DEL gives one out twice."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from glassnet.agent.leases import NETWORKS, Leases
from glassnet.cni import config, host_local
from glassnet.cni.config import NetConf
from glassnet.net.errors import GlassnetError


def network(*ranges: dict[str, Any]) -> NetConf:
    ipam = {"type": "host-local", "ranges": [list(ranges)]}
    return config.parse(json.dumps({"name": "pods", "type": "bridge", "ipam": ipam}), "x")


SMALL = network({"subnet": "10.200.0.0/29"})


@pytest.mark.parametrize(
    ("last", "taken", "address"),
    [
        ("", (), "10.200.0.2/29"),
        ("10.200.0.2", (), "10.200.0.3/29"),
        ("10.200.0.6", (), "10.200.0.2/29"),
        ("10.200.0.3", ("10.200.0.4", "10.200.0.5"), "10.200.0.6/29"),
        ("10.200.0.4", ("10.200.0.5", "10.200.0.6"), "10.200.0.2/29"),
        ("10.200.0.4", ("10.200.0.2", "10.200.0.3", "10.200.0.5", "10.200.0.6"), "10.200.0.4/29"),
        ("192.0.2.1", (), "10.200.0.2/29"),
        ("rubbish", (), "10.200.0.2/29"),
    ],
)
def test_round_robin(last: str, taken: tuple[str, ...], address: str) -> None:
    assert host_local.choose(SMALL.ipam, taken, last) == host_local.Lease(address, "10.200.0.1")


def test_a_gateway_of_ones_own_and_a_part_of_the_subnet() -> None:
    conf = network(
        {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.12", "gateway": "10.1.0.11"}
    )
    first = host_local.choose(conf.ipam, (), "")
    second = host_local.choose(conf.ipam, {first.ip}, first.ip)
    assert (first.ip, second.ip, second.gateway) == ("10.1.0.10", "10.1.0.12", "10.1.0.11")
    with pytest.raises(host_local.Exhausted, match=r"10\.1\.0\.10-10\.1\.0\.12$"):
        host_local.choose(conf.ipam, {first.ip, second.ip}, second.ip)


def test_ranges_of_a_set_follow_each_other() -> None:
    conf = network({"subnet": "10.1.0.0/30"}, {"subnet": "10.2.0.0/30"})
    assert host_local.choose(conf.ipam, (), "10.1.0.2") == host_local.Lease("10.2.0.2/30", "10.2.0.1")
    assert host_local.choose(conf.ipam, (), "10.2.0.2").ip == "10.1.0.2"


def test_exhausted_in_the_reference_plugins_words() -> None:
    conf = network({"subnet": "10.200.0.0/24"})
    everything = {f"10.200.0.{n}" for n in range(2, 255)}
    with pytest.raises(host_local.Exhausted) as caught:
        host_local.choose(conf.ipam, everything, "10.200.0.9")
    assert str(caught.value).endswith("no IP addresses available in range set: 10.200.0.1-10.200.0.254")


@given(st.sets(st.integers(2, 6)), st.sampled_from(["", *(f"10.200.0.{n}" for n in range(9))]))
def test_a_free_address_is_found_whenever_there_is_one(used: set[int], last: str) -> None:
    taken = {f"10.200.0.{n}" for n in used}
    if len(taken) == 5:
        with pytest.raises(host_local.Exhausted):
            host_local.choose(SMALL.ipam, taken, last)
    else:
        lease = host_local.choose(SMALL.ipam, taken, last)
        assert lease.ip not in taken and lease.ip in {f"10.200.0.{n}" for n in range(2, 7)}


class Disk(RuleBasedStateMachine):
    """ADD, DEL, restarts of the agent and another plugin at the same directory, in any order."""

    @initialize()
    def start(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="leases-"))
        self.leases = Leases(self.place, "worker-0")
        self.live: dict[str, str] = {}
        self.number = 0

    @rule()
    def add(self) -> None:
        self.number += 1
        if len(self.live) == 5:
            with pytest.raises(host_local.Exhausted):
                self.leases.reserve(SMALL, f"c{self.number}", "eth0")
            return
        lease = self.leases.reserve(SMALL, f"c{self.number}", "eth0")
        assert lease.ip not in self.live.values()
        self.live[f"c{self.number}"] = lease.ip

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 100))
    def delete(self, which: int) -> None:
        container = sorted(self.live)[which % len(self.live)]
        for address in self.leases.find("pods", container, "eth0"):
            self.leases.release("pods", address)
        del self.live[container]

    @rule()
    def restart(self) -> None:
        self.leases = Leases(self.place, "worker-0")

    @rule()
    def by_another_hand(self) -> None:
        """The plugin in /opt/cni/bin is a process with a memory of its own."""
        mine, self.leases = self.leases, Leases(self.place, "worker-0")
        self.add()
        self.leases = mine

    @precondition(lambda self: self.live)
    @rule()
    def freed_by_another_hand(self) -> None:
        mine, self.leases = self.leases, Leases(self.place, "worker-0")
        self.delete(0)
        self.leases = mine

    @invariant()
    def leases_are_the_live_containers(self) -> None:
        place = self.place / NETWORKS / "pods"
        files = {p.name: p.read_bytes() for p in place.glob("10.*")}
        assert files == {ip: f"{container}\r\neth0".encode() for container, ip in self.live.items()}

    def teardown(self) -> None:
        shutil.rmtree(self.place)


TestDisk = Disk.TestCase
TestDisk.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_full_disk_leaves_no_half_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full refuses every byte, as a full disk does; a lease file led there is taken away again."""
    place = tmp_path / NETWORKS / "pods"
    place.mkdir(parents=True)
    leases = Leases(tmp_path, "worker-0")
    leases.reserve(SMALL, "c1", "eth0")
    opened = open

    def full(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if mode == "xb":
            Path(path).touch()
            return opened("/dev/full", "wb")
        return opened(path, mode, *rest, **options)

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(GlassnetError, match=r"worker-0: /var/lib/cni/networks/pods: No space left on device"):
        leases.reserve(SMALL, "c2", "eth0")
    monkeypatch.undo()
    assert sorted(p.name for p in place.glob("10.*")) == ["10.200.0.2"]
    assert leases.find("pods", "c2", "eth0") == []


def test_leases_of_one_container_by_interface() -> None:
    files = {"10.0.0.2": "c1\r\neth0", "10.0.0.3": "c1\r\neth1", "10.0.0.4": "c1", "last_reserved_ip.0": "10.0.0.4"}
    assert host_local.owned(files, "c1", "eth0") == ["10.0.0.2", "10.0.0.4"]
    assert host_local.owned(files, "c1", "eth1") == ["10.0.0.3", "10.0.0.4"]
