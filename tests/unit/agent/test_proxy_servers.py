"""The proxy's HTTP servers on real sockets, and its metrics as Prometheus reads them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from glassnet.agent.proxy.metrics import ProxyMetrics
from glassnet.agent.proxy.servers import HealthCheckNodePorts, Listening, health_handler, metrics_handler
from glassnet.kernel import libc
from glassnet.kernel.netns import KernelNetNs
from glassnet.kube.types import Meta, Node
from glassnet.net.errors import KernelError
from glassnet.proxy.config import ProxyConfig, configz
from glassnet.proxy.health import ProxyHealth

HOME, LOOPBACK = "127.0.0.1", ("127.0.0.1",)
WEB, API = ("shop", "web"), ("shop", "api")


class Here(KernelNetNs):
    """The test's own namespace, without entering it."""

    def __init__(self) -> None:
        super().__init__("here", -1)

    def socket(self, family: int, type: int, proto: int = 0) -> socket.socket:
        """A non-blocking socket."""
        made = socket.socket(family, type, proto)
        made.setblocking(False)
        return made


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str


async def ask(port: int, path: str = "/", method: str = "GET", netns: KernelNetNs | None = None, ip: str = HOME) -> Answer:  # fmt: skip
    """One request over a connection of its own."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    sock = (netns or Here()).socket(family, socket.SOCK_STREAM)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (ip, port))
    except OSError:
        sock.close()
        raise
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).decode().partition("\r\n\r\n")
    writer.close()
    first, *lines = head.split("\r\n")
    return Answer(int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body)


async def closed(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        await ask(port)
    except ConnectionRefusedError:
        return True
    return False


def free_ports(count: int) -> list[int]:
    """Ports nobody has, all different."""
    socks = [socket.create_server((HOME, 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


Serve = Callable[..., Awaitable[int]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve a handler at a free port."""
    made: list[Listening] = []

    async def start(handler: object) -> int:
        server = Listening(Here(), handler)  # type: ignore[arg-type]
        made.append(server)
        (port,) = free_ports(1)
        await server.open(HOME, port)
        return port

    yield start
    for server in made:
        await server.close()


def healthy_proxy(now: float) -> ProxyHealth:
    health = ProxyHealth(("IPv4",), 30.0, now)
    health.set_node(Node(Meta(name="n")))
    return health


# -- health


async def test_healthz_and_livez_answer_and_are_counted(serve: Serve) -> None:
    health, counted = healthy_proxy(0.0), []
    port = await serve(health_handler(health, lambda path, code: counted.append((path, code))))
    for path in ("/healthz", "/livez"):
        answer = await ask(port, path)
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("application/json")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert json.loads(answer.body)["healthy"] is True
    assert (await ask(port, "/other")).status == 404
    health.set_node(None)
    assert [(await ask(port, path)).status for path in ("/healthz", "/livez")] == [503, 200]
    health.queued("IPv4", 1.0)  # 1970
    assert [(await ask(port, path)).status for path in ("/healthz", "/livez")] == [503, 503]
    assert counted == [("/healthz", 200), ("/livez", 200), ("/healthz", 503), ("/livez", 200), ("/healthz", 503), ("/livez", 503)]  # fmt: skip


async def test_a_head_request_has_the_status_alone(serve: Serve) -> None:
    port = await serve(health_handler(healthy_proxy(0.0)))
    answer = await ask(port, "/healthz", "HEAD")
    assert (answer.status, answer.body) == (200, "")


# -- metrics server


async def test_the_metrics_server_serves_what_kube_proxys_does(serve: Serve) -> None:
    metrics = ProxyMetrics(0.0)
    config = configz(ProxyConfig(mode="nftables"))
    port = await serve(metrics_handler(metrics, "nftables", config))
    answer = await ask(port, "/metrics")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "kubeproxy_sync_proxy_rules_service_changes_total 0" in answer.body
    assert (await ask(port, "/healthz")).body == "ok"
    assert (await ask(port, "/proxyMode")).body == "nftables"
    answer = await ask(port, "/configz")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert json.loads(answer.body) == json.loads(json.dumps(config))
    assert "nftables" in (await ask(port, "/statusz")).body
    assert (await ask(port, "/nothing")).status == 404


