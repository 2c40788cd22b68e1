"""A node on which real container runtimes call CNI plugins: Debian's containerd and podman, in namespaces of their own.

The node is a machine of namespaces (`glassnet.kernel.machine`): its network, files and processes are its own, and end with it. What the
runtimes need beyond that, and why:

* Cgroups. runc makes a cgroup for each container, and the kernel has but one tree of them. The node gets a directory below the test's own
  cgroup, shown as the root of a cgroup namespace; removed at the end. The directory has no controllers where the test's own cgroup has
  processes in it (cgroups(7), "no internal processes"), so runtimes are told to set no limits: `ctr run --cpu-shares 0` (1024 unless told),
  `pids_limit = 0` for podman (2048 unless told). The processes are in a leaf of it, for podman hands controllers down from its root.
* Places of its own instead of the machine's: where real containers may be (`/var/lib/containerd`, `/var/lib/containers`), where their
  configuration is, and where CNI is. With podman, Debian puts a network into /etc/cni/net.d, which no test wants to see.
* Only the plugins in /opt/cni/bin: Debian's containerd looks in /usr/lib/cni next, and would quietly run the reference's where one is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from glassnet.kernel.machine import LabMachine, MachineFactory, remember_proc
from glassnet.kernel.spawn import PATH, KernelProcess, Spawner
from glassnet.net.errors import CommandError

T = TypeVar("T")
REFERENCE, BUSYBOX = "/usr/lib/cni", "/bin/busybox"
PLUGINS, CONFIG, LEASES, RESULTS = "/opt/cni/bin", "/etc/cni/net.d", "/var/lib/cni/networks", "/var/lib/cni/results"
PLACES = ("/etc/containerd", "/etc/containers", CONFIG, PLUGINS, "/var/lib/cni", "/var/lib/containerd", "/var/lib/containers")  # fmt: skip
NEEDS = {
    "/usr/bin/containerd": "containerd",
    "/usr/bin/ctr": "containerd",
    "/usr/sbin/runc": "runc",
    "/usr/bin/podman": "podman",
    BUSYBOX: "busybox-static",
    f"{REFERENCE}/bridge": "containernetworking-plugins",
}
APPLETS = ("sh", "sleep", "ip", "ping", "wget", "httpd", "cat", "true")
NODE_ADDRESS, OUTSIDE_ADDRESS = "192.0.2.1", "192.0.2.2"

HIERARCHY, CGROUPS, CGROUP_SPACE = "/run/hierarchy", "/sys/fs/cgroup", "/run/cgroup-namespace"
# Each mount is made inside a cgroup namespace: made outside, its options would count for the whole machine (cgroups(7), "nsdelegate").
SHOW_HIERARCHY = f"mkdir {HIERARCHY} && exec unshare --cgroup mount -t cgroup2 cgroup2 {HIERARCHY}"
MAKE_CGROUP = f"""
set -e
mkdir {HIERARCHY}/$0
echo 0 > {HIERARCHY}/$0/cgroup.procs
umount --lazy {HIERARCHY}
exec unshare --cgroup sh -ec '
    touch {CGROUP_SPACE}
    mount --bind /proc/self/ns/cgroup {CGROUP_SPACE}
    mount -t cgroup2 cgroup2 {CGROUPS}
    mkdir {CGROUPS}/runtimes
    echo 0 > {CGROUPS}/runtimes/cgroup.procs
