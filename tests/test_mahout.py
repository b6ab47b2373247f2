# SPDX-License-Identifier: Apache-2.0
"""Mahout's face against Mahout's own definitions, written out index by index."""

import itertools

import numpy as np
import pytest
import torch
from tolerance import assert_close

import qdp
from qdp.compat.mahout import QdpEngine, QdpTensor, QuantumDataLoader, QuantumTensor

RNG = np.random.default_rng(11)


def theta(row, n_qubits, index):
    """The phase of a basis state, whose bit k belongs to feature k."""
    bits = [(index >> k) & 1 for k in range(n_qubits)]
    total = sum(x * d for x, d in zip(row[:n_qubits], bits, strict=True))
    pairs = itertools.combinations(range(n_qubits), 2)
    return total + sum(
        x * bits[i] * bits[j] for x, (i, j) in zip(row[n_qubits:], pairs, strict=False)
    )


def expected_state(method, row, n_qubits):
    size = 2**n_qubits
    if method == "amplitude":
        return np.pad(row, (0, size - len(row))) / np.sqrt(sum(x * x for x in row)) + 0j
    if method == "basis":
        return np.array([float(i == row[0]) for i in range(size)]) + 0j
    if method == "angle":
        return np.array(
            [
                np.prod([np.sin(x) if (i >> k) & 1 else np.cos(x) for k, x in enumerate(row)])
                for i in range(size)
            ]
        ) + 0j  # fmt: skip
    phases = np.array([np.exp(1j * theta(row, n_qubits, i)) for i in range(size)])
    if method == "phase":
        return phases / np.sqrt(size)
    signs = [[(-1) ** (x & z).bit_count() for x in range(size)] for z in range(size)]
    return np.array(signs) @ phases / size


CASES = [
    ("amplitude", RNG.normal(size=(3, 6)), 3),
    ("amplitude", RNG.normal(size=(2, 2)), 1),
    ("angle", RNG.uniform(-4, 4, size=(3, 4)), 4),
    ("basis", np.array([[1.0], [6.0], [3.0]]), 3),
    ("phase", RNG.uniform(-4, 4, size=(3, 4)), 4),
    ("iqp-z", RNG.uniform(-4, 4, size=(3, 3)), 3),
    ("iqp", RNG.uniform(-4, 4, size=(3, 10)), 4),
]


@pytest.mark.parametrize(("method", "rows", "n_qubits"), CASES)
@pytest.mark.parametrize("precision", ["single", "double"])
def test_states_are_mahouts(method, rows, n_qubits, precision):
    engine = QdpEngine(precision="float32" if precision == "single" else "f64", backend="CPU ")
    expected = np.array([expected_state(method, row, n_qubits) for row in rows])
    for data in (rows, torch.from_numpy(rows)):
        found = engine.encode(data, n_qubits, method.upper())
        assert_close(found.value, expected, precision)
    single = engine.encode(rows[0].tolist(), n_qubits, method)
    assert_close(single.value, expected[:1], precision)


def test_a_file_gives_what_its_array_gives(tmp_path):
    rows = RNG.normal(size=(70, 4))
    np.save(tmp_path / "rows.npy", rows)
    engine = QdpEngine(backend="cpu")
    found = engine.encode(tmp_path / "rows.npy", 2)
    expected = [expected_state("amplitude", row, 2) for row in rows]
    assert_close(found.value, np.array(expected), "single")
    loader = QuantumDataLoader().qubits(2).batches(9, 32).backend("cpu").dtype("float64")
    batches = list(loader.source_file(str(tmp_path / "rows.npy")))
    assert [len(batch.value) for batch in batches] == [32, 32, 6]
    assert_close(np.concatenate([b.value for b in batches]), np.array(expected), "double")


def test_the_defaults_are_mahouts():
    tensor = QdpEngine(backend="cpu").encode([3.0, 4.0], 2)
    assert_close(tensor.value, np.array([[0.6, 0.8, 0, 0]]) + 0j, "single")
    assert QuantumTensor is QdpTensor
    assert tensor.backend == "cpu"


def test_tensors_share_their_memory():
    tensor = QdpEngine(backend="cpu").encode([3.0, 4.0], 1)
    assert tensor.__dlpack_device__() == (1, 0)
    assert np.from_dlpack(tensor).ctypes.data == tensor.value.ctypes.data
    assert tensor.to_torch().data_ptr() == tensor.value.ctypes.data
    assert torch.from_dlpack(tensor).data_ptr() == tensor.value.ctypes.data


