"""Agents and lone plugins that are killed at a step of their work: runs on a node as a warm process, and forks one for each line it is given.

A step is each effect's beginning, each file opened for writing, each write and half of it, each link or removal of a file, each netlink operation,
and the answer. A line is JSON: `at` counts the step at which SIGKILL comes, `socket` where an agent shall listen for one call, or `plugin`,
`environment` and `text` for a plugin without an agent. Answers: "ready" of an agent that listens; the exit status, and what a lone plugin printed.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import signal
import sys
from typing import Any

from glassnet.agent.cni import alone as cni_alone
from glassnet.agent.cni import link_removal
from glassnet.agent.cni import node as cni
from glassnet.agent.cni import server as cni_server
from glassnet.kernel import links, netlink
from glassnet.kernel.host import HostMachine

_SUBREAPER = 36  # prctl(2)
_CHANGES = {"os.link", "os.remove", "os.rename", "os.mkdir"}


class Countdown:
    """Steps that are left until the end, and whether something is being done, for else nothing counts."""

    left, inside = 0, False


COUNT = Countdown()


def step() -> None:
    """One step more; the last one that is to be."""
    if COUNT.inside:
        COUNT.left -= 1
        if COUNT.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        step()


def _write(file: int, data: Any, write: Any = os.write) -> int:
    step()
    if COUNT.inside and COUNT.left == 1:
        write(file, bytes(data)[: len(data) // 2])
    step()
    return int(write(file, data))


def _send(self: netlink.RtNetlink, batch: list[Any], send: Any = netlink.RtNetlink._send) -> Any:
    for each in batch:
        step()
        if failures := send(self, [each]):
            return failures
    return []


def _delete(sock: Any, names: Any, delete: Any = links.delete_links_on) -> None:
    step()
    delete(sock, names)


def _flock(file: int, operation: int, flock: Any = fcntl.flock) -> None:
    step()
    flock(file, operation)


async def _perform(self: cni.AgentEffects, effect: Any, perform: Any = cni.AgentEffects.perform) -> Any:
    COUNT.inside = True
    step()
    answer = await perform(self, effect)
    COUNT.inside = False
    return answer


def _perform_alone(self: Any, effect: Any, perform: Any = cni_alone.LoneEffects.perform) -> Any:
    COUNT.inside = True
    step()
    answer = perform(self, effect)
    COUNT.inside = False
    return answer


class _OneCall(cni_server.CniServer):
    """Serves one call."""

    served: asyncio.Event

    async def _serve(self, connection: Any) -> None:
        await super()._serve(connection)
        self.served.set()

    async def _answer(self, data: bytes, descriptors: list[int]) -> bytes:
        answer = await super()._answer(data, descriptors)
        COUNT.inside = True
        step()
        COUNT.inside = False
        return answer


async def _agent(path: str) -> None:
    node = cni.Node(HostMachine())
    server = _OneCall(node, path)
    server.served = asyncio.Event()
    await server.start()
    print("ready", flush=True)
    await server.served.wait()
    await server.close()
    await node.close()


def _child(order: dict[str, Any], output: int) -> None:
    COUNT.left = order["at"]
    sys.addaudithook(_audit)
    os.write, netlink.RtNetlink._send, fcntl.flock = _write, _send, _flock  # type: ignore[method-assign]
    link_removal.delete_links_on = links.delete_links_on = _delete
    cni.AgentEffects.perform = _perform  # type: ignore[method-assign]
    cni_alone.LoneEffects.perform = _perform_alone  # type: ignore[method-assign]
    if "socket" in order:
        asyncio.run(_agent(order["socket"]))
        os._exit(0)
    stdin = os.memfd_create("stdin")
    os.pwrite(stdin, order["text"].encode(), 0)
    os.dup2(stdin, 0)
    os.dup2(output, 1)
    os.environ.clear()
    os.environ.update(order["environment"])
    status = cni_alone.main([order["plugin"]])
    sys.stdout.flush()
    os._exit(status)


def main() -> None:
    """Fork one for each line; what it has started ends before its status is told."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        order, output = json.loads(line), os.memfd_create("stdout")
        pid = os.fork()
        if pid == 0:
            _child(order, output)
        _, status = os.waitpid(pid, 0)
        while True:
            try:
                os.wait()
            except ChildProcessError:
                break
        printed = os.pread(output, 1 << 20, 0).decode()
        os.close(output)
        print(json.dumps([os.waitstatus_to_exitcode(status), printed]), flush=True)


if __name__ == "__main__":
    main()
