# SPDX-License-Identifier: Apache-2.0
"""Encodings: how a row of features becomes the state of n qubits.

Each is a frozen dataclass that checks features (with the only wording of each error), says what
it does, and encodes with NumPy: the definition that fused and compiled encoders are held to.
Features are (rows, k), states (rows, 2**n) complex, qubit 0 the most significant bit of the index.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import numpy as np

from qdp import arrays
from qdp.arrays import Array

# A basis index is an int64, and no state vector of more qubits could be addressed.
_MAX_QUBITS = 62


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

    @abstractmethod
    def validate(self, features: object, n_qubits: int) -> Array:
        """Check features and return them as the array that ``encode`` and the engine work on.

        Raises:
            TypeError: not numeric, or complex where real numbers are expected.
            ValueError: wrong shape, too many features, NaN or infinity, or what the encoding
                itself forbids; with the row and column where there is one.
        """

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
        fill: Callable[[Array, Array], None] | None = None,
    ) -> Array:
        """Return the states of ``features``, (rows, 2**n_qubits) complex128 or complex64.

        ``out``, C-contiguous, of that shape and complex, is written in place and returned; its
        dtype then stands for ``precision``. Temporaries stay below a MiB. ``fill(features, out)``
        is a backend's own loop over checked features, in place of the NumPy one.

        Raises:
            TypeError: see ``validate``; ``out`` is not complex.
            ValueError: see ``validate``; ``out`` has another shape, is not C-contiguous, not
                writeable, or shares memory with the features.

        >>> Amplitude().encode([[3.0, 4.0, 0.0]], 2).real
        array([[0.6, 0.8, 0. , 0. ]])
        """
        checked = self.validate(features, n_qubits)
        shape = (len(checked), 2**n_qubits)
        if out is None:
            out = np.empty(shape, np.complex128 if precision == "double" else np.complex64)
        else:
            _check_out(out, shape, checked)
        if fill is None:
            self._fill(checked, n_qubits, out)
        else:
            fill(checked, out)
        return out

    @property
    def fingerprint(self) -> str:
        """A text that two encodings share exactly if they give the same states.

        >>> Angle(rotation="Y").fingerprint
        'angle(rotation=Y)'
        """
        options = ",".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))
        return f"{self.name}({options})"

    @abstractmethod
    def describe(self) -> str:
        """Return one sentence on what the encoding does."""


@dataclass(frozen=True)
class Amplitude(Encoding):
    """Feature j becomes the amplitude of basis state j, as PennyLane's AmplitudeEmbedding.

    ``normalize`` divides each row by its Euclidean norm; without it every row must have norm 1.
    ``pad`` fills up with zeros; without it there must be exactly 2**n features. Real or complex.

    >>> Amplitude().encode([[1.0, 1.0]], 1).real.round(4)
    array([[0.7071, 0.7071]])
    """

    normalize: bool = True
    pad: bool = True

    name: ClassVar[str] = "amplitude"

    def n_features(self, n_qubits: int) -> int:
        """Return 2**n_qubits."""
        return 1 << n_qubits

    def fewest_qubits(self, features: Array) -> int:
        """Return the fewest qubits with an amplitude for every feature, at least one."""
        return max(1, (_columns(features) - 1).bit_length())

    def validate(self, features: object, n_qubits: int) -> Array:
        """Check features: (rows, up to 2**n) finite numbers, no row all zero; see ``Encoding``."""
        return self.validate_with_norms(features, n_qubits)[0]

    def validate_with_norms(self, features: object, n_qubits: int) -> tuple[Array, Array]:
        """Check features, and return them with the norms of their rows, (rows,) float64."""
        array = self.validate_shape(features, n_qubits)
        norms = arrays.row_norms(array, "amplitude encoding")
        if self.normalize:
            if norms.min(initial=1.0) == 0:
                raise ValueError(
                    f"amplitude encoding: expected rows with a norm above zero, got zeros only in "
                    f"row {np.argmin(norms)}; remove it"
                )
        else:
            require_normalised(array, norms, "amplitude encoding", "normalize=True")
        return array, norms

    def validate_shape(self, features: object, n_qubits: int) -> Array:
        """Check all of features but their values: dtype, shape and number."""
        require_qubit_count(n_qubits)
        array = _two_dimensional(arrays.as_amplitudes(features, "amplitude encoding"), self.name)
        k = _columns(array)
        _check_feature_count(self.name, k, self.n_features(n_qubits), n_qubits)
        if not self.pad and k != 2**n_qubits:
            raise ValueError(
                f"amplitude encoding: expected exactly {2**n_qubits} features for {n_qubits} "
                f"qubits, got {k}; use pad=True to fill up with zeros"
            )
        return array

    def in_safe_range(self, features: Array, norms: Array) -> Array:
        """Return features whose squares neither over- nor underflow, the same ones where they fit.

        Rows of a norm beyond 1e15 or below 1e-15 are divided by their largest magnitude, which
        changes no state; a fused encoder may then sum plain squares, in single precision too.
        """
        extreme = arrays.rows_outside(norms, 1e-15, 1e15)
        if not self.normalize or not len(extreme):
            return features
        scaled = features.copy()
        for row in extreme:
            scaled[row] = arrays.scaled_row(features[row])[1]
        return scaled

    def pullback(self, features: Array, derivative: Array) -> Array:
        """Carry derivatives from the states back to validated features.

        ``derivative`` is (rows, O, 2**n) complex, d/dRe + i d/dIm of each amplitude; the result
        (rows, O, k), real for real features.
        """
        rows, k = features.shape
        is_complex = features.dtype.kind == "c"
        dtype = (np.complex128, np.float64, np.complex64, np.float32)[
            2 * (derivative.dtype == np.complex64) + (not is_complex)
        ]
        result = np.empty((rows, derivative.shape[1], k), dtype)
        for part in arrays.row_chunks(rows, 16 * k * derivative.shape[1]):
            gradient = derivative[part, :, :k]
            if self.normalize:
                unit = np.empty((part.stop - part.start, k), np.complex128)
                norms = _normalise(features[part], unit)
                # f depends on the direction of a row only: drop what points along it.
                along = np.einsum("rk,rok->ro", unit.conj(), gradient).real
                gradient = (gradient - along[:, :, None] * unit[:, None]) / norms[:, None, None]
            result[part] = gradient if is_complex else gradient.real
        return result

    def describe(self) -> str:
        """Return one sentence on what the encoding does."""
        padded = "fewer are padded with zeros" if self.pad else "no padding"
        scaled = "each row divided by its norm" if self.normalize else "rows of norm 1 as they are"
        return f"amplitude encoding: 2**n features become the amplitudes, {padded}, {scaled}"

    def _fill(self, features: Array, n_qubits: int, out: Array) -> None:
        k = features.shape[1]
        out[:, k:] = 0
        if self.normalize:
            _normalise(features, out[:, :k])
        else:
            out[:, :k] = features


@dataclass(frozen=True)
class Angle(Encoding):
    """Feature j turns qubit j by that angle in radians, as PennyLane's AngleEmbedding.

    From |0>, by RX, RY or RZ after ``rotation``; qubits beyond the features stay in |0>.

    >>> Angle(rotation="Y").encode([[np.pi / 3]], 1).real.round(4)
    array([[0.866, 0.5  ]])
    """

    rotation: Literal["X", "Y", "Z"] = "X"

    name: ClassVar[str] = "angle"

    def __post_init__(self) -> None:
        if self.rotation not in ("X", "Y", "Z"):
            raise ValueError(
                f"angle encoding: expected rotation 'X', 'Y' or 'Z', got {self.rotation!r}"
            )

    def n_features(self, n_qubits: int) -> int:
        """Return n_qubits."""
        return n_qubits

    def fewest_qubits(self, features: Array) -> int:
        """Return the number of features."""
        return _columns(features)

    def validate(self, features: object, n_qubits: int) -> Array:
        """Check features: (rows, up to n) finite real numbers; returned as float64."""
        require_qubit_count(n_qubits)
        array = _two_dimensional(arrays.as_real(features, "angle encoding"), self.name)
        _check_feature_count(self.name, _columns(array), self.n_features(n_qubits), n_qubits)
        arrays.require_finite(array, "angle encoding")
        return array

    def describe(self) -> str:
        """Return one sentence on what the encoding does."""
        return f"angle encoding: feature j turns qubit j by R{self.rotation} of that many radians"

    def _fill(self, features: Array, n_qubits: int, out: Array) -> None:
        if self.rotation == "Z":  # |0> only gains a phase
            out[:] = 0
            out[:, 0] = np.exp(-0.5j * features.sum(axis=1))
            return
        # RX differs from RY by -i for every 1 in the index: (-i)**popcount.
        counts = np.bitwise_count(np.arange(2**n_qubits)) % 4
        phases = np.array([1, -1j, -1, 1j])[counts] if self.rotation == "X" else None
        for part in arrays.row_chunks(len(features), 8 * 2**n_qubits):
            product = np.ones((part.stop - part.start, 1))
            # From the last qubit to the first, so that the inner axis is the long one.
            for qubit in reversed(range(n_qubits)):
                product = _prepend_qubit(features[part], qubit, product)
            if phases is None:
                out[part] = product
            else:
                np.multiply(product, phases, out=out[part], casting="same_kind")


@dataclass(frozen=True)
class Basis(Encoding):
    """A bit string, or the integer that it writes in binary, becomes that basis state.

    Features are (rows, n) zeros and ones, qubit 0 first, or integers (rows,) from 0 to 2**n - 1.
    Floats that are whole numbers count as integers.

    >>> Basis().encode([[1, 0]], 2).real
    array([[0., 0., 1., 0.]])
    """

    name: ClassVar[str] = "basis"

    def n_features(self, n_qubits: int) -> int:
        """Return n_qubits, the length of a bit string."""
        return n_qubits

    def fewest_qubits(self, features: Array) -> int:
        """Return the length of the bit strings; integers don't tell."""
        if features.ndim != 2:
            raise ValueError(
                "basis encoding: expected n_qubits beside integers, got none; give n_qubits"
            )
        return _columns(features)

    def validate(self, features: object, n_qubits: int) -> Array:
        """Check bit strings (rows, n) or integers (rows,); returned as indices, (rows,) int64."""
        require_qubit_count(n_qubits)
        array = arrays.to_numpy(features, "basis encoding")
        if array.dtype.kind == "c":
            raise TypeError(
                f"basis encoding: expected integers, got dtype {array.dtype}; pass the real part"
            )
        if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != n_qubits):
            raise ValueError(
                f"basis encoding: expected bit strings of shape (rows, {n_qubits}) or integers "
                f"(rows,), got shape {array.shape}"
            )
        arrays.require_finite(array, "basis encoding")
        whole = _whole_numbers(array)
        if array.ndim == 1:
            _require_range(whole, 2**n_qubits - 1, f"an index for {n_qubits} qubits")
            return arrays.contiguous(whole, np.int64)
        _require_range(whole, 1, "a bit")
        weights = 2 ** np.arange(n_qubits - 1, -1, -1, dtype=np.int64)
        return whole.astype(np.int64, copy=False) @ weights

    def describe(self) -> str:
        """Return one sentence on what the encoding does."""
        return "basis encoding: bit strings of n bits, or the integers they write, as basis states"

    def _fill(self, features: Array, n_qubits: int, out: Array) -> None:
        out[:] = 0
        out[np.arange(len(features)), features] = 1


_ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding for encoding in (Amplitude(), Angle(), Basis())
}


def from_name(encoding: str | Encoding) -> Encoding:
    """Return the encoding of that name with its default options; an ``Encoding`` as it is.

    Raises:
        TypeError: neither a name nor an Encoding.
        ValueError: no encoding of that name.

    >>> from_name("angle")
    Angle(rotation='X')
    """
    if isinstance(encoding, Encoding):
        return encoding
    if not isinstance(encoding, str):
        raise TypeError(
            f"encoding: expected a name or an Encoding, got {type(encoding).__name__}; "
            f"names are {', '.join(_ENCODINGS)}"
        )
    if encoding not in _ENCODINGS:
        raise ValueError(f"encoding: expected one of {', '.join(_ENCODINGS)}, got {encoding!r}")
    return _ENCODINGS[encoding]


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


def to_little_endian(states: Array) -> None:
    """Reverse, in place, the order of the bits in the state index of (rows, 2**n) states."""
    n_qubits = states.shape[1].bit_length() - 1
    index = np.arange(2**n_qubits)
    reversed_index = np.zeros_like(index)
    for bit in range(n_qubits):
        reversed_index |= ((index >> bit) & 1) << (n_qubits - 1 - bit)
    for part in arrays.row_chunks(len(states), states.itemsize * states.shape[1]):
        states[part] = states[part][:, reversed_index]


