"""The 25 scenarios of ingress-controller-conformance (release 1.19: default backend, host rules, class, load balancing, path rules), with real
requests through a real NGINX. The scenarios' words are theirs, in short; the objects and the code are ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from ingress_site import IngressSite, ingress_site

import ingress_objects as objects
from ingress_objects import ingress, ingress_class, path, rule

pytestmark = pytest.mark.kernel
TEN = [f"10.81.0.{number}" for number in range(1, 11)]
CERTIFICATE = objects.certificate("foo.bar.com")


class Running:
    """One site for all scenarios of the file, on a loop of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._context = ingress_site()
        self.site: IngressSite = self.run(self._context.__aenter__())
        try:
            self.run(self._begin())
        except BaseException:
            self.close()
            raise

    async def _begin(self) -> None:
        site = self.site
        for body in [
            *await site.app("ten", *TEN),
            *await site.app("one", "10.81.1.1"),
            *await site.app("two", "10.81.1.2"),
        ]:
            objects.put(site.view, body)
        objects.put(site.view, ingress_class(), objects.secret("conformance-tls", CERTIFICATE))
        await site.start()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        self.run(self._context.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    found = Running()
    try:
        yield found
    finally:
        found.close()


def with_ingress(running: Running, body: dict[str, Any]) -> Iterator[Running]:
    running.run(running.site.put(body))
    yield running
    running.run(running.site.put(body, deleted=True))


@pytest.fixture
def default_backend(running: Running) -> Iterator[Running]:
    yield from with_ingress(running, ingress("default-backend", default="one"))


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", "http://my-host/"), ("GET", "http://my-host/sub-path"), ("POST", "http://some-host/"), ("PUT", "http://10.80.0.1/resource"),
        ("DELETE", "http://some-host/resource"), ("PATCH", "http://my-host/resource"),
    ],
)  # fmt: skip
def test_an_ingress_without_rules_sends_all_to_its_default_backend(
    default_backend: Running, method: str, url: str
) -> None:
    got = default_backend.run(default_backend.site.get(url, method, headers={"User-Agent": "conformance"}))
    assert got.status == 200 and got.pod == "pod-1" and got.body["method"] == method
    assert {"content-length", "content-type", "date", "server"} <= got.headers.keys()
    assert got.body["path"] == "/" + url.split("/", 3)[3] and got.body["proto"] == "HTTP/1.1"
    assert got.body["headers"]["user-agent"] == "conformance" and got.body["host"] == url.split("/")[2]


@pytest.fixture
def hosts(running: Running) -> Iterator[Running]:
    tls = [{"hosts": ["foo.bar.com"], "secretName": "conformance-tls"}]
    quiet = {"ssl-redirect": "false"}  # the scenario wants the same over HTTP
    yield from with_ingress(running, ingress("host-rules", rule("*.foo.com", path("one")), rule("foo.bar.com", path("two")), tls=tls, annotations=quiet))  # fmt: skip


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("https://foo.bar.com/", "pod-2"),  # its certificate is verified
        ("http://foo.bar.com/", "pod-2"),
        ("http://subdomain.bar.com/", "404"),
        ("http://bar.foo.com/", "pod-1"),
        ("http://baz.bar.foo.com/", "404"),
        ("http://foo.com/", "404"),
    ],
)
def test_hosts_are_matched_exactly_or_by_one_label(hosts: Running, url: str, answer: str) -> None:
    assert hosts.run(hosts.site.pod(url, trust=CERTIFICATE["tls.crt"])) == answer


def test_an_ingress_of_another_class_is_not_touched(running: Running) -> None:
    async def scenario() -> None:
        site = running.site
        body = ingress("other-class", rule("other.example", path("one")), cls="somebody-else")
        await site.put(body)
        assert await site.pod("http://other.example/") == "404"
        assert site.part.loop.served == () and site.reasons("other-class") == []
        await site.put(body, deleted=True)

    running.run(scenario())


def test_all_ten_endpoints_answer_a_hundred_requests(running: Running) -> None:
    async def scenario() -> None:
        site = running.site
        body = ingress("load-balancing", rule("load-balancing", path("ten")))
        await site.put(body)
        got = [await site.get("http://load-balancing/") for _ in range(100)]
        assert {each.status for each in got} == {200}
        assert {each.pod for each in got} == {f"pod-{number}" for number in range(1, 11)}
        await site.put(body, deleted=True)

    running.run(scenario())


@pytest.fixture
def paths(running: Running) -> Iterator[Running]:
    rules = [
        rule("exact-path-rules", path("one", "/foo", "Exact")),
        rule("prefix-path-rules", path("one", "/foo")),
        rule("mixed-path-rules", path("one", "/foo"), path("two", "/foo", "Exact")),
        rule("trailing-slash-path-rules", path("one", "/aaa/bbb/"), path("two", "/foo/", "Exact")),
        rule("longest-path-rules", path("one", "/aaa"), path("two", "/aaa/bbb")),
    ]
    yield from with_ingress(running, ingress("path-rules", *rules))


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("exact-path-rules/foo", "pod-1"), ("exact-path-rules/foo/", "404"), ("exact-path-rules/FOO", "404"), ("exact-path-rules/bar", "404"),
        ("prefix-path-rules/foo", "pod-1"), ("prefix-path-rules/foo/", "pod-1"), ("prefix-path-rules/FOO", "404"),
        ("longest-path-rules/aaa/bbb", "pod-2"), ("longest-path-rules/aaa/bbb/ccc", "pod-2"), ("longest-path-rules/aaa/ccc", "pod-1"),
        ("longest-path-rules/aaaccc", "404"), ("prefix-path-rules/foo/bar/", "pod-1"), ("mixed-path-rules/foo", "pod-2"),
        ("trailing-slash-path-rules/aaa/bbb", "pod-1"), ("trailing-slash-path-rules/aaa/bbb/", "pod-1"), ("trailing-slash-path-rules/foo", "404"),
    ],
)  # fmt: skip
def test_paths_are_matched_as_the_api_says(paths: Running, url: str, answer: str) -> None:
    assert paths.run(paths.site.pod(f"http://{url}")) == answer
