"""A lab's life through the real command: up, second up, kill -9 at any moment, down, bad input. Nothing is ever left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import GLASSNET, Lab
from glassnet.lab.programs import find_kubectl

pytestmark = pytest.mark.lab
ROOT = Path(__file__).resolve().parents[2]
RUNTIME = {  # what a lab's process imports, and what that needs
    "aiohappyeyeballs", "aiohttp", "aiosignal", "attr", "attrs", "cffi", "_cffi_backend", "click", "cryptography", "frozenlist", "idna",
    "markdown_it", "mdurl", "msgspec", "multidict", "prometheus_client", "propcache", "pycparser", "pygments", "rich", "typing_extensions", "yaml", "_yaml", "yarl",
}  # fmt: skip


def host_state() -> dict[str, Any]:
    """What of the host's own namespaces a lab must not change."""

    def run(*argv: str) -> str:
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"},
        ).stdout

    return {
        "links": [link["ifname"] for link in json.loads(run("ip", "-j", "link"))],
        "addresses": run("ip", "-o", "addr").count("inet"),
        "routes": run("ip", "route", "show", "table", "all"),
        "rules": run("ip", "rule"),
        "nft": run("nft", "list", "ruleset"),
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "forward": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
    }


def lab_processes(lab: Lab) -> list[str]:
    """Command lines of processes that hold a file of the lab's state directory open or name it."""
    place, found = lab.env["GLASSNET_STATE"], []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            if place in command:
                found.append(command)
    return found


@pytest.fixture
def lab(tmp_path: Path) -> Any:
    lab = Lab("life", tmp_path / "labs")
    yield lab
    lab.glassnet("down", "--all", check=False)


def test_up_and_down_change_nothing_on_the_host(lab: Lab) -> None:
    before = host_state()
    said = lab.glassnet("up")
    assert "Lab 'life' is up" in said.stdout and "kubeconfig:" in said.stdout and said.stdout.count("  glassnet ") == 3
    assert host_state() == before
    assert "worker-2" in lab.kubectl("get", "nodes")
    lab.glassnet("down")
    assert host_state() == before
    assert not lab_processes(lab)
    assert not (Path(lab.env["GLASSNET_STATE"]) / "life").exists()


def test_a_second_up_of_the_same_name_is_refused_and_harms_nothing(lab: Lab) -> None:
    lab.glassnet("up")
    again = lab.glassnet("up", check=False)
    assert again.returncode == 1 and "lab 'life' is running already" in again.stderr
    assert "worker-0" in lab.kubectl("get", "nodes")


def test_two_labs_side_by_side(lab: Lab) -> None:
    lab.glassnet("up")
    other = Lab("other", Path(lab.env["GLASSNET_STATE"]))
    other.glassnet("up")
    lab.kubectl("create", "namespace", "only-here")
    assert "only-here" in lab.kubectl("get", "namespaces")
    assert "only-here" not in other.kubectl("get", "namespaces")
    status = json.loads(lab.glassnet("status", "--name", "other", "-o", "json").stdout)
    assert [each["name"] for each in status] == ["other"]
    other.glassnet("down", "other")
    assert "worker-0" in lab.kubectl("get", "nodes")


def test_kill_nine_leaves_nothing_and_the_lab_comes_back_with_its_objects(lab: Lab) -> None:
    before = host_state()
    lab.glassnet("up")
    lab.kubectl("create", "deployment", "web", "--image=nginx", "--replicas=2")
    lab.kubectl("rollout", "status", "deployment/web", "--timeout=20s")
    process = json.loads((Path(lab.env["GLASSNET_STATE"]) / "life" / "process.json").read_text())
    handle = os.pidfd_open(process["pid"])
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)
    deadline = time.monotonic() + 10
    while lab_processes(lab) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not lab_processes(lab) and host_state() == before
    assert "was killed" in lab.glassnet("status").stdout
    lab.glassnet("up")
    lab.kubectl("rollout", "status", "deployment/web", "--timeout=20s")
    assert lab.kubectl("get", "pods", "-l", "app=web", "--no-headers").count("Running") == 2


@pytest.mark.parametrize("after", [0.05, 0.3, 0.6, 0.9])
def test_killed_while_coming_up(lab: Lab, after: float) -> None:
    before = host_state()
    starter = subprocess.Popen([GLASSNET, "up"], env=lab.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)  # the moment is the point of this test
    starter.kill()
    starter.wait()
    lab.glassnet("down", "--all")
    assert not lab_processes(lab) and host_state() == before
    lab.glassnet("up")
    assert "worker-0" in lab.kubectl("get", "nodes")


def test_manifest_errors_name_file_and_line_and_start_nothing(lab: Lab, tmp_path: Path) -> None:
    cases = {
        "kind: [1\n": "bad.yaml:2:1:",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, image: nginx}]}\n---\nkind: Pot\napiVersion: v1\nmetadata: {name: y}\n": "bad.yaml:6: Pot/y: no kind \"Pot\"",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n  - name: a\n    image: nginx\n    colour: red\n": "bad.yaml:8: Pod/x: unknown field",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec:\n  ports:\n  - port: 99999\n": "bad.yaml:6: Service/x:",
    }  # fmt: skip
    for text, place in cases.items():
        (tmp_path / "bad.yaml").write_text(text)
        done = lab.glassnet("up", "-f", str(tmp_path / "bad.yaml"), check=False)
        assert done.returncode in (1, 2) and place in done.stderr, (text, done.stderr)
        assert not lab_processes(lab)


