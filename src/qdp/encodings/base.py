# SPDX-License-Identifier: Apache-2.0
"""What every encoding offers, and the checks that they share.

Nothing here knows a particular encoding. Features are (rows, k), states (rows, 2**n) complex,
qubit 0 the most significant bit of the index.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import numpy as np

from qdp import arrays
from qdp.arrays import Array

# A basis index is an int64, and no state vector of more qubits could be addressed.
_MAX_QUBITS = 62
# Part of every fingerprint: goes up when an encoding of the same options gives other states.
_FORMAT = 1


# fill(features, out) writes the states of features; False if it found rows that ``validate``
# refuses, in which case ``out`` holds no states.
Fill = Callable[[Array, Array], bool]


@dataclass(frozen=True)
class Encoding(ABC):
    """A map from rows of features to quantum states, defined by its class and its options."""

    name: ClassVar[str]

    @abstractmethod
    def n_features(self, n_qubits: int) -> int:
        """Return how many features a row may have at most on ``n_qubits``."""

    @abstractmethod
    def fewest_qubits(self, features: Array) -> int:
        """Return the fewest qubits that hold ``features``, (rows, k)."""

    def as_rows(self, features: object) -> tuple[Array, bool]:
        """View features with a rows axis, and tell whether they came with one."""
        array = arrays.to_numpy(features, f"{self.name} encoding")
        return (array[None], False) if array.ndim == 1 else (array, True)

    def state_bytes(self, rows: int, n_qubits: int, precision: str = "double") -> int:
        """Return the bytes that the states of ``rows`` take; temporaries stay below a MiB."""
        return rows * (1 << n_qubits) * (16 if precision == "double" else 8)

    @abstractmethod
    def validate(self, features: object, n_qubits: int) -> Array:
        """Check features and return them as the array that ``encode`` and the engine work on.

        Raises:
            TypeError: not numeric, or complex where real numbers are expected.
            ValueError: wrong shape, too many features, NaN or infinity, or what the encoding
                itself forbids; with the row and column where there is one.
        """

    def validate_for_fill(self, features: object, n_qubits: int) -> Array:
        """Check what a backend's own loop doesn't check by itself; otherwise as ``validate``."""
        return self.validate(features, n_qubits)

    @abstractmethod
    def _fill(self, features: Array, n_qubits: int, out: Array) -> None:
        """Write the states of validated features into ``out``."""

    def encode(
        self,
        features: object,
        n_qubits: int,
        *,
        precision: Literal["double", "single"] = "double",
        out: Array | None = None,
        fill: Fill | None = None,
    ) -> Array:
        """Return the states of ``features``, (rows, 2**n_qubits) complex128 or complex64.

        ``out``, C-contiguous, of that shape and complex, is written in place and returned; its
        dtype then stands for ``precision``. Temporaries stay below a MiB, or a few rows of states.
        ``fill`` is a backend's own loop, in place of the NumPy one; rows that it refuses raise what
        ``validate`` raises, with ``out`` overwritten.

        Raises:
            TypeError: see ``validate``; ``out`` is not complex.
            ValueError: see ``validate``; ``out`` has another shape, is not C-contiguous, not
                writeable, or shares memory with the features.

        >>> from qdp.encodings import Amplitude
        >>> Amplitude().encode([[3.0, 4.0, 0.0]], 2).real
        array([[0.6, 0.8, 0. , 0. ]])
        """
        check = self.validate if fill is None else self.validate_for_fill
        checked = check(features, n_qubits)
        shape = (len(checked), 2**n_qubits)
        if out is None:
            out = np.empty(shape, np.complex128 if precision == "double" else np.complex64)
        else:
            _check_out(out, shape, checked)
        if fill is None:
            self._fill(checked, n_qubits, out)
        elif not fill(checked, out):
            # The message with its row comes from the one place that words it; a norm on the edge of
            # the tolerance, which rounding lets through there, is encoded there too.
            self._fill(self.validate(checked, n_qubits), n_qubits, out)
        return out

    def fingerprint(self) -> str:
        """Return a hex digest that two encodings share exactly if they give the same states.

        It is made of the name, the options and the version of the definitions: the same in every
        process.

        >>> from qdp.encodings import Amplitude
        >>> Amplitude().fingerprint() == Amplitude(pad=False).fingerprint()
        False
        """
        options = ",".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
        text = f"{_FORMAT}:{self.name}({options})"
        return hashlib.sha256(text.encode()).hexdigest()

    @abstractmethod
    def describe(self) -> str:
        """Return one sentence on what the encoding does."""


def norm_tolerance(states: Array) -> float:
    """Return how far the norm of a state of that dtype may be from 1.

    >>> norm_tolerance(np.zeros((1, 2)))
    1e-06
    """
    return 1e-3 if states.dtype in (np.float32, np.complex64) else 1e-6


def require_normalised(states: Array, norms: Array, name: str, remedy: str) -> None:
    """Raise ValueError, naming the first row, if a norm is not 1.

    The tolerance is 1e-6 for float64 and complex128 states, 1e-3 for float32 and complex64.
    """
    tolerance = norm_tolerance(states)
    wrong = arrays.rows_outside(norms, 1 - tolerance, 1 + tolerance)
    if len(wrong):
        raise ValueError(
            f"{name}: expected rows of norm 1, got norm {norms[wrong[0]]:.6g} in row {wrong[0]}; "
            f"use {remedy}"
        )


def require_qubit_count(n_qubits: int) -> None:
    """Raise ValueError for a number of qubits that no state vector has."""
    if not 1 <= n_qubits <= _MAX_QUBITS:
        raise ValueError(f"n_qubits: expected 1 to {_MAX_QUBITS}, got {n_qubits}")


def check_feature_count(name: str, n_features: int, at_most: int, n_qubits: int) -> None:
    """Raise ValueError for more features than the qubits hold."""
    if n_features > at_most:
        raise ValueError(
            f"{name} encoding: expected at most {at_most} features for {n_qubits} qubits, got "
            f"{n_features}; use more qubits or fewer features"
        )


def _check_out(out: Array, shape: tuple[int, int], features: Array) -> None:
    if out.dtype not in (np.complex128, np.complex64):
        raise TypeError(f"out: expected dtype complex128 or complex64, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out: expected shape {shape}, got {out.shape}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError("out: expected a C-contiguous, writeable array, got one that is not")
    if np.may_share_memory(out, features):
        raise ValueError("out: expected memory apart from the features, got a shared one")


def two_dimensional(array: Array, name: str) -> Array:
    """Return features (rows, k) as they are, or raise ValueError for another shape."""
    if array.ndim != 2:
        raise ValueError(
            f"{name} encoding: expected features of shape (rows, features), got shape {array.shape}"
        )
    return array


def columns(features: Array) -> int:
    """Return how many features a row has, or raise ValueError for none."""
    count: int = features.shape[-1] if features.ndim else 0
    if count == 0:
        raise ValueError(
            f"features: expected at least one column, got an array of shape {features.shape}"
        )
    return count
