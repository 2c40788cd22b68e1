"""`glassnet snapshot` as an operator runs it on a node: that machine's rules, with the API objects of the cluster behind a kubeconfig."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import GLASSNET, Lab

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def lab(make_lab: Callable[..., Lab]) -> Lab:
    made = make_lab("--nodes", "2")
    made.kubectl("create", "secret", "generic", "hidden", "--from-literal=word=xyzzy")
    made.kubectl("create", "configmap", "open", "--from-literal=word=plugh")
    made.kubectl("create", "deployment", "web", "--image=nginx", "--replicas=2")
    made.kubectl("set", "env", "deployment/web", "PASSWORD=frotz")
    made.kubectl("expose", "deployment", "web", "--port", "80")
    made.kubectl("rollout", "status", "deployment", "web")
    made.kubectl("run", "probe", "--image=busybox", "--command", "--", "sleep", "1000")
    made.kubectl("wait", "--for=condition=Ready", "pod/probe", "--timeout=20s")
    return made


def kubeconfig(lab: Lab) -> str:
    """A kubeconfig on worker-0 that reaches the API at a controller's address."""
    text = lab.kubectl("config", "view", "--raw", "--flatten")
    lines = ["    server: https://10.240.0.10:6443" if "server: " in line else line for line in text.splitlines()]
    lab.glassnet("node", "worker-0", "--", "tee", "/root/kubeconfig", stdin="\n".join(lines) + "\n")
    return "/root/kubeconfig"


def test_a_node_with_its_objects(lab: Lab, tmp_path: Path) -> None:
    said = lab.node("worker-0", GLASSNET, "snapshot", "--kubeconfig", kubeconfig(lab), "-o", "/root/node.tar.gz")
    assert "worker-0, 1 machines" in said
    size = int(lab.node("worker-0", "stat", "-c", "%s", "/root/node.tar.gz"))
    assert size > 10_000
    listed = lab.node("worker-0", "tar", "-tzf", "/root/node.tar.gz").split()
    assert {
        "manifest.json",
        "cluster.json",
        "worker-0/iptables-save.txt",
        "worker-0/nft-ruleset.json",
        "worker-0/sysctl-net.txt",
    } <= set(listed)
    assert any(name.startswith("worker-0/pods/default_") for name in listed)
    trace = lab.node(
        "worker-0",
        GLASSNET,
        "trace",
        "worker-0",
        "svc/web",
        "--snapshot",
        "/root/node.tar.gz",
        "-o",
        "json",
        check=False,
    )
    report = json.loads(trace)
    assert any("because" in step for way in report["ways"] for step in way["steps"])
    assert any("node worker-1 is in the API objects, but nobody dumped it" in note for note in report["notes"])


def test_nothing_secret_is_in_it(lab: Lab, tmp_path: Path) -> None:
    place = tmp_path / "lab.tar.gz"
    lab.glassnet("snapshot", "-o", str(place))
    with tarfile.open(place) as archive:
        text = b"".join(stream.read() for member in archive if (stream := archive.extractfile(member)))
    for word in (
        b"xyzzy",
        b"eHl6enk",
        b"plugh",
        b"frotz",
        b'"kind":"Secret"',
        b'"kind":"ConfigMap"',
        b"last-applied-configuration",
    ):
        assert word not in text
    assert b'"PASSWORD"' in text


def test_a_snapshot_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    """No table, no chain, no module's leftovers: what listing commands would make, they are not asked."""
    before = lab.node("worker-0", "nft", "-s", "list", "ruleset")
    tables = lab.node("worker-0", "cat", "/proc/net/ip_tables_names", check=False)
    lab.glassnet("snapshot", "-o", str(tmp_path / "a.tar.gz"))
    assert lab.node("worker-0", "nft", "-s", "list", "ruleset") == before
    assert lab.node("worker-0", "cat", "/proc/net/ip_tables_names", check=False) == tables


def test_a_trace_on_the_node_itself(lab: Lab) -> None:
    """Without a snapshot: this machine, with the objects behind a kubeconfig."""
    said = lab.node("worker-0", GLASSNET, "trace", "worker-0", "svc/web", "--kubeconfig", kubeconfig(lab), check=False)
    explained = lab.node("worker-0", GLASSNET, "explain", "KUBE-MARK-MASQ", "--kubeconfig", "/root/kubeconfig")
    assert "Service default/web spec.clusterIP" in said
    assert "kube-proxy" in explained
