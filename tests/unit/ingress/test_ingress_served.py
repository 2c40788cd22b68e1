"""One NGINX for many Ingresses, asked over HTTP and TLS: certificates by SNI, headers, what is answered when there is nothing to answer with."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from glassnet.ingress import certificates, explain
from glassnet.ingress.explain import Request
from glassnet.ingress.model import Site
from glassnet.kube.types import Data, Meta
from glassnet.kube.view import Key
from private_ingress import (
    Nginx,
    backend,
    echoes,
    endpoint,
    endpoints,
    ingress,
    path,
    rule,
    secret,
    served,
    service,
    site_of,
)

LONG = "/" + "l" * 400


def pair(*names: str, key: Any = None, algorithm: Any = None) -> tuple[bytes, bytes]:
    """A self-signed certificate for these names, and its key, in PEM."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())  # fmt: skip
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), False).sign(key, algorithm or hashes.SHA256())  # fmt: skip
    form = serialization.PrivateFormat.PKCS8
    return made.public_bytes(serialization.Encoding.PEM), key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())  # fmt: skip


def tls_secret(name: str, chain: bytes, key: bytes) -> dict[str, Any]:
    """A Secret of type kubernetes.io/tls."""
    return secret(name, {"tls.crt": base64.b64encode(chain).decode(), "tls.key": base64.b64encode(key).decode()})


PAIRS = {
    "default": pair("default.test"),
    "a": pair("a.test"),
    "wild": pair("*.w.test"),
    "only": pair("only.test"),
    "hostless": pair("h.test"),
}


def _objects() -> list[dict[str, Any]]:
    plain = {"ssl-redirect": "false"}
    return [
        ingress("a", rule("a.test", path("/", "one"), path(LONG, "two"), path("/gone", "missing"), path("/empty", "empty"), path("/two", "two")), annotations=plain, tls=[{"hosts": ["a.test"], "secretName": "a"}]),
        ingress("w", rule("*.w.test", path("/", "two")), rule("b.w.test", path("/", "one")), annotations=plain, tls=[{"hosts": ["*.w.test"], "secretName": "wild"}]),
        ingress("only", annotations=plain, tls=[{"hosts": ["only.test"], "secretName": "only"}], defaultBackend=backend("three")),
        ingress("broken", rule("broken.test", path("/", "one")), annotations=plain, tls=[{"hosts": ["broken.test"], "secretName": "nowhere"}]),
        ingress("hostless", rule("h.test", path("/", "one")), rule("i.test", path("/", "one")), annotations=plain, tls=[{"secretName": "hostless"}]),
        ingress("redirected", rule("r.test", path("/", "one")), tls=[{"hosts": ["r.test"]}]),
        ingress("every", rule("", path("/every", "two"), path("/slash/", "one", "Exact")), annotations=plain),
        ingress("rewritten", rule("re.test", path("/v1(/|$)(.*)", "one", "ImplementationSpecific"), path("/plain", "two")), annotations={"rewrite-target": "/$2"}),
        service("empty"), endpoints("empty", endpoint("10.0.0.1", ready=False)),
        *(tls_secret(name, *PAIRS[name]) for name in ("a", "wild", "only", "hostless")),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Nginx]]:
    """The Site, and the NGINX that serves it."""
    with echoes(["one", "two", "three"]) as objects:
        site = site_of(*objects, *_objects())
        with served(
            site, tmp_path_factory.mktemp("served"), chain=PAIRS["default"][0], key=PAIRS["default"][1]
        ) as nginx:
            yield site, nginx


@pytest.mark.parametrize(("sni", "name"), [
    ("a.test", "a"), ("x.w.test", "wild"), ("b.w.test", "wild"), ("only.test", "only"), ("broken.test", "default"), ("other.test", "default"), ("", "default"),
    ("h.test", "hostless"), ("i.test", "default"), ("A.TEST", "a"),
])  # fmt: skip
def test_the_certificate_is_that_of_the_sni(world: tuple[Site, Nginx], sni: str, name: str) -> None:
    site, nginx = world
    wanted = x509.load_pem_x509_certificate(PAIRS[name][0]).public_bytes(serialization.Encoding.DER)
    assert nginx.certificate(sni) == wanted
    said = explain.explain(site, Request("https", sni or "x.test", "/", sni=sni)).certificate
    assert said == ("" if name == "default" else f"default_{name}")


def test_the_host_routes_whatever_the_sni(world: tuple[Site, Nginx]) -> None:
    _, nginx = world
    assert nginx.ask("x.w.test", tls=True, sni="a.test").service == "two"
    assert nginx.ask("a.test", tls=True, sni="other.test").service == "one"
    assert nginx.ask("only.test", tls=True, sni="only.test").service == "three"
    assert nginx.ask("only.test", "/every", tls=True, sni="only.test").service == "two"


