"""What container runtimes pass to CNI plugins: records it, with the reference plugins behind. `python -m tests.runtime_calls` writes
tests/data/cni/runtimes.json anew."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from glassnet.net.errors import CommandError
from runtimes import (
    CONFIG,
    PLUGINS,
    REFERENCE_PLUGINS,
    Podman,
    RuntimeNode,
    containerd,
    install_reference,
    runtime_node,
)

RECORDED = Path(__file__).parent / "data/cni/runtimes.json"
CALLS, REAL = "/run/calls", "/run/recorded"
# The environment is read before the shell adds to it. Names of records sort by the time a call began.
WRAPPER = f"""#!/bin/sh
record={CALLS}/$(date +%s%N).$$
cat /proc/$$/environ > $record.env
cat > $record.stdin
tr '\\0' '\\n' < /proc/$PPID/cmdline | head -n 1 > $record.parent
{REAL}/@PLUGIN@ < $record.stdin > $record.stdout
status=$?
echo @PLUGIN@ $status > $record.end
cat $record.stdout
exit $status
"""
FAILING = """#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}' ;;
ADD) echo '{"cniVersion": "1.0.0", "code": 11, "msg": "not now"}' && exit 1 ;;
esac
"""
LIST: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "net",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.200.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "firewall"},
        {"type": "tuning"},
    ],
}


async def install_recorded(node: RuntimeNode) -> None:
    """The reference plugins, each behind a program that writes down how it was called; `failing` refuses every ADD."""
    await install_reference(node)
    for directory in (CALLS, REAL):
        node.at(directory).mkdir()
    node.write(f"{PLUGINS}/failing", FAILING)
    node.at(f"{PLUGINS}/failing").chmod(0o755)
    for plugin in node.names(PLUGINS):
        program = node.at(f"{PLUGINS}/{plugin}")
        shutil.move(program, node.at(f"{REAL}/{plugin}"))
        program.write_text(WRAPPER.replace("@PLUGIN@", plugin))
        program.chmod(0o755)


RECORDING = REFERENCE_PLUGINS._replace(name="recorded", install=install_recorded)


class Session:
    """What was done on a node, and the calls that came of it."""

    def __init__(self, node: RuntimeNode) -> None:
        self.node = node
        self.steps: list[dict[str, Any]] = []

    def step(self, did: str) -> None:
        """Write down the calls since the last step, as those of `did`."""
        self.steps.append({"did": did, "calls": self._taken()})

    def _taken(self) -> list[dict[str, Any]]:
        taken = []
        for name in self.node.names(CALLS):
            if name.endswith(".end"):
                record = self.node.at(f"{CALLS}/{name}")
                taken.append(_call(record))
                for part in ("env", "stdin", "parent", "stdout", "end"):
                    record.with_suffix(f".{part}").unlink()
        return taken


def _call(record: Path) -> dict[str, Any]:
    """One call from its files."""
    plugin, status = record.read_text().split()
    variables = dict(
        line.split("=", 1) for line in record.with_suffix(".env").read_text().split("\0") if line.startswith("CNI_")
    )
    stdout = record.with_suffix(".stdout").read_text()
    return {
        "plugin": plugin,
        "by": Path(record.with_suffix(".parent").read_text().strip()).name,
        "env": dict(sorted(variables.items())),
        "stdin": json.loads(record.with_suffix(".stdin").read_text()),
        "status": int(status),
        "stdout": json.loads(stdout) if stdout.strip() else None,
    }


async def record_containerd() -> list[dict[str, Any]]:
    """containerd's own ctr: a container attached to, one left alone, one whose network fails."""
    async with runtime_node(RECORDING) as node, containerd(node) as ctr:
        session = Session(node)
        node.write(f"{CONFIG}/10-net.conflist", json.dumps(LIST))
        await ctr.run("web", "/bin/sleep", "1000")
        session.step("ctr run --cni --rm web")
        await ctr.kill("web")
        session.step("ctr task kill web")
        await ctr.start("alone", "/bin/sleep", "1000")
        session.step("ctr run --cni --detach alone")
        await ctr.stop("alone")
        session.step("ctr task kill alone; ctr task delete alone; ctr container delete alone")
        fail(node)
        with contextlib.suppress(CommandError):
            await ctr.run("refused", "/bin/sleep", "1000")
        session.step("ctr run --cni --rm refused")
        return session.steps


