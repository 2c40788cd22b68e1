"""NGINX as a child: started, led from one configuration to the next, brought back, ended; with real requests in a namespace of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pods_machine import Node, node_of_namespaces

from glassnet.agent.ingress import processes
from glassnet.agent.ingress.nginx import PROGRAM, Limits, Nginx, Refused, ReloadFailed
from glassnet.agent.placement import Place
from glassnet.kernel.spawn import PATH

pytestmark = pytest.mark.kernel
CONF = """
user root;
worker_processes 2;
worker_shutdown_timeout 30s;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {{ listen 80; {listen} location / {{ return 200 "{answer}"; }} location /slow {{ limit_rate 1k; alias slow; }}
        location = /slow {{ limit_rate 2k; root .; try_files /slow.txt =404; }} }}
}}
"""


def conf(answer: str, listen: str = "") -> dict[str, bytes]:
    return {"nginx.conf": CONF.format(answer=answer, listen=listen).encode()}


class Child:
    """An NGINX under test, on a machine of namespaces."""

    def __init__(self, node: Node, **limits: Any) -> None:
        self.node = node
        self.outside = Path(node.machine.root) / "run/glassnet/ingress"
        self.place = Place("/run/glassnet/ingress", self.outside)
        self.nginx = Nginx(node.machine, self.place, limits=Limits(**limits))
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.nginx.begin()
        (self.outside / "slow.txt").write_bytes(b"x" * 4096)
        self.task = asyncio.create_task(self.nginx.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def get(self, path: str = "/") -> str:
        return await self.node.curl(f"http://127.0.0.1{path}")

    def members(self) -> list[processes.Member]:
        return processes.members(self.outside)

    def generations(self) -> list[str]:
        return sorted(os.listdir(self.outside / "generations"))


async def until(condition: Callable[[], Any], seconds: float = 15) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)
    return value


@contextlib.asynccontextmanager
async def child(**limits: Any) -> AsyncIterator[Child]:
    async with node_of_namespaces() as node:
        found = Child(node, **limits)
        found.start()
        try:
            yield found
        finally:
            await found.stop()
        assert found.members() == []


async def test_it_serves_each_configuration_it_accepts_and_keeps_the_last_good_one() -> None:
    async with child() as c:
        await c.nginx.apply(conf("one"))
        assert await c.get() == "one" and c.nginx.generation == "000001"
        await c.nginx.apply(conf("two"))
        assert (
            await c.get() == "two" and c.nginx.reloads == 1
        )  # the answer of this very moment: apply returns when it is in force
        with pytest.raises(
            Refused, match=r'unknown directive "nonsense" in /run/glassnet/ingress/generations/000003/nginx.conf:'
        ):
            await c.nginx.apply(conf("three", "nonsense;"))
        assert await c.get() == "two"
        await until(lambda: (c.nginx._sweep(), c.generations())[1] == ["000002"])
        # an address that is not there is found by no check: NGINX only tries it when it changes over
        with c.node.machine.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
            taken.bind(("0.0.0.0", 81))
            taken.listen()
            with pytest.raises(ReloadFailed, match=r"bind\(\) to 0\.0\.0\.0:81 failed"):
                await c.nginx.apply(conf("four", "listen 81;"))
        assert await c.get() == "two" and "goes on" in c.nginx.error
        os.kill(c.nginx.pid, signal.SIGKILL)  # what comes back is what was in force, not what failed
        await until(lambda: c.nginx.starts == 2 and c.nginx.serving.is_set())
        assert await c.get() == "two"
        await c.nginx.apply(conf("five"))
        assert await c.get() == "five" and c.nginx.error == ""


async def test_old_connections_are_served_to_their_end_but_not_by_ever_more_generations() -> None:
    async with child(generations=2, patience=0.5) as c:
        await c.nginx.apply(conf("one"))
        downloads = []
        for number in range(3):
            downloads.append(asyncio.create_task(c.get("/slow")))  # two seconds each
            await until(lambda n=number: established(c) >= n + 1)
            await c.nginx.apply(conf(f"next {number}"))
            assert c.nginx.old_generations <= 2
        assert await c.get() == "next 2" and c.nginx.cut == 1
        ends = await asyncio.gather(*downloads, return_exceptions=True)
        assert isinstance(ends[0], Exception)  # the oldest was closed, for the third change could not wait for it
        assert ends[1:] == ["x" * 4096] * 2
        await until(lambda: len(c.generations()) == 1)


def established(c: Child, pid: int = 0) -> int:
    """Connections to port 80 that are open, as the machine sees them."""
    lines = Path(f"/proc/{pid or c.nginx.pid}/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if line.split()[1].endswith(":0050") and line.split()[3] == "01")


async def test_a_killed_worker_or_master_is_replaced_and_what_is_left_of_it_ended() -> None:
    async with child() as c:
        await c.nginx.apply(conf("one"))
        first = {each.pid for each in c.members()}
        worker = next(each.pid for each in c.members() if each.role == "worker")
        os.kill(worker, signal.SIGKILL)
        await until(lambda: sum(each.role == "worker" and each.pid != worker for each in c.members()) == 2)
        assert await c.get() == "one" and c.nginx.starts == 1  # by the master
        os.kill(c.nginx.pid, signal.SIGKILL)
        await until(lambda: c.nginx.starts == 2 and c.nginx.serving.is_set())
        assert await c.get() == "one"
        await until(lambda: not first & {each.pid for each in c.members()})
        assert "signal 9" not in c.nginx.error  # it serves: nothing is wrong


async def test_what_an_earlier_process_left_serves_until_we_do_and_is_then_ended() -> None:
    async with child() as c:
        (c.outside / "left.conf").write_bytes(conf("left behind")["nginx.conf"])
        words = [
            PROGRAM,
            "-p",
            c.place.inside,
            "-c",
            f"{c.place.inside}/left.conf",
            "-e",
            "stderr",
            "-g",
            "daemon off;",
        ]
        master = await c.node.machine.spawn(words, env={"PATH": PATH}, cwd=c.place.inside)
        await until(lambda: sum(each.role == "worker" for each in c.members()) == 2)
        left = {each.pid for each in c.members()}
        assert await c.get() == "left behind" and master.pid in left
        slow = asyncio.create_task(c.get("/slow"))
        await until(lambda: established(c, master.pid))
        await c.nginx.apply(conf("ours"))
        assert await c.get() == "ours"
        assert await slow == "x" * 4096  # what it had begun it finished
        await until(lambda: not left & {each.pid for each in c.members()})
        assert await master.wait() == 0
