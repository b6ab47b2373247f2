# SPDX-License-Identifier: Apache-2.0
"""An independent judge for the tests: the circuit by explicit matrices, gradients by shifting."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.core.cases import GradientCase, Term

_PAULIS: dict[str, NDArray[Any]] = {
    "I": np.eye(2),
    "X": np.array([[0, 1], [1, 0]]),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1, -1]),
}
Matrix = NDArray[np.complex128]


def _on_all(matrices: Sequence[NDArray[Any]]) -> Matrix:
    product: Matrix = reduce(np.kron, matrices).astype(np.complex128)
    return product


def _rotation(letter: str, angle: float) -> Matrix:
    gate: Matrix = np.cos(angle / 2) * np.eye(2) - 1j * np.sin(angle / 2) * _PAULIS[letter]
    return gate


def _cnot(n_qubits: int, control: int) -> Matrix:
    """CNOT(control, control + 1), qubit 0 the most significant bit."""
    idle, active = [np.eye(2)] * n_qubits, [np.eye(2)] * n_qubits
    idle[control] = np.diag([1.0, 0.0])
    active[control] = np.diag([0.0, 1.0])
    active[control + 1] = _PAULIS["X"]
    return _on_all(idle) + _on_all(active)


def unitary(n_qubits: int, n_layers: int, parameters: NDArray[np.float64]) -> Matrix:
    """Return the whole circuit's matrix."""
    angles = np.asarray(parameters).reshape(n_layers, 2, n_qubits)
    total = np.eye(2**n_qubits, dtype=np.complex128)
    for layer in range(n_layers):
        for index, letter in enumerate("YZ"):
            gates = [_rotation(letter, angle) for angle in angles[layer, index]]
            total = _on_all(gates) @ total
        for control in range(n_qubits - 1):
            total = _cnot(n_qubits, control) @ total
    return total


def observable(n_qubits: int, terms: tuple[Term, ...]) -> Matrix:
    """Return the Pauli sum's matrix."""
    total = np.zeros((2**n_qubits, 2**n_qubits), dtype=np.complex128)
    for coefficient, word in terms:
        letters = ["I"] * n_qubits
        for wire, letter in word:
            letters[wire] = letter
        total += coefficient * _on_all([_PAULIS[letter] for letter in letters])
    return total


def gradients(
    case: GradientCase, features: NDArray[np.float64], terms: tuple[Term, ...] | None = None
) -> NDArray[np.float64]:
    """Return (rows, P) gradients by the two-term shift rule."""
    states = np.zeros((len(features), case.state_size))
    states[:, : features.shape[1]] = features
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    matrix = observable(case.n_qubits, case.terms if terms is None else terms)

    def values(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        final = states @ unitary(case.n_qubits, case.n_layers, parameters).T
        expectations: NDArray[np.float64] = np.einsum(
            "ri,ij,rj->r", final.conj(), matrix, final
        ).real
        return expectations

    result = np.empty((len(features), case.n_parameters))
    for index in range(case.n_parameters):
        step = np.zeros(case.n_parameters)
        step[index] = np.pi / 2
        base = np.array(case.parameters)
        result[:, index] = (values(base + step) - values(base - step)) / 2
    return result


def make_case(n_qubits: int, n_layers: int = 2, seed: int = 7, **options: object) -> GradientCase:
    """Return a case with seeded parameters."""
    generator = np.random.default_rng(seed)
    parameters = generator.uniform(-np.pi, np.pi, 2 * n_qubits * n_layers)
    return GradientCase(n_qubits, n_layers, tuple(parameters.tolist()), **options)  # type: ignore[arg-type]


def make_features(rows: int, width: int, seed: int = 11) -> NDArray[np.float64]:
    """Return seeded real rows."""
    return np.random.default_rng(seed).standard_normal((rows, width))
