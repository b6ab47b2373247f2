# SPDX-License-Identifier: Apache-2.0
"""Training benchmark: the same model on the same data, by PennyLane, PennyLane with QDP, and QDP.

    python benchmark/benchmark_qdp_pennylane.py --dataset mnist --n-qubits 10 --classes 3-vs-5

Exit status: 0 all well; 1 a contender failed or QDP's own did not run; 2 wrong arguments or data;
130 interrupted: the trainings done so far are saved, and --resume goes on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
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

from benchmark.core import environment, metering, report  # noqa: E402
from benchmark.core.cases import ENCODINGS  # noqa: E402
from benchmark.core.command_line import (  # noqa: E402
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    EXIT_WRONG,
    Progress,
    add_file_options,
    count,
    describe_run,
    plural,
    positive_integer,
    positive_number,
)
from benchmark.core.contenders import TRAINERS  # noqa: E402
from benchmark.core.document import draw  # noqa: E402
from benchmark.core.runner import (  # noqa: E402
    LEAST_SETUP_S,
    LegStopped,
    WorkerProcess,
    note_timed_out,
)
from benchmark.core.statistics import LEAST_FOR_INTERVAL  # noqa: E402
from benchmark.core.training import (  # noqa: E402
    CHECK_TOLERANCE,
    SPLITS,
    TASKS,
    TrainingCase,
    check_problem,
    differences,
    reference_check,
    split_data,
)
from benchmark.core.training_records import (  # noqa: E402
    Record,
    TrainingFile,
    curves,
    table,
    training_line,
)
from benchmark.datasets import ALIASES, DATASETS, Dataset, load  # noqa: E402

TIMED_REGION = (
    "an epoch: all batches' forward passes, losses, backward passes and Adam steps, and in the "
    "first one the encoding of all rows where a contender does that once; not validation, imports, "
    "compilation or the epoch of warm-up"
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmark_qdp_pennylane.py",
        description="End-to-end training of one model on the same data: PennyLane, "
        "PennyLane on QDP's states, QDP.",
    )
    add = parser.add_argument
    add(
        "--dataset",
        choices=[name for name in (*DATASETS, *ALIASES) if name != "synthetic"],
        default="digits",
        help="default digits",
    )
    add(
        "--dataset-samples",
        type=positive_integer,
        default=1500,
        metavar="N",
        help="rows taken, before the classes are chosen (default 1500)",
    )
    add("--encodings", nargs="+", choices=ENCODINGS, default=["amplitude"], help="one or several")
    add("--classes", nargs="+", choices=TASKS, default=["3-vs-5"], help="one or both")
    add("--n-qubits", type=positive_integer, default=6, help="qubits (default 6)")
    add("--n-layers", type=positive_integer, default=2, help="layers (default 2)")
    add("--epochs", type=positive_integer, default=10, help="epochs (default 10)")
    add("--batch-size", type=positive_integer, default=32, help="rows of a batch (default 32)")
    add("--learning-rate", type=positive_number, default=0.05, help="of Adam (default 0.05)")
    add(
        "--target-loss",
        type=positive_number,
        default=None,
        help="validation loss to reach (default: that of the longest training at four fifths of "
        "its epochs, the largest one of all seeds)",
    )
    add(
        "--contenders",
        nargs="+",
        choices=TRAINERS,
        default=list(TRAINERS),
        help="default all; qdp always trains",
    )
    add("--warmup", type=count, default=1, help="untimed epochs (default 1)")
    add("--runs", type=positive_integer, default=3, help="timed trainings (default 3)")
    add(
        "--time-limit",
        type=positive_number,
        default=20.0,
        metavar="SECONDS",
        help="seconds that a contender's trainings with one seed may take; it stops behind the "
        "epoch that spends them (default 20)",
    )
    add("--threads", type=positive_integer, default=None, help="default: all usable CPUs")
    add("--gpu", type=count, default=0, help="GPU that is metered where there is one (default 0)")
    add(
        "--seeds",
        "--seed",
        nargs="+",
        type=count,
        default=[42],
        metavar="N",
        help="of split, parameters and batches; with several the spread is shown (default 42)",
    )
    add_file_options(parser)
    return parser


def finished(trainings: Sequence[Record], arguments: argparse.Namespace) -> bool:
    """Whether a contender is through: it stopped, has all runs, or has spent its time."""
    runs = [one for one in trainings if one["epochs"]]
    return (
        len(runs) < len(trainings)
        or len(runs) >= arguments.runs
        or bool(runs and spent_seconds(runs) >= arguments.time_limit)
    )


def spent_seconds(trainings: Sequence[Record]) -> float:
    """Return the seconds of all epochs."""
    return sum(epoch["seconds"] for one in trainings for epoch in one["epochs"])


def measure(
    case: TrainingCase,
    data: Mapping[str, Any],
    names: Sequence[str],
    arguments: argparse.Namespace,
    progress: Progress,
    file: TrainingFile,
    timed_out: dict[str, str],
) -> None:
    """Check and train every contender that is not done, in turns; each training goes to the file.

    ``timed_out`` has the contenders that are not started, since they timed out with another seed,
    and gets those that time out here.
    """
    waiting = []
    for name in names:
        if finished(file.of(case, name), arguments):
            continue
        if name in timed_out:
            facts = {"status": "timed out", "reason": timed_out[name], "epochs": []}
            file.add(training_line(case, name, 0, **facts))
        else:
            waiting.append(name)
    if waiting:
        _check_and_train(case, data, waiting, arguments, progress, file)
    stopped = ((one["contender"], one["status"], one["reason"]) for one in file.of(case))
    note_timed_out(timed_out, stopped, f"with seed {case.seed}")


def _check_and_train(
    case: TrainingCase,
    data: Mapping[str, Any],
    names: Sequence[str],
    arguments: argparse.Namespace,
    progress: Progress,
    file: TrainingFile,
) -> None:
    progress("reference")
    expected = reference_check(case, data)
    workers: dict[str, WorkerProcess] = {}
    facts: dict[str, Record] = {}
    with tempfile.TemporaryDirectory(prefix="qdp-benchmark-") as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, **data)

        def stop(contender: str, why: LegStopped, run: int = 0) -> None:
            known = {"status": why.status, "reason": why.reason, "epochs": []}
            file.add(training_line(case, contender, run, **known))
            workers.pop(contender).close()

        try:
            for name in names:
                workers[name] = WorkerProcess(
                    name, case, path, path.parent, "benchmark.core.training", arguments.gpu
                )
            for name in names:
                try:
                    progress(f"{name}: start")
                    ready = workers[name].answer(LEAST_SETUP_S)
                    progress(f"{name}: check")
                    checked = workers[name].ask({"do": "check"}, LEAST_SETUP_S)
                    found = differences(checked, expected)
                    problem = check_problem(found)
                    if problem is not None:
                        raise LegStopped("failed", problem)
                    facts[name] = {
                        "versions": ready["versions"],
                        "setup_s": ready["setup_s"],
                        "differences": found,
                        "max_difference": max(found.values()),
                        "tolerance": CHECK_TOLERANCE,
                    }
                except LegStopped as why:
                    stop(name, why)
            _train(case, workers, facts, arguments, progress, stop, file)
        finally:
            for worker in workers.values():
                worker.close()


def _train(
    case: TrainingCase,
    workers: Mapping[str, WorkerProcess],
    facts: Mapping[str, Record],
    arguments: argparse.Namespace,
    progress: Progress,
    stop: Callable[[str, LegStopped, int], None],
    file: TrainingFile,
) -> None:
    """Go round the contenders, a training each; a contender's whole time is limited."""
    for run in range(-min(1, arguments.warmup), arguments.runs):
        for contender in list(workers) if run % 2 == 0 else list(workers)[::-1]:
            done = file.of(case, contender)
            left = arguments.time_limit - spent_seconds(done)
            if run >= 0 and (run < len(done) or (run > 0 and left <= 0)):
                continue
            progress(f"{contender}: {'warm-up' if run < 0 else f'training {run + 1}'}")
            epochs = arguments.warmup if run < 0 else arguments.epochs
            command = {"do": "train", "epochs": epochs, "budget_s": max(left, 0.0)}
            try:
                answer = workers[contender].ask(command, 60 + 5 * arguments.time_limit)
                require_finite(answer["epochs"])
            except LegStopped as why:
                stop(contender, why, max(run, 0))
                continue
            if run >= 0:
                training = {
                    "status": "ok",
                    "complete": len(answer["epochs"]) == arguments.epochs,
                    **{
                        key: answer[key] for key in ("epochs", "test_accuracy", "peak_memory_bytes")
                    },
                    **facts[contender],
                }
                file.add(training_line(case, contender, run, **training))


