"""Legacy tables written by us: what the kernel has then is what the legacy tool would have put there, whoever else writes."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import struct
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pods_machine import node_of_namespaces
from proxy_wire import Wire

from glassnet.agent.proxy.legacy import MOST_FAILURES, LegacyWriter, whole_chains
from glassnet.kernel.legacy_table import ROOM, LegacyTable
from glassnet.ruleset.legacy_table import COUNTER, IPV4, IPV6, Table

pytestmark = pytest.mark.kernel
FAMILIES = ["IPv4", "IPv6"]
LETTERS = "ABCDEFGHIJ"
START = """*nat
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:CNI-ELSE - [0:0]
:ZZ-ELSE - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "of another program" -j ZZ-ELSE
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
"""


class Place:
    """A namespace with a lock file of its own and the table that all begin with."""

    def __init__(self, family: str, root: Path) -> None:
        self.wire, self.family = Wire(["10.240.0.20"]), family
        self.tool = "iptables-legacy" if family == "IPv4" else "ip6tables-legacy"
        (root / "run").mkdir(parents=True)
        self.wire.root = root
        self.lock = root / "run" / "xtables.lock"
        services = [f":KUBE-SVC-{each} - [0:0]" for each in LETTERS]
        jumps = [
            f"-A KUBE-SERVICES -p tcp -m tcp --dport {80 + n} -j KUBE-SVC-{each}" for n, each in enumerate(LETTERS)
        ]
        self.restore(START + "\n".join([*services, *jumps, "COMMIT\n"]))
        self.writer = LegacyWriter(self.wire, family)  # type: ignore[arg-type]

    def shell(self, *argv: str, stdin: str = "") -> str:
        return self.wire.shell("env", f"XTABLES_LOCKFILE={self.lock}", *argv, stdin=stdin)

    def restore(self, text: str) -> None:
        self.shell(f"{self.tool}-restore", "-w", "5", "--noflush", stdin=text)

    def saved(self) -> list[str]:
        """What iptables-save -c prints, without its times and the counters of policies, which iptables-restore clears."""
        lines = self.shell(f"{self.tool}-save", "-c", "-t", "nat").splitlines()
        return [line.split(" [")[0] if line[0] == ":" else line for line in lines if line[0] != "#"]

    def bare(self) -> bytes:
        """The kernel's entries without counters and comefrom, which the kernel fills in."""
        layout = IPV4 if self.family == "IPv4" else IPV6
        table = LegacyTable(self.wire, self.family, "nat")  # type: ignore[arg-type]
        entries, at = table.read(table.info())[ROOM:], 0
        table.close()
        while at < len(entries):
            place = at + layout.offsets + 4
            entries[place : at + layout.counters + COUNTER] = bytes(layout.counters + COUNTER - layout.offsets - 4)
            at += struct.unpack_from("=H", entries, at + layout.offsets + 2)[0]
        return bytes(entries)

    def close(self) -> None:
        self.writer.close()
        self.wire.close()


@pytest.fixture(params=FAMILIES)
async def places(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Place, Place]]:
    """One that we write, and one that the tool writes."""
    made = [Place(request.param, tmp_path / name) for name in ("ours", "theirs")]
    yield made[0], made[1]
    for each in made:
        each.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place("IPv4", tmp_path / "ours")
    yield made
    made.close()


def endpoints(service: str, numbers: list[int], family: str) -> str:
    """The input by which the proxy gives a Service other endpoints: those of `gone` have no chain any more."""
    dnat = "10.1.0.{}:80" if family == "IPv4" else "[fd00::{}]:80"
    made = [f"KUBE-SEP-{service}{number}" for number in numbers]
    lines = [f":KUBE-SVC-{service} - [0:0]", *(f":{name} - [0:0]" for name in made)]
    for left, name in zip(range(len(made), 0, -1), made, strict=True):
        odds = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        sticky = f"-m recent --name {name} --rcheck --seconds 100 --reap " if service in "AB" else ""
        lines.append(f'-A KUBE-SVC-{service} -m comment --comment "x/{service} -> {name}" {sticky}{odds}-j {name}')
    for number, name in zip(numbers, made, strict=True):
        to = dnat.format(number)
        source = f"10.1.0.{number}/32" if family == "IPv4" else f"fd00::{number}/128"
        lines.append(f"-A {name} -s {source} -j KUBE-MARK-MASQ")
        sticky = f"-m recent --set --name {name} " if service in "AB" else ""
        lines.append(f"-A {name} {sticky}-p tcp -m tcp -j DNAT --to-destination {to}")
    if service == "C":
        lines.append("-A KUBE-SVC-C -m addrtype --src-type LOCAL")  # a rule without a target
    return "\n".join(lines) + "\n"


