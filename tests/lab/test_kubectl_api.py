"""The real kubectl against the API server on loopback: every command people use, down to bytes in and out of pods."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from served_api import ServedApi


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApi]:
    served = ServedApi(tmp_path_factory.mktemp("api"))
    served.run("run", "p", "--image=busybox")
    try:
        yield served
    finally:
        served.close()


@pytest.fixture
def ns(api: ServedApi, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60]
    api.run("create", "namespace", name)
    return name


def config_map(**data: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})


def test_api_resources_and_explain(api: ServedApi) -> None:
    lines = api.run("api-resources", "--no-headers").splitlines()
    assert {tuple(line.split()) for line in lines} >= {
        ("pods", "po", "v1", "true", "Pod"),
        ("deployments", "deploy", "apps/v1", "true", "Deployment"),
        ("ingressclasses", "networking.k8s.io/v1", "false", "IngressClass"),
    }
    assert {"v1", "apps/v1", "batch/v1", "networking.k8s.io/v1"} <= set(api.run("api-versions").split())
    assert "image	<string>" in api.run("explain", "pod.spec.containers")
    assert "FIELD: replicas <integer>" in api.run("explain", "deployment.spec.replicas")
    assert 'field "nonsense" does not exist' in api.run("explain", "pod.nonsense", status=1)


def test_create_commands_in_protobuf(api: ServedApi, ns: str) -> None:
    api.run("-n", ns, "create", "deployment", "d", "--image=nginx", "--replicas=0", "--port=80")
    api.run("-n", ns, "create", "configmap", "c", "--from-literal=a=ä")
    api.run("-n", ns, "create", "secret", "generic", "s", "--from-literal=a=b")
    api.run("-n", ns, "create", "job", "j", "--image=busybox", "--", "true", "x")
    api.run("-n", ns, "create", "service", "nodeport", "s", "--tcp=80:http")
    api.run("-n", ns, "create", "ingress", "i", "--rule=a.example/x*=s:80")
    api.run("-n", ns, "create", "serviceaccount", "a")
    found = json.loads(
        api.run("-n", ns, "get", "deploy/d", "cm/c", "secret/s", "job/j", "svc/s", "ing/i", "-o", "json")
    )
    deployment, config, secret, job, service, ingress = found["items"]
    assert deployment["spec"]["replicas"] == 0
    assert deployment["spec"]["template"]["spec"]["containers"][0]["ports"] == [
        {"containerPort": 80, "protocol": "TCP"}
    ]
    assert config["data"] == {"a": "ä"}
    assert secret["data"] == {"a": "Yg=="}
    assert job["spec"]["template"]["spec"]["containers"][0]["command"] == ["true", "x"]
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    assert 30000 <= service["spec"]["ports"][0]["nodePort"] < 32768
    path = ingress["spec"]["rules"][0]["http"]["paths"][0]
    assert (path["path"], path["pathType"]) == ("/x", "Prefix")
    assert "already exists" in api.run("-n", ns, "create", "configmap", "c", status=1)


def test_apply_diff_and_server_side_apply(api: ServedApi, ns: str) -> None:
    def apply(text: str, *more: str, status: int = 0) -> str:
        return api.run("-n", ns, "apply", "-f", "-", *more, stdin=text, status=status)

    assert apply(config_map(a="1", b="2")) == "configmap/c created\n"
    assert apply(config_map(a="1", b="2")) == "configmap/c unchanged\n"
    assert "+  a: changed" in api.run("-n", ns, "diff", "-f", "-", stdin=config_map(a="changed"), status=1)
    assert apply(config_map(a="2")) == "configmap/c configured\n"
    assert api.run("-n", ns, "get", "cm", "c", "-o", "jsonpath={.data}") == '{"a":"2"}'
    bad = config_map(a="1").replace('"data"', '"dota"')
    assert 'unknown field "dota"' in apply(bad, status=1)
    assert apply(config_map(a="2"), "--server-side", "--force-conflicts") == "configmap/c serverside-applied\n"
    refused = apply(config_map(a="3"), "--server-side", "--field-manager=other", status=1)
    assert ".data.a" in refused
    assert "conflict" in refused
    assert apply(config_map(z="9"), "--dry-run=server") == "configmap/c configured (server dry run)\n"
    assert api.run("-n", ns, "get", "cm", "c", "-o", "jsonpath={.data}") == '{"a":"2"}'


def test_patch_replace_label_annotate_edit(api: ServedApi, ns: str) -> None:
    api.run("-n", ns, "create", "deployment", "d", "--image=nginx:1")
    strategic = '{"spec":{"template":{"spec":{"containers":[{"name":"more","image":"b"}]}}}}'
    api.run("-n", ns, "patch", "deploy", "d", "-p", strategic)
    api.run(
        "-n", ns, "patch", "deploy", "d", "--type=json", "-p", '[{"op":"replace","path":"/spec/replicas","value":3}]'
    )
    api.run("-n", ns, "patch", "deploy", "d", "--type=merge", "-p", '{"metadata":{"labels":{"m":"1"}}}')
    api.run("-n", ns, "label", "deploy", "d", "l=1")
    api.run("-n", ns, "annotate", "deploy", "d", "a=1")
    api.run("-n", ns, "set", "image", "deploy/d", "nginx=nginx:2")
    api.run("-n", ns, "edit", "deploy", "d", env={"KUBE_EDITOR": "sed -i s/nginx:2/nginx:3/"})
    api.run("-n", ns, "scale", "deploy", "d", "--replicas=5")
    found = json.loads(api.run("-n", ns, "get", "deploy", "d", "-o", "json"))
    images = {one["name"]: one["image"] for one in found["spec"]["template"]["spec"]["containers"]}
    assert images == {"nginx": "nginx:3", "more": "b"}
    assert found["spec"]["replicas"] == 5
    assert found["metadata"]["labels"] == {"app": "d", "m": "1", "l": "1"}
    assert found["metadata"]["annotations"]["a"] == "1"
    api.run("-n", ns, "replace", "-f", "-", stdin=json.dumps({**found, "spec": {**found["spec"], "replicas": 1}}))
    api.run("-n", ns, "wait", "--for=jsonpath={.spec.replicas}=1", "deploy/d", "--timeout=5s")
    stale = api.run("-n", ns, "replace", "-f", "-", stdin=json.dumps(found), status=1)
    assert "the object has been modified" in stale


def test_get_forms_describe_expose_delete(api: ServedApi, ns: str) -> None:
    api.run("-n", ns, "create", "deployment", "d", "--image=nginx")
    api.run("-n", ns, "expose", "deploy", "d", "--port=80")
    assert api.run("-n", ns, "get", "all", "-o", "name").split() == ["service/d", "deployment.apps/d"]
    assert api.run("-n", ns, "get", "svc").splitlines()[0].split()[:4] == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP"]
    assert "SELECTOR" in api.run("-n", ns, "get", "svc", "-o", "wide")
    assert "kind: Service" in api.run("-n", ns, "get", "svc", "d", "-o", "yaml")
    assert "d" in api.run("get", "svc", "-A", "--field-selector=metadata.name=d", "-l", "app=d", "--show-labels")
    assert "Replicas:" in api.run("-n", ns, "describe", "deploy", "d")
    assert "IP Families:" in api.run("-n", ns, "describe", "svc", "d")
    assert api.run("-n", ns, "delete", "svc", "d", "--wait=true") == 'service "d" deleted\n'
    assert "NotFound" in api.run("-n", ns, "get", "svc", "d", status=1)


def test_get_watch_sees_changes(api: ServedApi, ns: str) -> None:
    api.run("-n", ns, "create", "configmap", "c")
    with api.popen("-n", ns, "get", "cm", "-w", "--output-watch-events", "--no-headers") as watch:
        try:
            assert watch.stdout.readline().split()[:2] == ["ADDED", "c"]
            api.run("-n", ns, "label", "cm", "c", "a=b")
            assert watch.stdout.readline().split()[:2] == ["MODIFIED", "c"]
            api.run("-n", ns, "delete", "cm", "c")
            assert watch.stdout.readline().split()[:2] == ["DELETED", "c"]
        finally:
            watch.terminate()


def test_auth(api: ServedApi) -> None:
    assert "kubernetes-admin" in api.run("auth", "whoami")
    assert api.run("auth", "can-i", "create", "pods") == "yes\n"
    api.run("create", "serviceaccount", "reader")
    token = api.run("create", "token", "reader", "--duration=1h").strip()
    server = [
        "--kubeconfig=/dev/null",
        f"--server=https://127.0.0.1:{api.port}",
        f"--certificate-authority={api.directory / 'ca'}",
    ]
    as_reader = [*server, f"--token={token}"]
    assert "system:serviceaccount:default:reader" in api.run(*as_reader, "auth", "whoami")
    assert api.run(*as_reader, "auth", "can-i", "create", "pods", status=1).startswith("no\n")
    api.run("create", "namespace", "private")
    refused = api.run(*as_reader, "-n", "private", "get", "secrets", status=1)
    assert (
        'secrets is forbidden: User "system:serviceaccount:default:reader" cannot list resource "secrets" in API group '
        '"" in the namespace "private"'
    ) in refused
    assert "Forbidden" in api.run(*as_reader, "get", "secrets", "-A", status=1)
    assert "Forbidden" in api.run(*as_reader, "exec", "p", "--", "true", status=1)
    assert "Forbidden" in api.run(*as_reader, "--as=kubernetes-admin", "get", "pods", status=1)
    assert "p " in api.run(*as_reader, "get", "pods")
    assert "not found" in api.run("create", "token", "nobody", status=1)


def test_impersonation_takes_the_rights_of_the_one_named(api: ServedApi) -> None:
    account = "--as=system:serviceaccount:default:reader"
    assert "system:serviceaccounts:default" in api.run("auth", "whoami", account)
    assert api.run("auth", "can-i", "get", "secrets", account) == "yes\n"
    assert api.run("auth", "can-i", "get", "secrets", "-n", "kube-system", account, status=1).startswith("no\n")
    assert api.run("auth", "can-i", "delete", "pods", "--as=joe", status=1).startswith("no\n")
    assert api.run("auth", "can-i", "delete", "pods", "--as=joe", "--as-group=system:masters") == "yes\n"
    assert 'User "joe" cannot list resource "secrets"' in api.run("get", "secrets", "--as=joe", status=1)


def test_exec_output_input_and_exit_code(api: ServedApi) -> None:
    said = api.run("exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 3", status=3)
    assert said == "out\nerr\ncommand terminated with exit code 3\n"
    assert api.run("exec", "-i", "p", "--", "cat", stdin="hello\n" * 20_000) == "hello\n" * 20_000
    assert api.run("exec", "p", "-c", "p", "--", "printenv", "HOME", status=0)
    assert "container x is not valid for pod p" in api.run("exec", "p", "-c", "x", "--", "true", status=1)
    assert "NotFound" in api.run("exec", "nosuch", "--", "true", status=1)


def test_exec_on_a_terminal(api: ServedApi) -> None:
    ours, theirs = pty.openpty()
    with api.popen("exec", "-it", "p", "--", "sh", stdin=theirs, stdout=theirs, stderr=theirs) as shell:
        os.close(theirs)
        os.write(ours, b"tty >/dev/null && echo is-a-$((1+1))tty; exit 7\n")
        seen, deadline = b"", time.monotonic() + 10
        while b"is-a-2tty" not in seen and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.2)[0]:
                seen += os.read(ours, 4096)
        assert b"is-a-2tty" in seen
        assert shell.wait(10) == 7
    os.close(ours)


def test_attach(api: ServedApi) -> None:
    container = {"name": "c", "image": "busybox", "stdin": True}
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "attached"}, "spec": {"containers": [container]}}
    api.run("create", "-f", "-", stdin=json.dumps(made))
    pod = json.loads(api.run("get", "pod", "attached", "-o", "json"))
    pod["status"]["phase"] = "Running"
    api.run("replace", "--subresource=status", "-f", "-", stdin=json.dumps(pod))
    done = subprocess.run(
        [api.kubectl, "attach", "-i", "attached"],
        env=api.env,
        input="one\ntwo\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "got one\nthen two\n" in done.stdout
    assert done.returncode == 4


def test_logs(api: ServedApi) -> None:
    assert api.run("logs", "p") == "p line 0\np line 1\np line 2\n"
    assert api.run("logs", "-f", "p", "--tail=3", "--timestamps", "--since=1h", "--limit-bytes=1000") == api.run(
        "logs", "p"
    )
    assert {
        "follow": True,
        "timestamps": True,
        "tailLines": 3,
        "sinceSeconds": 3600,
        "limitBytes": 1000,
    } in api.streams.asked
    assert 'previous terminated container "p" in pod "p" not found' in api.run("logs", "p", "--previous", status=1)
    assert "container x is not valid for pod p" in api.run("logs", "p", "-c", "x", status=1)


def test_port_forward_carries_megabytes_and_says_what_fails(api: ServedApi) -> None:
    pod = json.loads(api.run("get", "pod", "p", "-o", "json"))
    pod["status"]["phase"] = "Running"
    api.run("replace", "--subresource=status", "-f", "-", stdin=json.dumps(pod))
    blob = os.urandom(3_000_000)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=_echo, args=(server, 2))
        thread.start()
        good, bad = server.getsockname()[1], unused.getsockname()[1]
        with api.popen("port-forward", "p", f":{good}", f":{bad}") as forward:
            try:
                ports = [
                    int(re.search(r"127.0.0.1:(\d+)", _line_with(forward, "127.0.0.1")).group(1)) for _ in range(2)
                ]
                for _ in range(2):
                    assert _through(ports[0], blob) == blob
                assert _through(ports[1], b"x") == b""
                assert "error forwarding port" in forward.stderr.readline()
            finally:
                forward.terminate()
                thread.join(10)


def _line_with(process: subprocess.Popen[str], text: str) -> str:
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(process.stderr.read())


def _echo(server: socket.socket, times: int) -> None:
    server.settimeout(15)
    for _ in range(times):
        one, _ = server.accept()
        with one:
            one.settimeout(15)
            while data := one.recv(65536):
                one.sendall(data)


def _through(port: int, blob: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as one:
        one.settimeout(15)

        def send() -> None:
            one.sendall(blob)
            one.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        got = bytearray()
        try:
            while data := one.recv(65536):
                got += data
        except ConnectionResetError:
            pass
        sender.join(10)
        return bytes(got)
