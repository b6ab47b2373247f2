# SPDX-License-Identifier: Apache-2.0
"""``--verify``: QDP's gradients against PennyLane's default.qubit on a few rows.

Three observables in one circuit: Z on qubit 0, the sum of Z over all qubits, and a random Pauli
sum, since for Z on qubit 0 most gradients of this circuit are exactly zero and would agree even
if they were never computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.core.cases import GradientCase, Term, observable_terms, random_terms, terms_text
from benchmark.core.contenders.pennylane_paths import apply_layers, pennylane_observable
from benchmark.core.contenders.qdp_paths import qdp_gradients
from benchmark.core.report import count_nonzero
from benchmark.core.runner import largest_difference

Array = NDArray[np.float64]
MOST_ROWS = 3


@dataclass(frozen=True)
class Check:
    """One observable's comparison."""

    title: str
    difference: float
    tolerance: float
    n_nonzero: int
    n_parameters: int

    @property
    def passed(self) -> bool:
        """Whether the gradients agree."""
        return self.difference <= self.tolerance

    def line(self) -> str:
        """Return the line to print."""
        word = "PASS" if self.passed else "FAIL"
        return (
            f"  {word}  {self.title}: largest difference {self.difference:.2e} "
            f"(tolerance {self.tolerance:.0e}), {self.n_nonzero} of {self.n_parameters} gradients "
            "are not zero"
        )


def verify_case(case: GradientCase, features: Array, seed: int) -> list[Check]:
    """Compare the case's QDP path, its method, backend and precision, with PennyLane."""
    rows = features[:MOST_ROWS]
    word = random_terms(case.n_qubits, seed)
    observables: list[tuple[str, tuple[Term, ...]]] = [
        ("<Z0>", observable_terms("z0", case.n_qubits)),
        ("sum of <Z_q>", observable_terms("sum-z", case.n_qubits)),
        (f"random Pauli sum <{terms_text(word)}>", word),
    ]
    expected = pennylane_gradients(case, rows, [terms for _, terms in observables])
    base = 1e-9 if case.precision == "double" else 1e-5
    checks = []
    for index, (title, terms) in enumerate(observables):
        gradients, _, _ = qdp_gradients(
            rows,
            np.array(case.parameters),
            n_qubits=case.n_qubits,
            n_layers=case.n_layers,
            terms=terms,
            method=case.method,
            backend=case.backend,
            precision=case.precision,
        )
        weight = sum(abs(coefficient) for coefficient, _ in terms)
        checks.append(
            Check(
                title,
                largest_difference(np.asarray(gradients, dtype=np.float64), expected[:, index]),
                base * max(1.0, weight),
                count_nonzero(expected[:, index], "double"),
                case.n_parameters,
            )
        )
    return checks


def pennylane_gradients(
    case: GradientCase, rows: Array, observables: list[tuple[Term, ...]]
) -> Array:
    """Return default.qubit's parameter-shift gradients, (rows, observables, P)."""
    import pennylane as qml

    device = qml.device("default.qubit", wires=case.n_qubits)
    measured = [pennylane_observable(terms) for terms in observables]

    def circuit(features: Any, parameters: Any) -> Any:
        qml.AmplitudeEmbedding(features, wires=range(case.n_qubits), pad_with=0.0, normalize=True)
        apply_layers(case.n_qubits, case.n_layers, parameters)
        return [qml.expval(observable) for observable in measured]

    node = qml.QNode(circuit, device, diff_method=None)
    gradients = np.empty((len(rows), len(observables), case.n_parameters))
    parameters = np.array(case.parameters)
    for row, features in enumerate(rows):
        for index in range(case.n_parameters):
            above, below = parameters.copy(), parameters.copy()
            above[index] += np.pi / 2
            below[index] -= np.pi / 2
            difference = np.array(node(features, above)) - np.array(node(features, below))
            gradients[row, :, index] = difference / 2
    return gradients
