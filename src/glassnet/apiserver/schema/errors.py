"""Field errors and the 422 answer they make, in the words of Kubernetes (k8s.io/apimachinery, validation/field)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError


class FieldError(NamedTuple):
    """One fault: `reason` as in a Status cause (FieldValueInvalid, …), the text after the path, the path."""

    reason: str
    detail: str
    path: str

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


def required(path: str, detail: str = "") -> FieldError:
    """A field that must be there."""
    return FieldError("FieldValueRequired", "Required value" + (f": {detail}" if detail else ""), path)


def invalid_value(path: str, value: Any, detail: str) -> FieldError:
    """A value that breaks a rule."""
    return FieldError("FieldValueInvalid", f"Invalid value: {_show(value)}: {detail}", path)


def forbidden(path: str, detail: str) -> FieldError:
    """A field that must not be set, or changed, here."""
    return FieldError("FieldValueForbidden", f"Forbidden: {detail}", path)


def duplicate(path: str, value: Any) -> FieldError:
    """A value that may be there once only."""
    return FieldError("FieldValueDuplicate", f"Duplicate value: {_show(value)}", path)


def not_supported(path: str, value: Any, allowed: Sequence[str]) -> FieldError:
    """A value outside an enumeration."""
    words = ", ".join(json.dumps(word) for word in sorted(allowed))
    return FieldError("FieldValueNotSupported", f"Unsupported value: {_show(value)}: supported values: {words}", path)


def too_long(path: str, limit: int) -> FieldError:
    """A text over its limit."""
    return FieldError("FieldValueTooLong", f"Too long: may not be more than {limit} bytes", path)


def invalid(kind: Kind, name: str, errors: Iterable[FieldError]) -> ApiError:
    """The 422 Invalid answer for an object with faults."""
    found = list(dict.fromkeys(errors))  # said once
    text = str(found[0]) if len(found) == 1 else "[" + ", ".join(str(error) for error in found) + "]"
    causes = [{"reason": e.reason, "message": e.detail, "field": e.path} for e in found]
    details = {"name": name, "group": kind.group, "kind": kind.name, "causes": causes}
    if not kind.group:
        del details["group"]
    shown = f"{kind.name}.{kind.group}" if kind.group else kind.name
    return ApiError(422, "Invalid", f'{shown} "{name}" is invalid: {text}', details)


def bad_request(message: str) -> ApiError:
    """The 400 answer."""
    return ApiError(400, "BadRequest", message)


def _show(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
