# SPDX-License-Identifier: Apache-2.0
"""Gradient benchmark: QDP beside PennyLane and others, on the command line.

    python benchmark/benchmark_gradient.py --n-qubits 10 --n-samples 100 --verify --no-save

Exit status: 0 all well; 1 verification failed or QDP's own leg did not run; 2 wrong arguments or
data; 3 the speedup over PennyLane's path is below --min-speedup or could not be measured.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Python looks for modules beside the file that it runs, where `datasets` would hide the
    # package of that name.
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != _ROOT / "benchmark"]
if str(_ROOT) not in sys.path and not __package__:
    sys.path.insert(0, str(_ROOT))

from benchmark.core import environment, plots, records, report, runner  # noqa: E402
from benchmark.core.cases import (  # noqa: E402
    METHODS,
    OBSERVABLES,
    PRECISIONS,
    TIMED_REGION,
    GradientCase,
)
from benchmark.core.contenders import CONTENDERS, GROUPS, ROADMAP_RIVAL, resolve  # noqa: E402
from benchmark.core.gradient_benchmark import (  # noqa: E402
    GradientBenchmark,
    GradientBenchmarkResult,
    compute_gradient_parameter_shift,
    create_variational_circuit,
    gpu_problem,
)
from benchmark.core.verification import verify_case  # noqa: E402
from benchmark.datasets import DATASETS, REDUCTIONS, Dataset, load  # noqa: E402

__all__ = [
    "GradientBenchmark",
    "GradientBenchmarkResult",
    "compute_gradient_parameter_shift",
    "create_variational_circuit",
    "main",
]

BACKENDS = ("auto", "cpu", "reference")
EXIT_OK, EXIT_WRONG, EXIT_USAGE, EXIT_SLOW = 0, 1, 2, 3


def _positive_integer(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, got {value}")
    return value


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmark_gradient.py",
        description="Per-sample gradients of a variational circuit: QDP encodes every sample "
        "once, PennyLane embeds it in each of the 2P evaluations of the parameter-shift rule.",
    )
    add = parser.add_argument
    add("--n-qubits", type=_positive_integer, default=12, help="qubits (default 12)")
    add("--n-layers", type=_positive_integer, default=2, help="layers (default 2)")
    add(
        "--n-samples",
        type=_positive_integer,
        nargs="+",
        default=[100, 500, 1000],
        metavar="N",
        help="one or several numbers of samples (default 100 500 1000)",
    )
    add("--warmup", type=_count, default=1, help="untimed repetitions (default 1)")
    add("--runs", type=_positive_integer, default=3, help="timed repetitions (default 3)")
    add(
        "--verify",
        action="store_true",
        help="check gradients against PennyLane; exit status 1 on disagreement",
    )
    add("--no-save", action="store_true", help="write no files")
    add(
        "--output-dir",
        type=Path,
        default=Path("results"),
        help="folder for CSV, JSON records and PNG (default results)",
    )
    add("--gpu", type=int, default=0, help="GPU to use where there is one (default 0)")
    add("--dataset", choices=DATASETS, default="synthetic", help="data set (default synthetic)")
    add(
        "--data-dir",
        type=Path,
        default=None,
        help="folder with the image files (default: the variable QDP_DATA_DIR)",
    )
    add(
        "--reduce",
        choices=REDUCTIONS,
        default=None,
        help="how to reach 2^n features (default: pad what fits, resize what does not)",
    )
    add(
        "--method",
        choices=METHODS,
        default="parameter-shift",
        help="QDP's gradient rule (default parameter-shift)",
    )
    add("--observable", choices=OBSERVABLES, default="z0", help="what is measured (default z0)")
    add("--backend", choices=BACKENDS, default="auto", help="QDP's backend (default auto)")
    add("--precision", choices=PRECISIONS, default="double", help="default double")
    add(
        "--threads",
        type=_positive_integer,
        default=None,
        help="CPUs that every contender may use (default: all usable ones)",
    )
    add(
        "--contenders",
        nargs="+",
        default=["default"],
        metavar="NAME",
        help=f"names ({', '.join(CONTENDERS)}) or groups ({', '.join(GROUPS)}); qdp always runs",
    )
    add(
        "--min-speedup",
        type=_positive_number,
        default=None,
        metavar="X",
        help="exit status 3 if QDP's speedup over PennyLane's path is below X at any size",
    )
    add(
        "--time-limit",
        type=_positive_number,
        default=60.0,
        metavar="SECONDS",
        help="seconds a leg may take; a slower contender runs on the first rows only and is "
        "marked as extrapolated (default 60)",
    )
    add("--seed", type=_count, default=42, help="seed of parameters and synthetic rows")
    add(
        "--progress",
        choices=("auto", "on", "off"),
        default="auto",
        help="progress bar on standard error (default: where it is a terminal)",
    )
    return parser


class _Progress:
    """A bar of steps on standard error; silent where it is not wanted."""

    def __init__(self, mode: str) -> None:
        self._bar: Any = None
        if mode == "on" or (mode == "auto" and sys.stderr.isatty()):
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(unit="step", leave=False, file=sys.stderr)

    def __call__(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_description_str(text)
            self._bar.update()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def _describe_run(
    arguments: argparse.Namespace, case: GradientCase, dataset: Dataset, contenders: list[str]
) -> dict[str, Any]:
    """Return the first line of the records."""
    shown = {**vars(arguments), "contenders": contenders}
    # Records are published: the folders' names are enough, where they lie is nobody's business.
    shown["output_dir"] = arguments.output_dir.name
    shown["data_dir"] = None if arguments.data_dir is None else arguments.data_dir.name
    libraries = ("qdp", "numpy", "torch", "pennylane", "pennylane-lightning", "scikit-learn")
    return {
        "run": uuid.uuid4().hex,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "benchmark": "gradient",
        "timed_region": TIMED_REGION,
        "arguments": shown,
        "case": case.to_json(),
        "dataset": {
            "name": dataset.name,
            "description": dataset.description,
            "features": int(dataset.features.shape[1]),
        },
        "environment": environment.describe(),
        "versions": environment.versions(libraries),
    }


def _gpu_line(index: int) -> str:
    """Return what to say about the GPU that was asked for."""
    problem = gpu_problem(index)
    if problem is not None:
        return f"none ({problem}); running on CPU"
    return f"{index} is there for GradientBenchmark(use_gpu=True); the legs here run on CPU"


def _verify(case: GradientCase, dataset: Dataset, seed: int) -> bool:
    """Print the checks before timing; return whether all passed."""
    print("\nVerifying QDP against PennyLane default.qubit (parameter-shift)...\n")
    checks = verify_case(case, dataset.features, seed)
    for check in checks:
        print(check.line())
    return all(check.passed for check in checks)


def _verify_timed(benchmark: GradientBenchmark, legs: Sequence[records.Leg]) -> bool:
    """Compare the timed gradients of the two paths as the roadmap does; print the outcome."""
    import torch

    own, rival = report.find(legs, "qdp"), report.find(legs, ROADMAP_RIVAL)
    if own is None or rival is None or own.result is None or rival.result is None:
        return True
    rows = min(len(own.result), len(rival.result))
    results = [
        GradientBenchmarkResult(
            framework=leg.contender,
            n_samples=rows,
            n_qubits=benchmark.n_qubits,
            n_parameters=benchmark.n_parameters,
            encoding_time_ms=leg.encoding,
            circuit_time_ms=leg.circuit,
            total_time_ms=leg.total.median,
            gradients=torch.from_numpy(leg.result[:rows]),
        )
        for leg in (own, rival)
        if leg.result is not None
    ]
    # Single precision cannot reach the roadmap's absolute 1e-8.
    atol = 1e-8 if benchmark.precision == "double" else own.tolerance or 1e-5
    passed = benchmark.verify_correctness(results[0], results[1], rtol=1e-5, atol=atol)
    print(
        f"\n  Verification: {'PASS' if passed else 'FAIL'} (timed gradients of {rows} samples, QDP "
        f"vs PennyLane, rtol 1e-05, atol {atol:.0e})"
    )
    return passed


def _smallest_speedup(sizes: report.Sizes) -> float | None:
    """Return the smallest speedup over PennyLane's path, None if a size has none."""
    found = []
    for legs in sizes.values():
        own, rival = report.find(legs, "qdp"), report.find(legs, ROADMAP_RIVAL)
        if own is None or rival is None:
            return None
        found.append(report.speedup(rival, own).value)
    return min(found)


