"""HTTP/1.x as bytes: a request reader that takes its input in pieces of any size, and the bytes of a response.

Pure. The rules are those of RFC 9110 and RFC 9112, with limits of our own, so that no client can make a lab grow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

MAX_HEAD = 16 * 1024
MAX_FIELDS = 100
MAX_BODY = 1024 * 1024
MAX_CHUNK_LINE = 1024

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TOKEN_START = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_REQUEST_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) HTTP/(\d)\.(\d)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;.*)?")
_FORBIDDEN_IN_VALUE = re.compile(r"[\x00\r\n]")


class WireError(Exception):
    """A request that cannot be served: `status` is the answer's code. The connection is of no further use."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(f"{status} {reason}")


class Request:
    """One request; `fields` are the header lines in order, `minor` the minor HTTP version."""

    __slots__ = ("body", "fields", "method", "minor", "target")

    def __init__(self, method: str, target: str, minor: int, fields: Sequence[tuple[str, str]]) -> None:
        self.method, self.target, self.minor, self.fields = method, target, minor, fields
        self.body = b""

    @property
    def line(self) -> str:
        """The request line as it came."""
        return f"{self.method} {self.target} HTTP/1.{self.minor}"

    @property
    def path(self) -> str:
        """The target's path, percent-decoded; the absolute form (RFC 9112, 3.2.2) counts too."""
        return unquote(self._origin_form().partition("?")[0])

    @property
    def query(self) -> dict[str, str]:
        """The target's query; of several fields of one name the first counts."""
        fields: dict[str, str] = {}
        for name, value in parse_qsl(self._origin_form().partition("?")[2], keep_blank_values=True):
            fields.setdefault(name, value)
        return fields

    def _origin_form(self) -> str:
        target = self.target.partition("#")[0]
        if target.startswith("/"):
            return target
        _, scheme, rest = target.partition("://")
        return "/" + rest.partition("/")[2] if scheme else target

    def header(self, name: str) -> str:
        """Values of a header field (name in lower case), joined as RFC 9110, 5.2 says; "" without one."""
        return ", ".join(value for field, value in self.fields if field.lower() == name)

    def form(self) -> dict[str, str]:
        """Query fields and those of an urlencoded body; the body's win, as in Go's Request.FormValue."""
        fields = self.query
        if self.body and self.header("content-type").startswith("application/x-www-form-urlencoded"):
            own: dict[str, str] = {}
            for name, value in parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True):
                own.setdefault(name, value)
            fields.update(own)
        return fields

    def keeps_alive(self) -> bool:
        """Whether the connection stays open after the answer (RFC 9112, 9.3)."""
        options = {option.strip().lower() for option in self.header("connection").split(",")}
        if "close" in options:
            return False
        return self.minor >= 1 or "keep-alive" in options


class Response(NamedTuple):
    """An answer: status, body, media type and further header lines. `length` tells the size of a body left out (HEAD)."""

    body: bytes = b""
    status: int = 200
    type: str = "text/plain; charset=utf-8"
    fields: tuple[tuple[str, str], ...] = ()


def text(value: str, status: int = 200) -> Response:
    """A plain text answer."""
    return Response(value.encode("utf-8", "replace"), status)


def reason_phrase(status: int) -> str:
    """The standard's words for a status code; "" for one it does not know."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def render(response: Response, date: str, method: str, keep_alive: bool, minor: int) -> bytes:
    """The bytes of an answer. `date` is the Date header's value; HEAD, 1xx, 204 and 304 carry no body."""
    bodiless = response.status < 200 or response.status in (204, 304)
    lines = [f"HTTP/1.1 {response.status} {reason_phrase(response.status)}", f"Date: {date}"]
    lines.extend(f"{name}: {_FORBIDDEN_IN_VALUE.sub(' ', value)}" for name, value in response.fields)
    if response.body:
        lines.append(f"Content-Type: {response.type}")
    if not bodiless:
        lines.append(f"Content-Length: {len(response.body)}")
    if not keep_alive:
        lines.append("Connection: close")
    elif minor == 0:
        lines.append("Connection: keep-alive")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
    return head if bodiless or method == "HEAD" else head + response.body


