"""Faults of the connection table: entries that lead nowhere, that were never translated, that clash, and a table that is full."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from itertools import islice

from glassnet.kernel.nfnetlink import NfNetlink
from glassnet.lab.faults.scene import NAMESPACE, UDP, Fault, Scene
from glassnet.lab.faults.undo import CONNTRACK, MARK
from glassnet.net.errors import KernelError, LabError
from glassnet.ruleset.nft_messages import attr, nest

STALE_PORT, BARE_PORT, CLASH_PORT = 40000, 40001, 45000
LASTING = 3600  # seconds an entry lives when no packet renews it
_STABLE = 0.3  # seconds without the proxy clearing an entry away, as it does when the Service is new
_ORIGINAL, _REPLY, _STATUS, _TIMEOUT, _NEW, _CREATE = 1, 2, 3, 7, 0, 0x600  # nfnetlink_conntrack.h
_ASSURED = 2 | 4 | 8  # IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED: the kernel gives up others for new ones, not these
FULL_MARK, MOST, AT_ONCE = 0x66756C6C, 600_000, 2000
_OUTSIDE = int.from_bytes(socket.inet_aton("198.18.0.0"), "big")  # RFC 2544


async def stale(scene: Scene) -> list[str]:
    """A UDP flow of the node to a Service, translated to an endpoint that is gone: what a missed clean-up leaves."""
    await scene.pod(scene.spec.name)
    virtual = (await scene.service())["clusterIP"]
    dead = scene.spare_address()
    await _insert(scene, virtual, STALE_PORT, "--dst-nat", f"{dead}:{UDP}")
    return [
        f"UDP {scene.spec.address}:{STALE_PORT} -> Service {NAMESPACE}/{scene.fault} {virtual}:80 still goes to {dead}:{UDP}, an endpoint that is gone",
        f"glassnet node {scene.spec.name} -- conntrack -L -p udp --orig-dst {virtual}",
    ]


async def bare(scene: Scene) -> list[str]:
    """A UDP flow of the node to a Service from before its rules: never translated."""
    await scene.pod(scene.spec.name)
    virtual = (await scene.service())["clusterIP"]
    await _insert(scene, virtual, BARE_PORT)
    return [
        f"UDP {scene.spec.address}:{BARE_PORT} -> Service {NAMESPACE}/{scene.fault} {virtual}:80 has an entry without translation",
        f"glassnet node {scene.spec.name} -- conntrack -L -p udp --orig-dst {virtual}",
    ]


async def _insert(scene: Scene, virtual: str, port: int, *translation: str) -> None:
    """Put an entry in, and stay until the proxy has done with a new Service: what it clears away is put in again."""
    tuple_ = ["--orig-src", scene.spec.address, "--orig-dst", virtual, "--sport", str(port), "--dport", "80"]
    scene.note("run", machine=scene.spec.name, argv=["conntrack", "-D", "-p", "udp", *tuple_])
    await scene.try_run("conntrack", "-D", "-p", "udp", *tuple_)
    for _ in range(20):
        if not await scene.try_run("conntrack", "-L", "-p", "udp", *tuple_):
            await scene.run("conntrack", "-I", "-p", "udp", *tuple_, *translation, "-t", str(LASTING))
        await asyncio.sleep(_STABLE)
        if await scene.try_run("conntrack", "-L", "-p", "udp", *tuple_):
            return
    raise LabError(f"{scene.fault}: the proxy of {scene.spec.name} clears the entry away again and again")


async def clash(scene: Scene) -> list[str]:
    """Real packets from one port of a pod, to a Service and to its endpoint: equal replies, so the kernel gives the later flow another port."""
    node, client_name = scene.spec.name, f"{scene.fault}-client"
    server = await scene.pod(node)
    client = await scene.pod(node, client_name, labelled=False)
    virtual = (await scene.service())["clusterIP"]
    flows = ((server, UDP), (virtual, 80))
    tuples = [_flow(client, address, port) for address, port in flows]
    for words in tuples:
        scene.note("run", machine=node, argv=["conntrack", "-D", *words])
    netns = scene.pod_netns(client)
    try:
        for _ in range(20):
            for words in tuples:
                await scene.try_run("conntrack", "-D", *words)
            for address, port in flows:
                with netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
                    sock.bind((client, CLASH_PORT))  # what the kernel refuses now is tried again in the next round
                    sock.sendto(b"hostname", (address, port))
                    await asyncio.sleep(0.02)
            await asyncio.sleep(_STABLE)  # the proxy may clear them away while the Service is new
            seen = [await scene.try_run("conntrack", "-L", *words) for words in tuples]
            if f"dport={CLASH_PORT} " in seen[0].partition(f"src={server} dst={client}")[2] and _moved(seen[1]):
                break
        else:
            raise LabError(f"{scene.fault}: no two entries with equal replies came about")
    finally:
        netns.close()
    for words in tuples:
        await scene.run("conntrack", "-U", *words, "-t", str(LASTING))
    return [
        f"{client}:{CLASH_PORT} speaks to {server}:{UDP} and to its Service {virtual}:80: the second flow has another source port",
        f"glassnet node {node} -- conntrack -L -p udp --orig-src {client}",
    ]


def _flow(client: str, address: str, port: int) -> list[str]:
    return ["-p", "udp", "--orig-src", client, "--orig-dst", address, "--sport", str(CLASH_PORT), "--dport", str(port)]


def _moved(entry: str) -> bool:
    """Whether an entry's reply goes to another port than the flow came from."""
    ports = [word.partition("=")[2] for word in entry.split() if word.startswith("dport=")]
    return len(ports) == 2 and ports[1] != str(CLASH_PORT)


