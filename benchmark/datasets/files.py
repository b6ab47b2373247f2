# SPDX-License-Identifier: Apache-2.0
"""Image files of the benchmarks: the package's readers, with the benchmarks' one error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qdp.readers import images
from qdp.readers.files import File

Bytes = NDArray[np.uint8]


class DatasetError(ValueError):
    """A data set is missing, damaged or does not fit what was asked; the message says which."""


def read_idx(path: Path, dimensions: int) -> Bytes:
    """Return the array in an IDX file of unsigned bytes with so many dimensions.

    Raises DatasetError for a wrong magic number, and for more or fewer bytes than the header says.
    """
    try:
        return images.read_idx(File.find(path), dimensions)
    except (OSError, ValueError) as error:
        raise DatasetError(str(error)) from error


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
    try:
        pixels, labels = images.parse_cifar(File.find(path).read(), str(path))
    except (OSError, ValueError) as error:
        raise DatasetError(str(error)) from error
    return pixels.reshape(-1, 3, 32, 32), labels