def test_wrong_networks_are_refused_with_the_way_out(lab: Lab) -> None:
    for words, say in (
        (["--pod-cidr", "10.240.0.0/16"], "overlap"),
        (["--service-cidr", "10.32.0.0/33"], "10.32.0.0/33"),
        (["--nodes", "300"], "300"),
        (["--node-cidr", "10.240.0.0/29"], "10.240.0.0/29"),
        (["--pod-cidr", "10.200.0.0/23"], "10.200.0.0/23"),
        (["--name", "Bad_Name"], "Bad_Name"),
        (["--profile", "moon"], "moon"),
    ):
        done = lab.glassnet("up", *words, check=False)
        assert done.returncode == 2 and say in done.stderr, (words, done.stderr)


def test_a_port_in_use_is_named(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = lab.glassnet("up", "--api-port", str(port), check=False)
    assert done.returncode == 2 and f"127.0.0.1:{port}" in done.stderr
    assert not lab_processes(lab)


def test_commands_without_a_lab_say_so(lab: Lab) -> None:
    for words in (["node", "worker-0", "--", "true"], ["kubectl", "get", "pods"], ["down", "life"]):
        done = lab.glassnet(*words, check=False)
        assert done.returncode == 1 and "lab" in done.stderr


def test_the_status_of_a_command_on_a_node_is_the_commands(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    assert lab.glassnet("node", "worker-0", "--", "sh", "-c", "exit 7", check=False).returncode == 7
    assert lab.node("worker-1", "hostname").strip() == "worker-1"
    wrong = lab.glassnet("node", "worker-9", "--", "true", check=False)
    assert wrong.returncode == 1 and "worker-2" in wrong.stderr


@pytest.mark.parametrize("size", ["16k", "64k", "200k"])
def test_a_full_disk_is_named_and_leaves_nothing(lab: Lab, size: str) -> None:
    """The state directory on a file system that is too small, in a mount namespace of the test's own."""
    state = Path(lab.env["GLASSNET_STATE"])
    state.mkdir()
    script = f"mount -t tmpfs -o size={size} tmpfs {state} && exec {GLASSNET} up"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env=lab.env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "No space left on device" in done.stderr or "disk is full" in done.stderr, done.stderr
    assert not lab_processes(lab)


def stage_for_anyone(place: Path) -> dict[str, str]:
    """Copy what a lab needs to where any user may read it: the checkout may lie in a place closed to others."""
    library = place / "lib"
    shutil.copytree(ROOT / "src" / "glassnet", library / "glassnet", ignore=shutil.ignore_patterns("__pycache__"))
    site = Path(sysconfig.get_path("platlib"))
    for entry in site.iterdir():
        if entry.name.split("-")[0].split(".")[0].lower() in RUNTIME:
            (shutil.copytree if entry.is_dir() else shutil.copy)(entry, library / entry.name)
    shutil.copy(find_kubectl(), place / "kubectl")
    return {"PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1", "GLASSNET_KUBECTL": str(place / "kubectl")}


def test_an_ordinary_user_brings_a_lab_up() -> None:
    """The whole lab in a user namespace of its own, by a user without any right."""
    user = 65534
    place = Path(tempfile.mkdtemp(prefix="glassnet-rootless-", dir="/tmp"))
    env = {
        "PATH": os.environ["PATH"],
        "GLASSNET_STATE": str(place / "labs"),
        "HOME": str(place),
        **stage_for_anyone(place),
    }
    place.chmod(0o755)
    os.chown(place, user, user)
    become = [
        "setpriv",
        f"--reuid={user}",
        f"--regid={user}",
        "--clear-groups",
        "--no-new-privs",
        "/usr/bin/python3",
        "-m",
        "glassnet",
    ]
    before = host_state()

    def glassnet(*words: str) -> str:
        done = subprocess.run([*become, *words], env=env, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        glassnet("up")
        glassnet("kubectl", "create", "deployment", "web", "--image=nginx", "--replicas=2")
        glassnet("kubectl", "rollout", "status", "deployment/web", "--timeout=20s")
        glassnet("kubectl", "expose", "deployment", "web", "--port=80", "--type=NodePort")
        port = glassnet("kubectl", "get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}")
        assert "nginx" in glassnet(
            "host",
            "internet",
            "--",
            "curl",
            "-s",
            "-m",
            "5",
            "--retry",
            "5",
            "--retry-connrefused",
            f"http://203.0.113.21:{port}",
        )
        pod = glassnet("kubectl", "get", "pods", "-o", "name").split()[0]
        assert glassnet("kubectl", "exec", pod, "--", "id", "-u").strip() == "0"
        assert host_state() == before
    finally:
        subprocess.run([*become, "down", "--all"], env=env, check=False, cwd="/")
        shutil.rmtree(place)
    assert host_state() == before
