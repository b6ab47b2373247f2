# SPDX-License-Identifier: Apache-2.0
"""The training benchmark against a training step written here in NumPy, and a tiny run."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest

from benchmark import benchmark_qdp_pennylane as script
from benchmark.core import training
from benchmark.core.contenders import TRAINERS
from benchmark.core.training import Served, TrainingCase, reference_check, split_data
from benchmark.tests import statevector

pytest.importorskip("torch")
pytest.importorskip("pennylane")
pytest.importorskip("sklearn")


@pytest.fixture(autouse=True)
def torch_as_before():
    """Give torch back the precision and threads that it had."""
    import torch

    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)


def expectations(case, features, angles):
    """Return <Z_q> of every row, (rows, n), by matrices."""
    states = np.zeros((len(features), 2**case.n_qubits), complex)
    states[:, : features.shape[1]] = features / np.linalg.norm(features, axis=1, keepdims=True)
    unitary = statevector.unitary(case.n_qubits, case.n_layers, angles)
    weights = np.abs(states @ unitary.T) ** 2
    bits = (np.arange(2**case.n_qubits)[:, None] >> np.arange(case.n_qubits)[::-1]) & 1
    return weights @ (1 - 2 * bits)


def loss(case, model, features, labels):
    """Return the mean loss of the model."""
    values = expectations(case, features, model["angles"])
    logits = values @ model["weights"].T + model["bias"]
    if case.n_outputs == 1:
        flat = logits[:, 0]
        return np.mean(np.log(1 + np.exp(flat)) - labels * flat)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return -np.mean(np.log(shares[np.arange(len(labels)), labels]))


def numeric_gradient(case, model, features, labels):
    """Return the loss's gradient by central differences."""
    found = {}
    for name, value in model.items():
        gradient = np.zeros_like(value)
        for place in np.ndindex(value.shape):
            sides = []
            for step in (1e-6, -1e-6):
                moved = {key: array.copy() for key, array in model.items()}
                moved[name][place] += step
                sides.append(loss(case, moved, features, labels))
            gradient[place] = (sides[0] - sides[1]) / 2e-6
        found[name] = gradient
    return found


def small_data(case, rows=40, width=4):
    random = np.random.default_rng(8)
    data = {}
    for split, count in (("train", rows), ("validation", 12), ("test", 12)):
        data[split] = random.normal(size=(count, width))
        data[f"{split}_labels"] = random.integers(0, max(2, case.n_outputs), count)
    return data


@pytest.mark.parametrize("classes", training.TASKS)
def test_the_reference_is_the_formula(classes):
    case = TrainingCase(classes=classes, n_qubits=2, n_layers=1)
    data = small_data(case)
    found = reference_check(case, data)
    model = case.initial()
    rows, labels = data["train"][:8], data["train_labels"][:8]
    np.testing.assert_allclose(
        found["values"], expectations(case, rows, model["angles"]), atol=1e-12
    )
    assert found["loss"] == pytest.approx(loss(case, model, rows, labels), abs=1e-12)
    expected = numeric_gradient(case, model, rows, labels)["angles"]
    np.testing.assert_allclose(found["gradient"], expected, atol=1e-8)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_step_of_training(name, tmp_path):
    """One epoch of one batch is one step of Adam: each number moves by the learning rate."""
    case = TrainingCase(classes="3-vs-5", n_qubits=2, n_layers=1, batch_size=40, learning_rate=0.1)
    data = small_data(case)
    np.savez(tmp_path / "data.npz", **data)
    request = {"case": case.to_json(), "contender": name, "features": tmp_path / "data.npz"}
    served = Served(request)
    assert served.prepare()["event"] == "ready"
    assert training.largest_difference(served.check(), reference_check(case, data)) < 1e-12
    epoch = served.train(1, 60.0)["epochs"][0]
    model = case.initial()
    before = loss(case, model, data["train"], data["train_labels"])
    assert epoch["train_loss"] == pytest.approx(before, abs=1e-12)
    gradient = numeric_gradient(case, model, data["train"], data["train_labels"])
    moved = {
        key: value - 0.1 * gradient[key] / (np.abs(gradient[key]) + 1e-8)
        for key, value in model.items()
    }
    after = loss(case, moved, data["validation"], data["validation_labels"])
    assert epoch["validation_loss"] == pytest.approx(after, abs=1e-5)
    parts = sum(epoch[f"{part}_s"] for part in ("encoding", "forward", "backward", "optimiser"))
    assert 0 < parts <= epoch["seconds"] * 1.001


@pytest.mark.parametrize("encoding", ["angle", "iqp-embedding"])
@pytest.mark.parametrize("name", TRAINERS)
def test_other_encodings_and_ten_classes(name, encoding, tmp_path):
    case = TrainingCase(encoding, "all", n_qubits=3, n_layers=1, batch_size=9)
    data = small_data(case, width=3)
    np.savez(tmp_path / "data.npz", **data)
    request = {"case": case.to_json(), "contender": name, "features": tmp_path / "data.npz"}
    served = Served(request)
    assert served.prepare()["event"] == "ready"
    assert training.largest_difference(served.check(), reference_check(case, data)) < 1e-12
    epochs = served.train(2, 60.0)["epochs"]
    assert epochs[1]["train_loss"] < epochs[0]["train_loss"]


