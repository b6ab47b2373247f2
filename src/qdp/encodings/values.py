# SPDX-License-Identifier: Apache-2.0
"""Encodings whose features are amplitudes, or name one: no gate makes them.

Features are (rows, k) or, of basis states, (rows,); states are (rows, 2**n) complex.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qdp import arrays
from qdp.arrays import Array
from qdp.encodings.base import (
    Encoding,
    check_feature_count,
    columns,
    require_normalised,
    require_qubit_count,
    two_dimensional,
)


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
        return max(1, (columns(features) - 1).bit_length())

    def validate(self, features: object, n_qubits: int) -> Array:
        """Check features: (rows, up to 2**n) finite numbers, no row all zero; see ``Encoding``."""
        return self.validate_with_norms(features, n_qubits)[0]

    def validate_for_fill(self, features: object, n_qubits: int) -> Array:
        """Check all but the numbers: a compiled loop takes the norms, reading features once."""
        require_qubit_count(n_qubits)
        array = two_dimensional(arrays.as_amplitudes(features, "amplitude encoding"), self.name)
        k = columns(array)
        check_feature_count(self.name, k, self.n_features(n_qubits), n_qubits)
        if not self.pad and k != 2**n_qubits:
            raise ValueError(
                f"amplitude encoding: expected exactly {2**n_qubits} features for {n_qubits} "
                f"qubits, got {k}; use pad=True to fill up with zeros"
            )
        return array

    def validate_with_norms(self, features: object, n_qubits: int) -> tuple[Array, Array]:
        """Check features, and return them with the norms of their rows, (rows,) float64."""
        array = self.validate_for_fill(features, n_qubits)
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
class Basis(Encoding):
    """A bit string, or the integer that it writes in binary, becomes that basis state.

    Features are (rows, n) zeros and ones, qubit 0 first, or integers (rows,) from 0 to 2**n - 1.
    Floats that are whole numbers count as integers, and text such as "0110" as a bit string.

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
        return columns(features)

    def as_rows(self, features: object) -> tuple[Array, bool]:
        """View integers, bit strings or text with a rows axis; see ``Encoding``."""
        array = arrays.to_numpy(_from_text(features), "basis encoding")
        # One text is one row; a flat list of numbers is a column of integers.
        if isinstance(features, str):
            return array, False
        return (array[None], False) if array.ndim == 0 else (array, True)

    def validate(self, features: object, n_qubits: int) -> Array:
        """Check bit strings (rows, n) or integers (rows,); returned as indices, (rows,) int64."""
        require_qubit_count(n_qubits)
        array = arrays.to_numpy(_from_text(features), "basis encoding")
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


def _from_text(features: object) -> object:
    """Return rows of bits for one text or several of zeros and ones; anything else as it is."""
    if isinstance(features, str):
        texts = [features]
    elif isinstance(features, list | tuple | np.ndarray) and any(
        isinstance(text, str) for text in features
    ):
        texts = [str(text) for text in features]
    else:
        return features
    for row, text in enumerate(texts):
        if not text or set(text) - {"0", "1"} or len(text) != len(texts[0]):
            raise ValueError(
                f"basis encoding: expected text of {len(texts[0]) or 'n'} zeros and ones, got "
                f"{text!r} in row {row}"
            )
    return np.array([[int(bit) for bit in text] for text in texts], np.int64)


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
