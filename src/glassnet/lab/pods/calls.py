"""What a built-in server does towards the outside: connections and programs in its pod's namespaces."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress

from glassnet.kernel.api import NetNs, Sandbox
from glassnet.lab.pods.environment import PATH
from glassnet.net.errors import KernelError

DIAL_TIMEOUT = 5.0
"""Seconds for one request (netexec's own)."""
SHELL_TIMEOUT = 300.0
MAX_OUTPUT = 1024 * 1024


async def connect(netns: NetNs, host: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection from a namespace to an address. Raises OSError (TimeoutError after `timeout` seconds)."""
    sock = netns.socket(_family(host), socket.SOCK_STREAM)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, (host, port)), timeout)
    except TimeoutError:
        sock.close()
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
    except BaseException:
        sock.close()
        raise
    return sock


async def open_stream(
    netns: NetNs, host: str, port: int, timeout: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """`connect`, with asyncio's streams on top."""
    return await asyncio.open_connection(sock=await connect(netns, host, port, timeout))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def plain_words(error: OSError) -> str:
    """The kernel's words for an error, as Go programs print them; asyncio puts its own in their place."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


async def resolve(sandbox: Sandbox, host: str) -> str:
    """An address for a name, as the pod's own resolver finds it. Raises OSError."""
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    code, output = await run(sandbox, ("getent", "ahosts", "--", host), DIAL_TIMEOUT)
    if code or not output:
        raise OSError(f"lookup {host}: no such host")
    return output.split()[0].decode()


async def dial(sandbox: Sandbox, protocol: str, host: str, port: int, request: str) -> str:
    """One request of netexec's /dial from the pod, and its answer. Raises OSError with the reason."""
    address = await resolve(sandbox, host)
    shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    try:
        if protocol == "http":
            return await asyncio.wait_for(_ask_http(sandbox.netns, address, port, request), DIAL_TIMEOUT)
        return await asyncio.wait_for(_ask_datagram(sandbox.netns, protocol, address, port, request), DIAL_TIMEOUT)
    except TimeoutError:
        raise TimeoutError(f"{protocol} {shown}/{request}: no answer in {DIAL_TIMEOUT:.0f} s") from None
    except OSError as error:
        raise OSError(f"{protocol} {shown}/{request}: {plain_words(error)}") from None


async def _ask_http(netns: NetNs, host: str, port: int, request: str) -> str:
    """GET /`request`, HTTP/1.0, so that the body ends with the connection."""
    reader, writer = await open_stream(netns, host, port, DIAL_TIMEOUT)
    try:
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        line = "".join(char for char in request.replace(" ", "%20") if char > " ")
        writer.write(f"GET /{line} HTTP/1.0\r\nHost: {shown}\r\nUser-Agent: glassnet-netexec\r\n\r\n".encode())
        answer = await reader.read(MAX_OUTPUT)
        while len(answer) < MAX_OUTPUT and (more := await reader.read(MAX_OUTPUT - len(answer))):
            answer += more
    finally:
        writer.close()
    head, blank, body = answer.partition(b"\r\n\r\n")
    if not blank or not head.startswith(b"HTTP/"):
        raise OSError("EOF" if not answer else "malformed HTTP response")
    return body.decode("utf-8", "replace")


async def _ask_datagram(netns: NetNs, protocol: str, host: str, port: int, request: str) -> str:
    if protocol == "sctp":
        sock = sctp_socket(netns, _family(host))
    else:
        sock = netns.socket(_family(host), socket.SOCK_DGRAM)
    loop = asyncio.get_running_loop()
    with sock:
        await loop.sock_connect(sock, (host, port))
        await loop.sock_sendall(sock, request.encode())
        answer = await loop.sock_recv(sock, 2048)
    if not answer:
        raise OSError("no answer before the end")
    return answer.decode("utf-8", "replace")


def sctp_socket(netns: NetNs, family: int) -> socket.socket:
    """A one-to-one SCTP socket (RFC 6458, 4). Raises OSError; EPROTONOSUPPORT says that the kernel has no SCTP."""
    try:
        return netns.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            raise OSError(error.errno, "this kernel has no SCTP (CONFIG_IP_SCTP; try: modprobe sctp)") from None
        raise


async def run_shell(sandbox: Sandbox, command: str) -> tuple[str, str]:
    """Run a shell command in the pod: (stdout and stderr, error as Go's os/exec words it or "")."""
    try:
        code, output = await run(sandbox, ("/bin/sh", "-c", command), SHELL_TIMEOUT)
    except TimeoutError:
        return "", f"no end after {SHELL_TIMEOUT:.0f} s"
    except KernelError as error:
        return "", str(error)
    return output.decode("utf-8", "replace"), f"exit status {code}" if code else ""


async def run(
    sandbox: Sandbox, argv: tuple[str, ...], timeout: float, env: Mapping[str, str] | None = None, cwd: str = "/"
) -> tuple[int, bytes]:
    """Run a program in the pod to its end: (exit code, first MAX_OUTPUT bytes of output and errors).

    Raises TimeoutError after `timeout` seconds, the program killed; KernelError when it cannot be started.
    """
    ours, theirs = os.pipe()
    try:
        process = await sandbox.spawn(argv, env=env or {"PATH": PATH}, cwd=cwd, stdout=theirs, stderr=theirs)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    output = bytearray()
    loop = asyncio.get_running_loop()
    drained = loop.create_future()
    os.set_blocking(ours, False)

    def take() -> None:
        with suppress(BlockingIOError):
            if data := os.read(ours, 65536):
                output.extend(data[: max(0, MAX_OUTPUT - len(output))])
            else:
                loop.remove_reader(ours)
                if not drained.done():
                    drained.set_result(None)

    loop.add_reader(ours, take)
    try:
        async with asyncio.timeout(timeout):
            code = await process.wait()
            with suppress(TimeoutError):  # what it left running in the background may hold its output open
                await asyncio.wait_for(drained, 0.2)
    except BaseException:
        process.signal(signal.SIGKILL)
        raise
    finally:
        loop.remove_reader(ours)
        os.close(ours)
    return (code if code >= 0 else 128 - code), bytes(output)
