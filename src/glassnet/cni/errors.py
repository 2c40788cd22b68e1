"""The errors of a plugin, with the codes of the specification. Source: CNI SPEC.md, "Error" (codes 1-11, and 50 and 51 for STATUS)."""

from __future__ import annotations

import json
from typing import Any

from glassnet.net.errors import GlassnetError

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
UNREADABLE = 6
INVALID_CONFIG = 7
TRY_AGAIN = 11
NOT_AVAILABLE = 50
LIMITED_CONNECTIVITY = 51
OTHER = 999  # what the reference plugins answer for all that has no code of its own

VERSION = "1.1.0"  # the newest version, which errors are written in when the caller's is not known


class CniError(GlassnetError):
    """An answer other than success. `code` is one of the above, or of the plugin that was asked for addresses."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        self.code, self.message, self.details = code, message, details
        super().__init__(message)


class ConfigError(CniError):
    """A key of a configuration that is not as it must be; `key` is where it stands, "" for the whole."""

    def __init__(self, key: str, message: str, code: int = INVALID_CONFIG) -> None:
        self.key = key
        super().__init__(code, f'"{key}": {message}' if key else message)


def body(error: GlassnetError, version: str = VERSION) -> dict[str, Any]:
    """The error as a plugin prints it."""
    code = error.code if isinstance(error, CniError) else OTHER
    details = {"details": error.details} if isinstance(error, CniError) and error.details else {}
    return {"cniVersion": version, "code": code, "msg": str(error), **details}


def read_answer(plugin: str, printed: bytes) -> dict[str, Any]:
    """What another plugin printed; {} for nothing. Raises CniError when it is an error, or no JSON object."""
    if not printed.strip():
        return {}
    try:
        answer = json.loads(printed)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise CniError(OTHER, f"netplugin failed: {printed.decode(errors='replace').strip()}", f"plugin {plugin}")
    if "code" in answer:
        code = answer["code"]
        details = str(answer.get("details", ""))
        raise CniError(code if isinstance(code, int) else OTHER, str(answer.get("msg", "")), details)
    return answer
