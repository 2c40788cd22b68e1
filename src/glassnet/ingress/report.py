"""What of a set of ingress-nginx's manifests is supported here, differs, is refused, or is dangerous to move as it is.

The same computation as the controller's tells most of it; the rest are traps that only a look at all objects shows.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from glassnet.ingress import classes, differences, regex
from glassnet.ingress.compute import compute
from glassnet.ingress.model import CONTROLLER, OTHER_CONTROLLER, Settings
from glassnet.ingress.options import passthrough
from glassnet.ingress.options.reading import PREFIX
from glassnet.kube import kinds, types
from glassnet.kube.ingress import Ingress
from glassnet.kube.manifest import Manifest
from glassnet.kube.view import Key, View

_SETTINGS = Settings(
    controllers=(CONTROLLER, OTHER_CONTROLLER),
    watch_without_class=True,
    resolvers=("192.0.2.53",),
    modules=(passthrough.MODULE,),
)
_READ = {each.name: each for each in (kinds.INGRESS, kinds.INGRESS_CLASS, kinds.SERVICE, kinds.SECRET, kinds.CONFIG_MAP)}  # fmt: skip
_META = re.compile(r"[\\^$|?*+()\[\]{}]")
_SNIPPET_FLAGS = ("allow-snippet-annotations",)


class Level(IntEnum):
    """How an annotation, or another part of an object, fares."""

    SUPPORTED = 0
    DIFFERS = 1
    REFUSED = 2
    DANGEROUS = 3


class Finding(NamedTuple):
    """One part of an object: `what` is an annotation without its prefix, or a field; `message` says what there is to know."""

    level: Level
    what: str
    message: str = ""


class Entry(NamedTuple):
    """One object of the set; `place` is the file and the line where it begins."""

    kind: str
    key: Key
    place: str
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """The worst of all findings."""
        return max((each.level for each in self.findings), default=Level.SUPPORTED)


def report(manifests: Iterable[Manifest]) -> list[Entry]:
    """Every Ingress, IngressClass and ConfigMap of the controller in the set, in its order. Services and Secrets are looked up."""
    every = [each for each in manifests if each.body.get("kind") in _READ]
    view, odd = View(), dict[int, str]()
    for number, each in enumerate(every):
        try:
            _take(view, each.body)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            odd[number] = str(error)
    _classes(view)
    problems: dict[tuple[str, Key], list[Finding]] = {}
    for problem in compute(view, _SETTINGS).problems:
        if found := _of_problem(problem.reason, problem.message, view, problem.key):
            problems.setdefault((problem.kind, problem.key), []).append(found)
    out = []
    for number, each in enumerate(every):
        kind, key = each.body["kind"], _key(each.body)
        if number in odd:
            findings = [Finding(Level.REFUSED, "", f"it cannot be read: {odd[number]}")]
        elif kind == "Ingress":
            findings = list(_ingress(view, key, problems.get((kind, key), [])))
        elif kind == "IngressClass":
            findings = list(_class(each.body))
        elif kind == "ConfigMap" and _is_controllers(each.body):
            findings = list(_config(each.body))
        else:
            continue
        out.append(
            Entry(kind, key, f"{each.source}:{each.line()}", tuple(sorted(findings, key=lambda one: -one.level)))
        )
    return out


def _key(body: dict[str, Any]) -> Key:
    metadata = body.get("metadata") or {}
    return Key("" if body["kind"] == "IngressClass" else metadata.get("namespace") or "default", str(metadata.get("name", "")))  # fmt: skip


def _take(view: View, body: dict[str, Any]) -> None:
    kind = _READ[body["kind"]]
    if body["kind"] in ("Ingress", "IngressClass") and body.get("apiVersion") != "networking.k8s.io/v1":
        raise ValueError(f"apiVersion {body.get('apiVersion')} is gone since Kubernetes 1.22: convert it (kubectl convert)")  # fmt: skip
    metadata = {**body["metadata"], "namespace": _key(body).namespace}
    view.apply(kind, types.decode(kind, msgspec.json.encode({**body, "metadata": metadata})))


def _classes(view: View) -> None:
    """Classes that the files name but do not have are taken for ours."""
    named = {each.spec.ingress_class_name for each in view.all(kinds.INGRESS)} - {None, ""}
    for name in sorted(str(each) for each in named):
        if view.get(kinds.INGRESS_CLASS, Key("", name)) is None:
            body = {"metadata": {"name": name}, "spec": {"controller": CONTROLLER}}
            view.apply(kinds.INGRESS_CLASS, types.decode(kinds.INGRESS_CLASS, msgspec.json.encode(body)))


def _of_problem(reason: str, message: str, view: View, ingress: Key) -> Finding | None:
    what, _, rest = message.partition(": ")
    what = what.removeprefix(PREFIX)
    if found := re.search(r"there is no (Secret|ConfigMap) (\S+?)[;,]?(?= |$)", message):
        return Finding(Level.SUPPORTED, what, f"needs {found[1]} {found[2]}, which is not among the files")
    if reason == "BackendUnavailable":
        lost = re.search(r"has no TCP port", message)
        return Finding(Level.REFUSED, what, rest) if lost else None
    if reason == "BadCertificate":
        return Finding(Level.SUPPORTED, what, rest)
    if reason == "SnippetRefused":
        return Finding(Level.DANGEROUS, what, rest)
    if reason in ("AnnotationUnknown", "AnnotationUnsupported"):
        what = re.match(r"[\w-]+", what)[0] if re.match(r"[\w-]+", what) else what  # type: ignore[index]
        level = Level.DANGEROUS if "503" in message else Level.REFUSED
        return Finding(level, what, message.removeprefix(PREFIX + what).lstrip(": "))
    level = Level.DIFFERS if reason in ("Conflict", "TooManyWildcards") else Level.REFUSED
    if reason == "AnnotationInvalid" and "503" in message:
        level = Level.DANGEROUS
    return Finding(level, what, rest or message)


def _ingress(view: View, key: Key, problems: list[Finding]) -> Iterator[Finding]:
    ingress = view.get(kinds.INGRESS, key)
    assert isinstance(ingress, Ingress)
    ours, why = classes.why(ingress, view, _SETTINGS)
    if not ours:
        yield Finding(Level.SUPPORTED, "class", f"not served by this controller: {why}")
        return
    yield from problems
    told = {each.what for each in problems}
    for name in sorted(ingress.metadata.annotations):
        short = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and short not in told:
            said = differences.ANNOTATIONS.get(short, "")
            yield Finding(Level.DIFFERS if said else Level.SUPPORTED, short, said)
        elif name.startswith(("nginx.org/", "nginx.com/")):
            yield Finding(Level.REFUSED, name, "an annotation of another controller (F5's): ingress-nginx does not know it either")  # fmt: skip
    yield from _outside(ingress)
    yield from _expressions(view, ingress)


def _outside(ingress: Ingress) -> Iterator[Finding]:
    """Requests, with their cookies, that are sent to a server that is not the cluster's."""
    url = ingress.metadata.annotations.get(PREFIX + "auth-url", "").strip()
    host = (urlsplit(url).netloc.rpartition("@")[2]).partition(":")[0] if "//" in url else ""
    if not host or host.startswith("$") or host.endswith((".svc", ".svc.cluster.local", ".cluster.local")):
        return
    try:
        if ipaddress.ip_address(host).is_private:
            return
    except ValueError:
        if host in {each.host for each in ingress.spec.rules}:
            return
    plain = " in clear text" if url.startswith("http://") else ""
    yield Finding(Level.DANGEROUS, "auth-url", f"every request's headers, cookies and passwords are sent{plain} to {host}, which is not of the cluster")  # fmt: skip


