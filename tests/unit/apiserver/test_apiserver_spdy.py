"""SPDY/3.1 frames, byte by byte."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.apiserver import spdy
from glassnet.apiserver.spdy import Codec, Frame
from glassnet.net.errors import ParseError


def test_dictionary_is_the_published_one() -> None:
    # zlib names a dictionary by its Adler-32: SPDY/3's is 0xe3c6a7c2, of 1423 bytes
    assert (len(spdy.DICTIONARY), zlib.adler32(spdy.DICTIONARY)) == (1423, 0xE3C6A7C2)


def test_headers_are_compressed_with_the_dictionary_over_the_whole_session() -> None:
    sender, receiver = Codec(), Codec()
    headers = {"streamtype": "error", "port": "80", "requestid": "0"}
    first = sender.encode(Frame(spdy.SYN_STREAM, 1, headers=headers))
    second = sender.encode(Frame(spdy.SYN_STREAM, 3, spdy.FIN, headers=headers))
    assert first[:4] == b"\x80\x03\x00\x01"
    assert first[8:18] == b"\0\0\0\1" + bytes(6)
    assert len(second) < len(first)
    frames = list(receiver.feed(first + second))
    assert [(one.number, dict(one.headers), one.fin) for one in frames] == [(1, headers, False), (3, headers, True)]


@pytest.mark.parametrize(
    ("frame", "raw"),
    [
        (Frame(0, 5, spdy.FIN, b"hi"), "00000005 01000002 6869"),
        (Frame(spdy.RST_STREAM, 5, value=spdy.CANCEL), "80030003 00000008 00000005 00000005"),
        (Frame(spdy.PING, 7), "80030006 00000004 00000007"),
        (Frame(spdy.GOAWAY, 9, value=1), "80030007 00000008 00000009 00000001"),
        (Frame(spdy.WINDOW_UPDATE, 0, value=65536), "80030009 00000008 00000000 00010000"),
        (Frame(spdy.SETTINGS, 0, value=1000), "80030004 0000000c 00000001 00000007 000003e8"),
    ],
)
def test_frames_are_laid_out_as_the_draft_says(frame: Frame, raw: str) -> None:
    data = bytes.fromhex(raw)
    assert Codec().encode(frame) == data
    assert list(Codec().feed(data)) == [frame]


@given(st.lists(st.tuples(st.integers(1, 2**31 - 1), st.binary(max_size=40)), max_size=6), st.integers(1, 9))
def test_any_cut_of_the_bytes_gives_the_same_frames(parts: list[tuple[int, bytes]], size: int) -> None:
    sender, receiver = Codec(), Codec()
    sent = [Frame(0, number, data=data) for number, data in parts] + [Frame(spdy.SYN_REPLY, 1, headers={"a": "b"})]
    raw = b"".join(sender.encode(frame) for frame in sent)
    got = [frame for at in range(0, len(raw), size) for frame in receiver.feed(raw[at : at + size])]
    assert got == sent


def test_unknown_control_frames_are_skipped_and_other_versions_refused() -> None:
    assert list(Codec().feed(bytes.fromhex("800300630000000101") + bytes.fromhex("0000000100000000"))) == [Frame(0, 1)]
    with pytest.raises(ParseError, match="version 2"):
        list(Codec().feed(bytes.fromhex("8002000600000004 00000001")))


@pytest.mark.parametrize("body", ["00000001", "00000001000000000000ffff", ""])
def test_broken_control_frames_name_the_frame(body: str) -> None:
    raw = bytes.fromhex(body)
    with pytest.raises(ParseError, match="SPDY control frame 1"):
        list(Codec().feed(bytes.fromhex("80030001") + len(raw).to_bytes(4, "big") + raw))
