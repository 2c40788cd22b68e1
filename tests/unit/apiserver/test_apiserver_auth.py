"""Who a request is from, what it is about, and whether it may."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from glassnet.apiserver import auth
from glassnet.apiserver.auth import MASTERS, Attributes, Tokens, User
from glassnet.net.errors import ApiError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOKENS = Tokens(b"one secret")
ADMIN = User("kubernetes-admin", (MASTERS, "system:authenticated"))
READER = User("system:serviceaccount:ns:a", ("system:serviceaccounts", "system:serviceaccounts:ns"))
GLASSNET = User(auth.AGENT, ("system:serviceaccounts", "system:serviceaccounts:glassnet"))


def token(seconds: int = 600, secret: bytes = b"one secret") -> str:
    return Tokens(secret).issue("ns", "a", "uid-1", NOW, seconds, ["x"])


def request(headers: dict[str, str] | None = None, subject: object = None) -> web.Request:
    transport = Mock()
    transport.get_extra_info.side_effect = lambda name, default=None: (
        {"subject": subject} if name == "peercert" and subject is not None else default
    )
    return make_mocked_request("GET", "/api", headers=headers, transport=transport)


# -- tokens


def test_token_stands_for_its_service_account() -> None:
    groups = ("system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated")
    assert TOKENS.user(token(), NOW) == User("system:serviceaccount:ns:a", groups, "uid-1")


def test_token_ends_with_its_time() -> None:
    assert TOKENS.user(token(600), NOW + timedelta(seconds=599)) is not None
    assert TOKENS.user(token(600), NOW + timedelta(seconds=601)) is None


def test_token_is_three_parts_of_json_and_signature() -> None:
    head, claims, _ = token().split(".")
    assert json.loads(base64.urlsafe_b64decode(head + "===")) == {"alg": "HS256", "typ": "JWT"}
    assert json.loads(base64.urlsafe_b64decode(claims + "==="))["exp"] == int(NOW.timestamp()) + 600


def _as_other_account(good: str) -> str:
    head, claims, signature = good.split(".")
    body = base64.urlsafe_b64decode(claims + "===").replace(b":ns:a", b":ns:b")
    return f"{head}.{base64.urlsafe_b64encode(body).decode().rstrip('=')}.{signature}"


def _unsigned(good: str) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    return f"{head}.{good.split('.')[1]}."


@pytest.mark.parametrize("forge", [_as_other_account, _unsigned, lambda good: good + "A", lambda good: good[:-4]])
def test_forged_tokens_are_nobodys(forge: Callable[[str], str]) -> None:
    assert TOKENS.user(forge(token()), NOW) is None


def test_tokens_of_another_lab_are_nobodys() -> None:
    assert TOKENS.user(token(secret=b"another"), NOW) is None


@given(st.text(max_size=60) | st.just("a.b.\udcc3"))
def test_noise_is_nobodys_token(noise: str) -> None:
    assert TOKENS.user(noise, NOW) is None


# -- who


def test_certificates_name_and_organizations_are_user_and_groups() -> None:
    subject = ((("organizationName", "a"),), (("organizationName", "b"),), (("commonName", "joe"),))
    assert auth.authenticate(request(subject=subject), TOKENS, NOW) == User("joe", ("a", "b", "system:authenticated"))


def test_certificate_without_a_name_is_nobody() -> None:
    assert auth.authenticate(request(subject=((("organizationName", MASTERS),),)), TOKENS, NOW) is None


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer x", "Bearer ä", "Basic YTpi", "x"])
def test_without_good_credentials_there_is_nobody(header: str) -> None:
    assert auth.authenticate(request({"Authorization": header}), TOKENS, NOW) is None


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_either_case(scheme: str) -> None:
    found = auth.authenticate(request({"Authorization": f"{scheme} {token()}"}), TOKENS, NOW)
    assert found is not None
    assert found.name == "system:serviceaccount:ns:a"


def test_a_bad_token_is_not_made_up_for_by_a_certificate() -> None:
    subject = ((("commonName", "joe"),),)
    assert auth.authenticate(request({"Authorization": "Bearer bad"}, subject), TOKENS, NOW) is None


# -- impersonation


def test_masters_may_be_others() -> None:
    assert auth.impersonated(ADMIN, request()) is ADMIN
    found = auth.impersonated(ADMIN, request({"Impersonate-User": "joe", "Impersonate-Group": "g"}))
    assert found == User("joe", ("g", "system:authenticated"))
    account = auth.impersonated(ADMIN, request({"Impersonate-User": "system:serviceaccount:ns:a"}))
    assert "system:serviceaccounts:ns" in account.groups


def test_nobody_else_may_be_another() -> None:
    with pytest.raises(ApiError, match='cannot impersonate resource "users"') as caught:
        auth.impersonated(READER, request({"Impersonate-User": "kubernetes-admin"}))
    assert caught.value.status == 403


@pytest.mark.parametrize("header", ["Impersonate-Group", "Impersonate-Uid"])
def test_impersonation_needs_a_user(header: str) -> None:
    with pytest.raises(ApiError) as caught:
        auth.impersonated(ADMIN, request({header: "x"}))
    assert caught.value.status == 400


# -- what

ROUTES = (
    "/healthz",
    "/api",
    "/api/v1",
    "/apis/apps",
    "/apis/apps/v1",
    "/api/v1/namespaces",
    "/api/v1/namespaces/{name}",
    "/api/v1/namespaces/{name}/{subresource:finalize|status}",
    "/api/v1/pods",
    "/api/v1/namespaces/{namespace}/pods",
    "/api/v1/namespaces/{namespace}/pods/{name}",
    "/api/v1/namespaces/{namespace}/pods/{name}/exec",
    "/api/v1/namespaces/{namespace}/secrets",
    "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/{subresource:status|scale}",
)


async def routed(method: str, path: str) -> web.Request:
    async def nothing(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.route("*", route, nothing) for route in ROUTES])
    found = make_mocked_request(method, path, app=app)
    found._match_info = await app.router.resolve(found)
    return found


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/healthz", None),
        ("GET", "/api", None),
        ("GET", "/api/v1", None),
        ("GET", "/apis/apps", None),
        ("GET", "/apis/apps/v1", None),
        ("GET", "/nonsense", None),
        ("GET", "/api/v1/namespaces", Attributes("list", "", "namespaces")),
        ("GET", "/api/v1/namespaces/n", Attributes("get", "", "namespaces", "", "n")),
        ("PUT", "/api/v1/namespaces/n/finalize", Attributes("update", "", "namespaces", "", "n", "finalize")),
        ("GET", "/api/v1/pods?watch=true", Attributes("watch", "", "pods")),
        ("POST", "/api/v1/namespaces/n/pods", Attributes("create", "", "pods", "n")),
        ("DELETE", "/api/v1/namespaces/n/pods", Attributes("deletecollection", "", "pods", "n")),
        ("DELETE", "/api/v1/namespaces/n/pods/p", Attributes("delete", "", "pods", "n", "p")),
        ("GET", "/api/v1/namespaces/n/pods/p/exec", Attributes("create", "", "pods", "n", "p", "exec")),
        ("PATCH", "/apis/apps/v1/namespaces/n/deployments/d/scale",
         Attributes("patch", "apps", "deployments", "n", "d", "scale")),
        ("GET", "/api/v1/namespaces/n/secret%73", Attributes("list", "", "secrets", "n")),
        ("GET", "/api/v1/namespaces/n%2Fpods/secrets", Attributes("list", "", "secrets", "n/pods")),
    ],
)  # fmt: skip
async def test_attributes_are_those_of_the_route(method: str, path: str, wanted: Attributes | None) -> None:
    assert auth.attributes(await routed(method, path)) == wanted


# -- may it?


@pytest.mark.parametrize(
    ("user", "verb", "resource", "namespace", "may"),
    [
        (ADMIN, "delete", "secrets", "x", True),
        (ADMIN, "*", "*", "", True),
        (User("system:node:w", ("system:nodes",)), "update", "pods", "x", True),
        (READER, "get", "pods", "x", True),
        (READER, "watch", "nodes", "", True),
        (READER, "create", "pods", "ns", False),
        (READER, "get", "secrets", "ns", True),
        (READER, "get", "secrets", "x", False),
        (READER, "list", "secrets", "", False),
        (READER, "update", "secrets", "ns", False),
        (READER, "get", "*", "ns", False),
        (READER, "*", "pods", "ns", False),
        (READER, "get", "", "", True),
        (User("joe", ("system:serviceaccounts:",)), "list", "secrets", "", False),
        *[(GLASSNET, "watch", each, "", True) for each in ("services", "endpointslices", "nodes", "servicecidrs")],
        (GLASSNET, "create", "events", "x", True),
        (GLASSNET, "patch", "events", "x", True),
        (GLASSNET, "delete", "events", "x", False),
        (GLASSNET, "list", "events", "", False),
        (GLASSNET, "update", "services", "x", False),
        (GLASSNET, "get", "secrets", "glassnet", False),
        (GLASSNET, "list", "pods", "", False),
        (GLASSNET, "watch", "*", "", False),
    ],
)
def test_the_rule(user: User, verb: str, resource: str, namespace: str, may: bool) -> None:
    assert auth.allowed(user, verb, resource, namespace) is may


async def test_refusals_are_worded_as_the_real_server_words_them() -> None:
    with pytest.raises(ApiError) as caught:
        auth.authorize(READER, await routed("PATCH", "/apis/apps/v1/namespaces/n/deployments/d/scale"))
    assert caught.value.status == 403
    assert caught.value.message == (
        'deployments.apps "d" is forbidden: User "system:serviceaccount:ns:a" cannot patch resource "deployments/scale" '
        'in API group "apps" in the namespace "n"'
    )
    assert caught.value.details == {"name": "d", "group": "apps", "kind": "deployments"}
    auth.authorize(ADMIN, await routed("PATCH", "/apis/apps/v1/namespaces/n/deployments/d/scale"))
