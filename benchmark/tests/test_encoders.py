# SPDX-License-Identifier: Apache-2.0
"""Every encoder gives the states of formulas written here, or it is no contender."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest

from benchmark.core.cases import ENCODINGS, EncodingCase, GradientCase, case_from_json
from benchmark.core.contenders import BY_KIND, ENCODERS, ON_GPU
from benchmark.core.runner import Settings, run_size
from benchmark.tests import statevector

ON_CPU = [name for name in ENCODERS if name not in ON_GPU]
NEEDS = {"pennylane": "pennylane", "lightning": "pennylane", "torch": "torch"}
NEEDS |= {"qiskit": "qiskit", "qiskit-aer": "qiskit_aer"}


def expected_states(encoding, features, n_qubits):
    """Return the states by their definitions, row by row."""
    states = np.zeros((len(features), 2**n_qubits), complex)
    bits = (np.arange(2**n_qubits)[:, None] >> np.arange(n_qubits)[::-1]) & 1
    for row, values in enumerate(features):
        if encoding == "amplitude":
            states[row, : len(values)] = values / np.sqrt(np.sum(values**2))
        elif encoding == "angle":
            pairs = [np.array([np.cos(x / 2), -1j * np.sin(x / 2)]) for x in values]
            states[row] = reduce(np.kron, pairs)
        else:
            signs = 1 - 2 * bits
            phase = signs @ values
            for first in range(n_qubits):
                for second in range(first + 1, n_qubits):
                    phase = phase + (
                        values[first] * values[second] * signs[:, first] * signs[:, second]
                    )
            states[row] = np.exp(-0.5j * phase) / 2 ** (n_qubits / 2)
    return states


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ON_CPU)
def test_states(name, encoding):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    for precision in ("double", "single"):
        case = EncodingCase(encoding, 4, precision)
        if ENCODERS[name].unsupported(case):
            assert "double precision only" in ENCODERS[name].unsupported(case)
            continue
        for width in (16, 11) if encoding == "amplitude" else (4,):
            features = np.random.default_rng(3).normal(size=(5, width))
            contender = ENCODERS[name](case, features)
            contender.prepare()
            repeat = contender.run(5)
            expected = expected_states(encoding, features, 4)
            assert repeat.result.shape == (5, 16)
            np.testing.assert_allclose(repeat.result, expected, rtol=0, atol=case.tolerance)
            assert repeat.encoding_ms > 0
            assert repeat.circuit_ms == 0
            np.testing.assert_allclose(
                contender.run(2).result, expected[:2], rtol=0, atol=case.tolerance
            )
            if precision == "single":
                assert np.abs(repeat.result - expected).max() > 1e-12, "this was not single"
            contender.close()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_numpy_spreads_many_rows_over_threads(encoding):
    case = EncodingCase(encoding, 10, threads=2)
    width = 700 if encoding == "amplitude" else 10
    features = np.random.default_rng(4).normal(size=(301, width))
    contender = ENCODERS["numpy"](case, features)
    contender.prepare()
    parts = []
    real = contender.encode_part
    contender.encode_part = lambda *bounds: (parts.append(bounds), real(*bounds))
    found = contender.run(301).result
    contender.close()
    assert sorted(parts) == [(0, 151), (151, 301)]
    for rows in (slice(0, 3), slice(149, 153), slice(298, 301)):
        expected = expected_states(encoding, features[rows], 10)
        np.testing.assert_allclose(found[rows], expected, rtol=0, atol=case.tolerance)


def test_legs_of_an_encoding_are_checked_and_timed(monkeypatch):
    case = EncodingCase("angle", 3, threads=1)
    features = np.random.default_rng(3).normal(size=(40, 3))
    legs = run_size(case, features, ["qdp", "numpy"], Settings(1, 2, 20.0))
    for leg in legs:
        assert leg.ok, leg.reason
        assert leg.rule == "none"
        assert leg.rows_measured == 40
        assert leg.result.shape == (8, 8), "only the rows of the check travel"
        np.testing.assert_allclose(
            leg.result, expected_states("angle", features[:8], 3), rtol=0, atol=1e-12
        )
        assert len(leg.metering) == 2
        assert leg.metering[0]["resident_bytes"] > 1e6
    monkeypatch.setattr(EncodingCase, "reference", lambda self, rows: np.zeros((len(rows), 8)))
    (leg,) = run_size(case, features, ["numpy"], Settings(1, 2, 20.0))
    assert leg.status == "failed"
    assert "differ from the reference" in leg.reason


def test_cases_travel_as_json():
    for case in (EncodingCase("angle", 3, "single", threads=2), statevector.make_case(2, 1)):
        assert case_from_json(case.to_json()) == case
        assert case.kind in BY_KIND
    assert isinstance(case_from_json(statevector.make_case(2, 1).to_json()), GradientCase)
    with pytest.raises(ValueError, match="expected encoding to be one of"):
        EncodingCase("fourier", 3)
    with pytest.raises(ValueError, match="at least one qubit"):
        EncodingCase("angle", 0)
