# SPDX-License-Identifier: Apache-2.0
"""torch's autograd over the verbs: gradcheck, training, and a refusal of what has no derivative."""

import numpy as np
import pytest
import torch
from samples import random_circuit, random_numbers, random_observables, random_states

import qdp
from qdp.backends.base import DeviceBackend
from qdp.circuit import Circuit
from qdp.encodings import Amplitude, Angle, IQPEmbedding

N_QUBITS, ROWS = 2, 3


def tensor(array):
    return torch.tensor(np.asarray(array), requires_grad=True)


def problem(seed=0, per_row=False):
    circuit = random_circuit(N_QUBITS, seed, n_gates=12)
    parameters, inputs = random_numbers(circuit, ROWS, seed, per_row)
    return circuit, tensor(parameters), tensor(inputs), random_observables(N_QUBITS, seed)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("verb", ["expectation", "variance"])
def test_gradcheck_by_parameters_and_inputs(backend, verb, per_row):
    circuit, parameters, inputs, observables = problem(per_row=per_row)

    def run(parameters, inputs):
        return getattr(qdp, verb)(
            circuit, parameters, None, observables, inputs=inputs, backend=backend
        )

    assert run(parameters, inputs).shape == (ROWS, len(observables))
    assert torch.autograd.gradcheck(run, (parameters, inputs))


