"""The agent's socket: callers that say nothing, half of it, or rubbish, many at once, and those it must not serve; GC and STATUS by either way."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cni_site import AGENT, ALONE, Site, cni_site
from cni_traces import base, traces
from glassnet.agent.cni import server as cni_server
from glassnet.agent.cni.node import Node
from glassnet.agent.cni.server import SOCKET, CniServer
from glassnet.net.errors import GlassnetError

pytestmark = pytest.mark.kernel
WHERE = pytest.mark.parametrize("where", [AGENT, ALONE], ids=["agent", "alone"])
GC: dict[str, Any] = {"container": "", "netns": "", "ifname": ""}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with cni_site() as made:
        for name in ("c1", "c2"):
            await made.run("ip", "netns", "add", name)
        yield made


def caller(site: Site) -> socket.socket:
    """A connection to the agent, as a program makes it."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(10)
    directory = os.open(site.path(SOCKET).parent, os.O_PATH | os.O_DIRECTORY)  # a socket's path has 107 bytes at most
    try:
        made.connect(f"/proc/self/fd/{directory}/{os.path.basename(SOCKET)}")
    finally:
        os.close(directory)
    return made


def request(site: Site, conf: Any, **environment: str) -> tuple[bytes, list[int]]:
    """What a program sends: bytes and descriptors (standard input, own namespace)."""
    text = os.memfd_create("stdin")
    os.write(text, json.dumps(conf).encode())
    os.lseek(text, 0, 0)
    pairs = {"CNI_PATH": "/x", **environment}
    data = b"bridge\0" + b"".join(f"{key}={value}\0".encode() for key, value in pairs.items())
    return data, [text, os.dup(site.machine.netns.fd)]


def send(connection: socket.socket, data: bytes, descriptors: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    connection.sendmsg([data], rights)
    for each in descriptors:
        os.close(each)


async def answered(connection: socket.socket) -> bytes:
    """All that the agent says, to the end."""
    loop, parts = asyncio.get_running_loop(), b""
    connection.setblocking(False)
    with contextlib.suppress(ConnectionResetError):
        while data := await asyncio.wait_for(loop.sock_recv(connection, 1 << 16), 10):
            parts += data
    connection.close()
    return parts


async def works(site: Site) -> None:
    """The agent serves, as before."""
    assert "ips" in await site.call("bridge", "ADD", base(), "c1")
    assert await site.call("bridge", "DEL", base(), "c1") is None


async def test_callers_that_say_nothing_or_half_of_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cni_server, "_TIMEOUT", 0.3)
    await works(site)
    before = await traces(site)
    silent = caller(site)
    for data in (b"", b"bri", b"bridge\0CNI_COMMAND=ADD\0CNI_IFNAME=et"):
        early = caller(site)
        early.sendall(data)
        early.close()
        half = caller(site)
        half.sendall(data)
        half.shutdown(socket.SHUT_WR)
        assert await answered(half) in (b"", b"-")
    for data in (b"\0", b"\xff\xfe\0" * 1000, b"a\0" * 100_000):  # without descriptors it is nobody's we know
        rubbish = caller(site)
        rubbish.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(rubbish, data)
        rubbish.shutdown(socket.SHUT_WR)
        assert await answered(rubbish) == b"-"
    assert await answered(silent) == b""
    assert await traces(site) == before
    await works(site)


async def test_calls_that_cannot_be_understood(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cni_server, "_TIMEOUT", 0.3)
    for environment, code in ({}, 4), ({"CNI_COMMAND": "ADD"}, 4), ({"CNI_COMMAND": "STATUS"}, 6):
        asking = caller(site)
        send(asking, *request(site, [], **environment))
        asking.shutdown(socket.SHUT_WR)
        answer = await answered(asking)
        assert answer[:1] == b"1" and json.loads(answer[1:])["code"] == code, answer
    data, (text, own) = request(site, {}, CNI_COMMAND="STATUS")
    for stdin in (os.pipe()[0], os.open("/", os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)):
        asking = caller(site)
        send(asking, data, [stdin, os.dup(own)])
        asking.shutdown(socket.SHUT_WR)
        answer = await answered(asking)
        assert answer[:1] == b"1", answer
        assert (json.loads(answer[1:])["code"], json.loads(answer[1:])["msg"][:24]) in (
            (5, "error reading from stdin"),
            (6, "error unmarshall network"),
        ), answer
    os.close(text)
    os.close(own)
    await works(site)


async def test_an_agent_that_ends_waits_for_nobody_who_says_nothing(site: Site) -> None:
    silent = caller(site)
    await asyncio.sleep(0)
    await asyncio.wait_for(site.server.close(), 2)
    assert await answered(silent) == b""


