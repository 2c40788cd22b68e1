"""The API over HTTP: paths and codes, forms of answers, bodies in every format, watches on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer

from glassnet.apiserver import auth, http, watch
from glassnet.apiserver.server import ApiServer, encode
from glassnet.apiserver.store import Store
from glassnet.kube import kinds
from glassnet.kube.view import Key

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PODS, MAPS, DEPLOYMENTS = (
    "/api/v1/namespaces/default/pods",
    "/api/v1/namespaces/default/configmaps",
    "/apis/apps/v1/namespaces/default/deployments",
)
TABLE = (
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
)
METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"


class Api:
    """A server and a client of it."""

    def __init__(self, server: ApiServer, client: TestClient[Any, Any], who: list[auth.User | None]) -> None:
        self.server, self.client, self.who = server, client, who
        self.headers: Any = {}

    async def call(self, method: str, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        """The answer's object; `body` may be text or bytes as they are."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, str | bytes | None) else json.dumps(body)
        if body is not None:
            named.setdefault("Content-Type", "application/json")
        async with self.client.request(method, path, data=data, headers=named) as response:
            raw = await response.read()
            assert response.status == status, raw
            self.headers = response.headers
            return json.loads(raw) if response.content_type == "application/json" else raw.decode()

    async def refused(self, status: int, reason: str, method: str, path: str, body: Any = None, **headers: str) -> str:
        """The message of a Status that must come with this code and reason."""
        found = await self.call(method, path, body, status, **headers)
        assert (found["kind"], found["status"], found["code"], found["reason"]) == ("Status", "Failure", status, reason)
        return str(found["message"])


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    server = ApiServer(Store(":memory:"), now=lambda: NOW, random=Random(1))
    who: list[auth.User | None] = [auth.User("joe", (auth.MASTERS,))]
    async with TestClient(TestServer(http.build_app(server, lambda _: who[0], auth.authorize))) as client:
        yield Api(server, client, who)


def pod(name: str = "p") -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}


