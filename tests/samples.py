# SPDX-License-Identifier: Apache-2.0
"""Seeded random gates, circuits, states and observables over the whole gate table, and PennyLane's
form of each: the material of every test that compares two ways to the same numbers. Where there is
no PennyLane, a test that asks for its form is skipped."""

import numpy as np
import pytest

from qdp import gates
from qdp.circuit import Circuit, Observable

# How many wires a gate on any number of wires gets.
VARIADIC_WIRES = 3


def random_unitary(size, rng):
    matrix = rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size))
    unitary, triangle = np.linalg.qr(matrix)
    return unitary * (np.diag(triangle) / np.abs(np.diag(triangle)))


def random_states(rows, n_qubits, rng):
    states = rng.normal(size=(rows, 2**n_qubits)) + 1j * rng.normal(size=(rows, 2**n_qubits))
    return states / np.linalg.norm(states, axis=1, keepdims=True)


def wires_of(name, n_wires=None):
    """Return how many wires a sample of the gate gets."""
    gate = gates.TABLE[name]
    return gate.n_wires if gate.n_wires is not None else n_wires or VARIADIC_WIRES


def random_operation(name, wires, angles, rng):
    """Return the gate on ``wires`` with ``angles``; words, matrices and controls are random."""
    constructor = gates.TABLE[name].constructor
    if name == "GlobalPhase":
        return constructor(*angles)
    if name == "PauliRot":
        word = "".join(rng.choice(list("IXYZ"), size=len(wires) - 1)) + rng.choice(list("XYZ"))
        return constructor(*angles, word, wires)
    if name == "MultiControlledX":
        return constructor(wires, rng.integers(0, 2, size=len(wires) - 1).tolist())
    if name == "QubitUnitary":
        return constructor(random_unitary(2 ** len(wires), rng), wires)
    if name == "DiagonalQubitUnitary":
        return constructor(np.exp(2j * np.pi * rng.random(2 ** len(wires))), wires)
    return constructor(*angles, wires)


def sample_operation(name, seed, n_wires=None):
    """Return the gate on wires 0, 1, ... with constant random angles."""
    rng = np.random.default_rng([seed, list(gates.TABLE).index(name)])
    angles = rng.uniform(-2 * np.pi, 2 * np.pi, size=len(gates.TABLE[name].parameters))
    return random_operation(name, range(wires_of(name, n_wires)), angles.tolist(), rng)


def random_angle(rng, n_parameters, n_inputs):
    """Return a parameter, an input or a constant, with scale and offset half of the time."""
    sources = [gates.constant(rng.uniform(-3, 3))]
    if n_parameters:
        sources += 3 * [gates.parameter(int(rng.integers(n_parameters)))]
    if n_inputs:
        sources += 2 * [gates.feature(int(rng.integers(n_inputs)))]
    angle = sources[rng.integers(len(sources))]
    if rng.random() < 0.5:
        angle = angle * rng.uniform(-1.5, 1.5) + rng.uniform(-1, 1)
    return angle


def random_circuit(n_qubits, seed, n_gates=None, n_parameters=6, n_inputs=3, names=None):
    """Return a circuit of random gates; by default each of the table once, in random order.

    Gates that need more wires than there are fall away.
    """
    rng = np.random.default_rng(seed)
    names = [name for name in names or gates.TABLE if wires_of(name) <= n_qubits]
    chosen = rng.permutation(names) if n_gates is None else rng.choice(names, size=n_gates)
    operations = []
    for name in map(str, chosen):
        wires = rng.permutation(n_qubits)[: wires_of(name)].tolist()
        angles = [random_angle(rng, n_parameters, n_inputs) for _ in gates.TABLE[name].parameters]
        operations.append(random_operation(name, wires, angles, rng))
    return Circuit(n_qubits, operations)


def random_numbers(circuit, rows, seed, per_row=False):
    """Return parameters, (P,) or (rows, P), and inputs, (rows, F), for a circuit."""
    rng = np.random.default_rng([seed, 1])
    shape = (rows, circuit.n_parameters) if per_row else (circuit.n_parameters,)
    return rng.uniform(-3, 3, size=shape), rng.uniform(-3, 3, size=(rows, circuit.n_inputs))