'
"""
ENTER_CGROUP = f'echo 0 > {CGROUPS}/runtimes/cgroup.procs && exec nsenter --cgroup={CGROUP_SPACE} -- "$@"'

CONTAINERD_CONFIG = """
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
"""
PODMAN_CONFIG = f"""
[containers]
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "cni"
cni_plugin_dirs = ["{PLUGINS}"]
network_config_dir = "{CONFIG}"
"""
# vfs: the kernel lays no overlay on another, and the node's files are one already
STORAGE_CONFIG = """
[storage]
driver = "vfs"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
"""


class Plugins(NamedTuple):
    """Plugins that a node can have in /opt/cni/bin, and what is known of them."""

    name: str
    install: Callable[[RuntimeNode], Awaitable[None]]  # what it starts on the node ends with it
    types: frozenset[str]
    forgets_masquerade: bool  # on a DEL that names no namespace: the container's chain stays in table nat

    def __str__(self) -> str:
        return self.name


class RuntimeNode:
    """A node: its machine, and programs run on it."""

    def __init__(self, machine: LabMachine, plugins: Plugins, name: str) -> None:
        self.machine, self.plugins = machine, plugins
        self.name = name  # of its cgroup, and of its place in /dev/shm
        self.at_end: list[Callable[[], Awaitable[None]]] = []  # called before the node goes

    @property
    def root(self) -> Path:
        """The node's / as the test sees it."""
        return self.machine.root

    async def run(self, *argv: str, timeout: float = 20) -> str:
        """Run a program on the node; what it printed. Raises CommandError."""
        return (await self.machine.run(argv, timeout=timeout)).decode()

    async def run_in_cgroup(self, *argv: str) -> str:
        """As `run`, in the node's cgroups: for what starts containers."""
        return await self.run("env", *_environment(), "sh", "-c", ENTER_CGROUP, "sh", *argv)

    async def spawn_in_cgroup(self, *argv: str, log: str) -> KernelProcess:
        """Start a program in the node's cgroups; what it says goes to a file of the node."""
        words = ["env", *_environment(), "sh", "-c", ENTER_CGROUP, "sh", *argv]
        with open(self.at(log), "wb") as file:
            env = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}
            return await self.machine.spawn(words, env=env, stdout=file.fileno(), stderr=file.fileno())

    def at(self, path: str) -> Path:
        """A path of the node as the test sees it."""
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str) -> None:
        """Write a file on the node."""
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_text(text)

    def names(self, path: str) -> list[str]:
        """The names in a directory of the node; none where there is no directory."""
        return sorted(os.listdir(self.at(path))) if self.at(path).is_dir() else []

    def rootfs(self, name: str) -> str:
        """The files of a container, made of busybox; the page of its web server is its name."""
        path = f"/run/rootfs/{name}"
        place = self.at(path)
        if not place.exists():
            for directory in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "www"):
                (place / directory).mkdir(parents=True)
            shutil.copy(BUSYBOX, place / "bin/busybox")
            for library in _libraries(BUSYBOX):
                (place / library[1:]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, place / library[1:])
            for applet in APPLETS:
                (place / "bin" / applet).symlink_to("busybox")
            (place / "www/index.html").write_text(f"{name}\n")
        return path

    async def links(self) -> list[str]:
        """The names of the node's links."""
        return [link["ifname"] for link in json.loads(await self.run("ip", "-j", "link"))]

    async def rules(self) -> list[str]:
        """The node's iptables rules, as iptables-save writes them."""
        return [line for line in (await self.run("iptables-save")).splitlines() if not line.startswith("#")]

    async def outside(self) -> None:
        """Connect the node to a namespace `outside`, as to a network it is on."""
        for line in (
            "netns add outside",
            "link add uplink type veth peer name eth0 netns outside",
            f"addr add {NODE_ADDRESS}/24 dev uplink",
            "link set uplink up",
            f"-n outside addr add {OUTSIDE_ADDRESS}/24 dev eth0",
            "-n outside link set eth0 up",
        ):
            await self.run("ip", *line.split())


