# SPDX-License-Identifier: Apache-2.0
"""Readers of the two file formats that image sets come in: IDX and CIFAR's binary version.

IDX: two zero bytes, a type byte (8 = unsigned byte), the number of dimensions, one big-endian
32-bit length a dimension, then the values. CIFAR: records of one label byte and 3,072 pixel bytes,
the red, green and blue planes of 32 x 32 one after the other. Either may be gzip-compressed.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CIFAR_SHAPE = (3, 32, 32)
CIFAR_RECORD = 1 + math.prod(CIFAR_SHAPE)
CIFAR_CLASSES = 10
_UNSIGNED_BYTE = 8
_GZIP_MAGIC = b"\x1f\x8b"

Bytes = NDArray[np.uint8]


class DatasetError(ValueError):
    """A data set is missing, damaged or does not fit what was asked; the message says which."""


def read_bytes(path: Path) -> bytes:
    """Return a file's content, unpacked where it is gzip. Raises DatasetError."""
    try:
        content = path.read_bytes()
        if content[:2] == _GZIP_MAGIC:
            content = gzip.decompress(content)
        return content
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: cannot be read, perhaps truncated: {error}") from error


def read_idx(path: Path, dimensions: int) -> Bytes:
    """Return the array in an IDX file of unsigned bytes with so many dimensions.

    Raises DatasetError for a wrong magic number, and for more or fewer bytes than the header says.
    """
    content = read_bytes(path)
    expected = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if content[:4] != expected:
        raise DatasetError(
            f"{path}: expected the IDX magic number {expected.hex()} ({dimensions} dimensions of "
            f"unsigned bytes), got {content[:4].hex() or 'an empty file'}"
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise DatasetError(f"{path}: truncated in its header of {start} bytes")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    size = math.prod(shape)
    if len(content) - start != size:
        word = "truncated" if len(content) - start < size else "too long"
        raise DatasetError(
            f"{path}: {word}: expected {size} values for shape {shape}, got {len(content) - start}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read_idx_pair(images_path: Path, labels_path: Path) -> tuple[Bytes, Bytes]:
    """Return images (rows, height, width) and labels (rows,) of one split."""
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DatasetError(
            f"expected as many labels as images, got {len(images)} images in {images_path} and "
            f"{len(labels)} labels in {labels_path}"
        )
    return images, labels


def read_cifar(path: Path) -> tuple[Bytes, Bytes]:
    """Return images (rows, 3, 32, 32) and labels (rows,) of one CIFAR-10 binary batch."""
    content = read_bytes(path)
    if len(content) == 0 or len(content) % CIFAR_RECORD:
        raise DatasetError(
            f"{path}: expected a whole number of CIFAR-10 records of {CIFAR_RECORD} bytes, got "
            f"{len(content)} bytes; truncated, or not the binary version"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, CIFAR_RECORD)
    labels = records[:, 0]
    if labels.max() >= CIFAR_CLASSES:
        row = int(np.argmax(labels >= CIFAR_CLASSES))
        raise DatasetError(
            f"{path}: expected labels below {CIFAR_CLASSES}, got {labels[row]} in record {row}; "
            "not CIFAR-10's binary version"
        )
    return records[:, 1:].reshape(-1, *CIFAR_SHAPE), labels
