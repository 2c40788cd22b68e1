"""proxy-connect-timeout, proxy-send-timeout, proxy-read-timeout, proxy-next-upstream and its kin: how long, and how often."""

from __future__ import annotations

from typing import NamedTuple

from glassnet.ingress.options.place import Draft
from glassnet.ingress.options.reading import Reader
from glassnet.ingress.syntax import Directive, directive

NEXT = [
    "error",
    "timeout",
    "invalid_header",
    "http_500",
    "http_502",
    "http_503",
    "http_504",
    "http_403",
    "http_404",
    "http_429",
    "non_idempotent",
    "off",
]


class Timeouts(NamedTuple):
    """Seconds, and tries; -1 where not given. `next_on` are the cases in which the next endpoint is tried."""

    connect: int = -1
    send: int = -1
    read: int = -1
    next_on: tuple[str, ...] = ()
    next_timeout: int = -1
    next_tries: int = -1


def read(annotations: Reader) -> Timeouts:
    """The family's annotations."""
    nothing: tuple[str, ...] = ()
    given = annotations.take("proxy-next-upstream", _cases, nothing, f"give some of {' '.join(NEXT)}")
    return Timeouts(
        annotations.seconds("proxy-connect-timeout"),
        annotations.seconds("proxy-send-timeout"),
        annotations.seconds("proxy-read-timeout"),
        given,
        annotations.seconds("proxy-next-upstream-timeout", 0),
        annotations.number("proxy-next-upstream-tries", 0, 100),
    )


def _cases(text: str) -> tuple[str, ...]:
    cases = tuple(dict.fromkeys(text.replace(",", " ").split()))
    if not cases or not set(cases) <= set(NEXT):
        raise ValueError(text)
    return cases


def defaults(module: str = "proxy") -> list[Directive]:
    """What holds without annotations, for the http block; `module` is proxy or grpc."""
    return [
        directive(f"{module}_connect_timeout", "5s"),
        directive(f"{module}_send_timeout", "60s"),
        directive(f"{module}_read_timeout", "60s"),
        directive(f"{module}_next_upstream", "error", "timeout"),
        directive(f"{module}_next_upstream_timeout", "0s"),
        directive(f"{module}_next_upstream_tries", 3),
    ]


def spell(timeouts: Timeouts, draft: Draft, module: str) -> None:
    """Only what differs from the defaults."""
    for name in ("connect", "send", "read"):
        if (seconds := getattr(timeouts, name)) >= 0:
            draft.location.append(directive(f"{module}_{name}_timeout", f"{seconds}s"))
    if timeouts.next_on:
        draft.location.append(directive(f"{module}_next_upstream", *timeouts.next_on))
    if timeouts.next_timeout >= 0:
        draft.location.append(directive(f"{module}_next_upstream_timeout", f"{timeouts.next_timeout}s"))
    if timeouts.next_tries >= 0:
        draft.location.append(directive(f"{module}_next_upstream_tries", timeouts.next_tries))