def config(name: str = "c", **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": data}


# -- paths and codes


async def test_an_object_from_birth_to_death(api: Api) -> None:
    made = await api.call("POST", MAPS, config(a="1"), 201)
    assert (made["apiVersion"], made["kind"], made["data"]) == ("v1", "ConfigMap", {"a": "1"})
    assert await api.call("GET", f"{MAPS}/c") == made
    made["data"] = {"a": "2"}
    made = await api.call("PUT", f"{MAPS}/c", made)
    assert made["data"] == {"a": "2"}
    patched = await api.call("PATCH", f"{MAPS}/c", {"data": {"b": "3"}}, Content_Type=MERGE)
    assert patched["data"] == {"a": "2", "b": "3"}
    for path in (MAPS, "/api/v1/configmaps"):
        listed = await api.call("GET", path)
        assert (listed["kind"], listed["apiVersion"], listed["items"]) == ("ConfigMapList", "v1", [patched])
        assert listed["metadata"] == {"resourceVersion": patched["metadata"]["resourceVersion"]}
    gone = await api.call("DELETE", f"{MAPS}/c")
    assert (gone["kind"], gone["status"]) == ("Status", "Success")
    assert gone["details"] == {"name": "c", "kind": "configmaps", "uid": made["metadata"]["uid"]}
    assert await api.refused(404, "NotFound", "GET", f"{MAPS}/c") == 'configmaps "c" not found'


async def test_every_kind_can_be_listed(api: Api) -> None:
    for kind in kinds.ALL:
        base = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        found = await api.call("GET", f"{base}/{kind.plural}")
        assert found["kind"] == f"{kind.name}List"


async def test_codes_of_errors(api: Api) -> None:
    await api.call("POST", MAPS, config(), 201)
    assert await api.refused(409, "AlreadyExists", "POST", MAPS, config()) == 'configmaps "c" already exists'
    assert "could not find" in await api.refused(404, "NotFound", "GET", "/api/v1/widgets")
    assert "could not find" in await api.refused(404, "NotFound", "GET", f"{MAPS}/c/status")
    assert "does not allow" in await api.refused(405, "MethodNotAllowed", "POST", f"{MAPS}/c", config())
    assert "does not allow" in await api.refused(405, "MethodNotAllowed", "PUT", MAPS, config())
    invalid = await api.call("POST", MAPS, config("No Good"), 422)
    assert invalid["details"]["causes"][0]["field"] == "metadata.name"
    assert await api.refused(422, "Invalid", "POST", MAPS, {"metadata": {}})
    too_much = await api.refused(413, "RequestEntityTooLarge", "POST", MAPS, config(a="x" * (3 << 20)))
    assert "limit is 3145728" in too_much


async def test_nothing_without_credentials(api: Api) -> None:
    api.who[0] = None
    for path in (MAPS, "/version", "/healthz", "/nowhere"):
        assert await api.refused(401, "Unauthorized", "GET", path) == "Unauthorized"
    api.who[0] = auth.User("jane", ("readers",))
    await api.call("GET", MAPS)
    assert 'User "jane" cannot create' in await api.refused(403, "Forbidden", "POST", MAPS, config())
    assert api.server.store.all(kinds.CONFIG_MAP) == []


async def test_health_and_version(api: Api) -> None:
    for path in ("/healthz", "/livez", "/readyz"):
        assert await api.call("GET", path) == "ok"
    version = await api.call("GET", "/version")
    assert (version["major"], version["minor"], version["gitVersion"]) == ("1", "36", "v1.36.2+glassnet")


async def test_a_fault_of_ours_is_told_as_a_status(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(api.server, "list", fail)
    assert await api.refused(500, "InternalError", "GET", MAPS) == (
        "Internal error occurred: ZeroDivisionError: of all things"
    )


async def test_a_full_disk_is_told(api: Api) -> None:
    pages = api.server.store._db.execute("PRAGMA page_count").fetchone()[0]
    api.server.store._db.execute(f"PRAGMA max_page_count = {pages}")
    message = await api.refused(507, "InsufficientStorage", "POST", MAPS, config(a="x" * 100_000))
    assert "nothing was written" in message
    await api.refused(404, "NotFound", "GET", f"{MAPS}/c")


# -- forms of answers


async def test_tables(api: Api) -> None:
    await api.call("POST", PODS, pod("a"), 201)
    await api.call("POST", PODS, pod("b"), 201)
    table = await api.call("GET", PODS, Accept=TABLE)
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert [column["name"] for column in table["columnDefinitions"]][:5] == [
        "Name",
        "Ready",
        "Status",
        "Restarts",
        "Age",
    ]
    assert [row["cells"][:3] for row in table["rows"]] == [["a", "0/1", "Pending"], ["b", "0/1", "Pending"]]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert table["metadata"]["resourceVersion"] == str(api.server.store.revision)
    one = await api.call("GET", f"{PODS}/a?includeObject=Object", Accept=TABLE)
    assert [row["object"]["spec"]["containers"][0]["name"] for row in one["rows"]] == ["c"]
    assert await api.refused(400, "BadRequest", "GET", f"{PODS}?includeObject=Some", Accept=TABLE)
    paged = await api.call("GET", f"{PODS}?limit=1", Accept=TABLE)
    assert (len(paged["rows"]), paged["metadata"]["remainingItemCount"]) == (1, 1)


async def test_metadata_alone(api: Api) -> None:
    made = await api.call("POST", PODS, pod(), 201)
    only = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": made["metadata"]}
    assert await api.call("GET", f"{PODS}/p", Accept=METADATA.format("")) == only
    listed = await api.call("GET", PODS, Accept=METADATA.format("List"))
    assert (listed["kind"], listed["items"]) == ("PartialObjectMetadataList", [only])


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/vnd.kubernetes.protobuf,application/json", "application/json"),
        ("application/vnd.kubernetes.protobuf", "application/json"),
        ("application/yaml", "application/yaml"),
        ("application/json;q=0.3, application/yaml;q=0.9", "application/yaml"),
        ("text/html, application/*;q=0.1", "application/json"),
    ],
)
async def test_accepted_forms(api: Api, accept: str, form: str) -> None:
    await api.call("POST", MAPS, config(a="1"), 201)
    found = await api.call("GET", f"{MAPS}/c", Accept=accept)
    assert api.headers["Content-Type"].startswith(form)
    assert (found if form.endswith("json") else yaml.safe_load(found))["data"] == {"a": "1"}


