# SPDX-License-Identifier: Apache-2.0
"""The study of batched execution: a tiny run, and a document that says what its record says."""

from __future__ import annotations

import json

import pytest

from benchmark import batched_execution


def test_a_tiny_study_of_batches(tmp_path, monkeypatch):
    pytest.importorskip("pennylane_lightning")
    arguments = ["--n-qubits", "3", "--rows", "1", "4", "--runs", "2"]
    assert batched_execution.main([*arguments, "--output-dir", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("batched_execution_*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    measured = [line for line in lines if line["record"] == "measurement"]
    parts = {line["what"] for line in measured if line["question"] == "parts"}
    assert {"C++: all gates", "C++: setting the state", "QNode call, all of it"} <= parts
    facts = next(line for line in lines if line["record"] == "interfaces")
    assert facts["tapes_of_three_states"] == 3
    ways = {line["what"] for line in measured if line["question"] == "batches"}
    assert {"QDP: one call", "lightning.qubit: qml.transform, a tape a state"} <= ways
    text = batched_execution.tables(path)
    for line in measured:
        assert batched_execution.us(line, line["rows"]) in text
    monkeypatch.setattr(batched_execution.Lightning, "measure", lambda self: 0.123)
    with pytest.raises(RuntimeError, match=r"C\+\+: expected the reference's values"):
        batched_execution.evaluation_parts(batched_execution.Problem(3, 1))


def test_the_document_says_what_the_record_says():
    hint = "run python -m benchmark.batched_execution --write"
    assert batched_execution.main(["--check"]) == 0, hint
