# SPDX-License-Identifier: Apache-2.0
"""Fitted maps of features to features: resize, PCA, standardise, min-max, pad, and a pipeline.

Every step is fitted once, on training rows (an array or a source, read in bounded memory), then
applied to any rows; its state is arrays alone and saved without pickle. No encoding is done here.
Letters: F = features that enter, G = features that leave.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from qdp import arrays
from qdp.arrays import Array
from qdp.sources import ArraySource, Chunk, Source

_FIT_ROWS = 4096
# A direction is fitted only if its variance is above rounding, relative to the largest.
_RANK_TOLERANCE = 1e-12

_Step = TypeVar("_Step", bound="Step")


class Step(ABC):
    """One map of rows (rows, F) to rows (rows, G), float64."""

    _fitted: tuple[str, ...] = ()

    @abstractmethod
    def fit(self: _Step, rows: Any) -> _Step:
        """Learn from training rows, an array (rows, F) or a source, and return the step itself."""

    @abstractmethod
    def _map(self, rows: Array) -> Array:
        """Return the mapped rows of a float64 array."""

    @abstractmethod
    def n_outputs(self, n_features: int) -> int:
        """Return G for F features; raises ValueError for another F than was fitted."""

    def transform(self, rows: Any) -> Any:
        """Return the mapped rows, (rows, G) float64, or for a source one that maps lazily.

        Raises:
            RuntimeError: not fitted.
            ValueError: another number of features than was fitted.
        """
        self._require_fitted()
        if isinstance(rows, Source):
            return MappedSource(rows, self)
        features = _rows(rows)
        self.n_outputs(features.shape[1])
        return self._map(features)

    def state_dict(self) -> dict[str, Array]:
        """Return options and what was fitted, as arrays by name."""
        state = {name: np.asarray(getattr(self, name)) for name in self._fitted}
        options = {
            option.name: getattr(self, option.name)
            for option in dataclasses.fields(self)  # type: ignore[arg-type]
            if option.init
        }
        state["step"] = np.array(json.dumps([type(self).__name__, options]))
        return state

    @staticmethod
    def from_state_dict(state: Mapping[str, Array]) -> Step:
        """Return the step that a state describes; raises ValueError for any other mapping."""
        try:
            name, options = json.loads(str(state["step"]))
            if name == "Pipeline":
                return _pipeline(options, state)
            step: Step = _STEPS[name](**options)
            for fitted in step._fitted:
                setattr(step, fitted, np.asarray(state[fitted]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"state: expected what state_dict() returned, got {sorted(state)} ({error})"
            ) from error
        return step

    def save(self, path: str | Path) -> None:
        """Write the state to a .npz file, whole or not at all."""
        target = Path(path)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, **self.state_dict())  # type: ignore[arg-type]
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @staticmethod
    def load(path: str | Path) -> Step:
        """Return the step that ``save`` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return Step.from_state_dict({name: stored[name] for name in stored.files})

    def _require_fitted(self) -> None:
        missing = [name for name in self._fitted if not hasattr(self, name)]
        if missing:
            raise RuntimeError(f"{type(self).__name__}: expected fit() first, got no {missing[0]}")

    def _require_width(self, n_features: int, fitted: int) -> None:
        if n_features != fitted:
            raise ValueError(
                f"{type(self).__name__}: expected {fitted} features, as fitted, got {n_features}"
            )


@dataclass
class Resize(Step):
    """Average images to a smaller size: every new pixel is the mean of the area it covers.

    ``shape`` is that of one image, (height, width) or (channels, height, width); ``size`` the new
    (height, width), at most the old.

    >>> Resize((2, 2), (1, 2)).transform([[1.0, 2.0, 3.0, 6.0]])
    array([[2., 4.]])
    """

    shape: tuple[int, ...]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        self.shape, self.size = tuple(self.shape), (self.size[0], self.size[1])
        if len(self.shape) not in (2, 3) or min(self.shape) < 1:
            raise ValueError(
                f"shape: expected (height, width) or (channels, height, width), got {self.shape}"
            )
        for new, old in zip(self.size, self.shape[-2:], strict=True):
            if not 1 <= new <= old:
                raise ValueError(f"size: expected 1 to {self.shape[-2:]}, got {self.size}")

    def fit(self, rows: Any) -> Resize:
        """Return the step: there is nothing to learn."""
        return self

    def n_outputs(self, n_features: int) -> int:
        """Return the number of pixels of a resized image."""
        self._require_width(n_features, math.prod(self.shape))
        return math.prod(self.shape[:-2]) * math.prod(self.size)

    def _map(self, rows: Array) -> Array:
        images = rows.reshape(len(rows), -1, *self.shape[-2:])
        down, across = (
            _averages(old, new) for old, new in zip(self.shape[-2:], self.size, strict=True)
        )
        result: Array = (down @ images @ across.T).reshape(len(rows), -1)
        return result


