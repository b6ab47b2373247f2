# SPDX-License-Identifier: Apache-2.0
"""The scaling benchmark: a tiny run on the command line, its journal, and the rows it takes."""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from benchmark import benchmark_scaling
from benchmark.core import command_line, document, plots, records, report, runner
from benchmark.core.cases import EncodingCase
from benchmark.core.command_line import Journal
from benchmark.core.records import Leg
from benchmark.datasets import DatasetError, features_for

pytest.importorskip("torch")
pytest.importorskip("pennylane")

TINY = [
    "--samples",
    "3",
    "6",
    "--qubits",
    "2",
    "3",
    "--layers",
    "1",
    "2",
    "--batch-sizes",
    "1",
    "--threads",
    "1",
    "--n-qubits",
    "3",
    "--n-samples",
    "6",
    "--encodings",
    "amplitude",
    "angle",
    "--contenders",
    "numpy",
    "--warmup",
    "0",
    "--runs",
    "2",
    "--time-limit",
    "5",
    "--dataset",
    "digits",
]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder of a whole tiny run."""
    folder = tmp_path_factory.mktemp("results")
    arguments = [*TINY, "--sweeps", *benchmark_scaling.SWEEPS, "--output-dir", str(folder)]
    assert benchmark_scaling.main(arguments) == 0
    return folder


def test_a_run_records_every_point(recorded):
    (path,) = recorded.glob("scaling_benchmark_*.jsonl")
    run, legs = records.read_records(path)
    assert run["benchmark"] == "scaling"
    assert run["contenders"] == {"encoding": ["qdp", "numpy"], "gradient": ["qdp", "numpy"]}
    assert "digits" in run["dataset"]["description"]
    points = {(leg.sweep, leg.case["kind"], leg.case["n_qubits"], leg.n_samples) for leg in legs}
    assert {number for sweep, kind, number, _ in points if sweep == "qubits"} == {2, 3}
    assert {samples for sweep, _, _, samples in points if sweep == "samples"} == {3, 6}
    assert {leg.case["n_layers"] for leg in legs if leg.sweep == "layers"} == {1, 2}
    # 3 series, 2 numbers for samples and qubits, 1 for batch and threads, 2 layers of gradients
    assert len(legs) == 2 * (3 * (2 + 2 + 1 + 1) + 2)
    for leg in legs:
        assert leg.ok, leg.reason
        assert len(leg.totals) == 2
        assert leg.rows_measured == leg.n_samples
        assert leg.metering[0]["cpu_s"] >= 0
    with next(recorded.glob("*.csv")).open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len(legs)
    for row, leg in zip(rows, legs, strict=True):
        assert float(row["samples_per_second"]) == pytest.approx(leg.throughput, rel=1e-5)
        own = next(one for one in legs if one.point == leg.point and one.contender == "qdp")
        speedup = leg.total.median / own.total.median
        assert float(row["speedup_of_qdp"]) == pytest.approx(speedup, rel=1e-3)
        assert float(row["speedup_low"]) <= speedup * 1.001
        assert int(row["state_bytes"]) == leg.n_samples * 2 ** leg.case["n_qubits"] * 16
        assert row["dataset"] == "digits"
        assert row["gpu_memory_bytes"] == "" or float(row["gpu_memory_bytes"]) > 0
    (picture,) = recorded.glob("*.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_crossing_sweeps_share_their_point(recorded):
    (path,) = recorded.glob("scaling_benchmark_*.jsonl")
    _, legs = records.read_records(path)
    shared = [
        leg
        for leg in legs
        if leg.case["kind"] == "gradient"
        and leg.case["n_qubits"] == 3
        and leg.case["n_layers"] == 2
        and leg.n_samples == 6
        and leg.contender == "qdp"
    ]
    assert {leg.sweep for leg in shared} == {"samples", "qubits", "layers", "threads"}
    assert len({tuple(leg.totals) for leg in shared}) == 1


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch, capsys):
    calls = []
    measure = runner.run_size

    def interrupted(case, features, *others):
        calls.append(len(features))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(case, features, *others)

    monkeypatch.setattr(runner, "run_size", interrupted)
    arguments = [*TINY, "--sweeps", "samples", "--tasks", "encoding", "--output-dir", str(tmp_path)]
    assert benchmark_scaling.main(arguments) == 130
    assert "interrupted after 1 point; go on with" in capsys.readouterr().err
    (path,) = tmp_path.glob("*.jsonl")
    assert len(records.read_records(path)[1]) == 2
    assert benchmark_scaling.main([*arguments, "--resume", str(path)]) == 0
    assert calls == [3, 6, 6, 3, 6], "the first point is not measured again"
    _, legs = records.read_records(path)
    assert [leg.n_samples for leg in legs] == [3, 3, 6, 6, 3, 3, 6, 6]
    capsys.readouterr()
    changed = [*arguments, "--runs", "3", "--resume", str(path)]
    assert benchmark_scaling.main(changed) == 2
    assert "expected a run with the same --runs, got 2 there and 3 now" in capsys.readouterr().err
    assert benchmark_scaling.main([*arguments, "--no-save", "--resume", str(path)]) == 2
    assert "which --no-save forbids" in capsys.readouterr().err
    table = path.with_suffix(".csv")
    assert benchmark_scaling.main([*arguments, "--resume", str(table)]) == 2
    assert "expected --resume to name a .jsonl file" in capsys.readouterr().err


# Stands before the real module: every process of a contender that imports it hangs.
HANGING = """
import time
time.sleep(600)
"""


def test_a_rival_that_hangs_in_set_up_is_waited_for_once(tmp_path, monkeypatch, capsys):
    """Its larger points are recorded as timed out at once, also when the run goes on later."""
    (tmp_path / "qiskit_aer.py").write_text(HANGING)
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    monkeypatch.setattr(runner, "LEAST_SETUP_S", 0.2)
    monkeypatch.setattr(benchmark_scaling.environment, "usable_cpus", lambda: 2)
    started = []
    process = runner.WorkerProcess

    def recorded(name, *others, **options):
        started.append(name)
        worker = process(name, *others, **options)
        if name == "qdp":
            answer = worker.answer
            worker.answer = lambda timeout_s: answer(60)
        return worker

    monkeypatch.setattr(runner, "WorkerProcess", recorded)
    arguments = (
        "--sweeps samples qubits threads --samples 3 6 9 --qubits 2 3 --threads 1 2 --n-qubits 3 "
        "--n-samples 6 --tasks encoding --contenders qiskit-aer --warmup 0 --runs 2 "
        f"--time-limit 0.1 --output-dir {tmp_path}"
    ).split()
    measure = runner.run_size

    def interrupted(case, features, *others):
        if len(features) == 9:
            raise KeyboardInterrupt
        return measure(case, features, *others)

    monkeypatch.setattr(runner, "run_size", interrupted)
    assert benchmark_scaling.main(arguments) == 130
    assert started == ["qdp", "qiskit-aer", "qdp"], "not at six samples"
    monkeypatch.setattr(runner, "run_size", measure)
    (path,) = tmp_path.glob("*.jsonl")
    assert benchmark_scaling.main([*arguments, "--resume", str(path)]) == 0
    # Nine samples; two qubits; one thread. Three qubits and two threads are six samples.
    assert started[3:] == ["qdp", "qdp", "qiskit-aer", "qdp", "qiskit-aer"]
    _, legs = records.read_records(path)
    rivals = [leg for leg in legs if leg.contender == "qiskit-aer"]
    assert {leg.status for leg in rivals} == {"timed out"}
    waited = "no answer within 0 s"
    at_three = f"not started: it timed out at 3 samples, sweep over samples: {waited}"
    assert [leg.reason for leg in rivals] == [
        waited,
        at_three,
        at_three,
        waited,
        at_three,
        waited,
        at_three,
    ]
    assert f"timed out: {at_three}" in capsys.readouterr().out


def test_a_journal_refuses_another_machine(tmp_path):
    run = {
        "benchmark": "scaling",
        "arguments": {"runs": 2},
        "environment": {"cpu": "one", "cpus_usable": 2, "git": {"commit": "a"}},
    }
    options = {"directory": tmp_path, "name": "x", "save": True}
    journal = Journal.open(run, resume=None, **options)
    leg = Leg("qdp", "QDP", "none", 3, "ok", rows_measured=3, encoding_ms=[1.0], circuit_ms=[0.0])
    journal.add([leg])
    path = journal.stem.with_suffix(".jsonl")
    assert Journal.open(run, resume=path, **options).legs == [leg]
    other = {**run, "environment": {**run["environment"], "cpu": "two"}}
    with pytest.raises(ValueError, match="same processor, got 'one' there and 'two' now"):
        Journal.open(other, resume=path, **options)
    with pytest.raises(ValueError, match="same versions, got None there"):
        Journal.open({**run, "versions": {"numpy": "9"}}, resume=path, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contenders", "cirq"], "expected contenders among .*, got 'cirq'"),
        (["--threads", "4096"], "expected at most .* threads"),
        (["--dataset", "nowhere.npy"], "or the path of a file, got 'nowhere.npy'"),
        (["--dataset", "digits", "--samples", "5000"], "expected at most 1797 samples"),
        (["--gpu", "99"], "expected --gpu below the .* NVIDIA GPUs found, got 99"),
        (["--sweeps", "layers", "--tasks", "encoding"], "a sweep that varies something"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    assert benchmark_scaling.main([*arguments, "--no-save"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error


def test_features_of_every_source(tmp_path):
    rows = np.random.default_rng(1).normal(size=(20, 6))
    np.save(tmp_path / "rows.npy", rows)
    found, words = features_for(str(tmp_path / "rows.npy"), 20, 3)
    np.testing.assert_array_equal(found, rows)
    assert "rows.npy" in words
    found, words = features_for(str(tmp_path / "rows.npy"), 20, 2)
    assert "PCA of 6 features to 4" in words
    # Principal components keep distances as well as any four numbers can: check them by SVD.
    centred = rows - rows.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(found @ found.T, (u[:, :4] * s[:4] ** 2) @ u[:, :4].T, atol=1e-10)
    found, words = features_for(str(tmp_path / "rows.npy"), 20, 8, angles=True)
    np.testing.assert_array_equal(found, np.pad(rows, ((0, 0), (0, 2))))
    assert "padded with 2 zeros" in words
    with pytest.raises(DatasetError, match=r"expected at most 20 samples of rows.npy, got 21"):
        features_for(str(tmp_path / "rows.npy"), 21, 3)


def test_rows_of_points(tmp_path):
    source = np.random.default_rng(5).normal(size=(6, 4))
    np.save(tmp_path / "six.npy", source)
    arguments = benchmark_scaling.build_parser().parse_args(
        (
            "--dataset-samples 5 --threads 1 --samples 2 13 --n-qubits 2 --n-samples 3 "
            f"--qubits 1 3 --dataset {tmp_path / 'six.npy'}"
        ).split()
    )
    points = list(benchmark_scaling.all_points(benchmark_scaling.checked(arguments)))
    rows = benchmark_scaling.Rows(arguments, points)
    assert rows.name == "six.npy"
    assert str(tmp_path) not in rows.description
    for point in points:
        found = rows.of(point)
        assert len(found) == point.n_samples
        if point.case.n_qubits > 1:
            expected = source[np.arange(point.n_samples) % 5]
            np.testing.assert_array_equal(found, expected)
        else:  # two principal components of all five rows
            whole, _ = features_for(str(tmp_path / "six.npy"), 5, 1)
            np.testing.assert_array_equal(found, whole[:3])
    shown = command_line.describe_run("scaling", arguments)["arguments"]
    assert shown["dataset"] == "six.npy", "records are published"


def leg_of(contender, times, n_samples=10, **options):
    case = {"kind": "encoding", **EncodingCase("angle", 3).to_json()}
    return Leg(
        contender,
        contender,
        "none",
        n_samples,
        "ok",
        encoding_ms=times,
        circuit_ms=[0.0] * len(times),
        **{"sweep": "samples", "rows_measured": n_samples, "case": case, **options},
    )


def test_losses_and_noise_are_said():
    legs = [leg_of("qdp", [2.0, 2.0, 2.0]), leg_of("numpy", [1.0, 1.0, 1.0])]
    # The same point in another sweep counts once.
    legs += [replace(leg, sweep="qubits") for leg in legs]
    summary = report.scaling_summary(legs)
    assert "of 1 different points QDP won at 0 and lost at 1; 0 not significant" in summary
    assert "0.50x (0.50x to 0.50x) numpy" in summary
    legs = [legs[0], leg_of("numpy", [3.0, 9.0, 3.0, 9.0])]
    assert "QDP won at 1 and lost at 0" in report.scaling_summary(legs)
    assert "noisy: interval of" in report.scaling_table(legs)
    assert json.loads(json.dumps(legs[1].to_json()))["derived"]["noisy"]
    # One run a side claims nothing, and without a rival nothing is won.
    legs = [leg_of("qdp", [2.0]), leg_of("numpy", [1.0])]
    assert "won at 0 and lost at 0; 1 not significant" in report.scaling_summary(legs)
    assert "won at 0 and lost at 0; 0 not significant, 1 without" in report.scaling_summary(
        legs[:1]
    )


def test_few_runs_and_gpus_are_said():
    run = {
        "arguments": {"sweeps": ["samples"], "tasks": ["encoding"], "warmup": 1, "time_limit": 3},
        "environment": {"cpu": "x", "cpus_usable": 2, "gpus": []},
        "dataset": {"name": "digits", "description": "images"},
    }
    for runs, said in ((5, True), (6, False)):
        run["arguments"]["runs"] = runs
        assert ("with fewer than 6 runs" in report.scaling_header(run)) == said
    assert "GPU:        none" in report.scaling_header(run)
    reading = {"memory_bytes": {"mean": 1.0, "max": 2.0**30}, "power_w": {"mean": 300, "max": 400}}
    metering = [{"cpu_s": 1.0, "gpu": {"readings": 2, **reading}}, {"cpu_s": 3.0}]
    leg = leg_of("qdp", [1.0, 1.0], metering=metering)
    assert leg.gpu == {"memory_bytes": 2.0**30, "power_w": 300}
    assert "GPU: 1024 MB in use, 300 W" in report.scaling_table([leg])


def test_extrapolated_points_are_hollow():
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    legs = [leg_of("numpy", [1.0, 2.0], 10), leg_of("numpy", [1.0, 2.0], 100, rows_measured=10)]
    document.draw_lines(axes, plots.sweep_chart("", "", legs, "samples"))
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xydata().tolist() for line in hollow] == [[[100, legs[1].throughput]]]
    pyplot.close(figure)
