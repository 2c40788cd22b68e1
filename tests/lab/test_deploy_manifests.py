"""deploy/: accepted by the API as it stands, with the rights that are needed and no others."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_rights import Guard, account_kubeconfig, read_rights, render
from controller_processes import Candidate, condition, make_node, until
from served_api import ServedApi

ROOT = Path(__file__).resolve().parents[2]
DEPLOY, SPACE = ROOT / "deploy", "glassnet-system"
CONTROLLER = f"system:serviceaccount:{SPACE}:glassnet-controller"


@pytest.fixture
def guard() -> Guard:
    return Guard()


@pytest.fixture
def api(tmp_path: Path, guard: Guard) -> Iterator[ServedApi]:
    served = ServedApi(tmp_path, authorize=guard)
    yield served
    served.close()


def test_every_manifest_is_accepted_strictly_and_a_second_apply_changes_nothing(api: ServedApi) -> None:
    first = api.run("apply", "-k", str(DEPLOY), "--validate=strict").splitlines()
    assert len(first) == len(render(DEPLOY, api.kubectl))
    assert all(line.endswith(" created") for line in first), first
    again = api.run("apply", "-k", str(DEPLOY), "--validate=strict").splitlines()
    assert all(line.endswith(" unchanged") for line in again), again
    api.run("delete", "-k", str(DEPLOY), "--wait=false")


def test_the_controller_needs_all_of_its_rights_and_no_others(api: ServedApi, guard: Guard) -> None:
    api.run("apply", "-k", str(DEPLOY))
    guard.bind(read_rights(render(DEPLOY, api.kubectl)))
    env = {"KUBECONFIG": str(account_kubeconfig(api, SPACE, "glassnet-controller"))}
    one = Candidate(api, "one", f"--leader-elect-resource-namespace={SPACE}", "--kubeconfig", env["KUBECONFIG"])
    try:
        make_node(api, "bare", [])
        until(lambda: condition(api, "bare")[:2] == ("True", "NoPodCIDR"))
        for _ in range(2):  # the same Event twice is counted up in one
            wrong = {"type": "NetworkUnavailable", "status": "False", "reason": "Stranger", "message": ""}
            api.run("patch", "node", "bare", "--subresource=status", "-p", json.dumps({"status": {"conditions": [wrong]}}))  # fmt: skip
            until(lambda: condition(api, "bare")[:2] == ("True", "NoPodCIDR"))
        until(lambda: not guard.unused(CONTROLLER))
    finally:
        one.end()
    assert "is given back" in one.log.read_text()
    assert guard.refused == []


def test_pod_cidrs_are_allocated_with_the_component_s_rights(api: ServedApi, guard: Guard, tmp_path: Path) -> None:
    manifests = with_component(api, "allocate-pod-cidrs")
    guard.bind(read_rights(manifests))
    deployment = next(m for m in manifests if m["kind"] == "Deployment")
    command = deployment["spec"]["template"]["spec"]["containers"][0]["command"]
    words = [word for word in command if "cidr" in word]
    assert words == ["--allocate-pod-cidrs", "--cluster-cidr=10.244.0.0/16"]
    path = account_kubeconfig(api, SPACE, "glassnet-controller")
    make_node(api, "n1", ["10.244.0.0/24"])
    one = Candidate(api, "one", f"--leader-elect-resource-namespace={SPACE}", "--kubeconfig", str(path), *words)
    try:
        for name in ("n2", "n3"):
            make_node(api, name, [], f"10.240.0.{name[1:]}")
        until(lambda: condition(api, "n3")[0] == condition(api, "n2")[0] == "False")
        got = {name: api.run("get", "node", name, "-o", "jsonpath={.spec.podCIDRs[*]}") for name in ("n1", "n2", "n3")}
        assert got["n1"] == "10.244.0.0/24"
        assert {got["n2"], got["n3"]} == {"10.244.1.0/24", "10.244.2.0/24"}
    finally:
        one.end()
    assert guard.refused == []


def with_component(api: ServedApi, name: str) -> list[dict[str, Any]]:
    """Ours with a component, from a kustomization beside a copy: kustomize takes no absolute paths."""
    copy = api.directory / "deploy"
    subprocess.run(["cp", "-r", str(DEPLOY), str(copy)], check=True)
    place = api.directory / "mine"
    place.mkdir()
    body = {"resources": ["../deploy"], "components": [f"../deploy/components/{name}"]}
    (place / "kustomization.yaml").write_text(yaml.safe_dump(body))
    api.run("apply", "-k", str(place), "--validate=strict")
    return render(place, api.kubectl)


def _container(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(pod spec, its only container)."""
    name = "agent" if kind == "DaemonSet" else "controller"
    body = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text())
    spec = body["spec"]["template"]["spec"]
    return spec, spec["containers"][0]


