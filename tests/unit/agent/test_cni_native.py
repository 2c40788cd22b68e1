"""The plugins' native program: its instructions are those of its source, and it does what the script of other processors does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from glassnet.agent.cni import native as cni_native
from glassnet.agent.cni import programs as cni_shim

KINDS = [
    "other",
    *([cni_native.MACHINE] if os.uname().machine == cni_native.MACHINE else []),
]  # the script runs on every processor


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind == cni_native.MACHINE])
def test_the_instructions_are_those_of_the_source(kind: str, tmp_path: Path) -> None:
    source = Path(str(cni_native.__file__)).with_name("call.s")
    subprocess.run(["as", "-o", tmp_path / "call.o", source], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", tmp_path / "call.o", tmp_path / "call"], check=True)
    assert (tmp_path / "call").read_bytes() == cni_native.CODE


class Program:
    """A plugin's program and the agent it looks for."""

    def __init__(self, place: Path, kind: str) -> None:
        self.path, self.socket = place / "bridge", str(place / "agent")
        self.path.write_bytes(cni_shim.program("bridge", self.socket, kind))
        self.path.chmod(0o755)
        self.agent = socket.socket(socket.AF_UNIX)
        self.agent.settimeout(10)

    def listen(self) -> None:
        self.agent.bind(self.socket)
        self.agent.listen()

    def start(self, *more: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.path, *more], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def called(self) -> tuple[socket.socket, bytes, list[int]]:
        """A call that has come: the connection, all it sent, the descriptors."""
        connection, _ = self.agent.accept()
        connection.settimeout(10)
        data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 8)
        while more := connection.recv(1 << 16):
            data += more
        return connection, data, descriptors


@pytest.fixture(params=KINDS)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Program:
    return Program(tmp_path, request.param)


def test_a_call_is_handed_over(program: Program) -> None:
    program.listen()
    large = "x" * 120_000
    netns = "/proc/self/ns/net"
    running = program.start(FIRST="1", CNI_COMMAND="ADD", CNI_NETNS=netns, CNI_ARGS=large[:100_000], LAST="z")
    connection, data, descriptors = program.called()
    name, *pairs, end = data.split(b"\0")
    assert (name, end) == (b"bridge", b"")
    wanted = {b"FIRST=1", b"CNI_COMMAND=ADD", b"CNI_NETNS=" + netns.encode(), b"CNI_ARGS=" + b"x" * 100_000, b"LAST=z"}
    assert wanted <= set(pairs)
    here = os.stat(netns).st_ino
    assert len(descriptors) == 3 and [os.fstat(each).st_ino for each in descriptors[1:]] == [here, here]
    assert running.stdin is not None
    running.stdin.write(b"the configuration")
    running.stdin.close()
    assert os.read(descriptors[0], 100) == b"the configuration"
    connection.sendall(b"0" + large.encode())
    connection.close()
    assert running.stdout is not None
    assert running.stdout.read() == large.encode() and running.wait(10) == 0
    for each in descriptors:
        os.close(each)


@pytest.mark.parametrize("environment", [{}, {"CNI_NETNS": ""}, {"CNI_NETNS": "/nobody/there"}])
def test_a_namespace_that_is_not_there_is_not_sent(program: Program, environment: dict[str, str]) -> None:
    program.listen()
    running = program.start(CNI_COMMAND="DEL", **environment)
    connection, _, descriptors = program.called()
    assert len(descriptors) == 2
    connection.sendall(b"1{}")
    connection.close()
    assert (running.communicate(timeout=10)[0], running.returncode) == (b"{}", 1)
    for each in descriptors:
        os.close(each)


def test_version_needs_nobody(program: Program) -> None:
    out, _ = program.start(CNI_COMMAND="VERSION").communicate(timeout=10)
    assert json.loads(out)["supportedVersions"][-1] == "1.1.0"


def test_an_agent_that_ends_without_an_answer(program: Program) -> None:
    program.listen()
    running = program.start(CNI_COMMAND="ADD", CNI_NETNS="/proc/self/ns/net")
    connection, _, descriptors = program.called()
    connection.close()
    answer = json.loads(running.communicate(timeout=10)[0])
    assert (answer["code"], running.returncode) == (11, 1)
    assert "ended before it answered" in answer["msg"] and "DEL or GC" in answer["details"]
    for each in descriptors:
        os.close(each)


@pytest.mark.parametrize("refused", [False, True])
def test_alone_with_the_input_unread(program: Program, refused: bool) -> None:
    """No agent, or one that says the call is not for it: Python does the work, here as far as it gets without a version it knows."""
    if refused:
        program.listen()
    running = program.start(
        CNI_COMMAND="ADD", CNI_CONTAINERID="c", CNI_NETNS="/proc/self/ns/net", CNI_IFNAME="eth0", CNI_PATH="/x"
    )
    if refused:
        connection, _, descriptors = program.called()
        connection.sendall(b"-")
        connection.close()
        for each in descriptors:
            os.close(each)
    out, _ = running.communicate(b'{"cniVersion": "9.9", "name": "n", "type": "bridge"}', timeout=30)
    assert (json.loads(out)["code"], running.returncode) == (1, 1)


def test_without_a_command_it_says_what_it_is(program: Program) -> None:
    out, err = program.start("whatever").communicate(timeout=30)
    assert out == b"" and b"a container runtime calls it" in err


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind == cni_native.MACHINE])
def test_without_python_it_says_so(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bridge"
    path.write_bytes(cni_shim.program("bridge", "/nobody", kind, python="/no/python"))
    path.chmod(0o755)
    done = subprocess.run([path], env={"CNI_COMMAND": "ADD"}, capture_output=True, check=False)
    answer = json.loads(done.stdout)
    assert done.returncode == 1 and answer["msg"] == "/no/python cannot be run" and "install" in answer["details"]
    assert sys.executable != "/no/python"