def random_observables(n_qubits, seed):
    """Return a Pauli sum, a projector, a Hermitian matrix and a mixture of the three."""
    rng = np.random.default_rng([seed, 2])
    pauli = Observable("0.7 I")
    for _ in range(4):
        wires = rng.permutation(n_qubits)[: rng.integers(1, n_qubits + 1)]
        word = " ".join(f"{rng.choice(list('XYZ'))}{wire}" for wire in sorted(wires))
        pauli += Observable(f"{rng.uniform(0.1, 2)} {word}")
    pair = rng.permutation(n_qubits)[: min(2, n_qubits)].tolist()
    projector = Observable.projector(rng.integers(0, 2, size=len(pair)).tolist(), pair)
    matrix = rng.normal(size=(2 ** len(pair),) * 2) + 1j * rng.normal(size=(2 ** len(pair),) * 2)
    hermitian = Observable.hermitian(matrix + matrix.conj().T, pair[::-1])
    return [pauli, projector, hermitian, 0.5 * pauli - 2 * projector + 0.3 * hermitian]


# PennyLane


def to_pennylane(operation, angles):
    """Return PennyLane's operator of an operation whose angles have these values."""
    qml = pytest.importorskip("pennylane")

    wires = list(operation.wires)
    if operation.name.endswith("dg"):
        return qml.adjoint(getattr(qml, operation.name.removesuffix("dg"))(wires=wires))
    gate = getattr(qml, operation.name)
    if operation.name == "GlobalPhase":
        return gate(*angles)
    if operation.name == "PauliRot":
        return gate(*angles, operation.word, wires=wires)
    if operation.name == "MultiControlledX":
        return gate(wires=wires, control_values=list(operation.control_values))
    if operation.matrix is not None:
        return gate(np.array(operation.matrix), wires=wires)
    return gate(*angles, wires=wires)


def pennylane_values(circuit, observables, parameters, inputs, state):
    """Return default.qubit's expectation values for one row, torch tensors in, (O,) tensor out."""
    qml = pytest.importorskip("pennylane")
    torch = pytest.importorskip("torch")

    components = [term for observable in observables for term in observable.components]

    @qml.qnode(qml.device("default.qubit", wires=circuit.n_qubits), interface="torch")
    def run():
        apply_pennylane(circuit, parameters, inputs, state)
        return [qml.expval(component_to_pennylane(term)) for term in components]

    values = iter(run())
    sums = [sum(t.coefficient * next(values) for t in o.components) for o in observables]
    return torch.stack(sums)


def pennylane_state(circuit, parameters, inputs, state):
    """Return default.qubit's final state for one row, (2**n,) complex128."""
    qml = pytest.importorskip("pennylane")

    @qml.qnode(qml.device("default.qubit", wires=circuit.n_qubits))
    def run():
        apply_pennylane(circuit, parameters, inputs, state)
        return qml.state()

    return np.asarray(run())


def apply_pennylane(circuit, parameters, inputs, state):
    qml = pytest.importorskip("pennylane")

    qml.StatePrep(state, wires=range(circuit.n_qubits))
    sources = {"parameter": parameters, "input": inputs}
    # PennyLane wants all angles of one gate as tensors, or none.
    number = getattr(parameters, "new_tensor", float)
    for operation in circuit.operations:
        angles = [
            number(angle.offset)
            if angle.is_constant
            else angle.scale * sources[angle.kind][angle.index] + angle.offset
            for angle in operation.angles
        ]
        to_pennylane(operation, angles)


def component_to_pennylane(term):
    qml = pytest.importorskip("pennylane")

    if hasattr(term, "paulis"):
        paulis = [getattr(qml, letter)(wire) for wire, letter in term.paulis]
        return qml.prod(*paulis) if paulis else qml.Identity(0)
    if hasattr(term, "bits"):
        return qml.Projector(list(term.bits), wires=list(term.wires))
    return qml.Hermitian(np.array(term.matrix), wires=list(term.wires))
