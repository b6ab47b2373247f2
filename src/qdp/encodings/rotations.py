# SPDX-License-Identifier: Apache-2.0
"""Encodings that gates make from |0...0>, so that a run can put them before its circuit.

``angles`` turns features into the columns that the gates read, products of features among them,
``operations`` names the gates, and ``pullback`` is the chain rule back to the features. States
are computed without the gates: of single qubits (``factors``), or of one diagonal between
Walsh-Hadamard transforms (``coefficients``).
Letters: k features, A columns of angles, O observables; pairs of qubits are in lexicographic order.
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from qdp import arrays, gates
from qdp.arrays import Array
from qdp.circuit import Circuit
from qdp.encodings.base import (
    Encoding,
    check_feature_count,
    columns,
    require_qubit_count,
    two_dimensional,
)

Pairs = tuple[tuple[int, int], ...]

_ENTANGLEMENTS = ("full", "linear", "reverse_linear", "circular", "pairwise", "sca")


@dataclass(frozen=True)
class GateEncoding(Encoding):
    """An encoding that gates make, whose angles are features or products of two of them."""

    def n_features(self, n_qubits: int) -> int:
        """Return n_qubits."""
        return n_qubits

    def fewest_qubits(self, features: Array) -> int:
        """Return the number of features."""
        return columns(features)

    def validate(self, features: object, n_qubits: int) -> Array:
        """Check features: (rows, k) finite real numbers, k exact; returned as float64."""
        require_qubit_count(n_qubits)
        array = two_dimensional(arrays.as_real(features, f"{self.name} encoding"), self.name)
        self._check_columns(columns(array), n_qubits)
        arrays.require_finite(array, f"{self.name} encoding")
        return array

    def _check_columns(self, count: int, n_qubits: int) -> None:
        expected = self.n_features(n_qubits)
        if count != expected:
            raise ValueError(
                f"{self.name} encoding: expected exactly {expected} features for {n_qubits} "
                f"qubits, got {count}; use another number of qubits or of features"
            )

    def angles(self, features: Array, n_qubits: int) -> Array:
        """Return the columns that the gates read, (rows, A), from validated features."""
        return features

    def pullback(self, features: Array, derivative: Array) -> Array:
        """Carry derivatives by the angles, (rows, O, A), back to validated features, (rows, O, k).

        >>> from qdp.encodings import IQPEmbedding
        >>> IQPEmbedding().pullback(np.array([[2.0, 3.0]]), np.array([[[0.0, 0.0, 1.0]]]))
        array([[[3., 2.]]])
        """
        return derivative

    @abstractmethod
    def operations(self, n_qubits: int, n_features: int, first: int) -> list[gates.Operation]:
        """Return the gates; column j of ``angles`` is the input ``first + j``."""

    def before(self, circuit: Circuit, n_features: int) -> Circuit:
        """Return the circuit with the gates before it, which read inputs behind its own."""
        return _before(self, circuit, n_features)


@dataclass(frozen=True)
class ProductEncoding(GateEncoding):
    """An encoding whose states are products of states of single qubits."""

    @abstractmethod
    def factors(self, features: Array, n_qubits: int) -> Array:
        """Return the amplitudes of each qubit for 0 and 1, (rows, n, 2) complex128."""

    @abstractmethod
    def waves(self) -> tuple[float, Array]:
        """Return ``factors`` as a formula: a rate, and (2, 3) complex128.

        Row a is what 1, cos(rate x) and sin(rate x) are multiplied with in amplitude a of the qubit
        of a feature x. A qubit without a feature is in |0>.
        """

    def _fill(self, features: Array, n_qubits: int, out: Array) -> None:
        for part in arrays.row_chunks(len(features), 16 * 2**n_qubits):
            factors = self.factors(features[part], n_qubits)
            product = factors[:, n_qubits - 1]
            # From the last qubit to the first, so that the inner axis is the long one.
            for qubit in reversed(range(n_qubits - 1)):
                product = factors[:, qubit, :, None] * product[:, None]
                product = product.reshape(len(product), -1)
            out[part] = product


@dataclass(frozen=True)
class PhaseEncoding(GateEncoding):
    """An encoding by ``repeats`` rounds of a Hadamard on every qubit and a quadratic phase.

    The phase of basis state b is c + sum_j l_j b_j + sum_{i<j} q_ij b_i b_j. ``closes`` puts one
    more round of Hadamards at the end.
    """

    @property
    def repeats(self) -> int:
        """How many rounds there are."""
        return 1

    @property
    def closes(self) -> bool:
        """Whether a Hadamard on every qubit comes last."""
        return True

    def coefficients(self, features: Array, n_qubits: int) -> Array:
        """Return (c, l_0 ..., q_01, q_02, ...) in radians, (rows, 1 + n + n(n-1)/2) float64."""
        return self.combined(self.angles(features, n_qubits), n_qubits)

    @abstractmethod
    def combined(self, angles: Array, n_qubits: int) -> Array:
        """Return the coefficients, which are linear in the columns of ``angles``."""

    def _fill(self, features: Array, n_qubits: int, out: Array) -> None:
        size = 2**n_qubits
        for part in arrays.row_chunks(len(features), 16 * size):
            phases = _phases(self.coefficients(features[part], n_qubits), n_qubits)
            diagonal = np.exp(1j * phases) / math.sqrt(size)
            psi = diagonal
            for _ in range(self.repeats - 1):
                psi = walsh_hadamard(psi) * diagonal
            out[part] = walsh_hadamard(psi) / math.sqrt(size) if self.closes else psi


@dataclass(frozen=True)
class Angle(ProductEncoding):
    """Feature j turns qubit j by ``scale`` times that angle in radians.

    From |0>, by RX, RY or RZ after ``rotation``; qubits beyond the features stay in |0>. With
    scale 1 it is PennyLane's AngleEmbedding.

    >>> Angle(rotation="Y").encode([[np.pi / 3]], 1).real.round(4)
    array([[0.866, 0.5  ]])
    """

    rotation: Literal["X", "Y", "Z"] = "X"
    scale: float = 1.0

    name: ClassVar[str] = "angle"

    def __post_init__(self) -> None:
        if self.rotation not in ("X", "Y", "Z"):
            raise ValueError(
                f"angle encoding: expected rotation 'X', 'Y' or 'Z', got {self.rotation!r}"
            )
        _set_number(self, "scale")

    def _check_columns(self, count: int, n_qubits: int) -> None:
        check_feature_count(self.name, count, n_qubits, n_qubits)

    def describe(self) -> str:
        """Return one sentence on what the encoding does."""
        scaled = "" if self.scale == 1 else f" times {self.scale:g}"
        return (
            f"angle encoding: feature j{scaled} turns qubit j by R{self.rotation} of that many "
            "radians"
        )

    def operations(self, n_qubits: int, n_features: int, first: int) -> list[gates.Operation]:
        """Return one rotation a feature."""
        rotate = {"X": gates.RX, "Y": gates.RY, "Z": gates.RZ}[self.rotation]
        return [rotate(gates.feature(first + j) * self.scale, j) for j in range(n_features)]

    def factors(self, features: Array, n_qubits: int) -> Array:
        """Return the amplitudes of each qubit, (rows, n, 2) complex128."""
        rows, k = features.shape
        half = features * (self.scale / 2)
        factors = np.zeros((rows, n_qubits, 2), np.complex128)
        factors[:, k:, 0] = 1
        if self.rotation == "Z":  # |0> only gains a phase
            factors[:, :k, 0] = np.exp(-1j * half)
        else:
            factors[:, :k, 0] = np.cos(half)
            factors[:, :k, 1] = np.sin(half) * (1 if self.rotation == "Y" else -1j)
        return factors

    def waves(self) -> tuple[float, Array]:
        """Return ``factors`` as a formula, (2, 3) complex128."""
        second = {"X": (0, 0, -1j), "Y": (0, 0, 1), "Z": (0, 0, 0)}[self.rotation]
        first = (0, 1, -1j if self.rotation == "Z" else 0)
        return self.scale / 2, np.array([first, second], np.complex128)


@dataclass(frozen=True)
class Phase(ProductEncoding):
    """Feature j is the phase of |1> of qubit j, all magnitudes equal: H, then PhaseShift(x_j).

    psi[b] = 2**(-n/2) exp(i sum_j x_j b_j).

    >>> Phase().encode([[np.pi / 2]], 1).round(4)
    array([[0.7071+0.j    , 0.    +0.7071j]])
    """

    name: ClassVar[str] = "phase"

    def describe(self) -> str:
        """Return one sentence on what the encoding does."""
        return "phase encoding: H on every qubit, then feature j as the phase of |1> of qubit j"

    def operations(self, n_qubits: int, n_features: int, first: int) -> list[gates.Operation]:
        """Return Hadamards and phase shifts."""
        return [
            *_hadamards(n_qubits),
            *(gates.PhaseShift(gates.feature(first + j), j) for j in range(n_qubits)),
        ]

    def factors(self, features: Array, n_qubits: int) -> Array:
        """Return the amplitudes of each qubit, (rows, n, 2) complex128."""
        factors = np.full((*features.shape, 2), math.sqrt(0.5), np.complex128)
        factors[:, :, 1] *= np.exp(1j * features)
        return factors

    def waves(self) -> tuple[float, Array]:
        """Return ``factors`` as a formula, (2, 3) complex128."""
        return 1.0, np.array([[1, 0, 0], [0, 1, 1j]], np.complex128) * math.sqrt(0.5)


@dataclass(frozen=True)
class IQPZ(ProductEncoding):
    """H, phase shift by feature j and H on qubit j: "iqp" without its pair terms.

    >>> IQPZ().encode([[np.pi]], 1).round(4).real
    array([[0., 1.]])
    """

    name: ClassVar[str] = "iqp-z"

    def describe(self) -> str:
        """Return one sentence on what the encoding does."""
        return "iqp-z encoding: feature j as the phase of |1> of qubit j between two Hadamards"

    def operations(self, n_qubits: int, n_features: int, first: int) -> list[gates.Operation]:
        """Return phase shifts between Hadamards."""
        return [*Phase().operations(n_qubits, n_features, first), *_hadamards(n_qubits)]

    def factors(self, features: Array, n_qubits: int) -> Array:
        """Return the amplitudes of each qubit, (rows, n, 2) complex128."""
        half = features / 2
        turned = np.stack([np.cos(half), -1j * np.sin(half)], axis=2)
        return np.asarray(np.exp(1j * half)[:, :, None] * turned)

    def waves(self) -> tuple[float, Array]:
        """Return ``factors`` as a formula, (2, 3) complex128."""
        return 1.0, np.array([[1, 1, 1j], [1, -1, -1j]], np.complex128) / 2


@dataclass(frozen=True)
class IQP(PhaseEncoding):
    """H on every qubit, phases of single bits and of pairs of bits, and H on every qubit.

    Features are the n phases of single bits, then the n(n-1)/2 of the pairs (0,1), (0,2) ...: no
    product is computed, and there is no factor 2. psi = H D H |0>, with
    D = exp(i (sum_j x_j b_j + sum_{i<j} x_ij b_i b_j)).

    >>> IQP().encode([[0.0, 0.0, np.pi]], 2).real.round(4)
    array([[ 0.5,  0.5,  0.5, -0.5]])
    """

    name: ClassVar[str] = "iqp"

    def n_features(self, n_qubits: int) -> int:
        """Return n + n(n-1)/2."""
        return n_qubits * (n_qubits + 1) // 2

    def fewest_qubits(self, features: Array) -> int:
        """Return the n of which n + n(n-1)/2 is the number of features, or the next larger."""
        count = columns(features)
        return next(n for n in itertools.count(1) if self.n_features(n) >= count)

    def describe(self) -> str:
        """Return one sentence on what the encoding does."""
        return "iqp encoding: given phases of bits and pairs of bits between two layers of Hadamard"

    def operations(self, n_qubits: int, n_features: int, first: int) -> list[gates.Operation]:
        """Return phase shifts and controlled ones between Hadamards."""
        pairs = enumerate(_all_pairs(n_qubits), start=first + n_qubits)
        return [
            *Phase().operations(n_qubits, n_qubits, first),
            *(gates.ControlledPhaseShift(gates.feature(j), pair) for j, pair in pairs),
            *_hadamards(n_qubits),
        ]

    def combined(self, angles: Array, n_qubits: int) -> Array:
        """Return the angles, which are the features, behind a constant of zero."""
        return np.concatenate([np.zeros((len(angles), 1)), angles], axis=1)


@dataclass(frozen=True)
class ProductPhases(PhaseEncoding):
    """Phases of single bits by features, and of parities of pairs by products of two features."""

    # A product is (centre - x_i)(centre - x_j).
    centre: ClassVar[float]

    @abstractmethod
    def pairs(self, n_qubits: int) -> Pairs:
        """Return the pairs of qubits that have a product."""

    def angles(self, features: Array, n_qubits: int) -> Array:
        """Return the features and the products of their pairs, (rows, n + pairs)."""
        first, second = _indices(self.pairs(n_qubits))
        # Rows side by side: what is added and multiplied lies together.
        given = features.T.copy()
        distances = self.centre - given
        return np.concatenate([given, distances[first] * distances[second]]).T

    def pullback(self, features: Array, derivative: Array) -> Array:
        """Carry derivatives by features and products back to the features."""
        n_qubits = features.shape[1]
        result: Array = derivative[:, :, :n_qubits].copy()
        distances = (self.centre - features).astype(derivative.dtype)
        for column, (i, j) in enumerate(self.pairs(n_qubits), start=n_qubits):
            result[:, :, i] -= derivative[:, :, column] * distances[:, None, j]
            result[:, :, j] -= derivative[:, :, column] * distances[:, None, i]
        return result

    def _parity_coefficients(self, angles: Array, n_qubits: int) -> Array:
        """Return coefficients that give bit j the phase angles[j] and each pair's parity its own.

        The parity of two bits is b_i + b_j - 2 b_i b_j.
        """
        added = np.zeros((1 + n_qubits * (n_qubits + 1) // 2, len(angles)))
        added[1 : 1 + n_qubits] = angles.T[:n_qubits]
        place = {pair: 1 + n_qubits + p for p, pair in enumerate(_all_pairs(n_qubits))}
        for (i, j), angle in zip(self.pairs(n_qubits), angles.T[n_qubits:], strict=True):
            added[1 + i] += angle
            added[1 + j] += angle
            added[place[min(i, j), max(i, j)]] -= 2 * angle
        return added.T


@dataclass(frozen=True)
class IQPEmbedding(ProductPhases):
    """PennyLane's IQPEmbedding: H, RZ(x_j), then MultiRZ(x_i x_j) on pairs, ``n_repeats`` times.

    ``pattern`` is the pairs of qubits, None all of them.

    >>> abs(IQPEmbedding().encode([[0.1, 0.2]], 2)).round(4)
    array([[0.5, 0.5, 0.5, 0.5]])
    """

    n_repeats: int = 1
    pattern: Pairs | None = None

    name: ClassVar[str] = "iqp-embedding"
    centre: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        _require_count(self.name, "n_repeats", self.n_repeats)
        if self.pattern is not None:
            object.__setattr__(self, "pattern", _as_pairs(self.name, "pattern", self.pattern))

    def validate(self, features: object, n_qubits: int) -> Array:
        """Check features: (rows, n) finite real numbers, and that the pattern fits them."""
        _require_pairs_fit(self.name, self.pattern or (), n_qubits)
        return super().validate(features, n_qubits)

    @property
    def repeats(self) -> int:
        """How many rounds there are."""
        return self.n_repeats

    @property
    def closes(self) -> bool:
        """No Hadamards come last."""
        return False

    def describe(self) -> str:
        """Return one sentence on what the encoding does."""
        return (
            f"iqp-embedding encoding: Hadamards, RZ of features and ZZ rotations of products over "
            f"{'all' if self.pattern is None else len(self.pattern)} pairs, {self.n_repeats} times"
        )

    def pairs(self, n_qubits: int) -> Pairs:
        """Return the pairs of qubits that have a product."""
        return _all_pairs(n_qubits) if self.pattern is None else self.pattern

    def operations(self, n_qubits: int, n_features: int, first: int) -> list[gates.Operation]:
        """Return PennyLane's gates."""
        pairs = enumerate(self.pairs(n_qubits), start=first + n_qubits)
        layer = [
            *_hadamards(n_qubits),
            *(gates.RZ(gates.feature(first + j), j) for j in range(n_qubits)),
            *(gates.MultiRZ(gates.feature(j), pair) for j, pair in pairs),
        ]
        return layer * self.n_repeats

    def combined(self, angles: Array, n_qubits: int) -> Array:
        """Return the coefficients of the phase of one round."""
        coefficients = self._parity_coefficients(angles, n_qubits)
        coefficients[:, 0] = -0.5 * angles.T.sum(axis=0)
        return coefficients


