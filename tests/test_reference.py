# SPDX-License-Identifier: Apache-2.0
"""The reference backend against PennyLane, finite differences, shift rules and the laws."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import (
    pennylane_state,
    pennylane_values,
    random_circuit,
    random_numbers,
    random_observables,
    random_states,
    sample_operation,
)
from tolerance import assert_close

from qdp import gates
from qdp.ansatz import data_reuploading, ry_rz_ladder
from qdp.backends.base import Batch
from qdp.backends.reference import ReferenceBackend
from qdp.circuit import Circuit, Observable

BACKEND = ReferenceBackend()
ALL = frozenset({"parameters", "inputs", "states"})
ROWS = 2


def random_batch(circuit, rows, seed, per_row=False, precision="double"):
    parameters, inputs = random_numbers(circuit, rows, seed, per_row)
    states = random_states(rows, circuit.n_qubits, np.random.default_rng([seed, 3]))
    return Batch(rows, parameters, inputs, states, precision=precision)


def row_of(batch, row):
    """Return the batch that holds this row alone."""
    parameters = batch.parameters
    return dataclasses.replace(
        batch,
        rows=1,
        parameters=parameters[row : row + 1] if parameters.ndim == 2 else parameters,
        inputs=None if batch.inputs is None else batch.inputs[row : row + 1],
        states=None if batch.states is None else batch.states[row : row + 1],
        indices=None if batch.indices is None else batch.indices[row : row + 1],
    )


def total_weight(observables):
    return max(observable.weight for observable in observables)


# Against PennyLane: each seed runs every gate of the table once, in random order.


@pytest.mark.parametrize("seed", range(4))
def test_states_are_pennylanes(seed):
    pytest.importorskip("pennylane")
    circuit = random_circuit(5, seed)
    assert {op.name for op in circuit.operations} == set(gates.TABLE)
    batch = random_batch(circuit, ROWS, seed)
    expected = [
        pennylane_state(circuit, batch.parameters, batch.inputs[row], batch.states[row])
        for row in range(ROWS)
    ]
    assert_close(BACKEND.state(circuit, batch), np.stack(expected), "double")


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_values_and_gradients_are_pennylanes(seed, per_row):
    pytest.importorskip("pennylane")
    torch = pytest.importorskip("torch")
    circuit = random_circuit(5, seed)
    batch = random_batch(circuit, ROWS, seed, per_row)
    observables = random_observables(5, seed)
    result = BACKEND.adjoint(circuit, batch, observables, ALL)
    values = BACKEND.expectation(circuit, batch, observables)
    weight = total_weight(observables)
    parameters = np.broadcast_to(batch.parameters, (ROWS, circuit.n_parameters))
    for row in range(ROWS):
        theta = torch.tensor(parameters[row].copy(), requires_grad=True)
        features = torch.tensor(batch.inputs[row], requires_grad=True)

        def run(theta, features, row=row):
            return pennylane_values(circuit, observables, theta, features, batch.states[row])

        expected = run(theta, features)
        slopes = [
            torch.autograd.grad(value, (theta, features), retain_graph=True) for value in expected
        ]
        by_parameter, by_input = (torch.stack(part).numpy() for part in zip(*slopes, strict=True))
        assert_close(values[row], expected.detach().numpy(), "double", weight)
        assert_close(result.values[row], expected.detach().numpy(), "double", weight)
        assert_close(result.parameters[row], by_parameter, "double", weight)
        assert_close(result.inputs[row], by_input, "double", weight)


@pytest.mark.parametrize("name", gates.TABLE)
def test_each_gate_alone_is_pennylanes(name):
    pytest.importorskip("pennylane")
    circuit = random_circuit(4, seed=7, n_gates=1, names=[name])
    batch = random_batch(circuit, 1, seed=7)
    expected = pennylane_state(circuit, batch.parameters, batch.inputs[0], batch.states[0])
    assert_close(BACKEND.state(circuit, batch)[0], expected, "double")


def test_probabilities_are_pennylanes():
    qml = pytest.importorskip("pennylane")
    circuit = random_circuit(4, seed=2)
    batch = random_batch(circuit, 1, seed=2)
    final = BACKEND.state(circuit, batch)[0]
    for wires in ([0, 1, 2, 3], [2], [3, 1], [1, 3, 0]):

        @qml.qnode(qml.device("default.qubit", wires=4))
        def run(wires=wires):
            qml.StatePrep(final, wires=range(4))
            return qml.probs(wires=wires)

        probabilities = BACKEND.probabilities(circuit, batch, wires)
        assert_close(probabilities[0], np.asarray(run()), "double")


# Derivatives


def central_difference(function, point, step):
    """Return d function / d point along every entry of ``point``, stacked in front."""
    slopes = []
    for index in np.ndindex(point.shape):
        shift = np.zeros(point.shape)
        shift[index] = step
        slopes.append((function(point + shift) - function(point - shift)) / (2 * step))
    return np.stack(slopes)


@pytest.mark.parametrize("seed", range(3))
def test_adjoint_is_the_finite_difference(seed):
    circuit = random_circuit(4, seed, n_gates=25)
    batch = random_batch(circuit, 1, seed)
    observables = random_observables(4, seed)
    result = BACKEND.adjoint(circuit, batch, observables, ALL)
    bound = 1e-8 * total_weight(observables)

    def values(**changes):
        changed = dataclasses.replace(batch, **changes)
        return BACKEND.expectation(circuit, changed, observables)[0]

    by_parameter = central_difference(lambda t: values(parameters=t), batch.parameters, 1e-5)
    np.testing.assert_allclose(result.parameters[0], by_parameter.T, rtol=0, atol=bound)
    by_input = central_difference(lambda t: values(inputs=t), batch.inputs, 1e-5)
    np.testing.assert_allclose(result.inputs[0], by_input.T, rtol=0, atol=bound)
    # Values are quadratic in the state, so the central difference is exact for any step.
    states = batch.states
    by_real = central_difference(lambda s: values(states=states + s), np.zeros((1, 16)), 0.5)
    by_imag = central_difference(lambda s: values(states=states + 1j * s), np.zeros((1, 16)), 0.5)
    weight = total_weight(observables)
    assert_close(result.states[0], (by_real + 1j * by_imag).T, "double", 4 * weight)


@pytest.mark.parametrize("name", [name for name, gate in gates.TABLE.items() if gate.parameters])
def test_frequencies_give_the_adjoint_gradient_by_shifts(name):
    rng = np.random.default_rng([5, list(gates.TABLE).index(name)])
    slots = len(gates.TABLE[name].parameters)
    wires = sample_operation(name, 0).wires
    angles = [1.3 * gates.parameter(0) + 0.1 * slot for slot in range(slots)]
    extra = {"PauliRot": ["XYZ"]}.get(name, [])
    middle = gates.TABLE[name].constructor(*angles, *extra, *([wires] if wires else []))
    mixer = [gates.Rot(*rng.uniform(-3, 3, 3), wire) for wire in range(3)]
    circuit = Circuit(3, [*mixer, middle, *mixer])
    batch = random_batch(circuit, ROWS, seed=1)
    observables = random_observables(3, seed=1)
    gradient = np.zeros((ROWS, len(observables)))
    for slot, frequencies in enumerate(gates.TABLE[name].frequencies):
        frequencies = np.array(frequencies)
        n_shifts = len(frequencies)
        shifts = np.pi * (np.arange(n_shifts) + 0.5) / max(1, n_shifts)
        # sum over m of 2 c_m sin(w s_m) = w for every frequency w (arXiv:2107.12390, section 3)
        weights = np.linalg.solve(2 * np.sin(np.outer(frequencies, shifts)), frequencies)
        up = BACKEND.shifted_expectation(
            circuit, batch, observables, [((3, slot, shift),) for shift in shifts]
        )
        down = BACKEND.shifted_expectation(
            circuit, batch, observables, [((3, slot, -shift),) for shift in shifts]
        )
        gradient += 1.3 * np.einsum("m,mro->ro", weights, up - down)
    exact = BACKEND.adjoint(circuit, batch, observables, frozenset({"parameters"}))
    assert_close(exact.parameters[:, :, 0], gradient, "double", 10 * total_weight(observables))


def test_shifts_add_to_the_angle_and_combine():
    p = gates.parameter
    circuit = Circuit(2, [gates.RX(2 * p(0), 0), gates.CRot(p(0), p(1), 0.3, [0, 1])])
    batch = Batch(rows=1, parameters=np.array([0.4, -0.7]))
    observables = [Observable("Z0 + 0.5 X1"), Observable("Y1")]
    shifted = BACKEND.shifted_expectation(
        circuit, batch, observables, [(), ((0, 0, 0.2), (1, 2, -1.0)), ((0, 0, 0.1), (0, 0, 0.1))]
    )
    assert shifted.shape == (3, 1, 2)
    assert_close(shifted[0], BACKEND.expectation(circuit, batch, observables), "double")
    for evaluation, operations in (
        (1, [gates.RX(1.0, 0), gates.CRot(0.4, -0.7, -0.7, [0, 1])]),
        (2, [gates.RX(1.0, 0), gates.CRot(0.4, -0.7, 0.3, [0, 1])]),
    ):
        expected = BACKEND.expectation(Circuit(2, operations), batch, observables)
        assert_close(shifted[evaluation], expected, "double")


def test_cotangents_contract_the_observables():
    circuit = random_circuit(4, seed=3)
    batch = random_batch(circuit, 3, seed=3, per_row=True)
    observables = random_observables(4, seed=3)
    cotangents = np.random.default_rng(0).normal(size=(3, len(observables)))
    separate = BACKEND.adjoint(circuit, batch, observables, ALL)
    contracted = BACKEND.adjoint(circuit, batch, observables, ALL, cotangents)
    weight = 10 * total_weight(observables)
    assert_close(contracted.values, separate.values, "double", weight)
    for what in ("parameters", "inputs", "states"):
        each, total = getattr(separate, what), getattr(contracted, what)
        assert total.shape == (3, 1, each.shape[2])
        expected = np.einsum("ro,rok->rk", cotangents, each)[:, np.newaxis]
        assert_close(total, expected, "double", weight)


def test_only_what_is_wanted_is_returned():
    circuit = data_reuploading(2, 1)
    batch = random_batch(circuit, 2, seed=0)
    for wrt in ((), ("parameters",), ("inputs",), ("states",), ("parameters", "states")):
        result = BACKEND.adjoint(circuit, batch, [Observable.z(0)], frozenset(wrt))
        for what in ("parameters", "inputs", "states"):
            assert (getattr(result, what) is not None) == (what in wrt)


def test_a_parameter_that_no_gate_reads_has_gradient_zero():
    circuit = Circuit(1, [gates.RX(gates.parameter(2), 0)])
    batch = Batch(rows=1, parameters=np.array([9.0, 9.0, 0.5]))
    result = BACKEND.adjoint(circuit, batch, [Observable.z(0)], frozenset({"parameters"}))
    assert_close(result.parameters, np.array([[[0.0, 0.0, -np.sin(0.5)]]]), "double")


# Batches


def test_rows_start_where_the_batch_says():
    circuit = Circuit(2, [gates.CNOT([0, 1])])
    none = np.zeros(0)
    basis = Batch(rows=3, parameters=none, indices=np.array([0, 2, 3]))
    expected = np.zeros((3, 4), complex)
    expected[[0, 1, 2], [0, 3, 2]] = 1
    assert_close(BACKEND.state(circuit, basis), expected, "double")
    zero = BACKEND.state(circuit, Batch(rows=2, parameters=none))
    assert_close(zero, np.array([[1, 0, 0, 0]] * 2, complex), "double")
    padded = Batch(rows=1, parameters=none, states=np.array([[3.0, 0.0, 4.0]]), normalize=True)
    assert_close(BACKEND.state(circuit, padded), np.array([[0.6, 0, 0, 0.8 + 0j]]), "double")
    huge = dataclasses.replace(padded, states=np.array([[3e300, 0.0, 4e300]]))
    assert_close(BACKEND.state(circuit, huge), np.array([[0.6, 0, 0, 0.8 + 0j]]), "double")


def test_fused_features_have_the_gradient_of_the_normalised_state():
    circuit = ry_rz_ladder(2, 1)
    features = np.random.default_rng(0).normal(size=(2, 3))
    parameters = np.array([0.1, 0.2, 0.3, 0.4])
    states = np.pad(features, ((0, 0), (0, 1)))
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    raw = Batch(rows=2, parameters=parameters, states=features, normalize=True)
    ready = Batch(rows=2, parameters=parameters, states=states)
    observables = random_observables(2, seed=0)
    fused = BACKEND.adjoint(circuit, raw, observables, ALL)
    plain = BACKEND.adjoint(circuit, ready, observables, ALL)
    for what in ("values", "parameters", "states"):
        weight = 2 * total_weight(observables)
        assert_close(getattr(fused, what), getattr(plain, what), "double", weight)


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("precision", ["double", "single"])
def test_shapes_and_dtypes_for_few_rows(rows, per_row, precision):
    circuit = random_circuit(4, seed=1)
    batch = random_batch(circuit, rows, 1, per_row, precision)
    observables = random_observables(4, seed=1)
    real, both = batch.real_dtype, batch.complex_dtype
    size, n_observables = 16, len(observables)
    result = BACKEND.adjoint(circuit, batch, observables, ALL)
    expected = [
        (BACKEND.state(circuit, batch), (rows, size), both),
        (BACKEND.expectation(circuit, batch, observables), (rows, n_observables), real),
        (BACKEND.probabilities(circuit, batch, [2, 0]), (rows, 4), real),
        (
            BACKEND.shifted_expectation(circuit, batch, observables, [(), ()]),
            (2, rows, n_observables),
            real,
        ),
        (result.values, (rows, n_observables), real),
        (result.parameters, (rows, n_observables, circuit.n_parameters), real),
        (result.inputs, (rows, n_observables, circuit.n_inputs), real),
        (result.states, (rows, n_observables, size), both),
    ]
    for array, shape, dtype in expected:
        assert array.shape == shape
        assert array.dtype == dtype
        assert np.isfinite(array).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_states_of_every_dtype_enter(dtype):
    circuit = ry_rz_ladder(3, 1)
    states = random_states(2, 3, np.random.default_rng(0)).real
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    exact = Batch(rows=2, parameters=np.arange(6.0), states=states)
    other = dataclasses.replace(exact, states=states.astype(dtype), precision="single")
    expected = BACKEND.expectation(circuit, exact, [Observable.sum_z(3)])
    actual = BACKEND.expectation(circuit, other, [Observable.sum_z(3)])
    assert_close(actual, expected, "single", weight=3)


def test_gates_on_many_wires_need_no_matrix():
    # Their matrices over 16 wires would take 64 GiB each.
    n, wires = 16, list(range(16))[::-1]
    phases = np.exp(1j * np.arange(2**n))
    p = gates.parameter
    circuit = Circuit(
        n,
        [
            *(gates.H(wire) for wire in range(n)),
            gates.Identity(wires),
            gates.PauliRot(p(0), "XYZI" * 4, wires),
            gates.MultiRZ(p(1), wires),
            gates.DiagonalQubitUnitary(phases, wires),
            gates.MultiControlledX(wires, [1, 0, 1] * 5),
        ],
    )
    batch = Batch(rows=1, parameters=np.array([0.3, -0.8]))
    once = BACKEND.state(circuit, batch)
    assert_close(np.linalg.norm(once, axis=1), np.ones(1), "double")
    back = BACKEND.state(circuit + circuit.adjoint(), batch)
    start = np.zeros((1, 2**n), complex)
    start[0, 0] = 1
    assert_close(back, start, "double")
    result = BACKEND.adjoint(circuit, batch, [Observable.projector("1", 0)], ALL)
    assert result.parameters.shape == (1, 1, 2)


# Laws


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_laws(seed, n_qubits, rows, per_row):
    circuit = random_circuit(n_qubits, seed, n_gates=12)
    batch = random_batch(circuit, rows, seed, per_row)
    observables = random_observables(n_qubits, seed)
    weight = total_weight(observables)
    final = BACKEND.state(circuit, batch)
    # The norm is kept, and the inverse circuit leads back.
    assert_close(np.linalg.norm(final, axis=1), np.ones(rows), "double")
    returned = BACKEND.state(circuit.adjoint(), dataclasses.replace(batch, states=final))
    assert_close(returned, batch.states, "double")
    # Values are <psi|O|psi>, squares are variances' second moments, probabilities add up.
    values = BACKEND.expectation(circuit, batch, observables)
    matrices = np.stack([observable.matrix(n_qubits) for observable in observables])
    expected = np.einsum("ri,oij,rj->ro", final.conj(), matrices, final)
    assert_close(values, expected.real, "double", weight)
    squares = BACKEND.expectation(circuit, batch, [o.squared() for o in observables])
    images = np.einsum("oij,rj->roi", matrices, final)
    assert_close(squares, np.linalg.norm(images, axis=2) ** 2, "double", weight**2)
    probabilities = BACKEND.probabilities(circuit, batch, range(n_qubits))
    assert_close(probabilities, np.abs(final) ** 2, "double")
    # A row does not depend on its company.
    gradient = BACKEND.adjoint(circuit, batch, observables, ALL)
    row = seed % rows
    alone = BACKEND.adjoint(circuit, row_of(batch, row), observables, ALL)
    for what in ("values", "parameters", "inputs", "states"):
        together = getattr(gradient, what)[row : row + 1]
        assert_close(getattr(alone, what), together, "double", weight)
    # Values are linear in the observable.
    mixture = 2 * observables[0] - 0.5 * observables[2]
    mixed = BACKEND.expectation(circuit, batch, [mixture])[:, 0]
    assert_close(mixed, 2 * values[:, 0] - 0.5 * values[:, 2], "double", 4 * weight)