def _save(directory: Path, run: dict[str, Any], legs: list[records.Leg]) -> None:
    """Write records, then what derives from them."""
    stem = records.output_stem(directory, datetime.now())
    for suffix, write in (
        (".csv", records.write_csv),
        (".jsonl", records.write_records),
        (".png", plots.write_plot),
    ):
        path = Path(f"{stem}{suffix}")
        write(path, run, legs)
        print(f"Saved: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark with command-line arguments; return the exit status."""
    arguments = build_parser().parse_args(argv)
    arguments.n_samples = sorted(set(arguments.n_samples))
    from qdp.errors import BackendUnavailable

    try:
        return _run(arguments)
    except (ValueError, MemoryError, BackendUnavailable) as error:
        # Arguments, data or backend that QDP or a data set refuses, in their own words.
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


def _run(arguments: argparse.Namespace) -> int:
    contenders = resolve(arguments.contenders)
    if arguments.min_speedup is not None and ROADMAP_RIVAL not in contenders:
        raise ValueError(
            f"--min-speedup is against PennyLane's path; add {ROADMAP_RIVAL} to --contenders"
        )
    dataset = load(
        arguments.dataset,
        max(arguments.n_samples),
        arguments.n_qubits,
        data_dir=arguments.data_dir,
        reduce=arguments.reduce,
        seed=arguments.seed,
    )
    benchmark = GradientBenchmark(
        arguments.n_qubits,
        arguments.n_layers,
        use_gpu=False,
        seed=arguments.seed,
        method=arguments.method,
        observable=arguments.observable,
        backend=arguments.backend,
        precision=arguments.precision,
    )
    case = GradientCase(
        n_qubits=arguments.n_qubits,
        n_layers=arguments.n_layers,
        parameters=tuple(benchmark.params.detach().tolist()),
        observable=arguments.observable,
        method=arguments.method,
        precision=arguments.precision,
        backend=arguments.backend,
        threads=arguments.threads or environment.usable_cpus(),
    )
    run = _describe_run(arguments, case, dataset, contenders)
    print(report.header(run, _gpu_line(arguments.gpu)))

    if arguments.verify and not _verify(case, dataset, arguments.seed):
        print("\nerror: QDP and PennyLane disagree; nothing was timed", file=sys.stderr)
        return EXIT_WRONG

    sizes: dict[int, list[records.Leg]] = {}
    settings = runner.Settings(arguments.warmup, arguments.runs, arguments.time_limit)
    agree = True
    progress = _Progress(arguments.progress)
    try:
        for n_samples in arguments.n_samples:
            print(f"\nTesting with n_samples={n_samples}...\n", flush=True)
            rows = dataset.features[:n_samples]
            sizes[n_samples] = runner.run_size(case, rows, contenders, settings, progress)
            print(report.size_block(run, sizes[n_samples]), flush=True)
            if arguments.verify:
                agree = _verify_timed(benchmark, sizes[n_samples]) and agree
    finally:
        progress.close()

    print(f"\n{report.summary(run, sizes)}\n\n{report.analysis(run, sizes)}\n")
    if not arguments.no_save:
        _save(arguments.output_dir, run, [leg for legs in sizes.values() for leg in legs])
    return _exit_status(arguments, sizes, agree)


def _exit_status(arguments: argparse.Namespace, sizes: report.Sizes, agree: bool) -> int:
    """Return the status that the run deserves, saying why on standard error if it is not 0."""
    failed = [
        leg
        for legs in sizes.values()
        for leg in legs
        if leg.status == "failed" and (arguments.verify or leg.contender == "qdp")
    ]
    if any(report.find(legs, "qdp") is None for legs in sizes.values()):
        print("error: QDP's own path was not timed at every size", file=sys.stderr)
        return EXIT_WRONG
    if arguments.verify and (failed or not agree):
        names = ", ".join(sorted({leg.contender for leg in failed})) or "timed gradients"
        print(f"error: verification failed: {names}", file=sys.stderr)
        return EXIT_WRONG
    if arguments.min_speedup is not None:
        smallest = _smallest_speedup(sizes)
        if smallest is None or smallest < arguments.min_speedup:
            got = "it was not measured" if smallest is None else f"got {report.times(smallest)}"
            print(
                f"error: expected a speedup over PennyLane's path of at least "
                f"{arguments.min_speedup:g}x, {got}",
                file=sys.stderr,
            )
            return EXIT_SLOW
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
