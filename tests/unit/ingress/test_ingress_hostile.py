"""Hostile hosts, paths, names and annotations: NGINX accepts what comes of them, nothing of them is read as syntax, and others are served."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glassnet.ingress import compute, regex, render
from glassnet.ingress.syntax import Directive
from private_ingress import SETTINGS, check, endpoint, endpoints, ingress, path, rule, service, view_of

PIECES = [
    '"; } server { listen 1.2.3.4:80; } #', "'; return 200 x;", "\n", "\r", "\\", "\\\\", '\\"', "$", "${", "$host", "${host}", "{", "}", ";", "#", " ",
    "\t", "\x00", "\x7f", "\x85", "\u2028", "é", "%2e", "%0a", "%00", "%", "..", "//", "/", "*", "*.", "~", "^~", "=", "@", "(", ")", "[", "]", "|", "a", "Ab",
    "x" * 300, "x" * 3000, "-", ".", "1.2.3.4", "::1", "localhost", "others:", "http://", "unix:", "default", "include", "\u202e",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(PIECES), min_size=0, max_size=5).map("".join)
ANNOTATIONS = [
    "rewrite-target", "use-regex", "ssl-redirect", "force-ssl-redirect", "proxy-body-size", "proxy-read-timeout", "backend-protocol",
    "whitelist-source-range", "enable-cors", "cors-allow-origin", "affinity", "session-cookie-name", "auth-url", "auth-signin", "canary-by-header",
    "permanent-redirect", "app-root", "from-to-www-redirect", "limit-rps", "limit-connections", "upstream-vhost", "x-forwarded-prefix", "custom-http-errors",
    "default-backend", "server-alias", "configuration-snippet", "auth-type", "auth-secret", "proxy-buffering", "ssl-passthrough",
]  # fmt: skip
PATHS = st.tuples(
    st.one_of(TEXT, TEXT.map("/".__add__)), TEXT, st.sampled_from(["Exact", "Prefix", "ImplementationSpecific"])
)
RULES = st.tuples(st.one_of(TEXT, st.sampled_from(["", "a.test", "*.a.test", "*.test"])), st.lists(PATHS, max_size=4))
VALUES = st.one_of(
    TEXT, TEXT.map("/".__add__), TEXT.map("http://a.test/".__add__), st.sampled_from(["true", "cookie", "GRPC", "10"])
)
INGRESSES = st.lists(st.tuples(st.lists(RULES, max_size=3), st.dictionaries(st.sampled_from(ANNOTATIONS), VALUES, max_size=3)), min_size=1, max_size=6)  # fmt: skip


def _objects(drawn: Any) -> list[dict[str, Any]]:
    out = [
        service("good"),
        endpoints("good", endpoint("127.0.0.1")),
        ingress("good", rule("good.test", path("/", "good")), age=9),
    ]
    for number, (rules, notes) in enumerate(drawn):
        said = [rule(host, *(path(text, name or "good", kind) for text, name, kind in paths)) for host, paths in rules]
        tls = [{"hosts": [host for host, _ in rules], "secretName": next((host for host, _ in rules), "x")}]
        out.append(ingress(f"i{number}", *said, annotations=notes, tls=tls))
    return out


def parse(text: str) -> list[Any]:
    """nginx.conf read by a reader of the test's own (ngx_conf_read_token): [name, arguments, block or None] for each directive."""
    tokens = re.compile(r'\s+|#[^\n]*(?:\n|\Z)|"((?:[^"\\]|\\.)*)"|([;{}])|((?:[^\s;{"\'#\\]|\$\{)[^\s;{]*)', re.DOTALL)
    stack: list[list[Any]] = [[]]
    words: list[str] = []
    at = 0
    while at < len(text):
        found = tokens.match(text, at)
        assert found, text[at : at + 60]
        at = found.end()
        if found[1] is not None:
            words.append(re.sub(r'\\(["\'\\])', r"\1", found[1]))
        elif found[3] is not None:
            words.append(found[3])
        elif found[2] == ";":
            stack[-1].append([words[0], words[1:], None])
            words = []
        elif found[2] == "{":
            stack[-1].append([words[0], words[1:], []])
            stack.append(stack[-1][-1][2])
            words = []
        elif found[2] == "}":
            assert not words
            stack.pop()
    assert len(stack) == 1 and not words
    return stack[0]


def _asked(directives: Any) -> list[Any]:
    out = []
    for each in directives:
        name = parse(each.name + " ;")[0][0] if each.name.startswith('"') else each.name
        out.append([name, list(each.args), None if each.block is None else _asked(each.block)])
    return out


