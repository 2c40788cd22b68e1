"""`glassnet dns serve` against a real API server, on loopback: objects by kubectl, answers by a resolver library, Events, health, its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from served_api import ServedApi

HEADLESS = """
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432, protocol: TCP}]
endpoints: [{addresses: [10.9.9.9], hostname: first}]
---
apiVersion: v1
kind: Service
metadata: {name: bad}
spec: {type: ExternalName, externalName: 192.0.2.1}
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(condition: Callable[[], Any], log: Path) -> Any:
    deadline = time.monotonic() + 20
    while not (value := condition()):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return value


def command(*words: str, **more: Any) -> list[str]:
    return [sys.executable, "-m", "glassnet", "dns", *words]


def start(log: Path, *words: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(command("serve", *words), stdout=out, stderr=out, env={**os.environ, "GLASSNET_DNS_TTL": "7"})  # fmt: skip


def test_the_command_serves_what_kubectl_makes(tmp_path: Path) -> None:
    api = ServedApi(tmp_path)
    port, health, log = free_port(), free_port(), tmp_path / "log"
    words = ("--kubeconfig", str(tmp_path / "kubeconfig"), "--listen", f"127.0.0.1:{port}", "--resolv-conf", "", "--run-directory", str(tmp_path / "run"),
             "--bind-address", f"127.0.0.1:{health}", "--lameduck", "1")  # fmt: skip

    def found(name: str, kind: str = "A") -> list[str]:
        try:
            answer = dns.query.udp(dns.message.make_query(name, kind), "127.0.0.1", port=port, timeout=1)
        except (dns.exception.DNSException, OSError):
            return []
        return [item.to_text() for rrset in answer.answer for item in rrset]

    def page(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{health}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def not_ready() -> bool:
        try:
            return page("/readyz") == ""
        except urllib.error.HTTPError as error:
            return error.read() == b"about to end\n"

    try:
        api.run(
            "apply", "-f", "-", stdin=HEADLESS
        )  # no cluster is without Services and slices, and an empty list is not believed at once
        process = start(log, *words)
        try:
            until(lambda: found("dns-version.cluster.local", "TXT") == ['"1.1.0"'], log)
            assert found("db.default.svc.cluster.local") == ["10.9.9.9"]
            api.run("apply", "-f", "-", stdin=HEADLESS.replace("10.9.9.9", "10.9.9.8"))
            until(lambda: found("db.default.svc.cluster.local") == ["10.9.9.8"], log)
            srv = "_sql._tcp.db.default.svc.cluster.local"
            assert found(srv, "SRV") == ["0 100 5432 first.db.default.svc.cluster.local."]
            ready = dns.query.tcp(dns.message.make_query("first.db.default.svc.cluster.local", "A"), "127.0.0.1", port=port, timeout=2)  # fmt: skip
            assert ready.answer[0].ttl == 7
            until(lambda: "BadExternalName" in api.run("get", "events", "-o", "wide"), log)
            assert page("/readyz") == "ready\n" and page("/healthz") == "ok\n"
            metrics = page("/metrics")
            assert "glassnet_dns_ready 1.0" in metrics and 'glassnet_dns_programming_duration_seconds_bucket{le="0.02"}' in metrics  # fmt: skip
            process.kill()
            process.wait(20)
            assert found("db.default.svc.cluster.local") == ["10.9.9.8"]  # the server lives on
            process = start(log, *words)
            until(lambda: "ended the DNS server that was left" in log.read_text(), log)
            until(lambda: found("db.default.svc.cluster.local") == ["10.9.9.8"], log)
        finally:
            process.send_signal(signal.SIGTERM)
            until(not_ready, log)
            assert found("db.default.svc.cluster.local")  # it still answers who has not heard of that
            assert process.wait(20) == 0, log.read_text()
        assert "ended: SIGTERM" in log.read_text()
        assert found("dns-version.cluster.local", "TXT") == []  # the server has ended with it
    finally:
        api.close()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--upstream", "dns.example"], "no DNS server"),
        (["--upstream", "127.0.0.53"], "would be a loop"),
        (["--stub-domain", "x"], "no stub domain"),
        (["--resolv-conf", "/nonexistent"], "--upstream names servers"),
        (["--cluster-domain", "-"], "no name of DNS"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: list[str], text: str) -> None:
    done = subprocess.run(command("serve", *words), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert text in done.stderr and "Traceback" not in done.stderr
