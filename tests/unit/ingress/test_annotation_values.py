"""Values of annotations: what is taken, what is left out and told, and that nothing of it is ever read as configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glassnet.ingress import options
from glassnet.ingress.options.reading import PREFIX
from glassnet.ingress.options.refused import LOCKS, SNIPPETS, UNSUPPORTED_NAMES
from glassnet.ingress.syntax import render
from ingress_annotations import Nginx, Site, certificate

_CHAIN, _KEY = certificate("fuzz.test")
GOOD: dict[str, tuple[str, ...]] = {
    "rewrite-target": ("/", "/$1", "$2", "/a/$1/b?c=$2", "https://x.test/$1"),
    "use-regex": ("true", "false"),
    "x-forwarded-prefix": ("/shop",),
    "app-root": ("/app", "/app?x=y#z"),
    "ssl-redirect": ("true", "false", "True", "0"),
    "force-ssl-redirect": ("true",),
    "permanent-redirect": ("https://new.test", "http://[2001:db8::1]:8080/x", "https://$host$request_uri", "https://new.test/${request_uri}"),
    "permanent-redirect-code": ("301", "308"),
    "temporal-redirect": ("https://new.test/a?b=$request_id",),
    "temporal-redirect-code": ("307",),
    "from-to-www-redirect": ("true",),
    "proxy-redirect-from": ("http://a/", "default", "off"),
    "proxy-redirect-to": ("https://b/",),
    "relative-redirects": ("true",),
    "proxy-body-size": ("8m", "1024", "0", "1G", "64K"),
    "client-body-buffer-size": ("16k",),
    "proxy-buffering": ("on", "off"),
    "proxy-request-buffering": ("on", "off"),
    "proxy-buffer-size": ("8k", "4096", "128k"),
    "proxy-buffers-number": ("2", "8"),
    "proxy-busy-buffers-size": ("8k", "16k"),
    "proxy-max-temp-file-size": ("0", "1024m"),
    "proxy-connect-timeout": ("5", "75s"),
    "proxy-send-timeout": ("3600",),
    "proxy-read-timeout": ("1",),
    "proxy-next-upstream": ("error timeout http_502", "off"),
    "proxy-next-upstream-timeout": ("0", "10"),
    "proxy-next-upstream-tries": ("0", "5"),
    "backend-protocol": ("HTTP", "https", "GRPC", "GRPCS"),
    "proxy-http-version": ("1.0", "1.1"),
    "proxy-ssl-secret": ("default/name", "name"),
    "proxy-ssl-verify": ("on", "off"),
    "proxy-ssl-verify-depth": ("2",),
    "proxy-ssl-ciphers": ("HIGH:!aNULL",),
    "proxy-ssl-name": ("a.test",),
    "proxy-ssl-protocols": ("TLSv1.2 TLSv1.3",),
    "proxy-ssl-server-name": ("on",),
    "whitelist-source-range": ("10.0.0.0/8", "10.0.0.1,2001:db8::/32", "10.1.2.3/8"),
    "allowlist-source-range": ("0.0.0.0/0",),
    "denylist-source-range": ("10.0.0.0/8 , 192.0.2.1",),
    "satisfy": ("any", "all"),
    "enable-cors": ("true",),
    "cors-allow-origin": ("*", "https://a.test, https://*.b.test:8443", "null"),
    "cors-allow-methods": ("GET, PUT", "*"),
    "cors-allow-headers": ("X-One,X-Two",),
    "cors-expose-headers": ("*", "X-One"),
    "cors-allow-credentials": ("false",),
    "cors-max-age": ("0", "600"),
    "affinity": ("cookie",),
    "affinity-mode": ("balanced", "persistent"),
    "affinity-canary-behavior": ("sticky", "legacy"),
    "session-cookie-name": ("route", "a-b"),
    "session-cookie-path": ("/", "/a"),
    "session-cookie-domain": (".a.test", "a.test"),
    "session-cookie-expires": ("60",),
    "session-cookie-max-age": ("0", "172800"),
    "session-cookie-samesite": ("None", "lax"),
    "session-cookie-secure": ("true",),
    "session-cookie-change-on-failure": ("true",),
    "session-cookie-conditional-samesite-none": ("true",),
    "auth-type": ("basic",),
    "auth-secret": ("users", "default/users"),
    "auth-secret-type": ("auth-file", "auth-map"),
    "auth-realm": ("Our shop - $1",),
    "auth-url": ("http://10.0.0.1/x", "https://$host/oauth2/auth", "http://auth.ns.svc.cluster.local:8080/a?b=$escaped_request_uri"),
    "auth-signin": ("https://$host/oauth2/start?rd=$escaped_request_uri",),
    "auth-signin-redirect-param": ("back",),
    "auth-method": ("GET", "head"),
    "auth-response-headers": ("X-User, X-Group",),
    "auth-proxy-set-headers": ("default/headers",),
    "auth-request-redirect": ("https://x.test/a", "/a"),
    "auth-always-set-cookie": ("true",),
    "canary": ("true",),
    "canary-by-header": ("X-Canary",),
    "canary-by-header-value": ("yes please",),
    "canary-by-header-pattern": ("^v[0-9]+$", "a|b"),
    "canary-by-cookie": ("try",),
    "canary-weight": ("0", "100"),
    "canary-weight-total": ("1000",),
    "limit-rps": ("5", "0"),
    "limit-rpm": ("300",),
    "limit-connections": ("10",),
    "limit-burst-multiplier": ("3",),
    "limit-whitelist": ("10.0.0.0/8",),
    "limit-allowlist": ("10.0.0.0/8",),
    "limit-rate": ("100",),
    "limit-rate-after": ("1",),
    "upstream-vhost": ("a.test", "a.test:8080", "$service_name.$namespace.svc"),
    "custom-headers": ("default/headers", "headers"),
    "connection-proxy-header": ("keep-alive", "close"),
    "ssl-passthrough": ("true",),
    "custom-http-errors": ("404,503", "404"),
    "default-backend": ("page",),
    "server-alias": ("a.test", "b.test,*.c.test"),
}  # fmt: skip

_HOSTILE = (
    "; return 200 pwned;", "}\nserver { listen 1; }", "a\" ; deny all; #", "a' ; b", "\\", "$", "${", "${x", "#", "\r\nX: y", "\x00", "{", "}",
    "a b", "../../etc/passwd", "file:///etc/passwd", "-1", "1e9", "999999999999999999999", "0x10", "٣", "100%", "(", "[", "a{99999}", "(?<x>a)",
    "https://$", "https://a\"b", "https://a;b", "https://a b/", "http://${x}/", "/$1;", "/\"", "/`id`", "é", "*", "~*", "~.", "default",
    "include", "volatile", "hostnames", "a" * 3000, "/" + "$" * 1500, "10.0.0.0/33", "fe80::1%eth0", ",", " , ", "a,;b", "X-A: b", "k", "8x", "m8", "$uri", "https://$uri/",
)  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_what_ingress_nginx_documents_is_taken(name: str, value: str) -> None:
    more = {"auth-type": {"auth-secret": "users"}, "proxy-busy-buffers-size": {"proxy-buffer-size": "8k"}}.get(name, {})
    _, complaints = options.read({PREFIX + name: value, **{PREFIX + other: text for other, text in more.items()}})
    assert not complaints


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("proxy-body-size", "8 megabytes", "give a size"), ("proxy-read-timeout", "1m", "give seconds"), ("ssl-redirect", "yes", '"true"'),
        ("cors-allow-origin", "a.test", "give origins"), ("limit-rps", "-5", "whole number"), ("permanent-redirect", "example.com", "give a URL"),
        ("permanent-redirect", "https://a.test/$uri", "$uri is no variable"), ("canary-by-header-pattern", "(", "regular expression"),
        ("canary-weight", "101", "at most the total"), ("proxy-busy-buffers-size", "64k", "4096 to 12288"), ("server-alias", "~^x$", "give hosts"),
        ("permanent-redirect", "https://$args/x", "give a URL"), ("permanent-redirect", "https://a.test$args", "give a URL"),
        ("auth-url", "http://$request_uri/x", "503"), ("affinity", "ip", "cookie"), ("custom-http-errors", "200", "400 to 599"), ("rewrite-target", "a b", "begins with /"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_left_out_and_told(name: str, value: str, says: str) -> None:
    _, complaints = options.read({PREFIX + name: value})
    assert len(complaints) == 1
    assert complaints[0].reason == "AnnotationInvalid"
    assert complaints[0].message.startswith(PREFIX + name + ": ")
    assert says in complaints[0].message


@pytest.mark.parametrize("name", ["whitelist-source-range", "denylist-source-range", "auth-type", "auth-url", "satisfy", "auth-secret", "proxy-ssl-verify", "backend-protocol"])  # fmt: skip
def test_a_lock_that_cannot_be_read_closes(name: str) -> None:
    read, complaints = options.read({PREFIX + name: '"; allow all'})
    assert name in read.denied
    assert "503" in complaints[0].message


def test_a_client_does_not_choose_who_is_asked_for_its_rights() -> None:
    read, _ = options.read({PREFIX + "auth-url": "https://$http_host/check"})
    every = options.Objects("default", resolvers=("192.0.2.1",), hosts=("a.test", ""))
    assert "any client" in options.resolve(read, every).denied
    own = options.resolve(read, options.Objects("default", resolvers=("192.0.2.1",), hosts=("a.test",)))
    spelled = options.spell(own, options.Place("default", "one", backend=options.Backend("a")), {})
    assert "https://$host/check" in render(spelled.internal)


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_are_refused(name: str) -> None:
    read, complaints = options.read({PREFIX + name: "gzip on; # deny it"})
    assert (read, [each.reason for each in complaints]) == (options.NONE, ["SnippetRefused"])
    assert options.read({PREFIX + name: "if ($http_x) { return 403; }"})[0].denied


def test_what_is_not_supported_or_not_known_is_told() -> None:
    for name in UNSUPPORTED_NAMES:
        read, complaints = options.read({PREFIX + name: "x"})
        assert (read, [each.reason for each in complaints]) == (options.NONE, ["AnnotationUnsupported"]), name
    for name in LOCKS:
        assert options.read({PREFIX + name: "x"})[0].denied
    assert options.read({PREFIX + "no-such": "x", "other.example/no-such": "x"})[1] == [
        ("AnnotationUnknown", f"{PREFIX}no-such is not known, and left out")
    ]


def test_options_without_annotations_are_the_same_for_all() -> None:
    assert options.read({}) == (options.NONE, [])


_TABLES = {"map", "geo", "split_clients"}
_TOKEN = re.compile(r'\s*(?:#[^\n]*\n|("(?:[^"\\]|\\.)*")|([{};])|((?:\\.|\$\{[^}]*\}|[^\s;{}"])+))', re.DOTALL)


def _directives(text: str) -> tuple[set[str], int]:
    """Names of directives outside of tables, and how many blocks there are; read by the rules of nginx's own manual, not by our writer."""
    names: set[str] = set()
    blocks: list[str] = []
    count, words, at = 0, list[str](), 0
    end = len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        assert found, text[at : at + 80]
        at = found.end()
        if found[2] is None:
            if found[1] is not None or found[3] is not None:
                words.append(found[1] or found[3])
            continue
        if found[2] == "}":
            assert not words
            blocks.pop()
            continue
        if not (blocks and blocks[-1] in _TABLES):
            names.add(words[0])
        if found[2] == "{":
            count += 1
            blocks.append(words[0])
        words = []
    assert not blocks
    return names, count


