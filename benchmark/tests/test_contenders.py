# SPDX-License-Identifier: Apache-2.0
"""Every contender gives the gradients of an independent statevector, or it is no contender."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.core.cases import (
    METHODS,
    OBSERVABLES,
    PRECISIONS,
    GradientCase,
    amplitudes,
    observable_diagonal,
    random_terms,
    terms_text,
)
from benchmark.core.contenders import CONTENDERS, GROUPS, resolve
from benchmark.core.contenders.base import (
    RowProcesses,
    Task,
    chunk_bounds,
    chunk_rows,
    even_groups,
)
from benchmark.tests import statevector

ON_CPU = [name for name in CONTENDERS if name not in GROUPS["gpu"]]
NEEDS = {
    "jax": "jax",
    "jax-kron": "jax",
    "tensorcircuit": "tensorcircuit",
    "scaluq": "scaluq",
    "qulacs": "qulacs",
    "deepquantum": "deepquantum",
    "mindquantum": "mindquantum",
    "qiskit-aer": "qiskit_aer",
    "qiskit": "qiskit",
}

pytest.importorskip("pennylane")
pytest.importorskip("torch")


def run(name: str, case: GradientCase, features: NDArray[np.float64]) -> Any:
    """Prepare a contender here, run it over all rows, and close it."""
    if name in NEEDS:
        os.environ.setdefault("OMP_PROC_BIND", "false")  # Kokkos prints a warning otherwise
        pytest.importorskip(NEEDS[name])
    contender = CONTENDERS[name](case, features)
    contender.prepare()
    try:
        return contender.run(len(features))
    finally:
        contender.close()


@pytest.mark.parametrize("observable", OBSERVABLES)
@pytest.mark.parametrize(("n_qubits", "width"), [(3, 8), (4, 11)])
@pytest.mark.parametrize("name", ON_CPU)
def test_gradients(name: str, n_qubits: int, width: int, observable: str) -> None:
    features = statevector.make_features(5, width)
    for method in METHODS:
        if method == "adjoint" and CONTENDERS[name].rule != "case":
            continue  # the same computation again
        case = statevector.make_case(n_qubits, observable=observable, method=method)
        repeat = run(name, case, features)
        assert repeat.result.dtype == np.float64
        assert repeat.result.shape == (5, case.n_parameters)
        np.testing.assert_allclose(
            repeat.result, statevector.gradients(case, features), rtol=0, atol=1e-12
        )
        assert repeat.encoding_ms >= 0
        assert repeat.circuit_ms > 0
        assert repeat.total_ms == repeat.encoding_ms + repeat.circuit_ms


@pytest.mark.parametrize("name", ON_CPU)
def test_single_precision(name: str) -> None:
    case = statevector.make_case(3, precision="single", observable="sum-z")
    reason = CONTENDERS[name].unsupported(case)
    if reason is not None:
        assert "in double precision only" in reason
        return
    features = statevector.make_features(4, 8)
    gradients = run(name, case, features).result
    expected = statevector.gradients(case, features)
    np.testing.assert_allclose(gradients, expected, rtol=0, atol=case.tolerance)
    assert np.max(np.abs(gradients - expected)) > 1e-12, "this was not single precision"


@pytest.mark.parametrize("name", ["qdp", "numpy", "numpy-kron", "lightning-cpp"])
@pytest.mark.parametrize("n_qubits", [1, 2, 6])
def test_other_sizes(name: str, n_qubits: int) -> None:
    case = statevector.make_case(n_qubits, n_layers=3, observable="sum-z")
    features = statevector.make_features(3, 2**n_qubits)
    np.testing.assert_allclose(
        run(name, case, features).result,
        statevector.gradients(case, features),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("name", ["numpy", "numpy-kron"])
def test_threads_and_chunks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features = statevector.make_features(9, 16)
    alone = run(name, statevector.make_case(4), features).result
    monkeypatch.setattr(CONTENDERS[name], "amplitudes_per_chunk", 32)
    together = run(name, statevector.make_case(4, threads=2), features).result
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-14)


def test_fewer_rows_than_prepared_for() -> None:
    case, features = statevector.make_case(3), statevector.make_features(6, 8)
    contender = CONTENDERS["numpy"](case, features)
    contender.prepare()
    expected = statevector.gradients(case, features)
    for rows in (1, 4, 6):
        np.testing.assert_allclose(contender.run(rows).result, expected[:rows], atol=1e-12)
    contender.close()


def doubling_task(case: GradientCase, states: NDArray[Any]) -> Task:
    """Stand in for a simulator: twice the first amplitude, or a failure if that is zero."""

    def task(start: int, stop: int) -> NDArray[np.float64]:
        first = states[start:stop, :1]
        if np.any(first == 0):
            raise RuntimeError("an amplitude is zero")
        return np.repeat(2.0 * first, case.n_parameters, axis=1)

    return task


@pytest.mark.parametrize("threads", [1, 2])
def test_row_processes(threads: int) -> None:
    case = statevector.make_case(2, 1, threads=threads)
    processes = RowProcesses(doubling_task, case, 5, np.float64)
    try:
        processes.states[:] = np.arange(1.0, 6.0)[:, None]
        for rows in (5, 1, 3):
            found = processes.run(rows)
            assert found.shape == (rows, 4)
            np.testing.assert_array_equal(found[:, 0], 2 * np.arange(1.0, rows + 1))
        processes.states[0] = 0
        with pytest.raises(RuntimeError, match="an amplitude is zero"):
            processes.run(5)
    finally:
        processes.close()


def test_names_and_groups() -> None:
    for group, names in GROUPS.items():
        assert set(names) <= set(CONTENDERS), group
    for name, kind in CONTENDERS.items():
        assert kind.name == name
        assert kind.rule in ("case", *METHODS)
        assert set(kind.precisions) <= set(PRECISIONS)
    assert resolve(["numpy"]) == ["qdp", "numpy"]
    assert resolve(["all"]) == [name for name in ON_CPU if name != "qdp-pruned"]
    assert resolve(["gpu"])[1:] == [name for name in CONTENDERS if name not in ON_CPU]
    with pytest.raises(ValueError, match="got 'cirq'"):
        resolve(["cirq"])


def test_amplitudes_pad_and_normalise() -> None:
    found = amplitudes(np.array([[3.0, 4.0, 0.0]]), 2)
    np.testing.assert_allclose(found, [[0.6, 0.8, 0.0, 0.0]], atol=1e-16)


def test_case_round_trip_and_refusals() -> None:
    case = statevector.make_case(3, method="adjoint", observable="sum-z", threads=2)
    assert GradientCase.from_json(case.to_json()) == case
    assert case.n_parameters == 12
    assert case.weight == 3.0
    with pytest.raises(ValueError, match="expected 12 parameters"):
        GradientCase(3, 2, (0.0,) * 11)
    with pytest.raises(ValueError, match="expected method to be one of"):
        statevector.make_case(2, method="guess")
    with pytest.raises(ValueError, match="at least one qubit"):
        GradientCase(0, 1, ())


def test_random_terms_are_seeded_and_fit() -> None:
    terms = random_terms(3, seed=5)
    assert terms == random_terms(3, seed=5)
    assert terms != random_terms(3, seed=6)
    for _, word in terms:
        assert all(0 <= wire < 3 for wire, _ in word)
    assert re.fullmatch(r"(-?[\d.]+( [XYZ]\d)+( [+-] )?)+", terms_text(terms))


def test_diagonals_match_the_matrices() -> None:
    for name in OBSERVABLES:
        case = statevector.make_case(3, observable=name)
        expected = np.diag(statevector.observable(3, case.terms)).real
        np.testing.assert_array_equal(observable_diagonal(name, 3), expected)


def test_grouping_and_chunks() -> None:
    for n_qubits in range(1, 25):
        groups = even_groups(n_qubits)
        assert sum(groups) == n_qubits
        assert max(groups) - min(groups) <= 1
        assert max(groups) <= 5
    assert chunk_bounds(0, 3) == []
    assert chunk_rows(4096, 2**16, 1000, 2) == 16
    assert chunk_rows(16, 2**16, 10, 2) == 5
    assert chunk_rows(2**20, 2**16, 10, 2) == 1
