"""The commands that look at a network, on dumps of a real cluster: what they say, their exit status, and bad input."""

from __future__ import annotations

import io
import json
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.tracer_worlds import CAPTURES, capture, capture_files, capture_path, number

from glassnet.cli.main import root
from glassnet.net.errors import GlassnetError
from glassnet.proxy.naming import Recipe
from glassnet.tracer.objects import Objects, service_addresses
from glassnet.tracer.packet import PROTOCOLS
from glassnet.tracer.reach import cell_of, reach
from glassnet.tracer.snapshot import kind_of, read_world
from glassnet.tracer.trace import Request

IPTABLES, LEGACY, NFTABLES = map(capture_path, CAPTURES)


def run(*words: str, snapshot: str = IPTABLES) -> Result:
    return CliRunner().invoke(root, [words[0], "--snapshot", snapshot, *words[1:]] if snapshot else list(words))


def report(*words: str, snapshot: str = IPTABLES) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*words, "-o", "json", snapshot=snapshot).stdout)
    return found


@pytest.mark.parametrize("snapshot", [IPTABLES, LEGACY, NFTABLES], ids=CAPTURES)
def test_a_pod_to_a_service(snapshot: str) -> None:
    result = run("trace", "probe-m7rpp", "svc/web:http", "-n", "demo", snapshot=snapshot)
    assert result.exit_code == 0
    assert "delivered, and answered (4 possible ends)" in result.stdout
    assert "because Service demo/web spec.clusterIP: 10.32.0.20" in result.stdout
    assert "because EndpointSlice demo/web-" in result.stdout
    assert "because Node worker-1 spec.podCIDR: 10.200.1.0/24" in result.stdout
    found = report("trace", "probe-m7rpp", "svc/web:http", "-n", "demo", snapshot=snapshot)
    assert {way["end"]["node"] for way in found["ways"]} == {"worker-0", "worker-1", "worker-2"}
    assert sum(way["share"] for way in found["ways"]) == pytest.approx(1)
    assert all(way["answer"]["end"]["machine"] == "demo/probe-m7rpp" for way in found["ways"])
    assert all(way["connections"]["worker-0"] for way in found["ways"])


def test_every_rule_has_its_file_and_line() -> None:
    found = report("trace", "worker-0", "svc/demo/web:http")
    rules = [step["rule"] for way in found["ways"] for step in way["steps"] if "rule" in step]
    assert rules
    for rule in rules:
        line = capture_files(CAPTURES[0])[rule["file"]].decode().splitlines()[rule["line"] - 1]
        assert line == rule["text"]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["internet", "svc/demo/edge-lb-local:http"], 0, "delivered"),
        (["worker-0", "svc/demo/nobody:http"], 1, "no endpoint is ready"),
        (["internet", "worker-0:30084"], 1, "externalTrafficPolicy: Local"),
        (["demo/web-546b777687-28bt4", "svc/demo/web:http"], 1, "hairpin mode is off"),
        (["demo/probe-ppv2m", "198.51.100.14:80"], 1, "goes round between"),
        (["demo/probe-m7rpp", "198.51.100.14:80"], 1, "martian source 10.240.0.20"),
        (["demo/probe-m7rpp", "10.32.0.250:80"], 1, "no route"),
        (["demo/probe-m7rpp", "10.200.1.7", "--proto", "icmp"], 0, "delivered"),
        (["203.0.113.77", "worker-1:30080"], 0, "delivered"),
        (["198.18.0.9", "worker-1:30080"], 1, "router has no route to 198.18.0.9"),
        (["demo/probe-m7rpp", "worker-0:9"], 1, "nothing listens on tcp port 9"),
        (["demo/probe-m7rpp", "svc/demo/web:http", "--size", "9000"], 1, "do not fit"),
    ],
)
def test_ends_and_exit_status(words: list[str], status: int, says: str) -> None:
    result = run("trace", *words)
    assert result.exit_code == status, result.stdout
    assert says in result.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["probe", "svc/demo/web:http"], "close to it: probe-"),
        (["demo/probe-m7rpp", "svc/demo/web"], "several ports: http (TCP 80), echo (UDP 5300)"),
        (["demo/probe-m7rpp", "svc/demo/web:nope"], "no port 'nope'"),
        (["demo/probe-m7rpp", "svc/demo/wbe:http"], "close to it: web"),
        (["demo/probe-m7rpp", "10.32.0.20"], "which port?"),
        (["demo/probe-m7rpp", "worker-0:99999"], "is no port"),
        (["nowhere", "worker-0:80"], "nothing in the snapshot is named 'nowhere'"),
        (["198.18.0.9", "svc/demo/web:http", "--via", "nowhere"], "nothing in the snapshot"),
        (["internet", "worker-1:30080", "--via", "worker-0"], "its own routes decide"),
    ],
)
def test_names_that_cannot_be_resolved(words: list[str], says: str) -> None:
    result = run("trace", *words)
    assert isinstance(result.exception, GlassnetError) and says in str(result.exception)


