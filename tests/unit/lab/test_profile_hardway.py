"""The profile hardway is the lab it was before there were profiles, operation by operation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glassnet.lab.profiles import catalog
from glassnet.lab.profiles.layout import topology
from glassnet.lab.settings import Settings
from glassnet.lab.topology import Topology
from glassnet.netstack.ops import Operation

RECORDED = json.loads((Path(__file__).resolve().parents[2] / "data" / "hardway-topology.json").read_text())
SETTINGS = {
    "default": Settings(),
    "four workers, other ranges, no plugins, no names": Settings(
        workers=4,
        node_cidr="10.9.0.0/24",
        pod_cidr="10.50.0.0/16",
        service_cidr="10.60.0.0/16",
        public_cidr="198.18.0.0/24",
        cni="none",
        dns="none",
    ),
}


def words(op: Operation) -> str:
    """An operation by its fields that say something."""
    values = {name: getattr(op, name) for name in type(op)._fields}
    said = ", ".join(f"{name}={value!r}" for name, value in values.items() if value not in ("", 0, None, False, -1))
    return f"{type(op).__name__}({said})"


def told(lab: Topology) -> dict[str, Any]:
    machines = [
        {
            "name": m.name,
            "role": m.role,
            "address": m.address,
            "public": m.public,
            "pod_cidr": m.pod_cidr,
            "zone": m.zone,
            "files": dict(m.files),
            "sysctls": dict(m.sysctls),
            "setup": [words(op) for op in m.setup],
            "rules": m.rules,
        }
        for m in lab.machines
    ]
    cables = [[c.left, c.left_name, c.left_hardware, c.right, c.right_name] for c in lab.cables]
    ranges = [lab.cluster_cidr, lab.service_cidr, lab.service_ip, lab.dns_ip]
    return {"machines": machines, "cables": cables, "ranges": ranges, "router": lab.router}


@pytest.mark.parametrize("which", SETTINGS)
def test_hardway_is_what_it_was(which: str) -> None:
    lab = topology(SETTINGS[which], catalog.load("hardway"))
    found, wanted = told(lab), RECORDED[which]
    for mine, recorded in zip(found["machines"], wanted["machines"], strict=True):
        assert mine == recorded, recorded["name"]
    assert found == wanted
    assert not any(m.address6 or m.pod_cidr6 or m.iptables for m in lab.machines)
    assert not any(cable.isolated for cable in lab.cables)
    assert lab.local_cidrs == (lab.cluster_cidr,)
