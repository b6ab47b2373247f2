# SPDX-License-Identifier: Apache-2.0
"""PennyLane on ``default.qubit``: the roadmap's path and two fairer ways of writing it.

All three evaluate 2P shifted circuits a row. They get NumPy arrays, on which ``default.qubit`` is
about twice as fast as on torch tensors, and no gradient is recorded by an interface.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmark.core.cases import Term
from benchmark.core.contenders.base import (
    Contender,
    EncodedOnce,
    Gradients,
    Repeat,
    chunk_bounds,
    milliseconds,
    shift_gradients,
    shifted_angles,
)


def pennylane_observable(terms: tuple[Term, ...]) -> Any:
    """Return the Pauli sum as a PennyLane operator."""
    import pennylane as qml

    letters = {"X": qml.PauliX, "Y": qml.PauliY, "Z": qml.PauliZ}
    words = []
    for _, word in terms:
        factors = [letters[letter](wire) for wire, letter in word]
        words.append(factors[0] if len(factors) == 1 else qml.prod(*factors))
    if len(terms) == 1 and terms[0][0] == 1.0:
        return words[0]
    return qml.Hamiltonian([coefficient for coefficient, _ in terms], words)


def apply_layers(n_qubits: int, n_layers: int, parameters: Any) -> None:
    """Queue the variational layers, parameters in the roadmap's order."""
    import pennylane as qml

    index = 0
    for _ in range(n_layers):
        for qubit in range(n_qubits):
            qml.RY(parameters[index], wires=qubit)
            index += 1
        for qubit in range(n_qubits):
            qml.RZ(parameters[index], wires=qubit)
            index += 1
        for qubit in range(n_qubits - 1):
            qml.CNOT(wires=[qubit, qubit + 1])


def embedding_node(device: Any, n_qubits: int, n_layers: int, terms: tuple[Term, ...]) -> Any:
    """Return the QNode (features, parameters) -> value with the embedding inside."""
    import pennylane as qml

    observable = pennylane_observable(terms)

    def circuit(features: Any, parameters: Any) -> Any:
        qml.AmplitudeEmbedding(features, wires=range(n_qubits), pad_with=0.0, normalize=True)
        apply_layers(n_qubits, n_layers, parameters)
        return qml.expval(observable)

    return qml.QNode(circuit, device, diff_method=None)


def embedding_only_node(device: Any, n_qubits: int) -> Any:
    """Return the QNode that embeds and measures, with no layer between."""
    import pennylane as qml

    def circuit(features: Any) -> Any:
        qml.AmplitudeEmbedding(features, wires=range(n_qubits), pad_with=0.0, normalize=True)
        return qml.expval(qml.PauliZ(0))

    return qml.QNode(circuit, device, diff_method=None)


def stateprep_node(device: Any, n_qubits: int, n_layers: int, terms: tuple[Term, ...]) -> Any:
    """Return the QNode (states, parameters) -> values that starts from encoded states."""
    import pennylane as qml

    observable = pennylane_observable(terms)

    def circuit(states: Any, parameters: Any) -> Any:
        qml.StatePrep(states, wires=range(n_qubits), validate_norm=False)
        apply_layers(n_qubits, n_layers, parameters)
        return qml.expval(observable)

    return qml.QNode(circuit, device, diff_method=None)


def time_embedding(node: Any, features: Any, evaluations_per_row: int) -> float:
    """Run the embedding-only circuit as often as the gradient embeds; return milliseconds."""
    start = time.perf_counter()
    for _ in range(evaluations_per_row):
        for row in features:
            node(row)
    return milliseconds(start, time.perf_counter())


def split_total(total_ms: float, embedding_ms: float) -> tuple[float, float]:
    """Split a path's total into encoding and the rest.

    The encoding was measured apart, so noise could push it past the total; then it is the total.
    """
    encoding_ms = min(embedding_ms, total_ms)
    return encoding_ms, total_ms - encoding_ms


class PennyLanePath(Contender):
    """The roadmap's PennyLane path: every one of the 2P evaluations a row embeds it again."""

    name = "pennylane"
    title = "PennyLane"
    description = "default.qubit, AmplitudeEmbedding in each of the 2P evaluations"
    rule = "parameter-shift"
    precisions = ("double",)
    distributions = ("pennylane", "numpy")
    encoding_note = "its embedding-only circuit, run as many times"

    def prepare(self) -> None:
        """Build the device and both circuits."""
        import pennylane as qml

        case = self.case
        device = qml.device("default.qubit", wires=case.n_qubits)
        self.node = embedding_node(device, case.n_qubits, case.n_layers, case.terms)
        self.embedding = embedding_only_node(device, case.n_qubits)
        self.parameters = np.array(case.parameters)
        self.run(min(1, len(self.features)))

    def run(self, rows: int) -> Repeat:
        """Time the whole path, then its embedding alone."""
        from benchmark.core.gradient_benchmark import compute_gradient_parameter_shift

        features = self.features[:rows]
        start = time.perf_counter()
        gradients = compute_gradient_parameter_shift(self.node, features, self.parameters)
        total_ms = milliseconds(start, time.perf_counter())
        embedding_ms = time_embedding(self.embedding, features, 2 * self.case.n_parameters)
        return Repeat(gradients.numpy(), *split_total(total_ms, embedding_ms))


class PennyLaneStatePrep(EncodedOnce):
    """Rows encoded once; each evaluation loads the cached state through StatePrep."""

    name = "pennylane-stateprep"
    title = "PennyLane, cached StatePrep"
    description = "default.qubit, rows encoded once, StatePrep in each of the 2P evaluations"
    rule = "parameter-shift"
    precisions = ("double",)
    distributions = ("pennylane", "numpy")

    def prepare(self) -> None:
        """Build the device and the circuit."""
        import pennylane as qml

        case = self.case
        self.allocate_states(np.complex128)
        device = qml.device("default.qubit", wires=case.n_qubits)
        self.node = stateprep_node(device, case.n_qubits, case.n_layers, case.terms)
        self.parameters = np.array(case.parameters)
        self.run(min(1, len(self.features)))

    def circuits(self, rows: int) -> Gradients:
        """Evaluate row by row, as the roadmap's loop does."""
        from benchmark.core.gradient_benchmark import compute_gradient_parameter_shift

        gradients = compute_gradient_parameter_shift(self.node, self.states[:rows], self.parameters)
        return np.asarray(gradients.numpy())


class PennyLaneBroadcast(PennyLaneStatePrep):
    """Rows encoded once; each evaluation broadcasts over a block of rows."""

    name = "pennylane-broadcast"
    title = "PennyLane, broadcast over rows"
    description = "default.qubit, rows encoded once, one broadcast circuit a shift"
    amplitudes_per_chunk = 2**20

    def circuits(self, rows: int) -> Gradients:
        """Evaluate all rows of a block in one execution a shift."""
        gradients = np.empty((rows, self.case.n_parameters))
        block = max(1, self.amplitudes_per_chunk // self.case.state_size)
        for start, stop in chunk_bounds(rows, block):
            states = self.states[start:stop]
            values = [
                np.reshape(self.node(states, angles), -1) for angles in shifted_angles(self.case)
            ]
            gradients[start:stop] = shift_gradients(np.transpose(values))
        return gradients
