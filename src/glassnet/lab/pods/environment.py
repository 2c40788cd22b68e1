"""A container's environment: variables in commands, what every process has, and a small form to keep it in. Pure."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFERENCE = re.compile(r"\$(?:\$|\(([-._a-zA-Z][-._a-zA-Z0-9]*)\))")


def expand(words: Sequence[str], env: Mapping[str, str]) -> tuple[str, ...]:
    """Put values in the place of `$(NAME)` in a container's command and args.

    A name without a value stays as it is written, and `$$` is one `$` (Kubernetes API: Container.command).
    """
    return tuple(_REFERENCE.sub(lambda match: _value(match, env), word) for word in words)


def _value(match: re.Match[str], env: Mapping[str, str]) -> str:
    name = match[1]
    return "$" if name is None else env.get(name, match[0])


def process_env(env: Mapping[str, str], hostname: str, tty: bool) -> dict[str, str]:
    """The environment of a process: what container runtimes set, and over it the container's own."""
    base = {"PATH": PATH, "HOSTNAME": hostname, "HOME": "/root"}
    if tty:
        base["TERM"] = "xterm"
    return base | dict(env)


def pack(env: Mapping[str, str]) -> bytes:
    """An environment as few bytes: one variable per service and port makes hundreds of them, much alike."""
    return zlib.compress("\0".join(f"{name}={value}" for name, value in env.items()).encode(), 6) if env else b""


def unpack(packed: bytes) -> dict[str, str]:
    """The environment again."""
    if not packed:
        return {}
    pairs = (pair.partition("=") for pair in zlib.decompress(packed).decode().split("\0"))
    return {name: value for name, _, value in pairs}
