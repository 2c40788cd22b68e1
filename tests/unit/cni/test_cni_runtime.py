"""A runtime's part: configuration files, what each plugin is told, what is kept of an ADD and read again, of other runtimes too."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from carried import Carried
from hypothesis import given
from hypothesis import strategies as st

from glassnet.cni import effects as e
from glassnet.cni import runtime
from glassnet.cni.errors import CniError
from glassnet.cni.result import VERSIONS, Ip
from glassnet.cni.runtime import Container, Network
from glassnet.net.errors import GlassnetError, ParseError

RESULT = {"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.2/24"}], "dns": {}}
C1 = Container(
    "c1", "/run/netns/c1", "eth0", 7, (("K", "V"),), {"portMappings": [{"hostPort": 80}], "ips": ["10.1.0.9"]}
)
PATH = "/var/lib/cni/results/net-c1-eth0"


def network(version: str = "1.1.0", *plugins: dict[str, Any], **more: Any) -> Network:
    """A network of plugins that are not ours, so that each call is one effect."""
    listed = plugins or ({"type": "one", "capabilities": {"portMappings": True, "ips": False}, "x": 1}, {"type": "two"})
    return runtime.parse_network(json.dumps({"cniVersion": version, "name": "net", "plugins": listed, **more}), "f")


class Node(Carried):
    """A node whose files are a dict and whose plugins are all called as programs; `refusing` says which call fails."""

    def __init__(self, files: dict[str, str] | None = None, refusing: set[tuple[str, str]] = frozenset()) -> None:  # type: ignore[assignment]
        super().__init__(
            {
                e.Delegate: self._called,
                e.ReadFile: lambda one: self.files.get(one.path),
                e.WriteFile: lambda one: self.files.__setitem__(one.path, one.text),
                e.RemoveFile: lambda one: self.files.pop(one.path, None) and None,
                e.ListFiles: lambda one: tuple(sorted(path.rpartition("/")[2] for path in self.files)),
            }
        )
        self.files, self._refusing = dict(files or {}), refusing
        self.calls: list[e.Delegate] = []

    def _called(self, one: e.Delegate) -> dict[str, Any]:
        self.calls.append(one)
        if (one.plugin, one.command) in self._refusing:
            raise CniError(999, f"{one.plugin} refuses {one.command}")
        return RESULT if one.command == "ADD" else {}

    @property
    def said(self) -> list[str]:
        return [f"{one.plugin} {one.command}" for one in self.calls]


# -- configuration files


def test_a_list_and_a_single_plugin() -> None:
    made = network(disableCheck="TRUE", disableGC=False)
    assert (made.version, made.name, [one["type"] for one in made.plugins]) == ("1.1.0", "net", ["one", "two"])
    assert (
        (made.check, made.collect) == (False, True) and made.plugin("two") == {"type": "two"} and made.plugin("x") == {}
    )
    single = runtime.parse_network('{"name": "net", "type": "bridge", "mtu": 9}', "f")
    assert single.version == "0.1.0" and single.plugins == ({"name": "net", "type": "bridge", "mtu": 9},)


@pytest.mark.parametrize(
    ("version", "offered", "chosen"),
    [
        ("0.4.0", ["0.3.1", "1.0.0"], "1.0.0"),
        ("1.1.0", ["0.3.1"], "1.1.0"),
        ("9.0.0", ["0.3.1", "8.0.0"], "0.3.1"),
        ("0.4.0", [], "0.4.0"),
    ],
)
def test_the_newest_version_that_there_is_here(version: str, offered: list[str], chosen: str) -> None:
    assert network(version, cniVersions=offered).version == chosen


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": "n",\n "plugins": 5}', 'f:2: "plugins": 5: want a list'),
        ('{"name": "n",\n "plugins": []}', 'f:2: "plugins": the list has no plugin'),
        ('{"name": "n", "plugins": ["x"]}', '"plugins": "x": want an object'),
        ('{"name": "n", "plugins": [{}]}', '"type": null: want the name of a plugin'),
        ('{"name": "n", "type": "a/b"}', '"type": "a/b": want the name of a plugin'),
        ('{"name": "n", "type": "a", "capabilities": {"ips": "yes"}}', '"capabilities.ips": "yes": want true or false'),
        ('{"name": "n", "type": "a", "capabilities": []}', '"capabilities": []: want an object'),
        ('{"name": "../n", "type": "a"}', '"name": "../n": want letters, digits and _.-'),
        ('{"name": "n\\u0000", "type": "a"}', "without NUL"),
        ('{"type": "a"}', '"name": the network has no name'),
        ('{"name": "n", "type": "a", "cniVersion": "9"}', '"cniVersion": 9 is not one of'),
        ('{"name": "n", "type": "a", "disableCheck": "x"}', '"disableCheck": "x": want true or false'),
        ("[]", "want a JSON object"),
        ('{\n"a" 1}', "f:2:5: "),
    ],
)
def test_bad_files_are_named_with_line_and_key(text: str, words: str) -> None:
    with pytest.raises(ParseError) as caught:
        runtime.parse_network(text, "f")
    assert words in str(caught.value) and str(caught.value).startswith("f:")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [(["99-l.conf", "10-b.conf"], "10-b.conf"), (["b.conflist", "a.conf", "0.txt"], "a.conf"), (["x.json"], "x.json"), (["README"], None)],
)  # fmt: skip
def test_the_file_is_the_first_by_name(names: list[str], chosen: str | None) -> None:
    assert runtime.choose_file(names) == chosen


# -- calls


def test_add_hands_each_plugin_the_result_before_and_keeps_the_last() -> None:
    node = Node()
    assert node.run(runtime.add(network(), C1)).ips == (Ip("10.1.0.2/24"),)
    first, second = (one.config for one in node.calls)
    assert (
        first["runtimeConfig"] == {"portMappings": [{"hostPort": 80}]} and first["x"] == 1
    )  # ips: capability switched off
    assert "prevResult" not in first and second["prevResult"] == RESULT and "runtimeConfig" not in second
    assert (first["name"], second["cniVersion"], second["type"]) == ("net", "1.1.0", "two")
    kept = json.loads(node.files[PATH])
    assert (kept["kind"], kept["containerId"], kept["ifName"], kept["networkName"]) == (
        "cniCacheV1",
        "c1",
        "eth0",
        "net",
    )
    assert (kept["netns"], kept["cniArgs"], kept["result"]) == ("/run/netns/c1", [["K", "V"]], RESULT)
    assert base64.b64decode(kept["config"]).decode() == network().text and kept["capabilityArgs"] == C1.capabilities


def test_a_failed_add_is_taken_down_in_reverse() -> None:
    node = Node(refusing={("two", "ADD"), ("two", "DEL")})
    with pytest.raises(CniError, match="two refuses ADD"):
        node.run(runtime.add(network(), C1))
    assert node.said == ["one ADD", "two ADD", "two DEL", "one DEL"] and node.files == {}
    assert node.calls[-1].config["prevResult"] == RESULT


@pytest.mark.parametrize("version", VERSIONS)
def test_del_and_check_get_the_kept_result_by_version(version: str) -> None:
    node, net = Node(), network(version)
    node.run(runtime.add(net, C1))
    kept = runtime.read_kept(node.files[PATH])
    assert kept is not None and kept.container == C1._replace(pod=-1)
    node.calls.clear()
    if version in ("0.1.0", "0.2.0", "0.3.0", "0.3.1"):
        with pytest.raises(CniError, match=f"configuration version {version} does not support the CHECK command"):
            node.run(runtime.check(C1, kept))
        assert node.calls == []
    else:
        node.run(runtime.check(C1, kept))
        assert node.said == ["one CHECK", "two CHECK"]
        assert all(one.config["prevResult"]["cniVersion"] == version for one in node.calls)
    node.calls.clear()
    node.run(runtime.delete(Container("c1", "", "eth0"), "net"))
    assert node.said == ["two DEL", "one DEL"] and node.files == {}
    assert node.calls[1].config["runtimeConfig"] == {"portMappings": [{"hostPort": 80}]}  # as ADD had it
    for one in node.calls:
        assert ("prevResult" in one.config) == (version in ("0.4.0", "1.0.0", "1.1.0"))
    node.run(runtime.delete(C1, "net"))  # once more: nothing is known, nothing is done
    assert len(node.calls) == 2


def test_disable_check() -> None:
    node, net = Node(), network(disableCheck=True)
    node.run(runtime.add(net, C1))
    kept = runtime.read_kept(node.files[PATH])
    node.calls.clear()
    assert kept is not None and node.run(runtime.check(C1, kept)) is None and node.calls == []


def test_del_goes_on_after_an_error_and_keeps_what_it_knows() -> None:
    node = Node()
    node.run(runtime.add(network(), C1))
    failing = Node(node.files, {("two", "DEL")})
    with pytest.raises(GlassnetError, match="two refuses DEL"):
        failing.run(runtime.delete(C1, "net"))
    assert failing.said == ["two DEL", "one DEL"] and PATH in failing.files
    again = Node(failing.files)
    again.run(runtime.delete(C1, "net"))
    assert again.files == {}


def test_status_since_1_1_0() -> None:
    node = Node(refusing={("two", "STATUS")})
    node.run(runtime.status(network("1.0.0")))
    assert node.calls == []
    with pytest.raises(CniError, match="two refuses STATUS"):
        node.run(runtime.status(network()))


def test_gc_takes_down_what_is_not_valid_and_calls_the_plugins() -> None:
    node = Node()
    for name in ("c1", "c2", "c3"):
        node.run(runtime.add(network(), C1._replace(container_id=name)))
    node.files["/var/lib/cni/results/other-c1-eth0"] = node.files[PATH].replace(
        '"networkName": "net"', '"networkName": "other"'
    )
    node.files["/var/lib/cni/results/half"] = '{"kind": "cniCac'
    other = Node(node.files, {("one", "DEL"), ("one", "GC")})
    problems = other.run(runtime.collect(network(), [C1]))
    assert problems == ["one refuses DEL", "one refuses DEL", "one refuses GC"]
    assert other.said == ["two DEL", "one DEL", "two DEL", "one DEL", "one GC", "two GC"]
    valid = [{"containerID": "c1", "ifname": "eth0"}]
    assert other.calls[-1].config["cni.dev/valid-attachments"] == other.calls[-1].config["cni.dev/attachments"] == valid
    again = Node(other.files)
    assert again.run(runtime.collect(network(), [C1])) == []
    assert sorted(path.rpartition("/")[2] for path in again.files) == ["half", "net-c1-eth0", "other-c1-eth0"]


def test_gc_of_old_versions_and_switched_off() -> None:
    for net, said in ((network("1.0.0"), ["two DEL", "one DEL"]), (network(disableGC="true"), [])):
        node = Node()
        node.run(runtime.add(net, C1))
        node.calls.clear()
        assert node.run(runtime.collect(net, [])) == [] and node.said == said


# -- what other runtimes have kept

PODMAN = {
    "cniVersion": "0.4.0", "name": "foo", "plugins": [
        {"type": "bridge", "bridge": "cni-podman1", "isGateway": True, "ipMasq": True, "hairpinMode": True,
         "ipam": {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}], "ranges": [[{"subnet": "10.89.0.0/24"}]]},
         "capabilities": {"ips": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}  # fmt: skip


def kept_by_libcni(**changes: Any) -> str:
    """As libcni 1.1 writes it for podman 4.3: compact, Go's escapes."""
    body = {
        "kind": "cniCacheV1", "containerId": "f00", "config": base64.b64encode(json.dumps(PODMAN).encode()).decode(),
        "ifName": "eth0", "networkName": "foo", "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAME", "web"]],
        "capabilityArgs": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]},
        "result": {"cniVersion": "0.4.0", "dns": {}, "interfaces": [{"name": "cni-podman1", "mac": "aa:bb:cc:dd:ee:ff"}],
                   "ips": [{"version": "4", "address": "10.89.0.2/24", "gateway": "10.89.0.1"}]},
        **changes,
    }  # fmt: skip
    return json.dumps(body, separators=(",", ":"))


