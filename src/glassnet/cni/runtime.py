"""The other side of CNI: what a runtime makes of a network's configuration file. A network is a list of plugins; each sees the result of the one before.

Source: CNI SPEC.md, "Section 1: Network configuration format", "Section 4: Plugin Delegation"; containernetworking/cni, libcni (results are
kept in /var/lib/cni/results, as the kinds of file named there).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from glassnet.cni import plugins
from glassnet.cni.effects import Delegate, ListFiles, ReadFile, RemoveFile, Steps, WriteFile, ask
from glassnet.cni.errors import INCOMPATIBLE_VERSION, CniError, ConfigError
from glassnet.cni.fields import Fields, shown
from glassnet.cni.request import Attachment, is_name, read_call
from glassnet.cni.result import VERSIONS, Result, parse_result, render_result
from glassnet.net.errors import GlassnetError, ParseError

SUFFIXES = (".conf", ".conflist", ".json")
RESULTS = "/var/lib/cni/results"
PLUGIN_PATH = "/opt/cni/bin"


class Network(NamedTuple):
    """A network as its file has it; a single plugin's configuration is a list of one. `text` is the file's."""

    version: str
    name: str
    plugins: tuple[Mapping[str, Any], ...]
    text: str
    check: bool = True
    collect: bool = True

    def plugin(self, type: str) -> Mapping[str, Any]:
        """The configuration of the first plugin of a type; empty when there is none."""
        return next((one for one in self.plugins if one.get("type") == type), {})


class Container(NamedTuple):
    """What a runtime says of one attachment: `netns` is a path on the node, `pod` a descriptor (-1: gone), `arguments` become CNI_ARGS.

    With `programs` plugins that we have ourselves are called as programs, too.
    """

    container_id: str
    netns: str
    ifname: str = "eth0"
    pod: int = -1
    arguments: tuple[tuple[str, str], ...] = ()
    capabilities: Mapping[str, Any] = {}
    programs: bool = False

    @property
    def attachment(self) -> Attachment:
        return Attachment(self.container_id, self.ifname)


def choose_file(names: Iterable[str]) -> str | None:
    """The configuration a runtime takes from a directory: the first by name with a known suffix."""
    return min((name for name in names if name.endswith(SUFFIXES)), default=None)


def parse_network(text: str, source: str) -> Network:
    """Read a network's configuration file. Raises ParseError naming file, line and key."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise ParseError(error.msg, source, error.lineno, error.colno) from None
    if not isinstance(whole, dict):
        raise ParseError("want a JSON object", source, 1)
    fields = Fields(whole)
    try:
        return _network(fields, whole, text)
    except ConfigError as error:
        raise located(error, text, source) from None


def _network(fields: Fields, whole: Mapping[str, Any], text: str) -> Network:
    version, name = _version(fields), fields.text("name")
    if not is_name(name):
        raise fields.error(
            "name", f"{shown(name)}: want letters, digits and _.-" if name else "the network has no name"
        )
    listed = fields.items("plugins") if fields.has("plugins") else [whole]
    if not listed:
        raise fields.error("plugins", "the list has no plugin")
    for one in listed:
        plugin = fields if one is whole else fields.entry("plugins", one)
        kind, capabilities = plugin.text("type"), plugin.table("capabilities")
        if not kind or "/" in kind:
            raise fields.error("type", f"{shown(one.get('type'))}: want the name of a plugin")
        for name_of in one.get("capabilities") or ():
            capabilities.flag(name_of)
    return Network(
        version, name, tuple(listed), text, not _truth(fields, "disableCheck"), not _truth(fields, "disableGC")
    )


def _newer(version: str, since: str) -> bool:
    return VERSIONS.index(version) >= VERSIONS.index(since)


def _version(fields: Fields) -> str:
    """The newest of `cniVersions` and `cniVersion` that there is here."""
    version = fields.text("cniVersion", VERSIONS[0])
    offered = [one for one in [*fields.texts("cniVersions"), version] if one in VERSIONS]
    if not offered:
        raise fields.error("cniVersion", f"{version} is not one of {', '.join(VERSIONS)}")
    return max(offered, key=VERSIONS.index)


