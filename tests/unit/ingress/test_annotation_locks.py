"""Annotations of ingress-nginx that let in, send away and slow down: authentication, redirects, limits, TLS that is passed through."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ingress_annotations import EchoServer, NameServer, Nginx, Site, basic, certificate, echoes

_SHA = b"{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="  # of "password" (htpasswd -s)
_APR1 = b"$apr1$salty$JVk4Cax7kJBUHop3vWHp2/"


def _auth(of: dict[str, EchoServer], path: str = "/check", **more: str) -> dict[str, str]:
    return {"auth-url": f"http://{of['auth'].address}{path}", **{name.replace("_", "-"): text for name, text in more.items()}}  # fmt: skip


def _sites(of: dict[str, EchoServer]) -> dict[str, Site]:
    one = (of["one"].address,)
    secrets = {
        "file": {"auth": b"# users\nanna:" + _SHA + b"\n\nbad line\n"},
        "map": {"anna": _SHA, "bert": _APR1},
        "wrong": {"password": b"x"},
    }
    locked = {"auth-type": "basic", "auth-secret": "file", "auth-realm": "Shop $1 $host"}
    headers = {"hard": {"X-Extra": b"yes $host"}}
    return {
        "plain.test": Site({}, one),
        "basic.test": Site(locked, one, secrets=secrets),
        "basic-map.test": Site({"auth-type": "basic", "auth-secret": "map", "auth-secret-type": "auth-map"}, one, secrets=secrets),
        "basic-own.test": Site({"auth-type": "basic", "auth-secret": "basic-own-test/file"}, one, secrets=secrets),
        "basic-other.test": Site({"auth-type": "basic", "auth-secret": "elsewhere/file"}, one, secrets=secrets),
        "basic-none.test": Site({"auth-type": "basic", "auth-secret": "absent"}, one, secrets=secrets),
        "basic-wrong.test": Site({"auth-type": "basic", "auth-secret": "wrong"}, one, secrets=secrets),
        "basic-lone.test": Site({"auth-type": "basic"}, one),
        "digest.test": Site({"auth-type": "digest", "auth-secret": "file"}, one, secrets=secrets),
        "any.test": Site({**locked, "satisfy": "any", "whitelist-source-range": "127.0.0.9"}, one, secrets=secrets),
        "client-certificates.test": Site({"auth-tls-secret": "a/b"}, one),
        "auth.test": Site(_auth(of, auth_response_headers="X-User, X-Group", auth_method="HEAD", auth_proxy_set_headers="hard"), one, config_maps=headers),
        "signin.test": Site(_auth(of, auth_signin="https://login.test/start"), one),
        "signin-own.test": Site(_auth(of, auth_signin="https://$host/start?back=$escaped_request_uri", auth_signin_redirect_param="back"), one),
        "auth-down.test": Site({"auth-url": "http://127.0.0.1:1/check"}, one),
        "auth-lost.test": Site({"auth-url": "http://auth.invalid/check"}, one),
        "auth-found.test": Site({"auth-url": f"http://auth.example:{of['auth'].address.split(':')[1]}/check"}, one),
        "auth-bad.test": Site({"auth-url": "file:///etc/passwd"}, one),
        "permanent.test": Site({"permanent-redirect": "https://new.test$request_uri"}),
        "permanent-code.test": Site({"permanent-redirect": "https://new.test/", "permanent-redirect-code": "308"}, one),
        "temporal.test": Site({"temporal-redirect": "https://new.test/$foo?a=$1", "permanent-redirect": "https://not.test"}, one),
        "root.test": Site({"app-root": "/app/$host"}, one),
        "bare.test": Site({"from-to-www-redirect": "true"}, one),
        "www.full.test": Site({"from-to-www-redirect": "true"}, one),
        "moves.test": Site({"proxy-redirect-from": "http://inner.test/", "proxy-redirect-to": "https://outer.test/"}, one),
        "moves-off.test": Site({}, one),
        "rps.test": Site({"limit-rps": "1", "limit-burst-multiplier": "3"}, one),
        "rpm.test": Site({"limit-rpm": "1", "limit-burst-multiplier": "2", "limit-whitelist": "127.0.0.9, ::1/128"}, one),
        "connections.test": Site({"limit-connections": "1"}, one),
        "rate.test": Site({"limit-rate": "100", "limit-rate-after": "1"}, one),
    }  # fmt: skip


def _decide(request: BaseHTTPRequestHandler) -> int:
    if request.headers.get("X-Forbidden"):
        return 403
    return 200 if request.headers.get("Cookie") == "session=good" else 401


@pytest.fixture(scope="module")
def of() -> Iterator[dict[str, EchoServer]]:
    with echoes("one", "plain") as made:
        auth = EchoServer("auth", _decide, (("X-User", "anna"), ("Set-Cookie", "session=new; Path=/")))
        yield {**made, "auth": auth}
        auth.close()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    directory = tmp_path_factory.mktemp("tls")
    chain, key = certificate("through.test")
    (directory / "pem").write_bytes(chain + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "pem")
    made = EchoServer("tls", tls=context)
    yield made
    made.close()


@pytest.fixture(scope="module")
def nginx(of: dict[str, EchoServer], tls: EchoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    made = Nginx(Path(tmp_path_factory.mktemp("nginx")))
    through = {"ssl-passthrough": "true"}
    names = NameServer("auth.example")
    made.resolvers = (names.address,)
    made.configure({**_sites(of), "through.test": Site(through, (tls.address,)), "gone.test": Site(through)})
    made.start()
    yield made
    made.stop()
    names.close()


def test_basic_authentication_by_a_file(nginx: Nginx) -> None:
    refused = nginx.ask("basic.test")
    assert (refused.status, refused.header("WWW-Authenticate")) == (401, 'Basic realm="Shop $1 $host"')
    assert nginx.ask("basic.test", headers=basic("anna", "password")).status == 200
    assert nginx.ask("basic.test", headers=basic("anna", "wrong")).status == 401
    assert nginx.ask("basic.test", headers=basic("# users", "")).status == 401
    assert nginx.ask("basic-own.test", headers=basic("anna", "password")).status == 200


def test_basic_authentication_by_a_map(nginx: Nginx) -> None:
    assert nginx.ask("basic-map.test", headers=basic("anna", "password")).status == 200
    assert nginx.ask("basic-map.test", headers=basic("bert", "password")).status == 200
    assert nginx.ask("basic-map.test", headers=basic("bert", "")).status == 401


@pytest.mark.parametrize("host", ["basic-other.test", "basic-none.test", "basic-wrong.test", "basic-lone.test", "digest.test", "client-certificates.test", "auth-bad.test"])  # fmt: skip
def test_a_lock_that_cannot_be_had_lets_nobody_in(nginx: Nginx, host: str) -> None:
    assert nginx.ask(host, headers=basic("anna", "password")).status == 503
    assert "503" in nginx.complaints(host)[0].message


def test_satisfy_any_takes_the_address_or_the_password(nginx: Nginx) -> None:
    assert nginx.ask("any.test", source="127.0.0.9").status == 200
    assert nginx.ask("any.test").status == 401
    assert nginx.ask("any.test", headers=basic("anna", "password")).status == 200


def test_auth_url_is_asked_and_its_headers_go_to_the_endpoint(nginx: Nginx, of: dict[str, EchoServer]) -> None:
    answer = nginx.ask("auth.test", "/a?b=c", "POST", {"Cookie": "session=good", "X-User": "mallory", "X-Group": "root"}, b"body")  # fmt: skip
    assert (answer.status, answer.echo["body"], answer.seen("x-user"), answer.seen("x-group")) == (200, 4, "anna", None)
    assert answer.header("Set-Cookie") == "session=new; Path=/"
    asked = of["auth"].seen[-1]
    headers = asked["headers"]
    assert isinstance(headers, dict)
    assert (asked["method"], asked["path"], asked["body"]) == ("HEAD", "/check", 0)
    assert headers["x-original-url"] == "http://auth.test/a?b=c"
    assert (headers["x-original-method"], headers["host"], headers["x-extra"]) == ("POST", of["auth"].address, "yes $host")  # fmt: skip
    assert nginx.ask("auth.test").status == 401
    assert nginx.ask("auth.test", headers={"X-Forbidden": "1"}).status == 403


def test_the_internal_location_of_auth_url_is_nobodys_to_ask(nginx: Nginx) -> None:
    conf = (nginx.directory / "nginx.conf").read_text()
    path = conf.split("# auth-url of auth-test/auth.test\n")[1].split("location = /_glassnet/auth/")[1].split(" ")[0]
    assert nginx.ask("auth.test", f"/_glassnet/auth/{path}", headers={"Cookie": "session=good"}).status == 404


@pytest.mark.parametrize("path", ["/a", "/a?b=c&d=e", "/a%2Fb%26c?x=1%2B2&y=a+b&z=%20", "/?" + "&".join(f"a{n}=%2{n}" for n in range(8))])  # fmt: skip
def test_auth_signin_brings_the_client_back_to_where_it_was(nginx: Nginx, path: str) -> None:
    answer = nginx.ask("signin.test", path)
    url = urlsplit(answer.header("Location"))
    assert (answer.status, url.netloc, url.path) == (302, "login.test", "/start")
    assert parse_qs(url.query, strict_parsing=True) == {"rd": [f"http://signin.test{path}"]}
    own = urlsplit(nginx.ask("signin-own.test", path).header("Location"))
    assert (own.netloc, parse_qs(own.query)) == ("signin-own.test", {"back": [path]})


def test_an_authentication_server_that_cannot_be_asked_lets_nobody_in(nginx: Nginx) -> None:
    assert nginx.ask("auth-down.test").status == 500
    assert nginx.ask("auth-lost.test").status == 500


def test_the_host_of_auth_url_is_looked_up_when_it_is_asked(nginx: Nginx) -> None:
    assert nginx.ask("auth-found.test", headers={"Cookie": "session=good"}).status == 200
    assert nginx.ask("auth-found.test").status == 401


def test_redirects(nginx: Nginx) -> None:
    def sent(host: str, path: str = "/x?y=z") -> tuple[int, str]:
        answer = nginx.ask(host, path)
        return answer.status, answer.header("Location")

    assert sent("permanent.test") == (301, "https://new.test/x?y=z")
    assert sent("permanent-code.test") == (308, "https://new.test/")
    assert sent("temporal.test") == (302, "https://new.test/$foo?a=$1")
    assert sent("root.test", "/") == (302, "http://root.test/app/$host")
    assert sent("root.test")[0] == 200
    assert sent("www.bare.test") == (308, "http://bare.test/x?y=z")
    assert sent("bare.test")[0] == 200
    assert sent("full.test") == (308, "http://www.full.test/x?y=z")


def test_redirects_of_endpoints_are_changed_when_asked(nginx: Nginx) -> None:
    inner = {"X-Want-Status": "302", "X-Want-Header-Location": "http://inner.test/a"}
    assert nginx.ask("moves.test", headers=inner).header("Location") == "https://outer.test/a"
    assert nginx.ask("moves-off.test", headers=inner).header("Location") == "http://inner.test/a"


def test_limits_of_requests_are_per_client(nginx: Nginx) -> None:
    assert [nginx.ask("rps.test", source="127.0.0.2").status for _ in range(4)] == [200] * 4
    assert 503 in [nginx.ask("rps.test", source="127.0.0.2").status for _ in range(20)]
    assert nginx.ask("rps.test", source="127.0.0.3").status == 200
    assert [nginx.ask("rpm.test").status for _ in range(5)] == [200] * 3 + [503] * 2
    assert {nginx.ask("rpm.test", source="127.0.0.9").status for _ in range(9)} == {200}


def test_a_limit_of_connections_is_per_client(nginx: Nginx, of: dict[str, EchoServer]) -> None:
    with socket.create_connection(("127.0.0.1", nginx.port), 20) as first:
        before = len(of["one"].seen)
        first.sendall(b"GET / HTTP/1.1\r\nHost: connections.test\r\nX-Want-Pause: 30\r\nConnection: close\r\n\r\n")
        for _ in range(1000):
            if len(of["one"].seen) > before:
                break
            of["one"].stop.wait(0.01)
        assert nginx.ask("connections.test").status == 503
        assert nginx.ask("connections.test", source="127.0.0.2").status == 200


def test_a_limit_of_rate_is_in_kilobytes(nginx: Nginx) -> None:
    assert nginx.ask("rate.test").status == 200
    assert "limit_rate 100k;\n" in (nginx.directory / "nginx.conf").read_text()


def _hello(nginx: Nginx, name: str) -> ssl.SSLSocket:
    context = ssl._create_unverified_context()
    return context.wrap_socket(socket.create_connection(("127.0.0.1", nginx.tls_port), 20, ("127.0.0.7", 0)), server_hostname=name)  # fmt: skip


def _get(link: ssl.SSLSocket, host: str) -> bytes:
    with link:
        link.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: link.recv(65536), b""))


def test_ssl_passthrough_leaves_tls_to_the_endpoint(nginx: Nginx) -> None:
    link = _hello(nginx, "through.test")
    assert b"through.test" in (link.getpeercert(binary_form=True) or b"")
    assert b'"name": "tls"' in _get(link, "through.test")


def test_ssl_passthrough_leaves_other_hosts_to_nginx_with_the_clients_address(nginx: Nginx) -> None:
    link = _hello(nginx, "plain.test")
    assert b"nginx.test" in (link.getpeercert(binary_form=True) or b"")
    assert _get(link, "plain.test").count(b'"x-real-ip": "127.0.0.7"') == 1


def test_ssl_passthrough_without_endpoints_ends_the_connection(nginx: Nginx) -> None:
    with pytest.raises((ssl.SSLError, OSError)):
        _hello(nginx, "gone.test")
