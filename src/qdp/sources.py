# SPDX-License-Identifier: Apache-2.0
"""Rows of features from anywhere, with one face: what ``qdp.open`` returns.

A source is lazy: it knows its size and type, and reads when it is asked for rows. Nothing is
encoded here, and nothing is kept. Letters: F = features of a row.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from qdp import arrays
from qdp.arrays import Array

_HASH_ROWS = 4096
# Rows of a shard where the storage itself has no blocks.
_SHARD_ROWS = 8192
NULLS = ("error", "zero")


@dataclass(frozen=True)
class Chunk:
    """Neighbouring rows: ``features`` (k, F), ``labels`` (k,) or None, ``start`` of the first."""

    features: Array
    labels: Array | None
    start: int


class Source(ABC):
    """Rows of features and, where there are any, their labels.

    ``n_rows`` is None for a stream whose length is not known, ``n_features`` F, ``dtype`` that of
    the features, ``has_labels`` whether chunks carry labels, ``random_access`` whether ``take`` of
    scattered rows is as cheap as reading neighbours.
    """

    random_access: bool = False

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

    def content_hash(self, *, with_labels: bool = False) -> str:
        """Return the SHA-256 of the rows themselves: shape, dtype and bytes, read as a stream.

        ``with_labels`` takes in the bytes of the labels too, where there are any.
        """
        digest = hashlib.sha256()
        n_rows = 0
        for chunk in self.chunks(_HASH_ROWS):
            digest.update(np.ascontiguousarray(chunk.features).data)
            if with_labels and chunk.labels is not None:
                digest.update(f"labels {chunk.labels.dtype.str}".encode() + chunk.labels.tobytes())
            n_rows += len(chunk.features)
        digest.update(f"{n_rows} {self.n_features} {self.dtype.str}".encode())
        return digest.hexdigest()

    def shards(self) -> list[tuple[int, int | None]]:
        """Return the natural blocks as (start, stop); one without a stop where none is known."""
        if self.n_rows is None:
            return [(0, None)]
        return [
            (start, min(start + _SHARD_ROWS, self.n_rows))
            for start in range(0, self.n_rows, _SHARD_ROWS)
        ]

    def take(self, indices: object) -> Chunk:
        """Return the rows at ``indices``, in their order, where random access is cheap.

        ``start`` of the result is the first index, or 0 if there is none.

        Raises:
            TypeError: the source can only be read in order.
        """
        raise TypeError(
            f"take: expected a source with random access, got {type(self).__name__}; "
            "read it with chunks()"
        )

    def __len__(self) -> int:
        """Return the number of rows; raises TypeError for a stream of unknown length."""
        if self.n_rows is None:
            raise TypeError(
                f"len: expected a source of known length, got {type(self).__name__}, whose rows "
                "are counted only by reading them"
            )
        return self.n_rows


class ArraySource(Source):
    """Rows of an array in memory, (rows, F), viewed, not copied."""

    random_access = True

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
        """Return the hash of the content, labels included."""
        return self.content_hash(with_labels=True)

    def take(self, indices: object) -> Chunk:
        """Return a copy of the rows at ``indices``, in their order."""
        places = row_indices(indices, len(self))
        labels = None if self.labels is None else self.labels[places]
        return Chunk(self.features[places], labels, int(places[0]) if len(places) else 0)


@dataclass(frozen=True)
class Options:
    """What ``qdp.open`` was asked for beyond the place: the same on every path.

    ``nulls`` is "error" or "zero"; ``rows`` the range kept, start and stop (None: to the end);
    ``dtype`` None keeps that of the data.
    """

    nulls: str = "error"
    start: int = 0
    stop: int | None = None
    dtype: np.dtype[np.generic] | None = None


@dataclass(frozen=True)
class Piece:
    """Rows as storage has them: features (k, F), which of them are null (or None), labels."""

    features: Array
    nulls: Array | None
    labels: Array | None


class CheckedSource(Source):
    """A source that reads pieces of any length, and checks and cuts them in one place.

    A subclass sets the attributes of ``Source`` for the stored rows, then calls ``_apply``, and
    gives ``_pieces``. Row numbers in messages are those of the source, after ``rows`` is applied.
    """

    options: Options
    identity: str | None

    def _apply(self, options: Options, identity: str | None) -> None:
        """Keep the options; turn the stored number of rows and dtype into the visible ones."""
        self.options = options
        self.identity = identity
        if self.n_rows is not None:
            stop = self.n_rows if options.stop is None else min(options.stop, self.n_rows)
            self.n_rows = max(0, stop - options.start)
        if options.dtype is not None:
            self.dtype = options.dtype
        if self.n_features < 1:
            raise ValueError("features: expected at least one column, got none")

    @abstractmethod
    def _pieces(self, start: int, stop: int | None, rows: int) -> Iterator[Piece]:
        """Yield stored rows ``start`` to ``stop`` in order; ``rows`` at a time is a good size."""

    def chunks(self, rows: int, *, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Yield checked rows, exactly ``rows`` at a time but for the last."""
        if rows < 1:
            raise ValueError(f"rows: expected at least 1 a chunk, got {rows}")
        offset = self.options.start
        ends = [end for end in (_shifted(stop, offset), self.options.stop) if end is not None]
        waiting: list[Chunk] = []
        n_waiting, first = 0, start
        for piece in self._pieces(offset + start, min(ends) if ends else None, rows):
            rest = self.checked(piece, first + n_waiting)
            while n_waiting + len(rest.features) >= rows:
                head, rest = _split(rest, rows - n_waiting)
                yield _joined([*waiting, head], first)
                waiting, n_waiting, first = [], 0, first + rows
            if len(rest.features):
                waiting.append(rest)
                n_waiting += len(rest.features)
        if n_waiting:
            yield _joined(waiting, first)

    def checked(self, piece: Piece, start: int, numbers: Array | None = None) -> Chunk:
        """Return a piece whose first row is ``start`` as a chunk, or raise for what it holds.

        ``numbers`` are those of its rows, where they are not neighbours.
        """
        if numbers is None:
            numbers = np.arange(start, start + len(piece.features))
        features = piece.features
        if piece.nulls is not None and piece.nulls.any():
            if self.options.nulls == "error":
                row, column = (int(place) for place in np.argwhere(piece.nulls)[0])
                raise ValueError(
                    f"features: expected no nulls, got one at row {numbers[row]}, column {column}; "
                    "fill it, or pass nulls='zero'"
                )
            features = np.where(piece.nulls, features.dtype.type(0), features)
        if features.dtype.kind in "fc":
            _require_finite(features, numbers)
        if features.dtype != self.dtype:
            features = _converted(features, self.dtype, numbers)
        return Chunk(features, piece.labels, start)

    def fingerprint(self) -> str:
        """Return the hash of path, size, time and options, or of the content for an array."""
        if self.identity is None:
            return self.content_hash(with_labels=True)
        return hashlib.sha256(f"{self.identity} {self.options}".encode()).hexdigest()