async def test_a_taken_port_is_an_error_that_leaves_nothing_open() -> None:
    with socket.create_server((HOME, 0)) as taken:
        port = taken.getsockname()[1]
        server = Listening(Here(), health_handler(healthy_proxy(0.0)))
        with pytest.raises(KernelError, match=rf"listen at 127\.0\.0\.1 port {port}"):
            await server.open(HOME, port)
        await server.close()
    assert await closed(port)


async def test_a_family_the_machine_lacks_is_an_error_like_any_other() -> None:
    class Without(Here):
        def socket(self, family: int, type: int, proto: int = 0) -> socket.socket:
            raise OSError(97, "Address family not supported by protocol")

    server = Listening(Without(), health_handler(healthy_proxy(0.0)))
    with pytest.raises(KernelError, match="EAFNOSUPPORT"):
        await server.open("::1", 1)
    failures: list[int] = []
    checks = HealthCheckNodePorts(Without(), ("::1",), lambda: True, lambda ns, name, port, why: failures.append(port))
    await checks.sync({WEB: (30000, 1)})
    assert failures == [30000]


# -- health check node ports


class Checks:
    """Health check node ports at 127.0.0.1, and what they reported."""

    def __init__(self) -> None:
        self.healthy = True
        self.failures: list[tuple[str, str, int]] = []
        self.real = HealthCheckNodePorts(Here(), LOOPBACK, lambda: self.healthy, self._failed)

    def _failed(self, namespace: str, name: str, port: int, reason: str) -> None:
        assert "EADDRINUSE" in reason
        self.failures.append((namespace, name, port))


@pytest.fixture
async def checks() -> AsyncIterator[Checks]:
    made = Checks()
    yield made
    await made.real.close()


