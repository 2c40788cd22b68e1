"""The plugins as programs in /opt/cni/bin, for a runtime or a hand on a node: `bridge`, `host-local`, `loopback`.

They read CNI_* variables and a configuration on standard input, act on the namespaces they are in, and answer on standard output.
Source: CNI SPEC.md, "Section 2: Execution Protocol" (variables, error codes), "Section 5: Result Types".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from glassnet.agent.cni import CniAgent
from glassnet.cni import bridge, config, host_local
from glassnet.kernel.links import read_link
from glassnet.kernel.netns import KernelNetNs
from glassnet.kernel.sysctl import write_sysctls
from glassnet.net.errors import CommandError, GlassnetError, ParseError
from glassnet.netstack.ops import SetLink

INCOMPATIBLE, UNKNOWN_CONTAINER, BAD_ENVIRONMENT, IO_FAILURE, BAD_JSON, BAD_CONFIG, OTHER = 1, 3, 4, 5, 6, 7, 999
REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
}
SOURCE = "standard input"


class CniError(GlassnetError):
    """An answer other than success; `code` as in the specification."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        self.code, self.details = code, details
        super().__init__(message)


class Here:
    """The machine this program runs on: as much of `kernel.api.Machine` as CNI takes."""

    name, root = "this node", Path("/")

    def __init__(self) -> None:
        self.netns = KernelNetNs("", os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC), kept=True)

    def sysctl(self, values: Mapping[str, Any]) -> None:
        """Write net.* sysctls (dotted names). Raises KernelError."""
        write_sysctls(values)

    async def run(self, argv: list[str], stdin: bytes = b"", timeout: float = 30.0) -> bytes:
        """Run a program to its end; its output. Raises CommandError."""
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin"
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, "PATH": path}
            )
        except OSError as error:
            raise CommandError(argv, 127, str(error)) from None
        out, err = await asyncio.wait_for(process.communicate(stdin), timeout)
        if process.returncode:
            raise CommandError(argv, process.returncode, err.decode(errors="replace"))
        return out


class Call(NamedTuple):
    """One call of a plugin."""

    container_id: str
    netns: str
    ifname: str
    text: str


def main(argv: list[str] | None = None) -> int:
    """Run the plugin that `argv` names; the program's exit status."""
    plugin = (sys.argv[1:] if argv is None else argv)[0]
    try:
        answer = asyncio.run(run(plugin, os.environ, sys.stdin.read))
    except GlassnetError as error:
        print(json.dumps(error_body(error), indent=4))
        return 1
    if answer is not None:
        print(json.dumps(answer, indent=4))
    return 0


def error_body(error: GlassnetError) -> dict[str, Any]:
    """The error as the specification has it."""
    code = error.code if isinstance(error, CniError) else BAD_CONFIG if isinstance(error, ParseError) else OTHER
    details = {"details": error.details} if isinstance(error, CniError) and error.details else {}
    return {"cniVersion": "1.1.0", "code": code, "msg": str(error), **details}