@dataclass(frozen=True)
class ZZFeatureMap(ProductPhases):
    """Qiskit's zz_feature_map: H, P(alpha x_j), CNOT P(alpha (pi - x_i)(pi - x_j)) CNOT.

    ``reps`` times, over the pairs that ``entanglement`` names ("full", "linear", "reverse_linear",
    "circular", "pairwise", "sca") or lists. Feature j belongs to qubit j; Qiskit's own order of
    amplitudes is ``bit_order="little"``.

    >>> abs(ZZFeatureMap(reps=1).encode([[0.1, 0.2]], 2)).round(4)
    array([[0.5, 0.5, 0.5, 0.5]])
    """

    reps: int = 2
    entanglement: str | Pairs = "full"
    alpha: float = 2.0

    name: ClassVar[str] = "zz-feature-map"
    centre: ClassVar[float] = math.pi

    def __post_init__(self) -> None:
        _require_count(self.name, "reps", self.reps)
        _set_number(self, "alpha")
        if not isinstance(self.entanglement, str):
            pairs = _as_pairs(self.name, "entanglement", self.entanglement)
            object.__setattr__(self, "entanglement", pairs)
        elif self.entanglement not in _ENTANGLEMENTS:
            raise ValueError(
                f"{self.name} encoding: expected entanglement {', '.join(_ENTANGLEMENTS)} or "
                f"pairs, got {self.entanglement!r}"
            )

    def validate(self, features: object, n_qubits: int) -> Array:
        """Check features: (rows, n) finite real numbers, and that listed pairs fit them."""
        if not isinstance(self.entanglement, str):
            _require_pairs_fit(self.name, self.entanglement, n_qubits)
        return super().validate(features, n_qubits)

    @property
    def repeats(self) -> int:
        """How many rounds there are."""
        return self.reps

    @property
    def closes(self) -> bool:
        """No Hadamards come last."""
        return False

    def describe(self) -> str:
        """Return one sentence on what the encoding does."""
        pairs = self.entanglement
        over = pairs if isinstance(pairs, str) else f"{len(pairs)} given"
        return (
            f"zz-feature-map encoding: Hadamards, phases of features and of products over {over} "
            f"pairs times {self.alpha:g}, {self.reps} times"
        )

    def pairs(self, n_qubits: int) -> Pairs:
        """Return the pairs of qubits that have a product."""
        if not isinstance(self.entanglement, str):
            return self.entanglement
        if self.entanglement == "full":
            return _all_pairs(n_qubits)
        chain = tuple((i, i + 1) for i in range(n_qubits - 1))
        # All phases commute, so that the order of the pairs doesn't matter.
        if self.entanglement in ("circular", "sca") and n_qubits > 2:
            return ((n_qubits - 1, 0), *chain)
        return chain

    def operations(self, n_qubits: int, n_features: int, first: int) -> list[gates.Operation]:
        """Return Qiskit's gates."""
        layer = _hadamards(n_qubits)
        for j in range(n_qubits):
            layer.append(gates.PhaseShift(self.alpha * gates.feature(first + j), j))
        for j, pair in enumerate(self.pairs(n_qubits), start=first + n_qubits):
            turn = gates.PhaseShift(self.alpha * gates.feature(j), pair[1])
            layer += [gates.CNOT(pair), turn, gates.CNOT(pair)]
        return layer * self.reps

    def combined(self, angles: Array, n_qubits: int) -> Array:
        """Return the coefficients of the phase of one round."""
        return self._parity_coefficients(self.alpha * angles, n_qubits)