async def test_each_service_has_its_server(checks: Checks) -> None:
    web, api = free_ports(2)
    await checks.real.sync({WEB: (web, 2), API: (api, 0)})
    answer = await ask(web)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Load-Balancing-Endpoint-Weight"] == "2"
    said = {"service": {"namespace": "shop", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": True}
    assert json.loads(answer.body) == said
    assert answer.body.startswith('{\n\t"service"') and answer.body.endswith("}")
    answer = await ask(api)
    assert (answer.status, answer.headers["X-Load-Balancing-Endpoint-Weight"]) == (503, "0")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_any_path_and_method_is_answered(checks: Checks, method: str) -> None:
    (port,) = free_ports(1)
    await checks.real.sync({WEB: (port, 1)})
    assert (await ask(port, "/any/path?x=1", method)).status == 200


async def test_counts_and_the_proxys_health_are_those_of_now(checks: Checks) -> None:
    (port,) = free_ports(1)
    await checks.real.sync({WEB: (port, 1)})
    checks.healthy = False
    answer = await ask(port)
    assert (answer.status, json.loads(answer.body)["serviceProxyHealthy"]) == (503, False)
    checks.healthy = True
    await checks.real.sync({WEB: (port, 0)})
    assert (await ask(port)).status == 503
    await checks.real.sync({WEB: (port, 3)})
    assert json.loads((await ask(port)).body)["localEndpoints"] == 3


async def test_a_changed_port_is_another_server_and_services_may_swap(checks: Checks) -> None:
    one, two, three = free_ports(3)
    await checks.real.sync({WEB: (one, 1), API: (two, 1)})
    await checks.real.sync({WEB: (two, 1), API: (one, 1)})
    assert json.loads((await ask(two)).body)["service"]["name"] == "web"
    assert json.loads((await ask(one)).body)["service"]["name"] == "api"
    await checks.real.sync({WEB: (three, 1)})
    assert (await ask(three)).status == 200
    assert await closed(one) and await closed(two)
    assert not checks.failures
    await checks.real.close()
    assert await closed(three)


async def test_a_taken_port_is_told_of_once_and_tried_again(checks: Checks) -> None:
    (other,) = free_ports(1)
    with socket.create_server((HOME, 0)) as taken:
        port = taken.getsockname()[1]
        for _ in range(3):
            await checks.real.sync({WEB: (port, 1), API: (other, 1)})
        assert checks.failures == [(*WEB, port)]
        assert (await ask(other)).status == 200  # the others work
    await checks.real.sync({WEB: (port, 1), API: (other, 1)})
    assert (await ask(port)).status == 200
    assert len(checks.failures) == 1


async def test_a_taken_port_is_told_of_again_after_a_change(checks: Checks) -> None:
    with socket.create_server((HOME, 0)) as one, socket.create_server((HOME, 0)) as two:
        first, second = one.getsockname()[1], two.getsockname()[1]
        for port in (first, first, second, second, first):
            await checks.real.sync({WEB: (port, 1)})
        await checks.real.sync({})
        await checks.real.sync({WEB: (first, 1)})
        assert [port for _, _, port in checks.failures] == [first, second, first, first]


async def test_no_address_listens_when_one_of_several_is_taken() -> None:
    failures: list[str] = []
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.2", port)):
        real = HealthCheckNodePorts(Here(), (HOME, "127.0.0.2"), lambda: True, lambda *told: failures.append(told[3]))
        await real.sync({WEB: (port, 1)})
        assert len(failures) == 1 and "127.0.0.2" in failures[0]
        assert await closed(port)
    await real.sync({WEB: (port, 1)})
    assert (await ask(port)).status == 200
    await real.close()


@pytest.fixture
def namespace() -> Iterator[KernelNetNs]:
    """A network namespace of the test's own, loopback up."""
    with ThreadPoolExecutor(1, "netns", libc.unshare, (libc.CLONE_NEWNET,)) as thread:
        thread.submit(subprocess.run, ["ip", "link", "set", "lo", "up"], check=True).result()
        made = KernelNetNs("node", thread.submit(os.open, "/proc/thread-self/ns/net", os.O_RDONLY).result())
    yield made
    made.close()


@pytest.mark.kernel
async def test_servers_live_in_their_nodes_namespace(namespace: KernelNetNs) -> None:
    """Both families side by side, at all addresses, on a port that means nothing outside."""
    real = HealthCheckNodePorts(namespace, ("0.0.0.0", "::"), lambda: True)
    await real.sync({WEB: (30123, 1)})
    for ip in (HOME, "::1"):
        assert (await ask(30123, "/", netns=namespace, ip=ip)).status == 200
    assert await closed(30123)  # nobody listens here
    await real.close()
    with pytest.raises(ConnectionRefusedError):
        await ask(30123, netns=namespace)


# -- metrics

SYNC_BOUNDS = [
    "0.001",
    "0.002",
    "0.004",
    "0.008",
    "0.016",
    "0.032",
    "0.064",
    "0.128",
    "0.256",
    "0.512",
    "1.024",
    "2.048",
    "4.096",
    "8.192",
    "16.384",
    "+Inf",
]
PROGRAMMING_BOUNDS = ["0.25", "0.5", *map(str, range(1, 60)), *map(str, range(60, 120, 5)), *map(str, range(120, 301, 30)), "+Inf"]  # fmt: skip


def rendered(metrics: ProxyMetrics) -> dict[str, float]:
    """Value by series."""
    lines = metrics.render()[0].decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def bounds(found: dict[str, float], name: str) -> list[str]:
    pattern = re.compile(rf'kubeproxy_{name}_bucket{{ip_family="IPv4",le="(.+)"}}')
    return [match[1] for series in found if (match := pattern.fullmatch(series))]


def test_metrics_have_kube_proxys_names_types_and_help() -> None:
    lines = ProxyMetrics(0.0, lambda name: 0).render()[0].decode().splitlines()
    kinds = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE kubeproxy_"))
    sync = "sync_proxy_rules_"
    assert kinds == {
        f"kubeproxy_{name}": kind
        for kind, names in {
            "histogram": [f"{sync}duration_seconds", "sync_full_proxy_rules_duration_seconds", "sync_partial_proxy_rules_duration_seconds", "network_programming_duration_seconds", "conntrack_reconciler_sync_duration_seconds"],
            "gauge": [f"{sync}last_timestamp_seconds", f"{sync}last_queued_timestamp_seconds", f"{sync}endpoint_changes_pending", f"{sync}service_changes_pending", f"{sync}no_local_endpoints_total", f"{sync}iptables_total", f"{sync}iptables_last"],
            "counter": [f"{sync}endpoint_changes_total", f"{sync}service_changes_total", "conntrack_reconciler_deleted_entries_total", "proxy_healthz_total", "proxy_livez_total", f"{sync}iptables_restore_failures_total", f"{sync}iptables_partial_restore_failures_total", f"{sync}nftables_sync_failures_total", f"{sync}nftables_cleanup_failures_total", "iptables_ct_state_invalid_dropped_packets_total", "iptables_localhost_nodeports_accepted_packets_total"],
        }.items()
        for name in names
    }  # fmt: skip
    text = "\n".join(lines)
    assert "# HELP kubeproxy_sync_proxy_rules_duration_seconds [ALPHA] Seconds a sync takes\n" in text
    assert "_created" not in text and "_total_total" not in text
    assert "process_resident_memory_bytes" in text


def test_packet_counters_are_there_in_iptables_mode_alone() -> None:
    counts = {"ct_state_invalid_dropped_pkts": 3, "localhost_nps_accepted_pkts": 8}
    found = rendered(ProxyMetrics(0.0, counts.__getitem__))
    assert found["kubeproxy_iptables_ct_state_invalid_dropped_packets_total"] == 3
    assert found["kubeproxy_iptables_localhost_nodeports_accepted_packets_total"] == 8
    assert not [series for series in rendered(ProxyMetrics(0.0)) if "packets" in series]


def test_syncs_are_measured_whole_and_by_kind() -> None:
    metrics = ProxyMetrics(0.0)
    metrics.queued("IPv4", 99.0)
    metrics.sync_done("IPv4", 0.003, True, 100.0)
    metrics.sync_done("IPv4", 0.5, False, 101.0)
    found = rendered(metrics)
    for name, count in (("sync_proxy", 2), ("sync_full_proxy", 1), ("sync_partial_proxy", 1)):
        assert found[f'kubeproxy_{name}_rules_duration_seconds_count{{ip_family="IPv4"}}'] == count
        assert bounds(found, f"{name}_rules_duration_seconds") == SYNC_BOUNDS
    assert found['kubeproxy_sync_proxy_rules_duration_seconds_sum{ip_family="IPv4"}'] == pytest.approx(0.503)
    assert found['kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.004"}'] == 1
    assert found['kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}'] == 101
    assert found['kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"}'] == 99
    assert not [series for series in found if "IPv6" in series]


def test_programming_is_measured_from_changes_since_the_start() -> None:
    metrics = ProxyMetrics(50.0)
    metrics.programmed("IPv4", [49.9, 50.0, 52.0, 60.0], 53.0)  # before the start, two to count, a clock that is ahead
    found = rendered(metrics)
    name = "network_programming_duration_seconds"
    assert found[f'kubeproxy_{name}_count{{ip_family="IPv4"}}'] == 3
    assert found[f'kubeproxy_{name}_sum{{ip_family="IPv4"}}'] == 4
    assert found[f'kubeproxy_{name}_bucket{{ip_family="IPv4",le="1"}}'] == 2
    assert bounds(found, name) == PROGRAMMING_BOUNDS


def test_a_failed_partial_restore_is_a_failed_restore_too() -> None:
    metrics = ProxyMetrics(0.0)
    metrics.failed("iptables", "IPv4", True)
    metrics.failed("iptables", "IPv4", False)
    metrics.failed("nftables", "IPv6", False)
    found = rendered(metrics)
    assert found['kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family="IPv4"}'] == 2
    assert found['kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total{ip_family="IPv4"}'] == 1
    assert found['kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv6"}'] == 1


def test_other_numbers_have_their_labels() -> None:
    metrics = ProxyMetrics(0.0)
    metrics.changes("endpoint", 2, 5)
    metrics.changes("endpoint", 0, 3)
    metrics.changes("service", 1, 1)
    metrics.iptables_rules("IPv4", "nat", 362, 12)
    metrics.no_local_endpoints("IPv4", "external", 5)
    metrics.no_local_endpoints("IPv4", "external", 4)
    metrics.conntrack("IPv4", 0.009, 0)
    metrics.answered("/healthz", 200)
    metrics.answered("/livez", 503)
    found = rendered(metrics)
    expected = {
        "sync_proxy_rules_endpoint_changes_pending": 0,
        "sync_proxy_rules_endpoint_changes_total": 8,
        "sync_proxy_rules_service_changes_pending": 1,
        "sync_proxy_rules_service_changes_total": 1,
        'sync_proxy_rules_iptables_total{ip_family="IPv4",table="nat"}': 362,
        'sync_proxy_rules_iptables_last{ip_family="IPv4",table="nat"}': 12,
        'sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"}': 4,
        'conntrack_reconciler_deleted_entries_total{ip_family="IPv4"}': 0,
        'conntrack_reconciler_sync_duration_seconds_count{ip_family="IPv4"}': 1,
        'proxy_healthz_total{code="200"}': 1,
        'proxy_livez_total{code="503"}': 1,
    }
    assert {name: found[f"kubeproxy_{name}"] for name in expected} == expected
    assert bounds(found, "conntrack_reconciler_sync_duration_seconds") == SYNC_BOUNDS
