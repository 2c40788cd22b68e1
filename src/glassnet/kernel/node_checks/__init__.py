"""What a node needs and what stands in glassnet's way there: one function a check, over a `Host`. Reads only."""

from __future__ import annotations

from collections.abc import AsyncIterator

from glassnet.kernel.api import Host
from glassnet.kernel.node_checks import clock, features, firewalls, links, places, rivals, settings
from glassnet.kernel.node_checks.result import Check, Result, Verdict
from glassnet.net.errors import GlassnetError

CHECKS: tuple[Check, ...] = (
    *features.CHECKS,
    *settings.CHECKS,
    *rivals.CHECKS,
    *firewalls.CHECKS,
    *links.CHECKS,
    *clock.CHECKS,
    *places.CHECKS,
)


async def results(host: Host) -> AsyncIterator[Result]:
    """Every check's findings, one check after the other; a check that cannot look says so, and the others go on."""
    for check in CHECKS:
        try:
            for result in await check(host):
                yield result
        except (GlassnetError, OSError) as error:
            name = check.__name__.replace("_", " ")
            yield Result(
                name, Verdict.WARNING, f"cannot be looked at: {error}", "run it as root, with the tools it names"
            )


__all__ = ["CHECKS", "Check", "Result", "Verdict", "results"]
