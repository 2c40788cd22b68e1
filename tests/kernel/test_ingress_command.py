"""`glassnet ingress serve` against a real API server, on loopback, with the rights that deploy/ingress gives: objects by kubectl, requests by HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api_rights import Guard, account_kubeconfig, read_rights, render
from ingress_objects import certificate, secret
from served_api import ServedApi

DEPLOY = Path(__file__).resolve().parents[2] / "deploy/ingress"
SPACE = "glassnet-ingress"
USER = f"system:serviceaccount:{SPACE}:glassnet-ingress"
INGRESS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: headers}
data: {X-Team: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.81.0.1], conditions: {ready: true}, targetRef: {kind: Pod, namespace: default, name: web-0}}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, annotations: {nginx.ingress.kubernetes.io/custom-headers: default/headers, nginx.ingress.kubernetes.io/permanent-redirect: 'http://elsewhere.example/'}}
spec:
  ingressClassName: glassnet
  tls: [{hosts: [tls.example], secretName: pair}]
  rules:
  - {host: web.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}
  - {host: tls.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: plain}
spec:
  ingressClassName: glassnet
  rules: [{host: plain.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: somebody-elses}
spec:
  ingressClassName: other
  rules: [{host: other.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(condition: Callable[[], Any], *logs: Path, seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "\n".join(log.read_text() for log in logs)
        time.sleep(0.02)
    return value


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "glassnet", "ingress", *words]


class Replica:
    """One `glassnet ingress serve`."""

    def __init__(self, place: Path, name: str, kubeconfig: Path, *words: str) -> None:
        self.port, self.health, self.log, self.out = (
            free_port(),
            free_port(),
            place / f"{name}.log",
            place / f"{name}.out",
        )
        words = (
            "--kubeconfig", str(kubeconfig), "--http", f"127.0.0.1:{self.port}", "--https", f"127.0.0.1:{free_port()}", "--user", "root", "--workers", "1",
            "--run-directory", str(place / f"run-{name}"), "--bind-address", f"127.0.0.1:{self.health}", "--lease-namespace", SPACE, *words,
        )  # fmt: skip
        with self.log.open("wb") as log, self.out.open("wb") as out:
            self.process = subprocess.Popen(command("serve", *words), stdout=out, stderr=log, env={**os.environ, "POD_NAME": name})  # fmt: skip

    def get(self, host: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/", headers={"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.getheader("Location", "")
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def page(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def leads(self) -> bool:
        return "glassnet_ingress_leader 1.0" in self.page("/metrics")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log.read_text()


@pytest.fixture
def guard() -> Guard:
    return Guard()


@pytest.fixture
def api(tmp_path: Path, guard: Guard) -> Iterator[ServedApi]:
    served = ServedApi(tmp_path, authorize=guard)
    yield served
    served.close()


def said(api: ServedApi, name: str) -> Any:
    """The status of an Ingress."""
    return (
        json.loads(api.run("get", "ingress", name, "-o", "json"))
        .get("status", {})
        .get("loadBalancer", {})
        .get("ingress")
    )


def test_two_replicas_serve_and_one_of_them_writes_status_with_the_rights_of_the_manifests(
    api: ServedApi, guard: Guard, tmp_path: Path
) -> None:
    first = api.run("apply", "-k", str(DEPLOY), "--validate=strict").splitlines()
    assert len(first) == len(render(DEPLOY, api.kubectl)) and all(line.endswith(" created") for line in first), first
    guard.bind(read_rights(render(DEPLOY, api.kubectl)))
    api.run("apply", "-f", "-", stdin=INGRESS)
    api.run(
        "apply", "-f", "-", stdin=json.dumps(secret("unrelated", {"token": b"x"}, kind="Opaque", namespace="default"))
    )
    kubeconfig = account_kubeconfig(api, SPACE, "glassnet-ingress")
    publish = ("--publish-address", "192.0.2.80", "--publish-service", f"{SPACE}/glassnet-ingress")
    replicas = [Replica(tmp_path, name, kubeconfig, *publish) for name in ("one", "two")]
    logs = [each.log for each in replicas]
    try:
        for each in replicas:
            until(lambda r=each: r.get("web.example") == (301, "http://elsewhere.example/"), *logs)
            assert each.get("other.example")[0] == 404
        own = json.loads(api.run("-n", SPACE, "get", "svc", "glassnet-ingress", "-o", "json"))["spec"]["clusterIP"]
        status = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}}}
        assert own
        api.run("-n", SPACE, "patch", "svc", "glassnet-ingress", "--subresource=status", "-p", json.dumps(status))
        until(lambda: said(api, "web") == [{"ip": "203.0.113.5"}, {"ip": "192.0.2.80"}], *logs)
        assert said(api, "somebody-elses") is None
        assert [each.leads() for each in replicas].count(True) == 1
        until(
            lambda: "pair" in api.run("get", "events", "--field-selector", "involvedObject.name=web"), *logs
        )  # its Secret is missing
        assert said(api, "somebody-elses") is None and "other" not in api.run("get", "events")
        api.run("apply", "-f", "-", stdin=json.dumps(secret("pair", certificate("tls.example"), namespace="default")))
        until(lambda: "glassnet_ingress_problems{" not in replicas[0].page("/metrics"), *logs)
        api.run("delete", "secret", "pair")  # the same again is counted up
        count = ("get", "events", "--field-selector", "involvedObject.name=web", "-o", "jsonpath={.items[*].count}")
        until(lambda: "2" in api.run(*count), *logs)
        tls = {"spec": {"tls": [{"hosts": ["plain.example"], "secretName": "unrelated"}]}}
        api.run(
            "patch", "ingress", "plain", "-p", json.dumps(tls)
        )  # a Secret that was nobody's until now is read by its name
        until(lambda: not guard.unused(USER), *logs)
        leader, other = sorted(replicas, key=lambda each: not each.leads())
        api.run("label", "ingress", "web", "a=b")  # concerns nobody
        leader.end()
        assert leader.get("web.example") == (0, "") and "is given back" in leader.log.read_text()
        until(other.leads, *logs)
        api.run("patch", "ingress", "web", "-p", '{"spec":{"ingressClassName":"other"}}')
        until(lambda: said(api, "web") is None, *logs)  # ours no longer: what we said goes
        assert other.get("web.example")[0] == 404
        until(lambda: '"ingress":"web"' in other.out.read_text(), *logs)
    finally:
        for each in replicas:
            each.end()
    assert guard.refused == []


def test_explain_reads_the_cluster(api: ServedApi) -> None:
    api.run("apply", "-k", str(DEPLOY))
    api.run("apply", "-f", "-", stdin=INGRESS)

    def explain(*words: str) -> subprocess.CompletedProcess[str]:
        words = ("explain", *words, "--kubeconfig", str(api.directory / "kubeconfig"))
        return subprocess.run(command(*words), capture_output=True, text=True, timeout=60, check=False)

    done = explain("http://plain.example/cart?a=b", "--through", f"{SPACE}/glassnet-ingress", "--from", "probe")
    assert done.returncode == 0, done.stderr
    for text in (
        "GET http://plain.example/cart?a=b: an endpoint gets it", "Ingress default/plain spec.rules[0].http.paths[0]: Prefix / -> Service default/web:http",
        "endpoint    10.81.0.1:8080 pod ", "sent as     /cart?a=b", "externalTrafficPolicy: Local", "glassnet trace probe svc/glassnet-ingress:http -n glassnet-ingress",
    ):  # fmt: skip
        assert text in done.stdout, done.stdout
    body = json.loads(explain("http://other.example/", "-o", "json").stdout)
    assert (body["result"], body["status"]) == ("refused", 404)
    assert body["not_ours"] == ["Ingress default/somebody-elses: there is no IngressClass other"]
    assert explain("http://other.example/").returncode == 1
    for words, said_so in (
        (["ftp://x"], "it must begin with http"),
        (["http://x", "--header", "x"], "NAME:VALUE"),
        (["http://x", "--through", "y"], "NAMESPACE/NAME"),
    ):
        done = explain(*words)
        assert done.returncode == 2 and said_so in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--publish-service", "web"], "NAMESPACE/NAME"),
        (["--publish-address", "10.0.0.300"], "no address"),
        (["--http", "80"], "ADDRESS:PORT"),
        (["--trust", "10.0.0.0/99"], "10.0.0.0/8"),
        (["--kubeconfig", "/nonexistent"], "/nonexistent"),
    ],
)
def test_what_cannot_be_is_refused_before_nginx_starts(words: list[str], text: str) -> None:
    done = subprocess.run(command("serve", *words), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode in (1, 2)
    assert text in done.stderr and "Traceback" not in done.stderr