@pytest.mark.parametrize(
    "accept", ["text/html", "application/json;q=0", "application/json;as=Table;v=v9;g=meta.k8s.io"]
)
async def test_a_form_that_cannot_be_served_changes_nothing(api: Api, accept: str) -> None:
    message = await api.refused(406, "NotAcceptable", "POST", MAPS, config(), Accept=accept)
    assert message.startswith("only the following media types are accepted: application/json")
    assert api.server.store.all(kinds.CONFIG_MAP) == []


async def test_a_human_gets_it_indented(api: Api) -> None:
    await api.call("POST", MAPS, config(), 201)
    for path, agent, indented in (
        (MAPS, "curl/8.5", True),
        (MAPS, "kubectl/v1.32", False),
        (f"{MAPS}?pretty=true", "kubectl/v1.32", True),
        (f"{MAPS}?pretty=false", "curl/8.5", False),
    ):
        async with api.client.get(path, headers={"User-Agent": agent}) as response:
            assert ("\n" in await response.text()) is indented


async def test_what_is_stored_is_sent_as_it_is(api: Api) -> None:
    """Lists and gets are put together from stored JSON, never decoded on the way."""
    odd = b'{"kind":"ConfigMap", "metadata":{"name":"odd","namespace":"default"},  "data":{"a":"\\u0041"}}'
    api.server.store.put(kinds.CONFIG_MAP, Key("default", "odd"), lambda _: odd)
    async with api.client.get(f"{MAPS}/odd") as response:
        assert await response.read() == odd
    async with api.client.get(MAPS) as response:
        assert odd in await response.read()


# -- bodies


async def test_unknown_and_duplicate_fields(api: Api) -> None:
    body = '{"metadata":{"name":"c"},"data":{"a":"1","a":"2"},"more":1}'
    await api.call("POST", MAPS, body, 201)
    assert api.headers.getall("Warning") == [
        '299 - "duplicate field \\"data.a\\""',
        '299 - "unknown field \\"more\\""',
    ]
    strict = await api.refused(400, "BadRequest", "POST", f"{MAPS}?fieldValidation=Strict", body)
    assert strict.endswith('strict decoding error: duplicate field "data.a", unknown field "more"')
    await api.call("PUT", f"{MAPS}/c?fieldValidation=Ignore", body)
    assert "Warning" not in api.headers
    assert await api.refused(400, "BadRequest", "POST", f"{MAPS}?fieldValidation=Loose", body)
    nested = '{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"x","image":"y"}]}}'
    await api.call("POST", PODS, nested, 201)
    assert api.headers.getall("Warning") == ['299 - "duplicate field \\"spec.containers[0].image\\""']


async def test_bodies_in_yaml(api: Api) -> None:
    text = "metadata:\n  name: c\n  annotations: {when: 2026-01-02}\ndata:\n  2: one\n  yes: 'y'\n"
    made = await api.call("POST", MAPS, text, 201, Content_Type="application/yaml")
    assert made["data"] == {"2": "one", "true": "y"}
    assert made["metadata"]["annotations"] == {"when": "2026-01-02"}
    applied = await api.call("PATCH", f"{MAPS}/d?fieldManager=me", "data: {a: b}", 201, Content_Type=APPLY)
    assert applied["metadata"]["managedFields"][0]["operation"] == "Apply"
    await api.call("PATCH", f"{MAPS}/d?fieldManager=me", "data: {a: c}", 200, Content_Type=APPLY)