def test_a_training_stops_behind_the_epoch_that_spends_its_time(tmp_path):
    case = TrainingCase(n_qubits=2, n_layers=1)
    np.savez(tmp_path / "data.npz", **small_data(case))
    served = Served({"case": case.to_json(), "contender": "qdp", "features": tmp_path / "data.npz"})
    served.prepare()
    answer = served.train(50, 0.0)
    assert len(answer["epochs"]) == 1
    assert answer["test_accuracy"] is None


def test_what_is_done_of_an_interrupted_case_is_kept(tmp_path, monkeypatch, capsys):
    asked = []
    ask = script.WorkerProcess.ask

    def interrupted(self, command, timeout_s):
        asked.append(command["do"])
        if asked.count("train") == 3:
            raise KeyboardInterrupt
        return ask(self, command, timeout_s)

    monkeypatch.setattr(script.WorkerProcess, "ask", interrupted)
    arguments = "--n-qubits 2 --n-layers 1 --epochs 2 --dataset-samples 300 --contenders qdp"
    assert script.main([*arguments.split(), "--output-dir", str(tmp_path)]) == 130
    assert "interrupted after 1 trainings, in training_benchmark_" in capsys.readouterr().err
    (path,) = tmp_path.glob("*.jsonl")
    assert len(path.read_text().splitlines()) == 2


def test_a_loss_that_is_no_number_fails_the_training():
    epochs = [{"train_loss": 1.0, "validation_loss": float("nan")}]
    with pytest.raises(script.LegStopped, match="its validation_loss is nan in epoch 1"):
        script.require_finite(epochs)


def test_encoding_that_happens_once_is_spread():
    epochs = [{"seconds": 5.0, "encoding_s": 4.0}, {"seconds": 1.0, "encoding_s": 0.0}]
    assert training.epoch_seconds({"epochs": epochs}) == [3.0, 3.0]


def test_splits_are_apart_and_fitted_on_training_rows():
    random = np.random.default_rng(2)
    rows = random.normal(size=(400, 9)) * np.arange(1, 10)
    labels = np.tile(np.arange(10), 40)
    case = TrainingCase(encoding="angle", n_qubits=3)
    data = split_data(case, rows, labels)
    assert [len(data[split]) for split in training.SPLITS] == [48, 16, 16]
    assert set(np.concatenate([data[f"{split}_labels"] for split in training.SPLITS])) == {0, 1}
    # The bounds are those of the training rows; others may lie beyond.
    np.testing.assert_allclose(data["train"].min(0), -np.pi / 2)
    np.testing.assert_allclose(data["train"].max(0), np.pi / 2)
    whole = split_data(TrainingCase(classes="all", n_qubits=4), rows, labels)
    together = np.concatenate([whole[split] for split in training.SPLITS])
    assert len(np.unique(together, axis=0)) == 400
    changed = rows.copy()
    first_test = np.where((rows == whole["test"][0]).all(1))[0][0]
    changed[first_test] *= 1000
    again = split_data(TrainingCase("angle", "all", 3), changed, labels)
    before = split_data(TrainingCase("angle", "all", 3), rows, labels)
    np.testing.assert_array_equal(again["train"], before["train"])
    with pytest.raises(ValueError, match="expected at least 20 rows of the classes 3-vs-5"):
        split_data(case, rows[:30], labels[:30])


def test_a_tiny_run(tmp_path, capsys):
    arguments = shlex.split(
        "--n-qubits 2 --n-layers 1 --epochs 3 --dataset-samples 300 --batch-size 16 --runs 2 "
        "--time-limit 30 --contenders qdp-cached pennylane-qdp --encodings amplitude angle"
    )
    assert script.main([*arguments, "--output-dir", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("training_benchmark_*.jsonl")
    run, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert run["benchmark"] == "training"
    assert len(lines) == 2 * 3 * 2
    for line in lines:
        assert line["status"] == "ok", line["reason"]
        assert len(line["epochs"]) == 3
        assert line["max_difference"] < 1e-9
        assert line["largest_loss_difference"] < 1e-6
        assert 0 <= line["test_accuracy"] <= 1
        assert line["time_to_target_s"] > 0
    first = lines[0]["epochs"]
    assert first[-1]["train_loss"] < first[0]["train_loss"], "it learns"
    assert len(list(tmp_path.glob("*.png"))) == 4
    assert "pennylane-qdp" in capsys.readouterr().out


def fabricated(contender, losses, seconds=1.0):
    epochs = [
        {"seconds": seconds, "train_loss": value, "validation_loss": value} for value in losses
    ]
    return {"contender": contender, "status": "ok", "reason": "", "epochs": epochs}


def test_time_to_target():
    lines = [fabricated("qdp", [0.9, 0.8, 0.7, 0.6, 0.5]), fabricated("slow", [0.9, 0.8], 10.0)]
    script.set_target(lines, None)
    assert lines[0]["target_loss"] == 0.6
    assert lines[0]["time_to_target_s"] == 4
    assert not lines[0]["time_to_target_extrapolated"]
    assert lines[1]["time_to_target_s"] == 40
    assert lines[1]["time_to_target_extrapolated"]
    script.set_target(lines, 0.1)
    assert lines[0]["time_to_target_s"] is None


def test_parting_losses_fail():
    lines = [fabricated(name, [0.9, 0.8]) for name in ("a", "b")] + [fabricated("c", [0.9, 0.81])]
    script.require_same_losses(lines)
    assert [line["status"] for line in lines] == ["ok", "ok", "failed"]
    assert "part from those of most contenders by 0.01" in lines[2]["reason"]
