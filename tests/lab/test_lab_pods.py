"""Pods' lives on a lab, driven and watched by real kubectl."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from conftest import GLASSNET, Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab()


def until(good: Callable[[], Any], seconds: float = 8.0) -> Any:
    """Poll until `good()` is true and return it, or fail."""
    deadline = time.monotonic() + seconds
    while not (found := good()):
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.05)
    return found


def apply(lab: Lab, text: str) -> None:
    lab.kubectl("apply", "-f", "-", stdin=text)


def pod(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.kubectl("get", "pod", name, "-o", "json"))
    return found


def ready(lab: Lab, name: str) -> None:
    lab.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=10s")


def simple(name: str, container: str, more: str = "") -> str:
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 5\n{more}  containers:\n  - {{name: c, {container}}}\n"


def test_a_failing_command_crash_loops_with_its_reason(lab: Lab) -> None:
    apply(lab, simple("crash", 'image: busybox, command: [sh, -c, "echo it hurts >&2; exit 3"]'))
    status = until(
        lambda: (
            (s := pod(lab, "crash")["status"]["containerStatuses"][0])["restartCount"]
            and s["state"].get("waiting")
            and s
        )
    )
    assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert "back-off 10s restarting failed container=c pod=crash_default" in status["state"]["waiting"]["message"]
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert "CrashLoopBackOff" in lab.kubectl("get", "pod", "crash")
    assert "it hurts" in lab.kubectl("logs", "crash", "--previous")
    described = lab.kubectl("describe", "pod", "crash")
    assert "Exit Code:    3" in described and "BackOff" in described


def test_a_program_that_is_not_there(lab: Lab) -> None:
    apply(lab, simple("absent", "image: busybox, command: [no-such-program]", "  restartPolicy: Never\n"))
    until(lambda: pod(lab, "absent")["status"].get("phase") == "Failed")
    ended = pod(lab, "absent")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["reason"] == "StartError" and "no-such-program" in ended["message"]


@pytest.mark.parametrize(
    ("policy", "code", "phase"), [("Never", 0, "Succeeded"), ("Never", 2, "Failed"), ("OnFailure", 0, "Succeeded")]
)
def test_restart_policies(lab: Lab, policy: str, code: int, phase: str) -> None:
    name = f"once-{policy.lower()}-{code}"
    apply(lab, simple(name, f'image: busybox, command: [sh, -c, "exit {code}"]', f"  restartPolicy: {policy}\n"))
    until(lambda: pod(lab, name)["status"].get("phase") == phase)
    assert pod(lab, name)["status"]["containerStatuses"][0]["restartCount"] == 0


def test_an_unknown_image_answers_and_says_that_it_is_a_stand_in(lab: Lab) -> None:
    apply(
        lab,
        simple(
            "strange", "image: example.com/strange/thing:1, ports: [{containerPort: 7777}]", "  nodeName: worker-1\n"
        ),
    )
    ready(lab, "strange")
    address = pod(lab, "strange")["status"]["podIP"]
    text = lab.node("worker-0", "curl", "-s", "-m", "3", f"http://{address}:7777/")
    assert "strange" in text and "worker-1" in text and "10.240.0.20" in text
    events = lab.kubectl("get", "events", "--field-selector", "involvedObject.name=strange")
    assert "stand-in" in events


def test_readiness_takes_a_pod_out_of_its_service_and_back(lab: Lab) -> None:
    probe = "readinessProbe: {exec: {command: [test, -f, /tmp/good]}, periodSeconds: 1, failureThreshold: 1}"
    apply(lab, simple("moody", f"image: busybox, command: [sleep, '3600'], {probe}"))
    lab.kubectl("expose", "pod", "moody", "--port=80")

    def addresses() -> str:
        return lab.kubectl("get", "endpoints", "moody", "-o", "jsonpath={.subsets[*].addresses[*].ip}")

    until(lambda: pod(lab, "moody")["status"].get("phase") == "Running")
    assert addresses() == ""
    lab.kubectl("exec", "moody", "--", "touch", "/tmp/good")
    until(addresses)
    lab.kubectl("exec", "moody", "--", "rm", "/tmp/good")
    until(lambda: addresses() == "")
    assert "Readiness probe failed" in lab.kubectl("describe", "pod", "moody")


def test_liveness_restarts(lab: Lab) -> None:
    probe = "livenessProbe: {exec: {command: [test, '!', -f, /tmp/dead]}, periodSeconds: 1, failureThreshold: 1}"
    apply(lab, simple("mortal", f'image: busybox, command: [sh, -c, "rm -f /tmp/dead; exec sleep 3600"], {probe}'))
    ready(lab, "mortal")
    lab.kubectl("exec", "mortal", "--", "touch", "/tmp/dead")
    until(lambda: pod(lab, "mortal")["status"]["containerStatuses"][0]["restartCount"] == 1)
    ready(lab, "mortal")
    assert "failed liveness probe, will be restarted" in lab.kubectl("describe", "pod", "mortal")


def test_init_containers_run_first_and_in_order(lab: Lab) -> None:
    inits = """  initContainers:
  - {name: first, image: busybox, command: [sh, -c, "echo first >> /work/log"], volumeMounts: [{name: w, mountPath: /work}]}
  - {name: second, image: busybox, command: [sh, -c, "echo second >> /work/log"], volumeMounts: [{name: w, mountPath: /work}]}
  volumes: [{name: w, emptyDir: {}}]