def _libraries(program: str) -> list[str]:
    """The libraries a program loads: none of the package busybox-static's, three of the package busybox's. A machine has either."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return re.findall(r"^\s+(?:\S+ => )?(/\S+)", told, re.MULTILINE)


async def install_reference(node: RuntimeNode) -> None:
    """Put the reference plugins of Debian's containernetworking-plugins into the node's /opt/cni/bin."""
    for program in node.names("/run/reference"):
        node.at(f"{PLUGINS}/{program}").symlink_to(f"/run/reference/{program}")


REFERENCE_PLUGINS = Plugins(
    "reference",
    install_reference,
    frozenset({"bridge", "host-local", "loopback", "portmap", "firewall", "tuning"}),
    forgets_masquerade=True,  # of version 1.1.1: without a namespace its bridge calls host-local, and no more
)


@contextlib.asynccontextmanager
async def runtime_node(plugins: Plugins) -> AsyncIterator[RuntimeNode]:
    """A node with plugins in /opt/cni/bin; nothing is left of it."""
    missing = {package for program, package in NEEDS.items() if not os.access(program, os.X_OK)}
    assert not missing, f"missing: apt-get install --no-install-recommends {' '.join(sorted(missing))}"
    remember_proc()
    place = Path(tempfile.mkdtemp(prefix="glassnet-test-", dir="/dev/shm"))
    spawner = Spawner()
    try:
        machine = await MachineFactory(spawner, place, rootless=False).machine("node-a", {"/etc/hostname": "node-a\n"})
        try:
            node = RuntimeNode(machine, plugins, place.name)
            async with _own_cgroups(node):
                try:
                    await _own_places(node)
                    await plugins.install(node)
                    yield node
                finally:
                    for end in node.at_end:
                        await end()
                    await machine.close()
        finally:
            await machine.close()
    finally:
        spawner.close()
        shutil.rmtree(place)


@contextlib.asynccontextmanager
async def _own_cgroups(node: RuntimeNode) -> AsyncIterator[None]:
    """Give the node a part of the tree of cgroups; what is inside must have ended its processes."""
    await node.run("sh", "-c", SHOW_HIERARCHY)
    hierarchy = os.open(node.at(HIERARCHY), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        await node.run("sh", "-c", MAKE_CGROUP, node.name)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            for _, directories, _, descriptor in os.fwalk(node.name, topdown=False, dir_fd=hierarchy):
                for directory in directories:
                    os.rmdir(directory, dir_fd=descriptor)
            os.rmdir(node.name, dir_fd=hierarchy)
        os.close(hierarchy)


async def _own_places(node: RuntimeNode) -> None:
    """Hide the machine's containers, configurations and plugins; the reference plugins lie in /run/reference."""
    await node.run("sh", "-ec", f"mkdir /run/reference && mount --bind {REFERENCE} /run/reference")
    for path in (REFERENCE, *PLACES):
        await node.run("sh", "-ec", 'mkdir -p "$0" && mount -t tmpfs tmpfs "$0"', path)


def _environment() -> list[str]:
    """NAME=VALUE words that programs on the node need besides the usual: where this package is, when the test was told so."""
    return [f"PYTHONPATH={os.environ['PYTHONPATH']}"] if "PYTHONPATH" in os.environ else []


async def poll(check: Callable[[], Awaitable[T]], what: str, seconds: float = 10) -> T:
    """Ask until the answer is true; that answer."""
    deadline = time.monotonic() + seconds
    while not (answer := await check()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.02)
    return answer