class Random:
    """Inputs one after the other: a Service gets other endpoints, or loses them all."""

    def __init__(self, seed: int, family: str) -> None:
        self.random, self.family = random.Random(seed), family
        self.there: dict[str, list[int]] = {}

    def change(self) -> str:
        text, gone = "", ""
        for service in self.random.sample(LETTERS, self.random.randint(1, 3)):
            now = sorted(self.random.sample(range(1, 40), self.random.randint(0, 5)))
            text += endpoints(service, now, self.family)
            for number in self.there.get(service, []):
                if number not in now:
                    text += f":KUBE-SEP-{service}{number} - [0:0]\n"
                    gone += f"-X KUBE-SEP-{service}{number}\n"
            self.there[service] = now
        return f"*nat\n{text}{gone}COMMIT\n"

    def foreign(self, tool: str) -> list[str]:
        """Something that another program does: of another size, or of the same."""
        number = self.random.randint(1, 9)
        match self.random.randint(0, 4):
            case 0:
                return [
                    tool,
                    "-w",
                    "-t",
                    "nat",
                    "-I",
                    "POSTROUTING",
                    "-p",
                    "udp",
                    "--dport",
                    str(number),
                    "-j",
                    "ACCEPT",
                ]
            case 1:
                return [tool, "-w", "-t", "nat", "-A", "CNI-ELSE", "-p", "tcp", "--sport", str(number), "-j", "RETURN"]
            case 2:
                return [tool, "-w", "-t", "nat", "-R", "POSTROUTING", "1", "-p", "udp", "--sport", str(number), "-j", "RETURN"]  # fmt: skip
            case 3:
                return [tool, "-w", "-t", "nat", "-A", "ZZ-ELSE", "-p", "tcp", "--dport", str(number), "-j", "CNI-ELSE"]
            case _:
                return [tool, "-w", "-t", "nat", "-N", f"CNI-{self.random.getrandbits(60):X}"]


async def test_the_kernel_has_what_the_tool_would_have_written_with_counters_and_foreign_rules(
    places: tuple[Place, Place],
) -> None:
    ours, theirs = places
    for seed in range(3):
        changes = Random(seed, ours.family)
        # all chains that a forerunner left
        sweep = [line.split()[0][1:] for line in theirs.saved() if line.startswith(":KUBE-SEP")]
        text = "*nat\n" + "".join(f":KUBE-SVC-{each} - [0:0]\n" for each in LETTERS)
        text += "".join(f":{each} - [0:0]\n" for each in sweep) + "".join(f"-X {each}\n" for each in sweep) + "COMMIT\n"
        assert await ours.writer.commit(text)
        theirs.restore(text)
        counted = "*nat\n[7:700] -A KUBE-SERVICES -p udp -j KUBE-MARK-MASQ\nCOMMIT\n"
        for each in places:
            each.shell(f"{each.tool}-restore", "--noflush", "-c", stdin=counted)
        for _ in range(12):
            text = changes.change()
            assert await ours.writer.commit(text)
            theirs.restore(text)
            assert ours.saved() == theirs.saved()
            assert ours.bare() == theirs.bare()
            if changes.random.random() < 0.5:
                command = changes.foreign(ours.tool)
                for each in places:
                    each.shell(*command)
    assert "[7:700] -A KUBE-SERVICES -p udp -j KUBE-MARK-MASQ" in ours.saved()


async def test_what_others_write_at_the_same_time_stays(place: Place) -> None:
    changes, many = Random(5, "IPv4"), 60
    environment = {**os.environ, "XTABLES_LOCKFILE": str(place.lock)}
    script = f"for n in $(seq {many}); do iptables-legacy -w -t nat -A POSTROUTING -p udp --dport $n -j ACCEPT || exit 1; done"
    other = place.wire.call(lambda: subprocess.Popen(["sh", "-c", script], env=environment))
    wrote = []
    while other.poll() is None:
        text = changes.change()
        wrote.append(await place.writer.commit(text))
        if not wrote[-1]:
            place.restore(text)  # as the proxy does
    assert other.wait() == 0
    saved = place.saved()
    ports = [line.split("--dport ")[1].split()[0] for line in saved if "-A POSTROUTING -p udp" in line]
    assert ports == [str(number) for number in range(1, many + 1)]
    assert any(wrote)
    final = changes.change()
    assert await place.writer.commit(final)
    there = {line.split()[0][1:] for line in place.saved() if line.startswith(":KUBE-SEP")}
    assert there == {f"KUBE-SEP-{name}{number}" for name, numbers in changes.there.items() for number in numbers}


async def test_a_lock_that_another_holds_leaves_the_change_to_the_tool(place: Place) -> None:
    text = Random(1, "IPv4").change()
    assert await place.writer.commit(text)
    with place.lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = place.bare()
        for _ in range(MOST_FAILURES + 1):
            assert not await place.writer.commit(text)
        assert place.bare() == before
    assert await place.writer.commit(text)


async def test_a_lock_file_made_anew_is_not_taken_for_the_old_one(place: Place) -> None:
    text = Random(1, "IPv4").change()
    assert await place.writer.commit(text)
    place.lock.unlink()
    place.shell("iptables-legacy", "-t", "nat", "-R", "POSTROUTING", "1", "-p", "udp", "-j", "ACCEPT")  # makes the file
    assert await place.writer.commit(text)
    place.lock.unlink()
    assert await place.writer.commit(text)
    assert place.lock.exists()
    assert any("-A POSTROUTING -p udp -j ACCEPT" in line for line in place.saved())