async def full(scene: Scene) -> list[str]:
    """As many connections as the kernel lets this namespace have, all of one pod. The limit itself can be set nowhere but on the host."""
    pod = await scene.pod(scene.spec.name)
    count, most = [int(word) for word in (await scene.run("sysctl", "-n", *_COUNTERS)).split()]
    if most == 0 or most > MOST:
        raise LabError(
            f"{scene.fault}: nf_conntrack_max is {most or 'without limit'} on this machine; beyond {MOST} filling the table takes too much memory"
        )
    scene.note("connections", machine=scene.spec.name, mark=FULL_MARK)
    connection = NfNetlink(scene.machine.netns)
    try:
        entries = _entries(pod, most + AT_ONCE)
        while messages := list(islice(entries, AT_ONCE)):
            refusals = connection.send(b"".join(messages))
            await asyncio.sleep(0)  # the lab goes on living
            if refusals:
                if refusals[0].number not in (12, 28):  # ENOMEM: full. ENOSPC: a bucket is too long
                    raise refusals[0]
                if refusals[0].number == 12:
                    break
    finally:
        connection.close()
    count = int(await scene.run("sysctl", "-n", _COUNTERS[0]))
    if count < most - 8:
        raise KernelError(f"{scene.fault}: fill the table of {scene.spec.name}", 12, f"{count} of {most} entries")
    return [
        f"{count} of {most} connections on {scene.spec.name}, nearly all from pod {NAMESPACE}/{scene.fault} {pod}: new ones are dropped",
        f"glassnet node {scene.spec.name} -- conntrack -S",
    ]


_COUNTERS = ("net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max")


def _entries(pod: str, number: int) -> Iterator[bytes]:
    """Messages that make UDP entries from a pod to a range nobody has."""
    here = socket.inet_aton(pod)
    tail = attr(_STATUS, _ASSURED.to_bytes(4, "big")) + attr(_TIMEOUT, (86400).to_bytes(4, "big"))
    tail += attr(MARK, FULL_MARK.to_bytes(4, "big"))
    for index in range(number):
        there, port = (_OUTSIDE + (index >> 15)).to_bytes(4, "big"), (0x8000 | index & 0x7FFF).to_bytes(2, "big")
        one = nest(_ORIGINAL, _ends(here, there), _ports(port, b"\0\x35"))
        other = nest(_REPLY, _ends(there, here), _ports(b"\0\x35", port))
        body = b"\x02\0\0\0" + one + other + tail
        yield struct.pack("=IHHII", len(body) + 16, CONNTRACK | _NEW, 1 | _CREATE, 0, 0) + body


def _ends(source: bytes, destination: bytes) -> bytes:
    return nest(1, attr(1, source), attr(2, destination))


def _ports(source: bytes, destination: bytes) -> bytes:
    return nest(2, attr(1, b"\x11"), attr(2, source), attr(3, destination))


FAULTS = (
    Fault("stale-conntrack", 2, "a UDP flow to a Service still goes to an endpoint that is gone", stale),
    Fault("conntrack-before-rules", 3, "a UDP flow to a Service began before its rules: never translated", bare),
    Fault("conntrack-full", 15, "the node's connection table is full", full),
    Fault("port-clash", 40, "one source port to a Service and to its endpoint: equal reply tuples", clash),
)
