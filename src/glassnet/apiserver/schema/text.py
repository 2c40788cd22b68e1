"""Texts in table cells: ages, label selectors, shortened lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

Obj = dict[str, Any]


def parse_time(text: str) -> datetime:
    """An RFC 3339 time of the API."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def human(seconds: float) -> str:
    """A duration as kubectl shows it (k8s.io/apimachinery, util/duration.HumanDuration)."""
    s = int(seconds)
    if s < -1:
        return "<invalid>"
    if s < 0:
        return "0s"
    if s < 120:
        return f"{s}s"
    minutes, hours, days, years = s // 60, s // 3600, s // 86400, s // 86400 // 365
    if minutes < 10:
        return f"{minutes}m{s % 60}s" if s % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    if years < 8:
        return f"{years}y{days % 365}d" if days % 365 else f"{years}y"
    return f"{years}y"


def duration(start: str, end: str | None, now: datetime) -> str:
    """Time from `start` to `end` (or now)."""
    return human(((parse_time(end) if end else now) - parse_time(start)).total_seconds())


def age(obj: Obj, now: datetime) -> str:
    """Age of an object."""
    created = obj["metadata"].get("creationTimestamp")
    return duration(created, None, now) if created else "<unknown>"


def labels(values: Obj | None) -> str:
    """A map of labels as `a=b,c=d`."""
    return ",".join(f"{key}={value}" for key, value in sorted((values or {}).items())) or "<none>"


def selector_text(selector: Obj | None) -> str:
    """A LabelSelector in the syntax of -l."""
    parts = [f"{key}={value}" for key, value in sorted(((selector or {}).get("matchLabels") or {}).items())]
    for term in (selector or {}).get("matchExpressions") or ():
        values = ",".join(sorted(term.get("values") or ()))
        operator = term.get("operator")
        parts.append(
            {
                "In": f"{term['key']} in ({values})",
                "NotIn": f"{term['key']} notin ({values})",
                "Exists": term["key"],
                "DoesNotExist": f"!{term['key']}",
            }.get(operator, "")
        )
    return ",".join(parts) or "<none>"


def join(items: Sequence[str], most: int, empty: str = "<none>") -> str:
    """Items with commas; beyond `most` a count of the rest."""
    if len(items) > most:
        return f"{','.join(items[:most])} + {len(items) - most} more..."
    return ",".join(items) or empty