def test_the_controller_s_pod_may_nothing_on_its_node() -> None:
    spec, container = _container("Deployment")
    security = container["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["readOnlyRootFilesystem"]
    assert security["allowPrivilegeEscalation"] is False
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]


def test_every_mount_has_its_volume_and_every_volume_its_mount() -> None:
    for kind in ("DaemonSet", "Deployment"):
        spec, container = _container(kind)
        assert sorted(m["name"] for m in container["volumeMounts"]) == sorted(v["name"] for v in spec["volumes"])


def test_configurations_are_read_by_the_programs_they_are_for(tmp_path: Path) -> None:
    from glassnet.agent.cluster import configuration as controller_config
    from glassnet.agent.node import configuration as agent_config

    agent = agent_config.load((DEPLOY / "config/agent.yaml").read_text(), "agent.yaml", {"NODE_NAME": "n1"}, {}, "")
    _, container = _container("DaemonSet")
    assert agent.warnings == ()
    assert agent.config.cluster_cidrs == ("10.244.0.0/16",)
    assert agent.config.health_bind_address.rpartition(":")[2] == str(container["ports"][0]["containerPort"])
    text = (DEPLOY / "config/controller.yaml").read_text()
    config = controller_config.load(text, "controller.yaml", {}, {})
    _, container = _container("Deployment")
    ports = {container[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")}
    assert {f"127.0.0.1:{port}" for port in ports} == {config.bind_address}


@pytest.mark.parametrize("name", ["flannel", "kindnet"])
def test_networks_of_others_go_on_under_their_names(name: str) -> None:
    """Leases are found where they are, and each node gives addresses of its own ranges."""
    from glassnet.agent.node import configuration as agent_config

    config = agent_config.load((DEPLOY / f"config/from-{name}.yaml").read_text(), "a.yaml", {"NODE_NAME": "n"}, {}, "").config  # fmt: skip
    network = json.loads(agent_config.network_file(config.cni, ("10.244.7.0/24",)))
    first = network["plugins"][0]
    assert config.proxy.config.mode == "iptables"
    if name == "flannel":
        assert (network["name"], first["type"], first["bridge"]) == ("cbr0", "glassnet", "cni0")
    else:
        assert (network["name"], first["ipam"]["dataDir"]) == ("kindnet", "/run/cni-ipam-state")
        assert first["ipam"]["ranges"] == [[{"subnet": "10.244.7.0/24"}]]


def test_the_containerfile_copies_what_is_there_and_ignores_the_rest() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M) for word in line.split()[:-1]]
    kept = {line[1:] for line in (DEPLOY / "Containerfile.containerignore").read_text().splitlines() if line[:1] == "!"}  # fmt: skip
    assert set(sources) == kept
    assert all((ROOT / source).exists() for source in sources)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.search(r'^ENTRYPOINT \["glassnet"\]$', text, re.M)
    assert "glassnet" in project["scripts"]
    assert project["readme"] in sources
    locked = {line.split("==")[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}  # fmt: skip
    assert {re.split(r"[<>=]", each)[0].lower() for each in project["dependencies"]} | {"setuptools"} <= locked


@pytest.mark.parametrize("name", ["glassnet-agent", "glassnet-controller"])
def test_units_are_understood_by_systemd(name: str, tmp_path: Path) -> None:
    text = (DEPLOY / f"systemd/{name}.service").read_text()
    unit = tmp_path / f"{name}.service"
    unit.write_text(text.replace("/usr/local/bin/glassnet", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_unit_and_pod_of_the_agent_have_the_same_capabilities() -> None:
    _, container = _container("DaemonSet")
    unit = (DEPLOY / "systemd/glassnet-agent.service").read_text()
    bounded = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.M)
    assert bounded
    assert bounded[1].split() == [f"CAP_{each}" for each in container["securityContext"]["capabilities"]["add"]]