def walsh_hadamard(values: Array) -> Array:
    """Return the unnormalised Walsh-Hadamard transform of each row of (rows, 2**n).

    >>> walsh_hadamard(np.array([[1.0, 2.0]]))
    array([[ 3., -1.]])
    """
    rows, size = values.shape
    half = 1
    while half < size:
        blocks = values.reshape(rows, size // (2 * half), 2, half)
        low, high = blocks[:, :, 0], blocks[:, :, 1]
        values = np.stack([low + high, low - high], axis=2).reshape(rows, size)
        half *= 2
    return values


def _phases(coefficients: Array, n_qubits: int) -> Array:
    """Return the phase of every basis state, (rows, 2**n) float64, adding a qubit at a time."""
    linear = coefficients[:, 1 : 1 + n_qubits]
    place = {pair: 1 + n_qubits + p for p, pair in enumerate(_all_pairs(n_qubits))}
    phases = coefficients[:, :1]
    for qubit in reversed(range(n_qubits)):
        added = linear[:, qubit : qubit + 1]
        for later in reversed(range(qubit + 1, n_qubits)):
            pair = coefficients[:, place[qubit, later], None]
            added = np.concatenate([added, added + pair], axis=1)
        phases = np.concatenate([phases, phases + added], axis=1)
    return phases


@functools.lru_cache(maxsize=64)
def _before(encoding: GateEncoding, circuit: Circuit, n_features: int) -> Circuit:
    turns = encoding.operations(circuit.n_qubits, n_features, circuit.n_inputs)
    return Circuit(circuit.n_qubits, (*turns, *circuit.operations))


def _hadamards(n_qubits: int) -> list[gates.Operation]:
    return [gates.Hadamard(qubit) for qubit in range(n_qubits)]


@functools.cache
def _all_pairs(n_qubits: int) -> Pairs:
    return tuple(itertools.combinations(range(n_qubits), 2))


def _indices(pairs: Pairs) -> tuple[list[int], list[int]]:
    return [first for first, _ in pairs], [second for _, second in pairs]


def _as_pairs(name: str, option: str, given: Sequence[Sequence[int]]) -> Pairs:
    pairs = tuple(tuple(int(qubit) for qubit in pair) for pair in given)
    for pair in pairs:
        if len(pair) != 2 or pair[0] == pair[1] or min(pair) < 0:
            raise ValueError(
                f"{name} encoding: expected {option} of pairs of different qubits, got {pair}"
            )
    return tuple((first, second) for first, second in pairs)


def _require_pairs_fit(name: str, pairs: Pairs, n_qubits: int) -> None:
    for pair in pairs:
        if max(pair) >= n_qubits:
            raise ValueError(
                f"{name} encoding: expected pairs of qubits from 0 to {n_qubits - 1}, got {pair}"
            )


def _require_count(name: str, option: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} encoding: expected {option} of at least 1, got {value!r}")


def _set_number(encoding: Encoding, option: str) -> None:
    """Make an option a float, so that equal numbers have one fingerprint; refuse NaN and such."""
    value = float(getattr(encoding, option))
    if not math.isfinite(value):
        raise ValueError(f"{encoding.name} encoding: expected a finite {option}, got {value}")
    object.__setattr__(encoding, option, value)
