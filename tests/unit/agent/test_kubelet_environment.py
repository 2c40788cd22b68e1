"""What containers are given: variables, /etc files, volumes."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, c, scenario

from glassnet.agent.pods import environment
from glassnet.agent.pods.environment import MissingReference
from glassnet.kube import kinds
from glassnet.kube.types import Pod, decode
from glassnet.kube.view import View
from glassnet.net.errors import ApiError

ALLOCATABLE = {"cpu": "4", "memory": "8Gi"}


def pod(*containers: dict[str, Any], **spec: Any) -> Pod:
    meta = {
        "name": "web-0",
        "namespace": "shop",
        "uid": "u1",
        "labels": {"app": "web", "a": "1"},
        "annotations": {"n": "v"},
    }
    made: Pod = decode(
        kinds.POD,
        json.dumps({"metadata": meta, "spec": {"nodeName": "worker-0", "containers": list(containers), **spec}}),
    )
    return made


def view(*objects: tuple[kinds.Kind, dict[str, Any]]) -> View:
    made = View()
    for kind, body in objects:
        made.apply(kind, decode(kind, json.dumps(body)))
    return made


def named(kind: kinds.Kind, name: str, namespace: str = "shop", **rest: Any) -> tuple[kinds.Kind, dict[str, Any]]:
    return kind, {"metadata": {"name": name, "namespace": namespace}, **rest}


def resolve(container: dict[str, Any], where: View | None = None) -> dict[str, str]:
    made = pod(c(**container))
    return environment.resolve(made.spec.containers[0], made, "10.200.0.2", "10.240.0.20", where or View(), ALLOCATABLE)


def variable(name: str, **source: Any) -> dict[str, Any]:
    return {"name": name, "valueFrom": source}


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("$(A)-$(B)", "1-2"),
        ("$$(A)", "$(A)"),
        ("$(NONE)", "$(NONE)"),
        ("$(C)", "$(C)"),
        ("$A ${A} 5$", "$A ${A} 5$"),
        ("$$$(A)", "$1"),
    ],
)
def test_references_to_variables_before(value: str, seen: str) -> None:
    env = [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "2"},
        {"name": "X", "value": value},
        {"name": "C", "value": "3"},
    ]
    assert resolve({"env": env})["X"] == seen


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("metadata.name", "web-0"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u1"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['n']", "v"),
        ("metadata.labels['none']", ""),
        ("spec.nodeName", "worker-0"),
        ("status.podIP", "10.200.0.2"),
        ("status.podIPs", "10.200.0.2"),
        ("status.hostIP", "10.240.0.20"),
    ],
)
def test_fields(path: str, seen: str) -> None:
    assert resolve({"env": [variable("X", fieldRef={"fieldPath": path})]})["X"] == seen


@pytest.mark.parametrize(
    ("reference", "seen"),
    [
        ({"resource": "limits.memory"}, "134217728"),
        ({"resource": "limits.memory", "divisor": "1Mi"}, "128"),
        ({"resource": "requests.cpu"}, "1"),
        ({"resource": "requests.cpu", "divisor": "1m"}, "250"),
        ({"resource": "limits.cpu"}, "4"),
        ({"resource": "requests.memory"}, "0"),
    ],
)
def test_resources_are_rounded_up_and_limits_fall_back_to_the_nodes(reference: dict[str, str], seen: str) -> None:
    resources = {"limits": {"memory": "128Mi"}, "requests": {"cpu": "250m"}}
    assert resolve({"resources": resources, "env": [variable("X", resourceFieldRef=reference)]})["X"] == seen


def test_config_maps_and_secrets() -> None:
    where = view(
        named(kinds.CONFIG_MAP, "conf", data={"color": "blue", "size": "9"}),
        named(kinds.SECRET, "hush", data={"password": base64.b64encode(b"s3cret").decode()}),
    )
    env = resolve(
        {
            "envFrom": [
                {"prefix": "CONF_", "configMapRef": {"name": "conf"}},
                {"secretRef": {"name": "none", "optional": True}},
            ],
            "env": [
                variable("COLOR", configMapKeyRef={"name": "conf", "key": "color"}),
                variable("PASSWORD", secretKeyRef={"name": "hush", "key": "password"}),
                variable("ABSENT", configMapKeyRef={"name": "conf", "key": "none", "optional": True}),
            ],
        },
        where,
    )
    assert env == {"CONF_color": "blue", "CONF_size": "9", "COLOR": "blue", "PASSWORD": "s3cret"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"configMapKeyRef": {"name": "none", "key": "k"}}, 'configmap "none" not found'),
        ({"secretKeyRef": {"name": "none", "key": "k"}}, 'secret "none" not found'),
        ({"configMapKeyRef": {"name": "conf", "key": "k"}}, "couldn't find key k in ConfigMap shop/conf"),
    ],
)
def test_what_is_missing_is_named(source: dict[str, Any], words: str) -> None:
    with pytest.raises(MissingReference, match=words.replace('"', '"')):
        resolve({"env": [variable("X", **source)]}, view(named(kinds.CONFIG_MAP, "conf", data={})))


def test_services_of_the_namespace_and_the_api() -> None:
    def service(name: str, namespace: str, ip: str, *ports: dict[str, Any]) -> tuple[kinds.Kind, dict[str, Any]]:
        return named(kinds.SERVICE, name, namespace, spec={"clusterIP": ip, "ports": list(ports)})

    where = view(
        service("kubernetes", "default", "10.32.0.1", {"name": "https", "port": 443, "protocol": "TCP"}),
        service("redis-main", "shop", "10.32.0.9", {"name": "db", "port": 6379, "protocol": "TCP"}, {"name": "x", "port": 53, "protocol": "UDP"}),
        service("headless", "shop", "None", {"port": 80, "protocol": "TCP"}),
        service("other", "elsewhere", "10.32.0.8", {"port": 80, "protocol": "TCP"}),
    )  # fmt: skip
    env = resolve({}, where)
    assert env["KUBERNETES_SERVICE_HOST"] == "10.32.0.1" and env["KUBERNETES_SERVICE_PORT"] == "443"
    assert env["KUBERNETES_SERVICE_PORT_HTTPS"] == "443" and env["KUBERNETES_PORT_443_TCP_ADDR"] == "10.32.0.1"
    assert env["REDIS_MAIN_PORT"] == "tcp://10.32.0.9:6379" and env["REDIS_MAIN_SERVICE_PORT_X"] == "53"
    assert env["REDIS_MAIN_PORT_53_UDP"] == "udp://10.32.0.9:53" and env["REDIS_MAIN_PORT_53_UDP_PROTO"] == "udp"
    assert not [name for name in env if name.startswith(("HEADLESS", "OTHER"))]


def test_hosts_line_for_line() -> None:
    made = pod(c(), subdomain="db", hostAliases=[{"ip": "192.0.2.7", "hostnames": ["a", "b.example"]}])
    assert environment.hosts_file(made, "10.200.0.2", "web-0") == (
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
        "10.200.0.2\tweb-0.db.shop.svc.cluster.local\tweb-0\n\n# Entries added by HostAliases.\n192.0.2.7\ta\tb.example\n"
    )


def mount(name: str, path: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "mountPath": path, **more}


def test_volumes_are_laid_out_and_go_with_the_pod(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.api.create(
            kinds.CONFIG_MAP,
            "default",
            {"metadata": {"name": "conf"}, "data": {"a.txt": "A", "b": "B"}, "binaryData": {"raw": "/wA="}},
        )
        await world.api.create(kinds.SECRET, "default", {"metadata": {"name": "hush"}, "data": {"key": "/wA="}})
        volumes = [
            {"name": "conf", "configMap": {"name": "conf"}},
            {"name": "some", "configMap": {"name": "conf", "items": [{"key": "b", "path": "deep/er", "mode": 0o600}]}},
            {"name": "hush", "secret": {"secretName": "hush", "defaultMode": 0o400}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "all", "projected": {"sources": [
                {"secret": {"name": "hush"}},
                {"configMap": {"name": "conf", "items": [{"key": "b", "path": "b"}]}},
                {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            ]}},
        ]  # fmt: skip
        mounts = [mount(v["name"], f"/{v['name']}") for v in volumes] + [mount("conf", "/one", subPath="a.txt")]
        await world.pod(c(volumeMounts=mounts), volumes=volumes)
        await world.until(0.5)
        places = {path: tmp_path / place.lstrip("/") for path, place in world.started[0][3].items()}
        assert (places["/conf"] / "a.txt").read_text() == "A" and (places["/conf"] / "raw").read_bytes() == b"\xff\0"
        assert places["/one"].read_text() == "A"
        assert (places["/some"] / "deep/er").stat().st_mode & 0o777 == 0o600
        assert (places["/hush"] / "key").read_bytes() == b"\xff\0" and (
            places["/hush"] / "key"
        ).stat().st_mode & 0o777 == 0o400
        assert places["/tmp"].stat().st_mode & 0o777 == 0o777 and not list(places["/tmp"].iterdir())
        assert (places["/down"] / "labels").read_text() == 'app="web"'
        assert sorted(p.name for p in places["/all"].iterdir()) == ["b", "key", "name"]
        assert "kubernetes.io~configmap/conf" in str(places["/conf"])
        await world.delete()
        await world.until(2)
        assert not list((tmp_path / "var/lib/kubelet/pods").iterdir())

    scenario(tmp_path, play)


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ({"configMap": {"name": "later"}}, 'configmap "later" not found'),
        ({"secret": {"secretName": "later"}}, 'secret "later" not found'),
        ({"nfs": {"server": "x", "path": "/"}}, "no volume plugin matched: nodes have none for nfs volumes"),
        ({"configMap": {"name": "conf", "items": [{"key": "none", "path": "x"}]}}, "configmap references non-existent configmap key: none"),
    ],
)  # fmt: skip
def test_a_volume_that_cannot_be_had_keeps_the_pod_waiting(tmp_path: Path, volume: dict[str, Any], words: str) -> None:
    async def play(world: World) -> None:
        await world.api.create(kinds.CONFIG_MAP, "default", {"metadata": {"name": "conf"}, "data": {"a": "b"}})
        await world.pod(c(volumeMounts=[mount("v", "/v")]), volumes=[{"name": "v", **volume}])
        await world.until(30)
        assert await world.events("FailedMount") == [f'MountVolume.SetUp failed for volume "v" : {words}']
        assert (await world.container())["state"] == {"waiting": {"reason": "ContainerCreating"}}
        assert world.sandboxes == [] and (await world.status())["phase"] == "Pending"
        if "later" in words:
            kind = kinds.SECRET if "secret" in volume else kinds.CONFIG_MAP
            await world.api.create(kind, "default", {"metadata": {"name": "later"}})
            await world.until(32)
            assert (await world.status())["phase"] == "Running"

    scenario(tmp_path, play)


def test_a_missing_reference_keeps_the_container_waiting(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c("good"), c("bad", envFrom=[{"configMapRef": {"name": "later"}}]))
        await world.until(30)
        shown = await world.container(1)
        assert shown["state"]["waiting"] == {
            "reason": "CreateContainerConfigError",
            "message": 'configmap "later" not found',
        }
        assert await world.events("Failed") == ['Error: configmap "later" not found']
        assert (await world.container(0))["ready"] and (await world.status())["phase"] == "Pending"
        await world.api.create(kinds.CONFIG_MAP, "default", {"metadata": {"name": "later"}, "data": {"a": "b"}})
        await world.until(32)
        assert (await world.container(1))["ready"] and world.started[-1][2]["a"] == "b"

    scenario(tmp_path, play)


def test_a_service_accounts_token(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        create, asked = world.api.create, []

        async def with_tokens(kind: Any, namespace: str, body: Any, subresource: str = "", name: str = "") -> Any:
            if subresource != "token":
                return await create(kind, namespace, body, subresource, name)
            asked.append((kind, namespace, name, body["spec"]["audiences"], body["spec"]["expirationSeconds"]))
            if len(asked) == 1:
                raise ApiError(404, "NotFound", f'serviceaccounts "{name}" not found')
            return {"status": {"token": "abc.def"}}

        world.api.create = with_tokens  # type: ignore[method-assign]
        source = {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 7200}}
        await world.pod(
            c(volumeMounts=[mount("t", "/t")]),
            volumes=[{"name": "t", "projected": {"sources": [source]}}],
            serviceAccountName="builder",
            automountServiceAccountToken=False,
        )
        await world.until(0.5)
        assert await world.events("FailedMount") == [
            'MountVolume.SetUp failed for volume "t" : failed to fetch token: serviceaccounts "builder" not found'
        ]
        await world.until(3)
        assert asked[-1] == (kinds.SERVICE_ACCOUNT, "default", "builder", ["vault"], 7200)
        place = tmp_path / world.started[0][3]["/t"].lstrip("/")
        assert (place / "token").read_text() == "abc.def"

    scenario(tmp_path, play)


def test_an_api_that_breaks_takes_no_pod_with_it(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        create, patch = world.api.create, world.api.patch

        async def broken(*words: Any, **options: Any) -> Any:
            raise RuntimeError("the store is on fire")

        await world.pod(c())
        world.api.create = world.api.patch = broken  # type: ignore[method-assign,assignment]
        await world.until(3)
        assert world.running().name == "c"
        world.api.create, world.api.patch = create, patch  # type: ignore[method-assign]
        await world.until(5)
        assert (await world.status())["phase"] == "Running"

    scenario(tmp_path, play)