@pytest.mark.parametrize(
    ("body", "form"),
    [
        ("{", "application/json"),
        ("[1, 2]", "application/json"),
        ("null", "application/json"),
        ('"\ud800"'.encode("utf-8", "surrogatepass"), "application/json"),
        ("[" * 100_000, "application/json"),
        ("a: [", "application/yaml"),
        ("a: !!python/object:os.system {}", "application/yaml"),
        ("a: !!binary aGVsbG8=", "application/yaml"),
        ("? [a]\n: b", "application/yaml"),
        (b"k8s\x00\xff\xff\xff", "application/vnd.kubernetes.protobuf"),
        ('{"metadata": "x"}', "application/json"),
        ('{"metadata": {"name": 5}}', "application/json"),
        ('{"metadata": {"name": "c"}, "data": ["x"]}', "application/json"),
        ('{"metadata": {"name": "c"}, "kind": "Pod"}', "application/json"),
    ],
)
async def test_bodies_that_make_no_sense(api: Api, body: str | bytes, form: str) -> None:
    await api.refused(400, "BadRequest", "POST", MAPS, body, Content_Type=form)


async def test_content_types_nobody_knows(api: Api) -> None:
    message = await api.refused(415, "UnsupportedMediaType", "POST", MAPS, "a=b", Content_Type="text/plain")
    assert message.endswith("application/json, application/yaml, application/vnd.kubernetes.protobuf")
    await api.call("POST", MAPS, config(), 201)
    message = await api.refused(415, "UnsupportedMediaType", "PATCH", f"{MAPS}/c", {})
    assert "application/strategic-merge-patch+json" in message


# -- writes


async def test_options_of_writes(api: Api) -> None:
    dry = await api.call("POST", f"{MAPS}?dryRun=All", config(), 201)
    assert dry["metadata"]["uid"]
    assert api.server.store.all(kinds.CONFIG_MAP) == []
    assert await api.refused(400, "BadRequest", "POST", f"{MAPS}?dryRun=Some", config())
    made = await api.call("POST", f"{MAPS}?fieldManager=me", config(a="1"), 201)
    assert [entry["manager"] for entry in made["metadata"]["managedFields"]] == ["me"]
    made = await api.call("POST", MAPS, config("d", a="1"), 201, User_Agent="kubectl/v1.32 (linux)")
    assert [entry["manager"] for entry in made["metadata"]["managedFields"]] == ["kubectl"]
    assert await api.refused(422, "Invalid", "PATCH", f"{MAPS}/c", config(a="2"), Content_Type=APPLY)
    assert await api.refused(422, "Invalid", "PATCH", f"{MAPS}/c?force=true", {}, Content_Type=MERGE)
    assert await api.refused(422, "Invalid", "POST", f"{MAPS}?fieldManager={'x' * 200}", config("e"))
    conflict = await api.refused(
        409, "Conflict", "PATCH", f"{MAPS}/c?fieldManager=you", config(a="2"), Content_Type=APPLY
    )
    assert "conflict with" in conflict
    await api.call("PATCH", f"{MAPS}/c?fieldManager=you&force=true", config(a="2"), Content_Type=APPLY)


async def test_deletes(api: Api) -> None:
    for name in ("a", "b", "x"):
        body = config(name)
        body["metadata"]["labels"] = {"app": name}
        await api.call("POST", MAPS, body, 201)
    gone = await api.call("DELETE", f"{MAPS}?labelSelector=app in (a,b)")
    assert (gone["kind"], [item["metadata"]["name"] for item in gone["items"]]) == ("ConfigMapList", ["a", "b"])
    assert [key.name for key, _ in api.server.store.all(kinds.CONFIG_MAP)] == ["x"]
    assert await api.refused(409, "Conflict", "DELETE", f"{MAPS}/x", {"preconditions": {"uid": "other"}})
    assert await api.refused(400, "BadRequest", "DELETE", f"{MAPS}/x", {"gracePeriodSeconds": "soon"})
    assert await api.refused(422, "Invalid", "DELETE", f"{MAPS}/x?propagationPolicy=Sideways")
    await api.call("DELETE", f"{MAPS}/x?dryRun=All")
    shown = await api.call("DELETE", f"{MAPS}/x?propagationPolicy=Foreground")
    assert (shown["kind"], shown["metadata"]["finalizers"]) == ("ConfigMap", ["foregroundDeletion"])
    body = pod()
    body["spec"]["nodeName"] = "n"
    await api.call("POST", PODS, body, 201)
    shown = await api.call("DELETE", f"{PODS}/p?gracePeriodSeconds=9")
    assert shown["metadata"]["deletionGracePeriodSeconds"] == 9
    await api.call("DELETE", f"{PODS}/p", {"kind": "DeleteOptions", "gracePeriodSeconds": 0})
    await api.refused(404, "NotFound", "GET", f"{PODS}/p")


