# SPDX-License-Identifier: Apache-2.0
"""The training benchmark against a training step written here in NumPy, and tiny runs."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest

from benchmark import benchmark_qdp_pennylane as script
from benchmark.core import comparison, environment, training, training_records
from benchmark.core.contenders import TRAINERS
from benchmark.core.document import Book, Chart, draw_lines, markdown
from benchmark.core.published.library import Library
from benchmark.core.published.training import training as published_training
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
    assert max(training.differences(served.check(), reference_check(case, data)).values()) < 1e-12
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
    assert max(training.differences(served.check(), reference_check(case, data)).values()) < 1e-12
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


def test_test_rows_decide_nothing(tmp_path):
    """Other test rows, and labels, change the test accuracy and no other number."""
    case = TrainingCase(n_qubits=2, n_layers=1)
    data = small_data(case)
    other = {**data, "test": 3 * data["test"], "test_labels": 1 - data["test_labels"]}
    answers = []
    for number, rows in enumerate((data, other)):
        path = tmp_path / f"{number}.npz"
        np.savez(path, **rows)
        served = Served({"case": case.to_json(), "contender": "qdp", "features": path})
        served.prepare()
        answers.append(served.train(3, 60.0))
    kept = ("train_loss", "validation_loss", "validation_accuracy")
    first, second = (
        [[epoch[name] for name in kept] for epoch in answer["epochs"]] for answer in answers
    )
    assert first == second
    accuracies = [answer["test_accuracy"] for answer in answers]
    assert accuracies[0] + accuracies[1] == pytest.approx(1), "the labels were turned round"


def test_another_order_of_the_qubits_is_found():
    """A contender that loads states with its first qubit last has failed before it is timed."""
    case = TrainingCase(n_qubits=3, n_layers=1)
    data = small_data(case, width=8)
    expected = reference_check(case, data)
    turned = expected["states"].reshape(-1, 2, 2, 2).transpose(0, 3, 2, 1).reshape(-1, 8)
    found = {**expected, "states": [turned.real.tolist(), turned.imag.tolist()]}
    worst = training.differences(found, expected)
    assert worst["states"] == np.abs(turned - expected["states"]).max() > 0.1
    assert worst["values"] == worst["loss"] == worst["gradient"] == 0
    assert training.check_problem(worst).startswith("its states of the first rows differ")
    assert training.check_problem(dict.fromkeys(worst, 1e-10)) is None
    found = {**found, "loss": float("nan"), "values": expected["values"][:1]}
    worst = training.differences(found, expected)
    assert worst["loss"] == worst["values"] == float("inf")
    assert training.check_problem(worst).startswith("its states, values, loss of the first rows")


# Runs, whole and interrupted

TINY = shlex.split(
    "--n-qubits 2 --n-layers 1 --epochs 3 --dataset-samples 300 --batch-size 16 --runs 2 "
    "--time-limit 30 --contenders qdp-cached --seeds 5 6"
)
# Kills its own process, as nothing can be cleaned up after, before the training of that number.
KILLED = """
import os, signal, sys
from benchmark import benchmark_qdp_pennylane as script
ask, asked = script.WorkerProcess.ask, []
def killed(self, command, timeout_s):
    asked.append(command["do"])
    if asked.count("train") == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return ask(self, command, timeout_s)