async def test_three_hundred_at_once(site: Site) -> None:
    """More than are served at a time, with as many who say nothing among them; nobody is told to do it alone, no descriptor is left."""
    await works(site)
    held = len(os.listdir("/proc/self/fd"))
    connections = [caller(site) for _ in range(300)]
    for number, connection in enumerate(connections):
        if number % 10:
            send(connection, *request(site, base(), CNI_COMMAND="STATUS"))
            connection.shutdown(socket.SHUT_WR)
    silent, asking = connections[::10], [one for number, one in enumerate(connections) if number % 10]
    assert await asyncio.gather(*map(answered, asking)) == [b"0"] * 270
    for connection in silent:
        connection.close()
    await works(site)
    for _ in range(100):
        if len(os.listdir("/proc/self/fd")) <= held:
            break
        await asyncio.sleep(0.02)
    assert len(os.listdir("/proc/self/fd")) <= held


async def test_adds_at_once_through_the_programs(site: Site) -> None:
    names = [f"m{number}" for number in range(24)]
    await site.sh("".join(f"ip netns add {name};" for name in names))
    answers = await asyncio.gather(*(site.call("bridge", "ADD", base(), name) for name in names))
    assert len({answer["ips"][0]["address"] for answer in answers}) == 24
    assert await asyncio.gather(*(site.call("bridge", "DEL", base(), name) for name in names)) == [None] * 24
    assert await site.leases("net") == []
    await site.sh("".join(f"ip netns del {name};" for name in names))


async def test_a_second_agent_is_refused_and_a_stale_socket_replaced(site: Site) -> None:
    other = CniServer(Node(site.machine))
    with pytest.raises(GlassnetError, match=r"node-a: /run/glassnet/cni\.sock: another agent listens there"):
        await other.start()
    await works(site)
    await site.server.close()
    stale = socket.socket(socket.AF_UNIX)
    directory = os.open(site.path(SOCKET).parent, os.O_PATH | os.O_DIRECTORY)
    stale.bind(f"/proc/self/fd/{directory}/{os.path.basename(SOCKET)}")
    stale.close()
    os.close(directory)
    assert "ips" in await site.call("bridge", "ADD", base(), "c1")  # nobody answers: alone
    await other.start()
    assert await site.call("bridge", "DEL", base(), "c1") is None
    await works(site)
    await other.close()


async def test_a_caller_with_another_user_id_is_refused(site: Site) -> None:
    """Even one that can open the socket's path gets no answer: it is told that there was none, and nothing has changed."""
    site.path(SOCKET).chmod(0o666)
    before = await traces(site)
    path = site.path(SOCKET)
    script = """
import os, socket, sys
directory = os.open(sys.argv[1], os.O_PATH)
os.setgid(65534)
os.setuid(65534)
asking = socket.socket(socket.AF_UNIX)
try:
    asking.connect(f"/proc/self/fd/{directory}/cni.sock")
    asking.sendall(b"bridge\\0CNI_COMMAND=VERSION\\0")
    asking.shutdown(socket.SHUT_WR)
    print(asking.recv(100))
except OSError:
    print(b"")
"""
    words = [sys.executable, "-c", script, str(path.parent)]
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), 10)
    assert out == b"b''\n"
    assert await traces(site) == before


async def test_a_caller_in_another_network_works_alone(site: Site) -> None:
    """It has a bridge of its own, in its own network; the node's stays as it was."""
    await site.run("ip", "netns", "add", "host")
    before = await traces(site)
    words = "CNI_COMMAND={} CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/c1 CNI_IFNAME=eth0 CNI_PATH=/x"
    conf = json.dumps(base(ipMasq=False))
    for command, bridge in (("ADD", "cnio0"), ("DEL", "cnio0")):
        variables = words.format(command).split()
        answer = await site.run("env", *variables, "ip", "netns", "exec", "host", f"{AGENT}/bridge", stdin=conf)
        assert ("ips" in answer) == (command == "ADD")
        assert bridge in await site.inside("host", "ip", "link")
        assert bridge not in await site.run("ip", "link")
    assert "veth" not in await site.inside("host", "ip", "link")
    assert await traces(site) == before


# -- GC and STATUS


