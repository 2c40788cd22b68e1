"""The commands where, drift and diff: what they print, and the status they end with."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.tracer_worlds import capture_files, capture_path


def run(name: str, *words: str) -> Result:
    return CliRunner().invoke(importlib.import_module(f"glassnet.cli.{name}").command, words)


@pytest.fixture
def altered(tmp_path: Path) -> str:
    """A directory with the dumps of a capture, one rule altered."""
    for path, data in capture_files("hardway-iptables").items():
        if "/pods/" not in path and "nft-ruleset" not in path:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(data)
    rules = tmp_path / "worker-1" / "iptables-save.txt"
    good = '"demo/web:http cluster IP" -m tcp --dport 80 -j'
    rules.write_text(rules.read_text().replace(good, good.replace("80", "81"), 1))
    return str(tmp_path)


def test_where_as_text_and_as_json() -> None:
    path = capture_path("hardway-iptables")
    text = run("where", "svc/web:http", "-n", "demo", "--snapshot", path)
    assert text.exit_code == 0, text.output
    assert "KUBE-SVC-XRY76EGRC3BSCIIJ (all endpoints)" in text.output
    assert "because of Service demo/web spec.clusterIP: 10.32.0.20" in text.output
    assert "connections (--connections lists them)" in text.output
    found = json.loads(run("where", "svc/web:http", "-n", "demo", "--snapshot", path, "-o", "json").output)
    assert {each["machine"] for each in found} == {"worker-0", "worker-1", "worker-2"}


def test_drift_ends_with_one_when_something_differs(altered: str) -> None:
    same = run("drift", "--snapshot", capture_path("hardway-nftables"))
    assert (same.exit_code, same.output) == (
        0, "no difference: 6 sets of rules on 3 nodes are what the API asks for\n",
    )  # fmt: skip
    other = run("drift", "--snapshot", altered)
    assert other.exit_code == 1
    assert "~ worker-1: changed in nat KUBE-SERVICES" in other.output
    (found,) = json.loads(run("drift", "--snapshot", altered, "-o", "json").output)["deviations"]
    assert (found["kind"], found["subject"]) == ("changed", "Service demo/web spec.ports[http]")


def test_diff_with_a_flow(altered: str) -> None:
    path = capture_path("hardway-iptables")
    found = run("diff", path, altered, "--flow", "worker-1 svc/demo/web:http")
    assert found.exit_code == 1
    assert "the ways part at" in found.output
    assert "because of Service demo/web spec.clusterIP" in found.output
    same = run("diff", path, path)
    assert (same.exit_code, same.output) == (0, "no difference\n")
    body = json.loads(run("diff", path, altered, "--flow", "worker-1 svc/demo/web:http", "-o", "json").output)
    assert body["flow"]["before"] == {"ok": 1.0}
    assert body["flow"]["same"] is False