class Ctr:
    """containerd, commanded by its own ctr."""

    def __init__(self, node: RuntimeNode) -> None:
        self.node = node
        self._attached: dict[str, KernelProcess] = {}
        self._execs = 0

    async def __call__(self, *words: str) -> str:
        """Run `ctr WORDS`; what it printed. Raises CommandError."""
        return await self.node.run_in_cgroup("ctr", *words)

    async def run(self, name: str, *command: str, cni: bool = True) -> None:
        """Start a container by `ctr run`, which stays: after the container's end it is what calls the plugins with DEL."""
        words = ["ctr", "run", "--rm", "--cpu-shares", "0", *(["--cni"] if cni else [])]
        log = f"/run/{name}.log"
        process = await self.node.spawn_in_cgroup(*words, "--rootfs", self.node.rootfs(name), name, *command, log=log)
        self._attached[name] = process
        ended = asyncio.ensure_future(process.wait())

        async def started() -> bool:
            if ended.done():
                raise CommandError(words, ended.result(), self.node.at(log).read_text())
            return await self.status(name) == "RUNNING"  # and CNI is done: ctr starts the task after ADD

        await poll(started, f"container {name} runs")

    async def start(self, name: str, *command: str) -> None:
        """Start a container by `ctr run --detach`: nobody calls the plugins with DEL then."""
        words = ["run", "--detach", "--cpu-shares", "0", "--cni", "--rootfs", self.node.rootfs(name), name, *command]
        await self(*words)

    async def stop(self, name: str) -> None:
        """Kill and delete a container that was started detached."""
        await self("task", "kill", "--signal", "SIGKILL", name)
        await poll(lambda: self._has("STOPPED", name), f"container {name} stops")
        await self("task", "delete", name)
        await self("container", "delete", name)

    async def _has(self, status: str, name: str) -> bool:
        return await self.status(name) == status

    async def status(self, name: str) -> str:
        """What containerd says of a container's task; empty where there is none."""
        rows = (line.split() for line in (await self("task", "ls")).splitlines())
        return next((row[2] for row in rows if row[0] == name), "")

    async def exec(self, name: str, *command: str) -> str:
        """Run a program in a container; what it printed, by way of a file: ctr loses what a quick one prints. Raises CommandError."""
        self._execs += 1
        out = f"/tmp/exec-{self._execs}"
        line = f'exec "$0" "$@" >{out} 2>&1'
        await self("task", "exec", "--exec-id", f"exec-{self._execs}", name, "/bin/sh", "-c", line, *command)
        return self.node.at(self.node.rootfs(name) + out).read_text()

    async def kill(self, name: str) -> int:
        """Kill a container by `ctr task kill`; the status of its `ctr run`, which has then deleted task and container."""
        await self("task", "kill", "--signal", "SIGKILL", name)
        return await asyncio.wait_for(self._attached.pop(name).wait(), 10)


@contextlib.asynccontextmanager
async def containerd(node: RuntimeNode) -> AsyncIterator[Ctr]:
    """containerd running on a node."""
    node.write("/etc/containerd/config.toml", CONTAINERD_CONFIG)
    log = "/run/containerd.log"
    process = await node.spawn_in_cgroup("containerd", log=log)
    ended = asyncio.ensure_future(process.wait())
    ctr = Ctr(node)

    async def serves() -> bool:
        if ended.done():
            raise CommandError(["containerd"], ended.result(), node.at(log).read_text())
        with contextlib.suppress(CommandError):
            return bool(await ctr("version"))
        return False

    try:
        await poll(serves, "containerd answers")
        yield ctr
    finally:
        process.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.shield(ended), 5)
        except TimeoutError:
            await process.kill()


class Podman:
    """podman on a node, with CNI."""

    def __init__(self, node: RuntimeNode) -> None:
        self.node = node
        node.write("/etc/containers/containers.conf", PODMAN_CONFIG)
        node.write("/etc/containers/storage.conf", STORAGE_CONFIG)

    async def __call__(self, *words: str) -> str:
        """Run `podman WORDS`; what it printed. Raises CommandError."""
        return await self.node.run_in_cgroup("podman", *words)

    async def run(self, name: str, *command: str, options: tuple[str, ...] = ()) -> str:
        """Start a container by `podman run`; its id. Debian's podman leaves out the right that a ping takes."""
        words = [
            "run",
            "--detach",
            "--cap-add",
            "NET_RAW",
            "--name",
            name,
            *options,
            "--rootfs",
            self.node.rootfs(name),
            *command,
        ]
        return (await self(*words)).strip()

    async def exec(self, name: str, *command: str) -> str:
        """Run a program in a container; what it printed. Raises CommandError."""
        return await self("exec", name, *command)

    async def addresses(self, name: str) -> dict[str, str]:
        """A container's address in each of its networks, as podman has it."""
        networks = json.loads(await self("inspect", "--format", "{{json .NetworkSettings.Networks}}", name))
        return {network: entry["IPAddress"] for network, entry in networks.items()}
