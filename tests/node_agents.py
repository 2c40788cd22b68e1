"""`glassnet agent` as a process on a machine of namespaces, beside an API server over HTTPS that can go away and come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shlex
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from pods_machine import Node, node_of_namespaces

import glassnet
from glassnet.apiserver import auth, certs, http
from glassnet.apiserver.local import LocalApi
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store
from glassnet.kernel.netns import KernelNetNs
from glassnet.kernel.spawn import KernelProcess
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError
from glassnet.netstack.ops import AddAddress, AddRoute, AddVeth, SetLink

SOURCES = Path(glassnet.__file__).parent.parent
NAME, ADDRESS, POD_CIDR, VIRTUAL = "worker-7", "192.0.2.1", "10.244.1.0/24", "10.96.0.77"
Forbid = Callable[[str, Any], bool]


class Api:
    """The embedded server on a machine's loopback. `forbidden` are plurals of kinds that nobody may see; `asked` every request's path."""

    def __init__(self, node: Node, place: Path) -> None:
        self._node, self._place = node, place
        self._pems = certs.make(["localhost"], ["127.0.0.1"], datetime.now(UTC))
        for name, raw in (("ca", self._pems.ca), ("crt", self._pems.server), ("key", self._pems.server_key)):
            (place / name).write_bytes(raw)
        self._runner: web.AppRunner | None = None
        self.forbidden: set[str] = set()
        self.asked: list[str] = []
        self.authorize: Callable[[auth.User, web.Request], None] = auth.authorize
        self.port = 0
        self.here = False  # on the loopback of the test's own process instead: a gateway stands between
        self.empty()

    def empty(self) -> None:
        """A store with nothing in it, as after a disaster."""
        server = ApiServer(Store(":memory:"), now=lambda: datetime.now(UTC), random=random.Random(1), service_cidr="10.96.0.0/12")  # fmt: skip
        self.server, self.objects = server, LocalApi(server)

    async def start(self) -> None:
        who = partial(auth.authenticate, tokens=auth.Tokens(b"secret"), now=datetime.now(UTC))
        app = http.build_app(self.server, who, self.authorize)

        @web.middleware
        async def watched(request: web.Request, handler: Any) -> Any:
            self.asked.append(request.path_qs)
            plural = request.path.rstrip("/").rpartition("/")[2]
            if plural in self.forbidden:
                error = ApiError(
                    403, "Forbidden", f'{plural} is forbidden: User "agent" cannot list resource "{plural}"'
                )
                return web.json_response(error.to_status(), status=403)
            return await handler(request)

        app.middlewares.insert(0, watched)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        listening = socket.socket() if self.here else self.listening()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        tls = auth.ssl_context(self._place / "crt", self._place / "key", self._place / "ca")
        await web.SockSite(self._runner, listening, ssl_context=tls).start()

    def listening(self) -> socket.socket:
        """A socket on the machine."""
        return self._node.machine.netns.socket(socket.AF_INET, socket.SOCK_STREAM)

    def context(self) -> ssl.SSLContext:
        """What an administrator's client shows the server and believes of it."""
        made = ssl.create_default_context(cadata=self._pems.ca.decode())
        for name, raw in (("admin.crt", self._pems.admin), ("admin.key", self._pems.admin_key)):
            (self._place / name).write_bytes(raw)
        made.load_cert_chain(self._place / "admin.crt", self._place / "admin.key")
        return made

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def kubeconfig(self) -> str:
        url = f"https://127.0.0.1:{self.port}"
        return certs.kubeconfig("t", url, self._pems.ca, self._pems.admin, self._pems.admin_key)

    async def create(self, kind: Kind, body: dict[str, Any], namespace: str = "") -> None:
        if namespace:
            with contextlib.suppress(ApiError):
                await self.objects.create(kinds.NAMESPACE, "", {"metadata": {"name": namespace}})
        await self.objects.create(kind, namespace, body)

    async def node(self, name: str = NAME, cidr: str = POD_CIDR, address: str = ADDRESS) -> None:
        spec = {"podCIDR": cidr, "podCIDRs": [cidr]} if cidr else {}
        body = {"metadata": {"name": name}, "spec": spec}
        await self.create(kinds.NODE, body)
        where = {"status": {"addresses": [{"type": "InternalIP", "address": address}]}}
        await self.objects.patch(kinds.NODE, "", name, where, "status")

    async def itself(self) -> None:
        """The Service of the API, which every cluster has."""
        await self.create(kinds.SERVICE, {"metadata": {"name": "kubernetes"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}}, "default")  # fmt: skip
        await self.create(kinds.ENDPOINT_SLICE, slice_of("kubernetes", "192.0.2.1"), "default")

    async def service(self, name: str, virtual: str, *endpoints: str, port: int = 80) -> None:
        ports = [{"name": "http", "port": port, "protocol": "TCP"}]
        await self.create(kinds.SERVICE, {"metadata": {"name": name}, "spec": {"clusterIP": virtual, "ports": ports}}, "demo")  # fmt: skip
        await self.create(kinds.ENDPOINT_SLICE, slice_of(name, *endpoints), "demo")

    async def endpoints(self, name: str, *endpoints: str) -> None:
        await self.objects.patch(kinds.ENDPOINT_SLICE, "demo", f"{name}-x", {"endpoints": slice_of(name, *endpoints)["endpoints"]})  # fmt: skip


