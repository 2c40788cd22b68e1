"""One seed: build the node, program it, dump it, send packets, compare."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz_trace.compare import Evaluated, fits
from tests.fuzz_trace.node import FuzzNode
from tests.fuzz_trace.probes import Probe
from tests.fuzz_trace.rules_nft import NftRules
from tests.fuzz_trace.rules_xt import HOOKS, XtRules, ipsets
from tests.fuzz_trace.scene import INTERNAL, NODE, PODS, Scene, make_probes, make_scene

from glassnet.agent.proxy.loop import ProxyLoop, ProxySettings, cluster_cidr_detectors
from glassnet.kube import kinds
from glassnet.kube.types import decode
from glassnet.kube.view import View
from glassnet.net import address
from glassnet.net.errors import CommandError
from glassnet.tracer.machine import NODE as KIND
from glassnet.tracer.snapshot import build_machine

_REFUSED = re.compile(r"(?:stdin|/dev/stdin|-):(\d+):\d+-\d+: Error|line:? (\d+)\b", re.ASCII)
MODES = ("iptables legacy", "iptables nft", "nftables", "nftables", "none")


@dataclass(slots=True)
class Result:
    """What came out."""

    packets: int = 0
    comparisons: int = 0
    mismatches: int = 0
    uncertain: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, other: Result) -> None:
        """Sum up."""
        self.packets += other.packets
        self.comparisons += other.comparisons
        self.mismatches += other.mismatches
        self.uncertain += other.uncertain
        self.kinds.update(other.kinds)


@dataclass(slots=True)
class Program:
    """What a seed puts into the kernel, so that it can be printed."""

    mode: str
    tool: str
    steps: list[tuple[list[str], str]] = field(default_factory=list)


def plan(scene: Scene) -> Program:
    """Choose the proxy's backend and make the other tools' rules."""
    random = scene.random
    mode = random.choice(MODES)
    # one kind of iptables in a namespace: with both, a listing does not tell in which order their tables run
    tool = mode.partition(" ")[2] or random.choice(("nft", "legacy"))
    program = Program(mode, tool)
    steps = program.steps
    sets = random.random() < 0.5
    if sets:
        steps.append((["ipset", "restore"], ipsets(random)))
    tables = [(["nft", "-f", "-"], NftRules(random, n).text()) for n in range(random.choice((0, 1, 1, 2, 3)))]
    if not mode.startswith("iptables") and tool == "nft":
        random.shuffle(tables)
    steps += tables
    if random.random() < 0.75 or not tables:
        for version, word in ((4, "iptables"), (6, "ip6tables")):
            texts = XtRules(random, version, sets).texts()
            steps += [([f"{word}-{tool}-restore", "--noflush"], text) for text in texts]
    return program


def carry_out(node: FuzzNode, scene: Scene, program: Program) -> None:
    """Put everything into the kernel."""
    # legacy tables last: a listing does not tell when they were registered, and the evaluator holds them to be the newest
    early = [n for n, (argv, _) in enumerate(program.steps) if argv[0] == "nft" and program.mode == "iptables legacy"]
    for place in early:
        program.steps[place] = (program.steps[place][0], _accepted(node, *program.steps[place]))
    if program.mode == "iptables nft":
        # all its base chains at once: of one put later into an older table, a listing does not tell when
        text = "".join(
            "\n".join([f"*{table}", *(f":{hook} ACCEPT [0:0]" for hook in hooks), "COMMIT\n"])
            for table, hooks in HOOKS.items()
        )
        for word in ("iptables", "ip6tables"):
            node.shell(f"{word}-nft-restore", "--noflush", stdin=text)
    if program.mode != "none":
        asyncio.run(_proxy(node, scene, program.mode))
    for place, step in enumerate(program.steps):
        if place not in early:
            program.steps[place] = (step[0], _accepted(node, *step))


def _accepted(node: FuzzNode, argv: list[str], text: str) -> str:
    """Feed a tool, without the lines it refuses: parts drawn at random may contradict each other, as `udp dport 1 icmp type 8` does."""
    for _ in range(40):
        try:
            node.shell(*argv, stdin=text)
            return text
        except CommandError as error:
            places = {int(n) for found in _REFUSED.findall(str(error)) for n in found if n}
            if not places:
                raise AssertionError(f"{' '.join(argv)}: {error}\n{text}") from None
            text = "".join(f"{line}\n" for n, line in enumerate(text.splitlines(), 1) if n not in places)
    raise AssertionError(f"{' '.join(argv)} refuses too much of\n{text}")


async def _proxy(node: FuzzNode, scene: Scene, mode: str) -> None:
    view = View()
    addresses = [{"type": "InternalIP", "address": text} for text in INTERNAL.values()]
    body = {"metadata": {"name": NODE, "labels": {}}, "status": {"addresses": addresses}}
    view.apply(kinds.NODE, decode(kinds.NODE, json.dumps(body)))
    for service in scene.services:
        view.apply(kinds.SERVICE, decode(kinds.SERVICE, json.dumps(service)))
    for piece in scene.slices:
        view.apply(kinds.ENDPOINT_SLICE, decode(kinds.ENDPOINT_SLICE, json.dumps(piece)))
    kind, _, tool = mode.partition(" ")
    settings = ProxySettings(
        mode=kind, families=(address.IPV4, address.IPV6), detectors=cluster_cidr_detectors(PODS.values()), iptables_tool=tool,
        masquerade_all=scene.seed % 7 == 0, service_cidrs=("172.30.0.0/24", "fd00:30::/112"), localhost_node_ports=scene.seed % 3 > 0,
    )  # fmt: skip
    loop = ProxyLoop(view, node, NODE, settings)  # type: ignore[arg-type]
    task = asyncio.create_task(loop.run())
    async with asyncio.timeout(30):
        while not loop.synced:
            await asyncio.sleep(0.002)
            if task.done():
                task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


_DUMPS = {
    "ip-addr.json": ["ip", "-j", "addr"], "ip-link.json": ["ip", "-d", "-j", "link"], "ip-route.json": ["ip", "-j", "route", "show", "table", "all"],
    "ip-route6.json": ["ip", "-6", "-j", "route", "show", "table", "all"], "ip-rule.json": ["ip", "-j", "rule"],
    "ip-rule6.json": ["ip", "-6", "-j", "rule"], "nft-ruleset.json": ["nft", "-j", "list", "ruleset"], "nft-ruleset.nft": ["nft", "list", "ruleset"],
    "ipset.txt": ["ipset", "save"], "sysctl-net.txt": ["sysctl", "net"],
}  # fmt: skip


def dump(node: FuzzNode, tool: str) -> dict[str, bytes]:
    """The files of a snapshot, taken from the namespace."""
    commands = dict(_DUMPS)
    if tool == "legacy":
        del commands["nft-ruleset.json"], commands["nft-ruleset.nft"]
        commands |= {
            "nft-ruleset.json": ["nft", "-j", "list", "ruleset"],
            "nft-ruleset.nft": ["nft", "list", "ruleset"],
        }
    for word in ("iptables", "ip6tables"):
        commands[f"{word}-{tool}-save.txt"] = [f"{word}-{tool}-save"]
    files = {}
    for name, argv in commands.items():
        try:
            files[name] = node.shell(*argv).encode()
        except CommandError as error:
            if argv[0] not in ("ipset", "sysctl"):
                raise
            files[name] = b"" if argv[0] == "ipset" else str(error).encode()
    return files


def readings(files: dict[str, bytes]) -> list[tuple[str, Evaluated]]:
    """The dumps read twice: with nft's JSON listing and with its text."""
    found = []
    for form, left_out in (("json", "nft-ruleset.nft"), ("text", "nft-ruleset.json")):
        notes: list[str] = []
        machine = build_machine(NODE, KIND, "", {n: d for n, d in files.items() if n != left_out}, "", notes)
        if notes:
            raise AssertionError(f"a dump cannot be read: {notes}")
        found.append((form, Evaluated(machine)))
    return found


