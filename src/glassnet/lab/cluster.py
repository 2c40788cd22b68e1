"""A running lab put together: machines, API server, control plane, and the agents of every worker."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import secrets
import socket
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from glassnet.agent.cluster.control_plane import ControlPlane
from glassnet.agent.live_sender import ask_of
from glassnet.agent.live_trace import send_traced
from glassnet.agent.pods.kubelet import Kubelet, NodeConfig, dispatch, heartbeats, look_for_networks
from glassnet.agent.proxy.loop import MODES, ProxySettings, cluster_cidr_detectors
from glassnet.agent.snapshots import take
from glassnet.apiserver import auth, certs, discovery, http, openapi, roles, streams
from glassnet.apiserver.local import LocalApi, feed
from glassnet.apiserver.request import Request
from glassnet.apiserver.server import MERGE_PATCH, ApiServer
from glassnet.apiserver.store import Store
from glassnet.client import kubeconfig
from glassnet.client.rest import RestApi
from glassnet.kernel.api import Host, NetNs
from glassnet.kernel.archive import write_archive
from glassnet.kernel.machine import LabMachine
from glassnet.kernel.netns import own_netns
from glassnet.kube import kinds
from glassnet.kube.view import Event, Key, View
from glassnet.lab import addons, control, readiness
from glassnet.lab.addons import names
from glassnet.lab.addons.cloud import Cloud, Place
from glassnet.lab.addons.ingress import Ingresses
from glassnet.lab.agents import NONE, Agents
from glassnet.lab.build import Lab, build
from glassnet.lab.faults.journal import Faults
from glassnet.lab.faults.scene import Ground
from glassnet.lab.pods.hosted import Part
from glassnet.lab.pods.runtime import LabRuntime
from glassnet.lab.pods.streams import LabStreams
from glassnet.lab.profiles.cloud import OUTSIDE, targets
from glassnet.lab.settings import Settings
from glassnet.lab.state import LabDir
from glassnet.lab.topology import MachineSpec, Topology
from glassnet.lab.weight import weight
from glassnet.net import address
from glassnet.net.errors import ApiError, GlassnetError, LabError
from glassnet.netstack.ops import SetLink
from glassnet.proxy.backends.iptables_layouts import LAYOUTS
from glassnet.tracer.redact import KEPT

API_PORT = 6443
SETTLING = 10.0  # seconds `glassnet up` waits for rules once all pods are Ready
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


class Cluster:
    """Everything that runs in the lab's process. `build()`, then `serve()`."""

    def __init__(
        self, lab: LabDir, settings: Settings, topology: Topology, place: Path, rootless: bool, listener: socket.socket
    ) -> None:
        self._lab, self._settings, self._topology, self._place, self._rootless = (
            lab,
            settings,
            topology,
            place,
            rootless,
        )
        self._listener = listener
        self._port: int = listener.getsockname()[1]
        self._tasks: list[asyncio.Task[None]] = []
        self._awake = asyncio.Event()
        self._machines: Lab | None = None
        self._kubelets: dict[str, Kubelet] = {}
        self._agents: Agents | None = None
        self._cloud: Cloud | None = None
        self.view = View()
        self.server = ApiServer(
            Store(str(lab.store)), now=utc_now, random=random.Random(), service_cidr=topology.service_cidr
        )
        self.api = LocalApi(self.server)
        self._certs = self._certificates()

    def _certificates(self) -> certs.Certificates:
        names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        controllers = self._topology.of_role("controller")
        addresses = [
            "127.0.0.1",
            self._topology.service_ip,
            *(c.address for c in controllers),
            *(c.public for c in controllers),
        ]
        made = certs.make([*names, *(c.name for c in controllers)], addresses, utc_now())
        for name, text in (("ca.crt", made.ca), ("apiserver.crt", made.server), ("apiserver.key", made.server_key)):
            self._lab.write(name, text.decode())
        config = certs.kubeconfig(
            self._lab.name, f"https://127.0.0.1:{self._port}", made.ca, made.admin, made.admin_key
        )
        self._lab.write("kubeconfig", config)
        return made

    async def build(self) -> None:
        """Make the machines."""
        self._machines = await build(self._topology, self._place, self._rootless)

    async def serve(self) -> None:
        """Start the API, the controllers, and each node's agents."""
        assert self._machines is not None
        self._refresh_after_a_crash()
        feed(self.server, self.view)
        self.view.subscribe(self._on_event, replay=False)
        self._control_plane = ControlPlane(
            self.view,
            self.api,
            cluster_cidr=self._topology.cluster_cidr,
            node_mask=self._topology.node_mask,
            now=utc_now,
            ca_pem=self._certs.ca.decode(),
        )
        self._start(self._control_plane.run())
        workers = self._topology.of_role("worker")
        self._agents = self._agents_of(workers)
        runtimes = {spec.name: self._runtime(self._machines.machines[spec.name]) for spec in workers}
        await self._publish_api()
        if self._topology.dns_ip:
            await self._publish_names()
        for addon in self._settings.addons:
            await self._publish(addon)
        await self._open_ports(LabStreams(runtimes, self.view))
        self._kubelets = {spec.name: self._kubelet(spec, runtimes[spec.name]) for spec in workers}
        for kubelet in self._kubelets.values():
            await kubelet.register()
        await self._agents.start()
        self._cloud = self._cloud_of(self._agents.view, workers)
        if self._cloud is not None:
            self._start(self._cloud.run())
        dispatch(self.view, self._kubelets)
        self._start(heartbeats(self._kubelets))
        if self._settings.cni == NONE:
            self._start(look_for_networks(self._kubelets))
        faults = Faults(self._lab, Ground(self._machines.machines, self._topology, self.view, self.api))
        answers: dict[str, Callable[..., Any]] = {"status": self.status, "proxy": self.switch_proxy}
        answers |= {"snapshot": self.snapshot, "live": self.live, "break": faults.break_, "mend": faults.mend}
        self._control = await control.serve(self._lab, answers)

    def _runtime(self, machine: LabMachine) -> LabRuntime:
        """A node's container runtime, which knows the parts of glassnet that work in this process."""
        parts: dict[tuple[str, ...], Part] = {
            ("ingress", "serve"): partial(Ingresses(API_PORT, utc_now).serve, machine)
        }
        if self._agents is not None and self._agents.names is not None:
            parts["dns", "serve"] = partial(self._agents.names.serve, machine)
        return LabRuntime(machine, machine.name, parts=parts)

    async def switch_proxy(self, mode: str, layout: str = "") -> dict[str, Any]:
        """Have every node's proxy in another mode or layout ("": as it is); the answer to `glassnet lab proxy`."""
        if mode not in (*MODES, NONE) or self._agents is None:
            return {"error": f"no such proxy mode: {mode!r}"}
        layout = layout or self._settings.iptables_layout
        if layout not in LAYOUTS:
            return {"error": f"no such layout of iptables chains: {layout!r}; there are: {', '.join(LAYOUTS)}"}
        try:
            seconds = await self._agents.switch(mode, layout)
        except LabError as error:
            return {"error": str(error)}
        self._settings = msgspec.structs.replace(self._settings, proxy=mode, iptables_layout=layout)
        self._lab.write("settings.json", self._settings.to_json())  # a lab that is resumed has it too
        return {"mode": mode, "layout": layout, "seconds": seconds}

    async def snapshot(self) -> dict[str, Any]:
        """Dump every machine and the API objects into a file of the lab; the answer to `glassnet snapshot` names it."""
        assert self._machines is not None
        kept = {
            kind.plural: [json.loads(raw) for _, raw in self.server.store.all(kind)]
            for kind in kinds.ALL
            if kind.plural in KEPT
        }
        workers = {spec.name for spec in self._topology.of_role("worker")}
        machines: dict[str, tuple[Host, bool]] = {n: (m, n in workers) for n, m in self._machines.machines.items()}
        files = await take(machines, kept, utc_now())
        place = self._lab.path / "snapshot.tar.gz"
        await asyncio.to_thread(write_archive, str(place), files)
        return {"file": str(place)}

    async def live(self, flow: dict[str, Any], machine: str, pod: str) -> dict[str, Any]:
        """Send a packet with the kernel's trace on everywhere; the answer to `glassnet trace --live`."""
        assert self._machines is not None
        try:
            return await send_traced(self._machines.machines, ask_of(flow), machine, pod)
        except GlassnetError as error:
            return {"error": str(error)}

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def broken(self) -> None:
        """Wait until one of the loops ends, which none should; raises what ended it."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        next(iter(done)).result()

    def _kubelet(self, spec: MachineSpec, runtime: LabRuntime) -> Kubelet:
        assert self._machines is not None
        config = NodeConfig(
            spec.name,
            spec.address,
            spec.public,
            spec.pod_cidr,
            spec.labels,
            cluster_dns=self._topology.dns_ip,
            cluster_cidrs=self._topology.cluster_cidrs,
            address6=spec.address6,
            pod_cidr6=spec.pod_cidr6 if spec.pod_cidr else "",
        )
        machine = self._machines.machines[spec.name]
        own = self._settings.cni != NONE
        return Kubelet(
            self.view, self.api, machine, runtime, config, now=utc_now, permanent_neighbours=own, own_network=own
        )

    def _agents_of(self, workers: Sequence[MachineSpec]) -> Agents:
        """The proxies of the workers and the router's routes, by way of the API's port on the lab's own loopback."""
        assert self._machines is not None
        made = self._certs
        place = f"https://127.0.0.1:{API_PORT}"
        config = certs.kubeconfig(self._lab.name, place, made.ca, made.agent, made.agent_key, "agent")
        self._lab.write("agent.kubeconfig", config)
        settings = ProxySettings(
            mode=MODES[0] if self._settings.proxy == NONE else self._settings.proxy,
            families=(address.IPV4, address.IPV6) if self._topology.dual else (address.IPV4,),
            detectors=cluster_cidr_detectors(self._topology.local_cidrs),
            min_period=0.03,
            iptables_layout=self._settings.iptables_layout,
        )
        machines = self._machines.machines
        return Agents(
            RestApi(kubeconfig.load(str(self._lab.path / "agent.kubeconfig"))),
            {spec.name: machines[spec.name] for spec in workers},
            machines[self._topology.router].netns if self._settings.routes != NONE else None,
            settings,
            proxy=self._settings.proxy != NONE,
            names=self._settings.dns != NONE,
            table=self._topology.route_table,
            run=self._start,
            now=utc_now,
        )

    def _cloud_of(self, view: View, workers: Sequence[MachineSpec]) -> Cloud | None:
        """The cloud's load balancer, in a lab that has one; it writes with rights of its own."""
        assert self._machines is not None
        balancer, made, machines = self._topology.balancer, self._certs, self._machines.machines
        if balancer.kind == NONE:
            return None
        config = certs.kubeconfig(
            self._lab.name, f"https://127.0.0.1:{API_PORT}", made.ca, made.cloud, made.cloud_key, "cloud"
        )
        self._lab.write("cloud.kubeconfig", config)
        own, router = machines[self._topology.of_role("cloud")[0].name], machines[self._topology.router]
        place = Place(
            own, own.netns, router, targets(workers), balancer.kind, balancer.addresses, self._settings.cloud_speed, OUTSIDE,
        )  # fmt: skip
        return Cloud(view, RestApi(kubeconfig.load(str(self._lab.path / "cloud.kubeconfig"))), place, utc_now)

    def _refresh_after_a_crash(self) -> None:
        """No pod runs yet: those a killed lab left behind are not Ready until they do again; what was being deleted is gone."""
        for key, raw in self.server.store.all(kinds.POD):
            pod = json.loads(raw)
            if pod["metadata"].get("deletionTimestamp"):
                self.server.remove(kinds.POD, key, pod, Request())
                continue
            conditions = [
                {**c, "status": "False"} if c["type"] in ("Ready", "ContainersReady") else c
                for c in (pod.get("status") or {}).get("conditions") or []
            ]
            if pod.get("status", {}).get("phase") == "Running":
                self.server.patch(
                    kinds.POD,
                    key.namespace,
                    key.name,
                    {"status": {"conditions": conditions}},
                    MERGE_PATCH,
                    None,
                    "status",
                )

    # -- the API

    async def _publish_api(self) -> None:
        """The Service `kubernetes` of `default`, leading to the controllers."""
        addresses = [spec.address for spec in self._topology.of_role("controller")]
        service = {"metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
                   "spec": {"clusterIP": self._topology.service_ip, "ports": [{"name": "https", "port": 443, "targetPort": API_PORT}]}}  # fmt: skip
        piece = {"metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}}, "addressType": "IPv4",
                 "ports": [{"name": "https", "port": API_PORT}], "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses]}  # fmt: skip
        old = {
            "metadata": {"name": "kubernetes"},
            "subsets": [{"addresses": [{"ip": a} for a in addresses], "ports": [{"name": "https", "port": API_PORT}]}],
        }
        ranges = {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": list(filter(None, (self._topology.service_cidr, self._topology.service_cidr6)))}}  # fmt: skip
        if self.view.get(kinds.SERVICE_CIDR, Key("", "kubernetes")) is None:
            await self.api.create(kinds.SERVICE_CIDR, "", ranges)
        for kind, body in ((kinds.SERVICE, service), (kinds.ENDPOINT_SLICE, piece), (kinds.ENDPOINTS, old)):
            if self.view.get(kind, Key("default", "kubernetes")) is None:
                await self.api.create(kind, "default", body)

    async def _publish_names(self) -> None:
        """Cluster DNS, and the server on `internet` that it asks for other names."""
        assert self._machines is not None
        outside = self._topology.of_role("internet")[0]
        self._start(names.serve_outside(self._machines.machines[outside.name], outside.address))
        await self._publish("dns", dns_ip=self._topology.dns_ip, upstream=outside.address)

    async def _publish(self, addon: str, **words: str) -> None:
        """Create the objects of an addon that are not there."""
        for manifest in addons.manifests(addon, **words):
            body = manifest.body
            kind, meta = kinds.BY_API_KIND[body["apiVersion"], body["kind"]], body["metadata"]
            namespace = meta.get("namespace", "")
            if self.server.store.get(kind, Key(namespace, meta["name"])) is None:
                await self.api.create(kind, namespace, body)

    def _token_secret(self) -> bytes:
        """What tokens of service accounts are signed with; it outlives a crash, as the accounts do."""
        place = self._lab.path / "tokens.key"
        if not place.exists():
            self._lab.write(place.name, secrets.token_hex(32))
        return bytes.fromhex(place.read_text())

    async def _open_ports(self, pods: LabStreams) -> None:
        """The API on the host's loopback, on every controller, and on the loopback of the lab's own namespace, where its agents are."""
        assert self._machines is not None
        tokens = auth.Tokens(self._token_secret())
        self.api.issue_token = partial(discovery.issue_token, tokens, self.server)
        routes = [*discovery.routes(tokens), *openapi.routes(self.server.schema), *streams.routes(pods)]
        app = http.build_app(
            self.server,
            lambda request: auth.authenticate(request, tokens, utc_now()),
            roles.authorizer(self.server),
            routes,
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        context = auth.ssl_context(
            self._lab.path / "apiserver.crt", self._lab.path / "apiserver.key", self._lab.path / "ca.crt"
        )
        controllers = self._topology.of_role("controller")
        places: list[tuple[NetNs, str]] = [(self._machines.machines[c.name].netns, c.address) for c in controllers]
        own = own_netns()
        own.apply([SetLink("lo", up=True)])
        sockets = [self._listener]
        for netns, place in [*places, (own, "127.0.0.1")]:
            sock = netns.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((place, API_PORT))
            sock.listen(128)
            sockets.append(sock)
        own.close()
        for sock in sockets:
            await web.SockSite(runner, sock, ssl_context=context).start()

    # -- manifests and readiness

    async def apply(self, body: dict[str, Any]) -> None:
        """Create an object as `kubectl apply` would, or patch the one there is. Raises ApiError."""
        kind = kinds.BY_API_KIND.get((str(body.get("apiVersion")), str(body.get("kind"))))
        if kind is None:
            raise ApiError(404, "NotFound", f'no kind "{body.get("kind")}" in "{body.get("apiVersion")}" here')
        metadata = dict(body.get("metadata") or {})
        namespace = str(metadata.get("namespace") or "default") if kind.namespaced else ""
        noted = json.dumps(
            {
                **body,
                "metadata": {**({"annotations": {}} | metadata), **({"namespace": namespace} if namespace else {})},
            },
            separators=(",", ":"),
        )
        metadata["annotations"] = {**(metadata.get("annotations") or {}), LAST_APPLIED: noted + "\n"}
        request = Request(manager="kubectl-client-side-apply", validation="Strict")
        obj = {**body, "metadata": metadata}
        if metadata.get("name") and self.server.store.get(kind, Key(namespace, metadata["name"])) is not None:
            self.server.patch(
                kind, namespace, metadata["name"], {k: v for k, v in obj.items() if k != "status"}, MERGE_PATCH, request
            )
        else:
            self.server.create(kind, namespace, obj, request)
        await asyncio.sleep(0)

    def _on_event(self, event: Event) -> None:
        if event.kind is kinds.POD:
            self._awake.set()

    async def changed(self, timeout: float) -> None:
        """Until a pod changes, for `timeout` seconds at most."""
        self._awake.clear()
        try:
            await asyncio.wait_for(self._awake.wait(), timeout)
        except TimeoutError:
            return

    def waiting(self) -> list[str]:
        """Pods that are still on their way, and workloads whose pods are not there yet, by name."""
        missing = [
            str(key) for key, d in self.view.deployments.items() if d.status.observed_generation < d.metadata.generation
        ]
        missing += [str(key) for kind in (kinds.REPLICA_SET, kinds.STATEFUL_SET, kinds.DAEMON_SET, kinds.REPLICATION_CONTROLLER)
                    for key, w in ((Key(o.metadata.namespace, o.metadata.name), o) for o in self.view.all(kind))
                    if w.status.observed_generation < w.metadata.generation]  # fmt: skip
        pods = readiness.waits(self.view.pods.values(), utc_now())
        return missing + [f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in pods]

    async def settled(self) -> None:
        """Until the kernel of every node has what the API says now; for some seconds at most, as workloads may change without end."""
        assert self._agents is not None
        deadline = asyncio.get_running_loop().time() + SETTLING
        while not (
            self._control_plane.idle()
            and self._agents.settled()
            and self._agents.follows(self.view)
            and (self._cloud is None or self._cloud.settled())
        ):
            if asyncio.get_running_loop().time() > deadline:
                log.warning("some nodes' rules are not in place yet; `glassnet up` waits no longer")
                return
            await asyncio.sleep(0.005)

    def ready(self) -> tuple[int, int]:
        """(pods Ready, pods)."""
        return sum(pod.ready() for pod in self.view.pods.values()), len(self.view.pods)

    # -- what it says of itself

    def machines(self) -> dict[str, dict[str, Any]]:
        """name -> pid inside the lab, role."""
        assert self._machines is not None
        return {
            spec.name: {"pid": self._machines.machines[spec.name].pid, "role": spec.role}
            for spec in self._topology.machines
        }

    def summary(self) -> dict[str, Any]:
        """What `glassnet up` prints at its end."""
        ready, total = self.ready()
        return {
            "machines": len(self._topology.machines),
            "pods": total,
            "ready": ready,
            "unready": readiness.unready(self.view.pods.values()),
            "kubeconfig": str(self._lab.kubeconfig),
            "public": self._topology.of_role("worker")[0].public,
            "worker": self._topology.of_role("worker")[0].name,
            "proxy": self._settings.proxy,
        }

    def status(self) -> dict[str, Any]:
        """What `glassnet status` shows."""
        ready, total = self.ready()
        rss, pss, processes = weight()
        pods = {name: sum(1 for _ in self.view.pods_on(name)) for name in self._kubelets}
        return {
            "name": self._lab.name,
            "state": "up",
            "profile": self._settings.profile,
            "proxy": self._settings.proxy,
            "iptables_layout": self._settings.iptables_layout,
            "cni": self._settings.cni,
            "routes": self._settings.routes,
            "api_port": self._port,
            "kubeconfig": str(self._lab.kubeconfig),
            "pods": total,
            "ready": ready,
            "services": len(self.view.services),
            "memory_mb": round(pss, 1),
            "rss_mb": round(rss, 1),
            "processes": processes,
            "load_balancer": self._cloud.standing() if self._cloud else {"kind": NONE},
            "watches": self._agents.standing() if self._agents else [],
            "rootless": self._rootless,
            "machines": [
                {
                    "name": m.name,
                    "role": m.role,
                    "address": m.address,
                    "public": m.public,
                    "pod_cidr": m.pod_cidr,
                    "pods": pods.get(m.name, ""),
                }
                for m in self._topology.machines
            ],
        }