def require_qubit_count(n_qubits: int) -> None:
    """Raise ValueError for a number of qubits that no state vector has."""
    if not 1 <= n_qubits <= _MAX_QUBITS:
        raise ValueError(f"n_qubits: expected 1 to {_MAX_QUBITS}, got {n_qubits}")


def _check_feature_count(name: str, n_features: int, at_most: int, n_qubits: int) -> None:
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


def _two_dimensional(array: Array, name: str) -> Array:
    if array.ndim != 2:
        raise ValueError(
            f"{name} encoding: expected features of shape (rows, features), got shape {array.shape}"
        )
    return array


def _columns(features: Array) -> int:
    columns: int = features.shape[-1] if features.ndim else 0
    if columns == 0:
        raise ValueError(
            f"features: expected at least one column, got an array of shape {features.shape}"
        )
    return columns


def _normalise(features: Array, out: Array) -> Array:
    """Write each row divided by its norm into ``out``; return the norms."""
    norms = np.empty(len(features))
    for part in arrays.row_chunks(len(features), out.itemsize * features.shape[1]):
        norms[part] = arrays.row_norms(features[part], "amplitude encoding")
        with np.errstate(all="ignore"):  # rows of extreme norm are done again below
            reciprocals = (1 / norms[part])[:, None]
            np.multiply(features[part], reciprocals, out=out[part], casting="same_kind")
    for row in arrays.rows_outside(norms, 1e-140, 1e140):
        scaled = arrays.scaled_row(features[row])[1]
        out[row] = scaled / np.linalg.norm(scaled)
    return norms