def slice_of(name: str, *endpoints: str) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{name}-x", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [one], "conditions": {"ready": True}} for one in endpoints],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


class AgentNode:
    """A machine with an uplink, an API server on its loopback, and the agent's process."""

    def __init__(self, node: Node, place: Path) -> None:
        self.node, self.machine, self.api = node, node.machine, Api(node, place)
        self.pods: dict[str, KernelNetNs] = {}
        self._servers: list[asyncio.Server] = []
        self.program = ["-m", "glassnet", "agent"]
        self.kubeconfig = ""  # another than the way straight to the API
        self.process: KernelProcess | None = None
        self.log = self.path("/srv/agent.log")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.config: dict[str, Any] = {
            "nodeName": NAME, "kubeconfig": "/srv/kubeconfig", "clusterCIDRs": ["10.244.0.0/16"],
            "cni": {"install": True, "binDir": "/srv/bin", "confDir": "/srv/net.d"},
            "proxy": {"config": {"mode": "nftables", "conntrack": {"maxPerCore": 0}, "oomScoreAdj": 0}},
        }  # fmt: skip

    def path(self, path: str) -> Path:
        return Path(self.machine.root) / path.lstrip("/")

    async def wire(self) -> None:
        """An uplink with the node's address, and the default route out of it."""
        await self.run("ip", "netns", "add", "outside")
        path = self.path("/run/netns/outside")
        self.pods["outside"] = outside = KernelNetNs("outside", os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        self.machine.netns.apply(
            [
                SetLink("lo", up=True),
                AddVeth("ens3", "eth0", peer_netns=outside.fd, mtu=1450),
                SetLink("ens3", up=True),
                AddAddress(f"{ADDRESS}/24", "ens3"),
            ]
        )
        outside.apply([SetLink("eth0", up=True), AddAddress("192.0.2.254/24", "eth0")])
        self.machine.netns.apply([AddRoute("default", gateway="192.0.2.254", dev="ens3")])

    async def run(self, *argv: str, stdin: str = "") -> str:
        return await self.node.run(*argv, stdin=stdin.encode())

    async def sh(self, line: str) -> str:
        return await self.run("sh", "-c", line)

    # -- the agent

    async def start(self, *words: str, wrapped: tuple[str, ...] = (), **environment: str) -> None:
        """Start the agent's process; `wrapped` is what it is started by."""
        (self.path("/srv") / "kubeconfig").write_text(self.kubeconfig or self.api.kubeconfig())
        self.path("/srv/agent.yaml").write_text(json.dumps(self.config))
        with open(self.log, "wb") as file:
            env = {"PYTHONPATH": str(SOURCES), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment}
            argv = [*wrapped, sys.executable, *self.program, "--config", "/srv/agent.yaml", *words]
            self.process = await self.machine.spawn(argv, env=env, stdout=file.fileno(), stderr=file.fileno())

    async def command(self, *words: str, status: int = 0) -> str:
        """Run `glassnet agent WORDS` to its end; what it printed."""
        line = f"PYTHONPATH={SOURCES} NO_COLOR=1 {sys.executable} -m glassnet agent {shlex.join(words)} 2>&1; ended=$?; echo; echo $ended"
        *lines, ended = (await self.sh(line)).rstrip().splitlines()
        text = "\n".join(lines).strip()
        assert int(ended) == status, text
        return text

    async def says(self, text: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, f"no {text!r} in\n{self.log.read_text()}"
            await asyncio.sleep(0.02)

    async def ready(self) -> None:
        await self.until(lambda: self.asked("readyz"), lambda found: found[0] == 200)

    async def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.signal(number)
        status = await asyncio.wait_for(self.process.wait(), 20)
        self.process = None
        return status

    async def asked(self, path: str, port: int = 10256) -> tuple[int, str]:
        """Status and body of a path of the agent's servers; (0, "") while nobody answers."""
        line = f"curl -s -m 5 -w '\\n%{{http_code}}' 'http://127.0.0.1:{port}/{path}' || true"
        body, _, status = (await self.sh(line)).rpartition("\n")
        return int(status or 0), body

    async def health(self) -> dict[str, Any]:
        _, body = await self.asked("healthz?verbose")
        found: dict[str, Any] = json.loads(body)
        return found

    async def until(self, ask: Callable[[], Any], good: Callable[[Any], Any], seconds: float = 20) -> Any:
        """Ask until the answer is good; that answer."""
        deadline = time.monotonic() + seconds
        while not good(found := await ask()):
            assert time.monotonic() < deadline, f"{found}\n{self.log.read_text()}"
            assert self.process is None or not await self._over(), self.log.read_text()
            await asyncio.sleep(0.05)
        return found

    def lists_since(self, number: int) -> Callable[[], Any]:
        """Asks whether Services, EndpointSlices and Nodes have all been asked for since that many requests."""

        async def asked() -> bool:
            later = self.api.asked[number:]
            return all(any(plural in path for path in later) for plural in ("services", "endpointslices", "nodes"))

        return asked

    async def _over(self) -> bool:
        assert self.process is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(self.process.wait())), 0.001)
            return True
        return False

    # -- pods

    async def pod(self, name: str, where: str = "/srv/bin", conf: dict[str, Any] | None = None) -> dict[str, Any]:
        """A container, joined by the program in the agent's directory and the network that it wrote; the plugin's answer."""
        if name not in self.pods:
            await self.run("ip", "netns", "add", name)
            path = self.path(f"/run/netns/{name}")
            self.pods[name] = KernelNetNs(name, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        return await self.call("ADD", name, where, conf)

    async def call(self, command: str, name: str, where: str = "/srv/bin", conf: dict[str, Any] | None = None) -> Any:
        if conf is None:
            network = json.loads(self.path("/srv/net.d/10-glassnet.conflist").read_text())
            conf = {"cniVersion": network["cniVersion"], "name": network["name"], **network["plugins"][0]}
        words = {"CNI_COMMAND": command, "CNI_CONTAINERID": name, "CNI_NETNS": f"/run/netns/{name}", "CNI_IFNAME": "eth0", "CNI_PATH": where}  # fmt: skip
        argv = ["env", *(f"{key}={value}" for key, value in words.items()), "sh", "-c", '"$0" || true', f"{where}/{conf['type']}"]  # fmt: skip
        answer = (await self.machine.run(argv, json.dumps(conf).encode(), timeout=20)).decode()
        return json.loads(answer) if answer.strip() else None

    async def serve(self, pod: str, text: str, port: int = 8080) -> None:
        """A server in a pod that says a word and closes."""

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(text.encode())
            writer.close()

        sock = self.pods[pod].socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("0.0.0.0", port))
        self._servers.append(await asyncio.start_server(answer, sock=sock))

    async def told(self, address: str, port: int = 80) -> str:
        """What a connection from the node hears; "" when there is none."""
        loop = asyncio.get_running_loop()
        with self.machine.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            try:
                await asyncio.wait_for(loop.sock_connect(sock, (address, port)), 2)
                return (await asyncio.wait_for(loop.sock_recv(sock, 100), 2)).decode()
            except (OSError, TimeoutError):
                return ""

    async def close(self) -> None:
        if self.process is not None:
            self.process.signal(signal.SIGKILL)
            await self.process.wait()
        for server in self._servers:
            server.close()
        for each in self.pods.values():
            each.close()
        await self.api.stop()


@contextlib.asynccontextmanager
async def agent_node(place: Path, *, api: bool = True, node: bool = True) -> AsyncIterator[AgentNode]:
    """A machine, its API server started and its Node object there unless told otherwise. Nothing is left of it."""
    async with node_of_namespaces() as machine:
        made = AgentNode(machine, place)
        try:
            await made.wire()
            await made.api.start()
            await made.api.itself()
            if node:
                await made.api.node()
            if not api:
                await made.api.stop()
            yield made
        finally:
            await made.close()
