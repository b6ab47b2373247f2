# SPDX-License-Identifier: Apache-2.0
"""The study of batched execution: a tiny run, and a document that says what its record says."""

from __future__ import annotations

import json

import pytest

from benchmark import batched_execution
from benchmark.core import document


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
    assert "**One evaluation on lightning.gpu**: not yet measured." in text
    monkeypatch.setattr(batched_execution.Lightning, "measure", lambda self: 0.123)
    with pytest.raises(RuntimeError, match=r"C\+\+: expected the reference's values"):
        batched_execution.evaluation_parts(batched_execution.Problem(3, 1))


def test_an_evaluation_on_a_gpu(tmp_path, monkeypatch):
    """lightning.qubit stands for lightning.gpu, whose record and tables are its own."""
    qml = pytest.importorskip("pennylane")
    pytest.importorskip("pennylane_lightning")
    asked = []
    real = qml.device

    def device(name, **options):
        asked.append(name)
        return real("lightning.qubit", **options)

    monkeypatch.setattr(qml, "device", device)
    record = ("lightning_gpu", "lightning_qubit", "Lightning")
    monkeypatch.setitem(batched_execution.DEVICES, "lightning.gpu", record)
    libraries = ["libcublas.so.12", "libcublas.so.13"]
    monkeypatch.setattr(batched_execution, "loaded_libraries", lambda: libraries)
    arguments = ["--device", "lightning.gpu", "--n-qubits", "3", "--runs", "2"]
    assert batched_execution.main([*arguments, "--output-dir", str(tmp_path)]) == 0
    assert "lightning.gpu" in asked
    (path,) = tmp_path.glob("lightning_gpu_*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    measured = [line for line in lines if line["record"] == "measurement"]
    assert {line["question"] for line in measured} == {"parts", "preparation"}
    text = document.markdown(batched_execution.gpu_tables(tmp_path))
    assert "**One evaluation on lightning.gpu**" in text
    assert "lightning.gpu is built for CUDA 12, run on CUDA 13's libraries" in text
    for line in measured:
        assert batched_execution.us(line) in text


def test_the_document_says_what_the_record_says():
    hint = "run python -m benchmark.batched_execution --write"
    assert batched_execution.main(["--check"]) == 0, hint
