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


def write(path, times, contender="qdp", n_samples=10):
    leg = make_leg(contender, n_samples, times)
    records.write_records(path / "gradient_benchmark_20260101_000000.jsonl", make_run([10]), [leg])


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
        (tmp_path / name).mkdir()
        write(tmp_path / name, times)
    arguments = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    assert command_line.main(arguments) == 0
    assert capsys.readouterr().out.startswith(word)
    status = command_line.main([*arguments, "--fail-on-slower"])
    assert status == (3 if word == "slower" else 0)


def test_many_equal_measurements_hardly_ever_differ():
    random = np.random.default_rng(5)
    false_alarms = 0
    for _ in range(20):
        sets = [
            {(str(key),): random.normal(10, 1, 10).tolist() for key in range(20)} for _ in range(2)
        ]
        found = comparison.compare(*sets)
        assert len(found) == 20
        false_alarms += any(one.ratio.significant for one in found)
    # At five per cent each, without a correction, nearly all twenty comparisons would cry wolf.
    assert false_alarms <= 8


def test_a_real_difference_among_many_is_found():
    random = np.random.default_rng(6)
    before = {(str(key),): random.normal(10, 0.3, 10).tolist() for key in range(20)}
    after = {key: random.normal(10, 0.3, 10).tolist() for key in before}
    after["7",] = random.normal(5, 0.3, 10).tolist()
    found = comparison.compare(before, after)
    assert found[0].key == ("7",)
    assert found[0].word == "faster"
    assert found[0].ratio.value == pytest.approx(2, rel=0.1)


def test_measurements_match_by_what_they_measure(tmp_path, capsys):
    for name in "ab":
        (tmp_path / name).mkdir()
    write(tmp_path / "a", [1.0, 1.0])
    write(tmp_path / "b", [1.0, 1.0], n_samples=20)
    assert command_line.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "expected measurements that are in both a and b" in capsys.readouterr().err
    lines = [
        {"record": "run", "cpu": "x"},
        {
            "record": "encoding",
            "contender": "qdp",
            "encoding": "angle",
            "rows": 4,
            "seconds": [2.0],
        },
    ]
    path = tmp_path / "encoding_rates_20260101_000000.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, machines = comparison.measurements(path)
    assert found == {("encoding_rates", "qdp", "encoding", "angle"): [0.5]}
    assert machines == {"x"}
    assert command_line.main(["compare", "nowhere", str(path)]) == 2
    assert "which is not there" in capsys.readouterr().err


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
