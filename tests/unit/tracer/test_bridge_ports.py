"""A bridge judges the port a packet would leave by before the hooks of IP see it forwarded."""

from __future__ import annotations

import functools

from glassnet.net import address
from glassnet.tracer.snapshot import read_world
from glassnet.tracer.trace import Request, Tracer, Way
from tracer_worlds import capture_files

POD = "demo/web-546b777687-28bt4"


@functools.cache
def ways() -> list[Way]:
    """A pod that asks for the Service it is an endpoint of."""
    world = read_world(capture_files("hardway-iptables"), "hardway-iptables")
    service = next(s for s in world.objects["services"] if s["metadata"]["name"] == "web")
    target = address.number(service["spec"]["clusterIP"])
    return Tracer(world).trace(Request(POD, 32, 6, target, 80)).ways


def test_what_would_go_back_where_it_came_from_meets_no_rule_behind_prerouting() -> None:
    (lost,) = [way for way in ways() if "hairpin mode is off" in way.detail]
    assert lost.kind == "dropped"
    hooks = {step.hook for step in lost.steps if step.kind == "rule"}
    assert hooks == {"prerouting"}


def test_other_endpoints_on_the_bridge_pass_forward() -> None:
    others = [way for way in ways() if "hairpin" not in way.detail]
    assert others and all("forward" in {step.hook for step in way.steps} for way in others)
