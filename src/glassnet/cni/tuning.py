"""tuning: changes settings of a container's network (sysctl) and of its interface, and takes the interface's back on DEL.

Source: behaviour, keys, file formats and messages of the reference plugin (containernetworking/plugins, tuning); sysctl(8) for names of settings.
What an interface was like is kept in the reference's file, so that either side can restore it; the keys there that say whose it is are ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from glassnet.cni import wiring
from glassnet.cni.effects import (
    Apply,
    FindLink,
    ListFiles,
    ReadFile,
    ReadSetting,
    RemoveFile,
    Steps,
    Where,
    WriteFile,
    WriteSettings,
    ask,
)
from glassnet.cni.errors import INVALID_CONFIG, OTHER, CniError
from glassnet.cni.fields import Fields
from glassnet.cni.request import Attachment, Call
from glassnet.cni.result import Result
from glassnet.net.errors import GlassnetError
from glassnet.netstack.model import Link
from glassnet.netstack.ops import Operation, SetLink

DATA_DIR = "/run/cni/tuning"
ALLOW_LIST = "/etc/cni/tuning/allowlist.conf"
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}").fullmatch


class Conf(NamedTuple):
    """The plugin's keys; None (and "") stands for what is left as it is. `settings`: key as written -> value."""

    settings: Mapping[str, str]
    mac: str
    promisc: bool
    mtu: int | None
    allmulti: bool | None
    queue: int | None
    place: str


def parse(call: Call) -> Conf:
    """Read the configuration; `args.cni` comes before the runtime's MAC, that before CNI_ARGS, and the configuration last. Raises CniError."""
    own, args = call.fields, call.fields.table("args").table("cni")
    mac = own.text("mac")
    for found in (call.args.get("MAC", ""), call.runtime.text("mac"), args.text("mac")):
        mac = found or mac
    if mac and not _MAC(mac):
        raise CniError(INVALID_CONFIG, f"invalid args {mac} for MAC addr: address {mac}: invalid MAC address")
    conf = Conf(
        _settings(own) | _settings(args),
        mac.lower().replace("-", ":"),
        args.flag("promisc", own.flag("promisc")),
        _number(args, "mtu", _number(own, "mtu")) or None,
        _flag(args, "allmulti", _flag(own, "allmulti")),
        _number(args, "txQLen", _number(own, "txQLen")),
        own.text("dataDir") or DATA_DIR,
    )
    own.raw("runtimeConfig")
    own.done()
    return conf


def _settings(fields: Fields) -> dict[str, str]:
    table = fields.table("sysctl")
    return {key: table.text(key) for key in (fields.raw("sysctl") or {})}


def _number(fields: Fields, key: str, default: int | None = None) -> int | None:
    return fields.number(key) if fields.has(key) else default


def _flag(fields: Fields, key: str, default: bool | None = None) -> bool | None:
    return fields.flag(key) if fields.has(key) else default


def setting_of(key: str, ifname: str) -> str:
    """The setting a key means, as effects name it: dots separate, a slash stands for a dot in a part. IFNAME stands for the interface's name.

    As in sysctl(8) the first separator tells which the key is written with. Raises CniError for what is not under net.
    """
    dotted = key.find("/") < 0 or -1 < key.find(".") < key.find("/")
    parts = [part.replace("/", ".") for part in key.split(".")] if dotted else key.split("/")
    if parts[0] != "net" or len(parts) < 2 or not all(part.strip(".") for part in parts):
        raise CniError(INVALID_CONFIG, f'invalid net sysctl key: "{key}"')
    return ".".join(part.replace("IFNAME", ifname).replace(".", "/") for part in parts)


def _allowed(conf: Conf) -> Steps[None]:
    """Every setting is one that the node's administrator allows. Raises CniError."""
    text = (yield from ask(ReadFile(ALLOW_LIST))) if conf.settings else None
    if text is None:
        return
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    try:
        patterns = [re.compile(line) for line in lines]
    except re.error as error:
        raise CniError(OTHER, f"{ALLOW_LIST}: {error.pattern!r}: {error}") from None
    for key in conf.settings:
        if not any(pattern.search(key) for pattern in patterns):
            raise CniError(
                INVALID_CONFIG,
                f"Sysctl {key} is not allowed. Only the following sysctls are allowed: [{' '.join(lines)}]",
                f"{ALLOW_LIST} says so",
            )


