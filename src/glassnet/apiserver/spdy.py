"""SPDY/3.1 frames: the codec and the bookkeeping of one session, without any I/O.

kubectl's port-forward speaks it (inside WebSocket messages since KEP-4006). Source: SPDY Protocol, drafts 3 and 3.1 (session flow control).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from glassnet.net.errors import ParseError

VERSION = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FIN = 0x01
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, CANCEL, INTERNAL_ERROR = 1, 2, 3, 5, 6
INITIAL_WINDOW = 64 * 1024
_SETTINGS_INITIAL_WINDOW = 7
_MAX_HEADERS = 64 * 1024
_HEAD = struct.Struct(">II")

# The dictionary of draft 3, section 2.6.10.1: each name with its length before it, then plain text.
_NAMES = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
)
_PLAIN = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _words(*words: str) -> bytes:
    return b"".join(struct.pack(">I", len(word)) + word.encode() for word in words)


DICTIONARY = _words(
    *_NAMES.split(), "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"
)
DICTIONARY += _PLAIN.encode()


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: `kind` is a control type, or 0 for data. `number` is the stream (PING: its id, GOAWAY: the last good stream)."""

    kind: int
    number: int
    flags: int = 0
    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    value: int = 0
    """Status of RST_STREAM and GOAWAY, delta of WINDOW_UPDATE, the initial window of SETTINGS (0: not told)."""

    @property
    def fin(self) -> bool:
        """The sender's last frame on the stream."""
        return bool(self.flags & FIN) and self.kind in (0, SYN_STREAM, SYN_REPLY, HEADERS)


class Codec:
    """One end of a session: both directions' header compression lasts as long as the session, so frames keep their order."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._deflate = zlib.compressobj(wbits=zlib.MAX_WBITS, zdict=DICTIONARY)
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)

    def feed(self, raw: bytes) -> Iterator[Frame]:
        """Frames that are complete with these bytes. Raises ParseError."""
        self._buffer += raw
        while len(self._buffer) >= 8:
            first, second = _HEAD.unpack_from(self._buffer)
            size = second & 0xFFFFFF
            if len(self._buffer) < 8 + size:
                return
            body = bytes(self._buffer[8 : 8 + size])
            del self._buffer[: 8 + size]
            flags = second >> 24
            if not first & 0x80000000:
                yield Frame(0, first & 0x7FFFFFFF, flags, body)
                continue
            if (first >> 16) & 0x7FFF != VERSION:
                raise ParseError(f"SPDY version {(first >> 16) & 0x7FFF} is not {VERSION}")
            if frame := self._control(first & 0xFFFF, flags, body):
                yield frame

    def _control(self, kind: int, flags: int, body: bytes) -> Frame | None:
        try:
            if kind == SYN_STREAM:
                return Frame(kind, _number(body, 0), flags, headers=self._unpack(body[10:]))
            if kind in (SYN_REPLY, HEADERS):
                return Frame(kind, _number(body, 0), flags, headers=self._unpack(body[4:]))
            if kind in (RST_STREAM, WINDOW_UPDATE, GOAWAY):
                return Frame(kind, _number(body, 0), flags, value=_number(body, 4))
            if kind == PING:
                return Frame(kind, struct.unpack_from(">I", body)[0], flags)
            if kind == SETTINGS:
                return Frame(kind, 0, flags, value=_initial_window(body))
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise ParseError(f"SPDY control frame {kind} of {len(body)} bytes: {error}") from None
        return None  # an unknown type is to be ignored (draft 3, section 2.2.1)

    def _unpack(self, packed: bytes) -> dict[str, str]:
        raw = self._inflate.decompress(packed, _MAX_HEADERS)
        if self._inflate.unconsumed_tail:
            raise ParseError(f"SPDY headers are longer than {_MAX_HEADERS} bytes")
        (count,) = struct.unpack_from(">I", raw)
        words, at = [], 4
        for _ in range(2 * count):
            (size,) = struct.unpack_from(">I", raw, at)
            words.append(raw[at + 4 : at + 4 + size].decode())
            at += 4 + size
        return dict(zip((word.lower() for word in words[::2]), words[1::2], strict=True))

    def _pack(self, headers: Mapping[str, str]) -> bytes:
        raw = struct.pack(">I", len(headers)) + b"".join(_words(k.lower(), v) for k, v in headers.items())
        return self._deflate.compress(raw) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def encode(self, frame: Frame) -> bytes:
        """A frame's bytes; those with headers must be sent in the order they were encoded."""
        if frame.kind == 0:
            return _HEAD.pack(frame.number, frame.flags << 24 | len(frame.data)) + frame.data
        if frame.kind == SYN_STREAM:
            body = struct.pack(">IIH", frame.number, 0, 0) + self._pack(frame.headers)
        elif frame.kind in (SYN_REPLY, HEADERS):
            body = struct.pack(">I", frame.number) + self._pack(frame.headers)
        elif frame.kind == PING:
            body = struct.pack(">I", frame.number)
        elif frame.kind == SETTINGS:
            body = struct.pack(">III", 1, _SETTINGS_INITIAL_WINDOW, frame.value)
        else:
            body = struct.pack(">II", frame.number, frame.value)
        head = _HEAD.pack(0x80000000 | VERSION << 16 | frame.kind, frame.flags << 24 | len(body))
        return head + body


def _number(body: bytes, at: int) -> int:
    found: int = struct.unpack_from(">I", body, at)[0]
    return found & 0x7FFFFFFF


def _initial_window(body: bytes) -> int:
    (count,) = struct.unpack_from(">I", body)
    for index in range(count):
        word, value = struct.unpack_from(">II", body, 4 + 8 * index)
        if word & 0xFFFFFF == _SETTINGS_INITIAL_WINDOW:
            return int(value)
    return 0
