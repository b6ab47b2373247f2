# SPDX-License-Identifier: Apache-2.0
"""Gradients: four methods against each other, PennyLane's autograd, and their own statistics."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import (
    pennylane_values,
    random_circuit,
    random_numbers,
    random_observables,
    random_states,
    sample_operation,
    wires_of,
)
from tolerance import assert_close

import qdp
from qdp import engine, gates, gradients, sampling
from qdp.circuit import Circuit, Observable

BOTH = ("parameters", "inputs")
PARAMETRIC = [name for name, gate in gates.TABLE.items() if gate.parameters]


def problem(seed, n_qubits=4, rows=3, per_row=False, **options):
    """A random circuit over the gate table with numbers, states and observables."""
    circuit = random_circuit(n_qubits, seed, **options)
    parameters, inputs = random_numbers(circuit, rows, seed, per_row)
    states = random_states(rows, n_qubits, np.random.default_rng(seed))
    return circuit, parameters, states, random_observables(n_qubits, seed), inputs


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("per_row", [False, True])
def test_adjoint_is_parameter_shift(backend, precision, seed, per_row):
    circuit, parameters, states, observables, inputs = problem(seed, per_row=per_row)
    options = {"inputs": inputs, "wrt": BOTH, "backend": backend, "precision": precision}
    adjoint = qdp.gradient(circuit, parameters, states, observables, **options)
    shift = qdp.gradient(
        circuit, parameters, states, observables, method="parameter-shift", **options
    )
    # A parameter occurs in several gates, with scales up to 1.5, and their derivatives add up.
    weight = 4 * max(observable.weight for observable in observables)
    for one, other in zip(adjoint, shift, strict=True):
        assert one.shape[:2] == (3, 4)
        assert_close(one, other, precision, weight)


@pytest.mark.parametrize("name", PARAMETRIC)
def test_adjoint_is_parameter_shift_for_each_gate(backend, name):
    n_wires = max(wires_of(name), 1)
    operation = sample_operation(name, 0)
    angles = [gates.parameter(slot) for slot in range(len(operation.angles))]
    free = gates.Operation(
        name, operation.wires, tuple(angles), word=operation.word,
        control_values=operation.control_values,
    )  # fmt: skip
    mix = [gates.Rot(0.3 + wire, 0.7, -0.4 * wire, wire) for wire in range(n_wires)]
    circuit = Circuit(n_wires, [*mix, free, *mix])
    parameters = np.random.default_rng(5).uniform(-3, 3, size=(2, len(angles)))
    observables = random_observables(n_wires, 1)
    adjoint = qdp.gradient(circuit, parameters, None, observables, backend=backend)
    shift = qdp.gradient(
        circuit, parameters, None, observables, backend=backend, method="parameter-shift"
    )
    assert_close(adjoint, shift, "double", max(observable.weight for observable in observables))
    assert np.abs(adjoint).max() > 1e-3 or name == "GlobalPhase"


@pytest.mark.parametrize("seed", range(2))
def test_gradients_are_pennylanes(backend, precision, seed):
    circuit, parameters, states, observables, inputs = problem(seed, n_qubits=3, rows=2)
    by_parameters, by_inputs = qdp.gradient(
        circuit, parameters, states, observables, inputs=inputs, wrt=BOTH, backend=backend,
        precision=precision,
    )  # fmt: skip
    weight = max(observable.weight for observable in observables)
    for row in range(2):
        expected = torch.autograd.functional.jacobian(
            lambda p, x, row=row: pennylane_values(circuit, observables, p, x, states[row]),
            (torch.tensor(parameters), torch.tensor(inputs[row])),
        )
        assert_close(by_parameters[row], expected[0].numpy(), precision, weight)
        assert_close(by_inputs[row], expected[1].numpy(), precision, weight)


@pytest.mark.parametrize("per_row", [False, True])
def test_finite_difference(backend, precision, per_row):
    circuit, parameters, states, observables, inputs = problem(9, per_row=per_row)
    options = {"inputs": inputs, "wrt": BOTH, "backend": backend}
    exact = qdp.gradient(circuit, parameters, states, observables, **options)
    found = qdp.gradient(
        circuit, parameters, states, observables, method="finite-difference", precision=precision,
        **options,
    )  # fmt: skip
    weight = max(observable.weight for observable in observables)
    bound = weight * {"double": 1e-6, "single": 1e-3}[precision]
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == {"double": np.float64, "single": np.float32}[precision]
        np.testing.assert_allclose(one, other, rtol=0, atol=bound)


def test_the_error_of_finite_differences_falls_with_the_square_of_the_step(backend):
    circuit = Circuit(1, [gates.RY(2 * gates.parameter(0), 0)])
    exact = -2 * np.sin(2 * 0.4)
    errors = [
        float(
            qdp.gradient(
                circuit, [0.4], None, "Z0", method="finite-difference", step=step, backend=backend
            )[0, 0]
        )
        - exact
        for step in (2e-2, 1e-2)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=1e-3)


def test_closed_form_with_scale_offset_and_repetition(backend):
    # <Z> after RY(2 a + 0.1) RY(a / 2) is cos(2.5 a + 0.1).
    a = gates.parameter(0)
    circuit = Circuit(1, [gates.RY(2 * a + 0.1, 0), gates.RY(a / 2, 0)])
    angles = np.linspace(-3, 3, 7)[:, None]
    expected = -2.5 * np.sin(2.5 * angles + 0.1)
    for method in ("adjoint", "parameter-shift"):
        found = qdp.gradient(circuit, angles, None, "Z0", method=method, backend=backend)
        assert_close(found, expected, "double", weight=2.5)


@pytest.mark.parametrize("method", ["adjoint", "parameter-shift", "finite-difference", "spsa"])
def test_methods_share_shapes_and_values(backend, precision, method):
    circuit, parameters, states, observables, inputs = problem(2, n_gates=12)
    options = {"inputs": inputs, "backend": backend, "precision": precision}
    values, grads = qdp.value_and_grad(
        circuit, parameters, states, observables, method=method, wrt=BOTH, **options
    )
    weight = max(observable.weight for observable in observables)
    expected = qdp.expectation(circuit, parameters, states, observables, **options)
    assert_close(values, expected, precision, weight)
    assert grads[0].shape == (3, 4, circuit.n_parameters)
    assert grads[1].shape == (3, 4, circuit.n_inputs)
    assert {grad.dtype for grad in grads} == {expected.dtype}


def test_chunks_of_shifts_change_nothing(backend, monkeypatch):
    circuit, parameters, states, observables, inputs = problem(3, n_gates=15)
    options = {"inputs": inputs, "wrt": BOTH, "backend": backend, "method": "parameter-shift"}
    whole = qdp.gradient(circuit, parameters, states, observables, **options)
    monkeypatch.setattr(gradients, "_CHUNK_BYTES", 300)
    monkeypatch.setattr(gradients.memory, "available_memory", lambda: None)
    chunked = qdp.gradient(circuit, parameters, states, observables, **options)
    for one, other in zip(chunked, whole, strict=True):
        assert_close(one, other, "double", max(o.weight for o in observables))


# Shift rules


def trigonometric(frequencies, rng):
    """A random function of these frequencies, and its derivative."""
    frequencies = np.array(frequencies)
    a, b = rng.normal(size=(2, len(frequencies)))

    def value(x):
        return 0.3 + (a * np.cos(frequencies * x) + b * np.sin(frequencies * x)).sum()

    def derivative(x):
        return (frequencies * (b * np.cos(frequencies * x) - a * np.sin(frequencies * x))).sum()

    return value, derivative


def apply_rule(frequencies, value, x):
    coefficients, shifts = gradients.shift_rule(frequencies)
    assert len(shifts) == len(frequencies)
    return sum(c * (value(x + s) - value(x - s)) for c, s in zip(coefficients, shifts, strict=True))


@pytest.mark.parametrize(
    "frequencies",
    [(), (1.0,), (2.5,), (0.5, 1.0), (1.0, 2.0, 3.0), (1.0, 3.0), (0.3, 1.0, 2.7),
     (1.0, 2.0, 4.0, 5.0), tuple(0.5 * k for k in range(1, 9)), (1.0, 1.1)],
)  # fmt: skip
def test_shift_rules_differentiate_their_functions(frequencies):
    rng = np.random.default_rng(11)
    for _ in range(5):
        value, derivative = trigonometric(frequencies, rng)
        x = rng.uniform(-3, 3)
        assert apply_rule(frequencies, value, x) == pytest.approx(derivative(x), abs=1e-11)
        assert apply_rule(frequencies[::-1], value, x) == pytest.approx(derivative(x), abs=1e-11)


@given(st.lists(st.integers(1, 24), min_size=1, max_size=5, unique=True), st.integers(0, 999))
def test_shift_rules_for_any_frequencies(quarters, seed):
    frequencies = tuple(quarter / 4 for quarter in quarters)
    value, derivative = trigonometric(frequencies, np.random.default_rng(seed))
    assert apply_rule(frequencies, value, 0.7) == pytest.approx(derivative(0.7), abs=1e-9)


@pytest.mark.parametrize("frequencies", [(1.0,), (0.5, 1.0), (1.0, 2.0, 3.0)])
def test_equidistant_rules_are_pennylanes(frequencies):
    qml = pytest.importorskip("pennylane")
    coefficients, shifts = gradients.shift_rule(frequencies)
    ours = sorted(
        (sign * s, sign * c) for c, s in zip(coefficients, shifts, strict=True) for sign in (1, -1)
    )
    theirs = qml.gradients.generate_shift_rule(frequencies)
    np.testing.assert_allclose(ours, sorted((s, c) for c, s in theirs), atol=1e-12)


@pytest.mark.parametrize("frequencies", [(1.0, 1.0), (0.0,), (-1.0,), (np.inf,)])
def test_impossible_frequencies_are_refused(frequencies):
    with pytest.raises(ValueError, match=r"frequencies: expected distinct positive numbers"):
        gradients.shift_rule(frequencies)


@pytest.mark.parametrize("name", PARAMETRIC)
def test_frequencies_cover_the_gate(name):
    """Expectation values of a gate have no frequency but those of the table."""
    operation = sample_operation(name, 3)
    generator = np.random.default_rng(4)
    for slot, frequencies in enumerate(gates.TABLE[name].frequencies):
        size = len(operation.matrix_value([angle.offset for angle in operation.angles]))
        hermitian = generator.normal(size=(size, size))
        hermitian = hermitian + hermitian.T
        psi = random_states(1, size.bit_length() - 1, generator)[0] if size > 1 else np.ones(1)

        def value(x, slot=slot, psi=psi, hermitian=hermitian):
            angles = [angle.offset for angle in operation.angles]
            angles[slot] = x
            final = operation.matrix_value(angles) @ psi
            return (final.conj() @ hermitian @ final).real

        step = 1e-5
        expected = (value(0.4 + step) - value(0.4 - step)) / (2 * step)
        assert apply_rule(frequencies, value, 0.4) == pytest.approx(expected, abs=1e-7)


# Shots


SHOT_OBSERVABLES = [
    Observable("0.5 Z0 + 1.5 X1 - 0.7 Y2 + 0.2 I + 0.9 X0 X1"),
    Observable.projector("01", [0, 2]) - 0.5 * Observable.y(1),
    Observable.hermitian(np.array([[1, 0.5 - 1j], [0.5 + 1j, -2]]), [1]),
]


def test_shots_estimate_gradients_without_bias(backend):
    circuit = qdp.ansatz.data_reuploading(3, 1)
    parameters, inputs = random_numbers(circuit, 2, 3)
    options = {"inputs": inputs, "wrt": BOTH, "method": "parameter-shift", "backend": backend}
    exact = qdp.gradient(circuit, parameters, None, SHOT_OBSERVABLES, **options)
    repeats, shots = 30, 50
    drawn = [
        qdp.gradient(
            circuit, parameters, None, SHOT_OBSERVABLES, shots=shots, seed=seed,
            return_variance=True, **options,
        )
        for seed in range(repeats)
    ]  # fmt: skip
    for index, expected in enumerate(exact):
        estimates = np.array([grads[index] for grads, _ in drawn])
        variances = np.array([spreads[index] for _, spreads in drawn])
        assert estimates.shape == (repeats, *expected.shape) == variances.shape
        error = np.abs(estimates.mean(axis=0) - expected)
        standard_error = np.sqrt(variances.mean(axis=0) / repeats)
        assert (error <= 5 * standard_error + 1e-12).all()
        # The estimated variances are those that the estimates show.
        shown, told = estimates.var(axis=0, ddof=1).sum(), variances.mean(axis=0).sum()
        assert shown == pytest.approx(told, rel=0.15)
        assert told > 0


def test_shots_are_repeated_by_their_seed(backend):
    circuit = qdp.ansatz.ry_rz_ladder(2, 1)
    states = random_states(3, 2, np.random.default_rng(0))

    def run(seed, **options):
        return qdp.gradient(
            circuit, np.arange(4.0), states, ["X0", "Z1"], method="parameter-shift", shots=20,
            seed=seed, backend=backend, **options,
        )  # fmt: skip

    first = run(1)
    np.testing.assert_array_equal(run(1), first)
    assert (run(2) != first).any()
    assert (run(None) != run(None)).any()
    assert np.isnan(
        qdp.gradient(
            circuit, np.arange(4.0), states, "X0", method="parameter-shift", shots=1, seed=1,
            return_variance=True, backend=backend,
        )[1]
    ).all()  # fmt: skip


def test_chunks_of_rows_draw_the_same_shots(backend, monkeypatch):
    circuit = qdp.ansatz.ry_rz_ladder(2, 1)
    parameters = np.random.default_rng(1).normal(size=(5, 4))
    options = {"method": "parameter-shift", "shots": 9, "seed": 4, "backend": backend}
    states = random_states(5, 2, np.random.default_rng(0))
    whole = qdp.gradient(circuit, parameters, states, "X0 Z1 + Y1", **options)
    monkeypatch.setattr(sampling, "_CHUNK_BYTES", 64)
    chunked = qdp.gradient(circuit, parameters, states, "X0 Z1 + Y1", **options)
    # Sums may round in another order, but one other draw would be 2/9 off.
    np.testing.assert_allclose(chunked, whole, atol=1e-13)


def test_terms_share_a_setting_where_they_commute_qubit_by_qubit():
    observables = [
        Observable("Z0 + Z1 + Z0 Z1 + X2 + 3 I"),
        Observable.projector("10", [0, 1]),
        Observable("X0 X2"),
        Observable.hermitian(np.diag([1.0, 2.0]), [0]),
    ]
    measured = sampling.measurement(observables)
    assert [setting.wires for setting in measured.settings] == [(0, 1, 2), (0, 2), (0,)]
    assert measured.constants.tolist() == [3, 0, 0, 0]


# SPSA


@pytest.mark.parametrize("shots", [None, 100])
def test_spsa_is_unbiased(backend, shots):
    circuit = qdp.ansatz.data_reuploading(2, 1)
    parameters, inputs = random_numbers(circuit, 2, 8)
    observables = ["Z0 + X1", "0.5 Y0 Z1"]
    options = {"inputs": inputs, "wrt": BOTH, "backend": backend}
    exact = qdp.gradient(circuit, parameters, None, observables, **options)
    found, variances = qdp.gradient(
        circuit, parameters, None, observables, method="spsa", n_directions=400, seed=12,
        shots=shots, return_variance=True, **options,
    )  # fmt: skip
    bias = 1e-5 if shots is None else 0.02  # the step squared, times a third derivative
    for one, expected, variance in zip(found, exact, variances, strict=True):
        assert one.shape == expected.shape == variance.shape
        assert (np.abs(one - expected) <= 5 * np.sqrt(variance) + bias).all()
        assert np.sqrt(variance).max() < 0.5


def test_spsa_is_repeated_by_its_seed(backend):
    circuit = qdp.ansatz.ry_rz_ladder(2, 1)
    options = {"method": "spsa", "backend": backend}
    first, again, other = (
        qdp.gradient(circuit, np.ones(4), None, "X0", seed=seed, n_directions=5, **options)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    # In one direction all components have the same size.
    single = qdp.gradient(circuit, np.ones(4), None, "X0", seed=1, **options)
    np.testing.assert_allclose(np.abs(single), np.abs(single[0, 0]), rtol=1e-9)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "backprop"}, r"method: expected one of adjoint, .*, got 'backprop'"),
        ({"shots": 10}, r"shots: expected a method that uses it, got method='adjoint'"),
        ({"seed": 1}, r"seed: expected a method that uses it, got method='adjoint'"),
        ({"step": 0.1}, r"step: expected a method that uses it, got method='adjoint'"),
        (
            {"method": "parameter-shift", "step": 0.1},
            r"step: expected a method that uses it, got method='parameter-shift'",
        ),
        (
            {"method": "finite-difference", "shots": 5},
            r"shots: expected a method that uses it, got method='finite-difference'",
        ),
        (
            {"method": "parameter-shift", "n_directions": 3},
            r"n_directions: expected a method that uses it, got method='parameter-shift'",
        ),
        ({"method": "finite-difference", "step": 0.0}, r"step: expected a positive number"),
        ({"method": "spsa", "step": np.nan}, r"step: expected a positive number"),
        ({"method": "spsa", "n_directions": 0}, r"n_directions: expected at least 1, got 0"),
        ({"method": "parameter-shift", "shots": 0}, r"shots: expected at least 1, got 0"),
        (
            {"method": "parameter-shift", "wrt": "states"},
            r"wrt='states': expected method='adjoint', got 'parameter-shift'",
        ),
        ({"method": "spsa", "wrt": ("inputs", "states")}, r"expected method='adjoint', got 'spsa'"),
        ({"wrt": "theta"}, r"wrt: expected one of parameters, inputs, states, .* got 'theta'"),
        ({"wrt": ("inputs", "inputs")}, r"wrt: expected one of .* a tuple of different ones"),
        ({"wrt": ()}, r"wrt: expected one of"),
        ({"return_variance": True}, r"return_variance: expected a method that draws at random"),
        (
            {"method": "parameter-shift", "return_variance": True},
            r"return_variance: .* got method='parameter-shift', shots=None",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        qdp.gradient(
            qdp.ansatz.ry_rz_ladder(2, 1), np.zeros(4), np.eye(4), "Z0", backend="reference",
            **options,
        )  # fmt: skip


# Pruning


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("method", ["adjoint", "parameter-shift"])
def test_pruning_changes_no_number(backend, precision, seed, method):
    circuit, parameters, states, observables, inputs = problem(seed, n_qubits=5)
    options = {"inputs": inputs, "backend": backend, "precision": precision}
    wrt = {"wrt": BOTH, "method": method}
    some = observables[:1]
    weight = 4 * max(observable.weight for observable in some)
    found = qdp.value_and_grad(circuit, parameters, states, some, prune=True, **options, **wrt)
    expected = qdp.value_and_grad(circuit, parameters, states, some, **options, **wrt)
    assert_close(found[0], expected[0], precision, weight)
    for one, other in zip(found[1], expected[1], strict=True):
        assert_close(one, other, precision, weight)
    values = qdp.expectation(circuit, parameters, states, some, prune=True, **options)
    assert_close(values, expected[0], precision, weight)
    cotangents = np.arange(1.0, 4.0)[:, None]
    for name in ("parameters", "states"):
        arguments = (circuit, parameters, states, some, cotangents)
        one = qdp.vjp(*arguments, prune=True, wrt=name, **options)
        assert_close(one, qdp.vjp(*arguments, wrt=name, **options), precision, 9 * weight)


@pytest.mark.parametrize("seed", range(4))
def test_pruning_for_few_wires_changes_no_number(backend, seed):
    circuit, parameters, states, _, inputs = problem(seed, n_qubits=5)
    options = {"inputs": inputs, "wrt": BOTH, "backend": backend}
    # Reading few wires leaves much without effect, matrices included.
    for read in (["0.8 Z2"], ["Z2", "X0 Y3"], [Observable.projector([1], [4])]):
        found = qdp.gradient(circuit, parameters, states, read, prune=True, **options)
        expected = qdp.gradient(circuit, parameters, states, read, **options)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, "double", 4)


@pytest.mark.parametrize("method", ["adjoint", "parameter-shift"])
def test_pruned_gradients_are_exact_zeros(backend, method):
    circuit = qdp.ansatz.ry_rz_ladder(4, 2)
    rng = np.random.default_rng(1)
    parameters, states = rng.normal(size=circuit.n_parameters), random_states(2, 4, rng)
    arguments, options = (circuit, parameters, states, "Z0"), {"backend": backend}
    found = qdp.gradient(*arguments, method=method, prune=True, **options)
    assert_close(found, qdp.gradient(*arguments, method=method, **options), "double")
    assert np.count_nonzero(found, axis=1).tolist() == [5, 5]
    cotangent = qdp.vjp(*arguments, 1.0, prune=True, **options)
    assert np.count_nonzero(cotangent) == 5


def test_pruning_skips_evaluations(backend, monkeypatch):
    counts = []
    kind = type(engine._backend(backend))

    def count(name):
        whole = getattr(kind, name)

        def counted(self, circuit, batch, observables, shifts, *terms):
            found = whole(self, circuit, batch, observables, shifts, *terms)
            if found is not None:
                counts.append(len(shifts))
            return found

        monkeypatch.setattr(kind, name, counted)

    count("shifted_expectation")
    count("weighted_shifts")
    circuit = qdp.ansatz.ry_rz_ladder(4, 2)
    for prune in (True, False):
        qdp.gradient(
            circuit, np.ones(16), None, "Z0", method="parameter-shift", prune=prune,
            backend=backend,
        )  # fmt: skip
    assert counts == [1 + 2 * 5, 1 + 2 * 16]


def test_pruned_tensors_are_differentiable(backend):
    circuit = qdp.ansatz.ry_rz_ladder(4, 1)
    angles = torch.linspace(0.1, 0.8, 8, dtype=torch.float64, requires_grad=True)
    qdp.expectation(circuit, angles, None, "Z0", prune=True, backend=backend).sum().backward()
    expected = qdp.gradient(circuit, angles.detach().numpy(), None, "Z0", backend=backend)
    assert_close(angles.grad.numpy(), expected[0], "double")
    assert np.count_nonzero(angles.grad.numpy()) == 1


# Shifted values


@pytest.mark.parametrize("shots", [None, 50])
def test_shifted_values_make_the_gradient(backend, precision, shots):
    circuit, parameters, states, observables, inputs = problem(3)
    options = {"inputs": inputs, "backend": backend, "precision": precision, "shots": shots}
    gradient, shifted = qdp.gradient(
        circuit, parameters, states, observables[:2],
        method="parameter-shift", return_shifted=True, seed=1, **options,
    )  # fmt: skip
    expected = np.zeros_like(gradient)
    for k, (kind, index) in enumerate(shifted.arguments):
        assert kind == "parameter"
        expected[..., index] += shifted.coefficients[k] * (shifted.plus[k] - shifted.minus[k])
        angle = circuit.operations[shifted.operations[k]].angles[shifted.slots[k]]
        assert (angle.kind, angle.index) == (kind, index)
    weight = 8 * max(observable.weight for observable in observables[:2])
    assert_close(gradient, expected, precision, weight)
    again = qdp.gradient(
        circuit, parameters, states, observables[:2], method="parameter-shift", seed=1, **options
    )
    if backend == "cuda" and shots is None:  # where values are added up before they are rounded
        assert_close(again, gradient, precision, weight)
    else:
        assert np.array_equal(gradient, again)


def test_shifted_values_are_expectation_values_at_shifted_angles(backend):
    circuit = qdp.Circuit(1, [gates.RX(2 * qdp.parameter(0) + 0.25, 0)])
    states = np.array([[1.0, 0.0], [0.6, 0.8]])
    _, shifted = qdp.gradient(
        circuit, [0.3], states, "Z0", method="parameter-shift", return_shifted=True, backend=backend
    )
    assert_close(shifted.shifts, np.array([np.pi / 2]), "double")
    assert_close(shifted.coefficients, np.array([1.0]), "double")  # one half, times the scale
    first = np.cos(0.85 + np.pi / 2), np.cos(0.85 - np.pi / 2)
    assert shifted.plus.shape == (1, 2)
    assert_close(np.array([shifted.plus[0, 0], shifted.minus[0, 0]]), np.array(first), "double")
    moved = qdp.expectation(circuit, [0.3 + np.pi / 4], states, "Z0", backend=backend)
    assert_close(shifted.plus[0], moved, "double")


def test_shifted_values_under_an_angle_encoding_name_features(backend):
    circuit = Circuit(2, [gates.RY(gates.parameter(0), 0), gates.RZ(gates.feature(0), 1)])
    features = np.array([[0.3, 0.4], [0.5, -0.6]])
    gradient, shifted = qdp.gradient(
        circuit, [0.7], features, ["Z0", "X1"], inputs=np.ones((2, 1)), encoding="angle",
        wrt=("states", "parameters"), method="parameter-shift", return_shifted=True,
        backend=backend,
    )  # fmt: skip
    assert shifted.arguments == (("state", 0), ("state", 1), ("parameter", 0))
    assert shifted.operations.tolist() == [-1, -1, 0]
    terms = shifted.coefficients[:, None, None] * (shifted.plus - shifted.minus)
    assert_close(np.moveaxis(terms[:2], 0, 2), gradient[0], "double")
    assert_close(terms[2:].swapaxes(0, 1).swapaxes(1, 2), gradient[1], "double")
    assert shifted.plus_variances is None


def test_variances_of_shifted_values_make_the_variance_of_the_gradient(backend):
    circuit = Circuit(1, [gates.RX(2 * gates.parameter(0), 0), gates.RY(gates.parameter(0), 0)])
    angles = torch.tensor([0.3], dtype=torch.float64)
    _, variance, shifted = qdp.gradient(
        circuit, angles, None, "Z0", method="parameter-shift", shots=50, seed=4,
        return_variance=True, return_shifted=True, backend=backend,
    )  # fmt: skip
    assert isinstance(shifted.minus_variances, torch.Tensor)
    spread = (shifted.plus_variances + shifted.minus_variances).numpy()
    total = shifted.coefficients**2 @ spread
    assert total[0] > 0
    assert_close(variance.numpy(), total[:, None], "double")


def test_shifted_values_that_do_not_fit_are_refused(backend, monkeypatch):
    monkeypatch.setattr(gradients.memory, "require_memory", refuse_shifted)
    with pytest.raises(MemoryError, match=r"the 8 shifted values of 400 rows: 28800 bytes"):
        qdp.gradient(
            qdp.ansatz.ry_rz_ladder(2, 1), np.ones(4), np.tile(np.eye(4), (100, 1)), "Z0",
            method="parameter-shift", return_shifted=True, backend=backend,
        )  # fmt: skip


def refuse_shifted(n_bytes, what, remedy):
    if "shifted values" in what:
        raise MemoryError(f"{what}: {n_bytes} bytes; {remedy}")


def test_shifted_values_come_from_parameter_shift_only():
    circuit = qdp.Circuit(1, [gates.RX(qdp.parameter(0), 0)])
    with pytest.raises(ValueError, match="return_shifted: expected method='parameter-shift', got"):
        qdp.gradient(circuit, [0.3], None, "Z0", return_shifted=True)
