"""Protobuf bodies as kubectl sends them, and damaged ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.apiserver.protobuf import decode_object
from glassnet.net.errors import ApiError

# what `kubectl create namespace a` sends (kubectl 1.32.5)
NAMESPACE = bytes.fromhex(
    "6b387300 0a0f0a02 76311209 4e616d65 73706163 6512190a 110a0161 12001a00 22002a00 32003800 42001200 1a020a00 1a002200"
)


def test_a_namespace_reads_as_its_json_would() -> None:
    assert decode_object(NAMESPACE) == {
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}, "spec": {}, "status": {},
    }  # fmt: skip


@pytest.mark.parametrize("cut", range(5, len(NAMESPACE) - 5))
def test_no_cut_body_raises_anything_but_a_bad_request(cut: int) -> None:
    try:
        assert isinstance(decode_object(NAMESPACE[:cut]), dict)
    except ApiError as error:
        assert error.status == 400


@given(st.binary(max_size=80))
def test_noise_raises_nothing_but_a_bad_request(noise: bytes) -> None:
    try:
        decode_object(NAMESPACE[:23] + noise)
    except ApiError as error:
        assert error.status == 400


def test_unknown_kinds_and_fields_are_refused_by_name() -> None:
    with pytest.raises(ApiError, match='no kind "Namespacx"'):
        decode_object(NAMESPACE.replace(b"Namespace", b"Namespacx"))
    meta = b"\x0a\x04\xfa\x3f\x01x"  # metadata { 1023: "x" }
    with pytest.raises(ApiError, match="ObjectMeta has no field number 1023"):
        decode_object(NAMESPACE[:21] + b"\x12" + bytes([len(meta)]) + meta)