@dataclass
class Standardise(Step):
    """Subtract the mean of each feature and divide by its standard deviation (1 if that is 0).

    >>> Standardise().fit([[1.0], [3.0]]).transform([[5.0]])
    array([[3.]])
    """

    _fitted = ("mean", "scale")
    mean: Array = field(init=False, repr=False)
    scale: Array = field(init=False, repr=False)

    def fit(self, rows: Any) -> Standardise:
        """Learn means and deviations in one pass."""
        count, mean, squares = 0, np.zeros(1), np.zeros(1)
        for part in _parts(rows):
            count, mean, squares = _merged(
                count, mean, squares, part, ((part - part.mean(axis=0)) ** 2).sum(axis=0), False
            )
        deviation = np.sqrt(squares / count)
        # A constant feature's mean is off by the rounding of its sums, which is no deviation.
        rounding = min(count, _FIT_ROWS) * np.finfo(np.float64).eps * np.abs(mean)
        self.mean, self.scale = mean, np.where(deviation > rounding, deviation, 1.0)
        return self

    def n_outputs(self, n_features: int) -> int:
        """Return the number of features, which stays."""
        self._require_width(n_features, len(self.mean))
        return n_features

    def _map(self, rows: Array) -> Array:
        return (rows - self.mean) / self.scale


@dataclass
class MinMax(Step):
    """Map the range that each feature had in training to ``low`` to ``high`` (to low if constant).

    >>> MinMax(0.0, 1.0).fit([[1.0], [3.0]]).transform([[2.0]])
    array([[0.5]])
    """

    low: float = 0.0
    high: float = 1.0
    _fitted = ("smallest", "scale")
    smallest: Array = field(init=False, repr=False)
    scale: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low: expected less than high, got {self.low} and {self.high}")

    def fit(self, rows: Any) -> MinMax:
        """Learn the ranges in one pass."""
        extremes = [(part.min(axis=0), part.max(axis=0)) for part in _parts(rows)]
        self.smallest = np.min([low for low, _ in extremes], axis=0)
        spread = np.max([high for _, high in extremes], axis=0) - self.smallest
        self.scale = (self.high - self.low) / np.where(spread > 0, spread, 1.0)
        return self

    def n_outputs(self, n_features: int) -> int:
        """Return the number of features, which stays."""
        self._require_width(n_features, len(self.smallest))
        return n_features

    def _map(self, rows: Array) -> Array:
        return (rows - self.smallest) * self.scale + self.low


@dataclass
class PCA(Step):
    """Project onto the ``n_components`` directions of largest variance, each with a fixed sign.

    The covariance (F, F) is accumulated chunk by chunk; the largest entry of each direction is
    positive, so a refit gives the same numbers.

    >>> PCA(1).fit([[0.0, 0.0], [2.0, 0.0]]).transform([[3.0, 7.0]])
    array([[2.]])
    """

    n_components: int
    _fitted = ("mean", "components", "explained_variance")
    mean: Array = field(init=False, repr=False)
    components: Array = field(init=False, repr=False)
    explained_variance: Array = field(init=False, repr=False)

    def fit(self, rows: Any) -> PCA:
        """Learn mean, directions (G, F) and their variances in one pass; ValueError beyond rank."""
        count, mean, products = 0, np.zeros(1), np.zeros((1, 1))
        for part in _parts(rows):
            centred = part - part.mean(axis=0)
            count, mean, products = _merged(count, mean, products, part, centred.T @ centred, True)
        values, vectors = np.linalg.eigh(products / max(1, count - 1))
        values, vectors = values[::-1], vectors.T[::-1]
        rank = int(np.count_nonzero(values > _RANK_TOLERANCE * max(values[0], 0.0)))
        if not 1 <= self.n_components <= rank:
            raise ValueError(
                f"n_components: expected 1 to {rank}, the rank of the {count} centred rows, got "
                f"{self.n_components}"
            )
        chosen = vectors[: self.n_components]
        largest = np.argmax(np.abs(chosen), axis=1)
        signs = np.sign(chosen[np.arange(len(chosen)), largest])
        self.mean, self.components = mean, chosen * signs[:, None]
        self.explained_variance = values[: self.n_components].copy()
        return self

    def n_outputs(self, n_features: int) -> int:
        """Return the number of components."""
        self._require_width(n_features, len(self.mean))
        return self.n_components

    def _map(self, rows: Array) -> Array:
        return (rows - self.mean) @ self.components.T


@dataclass
class Pad(Step):
    """Append zeros up to ``width`` features, or to the next power of two if it is None.

    >>> Pad().fit([[1.0, 2.0, 3.0]]).transform([[1.0, 2.0, 3.0]])
    array([[1., 2., 3., 0.]])
    """

    width: int | None = None

    def fit(self, rows: Any) -> Pad:
        """Return the step: there is nothing to learn."""
        return self

    def n_outputs(self, n_features: int) -> int:
        """Return the padded width; raises ValueError if there are more features."""
        width = 1 << (n_features - 1).bit_length() if self.width is None else self.width
        if n_features > width:
            raise ValueError(f"width: expected at least {n_features} features, got {width}")
        return width

    def _map(self, rows: Array) -> Array:
        padding = self.n_outputs(rows.shape[1]) - rows.shape[1]
        return np.pad(rows, ((0, 0), (0, padding)))


