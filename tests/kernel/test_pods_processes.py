"""Containers of real processes: their namespaces, ends, logs, volumes; exec, attach and port-forward."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest
import pytest_asyncio
from pods_machine import Node, node_of_namespaces, until

from glassnet.kube import kinds
from glassnet.kube.runtime import ExecSession
from glassnet.kube.types import Container, Pod, decode
from glassnet.kube.view import Key
from glassnet.lab.pods.processes import ContainerStartError
from glassnet.net.errors import ApiError, KernelError, LabError

pytestmark = pytest.mark.kernel


@pytest_asyncio.fixture
async def node() -> AsyncIterator[Node]:
    async with node_of_namespaces() as made:
        yield made


def box(*command: str, name: str = "c", **fields: object) -> str:
    return json.dumps({"name": name, "image": "busybox", "command": list(command), **fields})


async def collect(session: ExecSession) -> tuple[bytes, bytes]:
    """Standard output and error of a session, to their end."""
    out = {1: b"", 2: b""}
    while True:
        stream, data = await asyncio.wait_for(session.read(), 10)
        if not stream:
            return out[1], out[2]
        out[stream] += data


async def expect(session: ExecSession, words: bytes) -> bytes:
    """Read standard output until some words come."""
    seen = b""
    while words not in seen:
        stream, data = await asyncio.wait_for(session.read(), 10)
        assert stream, f"{words!r} did not come, but {seen!r}"
        seen += data
    return seen


KEY = Key("demo", "box")


async def run_exec(node: Node, *command: str, container: str = "") -> tuple[int, bytes, bytes]:
    session = await node.streams.exec(KEY, container, command, False, False)
    out, err = await collect(session)
    return await session.wait(), out, err


async def start(node: Node, *containers: str, **spec: object) -> Sequence[Container]:
    sandbox, _, specs = await node.pod("box", *containers, **spec)
    for one in specs:
        await sandbox.start(one, {"COLOUR": "blue"}, {}, 0)
    return specs


async def test_processes_live_in_their_pods_namespaces(node: Node) -> None:
    script = "hostname; echo $COLOUR $HOSTNAME $0; ip -br addr show eth0; ls -d /proc/[0-9]*; cat /etc/hosts; pwd"
    sandbox, address, (container,) = await node.pod("box", box("sh", "-c", script, workingDir="/var"))
    running = await sandbox.start(container, {"COLOUR": "blue"}, {}, 0)
    assert await asyncio.wait_for(running.wait(), 10) == (0, "Completed", "")
    lines = (await node.logs("box")).splitlines()
    assert lines[:2] == ["box", "blue box sh"]
    assert address in lines[2]
    assert "/proc/1" in lines
    assert len([line for line in lines if line.startswith("/proc/")]) <= 4  # pause, sh, ls: not the node's processes
    assert "# box" in lines
    assert lines[-1] == "/var"
    assert running.id.startswith("glassnet://")
    assert len(running.id) == len("glassnet://") + 64


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", (0, "Completed", "")), ("exit 3", (3, "Error", "")), ("kill -9 $$$$", (137, "Error", ""))],
)
async def test_ends(node: Node, script: str, status: tuple[int, str, str]) -> None:
    sandbox, _, (container,) = await node.pod("box", box("sh", "-c", script))
    running = await sandbox.start(container, {}, {}, 0)
    assert await asyncio.wait_for(running.wait(), 10) == status


async def test_a_shell_without_input_completes_at_once(node: Node) -> None:
    sandbox, _, (container,) = await node.pod("box", '{"name": "c", "image": "busybox"}')
    running = await sandbox.start(container, {}, {}, 0)
    assert await asyncio.wait_for(running.wait(), 10) == (0, "Completed", "")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no-such-program", 'exec: "no-such-program": executable file not found in $PATH'),
        ("/no/such", 'exec: "/no/such": stat /no/such: no such file or directory'),
        ("/etc/hosts", 'exec: "/etc/hosts": permission denied'),
    ],
)
async def test_what_cannot_be_started(node: Node, command: str, words: str) -> None:
    sandbox, _, (container,) = await node.pod("box", box(command))
    with pytest.raises(ContainerStartError) as caught:
        await sandbox.start(container, {}, {}, 0)
    assert words in str(caught.value)
    assert (caught.value.reason, caught.value.code) == ("StartError", 128)


async def test_a_program_that_is_missing_on_a_terminal(node: Node) -> None:
    sandbox, _, (container,) = await node.pod("box", box("no-such-program", tty=True))
    with pytest.raises(ContainerStartError, match="not found in"):
        await sandbox.start(container, {}, {}, 0)


async def test_stop_asks_first_and_kills_after_the_grace(node: Node) -> None:
    deaf = box("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done", name="deaf")
    polite = box("sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done", name="polite")
    sandbox, _, specs = await node.pod("box", deaf, polite)
    first, second = [await sandbox.start(one, {}, {}, 0) for one in specs]
    await until(lambda: all(logs.current and logs.current.size for logs in sandbox.logs.values()))
    assert (await asyncio.wait_for(second.stop(30), 10)).code == 5
    assert await node.logs("box", "polite") == "up\nbye\n"
    assert (await asyncio.wait_for(first.stop(0.2), 10)).code == 137


async def test_what_a_container_leaves_running_ends_with_it(node: Node) -> None:
    long = f"4242.{os.getpid()}"  # nobody else's: all of the machine's processes are looked through
    sandbox, _, (container,) = await node.pod("box", box("sh", "-c", f"sleep {long} & echo started"))
    running = await sandbox.start(container, {}, {}, 0)
    assert (await asyncio.wait_for(running.wait(), 10)).code == 0

    def left() -> list[str]:
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    found.append(file.read())
            except OSError:
                continue
        return [line.decode() for line in found if f"\0{long}\0".encode() in line]

    await until(lambda: not left())


async def test_pods_have_a_tmp_of_their_own_and_volumes(node: Node) -> None:
    volume = node.machine.root / "var/lib/kubelet/pods/v"
    volume.mkdir(parents=True)
    (volume / "key").write_text("value")
    script = "exec 2>&1; cat /data/key; echo mine > /tmp/x; echo w > /data/new; echo refused? > /fixed/new; ls /tmp"
    sandbox, _, (container,) = await node.pod(
        "box",
        box(
            "sh",
            "-c",
            script,
            volumeMounts=[{"name": "v", "mountPath": "/data"}, {"name": "r", "mountPath": "/fixed", "readOnly": True}],
        ),
    )
    source = "/var/lib/kubelet/pods/v"
    running = await sandbox.start(container, {}, {"/data": source, "/fixed": source}, 0)
    await asyncio.wait_for(running.wait(), 10)
    log = await node.logs("box")
    assert log.startswith("value")
    assert "Read-only file system" in log
    assert (volume / "new").read_text() == "w\n"
    assert not (node.machine.root / "tmp/x").exists()
    assert not os.path.exists("/data")


async def test_logs_of_both_streams_previous_and_options(node: Node) -> None:
    sandbox, _, (container,) = await node.pod("box", box("sh", "-c", "echo $N-a; echo $N-b >&2; printf $N-c"))
    for number in ("1", "2"):
        running = await sandbox.start(container, {"N": number}, {}, int(number) - 1)
        await asyncio.wait_for(running.wait(), 10)
    assert sorted((await node.logs("box")).splitlines()) == ["2-a", "2-b", "2-c"]
    assert sorted((await node.logs("box", previous=True)).splitlines()) == ["1-a", "1-b", "1-c"]
    assert (await node.logs("box", tailLines=1, timestamps=True)).count("Z 2-") == 1
    later = running.started_at + timedelta(hours=1)
    assert await node.logs("box", sinceTime=later) == ""


async def test_logs_follow_until_the_container_ends(node: Node) -> None:
    sandbox, _, (container,) = await node.pod("box", box("sh", "-c", "echo one; read x; echo two", stdin=True))
    await sandbox.start(container, {}, {}, 0)
    parts = node.streams.logs(KEY, "", {"follow": True})
    assert await asyncio.wait_for(anext(parts), 10) == b"one\n"
    session = await node.streams.attach(KEY, "", True, False)
    await session.write(b"go\n")
    assert b"".join([part async for part in parts]) == b"two\n"
    assert await session.wait() == 0


async def test_logs_outlive_the_sandbox_until_the_pod_is_gone(node: Node) -> None:
    sandbox, _, (container,) = await node.pod("box", box("echo", "kept"))
    running = await sandbox.start(container, {}, {}, 0)
    await running.wait()
    await sandbox.remove()
    assert await node.logs("box") == "kept\n"
    node.view.apply(kinds.POD, node.view.get(kinds.POD, KEY), deleted=True)
    assert node.runtime.record("uid-box") is None
    with pytest.raises(ApiError) as caught:
        await node.logs("box")
    assert (caught.value.status, str(caught.value)) == (404, 'pods "box" not found')


async def test_exec_keeps_streams_apart_and_gives_the_exit_code(node: Node) -> None:
    await start(node, box("sleep", "1000"))
    assert await run_exec(node, "sh", "-c", "echo out; echo err >&2; echo $COLOUR; exit 9") == (
        9,
        b"out\nblue\n",
        b"err\n",
    )
    assert await run_exec(node, "sh", "-c", "kill -15 $$") == (143, b"", b"")
    code, _, err = await run_exec(node, "no-such-program")
    assert (code, b"executable file not found in $PATH" in err) == (127, True)


async def test_exec_feeds_input_and_sees_its_end(node: Node) -> None:
    await start(node, box("sleep", "1000"))
    session = await node.streams.exec(KEY, "c", ["sha256sum"], True, False)
    data = bytes(range(256)) * 4096

    async def feed() -> None:
        for place in range(0, len(data), 60_000):
            await session.write(data[place : place + 60_000])
        await session.close_stdin()

    feeding = asyncio.create_task(feed())
    out, _ = await collect(session)
    await feeding
    assert out.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert await session.wait() == 0


async def test_exec_with_much_output_and_a_slow_reader(node: Node) -> None:
    await start(node, box("sleep", "1000"))
    session = await node.streams.exec(KEY, "c", ["sh", "-c", "head -c 5000000 /dev/zero; echo end >&2"], False, False)
    await asyncio.sleep(0.2)
    out, err = await collect(session)
    assert (len(out), err) == (5_000_000, b"end\n")
    assert await session.wait() == 0


async def test_exec_on_a_terminal(node: Node) -> None:
    await start(node, box("sleep", "1000"))
    session = await node.streams.exec(KEY, "c", ["sh"], True, True)
    session.resize(101, 37)
    await session.write(b"stty size; echo $TERM; test -t 0 && echo is-a-tty; echo x > /dev/tty; ps -o tpgid= -p $$\n")
    seen = await expect(session, b"\nis-a-tty")
    assert b"37 101" in seen
    assert b"xterm" in seen
    # the trap says when the signal has come: a shell that is only just forking `sleep` would lose what is typed behind the ^C
    await session.write(
        b"sh -c 'trap \"exit 130\" INT; echo $((1+1))go; while :; do sleep 0.05; done'; echo survived=$?\n"
    )
    await expect(session, b"2go")
    await session.write(b"\x03")  # the terminal's line discipline turns it into SIGINT
    await expect(session, b"survived=130")
    await session.close_stdin()  # the end-of-file character: an interactive shell leaves
    await collect(session)
    assert await asyncio.wait_for(session.wait(), 10) == 0


async def test_a_client_that_leaves_ends_its_exec(node: Node) -> None:
    await start(node, box("sleep", "1000"))
    for tty in (False, True):
        session = await node.streams.exec(KEY, "c", ["sleep", "999"], True, tty)
        await session.close()
        await session.close()
        assert await asyncio.wait_for(session.wait(), 10) == 137


async def test_a_background_child_keeps_no_exec_open(node: Node) -> None:
    await start(node, box("sleep", "1000"))
    assert await asyncio.wait_for(run_exec(node, "sh", "-c", "sleep 30 & echo done"), 5) == (0, b"done\n", b"")


async def test_exec_into_a_built_in_server(node: Node) -> None:
    volume = node.machine.root / "var/lib/v"
    volume.mkdir(parents=True)
    (volume / "f").write_text("in a volume")
    sandbox, _, (container,) = await node.pod("box", '{"name": "nginx", "image": "nginx"}')
    await sandbox.start(container, {"COLOUR": "blue"}, {"/mnt/v": "/var/lib/v"}, 0)
    code, out, _ = await run_exec(
        node,
        "sh",
        "-c",
        "hostname; echo $COLOUR; cat /mnt/v/f; curl -s localhost | grep -o 'Welcome to nginx' | head -1",
    )
    assert code == 0
    assert out == b"box\nblue\nin a volumeWelcome to nginx\n"
    assert await sandbox.exec_probe("nginx", ["sh", "-c", "echo no >&2; exit 1"], 5) == (1, "no\n")
    assert (await sandbox.exec_probe("nginx", ["no-such-program"], 5))[0] == 127
    with pytest.raises(TimeoutError):
        await sandbox.exec_probe("nginx", ["sleep", "60"], 0.1)


async def test_attach_to_a_terminal(node: Node) -> None:
    await start(node, json.dumps({"name": "c", "image": "busybox", "stdin": True, "tty": True}))
    session = await node.streams.attach(KEY, "c", True, True)
    await session.write(b"echo $((6*7))\n")
    await expect(session, b"42")
    await session.close()
    again = await node.streams.attach(KEY, "c", True, True)
    await again.write(b"exit 4\n")
    await collect(again)
    assert await asyncio.wait_for(again.wait(), 10) == 4


async def test_stdin_once_ends_with_the_first_client(node: Node) -> None:
    sandbox, _, (container,) = await node.pod("box", box("cat", stdin=True, stdinOnce=True))
    running = await sandbox.start(container, {}, {}, 0)
    session = await node.streams.attach(KEY, "c", True, False)
    await session.write(b"hello\n")
    await expect(session, b"hello\n")
    await session.close()
    assert (await asyncio.wait_for(running.wait(), 10)).code == 0


async def test_attach_to_a_built_in_server_shows_its_log(node: Node) -> None:
    sandbox, address, (container,) = await node.pod("box", '{"name": "nginx", "image": "nginx"}')
    running = await sandbox.start(container, {}, {}, 0)
    session = await node.streams.attach(KEY, "nginx", True, False)
    await node.curl(f"http://{address}/")
    assert b'"GET / HTTP/1.1" 200' in await expect(session, b"\n")
    await running.stop(30)
    assert await session.wait() == 0


async def test_port_forward(node: Node) -> None:
    sandbox, _, (container,) = await node.pod("box", '{"name": "nginx", "image": "nginx"}')
    await sandbox.start(container, {}, {}, 0)
    reader, writer = await node.streams.forward(KEY, 80)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    with pytest.raises(ApiError) as caught:
        await node.streams.forward(KEY, 81)
    assert "failed to connect to localhost:81 inside namespace" in str(caught.value)
    assert "IPv4: dial tcp4 127.0.0.1:81: connect: connection refused" in str(caught.value)


async def test_probes_dial_from_the_node(node: Node) -> None:
    sandbox, address, (container,) = await node.pod("box", '{"name": "nginx", "image": "nginx"}')
    await sandbox.start(container, {}, {}, 0)
    reader, writer = await sandbox.dial(address, 80, 2)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await sandbox.dial(address, 81, 2)


async def test_what_cannot_be_streamed(node: Node) -> None:
    async def refused(status: int, words: str, key: Key, container: str = "") -> None:
        for attempt in (
            node.streams.exec(key, container, ["true"], False, False),
            node.streams.attach(key, container, False, False),
        ):
            with pytest.raises(ApiError) as caught:
                await attempt
            assert caught.value.status == status
            assert words in str(caught.value)

    await start(node, box("sleep", "1000", name="a"), box("true", name="b"))
    await refused(404, 'pods "nobody" not found', Key("demo", "nobody"))
    await refused(400, "choose one of: [a b]", KEY)
    await refused(400, "container x is not valid for pod box", KEY, "x")
    b = node.runtime.record("uid-box")
    assert b is not None
    assert b.sandbox is not None
    instance = b.sandbox.instance("b")
    assert instance is not None
    await until(lambda: instance.status)
    await refused(400, 'container not found ("b")', KEY, "b")
    pending: Pod = decode(
        kinds.POD,
        '{"metadata": {"name": "p", "namespace": "demo", "uid": "u"}, "spec": {"containers": [{"name": "c"}]}}',
    )
    node.view.apply(kinds.POD, pending)
    await refused(400, "does not have a host assigned", Key("demo", "p"))


async def test_nothing_starts_in_a_removed_sandbox(node: Node) -> None:
    sandbox, _, (container,) = await node.pod("box", box("true"))
    await sandbox.remove()
    with pytest.raises(LabError, match="removed"):
        await sandbox.start(container, {}, {}, 0)


@pytest.mark.parametrize("container", [box("sleep", "4321"), '{"name": "c", "image": "nginx"}'])
async def test_a_sandbox_removed_while_a_container_starts(node: Node, container: str) -> None:
    sandbox, _, (spec,) = await node.pod("box", container)
    starting = asyncio.create_task(sandbox.start(spec, {}, {}, 0))
    await asyncio.sleep(0)
    await sandbox.remove()
    with pytest.raises((LabError, KernelError, OSError)):
        await asyncio.wait_for(starting, 10)
