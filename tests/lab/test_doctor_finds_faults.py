"""Every fault of the library, made in a lab, is found by the doctor under its own name; mended, nothing is found any more."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from conftest import Lab
from glassnet.lab.faults.registry import FAULTS
from glassnet.tracer.doctor import CHECKS

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab(make_lab: Callable[..., Lab]) -> Lab:
    made = make_lab("--nodes", "2")
    made.kubectl("create", "deployment", "web", "--image=nginx", "--replicas=4")
    made.kubectl("expose", "deployment", "web", "--port", "80", "--type", "NodePort")
    made.kubectl("rollout", "status", "deployment", "web")
    return made


def findings(lab: Lab) -> list[dict[str, Any]]:
    """What is wrong. That Hard Way bridges have no hairpin mode, and some packets of a pod to its own Service die of it, is a note (info) everywhere."""
    body = json.loads(lab.glassnet("doctor", "-o", "json", check=False).stdout)
    return [each for each in body["findings"] if (each["pain"], each["severity"]) != ("hairpin", "info")]


def test_every_check_has_its_fault() -> None:
    assert set(FAULTS) == set(CHECKS)


def test_a_healthy_lab_has_nothing(lab: Lab) -> None:
    assert findings(lab) == []
    lab.glassnet("lab", "proxy", "nftables")
    assert findings(lab) == []
    lab.glassnet("lab", "proxy", "iptables")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_the_doctor_names_the_fault(lab: Lab, fault: str) -> None:
    lab.glassnet("break", fault)
    try:
        found = findings(lab)
    finally:
        lab.glassnet("mend", fault)
    named = [each for each in found if each["pain"] == fault]
    assert named, [(each["pain"], each["title"]) for each in found]
    assert all(each["evidence"] and each["remedy"] for each in named)


def test_mended_it_is_healthy_again(lab: Lab) -> None:
    assert findings(lab) == []