def run_seed(seed: int, count: int, show: int = 3, keep: str = "") -> Result:
    """Send `count` packets through the ruleset of a seed. Mismatches are printed, the first `show` of them in full."""
    scene = make_scene(seed)
    node = FuzzNode(scene.setup)
    try:
        program = plan(scene)
        carry_out(node, scene, program)
        files = dump(node, program.tool)
        evaluators = readings(files)
        probes = make_probes(scene, count)
        kernel = node.send(probes)
    finally:
        node.close()
    result = Result(len(probes))
    for probe in probes:
        outcome = kernel[probe.number]
        result.kinds[outcome.kind] += 1
        for form, evaluated in evaluators:
            result.comparisons += 1
            said, total, sure = evaluated.outcomes(probe)
            result.uncertain += not sure
            if any(fits(outcome, each, probe) for each in said) and (abs(total - 1) < 1e-6 or not sure):
                continue
            result.mismatches += 1
            if result.mismatches <= show:
                _print(seed, count, program, form, evaluated, probe, outcome, files if result.mismatches == 1 else {})
    if result.mismatches and keep:
        _keep(Path(keep, str(seed)), files)
    return result


def _print(seed: int, count: int, program: Program, form: str, evaluated: Evaluated, probe: Probe, outcome: object, files: dict[str, bytes]) -> None:  # fmt: skip
    print(
        f"MISMATCH seed {seed}, packet {probe.number} of {count}, proxy {program.mode}, tool {program.tool}, nft listing: {form}"
    )
    print(f"  again: python -m tests.fuzz_trace --seed {seed} --packets {count} --each {count}")
    print(f"  packet: {probe.text}\n  kernel: {outcome}")
    print("\n".join(evaluated.steps(probe)))
    if files:
        print("  the ruleset: every listing with --keep DIRECTORY; what was put in by other tools:")
        print("\n".join(f"  | {line}" for argv, text in program.steps for line in (" ".join(argv), *text.splitlines())))


def _keep(place: Path, files: dict[str, bytes]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (place / name).write_bytes(data)