@pytest.mark.parametrize("method", ["amplitude", "angle", "basis", "phase", "iqp", "iqp-z"])
@pytest.mark.parametrize("seed", [None, 5, 2**64 - 1])
def test_synthetic_data_are_mahouts_ramps(method, seed):
    loader = QuantumDataLoader().qubits(3).encoding(method).batches(2, 3).backend("cpu")
    loader.source_synthetic().dtype("float64")
    if seed is not None:
        loader.seed(seed)
    length = {"amplitude": 8, "iqp": 6}.get(method, 3)
    expected = []
    for row in range(6):
        start = row + (seed or 0)
        if method == "basis":
            features = [start % 8]
        else:
            turn = 1 if method == "amplitude" else 2 * np.pi
            features = np.array([(i + start) % length / length * turn for i in range(length)])
        expected.append(expected_state(method, features, 3))
    for _ in range(2):  # a loader begins anew
        found = np.concatenate([batch.value for batch in loader])
        assert_close(found, np.array(expected), "double")


def test_arrays_and_the_torch_dataset():
    rows = RNG.normal(size=(5, 4))
    loader = QuantumDataLoader().qubits(2).batches(3, 2).backend("cpu").source_array(rows)
    batches = list(torch.utils.data.DataLoader(loader.as_torch_dataset(), batch_size=None))
    assert [tuple(batch.shape) for batch in batches] == [(2, 4), (2, 4), (1, 4)]
    assert len(list(loader.batches(2, 2))) == 2
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True) + 0j
    assert_close(torch.cat(batches).numpy(), expected, "single")


def loader():
    return QuantumDataLoader().qubits(2).batches(1).backend("cpu")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: QdpEngine(), qdp.BackendUnavailable, r"'cuda' needs a GPU.*backend='cpu'"),
        (lambda: QdpEngine(backend="tpu"), ValueError, r"expected 'cpu', .* got 'tpu'"),
        (lambda: QdpEngine(1, backend="cpu"), ValueError, r"device_id: expected 0, .* got 1"),
        (lambda: QdpEngine(0, "f16", "cpu"), ValueError, r"precision: .* got 'f16'"),
        (lambda: QdpEngine(backend="cpu").encode([1.0], 0), ValueError, r"expected 1 to 30, got 0"),
        (lambda: QdpEngine(backend="cpu").encode([1.0], 1, "x"), ValueError, r"iqp-z.*got 'x'"),
        (lambda: QdpEngine(backend="cpu").encode([1j], 1), TypeError, r"expected real numbers"),
        (
            lambda: QdpEngine(backend="cpu").encode([0.1], 2, "angle"), ValueError,
            r"exactly 2 features for 2 qubits, got 1",
        ),
        (
            lambda: QdpEngine(backend="cpu").encode([[0, 1]], 2, "basis"), ValueError,
            r"exactly 1 index a row, got 2",
        ),
        (lambda: QdpEngine(backend="cpu").encode("a.txt", 2), ValueError, r"path: .* got 'a.txt'"),
        (lambda: iter(loader()).__next__(), ValueError, r"source: expected one, got none"),
        (
            lambda: loader().source_synthetic().source_array(np.eye(4)), ValueError,
            r"expected one of them, got a second",
        ),
        (
            lambda: next(iter(loader().source_array(np.eye(4)).seed(1))), ValueError,
            r"seed: expected with synthetic data",
        ),
        (
            lambda: next(iter(loader().source_synthetic().null_handling("reject"))), ValueError,
            r"null_handling: expected with a file",
        ),
        (
            lambda: next(iter(QuantumDataLoader().backend("cpu").source_synthetic())), ValueError,
            r"qubits: expected a number",
        ),
        (
            lambda: next(iter(QuantumDataLoader().qubits(1).backend("cpu").source_synthetic())),
            ValueError, r"batches: expected a number",
        ),
        (
            lambda: next(iter(QuantumDataLoader().qubits(1).batches(1).source_synthetic())),
            qdp.BackendUnavailable, r"backend='cpu'",
        ),
        (lambda: loader().seed(-1), ValueError, r"seed: expected 0 to 2\*\*64 - 1, got -1"),
        (lambda: loader().dtype("int8"), ValueError, r"dtype: expected one of .* got 'int8'"),
        (lambda: loader().null_handling("drop"), ValueError, r"null_handling: .* got 'drop'"),
        (lambda: QdpEngine(backend=None), ValueError, r"expected 'cpu', .* got None"),
        (lambda: QdpEngine(backend="cpu").encode([], 1), ValueError, r"at least one row, got"),
        (
            lambda: QdpEngine(backend="cpu").encode(np.empty((0, 2)), 1), ValueError,
            r"at least one row, got shape \(0, 2\)",
        ),
        (lambda: loader().encoding(None), ValueError, r"encoding: expected one of .* got None"),
        (lambda: loader().batches(0), ValueError, r"total: expected at least 1, got 0"),
        (
            lambda: loader().source_file("a.npy", streaming=True), ValueError,
            r"streaming: expected a .parquet file, got 'a.npy'",
        ),
    ],
)  # fmt: skip
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()
