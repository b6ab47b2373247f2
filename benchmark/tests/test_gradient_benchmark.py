# SPDX-License-Identifier: Apache-2.0
"""The roadmap's classes and functions, and the command line."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pennylane")
pytest.importorskip("matplotlib")
torch = pytest.importorskip("torch")

import pennylane as qml  # noqa: E402

from benchmark import benchmark_gradient as command  # noqa: E402
from benchmark.benchmark_gradient import (  # noqa: E402
    GradientBenchmark,
    GradientBenchmarkResult,
    compute_gradient_parameter_shift,
    create_variational_circuit,
    main,
)
from benchmark.core import environment, records, runner, verification  # noqa: E402
from benchmark.core.cases import GradientCase, random_terms  # noqa: E402
from benchmark.core.contenders.qdp_paths import qdp_gradients  # noqa: E402
from benchmark.datasets import Dataset  # noqa: E402
from benchmark.tests import statevector  # noqa: E402
from benchmark.tests.fabricated import make_leg  # noqa: E402

ROOT = environment.REPOSITORY


def as_case(benchmark: GradientBenchmark) -> Any:
    """Return the benchmark's workload as a case, for the independent judge."""
    return GradientCase(
        benchmark.n_qubits,
        benchmark.n_layers,
        tuple(benchmark.params.detach().tolist()),
        benchmark.observable,
    )


def result(gradients: Any, framework: str = "qdp") -> GradientBenchmarkResult:
    return GradientBenchmarkResult(framework, 2, 1, 2, 1.0, 2.0, 3.0, gradients)


# The classes


def test_signature_and_fields_are_the_roadmaps() -> None:
    parameters = inspect.signature(GradientBenchmark).parameters
    positional = {
        name: item.default
        for name, item in parameters.items()
        if item.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    assert positional == {"n_qubits": 12, "n_layers": 2, "use_gpu": True, "seed": 42}
    assert [field.name for field in dataclasses.fields(GradientBenchmarkResult)] == [
        "framework",
        "n_samples",
        "n_qubits",
        "n_parameters",
        "encoding_time_ms",
        "circuit_time_ms",
        "total_time_ms",
        "gradients",
    ]
    verify = inspect.signature(GradientBenchmark.verify_correctness).parameters
    assert (verify["rtol"].default, verify["atol"].default) == (1e-5, 1e-8)
    for name in ("run_qdp_path", "run_pennylane_path"):
        path = inspect.signature(getattr(GradientBenchmark, name)).parameters
        assert (path["warmup"].default, path["runs"].default) == (1, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_use_gpu_without_a_gpu_raises() -> None:
    with pytest.raises(RuntimeError, match=r"no CUDA device; pass use_gpu=False"):
        GradientBenchmark(n_qubits=2, n_layers=1)


def test_parameters_are_seeded_as_the_roadmap_says() -> None:
    benchmark = GradientBenchmark(5, 3, use_gpu=False, seed=9)
    torch.manual_seed(9)
    assert benchmark.n_parameters == 30
    assert torch.equal(benchmark.params, torch.randn(30, dtype=torch.float64))
    assert benchmark.params.requires_grad
    assert benchmark.device.name == "default.qubit"


@pytest.mark.parametrize("method", ["parameter-shift", "adjoint"])
@pytest.mark.parametrize("observable", ["z0", "sum-z"])
def test_paths_give_the_right_gradients(method: str, observable: str) -> None:
    benchmark = GradientBenchmark(3, 2, use_gpu=False, method=method, observable=observable)
    data = torch.from_numpy(statevector.make_features(4, 7))
    expected = statevector.gradients(as_case(benchmark), data.numpy())
    own = benchmark.run_qdp_path(data, warmup=1, runs=2)
    rival = benchmark.run_pennylane_path(data, warmup=0, runs=1)
    for found, framework in ((own, "qdp"), (rival, "pennylane")):
        assert found.framework == framework
        assert (found.n_samples, found.n_qubits, found.n_parameters) == (4, 3, 12)
        assert found.gradients is not None
        assert found.gradients.dtype == torch.float64
        np.testing.assert_allclose(found.gradients.numpy(), expected, rtol=0, atol=1e-12)
        assert found.encoding_time_ms >= 0
        assert found.total_time_ms == pytest.approx(found.encoding_time_ms + found.circuit_time_ms)
        assert found.throughput == pytest.approx(4e3 / found.total_time_ms)
    assert benchmark.verify_correctness(own, rival)


def test_gradient_of_one_qubit_by_hand() -> None:
    benchmark = GradientBenchmark(1, 1, use_gpu=False)
    theta = float(benchmark.params[0].detach())
    found = benchmark.run_qdp_path(torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64))
    assert found.gradients is not None
    # From |0>, <Z> = cos(theta) after RY(theta), and RZ changes nothing; from |1> the negative.
    expected = [[-np.sin(theta), 0.0], [np.sin(theta), 0.0]]
    np.testing.assert_allclose(found.gradients.numpy(), expected, atol=1e-14)


def test_single_precision_still_returns_float64() -> None:
    benchmark = GradientBenchmark(3, 1, use_gpu=False, precision="single")
    data = torch.from_numpy(statevector.make_features(2, 8))
    gradients = benchmark.run_qdp_path(data, warmup=0, runs=1).gradients
    assert gradients is not None
    assert gradients.dtype == torch.float64
    expected = statevector.gradients(as_case(benchmark), data.numpy())
    np.testing.assert_allclose(gradients.numpy(), expected, rtol=0, atol=1e-5)


def test_verify_correctness_can_fail() -> None:
    benchmark = GradientBenchmark(1, 1, use_gpu=False)
    good = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    assert benchmark.verify_correctness(result(good), result(good + 1e-9))
    assert not benchmark.verify_correctness(result(good), result(good + 1e-3))
    assert benchmark.verify_correctness(result(good), result(good + 1e-3), atol=1e-2)
    with pytest.raises(ValueError, match="one without"):
        benchmark.verify_correctness(result(good), result(None))
    with pytest.raises(ValueError, match="one shape"):
        benchmark.verify_correctness(result(good), result(good[:1]))


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (torch.ones(2, 9), {}, r"1 to 8\) .* got \(2, 9\)"),
        (torch.ones(8), {}, "got"),
        (torch.ones(0, 8), {}, "at least one"),
        (torch.ones(2, 8), {"runs": 0}, "runs of at least 1"),
    ],
)
def test_bad_data_is_refused(data: Any, options: dict[str, int], words: str) -> None:
    benchmark = GradientBenchmark(3, 1, use_gpu=False)
    for path in (benchmark.run_qdp_path, benchmark.run_pennylane_path):
        with pytest.raises(ValueError, match=words):
            path(data, **options)


