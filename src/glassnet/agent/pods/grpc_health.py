"""One question to a gRPC server: grpc.health.v1.Health/Check, over as little HTTP/2 as it takes.

Sources: RFC 9113 (frames), RFC 7541 section 6.2.2 (literal header fields without indexing), "gRPC over HTTP2" and
"GRPC Health Checking Protocol" of the gRPC documentation.
"""

from __future__ import annotations

import asyncio
import contextlib

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS, PADDED, ACK = 0x1, 0x4, 0x8, 0x1
STREAM = 1
STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
LONGEST = 16384  # a frame's largest payload while nobody has agreed on more


async def check(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str, service: str
) -> tuple[bool, str]:
    """Ask whether `service` ("" for the whole server) is serving: (good, what it said). Raises OSError when the connection breaks."""
    try:
        writer.write(PREFACE + frame(SETTINGS, 0, 0, b"") + _request(authority, service))
        answer = await _answer(reader, writer)
    except asyncio.IncompleteReadError:
        return False, f'error: the connection to "{authority}" ended before an answer came'
    finally:
        with contextlib.suppress(OSError):
            writer.close()
    if answer is None:
        return False, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
    status = STATUSES.get(answer, str(answer))
    return status == "SERVING", "" if status == "SERVING" else f'service unhealthy (responded with "{status}")'


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _request(authority: str, service: str) -> bytes:
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("user-agent", "kube-probe/1.36"),
        ("te", "trailers"),
    ]
    block = b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields)
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    body = b"\x00" + len(message).to_bytes(4, "big") + message
    return frame(HEADERS, END_HEADERS, STREAM, block) + frame(DATA, END_STREAM, STREAM, body)


def _string(text: str) -> bytes:
    """A string literal without Huffman coding: a 7-bit prefixed length (RFC 7541, 5.1 and 5.2) and the bytes."""
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    return b"\x7f" + _varint(len(data) - 127) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int | None:
    """The status in the server's message; None when the call ends without one."""
    body = b""
    while True:
        head = await reader.readexactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
        if length > LONGEST:
            return None  # no HTTP/2 speaker answers so: the port belongs to something else
        payload = await reader.readexactly(length)
        if kind == SETTINGS and not flags & ACK:
            writer.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            writer.write(frame(PING, ACK, 0, payload))
        elif kind in (GOAWAY, RST_STREAM):
            return _status(body)
        elif stream == STREAM and kind in (DATA, HEADERS):
            if kind == DATA:
                body += payload[1 : length - payload[0]] if flags & PADDED else payload
            if flags & END_STREAM:
                return _status(body)


def _status(body: bytes) -> int | None:
    """Field 1 of a HealthCheckResponse behind the five bytes that gRPC puts before a message; an empty message means 0."""
    if len(body) < 5 or body[0]:
        return None
    message = body[5:]
    return message[1] if message[:1] == b"\x08" and len(message) > 1 else 0
