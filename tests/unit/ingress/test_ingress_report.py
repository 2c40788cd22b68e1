"""`glassnet ingress report` over a directory of manifests as users of ingress-nginx have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from glassnet.cli.ingress_report import command
from glassnet.ingress import differences
from glassnet.ingress.options.refused import LOCKS, SNIPPETS, UNSUPPORTED_NAMES
from glassnet.ingress.report import Level, report
from glassnet.kube.manifest import parse
from glassnet.net.errors import GlassnetError

DATA = Path(__file__).parents[2] / "data"
_INGRESS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: one
  annotations: {annotations}
spec:
  rules: [{{host: one.example, http: {{paths: [{{path: {path}, pathType: {kind}, backend: {{service: {{name: a, port: {{number: 80}}}}}}}}]}}}}]
"""


def _one(annotations: dict[str, str], path: str = "/", kind: str = "Prefix") -> list[tuple[Level, str]]:
    given = json.dumps({f"nginx.ingress.kubernetes.io/{name}": text for name, text in annotations.items()})
    [entry] = report(parse(_INGRESS.format(annotations=given, path=json.dumps(path), kind=kind), "one.yaml"))
    return [(each.level, each.what) for each in entry.findings]


def test_the_report_on_a_directory_is_as_it_was_reviewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA)
    done = CliRunner().invoke(command, ["-f", "ingress-nginx", "-o", "json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) == json.loads((DATA / "ingress-nginx-report.json").read_text())


def test_the_report_as_text_names_each_object_and_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA)
    done = CliRunner().invoke(command, ["-f", "ingress-nginx"])
    assert "dangerous  Ingress platform/admin  ingress-nginx/admin.yaml:1\n" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("of 12 objects")
    assert "proxy-body-size  8m" not in done.stdout


def test_the_status_is_0_without_anything_refused_or_dangerous() -> None:
    text = _INGRESS.format(annotations="{nginx.ingress.kubernetes.io/limit-rps: '5'}", path="/", kind="Prefix")
    done = CliRunner().invoke(command, ["-f", "-"], text)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "1 differs of 1 objects")
    empty = CliRunner().invoke(command, ["-f", "-"], "")
    assert (empty.exit_code, empty.stdout) == (0, "no Ingress, IngressClass or ConfigMap of ingress-nginx in these files\n")  # fmt: skip


def test_files_that_cannot_be_read_are_errors_with_their_place() -> None:
    done = CliRunner().invoke(command, ["-f", "-"], "kind: Ingress\nmetadata: [")
    assert isinstance(done.exception, GlassnetError)
    assert ":3" in str(done.exception) or ":2" in str(done.exception)


@pytest.mark.parametrize(
    ("annotations", "level", "what"),
    [
        ({"proxy-body-size": "8m"}, Level.SUPPORTED, "proxy-body-size"),
        ({"limit-rps": "5"}, Level.DIFFERS, "limit-rps"),
        ({"proxy-body-size": "much"}, Level.REFUSED, "proxy-body-size"),
        ({"mirror-target": "http://a"}, Level.REFUSED, "mirror-target"),
        ({"configuration-snippet": "gzip on;"}, Level.DANGEROUS, "configuration-snippet"),
        ({"whitelist-source-range": "office"}, Level.DANGEROUS, "whitelist-source-range"),
        ({"auth-url": "https://login.example/check"}, Level.DANGEROUS, "auth-url"),
        ({"auth-url": "http://auth.default.svc.cluster.local/check"}, Level.DIFFERS, "auth-url"),
        ({"auth-url": "http://10.0.0.1/check"}, Level.DIFFERS, "auth-url"),
        ({"auth-url": "https://$host/check"}, Level.DIFFERS, "auth-url"),
        ({"auth-type": "basic", "auth-secret": "users"}, Level.SUPPORTED, "auth-secret"),
    ],
)  # fmt: skip
def test_levels_of_annotations(annotations: dict[str, str], level: Level, what: str) -> None:
    assert (level, what) in _one(annotations)
    assert max(each for each, _ in _one(annotations)) == level


def test_an_expression_in_a_literal_path_is_dangerous() -> None:
    assert _one({"rewrite-target": "/$1"}, "/old/(.*)")[0] == (Level.DANGEROUS, "spec.rules[0].http.paths[0]")
    assert _one({"rewrite-target": "/$1"}, "/old/(.*)", "ImplementationSpecific") == [(Level.DIFFERS, "rewrite-target")]


def test_differences_are_those_of_annotations_that_are_carried_out() -> None:
    assert not set(differences.ANNOTATIONS) & {*UNSUPPORTED_NAMES, *LOCKS, *SNIPPETS}
