"""docs/install.md on names, word for word; a pod that asks all the while gets every answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_install import Reader
from test_lab_names import asking, until

from conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(200)]
CLIENT = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": {"containers": [{"name": "c", "image": "busybox", "command": ["sleep", "inf"]}]}}  # fmt: skip
WEB = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "demo"}, "spec": {"clusterIP": "10.32.0.20", "ports": [{"port": 80}]}}  # fmt: skip


@pytest.fixture
def reader(make_lab: Callable[..., Any], tmp_path: Path) -> Any:
    made = Reader(make_lab("--nodes", "2", "--dns", "knot"), tmp_path)
    yield made
    made.close()


def old_dns(lab: Lab) -> None:
    """The lab's own servers, in the role of CoreDNS: another Deployment behind the same Service."""
    system = ("-n", "kube-system")
    body = json.loads(lab.kubectl(*system, "get", "deployment", "glassnet-dns", "-o", "json"))
    labels = {"k8s-app": "kube-dns"}
    spec = body["spec"] | {"selector": {"matchLabels": labels}}
    spec["template"]["metadata"] = {"labels": labels}
    lab.kubectl(*system, "delete", "deployment", "glassnet-dns", "--cascade=foreground", "--wait=true")
    lab.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "coredns", "namespace": "kube-system"}, "spec": spec}))  # fmt: skip
    lab.kubectl(*system, "rollout", "status", "deployment", "coredns", "--timeout=30s")


def gone(lab: Lab) -> bool:
    return len(lab.kubectl("-n", "kube-system", "get", "pods", "-l", "app.kubernetes.io/name=glassnet-dns", "-o", "name").split()) == 0  # fmt: skip


def test_in_place_of_coredns_and_back_and_from_nothing(reader: Reader) -> None:
    lab = reader.lab
    old_dns(lab)
    for body in ({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}, WEB, CLIENT):
        lab.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    lab.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=30s")
    with asking(lab) as seen:
        reader.read("Names, in place of CoreDNS")
        until(lambda: gone(lab))
    count, *failed = seen
    assert int(count) > 100 and not failed, failed
    lab.kubectl("-n", "kube-system", "delete", "deployment/coredns", "service/kube-dns", "--wait=true")
    reader.read("Names, from nothing")
    until(lambda: lab.kubectl("exec", "client", "--", "getent", "hosts", "web.demo", check=False).split()[:1] == ["10.32.0.20"])  # fmt: skip
