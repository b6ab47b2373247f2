# SPDX-License-Identifier: Apache-2.0
"""Rows of features from anywhere, with one face: what ``qdp.open`` returns.

A source is lazy: it knows its size and type, and reads when it is asked for rows. Nothing is
encoded here, and nothing is kept. Letters: F = features of a row.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qdp import arrays
from qdp.arrays import Array

_HASH_ROWS = 4096


@dataclass(frozen=True)
class Chunk:
    """Neighbouring rows: ``features`` (k, F), ``labels`` (k,) or None, ``start`` of the first."""

    features: Array
    labels: Array | None
    start: int


class Source(ABC):
    """Rows of features and, where there are any, their labels.

    ``n_rows`` is None for a stream whose length is not known, ``n_features`` F, ``dtype`` that of
    the features, ``has_labels`` whether chunks carry labels.
    """

    n_rows: int | None
    n_features: int
    dtype: np.dtype[np.generic]
    has_labels: bool

    @abstractmethod
    def chunks(self, rows: int, *, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Yield rows ``start`` to ``stop`` in order, ``rows`` at a time; the last may be short."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return what identifies the data without reading it all, as a hexadecimal digest.

        Arrays are told apart by their content, files by path, size and time of modification.
        """

    def content_hash(self) -> str:
        """Return the SHA-256 of the rows themselves: shape, dtype and bytes, read as a stream."""
        digest = hashlib.sha256()
        n_rows = 0
        for chunk in self.chunks(_HASH_ROWS):
            digest.update(np.ascontiguousarray(chunk.features).data)
            n_rows += len(chunk.features)
        digest.update(f"{n_rows} {self.n_features} {self.dtype.str}".encode())
        return digest.hexdigest()


class ArraySource(Source):
    """Rows of an array in memory, (rows, F), viewed, not copied."""

    def __init__(self, features: object, labels: object = None) -> None:
        self.features = arrays.to_numpy(features, "features")
        self.labels = None if labels is None else arrays.to_numpy(labels, "labels")
        if self.features.ndim != 2:
            raise ValueError(
                f"features: expected an array of shape (rows, features), got shape "
                f"{self.features.shape}"
            )
        if self.labels is not None and self.labels.shape != (len(self.features),):
            raise ValueError(
                f"labels: expected one a row, shape ({len(self.features)},), got shape "
                f"{self.labels.shape}"
            )
        self.n_rows = len(self.features)
        self.n_features = self.features.shape[1]
        self.dtype = self.features.dtype
        self.has_labels = self.labels is not None

    def chunks(self, rows: int, *, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Yield views of the rows, in order."""
        end = len(self.features) if stop is None else min(stop, len(self.features))
        for first in range(start, end, rows):
            part = slice(first, min(first + rows, end))
            yield Chunk(
                self.features[part], None if self.labels is None else self.labels[part], first
            )

    def fingerprint(self) -> str:
        """Return the hash of the content."""
        return self.content_hash()
