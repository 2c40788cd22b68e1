"""docs/install.md word for word: every command of it, on labs whose nodes have nothing of the lab's own network.

`$` commands run where a copy of deploy/ is, with real kubectl; `node#` commands on every node, in its own namespaces, `worker-0#` ones there
alone. The image is not built or pulled: a lab's pods run the node's own `glassnet`. Stand-ins: `scp` copies into a machine of the lab; `systemctl`
and `journalctl` do what our units ask for, as there is no systemd (tests/service_manager.py); the cluster that is taken over is told in
old_network.py.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import old_network
import pytest

from conftest import GLASSNET, Lab
from console import Command, Shell, commands, fault
from service_manager import JOURNALCTL, SYSTEMCTL

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/install.md"
BARE = ("--nodes", "2", "--proxy", "none", "--cni", "none", "--routes", "none")
NODES = ["worker-0", "worker-1"]
SCP = """#!/bin/sh
for last; do :; done
node=${last%%:*} place=${last#*:}
while [ $# -gt 1 ]; do glassnet node "${node#root@}" -- sh -c "cat > $place$(basename "$1")" < "$1" || exit 1; shift; done
"""
PROGRAMS = {"/usr/local/bin/systemctl": SYSTEMCTL, "/usr/local/bin/journalctl": JOURNALCTL}


class Reader:
    """An engineer who types what the document says."""

    def __init__(self, lab: Lab, desk: Path) -> None:
        self.lab, self.desk = lab, desk
        shutil.copytree(ROOT / "deploy", desk / "deploy")
        (desk / "bin").mkdir()
        (desk / "bin/scp").write_text(SCP)
        (desk / "bin/scp").chmod(0o755)
        lab.env["KUBECONFIG"] = str(Path(lab.env["GLASSNET_STATE"]) / lab.name / "kubeconfig")
        lab.env["PATH"] = f"{desk / 'bin'}:{lab.env['PATH']}"
        inside = Path(lab.env["KUBECONFIG"]).read_text()
        self.admin = re.sub(r"https://127.0.0.1:\d+", "https://10.240.0.10:6443", inside)
        for node in NODES:
            for path, text in PROGRAMS.items():
                lab.glassnet("node", node, "--", "sh", "-c", f"cat > {path}; chmod 755 {path}", stdin=text)
            lab.glassnet("node", node, "--", "sh", "-c", "mkdir -p /etc/kubernetes; umask 077; cat > /etc/kubernetes/admin.conf", stdin=self.admin)  # fmt: skip
        self.shells = {"": Shell(lab.env, desk)}
        for node in NODES:
            self.shells[node] = Shell(lab.env, desk, (GLASSNET, "node", node, "--"))

    def read(self, *sections: str) -> None:
        """Type every command of these sections; each must do as written, for the next builds on it."""
        for command in commands(DOCUMENT):
            faults = self._type(command) if command.section in sections else []
            assert not faults, "\n\n".join(faults)

    def _type(self, command: Command) -> list[str]:
        where = NODES if command.where == "node" else [command.where]
        return [text for each in where if (text := fault(command, self.shells[each], DOCUMENT.name))]

    def close(self) -> None:
        for shell in self.shells.values():
            shell.close()


@pytest.fixture
def reader(make_lab: Callable[..., Any], tmp_path: Path) -> Iterator[Reader]:
    made = Reader(make_lab(*BARE), tmp_path)
    yield made
    made.close()


def left(lab: Lab, node: str) -> dict[str, str]:
    """All that could be changed of a node, but for counters, ages and the order of links."""
    words = {
        "links": "ip -o link | sed 's/^[0-9]*: //; s/@if[0-9]*//; s/ qlen.*//' | sort",
        "addresses": "ip -o address | sed 's/^[0-9]*: //; s/valid_lft.*//; s/ tentative//' | sort",
        "routes": "ip route | sort; ip -6 route | grep -v '^fe80' | sort",
        "rules": "ip rule",
        "neighbours": "(ip neighbour show nud permanent; ip neighbour show proxy) | sort",
        # of iptables its tables and built-in chains are everybody's, and stay
        "nft": "nft list tables | grep -vE ' ip6? (nat|filter|mangle|raw)$' | while read line; do nft -s list $line; done",
        "iptables": "for i in iptables ip6tables; do $i-save | grep -E '^(-A|:)' | grep -vE '^:(PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING) ' | sed 's/\\[.*//'; done",
        "files": "find /run/glassnet /opt/cni /etc/cni /var/lib/cni ! -type d ! -path '/run/glassnet/pods/*' | sort; ls -d /var/lib/cni/*",  # pods/ is the lab's own
    }
    return {name: lab.node(node, "sh", "-c", text, check=False) for name, text in words.items()}


def test_from_nothing_as_pods(reader: Reader) -> None:
    reader.read("Before you begin", "From nothing, as pods", "An Ingress controller")


def test_from_nothing_as_units(reader: Reader) -> None:
    before = {node: left(reader.lab, node) for node in NODES}
    reader.read("From nothing, as systemd units")
    reader.read("Off a node")
    for node in NODES:
        assert left(reader.lab, node) == before[node]


def test_from_kube_proxy_and_flannel_and_back(reader: Reader) -> None:
    """No connection breaks, and of new ones no two in a row fail, from the first step to the last."""
    lab = reader.lab
    old_network.bring_up(lab, NODES, reader.admin)
    before = {node: left(lab, node) for node in NODES}
    addresses = lab.kubectl("get", "pods", "-o", "wide")
    reader.read("From kube-proxy and flannel")
    assert lab.kubectl("get", "pods", "echo", "talker", "-o", "jsonpath={.items[*].status.podIP}").split() == [
        ip for name in ("echo", "talker") for ip in [next(line.split()[5] for line in addresses.splitlines() if line.startswith(name))]
    ]  # fmt: skip
    check_traffic(lab)
    reader.read("Back to kube-proxy and flannel")
    check_traffic(lab)
    for node in NODES:
        assert left(lab, node) == before[node], node


def check_traffic(lab: Lab) -> None:
    turns = old_network.turns(lab)
    assert len(turns) > 20
    assert all(kept == (1, 1) for _, *kept_, _, _ in turns for kept in [tuple(kept_)]), turns
    for column in (3, 4):
        misses = [turn[0] for turn in turns if not turn[column]]
        assert not any(second - first == 1 for first, second in itertools.pairwise(misses)), turns