_ALONE = ("canary", "ssl-passthrough", "auth-secret-type", "permanent-redirect", "temporal-redirect")
_PLAIN = st.sampled_from([(name, value) for name, values in GOOD.items() for value in values])
_ODD = st.tuples(
    st.sampled_from(sorted(GOOD)),
    st.one_of(st.sampled_from(_HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=40)),
)
_MIXED = st.builds(
    lambda pair, text, at: (pair[0], pair[1][:at] + text + pair[1][at:]),
    _PLAIN, st.sampled_from(_HOSTILE), st.integers(0, 12),
)  # fmt: skip
_ANNOTATIONS = st.lists(st.one_of(_PLAIN, _PLAIN, _ODD, _MIXED), max_size=25).map(dict)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Nginx, set[str]]:
    """An NGINX that is never started, and the names of all directives that good values give."""
    made = Nginx(Path(tmp_path_factory.mktemp("fuzz")))
    made.resolvers = ("127.0.0.1",)
    names: set[str] = set()
    for choice in range(4):
        values = {name: every[choice % len(every)].removeprefix("default/") for name, every in GOOD.items()}
        sites = {f"{name}.test": _site({name: text}) for name, text in values.items()}
        for protocol in ("HTTP", "HTTPS", "GRPC", "GRPCS"):
            everything = {name: text for name, text in values.items() if name not in _ALONE}
            sites[f"{protocol}.test"] = _site(
                {**everything, "backend-protocol": protocol, "auth-url": "http://10.0.0.1/x"}
            )
        made.configure(sites)
        assert not (said := made.check()), said
        names |= _directives((made.directory / "nginx.conf").read_text())[0]
    return made, names