async def test_a_writer_without_a_lock_is_noticed_by_the_size_it_leaves(place: Place, tmp_path: Path) -> None:
    changes = Random(2, "IPv4")
    assert await place.writer.commit(changes.change())
    elsewhere = f"XTABLES_LOCKFILE={tmp_path / 'elsewhere'}"
    place.wire.shell("env", elsewhere, "iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-p", "udp", "-j", "ACCEPT")
    assert await place.writer.commit(changes.change())
    assert any("-A POSTROUTING -p udp -j ACCEPT" in line for line in place.saved())


async def test_a_chain_still_in_use_and_a_rule_the_tool_refuses_are_left_to_the_tool(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    before = place.bare()
    refused = [
        "*nat\n:KUBE-SVC-A - [0:0]\n-X KUBE-SVC-A\nCOMMIT\n",
        "*nat\n:KUBE-SVC-A - [0:0]\n-A KUBE-SVC-A -j KUBE-SEP-NOT-THERE\nCOMMIT\n",
        "*nat\n:KUBE-SVC-A - [0:0]\n-A KUBE-SVC-A -j DNAT --to-destination nonsense\nCOMMIT\n",
    ]
    with caplog.at_level(logging.WARNING):
        for text in refused:
            assert not await place.writer.commit(text)
            assert place.bare() == before
        assert not await place.writer.commit(
            Random(1, "IPv4").change()
        )  # one after the other, that many: all by the tool
    assert len([record for record in caplog.records if "by the tool alone" in record.message]) == 1


async def test_the_tool_that_makes_chains_ends_and_is_started_again(place: Place) -> None:
    changes = Random(3, "IPv4")
    assert await place.writer.commit(changes.change())
    first = place.writer._tool.pid
    place.writer._tool.rest()
    assert await place.writer.commit(changes.change())
    assert place.writer._tool.pid != first
    expected = {f"KUBE-SEP-{name}{number}" for name, numbers in changes.there.items() for number in numbers}
    assert {line.split()[0][1:] for line in place.saved() if line.startswith(":KUBE-SEP")} == expected


async def test_a_tool_that_is_not_apart_is_given_nothing_to_flush(place: Place) -> None:
    before = place.bare()
    place.writer._tool._apart = False
    assert not await place.writer.commit(Random(1, "IPv4").change())
    assert place.bare() == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*filter\n:KUBE-X - [0:0]\nCOMMIT\n",
        "*nat\n:KUBE-X - [0:0]\nCOMMIT\n*filter\nCOMMIT\n",
        "*nat\n:KUBE-X - [0:0]\n-D KUBE-SERVICES -j KUBE-X\n-X KUBE-X\nCOMMIT\n",
        "*nat\n-A KUBE-SERVICES -j KUBE-X\nCOMMIT\n",
        "*nat\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n",
        "*nat\n-X KUBE-X\nCOMMIT\n",
    ],
)
def test_inputs_that_do_more_than_write_chains_are_the_tools(text: str) -> None:
    assert whole_chains(text) is None


async def test_a_table_of_the_kernel_is_read_chain_by_chain(place: Place) -> None:
    table = LegacyTable(place.wire, "IPv4", "nat")  # type: ignore[arg-type]
    read = Table(table.read(table.info()), IPV4, ROOM)
    table.close()
    assert [name.decode() for name in read.names] == [f.split()[0][1:] for f in place.saved() if f[0] == ":"][4:]
    led = [read.names[read.starts.index(verdict - read.head)] for verdict in read.verdicts[:3]]
    assert led == [b"KUBE-SERVICES", b"KUBE-SERVICES", b"ZZ-ELSE"]


async def test_a_lab_machine_has_a_lock_and_a_tool_of_its_own() -> None:
    async with node_of_namespaces() as node:
        services = "".join(f":KUBE-SVC-{each} - [0:0]\n" for each in LETTERS)
        await node.run("iptables-legacy-restore", stdin=f"{START}{services}COMMIT\n".encode())
        writer, changes = LegacyWriter(node.machine, "IPv4"), Random(4, "IPv4")
        for number in range(3):
            assert await writer.commit(changes.change())
            await node.run(
                "iptables-legacy", "-w", "-t", "nat", "-R", "POSTROUTING", "1", "-p", "udp", "--dport", str(number + 1)
            )
        saved = await node.run("iptables-legacy-save", "-t", "nat")
        expected = {f"KUBE-SEP-{name}{number}" for name, numbers in changes.there.items() for number in numbers}
        assert {line.split()[0][1:] for line in saved.splitlines() if line.startswith(":KUBE-SEP")} == expected
        assert "-A POSTROUTING -p udp -m udp --dport 3\n" in saved
        writer.close()