def test_a_name_in_two_namespaces_lists_both() -> None:
    files = dict(capture_files(CAPTURES[0]))
    cluster = json.loads(files["cluster.json"])
    other = json.loads(json.dumps(next(s for s in cluster["services"] if s["metadata"]["name"] == "web")))
    other["metadata"]["namespace"] = "kube-system"
    cluster["services"].append(other)
    files["cluster.json"] = json.dumps(cluster).encode()
    world = read_world(files)
    from glassnet.tracer.names import Names

    with pytest.raises(GlassnetError, match="svc/demo/web, svc/kube-system/web"):
        Names(world, Objects(world.objects)).target("svc/web:http")


def test_the_picture_is_a_picture() -> None:
    document = ET.fromstring(run("trace", "demo/probe-m7rpp", "svc/demo/web:http", "-o", "svg").stdout)
    assert document.tag.endswith("svg")
    text = " ".join("".join(each.itertext()) for each in document.iter() if each.tag.endswith("text"))
    assert "worker-1" in text and "→ 10.200.1.7:8080" in text and "delivered, and answered" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("KUBE-SVC-XRY76EGRC3BSCIIJ", "all endpoints of Service port demo/web:http"),
        ("KUBE-SEP-URAZYZNX2VG3PP43", "Pod demo/web-546b777687-k9v49"),
        ("KUBE-MARK-MASQ", "kube-proxy"),
        ("CNI-596e9243a527f3fe702952df", "Pod demo/probe-m7rpp"),
        ("10.32.0.20:80", "spec.clusterIP of Service demo/web:http"),
        ("10.200.0.6", "Pod demo/web-546b777687-k9v49"),
        ("10.240.0.20:30093", "node port of Service demo/drain:http"),
        ("10.32.0.99", "no Service has this address"),
        ("-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000", "rule 1"),
    ],
)
def test_explain(words: str, says: str) -> None:
    result = run("explain", "--", words)
    assert result.exit_code == 0 and says in result.stdout


def test_explain_knows_names_of_older_kube_proxies(tmp_path: Path) -> None:
    """A port without a name kept its colon in old releases: the hash of `demo/api:` is another one than that of `demo/api`."""
    files = dict(capture_files(CAPTURES[0]))
    cluster = json.loads(files["cluster.json"])
    del next(s for s in cluster["services"] if s["metadata"]["name"] == "api")["spec"]["ports"][0]["name"]
    place = archive(tmp_path, files | {"cluster.json": json.dumps(cluster).encode()})
    old, new = (Recipe(colon_without_port_name=era).service("KUBE-SVC", "demo/api", "TCP") for era in (True, False))
    assert old != new
    for name in (old, new):
        assert "all endpoints of Service port demo/api" in run("explain", name, snapshot=place).stdout


@pytest.mark.parametrize("words", ["FOO", "10.99.0.1", "KUBE-SVC-AAAAAAAAAAAAAAAA", "?"])
def test_explain_what_is_nobodys(words: str) -> None:
    result = run("explain", words)
    assert "no longer exists" in result.stdout or isinstance(result.exception, GlassnetError)


def test_conntrack_commands() -> None:
    assert (
        "1,092 connections a second"
        in run("conntrack", "plan", "--max", "131072", "--timeout", "120", snapshot="").stdout
    )
    checked = CliRunner().invoke(root, ["conntrack", "check", "--snapshot", IPTABLES])
    assert checked.exit_code == 0 and "worker-1: 2 clash, 4 hairpin, 1216 healthy, 87 unreplied" in checked.stdout
    listed = CliRunner().invoke(
        root, ["conntrack", "list", "--snapshot", IPTABLES, "--service", "demo/web", "-o", "json"]
    )
    rows = json.loads(listed.stdout)
    assert rows and {row["service"].partition(":")[0] for row in rows} == {"demo/web"}
    top = CliRunner().invoke(root, ["conntrack", "top", "--snapshot", IPTABLES, "--by", "node", "-c", "3"])
    assert "worker-0" in top.stdout


def test_an_existing_connection_is_met() -> None:
    """A packet of a dumped connection takes the endpoint it has, whatever new ones would get."""
    line = next(
        text for text in capture_files(CAPTURES[0])["worker-0/conntrack.txt"].decode().splitlines()
        if "TIME_WAIT src=10.200.0.4 dst=10.32.0.20 " in text
    )  # fmt: skip
    words = dict(word.split("=") for word in line.split()[:9] if "=" in word)
    server = line.split("src=")[2].split()[0]
    found = report("trace", "demo/probe-m7rpp", "svc/demo/web:http", "--sport", words["sport"], "--existing")
    assert {way["end"]["packet"].partition(" > ")[2].partition(":")[0] for way in found["ways"]} == {server}