def test_a_broken_certificate_is_told(world: tuple[Site, Nginx]) -> None:
    site, _ = world
    (problem,) = [each for each in site.problems if each.reason == "BadCertificate"]
    assert problem.key == Key("default", "broken")
    assert "there is no Secret default/nowhere; the default certificate is used" in problem.message


@pytest.mark.parametrize(("host", "target", "status", "service"), [
    ("a.test", "/", 200, "one"), ("a.test", "/gone", 503, ""), ("a.test", "/empty/x", 503, ""), ("a.test", LONG + "/x", 200, "two"), ("a.test", LONG + "l", 200, "one"),
    ("a.b.w.test", "/", 200, "three"), ("a.b.w.test", "/every/x%2Fy//z?q=%20", 200, "two"), ("x.w.test", "/every", 200, "two"), ("w.test", "/every", 200, "two"),
    ("nobody.test", "/slash", 200, "three"), ("nobody.test", "/slash/", 200, "one"), ("a.b.w.test", "/slash/", 200, "one"), ("a.b.w.test", "/slash", 200, "three"),
    ("10.0.0.1:8080", "/every", 200, "two"), ("r.test", "/x?y", 308, ""),
    ("re.test", "/v1/a/b?c=d", 200, "one"), ("re.test", "/v1", 200, "one"), ("re.test", "/v12", 200, "three"), ("re.test", "/plain/x", 200, "two"),
])  # fmt: skip
def test_nginx_and_explain_say_the_same(
    world: tuple[Site, Nginx], host: str | None, target: str, status: int, service: str
) -> None:
    site, nginx = world
    answer, said = nginx.ask(host, target), explain.explain(site, Request("http", host or "", target))
    assert (answer.status, answer.service) == (status, service)
    assert (said.status or 200, said.choices[0].backend.service.name if said.sent else "") == (status, service)
    if answer.got:
        assert answer.got["target"] == said.sent
    if status == 308:
        assert answer.headers["location"] == said.to == "https://r.test/x?y"


def test_explain_says_why_not_the_others(world: tuple[Site, Nginx]) -> None:
    said = explain.explain(world[0], Request("http", "a.test", "/two/x"))
    assert said.location and said.location.source.field == "spec.rules[0].http.paths[4]"
    assert [(each.path, why) for each, why in said.others][-1] == ("/", "matches, but Prefix /two goes before")
    assert said.choices[0].endpoints[0].pod == "pod-two"
    assert said.why[-1] == "Prefix path /two matches, spec.rules[0].http.paths[4] of Ingress default/a"
    assert explain.explain(world[0], Request("http", "a.test", "/..")).status == 400


def test_the_endpoint_learns_who_asked_and_for_what(world: tuple[Site, Nginx]) -> None:
    _, nginx = world
    answer = nginx.ask("a.test:8443", "/x", "POST", tls=True, sni="a.test", body="text", headers={
        "X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "gopher", "X-Real-IP": "6.6.6.6", "Proxy": "evil", "under_score": "x", "X-Request-ID": "abc",
    })  # fmt: skip
    got = answer.got["headers"]
    assert answer.got["body"] == "text"
    assert (got["Host"], got["X-Forwarded-Host"], got["X-Request-ID"]) == ("a.test:8443", "a.test:8443", "abc")
    assert (got["X-Forwarded-Proto"], got["X-Forwarded-Scheme"], got["X-Scheme"], got["X-Forwarded-Port"]) == ("https", "https", "https", "443")  # fmt: skip
    assert got["X-Forwarded-For"] == got["X-Real-IP"] == "unix:"
    assert got["X-Original-Forwarded-For"] == "6.6.6.6"
    assert not {"Proxy", "under_score", "Connection", "Upgrade"} & got.keys()
    assert len(nginx.ask("a.test").got["headers"]["X-Request-ID"]) == 32


def test_a_request_line_with_a_host_goes_before_the_header(world: tuple[Site, Nginx]) -> None:
    _, nginx = world
    answer = nginx.ask("a.test", "http://x.w.test/p")
    assert (answer.service, answer.got["headers"]["Host"], answer.got["target"]) == ("two", "x.w.test", "/p")


def test_http_1_0_without_a_host(world: tuple[Site, Nginx]) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(world[1].directory / "http.sock"))
        one.sendall(b"GET /every HTTP/1.0\r\n\r\n")
        text = b"".join(iter(lambda: one.recv(4096), b""))
    assert text.startswith(b"HTTP/1.1 200") and b'"service": "two"' in text
    assert b"Server: nginx\r\n" in text


