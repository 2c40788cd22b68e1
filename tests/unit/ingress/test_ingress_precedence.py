"""Which rule a request is for: real NGINX, a slow reference written from the API's text, and `explain` agree on random rules and requests."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from glassnet.ingress import explain
from glassnet.ingress.explain import Request
from private_ingress import Answer, backend, echoes, ingress, path, rule, served, site_of

SERVICES = [f"s{number}" for number in range(16)]
HOSTS = ["", "a.test", "b.a.test", "*.test", "*.a.test", "*.b.a.test", "c.test", "x.y.b.a.test"]
ELEMENTS = ["a", "b", "aa", "a.b", "A", "é", "a b", "a", "b", "l" * 260]
PATTERNS = [
    "/a/[ab]+",
    "/(a|b)/.*",
    "/a|/b/a",
    "/a/b$",
    "/[^/]+/b",
    "/",
    "/.*",
    "/aa?",
    "/(?i)a",
    "/a/.{2,3}",
    "/a/(?!b)",
    "/(?:a|aa)/",
]


def _path(rnd: random.Random) -> str:
    text = "".join("/" + rnd.choice(ELEMENTS) for _ in range(rnd.randint(0, 3)))
    return text + ("/" if not text or rnd.random() < 0.3 else "")


def _ingresses(rnd: random.Random) -> list[dict[str, Any]]:
    out = []
    for number in range(14):
        regex = rnd.random() < 0.4
        rules = []
        for _ in range(rnd.randint(1, 3)):
            kinds = ["Exact", "Prefix", "Prefix", "ImplementationSpecific"]
            paths = []
            for _ in range(rnd.randint(1, 5)):
                kind = rnd.choice(kinds)
                text = rnd.choice(PATTERNS) if regex and kind == "ImplementationSpecific" else _path(rnd)
                paths.append(path(text, rnd.choice(SERVICES), kind))
            rules.append(rule(rnd.choice(HOSTS), *paths))
        spec = {"defaultBackend": backend(rnd.choice(SERVICES))} if rnd.random() < 0.3 else {}
        notes = {"use-regex": "true"} if regex else {}
        out.append(ingress(f"i{number}", *rules, age=rnd.randint(0, 5), annotations=notes, **spec))
    if rnd.random() < 0.5:
        out.append(ingress("global", defaultBackend=backend("s0")))
    return out


def _target(rnd: random.Random) -> str:
    """A request's target: a path, written in a way that comes to the same, or nearly."""
    text = ""
    for element in _path(rnd).encode().decode("latin-1"):
        roll = rnd.random()
        if (not element.isalnum() and element not in "/.") or element > "~" or roll < 0.05:
            text += "".join(f"%{octet:02{rnd.choice('xX')}}" for octet in element.encode("latin-1"))
        elif element == "/" and roll < 0.2:
            text += rnd.choice(["//", "/./", "/x/../", "/%2e/", "/"])
        else:
            text += element
    if not text.startswith("/"):
        text = "/" + text
    return text + rnd.choice(["", "", "", "?q=/a", "?", "?a=%2F"])


# -- the reference: as slow and simple as it can be said


def _normal(target: str) -> str:
    out: list[str] = []
    raw = unquote(target.split("?")[0])
    for element in raw.split("/"):
        if element == "..":
            out.pop()
        elif element not in ("", "."):
            out.append(element)
    return "/" + "/".join(out) + ("/" if out and raw.split("/")[-1] in ("", ".", "..") else "")


def _elements(text: str) -> list[str]:
    return [each for each in text.split("/") if each]


def _takes(kind: str, text: str, here: str) -> bool:
    if kind == "Exact":
        return text == here
    if kind == "Regex":
        case = re.IGNORECASE if "(?i)" in text else re.NOFLAG
        return re.match(text.replace("(?i)", ""), here.encode().decode("latin-1"), case) is not None
    wanted = _elements(text)
    return _elements(here)[: len(wanted)] == wanted


def expected(ingresses: list[dict[str, Any]], host: str, target: str) -> str:
    """The Service a request is for, "" for none."""
    name = host.split(":")[0].lower().rstrip(".")
    older = sorted(ingresses, key=lambda each: (each["metadata"]["creationTimestamp"], each["metadata"]["name"]))
    hosts = {each["host"] for one in older for each in one["spec"]["rules"]}
    mine = next((each for each in (name, "*." + name.partition(".")[2]) if each in hosts), "")
    best: tuple[Any, str] | None = None
    for order, one in enumerate(older):
        regex = bool(one["metadata"]["annotations"])
        for place, each in enumerate(one["spec"]["rules"]):
            for number, found in enumerate(each["http"]["paths"] if each["host"] == mine else ()):
                kind = found["pathType"]
                if kind == "ImplementationSpecific":
                    kind = "Regex" if regex else "Prefix"
                text = found["path"] if kind != "Prefix" else "/" + "/".join(_elements(found["path"]))
                rank = (
                    kind != "Exact",
                    -len(text),
                    kind == "Regex",
                    text if kind == "Regex" else "",
                    order,
                    place,
                    number,
                )
                if _takes(kind, text, _normal(target)) and (best is None or rank < best[0]):
                    best = rank, found["backend"]["service"]["name"]
    if best:
        return best[1]
    for one in older:
        if "defaultBackend" in one["spec"] and any(each["host"] == mine for each in one["spec"]["rules"]):
            return str(one["spec"]["defaultBackend"]["service"]["name"])
    return next((str(one["spec"]["defaultBackend"]["service"]["name"]) for one in older if not one["spec"]["rules"]), "")  # fmt: skip


@pytest.mark.parametrize("seed", [*range(5), 227])
def test_nginx_the_reference_and_explain_agree(seed: int, tmp_path: Path) -> None:
    rnd = random.Random(seed)
    ingresses = _ingresses(rnd)
    names = ["a.test", "b.a.test", "c.test", "q.test", "q.a.test", "q.b.a.test", "z.q.b.a.test", "z.q.test", "x.y.b.a.test", "other", "B.A.test:80", "a.test.", "w.x.y.b.a.test"]  # fmt: skip
    with echoes(SERVICES) as objects:
        site = site_of(*objects, *ingresses)
        with served(site, tmp_path) as nginx:
            for _ in range(400):
                host, target = rnd.choice(names), _target(rnd)
                wanted = expected(ingresses, host, target)
                answer = nginx.ask(host, target)
                said = explain.explain(site, Request("http", host, target))
                assert _got(answer, target) == (wanted or 404), (host, target)
                assert (said.choices[0].backend.service.name if said.choices else said.status) == (wanted or 404), (host, target, said.why)  # fmt: skip
    assert {each.reason for each in site.problems} <= {"Conflict"}


def _got(answer: Answer, target: str) -> str | int:
    """The Service; it has to have the target as the client wrote it."""
    if answer.status != 200:
        return answer.status
    assert answer.got["target"] == target
    return answer.service