# -- what is kept


def backup_path(place: str, container_id: str, ifname: str) -> str:
    """The file that an interface's former attributes are kept in."""
    return f"{place}/{container_id}_{ifname}.json"


def backup(conf: Conf, link: Link) -> dict[str, Any]:
    """What the link is like, as far as the configuration changes it."""
    found: dict[str, Any] = {}
    if conf.mac:
        found["mac"] = link.hardware
    if conf.promisc:
        found["promisc"] = link.promiscuous
    if conf.mtu is not None:
        found["mtu"] = link.mtu
    if conf.allmulti is not None:
        found["allmulti"] = link.all_multicast
    if conf.queue is not None:
        found["txQLen"] = link.queue
    return found


def operations_of(ifname: str, wanted: Mapping[str, Any]) -> list[Operation]:
    """Operations that give a link attributes as the file has them: one each, so that an error tells which was refused."""
    out: list[Operation] = []
    if wanted.get("mtu"):
        out.append(SetLink(ifname, mtu=wanted["mtu"]))
    if wanted.get("mac"):
        out.append(SetLink(ifname, hardware=wanted["mac"]))
    if wanted.get("promisc") is not None:
        out.append(SetLink(ifname, promisc=wanted["promisc"]))
    if wanted.get("allmulti") is not None:
        out.append(SetLink(ifname, allmulti=wanted["allmulti"]))
    if wanted.get("txQLen") is not None:
        out.append(SetLink(ifname, txqlen=wanted["txQLen"]))
    return out


def read_backup(text: str | None) -> dict[str, Any]:
    """What a file says; {} for none, or half a one from a crash."""
    try:
        found = json.loads(text or "")
    except ValueError:
        return {}
    kinds = {"mac": str, "promisc": bool, "mtu": int, "allmulti": bool, "txQLen": int}
    mine = {**kinds, "network": str, "containerID": str, "ifname": str}
    if not isinstance(found, dict):
        return {}
    found = {key: value for key, value in found.items() if key in mine and isinstance(value, mine[key])}
    return {key: value for key, value in found.items() if key != "mac" or _MAC(value)}


# -- ADD


def add(call: Call) -> Steps[Result]:
    """Change settings and interface. Raises CniError; the interface is as it was then, and settings that were written go with the container."""
    conf = parse(call)
    settings = {setting_of(key, call.ifname): value for key, value in conf.settings.items()}
    yield from _allowed(conf)
    result = wiring.previous(call)
    if settings:
        yield from ask(WriteSettings(Where.POD, settings))
    wanted = wanted_of(conf)
    if not wanted:
        return result
    link = yield from ask(FindLink(Where.POD, call.ifname))
    if link is None:
        raise CniError(OTHER, f'failed to get "{call.ifname}": Link not found', f"in {call.netns}")
    path = backup_path(conf.place, call.container_id, call.ifname)
    was = backup(conf, link)
    before = yield from ask(ReadFile(path))
    # a plugin of the same kind that came before in the chain has kept what it changed: that is the older
    kept = {**was, **read_backup(before), "network": call.name, "containerID": call.container_id, "ifname": call.ifname}
    yield from ask(WriteFile(path, json.dumps(kept, indent=1)))
    try:
        yield from wiring.apply(Where.POD, operations_of(call.ifname, wanted))
    except BaseException:
        yield from wiring.tried(
            *(lambda one=one: wiring.apply(Where.POD, [one]) for one in operations_of(call.ifname, was)),
            lambda: ask(RemoveFile(path) if before is None else WriteFile(path, before)),
        )
        raise
    return _told(call, conf, result)


