"""The exception tree of glassnet.

GlassnetError
├─ UsageError          the caller's words are off: bad option, bad file, bad topology
│  └─ ParseError       text that cannot be read: carries file, line and column
├─ PreflightError      the machine lacks a feature, a right or a program
├─ KernelError         the kernel refused: carries the operation, the object and errno
│  └─ CommandError     a program we ran failed: carries argv, exit status and stderr
├─ LabError            a lab is missing, running already, or died
└─ ApiError            an answer of a Kubernetes API other than success: carries a Status object
"""

from __future__ import annotations

import errno as _errno
import os
from collections.abc import Mapping, Sequence
from typing import Any


class GlassnetError(Exception):
    """Base of every error glassnet raises on purpose; `str()` is fit for a user's eyes."""


class UsageError(GlassnetError):
    """The caller's words are off; the text says which and how to mend them."""


class ParseError(UsageError):
    """Text that cannot be read, with its place.

    `source` names the file or input; `line` and `column` count from 1, 0 means unknown.
    """

    def __init__(self, message: str, source: str = "", line: int = 0, column: int = 0) -> None:
        self.message, self.source, self.line, self.column = message, source, line, column
        place = ":".join(str(part) for part in (source, line, column) if part)
        super().__init__(f"{place}: {message}" if place else message)


class PreflightError(GlassnetError):
    """The machine lacks something; the text names it and the way to get it."""


class KernelError(GlassnetError):
    """The kernel refused an operation.

    `operation` is what was tried, in words; `number` the errno (positive).
    """

    def __init__(self, operation: str, number: int, detail: str = "") -> None:
        self.operation, self.number, self.detail = operation, number, detail
        name = _errno.errorcode.get(number, str(number))
        text = f"{operation}: {os.strerror(number)} ({name})"
        super().__init__(f"{text}: {detail}" if detail else text)


class CommandError(KernelError):
    """A program we ran ended with a status other than 0."""

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        self.argv, self.status, self.stderr = tuple(argv), status, stderr
        GlassnetError.__init__(self, f"{' '.join(argv)}: exit status {status}: {stderr.strip()}")
        self.operation, self.number, self.detail = " ".join(argv), 0, stderr.strip()


class LabError(GlassnetError):
    """A lab is missing, is running already, or has died."""


class ApiError(GlassnetError):
    """An answer of a Kubernetes API that is not success.

    `status` is the HTTP code, `reason` the machine-readable reason (NotFound, Conflict, Invalid, ...),
    `details` the Status object's details. `to_status()` gives the whole metav1.Status.
    """

    def __init__(self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        self.status, self.reason, self.message, self.details = status, reason, message, dict(details or {})
        super().__init__(message)

    def to_status(self) -> dict[str, Any]:
        """The metav1.Status object of this error."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            body["details"] = self.details
        body["code"] = self.status
        return body