class StoredArray(CheckedSource):
    """Rows of anything shaped and sliced like an array, read as they are asked for.

    ``data`` (rows, ...) is flattened to (rows, F); ``columns`` selects of these. ``labels`` is an
    array or likewise sliceable, (rows,), or the index of a column.
    """

    def __init__(
        self,
        data: Any,
        labels: Any = None,
        *,
        columns: slice | list[int] | None = None,
        options: Options | None = None,
        identity: str | None = None,
        nulls: Array | None = None,
    ) -> None:
        self.data, self.labels, self.nulls = data, labels, nulls
        # HDF5 and zarr unpack a whole block for each row.
        self.random_access = isinstance(data, np.ndarray)
        shape = tuple(data.shape)
        if len(shape) < 2:
            raise ValueError(
                f"features: expected an array of shape (rows, features), got shape {shape}"
            )
        self.dtype = np.dtype(data.dtype)
        if self.dtype.kind not in "biufc":
            raise TypeError(
                f"features: expected numbers, got dtype {self.dtype}; convert it first, for "
                "instance with numpy.asarray(..., dtype=float)"
            )
        width = math.prod(shape[1:])
        self.label_column = None
        if isinstance(labels, int):
            self.label_column = column_index(labels, width, "labels")
        elif labels is not None and tuple(labels.shape) != (shape[0],):
            raise ValueError(
                f"labels: expected one a row, shape ({shape[0]},), got shape {tuple(labels.shape)}"
            )
        self.columns = selected_columns(columns, width, self.label_column)
        self.n_rows, self.n_features = (
            shape[0],
            len(range(width)[self.columns])
            if isinstance(self.columns, slice)
            else len(self.columns),
        )
        self.has_labels = labels is not None
        self._apply(options or Options(), identity)

    def _pieces(self, start: int, stop: int | None, rows: int) -> Iterator[Piece]:
        end = self.data.shape[0] if stop is None else min(stop, self.data.shape[0])
        for first in range(start, end, rows):
            yield self._piece(slice(first, min(first + rows, end)))

    def _piece(self, part: Any) -> Piece:
        block = np.asarray(self.data[part])
        block = block.reshape(len(block), math.prod(self.data.shape[1:]))
        nulls = None if self.nulls is None else self.nulls[part][:, self.columns]
        if self.label_column is not None:
            labels: Array | None = block[:, self.label_column]
        else:
            labels = None if self.labels is None else np.asarray(self.labels[part])
        return Piece(block[:, self.columns], nulls, labels)

    def take(self, indices: object) -> Chunk:
        """Return the rows at ``indices``, in their order."""
        places = row_indices(indices, len(self))
        ordered, inverse = np.unique(places, return_inverse=True)
        piece = self._piece(ordered + self.options.start)
        sorted_rows = self.checked(piece, 0, ordered)
        labels = None if sorted_rows.labels is None else sorted_rows.labels[inverse]
        start = int(places[0]) if len(places) else 0
        return Chunk(sorted_rows.features[inverse], labels, start)


