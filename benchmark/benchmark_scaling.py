# SPDX-License-Identifier: Apache-2.0
"""Scaling benchmark: throughput of encoding and of gradients against everything that grows.

    python benchmark/benchmark_scaling.py --dataset mnist --samples 500 1000 2000 --qubits 8 10 12

Each sweep varies one thing: ``samples``, ``qubits``, ``batch`` (rows in one call), ``layers``,
``threads``. Exit status: 0 all well; 1 QDP's own leg did not run at some point; 2 wrong arguments
or data; 130 interrupted, the points done so far saved.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Python looks for modules beside the file that it runs, where `datasets` would hide the
    # package of that name.
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != _ROOT / "benchmark"]
if str(_ROOT) not in sys.path and not __package__:
    sys.path.insert(0, str(_ROOT))

import numpy as np  # noqa: E402

from benchmark.core import environment, metering, plots, records, report, runner  # noqa: E402
from benchmark.core.cases import (  # noqa: E402
    ENCODINGS,
    METHODS,
    OBSERVABLES,
    Case,
    EncodingCase,
    GradientCase,
)
from benchmark.core.command_line import (  # noqa: E402
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    EXIT_WRONG,
    Journal,
    Progress,
    add_measurement_options,
    describe_run,
    plural,
    positive_integer,
)
from benchmark.core.contenders import CONTENDERS, ENCODERS  # noqa: E402
from benchmark.datasets import ALIASES, DATASETS, features_for  # noqa: E402

SWEEPS = ("samples", "qubits", "batch", "layers", "threads")
TASKS = ("encoding", "gradient")
DEFAULT_CONTENDERS = {
    "encoding": ("qdp", "pennylane", "lightning", "qiskit", "qiskit-aer", "numpy", "torch"),
    "gradient": ("qdp", "qdp-fused", "lightning-adjoint", "lightning-cpp", "numpy-kron"),
}
TIMED_REGION = (
    "encoding: from float64 features to complex states in memory; gradient: from float64 features "
    "to float64 gradients, shape (rows, P); not imports, compilation or the first call"
)


@dataclass(frozen=True)
class Point:
    """One case at one number of samples, a point of a sweep."""

    sweep: str
    case: Case
    n_samples: int

    @property
    def series(self) -> tuple[str, str]:
        """What its sweep shares with the point: the points of a series follow one another."""
        case = self.case
        return self.sweep, case.encoding if isinstance(case, EncodingCase) else case.method

    @property
    def place(self) -> str:
        """Where the point lies in its sweep."""
        case = self.case
        numbers = {
            "samples": (self.n_samples, "sample"),
            "batch": (self.n_samples, "row"),
            "qubits": (case.n_qubits, "qubit"),
            "layers": (getattr(case, "n_layers", 0), "layer"),
            "threads": (case.threads, "thread"),
        }
        return f"at {plural(*numbers[self.sweep])}, sweep over {self.sweep}"

    @property
    def title(self) -> str:
        """What is measured, in words."""
        case = self.case
        if isinstance(case, EncodingCase):
            what = f"{case.encoding} encoding, {case.n_qubits} qubits"
        else:
            what = f"{case.method} gradients, {case.n_qubits} qubits, {case.n_layers} layers"
        return f"{what}, {self.n_samples} samples, {plural(case.threads, 'thread')}"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmark_scaling.py",
        description="Throughput of encoding and of per-sample gradients against samples, qubits, "
        "batch size, layers and threads.",
    )
    add = parser.add_argument

    def numbers(flag: str, default: list[int], what: str) -> None:
        text = " ".join(map(str, default))
        add(
            flag,
            type=positive_integer,
            nargs="+",
            default=default,
            metavar="N",
            help=f"{what} (default {text})",
        )

    add(
        "--dataset",
        default="synthetic",
        help=f"{', '.join((*DATASETS, *ALIASES))}, or the path of a file that qdp.open reads "
        "(default synthetic)",
    )
    add(
        "--dataset-samples",
        type=positive_integer,
        default=None,
        metavar="N",
        help="take at most the first N rows of the data set; more samples repeat them",
    )
    numbers("--samples", [500, 1000, 2000], "the sweep over samples")
    numbers("--qubits", [4, 6, 8, 10, 12], "the sweep over qubits")
    numbers("--batch-sizes", [1, 16, 256], "the sweep over rows in one call")
    numbers("--layers", [1, 2, 4], "the sweep over layers")
    add(
        "--threads",
        type=positive_integer,
        nargs="+",
        default=None,
        metavar="N",
        help="the sweep over threads (default 1 and all); all other sweeps take the most",
    )
    add("--n-qubits", type=positive_integer, default=12, help="where not swept (default 12)")
    add("--n-samples", type=positive_integer, default=1000, help="where not swept (default 1000)")
    add("--n-layers", type=positive_integer, default=2, help="where not swept (default 2)")
    add("--sweeps", nargs="+", choices=SWEEPS, default=["samples", "qubits"], help="which sweeps")
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="what is measured")
    add(
        "--encodings",
        nargs="+",
        choices=ENCODINGS,
        default=["amplitude"],
        help="encodings of the task encoding (default amplitude); gradients are of amplitude",
    )
    add("--method", choices=METHODS, default="adjoint", help="gradient rule (default adjoint)")
    add("--observable", choices=OBSERVABLES, default="sum-z", help="default sum-z")
    add(
        "--contenders",
        nargs="+",
        default=None,
        metavar="NAME",
        help=f"for encoding {', '.join(ENCODERS)}; for gradients {', '.join(CONTENDERS)}; a name "
        "counts for the tasks that have it, qdp always runs",
    )
    add_measurement_options(parser, time_limit=3.0)
    return parser


def chosen_contenders(names: Sequence[str] | None, tasks: Sequence[str]) -> dict[str, list[str]]:
    """Return the contenders of each task, qdp first. Raises ValueError for a name of no task."""
    known = {"encoding": list(ENCODERS), "gradient": list(CONTENDERS)}
    for name in names or ():
        if not any(name in known[task] for task in tasks):
            everything = sorted({one for task in tasks for one in known[task]})
            raise ValueError(
                f"expected contenders among {', '.join(everything)} for {' and '.join(tasks)}, "
                f"got {name!r}"
            )
    chosen = {}
    for task in tasks:
        wanted = DEFAULT_CONTENDERS[task] if names is None else names
        chosen[task] = list(dict.fromkeys(["qdp", *(n for n in wanted if n in known[task])]))
    return chosen


def all_points(arguments: argparse.Namespace) -> Iterator[Point]:
    """Yield the points of all sweeps, each task and encoding in turn."""
    for sweep in arguments.sweeps:
        for base in base_cases(arguments, max(arguments.threads)):
            yield from points_of(sweep, base, arguments)


def base_cases(arguments: argparse.Namespace, threads: int) -> Iterator[Case]:
    """Yield a case of each task and encoding, with all that is not swept."""
    if "encoding" in arguments.tasks:
        for encoding in dict.fromkeys(arguments.encodings):
            yield EncodingCase(
                encoding, arguments.n_qubits, arguments.precision, arguments.backend, threads
            )
    if "gradient" in arguments.tasks:
        yield gradient_case(arguments, arguments.n_qubits, arguments.n_layers, threads)


def gradient_case(
    arguments: argparse.Namespace, n_qubits: int, n_layers: int, threads: int
) -> GradientCase:
    """Return a case with parameters drawn from the seed."""
    random = np.random.default_rng(arguments.seed)
    return GradientCase(
        n_qubits,
        n_layers,
        tuple(random.standard_normal(2 * n_qubits * n_layers).tolist()),
        arguments.observable,
        arguments.method,
        arguments.precision,
        arguments.backend,
        threads,
    )


def points_of(sweep: str, base: Case, arguments: argparse.Namespace) -> Iterator[Point]:
    """Yield the points of one sweep for one task."""

    def with_qubits(n_qubits: int) -> Case:
        if isinstance(base, EncodingCase):
            return replace(base, n_qubits=n_qubits)
        return gradient_case(arguments, n_qubits, arguments.n_layers, base.threads)

    samples = arguments.n_samples
    if sweep in ("samples", "batch"):
        numbers = arguments.samples if sweep == "samples" else arguments.batch_sizes
        yield from (Point(sweep, base, number) for number in numbers)
    elif sweep == "qubits":
        yield from (Point(sweep, with_qubits(number), samples) for number in arguments.qubits)
    elif sweep == "threads":
        yield from (
            Point(sweep, replace(base, threads=number), samples) for number in arguments.threads
        )
    elif isinstance(base, GradientCase):  # encoding has no layers
        for number in arguments.layers:
            case = gradient_case(arguments, arguments.n_qubits, number, base.threads)
            yield Point(sweep, case, samples)


def checked(arguments: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments with lists sorted and the threads filled in."""
    usable = environment.usable_cpus()
    arguments.threads = sorted(set(arguments.threads or (1, usable)))
    if arguments.threads[-1] > usable:
        raise ValueError(
            f"expected at most {usable} threads, which is what this process may use, got "
            f"{arguments.threads[-1]}"
        )
    metering.check_gpu(arguments.gpu)
    if arguments.dataset not in (*DATASETS, *ALIASES):
        # Records are published: of a path they name the file, not the folders above it.
        arguments.dataset = Path(arguments.dataset)
    for name in ("samples", "qubits", "batch_sizes", "layers"):
        setattr(arguments, name, sorted(set(getattr(arguments, name))))
    arguments.sweeps = [sweep for sweep in SWEEPS if sweep in arguments.sweeps]
    arguments.tasks = [task for task in TASKS if task in arguments.tasks]
    return arguments


