# SPDX-License-Identifier: Apache-2.0
"""Two sets of records told apart, on samples with known answers; and the suite's own plumbing."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmark import __main__ as command_line
from benchmark.core import comparison, records, suite
from benchmark.core.suite import Step
from benchmark.tests.fabricated import make_leg, make_run


def write(path, times, contender="qdp", n_samples=10, dataset="synthetic"):
    path.mkdir(exist_ok=True)
    leg = make_leg(contender, n_samples, times)
    run = make_run([10])
    run["dataset"]["name"] = dataset
    records.write_records(path / f"gradient_benchmark_20260101_0{n_samples:05d}.jsonl", run, [leg])


@pytest.mark.parametrize(
    ("after", "word"),
    [
        ([1.0, 1.01, 0.99, 1.0, 1.0], "faster"),
        ([4.0, 4.01, 3.99, 4.0, 4.0], "slower"),
        ([2.0, 2.3, 1.7, 2.0, 1.9], "not significant"),
    ],
)
def test_words(tmp_path, after, word, capsys):
    for name, times in (("a", [2.0, 2.02, 1.98, 2.0, 2.0]), ("b", after)):
        write(tmp_path / name, times)
    arguments = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    assert command_line.main([*arguments, "--all"]) == 0
    shown = capsys.readouterr().out
    assert f"QDP: {'1' if word == 'slower' else '0'} slower" in shown
    (row,) = [line for line in shown.splitlines() if "qdp, gradient: " in line]
    assert row.split("  ")[1] == word
    assert "gradient" in row
    assert "samples=10 of synthetic" in row
    assert command_line.main(arguments) == 0
    assert ("qdp, gradient: " in capsys.readouterr().out) == (word != "not significant")
    status = command_line.main([*arguments, "--fail-on-slower"])
    assert status == (3 if word == "slower" else 0)


def test_rivals_are_the_control(tmp_path, capsys):
    for name, factor in (("a", 1.0), ("b", 1.5)):
        write(tmp_path / name, [factor * (1 + 0.01 * place) for place in range(8)], "numpy")
        write(tmp_path / name, [1 + 0.01 * place for place in range(8)], n_samples=20)
    arguments = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--fail-on-slower"]
    assert command_line.main(arguments) == 0, "a rival that is slower is no fault of QDP"
    shown = capsys.readouterr().out
    assert "QDP: 0 slower, 0 faster, 1 not significant" in shown
    assert "Rivals, the control: 1 slower" in shown
    assert "rivals' median ratio is 0.67x: the machine, or their versions, changed" in shown


def named(name):
    return comparison.Key("test", "qdp", str(name))


def test_many_equal_measurements_hardly_ever_differ():
    random = np.random.default_rng(5)
    false_alarms = 0
    for _ in range(40):
        sets = [
            {named(key): random.normal(10, 1, 10).tolist() for key in range(30)} for _ in range(2)
        ]
        found = comparison.compare(*sets)
        assert len(found) == 30
        false_alarms += any(one.significant for one in found)
    # At five per cent each, without a correction, nearly every comparison would cry wolf. More than
    # six of forty are what five per cent give less than once in a hundred times.
    assert false_alarms <= 6


def test_a_real_difference_among_many_is_found():
    random = np.random.default_rng(6)
    before = {named(key): random.normal(10, 0.3, 10).tolist() for key in range(20)}
    after = {key: random.normal(10, 0.3, 10).tolist() for key in before}
    after[named(7)] = random.normal(5, 0.3, 10).tolist()
    found = comparison.compare(before, after)
    assert found[0].key == named(7)
    assert found[0].word == "faster"
    assert found[0].ratio.value == pytest.approx(2, rel=0.1)
    assert not any(one.significant for one in found[1:])


def test_too_few_runs_are_said(tmp_path, capsys):
    for name, times in (("a", [1.0, 1.1, 1.2]), ("b", [9.0, 9.1, 9.2])):
        write(tmp_path / name, times)
    assert command_line.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "each side needs 4 (--runs 4)" in capsys.readouterr().out


def test_measurements_match_by_what_they_measure(tmp_path, capsys):
    write(tmp_path / "a", [1.0, 1.0])
    for folder, change in (("b", {"n_samples": 20}), ("c", {"dataset": "mnist"})):
        write(tmp_path / folder, [1.0, 1.0], **change)
        assert command_line.main(["compare", str(tmp_path / "a"), str(tmp_path / folder)]) == 2
        said = capsys.readouterr().err
        assert f"expected measurements that are in both a and {folder}" in said
    assert command_line.main(["compare", "nowhere", str(tmp_path / "a")]) == 2
    assert "which is not there" in capsys.readouterr().err


def test_lines_without_legs(tmp_path):
    lines = [
        {"record": "run", "cpu": "x"},
        {"record": "machine", "threads": 2, "flop_per_s": 1.0},
        {"record": "encoding", "contender": "numpy", "encoding": "angle", "rows": 4, "threads": 2},
        {"record": "measurement", "what": "QDP: one call", "n_qubits": 3, "rows": 2},
        {"record": "measurement", "what": "QDP: one call", "n_qubits": 4, "rows": 2},
        {"record": "kernel", "kernel": "load", "rows": 2, "calls": 99, "stored_bytes": 7},
        {"record": "kernel", "kernel": "store", "rows": 2, "calls": 98, "stored_bytes": 8},
    ]
    for line in lines[2:]:
        line["seconds"] = [2.0]
    lines.append({"record": "case", "reuse": 5, "rows": 2, "best": "fuse", "reason": "for some"})
    lines[-1]["seconds"] = {"fuse": [2.0], "cache": [4.0]}
    path = tmp_path / "some_rates_20260101_000000.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, machines = comparison.measurements(path)
    assert machines == {"x"}
    assert {(one.contender, one.case, one.own): times for one, times in found.items()} == {
        ("numpy", "encoding angle rows=4 threads=2", False): [0.5],
        ("QDP: one call", "measurement n_qubits=3 rows=2", True): [1.0],
        ("QDP: one call", "measurement n_qubits=4 rows=2", True): [1.0],
        ("qdp", "kernel load rows=2", True): [1.0],
        ("qdp", "kernel store rows=2", True): [1.0],
        ("qdp", "case fuse reuse=5 rows=2", True): [1.0],
        ("qdp", "case cache reuse=5 rows=2", True): [2.0],
    }


def test_every_recorded_measurement_has_a_key_of_its_own():
    found, _ = comparison.measurements(command_line.RESULTS)
    names = {one.benchmark for one in found}
    assert {"training_benchmark", "cost_model", "batched_execution", "plan_choice"} <= names
    for path in command_line.RESULTS.glob("*_rates_*.jsonl"):
        lines = [line for line in records.read_lines(path) if "seconds" in line]
        taken, _ = comparison.measurements(path)
        assert len(taken) == len(lines), path.name


def test_steps_run_are_noted_and_left_out(tmp_path, monkeypatch, capfd):
    (tmp_path / "good.py").write_text("print('good step')\n")
    (tmp_path / "bad.py").write_text("raise SystemExit(4)\n")
    steps = [
        Step("good", str(tmp_path / "good.py"), ""),
        Step("bad", str(tmp_path / "bad.py"), "--flag 1"),
    ]
    output = tmp_path / "out"
    assert suite.run(steps, output=output) == 1
    shown = capfd.readouterr()
    assert "good step" in shown.out
    assert "error: bad (exit status 4)" in shown.err
    assert suite.run(steps, output=output, resume=True, only=["good"]) == 0
    assert "done before" in capfd.readouterr().out
    with pytest.raises(ValueError, match="expected steps among good, bad, got 'ugly'"):
        suite.run(steps, output=output, only=["ugly"])
    command = steps[1].command(output)
    assert command == [
        sys.executable,
        str(tmp_path / "bad.py"),
        "--flag",
        "1",
        "--output-dir",
        str(output),
    ]


@pytest.mark.parametrize("steps", [suite.FULL, suite.QUICK])
def test_every_step_has_arguments_that_its_script_takes(steps):
    from benchmark import benchmark_gradient, benchmark_qdp_pennylane, benchmark_scaling

    parsers = {
        suite.GRADIENT: benchmark_gradient.build_parser,
        suite.SCALING: benchmark_scaling.build_parser,
        suite.TRAINING: benchmark_qdp_pennylane.build_parser,
    }
    assert len({step.name for step in steps}) == len(steps)
    for step in steps:
        if step.script in parsers:
            parsers[step.script]().parse_args(step.arguments.split())