async def run(plugin: str, env: Mapping[str, str], read: Callable[[], str]) -> dict[str, Any] | None:
    """One call: its answer, None where the specification wants none. Raises CniError, ParseError, GlassnetError."""
    command = env.get("CNI_COMMAND", "")
    if command == "VERSION":
        return {"cniVersion": "1.1.0", "supportedVersions": list(config.VERSIONS)}
    if command not in REQUIRED:
        raise CniError(BAD_ENVIRONMENT, f"unknown CNI_COMMAND: {command or '(none)'}; want ADD, CHECK, DEL or VERSION")
    if missing := [name for name in REQUIRED[command] if not env.get(name)]:
        raise CniError(BAD_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    text = read()
    header = _header(text)
    if command == "CHECK" and header.version.startswith("0.3."):
        raise CniError(INCOMPATIBLE, "config version does not allow CHECK")
    call = Call(env["CNI_CONTAINERID"], env.get("CNI_NETNS", ""), env["CNI_IFNAME"], text)
    action = _ACTIONS.get((plugin, command))
    if action is None:
        raise CniError(BAD_ENVIRONMENT, f'there is no plugin "{plugin}"; want bridge, host-local or loopback')
    return await action(call)


def _header(text: str) -> config.Header:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise CniError(BAD_JSON, f"{SOURCE}:{error.lineno}:{error.colno}: {error.msg}") from None
    try:
        return config.parse_header(text, SOURCE)
    except ParseError as error:
        if '"cniVersion"' in error.message:
            raise CniError(INCOMPATIBLE, "incompatible CNI versions", str(error)) from None
        raise


@contextlib.contextmanager
def _namespace(path: str) -> Iterator[KernelNetNs]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CniError(UNKNOWN_CONTAINER, f'failed to open netns "{path}": {error.strerror}') from None
    netns = KernelNetNs(Path(path).name, descriptor)
    try:
        yield netns
    finally:
        netns.close()


async def _bridge_add(call: Call) -> dict[str, Any]:
    conf = config.parse(call.text, SOURCE)
    with _namespace(call.netns) as netns:
        wire = await CniAgent(Here(), os.urandom).join(conf, netns, call.netns, call.container_id, call.ifname)  # type: ignore[arg-type]
        return wire.result


async def _bridge_del(call: Call) -> None:
    conf, agent = config.parse(call.text, SOURCE), CniAgent(Here(), os.urandom)  # type: ignore[arg-type]
    if call.netns and Path(call.netns).exists():
        with _namespace(call.netns) as netns:
            netns.apply(bridge.delete(call.ifname))
    addresses = agent.leases.find(conf.name, call.container_id, call.ifname)
    await agent.leave(conf.name, call.container_id, addresses, "", conf.bridge, conf.ip_masq)


async def _bridge_check(call: Call) -> None:
    conf, here = config.parse(call.text, SOURCE), Here()
    agent = CniAgent(here, os.urandom)  # type: ignore[arg-type]
    leases = [
        lease
        for ip in agent.leases.find(conf.name, call.container_id, call.ifname)
        if (lease := host_local.lease_of(conf.ipam, ip)) is not None
    ]
    if not leases:
        raise CniError(OTHER, f"container {call.container_id} has no lease in network {conf.name}")
    with _namespace(call.netns) as netns:
        link = read_link(netns, call.ifname)
    if link is None or link.address != leases[0].address:
        seen = "is missing" if link is None else f"has {link.address or 'no address'}"
        raise CniError(OTHER, f"interface {call.ifname} in {call.netns} {seen}, its lease says {leases[0].address}")
    if read_link(here.netns, conf.bridge) is None:
        raise CniError(OTHER, f"bridge {conf.bridge} is missing")
    if conf.ip_masq:
        await here.run(["iptables", "-w", "5", "-t", "nat", "-S", bridge.chain_name(conf.name, call.container_id)])


def _ipam(call: Call) -> config.NetConf:
    """host-local gets the whole network's configuration, whichever plugin it belongs to; the addresses are all it reads."""
    whole = json.loads(call.text)
    return config.parse(json.dumps({**whole, "type": "bridge"}), SOURCE)


async def _host_local_add(call: Call) -> dict[str, Any]:
    conf, here = _ipam(call), Here()
    agent = CniAgent(here, os.urandom)  # type: ignore[arg-type]
    if held := agent.leases.find(conf.name, call.container_id, call.ifname):
        who = f"{held[0]} has been allocated to {call.container_id}"
        raise CniError(OTHER, f"failed to allocate for range 0: {who}, duplicate allocation is not allowed")
    return host_local.result(conf.version, agent.leases.reserve(conf, call.container_id, call.ifname), conf.ipam)


async def _host_local_del(call: Call) -> None:
    conf, agent = _ipam(call), CniAgent(Here(), os.urandom)  # type: ignore[arg-type]
    for address in agent.leases.find(conf.name, call.container_id, call.ifname):
        agent.leases.release(conf.name, address)


async def _host_local_check(call: Call) -> None:
    conf, agent = _ipam(call), CniAgent(Here(), os.urandom)  # type: ignore[arg-type]
    if not agent.leases.find(conf.name, call.container_id, call.ifname):
        raise CniError(OTHER, f"host-local: failed to find address added by container {call.container_id}")


async def _loopback_add(call: Call) -> dict[str, Any]:
    with _namespace(call.netns) as netns:
        netns.apply([SetLink(call.ifname, up=True)])
        link = read_link(netns, call.ifname)
    version = _header(call.text).version
    old = {"version": "4"} if version.startswith("0.") else {}
    interface = {"name": call.ifname, "mac": "00:00:00:00:00:00", "sandbox": call.netns}
    ips = [{**old, "interface": 0, "address": link.address}] if link and link.address else []
    return {"cniVersion": version, "interfaces": [interface], "ips": ips, "dns": {}}


async def _loopback_del(call: Call) -> None:
    if call.netns and Path(call.netns).exists():
        with _namespace(call.netns) as netns:
            netns.apply([SetLink(call.ifname, up=False)])


async def _loopback_check(call: Call) -> None:
    with _namespace(call.netns) as netns:
        link = read_link(netns, call.ifname)
    if link is None or not link.address:
        raise CniError(OTHER, f"{call.ifname} in {call.netns} is down")


_ACTIONS: dict[tuple[str, str], Callable[[Call], Awaitable[dict[str, Any] | None]]] = {
    ("bridge", "ADD"): _bridge_add,
    ("bridge", "DEL"): _bridge_del,
    ("bridge", "CHECK"): _bridge_check,
    ("host-local", "ADD"): _host_local_add,
    ("host-local", "DEL"): _host_local_del,
    ("host-local", "CHECK"): _host_local_check,
    ("loopback", "ADD"): _loopback_add,
    ("loopback", "DEL"): _loopback_del,
    ("loopback", "CHECK"): _loopback_check,
}


def install(root: Path) -> None:
    """Put the programs into /opt/cni/bin of the machine whose / is `root`. Raises GlassnetError when its disk refuses."""
    for plugin in ("bridge", "host-local", "loopback"):
        path = root / config.PLUGIN_PATH.lstrip("/") / plugin
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -m glassnet.agent.cni_plugin {plugin} "$@"\n')
            path.chmod(0o755)
        except OSError as error:
            raise GlassnetError(f"{config.PLUGIN_PATH}/{plugin}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