@pytest.mark.parametrize("is_complex", [False, True])
def test_gradcheck_by_states(backend, is_complex):
    circuit, parameters, inputs, observables = problem()
    states = random_states(ROWS, N_QUBITS, np.random.default_rng(1))
    if not is_complex:
        states = states.real / np.linalg.norm(states.real, axis=1, keepdims=True)

    def run(states, parameters):
        return qdp.expectation(
            circuit, parameters, states, observables[0], inputs=inputs, backend=backend
        )

    # A smaller step keeps the perturbed states within the tolerance of their norm.
    assert torch.autograd.gradcheck(run, (tensor(states), parameters), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize(
    ("encoding", "is_complex"),
    [
        (Amplitude(), False),
        (Amplitude(), True),
        (Angle("Z"), False),
        (Angle("X"), False),
        (IQPEmbedding(), False),
    ],
    ids=str,
)
def test_gradcheck_by_raw_features(backend, encoding, is_complex):
    circuit, parameters, inputs, observables = problem()
    rng = np.random.default_rng(1)
    columns = 3 if isinstance(encoding, Amplitude) else 2
    features = rng.normal(size=(ROWS, columns))
    if is_complex:
        features = features + 1j * rng.normal(size=features.shape)

    def run(features, parameters, inputs):
        return qdp.expectation(
            circuit, parameters, features, observables, inputs=inputs, encoding=encoding,
            backend=backend,
        )  # fmt: skip

    assert torch.autograd.gradcheck(run, (tensor(features), parameters, inputs))


@pytest.mark.parametrize("wires", [None, [1], [1, 0]])
def test_gradcheck_of_probabilities(backend, wires):
    circuit, parameters, inputs, _ = problem()

    def run(parameters, inputs):
        return qdp.probabilities(circuit, parameters, inputs=inputs, wires=wires, backend=backend)

    assert torch.autograd.gradcheck(run, (parameters, inputs))
    plain = run(parameters.detach(), inputs.detach())
    torch.testing.assert_close(run(parameters, inputs).detach(), plain)


def test_gradcheck_without_rows(backend):
    circuit, parameters, inputs, observables = problem()

    def run(parameters, inputs):
        return qdp.expectation(
            circuit, parameters, None, observables[0], inputs=inputs, backend=backend
        )

    assert run(parameters, inputs[0]).shape == ()
    assert torch.autograd.gradcheck(run, (parameters, inputs[0]))


@pytest.mark.parametrize(
    ("backend", "error"), [("nonsense", "backend: expected"), ("device", "move them to the GPU")]
)
def test_the_fidelity_kernel_looks_at_its_backend(backend, error):
    class Elsewhere(DeviceBackend):
        name = "elsewhere"

    Elsewhere.__abstractmethods__ = frozenset()
    chosen = Elsewhere() if backend == "device" else backend
    with pytest.raises(ValueError, match=error):
        qdp.fidelity_kernel(torch.eye(2, dtype=torch.float64, requires_grad=True), backend=chosen)


def test_the_fidelity_kernel_is_differentiable():
    states = random_states(3, 1, np.random.default_rng(1))
    others = random_states(2, 1, np.random.default_rng(2))
    check = {"eps": 1e-7, "atol": 1e-5}
    assert torch.autograd.gradcheck(qdp.fidelity_kernel, (tensor(states),), **check)
    assert torch.autograd.gradcheck(qdp.fidelity_kernel, (tensor(states), tensor(others)), **check)
    assert torch.autograd.gradcheck(
        lambda right: qdp.fidelity_kernel(states, right), (tensor(others),), **check
    )
    torch.testing.assert_close(
        qdp.fidelity_kernel(tensor(states)).detach(), qdp.fidelity_kernel(torch.tensor(states))
    )


def test_gradients_arrive_as_pennylanes(backend):
    import pennylane as qml

    circuit = qdp.ansatz.strongly_entangling(3, 2)
    weights = torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True)
    features = torch.rand(4, 8, dtype=torch.float64, requires_grad=True)

    @qml.qnode(qml.device("default.qubit", wires=3), interface="torch")
    def theirs(row):
        qml.AmplitudeEmbedding(row, wires=range(3), normalize=True)
        qml.StronglyEntanglingLayers(weights, wires=range(3))
        return qml.expval(qml.PauliZ(0) @ qml.PauliX(2))

    ours = qdp.expectation(
        circuit, weights.reshape(-1), features, "Z0 X2", encoding="amplitude", backend=backend
    )
    loss = (ours**2).sum()
    found = torch.autograd.grad(loss, (weights, features))
    expected = torch.autograd.grad(
        (torch.stack([theirs(row) for row in features]) ** 2).sum(), (weights, features)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_have_the_dtype_of_their_tensor(backend, dtype, precision):
    circuit = qdp.ansatz.ry_rz_ladder(2, 1)
    parameters = torch.ones(4, dtype=dtype, requires_grad=True)
    values = qdp.expectation(
        circuit, parameters, torch.eye(4), "Z0 + X1", precision=precision, backend=backend
    )
    assert values.dtype == (torch.float64 if precision == "double" else torch.float32)
    values.sum().backward()
    assert parameters.grad.dtype == dtype
    expected = qdp.gradient(circuit, np.ones(4), np.eye(4), "Z0 + X1", backend=backend).sum(0)
    np.testing.assert_allclose(parameters.grad.numpy(), expected, atol=1e-5)


def test_training_reaches_the_ground_state(backend):
    circuit = qdp.ansatz.ry_rz_ladder(2, 2)
    torch.manual_seed(3)
    parameters = torch.randn(8, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([parameters], lr=0.2)
    for _ in range(150):
        optimiser.zero_grad()
        energy = qdp.expectation(circuit, parameters, None, "Z0 Z1 + 0.5 X0", backend=backend)
        energy.sum().backward()
        optimiser.step()
    ground = np.linalg.eigvalsh(qdp.Observable("Z0 Z1 + 0.5 X0").matrix(2))[0]
    assert energy.item() == pytest.approx(ground, abs=1e-3)


def test_what_needs_no_gradient_stays_plain(backend):
    circuit, parameters, inputs, observables = problem()
    options = {"inputs": inputs, "backend": backend}
    with torch.no_grad():
        values = qdp.expectation(circuit, parameters, None, observables, **options)
        final = qdp.state(circuit, parameters, **options)
    assert not values.requires_grad
    assert not final.requires_grad
    # The explicit verbs give constants, also of tensors that require gradients.
    pair = qdp.value_and_grad(circuit, parameters, None, observables, **options)
    assert not any(result.requires_grad for result in pair)
    assert all(isinstance(result, torch.Tensor) for result in pair)


def test_only_what_requires_a_gradient_gets_one(backend):
    circuit, parameters, inputs, observables = problem()
    fixed = inputs.detach()
    values = qdp.expectation(circuit, parameters, None, observables, inputs=fixed, backend=backend)
    values.sum().backward()
    assert fixed.grad is None
    assert parameters.grad.shape == parameters.shape
    mixed = qdp.expectation(
        circuit, parameters, None, observables, inputs=fixed.numpy(), backend=backend
    )
    torch.testing.assert_close(mixed, values)


def test_a_second_derivative_is_refused(backend):
    circuit, parameters, inputs, observables = problem()
    values = qdp.expectation(circuit, parameters, None, observables, inputs=inputs, backend=backend)
    (first,) = torch.autograd.grad(values.sum(), parameters, create_graph=True)
    assert first.requires_grad
    expected = qdp.vjp(circuit, parameters, None, observables, 1.0, inputs=inputs, backend=backend)
    torch.testing.assert_close(first.detach(), expected)
    for penalised in (first.sum(), values.sum() + first.square().sum()):
        with pytest.raises(RuntimeError, match=r"expected one derivative .* got a second; detach"):
            penalised.backward(retain_graph=True)


def test_changing_a_saved_tensor_in_place_is_noticed(backend):
    circuit, parameters, inputs, observables = problem()
    values = qdp.expectation(circuit, parameters, None, observables, inputs=inputs, backend=backend)
    with torch.no_grad():
        parameters += 1
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation"):
        values.sum().backward()


@pytest.mark.parametrize("verb", ["state", "sample", "encode"])
def test_verbs_without_a_derivative_say_so(verb):
    message = rf"{verb}: expected tensors that don't require gradients, .* tensor\.detach\(\)"
    ones = torch.ones(1, 1, requires_grad=True)
    circuit = Circuit(1, [qdp.gates.RX(qdp.parameter(0), 0)])
    calls = {
        "state": lambda: qdp.state(circuit, ones, backend="reference"),
        "sample": lambda: qdp.sample(circuit, ones, shots=3, backend="reference"),
        "encode": lambda: qdp.encode(ones, "amplitude"),
    }
    with pytest.raises(ValueError, match=message):
        calls[verb]()


def test_basis_features_and_many_wires_have_no_derivative():
    circuit = Circuit(11, [qdp.gates.RX(qdp.parameter(0), 0)])
    with pytest.raises(ValueError, match=r"at most 10 wires where a tensor requires gradients"):
        qdp.probabilities(circuit, torch.ones(1, requires_grad=True), backend="reference")
    indices = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"basis encoding has no derivative.*tensor\.detach\(\)"):
        qdp.expectation(circuit, [0.3], indices, "Z0", encoding="basis", backend="reference")


def test_outputs_are_written_into_torch_tensors():
    out = torch.empty(2, 4, dtype=torch.complex128)
    assert qdp.encode(torch.ones(2, 4), "amplitude", out=out) is out
    torch.testing.assert_close(out, torch.full((2, 4), 0.5, dtype=torch.complex128))