class RequestReader:
    """Cuts a byte stream into requests. `feed` takes what came, `next` gives a request once it is whole.

    What comes out depends on the bytes alone, never on how they were cut into packets.
    """

    __slots__ = ("_body", "_buffer", "_chunked", "_pending", "_remaining", "_scanned", "_trailer")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._pending: Request | None = None
        self._reset()

    def _reset(self) -> None:
        self._remaining = 0
        self._chunked = False
        self._trailer = 0
        self._body: bytearray | None = None

    @property
    def buffered(self) -> int:
        """Bytes taken in and not yet given out."""
        return len(self._buffer)

    @property
    def continues(self) -> bool:
        """Whether a client waits for "100 Continue" before it sends the body of the request begun."""
        pending = self._pending
        return pending is not None and pending.minor >= 1 and pending.header("expect").lower() == "100-continue"

    def feed(self, data: bytes) -> None:
        """Take in bytes."""
        self._buffer += data

    def next(self) -> Request | None:
        """The next whole request, None when more bytes are needed. Raises WireError for what is no request."""
        if self._pending is None and not self._read_head():
            return None
        if not (self._read_chunks() if self._chunked else self._read_body()):
            return None
        request = self._pending
        assert request is not None
        request.body = bytes(self._body or b"")
        self._pending = None
        self._reset()
        return request

    def _read_head(self) -> bool:
        buffer = self._buffer
        if self._scanned == 0:
            while buffer and buffer[0] in b"\r\n":  # RFC 9112, 2.2: empty lines before a request are passed over
                del buffer[: len(buffer) - len(buffer.lstrip(b"\r\n"))]
            if not buffer:
                return False
            if buffer[0] not in _TOKEN_START:
                raise WireError(400, "this is not an HTTP request")
        end = _END_OF_HEAD.search(buffer, max(0, self._scanned - 3))
        if (end.end() if end else len(buffer)) > MAX_HEAD:
            raise WireError(431, f"request line and header fields of more than {MAX_HEAD} bytes")
        if end is None:
            self._scanned = len(buffer)
            return False
        head = buffer[: end.start()].decode("latin-1")
        del buffer[: end.end()]
        self._scanned = 0
        self._pending = request = parse_head(head)
        self._remaining = body_length(request)
        self._chunked = self._remaining < 0
        return True

    def _read_body(self) -> bool:
        if self._remaining:
            if len(self._buffer) < self._remaining:
                return False
            self._body = self._buffer[: self._remaining]
            del self._buffer[: self._remaining]
        return True

    def _read_chunks(self) -> bool:
        """RFC 9112, 7.1. `_remaining` is -1 before a size line, -2 among the trailers, else data bytes wanted and their CRLF."""
        if self._body is None:
            self._body = bytearray()
        while True:
            if self._remaining >= 0:
                if not self._take_chunk():
                    return False
                continue
            line = self._take_line()
            if line is None:
                return False
            if self._remaining == -2:
                self._trailer += len(line) + 2
                if self._trailer > MAX_HEAD:
                    raise WireError(431, f"trailer fields of more than {MAX_HEAD} bytes")
                if not line:
                    return True
                continue
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise WireError(400, "a chunk without a size")
            size = int(match[1], 16)
            if len(self._body) + size > MAX_BODY:
                raise WireError(413, f"a body of more than {MAX_BODY} bytes")
            self._remaining = size if size else -2

    def _take_chunk(self) -> bool:
        size = self._remaining
        if len(self._buffer) < size + 2:
            return False
        if self._buffer[size : size + 2] != b"\r\n":
            raise WireError(400, "a chunk longer than its size says")
        assert self._body is not None
        self._body += self._buffer[:size]
        del self._buffer[: size + 2]
        self._remaining = -1
        return True

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\n")
        if (end if end >= 0 else len(self._buffer)) > MAX_CHUNK_LINE:
            raise WireError(400, f"a line of more than {MAX_CHUNK_LINE} bytes between chunks")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r")


def parse_head(head: str) -> Request:
    """Read request line and header fields (without the empty line). Raises WireError."""
    first, *rest = head.split("\n")
    match = _REQUEST_LINE.fullmatch(first.rstrip("\r"))
    if match is None:
        raise WireError(400, "the request line is none")
    if match[3] != "1":
        raise WireError(505, f"HTTP/{match[3]}.{match[4]} is not spoken here")
    if len(rest) > MAX_FIELDS:
        raise WireError(431, f"more than {MAX_FIELDS} header fields")
    fields = []
    for line in rest:
        name, colon, value = line.rstrip("\r").partition(":")
        if not colon or not _TOKEN.fullmatch(name) or _FORBIDDEN_IN_VALUE.search(value):
            raise WireError(400, "a header line that is none")
        fields.append((name, value.strip(" \t")))
    request = Request(match[1], match[2], int(match[4]), tuple(fields))
    hosts = sum(name.lower() == "host" for name, _ in fields)
    if hosts > 1 or (hosts == 0 and request.minor >= 1):
        raise WireError(400, "not exactly one Host header field")
    return request


def body_length(request: Request) -> int:
    """Bytes of body to come, -1 for a chunked one (RFC 9112, 6.3). Raises WireError."""
    coding, length = request.header("transfer-encoding").lower(), request.header("content-length")
    if coding:
        if length or request.minor == 0:
            raise WireError(400, "Transfer-Encoding beside Content-Length, or in HTTP/1.0")
        if coding != "chunked":
            raise WireError(501, f"the transfer coding {coding!r} is not spoken here")
        return -1
    if not length:
        return 0
    values = {value.strip() for value in length.split(",")}
    value = values.pop()
    if values or not (value.isascii() and value.isdigit()):
        raise WireError(400, "a Content-Length that is no number")
    if len(value.lstrip("0")) > 9 or int(value) > MAX_BODY:
        raise WireError(413, f"a body of more than {MAX_BODY} bytes")
    return int(value)
