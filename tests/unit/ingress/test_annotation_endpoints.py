"""Annotations of ingress-nginx that choose the endpoint and how it is spoken to: protocol, affinity, canary, errors, headers."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from glassnet.ingress.syntax import block, directive
from ingress_annotations import EchoServer, Nginx, Site, certificate, echoes, free_port

_FAILS = "127.0.0.1:1"  # nobody listens there
_CANARY = {"canary": "true"}


def _canary(of: dict[str, EchoServer], **asked: str) -> Site:
    named = {name.replace("_", "-"): text for name, text in asked.items()}
    return Site({}, (of["main"].address,), canaries=(({**_CANARY, **named}, (of["canary"].address,)),))


def _sites(of: dict[str, EchoServer], grpc: str, authority: bytes, client: tuple[bytes, bytes]) -> dict[str, Site]:
    one, three = (of["one"].address,), tuple(of[each].address for each in ("one", "two", "three"))
    tls = (of["tls"].address,)
    verified = {"backend-protocol": "HTTPS", "proxy-ssl-secret": "authority", "proxy-ssl-verify": "on"}
    secret = {"authority": {"ca.crt": authority}, "strange": {"ca.crt": client[0]}, "broken": {"ca.crt": b"nonsense"}}
    page = (of["page"].address,)
    return {
        "https.test": Site({"backend-protocol": "HTTPS"}, tls),
        "https-verify.test": Site({**verified, "proxy-ssl-name": "tls.test"}, tls, secrets=secret),
        "https-name.test": Site({**verified, "proxy-ssl-name": "other.test"}, tls, secrets=secret),
        "https-strange.test": Site({**verified, "proxy-ssl-secret": "strange", "proxy-ssl-name": "tls.test"}, tls, secrets=secret),
        "https-none.test": Site({**verified, "proxy-ssl-secret": "absent"}, tls, secrets=secret),
        "https-broken.test": Site({**verified, "proxy-ssl-secret": "broken"}, tls, secrets=secret),
        "https-other.test": Site({**verified, "proxy-ssl-secret": "elsewhere/authority"}, tls, secrets=secret),
        "grpc.test": Site({"backend-protocol": "GRPC", "x-forwarded-prefix": "/pre"}, (grpc,)),
        "fcgi.test": Site({"backend-protocol": "FCGI"}, one),
        "sticky.test": Site({"affinity": "cookie", "session-cookie-name": "route-1", "session-cookie-max-age": "60", "session-cookie-samesite": "Lax"}, three),
        "sticky-plain.test": Site({"affinity": "cookie", "session-cookie-path": "/shop", "session-cookie-domain": "test", "session-cookie-secure": "true"}, three),
        "sticky-dead.test": Site({"affinity": "cookie", "session-cookie-change-on-failure": "true"}, (_FAILS, *three)),
        "sticky-keep.test": Site({"affinity": "cookie"}, (_FAILS, *three)),
        "sticky-canary.test": Site({"affinity": "cookie"}, (of["main"].address,), canaries=(({**_CANARY, "canary-by-header": "X-Canary"}, (of["canary"].address,)),)),
        "sticky-legacy.test": Site({"affinity": "cookie", "affinity-canary-behavior": "legacy"}, (of["main"].address,), canaries=(({**_CANARY, "canary-by-header": "X-Canary"}, (of["canary"].address,)),)),
        "header.test": _canary(of, canary_by_header="X-Canary"),
        "value.test": _canary(of, canary_by_header="X-Canary", canary_by_header_value="yes.please"),
        "pattern.test": _canary(of, canary_by_header="X-Canary", canary_by_header_pattern="^v[0-9]+$"),
        "cookie.test": _canary(of, canary_by_cookie="try-it"),
        "weight.test": _canary(of, canary_weight="30"),
        "total.test": _canary(of, canary_weight="500", canary_weight_total="1000"),
        "none.test": _canary(of, canary_weight="0"),
        "all.test": _canary(of, canary_weight="100"),
        "order.test": _canary(of, canary_by_header="X-Canary", canary_by_cookie="try", canary_weight="100"),
        "errors.test": Site({"custom-http-errors": "404,503", "default-backend": "page"}, one, errors=page),
        "errors-none.test": Site({"custom-http-errors": "404"}, one),
        "dead.test": Site({"default-backend": "page"}, errors=page),
        "vhost.test": Site({"upstream-vhost": "inner.example:8080"}, one),
        "vhost-names.test": Site({"upstream-vhost": "$service_name.$namespace.svc"}, one),
        "prefix.test": Site({"x-forwarded-prefix": "/shop/$host"}, one),
        "connection.test": Site({"connection-proxy-header": "keep-alive"}, one),
        "custom.test": Site({"custom-headers": "custom-test/hard"}, one, config_maps={"hard": {"X-Frame-Options": b"DENY", "Server-Timing": b"a;b=\"$host\"", "Content-Length": b"5", "X-Two": b"a\nX-Three: b"}}),
        "custom-none.test": Site({"custom-headers": "custom-none/absent"}, one),
        "buffers.test": Site({"proxy-buffering": "on", "proxy-buffer-size": "16k", "proxy-buffers-number": "2", "proxy-max-temp-file-size": "0"}, one),
        "buffers-few.test": Site({}, one),
    }  # fmt: skip


@pytest.fixture(scope="module")
def of() -> Iterator[dict[str, EchoServer]]:
    with echoes("one", "two", "three", "main", "canary", "page") as made:
        yield made


@pytest.fixture(scope="module")
def nginx(of: dict[str, EchoServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    directory = tmp_path_factory.mktemp("nginx")
    chain, key = certificate("tls.test")
    (directory / "endpoint.pem").write_bytes(chain + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "endpoint.pem")
    tls = EchoServer("tls", tls=context)
    grpc = f"127.0.0.1:{free_port()}"
    answers = directive("return", 200, "$server_protocol $request_uri $http_x_forwarded_prefix")
    server = block("server", of=[directive("listen", grpc, "http2"), block("location", "/", of=[answers])])
    made = Nginx(Path(directory))
    made.configure(_sites({**of, "tls": tls}, grpc, chain, certificate("strange.test")), (server,))
    made.start()
    yield made
    made.stop()
    tls.close()


def _names(nginx: Nginx, host: str, count: int, **headers: str) -> Counter[object]:
    return Counter(nginx.ask(host, headers={name.replace("_", "-"): text for name, text in headers.items()}).name for _ in range(count))  # fmt: skip


def test_backend_protocol_https(nginx: Nginx) -> None:
    assert nginx.ask("https.test").name == "tls"
    assert nginx.ask("https-verify.test").name == "tls"


@pytest.mark.parametrize(("host", "status"), [("https-name.test", 502), ("https-strange.test", 502), ("https-none.test", 503), ("https-broken.test", 503), ("https-other.test", 503), ("fcgi.test", 503)])  # fmt: skip
def test_an_endpoint_that_is_not_who_it_should_be_is_not_asked(nginx: Nginx, host: str, status: int) -> None:
    assert nginx.ask(host).status == status
    assert bool(nginx.complaints(host)) == (status == 503)


def test_backend_protocol_grpc_is_http_2(nginx: Nginx) -> None:
    assert nginx.ask("grpc.test", "/pkg.Service/Call", "POST", body=b"x").body == b"HTTP/2.0 /pkg.Service/Call /pre"


def test_affinity_leads_back_to_the_endpoint_that_answered_first(nginx: Nginx) -> None:
    seen = set()
    for _ in range(9):
        first = nginx.ask("sticky.test")
        seen.add(first.name)
        cookie, *attributes = first.header("Set-Cookie").split("; ")
        assert attributes == ["Path=/", "Max-Age=60", "HttpOnly", "SameSite=Lax"]
        assert cookie.startswith("route-1=")
        for _ in range(4):
            again = nginx.ask("sticky.test", headers={"Cookie": f"a=b; {cookie}; c=d"})
            assert (again.name, again.header("Set-Cookie")) == (first.name, "")
    assert seen == {"one", "two", "three"}


def test_affinity_holds_over_reloads_while_the_endpoint_lives(of: dict[str, EchoServer], tmp_path: Path) -> None:
    def site(*names: str) -> dict[str, Site]:
        return {"a.test": Site({"affinity": "cookie"}, tuple(of[each].address for each in names))}

    nginx = Nginx(tmp_path)
    nginx.configure(site("one", "two"))
    nginx.start()
    try:
        cookies = {answer.name: {"Cookie": answer.header("Set-Cookie")} for answer in (nginx.ask("a.test") for _ in range(40))}  # fmt: skip
        nginx.configure(site("three", "main", "two"))
        nginx.reload()
        assert {nginx.ask("a.test", headers=cookies["two"]).name for _ in range(9)} == {"two"}
        moved = nginx.ask("a.test", headers=cookies["one"])
        assert moved.name in ("three", "main", "two")
        assert moved.header("Set-Cookie")
    finally:
        nginx.stop()


def test_affinity_replaces_a_cookie_that_names_no_endpoint(nginx: Nginx) -> None:
    answer = nginx.ask("sticky-plain.test", headers={"Cookie": "INGRESSCOOKIE=nonsense"})
    assert answer.header("Set-Cookie").split("; ", 1)[1] == "Path=/shop; Domain=test; HttpOnly; Secure"


def test_affinity_to_a_dead_endpoint(nginx: Nginx) -> None:
    from glassnet.ingress.options.affinity import mark

    cookie = {"Cookie": f"INGRESSCOOKIE={mark(_FAILS)}"}
    moved = nginx.ask("sticky-dead.test", headers=cookie)
    assert moved.status == 200
    assert moved.header("Set-Cookie").startswith("INGRESSCOOKIE=")
    assert nginx.ask("sticky-keep.test", headers=cookie).status == 502


def test_affinity_and_canaries(nginx: Nginx) -> None:
    first = nginx.ask("sticky-canary.test", headers={"X-Canary": "always"})
    assert first.name == "canary"
    cookie = {"Cookie": first.header("Set-Cookie").split(";")[0]}
    assert nginx.ask("sticky-canary.test", headers=cookie).name == "canary"
    assert nginx.ask("sticky-legacy.test", headers=cookie).name == "main"


@pytest.mark.parametrize(
    ("host", "headers", "name"),
    [
        ("header.test", {}, "main"), ("header.test", {"X-Canary": "always"}, "canary"), ("header.test", {"X-Canary": "never"}, "main"),
        ("header.test", {"X-Canary": "Always"}, "main"),
        ("value.test", {"X-Canary": "yes.please"}, "canary"), ("value.test", {"X-Canary": "yes-please"}, "main"),
        ("value.test", {"X-Canary": "always"}, "main"),
        ("pattern.test", {"X-Canary": "v12"}, "canary"), ("pattern.test", {"X-Canary": "v12x"}, "main"),
        ("cookie.test", {"Cookie": "x=y; try-it=always"}, "canary"), ("cookie.test", {"Cookie": "try-it=never"}, "main"),
        ("cookie.test", {"Cookie": "not-try-it=always"}, "main"), ("cookie.test", {"Cookie": "TRY-IT=always"}, "main"),
        ("none.test", {}, "main"), ("all.test", {}, "canary"),
        ("order.test", {}, "canary"), ("order.test", {"Cookie": "try=never"}, "main"),
        ("order.test", {"Cookie": "try=never", "X-Canary": "always"}, "canary"),
        ("order.test", {"Cookie": "try=always", "X-Canary": "never"}, "main"),
        ("order.test", {"Cookie": "try=other", "X-Canary": "other"}, "canary"),
    ],
)  # fmt: skip
def test_a_canary_by_header_then_cookie_then_weight(nginx: Nginx, host: str, headers: dict[str, str], name: str) -> None:  # fmt: skip
    assert nginx.ask(host, headers=headers).name == name


def test_a_canary_by_weight_gets_about_its_share(nginx: Nginx) -> None:
    # 120 requests: outside these bounds in fewer than one run of a million (binomial distribution)
    assert 11 < _names(nginx, "weight.test", 120)["canary"] < 62
    assert 32 < _names(nginx, "total.test", 120)["canary"] < 88


def test_custom_errors_are_the_default_backends(nginx: Nginx, of: dict[str, EchoServer]) -> None:
    answer = nginx.ask("errors.test", "/shop/x?y=z", headers={"X-Want-Status": "404", "Accept": "text/html", "X-Request-Id": "7"})  # fmt: skip
    assert (answer.name, answer.echo["path"], answer.echo["method"]) == ("page", "/?y=z", "GET")
    seen = {name: answer.seen(name) for name in ("X-Code", "X-Format", "X-Original-URI", "X-Namespace", "X-Ingress-Name", "X-Service-Name", "X-Service-Port")}  # fmt: skip
    assert seen == {
        "X-Code": "404", "X-Format": "text/html", "X-Original-URI": "/shop/x?y=z", "X-Namespace": "errors-test",
        "X-Ingress-Name": "errors.test", "X-Service-Name": "svc", "X-Service-Port": "80",
    }  # fmt: skip
    assert answer.seen("X-Request-ID") == "7"
    assert nginx.ask("errors.test", "/", "POST", {"X-Want-Status": "503"}, b"body").seen("X-Code") == "503"
    assert nginx.ask("errors.test", headers={"X-Want-Status": "500"}).name == "one"
    assert nginx.ask("errors-none.test", headers={"X-Want-Status": "404"}).name == "one"


def test_the_default_backend_stands_in_for_missing_endpoints(nginx: Nginx) -> None:
    answer = nginx.ask("dead.test", "/a")
    assert (answer.name, answer.seen("X-Code"), answer.seen("X-Original-URI")) == ("page", "503", "/a")


def test_headers_for_the_endpoint(nginx: Nginx) -> None:
    assert nginx.ask("vhost.test").seen("host") == "inner.example:8080"
    assert nginx.ask("vhost-names.test").seen("host") == "svc.vhost-names-test.svc"
    prefixed = nginx.ask("prefix.test")
    assert (prefixed.seen("x-forwarded-prefix"), prefixed.seen("host"), prefixed.seen("x-real-ip")) == ("/shop/$host", "prefix.test", "127.0.0.1")  # fmt: skip
    assert nginx.ask("connection.test").seen("connection") == "keep-alive"


def test_headers_for_the_client(nginx: Nginx) -> None:
    answer = nginx.ask("custom.test", headers={"X-Want-Header-X-Frame-Options": "SAMEORIGIN", "X-Want-Status": "404"})
    assert answer.status == 404
    assert answer.header("X-Frame-Options") == "DENY"
    assert answer.header("Server-Timing") == 'a;b="$host"'
    assert answer.header("X-Two") == answer.header("X-Three") == ""
    assert len(nginx.complaints("custom.test")) == 2
    assert nginx.ask("custom-none.test").status == 200
    assert len(nginx.complaints("custom-none.test")) == 1


def test_buffers_take_headers_as_big_as_they_are(nginx: Nginx) -> None:
    big = {f"X-Want-Header-X-{number}": "x" * 3000 for number in range(4)}
    assert nginx.ask("buffers.test", headers=big).status == 200
    assert nginx.ask("buffers-few.test", headers=big).status == 502
