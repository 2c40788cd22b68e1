"""Annotations of ingress-nginx 1 to 7, each with real requests through a real NGINX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingress_annotations import EchoServer, Nginx, Site, echoes

_REGEX = "^(?:/api(/|$)(.*))"
_OPEN = {"Origin": "https://a.example"}


def _sites(of: dict[str, EchoServer]) -> dict[str, Site]:
    one = (of["one"].address,)
    https = {"tls": True}
    return {
        "plain.test": Site({}, one),
        "rewrite.test": Site({"rewrite-target": "/$2"}, one, "/api(/|$)(.*)", _REGEX),
        "rewrite-dollar.test": Site({"rewrite-target": "/v1/$host/$2/$args"}, one, "/api(/|$)(.*)", _REGEX),
        "rewrite-plain.test": Site({"rewrite-target": "/new"}, one, "/api"),
        "rewrite-first.test": Site({"rewrite-target": "$1"}, one, "/api(/.*)", "^(?:/api(/.*))"),
        "rewrite-away.test": Site({"rewrite-target": "https://elsewhere.test/$2"}, one, "/api(/|$)(.*)", _REGEX),
        "ssl.test": Site({}, one, **https),
        "ssl-off.test": Site({"ssl-redirect": "false"}, one, **https),
        "ssl-force.test": Site({"force-ssl-redirect": "true"}, one),
        "body.test": Site({"proxy-body-size": "2k"}, one),
        "body-free.test": Site({"proxy-body-size": "0"}, one),
        "read.test": Site({"proxy-read-timeout": "1"}, one),
        "next.test": Site({"proxy-next-upstream": "error http_502", "proxy-next-upstream-tries": "2"}, one),
        "allow.test": Site({"whitelist-source-range": "127.0.0.8/30, 10.0.0.0/8"}, one),
        "allow-new.test": Site({"allowlist-source-range": "127.0.0.9"}, one),
        "deny.test": Site({"denylist-source-range": "127.0.0.9/32"}, one),
        "allow-bad.test": Site({"whitelist-source-range": "127.0.0.0/8,nonsense"}, one),
        "cors.test": Site({"enable-cors": "true"}, one),
        "cors-list.test": Site({
            "enable-cors": "true", "cors-allow-origin": "https://a.example, https://*.b.example:8443, http://localhost:*",
            "cors-allow-methods": "GET, PUT", "cors-allow-headers": "X-One", "cors-expose-headers": "X-Two",
            "cors-allow-credentials": "false", "cors-max-age": "60",
        }, one),
        "snippet.test": Site({"configuration-snippet": "more_set_headers 'X: y';"}, one),
        "snippet-lock.test": Site({"server-snippet": "location /admin { deny all; }"}, one),
        "aliased.test": Site({"server-alias": "other.test, *.wild.test"}, one),
        "empty.test": Site({}),
    }  # fmt: skip


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with echoes("one") as of:
        made = Nginx(Path(tmp_path_factory.mktemp("nginx")))
        made.configure(_sites(of))
        made.start()
        yield made
        made.stop()


def test_without_annotations_a_request_comes_through_as_it_is(nginx: Nginx) -> None:
    answer = nginx.ask("plain.test", "/a%2Fb//c?x=%20&y")
    assert (answer.status, answer.echo["path"], answer.echo["method"]) == (200, "/a%2Fb//c?x=%20&y", "GET")
    assert answer.seen("host") == "plain.test"
    assert nginx.ask("empty.test").status == 503


@pytest.mark.parametrize(
    ("path", "seen"),
    [("/api/users/1?q=2", "/users/1?q=2"), ("/api", "/"), ("/api/", "/"), ("/api/a%20b", "/a%20b"), ("/api/x%3Fy", "/x%3Fy")],
)  # fmt: skip
def test_rewrite_target_takes_the_groups_of_the_path(nginx: Nginx, path: str, seen: str) -> None:
    assert nginx.ask("rewrite.test", path).echo["path"] == seen


def test_rewrite_target_without_groups_and_with_a_group_first(nginx: Nginx) -> None:
    assert nginx.ask("rewrite-plain.test", "/api/deep?x=1").echo["path"] == "/new?x=1"
    assert nginx.ask("rewrite-first.test", "/api/deep/er").echo["path"] == "/deep/er"


def test_only_groups_are_variables_of_a_rewrite(nginx: Nginx) -> None:
    assert nginx.ask("rewrite-dollar.test", "/api/users").echo["path"] == "/v1/$host/users/$args"


def test_rewrite_to_another_host_is_a_redirect(nginx: Nginx) -> None:
    answer = nginx.ask("rewrite-away.test", "/api/users")
    assert (answer.status, answer.header("Location")) == (302, "https://elsewhere.test/users")


def test_rewrite_does_not_touch_other_paths(nginx: Nginx) -> None:
    assert nginx.ask("rewrite.test", "/apis/users").status == 404


def test_a_host_with_tls_sends_http_to_https(nginx: Nginx) -> None:
    answer = nginx.ask("ssl.test", "/a?b=c", "POST", body=b"x")
    assert (answer.status, answer.header("Location")) == (308, "https://ssl.test/a?b=c")
    assert nginx.ask("ssl.test", tls=True).status == 200
    assert nginx.ask("ssl-off.test").status == 200
    assert nginx.ask("ssl-force.test").status == 308
    assert nginx.ask("ssl-force.test", tls=True).seen("x-forwarded-proto") == "https"


@pytest.mark.parametrize(
    ("host", "size", "status"),
    [("body.test", 2048, 200), ("body.test", 2049, 413), ("plain.test", 1 << 20, 200), ("plain.test", (1 << 20) + 1, 413),
     ("body-free.test", 2 << 20, 200)],
)  # fmt: skip
def test_proxy_body_size_bounds_what_a_client_sends(nginx: Nginx, host: str, size: int, status: int) -> None:
    answer = nginx.ask(host, "/", "POST", body=b"x" * size)
    assert answer.status == status
    if status == 200:
        assert answer.echo["body"] == size


def test_proxy_read_timeout_ends_the_wait_for_an_endpoint(nginx: Nginx) -> None:
    assert nginx.ask("read.test", headers={"X-Want-Pause": "10"}).status == 504
    assert nginx.ask("plain.test", headers={"X-Want-Pause": "1.5"}).status == 200


@pytest.mark.parametrize(
    ("host", "source", "status"),
    [("allow.test", "127.0.0.8", 200), ("allow.test", "127.0.0.11", 200), ("allow.test", "127.0.0.12", 403),
     ("allow-new.test", "127.0.0.9", 200), ("allow-new.test", "127.0.0.1", 403), ("deny.test", "127.0.0.9", 403),
     ("deny.test", "127.0.0.10", 200), ("allow-bad.test", "127.0.0.1", 503)],
)  # fmt: skip
def test_source_ranges_are_those_of_the_client(nginx: Nginx, host: str, source: str, status: int) -> None:
    assert nginx.ask(host, source=source).status == status
    if status == 403:  # nobody talks himself in
        assert nginx.ask(host, source=source, headers={"X-Forwarded-For": "127.0.0.8"}).status == status


def test_cors_for_all_origins_has_the_defaults_of_ingress_nginx(nginx: Nginx) -> None:
    answer = nginx.ask("cors.test", headers=_OPEN)
    assert answer.header("Access-Control-Allow-Origin") == "*"
    assert answer.header("Access-Control-Allow-Credentials") == "true"
    assert answer.header("Access-Control-Max-Age") == "1728000"
    preflight = nginx.ask("cors.test", "/x", "OPTIONS", headers={**_OPEN, "Access-Control-Request-Method": "PUT"})
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.header("Access-Control-Allow-Methods") == "GET, PUT, POST, DELETE, PATCH, OPTIONS"


@pytest.mark.parametrize("origin", ["https://a.example", "https://x.b.example:8443", "https://x.y.b.example:8443", "http://localhost:3000", "HTTPS://A.example"])  # fmt: skip
def test_cors_answers_the_origins_of_the_list(nginx: Nginx, origin: str) -> None:
    answer = nginx.ask("cors-list.test", headers={"Origin": origin})
    assert answer.header("Access-Control-Allow-Origin") == origin
    assert answer.header("Access-Control-Expose-Headers") == "X-Two"
    assert answer.header("Access-Control-Allow-Credentials") == ""
    assert answer.header("Vary") == "Origin"
    preflight = nginx.ask("cors-list.test", "/", "OPTIONS", headers={"Origin": origin})
    assert preflight.status == 204
    assert preflight.header("Access-Control-Allow-Headers") == "X-One"
    assert preflight.header("Access-Control-Max-Age") == "60"


@pytest.mark.parametrize("origin", ["https://evil.example", "https://a.example.evil", "https://xb.example:8443", "https://b.example:8443", "https://x.b.example", "http://a.example", "null", "http://localhost:x", ""])  # fmt: skip
def test_cors_says_nothing_to_other_origins(nginx: Nginx, origin: str) -> None:
    headers = {"X-Want-Header-Access-Control-Allow-Origin": "*"} | ({"Origin": origin} if origin else {})
    answer = nginx.ask("cors-list.test", headers=headers)
    assert answer.status == 200
    assert not [name for name in answer.of.headers if name.lower().startswith("access-control-")]
    assert nginx.ask("cors-list.test", "/", "OPTIONS", headers=headers).echo["method"] == "OPTIONS"


def test_a_snippet_is_refused_and_one_that_locks_closes(nginx: Nginx) -> None:
    answer = nginx.ask("snippet.test")
    assert (answer.status, answer.header("X")) == (200, "")
    assert nginx.ask("snippet-lock.test").status == 503
    for host in ("snippet.test", "snippet-lock.test"):
        assert [each.reason for each in nginx.complaints(host)] == ["SnippetRefused"]


def test_further_hosts_by_server_alias(nginx: Nginx) -> None:
    for host in ("aliased.test", "other.test", "a.wild.test"):
        assert nginx.ask(host).seen("host") == host