class Rows:
    """The rows of every point, each of whose widths is loaded once before any work.

    Points of one width take the first of the same rows; more than there are repeat them. Only the
    rows loaded last are kept: those of all widths together may not fit into memory.
    """

    def __init__(self, arguments: argparse.Namespace, points: Sequence[Point]) -> None:
        source = arguments.dataset
        self.name = source.name if isinstance(source, Path) else source
        most: dict[tuple[int, bool], int] = {}
        for point in points:
            width = self._width(point)
            most[width] = max(most.get(width, 0), point.n_samples)

        @functools.lru_cache(maxsize=1)
        def load(n_qubits: int, angles: bool) -> tuple[Any, str]:
            # Principal components are those of all rows; only synthetic rows grow with the qubits.
            synthetic = source == "synthetic"
            wanted = most[n_qubits, angles] if synthetic else max(most.values())
            return features_for(
                str(source),
                min(wanted, arguments.dataset_samples or wanted),
                n_qubits,
                angles=angles,
                data_dir=arguments.data_dir,
                seed=arguments.seed,
            )

        self._load = load
        self.description = "; ".join(dict.fromkeys(load(*width)[1] for width in most))

    @staticmethod
    def _width(point: Point) -> tuple[int, bool]:
        case = point.case
        angles = isinstance(case, EncodingCase) and case.encoding != "amplitude"
        return case.n_qubits, angles

    def of(self, point: Point) -> Any:
        """Return the features of a point, (samples, width) float64."""
        rows, _ = self._load(*self._width(point))
        return np.resize(rows, (point.n_samples, rows.shape[1]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark with command-line arguments; return the exit status."""
    arguments = build_parser().parse_args(argv)
    from qdp.errors import BackendUnavailable

    try:
        return _run(checked(arguments))
    except (ValueError, OSError, MemoryError, BackendUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


def _run(arguments: argparse.Namespace) -> int:
    contenders = chosen_contenders(arguments.contenders, arguments.tasks)
    points = list(all_points(arguments))
    if not points:
        raise ValueError("expected a sweep that varies something, got layers for encoding alone")
    rows = Rows(arguments, points)
    run = describe_run(
        "scaling",
        arguments,
        timed_region=TIMED_REGION,
        contenders=contenders,
        dataset={"name": rows.name, "description": rows.description},
    )
    journal = Journal.open(
        run,
        directory=arguments.output_dir,
        name="scaling_benchmark",
        save=not arguments.no_save,
        resume=arguments.resume,
    )
    settings = runner.Settings(
        arguments.warmup, arguments.runs, arguments.time_limit, arguments.gpu
    )
    print(report.scaling_header(run))
    progress = Progress(arguments.progress)
    timed_out: dict[tuple[str, str], dict[str, str]] = {}
    try:
        for number, point in enumerate(points, start=1):
            print(f"\n[{number}/{len(points)}] {point.sweep}: {point.title}\n", flush=True)
            case = {"kind": point.case.kind, **point.case.to_json()}
            # More threads are no more work; all other sweeps grow from point to point.
            grows = point.sweep != "threads"
            hopeless = timed_out.setdefault(point.series, {}) if grows else {}
            legs = journal.legs_of(point.sweep, case, point.n_samples)
            if not legs:
                # Sweeps cross: what another one has measured in this run is a point of both.
                legs = [
                    replace(leg, sweep=point.sweep)
                    for leg in journal.legs_of(None, case, point.n_samples)
                ]
                if not legs:
                    names = contenders[point.case.kind]
                    features = rows.of(point)
                    legs = runner.run_size(
                        point.case, features, names, settings, progress, hopeless
                    )
                for leg in legs:
                    leg.sweep, leg.case = point.sweep, case
                journal.add(legs)
            stopped = ((leg.contender, leg.status, leg.reason) for leg in legs)
            runner.note_timed_out(hopeless, stopped, point.place)
            print(report.scaling_table(legs), flush=True)
    except KeyboardInterrupt:
        print(f"\n{journal.interrupted()}", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        progress.close()
    print(f"\n{report.scaling_summary(journal.legs)}\n")
    if journal.stem is not None:
        _save(journal)
    missing = [leg for leg in journal.legs if leg.contender == "qdp" and not leg.ok]
    for leg in missing:
        print(f"error: qdp, {leg.n_samples} samples: {leg.status}: {leg.reason}", file=sys.stderr)
    return EXIT_WRONG if missing else EXIT_OK


def _save(journal: Journal) -> None:
    for suffix, write in (
        (".csv", records.write_scaling_csv),
        (".jsonl", records.write_records),
        (".png", plots.write_scaling_plot),
    ):
        path = Path(f"{journal.stem}{suffix}")
        write(path, journal.run, journal.legs)
        print(f"Saved: {path}")


if __name__ == "__main__":
    raise SystemExit(main())