def fail(node: RuntimeNode) -> None:
    """Make the last plugin of the node's network refuse."""
    changed = {**LIST, "plugins": [*LIST["plugins"], {"type": "failing"}]}
    node.write(f"{CONFIG}/10-net.conflist", json.dumps(changed))


async def record_podman() -> list[dict[str, Any]]:
    """podman: published ports, an address and a hardware address asked for, networks joined and left, namespaces gone."""
    async with runtime_node(RECORDING) as node:
        podman, session = Podman(node), Session(node)

        async def do(*words: str) -> None:
            with contextlib.suppress(CommandError):
                await podman(*words)
            session.step(f"podman {' '.join(words)}")

        async def run(name: str, *options: str) -> None:
            with contextlib.suppress(CommandError):
                await podman.run(name, "/bin/sleep", "1000", options=options)
            session.step(f"podman run --detach --name {name} {' '.join(options)}")

        await do("network", "create", "--subnet", "10.89.0.0/24", "one")
        await do("network", "create", "--subnet", "10.89.1.0/24", "two")
        await run("web", "--network", "one", "--publish", "8080:80", "--publish", "127.0.0.1:8053:53/udp")
        await run("asked", "--network", "one", "--ip", "10.89.0.77", "--mac-address", "02:00:00:00:00:77")
        await do("network", "connect", "--alias", "other", "two", "web")
        await do("network", "disconnect", "two", "web")
        await do("network", "reload", "web")
        await do("stop", "--time", "0", "web")
        await do("rm", "web")
        await lose_namespace(node, podman, "asked")
        await do("rm", "--force", "--time", "0", "asked")
        listed = json.loads(node.at(f"{CONFIG}/one.conflist").read_text())
        listed["plugins"].append({"type": "failing"})
        node.write(f"{CONFIG}/one.conflist", json.dumps(listed))
        await run("refused", "--network", "one")
        await do("rm", "--force", "refused")
        return session.steps


async def lose_namespace(node: RuntimeNode, podman: Podman, name: str) -> None:
    """Take the name of a container's network namespace away, as a restart of the machine does."""
    path = (await podman("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name)).strip()
    await node.run("umount", "--lazy", path)
    await node.run("rm", path)


VARIABLE = (
    (re.compile(r"veth[0-9a-f]{8}"), "VETH"),
    (re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}"), "MAC"),
    (re.compile(r"[0-9a-f]{64}"), "ID"),
    (re.compile(r"/proc/\d+/"), "/proc/PID/"),
    (re.compile(r"netns-[0-9a-f-]{36}"), "netns-UUID"),
)


def comparable(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A session without what is drawn by lot."""
    text = json.dumps(steps)
    for pattern, word in VARIABLE:
        text = pattern.sub(word, text)
    return list(json.loads(text, object_hook=_ports_in_order))


def _ports_in_order(read: dict[str, Any]) -> dict[str, Any]:
    """podman keeps published ports in a Go map of protocols, whose order is another at every run."""
    if isinstance(ports := read.get("portMappings"), list):
        ports.sort(key=lambda port: int(port["hostPort"]))
    return read


def versions() -> dict[str, str]:
    """The Debian packages that took part."""
    names = ["containerd", "runc", "podman", "conmon", "containernetworking-plugins"]
    command = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *names]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(line.split() for line in lines)


def text_of(sessions: dict[str, list[dict[str, Any]]]) -> str:
    """The file's text: one call a line."""
    parts = [f'{{"packages": {json.dumps(versions())}']
    for runtime, steps in sessions.items():
        told = []
        for step in steps:
            calls = ",\n".join(json.dumps(call, separators=(",", ":")) for call in step["calls"])
            told.append(f'{{"did": {json.dumps(step["did"])}, "calls": [{chr(10) + calls if calls else ""}]}}')
        parts.append(f'"{runtime}": [\n' + ",\n".join(told) + "]")
    return ",\n".join(parts) + "}\n"


async def main() -> None:
    sessions = {"containerd": await record_containerd(), "podman": await record_podman()}
    RECORDED.parent.mkdir(parents=True, exist_ok=True)
    RECORDED.write_text(text_of(sessions))


if __name__ == "__main__":
    asyncio.run(main())