@pytest.mark.parametrize("name", CAPTURES)
def test_reach_takes_no_short_cut_that_changes_an_answer(name: str) -> None:
    """What reach infers from pods and Services that are alike equals the trace of every single pair."""
    world, tracer = capture(name)
    objects = Objects(world.objects)
    pods = world.of_kind("pod")
    ports = [p for p in objects.ports if any(where == "spec.clusterIP" for _, where in service_addresses(p.service))]
    matrix = reach(world, objects, tracer, pods, ports)
    for pod, line in zip(pods, matrix.cells, strict=True):
        for port, cell in zip(ports, line, strict=True):
            text = next(text for text, where in service_addresses(port.service) if where == "spec.clusterIP")
            whole = tracer.trace(Request(pod.name, 32, PROTOCOLS[port.protocol.lower()], number(text), port.port))
            wanted = cell_of(whole)
            assert (cell.result, dict(cell.shares)) == (wanted.result, pytest.approx(dict(wanted.shares))), (
                pod.name,
                port.text,
            )


def test_reach_command() -> None:
    result = CliRunner().invoke(
        root, ["reach", "--snapshot", NFTABLES, "--from", "demo/probe-m7rpp", "--to", "demo/web"]
    )
    assert result.exit_code == 0 and "1 pods x 2 Service ports: ● ok 2" in result.stdout
    drawn = CliRunner().invoke(root, ["reach", "--snapshot", NFTABLES, "--to", "demo", "-o", "svg"])
    assert ET.fromstring(drawn.stdout).tag.endswith("svg")


# -- snapshots that are not whole


def archive(tmp_path: Path, files: dict[str, bytes]) -> str:
    place = tmp_path / "dump.tar.gz"
    with tarfile.open(place, "w:gz") as out:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))
    return str(place)


def test_a_plain_directory_of_a_few_dumps(tmp_path: Path) -> None:
    files = capture_files(CAPTURES[0])
    for name in ("iptables-save.txt", "ip-addr.json", "ip-route.json"):
        (tmp_path / name).write_bytes(files[f"worker-0/{name}"])
    result = run("trace", "10.200.0.4", "10.32.0.20:80", "--rules", snapshot=str(tmp_path))
    assert "no dump of its sysctls" in result.stdout
    assert "KUBE-SVC-XRY76EGRC3BSCIIJ" in result.stdout and "jump" in result.stdout


def test_a_truncated_listing_taints_its_node(tmp_path: Path) -> None:
    files = dict(capture_files(CAPTURES[0]))
    files["worker-0/iptables-save.txt"] = files["worker-0/iptables-save.txt"][:20_000]
    for name in ("worker-0/nft-ruleset.json", "worker-0/nft-ruleset.nft"):
        del files[name]
    result = run("trace", "demo/probe-m7rpp", "svc/demo/web:http", snapshot=archive(tmp_path, files))
    assert result.exit_code == 3
    assert "worker-0/iptables-save.txt:" in result.stdout and "cut off" in result.stdout


def test_dumps_of_different_times_are_told() -> None:
    files = dict(capture_files(CAPTURES[0]))
    name = "worker-1/iptables-save.txt"
    files[name] = files[name].replace(b" 2026", b" 2025")
    (note,) = read_world(files).notes
    assert note.startswith(f"the dumps are of different times: {name} of 2025-11-20")


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [7]}},
        {"kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [{"port": "many"}]}},
        {"kind": "EndpointSlice", "metadata": {"name": "x"}, "endpoints": "none"},
        {"kind": "Pod", "metadata": {"name": "x"}, "status": []},
        {"kind": "Node", "metadata": {"name": 4}},
    ],
)
def test_objects_that_are_none_are_left_out_and_named(broken: dict[str, Any]) -> None:
    files = dict(capture_files(CAPTURES[0])) | {"more.json": json.dumps({"items": [broken]}).encode()}
    (note,) = read_world(files).notes
    assert note.startswith(f"more.json: {broken['kind']} ")


def test_missing_nodes_are_named(tmp_path: Path) -> None:
    files = {name: data for name, data in capture_files(CAPTURES[0]).items() if not name.startswith("worker-2/")}
    result = run("trace", "demo/probe-m7rpp", "svc/demo/web:http", snapshot=archive(tmp_path, files))
    assert "node worker-2 is in the API objects, but nobody dumped it" in result.stdout


@pytest.mark.parametrize("junk", [b"", b"\0\1\2\3" * 100, b"{", b"not a dump"])
def test_junk_in_every_file(junk: bytes) -> None:
    """Each broken file becomes a note with its name; nothing else is lost, and nothing is raised."""
    whole = capture_files(CAPTURES[2])
    for name in [n for n in whole if n.startswith("worker-0/") and n.count("/") == 1]:
        files = dict(whole) | {name: junk}
        world = read_world(files)
        if junk and kind_of(name.rpartition("/")[2]) in ("iptables", "addr", "route", "listen"):
            assert any(name in note for note in world.notes), name


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b\x08\x00broken"])
def test_a_file_that_is_no_snapshot(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "x.tar.gz"
    place.write_bytes(content)
    result = run("trace", "a", "b:1", snapshot=str(place))
    assert isinstance(result.exception, GlassnetError)


def test_a_missing_file() -> None:
    result = run("trace", "a", "b:1", snapshot="/nonexistent.tar.gz")
    assert isinstance(result.exception, GlassnetError) and "no such file" in str(result.exception)