def _truth(fields: Fields, key: str) -> bool:
    """A flag that may be text, as these two may."""
    value = fields.raw(key)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return fields.flag(key)


def located(error: ConfigError, text: str, source: str) -> ParseError:
    """The error with the line of the file that its key stands in."""
    position = text.find(f'"{error.key.rpartition(".")[2]}"')
    return ParseError(str(error), source, text.count("\n", 0, position) + 1 if position >= 0 else 1)


# -- calls


def _config(
    network: Network, plugin: Mapping[str, Any], container: Container, more: Mapping[str, Any]
) -> dict[str, Any]:
    config = {**plugin, "name": network.name, "cniVersion": network.version, **more}
    able = {
        name: container.capabilities[name]
        for name, wanted in (plugin.get("capabilities") or {}).items()
        if wanted and name in container.capabilities
    }
    return {**config, "runtimeConfig": able} if able else config


def _call(
    network: Network, plugin: Mapping[str, Any], command: str, container: Container, more: Mapping[str, Any]
) -> Steps[dict[str, Any] | None]:
    kind, config = str(plugin["type"]), _config(network, plugin, container, more)
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container.container_id,
        "CNI_NETNS": container.netns,
        "CNI_IFNAME": container.ifname,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in container.arguments),
        "CNI_PATH": PLUGIN_PATH,
    }
    if container.programs or kind not in plugins.PLUGINS:
        return (yield from ask(Delegate(kind, command, config, environment)))
    call = read_call(kind, environment, json.dumps(config), container.pod)
    return (yield from plugins.perform(call))


def add(network: Network, container: Container) -> Steps[Result]:
    """ADD of every plugin in order, the result kept for the calls to come. Raises GlassnetError; nothing is left then."""
    answer: dict[str, Any] | None = None
    try:
        for plugin in network.plugins:
            more = {"prevResult": answer} if answer else {}
            answer = (yield from _call(network, plugin, "ADD", container, more)) or answer
        yield from ask(WriteFile(_path(network.name, container.attachment), _kept(network, container, answer or {})))
    except BaseException:
        yield from _take_down(network, container, answer)
        raise
    return parse_result(answer or {}, network.version)


def _take_down(network: Network, container: Container, answer: Mapping[str, Any] | None) -> Steps[GlassnetError | None]:
    """DEL of every plugin in reverse order; the first error, after all have been tried."""
    problem: GlassnetError | None = None
    for plugin in reversed(network.plugins):
        more = {"prevResult": answer} if answer and _newer(network.version, "0.4.0") else {}
        try:
            yield from _call(network, plugin, "DEL", container, more)
        except GlassnetError as error:
            problem = problem or error
    return problem


def delete(container: Container, network: str, fallback: Network | None = None) -> Steps[None]:
    """DEL as ADD kept it; idempotent. Without a kept result `fallback` says which plugins there are. Raises GlassnetError."""
    path = _path(network, container.attachment)
    text = (yield from ask(ReadFile(path))) or ""
    kept = read_kept(text, fallback, container)
    known = kept.network if kept else fallback
    if kept is not None:  # plugins get what they got at ADD
        container = container._replace(arguments=kept.container.arguments, capabilities=kept.container.capabilities)
    if known is not None:
        if kept is not None:
            given = kept.container
            container = container._replace(
                arguments=container.arguments or given.arguments,
                capabilities=container.capabilities or given.capabilities,
            )
        problem = yield from _take_down(known, container, kept.result if kept else None)
        if problem is not None:
            raise problem
    yield from ask(RemoveFile(path))


def check(container: Container, kept: Kept) -> Steps[None]:
    """CHECK of every plugin against the kept result. Raises GlassnetError, also for a version that has no CHECK."""
    if not _newer(kept.network.version, "0.4.0"):
        raise CniError(
            INCOMPATIBLE_VERSION, f"configuration version {kept.network.version} does not support the CHECK command"
        )
    if kept.network.check:
        for plugin in kept.network.plugins:
            yield from _call(kept.network, plugin, "CHECK", container, {"prevResult": kept.result})