@given(INGRESSES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_hostile_becomes_syntax(tmp_path_factory: pytest.TempPathFactory, drawn: Any) -> None:
    site = compute.compute(view_of(*_objects(drawn)), SETTINGS)
    files = render.files(site, SETTINGS)
    place = tmp_path_factory.mktemp("hostile")
    assert check(place, files) == ""
    wanted = _asked(render.configuration(site, SETTINGS, tls=False))
    text = files["nginx.conf"].decode()
    assert parse(re.sub(r"return 200 [0-9a-f]{16};", "return 200 _;", text, count=1)) == wanted
    good = next(each for each in site.servers if each.host == "good.test")
    assert [str(each.source.ingress) for each in good.locations][-1] == "default/good"


def test_the_test_sees_a_directive_that_slips_in() -> None:
    """The reader of this test takes what NGINX takes: were quoting left out, it would see another tree."""
    assert parse('a "b; c" { d e; } # x;\nf;') == [["a", ["b; c"], [["d", ["e"], None]]], ["f", [], None]]
    assert parse("set $x a; return 200;") != _asked([Directive("set", ("$x", "a; return 200"))])


@given(st.lists(st.sampled_from([
    "a", "/", "(", ")", "(?:", "(?=", "(?!", "(?>", "(?i)", "(?i:", "(?<n>", "(?P<n>", "[", "]", "[^", "a-z", "-", "[:alpha:]", "|", "*", "+", "?", "{2}", "{2,}",
    "{,3}", "{3,2}", "{900}", "\\d", "\\w", "\\b", "\\1", "\\x41", "\\x", "\\.", "\\Q", "\\p{L}", "\\z", "^", "$", ".", "é", "{", "}", "(*UTF8)", "\\n", "(?#x)", "&&", "--", "||", "~~", "[[",
]), max_size=9).map("".join), st.lists(st.text("ab/d\n|é-[^", max_size=8), max_size=5))  # fmt: skip
@settings(max_examples=1500, deadline=None)
def test_patterns_are_refused_or_read_by_python(text: str, tried: list[str]) -> None:
    """Whatever `check` lets through, Python's `re` has compiled; NGINX's word on the same is below."""
    try:
        pattern = regex.python("/" + text)
    except regex.BadRegex as error:
        assert "regular expression" in str(error)
        return
    for each in tried:
        pattern.match("/" + each)


def _patterns(count: int) -> list[str]:
    import random

    rnd = random.Random(7)
    atoms = ["a", "b", "/", ".", "\\d", "\\w", "[ab]", "[^/]", "[a-c-]", "[[:digit:]x]", "\\x61", "\\.", "(a)", "(?:b|a)", "(?=a)", "(?!b)", "(?>a+)", "(?i:B)", "\\b", "^", "$", "|", "é"]  # fmt: skip
    ends = ["", "", "", "*", "+", "?", "{2}", "{1,3}", "*?", "++", "{0}"]
    out = []
    while len(out) < count:
        text = "/" + "".join(rnd.choice(atoms) + rnd.choice(ends) for _ in range(rnd.randint(1, 5)))
        try:
            regex.check(text)
        except regex.BadRegex:
            continue
        out.append(text)
    return out


def test_nginx_takes_every_pattern_that_is_let_through(tmp_path: Path) -> None:
    patterns = dict.fromkeys(_patterns(1500))
    paths = [path(each, "good", "ImplementationSpecific") for each in patterns]
    site = compute.compute(view_of(service("good"), endpoints("good", endpoint("127.0.0.1")), ingress("i", rule("a.test", *paths), annotations={"use-regex": "true"})), SETTINGS)  # fmt: skip
    assert not site.problems
    assert len(site.servers[1].locations) == len(patterns)
    assert check(tmp_path, render.files(site, SETTINGS)) == ""


@pytest.mark.parametrize(("text", "why"), [
    ("/(", "a group is not closed"), ("/)", "without an opening one"), ("/a**b", "nothing that could"), ("/[", "not closed"), ("/[b-a]", "wrong order"),
    ("/a{3,2}", "wrong order"), ("/(a{900}){900}", "repetitions"), ("/(?<host>.*)", "groups with ?"), ("/\\1", "references"), ("/é", "ASCII"),
    ("/(?R)", "groups with ?"), ("/(*COMMIT)", "groups with ?"), ("/a{", "literal {"), ("/" + "(" * 30 + ")" * 30, "nested"), ("/a\\", "at the end"),
])  # fmt: skip
def test_a_pattern_is_refused_with_the_place(text: str, why: str) -> None:
    with pytest.raises(regex.BadRegex, match=re.escape(why)):
        regex.check(text)
