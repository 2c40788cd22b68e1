"""All faults by name. The names are those of the pains a diagnosis reports."""

from __future__ import annotations

from glassnet.lab.faults import connections, paths, ranges, rules, services
from glassnet.lab.faults.scene import Fault

FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in sorted(
        (*connections.FAULTS, *services.FAULTS, *rules.FAULTS, *paths.FAULTS, *ranges.FAULTS), key=lambda f: f.pain
    )
}