def status(network: Network) -> Steps[None]:
    """STATUS of every plugin, since 1.1.0; an older network is taken for ready. Raises CniError."""
    for plugin in network.plugins if _newer(network.version, "1.1.0") else ():
        yield from _call(network, plugin, "STATUS", Container("", ""), {})


def collect(network: Network, valid: Sequence[Container]) -> Steps[list[str]]:
    """GC: DEL of what was kept and is not in the list, then GC of every plugin. It goes on after errors and gives them all.

    A network with disableGC is left alone: others may share its addresses and interfaces.
    """
    problems: list[str] = []
    if not network.collect:
        return problems
    keep = {one.attachment for one in valid}
    for kept in (yield from list_kept()):
        if kept.network.name == network.name and kept.container.attachment not in keep:
            try:
                yield from delete(kept.container, network.name)
            except GlassnetError as error:
                problems.append(str(error))
    if _newer(network.version, "1.1.0"):
        entries = [{"containerID": one.container_id, "ifname": one.ifname} for one in valid]
        more = {
            "cni.dev/valid-attachments": entries,
            "cni.dev/attachments": entries,
        }  # the latter for plugins of before 1.1.0 was final
        for plugin in network.plugins:
            try:
                yield from _call(network, plugin, "GC", Container("", ""), more)
            except GlassnetError as error:
                problems.append(str(error))
    return problems


# -- what is kept of an ADD


class Kept(NamedTuple):
    """A result as libcni keeps it, with what DEL takes."""

    network: Network
    container: Container
    result: dict[str, Any]


def _path(network: str, attachment: Attachment) -> str:
    return f"{RESULTS}/{network}-{attachment.container_id}-{attachment.ifname}"


def _kept(network: Network, container: Container, result: Mapping[str, Any]) -> str:
    body = {
        "kind": "cniCacheV1",
        "containerId": container.container_id,
        "config": base64.b64encode(network.text.encode()).decode(),
        "ifName": container.ifname,
        "networkName": network.name,
        "netns": container.netns,
        **({"cniArgs": container.arguments} if container.arguments else {}),
        **({"capabilityArgs": container.capabilities} if container.capabilities else {}),
        "result": result,
    }
    return json.dumps(body)


def read_kept(text: str, older: Network | None = None, whose: Container | None = None) -> Kept | None:
    """A kept result; None for none, or half a one from a crash.

    Runtimes before libcni 0.8 kept the result alone, which says nothing of network and container: `older` and `whose` tell those.
    """
    try:
        body = json.loads(text)
        if "kind" not in body and "config" not in body:
            return Kept(older, whose, _result(body, older.version)) if older and whose else None
        network = parse_network(base64.b64decode(body["config"]).decode(), body["networkName"])
        capabilities = body.get("capabilityArgs") or {}
        if not (is_name(body["networkName"]) and is_name(body["containerId"]) and isinstance(capabilities, dict)):
            return None
        container = Container(
            body["containerId"],
            str(body.get("netns") or ""),
            str(body["ifName"]),
            -1,
            tuple((str(key), str(value)) for key, value in body.get("cniArgs") or ()),
            capabilities,
        )
        return Kept(network._replace(name=body["networkName"]), container, _result(body.get("result"), network.version))
    except (ValueError, KeyError, TypeError, RecursionError, GlassnetError):
        return None


def _result(body: Any, version: str) -> dict[str, Any]:
    """A kept result in the network's version, whatever it was kept in; empty when there is none that can be read."""
    try:
        return render_result(parse_result(body, version), version) if isinstance(body, dict) and body else {}
    except CniError:
        return {}


def list_kept() -> Steps[list[Kept]]:
    """Every kept result of the node."""
    found = []
    for name in (yield from ask(ListFiles(RESULTS))):
        kept = read_kept((yield from ask(ReadFile(f"{RESULTS}/{name}"))) or "")
        if kept is not None:
            found.append(kept)
    return found
