# SPDX-License-Identifier: Apache-2.0
"""Image files: IDX (MNIST and its relatives) and CIFAR, binary and pickled batches.

IDX: two zero bytes, a type byte, the number of dimensions, one big-endian 32-bit length a
dimension, then the values. CIFAR: records of one or two label bytes and 3,072 pixels, the red,
green and blue planes of 32 x 32; or a pickled dictionary of the same, which is read with nothing
but NumPy's own constructors allowed.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from typing import Any

import numpy as np

from qdp.arrays import Array
from qdp.readers.files import File

CIFAR_PIXELS = 3072
CIFAR_CLASSES = 10
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

# All that a batch needs, under the names of old and new NumPy.
_PICKLE_NAMES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}


def parse_idx(content: bytes | memoryview, name: str, dimensions: int | None = None) -> Array:
    """Return the array in the bytes of an unpacked IDX file, of any of its six types.

    With ``dimensions`` it must be unsigned bytes with so many of them.

    Raises:
        ValueError: a wrong magic number, or more or fewer bytes than the header says.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 7]), "labels")
    array([5, 7], dtype=uint8)
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise ValueError(
            f"{name}: expected an IDX magic number (0000, a type, dimensions), got "
            f"{content[:4].hex() or 'an empty file'}"
        )
    expected = content[:4] if dimensions is None else bytes((0, 0, 0x08, dimensions))
    if content[:4] != expected:
        raise ValueError(
            f"{name}: expected the IDX magic number {expected.hex()} ({dimensions} dimensions of "
            f"unsigned bytes), got {content[:4].hex()}"
        )
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError(f"{name}: truncated in its header of {start} bytes")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    dtype = np.dtype(_IDX_TYPES[content[2]])
    size, got = math.prod(shape) * dtype.itemsize, len(content) - start
    if got != size:
        word = "truncated" if got < size else "too long"
        raise ValueError(f"{name}: {word}: expected {size} bytes for shape {shape}, got {got}")
    if dimensions == 0 or 0 in shape:
        raise ValueError(f"{name}: expected at least one value, got shape {shape}")
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def parse_cifar(content: bytes | memoryview, name: str) -> tuple[Array, Array]:
    """Return pixels (rows, 3072) uint8 and labels (rows,) of a CIFAR-10 binary batch.

    Raises:
        ValueError: not a whole number of records, or a label above 9.
    """
    record = 1 + CIFAR_PIXELS
    if len(content) == 0 or len(content) % record:
        raise ValueError(
            f"{name}: expected a whole number of CIFAR-10 records of {record} bytes, got "
            f"{len(content)} bytes; truncated, or not the binary version"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = records[:, 0]
    if labels.max() >= CIFAR_CLASSES:
        row = int(np.argmax(labels >= CIFAR_CLASSES))
        raise ValueError(
            f"{name}: expected labels below {CIFAR_CLASSES}, got {labels[row]} in record {row}; "
            "not CIFAR-10's binary version"
        )
    return records[:, 1:], labels


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that can build NumPy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLE_NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def parse_cifar_pickle(content: bytes, name: str) -> tuple[Array, Array]:
    """Return pixels (rows, 3072) uint8 and labels (rows,) int64 of a pickled CIFAR batch.

    Nothing but arrays and plain values can be built: a file that asks for more is refused.

    Raises:
        ValueError: not such a batch, or one that wants to run code.
    """
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a hostile pickle may raise anything
        raise ValueError(f"{name}: expected a pickled CIFAR batch, got other data ({error})") from (
            error
        )
    if not isinstance(batch, dict):
        raise ValueError(
            f"{name}: expected a pickled CIFAR batch, a dictionary, got {type(batch).__name__}"
        )
    pixels = batch.get(b"data")
    labels = batch.get(b"labels", batch.get(b"fine_labels"))
    if not (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.ndim == 2
        and pixels.shape[1] == CIFAR_PIXELS
        and isinstance(labels, list)
        and len(labels) == len(pixels) > 0
        and all(type(label) is int and 0 <= label < 100 for label in labels)
    ):
        raise ValueError(
            f"{name}: expected a CIFAR batch with data (rows, {CIFAR_PIXELS}) uint8 and as many "
            "labels, got another layout"
        )
    return pixels, np.array(labels, np.int64)


def read_idx(file: File, dimensions: int | None = None) -> Array:
    """Return the array in an IDX file, packed with gzip or not; plain bytes stay mapped."""
    return parse_idx(file.view(), file.path, dimensions)


def read_cifar(file: File) -> tuple[Array, Array]:
    """Return pixels and labels of a CIFAR batch, binary or pickled, as its first byte tells."""
    content = file.view()
    if content[:1] == b"\x80" or not file.path.removesuffix(".gz").endswith(".bin"):
        return parse_cifar_pickle(bytes(content), file.path)
    return parse_cifar(content, file.path)
