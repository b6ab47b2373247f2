# SPDX-License-Identifier: Apache-2.0
"""The verbs: values against PennyLane and closed forms, shapes, dtypes, laws, and every refusal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import (
    pennylane_state,
    pennylane_values,
    random_circuit,
    random_numbers,
    random_observables,
    random_states,
)
from tolerance import assert_close

import qdp
from qdp import engine, memory
from qdp.backends.reference import ReferenceBackend
from qdp.circuit import Circuit, Observable
from qdp.encodings import (
    IQP,
    IQPZ,
    Amplitude,
    Angle,
    Basis,
    Encoding,
    GateEncoding,
    IQPEmbedding,
    Phase,
    ZZFeatureMap,
)
from qdp.errors import BackendUnavailable

ENCODINGS = [
    Amplitude(), Amplitude(normalize=False), Angle("X"), Angle("Y"), Angle("Z", scale=-1.5),
    Phase(), IQP(), IQPZ(), IQPEmbedding(n_repeats=2, pattern=[(0, 2), (2, 1)]),
    ZZFeatureMap(entanglement="circular"), Basis(),
]  # fmt: skip


def names(value):
    return repr(value) if isinstance(value, Encoding) else None


def heaviest(observables):
    return max(observable.weight for observable in observables)


def features_for(encoding, rows, n_qubits, rng):
    if isinstance(encoding, Amplitude):
        features = rng.normal(size=(rows, 2**n_qubits - 1))
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        return features if encoding.normalize else features / norms
    if isinstance(encoding, Angle):
        return rng.uniform(-3, 3, size=(rows, n_qubits - 1))
    if isinstance(encoding, GateEncoding):
        return rng.uniform(-3, 3, size=(rows, encoding.n_features(n_qubits)))
    return rng.integers(0, 2, size=(rows, n_qubits))


# Values


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_qubits", [1, 4])
def test_values_and_states_are_pennylanes(backend, precision, seed, n_qubits):
    circuit = random_circuit(n_qubits, seed)
    parameters, inputs = random_numbers(circuit, 2, seed, per_row=True)
    states = random_states(2, n_qubits, np.random.default_rng(seed))
    observables = random_observables(n_qubits, seed)
    options = {"inputs": inputs, "backend": backend, "precision": precision}
    values = qdp.expectation(circuit, parameters, states, observables, **options)
    finals = qdp.state(circuit, parameters, states, **options)
    for row in range(2):
        given = (parameters[row], inputs[row], states[row])
        expected = pennylane_values(circuit, observables, *given).numpy()
        assert_close(values[row], expected, precision, heaviest(observables))
        assert_close(finals[row], pennylane_state(circuit, *given), precision)


def test_closed_forms(backend, precision):
    angles = np.linspace(-4, 4, 9)[:, None]
    circuit = Circuit(1, [qdp.gates.RX(qdp.parameter(0), 0)])
    options = {"backend": backend, "precision": precision}
    both = qdp.expectation(circuit, angles, None, ["Z0", "Y0"], **options)
    assert_close(both, np.hstack([np.cos(angles), -np.sin(angles)]), precision)
    spread = qdp.variance(circuit, angles, None, "Z0", **options)
    assert_close(spread, np.sin(angles[:, 0]) ** 2, precision)
    read = qdp.probabilities(circuit, angles, **options)
    assert_close(read, np.hstack([np.cos(angles / 2), np.sin(angles / 2)]) ** 2, precision)


@pytest.mark.parametrize("seed", range(3))
def test_variance_is_that_of_the_matrix(backend, precision, seed):
    circuit = random_circuit(3, seed)
    parameters, inputs = random_numbers(circuit, 4, seed)
    observables = random_observables(3, seed)
    options = {"inputs": inputs, "backend": backend, "precision": precision}
    found = qdp.variance(circuit, parameters, None, observables, **options)
    finals = qdp.state(circuit, parameters, None, inputs=inputs, backend=backend)
    for column, observable in enumerate(observables):
        matrix = observable.matrix(3)
        means = np.einsum("ri,ij,rj->r", finals.conj(), matrix, finals).real
        squares = np.einsum("ri,ij,rj->r", finals.conj(), matrix @ matrix, finals).real
        bound = 4 * observable.weight**2
        assert_close(found[:, column], squares - means**2, precision, bound)
        alone = qdp.variance(circuit, parameters, None, observable, **options)
        assert_close(alone, found[:, column], precision, bound)
    assert (found >= 0).all()


@pytest.mark.parametrize("wires", [None, [2], [2, 0], (1, 2, 0)])
def test_probabilities_are_squared_amplitudes(backend, precision, wires):
    circuit = random_circuit(3, 1)
    parameters, inputs = random_numbers(circuit, 4, 1)
    options = {"inputs": inputs, "backend": backend}
    finals = qdp.state(circuit, parameters, None, **options).reshape(4, 2, 2, 2)
    read = list(wires or range(3))
    others = tuple(1 + wire for wire in range(3) if wire not in read)
    expected = (np.abs(finals) ** 2).sum(axis=others)
    expected = expected.transpose(0, *(1 + sorted(read).index(wire) for wire in read))
    found = qdp.probabilities(circuit, parameters, wires=wires, precision=precision, **options)
    assert_close(found, expected.reshape(4, -1), precision)


@pytest.mark.parametrize("wires", [None, [2, 0]])
def test_samples_have_the_probabilities(backend, wires):
    circuit = random_circuit(3, 5)
    parameters, inputs = random_numbers(circuit, 2, 5)
    options = {"inputs": inputs, "wires": wires, "backend": backend}
    shots = 20_000
    bits = qdp.sample(circuit, parameters, shots=shots, seed=3, **options)
    n_wires = 3 if wires is None else 2
    assert bits.shape == (2, shots, n_wires)
    assert bits.dtype == np.uint8
    expected = qdp.probabilities(circuit, parameters, **options)
    outcomes = bits @ (2 ** np.arange(n_wires)[::-1])
    for row in range(2):
        found = np.bincount(outcomes[row], minlength=2**n_wires) / shots
        error = np.sqrt(expected[row] * (1 - expected[row]) / shots)
        assert (np.abs(found - expected[row]) <= 5 * error + 1e-12).all()
    again = qdp.sample(circuit, parameters, shots=shots, seed=3, **options)
    np.testing.assert_array_equal(again, bits)
    assert (qdp.sample(circuit, parameters, shots=shots, seed=4, **options) != bits).any()
    # Draws are in no order: halves agree.
    halves = outcomes.reshape(2, 2, -1).mean(axis=2)
    assert np.abs(halves[:, 0] - halves[:, 1]).max() < 5 * 2**n_wires / np.sqrt(shots)


def test_impossible_outcomes_are_never_drawn(backend):
    circuit = Circuit(3, [qdp.gates.PauliX(1), qdp.gates.Hadamard(2)])
    bits = qdp.sample(circuit, [], shots=1000, seed=0, backend=backend)
    assert (bits[..., 0] == 0).all()
    assert (bits[..., 1] == 1).all()


# Encodings fused into the run


@pytest.mark.parametrize("encoding", ENCODINGS, ids=names)
def test_fused_is_encode_then_run(backend, precision, encoding):
    rng = np.random.default_rng(2)
    circuit = random_circuit(4, 3)
    parameters, inputs = random_numbers(circuit, 3, 3)
    features = features_for(encoding, 3, 4, rng)
    observables = random_observables(4, 3)
    options = {"inputs": inputs, "backend": backend, "precision": precision}
    states = qdp.encode(features, encoding, 4)
    fused = qdp.expectation(
        circuit, parameters, features, observables, encoding=encoding, **options
    )
    apart = qdp.expectation(circuit, parameters, states, observables, **options)
    assert_close(fused, apart, precision, heaviest(observables))
    fused = qdp.state(circuit, parameters, features, encoding=encoding, **options)
    assert_close(fused, qdp.state(circuit, parameters, states, **options), precision)


@pytest.mark.parametrize("scale", [1e-320, 1e-160, 1e-30, 1e30, 1e160, 1e308])
def test_fused_rows_of_extreme_norm(backend, precision, scale):
    features = np.array([[0.3, -0.5, 0.1], [scale, 0.0, -scale]])
    circuit = qdp.ansatz.ry_rz_ladder(2, 1)
    options = {"backend": backend, "precision": precision}
    fused = qdp.expectation(
        circuit, np.arange(4.0), features, ["Z0", "Z1"], encoding="amplitude", **options
    )
    states = qdp.encode([[0.3, -0.5, 0.1], [1.0, 0.0, -1.0]], "amplitude")
    apart = qdp.expectation(circuit, np.arange(4.0), states, ["Z0", "Z1"], **options)
    assert_close(fused, apart, precision)


@pytest.mark.parametrize("encoding", ENCODINGS[:-1], ids=names)
def test_gradients_by_raw_features(backend, precision, encoding):
    rng = np.random.default_rng(4)
    circuit = random_circuit(3, 6, n_gates=20)
    parameters, inputs = random_numbers(circuit, 2, 6)
    features = features_for(encoding, 2, 3, rng)
    observables = random_observables(3, 6)
    options = {"inputs": inputs, "encoding": encoding, "backend": backend}
    found = qdp.gradient(
        circuit, parameters, features, observables, wrt=("states", "inputs"), precision=precision,
        **options,
    )  # fmt: skip
    assert found[0].shape == (2, 4, features.shape[1])
    expected = np.zeros(found[0].shape)
    free = Amplitude() if isinstance(encoding, Amplitude) else encoding
    step = 1e-6
    for column in range(features.shape[1]):
        shift = step * np.eye(features.shape[1])[column]
        if isinstance(encoding, Amplitude) and not encoding.normalize:
            # <x|A|x> / <x|x>, times <x|x>: what the circuit is to rows of any norm.
            norms = [np.sum((features + sign * shift) ** 2, axis=1) for sign in (1, -1)]
        else:
            norms = [np.ones(2), np.ones(2)]
        plus, minus = (
            qdp.expectation(
                circuit, parameters, features + sign * shift, observables, inputs=inputs,
                encoding=free, backend=backend,
            ) * norm[:, None]
            for sign, norm in zip((1, -1), norms, strict=True)
        )  # fmt: skip
        expected[:, :, column] = (plus - minus) / (2 * step)
    bound = {"double": 1e-7, "single": 1e-4}[precision] * heaviest(observables)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=bound)
    alone = qdp.gradient(
        circuit, parameters, features, observables, wrt="inputs", precision=precision, **options
    )
    assert alone.shape == (2, 4, circuit.n_inputs)
    assert_close(found[1], alone, precision, heaviest(observables))


def test_angle_features_have_shift_rules(backend):
    circuit = random_circuit(3, 2, n_gates=10)
    parameters, inputs = random_numbers(circuit, 2, 2)
    features = np.random.default_rng(1).normal(size=(2, 3))
    options = {"inputs": inputs, "encoding": "angle", "wrt": ("states", "inputs", "parameters")}
    by_shift = qdp.gradient(
        circuit, parameters, features, "X0 Z1", method="parameter-shift", backend=backend, **options
    )
    by_adjoint = qdp.gradient(circuit, parameters, features, "X0 Z1", backend=backend, **options)
    for one, other in zip(by_shift, by_adjoint, strict=True):
        assert_close(one, other, "double", weight=4)


@pytest.mark.parametrize("is_complex", [False, True])
def test_gradients_by_states(backend, precision, is_complex):
    circuit = random_circuit(3, 7)
    parameters, inputs = random_numbers(circuit, 2, 7)
    states = random_states(2, 3, np.random.default_rng(7))
    if not is_complex:
        states = states.real / np.linalg.norm(states.real, axis=1, keepdims=True)
    observables = random_observables(3, 7)
    found = qdp.gradient(
        circuit, parameters, states, observables, inputs=inputs, wrt="states", backend=backend,
        precision=precision,
    )  # fmt: skip
    for row in range(2):
        run = {"inputs": inputs[row], "backend": backend}
        unitary = np.array([qdp.state(circuit, parameters, basis, **run) for basis in np.eye(8)]).T
        for column, observable in enumerate(observables):
            pulled_back = unitary.conj().T @ observable.matrix(3) @ unitary
            # d<psi|A|psi>: 2 A psi, in torch's convention.
            expected = 2 * pulled_back @ states[row]
            expected = expected if is_complex else expected.real
            assert_close(found[row, column], expected, precision, 2 * observable.weight)


# Laws


LADDER = qdp.ansatz.ry_rz_ladder(3, 1)


@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.booleans())
@pytest.mark.parametrize("verb", ["expectation", "gradient", "state", "probabilities", "variance"])
def test_a_batch_is_a_loop_over_rows(verb, backend, seed, rows, per_row):
    circuit = random_circuit(3, seed % 50, n_gates=15)
    parameters, inputs = random_numbers(circuit, rows, seed, per_row)
    rng = np.random.default_rng(seed)
    states = random_states(rows, 3, rng)
    observable = () if verb in ("state", "probabilities") else ("0.5 X0 Y1 + Z2",)

    def run(part):
        numbers = parameters[part] if per_row else parameters
        return getattr(qdp, verb)(
            circuit, numbers, states[part], *observable, inputs=inputs[part], backend=backend
        )

    batch = run(slice(None))
    assert len(batch) == rows
    order = rng.permutation(rows)
    assert_close(run(order), batch[order], "double", 4)
    for row in range(rows):
        assert_close(run(slice(row, row + 1)), batch[row : row + 1], "double", 4)
    np.testing.assert_array_equal(run(slice(None)), batch)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_circuits_keep_the_norm_and_their_adjoints_undo_them(backend, seed, n_qubits):
    circuit = random_circuit(n_qubits, seed % 100, n_gates=20)
    parameters, inputs = random_numbers(circuit, 2, seed)
    states = random_states(2, n_qubits, np.random.default_rng(seed))
    options = {"inputs": inputs, "backend": backend}
    finals = qdp.state(circuit, parameters, states, **options)
    np.testing.assert_allclose(np.linalg.norm(finals, axis=1), 1, rtol=1e-12)
    assert_close(
        qdp.state(circuit + circuit.adjoint(), parameters, states, **options), states, "double"
    )


@given(st.integers(0, 2**32 - 1))
def test_values_are_linear_in_the_observable(backend, seed):
    circuit = random_circuit(3, seed % 50, n_gates=10)
    parameters, inputs = random_numbers(circuit, 2, seed)
    a, b, *_ = random_observables(3, seed)
    options = {"inputs": inputs, "backend": backend}
    values = qdp.expectation(circuit, parameters, None, [a, b, 2 * a - 0.5 * b], **options)
    expected = 2 * values[:, 0] - 0.5 * values[:, 1]
    assert_close(values[:, 2], expected, "double", 4 * (a.weight + b.weight))


@pytest.mark.parametrize(
    "encoding", [e for e in ENCODINGS if isinstance(e, GateEncoding)], ids=repr
)
@pytest.mark.parametrize("method", ["parameter-shift", "finite-difference"])
def test_features_of_gates_are_shifted_like_inputs(backend, encoding, method):
    rng = np.random.default_rng(6)
    circuit = random_circuit(3, 6, n_gates=8)
    parameters, inputs = random_numbers(circuit, 2, 6)
    features = features_for(encoding, 2, 3, rng)
    options = {"inputs": inputs, "encoding": encoding, "wrt": "states", "backend": backend}
    found = qdp.gradient(circuit, parameters, features, "Z0", method=method, **options)
    expected = qdp.gradient(circuit, parameters, features, "Z0", **options)
    bound = 1e-12 if method == "parameter-shift" else 1e-6
    np.testing.assert_allclose(found, expected, atol=40 * bound)


def test_variances_of_products_of_features_are_refused():
    options = {"method": "spsa", "wrt": "states", "return_variance": True, "backend": "reference"}
    with pytest.raises(ValueError, match=r"without products of features .* got 'iqp-embedding'"):
        qdp.gradient(
            Circuit(2), [], [[0.1, 0.2]], "Z0", encoding="iqp-embedding", seed=1, **options
        )
    options["n_directions"] = 4
    _, spread = qdp.gradient(
        Circuit(2), [], [[0.1, 0.2]], "Z0", encoding="angle", seed=1, **options
    )
    assert (spread >= 0).all()
    assert spread.shape == (1, 2)


@pytest.mark.parametrize("wrt", ["parameters", "inputs", "states"])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("encoding", [None, Amplitude(), Angle("Y")], ids=names)
def test_vjp_contracts_the_gradient(backend, precision, wrt, per_row, encoding):
    rng = np.random.default_rng(8)
    circuit = random_circuit(3, 8)
    parameters, inputs = random_numbers(circuit, 3, 8, per_row)
    observables = random_observables(3, 8)
    states = random_states(3, 3, rng) if encoding is None else features_for(encoding, 3, 3, rng)
    cotangents = rng.normal(size=(3, 4))
    options = {
        "inputs": inputs, "encoding": encoding, "wrt": wrt, "backend": backend,
        "precision": precision,
    }  # fmt: skip
    grads = qdp.gradient(circuit, parameters, states, observables, **options)
    expected = np.einsum("ro,rox->rx", cotangents, grads)
    if wrt == "parameters" and not per_row:
        expected = expected.sum(axis=0)
    found = qdp.vjp(circuit, parameters, states, observables, cotangents, **options)
    assert_close(found, expected, precision, 10 * heaviest(observables))
    one = qdp.vjp(circuit, parameters, states, observables[0], 2.0, **{**options, "wrt": (wrt,)})
    twice = 2 * grads[:, 0]
    twice = twice.sum(axis=0) if wrt == "parameters" and not per_row else twice
    assert_close(one[0], twice, precision, 10 * heaviest(observables))


# Shapes and dtypes


STATE = np.eye(8)[0]
SHAPES = [
    # parameters, states, inputs, observable -> shape of the values
    ((6,), None, None, "Z0", (1,)),
    ((6,), None, None, ["Z0"], (1, 1)),
    ((5, 6), None, None, "Z0", (5,)),
    ((0, 6), None, None, "Z0", (0,)),
    ((6,), (8,), None, "Z0", ()),
    ((6,), (8,), None, ["Z0", "X1"], (2,)),
    ((6,), (1, 8), None, "Z0", (1,)),
    ((6,), (0, 8), None, ["Z0", "X1"], (0, 2)),
    ((4, 6), (4, 8), None, ["Z0", "X1"], (4, 2)),
    ((4, 6), (8,), None, "Z0", (4,)),
    ((6,), None, (2,), "Z0", ()),
    ((6,), None, (7, 2), "Z0", (7,)),
    ((6,), (7, 8), (7, 2), "Z0", (7,)),
    ((6,), (7, 8), (2,), "Z0", (7,)),
    ((6,), (8,), (2,), "Z0", ()),
    ((7, 6), (8,), (2,), ("Z0", "Z1", "Z2"), (7, 3)),
]


@pytest.mark.parametrize(("parameters", "states", "inputs", "observable", "shape"), SHAPES)
def test_shapes(backend, parameters, states, inputs, observable, shape):
    circuit = LADDER
    if inputs is not None:
        circuit = circuit + Circuit(3, [qdp.gates.RX(qdp.feature(1), 0)])
    theta = np.ones(parameters)
    psi = None if states is None else np.broadcast_to(STATE, states)
    options = {"inputs": None if inputs is None else np.ones(inputs), "backend": backend}
    axes = 0 if isinstance(observable, str) else 1
    rows = shape[: len(shape) - axes]
    assert qdp.expectation(circuit, theta, psi, observable, **options).shape == shape
    assert qdp.variance(circuit, theta, psi, observable, **options).shape == shape
    assert qdp.state(circuit, theta, psi, **options).shape == (*rows, 8)
    assert qdp.probabilities(circuit, theta, psi, wires=[2], **options).shape == (*rows, 2)
    drawn = qdp.sample(circuit, theta, psi, shots=5, wires=[0, 1], **options)
    assert drawn.shape == (*rows, 5, 2)
    values, grads = qdp.value_and_grad(circuit, theta, psi, observable, **options)
    assert values.shape == shape
    assert grads.shape == (*shape, 6)
    weights = np.ones(shape)
    assert qdp.vjp(circuit, theta, psi, observable, weights, **options).shape == parameters
    if states is not None:
        found = qdp.vjp(circuit, theta, psi, observable, weights, wrt="states", **options)
        assert found.shape == states
        assert qdp.gradient(circuit, theta, psi, observable, wrt="states", **options).shape == (
            *shape, 8,
        )  # fmt: skip
    if inputs is not None:
        found = qdp.vjp(circuit, theta, psi, observable, weights, wrt="inputs", **options)
        assert found.shape == inputs


def test_an_argument_without_rows_is_shared(backend):
    rng = np.random.default_rng(3)
    circuit = LADDER + Circuit(3, [qdp.gates.RX(qdp.feature(0), 0)])
    theta, psi, x = rng.normal(size=(4, 6)), random_states(1, 3, rng)[0], rng.normal(size=1)
    options = {"wrt": ("parameters", "inputs", "states"), "backend": backend}
    shared = qdp.gradient(circuit, theta, psi, ["X0", "Z1"], inputs=x, **options)
    repeated = qdp.gradient(
        circuit, theta, np.tile(psi, (4, 1)), ["X0", "Z1"], inputs=np.tile(x, (4, 1)), **options
    )
    for one, other in zip(shared, repeated, strict=True):
        assert_close(one, other, "double")
    for encoding, row in [("amplitude", [0.3, 0.4, 0.5]), ("angle", [0.1, 0.2]), ("basis", 5)]:
        one = qdp.expectation(
            circuit, theta, row, "Z1", inputs=x, encoding=encoding, backend=backend
        )
        other = qdp.expectation(
            circuit, theta, qdp.encode(row, encoding, 3), "Z1", inputs=x, backend=backend
        )
        assert_close(one, other, "double")


@pytest.mark.parametrize(
    ("dtype", "encoding", "precision", "single"),
    [
        (np.complex128, None, None, False),
        (np.complex64, None, None, True),
        (np.float64, None, None, False),
        (np.float32, None, None, True),
        (np.complex64, None, "double", False),
        (np.complex128, None, "single", True),
        (np.float32, "amplitude", None, False),
        (np.complex64, "amplitude", None, False),
        (np.float32, "amplitude", "single", True),
        (np.int64, "basis", "single", True),
        (np.float32, "angle", None, False),
        (np.int32, None, None, False),
    ],
)
def test_dtypes(backend, dtype, encoding, precision, single):
    rows = np.eye(3 if encoding in ("basis", "angle") else 8).astype(dtype)
    options = {"encoding": encoding, "precision": precision, "backend": backend}
    real, cplx = (np.float32, np.complex64) if single else (np.float64, np.complex128)
    theta = np.ones(6, np.float32)
    assert qdp.expectation(LADDER, theta, rows, "Z0", **options).dtype == real
    assert qdp.variance(LADDER, theta, rows, "Z0", **options).dtype == real
    assert qdp.gradient(LADDER, theta, rows, "Z0", **options).dtype == real
    assert qdp.probabilities(LADDER, theta, rows, **options).dtype == real
    assert qdp.state(LADDER, theta, rows, **options).dtype == cplx
    assert qdp.sample(LADDER, theta, rows, shots=1, **options).dtype == np.uint8
    if encoding != "basis":
        found = qdp.gradient(LADDER, theta, rows, "Z0", wrt="states", **options)
        assert found.dtype == (cplx if rows.dtype.kind == "c" else real)


def test_inputs_reach_the_backend_untouched():
    class Spy(ReferenceBackend):
        def expectation(self, circuit, batch, observables):
            self.batch = batch
            return super().expectation(circuit, batch, observables)

    spy = Spy()
    parameters, inputs = np.ones((4, 6)), np.ones((4, 1))
    circuit = LADDER + Circuit(3, [qdp.gates.RX(qdp.feature(0), 0)])
    states = np.tile(STATE.astype(complex), (4, 1))
    qdp.expectation(circuit, parameters, states, "Z0", inputs=inputs, backend=spy)
    assert np.shares_memory(spy.batch.parameters, parameters)
    assert np.shares_memory(spy.batch.inputs, inputs)
    assert np.shares_memory(spy.batch.states, states)
    features = np.ones((4, 5), np.float32)
    qdp.expectation(
        circuit, parameters, features, "Z0", inputs=inputs, encoding="amplitude", backend=spy
    )
    assert np.shares_memory(spy.batch.states, features)
    assert spy.batch.normalize
    angles = np.ones((4, 3))
    qdp.expectation(LADDER, np.ones(6), angles, "Z0", encoding="angle", backend=spy)
    assert np.shares_memory(spy.batch.inputs, angles)
    indices = np.arange(4)
    qdp.expectation(LADDER, np.ones(6), indices, "Z0", encoding="basis", backend=spy)
    assert np.shares_memory(spy.batch.indices, indices)


def test_arguments_are_never_written_to(backend):
    rng = np.random.default_rng(0)
    circuit = random_circuit(3, 0)
    arguments = [*random_numbers(circuit, 4, 0), random_states(4, 3, rng)]
    copies = [argument.copy() for argument in arguments]
    for argument in arguments:
        argument.flags.writeable = False
    parameters, inputs, states = arguments
    options = {"inputs": inputs, "backend": backend}
    wrt = ("parameters", "inputs", "states")
    qdp.gradient(circuit, parameters, states, "Z0", wrt=wrt, **options)
    qdp.gradient(circuit, parameters, states, "Z0", method="parameter-shift", **options)
    qdp.state(circuit, parameters, states, **options)
    for argument, copy in zip(arguments, copies, strict=True):
        np.testing.assert_array_equal(argument, copy)


def test_a_circuit_without_parameters_needs_none(backend):
    circuit = Circuit(2, [qdp.gates.Hadamard(0)])
    for parameters in (None, [], np.zeros(0), np.zeros((1, 0))):
        values = qdp.expectation(circuit, parameters, None, ["X0", "Z1"], backend=backend)
        assert_close(values, np.ones((1, 2)), "double")
    assert qdp.gradient(circuit, None, None, "X0", backend=backend).shape == (1, 0)


def test_texts_and_observables_mean_the_same(backend):
    observable = Observable("0.5 Z0 + 1.0 X1 X2")
    values = qdp.expectation(
        LADDER, np.arange(6.0), None, [observable, "0.5 Z0 + 1.0 X1 X2"], backend=backend
    )
    assert values[0, 0] == values[0, 1]


# The kernel


@pytest.mark.parametrize("dtype", [np.float64, np.complex128, np.float32, np.complex64])
def test_the_fidelity_kernel_is_that_of_the_overlaps(dtype):
    rng = np.random.default_rng(1)
    a, b = random_states(5, 4, rng), random_states(7, 4, rng)
    if np.dtype(dtype).kind == "f":
        a, b = (s.real / np.linalg.norm(s.real, axis=1, keepdims=True) for s in (a, b))
    precision = "single" if np.dtype(dtype).itemsize == 4 or dtype == np.complex64 else "double"
    narrow = a.astype(dtype), b.astype(dtype)
    expected = np.abs(a @ b.conj().T) ** 2
    assert_close(qdp.fidelity_kernel(*narrow), expected, precision)
    own = qdp.fidelity_kernel(narrow[0])
    assert_close(own, np.abs(a @ a.conj().T) ** 2, precision)
    np.testing.assert_allclose(np.diag(own), 1, rtol=1e-6)
    assert_close(qdp.fidelity_kernel(a, b.astype(dtype)), expected, "double", weight=1e6)


def test_the_fidelity_kernel_crosses_its_chunks():
    states = random_states(700, 4, np.random.default_rng(2))
    expected = np.abs(states @ states.conj().T) ** 2
    assert_close(qdp.fidelity_kernel(states, states), expected, "double")


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.eye(4), np.eye(2), r"with the same n, got shapes \(4, 4\) and \(2, 2\)"),
        (np.ones(4) / 2, None, r"two arrays of shape \(rows, 2\*\*n\)"),
        (np.eye(4), 2 * np.eye(4), r"states_b: expected rows of norm 1, got norm 2 in row 0"),
        (np.full((1, 2), np.nan), None, r"states_a: expected finite numbers, got nan at row 0"),
    ],
)
def test_kernels_of_other_things_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        qdp.fidelity_kernel(a, b)


# Refusals


CIRCUIT = LADDER + Circuit(3, [qdp.gates.RX(qdp.feature(0), 0)])
GOOD = {
    "parameters": np.zeros(6), "states": np.eye(8), "observable": "Z0", "inputs": np.zeros((8, 1)),
}  # fmt: skip
ROW3 = np.eye(8) + np.diag([0, 0, 0, 1e-3, 0, 0, 0, 0])
NAN = np.eye(8)
NAN = np.where(np.arange(64).reshape(8, 8) == 19, np.nan, NAN)
BAD = [
    ({"parameters": np.zeros(5)}, ValueError, r"parameters: expected P = 6 .* got shape \(5,\)"),
    ({"parameters": np.zeros((8, 7))}, ValueError, r"expected P = 6 .* got shape \(8, 7\)"),
    ({"parameters": None}, ValueError, r"parameters: expected P = 6 .* got shape \(0,\)"),
    ({"parameters": np.zeros((2, 8, 6))}, ValueError, r"expected P = 6 .* got shape \(2, 8, 6\)"),
    ({"parameters": 0.5}, ValueError, r"parameters: expected P = 6 .* got shape \(\)"),
    (
        {"parameters": [0, 0, np.nan, 0, 0, 0]}, ValueError,
        r"parameters: expected finite numbers, got nan at index 2",
    ),
    (
        {"parameters": np.full((8, 6), np.inf)}, ValueError,
        r"parameters: expected finite numbers, got inf at row 0, column 0",
    ),
    ({"parameters": ["a"] * 6}, TypeError, r"parameters: expected numbers, got dtype <U1"),
    ({"parameters": np.zeros(6, object)}, TypeError, r"expected numbers, got dtype object"),
    ({"parameters": np.zeros(6, complex)}, TypeError, r"parameters: expected real numbers"),
    ({"parameters": np.zeros((7, 6))}, ValueError, r"rows: .* got 7 in parameters, 8 in inputs"),
    ({"inputs": None}, ValueError, r"inputs: expected an array of shape \(rows, 1\).* got None"),
    ({"inputs": np.zeros((8, 2))}, ValueError, r"inputs: expected F = 1 .* got shape \(8, 2\)"),
    ({"inputs": np.zeros((9, 1))}, ValueError, r"rows: expected as many .* got 9 in inputs, 8 in"),
    ({"inputs": [[np.inf]] * 8}, ValueError, r"inputs: expected finite .* inf at row 0, column 0"),
    ({"states": np.eye(8)[:, :7]}, ValueError, r"states: .*\(rows, 8\) for 3 qubits, got shape"),
    ({"states": np.eye(16)[:8]}, ValueError, r"states: .* got shape \(8, 16\); .*encoding='ampl"),
    ({"states": np.zeros((2, 2, 8))}, ValueError, r"states: .* got shape \(2, 2, 8\)"),
    ({"states": ROW3}, ValueError, r"expected rows of norm 1, got norm 1.001 in row 3; use encod"),
    ({"states": 0 * np.eye(8)}, ValueError, r"expected rows of norm 1, got norm 0 in row 0"),
    ({"states": NAN}, ValueError, r"states: expected finite numbers, got nan at row 2, column 3"),
    ({"states": np.full((8, 8), "a")}, TypeError, r"states: expected numbers, got dtype <U1"),
    (
        {"states": np.eye(16)[:8], "encoding": "amplitude"}, ValueError,
        r"amplitude encoding: expected at most 8 features for 3 qubits, got 16",
    ),
    (
        {"states": np.eye(8)[::-1] * [[0]] * 8, "encoding": "amplitude"}, ValueError,
        r"amplitude encoding: expected rows with a norm above zero, got zeros only in row 0",
    ),
    (
        {"states": NAN, "encoding": "amplitude"}, ValueError,
        r"amplitude encoding: expected finite numbers, got nan at row 2, column 3",
    ),
    (
        {"states": np.zeros((8, 4)), "encoding": "angle"}, ValueError,
        r"angle encoding: expected at most 3 features for 3 qubits, got 4",
    ),
    (
        {"states": [0, 1, 2, 8, 0, 0, 0, 0], "encoding": "basis"}, ValueError,
        r"basis encoding: expected an index for 3 qubits from 0 to 7, got 8 in row 3",
    ),
    ({"states": None, "encoding": "angle"}, ValueError, r"expected features for .*'angle', got No"),
    ({"encoding": "waves"}, ValueError, r"encoding: expected one of amplitude, angle, basis"),
    ({"observable": "Z3"}, ValueError, r"observable: expected wires from 0 to 2, got wire 3"),
    ({"observable": ["Z0", "X5"]}, ValueError, r"expected wires from 0 to 2, got wire 5"),
    ({"observable": None}, TypeError, r"observable: expected a qdp.Observable, .* got NoneType"),
    ({"observable": []}, TypeError, r"observable: expected a qdp.Observable, .* got none"),
    ({"observable": [3]}, TypeError, r"observable: expected a qdp.Observable or its text, got int"),
    ({"observable": "Q0"}, ValueError, r"Q0"),
    ({"circuit": "RX"}, TypeError, r"circuit: expected a qdp.Circuit, got str"),
    ({"backend": "gpu"}, ValueError, r"backend: expected 'auto', 'cpu', 'cuda', .* got 'gpu'"),
    ({"backend": 3}, TypeError, r"backend: expected a name or a Backend, got int"),
    ({"precision": "half"}, ValueError, r"precision: expected 'double' or 'single', got 'half'"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "error", "message"), BAD)
@pytest.mark.parametrize("verb", ["expectation", "gradient", "vjp"])
def test_bad_arguments_are_refused_before_any_work(verb, bad, error, message):
    class Idle(ReferenceBackend):
        def expectation(self, *arguments):
            raise AssertionError("the backend was called")

        adjoint = expectation

    given = {"circuit": CIRCUIT, **GOOD, "encoding": None, "backend": Idle(), "precision": None}
    given.update(bad)
    positional = [given.pop(name) for name in ("circuit", "parameters", "states", "observable")]
    if verb == "vjp":
        positional.append(np.ones(8))
    with pytest.raises(error, match=message):
        getattr(qdp, verb)(*positional, **given)


BAD_ROWS = [
    (case[0], case[2]) for case in BAD
    if "states" in case[0] and np.shape(case[0]["states"]) == (8, 8) and "row " in case[2]
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS)
@pytest.mark.parametrize("most_work", [0, engine._MOST_WORK_UNCHECKED])
def test_bad_rows_are_found_before_a_long_run_and_in_a_short_one(
    backend, precision, bad, message, most_work, monkeypatch
):
    monkeypatch.setattr(engine, "_MOST_WORK_UNCHECKED", most_work)
    given = {**GOOD, **bad}
    with pytest.raises(ValueError, match=message):
        qdp.gradient(CIRCUIT, **given, backend=backend, precision=precision)


def test_rows_are_read_once_in_a_short_run(monkeypatch):
    cpu = pytest.importorskip("qdp.backends.cpu").CpuBackend()
    features = np.random.default_rng(5).normal(size=(3, 8))
    expected = qdp.expectation(LADDER, np.ones(6), features, "Z0", encoding="amplitude")
    states = features / np.linalg.norm(features, axis=1, keepdims=True)

    def refuse(*arguments):
        raise AssertionError("the rows were looked at beforehand")

    monkeypatch.setattr(engine.arrays, "row_norms", refuse)
    run = {"observable": "Z0", "backend": cpu}
    found = qdp.expectation(LADDER, np.ones(6), features, encoding="amplitude", **run)
    assert_close(found, expected, "double")
    assert_close(qdp.expectation(LADDER, np.ones(6), states, **run), expected, "double")


def test_methods_of_many_evaluations_look_at_rows_first(backend, monkeypatch):
    looked = []
    original = engine.arrays.row_norms

    def look(*arguments):
        looked.append(len(arguments[0]))
        return original(*arguments)

    monkeypatch.setattr(engine.arrays, "row_norms", look)
    for method in ("parameter-shift", "finite-difference", "spsa"):
        qdp.gradient(LADDER, np.ones(6), np.eye(8), "Z0", method=method, backend=backend)
    assert looked == [8, 8, 8]


def test_a_shared_state_is_looked_at_even_without_rows(backend):
    with pytest.raises(ValueError, match=r"expected rows of norm 1, got norm 2 in row 0"):
        qdp.expectation(
            Circuit(2, [qdp.gates.RX(qdp.parameter(0), 0)]), np.zeros((0, 1)), np.ones(4), "Z0",
            backend=backend,
        )  # fmt: skip


def test_few_wires_of_many_rows_fit_into_little_memory(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 400 * 2**20)
    circuit = qdp.ansatz.ry_rz_ladder(14, 1)
    parameters = np.zeros((2000, circuit.n_parameters))  # states would be 500 MiB
    bits = qdp.sample(circuit, parameters, shots=3, wires=[0], backend="cpu")
    assert not bits.any()
    read = qdp.probabilities(circuit, parameters, wires=[0], backend="cpu")
    assert_close(read, np.tile([1.0, 0.0], (2000, 1)), "double")
    with pytest.raises(
        MemoryError, match=r"states of 2000 rows of 14 qubits: .* a need of 500.0 M"
    ):
        qdp.state(circuit, parameters, backend="cpu")


def test_rows_at_the_edge_of_the_tolerance_are_states():
    states = np.eye(8) * (1 + 0.9e-6)
    found = qdp.expectation(LADDER, np.zeros(6), states, "Z0", backend="auto")
    assert_close(found, np.repeat([1, -1], 4) * (1 + 0.9e-6) ** 2, "double")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((), {"wires": [3]}, ValueError, r"wires: expected numbers from 0 to 2, got \[3\]"),
        ((), {"wires": [-1]}, ValueError, r"wires: expected numbers from 0 to 2, got \[-1\]"),
        ((), {"wires": [1, 1]}, ValueError, r"wires: .* none repeated, got \[1, 1\]"),
        ((), {"wires": []}, ValueError, r"wires: expected at least one"),
    ],
)
@pytest.mark.parametrize("verb", ["probabilities", "sample"])
def test_bad_wires_are_refused(verb, arguments, options, error, message):
    shots = {"shots": 3} if verb == "sample" else {}
    with pytest.raises(error, match=message):
        getattr(qdp, verb)(LADDER, np.zeros(6), *arguments, backend="reference", **shots, **options)


def test_other_refusals():
    with pytest.raises(ValueError, match=r"shots: expected at least 1, got 0"):
        qdp.sample(LADDER, np.zeros(6), shots=0, backend="reference")
    with pytest.raises(ValueError, match=r"cotangents: expected shape \(8,\), .* got shape \(7,\)"):
        qdp.vjp(LADDER, np.zeros(6), np.eye(8), "Z0", np.ones(7), backend="reference")
    with pytest.raises(ValueError, match=r"cotangents: expected finite numbers, got nan at index"):
        qdp.vjp(LADDER, np.zeros(6), np.eye(8), "Z0", np.full(8, np.nan), backend="reference")
    with pytest.raises(ValueError, match=r"wrt='states': expected states or features, got None"):
        qdp.gradient(LADDER, np.zeros(6), None, "Z0", wrt="states", backend="reference")
    with pytest.raises(ValueError, match=r"wrt='states': .* got Basis; basis states don't change"):
        qdp.gradient(
            LADDER, np.zeros(6), [1], "Z0", wrt="states", encoding="basis", backend="reference"
        )


def test_states_within_the_tolerance_of_their_precision_pass(backend):
    states = np.eye(8) * (1 + 5e-7)
    qdp.expectation(LADDER, np.zeros(6), states, "Z0", backend=backend)
    rough = (np.eye(8) * (1 + 5e-4)).astype(np.float32)
    qdp.expectation(LADDER, np.zeros(6), rough, "Z0", backend=backend)
    with pytest.raises(ValueError, match=r"expected rows of norm 1, got norm 1.0005 in row 0"):
        qdp.expectation(LADDER, np.zeros(6), rough.astype(float), "Z0", backend=backend)


@pytest.mark.parametrize("verb", ["state", "expectation", "probabilities", "gradient", "sample"])
def test_what_cannot_fit_into_memory_is_refused(backend, verb):
    circuit = Circuit(42, [qdp.gates.RX(qdp.parameter(0), 0)])
    observable = ("Z0",) if verb in ("expectation", "gradient") else ()
    options = {"shots": 1} if verb == "sample" else {}
    with pytest.raises(
        MemoryError,
        match=r"of 3 rows of 42 qubits: expected at most .*iB .*, got a need of .* TiB; remedy: ",
    ):
        getattr(qdp, verb)(circuit, np.zeros((3, 1)), None, *observable, backend=backend, **options)


def test_tables_beyond_memory_are_refused(monkeypatch):
    # Forty diagonal steps on 20 qubits: 16 MiB of phases each.
    layers = [
        gate
        for k in range(40)
        for gate in (qdp.gates.RX(0.1, 0), qdp.gates.RZ(qdp.parameter(k), 0))
    ]
    monkeypatch.setattr(memory, "available_memory", lambda: 600 * 2**20)
    arguments = (Circuit(20, layers), np.zeros(40), None, "X0")
    with pytest.raises(MemoryError, match=r"of 1 row of 20 qubits: .* the tables that all threads"):
        qdp.expectation(*arguments, backend="cpu")
    monkeypatch.setattr(memory, "available_memory", lambda: 1200 * 2**20)
    value = qdp.expectation(*arguments, backend="cpu")
    expected = qdp.expectation(Circuit(1, layers), np.zeros(40), None, "X0", backend="reference")
    assert_close(value, expected, "double")


def test_slopes_beyond_memory_are_refused(backend, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 100 * 2**20)
    with pytest.raises(
        MemoryError, match=r"slopes of 1000 rows along 10000 directions: .* 152.6 M"
    ):
        qdp.gradient(
            LADDER, np.zeros((1000, 6)), None, "Z0", method="spsa", n_directions=10_000,
            backend=backend,
        )  # fmt: skip


def test_results_beyond_memory_are_refused(backend, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 100 * 2**20)
    theta = np.zeros((2**17, 6))
    with pytest.raises(MemoryError, match=r"131072 rows of 3 qubits: .* got a need of 192.0 MiB"):
        qdp.gradient(
            LADDER, np.zeros(6), np.tile(STATE, (2**17, 1)), 24 * ["Z0"], wrt="states",
            precision="single", backend=backend,
        )  # fmt: skip
    with pytest.raises(MemoryError, match=r"the samples of 131072 rows of 3 qubits"):
        qdp.sample(
            LADDER, theta, shots=10**9, precision="single", backend=backend
        )  # fmt: skip
    with pytest.raises(MemoryError, match=r"262144 rows on 5 qubits: .* got a need of 128.0 MiB"):
        qdp.encode(np.ones((2**18, 1)), "amplitude", 5)


def test_a_backend_that_is_missing_says_so(monkeypatch):
    engine._named_backend.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "qdp.backends.cpu", None)
    try:
        for name in ("auto", "cpu"):
            with pytest.raises(BackendUnavailable, match=rf"backend '{name}' needs QDP's compiled"):
                qdp.expectation(LADDER, np.zeros(6), None, "Z0", backend=name)
    finally:
        engine._named_backend.cache_clear()


def test_available_memory_is_a_number_of_bytes(tmp_path, monkeypatch):
    assert memory.available_memory() > 2**20
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("inactive_file 100\nactive_file 50\nother 9\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_memory() == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() > 2**20
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    assert memory.available_memory() > 2**20


def test_bytes_are_written_with_their_unit():
    sizes = {10: "10 B", 2**20: "1.0 MiB", 5 * 2**40: "5.0 TiB", 2**63: "8192.0 PiB"}
    for size, text in sizes.items():
        assert memory.format_bytes(size) == text


def test_a_constant_adds_nothing_to_the_variance(backend, precision):
    circuit = qdp.Circuit(1, [qdp.gates.RX(qdp.parameter(0), 0)])
    options = {"backend": backend, "precision": precision}
    plain = qdp.variance(circuit, [np.pi / 3], None, "Z0", **options)
    offset = qdp.variance(circuit, [np.pi / 3], None, "10000 I + Z0", **options)
    np.testing.assert_array_equal(plain, offset)
    np.testing.assert_allclose(offset, 0.75, rtol=1e-6 if precision == "single" else 1e-12)
    assert qdp.variance(circuit, [np.pi / 3], None, "3 I", **options) == 0


def test_parameters_may_be_called_params(backend):
    circuit = qdp.Circuit(1, [qdp.gates.RX(qdp.parameter(0), 0)])
    short = qdp.gradient(circuit, [0.3], None, "Z0", wrt="params", backend=backend)
    np.testing.assert_allclose(short, [[-np.sin(0.3)]], rtol=1e-12)
