"""HTTP as bytes: the same answers however the packets are cut, and no garbage that breaks anything."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.lab.pods.http_server import HttpApp, HttpConnection
from glassnet.lab.pods.http_wire import (
    MAX_BODY,
    MAX_FIELDS,
    MAX_HEAD,
    Request,
    RequestReader,
    Response,
    WireError,
    render,
    text,
)

GET = b"GET /a?b=c%20d&e= HTTP/1.1\r\nHost: x\r\nX-Many: 1\r\nX-Many: 2\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"PUT /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10;ext=1\r\n0123456789abcdef\r\n0\r\nT: v\r\n\r\n"
OLD = b"GET /old HTTP/1.0\n\n"
STREAMS = [GET, POST, CHUNKED, OLD, GET + POST + CHUNKED + OLD, b"\r\n\r\n" + POST + b"\r\n" + GET]
GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET\r\n\r\n",
    b"GET / HTTP/2.0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
    b"GET /" + b"a" * MAX_HEAD + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * MAX_FIELDS + b"\r\n",
]


def read_all(pieces: Sequence[bytes]) -> list[tuple[str, str, object, bytes] | int]:
    """Requests out of a stream, and the status of the error that ended it."""
    reader = RequestReader()
    found: list[tuple[str, str, object, bytes] | int] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (request := reader.next()) is not None:
                found.append((request.method, request.target, request.fields, request.body))
    except WireError as error:
        found.append(error.status)
    return found


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(marks)]


@given(st.sampled_from(STREAMS + GARBAGE), st.lists(st.integers(0, 20_000), max_size=8))
def test_packets_cut_anywhere_give_the_same_requests(stream: bytes, places: list[int]) -> None:
    assert read_all(cut(stream, places)) == read_all([stream])


@pytest.mark.parametrize("stream", STREAMS)
def test_byte_by_byte(stream: bytes) -> None:
    assert read_all([stream[i : i + 1] for i in range(len(stream))]) == read_all([stream])


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"GET / HTTP/1.1\r\n", CHUNKED[:60]]),
    st.lists(st.integers(0, 400), max_size=4),
)
def test_no_bytes_break_the_reader(noise: bytes, start: bytes, places: list[int]) -> None:
    whole = start + noise
    assert read_all(cut(whole, places)) == read_all([whole])


@pytest.mark.parametrize("stream", GARBAGE)
def test_garbage_is_an_error_with_a_status(stream: bytes) -> None:
    (status,) = read_all([stream])
    assert status in (400, 413, 431, 501, 505)


def test_what_a_request_says() -> None:
    reader = RequestReader()
    reader.feed(GET)
    request = reader.next()
    assert request is not None
    assert (request.path, request.query) == ("/a", {"b": "c d", "e": ""})
    assert request.header("x-many") == "1, 2"
    assert request.keeps_alive()


def test_chunked_bodies_come_whole_without_their_trailers() -> None:
    ((_, _, _, body),) = read_all([CHUNKED])  # type: ignore[misc]
    assert body == b"abc0123456789abcdef"


def test_a_form_in_the_body_wins_over_the_query() -> None:
    reader = RequestReader()
    reader.feed(
        b"POST /e?msg=q&x=1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 5\r\n\r\nmsg=b"
    )
    request = reader.next()
    assert request is not None
    assert request.form() == {"msg": "b", "x": "1"}


def test_a_body_that_is_too_long_is_refused_before_it_comes() -> None:
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n".encode()
    assert read_all([head]) == [413]


@pytest.mark.parametrize(
    ("method", "status", "body"), [("GET", 200, b"hi"), ("HEAD", 200, b""), ("GET", 204, b""), ("GET", 304, b"")]
)
def test_rendered_answers(method: str, status: int, body: bytes) -> None:
    whole = render(Response(b"hi", status), "D", method, keep_alive=True, minor=1)
    head, _, sent = whole.partition(b"\r\n\r\n")
    assert sent == body
    assert (b"Content-Length: 2" in head) == (status == 200)
    assert b"\r\nDate: D\r\n" in head


def test_header_values_cannot_smuggle_lines() -> None:
    whole = render(Response(b"", 302, fields=(("Location", "/a\r\nSet-Cookie: x"),)), "D", "GET", True, 1)
    assert b"\r\nSet-Cookie" not in whole


class Echo(HttpApp):
    """Answers with the request's target; /slow takes its time, /none breaks off."""

    def answer(self, request: Request, connection: HttpConnection) -> object:  # type: ignore[override]
        if request.path == "/none":
            return None
        if request.path == "/slow":
            return self._later(request)
        return text(request.target + request.body.decode())

    async def _later(self, request: Request) -> Response:
        await asyncio.sleep(0.01)
        return text(request.target)


async def talk(*pieces: bytes, end: bool = True) -> bytes:
    """Send pieces to a server on the loopback, and read until it closes."""
    loop = asyncio.get_running_loop()
    group: set[HttpConnection] = set()
    app = Echo()
    server = await loop.create_server(lambda: HttpConnection(app, group), "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)
        if end:
            writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer
    finally:
        server.close()


def bodies(answer: bytes) -> list[bytes]:
    found = []
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")), 0
        )
        found.append(rest[:length])
        answer = rest[length:]
    return found


async def test_pipelined_requests_are_answered_in_order_also_slow_ones() -> None:
    slow = GET.replace(b"/a?b=c%20d&e=", b"/slow")
    answer = await talk(slow + POST + CHUNKED + slow + GET)
    assert bodies(answer) == [b"/slow", b"/phello", b"/cabc0123456789abcdef", b"/slow", b"/a?b=c%20d&e="]


async def test_http_1_0_and_connection_close_end_the_connection() -> None:
    assert bodies(await talk(OLD, end=False)) == [b"/old"]
    closing = b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await talk(closing + GET, end=False)
    assert bodies(answer) == [b"/x"]
    assert b"Connection: close" in answer


async def test_a_client_that_waits_for_100_continue_gets_it() -> None:
    head, body = b"POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", b"ok"
    answer = await talk(head, body)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"/pok")


async def test_an_answer_of_none_breaks_off() -> None:
    assert await talk(GET.replace(b"/a", b"/none"), end=False) == b""


@pytest.mark.parametrize("stream", GARBAGE)
async def test_garbage_gets_an_answer_and_the_connection_is_closed(stream: bytes) -> None:
    answer = await talk(stream, end=False)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    assert b"Connection: close" in answer


async def test_good_requests_before_garbage_are_answered() -> None:
    answer = await talk(GET + b"\x00\x01", end=False)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 400 Bad Request" in answer