script.WorkerProcess.ask = killed
script.main(sys.argv[2:])
"""
# What depends on the clock or the machine's memory.
MEASURED = ("seconds", "cpu_s", "encoding_s", "forward_s", "backward_s", "optimiser_s")


def records_of(folder):
    """Return the only file of records in a folder, its trainings by name, and its summaries."""
    (path,) = folder.glob("training_benchmark_*.jsonl")
    _, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    trainings = {
        (one["contender"], one["seed"], one["run"]): one
        for one in lines
        if one["kind"] == "training"
    }
    return path, trainings, [one for one in lines if one["kind"] == "summary"]


def learnt(one):
    """Return all of a training that does not depend on the clock."""
    epochs = [{key: epoch[key] for key in epoch if key not in MEASURED} for epoch in one["epochs"]]
    kept = ("status", "reason", "complete", "test_accuracy", "target_loss", "case", "differences")
    return epochs, {key: one[key] for key in kept}


def test_a_killed_run_goes_on(tmp_path_factory, tmp_path):
    """Killed in the middle of the second of two seeds; the rest is as if nothing had happened."""
    whole = tmp_path_factory.mktemp("whole")
    assert script.main([*TINY, "--output-dir", str(whole)]) == 0
    arguments = [*TINY, "--output-dir", str(tmp_path)]
    paths = [str(environment.REPOSITORY), *sys.path]
    status = subprocess.run(
        # Each seed warms up twice and trains four times.
        [sys.executable, "-c", KILLED, "11", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(tmp_path)},
        capture_output=True,
        check=False,
    ).returncode
    assert status == -signal.SIGKILL
    path, before, _ = records_of(tmp_path)
    assert len(before) == 4 + 2
    assert script.main([*arguments, "--resume", str(path)]) == 0
    again, after, summaries = records_of(tmp_path)
    assert again == path
    for name, one in before.items():
        assert after[name]["epochs"] == one["epochs"], "it was not trained again"
    _, expected, spread = records_of(whole)
    assert after.keys() == expected.keys()
    assert len(expected) == 2 * 2 * 2
    for name, one in after.items():
        assert learnt(one) == learnt(expected[name])
    for found, other in zip(summaries, spread, strict=True):
        for key in ("contender", "seeds", "trainings", "target_loss", "test_accuracy"):
            assert found[key] == other[key]
        for key in ("train_loss", "validation_loss", "validation_accuracy"):
            assert found["curve"][key] == other["curve"][key]
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_ctrl_c_leaves_whole_records(tmp_path, monkeypatch, capsys):
    asked = []
    ask = script.WorkerProcess.ask

    def interrupted(self, command, timeout_s):
        asked.append(command["do"])
        if asked.count("train") == 3:
            raise KeyboardInterrupt
        return ask(self, command, timeout_s)

    monkeypatch.setattr(script.WorkerProcess, "ask", interrupted)
    arguments = shlex.split(
        "--n-qubits 2 --n-layers 1 --epochs 2 --dataset-samples 300 --contenders qdp --runs 2"
    )
    arguments += ["--output-dir", str(tmp_path)]
    assert script.main(arguments) == 130
    assert "interrupted after 1 training; go on with" in capsys.readouterr().err
    path, trainings, summaries = records_of(tmp_path)
    assert list(trainings) == [("qdp", 42, 0)]
    assert [one["trainings"] for one in summaries] == [1]
    other = [*arguments, "--epochs", "3", "--resume", str(path)]
    assert script.main(other) == 2
    assert "expected a run with the same --epochs, got 2 there and 3 now" in capsys.readouterr().err
    monkeypatch.setattr(script.WorkerProcess, "ask", ask)
    assert script.main([*arguments, "--no-save"]) == 0
    assert len(list(tmp_path.iterdir())) == 1
    path.write_text(path.read_text().replace('"kind": "summary"', '"kind": "leg"'))
    assert script.main([*arguments, "--resume", str(path)]) == 2
    assert "line 3: not a benchmark record: unknown kind 'leg'" in capsys.readouterr().err


def test_a_trainer_that_hangs_in_set_up_is_waited_for_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "pennylane.py").write_text("import time\ntime.sleep(600)\n")
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    monkeypatch.setattr(script, "LEAST_SETUP_S", 0.2)
    started = []
    process = script.WorkerProcess

    def recorded(name, *others):
        started.append(name)
        worker = process(name, *others)
        if name == "qdp":
            ask = worker.ask
            worker.answer = lambda timeout_s, answer=worker.answer: answer(60)
            worker.ask = lambda command, timeout_s: ask(command, 60)
        return worker

    monkeypatch.setattr(script, "WorkerProcess", recorded)
    arguments = [*TINY, "--output-dir", str(tmp_path), "--runs", "1"]
    arguments += ["--contenders", "pennylane-default"]
    assert script.main(arguments) == 0
    assert started == ["qdp", "pennylane-default", "qdp"]
    path, trainings, _ = records_of(tmp_path)
    waited = "no answer within 0 s"
    reasons = [trainings["pennylane-default", seed, 0]["reason"] for seed in (5, 6)]
    assert reasons == [waited, f"not started: it timed out with seed 5: {waited}"]
    assert f"timed out: {waited}; timed out: not started" in capsys.readouterr().out
    # A file that is whole starts nothing, and says the same.
    assert (
        script.main([*arguments, "--contenders", "pennylane-default", "--resume", str(path)]) == 0
    )
    assert len(started) == 3


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
    summaries = [line for line in lines if line["kind"] == "summary"]
    lines = [line for line in lines if line["kind"] == "training"]
    assert len(lines) == 2 * 3 * 2
    assert len(summaries) == 2 * 3
    for line in lines:
        assert line["status"] == "ok", line["reason"]
        assert len(line["epochs"]) == 3
        assert line["max_difference"] == max(line["differences"].values()) < 1e-9
        assert line["largest_loss_difference"] < 1e-6
        assert 0 <= line["test_accuracy"] <= 1
        assert line["time_to_target_s"] > 0
        assert line["peak_memory_bytes"] > 2**20
        assert all(epoch["cpu_s"] > 0 for epoch in line["epochs"])
    first = lines[0]["epochs"]
    assert first[-1]["train_loss"] < first[0]["train_loss"], "it learns"
    assert len(list(tmp_path.glob("*.png"))) == 4
    shown = capsys.readouterr().out
    assert "pennylane-qdp" in shown
    assert "seeds" not in shown


# What is made of records


def fabricated(contender, losses, seconds=1.0, *, seed=42, run=0, accuracy=0.5):
    epochs = [
        {
            **{f"{part}_s": seconds / 4 for part in training.EPOCH_PARTS},
            **{"seconds": seconds, "cpu_s": 2 * seconds, "validation_accuracy": accuracy},
            **{"train_loss": value, "validation_loss": value},
        }
        for value in losses
    ]
    facts = {"status": "ok", "epochs": epochs, "test_accuracy": accuracy, "complete": True}
    case = TrainingCase(seed=seed)
    return training_records.training_line(case, contender, run, peak_memory_bytes=2**20, **facts)


def test_time_to_target():
    lines = [
        fabricated("qdp", [0.9, 0.8, 0.7, 0.6, 0.5]),
        fabricated("pennylane-qdp", [0.9, 0.8], 10.0),
    ]
    training_records.judge(lines, None)
    assert lines[0]["target_loss"] == 0.6
    assert lines[0]["time_to_target_s"] == 4
    assert not lines[0]["time_to_target_extrapolated"]
    assert lines[1]["time_to_target_s"] == 40
    assert lines[1]["time_to_target_extrapolated"]
    training_records.judge(lines, 0.1)
    assert lines[0]["time_to_target_s"] is None
    assert not lines[1]["time_to_target_extrapolated"]


def test_seeds_have_one_target_and_their_spread():
    lines = [
        fabricated("qdp", [0.9, 0.8, 0.7, 0.6, 0.5], 1.0, seed=1, accuracy=0.5),
        fabricated("qdp", [0.9, 0.8, 0.7, 0.6, 0.5], 3.0, seed=1, run=1, accuracy=0.5),
        fabricated("qdp", [0.7, 0.4, 0.3, 0.2, 0.1], 2.0, seed=2, accuracy=0.75),
        fabricated("qdp", [0.8, 0.7, 0.65, 0.61, 0.4], 2.0, seed=3, accuracy=0.7),
        fabricated("pennylane-qdp", [0.7, 0.4], 5.0, seed=2, accuracy=0.75),
    ]
    training_records.judge(lines, None)
    assert [one["status"] for one in lines] == ["ok"] * 5, "other seeds have other losses"
    assert {one["target_loss"] for one in lines} == {0.61}, "the largest of 0.6, 0.2 and 0.61"
    assert [one["time_to_target_s"] for one in lines] == [4, 12, 4, 8, 10]
    own, rival = training_records.summaries(lines)
    assert own["seeds"] == [1, 2, 3]
    assert own["trainings"] == 4
    assert own["epoch_s"]["median"] == 2
    assert own["parts_ms"] == dict.fromkeys(training.EPOCH_PARTS, 500.0)
    assert own["cpu_s"] == 4
    # One value a seed: the first one's trainings took 4 and 12 seconds.
    assert own["time_to_target_s"] == {"median": 8, "low": 4, "high": 8, "seeds": 3}
    assert own["test_accuracy"] == {"median": 0.7, "low": 0.5, "high": 0.75, "seeds": 3}
    curve = own["curve"]
    assert curve["seconds"] == [2, 4, 6, 8, 10]
    assert curve["validation_loss"]["median"] == [0.8, 0.7, 0.65, 0.6, 0.4]
    assert curve["validation_loss"]["low"] == [0.7, 0.4, 0.3, 0.2, 0.1]
    assert curve["validation_loss"]["high"] == [0.9, 0.8, 0.7, 0.61, 0.5]
    assert rival["test_accuracy"]["seeds"] == 1
    text = training_records.table(lines)
    assert "Target: a validation loss of 0.61; median and interval over 3 seeds" in text
    assert "8 (4 to 8)" in text
    assert "70.0% (50.0% to 75.0%)" in text
    assert "75.0%, 1 of 3" in text
    by_seconds = training_records.curves(lines, "title", against="seconds")
    assert [line.name for line in by_seconds.series] == [own["title"], rival["title"], "Target"]
    assert by_seconds.series[2].x == [2, 10]
    assert by_seconds.series[2].y == [0.61, 0.61]
    assert by_seconds.series[0].x == [2, 4, 6, 8, 10]
    assert by_seconds.series[0].high == curve["validation_loss"]["high"]
    assert "medians over 3 seeds" in by_seconds.title
    by_epochs = training_records.curves(lines, "title", against="epochs")
    assert [line.name for line in by_epochs.series] == ["Validation", "Training", "Target"]
    assert by_epochs.series[0].low == curve["validation_loss"]["low"]


def test_the_report_and_a_comparison_know_seeds(tmp_path):
    found = training_records.TrainingFile(
        {
            "arguments": {"target_loss": 0.85, "dataset_samples": 50},
            "benchmark": "training",
            "dataset": {"name": "digits"},
            "environment": {"cpu": "x"},
        },
        tmp_path / "training_benchmark_20260101_000000",
    )
    for seed, accuracy in ((1, 0.5), (2, 0.75)):
        for contender in ("qdp", "pennylane-qdp"):
            losses = [0.9 / seed, 0.8 / seed]
            found.add(fabricated(contender, losses, seed=seed, accuracy=accuracy))
    library = Library(tmp_path, Book())
    text = markdown(published_training(library))
    assert "2 seeds: time to the target and accuracy are medians over them" in text
    assert "62.5% (50.0% to 75.0%)" in text
    assert "| 1.50 (1.00 to 2.00) |" in text
    (chart,) = [block for block in published_training(library) if isinstance(block, Chart)]
    assert chart.series[0].y == pytest.approx([0.675, 0.6])
    assert chart.series[0].low == [0.45, 0.4]
    measured, _ = comparison.measurements(tmp_path)
    assert list(measured.values()) == [[1.0, 1.0]] * 4, "two contenders with two seeds"


def test_a_curve_ends_where_a_seed_does():
    """Else its last points would be over other seeds than the first ones."""
    lines = [fabricated("qdp", [0.9, 0.3, 0.2], seed=1), fabricated("qdp", [0.7, 0.6], seed=2)]
    training_records.judge(lines, None)
    (found,) = training_records.summaries(lines)
    assert found["curve"]["validation_loss"]["median"] == pytest.approx([0.8, 0.45])
    assert found["curve"]["validation_loss"]["seeds"] == [2, 2]
    assert found["curve"]["seconds"] == [1, 2]


def test_axes_show_epochs_and_no_measured_seconds():
    """Measured times would be ticks of many digits, one over the other."""
    from matplotlib import pyplot

    lines = [fabricated("qdp", [0.9, 0.8], 0.123456), fabricated("pennylane-qdp", [0.9, 0.8], 2.5)]
    training_records.judge(lines, None)
    ticks = {}
    for against in ("seconds", "epochs"):
        figure, axes = pyplot.subplots()
        draw_lines(axes, training_records.curves(lines, "title", against=against))
        ticks[against] = axes.get_xticks().tolist()
        pyplot.close(figure)
    assert ticks["epochs"] == [1, 2]
    assert not {0.123456, 0.246912, 2.5, 5.0} <= set(ticks["seconds"])


def test_a_target_that_some_seeds_miss():
    lines = [fabricated("qdp", [0.9, 0.3], seed=1), fabricated("qdp", [0.9, 0.8], seed=2)]
    training_records.judge(lines, 0.5)
    (found,) = training_records.summaries(lines)
    assert found["time_to_target_s"] == {"median": 2, "low": 2, "high": 2, "seeds": 1}
    assert "2, 1 of 2" in training_records.table(lines)


def test_the_table_claims_nothing_that_is_not_significant():
    lines = [fabricated("qdp", [0.9, 0.8]), fabricated("pennylane-qdp", [0.9, 0.8])]
    lines.append(fabricated("pennylane-default", [0.9, 0.8], 2.0))
    lines.append(
        training_records.training_line(
            TrainingCase(),
            "pennylane-lightning",
            0,
            epochs=[],
            status="skipped",
            reason="not there",
        )
    )
    training_records.judge(lines, None)
    rows = {line.split()[0]: line for line in training_records.table(lines).splitlines() if line}
    text = training_records.table(lines)
    assert "not significant (1.00x to 1.00x)" in text
    assert "2.00x (2.00x to 2.00x)" in text
    assert rows["pennylane-lightning"].endswith("skipped: not there")
    assert "Encoding: qdp: inside forward and backward; pennylane-qdp: once, before" in text


def test_parting_losses_fail():
    names = ("qdp", "qdp-cached", "pennylane-qdp")
    lines = [fabricated(name, [0.9, 0.8]) for name in names[:2]]
    lines.append(fabricated(names[2], [0.9, 0.81]))
    training_records.judge(lines, None)
    assert [line["status"] for line in lines] == ["ok", "ok", "failed"]
    assert "part from those of most contenders by 0.01" in lines[2]["reason"]
    assert lines[2]["time_to_target_s"] is None
    # Judged again with more trainings, as when a run goes on.
    lines += [
        fabricated(name, [0.9, 0.81]) for name in ("pennylane-default", "pennylane-lightning")
    ]
    training_records.judge(lines, None)
    assert [line["status"] for line in lines] == ["failed", "failed", "ok", "ok", "ok"]
    assert lines[2]["reason"] == ""
