"""`glassnet doctor`, and the doctor before dumps that are not whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.doctor_worlds import IPTABLES, NFTABLES, Files, append, findings, healthy, objects, remove
from tests.tracer_worlds import capture_path

from glassnet.cli.doctor import command
from glassnet.tracer.doctor import CHECKS


def test_findings_by_severity() -> None:
    result = CliRunner().invoke(command, ["--snapshot", capture_path(NFTABLES)])
    assert result.exit_code == 1
    lines = result.output.split("\n")
    assert lines[0].startswith("warning  packets of neighbor to 198.51.100.11 go to worker-0")
    assert lines[1] == "         local-policy: Service demo/edge-lb-local"
    assert "       > bridge link set dev vethec968df4 hairpin on" in lines
    assert f"Found: 3 warning, 1 info; {len(CHECKS)} checks on 3 nodes." in lines


def test_findings_as_json() -> None:
    result = CliRunner().invoke(command, ["--snapshot", capture_path(IPTABLES), "-o", "json"])
    body = json.loads(result.output)
    assert result.exit_code == 1 and body["checks"] == list(CHECKS) and body["notes"] == []
    assert [each["pain"] for each in body["findings"]] == ["local-policy", "hairpin", "hairpin", "hairpin"]
    assert set(body["findings"][0]) == {"pain", "severity", "object", "node", "title", "evidence", "remedy"}


def _written(files: Files, place: Path) -> str:
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return str(place)


def test_nothing_found(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--snapshot", _written(healthy(IPTABLES), tmp_path)])
    assert result.exit_code == 0
    assert result.output == f"Nothing found: {len(CHECKS)} checks on 3 nodes.\n"


def test_infos_do_not_fail_and_what_is_missing_is_said(tmp_path: Path) -> None:
    files = dict(healthy(IPTABLES))
    files["worker-0/conntrack-stats.txt"] = b"cpu=0 found=0 insert_failed=4 drop=0 early_drop=0\n"
    del files["worker-1/sysctl-net.txt"]
    result = CliRunner().invoke(command, ["--snapshot", _written(files, tmp_path)])
    assert result.exit_code == 0 and "Found: 1 info" in result.output
    assert "not known: worker-1: no dump of its sysctls" in result.output + (
        result.stderr if result.stderr_bytes else ""
    )


FILES = (
    "bridge-fdb.json", "bridge-link.json", "conntrack.txt", "ip-addr.json", "ip-link.json", "ip-neigh.json", "ip-route.json", "ip-rule.json",
    "iptables-save.txt", "nft-ruleset.json", "ss-listen.txt", "sysctl-net.txt",
)  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_no_missing_file_makes_a_finding(file: str) -> None:
    """Less is known then, and nothing is made up."""
    assert findings(IPTABLES, remove(f"worker-0/{file}")) == []
    assert findings(NFTABLES, remove(f"worker-0/{file}")) == []
    if f"hosts/router/{file}" in healthy(IPTABLES):
        assert findings(IPTABLES, remove(f"hosts/router/{file}")) == []


@pytest.mark.parametrize("kind", ["services", "endpointslices", "nodes", "pods", "servicecidrs"])
def test_no_missing_object_makes_a_finding(kind: str) -> None:
    assert findings(IPTABLES, objects(kind, lambda each: False)) == []


def test_a_whole_machine_may_be_missing() -> None:
    for folder in ("worker-0/", "hosts/router/", "hosts/client/", "hosts/"):

        def gone(files: Files, folder: str = folder) -> None:
            for path in [path for path in files if path.startswith(folder)]:
                del files[path]

        assert findings(NFTABLES, gone) == [], folder


def test_a_dump_cut_off() -> None:
    assert findings(IPTABLES, append("worker-0/conntrack.txt", "ipv4     2 udp      17 25 src=10.200.0.4 ds")) == []