@pytest.mark.parametrize(
    "options",
    [{"method": "guess"}, {"observable": "x0"}, {"precision": "half"}, {"n_qubits": 0}],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        GradientBenchmark(**{"n_qubits": 2, "use_gpu": False, **options})


# The functions


def test_variational_circuit_has_the_roadmaps_gates_in_order() -> None:
    circuit = create_variational_circuit(3, 2)
    tape = qml.tape.make_qscript(circuit)(torch.eye(8)[0], torch.arange(12.0))
    layer = ["RY"] * 3 + ["RZ"] * 3 + ["CNOT"] * 2
    assert [operation.name for operation in tape.operations] == ["StatePrep", *layer, *layer]
    angles = [float(op.parameters[0]) for op in tape.operations if op.name in ("RY", "RZ")]
    assert angles == list(range(12))
    assert [list(op.wires) for op in tape.operations if op.name == "CNOT"][:2] == [[0, 1], [1, 2]]
    assert tape.measurements[0].obs == qml.PauliZ(0)


@pytest.mark.parametrize("shift", [np.pi / 2, np.pi / 4, 1.0])
def test_parameter_shift_on_the_roadmaps_circuit(shift: float) -> None:
    benchmark = GradientBenchmark(2, 2, use_gpu=False)
    data = statevector.make_features(3, 4)
    states = torch.from_numpy(data / np.linalg.norm(data, axis=1, keepdims=True))
    node = qml.QNode(create_variational_circuit(2, 2), benchmark.device)
    found = compute_gradient_parameter_shift(node, states, benchmark.params, shift)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    expected = statevector.gradients(as_case(benchmark), data)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


def test_parameter_shift_leaves_its_arguments_alone() -> None:
    parameters = torch.tensor([0.1, 0.2], dtype=torch.float64, requires_grad=True)
    found = compute_gradient_parameter_shift(
        lambda state, angles: torch.sin(angles[0]) * state[0],
        torch.tensor([[2.0], [3.0]], dtype=torch.float64),
        parameters,
    )
    assert parameters.tolist() == [0.1, 0.2]
    expected = [[2 * np.cos(0.1), 0.0], [3 * np.cos(0.1), 0.0]]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)


def test_parameter_shift_refuses_a_shift_without_sine() -> None:
    with pytest.raises(ValueError, match="sine is not zero"):
        compute_gradient_parameter_shift(lambda *_: 0.0, torch.ones(1, 1), torch.ones(1), np.pi)


# --verify


