# SPDX-License-Identifier: Apache-2.0
"""Bringing rows to at most 2**n features: averaging images smaller, PCA, or padding.

Whatever is narrower than 2**n afterwards is padded with zeros by amplitude encoding itself, in
every contender alike, so it is left narrow here and the description says so.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

REDUCTIONS = ("resize", "pca", "pad")
Array = NDArray[np.float64]


class DatasetError(ValueError):
    """A data set is missing, damaged or does not fit what was asked; the message says which."""


def reduce_features(
    rows: Array, shape: tuple[int, ...] | None, n_qubits: int, reduce: str | None
) -> tuple[Array, str]:
    """Return (rows, at most 2**n_qubits features) and words for what was done.

    ``rows`` is (rows, features); ``shape`` is that of one image, (height, width) or
    (channels, height, width), or None where rows are not images. ``reduce`` None pads what fits
    and resizes what does not.
    """
    limit = 2**n_qubits
    width = rows.shape[1]
    if reduce is not None and reduce not in REDUCTIONS:
        raise DatasetError(f"expected --reduce to be one of {REDUCTIONS}, got {reduce!r}")
    if reduce == "pca":
        return principal_components(rows, limit), f"PCA of {width} features to {limit}"
    if width <= limit:
        return rows, _padding(width, limit)
    if reduce == "pad":
        raise DatasetError(
            f"expected at most {limit} features to pad on {n_qubits} qubits, got {width}; take "
            f"--reduce resize or pca, or at least {math.ceil(math.log2(width))} qubits"
        )
    if shape is None:
        raise DatasetError(
            f"expected at most {limit} features on {n_qubits} qubits, got {width} that are not an "
            "image; take --reduce pca or more qubits"
        )
    channels, height, breadth = shape if len(shape) == 3 else (1, *shape)
    new_height, new_breadth = resized_shape(height, breadth, limit // channels)
    images = rows.reshape(-1, channels, height, breadth)
    smaller = resize(images, new_height, new_breadth).reshape(len(rows), -1)
    colour = f"{channels} x " if channels > 1 else ""
    words = f"resized from {colour}{height} x {breadth} to {colour}{new_height} x {new_breadth}"
    return smaller, f"{words}, {_padding(smaller.shape[1], limit)}"


def _padding(width: int, limit: int) -> str:
    if width == limit:
        return f"{limit} features"
    return f"{width} features, zero-padded to {limit}"


def resized_shape(height: int, width: int, limit: int) -> tuple[int, int]:
    """Return the largest shape of nearly the same aspect with at most ``limit`` pixels.

    >>> resized_shape(28, 28, 256), resized_shape(32, 32, 341)
    ((16, 16), (18, 18))
    """
    if limit < 1:
        raise DatasetError("expected room for at least one pixel a channel; take more qubits")
    scale = math.sqrt(limit / (height * width))
    new_height = min(height, max(1, int(height * scale + 1e-9)))
    new_width = min(width, max(1, int(width * scale + 1e-9)), limit // new_height)
    return new_height, new_width


def resize(images: Array, height: int, width: int) -> Array:
    """Average images (..., height, width) to a smaller size, each new pixel over its area."""
    rows = _area_weights(images.shape[-2], height)
    columns = _area_weights(images.shape[-1], width)
    smaller: Array = np.ascontiguousarray(rows @ images @ columns.T)
    return smaller


def _area_weights(old: int, new: int) -> Array:
    """Return the (new, old) matrix whose row i averages the old pixels under new pixel i."""
    edges = np.arange(new + 1) * (old / new)
    left, right = edges[:-1, None], edges[1:, None]
    pixels = np.arange(old)[None, :]
    overlap = np.clip(np.minimum(right, pixels + 1) - np.maximum(left, pixels), 0, None)
    weights: Array = overlap * (new / old)
    return weights


def principal_components(rows: Array, components: int) -> Array:
    """Project the rows on their first principal components, fitted on these very rows.

    Each axis points so that its largest loading is positive. Raises DatasetError where the
    centred rows have a lower rank than there are components to take.
    """
    centred = rows - rows.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    threshold = max(centred.shape) * np.finfo(np.float64).eps * singular.max(initial=0.0)
    rank = int(np.sum(singular > threshold))
    if components > rank:
        raise DatasetError(
            f"expected at most {rank} principal components, the rank of these "
            f"{rows.shape[0]} centred rows of {rows.shape[1]} features, got {components}; take "
            f"fewer qubits, more rows, or --reduce pad"
        )
    chosen = axes[:components]
    largest = np.take_along_axis(chosen, np.abs(chosen).argmax(axis=1)[:, None], axis=1)
    projected: Array = np.ascontiguousarray(centred @ (chosen * np.sign(largest)).T)
    return projected
