# SPDX-License-Identifier: Apache-2.0
"""The scaling benchmark: a tiny run on the command line, its journal, and the rows it takes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from benchmark import benchmark_scaling
from benchmark.core import records, report, runner
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
    assert float(rows[0]["samples_per_second"]) == pytest.approx(legs[0].throughput, rel=1e-5)
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
    assert "interrupted after 1 points; go on with" in capsys.readouterr().err
    (path,) = tmp_path.glob("*.jsonl")
    assert len(records.read_records(path)[1]) == 2
    assert benchmark_scaling.main([*arguments, "--resume", str(path)]) == 0
    assert calls == [3, 6, 6, 3, 6], "the first point was not measured again"
    _, legs = records.read_records(path)
    assert [leg.n_samples for leg in legs] == [3, 3, 6, 6, 3, 3, 6, 6]
    capsys.readouterr()
    changed = [*arguments, "--runs", "3", "--resume", str(path)]
    assert benchmark_scaling.main(changed) == 2
    assert "expected a run with the same --runs, got 2 there and 3 now" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contenders", "cirq"], "expected contenders among .*, got 'cirq'"),
        (["--threads", "4096"], "expected at most .* threads"),
        (["--dataset", "nowhere.npy"], "or the path of a file, got 'nowhere.npy'"),
        (["--dataset", "digits", "--samples", "5000"], "expected at most 1797 samples"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    assert benchmark_scaling.main([*arguments, "--no-save"]) == 2
    error = capsys.readouterr().err
    import re

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


def leg_of(contender, times, n_samples=10):
    case = {"kind": "encoding", **EncodingCase("angle", 3).to_json()}
    return Leg(
        contender,
        contender,
        "none",
        n_samples,
        "ok",
        rows_measured=n_samples,
        encoding_ms=times,
        circuit_ms=[0.0] * len(times),
        sweep="samples",
        case=case,
    )


def test_losses_and_noise_are_said():
    legs = [leg_of("qdp", [2.0, 2.0, 2.0]), leg_of("numpy", [1.0, 1.0, 1.0])]
    assert "QDP lost to a rival at 1 of 1 points" in report.scaling_summary(legs)
    assert "0.50x (0.50x to 0.50x) numpy" in report.scaling_summary(legs)
    legs[1] = leg_of("numpy", [3.0, 9.0, 3.0, 9.0])
    assert "QDP lost to no rival" in report.scaling_summary(legs)
    assert "noisy: interval of" in report.scaling_table(legs)
    assert json.loads(json.dumps(legs[1].to_json()))["derived"]["noisy"]
