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

_SHOWN = 1000  # characters of what another plugin printed that an error repeats
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


def read_answer(plugin: str, status: int, printed: bytes) -> dict[str, Any]:
    """What another plugin printed, {} for nothing, by its exit status. Raises CniError with its own error, or with what it printed instead."""
    text = printed.decode(errors="replace").strip()
    try:
        answer = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        answer = None
    if status and isinstance(answer, dict) and "code" in answer:
        code, details = answer["code"], str(answer.get("details") or "")
        raise CniError(code if isinstance(code, int) and code else OTHER, str(answer.get("msg", "")), details)
    if status and not text:
        raise CniError(OTHER, f"netplugin failed with no error message: exit status {status}", f"plugin {plugin}")
    if status or not isinstance(answer, dict):
        raise CniError(OTHER, f"netplugin failed: {text[:_SHOWN]}", f"plugin {plugin}, exit status {status}")
    return answer


def unexpected(error: Exception) -> CniError:
    """An error that nobody has foreseen, as the answer it must still become; where it came from helps whoever reports it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = (
        f"{trace.tb_frame.f_code.co_filename.rpartition('/glassnet/')[2]}:{trace.tb_lineno}"
        if trace is not None
        else ""
    )
    return CniError(OTHER, f"unexpected error: {type(error).__name__}: {error}", f"at {place}: please report it")
