"""Where rules that are to come back are kept on a node (`agent.cni.kept_rules` writes there), for plugins that look whether they have any."""

from __future__ import annotations

import hashlib

PLACE = "/run/glassnet/cni/rules"
_LONGEST = 200  # bytes of a file's name, below the 255 there may be (NAME_MAX)


def file_name(key: str) -> str:
    """The file of a name that rules are kept under."""
    if len(key) <= _LONGEST:
        return key
    return f"{key[:_LONGEST]}.{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def path(key: str) -> str:
    """The path of that file."""
    return f"{PLACE}/{file_name(key)}"