def test_the_log_names_the_objects(world: tuple[Site, Nginx]) -> None:
    nginx = world[1]
    mark = f"mark-{time.monotonic_ns()}"
    nginx.ask("a.test", "/two", headers={"X-Request-ID": mark, "User-Agent": 'a"b\\'})
    deadline = time.monotonic() + 10
    while not (lines := [each for each in (nginx.directory / "access.log").read_text().splitlines() if mark in each]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    got = json.loads(lines[0])
    assert {"namespace": "default", "ingress": "a", "rule": "spec.rules[0].http.paths[4]", "service": "two:80", "status": 200, "user_agent": 'a"b\\'}.items() <= got.items()  # fmt: skip
    assert got["upstream"].startswith("127.0.0.1:")


def test_files_are_the_same_each_time_and_keys_are_not_shown(world: tuple[Site, Nginx]) -> None:
    from glassnet.ingress import render
    from glassnet.ingress.model import Settings

    site = world[0]
    assert render.files(site, Settings()) == render.files(site, Settings())
    assert "PRIVATE" not in repr(site.certificates)
    assert len(site.certificates) == 4


RSA = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(("data", "why"), [
    ({}, "no usable tls.crt"), ({"tls.crt": "eA=="}, "no usable tls.key"), ({"tls.crt": "eA==", "tls.key": "eA=="}, "no chain of certificates"),
    ({"tls.crt": PAIRS["a"][0], "tls.key": PAIRS["wild"][1]}, "not the key of the first certificate"), ({"tls.crt": PAIRS["a"][0], "tls.key": "eA=="}, "no private key"),
    ({"tls.crt": PAIRS["a"][0], "tls.key": RSA.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x"))}, "encrypted"),
    (dict(zip(("tls.crt", "tls.key"), pair("w.test", key=rsa.generate_private_key(65537, 1024)), strict=True)), "too weak"),
    ({"tls.crt": "%%%", "tls.key": "é"}, "no usable tls.key"),
])  # fmt: skip
def test_a_secret_that_nginx_would_refuse_is_refused(data: dict[str, Any], why: str) -> None:
    text = {name: base64.b64encode(each).decode() if isinstance(each, bytes) else each for name, each in data.items()}
    with pytest.raises(certificates.BadCertificate, match=why):
        certificates.of(Data(Meta("s", "default"), text), Key("default", "s"))


def test_good_certificates_are_taken_and_nginx_agrees(tmp_path: Path) -> None:
    from glassnet.ingress import render
    from private_ingress import SETTINGS, check

    pairs = [pair("a.test"), pair("b.test", key=RSA), pair("c.test", key=ec.generate_private_key(ec.SECP384R1()))]
    secrets = [
        tls_secret(f"s{number}", chain + pairs[0][0] + b"text between\n", key)
        for number, (chain, key) in enumerate(pairs)
    ]
    site = site_of(
        ingress("i", tls=[{"hosts": [f"h{number}.test"], "secretName": f"s{number}"} for number in range(3)]), *secrets
    )
    assert site.problems == ()
    files = render.files(site, SETTINGS, *PAIRS["default"])
    assert check(tmp_path, files) == ""
    assert not any(b"text between" in each for each in files.values())


def test_deeper_names_of_a_wildcard_too_many_get_404(tmp_path: Path) -> None:
    from private_ingress import SETTINGS

    settings = SETTINGS._replace(copies=1)
    with echoes(["one"]) as objects:
        rules = [rule("*.a.test", path("/", "one")), rule("*.b.test", path("/", "one")), rule("", path("/", "one"))]
        site = site_of(*objects, ingress("i", *rules), settings=settings)
        with served(site, tmp_path, settings) as nginx:
            for host, status in (
                ("x.a.test", 200),
                ("y.x.a.test", 200),
                ("x.b.test", 200),
                ("y.x.b.test", 404),
                ("b.test", 200),
            ):
                assert (nginx.ask(host).status, explain.explain(site, Request("http", host)).status or 200) == (status, status), host  # fmt: skip


def test_the_default_certificate_of_the_controller_stays() -> None:
    from private_ingress import SETTINGS

    objects = [
        ingress("i", defaultBackend=backend("s"), tls=[{"secretName": "a"}]),
        *(tls_secret(name, *PAIRS[name]) for name in ("a", "wild")),
    ]
    site = site_of(*objects)
    assert (site.servers[0].certificate, site.default_certificate) == ("default_a", "")
    told = site_of(*objects, settings=SETTINGS._replace(default_certificate="default/wild"))
    assert (told.servers[0].certificate, told.default_certificate) == ("", "default_wild")
    assert "Conflict" in {each.reason for each in told.problems}
    lost = site_of(*objects, settings=SETTINGS._replace(default_certificate="default/none"))
    assert (lost.default_certificate, lost.problems[0].kind, lost.problems[0].reason) == (
        "",
        "Secret",
        "BadCertificate",
    )


def test_a_request_to_a_deeper_name_comes_as_it_was(world: tuple[Site, Nginx]) -> None:
    answer = world[1].ask("a.b.w.test", "/every//x%2F?q", "POST", body="text", headers={"X-Own": "1"})
    assert (answer.status, answer.got["method"], answer.got["body"], answer.got["target"]) == (200, "POST", "text", "/every//x%2F?q")  # fmt: skip
    assert (answer.got["headers"]["Host"], answer.got["headers"]["X-Own"]) == ("a.b.w.test", "1")
