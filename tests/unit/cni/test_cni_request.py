"""What a runtime asks: the order of checks, codes and texts of the reference library."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from carried import ENVIRONMENT, call
from hypothesis import given
from hypothesis import strategies as st

from glassnet.cni.errors import CniError
from glassnet.cni.plugins import PLUGINS, answer
from glassnet.cni.request import VERSIONS, Attachment, read_args, read_call, written_version

CONF = {"cniVersion": "1.0.0", "name": "net", "type": "bridge"}


def refused(environment: dict[str, str], text: str) -> CniError:
    with pytest.raises(CniError) as caught:
        read_call("bridge", environment, text)
    return caught.value


def test_a_whole_call() -> None:
    made = call({"type": "bridge", "prevResult": None}, "bridge", CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAME=a=b;")
    assert (made.command, made.attachment, made.name, made.version) == ("ADD", Attachment("c1", "eth0"), "net", "1.1.0")
    assert made.args == {"IgnoreUnknown": "1", "K8S_POD_NAME": "a=b"} and made.previous is None


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": "", "CNI_PATH": ""}, 4,
         "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing"),
        ({"CNI_COMMAND": "DEL", "CNI_NETNS": "", "CNI_PATH": ""}, 4, "required env variables [CNI_PATH] missing"),
        ({"CNI_COMMAND": "GC", "CNI_CONTAINERID": "-", "CNI_PATH": ""}, 4, "required env variables [CNI_PATH] missing"),
        ({"CNI_COMMAND": ""}, 4, "required env variables [CNI_COMMAND] missing"),
        ({"CNI_CONTAINERID": "../x"}, 4, "invalid characters in containerID"),
        ({"CNI_CONTAINERID": "c1\n"}, 4, "invalid characters in containerID"),
        ({"CNI_CONTAINERID": "-c"}, 4, "invalid characters in containerID"),
        ({"CNI_CONTAINERID": "c\udcff"}, 4, "invalid characters in containerID"),
        ({"CNI_IFNAME": "a234567890123456"}, 4, "interface name is too long"),
        ({"CNI_IFNAME": "äääääääö"}, 4, "interface name is too long"),
        ({"CNI_IFNAME": ".."}, 4, "interface name is . or .."),
        ({"CNI_IFNAME": "a/b"}, 4, "interface name contains / or : or whitespace characters"),
        ({"CNI_IFNAME": "a b"}, 4, "interface name contains / or : or whitespace characters"),
        ({"CNI_IFNAME": "a\u00a0b"}, 4, "interface name contains / or : or whitespace characters"),
        ({"CNI_IFNAME": "a\udcff"}, 4, "interface name is not UTF-8"),
        ({"CNI_ARGS": "a"}, 4, 'CNI_ARGS: invalid pair "a"'),
    ],
)  # fmt: skip
def test_environments(change: dict[str, str], code: int, words: str) -> None:
    error = refused({**ENVIRONMENT, **change}, json.dumps(CONF))
    assert (error.code, error.message) == (code, words)


def test_the_order_is_names_then_missing_then_text_then_network_then_command_then_version() -> None:
    bad = {**ENVIRONMENT, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "..", "CNI_PATH": ""}
    assert refused(bad, "{").message == "invalid characters in containerID"
    bad["CNI_CONTAINERID"] = "c1"
    assert refused(bad, "{").message == "required env variables [CNI_PATH] missing"
    bad = {"CNI_COMMAND": "FOO", "CNI_CONTAINERID": ".."}
    assert refused(bad, "{").code == 6
    assert refused(bad, '{"cniVersion": "9"}').message == "missing network name"
    assert refused(bad, '{"cniVersion": "9", "name": "n"}').message == "unknown CNI_COMMAND: FOO"
    bad["CNI_COMMAND"], bad["CNI_PATH"] = "STATUS", "/"
    assert refused(bad, '{"cniVersion": "9", "name": "n"}').code == 1


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", 6, "error unmarshall network config: standard input:1:1: Expecting value"),
        ('{"name": "n",\n "type": }', 6, "error unmarshall network config: standard input:2:10: Expecting value"),
        ("[]", 6, "error unmarshall network config: []: want a JSON object"),
        ("[" * 100_000, 6, "error unmarshall network config: too many brackets inside each other"),
        ('{"a": ' + "9" * 5000 + "}", 6, "error unmarshall network config: Exceeds the limit"),
        ("\ufeff{}", 6, "error unmarshall network config: standard input:1:1: Unexpected UTF-8 BOM"),
        ("{}", 7, "missing network name"),
        ('{"name": 5}', 7, '"name": 5: want a string'),
        ('{"name": "../x"}', 7, "invalid characters found in network name"),
        ('{"name": "a\\u0000b"}', 7, '"name": "a\\u0000b": want a string without NUL'),
        ('{"name": "a\ufffd"}', 7, "invalid characters found in network name"),
        ('{"name": "n", "cniVersion": "9.0.0"}', 1, "incompatible CNI versions"),
        ('{"name": "n", "cniVersion": 1}', 7, '"cniVersion": 1: want a string'),
        ('{"name": "n", "prevResult": []}', 6, "could not parse prevResult: []: want an object"),
        ('{"name": "n", "prevResult": {"cniVersion": "9.9.9"}}', 1, 'could not parse prevResult: its version is "9.9.9"'),
        ('{"name": "n", "cniVersion": "1.0.0", "prevResult": {"ips": [{"address": "bad"}]}}', 6,
         'could not parse prevResult: "prevResult.ips.address": "bad": want an address with a prefix length'),
        ('{"name": "n", "cniVersion": "1.0.0", "prevResult": {"ips": [{"address": "10.0.0.1/24", "interface": 3}]}}', 6,
         'could not parse prevResult: "prevResult.ips.interface": 3: there are 0 interfaces'),
    ],
)  # fmt: skip
def test_configurations(text: str, code: int, words: str) -> None:
    error = refused(ENVIRONMENT, text)
    assert error.code == code and error.message.startswith(words), error.message


def test_an_unknown_version_names_those_there_are() -> None:
    error = refused(ENVIRONMENT, '{"name": "n", "cniVersion": "9.0.0"}')
    listed = " ".join(f'"{version}"' for version in VERSIONS)
    assert error.details == f'config is "9.0.0", plugin supports [{listed}]'


@pytest.mark.parametrize(("command", "since"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")])
def test_commands_by_version(command: str, since: str) -> None:
    for version in VERSIONS:
        text, environment = json.dumps({**CONF, "cniVersion": version}), {**ENVIRONMENT, "CNI_COMMAND": command}
        if VERSIONS.index(version) < VERSIONS.index(since):
            error = refused(environment, text)
            assert (error.code, error.message) == (1, f"config version does not allow {command}")
        else:
            assert read_call("bridge", environment, text).version == version


def test_without_a_version_it_is_the_first() -> None:
    assert read_call("bridge", ENVIRONMENT, '{"name": "n"}').version == "0.1.0"


@pytest.mark.parametrize("body", [[], "x", {"cniVersion": "9"}, {"ips": [{}]}, {"ips": 5}])
def test_del_takes_a_bad_previous_result_for_none(body: Any) -> None:
    assert call({"prevResult": body}, command="DEL", CNI_ARGS="rubbish;IP=1.2.3.4").previous is None
    assert call({}, command="DEL", CNI_ARGS="rubbish;IP=1.2.3.4").args == {"IP": "1.2.3.4"}


def test_the_valid_list_under_either_name() -> None:
    entry = {"containerID": "c1", "ifname": "eth0"}
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        assert call({key: [entry]}, command="GC").valid() == {Attachment("c1", "eth0")}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"cni.dev/valid-attachments": None},
        {"cni.dev/valid-attachments": {}},
        {"cni.dev/valid-attachments": [{"containerID": "c1"}]},
        {"cni.dev/valid-attachments": [{"ifname": "eth0"}]},
        {"cni.dev/valid-attachments": [{"containerID": 1, "ifname": "eth0"}]},
        {"cni.dev/valid-attachments": ["c1"]},
    ],
)
def test_nothing_is_taken_away_without_an_exact_list(given: dict[str, Any]) -> None:
    with pytest.raises(CniError) as caught:
        call(given, command="GC").valid()
    assert caught.value.code == 7


@pytest.mark.parametrize(
    ("text", "version"),
    [("", "1.1.0"), ("[]", "1.1.0"), ('{"cniVersion": "0.4.0"}', "0.4.0"), ('{"cniVersion": []}', "1.1.0"), ('{"cniVersion": "7"}', "1.1.0")],
)  # fmt: skip
def test_errors_are_written_in_the_callers_version(text: str, version: str) -> None:
    assert written_version(text) == version


def test_version_needs_nothing() -> None:
    for plugin in PLUGINS:
        with pytest.raises(StopIteration) as done:
            next(answer(plugin, {"CNI_COMMAND": "VERSION"}, ""))
        assert done.value.value["supportedVersions"] == list(VERSIONS)


@given(st.text())
def test_args_are_read_or_refused(text: str) -> None:
    try:
        read_args(text)
    except CniError as error:
        assert error.code == 4
    read_args(text, lenient=True)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["10.0.0.1/24", "::1", "1.1.0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "type", "ipam", "ips", "subnet", "address"]) | st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(
    st.fixed_dictionaries(
        {"name": st.just("net") | json_values},
        optional={
            "cniVersion": st.sampled_from(VERSIONS) | json_values,
            "prevResult": json_values,
            "ipam": json_values,
            "args": json_values,
            "runtimeConfig": json_values,
            "cni.dev/valid-attachments": json_values,
        },
    ),
    st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS"]),
    st.sampled_from(sorted(PLUGINS)),
)
def test_no_configuration_brings_a_plugin_down(conf: dict[str, Any], command: str, plugin: str) -> None:
    """Up to its first effect a plugin ends with nothing but a CniError."""
    with contextlib.suppress(CniError, StopIteration):
        next(answer(plugin, {**ENVIRONMENT, "CNI_COMMAND": command}, json.dumps(conf), pod=7))