def require_finite(epochs: Sequence[Mapping[str, float]]) -> None:
    """Raise LegStopped where a loss is not a finite number."""
    for number, epoch in enumerate(epochs, start=1):
        for name in ("train_loss", "validation_loss"):
            if not np.isfinite(epoch[name]):
                raise LegStopped("failed", f"its {name} is {epoch[name]} in epoch {number}")


class Data:
    """The rows of every case, loaded once for each width and split anew for each seed."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name = name
        self.arguments = arguments
        self._loaded: dict[int, Dataset] = {}
        self._checked: dict[TrainingCase, dict[str, Any]] = {}

    def dataset(self, case: TrainingCase) -> Dataset:
        """Return the rows before they are split."""
        # Other encodings than amplitude take principal components of the whole images.
        qubits = case.n_qubits if case.encoding == "amplitude" else 16
        if qubits not in self._loaded:
            samples, folder = self.arguments.dataset_samples, self.arguments.data_dir
            self._loaded[qubits] = load(self.name, samples, qubits, data_dir=folder)
        return self._loaded[qubits]

    def check(self, case: TrainingCase) -> None:
        """Split a case's rows beforehand. Raises ValueError where they do not do."""
        self._checked[case] = self._split(case)

    def split(self, case: TrainingCase) -> dict[str, Any]:
        """Return train, validation and test."""
        return self._checked.pop(case, None) or self._split(case)

    def _split(self, case: TrainingCase) -> dict[str, Any]:
        found = self.dataset(case)
        assert found.labels is not None
        return split_data(case, found.features, found.labels)