def _prepend_qubit(angles: Array, qubit: int, product: Array) -> Array:
    """Put one more qubit before those of ``product``: (rows, m) becomes (rows, 2 m)."""
    rows, m = product.shape
    if qubit >= angles.shape[1]:
        turned = np.zeros((rows, 2, m))
        turned[:, 0] = product
    else:
        half = angles[:, qubit] / 2
        turned = np.stack([np.cos(half), np.sin(half)], axis=1)[:, :, None] * product[:, None, :]
    return turned.reshape(rows, 2 * m)


def _whole_numbers(array: Array) -> Array:
    if array.dtype.kind == "b":
        return array.astype(np.int64)
    if array.dtype.kind != "f":
        return array
    odd = np.argwhere(array != np.rint(array))
    if len(odd):
        place = tuple(int(index) for index in odd[0])
        raise ValueError(
            f"basis encoding: expected integers, got {array[place]} in row {place[0]}; round it"
        )
    return array


def _require_range(array: Array, largest: int, what: str) -> None:
    outside = np.argwhere((array < 0) | (array > largest))
    if len(outside):
        place = tuple(int(index) for index in outside[0])
        raise ValueError(
            f"basis encoding: expected {what} from 0 to {largest}, got {array[place]} in row "
            f"{place[0]}"
        )