async def test_subresources(api: Api) -> None:
    labels = {"matchLabels": {"app": "w"}}
    template = {"metadata": {"labels": {"app": "w"}}, "spec": pod()["spec"]}
    await api.call("POST", DEPLOYMENTS, {"metadata": {"name": "w"}, "spec": {"selector": labels, "template": template}}, 201)  # fmt: skip
    scale = await api.call("GET", f"{DEPLOYMENTS}/w/scale")
    assert (scale["kind"], scale["spec"]) == ("Scale", {"replicas": 1})
    scale["spec"]["replicas"] = 3
    assert (await api.call("PUT", f"{DEPLOYMENTS}/w/scale", scale))["spec"] == {"replicas": 3}
    patched = await api.call("PATCH", f"{DEPLOYMENTS}/w/scale", {"spec": {"replicas": 2}}, Content_Type=MERGE)
    assert patched["spec"] == {"replicas": 2}
    await api.refused(409, "Conflict", "PUT", f"{DEPLOYMENTS}/w/scale", scale)
    status = {"metadata": {"name": "w"}, "status": {"replicas": 2}}
    found = await api.call("PATCH", f"{DEPLOYMENTS}/w/status", status, Content_Type=MERGE)
    assert (found["status"], found["spec"]["replicas"]) == ({"replicas": 2}, 2)
    await api.call("POST", PODS, pod(), 201)
    await api.call("POST", f"{PODS}/p/binding", {"target": {"kind": "Node", "name": "n"}}, 201)
    assert (await api.call("GET", f"{PODS}/p"))["spec"]["nodeName"] == "n"
    await api.call("POST", f"{PODS}/p/eviction", {"apiVersion": "policy/v1", "kind": "Eviction"}, 201)
    assert (await api.call("GET", f"{PODS}/p"))["metadata"]["deletionTimestamp"]
    await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "n"}}, 201)
    await api.call("DELETE", "/api/v1/namespaces/n")
    await api.call("PUT", "/api/v1/namespaces/n/finalize", {"metadata": {"name": "n"}, "spec": {}})
    await api.refused(404, "NotFound", "GET", "/api/v1/namespaces/n")


# -- watches


class Stream:
    """A watch's lines."""

    def __init__(self, response: Any) -> None:
        self.response = response

    async def next(self) -> tuple[str, Any]:
        """(type, object) of the next event."""
        event = json.loads(await asyncio.wait_for(self.response.content.readline(), 10))
        return event["type"], event["object"]

    async def names(self, count: int) -> list[tuple[str, str]]:
        """(type, name) of the next events."""
        return [(type_, obj["metadata"]["name"]) for type_, obj in [await self.next() for _ in range(count)]]


def written(api: Api, *names: str) -> Iterator[None]:
    for name in names:
        api.server.create(kinds.CONFIG_MAP, "default", config(name))
        yield


async def test_a_watch_streams_lines(api: Api) -> None:
    start = api.server.store.revision
    list(written(api, "a"))
    async with api.client.get(f"{MAPS}?watch=true&resourceVersion={start}") as response:
        stream = Stream(response)
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert await stream.names(1) == [("ADDED", "a")]
        list(written(api, "b"))
        api.server.delete(kinds.CONFIG_MAP, "default", "a")
        assert await stream.names(2) == [("ADDED", "b"), ("DELETED", "a")]