def _site(annotations: dict[str, str]) -> Site:
    """All that annotations may name is there. A canary needs a path that is another's."""
    if annotations.get("canary") == "true":
        return Site({}, ("10.0.0.1:80",), canaries=((annotations, ("10.0.0.2:80",)),))
    secrets = {
        "users": {"auth": b"a:{PLAIN}b\n", "b": b"c"},
        "name": {"tls.crt": _CHAIN, "tls.key": _KEY, "ca.crt": _CHAIN},
    }
    maps = {"headers": {"X-A": b"b", "X-B": b'$c;"}'}}
    return Site(annotations, ("10.0.0.1:80", "10.0.0.2:80"), "/a(/|$)(.*)", "yes", errors=("10.0.0.3:80",), secrets=secrets, config_maps=maps)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(many=st.lists(_ANNOTATIONS, min_size=4, max_size=10))
def test_nginx_takes_whatever_annotations_say_and_no_directive_comes_of_them(known: tuple[Nginx, set[str]], many: list[Any]) -> None:  # fmt: skip
    nginx, names = known
    nginx.configure({f"h{number}.test": _site(each) for number, each in enumerate(many)})
    assert not (said := nginx.check()), said
    found, blocks = _directives((nginx.directory / "nginx.conf").read_text())
    assert found <= names, found - names
    assert blocks


def test_each_hostile_value_of_each_annotation(known: tuple[Nginx, set[str]]) -> None:
    nginx, names = known
    for at in range(0, len(_HOSTILE), 8):
        hostile = _HOSTILE[at : at + 8]
        sites = {
            f"h{number}-{each}.test": _site({name: text})
            for number, name in enumerate(GOOD)
            for each, text in enumerate(hostile)
        }
        nginx.configure(sites)
        assert not (said := nginx.check()), (hostile, said)
        found, _ = _directives((nginx.directory / "nginx.conf").read_text())
        assert found <= names, (hostile, found - names)