def test_a_result_kept_by_libcni() -> None:
    kept = runtime.read_kept(kept_by_libcni())
    assert kept is not None
    assert (kept.network.name, kept.network.version, len(kept.network.plugins)) == ("foo", "0.4.0", 2)
    assert kept.container == Container(
        "f00", "", "eth0", -1, (("IgnoreUnknown", "1"), ("K8S_POD_NAME", "web")),
        {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]},
    )  # fmt: skip
    assert kept.result["ips"] == [{"version": "4", "address": "10.89.0.2/24", "gateway": "10.89.0.1"}]


def test_a_kept_result_of_another_version_is_converted() -> None:
    kept = runtime.read_kept(kept_by_libcni(result={"cniVersion": "1.0.0", "ips": [{"address": "10.89.0.2/24"}]}))
    assert kept is not None and kept.result["ips"] == [{"version": "4", "address": "10.89.0.2/24"}]


def test_a_result_alone_as_runtimes_kept_it_before() -> None:
    old = json.dumps({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.0.2/24"}], "dns": {}})
    assert runtime.read_kept(old) is None
    node = Node({PATH: old})
    node.run(runtime.delete(C1, "net", network("0.4.0")))
    assert node.said == ["two DEL", "one DEL"] and node.files == {}
    assert node.calls[0].config["prevResult"]["ips"] == [{"version": "4", "address": "10.1.0.2/24"}]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "5", '"x"', "null", "{}", kept_by_libcni(config="!"), kept_by_libcni(config="e30="), kept_by_libcni(containerId=5),
        kept_by_libcni(containerId="../x"), kept_by_libcni(networkName="../x"), kept_by_libcni(cniArgs=5), kept_by_libcni(cniArgs=[["x"]]),
        kept_by_libcni(capabilityArgs=["x"]), "[" * 100_000,
    ],
)  # fmt: skip
def test_rubbish_is_not_taken_for_a_kept_result(text: str) -> None:
    assert runtime.read_kept(text) is None


@pytest.mark.parametrize("result", [None, [], "x", {"ips": 5}, {"cniVersion": "9"}])
def test_a_kept_network_without_a_result_that_can_be_read(result: Any) -> None:
    kept = runtime.read_kept(kept_by_libcni(result=result))
    assert kept is not None and kept.result == {}


values = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=2) | st.just({})


@given(
    st.dictionaries(
        st.sampled_from(["config", "containerId", "ifName", "networkName", "cniArgs", "result", "netns"]), values
    )
)
def test_any_change_to_a_kept_result_is_survived(changes: dict[str, Any]) -> None:
    runtime.read_kept(kept_by_libcni(**changes))


@given(
    st.recursive(
        values,
        lambda x: st.dictionaries(
            st.sampled_from(["name", "plugins", "type", "capabilities"]), x | st.lists(x, max_size=2), max_size=4
        ),
    )
)
def test_any_file_is_a_network_or_a_parse_error(body: Any) -> None:
    with contextlib.suppress(ParseError):
        runtime.parse_network(json.dumps(body), "f")
