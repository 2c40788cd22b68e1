"""From objects to the Site: classes, hosts, paths, backends, conflicts, default backends, as tables."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from glassnet.ingress import classes, order, paths, render, uri
from glassnet.ingress.compute import compute
from glassnet.ingress.explain import find_server
from glassnet.ingress.model import PathType, Site
from glassnet.kube import kinds, types
from glassnet.kube.view import Key
from private_ingress import (
    SETTINGS,
    backend,
    check,
    endpoint,
    endpoints,
    ingress,
    path,
    rule,
    service,
    site_of,
    view_of,
)


def _class(
    name: str, controller: str = "glassnet.dev/ingress", default: bool = False, day: int = 1
) -> types.IngressClass:
    notes = {"ingressclass.kubernetes.io/is-default-class": "true"} if default else {}
    body = {
        "metadata": {"name": name, "annotations": notes, "creationTimestamp": f"2026-01-{day:02}T00:00:00Z"},
        "spec": {"controller": controller},
    }
    return types.msgspec.convert(body, types.IngressClass)


OLD = "kubernetes.io/ingress.class"
OTHER = "example.com/other"


@pytest.mark.parametrize(("class_", "annotations", "extra", "without", "ours"), [
    ("nginx", {}, [], False, True),
    ("missing", {}, [], False, False),
    ("other", {}, [_class("other", OTHER)], False, False),
    ("second", {}, [_class("second")], False, True),
    (None, {}, [], False, False),
    (None, {}, [], True, True),
    (None, {OLD: "nginx"}, [], False, True),
    (None, {OLD: "traefik"}, [], True, False),
    ("nginx", {OLD: "traefik"}, [], False, False),
    (None, {}, [_class("d", default=True)], False, True),
    (None, {}, [_class("d", OTHER, default=True)], False, False),
    (None, {}, [_class("d", OTHER, default=True), _class("e", default=True, day=2)], False, True),
    (None, {}, [_class("d", default=True), _class("e", OTHER, default=True, day=2)], False, False),
    (None, {}, [_class("b", OTHER, default=True), _class("a", default=True)], False, True),
    (None, {}, [_class("b", default=True), _class("a", OTHER, default=True)], False, False),
])  # fmt: skip
def test_an_ingress_is_ours_by_its_class(
    class_: str | None, annotations: dict[str, str], extra: list[Any], without: bool, ours: bool
) -> None:
    view = view_of(ingress("i", rule("a.test", path("/", "s")), class_=class_, annotations=annotations))
    for each in extra:
        view.apply(kinds.INGRESS_CLASS, each)
    settings = SETTINGS._replace(watch_without_class=without)
    assert bool(classes.ours(view, settings)) is ours
    (only,) = view.all(kinds.INGRESS)
    said, why = classes.why(only, view, settings)
    assert said is ours and why
    assert bool([each for each in compute(view, settings).servers if each.host]) is ours


def test_what_is_left_out_is_not_looked_at() -> None:
    view = view_of(ingress("i", rule("a.test", path("/", "s"))))
    site = compute(view, SETTINGS._replace(left_out=frozenset({Key("default", "i")})))
    assert [each.host for each in site.servers] == [""]
    assert site.problems == ()


@pytest.mark.parametrize(("text", "kind", "found"), [
    ("/foo", "Exact", ("/foo", PathType.EXACT)), ("/foo/", "Exact", ("/foo/", PathType.EXACT)), ("/foo/", "Prefix", ("/foo", PathType.PREFIX)),
    ("/", "Prefix", ("/", PathType.PREFIX)), ("", "ImplementationSpecific", ("/", PathType.PREFIX)), ("/a%20b", "Prefix", ("/a b", PathType.PREFIX)),
    ("/%C3%A9", "Exact", ("/é", PathType.EXACT)), ("/100%", "Prefix", ("/100%", PathType.PREFIX)), ("/x[1]", "ImplementationSpecific", ("/x[1]", PathType.PREFIX)),
])  # fmt: skip
def test_a_path_is_brought_into_the_form_it_is_compared_in(text: str, kind: str, found: tuple[str, PathType]) -> None:
    assert paths.path(text, kind, False) == found


@pytest.mark.parametrize(("text", "kind", "found"), [
    ("/app(/|$)(.*)", "Prefix", PathType.REGEX), ("/a.b+c", "Prefix", PathType.PREFIX), ("/app(/|$)(.*)", "Exact", PathType.EXACT),
    ("/a.b", "ImplementationSpecific", PathType.REGEX),
])  # fmt: skip
def test_where_regular_expressions_are_asked_for_a_prefix_that_looks_like_one_is_one(
    text: str, kind: str, found: PathType
) -> None:
    assert paths.path(text, kind, True)[1] is found
    assert paths.path(text, "Prefix", False)[1] is PathType.PREFIX


@pytest.mark.parametrize(("text", "kind"), [
    ("foo", "Prefix"), ("/a//b", "Prefix"), ("/a/../b", "Exact"), ("/a/.", "Exact"), ("/a%2Fb", "Prefix"), ("/a\nb", "Prefix"), ("/a%0ab", "Prefix"),
    ("/%ff", "Prefix"), ("/" + "a" * 1000, "Prefix"), ("/a", "Sometimes"), ("/a%00", "Exact"), ("/\ud800", "Exact"),
])  # fmt: skip
def test_a_path_no_request_has_is_refused(text: str, kind: str) -> None:
    with pytest.raises(paths.BadPath):
        paths.path(text, kind, False)


@pytest.mark.parametrize("text", ["a b", "-a.test", "a_b.test", "*", "*.", "a.*.test", "*.*.test", "a..test", "1.2.3.4", "::1", "a.test:80", "a" * 64, "a.test.", ".a", "ä.test", "a\n.test"])  # fmt: skip
def test_a_host_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(paths.BadHost):
        paths.host(text)


@pytest.mark.parametrize(("target", "path"), [
    ("/", "/"), ("/a//b", "/a/b"), ("/a/./b/../c", "/a/c"), ("/a/..", "/"), ("/a/b/..", "/a/"), ("/%61", "/a"), ("/a%2fb", "/a/b"), ("/a%3Fb", "/a?b"), ("/a/%2e%2e/b", "/b"), ("/a/.", "/a/"),
])  # fmt: skip
def test_a_request_is_normalised(target: str, path: str) -> None:
    assert uri.normal(target) == path


@pytest.mark.parametrize("target", ["/..", "/a/../..", "/%", "/%zz", "/%00", "a"])
def test_a_request_that_is_none_is_refused(target: str) -> None:
    with pytest.raises(uri.BadRequest):
        uri.normal(target)


def _written(*found: tuple[str, str]) -> list[tuple[str, str]]:
    site = site_of(
        ingress(
            "i", rule("a.test", *(path(text, "s", kind) for text, kind in found)), annotations={"use-regex": "true"}
        )
    )
    return [(each.modifier, each.pattern) for each in order.matches(site.servers[1].locations)]


def test_paths_that_no_regex_disputes_stay_literals() -> None:
    special = "ImplementationSpecific"
    assert _written(("/a", "Prefix"), ("/b/", "Exact")) == [
        ("=", "/b/"),
        ("", "/b"),
        ("=", "/a"),
        ("^~", "/a/"),
        ("", "/"),
    ]
    assert _written(("/api", "Prefix"), ("/web", "Prefix"), ("/api/v[0-9]+", special)) == [
        ("=", "/web"), ("^~", "/web/"), ("~", "^(?:/api/v[0-9]+)"), ("~", r"^/api(?:/|\z)"), ("", "/"),
    ]  # fmt: skip
    assert _written(("/api/v1/long", "Prefix"), ("/api/v.", special)) == [("=", "/api/v1/long"), ("^~", "/api/v1/long/"), ("~", "^(?:/api/v.)"), ("", "/")]  # fmt: skip


def _backend(site: Site) -> Any:
    return site.servers[-1].locations[0].backend


PORTS: dict[str, dict[str, Any]] = {
    "http": {"name": "http", "port": 80},
    "admin": {"name": "admin", "port": 81},
    "dns": {"name": "dns", "port": 53, "protocol": "UDP"},
}


@pytest.mark.parametrize(("port", "found", "lack"), [
    (80, ("default_s_80", 8080), ""), ("http", ("default_s_80", 8080), ""), ("admin", ("default_s_81", 8081), ""), (82, None, "has no TCP port '82'"),
    ("other", None, "has no TCP port 'other'"), (53, None, "has no TCP port '53'"),
])  # fmt: skip
def test_a_backend_is_a_port_by_name_or_number(port: int | str, found: tuple[str, int] | None, lack: str) -> None:
    site = site_of(
        ingress("i", rule("a.test", path("/", "s", port=port))), service("s", *PORTS.values()),
        endpoints("s", endpoint("10.0.0.1"), name="http"), endpoints("s", endpoint("10.0.0.1"), name="admin", port=8081),
    )  # fmt: skip
    assert lack in _backend(site).lack
    if found:
        upstream = site.upstreams[_backend(site).upstream]
        assert (upstream.name, upstream.endpoints[0].port) == found
    else:
        assert _backend(site).upstream == ""
        assert [each.reason for each in site.problems] == ["BackendUnavailable"]


@pytest.mark.parametrize(("members", "chosen"), [
    ([{"ready": True}, {"ready": False}], [0]), ([{}], [0]), ([{"ready": False, "serving": True, "terminating": True}], [0]),
    ([{"ready": True}, {"ready": False, "serving": True, "terminating": True}], [0]), ([{"ready": False, "serving": False, "terminating": True}], []),
    ([{"ready": True, "serving": True, "terminating": True}, {"ready": True}], [1]), ([{"ready": False}], []), ([], []),
])  # fmt: skip
def test_endpoints_that_are_ready_or_else_still_serve(members: list[dict[str, bool]], chosen: list[int]) -> None:
    site = site_of(ingress("i", rule("a.test", path("/", "s"))), service("s"), endpoints("s", *(endpoint(f"10.0.0.{number}", **each) for number, each in enumerate(members))))  # fmt: skip
    assert [each.address for each in site.upstreams["default_s_80"].endpoints] == [
        f"10.0.0.{number}" for number in chosen
    ]
    assert bool(_backend(site).lack) is (not chosen)
    assert site.problems == ()


def test_a_pod_of_two_families_counts_once() -> None:
    v4 = endpoints("s", endpoint("10.0.0.1"), endpoint("10.0.0.2"))
    v6 = endpoints("s", endpoint("2001:db8::1"), family="IPv6")
    both = site_of(ingress("i", rule("a.test", path("/", "s"))), service("s", ipFamilies=["IPv6", "IPv4"]), v4, v6)
    assert [each.address for each in both.upstreams["default_s_80"].endpoints] == ["2001:db8::1"]
    one = site_of(ingress("i", rule("a.test", path("/", "s"))), service("s", ipFamilies=["IPv6", "IPv4"]), v4)
    assert [each.address for each in one.upstreams["default_s_80"].endpoints] == ["10.0.0.1", "10.0.0.2"]


def test_a_headless_service_and_slices_that_overlap() -> None:
    again = endpoints("s", endpoint("10.0.0.2"), endpoint("10.0.0.1"), suffix="-2")
    site = site_of(
        ingress("i", rule("a.test", path("/", "s"))),
        service("s", clusterIP="None"),
        endpoints("s", endpoint("10.0.0.1", "p")),
        again,
    )
    assert [(each.address, each.pod) for each in site.upstreams["default_s_80"].endpoints][1] == ("10.0.0.2", "")
    assert len(site.upstreams["default_s_80"].endpoints) == 2


@pytest.mark.parametrize(("target", "resolvers", "lack"), [
    ("api.example.com", ("10.96.0.10",), ""), ("api.example.com.", ("10.96.0.10",), ""), ("api.example.com", (), "no resolver"), ("127.0.0.1", ("10.96.0.10",), "is no DNS name"),
    ("localhost", ("10.96.0.10",), "the controller itself"), ("a b", ("10.96.0.10",), "is no DNS name"),
])  # fmt: skip
def test_an_external_name_is_looked_up_with_each_request(target: str, resolvers: tuple[str, ...], lack: str) -> None:
    site = site_of(
        ingress("i", rule("a.test", path("/", "s"))),
        service("s", type="ExternalName", externalName=target),
        settings=SETTINGS._replace(resolvers=resolvers),
    )
    assert lack in _backend(site).lack
    assert (site.upstreams["default_s_80"].external if not lack else "") == ("api.example.com" if not lack else "")


def test_a_resource_is_no_backend() -> None:
    body = path("/", "s")
    body["backend"] = {"resource": {"kind": "Bucket", "name": "b"}}
    site = site_of(ingress("i", rule("a.test", body)))
    (problem,) = site.problems
    assert (problem.reason, problem.key) == ("BackendUnavailable", Key("default", "i"))
    assert "kind Bucket" in problem.message and "spec.rules[0].http.paths[0].backend" in problem.message


def test_the_older_ingress_keeps_a_path() -> None:
    young, old = ingress("a", rule("x.test", path("/p", "a"))), ingress("b", rule("X.test", path("/p/", "b")), age=1)
    for each in itertools.permutations([young, old]):
        site = site_of(*each)
        assert [found.backend.service.name for found in site.servers[1].locations] == ["b"]
        (problem,) = [found for found in site.problems if found.reason == "Conflict"]
        assert problem.key == Key("default", "a")
        assert "older Ingress default/b" in problem.message
    exact = site_of(young, ingress("b", rule("x.test", path("/p", "b", "Exact")), age=1))
    assert not [found for found in exact.problems if found.reason == "Conflict"]


def test_a_bad_rule_leaves_the_others() -> None:
    site = site_of(
        ingress("i", rule("a b", path("/", "s")), rule("a.test", path("x", "s"), path("/ok", "s"), path("/a//b", "s"))),
        service("s"),
    )
    assert [each.path for each in site.servers[1].locations] == ["/ok"]
    assert [each.reason for each in site.problems] == ["BadHost", "BadPath", "BadPath"]
    assert "spec.rules[0].host" in site.problems[0].message
    assert "spec.rules[1].http.paths[2].path" in site.problems[2].message


def test_default_backends_of_hosts_and_of_all() -> None:
    site = site_of(
        ingress("i", rule("a.test", path("/x", "s")), rule("b.test"), defaultBackend=backend("d")),
        ingress("late", rule("a.test", path("/y", "s")), defaultBackend=backend("e"), age=-5),
        ingress("all", defaultBackend=backend("f")),
        ingress("all-late", defaultBackend=backend("g"), age=-5),
        *map(service, "defgs"),
    )
    by_host = {each.host: each for each in site.servers}
    assert {host: each.default.backend.service.name for host, each in by_host.items() if each.default} == {
        "a.test": "d",
        "b.test": "d",
    }
    assert site.default and site.default.backend.service.name == "f"
    assert [(each.reason, each.key.name) for each in site.problems] == [("Conflict", "all-late"), ("Conflict", "late")]


def test_too_many_copies_are_refused_and_told() -> None:
    every = ingress("every", rule("", path("/a", "s"), path("/b", "s")), age=3)
    wild = ingress("wild", rule("*.a.test", path("/", "s")), rule("*.b.test", path("/", "s")))
    site = site_of(every, wild, service("s"), settings=SETTINGS._replace(copies=3))
    assert [(each.host, each.others) for each in site.servers] == [("", False), ("*.a.test", True), ("*.b.test", False)]
    assert [(each.reason, each.key.name) for each in site.problems] == [("TooManyWildcards", "wild")]


@pytest.mark.parametrize("changes", [
    {"proxy_protocol": True}, {"proxy_protocol": True, "trusted": ("10.0.0.0/8", "2001:db8::/32")}, {"trusted": ("10.0.0.0/8",)}, {"resolvers": ("10.96.0.10", "2001:db8::10")},
    {"access_log": ()}, {"access_log": ("syslog:server=unix:log.sock", "/dev/null")}, {"http2": False}, {"workers": 0}, {"user": "nobody nogroup"}, {"shutdown": 1, "https_port": 8443},
])  # fmt: skip
def test_nginx_takes_what_every_setting_comes_to(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = SETTINGS._replace(**changes)
    site = site_of(
        ingress("i", rule("a.test", path("/", "s"), path("/x", "t")), rule("*.a.test", path("/", "s")), rule("", path("/", "s"))),
        service("s", type="ExternalName", externalName="api.example.com"), service("t"), endpoints("t", endpoint("10.0.0.1"), endpoint("10.0.0.2")), settings=settings,
    )  # fmt: skip
    assert check(tmp_path, render.files(site, settings)) == ""


def test_what_thousands_of_hosts_come_to_has_the_size_of_what_they_ask_for(tmp_path: Path) -> None:
    """Nothing in it grows with the square of hosts or paths, and NGINX takes the number of names."""
    sizes = []
    for count in (1000, 2000):
        rules = [rule(f"h{number}.{'x' * 50}.test", path("/a", "s"), path("/b", "s")) for number in range(count)]
        site = site_of(
            service("s"),
            endpoints("s", endpoint("10.0.0.1")),
            *(ingress(f"i{number}", each) for number, each in enumerate(rules)),
        )
        files = render.files(site, SETTINGS)
        sizes.append(len(files["nginx.conf"]))
    assert sizes[1] < 2.05 * sizes[0]
    assert check(tmp_path, files) == ""


def test_a_host_of_one_label_is_nobodys_wildcard() -> None:
    site = site_of(ingress("i", rule("*.test", path("/", "s"))))
    for host, server, why in (
        ("shop", "", "no rule has host shop: the server for all others"),
        ("", "", "no rule has host (none): the server for all others"),
        ("shop.test", "*.test", "host shop.test has one label more than test: server *.test"),
    ):
        found, because = find_server(site, host)
        assert (found.host, because) == (server, why)
