"""The namespace packets are sent through: three TUN devices that end in the fuzzer, raw sockets that see what is delivered to the node itself.

Raw sockets get a packet behind the input hooks (raw_local_deliver), whether anything listens or not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.fuzz_trace.probes import ICMP, ICMP6, SCTP, TCP, UDP, Probe, Sight, packed, read, read_body
from tests.kernel.proxy_wire import IFF_NO_PI, IFF_TUN, TUNSETIFF, Wire

from glassnet.net import address

DEVICES = ("pods", "outside", "other")
BATCH = 40
_RCVMARK, _RCVBUFFORCE, _IPV6_HDRINCL = 75, 33, 36
_QUIET = 0.004


class Outcome(NamedTuple):
    """What became of a probe: `forward` (by a device), `deliver`, `reject` (`error` says how), `drop`. `error` of a drop: the sender's errno."""

    kind: str
    dev: str = ""
    src: int = 0
    sport: int = 0
    dst: int = 0
    dport: int = 0
    ttl: int = 0
    dscp: int = 0
    mark: int = 0
    error: str = ""


@dataclass(slots=True)
class Setup:
    """How the namespace is configured. `commands` are lines of `ip -batch` by family, `own` the node's addresses to send from."""

    commands: dict[str, list[str]]
    sysctls: dict[str, object]
    own: list[str] = field(default_factory=list)


class FuzzNode(Wire):
    """A namespace made for one ruleset."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._received: list[tuple[socket.socket, int, int]] = []
        self._senders: dict[int, socket.socket] = {}
        super().__init__([])

    def _build(self, pods: str) -> None:
        for name in DEVICES:
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
            self._tuns[name] = descriptor
        quiet: dict[str, object] = {
            "net.ipv4.icmp_ratelimit": 0, "net.ipv4.icmp_ratemask": 0, "net.ipv6.icmp.ratelimit": 0, "net.ipv6.icmp.ratemask": "",
            **{f"net.ipv6.conf.{name}.{key}": value for name in ("all", "default", *DEVICES) for key, value in (
                ("accept_dad", 0), ("accept_ra", 0), ("router_solicitations", 0), ("addr_gen_mode", 1))},
        }  # fmt: skip
        self.sysctl(quiet)
        for family, lines in self._setup.commands.items():
            self._run(["ip", family, "-batch", "-"], ("\n".join(lines) + "\n").encode(), 20)
        self.sysctl(self._setup.sysctls)
        self._open_sockets()

    def _open_sockets(self) -> None:
        for family, bits in ((socket.AF_INET, 32), (socket.AF_INET6, 128)):
            for protocol in (ICMP if bits == 32 else ICMP6, TCP, UDP, SCTP):
                sock = socket.socket(family, socket.SOCK_RAW, protocol)
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, _RCVMARK, 1)
                sock.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 1 << 22)
                if bits == 128:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
                self._received.append((sock, bits, protocol))

    def _sender(self, probe: Probe) -> socket.socket:
        """A raw socket bound to the source: routing sees it, and the header is the probe's."""
        found = self._senders.get(probe.src)
        if found is None:
            text = address.text_of(probe.src, probe.bits)
            found = socket.socket(socket.AF_INET if probe.bits == 32 else socket.AF_INET6, socket.SOCK_RAW, 255)
            if probe.bits == 128:
                found.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
            found.bind((text, 0))
            self._senders[probe.src] = found
        return found

    def send(self, probes: Sequence[Probe]) -> dict[int, Outcome]:
        """Send probes; number -> what became of each."""
        found: dict[int, Outcome] = self.call(self._send, probes)
        return found

    def _send(self, probes: Sequence[Probe]) -> dict[int, Outcome]:
        outcomes = {probe.number: Outcome("drop") for probe in probes}
        by_number = {probe.number: probe for probe in probes}
        self._drain()
        for first in range(0, len(probes), BATCH):
            for probe in probes[first : first + BATCH]:
                try:
                    if probe.origin:
                        os.write(self._tuns[probe.origin], probe.build())
                    else:
                        to = (address.text_of(probe.dst, probe.bits), 0)
                        self._sender(probe).sendto(probe.build(), to)
                except OSError as error:
                    outcomes[probe.number] = Outcome("drop", error=os.strerror(error.errno or 0))
            for seen in self._seen():
                _note(outcomes, by_number, *seen)
        return outcomes

    def _seen(self) -> Iterable[tuple[str, int, Sight]]:
        """Everything that left or was delivered, until nothing comes any more: (device or "", mark, packet)."""
        places = [*self._tuns.values(), *(sock for sock, _, _ in self._received)]
        until = time.monotonic() + 0.5
        while select.select(places, [], [], _QUIET)[0] and time.monotonic() < until:
            for name, descriptor in self._tuns.items():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        if sight := read(os.read(descriptor, 65536)):
                            yield name, 0, sight
            for sock, bits, protocol in self._received:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        data, extra, _, sender = sock.recvmsg(65536, 512)
                        mark = next(
                            (struct.unpack("=I", v)[0] for _, kind, v in extra if kind == 36 and len(v) == 4), 0
                        )
                        if sight := (read(data) if bits == 32 else _read6(data, extra, sender[0], protocol)):
                            yield "", mark, sight

    def close(self) -> None:
        """The namespace goes with its thread and descriptors."""
        for sock in (*self._senders.values(), *(each for each, _, _ in self._received)):
            sock.close()
        super().close()


def _read6(data: bytes, extra: list[tuple[int, int, bytes]], sender: str, protocol: int) -> Sight | None:
    parts = {kind: value for level, kind, value in extra if level == socket.IPPROTO_IPV6}
    dst = int.from_bytes(parts[socket.IPV6_PKTINFO][:16], "big")
    ttl = struct.unpack("=i", parts[socket.IPV6_HOPLIMIT])[0]
    traffic = struct.unpack("=i", parts[socket.IPV6_TCLASS])[0]
    src = int.from_bytes(socket.inet_pton(socket.AF_INET6, sender.partition("%")[0]), "big")
    return read_body(128, protocol, data, src, dst, ttl, traffic >> 2)


_RANK = {"drop": 0, "reject": 1, "forward": 2, "deliver": 3}


def _note(outcomes: dict[int, Outcome], probes: dict[int, Probe], dev: str, mark: int, sight: Sight) -> None:
    probe = probes.get(sight.number)
    if probe is None:
        return
    error = sight.error
    if probe.protocol in (ICMP, ICMP6) and error == f"{probe.icmp_type}/{probe.icmp_code}":
        error = ""
    elif error in ("0/0", "129/0"):
        return  # the node's own answer to an echo request: it was delivered
    kind = "reject" if error else "forward" if dev else "deliver"
    if _RANK[kind] <= _RANK[outcomes[probe.number].kind]:
        return
    if error:
        outcomes[probe.number] = Outcome("reject", error=error)
    else:
        outcomes[probe.number] = Outcome(
            kind, dev, sight.src, sight.sport, sight.dst, sight.dport, sight.ttl, sight.dscp, mark
        )


__all__ = ["DEVICES", "FuzzNode", "Outcome", "Setup", "packed"]