"""
    apply(
        lab,
        simple(
            "prepared",
            'image: busybox, command: [sh, -c, "cat /work/log; exec sleep 3600"], volumeMounts: [{name: w, mountPath: /work}]',
            inits,
        ),
    )
    ready(lab, "prepared")
    assert lab.kubectl("logs", "prepared", "-c", "c") == "first\nsecond\n"


def test_containers_of_a_pod_share_its_network_and_collide_on_a_port(lab: Lab) -> None:
    two = """apiVersion: v1
kind: Pod
metadata: {name: pair}
spec:
  containers:
  - {name: web, image: nginx}
  - {name: tool, image: busybox, command: [sleep, "3600"]}
---
apiVersion: v1
kind: Pod
metadata: {name: rivals}
spec:
  restartPolicy: Never
  containers:
  - {name: one, image: nginx}
  - {name: two, image: nginx}
"""
    apply(lab, two)
    ready(lab, "pair")
    assert "nginx" in lab.kubectl("exec", "pair", "-c", "tool", "--", "curl", "-s", "http://127.0.0.1")
    until(lambda: any(s["state"].get("terminated") for s in pod(lab, "rivals")["status"].get("containerStatuses", ())))
    logs = "".join(lab.kubectl("logs", "rivals", "-c", name) for name in ("one", "two"))
    assert "address already in use" in logs.lower()


def test_environment_and_volumes(lab: Lab) -> None:
    lab.kubectl("create", "configmap", "words", "--from-literal=greeting=hello", "--from-literal=app.conf=a=1")
    lab.kubectl("create", "secret", "generic", "hush", "--from-literal=password=s3cret")
    apply(lab, """apiVersion: v1
kind: Pod
metadata: {name: env, labels: {tier: back}}
spec:
  containers:
  - name: c
    image: busybox
    command: [sleep, "3600"]
    env:
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: TIER, valueFrom: {fieldRef: {fieldPath: "metadata.labels['tier']"}}}
    - {name: GREETING, valueFrom: {configMapKeyRef: {name: words, key: greeting}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: hush, key: password}}}
    - {name: BOTH, value: "$(GREETING) from $(NAME)"}
    volumeMounts: [{name: conf, mountPath: /etc/app}]
  volumes: [{name: conf, configMap: {name: words}}]
