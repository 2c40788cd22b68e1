"""What a runtime asks of a plugin: the environment and standard input of one call.

Source: CNI SPEC.md, "Section 2: Execution Protocol"; the rules for names are those of containernetworking/cni, pkg/utils.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from glassnet.cni.errors import INCOMPATIBLE_VERSION, INVALID_CONFIG, INVALID_ENVIRONMENT, UNREADABLE, CniError
from glassnet.cni.fields import Fields, shown, wrong_interface
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
_LIST_KEYS = (
    "cniVersions",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
)  # the runtime's; a file of one plugin has them beside its own


class Attachment(NamedTuple):
    """One interface of one container: what a network is joined by."""

    container_id: str
    ifname: str


class Call(NamedTuple):
    """One call of a plugin. `pod` is a descriptor of the container's network namespace, which the core only hands on; -1 when there is none,
    with the reason in `absent`."""

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
    absent: str = ""

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
        out = set()
        for one in self.fields.tables(key):
            entry = Attachment(one.text("containerID"), one.text("ifname"))
            if not all(entry):
                raise one.error(
                    "containerID" if entry.ifname else "ifname", "it is missing: what is valid must be told exactly"
                )
            out.add(entry)
        return out


def read_call(plugin: str, environment: Mapping[str, str], text: str, pod: int = -1, absent: str = "") -> Call:
    """Understand a call, checked in the reference library's order: names, what is missing, configuration, network, command, version.

    Raises CniError: 4 for the environment, 6 and 7 for the configuration, 1 for its version.
    """
    command = _command(environment)
    config = _config(text)
    fields = Fields(config)
    name = _network_name(fields)
    if command not in COMMANDS:
        raise CniError(INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {command}", f"want one of {', '.join(COMMANDS)}")
    version = _version(command, fields)
    for key in ("type", "args", "capabilities", "dns", *_LIST_KEYS):
        fields.raw(key)
    undoing = command in ("DEL", "GC")
    return Call(
        plugin,
        command,
        environment.get("CNI_CONTAINERID", ""),
        environment.get("CNI_NETNS", ""),
        environment.get("CNI_IFNAME", ""),
        read_args(environment.get("CNI_ARGS", ""), lenient=undoing),
        environment.get("CNI_PATH", ""),
        version,
        name,
        fields,
        config,
        _previous(fields, version, lenient=undoing),
        pod,
        absent,
    )


def _previous(fields: Fields, version: str, lenient: bool) -> Result | None:
    """The result of the plugins before. Lenient, one that cannot be read is none: it must not keep a container from being taken down."""
    body = fields.raw("prevResult")
    if body is None:
        return None
    try:
        if not isinstance(body, dict):
            raise CniError(UNREADABLE, f"could not parse prevResult: {shown(body)}: want an object")
        return parse_result(body, version)
    except CniError:
        if lenient:
            return None
        raise


def _command(environment: Mapping[str, str]) -> str:
    command = environment.get("CNI_COMMAND", "")
    if not command:
        raise CniError(INVALID_ENVIRONMENT, "required env variables [CNI_COMMAND] missing")
    needed = COMMANDS.get(command, ())
    container_id, ifname = environment.get("CNI_CONTAINERID"), environment.get("CNI_IFNAME")
    if "CNI_CONTAINERID" in needed and container_id and not _NAME(container_id):
        raise CniError(
            INVALID_ENVIRONMENT, "invalid characters in containerID", f"CNI_CONTAINERID is {shown(container_id)}"
        )
    if "CNI_IFNAME" in needed and ifname and (wrong := wrong_interface(ifname)):
        long = "; interface name should be less than 16 characters" if "long" in wrong else ""
        raise CniError(INVALID_ENVIRONMENT, wrong, f"CNI_IFNAME is {shown(ifname)}{long}")
    if missing := [name for name in needed if not environment.get(name)]:
        raise CniError(INVALID_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    return command


def is_name(text: str) -> bool:
    """Whether a text can name a network or a container."""
    return _NAME(text) is not None


def _network_name(fields: Fields) -> str:
    name = fields.text("name")
    if not name:
        raise CniError(INVALID_CONFIG, "missing network name")
    if not _NAME(name):
        raise CniError(INVALID_CONFIG, "invalid characters found in network name", shown(name))
    return name


def _config(text: str) -> dict[str, Any]:
    what = "error unmarshall network config"
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise CniError(UNREADABLE, f"{what}: standard input:{error.lineno}:{error.colno}: {error.msg}") from None
    except ValueError as error:
        raise CniError(UNREADABLE, f"{what}: {error}") from None
    except RecursionError:
        raise CniError(UNREADABLE, f"{what}: too many brackets inside each other") from None
    if not isinstance(config, dict):
        raise CniError(UNREADABLE, f"{what}: {shown(config)}: want a JSON object")
    return config


def _version(command: str, fields: Fields) -> str:
    version = fields.text("cniVersion") or VERSIONS[0]
    if version not in VERSIONS:
        supported = " ".join(json.dumps(one) for one in VERSIONS)
        raise CniError(
            INCOMPATIBLE_VERSION,
            "incompatible CNI versions",
            f"config is {shown(version)}, plugin supports [{supported}]",
        )
    since = SINCE.get(command)
    if since is not None and VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(
            INCOMPATIBLE_VERSION, f"config version does not allow {command}", f"{version}, want {since} or newer"
        )
    return version


def written_version(text: str) -> str:
    """The version an answer to a configuration is written in: its own, or the newest when it has none that there is."""
    try:
        found = json.loads(text).get("cniVersion")
    except (ValueError, AttributeError, RecursionError):
        found = None
    return found if found in VERSIONS else VERSIONS[-1]


def read_args(text: str, lenient: bool = False) -> dict[str, str]:
    """CNI_ARGS: `KEY=VALUE;KEY=VALUE`. Raises CniError for a part without "=", unless lenient."""
    found = {}
    for part in filter(None, text.split(";")):
        key, equals, value = part.partition("=")
        if equals:
            found[key] = value
        elif not lenient:
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: invalid pair {shown(part)}", "want KEY=VALUE;KEY=VALUE")
    return found