async def test_a_watch_of_one_name(api: Api) -> None:
    list(written(api, "a", "b"))
    async with api.client.get(f"{MAPS}?watch=1&fieldSelector=metadata.name%3Db&timeoutSeconds=1") as response:
        stream = Stream(response)
        assert await stream.names(1) == [("ADDED", "b")]
        assert await asyncio.wait_for(response.content.read(), 10) == b""  # it ends at its timeout


async def test_a_watch_from_a_forgotten_revision(api: Api) -> None:
    api.server.store._history = 2
    list(written(api, *"abcd"))
    async with api.client.get(f"{MAPS}?watch=true&resourceVersion=1") as response:
        type_, status = await Stream(response).next()
        assert (response.status, type_, status["code"], status["reason"]) == (200, "ERROR", 410, "Expired")
        assert await response.content.read() == b""


async def test_a_streamed_list(api: Api) -> None:
    list(written(api, "a"))
    query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with api.client.get(f"{MAPS}?{query}") as response:
        stream = Stream(response)
        assert await stream.names(1) == [("ADDED", "a")]
        type_, bookmark = await stream.next()
        assert type_ == "BOOKMARK"
        assert bookmark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    message = await api.refused(422, "Invalid", "GET", f"{MAPS}?watch=true&sendInitialEvents=true")
    assert "sendInitialEvents requires setting resourceVersionMatch" in message


async def test_a_watch_as_tables(api: Api) -> None:
    await api.call("POST", PODS, pod("a"), 201)
    async with api.client.get(f"{PODS}?watch=true", headers={"Accept": TABLE}) as response:
        stream = Stream(response)
        type_, table = await stream.next()
        assert (type_, table["kind"], table["rows"][0]["cells"][0]) == ("ADDED", "Table", "a")
        assert table["columnDefinitions"][0]["name"] == "Name"
        api.server.create(kinds.POD, "default", pod("b"))
        type_, table = await stream.next()
        assert (type_, table["rows"][0]["cells"][0], table["columnDefinitions"]) == ("ADDED", "b", None)


async def test_watches_of_clients_that_left_end(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK", 0.02)
    before = len(api.server.store._listeners)
    async with api.client.get(f"{MAPS}?watch=true", headers={"Connection": "close"}):
        assert len(api.server.store._listeners) == before + 1
    for _ in range(1000):
        if len(api.server.store._listeners) == before:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the watch is still there")


async def test_metrics_tell_which_watches_are_open_and_whose(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK", 0.02)

    async def told() -> list[str]:
        return [line for line in (await api.call("GET", "/metrics")).splitlines() if not line.startswith("#")]

    assert await told() == []
    api.who[0] = auth.User('a "quoted" name', (auth.MASTERS,))
    path = "/apis/discovery.k8s.io/v1/endpointslices?watch=true"
    async with api.client.get(path, headers={"Connection": "close"}):
        place = 'verb="WATCH",group="discovery.k8s.io",version="v1",resource="endpointslices"'
        assert await told() == [f'apiserver_longrunning_requests{{{place},user="a \\"quoted\\" name"}} 1']
    async with asyncio.timeout(10):
        while await told():  # noqa: ASYNC110 (the server finds out in its own time)
            await asyncio.sleep(0.01)


async def test_a_client_that_reads_nothing_is_cut_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LIMIT", 20)
    monkeypatch.setattr("glassnet.apiserver.http_watch._PATIENCE", 0.05)
    before = len(api.server.store._listeners)
    reader, writer = await asyncio.open_connection(api.client.host, api.client.port, limit=1024)
    writer.write(f"GET {MAPS}?watch=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    raw = encode({**config("big", a="x" * 500_000), "kind": "ConfigMap"})
    async with asyncio.timeout(20):
        while len(api.server.store._listeners) > before:
            api.server.store.put(kinds.CONFIG_MAP, Key("default", "big"), lambda _: raw)
            await asyncio.sleep(0.002)
    writer.close()
