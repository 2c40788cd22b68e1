"""What a runtime asks of a plugin: the environment and standard input of one call.

Source: CNI SPEC.md, "Section 2: Execution Protocol"; the rules for names are those of containernetworking/cni, pkg/utils.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from glassnet.cni.errors import INCOMPATIBLE_VERSION, INVALID_CONFIG, INVALID_ENVIRONMENT, UNREADABLE, CniError
from glassnet.cni.fields import Fields
from glassnet.cni.result import VERSIONS, Result, parse_result

COMMANDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*").fullmatch
_IFNAME_MAX = 15


class Attachment(NamedTuple):
    """One interface of one container: what a network is joined by."""

    container_id: str
    ifname: str


class Call(NamedTuple):
    """One call of a plugin. `pod` is a descriptor of the container's network namespace (-1: none), which the core only hands on."""

    plugin: str
    command: str
    container_id: str
    netns: str
    ifname: str
    args: Mapping[str, str]
    path: str
    version: str
    name: str
    fields: Fields
    config: Mapping[str, Any]
    previous: Result | None
    pod: int = -1

    @property
    def attachment(self) -> Attachment:
        return Attachment(self.container_id, self.ifname)

    @property
    def runtime(self) -> Fields:
        """What the runtime adds for the capabilities that the configuration names."""
        return self.fields.table("runtimeConfig")

    def valid(self) -> set[Attachment]:
        """GC's list of what there still is. Raises CniError without one: nothing is ever taken away for want of a list."""
        key = "cni.dev/valid-attachments"
        if not isinstance(self.config.get(key), list):
            key = "cni.dev/attachments"  # as the runtime library named it before 1.1.0 was final
        if not isinstance(self.config.get(key), list):
            raise CniError(INVALID_CONFIG, 'GC takes a list "cni.dev/valid-attachments"')
        entries = self.fields.tables(key)
        return {Attachment(one.text("containerID"), one.text("ifname")) for one in entries}


def read_call(plugin: str, environment: Mapping[str, str], text: str, pod: int = -1) -> Call:
    """Understand a call. Raises CniError: 4 for the environment, 6 and 7 for the configuration, 1 for its version."""
    command = _command(environment)
    config = _config(text)
    fields = Fields(config)
    version = _version(command, fields)
    name = fields.text("name")
    if not name:
        raise CniError(INVALID_CONFIG, "missing network name")
    if not _NAME(name):
        raise CniError(INVALID_CONFIG, f"invalid characters found in network name {name!r}")
    for key in ("type", "args", "capabilities", "dns", "disableCheck", "cniVersions"):
        fields.raw(key)
    previous = fields.table("prevResult")
    return Call(
        plugin,
        command,
        environment.get("CNI_CONTAINERID", ""),
        environment.get("CNI_NETNS", ""),
        environment.get("CNI_IFNAME", ""),
        read_args(environment.get("CNI_ARGS", "")),
        environment.get("CNI_PATH", ""),
        version,
        name,
        fields,
        config,
        parse_result(config["prevResult"], version) if fields.has("prevResult") and previous is not None else None,
        pod,
    )


def _command(environment: Mapping[str, str]) -> str:
    command = environment.get("CNI_COMMAND", "")
    if not command:
        raise CniError(INVALID_ENVIRONMENT, "required env variables [CNI_COMMAND] missing")
    if command not in COMMANDS:
        raise CniError(INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {command}; want one of {', '.join(COMMANDS)}")
    if missing := [name for name in COMMANDS[command] if not environment.get(name)]:
        raise CniError(INVALID_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    if command in ("ADD", "DEL", "CHECK"):
        container_id, ifname = environment["CNI_CONTAINERID"], environment["CNI_IFNAME"]
        if not _NAME(container_id):
            raise CniError(INVALID_ENVIRONMENT, f"invalid characters in CNI_CONTAINERID: {container_id!r}")
        if wrong := _interface(ifname):
            raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME {ifname!r}: {wrong}")
    return command


def _interface(name: str) -> str:
    """What is wrong with an interface's name (dev_valid_name in the kernel's net/core/dev.c); "" for nothing."""
    if len(name.encode()) > _IFNAME_MAX:
        return f"interface name is too long, want {_IFNAME_MAX} bytes at most"
    if name in (".", ".."):
        return "interface name is . or .."
    if any(one in "/:" or one.isspace() for one in name):
        return "interface name contains / or : or whitespace characters"
    return ""


def _config(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        place = f"standard input:{error.lineno}:{error.colno}: " if isinstance(error, json.JSONDecodeError) else ""
        message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise CniError(UNREADABLE, f"{place}{message}") from None
    except RecursionError:
        raise CniError(UNREADABLE, "standard input: too many brackets inside each other") from None
    if not isinstance(config, dict):
        raise CniError(UNREADABLE, "standard input: want a JSON object")
    return config


def _version(command: str, fields: Fields) -> str:
    version = fields.text("cniVersion", "0.1.0")
    if version not in VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            "incompatible CNI versions",
            f'config is "{version}", plugin supports {json.dumps(list(VERSIONS))}',
        )
    since = SINCE.get(command)
    if since is not None and VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(
            INCOMPATIBLE_VERSION, f"config version does not allow {command}", f"{version}, want {since} or newer"
        )
    return version


def read_args(text: str) -> dict[str, str]:
    """CNI_ARGS: `KEY=VALUE;KEY=VALUE`. Raises CniError for a part without "="."""
    found = {}
    for part in filter(None, text.split(";")):
        key, equals, value = part.partition("=")
        if not equals:
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: invalid pair {part!r}; want KEY=VALUE;KEY=VALUE")
        found[key] = value
    return found