class Pipeline(Step):
    """Steps one after the other, each fitted on what those before it return.

    >>> steps = Pipeline([Standardise(), Pad()])
    >>> steps.fit([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]).transform([[2.0, 3.0, 2.0]])
    array([[0., 1., 0., 0.]])
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = list(steps)
        if not self.steps or not all(isinstance(step, Step) for step in self.steps):
            raise ValueError(f"steps: expected at least one step, got {steps!r}")

    def fit(self, rows: Any) -> Pipeline:
        """Fit step by step; a source is read once a step."""
        for step in self.steps:
            rows = step.fit(rows).transform(rows)
        return self

    def n_outputs(self, n_features: int) -> int:
        """Return the number of features that the last step leaves."""
        for step in self.steps:
            n_features = step.n_outputs(n_features)
        return n_features

    def _map(self, rows: Array) -> Array:
        for step in self.steps:
            rows = step._map(rows)
        return rows

    def _require_fitted(self) -> None:
        for step in self.steps:
            step._require_fitted()

    def state_dict(self) -> dict[str, Array]:
        """Return the states of the steps, their names prefixed with the place."""
        state = {
            f"{place}.{name}": value
            for place, step in enumerate(self.steps)
            for name, value in step.state_dict().items()
        }
        state["step"] = np.array(json.dumps(["Pipeline", len(self.steps)]))
        return state


class MappedSource(Source):
    """A source whose features go through a fitted step as they are read."""

    def __init__(self, source: Source, step: Step) -> None:
        self.source, self.step = source, step
        self.random_access = source.random_access
        self.n_rows, self.has_labels = source.n_rows, source.has_labels
        self.n_features = step.n_outputs(source.n_features)
        self.dtype = np.dtype(np.float64)

    def chunks(self, rows: int, *, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Yield mapped chunks."""
        for chunk in self.source.chunks(rows, start=start, stop=stop):
            yield self._mapped(chunk)

    def take(self, indices: object) -> Chunk:
        """Return mapped rows at ``indices``."""
        return self._mapped(self.source.take(indices))

    def shards(self) -> list[tuple[int, int | None]]:
        """Return the shards of the source beneath."""
        return self.source.shards()

    def fingerprint(self) -> str:
        """Return the hash of the source's fingerprint and the step's state."""
        digest = hashlib.sha256(self.source.fingerprint().encode())
        for name, value in sorted(self.step.state_dict().items()):
            digest.update(f"{name} {value.shape} {value.dtype.str}".encode() + value.tobytes())
        return digest.hexdigest()

    def _mapped(self, chunk: Chunk) -> Chunk:
        return Chunk(self.step._map(_rows(chunk.features)), chunk.labels, chunk.start)


def _pipeline(n_steps: int, state: Mapping[str, Array]) -> Pipeline:
    return Pipeline(
        [
            Step.from_state_dict(
                {
                    name.split(".", 1)[1]: value
                    for name, value in state.items()
                    if name.startswith(f"{place}.")
                }
            )
            for place in range(n_steps)
        ]
    )


_STEPS: dict[str, Any] = {step.__name__: step for step in (Resize, Standardise, MinMax, PCA, Pad)}


def _rows(rows: Any) -> Array:
    features = arrays.as_real(rows, "features")
    if features.ndim != 2:
        raise ValueError(
            f"features: expected an array of shape (rows, features), got shape {features.shape}"
        )
    arrays.require_finite(features, "features")
    return features


def _parts(rows: Any) -> Iterator[Array]:
    """Yield training rows as float64 chunks, never an empty one; ValueError if there are none."""
    source = rows if isinstance(rows, Source) else ArraySource(rows)
    found = False
    for chunk in source.chunks(_FIT_ROWS):
        found = True
        yield _rows(chunk.features)
    if not found:
        raise ValueError("rows: expected at least one to fit on, got none")


def _merged(
    count: int, mean: Array, sums: Array, part: Array, part_sums: Array, outer: bool
) -> tuple[int, Array, Array]:
    """Merge moments about the mean with those of another part (Chan, Golub and LeVeque 1983)."""
    if count == 0:
        return len(part), part.mean(axis=0), part_sums
    total = count + len(part)
    shift = part.mean(axis=0) - mean
    cross = np.outer(shift, shift) if outer else shift * shift
    return (
        total,
        mean + shift * (len(part) / total),
        sums + part_sums + cross * (count * len(part) / total),
    )


def _averages(old: int, new: int) -> Array:
    """Return the (new, old) matrix that averages ``old`` pixels over ``new`` equal intervals."""
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    averages: Array = np.clip(overlap, 0, None) * (new / old)
    return averages