def selection_text(features: object, labels: object) -> str:
    """Return one line that tells selections of features and labels apart; arrays by content.

    >>> selection_text(slice(0, 2), "y")
    "slice(0, 2, None) 'y'"
    """
    if isinstance(labels, np.ndarray):
        content = np.ascontiguousarray(labels)
        labels = f"{labels.dtype.str} {hashlib.sha256(content.tobytes()).hexdigest()}"
    return f"{features!r} {labels!r}"


def row_indices(indices: object, n_rows: int) -> Array:
    """Return indices as integers, or raise IndexError for one outside 0 to ``n_rows`` - 1.

    Raises TypeError for anything but a list or an array of one dimension of integers.

    >>> row_indices([2, 0], 3)
    array([2, 0])
    """
    places = np.asarray(indices)
    # An empty list has no dtype of its own.
    if places.ndim != 1 or (len(places) and places.dtype.kind not in "iu"):
        raise TypeError(
            f"rows: expected integers in one dimension, got {places.dtype} of shape "
            f"{places.shape}; pass numpy.flatnonzero(mask) for a mask, [index] for one row"
        )
    wrong = places[(places < 0) | (places >= n_rows)]
    if len(wrong):
        raise IndexError(f"rows: expected indices from 0 to {n_rows - 1}, got {wrong[0]}")
    return places.astype(np.intp)


def column_index(index: int, width: int, name: str) -> int:
    """Return a column's index, counted from the front, or raise IndexError.

    >>> column_index(-1, 5, "labels")
    4
    """
    if not -width <= index < width:
        raise IndexError(f"{name}: expected a column from 0 to {width - 1}, got {index}")
    return index % width


def selected_columns(
    columns: slice | list[int] | None, width: int, label: int | None
) -> slice | list[int]:
    """Return the columns of the features: those asked for, or all but the label's.

    >>> selected_columns(None, 4, 3)
    [0, 1, 2]
    """
    if columns is None:
        return slice(None) if label is None else [i for i in range(width) if i != label]
    if isinstance(columns, slice):
        if columns.stop is not None and columns.stop > width:
            raise IndexError(f"features: expected columns from 0 to {width - 1}, got {columns}")
        return columns
    return [column_index(index, width, "features") for index in columns]


def _require_finite(features: Array, numbers: Array) -> None:
    if features.dtype.kind not in "fc":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        total = features.sum()
    if np.isfinite(total):
        return
    wrong = np.argwhere(~np.isfinite(features))
    if len(wrong):
        row, column = (int(place) for place in wrong[0])
        raise ValueError(
            f"features: expected finite numbers, got {features[row, column]} at row "
            f"{numbers[row]}, column {column}; remove or replace it"
        )


def _converted(features: Array, dtype: np.dtype[np.generic], numbers: Array) -> Array:
    """Return features in ``dtype``, or raise for one that is more than rounded to a float there."""
    real = features.real if dtype.kind != "c" else features
    with np.errstate(over="ignore", invalid="ignore"):
        converted: Array = real.astype(dtype)
    _require_finite(converted, numbers)
    if dtype.kind in "biu":
        lost = converted != features
    elif dtype.kind == "f" and features.dtype.kind == "c":
        lost = features.imag != 0
    else:
        return converted
    if lost.any():
        row, column = (int(place) for place in np.argwhere(lost)[0])
        raise ValueError(
            f"features: expected numbers that {dtype} holds, got {features[row, column]} at row "
            f"{numbers[row]}, column {column}; pass another dtype="
        )
    return converted


def _shifted(stop: int | None, offset: int) -> int | None:
    return None if stop is None else stop + offset


def _split(chunk: Chunk, rows: int) -> tuple[Chunk, Chunk]:
    labels = chunk.labels
    return (
        Chunk(chunk.features[:rows], None if labels is None else labels[:rows], chunk.start),
        Chunk(chunk.features[rows:], None if labels is None else labels[rows:], chunk.start + rows),
    )


def _joined(chunks: list[Chunk], start: int) -> Chunk:
    if len(chunks) == 1:
        return Chunk(chunks[0].features, chunks[0].labels, start)
    labels = [chunk.labels for chunk in chunks if chunk.labels is not None]
    return Chunk(
        np.concatenate([chunk.features for chunk in chunks]),
        np.concatenate(labels) if labels else None,
        start,
    )
