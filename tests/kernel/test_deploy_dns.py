"""deploy/dns: accepted as it stands, with the rights that are needed and no others; its container's user and sysctl suffice for port 53."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_dns_command import HEADLESS

from api_rights import Guard, Right, account_kubeconfig, read_rights, render
from served_api import ServedApi

pytestmark = pytest.mark.kernel
DEPLOY = Path(__file__).resolve().parents[2] / "deploy/dns"
ACCOUNT = "system:serviceaccount:kube-system:glassnet-dns"


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def guard() -> Guard:
    return Guard()


@pytest.fixture
def api(tmp_path: Path, guard: Guard) -> Iterator[ServedApi]:
    served = ServedApi(tmp_path, authorize=guard)
    yield served
    served.close()


def pod_spec() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "dns.yaml").read_text())["spec"]["template"]["spec"]
    return found


def test_manifests_are_accepted_strictly_and_the_server_needs_all_of_its_rights_and_no_others(
    api: ServedApi, guard: Guard, tmp_path: Path
) -> None:
    (tmp_path / "service").mkdir()
    for file in (DEPLOY / "service").iterdir():
        (tmp_path / "service" / file.name).write_text(file.read_text().replace("10.96.0.10", "10.32.0.10"))
    for place in (DEPLOY, tmp_path / "service"):
        for state in ("created", "unchanged"):
            lines = api.run("apply", "-k", str(place), "--validate=strict").splitlines()
            assert lines and all(line.endswith(f" {state}") for line in lines), lines
    assert (
        api.run("-n", "kube-system", "get", "service", "kube-dns", "-o", "jsonpath={.spec.clusterIP}") == "10.32.0.10"
    )
    guard.bind(read_rights(render(DEPLOY, api.kubectl)))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    words = ["--kubeconfig", str(account_kubeconfig(api, "kube-system", "glassnet-dns")), "--listen", f"127.0.0.1:{port}", "--resolv-conf=",
             "--run-directory", str(tmp_path / "run"), "--bind-address=", "--lameduck=0"]  # fmt: skip
    api.run("apply", "-f", "-", stdin=HEADLESS)  # an empty list is not believed at once
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "glassnet", "dns", "serve", *words], stdout=log, stderr=log, env=os.environ.copy())  # fmt: skip
    try:
        for number in (1, 2, 1):  # the same Event a second time is counted up
            api.run("apply", "-f", "-", stdin=HEADLESS.replace("192.0.2.1", f"192.0.2.{number}"))
            until(lambda number=number: f"192.0.2.{number}" in api.run("get", "events"))
        until(lambda: not guard.unused(ACCOUNT))
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert guard.refused == [], (tmp_path / "log").read_text()


def test_explain_says_which_rights_it_lacks_and_does_without_those_it_can(api: ServedApi, guard: Guard) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    api.run("apply", "-k", str(DEPLOY))
    api.run("apply", "-f", "-", stdin=HEADLESS)
    api.run("apply", "-f", "-", stdin=json.dumps(pod))
    rights = {Right("list", "", kind) for kind in ("namespaces", "services", "pods")}
    user = "system:serviceaccount:kube-system:glassnet-dns"
    words = [sys.executable, "-m", "glassnet", "dns", "explain", "db", "--from", "p", "--cluster-dns", "10.32.0.10", "--kubeconfig", str(account_kubeconfig(api, "kube-system", "glassnet-dns"))]  # fmt: skip
    guard.bind({user: rights})
    refused = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert refused.returncode == 1 and "endpointslices" in refused.stderr and refused.stderr.count("\n") == 1
    guard.bind({user: rights | {Right("list", "discovery.k8s.io", "endpointslices")}})
    told = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False).stdout
    assert told.startswith("db from default/p: 10.9.9.9\n") and "deployments are not known" in told


def test_the_container_has_nothing_it_does_not_need() -> None:
    spec = pod_spec()
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert [each["name"] for each in spec["volumes"]] == [each["name"] for each in container["volumeMounts"]] == ["run"]
    assert "emptyDir" in spec["volumes"][0]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert f"--bind-address=0.0.0.0:{ports['metrics']}" in container["args"]
    assert "knot" in (DEPLOY.parent / "Containerfile").read_text().split()


_INSIDE = """
set -e
mount --make-rprivate /
ip link set lo up
sysctl -qw {sysctl}
mkdir -p /run/glassnet/dns
mount -t tmpfs -o mode=0777 tmpfs /run/glassnet/dns
exec setpriv --reuid {user} --regid {group} --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs knotd -c {conf}
"""


@pytest.mark.parametrize("with_sysctl", [True, False])
def test_the_server_has_port_53_as_that_user_by_that_sysctl(tmp_path: Path, with_sysctl: bool) -> None:
    """In a network namespace of its own: the configuration that the server gets, without a capability."""
    from glassnet.dns import knot_conf
    from glassnet.dns.model import DnsSettings

    security = pod_spec()["securityContext"]
    (sysctl,) = security["sysctls"]
    setting = f"{sysctl['name']}={sysctl['value'] if with_sysctl else 1024}"
    conf = tmp_path / "knot.conf"
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o755)
    conf.write_text(knot_conf.render(DnsSettings(), "/run/glassnet/dns", (), {}))
    script = _INSIDE.format(sysctl=setting, user=security["runAsUser"], group=security["runAsGroup"], conf=conf)
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", script], stdout=out, stderr=out)
    try:
        if with_sysctl:
            until(lambda: process.poll() is not None or _at_53(process.pid))
            assert process.poll() is None and _at_53(process.pid), log.read_text()
        else:
            until(lambda: "cannot bind" in log.read_text())
    finally:
        process.terminate()
        process.wait(timeout=20)


def _at_53(pid: int) -> bool:
    """Whether somebody has UDP port 53 in the network namespace of a process."""
    with contextlib.suppress(OSError):
        return any(line.split()[1].endswith(":0035") for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:])  # fmt: skip
    return False
