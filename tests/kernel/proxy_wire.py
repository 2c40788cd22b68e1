"""A node's network namespace whose two interfaces end in the test: packets are put in by hand, and what comes out is read.

`pods` and `outside` are TUN devices (Documentation/networking/tuntap.rst): a write is a packet arriving, a read one leaving. What the
kernel does with a packet put in is done when the answer to an echo request behind it is back, so nothing is waited for blindly.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from glassnet.kernel import libc
from glassnet.kernel.spawn import KernelProcess, start
from glassnet.net.errors import CommandError

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
SENTINEL_SOURCE = "198.18.0.1"
ATTEMPTS = 48  # of three endpoints at even odds, one is missed once in 10^8 runs


class Seen(NamedTuple):
    """What became of one first packet: `endpoints` (with to and masquerade), `reject`, `nomatch`, or `drop`."""

    verdict: str
    to: str = ""
    masquerade: bool | None = None


class Wire:
    """The namespace, held by a thread of its own; implements as much of `kernel.api.Machine` as a proxy needs."""

    name = "wire"
    root = Path("/")

    def __init__(self, local_ips: Sequence[str], pods: str = "10.0.0.0/8") -> None:
        self._thread = ThreadPoolExecutor(1, "wire", libc.unshare, (libc.CLONE_NEWNET,))
        self._runner = self._thread.submit(threading.current_thread).result()
        self._ports = itertools.cycle(range(20000, 60000))
        self._tuns: dict[str, int] = {}
        self.local_ips = [ip for ip in local_ips if ":" not in ip]
        self.call(self._build, pods)

    def call(self, function: Any, *arguments: Any) -> Any:
        """Run a function inside the namespace."""
        return self._thread.submit(function, *arguments).result(timeout=60)

    def _build(self, pods: str) -> None:
        for name in ("pods", "outside"):
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
            self._tuns[name] = descriptor
        commands = ["link set lo up"]
        commands += [f"addr add {ip}/32 dev lo" for ip in self.local_ips]
        # addresses of their own, so that a masqueraded packet shows it whoever sent it
        commands += [f"addr add 192.0.2.{number}/32 dev {name}" for number, name in enumerate(self._tuns, 1)]
        commands += [f"link set {name} up" for name in self._tuns]
        commands += [f"route add {pods} dev pods", "route add default dev outside"]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(commands) + "\n", text=True, check=True)
        self.sysctl(
            {
                "net.ipv4.ip_forward": 1,
                "net.ipv4.icmp_ratelimit": 0,
                "net.ipv4.icmp_ratemask": 0,
                **{f"net.ipv4.conf.{name}.rp_filter": 0 for name in ("all", "default", "pods", "outside")},
            }
        )

    # -- what a proxy asks of a machine

    @property
    def netns(self) -> Wire:
        """The namespace as `kernel.api.NetNs`, as far as a proxy needs it."""
        return self

    def socket(self, family: int, type: int, proto: int = 0) -> socket.socket:
        """A non-blocking socket in the namespace."""
        made: socket.socket = self.call(socket.socket, family, type, proto)
        made.setblocking(False)
        return made

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in the namespace inside the block."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = self.call(os.open, "/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            libc.setns(there, libc.CLONE_NEWNET)
            yield
        finally:
            libc.setns(home, libc.CLONE_NEWNET)
            os.close(home)
            os.close(there)

    async def run(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 30.0) -> bytes:
        """Run a program in the namespace."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, list(argv), stdin, timeout)

    def _run(self, argv: list[str], stdin: bytes, timeout: float) -> bytes:
        try:
            done = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout, check=False)
        except OSError as error:
            raise CommandError(argv, 127, f"{argv[0]}: {error.strerror}") from None
        if done.returncode:
            raise CommandError(argv, done.returncode, done.stderr.decode())
        return done.stdout

    async def spawn(self, argv: Sequence[str], **options: Any) -> KernelProcess:
        """Start a program in the namespace."""
        return KernelProcess(self.call(start, argv, options))

    def sysctl(self, values: Mapping[str, Any]) -> None:
        """Write sysctls of the namespace."""

        def write() -> None:
            for name, value in values.items():
                Path("/proc/sys", name.replace(".", "/")).write_text(str(value))

        if threading.current_thread() is self._runner:
            write()
        else:
            self.call(write)

    def shell(self, *argv: str, stdin: str = "") -> str:
        """Run a program and wait; what it printed."""
        output: bytes = self.call(self._run, list(argv), stdin.encode(), 30)
        return output.decode()

    # -- packets

    def probe(self, origin: str, source: str, protocol: str, to: str, port: int, attempts: int = ATTEMPTS) -> set[Seen]:
        """What becomes of the first packets of that many new connections. `origin`: pod, external or node."""
        send = self._from_node if origin == "node" else self._from_wire
        seen: set[Seen] = self.call(send, origin, source, protocol, to, port, attempts)
        return seen

    def _from_wire(self, origin: str, source: str, protocol: str, to: str, port: int, attempts: int) -> set[Seen]:
        tun = self._tuns["pods" if origin == "pod" else "outside"]
        used = [next(self._ports) for _ in range(attempts)]
        self._drain()
        for number in used:
            os.write(tun, packet(source, to, protocol, number, port))
        outcomes = dict.fromkeys(used, Seen("drop"))
        for data in self._until_quiet():
            if judged := judge(data, source, to, port, used):
                outcomes[judged[0]] = judged[1]
        return set(outcomes.values())

    def _from_node(self, origin: str, source: str, protocol: str, to: str, port: int, attempts: int) -> set[Seen]:
        return {self._connect(source, protocol, to, port) for _ in range(attempts)}

    def _connect(self, source: str, protocol: str, to: str, port: int) -> Seen:
        """One connection of the node's own. A raw socket tells a rule's ICMP error from the reset of a closed port."""
        self._drain()
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with (
            socket.socket(socket.AF_INET, kind) as sock,
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as errors,
        ):
            sock.setblocking(False)
            errors.setblocking(False)
            sock.bind((source, 0))
            used = [sock.getsockname()[1]]
            result = sock.connect_ex((to, port))
            if kind == socket.SOCK_DGRAM:
                _send(sock)
            left = [judged[1] for data in self._until_quiet() if (judged := judge(data, source, to, port, used))]
            if left:
                return left[-1]
            while data := _received(errors):
                if judged := judge(data, source, to, port, used):
                    return judged[1]
            refused = (sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or result) == errno.ECONNREFUSED
            return Seen("nomatch" if refused else "drop")

    def _drain(self) -> None:
        for descriptor in self._tuns.values():
            while _read(descriptor):
                pass

    def _until_quiet(self) -> list[bytes]:
        """Every packet that left, up to the answer to an echo request put in now."""
        outside = self._tuns["outside"]
        os.write(outside, echo_request(SENTINEL_SOURCE, self.local_ips[0]))
        found: list[bytes] = []
        while True:
            ready, _, _ = select.select(list(self._tuns.values()), [], [], 5)
            if not ready:
                raise AssertionError("the node did not answer an echo request in 5 s")
            for descriptor in ready:
                while data := _read(descriptor):
                    if data[9] == 1 and data[16:20] == socket.inet_aton(SENTINEL_SOURCE):
                        self._drain_into(found)
                        return found
                    found.append(data)

    def _drain_into(self, found: list[bytes]) -> None:
        for descriptor in self._tuns.values():
            while data := _read(descriptor):
                found.append(data)

    def close(self) -> None:
        """The namespace goes with its thread and descriptors."""
        for descriptor in self._tuns.values():
            os.close(descriptor)
        self._thread.shutdown(wait=True)