def _wants_regex(ingress: Ingress) -> bool:
    given = ingress.metadata.annotations
    return given.get(PREFIX + "use-regex") == "true" or bool(given.get(PREFIX + "rewrite-target"))


def _expressions(view: View, ingress: Ingress) -> Iterator[Finding]:
    """In ingress-nginx one regular expression makes all paths of its host such, of all Ingresses, without case, the first match wins."""
    hosts = {each.host for each in ingress.spec.rules}
    own = _wants_regex(ingress)
    others = [
        f"{each.metadata.namespace}/{each.metadata.name}" for each in view.all(kinds.INGRESS)
        if each is not ingress and _wants_regex(each) and hosts & {rule.host for rule in each.spec.rules}
    ]  # fmt: skip
    for number, rule in enumerate(ingress.spec.rules):
        for place, path in enumerate(rule.http.paths if rule.http else ()):
            what = f"spec.rules[{number}].http.paths[{place}]"
            if own and path.path_type == "ImplementationSpecific":
                yield from _pattern(what, path.path)
            elif own and _META.search(path.path):
                yield Finding(Level.DANGEROUS, what, f"{path.path!r} is a regular expression in ingress-nginx; here a path of type {path.path_type} is taken as it is, and matches no request of before: give pathType ImplementationSpecific")  # fmt: skip
            elif (own and path.path not in ("", "/")) or ((own or others) and path.path_type == "Exact"):
                because = "its own annotations make" if own else f"Ingress {others[0]} makes"
                yield Finding(Level.DIFFERS, what, f"{path.path!r} is matched as {path.path_type} here; in ingress-nginx {because} all paths of host {rule.host or '*'} regular expressions without case, which match {path.path!r} and what begins with it")  # fmt: skip
            elif others and path.path not in ("", "/"):
                yield Finding(Level.DIFFERS, what, f"{path.path!r} is matched by elements and with case here; in ingress-nginx Ingress {others[0]} makes all paths of host {rule.host or '*'} regular expressions without case")  # fmt: skip


