"""What a request carries besides its object: who asks, and how it wants to be treated."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Request:
    """Options of one write. `manager` "" keeps no books of field ownership (the lab's own loops write so).

    `validation` is "Strict", "Warn" or "Ignore" (unknown fields); `warnings` collects texts for Warning headers.
    """

    user: str = "system:glassnet"
    manager: str = ""
    dry_run: bool = False
    validation: str = "Ignore"
    force: bool = False
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """Options of a delete; `grace` in seconds, None for the object's own."""

    uid: str = ""
    resource_version: str = ""
    grace: int | None = None
    propagation: str = ""