def _send(sock: socket.socket) -> None:
    with contextlib.suppress(ConnectionRefusedError, PermissionError):
        sock.send(b"x")


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except BlockingIOError:
        return b""


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b""


def judge(data: bytes, source: str, to: str, port: int, used: Sequence[int]) -> tuple[int, Seen] | None:
    """(source port of the connection, what became of it) from a packet that left; None when it is about none of them."""
    length = (data[0] & 15) * 4
    sender, receiver = socket.inet_ntoa(data[12:16]), socket.inet_ntoa(data[16:20])
    body = data[length:]
    if data[9] == 1:
        if body[0] != 3:
            return None
        inner = body[8:]
        number = struct.unpack("!H", inner[(inner[0] & 15) * 4 :][:2])[0]
        return (number, Seen("reject")) if number in used else None
    if data[9] not in PROTOCOLS.values():
        return None
    from_port, to_port = struct.unpack("!HH", body[:4])
    if to_port in used and receiver == source and data[9] == 6 and body[13] & 4:
        return to_port, Seen("nomatch")  # the node's own stack: nobody listens there
    if (receiver, to_port) == (to, port):
        return (from_port, Seen("nomatch")) if from_port in used else None
    # translated: the packet says by its sequence number (or its payload) which connection it is of
    number = _tag(data[9], body)
    if number in used:
        return number, Seen("endpoints", f"{receiver}:{to_port}", sender != source)
    return (used[0], Seen("endpoints", f"{receiver}:{to_port}", sender != source)) if len(used) == 1 else None


def _tag(protocol: int, body: bytes) -> int:
    """The source port a packet was sent with: masquerading changes the header's, not the copy we put inside."""
    if protocol == 6:
        return int(struct.unpack("!I", body[4:8])[0])
    if protocol == 132:
        return int(struct.unpack("!I", body[16:20])[0])
    return int(struct.unpack("!H", body[8:10])[0]) if len(body) >= 10 else 0


def packet(source: str, to: str, protocol: str, from_port: int, to_port: int) -> bytes:
    """The first packet of a connection; `from_port` is also its TCP sequence number, or its payload."""
    if protocol == "tcp":
        body = struct.pack("!HHIIBBHHH", from_port, to_port, from_port, 0, 5 << 4, 2, 65535, 0, 0)
    elif protocol == "udp":
        body = struct.pack("!HHHHH", from_port, to_port, 10, 0, from_port)
    else:
        # INIT chunk: type, flags, length, initiate tag, window, streams out and in, TSN (RFC 9260, 3.3.2)
        chunk = struct.pack("!BBHIIHHI", 1, 0, 20, from_port, 65536, 1, 1, 1)
        body = struct.pack("!HHII", from_port, to_port, 0, 0) + chunk
    number = PROTOCOLS[protocol]
    if protocol != "sctp":
        pseudo = socket.inet_aton(source) + socket.inet_aton(to) + struct.pack("!BBH", 0, number, len(body))
        place = 16 if protocol == "tcp" else 6
        body = body[:place] + struct.pack("!H", checksum(pseudo + body)) + body[place + 2 :]
    else:
        body = body[:8] + struct.pack("<I", crc32c(body)) + body[12:]
    return header(source, to, number, len(body)) + body


def header(source: str, to: str, protocol: int, length: int) -> bytes:
    """An IPv4 header."""
    addresses = socket.inet_aton(source) + socket.inet_aton(to)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, protocol, 0) + addresses
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:]


def echo_request(source: str, to: str) -> bytes:
    """An ICMP echo request."""
    body = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return header(source, to, 1, len(body)) + body


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