""")  # fmt: skip
    ready(lab, "env")
    seen = dict(line.split("=", 1) for line in lab.kubectl("exec", "env", "--", "env").splitlines())
    assert seen["NAME"] == "env" and seen["TIER"] == "back" and seen["PASSWORD"] == "s3cret"
    assert seen["BOTH"] == "hello from env" and seen["IP"] == pod(lab, "env")["status"]["podIP"]
    assert seen["KUBERNETES_SERVICE_HOST"] == "10.32.0.1"
    assert lab.kubectl("exec", "env", "--", "cat", "/etc/app/app.conf") == "a=1"


def test_a_missing_config_map_is_named_and_heals(lab: Lab) -> None:
    apply(lab, simple("needy", "image: busybox, command: [sleep, '3600'], envFrom: [{configMapRef: {name: later}}]"))
    status = until(
        lambda: (
            (s := pod(lab, "needy")["status"].get("containerStatuses"))
            and s[0]["state"].get("waiting", {}).get("reason") == "CreateContainerConfigError"
            and s[0]
        )
    )
    assert 'configmap "later" not found' in status["state"]["waiting"]["message"]
    lab.kubectl("create", "configmap", "later", "--from-literal=a=b")
    ready(lab, "needy")


def test_a_host_network_pod_has_the_nodes_address(lab: Lab) -> None:
    apply(
        lab,
        simple(
            "hosty", "image: agnhost, args: [netexec, --http-port=18080]", "  hostNetwork: true\n  nodeName: worker-2\n"
        ),
    )
    ready(lab, "hosty")
    assert pod(lab, "hosty")["status"]["podIP"] == "10.240.0.22"
    assert lab.node("worker-0", "curl", "-s", "-m", "3", "http://10.240.0.22:18080/hostname").strip() == "worker-2"


def test_termination_gives_time_and_then_ends(lab: Lab) -> None:
    script = "trap 'echo got-term; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    apply(lab, simple("gentle", f'image: busybox, command: [sh, -c, "{script}"]'))
    apply(
        lab,
        simple("deaf", "image: busybox, command: [sh, -c, \"trap '' TERM; while :; do sleep 0.1; done\"]").replace(
            "Seconds: 5", "Seconds: 1"
        ),
    )
    ready(lab, "gentle")
    ready(lab, "deaf")
    follow = subprocess.Popen(
        [GLASSNET, "kubectl", "logs", "-f", "gentle"], env=lab.env, stdout=subprocess.PIPE, text=True
    )
    lab.kubectl("delete", "pod", "gentle", "--wait=false")
    begun = time.monotonic()
    lab.kubectl("delete", "pod", "deaf")
    assert 0.5 < time.monotonic() - begun < 5
    assert "got-term" in follow.communicate(timeout=10)[0]
    until(lambda: "gentle" not in lab.kubectl("get", "pods"))


def test_exec_on_a_terminal_and_run_attached(lab: Lab) -> None:
    apply(lab, simple("shell", "image: nginx"))
    ready(lab, "shell")
    assert lab.kubectl("exec", "-i", "shell", "--", "cat", stdin="through the pipe") == "through the pipe"
    assert lab.glassnet("kubectl", "exec", "shell", "--", "sh", "-c", "exit 9", check=False).returncode == 9
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [GLASSNET, "kubectl", "exec", "-it", "shell", "--", "sh", "-c", "tty && hostname"],
        env=lab.env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    child.wait(20)
    seen = os.read(master, 4096).decode()
    os.close(master)
    assert "shell" in seen and child.returncode == 0
    ran = lab.kubectl(
        "run",
        "visitor",
        "--image=busybox",
        "--restart=Never",
        "--rm",
        "-i",
        "--",
        "sh",
        "-c",
        "read word; echo heard $word",
        stdin="hello\n",
    )
    assert "heard hello" in ran


def test_port_forward(lab: Lab) -> None:
    apply(lab, simple("forwarded", "image: nginx"))
    ready(lab, "forwarded")
    child = subprocess.Popen(
        [GLASSNET, "kubectl", "port-forward", "pod/forwarded", ":80"], env=lab.env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout
        port = child.stdout.readline().split(":")[1].split()[0]
        text = subprocess.run(
            ["curl", "-s", "-m", "5", f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True
        ).stdout
        assert "nginx" in text
    finally:
        child.terminate()
        child.wait(10)


def test_a_pod_leaves_nothing_on_its_node(lab: Lab) -> None:
    look = [
        "sh",
        "-c",
        "ls /var/lib/cni/networks/bridge /var/lib/cni/results /run/netns; iptables-save -t nat | grep -c CNI-; ip -o link | grep -c veth; ps ax | grep -c '[p]ause'",
    ]
    apply(lab, simple("first", "image: busybox, command: [sleep, '3600']", "  nodeName: worker-1\n"))
    ready(lab, "first")
    before = lab.node("worker-1", *look, check=False)
    apply(lab, simple("fleeting", "image: busybox, command: [sleep, '3600']", "  nodeName: worker-1\n"))
    ready(lab, "fleeting")
    assert lab.node("worker-1", *look, check=False) != before
    lab.kubectl("delete", "pod", "fleeting")
    until(lambda: lab.node("worker-1", *look, check=False) == before)


def test_an_exhausted_range_is_named_and_recovers(lab: Lab) -> None:
    conf = "/etc/cni/net.d/10-bridge.conf"
    lab.node("worker-2", "cp", conf, "/root/kept")
    lab.node(
        "worker-2",
        "sh",
        "-c",
        f'sed -i \'s/"name": "bridge"/"name": "tiny"/; s/cnio0/cnio1/; s#10.200.2.0/24#10.200.2.0/30#\' {conf}',
    )
    try:
        for name in ("fits", "too-many"):
            apply(lab, simple(name, "image: nginx", "  nodeName: worker-2\n"))
        until(
            lambda: (
                "no IP addresses available in range set: 10.200.2.1-10.200.2.2"
                in lab.kubectl("get", "events", "--field-selector", "involvedObject.name=too-many")
            )
        )
        lab.kubectl("delete", "pod", "fits")
        ready(lab, "too-many")
    finally:
        lab.node("worker-2", "cp", "/root/kept", conf)


def test_workloads(lab: Lab) -> None:
    apply(lab, """apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec: {selector: {matchLabels: {app: everywhere}}, template: {metadata: {labels: {app: everywhere}}, spec: {containers: [{name: c, image: pause}]}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ordered}
spec: {serviceName: ordered, replicas: 2, selector: {matchLabels: {app: ordered}}, template: {metadata: {labels: {app: ordered}}, spec: {containers: [{name: c, image: nginx}]}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: sums}
spec: {completions: 3, parallelism: 2, template: {spec: {restartPolicy: Never, containers: [{name: c, image: busybox, command: [sh, -c, "echo $((6*7))"]}]}}}
""")  # fmt: skip
    lab.kubectl("rollout", "status", "daemonset/everywhere", "--timeout=10s")
    lab.kubectl("rollout", "status", "statefulset/ordered", "--timeout=10s")
    lab.kubectl("wait", "--for=condition=Complete", "job/sums", "--timeout=10s")
    nodes = lab.kubectl("get", "pods", "-l", "app=everywhere", "-o", "jsonpath={.items[*].spec.nodeName}")
    assert sorted(nodes.split()) == ["worker-0", "worker-1", "worker-2"]
    assert lab.kubectl("get", "pods", "-l", "app=ordered", "-o", "jsonpath={.items[*].metadata.name}").split() == [
        "ordered-0",
        "ordered-1",
    ]
    assert lab.kubectl("logs", "job/sums") == "42\n"
