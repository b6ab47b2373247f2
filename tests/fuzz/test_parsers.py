# SPDX-License-Identifier: Apache-2.0
"""Parsers of our own meet damaged and hostile bytes: a value or a ValueError, nothing else."""

import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdp.readers.containers import parse_tensor_proto
from qdp.readers.images import parse_cifar, parse_cifar_pickle, parse_idx


def field(number, content):
    return bytes([number << 3 | 2, len(content)]) + content


def tensor_proto(array):
    shape = b"".join(field(2, bytes([8, size])) for size in array.shape)
    return bytes([8, 2]) + field(2, shape) + field(4, array.tobytes())


VALUES = np.arange(6.0).reshape(2, 3)
IDX = bytes([0, 0, 0x0E, 2]) + struct.pack(">2I", 2, 3) + VALUES.astype(">f8").tobytes()
PIXELS = np.arange(3072, dtype=np.uint8)[None] % 251
PICKLE = pickle.dumps({b"data": PIXELS, b"labels": [3]}, protocol=2)
BINARY = b"\x03" + PIXELS.tobytes()
PROTO = tensor_proto(VALUES)
CASES = [
    (parse_idx, IDX),
    (parse_cifar, BINARY),
    (parse_cifar_pickle, PICKLE),
    (parse_tensor_proto, PROTO),
]
parsers = pytest.mark.parametrize(
    ("parse", "whole"), CASES, ids=[parse.__name__ for parse, _ in CASES]
)


def test_whole_files_are_read():
    np.testing.assert_array_equal(parse_idx(IDX, "x"), VALUES)
    np.testing.assert_array_equal(parse_tensor_proto(PROTO, "x"), VALUES)
    for parse, content in ((parse_cifar, BINARY), (parse_cifar_pickle, PICKLE)):
        pixels, labels = parse(content, "x")
        np.testing.assert_array_equal(pixels, PIXELS)
        assert labels.tolist() == [3]


def attempt(parse, content):
    try:
        return parse(content, "file")
    except ValueError as error:
        assert str(error).startswith("file: ")  # noqa: PT017
        return None


@parsers
@given(data=st.data())
@settings(max_examples=100)
def test_damaged_bytes(parse, whole, data):
    place = data.draw(st.integers(0, len(whole) - 1))
    value = data.draw(st.integers(0, 255))
    attempt(parse, whole[:place] + bytes([value]) + whole[place + 1 :])


@parsers
@given(size=st.integers(0, 3072))
def test_truncated_bytes_are_refused(parse, whole, size):
    assert attempt(parse, whole[: min(size, len(whole) - 1)]) is None


@parsers
@given(content=st.binary(max_size=80))
def test_any_bytes(parse, whole, content):
    attempt(parse, content)


@pytest.mark.parametrize(
    ("parse", "content"),
    [
        (parse_idx, bytes([0, 0, 8, 255]) + b"\xff" * 1020),
        (parse_idx, bytes([0, 0, 8, 4]) + b"\xff" * 16 + b"x"),
        (parse_idx, bytes([0, 0, 8, 2]) + struct.pack(">2I", 0, 2**32 - 1)),
        (parse_cifar_pickle, b"cos\nsystem\n(S'true'\ntR."),
        (parse_cifar_pickle, b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R."),
        (parse_tensor_proto, bytes([8, 2, 0x12, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F])),
        (parse_tensor_proto, b"\xff" * 20),
        (parse_tensor_proto, tensor_proto(VALUES) + b"\x0b"),
    ],
)
def test_hostile_files_are_refused(parse, content):
    with pytest.raises(ValueError, match="file: "):
        parse(content, "file")
