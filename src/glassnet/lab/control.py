"""The lab's control socket: one question and one answer a connection, as JSON, for the user who owns the lab."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from glassnet.lab.state import LabDir
from glassnet.net.errors import LabError

log = logging.getLogger(__name__)


def ask(lab: LabDir, question: str, timeout: float = 10.0, **words: Any) -> dict[str, Any]:
    """Put a question to a running lab. Raises LabError when it does not answer within `timeout` seconds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            _connect(sock, lab)
            sock.sendall(json.dumps({"ask": question, **words}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(sock.makefile().readline() or "{}")
        except (OSError, json.JSONDecodeError) as error:
            raise LabError(f"lab {lab.name!r} does not answer ({error}); see {lab.log}") from None
    return answer


def _connect(sock: socket.socket, lab: LabDir) -> None:
    """Connect by way of a descriptor: a socket's path may have 107 bytes only, a state directory more."""
    directory = os.open(lab.path, os.O_PATH | os.O_DIRECTORY)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{lab.control.name}")
    finally:
        os.close(directory)


async def serve(lab: LabDir, answers: dict[str, Callable[..., Any]]) -> asyncio.Server:
    """Open the control socket; `answers` maps a question to what answers it, given the question's other words."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            words = json.loads(await reader.readline() or "{}")
            question = words.pop("ask", "")
            reply: Any = {"error": f"unknown question {question!r}"}
            if question in answers:
                try:
                    reply = answers[question](**words)
                    if inspect.isawaitable(reply):
                        reply = await reply
                except Exception as error:  # whoever asked is told, the lab goes on
                    log.exception("%s", question)
                    reply = {"error": f"{question}: {type(error).__name__}: {error}; see {lab.log}"}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        finally:
            writer.close()

    lab.control.unlink(missing_ok=True)
    directory = os.open(lab.path, os.O_PATH | os.O_DIRECTORY)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(f"/proc/self/fd/{directory}/{lab.control.name}")
    finally:
        os.close(directory)
    return await asyncio.start_unix_server(talk, sock=sock)
