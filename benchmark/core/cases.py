# SPDX-License-Identifier: Apache-2.0
"""What is measured: gradients of one circuit by one rule, or one encoding, in one precision.

A case knows its reference result, how far others may lie from it, and how to travel as JSON to the
process of a contender. The workload W(n, L, N): N rows of real features are amplitude encoded; each
of L layers is RY on all n qubits, RZ on all qubits, then the ladder CNOT(q, q+1). The result is the
(N, P) matrix of per-row gradients of the observable, P = 2nL. Qubit 0 is the most significant bit
of an index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

OBSERVABLES = ("z0", "sum-z")
METHODS = ("parameter-shift", "adjoint")
PRECISIONS = ("double", "single")
# Names that qdp.encode takes; the features of the last are the angles of PennyLane's template.
ENCODINGS = ("amplitude", "angle", "iqp-embedding")

# (coefficient, ((wire, letter), ...)): one term of a Pauli sum.
Term = tuple[float, tuple[tuple[int, str], ...]]

TIMED_REGION = (
    "from raw float64 features, shape (rows, up to 2**n), to float64 gradients, shape (rows, P): "
    "normalising, padding, planning for the parameters and every circuit; not imports, "
    "compilation or the first call"
)


@dataclass(frozen=True)
class GradientCase:
    """One workload as every contender gets it; ``parameters`` are radians, length P."""

    kind: ClassVar[str] = "gradient"

    n_qubits: int
    n_layers: int
    parameters: tuple[float, ...]
    observable: str = "z0"
    method: str = "parameter-shift"
    precision: str = "double"
    backend: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.n_qubits < 1 or self.n_layers < 1:
            raise ValueError(
                f"expected at least one qubit and one layer, got {self.n_qubits} qubits and "
                f"{self.n_layers} layers"
            )
        for field, value, allowed in (
            ("observable", self.observable, OBSERVABLES),
            ("method", self.method, METHODS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in allowed:
                raise ValueError(f"expected {field} to be one of {allowed}, got {value!r}")
        if len(self.parameters) != self.n_parameters:
            raise ValueError(
                f"expected {self.n_parameters} parameters for {self.n_qubits} qubits and "
                f"{self.n_layers} layers, got {len(self.parameters)}"
            )
        if self.threads < 1:
            raise ValueError(f"expected at least one thread, got {self.threads}")

    @property
    def n_parameters(self) -> int:
        """The number of trainable angles: RY and RZ on every qubit of every layer."""
        return 2 * self.n_qubits * self.n_layers

    @property
    def state_size(self) -> int:
        """The number of amplitudes of one state."""
        return 1 << self.n_qubits

    @property
    def terms(self) -> tuple[Term, ...]:
        """The observable as a Pauli sum."""
        return observable_terms(self.observable, self.n_qubits)

    @property
    def weight(self) -> float:
        """The sum of the terms' absolute coefficients, which scales every error bound."""
        return sum(abs(coefficient) for coefficient, _ in self.terms)

    @property
    def tolerance(self) -> float:
        """How far a gradient may lie from the reference."""
        return (1e-9 if self.precision == "double" else 1e-5) * max(1.0, self.weight)

    @property
    def angles(self) -> NDArray[np.float64]:
        """The parameters as (layers, 2, n_qubits): RY angles, then RZ angles, of each layer."""
        return np.array(self.parameters, dtype=np.float64).reshape(self.n_layers, 2, self.n_qubits)

    @property
    def real_dtype(self) -> type[np.floating[Any]]:
        """The dtype of real numbers in this precision."""
        return np.float64 if self.precision == "double" else np.float32

    @property
    def complex_dtype(self) -> type[np.complexfloating[Any, Any]]:
        """The dtype of amplitudes in this precision."""
        return np.complex128 if self.precision == "double" else np.complex64

    def reference(self, features: NDArray[np.float64]) -> NDArray[Any]:
        """Return the gradients (rows, P) by QDP's reference backend, in double precision."""
        import qdp

        gradients = qdp.gradient(
            qdp.ansatz.ry_rz_ladder(self.n_qubits, self.n_layers),
            np.array(self.parameters),
            features,
            terms_text(self.terms),
            encoding="amplitude",
            method="adjoint",
            backend="reference",
            precision="double",
        )
        return np.asarray(gradients, dtype=np.float64)

    def saved_rows(self, rows: int, checked: int) -> int:
        """Return of how many rows the timed result is kept and compared: all."""
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the case as plain JSON values."""
        return {**asdict(self), "parameters": list(self.parameters)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GradientCase:
        """Build the case that ``to_json`` wrote."""
        return cls(**{**values, "parameters": tuple(float(p) for p in values["parameters"])})


@dataclass(frozen=True)
class EncodingCase:
    """Rows of real features to states; the features of a row are 2**n ("amplitude") or n angles."""

    kind: ClassVar[str] = "encoding"

    encoding: str
    n_qubits: int
    precision: str = "double"
    backend: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.n_qubits < 1 or self.threads < 1:
            raise ValueError(
                f"expected at least one qubit and one thread, got {self.n_qubits} and "
                f"{self.threads}"
            )
        for field, value, allowed in (
            ("encoding", self.encoding, ENCODINGS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in allowed:
                raise ValueError(f"expected {field} to be one of {allowed}, got {value!r}")

    @property
    def state_size(self) -> int:
        """The number of amplitudes of one state."""
        return 1 << self.n_qubits

    @property
    def n_features(self) -> int:
        """The most features that a row may have."""
        return self.state_size if self.encoding == "amplitude" else self.n_qubits

    @property
    def tolerance(self) -> float:
        """How far an amplitude may lie from the reference."""
        return 1e-12 if self.precision == "double" else 1e-5

    @property
    def complex_dtype(self) -> type[np.complexfloating[Any, Any]]:
        """The dtype of amplitudes in this precision."""
        return np.complex128 if self.precision == "double" else np.complex64

    def reference(self, features: NDArray[np.float64]) -> NDArray[Any]:
        """Return the states (rows, 2**n) by QDP's reference backend, in double precision."""
        import qdp

        states = qdp.encode(features, self.encoding, self.n_qubits, backend="reference")
        return np.asarray(states)

    def saved_rows(self, rows: int, checked: int) -> int:
        """Return of how many rows the timed result is kept and compared: those of the check."""
        return min(rows, checked)

    def to_json(self) -> dict[str, Any]:
        """Return the case as plain JSON values."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EncodingCase:
        """Build the case that ``to_json`` wrote."""
        return cls(**{key: value for key, value in values.items() if key != "kind"})


Case = GradientCase | EncodingCase


def case_from_json(values: Mapping[str, Any]) -> Case:
    """Build the case that a ``to_json`` wrote; without a kind it is one of gradients."""
    if values.get("kind", "gradient") == "encoding":
        return EncodingCase.from_json(values)
    return GradientCase.from_json(values)


def observable_terms(name: str, n_qubits: int) -> tuple[Term, ...]:
    """Return the named observable as a Pauli sum over ``n_qubits``.

    >>> observable_terms("sum-z", 2)
    ((1.0, ((0, 'Z'),)), (1.0, ((1, 'Z'),)))
    """
    if name == "z0":
        return ((1.0, ((0, "Z"),)),)
    if name == "sum-z":
        return tuple((1.0, ((wire, "Z"),)) for wire in range(n_qubits))
    raise ValueError(f"expected observable to be one of {OBSERVABLES}, got {name!r}")


def random_terms(n_qubits: int, seed: int, n_terms: int = 4) -> tuple[Term, ...]:
    """Return a seeded random Pauli sum: words of weight 1 to 3, coefficients in [-1, 1]."""
    generator = np.random.default_rng(seed)
    terms: list[Term] = []
    for _ in range(n_terms):
        weight = int(generator.integers(1, min(3, n_qubits) + 1))
        wires = sorted(int(w) for w in generator.choice(n_qubits, size=weight, replace=False))
        letters = (str(letter) for letter in generator.choice(list("XYZ"), size=weight))
        coefficient = float(np.round(generator.uniform(-1, 1), 3)) or 0.5
        terms.append((coefficient, tuple(zip(wires, letters, strict=True))))
    return tuple(terms)


def terms_text(terms: tuple[Term, ...]) -> str:
    """Write a Pauli sum as qdp.Observable reads it.

    >>> terms_text(((0.5, ((0, "Z"),)), (-1.0, ((1, "X"), (2, "Y")))))
    '0.5 Z0 - 1.0 X1 Y2'
    """
    text = ""
    for index, (coefficient, word) in enumerate(terms):
        sign = "-" if coefficient < 0 else "+"
        lead = ("-" if coefficient < 0 else "") if index == 0 else f" {sign} "
        letters = " ".join(f"{letter}{wire}" for wire, letter in word)
        text += f"{lead}{abs(coefficient)!r} {letters}"
    return text


def diagonal_signs(n_qubits: int) -> NDArray[np.float64]:
    """Return the eigenvalues of Z on each qubit, shape (2**n, n)."""
    index = np.arange(2**n_qubits)[:, None]
    bits = (index >> np.arange(n_qubits - 1, -1, -1)[None, :]) & 1
    return np.where(bits == 0, 1.0, -1.0)


def observable_diagonal(name: str, n_qubits: int) -> NDArray[np.float64]:
    """Return the diagonal of the named observable, shape (2**n,); both are diagonal."""
    signs = diagonal_signs(n_qubits)
    wires = [word[0][0] for _, word in observable_terms(name, n_qubits)]
    diagonal: NDArray[np.float64] = signs[:, wires].sum(axis=1)
    return diagonal


def ladder_source(n_qubits: int) -> NDArray[np.intp]:
    """Return the index map of the ladder CNOT(0,1), CNOT(1,2), ...: new[y] = old[source[y]]."""
    index = np.arange(2**n_qubits)
    source: NDArray[np.intp] = index ^ (index >> 1)
    return source


def amplitudes(
    features: NDArray[np.float64], n_qubits: int, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Zero-pad rows to 2**n and divide each by its norm: amplitude encoding, written once.

    ``features`` is (rows, up to 2**n) real; the result is (rows, 2**n), float64 or ``out``'s dtype.
    """
    rows, width = features.shape
    if out is None:
        out = np.empty((rows, 2**n_qubits), dtype=np.float64)
    inverse_norms = 1.0 / np.sqrt(np.einsum("ij,ij->i", features, features))
    np.multiply(features, inverse_norms[:, None], out=out[:, :width], casting="same_kind")
    out[:, width:] = 0
    return out
