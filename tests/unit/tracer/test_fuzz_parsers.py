"""A small, fixed run of the parsers' fuzzer, and of whole snapshots with damaged files."""

from __future__ import annotations

import random
import time

import pytest
from tests.fuzz_parsers import fuzz, mutations, targets
from tests.tracer_worlds import CAPTURES, capture_files

from glassnet.net.errors import GlassnetError
from glassnet.tracer.explain import Explainer
from glassnet.tracer.names import Names
from glassnet.tracer.objects import Objects
from glassnet.tracer.report import trace_report
from glassnet.tracer.snapshot import read_world
from glassnet.tracer.trace import Tracer


@pytest.mark.parametrize("name", sorted(targets()))
def test_only_parse_errors_leave(name: str) -> None:
    ((tried, _),) = fuzz(20261121, 120, time.monotonic() + 3600, [name]).values()
    assert tried > 100


@pytest.mark.parametrize("seed", range(12))
def test_a_trace_through_damaged_dumps_ends_with_an_answer(seed: int) -> None:
    """Whatever a file of a node holds, a trace answers (perhaps that it does not know) or says what is wrong."""
    chance = random.Random(seed)
    whole = capture_files(CAPTURES[seed % 3])
    files = dict(whole)
    for name in chance.sample([n for n in whole if n.startswith("worker-") and n.count("/") == 1], 3):
        files[name] = next(mutations([whole[name]], chance))
    try:
        world = read_world(files)
        objects = Objects(world.objects)
        request = Names(world, objects).request("demo/probe-m7rpp", "svc/demo/web:http")
        report = trace_report(Tracer(world, 2_000).trace(request), world, Explainer(objects))
    except GlassnetError:
        return
    assert report["results"]
