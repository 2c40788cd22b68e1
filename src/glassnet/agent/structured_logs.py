"""Log records as text or as a line of JSON each: time, level, part, object, message; and nothing in them that is to stay secret."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime

# the package a logger is named after -> the part of the agent that speaks
_PARTS = {
    "agent.cni": "cni", "agent.node.cni": "cni", "agent.proxy": "proxy", "agent.routes": "routes", "agent.dns": "dns", "agent.ingress": "ingress", "agent.events": "api", "client": "api",
}  # fmt: skip
_SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), r"\1 [hidden]"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "[hidden]"),  # a JSON Web Token
    (re.compile(r"(?i)\b(token|password|secret)([\"']?\s*[=:]\s*[\"']?)[^\s\"',;&}]+"), r"\1\2[hidden]"),
    (re.compile(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)"), "[hidden key]"),
    (re.compile(r"(?i)([a-z][a-z0-9+.-]*://)[^/\s:@]+:[^/\s@]+@"), r"\1[hidden]@"),
)


def without_secrets(text: str) -> str:
    """A text without tokens, passwords and keys that got into it (by an error that quotes a header, a URL, a file)."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def part_of(logger: str) -> str:
    """Which part of the agent a logger's name stands for."""
    name = logger.removeprefix("glassnet.") + "."
    return next((part for package, part in _PARTS.items() if name.startswith(f"{package}.")), "agent")


class Lines(logging.Formatter):
    """Formats records; `form` is "text" or "json". Code that knows the object at hand says so: log.info(…, extra={"object": "Node/a"})."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self._json = form == "json"

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        message = without_secrets(message)
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        part, about = part_of(record.name), without_secrets(str(getattr(record, "object", "")))
        if self._json:
            body = {"time": when, "level": record.levelname.lower(), "part": part}
            return json.dumps({**body, **({"object": about} if about else {}), "message": message})
        return " ".join(
            word for word in (when, record.levelname.lower(), part, about and f"[{about}]", message) if word
        )


def begin(form: str, level: str, loggers: Iterable[str] = ("",)) -> None:
    """Log to standard error from now on. `level` is debug, info, warning or error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(form))
    for name in loggers:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)
