# SPDX-License-Identifier: Apache-2.0
"""Gradient benchmark: QDP beside PennyLane and others, on the command line.

    python benchmark/benchmark_gradient.py --n-qubits 10 --n-samples 100 --verify --no-save

Exit status: 0 all well; 1 verification failed or QDP's own leg did not run; 2 wrong arguments or
data; 3 the speedup over PennyLane's path is below --min-speedup or could not be measured; 130
interrupted, the sizes done so far saved.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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
    TIMED_REGION,
    GradientCase,
)
from benchmark.core.command_line import (  # noqa: E402
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_SLOW,
    EXIT_USAGE,
    EXIT_WRONG,
    Journal,
    Progress,
    add_measurement_options,
    describe_run,
    plural,
    positive_integer,
    positive_number,
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


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmark_gradient.py",
        description="Per-sample gradients of a variational circuit: QDP encodes every sample "
        "once, PennyLane embeds it in each of the 2P evaluations of the parameter-shift rule.",
    )
    add = parser.add_argument
    add("--n-qubits", type=positive_integer, default=12, help="qubits (default 12)")
    add("--n-layers", type=positive_integer, default=2, help="layers (default 2)")
    add(
        "--n-samples",
        type=positive_integer,
        nargs="+",
        default=[100, 500, 1000],
        metavar="N",
        help="one or several numbers of samples (default 100 500 1000)",
    )
    add(
        "--verify",
        action="store_true",
        help="check gradients against PennyLane; exit status 1 on disagreement",
    )
    add("--dataset", choices=DATASETS, default="synthetic", help="data set (default synthetic)")
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
    add(
        "--threads",
        type=positive_integer,
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
        type=positive_number,
        default=None,
        metavar="X",
        help="exit status 3 if QDP's speedup over PennyLane's path is below X at any size",
    )
    add_measurement_options(parser)
    return parser


def _gpu_line(index: int) -> str:
    """Return what to say about the GPU that was asked for."""
    problem = gpu_problem(index)
    if problem is not None:
        return f"none ({problem}); running on CPU"
    return f"{index}, for the contenders of the group gpu; the others run on CPU"


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


def _save(journal: Journal) -> None:
    """Write what derives from the records."""
    for suffix, write in (
        (".csv", records.write_csv),
        (".jsonl", records.write_records),
        (".png", plots.write_plot),
    ):
        path = Path(f"{journal.stem}{suffix}")
        write(path, journal.run, journal.legs)
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
    arguments.contenders = contenders
    run = describe_run(
        "gradient",
        arguments,
        timed_region=TIMED_REGION,
        case=case.to_json(),
        dataset={
            "name": dataset.name,
            "description": dataset.description,
            "features": int(dataset.features.shape[1]),
        },
    )
    journal = Journal.open(
        run,
        directory=arguments.output_dir,
        name="gradient_benchmark",
        save=not arguments.no_save,
        resume=arguments.resume,
    )
    print(report.header(run, _gpu_line(arguments.gpu)))

    if arguments.verify and not _verify(case, dataset, arguments.seed):
        print("\nerror: QDP and PennyLane disagree; nothing was timed", file=sys.stderr)
        return EXIT_WRONG

    sizes: dict[int, list[records.Leg]] = {}
    timed_out: dict[str, str] = {}
    settings = runner.Settings(
        arguments.warmup, arguments.runs, arguments.time_limit, arguments.gpu
    )
    agree = True
    progress = Progress(arguments.progress)
    try:
        for n_samples in arguments.n_samples:
            print(f"\nTesting with n_samples={n_samples}...\n", flush=True)
            sizes[n_samples] = journal.legs_of("", {}, n_samples)
            if not sizes[n_samples]:
                rows = dataset.features[:n_samples]
                sizes[n_samples] = runner.run_size(
                    case, rows, contenders, settings, progress, timed_out
                )
                journal.add(sizes[n_samples])
            stopped = ((leg.contender, leg.status, leg.reason) for leg in sizes[n_samples])
            runner.note_timed_out(timed_out, stopped, f"at {plural(n_samples, 'sample')}")
            print(report.size_block(run, sizes[n_samples]), flush=True)
            if arguments.verify:
                agree = _verify_timed(benchmark, sizes[n_samples]) and agree
    except KeyboardInterrupt:
        print(f"\n{journal.interrupted()}", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        progress.close()

    print(f"\n{report.summary(run, sizes)}\n\n{report.analysis(run, sizes)}\n")
    if journal.stem is not None:
        _save(journal)
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
