"""Profiles' files: those that come with glassnet, copies of them, and everything that can be wrong with one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.cli.main import root
from glassnet.lab.profiles import catalog
from glassnet.lab.profiles.layout import topology
from glassnet.lab.profiles.ranges import settle
from glassnet.lab.profiles.reading import read
from glassnet.lab.settings import Settings
from glassnet.net.errors import GlassnetError, ParseError, UsageError

NAMES = catalog.names()
GOOD = catalog.text_of("aks-kubenet")[0]
MINE = """\
name: mine
text: a small one
networks: {nodes: 10.1.0.0/24, pods: 10.2.0.0/16, services: 10.3.0.0/24}
controllers: {firstHost: 10}
cni: {conf: bridge}
"""


def faults(text: str) -> str:
    with pytest.raises(ParseError) as caught:
        read(text, "my.yaml")
    return str(caught.value)


def test_hardway_comes_first_and_every_file_has_its_name() -> None:
    assert NAMES == ["hardway", "aks-azure-cni", "aks-kubenet", "aws-vpc-cni", "gke"]
    assert [catalog.load(name).name for name in NAMES] == NAMES


def test_a_copy_is_a_profile_by_its_path(tmp_path: Path) -> None:
    place = tmp_path / "my.yaml"
    place.write_text(MINE)
    lab = topology(Settings(profile=str(place)), catalog.load(str(place)))
    workers = lab.of_role("worker")
    assert [(m.name, m.address, m.pod_cidr) for m in workers] == [
        ("worker-0", "10.1.0.20", "10.2.0.0/24"),
        ("worker-1", "10.1.0.21", "10.2.1.0/24"),
        ("worker-2", "10.1.0.22", "10.2.2.0/24"),
    ]
    assert [(m.name, m.address) for m in lab.of_role("controller")] == [("control-plane", "10.1.0.10")]
    assert '"type": "bridge"' in workers[0].files["/etc/cni/net.d/10-bridge.conflist"]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("nodes: 10.1.0.0/24", "nodes: 10.1.0.7/24", 3, "networks.nodes: 10.1.0.7/24 has host bits set"),
        ("nodes: 10.1.0.0/24", "nodes: fd00::/64", 3, "networks.nodes: fd00::/64 is not of IPv4"),
        ("nodes: 10.1.0.0/24", "nodes: 10.2.0.0/24", 3, "overlaps networks.nodes"),
        ("nodes: 10.1.0.0/24", "nodes: 192.0.2.0/25", 3, "overlaps the network of the host `internet`"),
        ("nodes: 10.1.0.0/24", "nodes: 5", 3, "networks.nodes: expected `str`"),
        ("nodes: 10.1.0.0/24", "nods: 10.1.0.0/24", 3, "did you mean 'nodes'?"),
        ("pods: 10.2.0.0/16", "pods: 10.2.0.0/25", 3, "no range of length /24 for each node"),
        ("pods: 10.2.0.0/16, ", "", 5, "bridge needs networks.pods"),
        ("services: 10.3.0.0/24", "services: 10.3.0.0/29", 3, "at least a /28"),
        ("services: 10.3.0.0/24", "services: 10.3.0.0/24, dns: 10.4.0.10", 3, "10.4.0.10 is not among the Services' addresses"),
        ("services: 10.3.0.0/24", "services: 10.3.0.0/24, dns: 10.3.0.1", 3, "of which the first is the API's"),
        ("services: 10.3.0.0/24", "services: 10.3.0.0/24, dns: me", 3, "networks.dns"),
        ("services: 10.3.0.0/24", "services: 10.3.0.0/24, ipFamily: ipv5", 3, "'ipv5' is not among ipv4, dual"),
        ("services: 10.3.0.0/24", "services: 10.3.0.0/24, ipv6: {services: 'fd00::/64'}", 3, "wider than a /108"),
        ("conf: bridge", "conf: calico", 5, "'calico' is not among glassnet, kubenet"),
        ("conf: bridge", "conf: bridge, mtu: 500", 5, "cni.mtu: 500"),
        ("conf: bridge", "conf: bridge, nodes: {worker-1: moon}", 5, "'moon' is not among"),
        ("conf: bridge", "conf: aws-vpc-cni", 5, "aws-vpc-cni goes without networks.pods"),
        ("conf: bridge", "conf: bridge, nonMasquerade: [x]", 5, "cni.nonMasquerade[0]"),
        ("firstHost: 10", "firstHost: 1", 4, "1 is not between 2 and"),
        ("firstHost: 10", "firstHost: 10, name: A_B", 4, "is no host name"),
        ("firstHost: 10", "firstHost: 10, name: 'x-{moon}'", 4, "{moon} is not among {number}, {address}, {tag}"),
        ("firstHost: 10", "firstHost: 10, name: 'x-{number.real}'", 4, "is not among"),
        ("firstHost: 10", "firstHost: 10, name: 'x-{'", 4, "controllers.name"),
        ("firstHost: 10", "firstHost: 10, count: 2", 4, "put {number} into it"),
        ("firstHost: 10", "firstHost: 10, name: internet", 4, "another machine of the lab"),
        ("name: mine", "name: My Lab", 1, "want 1 to 40 lower-case"),
        ("text: a small one", "text: ''", 2, "say in one line"),
        ("text: a small one", "name: twice", 2, "key 'name' is there twice"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nvpc: {link: tube}", 6, "'tube' is not among shared, routed, host"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nvpc: {hardwarePrefix: '01:00'}", 6, "no group address"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nvpc: {gatewayHardware: x}", 6, "want six bytes"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nvpc: {routeTable: {name: a b}}", 6, "is no name of a table"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nnode: {docker: {bridge: eth0}}", 6, "no name for a bridge"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nnode: {docker: {bridge: docker0, network: 10.2.9.1/24}}", 6, "overlaps networks.pods"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nnode: {docker: {bridge: docker0, network: 'fd00::1/64'}}", 6, "want an address such as 172.17.0.1/16"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nnode: {masquerade: {agent: moon}}", 6, "'moon' is not among ip-masq-agent"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nnode: {routes: ['fd00::1']}", 6, "want IPv4"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nnode: {sysctls: {kernel.panic: 1}}", 6, "not of a network namespace"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nproxy: {mode: ipvs}", 6, "'ipvs' is not among iptables, nftables, none"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nloadBalancer: {addresses: [10.3.0.0/28]}", 6, "overlaps networks.services"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nworkers: {labels: {'a b': c}}", 6, "is no label"),
        ("cni: {conf: bridge}", "cni: {conf: bridge}\nworkers: {count: many}", 6, "workers.count: expected `int`"),
        ("cni: {conf: bridge}", "cni: [", 6, "my.yaml:6"),
    ],
)  # fmt: skip
def test_each_fault_is_told_with_its_line(old: str, new: str, line: int, says: str) -> None:
    assert old in MINE
    told = faults(MINE.replace(old, new))
    assert says in told
    assert told.startswith(f"my.yaml:{line}") or f"line {line}: " in told, told


def test_several_faults_are_told_at_once() -> None:
    told = faults("name: X\ntext: t\nnetworks: {nodes: x, pods: y, services: z}\ncni: {conf: w}\n")
    assert [int(number) for number in re.findall(r"^  line (\d+):", told, re.M)] == [1, 3, 3, 3, 4]


@pytest.mark.parametrize("text", ["", "# nothing\n", "[]", "a", "a: 1\n---\nb: 2\n"])
def test_what_is_no_profile_at_all(text: str) -> None:
    assert "my.yaml" in faults(text)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, 40), st.text("{}[]:,'\"\n ax10./#&*!|", max_size=6))
def test_damaged_files_are_refused_or_read_and_nothing_else(place: int, length: int, text: str) -> None:
    try:
        profile = read(GOOD[:place] + text + GOOD[place + length :], "my.yaml")
        topology(Settings(ip_family="dual"), profile)
    except GlassnetError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("gk", "did you mean gke?"),
        ("moon", "There are hardway, aks-azure-cni"),
        ("./nowhere.yaml", "No such file"),
        ("/", "Is a directory"),
    ],
)
def test_a_profile_that_is_not_there(word: str, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        catalog.load(word)


def test_options_come_before_the_profile() -> None:
    profile = catalog.load("gke")
    mine = Settings(workers=5, proxy="nftables", service_cidr="10.9.0.0/24", iptables_layout="classic")
    got = settle(mine, profile)
    assert (got.workers, got.proxy, got.service_cidr, got.iptables_layout) == (5, "nftables", "10.9.0.0/24", "classic")
    assert (got.node_cidr, got.pod_cidr, got.cni, got.routes) == ("10.128.0.0/20", "10.4.0.0/14", "gke", "vpc")
    assert settle(Settings(), catalog.load("aks-kubenet")).iptables_layout == "classic"
    assert topology(mine, profile).dns_ip == "10.9.0.10"  # the profile's own is not in this range
    assert topology(Settings(), profile).dns_ip == "10.8.0.10"


@pytest.mark.parametrize(
    ("profile", "options", "says"),
    [
        ("aks-azure-cni", {"pod_cidr": "10.7.0.0/16"}, "--pod-cidr 10.7.0.0/16: pods of aks-azure-cni are on the nodes' network"),
        ("gke", {"cni": "azure-cni"}, "--cni azure-cni does not go with --profile gke"),
        ("aks-azure-cni", {"cni": "bridge"}, "--cni bridge does not go with --profile aks-azure-cni"),
        ("gke", {"cni": "calico"}, "--cni calico: want one of glassnet"),
        ("aks-azure-cni", {"workers": 247}, "aks-azure-cni has room for 246 workers, then come the controllers"),
        ("aws-vpc-cni", {"workers": 260, "public_cidr": "198.18.0.0/16"}, "--nodes 260 does not fit into --node-cidr 192.168.0.0/19"),
        ("aks-kubenet", {"node_cidr": "10.240.0.0/24"}, "--node-cidr 10.240.0.0/24"),
        ("gke", {"pod_cidr": "10.128.0.0/16"}, "--node-cidr 10.128.0.0/20 and --pod-cidr 10.128.0.0/16 overlap"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_with_a_profile(profile: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        topology(Settings(profile=profile, **options), catalog.load(profile))  # type: ignore[arg-type]


def test_a_node_of_its_own_network(tmp_path: Path) -> None:
    text = MINE.replace("conf: bridge", "conf: bridge, nodes: {worker-1: ptp}")
    workers = topology(Settings(), read(text, "my.yaml")).of_role("worker")
    kinds = [next(path.rsplit("/", 1)[1] for path in m.files if "/cni/" in path) for m in workers]
    assert kinds == ["10-bridge.conflist", "10-ptp.conflist", "10-bridge.conflist"]
    with pytest.raises(UsageError, match=r"cni\.nodes has worker-9"):
        topology(Settings(), read(text.replace("worker-1", "worker-9"), "my.yaml"))


def test_profiles_on_the_command_line(tmp_path: Path) -> None:
    run = CliRunner().invoke
    listed = run(root, ["profiles"]).output
    assert all(f"{name}  {catalog.load(name).text}" in listed for name in NAMES)
    facts = json.loads(run(root, ["profiles", "-o", "json"]).output)
    assert [one["name"] for one in facts] == NAMES
    assert facts[2]["podNetwork"] == "10.244.0.0/16" and facts[2]["iptablesLayout"] == "classic"
    assert run(root, ["profiles", "show", "gke"]).output == catalog.text_of("gke")[0]
    assert json.loads(run(root, ["profiles", "show", "gke", "-o", "json"]).output)["workers"]["step"] == 1
    (tmp_path / "bad.yaml").write_text("name: x\n")
    refused = run(root, ["profiles", "show", str(tmp_path / "bad.yaml")])
    assert isinstance(refused.exception, ParseError) and "text: say in one line" in str(refused.exception)