def all_models(arguments: argparse.Namespace) -> Iterator[list[TrainingCase]]:
    """Yield the cases of each model, one a seed."""
    seeds = list(dict.fromkeys(arguments.seeds))
    for classes in dict.fromkeys(arguments.classes):
        for encoding in dict.fromkeys(arguments.encodings):
            first = TrainingCase(
                encoding,
                classes,
                arguments.n_qubits,
                arguments.n_layers,
                arguments.batch_size,
                arguments.learning_rate,
                seeds[0],
                arguments.threads or environment.usable_cpus(),
            )
            yield [replace(first, seed=seed) for seed in seeds]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark with command-line arguments; return the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        metering.check_gpu(arguments.gpu)
        return _run(arguments)
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


def _run(arguments: argparse.Namespace) -> int:
    names = list(dict.fromkeys(["qdp", *arguments.contenders]))
    data = Data(ALIASES.get(arguments.dataset, arguments.dataset), arguments)
    models = list(all_models(arguments))
    for cases in models:
        data.check(cases[0])  # what is wrong with the data is said before any work
    dataset = {"name": data.name, "description": data.dataset(models[0][0]).description}
    run = describe_run("training", arguments, timed_region=TIMED_REGION, dataset=dataset)
    file = TrainingFile.open(
        run,
        directory=arguments.output_dir,
        name="training_benchmark",
        save=not arguments.no_save,
        resume=arguments.resume,
    )
    print(f"{report.RULE}\nTRAINING BENCHMARK\n{report.RULE}")
    seeds = len(models[0])
    if 1 < seeds < LEAST_FOR_INTERVAL:
        print(
            f"With fewer than {LEAST_FOR_INTERVAL} seeds an interval is little more than the range."
        )
    progress = Progress(arguments.progress)
    try:
        for number, cases in enumerate(models, start=1):
            timed_out: dict[str, str] = {}
            for case in cases:
                rows = data.split(case)
                if case is cases[0]:
                    title = describe(case, data.name)
                    sizes = ", ".join(f"{len(rows[split])} {split}" for split in SPLITS)
                    print(f"\n[{number}/{len(models)}] {title}; rows: {sizes}\n", flush=True)
                measure(case, rows, names, arguments, progress, file, timed_out)
                if seeds > 1:
                    print(f"  seed {case.seed}: done", flush=True)
            trainings = [one for case in cases for one in file.of(case)]
            print(table(trainings), flush=True)
            if file.stem is not None:
                for against in ("seconds", "epochs"):
                    picture = Path(f"{file.stem}_{number}_{against}.png")
                    draw(curves(trainings, title, against=against), picture)
    except KeyboardInterrupt:
        print(f"\n{file.interrupted()}", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        progress.close()
    trained = [one for one in file.trainings if one["status"] == "ok"]
    if not all(one["complete"] for one in trained):
        print("\nWithout test accuracy: --time-limit was spent before the last epoch.")
    if any(one["time_to_target_extrapolated"] for one in trained):
        print("* stopped before the target; the epochs missing are counted at its median")
    if file.stem is not None:
        print(f"\nSaved: {file.stem}.jsonl and {2 * len(models)} pictures beside it")
    failed = {
        one["contender"]
        for one in file.trainings
        if one["status"] == "failed" or (one["contender"] == "qdp" and one["status"] != "ok")
    }
    if failed:
        print(f"error: {', '.join(sorted(failed))} failed", file=sys.stderr)
    return EXIT_WRONG if failed else EXIT_OK


def describe(case: TrainingCase, dataset: str) -> str:
    """Return a model in words."""
    return (
        f"{case.encoding} encoding, {case.classes} of {dataset}, "
        f"{plural(case.n_qubits, 'qubit')}, {plural(case.n_layers, 'layer')}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
