"""Asking nodes whether they are well, from the namespace of the load balancer, as its cloud would."""

from __future__ import annotations

import asyncio
import heapq
import socket
from collections.abc import Callable, Iterable, Mapping

from glassnet.kernel.api import NetNs
from glassnet.loadbalancer.edge.behaviour import Probing
from glassnet.loadbalancer.edge.health import Question, Standing, heard
from glassnet.loadbalancer.edge.model import Target
from glassnet.net import address

RATE = 400  # questions a second at most: with more to ask, each is asked less often
EARLY = 0.05  # seconds between the questions to a node that has not answered yet
Asked = tuple[Question, str]  # of the node with this name


class Prober:
    """Asks every node every question. `changed` hears of each node whose health for a question is another now."""

    def __init__(self, netns: NetNs, nodes: Iterable[Target], changed: Callable[[Question, str, bool], None]) -> None:
        self._netns, self._changed = netns, changed
        self._nodes = {node.name: node for node in nodes}
        self._asked: dict[Asked, Probing] = {}
        self._standings: dict[Asked, Standing] = {}
        self._due: list[tuple[float, Asked]] = []
        self._waiting: set[Asked] = set()  # what is in `_due`, or being asked
        self._awake = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    def ask(self, questions: Mapping[Question, Probing], names: Iterable[str]) -> None:
        """From now on ask these questions of these nodes, and no others."""
        wanted = {(question, name): probing for question, probing in questions.items() for name in names}
        now = asyncio.get_running_loop().time()
        for asked in self._asked.keys() - wanted.keys():
            self._standings.pop(asked, None)
        for asked in wanted.keys() - self._asked.keys() - self._waiting:
            self._waiting.add(asked)
            heapq.heappush(self._due, (now, asked))
            self._awake.set()
        self._asked = wanted

    def healthy(self, question: Question) -> set[str]:
        """The nodes that are well as far as a question goes."""
        return {name for (asked, name), standing in self._standings.items() if asked == question and standing.healthy}

    def is_healthy(self, question: Question, name: str) -> bool:
        """Whether one node is well as far as a question goes."""
        return self._standings.get((question, name), Standing()).healthy

    def known(self) -> bool:
        """Whether every node has answered well, or been given up, for every question."""
        return all(self._standings.get(asked, Standing()).known for asked in self._asked)

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                while not self._due:
                    self._awake.clear()
                    await self._awake.wait()
                wait = self._due[0][0] - loop.time()
                if wait > 0:
                    self._awake.clear()
                    await _either(self._awake, wait)
                    continue
                _, asked = heapq.heappop(self._due)
                if asked not in self._asked:
                    self._waiting.discard(asked)
                else:
                    task = loop.create_task(self._one(asked))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
                    await asyncio.sleep(1 / RATE if len(self._asked) > RATE else 0)
        finally:
            for task in self._running:
                task.cancel()

    async def _one(self, asked: Asked) -> None:
        question, name = asked
        probing = self._asked[asked]
        begun = asyncio.get_running_loop().time()
        well = await self._answers(question, self._nodes[name], probing.timeout)
        if asked not in self._asked:
            self._waiting.discard(asked)
            return
        before = self._standings.get(asked, Standing())
        after = self._standings[asked] = heard(before, well, probing)
        if after.healthy != before.healthy:
            self._changed(question, name, after.healthy)
        pause = probing.interval if after.known else min(EARLY, probing.interval)
        heapq.heappush(self._due, (begun + pause, asked))
        self._awake.set()

    async def _answers(self, question: Question, node: Target, timeout: float) -> bool:
        place = node.addresses[0]
        try:
            async with asyncio.timeout(timeout):
                return await self._ask(question, place)
        except (OSError, TimeoutError):
            return False

    async def _ask(self, question: Question, place: str) -> bool:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if address.family(place) == address.IPV6 else socket.AF_INET
        sock = self._netns.socket(family, socket.SOCK_STREAM)
        try:
            await loop.sock_connect(sock, (place, question.port))
            if not question.path:
                return True
            head = f"GET {question.path} HTTP/1.1\r\nHost: {address.with_port(place, question.port)}\r\nUser-Agent: glassnet-cloud\r\nConnection: close\r\n\r\n"
            await loop.sock_sendall(sock, head.encode())
            answer = b""
            while b"\r\n" not in answer and len(answer) < 4096 and (more := await loop.sock_recv(sock, 4096)):
                answer += more
            return answer.split(b" ", 2)[1:2] == [b"200"]
        finally:
            sock.close()


async def _either(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
