# SPDX-License-Identifier: Apache-2.0
"""Ready-made circuits: gate for gate the ones that they are named after."""

import math

import numpy as np
import pytest
from samples import to_pennylane
from tolerance import assert_close

from qdp import ansatz, gates
from qdp.backends.base import Batch
from qdp.backends.reference import ReferenceBackend
from qdp.circuit import Circuit

SIZES = [(1, 1), (1, 2), (2, 1), (2, 3), (3, 2), (5, 6)]


def pennylane_operators(circuit, parameters):
    angles = [
        [float(angle.evaluate(parameters)) for angle in operation.angles]
        for operation in circuit.operations
    ]
    return list(map(to_pennylane, circuit.operations, angles))


def assert_same_operators(actual, expected):
    qml = pytest.importorskip("pennylane")
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert qml.equal(ours, theirs), f"{ours} instead of {theirs}"


@pytest.mark.parametrize(("n_qubits", "n_layers"), SIZES)
def test_ry_rz_ladder_is_the_roadmaps_circuit(n_qubits, n_layers):
    qml = pytest.importorskip("pennylane")
    circuit = ansatz.ry_rz_ladder(n_qubits, n_layers)
    parameters = np.random.default_rng(0).normal(size=2 * n_qubits * n_layers)
    assert circuit.n_parameters == len(parameters)
    expected, index = [], 0
    for _ in range(n_layers):
        for gate in (qml.RY, qml.RZ):
            for qubit in range(n_qubits):
                expected.append(gate(parameters[index], wires=qubit))
                index += 1
        expected += [qml.CNOT(wires=[qubit, qubit + 1]) for qubit in range(n_qubits - 1)]
    assert_same_operators(pennylane_operators(circuit, parameters), expected)


@pytest.mark.parametrize(("n_qubits", "n_layers"), SIZES)
@pytest.mark.parametrize("with_ranges", [False, True])
def test_strongly_entangling_is_pennylanes(n_qubits, n_layers, with_ranges):
    qml = pytest.importorskip("pennylane")
    weights = np.random.default_rng(0).normal(size=(n_layers, n_qubits, 3))
    ranges = [n_qubits - 1] * n_layers if with_ranges else None
    circuit = ansatz.strongly_entangling(n_qubits, n_layers, ranges)
    assert circuit.n_parameters == weights.size
    if n_qubits == 1:
        ranges = None
    template = qml.StronglyEntanglingLayers(weights, wires=range(n_qubits), ranges=ranges)
    assert_same_operators(pennylane_operators(circuit, weights.ravel()), template.decomposition())


@pytest.mark.parametrize(("n_qubits", "n_layers"), SIZES)
@pytest.mark.parametrize("rotation", ["X", "Y", "Z"])
def test_basic_entangler_is_pennylanes(n_qubits, n_layers, rotation):
    qml = pytest.importorskip("pennylane")
    weights = np.random.default_rng(0).normal(size=(n_layers, n_qubits))
    circuit = ansatz.basic_entangler(n_qubits, n_layers, rotation)
    assert circuit.n_parameters == weights.size
    template = qml.BasicEntanglerLayers(
        weights, wires=range(n_qubits), rotation=getattr(qml, f"R{rotation}")
    )
    assert_same_operators(pennylane_operators(circuit, weights.ravel()), template.decomposition())


def test_data_reuploading_reads_the_row_in_every_layer():
    circuit = ansatz.data_reuploading(n_qubits=3, n_layers=2)
    assert (circuit.n_parameters, circuit.n_inputs) == (18, 3)
    p, x = gates.parameter, gates.feature
    layer = [gates.RX(x(qubit), qubit) for qubit in range(3)]
    layer += [gates.Rot(p(3 * q), p(3 * q + 1), p(3 * q + 2), q) for q in range(3)]
    layer += [gates.CNOT([0, 1]), gates.CNOT([1, 2]), gates.CNOT([2, 0])]
    assert circuit.operations[:9] == tuple(layer)
    assert circuit.operations[9:12] == tuple(layer[:3])
    assert circuit.operations[12].angles == (p(9), p(10), p(11))


def test_one_qubit_reuploading_gives_a_cosine():
    circuit = ansatz.data_reuploading(n_qubits=1, n_layers=2)
    inputs = np.linspace(-3, 3, 7)[:, np.newaxis]
    batch = Batch(rows=7, parameters=np.zeros(6), inputs=inputs)
    probabilities = ReferenceBackend().probabilities(circuit, batch, [0])
    # Two rotations by x with nothing between add up to one by 2x.
    assert_close(probabilities[:, 0] - probabilities[:, 1], np.cos(2 * inputs[:, 0]), "double")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ansatz.ry_rz_ladder(0, 1), ValueError, "n_qubits of at least 1, got 0"),
        (lambda: ansatz.ry_rz_ladder(2, 0), ValueError, "n_layers of at least 1, got 0"),
        (lambda: ansatz.basic_entangler(2, 1.5), TypeError, "integer"),
        (lambda: ansatz.basic_entangler(2, 1, "W"), ValueError, "'X', 'Y' or 'Z', got 'W'"),
        (lambda: ansatz.strongly_entangling(3, 2, [1]), ValueError, "each of 2 layers, got 1"),
        (lambda: ansatz.strongly_entangling(3, 1, [3]), ValueError, r"from 1 to 2, got \[3\]"),
        (lambda: ansatz.data_reuploading(99, 1), ValueError, "1 to 62 qubits"),
    ],
)
def test_mistakes_raise_one_clear_error(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_ladder_prepares_a_product_of_cosines():
    # With RY only and no RZ, <Z_0> is the cosine of its own angle: a value known by heart.
    circuit = ansatz.ry_rz_ladder(2, 1)
    assert isinstance(circuit, Circuit)
    batch = Batch(rows=1, parameters=np.array([math.pi / 3, 0.4, 0.0, 0.0]))
    probabilities = ReferenceBackend().probabilities(circuit, batch, [0])
    assert_close(probabilities, np.array([[0.75, 0.25]]), "double")
