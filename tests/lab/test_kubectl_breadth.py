"""More of the real kubectl against the API server on loopback: every form of output, describe of every kind, rollouts, files in and out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from glassnet.kube import kinds
from served_api import ServedApi


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApi]:
    served = ServedApi(tmp_path_factory.mktemp("api"))
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


# -- reading


@pytest.fixture(scope="module")
def maps(api: ServedApi) -> list[str]:
    """Three ConfigMaps, c, a and b by age; arguments that aim at them."""
    api.run("create", "namespace", "maps")
    for name, value in (("c", "1"), ("a", "3"), ("b", "2")):
        api.run("-n", "maps", "create", "configmap", name, f"--from-literal=v={value}")
        api.run("-n", "maps", "label", "configmap", name, f"odd={'no' if value == '2' else 'yes'}")
    return ["-n", "maps", "get", "configmaps"]


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (("-o", "name"), "configmap/a\nconfigmap/b\nconfigmap/c\n"),
        (("-o", "name", "--chunk-size=1"), "configmap/a\nconfigmap/b\nconfigmap/c\n"),
        (("-o", "jsonpath={.items[*].data.v}"), "3 2 1"),
        (("-o", "jsonpath={range .items[?(@.data.v=='2')]}{.metadata.name}{end}"), "b"),
        (("-o", "go-template={{range .items}}{{.metadata.name}}={{.data.v}};{{end}}"), "a=3;b=2;c=1;"),
        (("-o", "custom-columns=NAME:.metadata.name,V:.data.v"), "NAME   V\na      3\nb      2\nc      1\n"),
        (("-o", "name", "-l", "odd=yes"), "configmap/a\nconfigmap/c\n"),
        (("-o", "name", "-l", "odd notin (yes)"), "configmap/b\n"),
        (("-o", "name", "-l", "odd,odd!=no"), "configmap/a\nconfigmap/c\n"),
        (("-o", "name", "--field-selector=metadata.name!=a"), "configmap/b\nconfigmap/c\n"),
        (("-o", "name", "--sort-by={.data.v}"), "configmap/c\nconfigmap/b\nconfigmap/a\n"),
        (("--no-headers", "-o", "custom-columns=:.metadata.name", "--sort-by=.data.v"), "c\nb\na\n"),
    ],
)
def test_output_forms_and_selections(api: ServedApi, maps: list[str], words: tuple[str, ...], printed: str) -> None:
    assert api.run(*maps, *words) == printed


def test_table_yaml_and_json_show_the_same_object(api: ServedApi, maps: list[str]) -> None:
    header, row = api.run(*maps, "a", "--show-labels").splitlines()
    assert header.split() == ["NAME", "DATA", "AGE", "LABELS"]
    assert row.split()[:2] + row.split()[3:] == ["a", "1", "odd=yes"]
    assert api.run(*maps, "a", "-L", "odd").splitlines()[0].split() == ["NAME", "DATA", "AGE", "ODD"]
    found = json.loads(api.run(*maps, "a", "-o", "json"))
    assert found["data"] == {"v": "3"}
    text = api.run(*maps, "a", "-o", "yaml")
    assert f"uid: {found['metadata']['uid']}" in text
    assert "managedFields" not in text
    assert "managedFields" in api.run(*maps, "a", "-o", "yaml", "--show-managed-fields")


def test_selections_that_cannot_be_read_are_named(api: ServedApi, maps: list[str]) -> None:
    assert "unable to parse requirement" in api.run(*maps, "-l", "a=(", status=1)
    assert "field label not supported" in api.run(*maps, "--field-selector=data.v=3", status=1)


def test_recursive_explain_shows_the_tree(api: ServedApi) -> None:
    tree = api.run("explain", "deployment", "--recursive")
    assert re.search(r"^ {2}spec\t<DeploymentSpec>", tree, re.M)
    assert re.search(r"^ {8}containers\t<\[\]Container>", tree, re.M)
    assert re.search(r"^ {12}containerPort\t<integer> -required-", tree, re.M)


@pytest.mark.parametrize("kind", kinds.ALL, ids=lambda kind: kind.plural)
def test_every_kind_is_explained_by_its_own_fields(api: ServedApi, kind: kinds.Kind) -> None:
    text = api.run("explain", kind.plural, f"--api-version={kind.api_version}")
    assert re.search(rf"^KIND: +{kind.name}$", text, re.M)
    assert re.search(r"^ {2}metadata\t<ObjectMeta>( -required-)?$", text, re.M)


TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}
SELECTED = {"selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE}
ONCE = {**TEMPLATE, "spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}
RULES = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
CLUSTER_ROLE, USER = ({"apiGroup": "rbac.authorization.k8s.io", "kind": kind} for kind in ("ClusterRole", "User"))
BODIES = {
    kinds.POD: {"spec": TEMPLATE["spec"]},
    kinds.SERVICE: {"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}},
    kinds.REPLICATION_CONTROLLER: {"spec": {"selector": {"a": "b"}, "template": TEMPLATE}},
    kinds.EVENT: {"involvedObject": {"kind": "Pod", "name": "p"}, "reason": "R", "message": "m", "type": "Normal"},
    kinds.DEPLOYMENT: {"spec": SELECTED},
    kinds.REPLICA_SET: {"spec": SELECTED},
    kinds.DAEMON_SET: {"spec": SELECTED},
    kinds.STATEFUL_SET: {"spec": {**SELECTED, "serviceName": "s"}},
    kinds.JOB: {"spec": {"template": ONCE}},
    kinds.ENDPOINT_SLICE: {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": []},
    kinds.ENDPOINTS: {"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "protocol": "TCP"}]}]},
    kinds.INGRESS: {"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}},
    kinds.INGRESS_CLASS: {"spec": {"controller": "example.com/c"}},
    kinds.NETWORK_POLICY: {"spec": {"podSelector": {}}},
    kinds.CLUSTER_ROLE: {"rules": RULES},
    kinds.ROLE: {"rules": RULES},
    kinds.CLUSTER_ROLE_BINDING: {"roleRef": {**CLUSTER_ROLE, "name": "r"}, "subjects": [{**USER, "name": "u"}]},
    kinds.ROLE_BINDING: {"roleRef": {**CLUSTER_ROLE, "name": "r"}, "subjects": [{**USER, "name": "g"}]},
}  # fmt: skip


@pytest.mark.parametrize("kind", kinds.ALL, ids=lambda kind: kind.plural)
def test_each_kind_is_created_applied_described_listed_and_deleted(api: ServedApi, kind: kinds.Kind) -> None:
    name = f"x-{kind.plural}"[:40]
    metadata = {"name": name, "namespace": "default"} if kind.namespaced else {"name": name}
    body = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, **BODIES.get(kind, {})}
    text = json.dumps(body)
    one = f"{kind.resource}/{name}"
    assert api.run("apply", "-f", "-", stdin=text).endswith(" created\n")
    assert api.run("apply", "-f", "-", stdin=text).endswith(" unchanged\n")
    assert api.run("diff", "-f", "-", stdin=text) == ""
    if (
        kind is not kinds.SERVICE_CIDR
    ):  # kubectl 1.32 describes it by way of v1beta1, which Kubernetes 1.36 does not serve
        assert re.search(rf"^Name: +{name}$", api.run("describe", one), re.M)
    assert f"/{name}" in api.run("get", kind.resource, "-o", "name")
    assert len(api.run("get", kind.resource).splitlines()) >= 2  # a table: a header, a row for each
    assert api.run("label", one, "l=1").endswith(" labeled\n")
    assert api.run("delete", one, "--grace-period=0", "--force", "--wait=false").startswith(kind.name.lower())


# -- workloads


def test_rollout_restart_pause_and_resume_change_the_template(api: ServedApi, ns: str) -> None:
    api.run("-n", ns, "create", "deployment", "d", "--image=nginx")
    read = ("-n", ns, "get", "deploy", "d", "-o")
    assert api.run("-n", ns, "rollout", "restart", "deploy/d") == "deployment.apps/d restarted\n"
    stamp = r"jsonpath={.spec.template.metadata.annotations.kubectl\.kubernetes\.io/restartedAt}"
    assert re.match(r"\d{4}-\d\d-\d\dT", api.run(*read, stamp))
    api.run("-n", ns, "rollout", "pause", "deploy/d")
    assert api.run(*read, "jsonpath={.spec.paused}") == "true"
    api.run("-n", ns, "rollout", "resume", "deploy/d")
    assert api.run(*read, "jsonpath={.spec.paused}") == ""
    api.run("-n", ns, "set", "env", "deploy/d", "A=b")
    assert api.run(*read, "jsonpath={.spec.template.spec.containers[0].env}") == '[{"name":"A","value":"b"}]'


def test_applying_a_deployment_again_merges_by_container_name(api: ServedApi, ns: str) -> None:
    def apply(*containers: dict[str, object], extra: tuple[str, ...] = ()) -> str:
        pod = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": list(containers)}}
        spec = {"selector": {"matchLabels": {"a": "b"}}, "template": pod}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}
        return api.run("-n", ns, "apply", *extra, "-f", "-", stdin=json.dumps(body))

    first, second = {"name": "a", "image": "x:1"}, {"name": "b", "image": "y:1"}
    apply(first, second)
    api.run("-n", ns, "set", "resources", "deploy/d", "-c=b", "--limits=cpu=1")
    assert apply({"name": "b", "image": "y:2"}) == "deployment.apps/d configured\n"
    found = json.loads(api.run("-n", ns, "get", "deploy", "d", "-o", "json"))
    (left,) = found["spec"]["template"]["spec"]["containers"]
    assert (left["name"], left["image"], left["resources"]) == ("b", "y:2", {"limits": {"cpu": "1"}})


def test_wait_sees_a_change_that_comes_later_and_gives_up_in_time(api: ServedApi, ns: str) -> None:
    api.run("-n", ns, "create", "configmap", "c", "--from-literal=a=1")
    late = api.run("-n", ns, "wait", "--for=jsonpath={.data.a}=2", "cm/c", "--timeout=1s", status=1)
    assert "timed out waiting for the condition" in late
    with api.popen("-n", ns, "wait", "--for=jsonpath={.data.a}=2", "cm/c", "--timeout=20s") as waiting:
        api.run("-n", ns, "patch", "cm", "c", "-p", '{"data":{"a":"2"}}')
        assert waiting.wait(20) == 0
    with api.popen("-n", ns, "wait", "--for=delete", "cm/c", "--timeout=20s") as waiting:
        api.run("-n", ns, "delete", "cm", "c")
        assert waiting.wait(20) == 0


def test_replace_by_force_makes_a_new_object(api: ServedApi, ns: str) -> None:
    api.run("-n", ns, "create", "configmap", "c")
    uid = ("-n", ns, "get", "cm", "c", "-o", "jsonpath={.metadata.uid}")
    before = api.run(*uid)
    api.run(
        "-n",
        ns,
        "replace",
        "--force",
        "-f",
        "-",
        stdin='{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}',
    )
    assert api.run(*uid) not in ("", before)


def test_what_is_not_served_is_refused_by_name(api: ServedApi) -> None:
    assert 'the server doesn\'t have a resource type "gadgets"' in api.run("get", "gadgets", status=1)
    body = '{"apiVersion":"example.com/v1","kind":"Gadget","metadata":{"name":"g"}}'
    assert 'no matches for kind "Gadget" in version "example.com/v1"' in api.run(
        "apply", "-f", "-", stdin=body, status=1
    )
    wrong = '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"w"},"spec":{"containers":[]}}'
    assert "spec.containers: Required value" in api.run("create", "-f", "-", stdin=wrong, status=1)


def test_lists_are_applied_and_their_items_checked(api: ServedApi, ns: str) -> None:
    items = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "b"}, "spec": SELECTED},
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    assert api.run("-n", ns, "apply", "-f", "-", stdin=text) == "configmap/a created\ndeployment.apps/b created\n"
    again = api.run("-n", ns, "get", "cm/a", "deploy/b", "-o", "yaml")
    assert api.run("-n", ns, "replace", "-f", "-", stdin=again) == "configmap/a replaced\ndeployment.apps/b replaced\n"
    bad = api.run("-n", ns, "apply", "-f", "-", stdin=text.replace('"data"', '"dota"'), status=1)
    assert 'unknown field "dota" in io.k8s.api.core.v1.ConfigMap' in bad
    wrong = api.run("-n", ns, "apply", "-f", "-", stdin=text.replace('"image": "nginx"', '"image": ["x"]'), status=1)
    assert "spec.template.spec.containers[0].image" in wrong


def test_types_in_openapi_v2_are_the_same(api: ServedApi) -> None:
    text = api.run("explain", "pods.spec.containers.ports", "--output=plaintext-openapiv2")
    assert re.search(r"^ {3}containerPort\t<integer> -required-", text, re.M)
    tree = api.run("explain", "deployments", "--recursive", "--output=plaintext-openapiv2")
    assert re.search(r"^ +matchLabels\t<map\[string\]string>", tree, re.M)


# -- files


@pytest.fixture
def pod(api: ServedApi) -> str:
    """The name of a pod; its processes are this machine's."""
    name = f"f-{os.urandom(3).hex()}"
    api.run("run", name, "--image=busybox")
    return name


def test_files_are_copied_in_and_out(api: ServedApi, pod: str, tmp_path: Path) -> None:
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    source.write_bytes(os.urandom(700_000))
    api.run("cp", str(source), f"{pod}:{there}")
    assert there.read_bytes() == source.read_bytes()
    api.run("cp", f"{pod}:{there}", str(back))
    assert back.read_bytes() == source.read_bytes()


def test_a_client_that_goes_away_ends_its_process(api: ServedApi, pod: str, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    with api.popen(
        "exec", pod, "--", "sh", "-c", f"echo $$ >{mark}.new; mv {mark}.new {mark}; exec sleep 600"
    ) as client:
        deadline = time.monotonic() + 10
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        number = int(mark.read_text())
        assert Path(f"/proc/{number}").exists()
        client.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{number}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{number}").exists()


def test_output_of_megabytes_comes_whole_and_in_order(api: ServedApi, pod: str) -> None:
    done = subprocess.run(
        [api.kubectl, "exec", pod, "--", "seq", "600000"], env=api.env, capture_output=True, timeout=30, check=True
    )
    assert done.stdout == b"".join(b"%d\n" % number for number in range(1, 600_001))