def wanted_of(conf: Conf) -> dict[str, Any]:
    """What is asked for, with the file's keys."""
    wanted = {"mtu": conf.mtu, "mac": conf.mac or None, "promisc": conf.promisc or None}
    wanted |= {"allmulti": conf.allmulti, "txQLen": conf.queue}
    return {key: value for key, value in wanted.items() if value is not None}


def _told(call: Call, conf: Conf, result: Result) -> Result:
    """The result with what has changed of the container's interface."""
    interfaces = tuple(
        one._replace(mac=conf.mac or one.mac, mtu=conf.mtu or one.mtu)
        if one.name == call.ifname and one.sandbox
        else one
        for one in result.interfaces
    )
    return result._replace(interfaces=interfaces)


# -- DEL and GC


def delete(call: Call) -> Steps[None]:
    """Restore the interface, if it is still there. It goes on after a failure, and raises the first."""
    path = backup_path(call.fields.text("dataDir") or DATA_DIR, call.container_id, call.ifname)
    text = yield from ask(ReadFile(path))
    if text is None:
        return
    problem: GlassnetError | None = None
    if call.pod >= 0 and (yield from ask(FindLink(Where.POD, call.ifname))) is not None:
        for operation in operations_of(call.ifname, read_backup(text)):
            try:
                yield from ask(Apply(Where.POD, (operation,)))
            except GlassnetError as error:
                problem = problem or error
    if problem is not None:
        raise problem
    yield from ask(RemoveFile(path))


def collect(call: Call) -> Steps[None]:
    """GC: remove files of this network's containers that are not in the list; the interfaces went with them.

    Files without a network's name are the reference plugin's, and stay. It goes on after a failure, and tells them all. Raises CniError.
    """
    valid = call.valid()
    place = call.fields.text("dataDir") or DATA_DIR
    problems: list[str] = []
    for name in (yield from ask(ListFiles(place))):
        if not name.endswith(".json"):
            continue
        try:
            found = read_backup((yield from ask(ReadFile(f"{place}/{name}"))))
            holder = Attachment(found.get("containerID", ""), found.get("ifname", ""))
            if found.get("network") == call.name and holder not in valid:
                yield from ask(RemoveFile(f"{place}/{name}"))
        except GlassnetError as error:
            problems.append(str(error))
    if problems:
        raise CniError(OTHER, "; ".join(problems))


# -- CHECK and STATUS


def check(call: Call) -> Steps[None]:
    """Settings and interface are as configured. Raises CniError."""
    conf = parse(call)
    wiring.previous(call)
    for key, value in conf.settings.items():
        name = setting_of(key, call.ifname)
        there = yield from ask(ReadSetting(Where.POD, name))
        if there is None or there.split() != value.split():  # the kernel writes tabs between several numbers
            path = "/proc/sys/" + "/".join(part.replace("/", ".") for part in name.split("."))
            raise CniError(OTHER, f"Error: Tuning configured value of {path} is {value}, current value is {there}")
    link = yield from ask(FindLink(Where.POD, call.ifname))
    if link is None:
        raise CniError(OTHER, f"Cannot find container link {call.ifname}", f"in {call.netns}")
    _compare(conf, call.ifname, link)


def _compare(conf: Conf, ifname: str, link: Link) -> None:
    there = backup(conf, link)
    for key, want in wanted_of(conf).items():
        if there[key] == want:
            continue
        if key == "promisc":
            raise CniError(OTHER, f"Error: Tuning link {ifname} configured promisc is true, current value is 0")
        what = {
            "mac": "Ethernet", "mtu": "MTU", "allmulti": "all-multicast mode", "txQLen": "Transmission Queue Length",
        }[key]  # fmt: skip
        words = (json.dumps(one) if isinstance(one, bool) else str(one) for one in (want, there[key]))
        raise CniError(
            OTHER, f"Error: Tuning configured {what} of {ifname} is {next(words)}, current value is {next(words)}"
        )


def status(call: Call) -> Steps[None]:
    """It takes nothing but the container's namespace, and settings that the node allows. Raises CniError."""
    conf = parse(call)
    for key in conf.settings:
        setting_of(key, "eth0")
    yield from _allowed(conf)