@WHERE
async def test_leases_leaked_over_a_reboot_come_back(site: Site, where: str) -> None:
    """The files are there, their containers are not: that is all GC needs."""
    place = site.path("/var/lib/cni/networks/net")
    place.mkdir(parents=True)
    for number in range(2, 255):
        (place / f"10.200.0.{number}").write_text(f"gone{number}\r\neth0")
    (place / "10.200.0.9").write_text("c2\r\neth0")
    answer = await site.call("bridge", "STATUS", base(), where=where)
    assert answer["code"] == 50 and "no IP addresses available in range set: 10.200.0.1-10.200.0.254" in answer["msg"]
    assert (await site.call("bridge", "ADD", base(), "c1", where=where))["code"] == 999
    valid = base(**{"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]})
    assert await site.call("bridge", "GC", valid, where=where, **GC) is None
    assert await site.leases("net") == ["10.200.0.9"]
    assert await site.call("bridge", "STATUS", base(), where=where) is None
    assert "ips" in await site.call("bridge", "ADD", base(), "c1", where=where)
    assert await site.call("bridge", "DEL", base(), "c1", where=where) is None


@WHERE
async def test_gc_by_marks_alone_goes_on_after_errors_and_tells_all(site: Site, where: str) -> None:
    """No lease, no kept result: links are told by their alias, rules by their comment. What belongs to others stays."""
    other = base(name="other", ipam={"type": "host-local", "subnet": "10.201.0.0/24"}, bridge="cnio1")
    assert "ips" in await site.call("bridge", "ADD", other, "c2", where=where)
    theirs = await traces(site)
    assert "ips" in await site.call("bridge", "ADD", base(), "c1", where=where)
    await site.sh(
        "rm -r /var/lib/cni/networks/net; mkdir -p /var/lib/cni/networks/net/10.200.0.77/x /var/lib/cni/networks/net/10.200.0.78/x"
    )
    valid = base(**{"cni.dev/valid-attachments": []})
    answer = await site.call("bridge", "GC", valid, where=where, **GC)
    assert answer["code"] == 999, answer
    assert answer["msg"].count("Is a directory") == 2 and "networks/net/10.200.0.77" in answer["msg"]
    now = await traces(site)
    assert not [line for line in now if "net c1" in line or 'name: \\"net\\"' in line]
    await site.sh("rm -r /var/lib/cni/networks/net; ip link del cnio0")
    assert await site.call("bridge", "GC", valid, where=where, **GC) is None
    assert await traces(site) == theirs
    assert await site.call("bridge", "DEL", other, "c2", where=where) is None


@WHERE
async def test_gc_without_a_list_takes_nothing(site: Site, where: str) -> None:
    assert "ips" in await site.call("bridge", "ADD", base(), "c1", where=where)
    before = await traces(site)
    for more in ({}, {"cni.dev/valid-attachments": None}, {"cni.dev/valid-attachments": [{"containerID": "c1"}]}):
        answer = await site.call("bridge", "GC", base(**more), where=where, **GC)
        assert answer["code"] == 7, answer
    answer = await site.call("bridge", "GC", base(cniVersion="1.0.0"), where=where, **GC)
    assert (answer["code"], answer["msg"]) == (1, "config version does not allow GC")
    assert await traces(site) == before
    assert await site.call("bridge", "DEL", base(), "c1", where=where) is None


@WHERE
async def test_status(site: Site, where: str) -> None:
    assert await site.call("bridge", "STATUS", base(), where=where) is None  # nothing is there yet
    assert "ips" in await site.call("bridge", "ADD", base(), "c1", where=where)
    assert await site.call("bridge", "STATUS", base(), where=where) is None
    await site.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    answer = await site.call("bridge", "STATUS", base(), where=where)
    assert answer["code"] == 51 and "ip_forward" in answer["msg"], answer
    await site.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    await site.run("ip", "link", "set", "cnio0", "down")
    answer = await site.call("bridge", "STATUS", base(), where=where)
    assert answer["code"] == 51 and "cnio0 is down" in answer["msg"], answer
    await site.run("ip", "link", "set", "cnio0", "up")
    sets = {"type": "host-local", "ranges": [[{"subnet": "10.200.0.0/24"}], [{"subnet": "10.200.1.0/30"}]]}
    place = site.path("/var/lib/cni/networks/net")
    (place / "10.200.1.2").write_text("c9\r\neth0")
    answer = await site.call("bridge", "STATUS", base(ipam=sets), where=where)
    assert answer["code"] == 50 and "10.200.1.1-10.200.1.2" in answer["msg"], answer
    answer = await site.call("bridge", "STATUS", base(typo=1), where=where)
    assert answer["code"] == 2
    (place / "10.200.1.2").unlink()
    assert await site.call("bridge", "DEL", base(), "c1", where=where) is None


@WHERE
async def test_address_plugins_of_others_are_asked(site: Site, where: str) -> None:
    program = site.path(f"{where}/theirs")
    program.write_text(
        '#!/bin/sh\ntext=$(cat)\necho "$CNI_COMMAND $text" >> /run/asked\n[ ! -e /run/no ] && exit 0\n'
        'echo \'{"code": 50, "msg": "no addresses today", "details": "ask tomorrow"}\'; exit 1\n'
    )
    program.chmod(0o755)
    conf = base(ipam={"type": "theirs", "key": 1}, **{"cni.dev/valid-attachments": []})
    assert await site.call("bridge", "STATUS", conf, where=where) is None
    assert await site.call("bridge", "GC", conf, where=where, **GC) is None
    asked = [line.split(" ", 1) for line in site.path("/run/asked").read_text().splitlines()]
    assert [command for command, _ in asked] == ["STATUS", "GC"]
    assert all(json.loads(text) == conf for _, text in asked)  # the whole configuration, with the list
    site.path("/run/no").touch()
    answer = await site.call("bridge", "STATUS", conf, where=where)
    assert (answer["code"], answer["msg"], answer["details"]) == (50, "no addresses today", "ask tomorrow")
    answer = await site.call("bridge", "GC", conf, where=where, **GC)
    assert answer["code"] in (50, 999) and "no addresses today" in answer["msg"]
