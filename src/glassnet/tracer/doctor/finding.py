"""What a check finds: a value that says what hurts whom, why that is known, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CRITICAL, WARNING, INFO = "critical", "warning", "info"
SEVERITIES = (CRITICAL, WARNING, INFO)


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault.

    `pain` names the kind of fault (see `diagnose.CHECKS`), `severity` is critical (packets are lost now), warning (some are, or will be) or
    info. `object` is who it is about: a node's name, or an object as `Kind namespace/name`. `evidence` are lines: rules as written with file
    and line, sysctls with their values, connection entries. `remedy` are lines too: commands, or the field to change. `node` is where.
    """

    pain: str
    severity: str
    object: str
    title: str
    evidence: tuple[str, ...] = ()
    remedy: tuple[str, ...] = ()
    node: str = ""

    def plain(self) -> dict[str, Any]:
        """As values for JSON."""
        return {
            "pain": self.pain,
            "severity": self.severity,
            "object": self.object,
            "node": self.node,
            "title": self.title,
            "evidence": list(self.evidence),
            "remedy": list(self.remedy),
        }


def some(items: list[str], most: int = 5) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def lines(items: list[str], most: int = 5) -> tuple[str, ...]:
    """The first few lines, and how many more there are."""
    return (*items[:most], f"… and {len(items) - most} more") if len(items) > most else tuple(items)