@pytest.mark.parametrize("method", ["parameter-shift", "adjoint"])
def test_verification_passes_and_counts(method: str) -> None:
    case = statevector.make_case(4, method=method)
    checks = verification.verify_case(case, statevector.make_features(5, 16), seed=3)
    assert len(checks) == 3
    assert all(check.passed for check in checks)
    # For Z0 most of the 16 gradients are exactly zero: that is why there are other observables.
    assert [check.n_nonzero for check in checks][:2] == [5, 12]
    assert "5 of 16 gradients are not zero" in checks[0].line()


def test_pennylane_judge_agrees_with_the_statevector() -> None:
    case, features = statevector.make_case(3), statevector.make_features(2, 8)
    observables = [case.terms, random_terms(3, seed=1)]
    found = verification.pennylane_gradients(case, features, observables)
    for index, terms in enumerate(observables):
        expected = statevector.gradients(case, features, terms)
        np.testing.assert_allclose(found[:, index], expected, atol=1e-12)


ARGUMENTS = ["--n-qubits", "3", "--n-layers", "1", "--n-samples", "4", "--runs", "2", "--no-save"]


def test_verify_fails_on_a_fabricated_wrong_gradient(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = qdp_gradients

    def wrong(*arguments: Any, **options: Any) -> Any:
        gradients, encoding_ms, circuit_ms = original(*arguments, **options)
        gradients = np.array(gradients)
        gradients[-1, 2] += 1e-6
        return gradients, encoding_ms, circuit_ms

    monkeypatch.setattr(verification, "qdp_gradients", wrong)
    monkeypatch.setattr(runner, "run_size", None)  # nothing may be timed
    assert main([*ARGUMENTS, "--verify"]) == 1
    output = capsys.readouterr()
    assert output.out.count("FAIL") == 3
    assert "disagree" in output.err


def fabricated_legs(own: Any, rival: Any, own_ms: float = 1.0, rival_ms: float = 100.0) -> Any:
    """Stand in for the runner: two legs with given gradients and times."""

    def run_size(*_: Any) -> list[records.Leg]:
        return [
            make_leg("qdp", 4, [own_ms] * 2, gradients=own),
            make_leg("pennylane", 4, [rival_ms] * 2, gradients=rival),
        ]

    return run_size


def test_verify_fails_when_the_timed_gradients_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    right = np.ones((4, 6))
    monkeypatch.setattr(runner, "run_size", fabricated_legs(right, right))
    assert main([*ARGUMENTS, "--verify"]) == 0
    monkeypatch.setattr(runner, "run_size", fabricated_legs(right, right * 1.001))
    assert main([*ARGUMENTS, "--verify"]) == 1
    assert main(ARGUMENTS) == 0


def test_a_failed_own_leg_is_an_error_without_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = make_leg("qdp", 4, [], status="failed", reason="wrong")
    monkeypatch.setattr(runner, "run_size", lambda *_: [failed])
    assert main(ARGUMENTS) == 1


def test_who_timed_out_is_not_started_at_more_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[dict[str, str]] = []

    def run_size(case: Any, features: Any, *others: Any) -> list[records.Leg]:
        known.append(dict(others[-1]))
        slow = make_leg("pennylane", len(features), [], status="timed out", reason="no answer")
        return [make_leg("qdp", len(features), [1.0]), slow]

    monkeypatch.setattr(runner, "run_size", run_size)
    arguments = ["--n-qubits", "2", "--n-samples", "5", "3", "4", "--contenders", "roadmap"]
    assert main([*arguments, "--no-save"]) == 0
    reason = "not started: it timed out at 3 samples: no answer"
    assert known == [{}, {"pennylane": reason}, {"pennylane": reason}]


@pytest.mark.parametrize(("limit", "status"), [("99", 0), ("101", 3)])
def test_min_speedup(monkeypatch: pytest.MonkeyPatch, limit: str, status: int) -> None:
    gradients = np.ones((4, 6))
    monkeypatch.setattr(runner, "run_size", fabricated_legs(gradients, gradients))
    assert main([*ARGUMENTS, "--min-speedup", limit]) == status


def test_min_speedup_that_could_not_be_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    legs = [make_leg("qdp", 4, [1.0]), make_leg("pennylane", 4, [], status="timed out")]
    monkeypatch.setattr(runner, "run_size", lambda *_: legs)
    assert main([*ARGUMENTS, "--min-speedup", "5"]) == 3
    assert "it was not measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--contenders", "cirq"], "got 'cirq'"),
        (["--contenders", "numpy", "--min-speedup", "5"], "add pennylane"),
        (["--dataset", "mnist"], "without --data-dir"),
        (["--reduce", "pca"], "no --reduce for synthetic"),
    ],
)
def test_wrong_arguments_exit_with_two(
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("QDP_DATA_DIR", raising=False)
    assert main([*ARGUMENTS, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_data_that_qdp_refuses_exit_with_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = statevector.make_features(4, 8)
    rows[2] = 0
    monkeypatch.setattr(command, "load", lambda *_, **__: Dataset("zero", rows, None, "a zero row"))
    assert main([*ARGUMENTS, "--contenders", "numpy"]) == 2
    assert "row 2" in capsys.readouterr().err


def test_defaults_of_the_command_line() -> None:
    defaults = vars(command.build_parser().parse_args([]))
    assert defaults["n_qubits"] == 12
    assert defaults["n_layers"] == 2
    assert defaults["n_samples"] == [100, 500, 1000]
    assert (defaults["warmup"], defaults["runs"], defaults["seed"]) == (1, 3, 42)
    assert defaults["method"] == "parameter-shift"
    assert defaults["observable"] == "z0"
    assert defaults["time_limit"] == 60.0
    assert defaults["output_dir"] == Path("results")


@pytest.mark.parametrize("bad", [["--runs", "0"], ["--time-limit", "-1"], ["--n-samples", "0"]])
def test_numbers_out_of_range_are_refused(bad: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(bad)
    assert stopped.value.code == 2


# The command line in a process of its own


def run_command(arguments: list[str], *, module: bool, folder: Path) -> Any:
    start = (
        ["-m", "benchmark.benchmark_gradient"] if module else ["benchmark/benchmark_gradient.py"]
    )
    return subprocess.run(
        [sys.executable, *start, *arguments, "--output-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_command_line_from_file(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    done = run_command(
        [
            *("--n-qubits", "4", "--n-layers", "1", "--n-samples", "6", "3", "--runs", "2"),
            *("--verify", "--dataset", "digits", "--contenders", "roadmap", "numpy-kron"),
            *("--min-speedup", "0.001", "--progress", "on", "--time-limit", "30"),
        ],
        module=False,
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "GRADIENT BENCHMARK (Parameter-Shift Rule)",
        "Circuit:    4 qubits, 1 layers, 8 parameters",
        "Samples:    [3, 6]",
        "Dataset:    digits: scikit-learn digits",
        "Testing with n_samples=3...",
        "  QDP Path:",
        "  PennyLane Path:",
        "(8 params × 2 shifts × 6 samples = 96 evals)",  # noqa: RUF001
        "  Speedup: ",
        "RESULTS SUMMARY",
        "ANALYSIS",
        "gradients of <Z0> are not zero",
    ):
        assert words in done.stdout
    assert done.stdout.count("PASS") == 3 + 2
    assert "running on CPU" in done.stdout or torch.cuda.is_available()
    assert "numpy-kron: run 1" in done.stderr, "the progress bar was asked for"

    saved = [Path(line.removeprefix("Saved: ")) for line in done.stdout.splitlines()[-3:]]
    assert [path.suffix for path in saved] == [".csv", ".jsonl", ".png"]
    assert sorted(saved) == sorted(tmp_path.iterdir())
    run, legs = records.read_records(saved[1])
    assert [(leg.n_samples, leg.contender) for leg in legs] == [
        (size, name) for size in (3, 6) for name in ("qdp", "pennylane", "numpy-kron")
    ]
    assert all(leg.ok and len(leg.circuit_ms) == 2 for leg in legs)
    assert run["environment"]["cpu"]
    assert run["versions"]["pennylane"] == qml.__version__
    assert set(run["environment"]["git"]) == {"commit", "modified"}
    with saved[0].open(newline="") as handle:
        assert len(list(csv.DictReader(handle))) == 6


def test_command_line_as_a_module(tmp_path: Path) -> None:
    done = run_command(
        [
            *("--n-qubits", "2", "--n-layers", "1", "--n-samples", "2", "--runs", "1"),
            *("--contenders", "numpy", "--method", "adjoint", "--observable", "sum-z"),
            *("--precision", "single", "--threads", "1", "--no-save"),
        ],
        module=True,
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GRADIENT BENCHMARK (Adjoint Method)" in done.stdout
    assert "Saved:" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_names_can_be_imported_from_the_benchmark_folder() -> None:
    code = (
        "from benchmark_gradient import GradientBenchmark, GradientBenchmarkResult, "
        "create_variational_circuit, compute_gradient_parameter_shift\n"
        "import benchmark.benchmark_gradient as same\n"
        "assert same.GradientBenchmark is GradientBenchmark"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "benchmark",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