def _pattern(what: str, path: str) -> Iterator[Finding]:
    try:
        regex.check(path or "/")
    except regex.BadRegex:
        return  # the computation tells it
    if path.lower() != path:
        yield Finding(
            Level.DIFFERS, what, f"{path!r} is matched with case here: write [aA] for a letter that may be either"
        )


def _class(body: dict[str, Any]) -> Iterator[Finding]:
    controller = (body.get("spec") or {}).get("controller", "")
    if controller == OTHER_CONTROLLER:
        yield Finding(Level.DIFFERS, "spec.controller", f"serve it with --controller {OTHER_CONTROLLER}, or make a class for {CONTROLLER}")  # fmt: skip
    elif controller != CONTROLLER:
        yield Finding(Level.SUPPORTED, "spec.controller", f"of another controller, {controller}: left alone")
    if (body.get("spec") or {}).get("parameters"):
        yield Finding(Level.DIFFERS, "spec.parameters", "not read")


def _is_controllers(body: dict[str, Any]) -> bool:
    name, data = str(body["metadata"].get("name", "")), body.get("data") or {}
    known = {*differences.CONFIG, *differences.CONFIG_LOCKS, *differences.CONFIG_DEFAULTS, *differences.CONFIG_SNIPPETS}
    named = "nginx" in name and ("controller" in name or "configuration" in name or "services" in name)
    labels = (body["metadata"].get("labels") or {}).get("app.kubernetes.io/name") == "ingress-nginx"
    return bool(named or labels or known & set(data))


def _config(body: dict[str, Any]) -> Iterator[Finding]:
    """The controller's ConfigMap: it is not read here. What is to be done about each key."""
    for key, raw in sorted((body.get("data") or {}).items()):
        text = str(raw).strip()
        if key in differences.CONFIG_SNIPPETS:
            yield Finding(Level.DANGEROUS, key, "text of a user never becomes configuration: what it does is lost")
        elif key in differences.CONFIG_LOCKS and text not in ("", "false"):
            yield Finding(Level.DANGEROUS, key, differences.CONFIG_LOCKS[key])
        elif key in _SNIPPET_FLAGS:
            if text == "true":
                yield Finding(Level.DANGEROUS, key, "Ingresses were allowed snippets: here there are none")
            else:
                yield Finding(Level.SUPPORTED, key, differences.SAME)
        elif key in differences.CONFIG_DEFAULTS:
            default = differences.CONFIG_DEFAULTS[key]
            same = text == default
            yield Finding(Level.SUPPORTED if same else Level.DIFFERS, key, differences.SAME if same else f"{text!r} becomes {default!r}: annotate the Ingresses that need it")  # fmt: skip
        elif key in differences.CONFIG:
            said = differences.CONFIG[key]
            yield Finding(Level.SUPPORTED if said == differences.SAME else Level.DIFFERS, key, said)
        elif key.isdigit():
            yield Finding(Level.REFUSED, key, f"TCP and UDP Services are not passed on: give {text.split(':')[0]} a Service of type LoadBalancer")  # fmt: skip
        else:
            yield Finding(Level.REFUSED, key, "not read here")
