"""Discovery: both forms say the same, and it is what is served; what has not changed is not sent again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from glassnet.apiserver import auth, discovery, http
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store
from glassnet.kube import kinds

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOKENS = auth.Tokens(b"secret")
ADMIN = auth.User("joe", (auth.MASTERS,), "7")
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"
KUBECTL = f"{AGGREGATED.format('v2')},{AGGREGATED.format('v2beta1')},application/json"


@pytest.fixture
async def client() -> AsyncIterator[TestClient[Any, Any]]:
    server = ApiServer(Store(":memory:"), now=lambda: NOW, random=Random(1))
    who = [ADMIN]
    app = http.build_app(server, lambda _: who[0], auth.authorize, discovery.routes(TOKENS))
    async with TestClient(TestServer(app)) as found:
        found.who = who  # type: ignore[attr-defined]
        yield found


async def get(client: TestClient[Any, Any], path: str, **headers: str) -> Any:
    response = await client.get(path, headers=headers)
    assert response.status == 200, await response.text()
    return json.loads(await response.read())


async def post(client: TestClient[Any, Any], path: str, body: Any) -> tuple[int, Any]:
    response: ClientResponse = await client.post(path, json=body)
    return response.status, json.loads(await response.read())


async def older(client: TestClient[Any, Any]) -> dict[tuple[str, str], tuple[Any, ...]]:
    """(group-version, resource) -> kind, namespaced, verbs, as the older form tells."""
    names = (await get(client, "/api"))["versions"]
    groups = (await get(client, "/apis"))["groups"]
    paths = [(f"/api/{name}", name) for name in names]
    paths += [(f"/apis/{v['groupVersion']}", v["groupVersion"]) for group in groups for v in group["versions"]]
    found = {}
    for path, name in paths:
        document = await get(client, path)
        assert (document["kind"], document["groupVersion"]) == ("APIResourceList", name)
        for one in document["resources"]:
            found[name, one["name"]] = one["kind"], one["namespaced"], tuple(one["verbs"])
    return found


async def aggregated(client: TestClient[Any, Any], accept: str) -> dict[tuple[str, str], tuple[Any, ...]]:
    """The same, as the aggregated form tells."""
    found = {}
    for path in ("/api", "/apis"):
        for group in (await get(client, path, Accept=accept))["items"]:
            for version in group["versions"]:
                name = "/".join(filter(None, (group["metadata"].get("name", ""), version["version"])))
                for one in version["resources"]:
                    scope = one["scope"] == "Namespaced"
                    found[name, one["resource"]] = one["responseKind"]["kind"], scope, tuple(one["verbs"])
                    for sub in one.get("subresources", ()):
                        key = name, f"{one['resource']}/{sub['subresource']}"
                        found[key] = sub["responseKind"]["kind"], scope, tuple(sub["verbs"])
    return found


@pytest.mark.parametrize("version", ["v2", "v2beta1"])
async def test_both_forms_say_the_same(client: TestClient[Any, Any], version: str) -> None:
    assert await aggregated(client, AGGREGATED.format(version)) == await older(client)


async def test_every_kind_is_told_and_everything_told_is_served(client: TestClient[Any, Any]) -> None:
    found = await older(client)
    assert {(kind.api_version, kind.plural) for kind in kinds.ALL} <= set(found)
    routes = {route.resource.canonical for route in client.server.app.router.routes() if route.resource}
    for (group_version, resource), (_, namespaced, _) in found.items():
        plural, _, sub = resource.partition("/")
        base = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
        place = f"{base}/namespaces/{{namespace}}/{plural}" if namespaced else f"{base}/{plural}"
        if sub not in ("exec", "attach", "log", "portforward", "token"):
            wanted = f"{place}/{{name}}/{{subresource}}" if sub else place
            assert wanted in routes, resource


async def test_short_names_and_categories_reach_kubectl(client: TestClient[Any, Any]) -> None:
    core = (await get(client, "/api", Accept=KUBECTL))["items"][0]["versions"][0]["resources"]
    pods = next(one for one in core if one["resource"] == "pods")
    assert (pods["shortNames"], pods["categories"], pods["singularResource"]) == (["po"], ["all"], "pod")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (KUBECTL, "APIGroupDiscoveryList"),
        (AGGREGATED.format("v2beta1"), "APIGroupDiscoveryList"),
        ("application/json", "APIGroupList"),
        ("*/*", "APIGroupList"),
        ("application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json", "APIGroupList"),
        ("application/vnd.kubernetes.protobuf;as=APIGroupDiscoveryList;v=v2,application/json", "APIGroupList"),
    ],
)
async def test_the_form_is_the_first_one_accepted(client: TestClient[Any, Any], accept: str, kind: str) -> None:
    response = await client.get("/apis", headers={"Accept": accept})
    assert json.loads(await response.read())["kind"] == kind
    assert response.headers["Vary"] == "Accept"
    assert ("as=APIGroupDiscoveryList" in response.headers["Content-Type"]) == (kind == "APIGroupDiscoveryList")


@pytest.mark.parametrize("path", ["/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1"])
async def test_known_documents_are_not_sent_again(client: TestClient[Any, Any], path: str) -> None:
    first = await client.get(path)
    tag = first.headers["ETag"]
    assert tag[0] == tag[-1] == '"'
    for known in (tag, f'"other", W/{tag}', "*"):
        again = await client.get(path, headers={"If-None-Match": known})
        assert (again.status, await again.read(), again.headers["ETag"]) == (304, b"", tag)
    other = await client.get(path, headers={"If-None-Match": '"other"'})
    assert (other.status, await other.read()) == (200, await first.read())


async def test_the_two_forms_have_tags_of_their_own(client: TestClient[Any, Any]) -> None:
    old = (await client.get("/apis")).headers["ETag"]
    new = await client.get("/apis", headers={"Accept": KUBECTL, "If-None-Match": old})
    assert new.status == 200
    assert new.headers["ETag"] != old


# -- reviews of oneself, tokens

ACCESS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


async def test_self_review_names_the_user(client: TestClient[Any, Any]) -> None:
    status, found = await post(client, "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert (status, found["status"]) == (201, {"userInfo": {"username": "joe", "groups": [auth.MASTERS], "uid": "7"}})


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"resourceAttributes": None},
        {"resourceAttributes": {}, "nonResourceAttributes": {}},
        {"resourceAttributes": "x"},
        {"nonResourceAttributes": ["x"]},
        {"resourceAttributes": {"verb": 1}},
        ["x"],
        "x",
    ],
)
async def test_access_review_wants_one_question(client: TestClient[Any, Any], spec: Any) -> None:
    status, found = await post(client, ACCESS, {"spec": spec})
    assert (status, found["reason"]) == (400, "BadRequest")


@pytest.mark.parametrize(
    ("spec", "may"),
    [
        ({"nonResourceAttributes": {"path": "/x", "verb": "get"}}, True),
        ({"nonResourceAttributes": {"path": "/x", "verb": "post"}}, False),
        ({"resourceAttributes": {"verb": "get", "resource": "pods"}}, True),
        ({"resourceAttributes": {"verb": "get", "resource": "pods", "subresource": "exec"}}, False),
        ({"resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": "ns"}}, True),
        ({"resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": "other"}}, False),
    ],
)
async def test_access_review_answers_by_the_rule(client: TestClient[Any, Any], spec: Any, may: bool) -> None:
    client.who[0] = auth.User("reader", ("system:serviceaccounts:ns",))
    status, found = await post(client, ACCESS, {"spec": spec})
    assert (status, found["status"], found["spec"]) == (201, {"allowed": may}, spec)
    client.who[0] = ADMIN
    status, found = await post(client, ACCESS, {"spec": spec})
    assert (status, found["status"]) == (201, {"allowed": True})


TOKEN = "/api/v1/namespaces/ns/serviceaccounts/{}/token"


async def account(client: TestClient[Any, Any]) -> str:
    await post(client, "/api/v1/namespaces", {"metadata": {"name": "ns"}})
    _, made = await post(client, "/api/v1/namespaces/ns/serviceaccounts", {"metadata": {"name": "a"}})
    return str(made["metadata"]["uid"])


async def test_a_token_is_issued_for_an_account_that_exists(client: TestClient[Any, Any]) -> None:
    uid = await account(client)
    status, found = await post(client, TOKEN.format("a"), {"spec": {"expirationSeconds": 700, "audiences": ["x"]}})
    assert (status, found["kind"], found["spec"]["expirationSeconds"]) == (201, "TokenRequest", 700)
    assert found["status"]["expirationTimestamp"] == "2026-01-02T03:15:45Z"
    user = TOKENS.user(found["status"]["token"], NOW)
    assert user is not None
    assert (user.name, user.uid) == ("system:serviceaccount:ns:a", uid)
    status, found = await post(client, TOKEN.format("b"), {})
    assert (status, found["reason"]) == (404, "NotFound")


@pytest.mark.parametrize("spec", [{"expirationSeconds": 599}, {"expirationSeconds": 0}, {"expirationSeconds": 2**33}])
async def test_unfit_durations_are_refused(client: TestClient[Any, Any], spec: Any) -> None:
    await account(client)
    status, found = await post(client, TOKEN.format("a"), {"spec": spec})
    assert status == 422
    assert "spec.expirationSeconds" in found["message"]


@pytest.mark.parametrize("spec", [{"expirationSeconds": "x"}, {"audiences": "x"}, {"audiences": [1]}, "x", ["x"]])
async def test_malformed_token_requests_are_refused(client: TestClient[Any, Any], spec: Any) -> None:
    await account(client)
    status, _ = await post(client, TOKEN.format("a"), {"spec": spec})
    assert status == 400
