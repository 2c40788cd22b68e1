"""The API server on loopback for tests with the real kubectl: the whole HTTP side, pods backed by processes of this machine."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from aiohttp import web

from glassnet.apiserver import auth, certs, discovery, http, openapi, streams
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store
from glassnet.kube.view import Key
from glassnet.lab.programs import find_kubectl
from glassnet.net.errors import ApiError


class Session:
    """A process and its pipes or its terminal."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int | None) -> None:
        self.process, self.terminal = process, terminal
        self.queue: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(8)
        self.tasks = [asyncio.create_task(self._read())]

    async def _read(self) -> None:
        if self.terminal is None:
            await asyncio.gather(self._pipe(1, self.process.stdout), self._pipe(2, self.process.stderr))
        else:
            loop = asyncio.get_running_loop()
            while data := await loop.run_in_executor(None, self._from_terminal):
                await self.queue.put((1, data))
        await self.queue.put((0, b""))

    def _from_terminal(self) -> bytes:
        try:
            return os.read(self.terminal or 0, 4096)
        except OSError:
            return b""

    async def _pipe(self, channel: int, reader: asyncio.StreamReader | None) -> None:
        assert reader is not None
        while data := await reader.read(65536):
            await self.queue.put((channel, data))

    async def read(self) -> tuple[int, bytes]:
        return await self.queue.get()

    async def write(self, data: bytes) -> None:
        if self.terminal is not None:
            os.write(self.terminal, data)
        else:
            assert self.process.stdin is not None
            self.process.stdin.write(data)
            await self.process.stdin.drain()

    async def close_stdin(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()

    def resize(self, columns: int, rows: int) -> None:
        if self.terminal is not None:
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def wait(self) -> int:
        return await self.process.wait()

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await asyncio.gather(*self.tasks)
        if self.terminal is not None:
            os.close(self.terminal)
            self.terminal = None


class ProcessStreams:
    """PodStreams: every pod's containers are this machine, its ports those of loopback."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.attached = ["sh", "-c", "read line; echo got $line; read line; echo then $line; exit 4"]

    async def exec(self, pod: Key, container: str, command: Sequence[str], stdin: bool, tty: bool) -> Session:
        if not tty:
            pipe = asyncio.subprocess.PIPE
            feed = pipe if stdin else asyncio.subprocess.DEVNULL
            return Session(
                await asyncio.create_subprocess_exec(
                    *command, stdin=feed, stdout=pipe, stderr=pipe, start_new_session=True
                ),
                None,
            )
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            "setsid", "-c", *command, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        return Session(process, ours)

    async def attach(self, pod: Key, container: str, stdin: bool, tty: bool) -> Session:
        return await self.exec(pod, container, self.attached, stdin, tty)

    async def logs(self, pod: Key, container: str, options: Mapping[str, Any]) -> AsyncIterator[bytes]:
        self.asked.append(options)
        if options.get("previous"):
            raise ApiError(
                400, "BadRequest", f'previous terminated container "{container}" in pod "{pod.name}" not found'
            )
        for number in range(3):
            yield f"{container} line {number}\n".encode()
            if options.get("follow"):
                await asyncio.sleep(0.2)

    async def forward(self, pod: Key, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port)


class ServedApi:
    """A server in a thread of its own, and kubectl aimed at it."""

    def __init__(self, directory: Path, authorize: Callable[[auth.User, web.Request], None] = auth.authorize) -> None:
        self.directory, self.streams, self._authorize = directory, ProcessStreams(), authorize
        self._stop: asyncio.Event | None = None
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self.port = 0
        now = datetime.now(UTC)
        pems = certs.make(["localhost"], ["127.0.0.1"], now)
        for name, raw in (("ca", pems.ca), ("crt", pems.server), ("key", pems.server_key)):
            (directory / name).write_bytes(raw)
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))
        self._thread.start()
        assert self._up.wait(20), "the server did not come up"
        config = certs.kubeconfig("t", f"https://127.0.0.1:{self.port}", pems.ca, pems.admin, pems.admin_key)
        (directory / "kubeconfig").write_text(config)
        self.kubectl = find_kubectl()
        self.env = {
            **os.environ,
            "KUBECONFIG": str(directory / "kubeconfig"),
            "HOME": str(directory),
            "KUBECACHEDIR": str(directory / "cache"),
        }

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        store = Store(str(self.directory / "store"))
        server = ApiServer(store, now=lambda: datetime.now(UTC), random=Random())
        tokens = auth.Tokens(b"a secret for tests")
        routes = [*discovery.routes(tokens), *streams.routes(self.streams), *openapi.routes(server.schema)]
        who = partial(auth.authenticate, tokens=tokens, now=datetime.now(UTC))
        runner = web.AppRunner(http.build_app(server, who, self._authorize, routes), shutdown_timeout=0.5)
        await runner.setup()
        tls = auth.ssl_context(self.directory / "crt", self.directory / "key", self.directory / "ca")
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.port = runner.addresses[0][1]
        self._up.set()
        await self._stop.wait()
        await runner.cleanup()
        store.close()

    def close(self) -> None:
        """Stop the server and its thread."""
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._loop.close()

    def run(self, *words: str, stdin: str = "", status: int = 0, env: Mapping[str, str] | None = None) -> str:
        """Standard output of kubectl WORDS, with standard error when `status` is not 0."""
        done = subprocess.run(
            [self.kubectl, *words],
            check=False,
            env={**self.env, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == status, f"kubectl {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        self.stderr = done.stderr
        return done.stdout + (done.stderr if status else "")

    def popen(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """A kubectl that goes on running."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [self.kubectl, *words], env=self.env, text=True, **{"stdin": pipe, "stdout": pipe, "stderr": pipe, **more}
        )
