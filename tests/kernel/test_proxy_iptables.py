"""iptables mode against a real node's iptables-save, on this machine's tools and kernel."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy_wire import Wire

from glassnet.agent.proxy_writers import IptablesWriter
from glassnet.kernel.iptables import Iptables
from glassnet.kube import kinds
from glassnet.kube.types import decode
from glassnet.kube.view import Key, View
from glassnet.net.errors import CommandError
from glassnet.proxy import compute
from glassnet.proxy.backends import iptables
from glassnet.proxy.backends.iptables import Piece

pytestmark = pytest.mark.kernel
DATA = Path(__file__).parents[1] / "data"
NFACCT = " -m nfacct --nfacct-name  ct_state_invalid_dropped_pkts"


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire(["10.240.0.20"], pods="10.200.0.0/16")
    yield made
    made.close()


def cluster() -> View:
    objects = json.loads(gzip.decompress((DATA / "cluster-objects" / "cluster.json.gz").read_bytes()))
    view = View()
    for kind in (kinds.NODE, kinds.SERVICE, kinds.ENDPOINT_SLICE):
        for item in objects[kind.plural]:
            view.apply(kind, decode(kind, json.dumps(item)))
    return view


def pieces(view: View, node: str, writer: IptablesWriter) -> dict[Key, Piece]:
    zone = view.nodes[Key("", node)].metadata.labels["topology.kubernetes.io/zone"]
    return {
        key: writer.spell(compute.service_ports(service, list(view.slices_of(key)), node, zone))
        for key, service in view.services.items()
    }


def lines_of(text: str) -> Counter[tuple[str, str]]:
    """Chains and rules by table, without what other programs put there and without the counting of localhost node ports."""
    found: Counter[tuple[str, str]] = Counter()
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line
        elif line.startswith(":KUBE"):
            found[table, line.split()[0]] += 1
        elif line.startswith("-A") and "CNI-" not in line and "localhost_nps" not in line:
            found[table, line.replace(NFACCT, "")] += 1
    return found


@pytest.mark.parametrize("node", ["worker-0", "worker-1", "worker-2"])
async def test_a_node_has_the_lines_a_real_kube_proxy_wrote_there(wire: Wire, node: str) -> None:
    writer = IptablesWriter(wire, iptables.Options("10.200.0.0/16"))  # type: ignore[arg-type]
    await writer.write({}, pieces(cluster(), node, writer))
    real = gzip.decompress((DATA / "proxy" / f"iptables-save.{node}.gz").read_bytes()).decode()
    ours, theirs = lines_of(wire.shell("iptables-save")), lines_of(real)
    assert ours - theirs == Counter()
    assert theirs - ours == Counter()


async def test_a_restarted_proxy_adds_nothing_twice_and_sweeps_what_its_forerunner_wrote(wire: Wire) -> None:
    first = IptablesWriter(wire, iptables.Options("10.200.0.0/16"))  # type: ignore[arg-type]
    wanted = pieces(cluster(), "worker-0", first)
    await first.write({}, wanted)
    before = lines_of(wire.shell("iptables-save"))
    second = IptablesWriter(wire, iptables.Options("10.200.0.0/16"))  # type: ignore[arg-type]
    await second.write({}, wanted)
    assert lines_of(wire.shell("iptables-save")) == before
    await IptablesWriter(wire, iptables.Options("10.200.0.0/16")).sweep()  # type: ignore[arg-type]
    assert "KUBE" not in wire.shell("iptables-save")


async def test_chains_of_services_that_have_gone_go_with_the_next_write(wire: Wire) -> None:
    writer = IptablesWriter(wire, iptables.Options("10.200.0.0/16"))  # type: ignore[arg-type]
    wanted = pieces(cluster(), "worker-0", writer)
    await writer.write({}, wanted)
    await writer.write({}, {key: piece for key, piece in wanted.items() if key.name == "kube-dns"})
    saved = wire.shell("iptables-save")
    assert "KUBE-SVC-ERIFXISQEP7F7OF4" in saved
    assert "demo/" not in saved
    assert saved.count(":KUBE-SVC-") == 3


async def test_a_line_the_kernel_refuses_is_shown_and_nothing_is_loaded(wire: Wire) -> None:
    text = (
        '*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -m comment --comment "demo/web:http" -j NO-SUCH-CHAIN\nCOMMIT\n'
    )
    with pytest.raises(CommandError, match=r"demo/web:http.*NO-SUCH-CHAIN"):
        await Iptables(wire).restore(text)  # type: ignore[arg-type]
    assert "KUBE-SERVICES" not in wire.shell("iptables-save")
