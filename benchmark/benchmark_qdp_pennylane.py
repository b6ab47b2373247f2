# SPDX-License-Identifier: Apache-2.0
"""Training benchmark: the same model on the same data, by PennyLane, PennyLane with QDP, and QDP.

    python benchmark/benchmark_qdp_pennylane.py --dataset mnist --n-qubits 10 --classes 3-vs-5

Exit status: 0 all well; 1 a contender failed or QDP's own did not run; 2 wrong arguments or data;
130 interrupted, the trainings done so far saved.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
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

from benchmark.core import environment, records, report, statistics  # noqa: E402
from benchmark.core.cases import ENCODINGS  # noqa: E402
from benchmark.core.command_line import (  # noqa: E402
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    EXIT_WRONG,
    Progress,
    count,
    describe_run,
    positive_integer,
    positive_number,
)
from benchmark.core.contenders import TRAINERS  # noqa: E402
from benchmark.core.document import Chart, Series, draw  # noqa: E402
from benchmark.core.runner import LEAST_SETUP_S, LegStopped, WorkerProcess  # noqa: E402
from benchmark.core.training import (  # noqa: E402
    CHECK_TOLERANCE,
    LOSS_TOLERANCE,
    TASKS,
    TrainingCase,
    epoch_parts,
    epoch_seconds,
    largest_difference,
    reference_check,
    split_data,
)
from benchmark.datasets import ALIASES, DATASETS, load  # noqa: E402

Record = dict[str, Any]
TIMED_REGION = (
    "an epoch: all batches' forward passes, losses, backward passes and Adam steps, and in the "
    "first one the encoding of all rows where a contender does that once; not validation, imports, "
    "compilation or the epoch of warm-up"
)
# The share of the epochs whose validation loss is the target where none is given.
TARGET_SHARE = 0.8


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
        "its epochs)",
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
        help="seconds that all trainings of a contender may take; it stops behind the epoch that "
        "spends them (default 20)",
    )
    add("--threads", type=positive_integer, default=None, help="default: all usable CPUs")
    add("--seed", type=count, default=42, help="of split, parameters and batches")
    add("--no-save", action="store_true", help="write no files")
    add("--output-dir", type=Path, default=Path("results"), help="default results")
    add("--data-dir", type=Path, default=None, help="default: the variable QDP_DATA_DIR")
    add("--progress", choices=("auto", "on", "off"), default="auto", help="progress bar")
    return parser


def measure(
    case: TrainingCase,
    data: Mapping[str, Any],
    names: Sequence[str],
    arguments: argparse.Namespace,
    progress: Progress,
    found: list[Record],
) -> None:
    """Check and train every contender, in turns; one record a training is added to ``found``."""
    expected = reference_check(case, data)
    workers: dict[str, WorkerProcess] = {}
    facts: dict[str, Record] = {}
    with tempfile.TemporaryDirectory(prefix="qdp-benchmark-") as name:
        folder = Path(name)
        np.savez(folder / "data.npz", **data)

        def stop(contender: str, why: LegStopped) -> None:
            found.append(line(case, contender, 0, status=why.status, reason=why.reason, epochs=[]))
            workers.pop(contender).close()

        try:
            for contender in names:
                workers[contender] = WorkerProcess(
                    contender, case, folder / "data.npz", folder, "benchmark.core.training"
                )
            for contender in names:
                try:
                    progress(f"{contender}: start")
                    ready = workers[contender].answer(LEAST_SETUP_S)
                    progress(f"{contender}: check")
                    checked = workers[contender].ask({"do": "check"}, LEAST_SETUP_S)
                    difference = largest_difference(checked, expected)
                    if not difference <= CHECK_TOLERANCE:
                        raise LegStopped(
                            "failed",
                            "its states, expectations, loss or gradient of the first rows differ "
                            f"from the reference by {difference:.3g}, more than "
                            f"{CHECK_TOLERANCE:.0e}",
                        )
                    facts[contender] = {
                        "versions": ready["versions"],
                        "setup_s": ready["setup_s"],
                        "max_difference": difference,
                        "tolerance": CHECK_TOLERANCE,
                    }
                except LegStopped as why:
                    stop(contender, why)
            _trainings(case, workers, facts, arguments, progress, stop, found)
        finally:
            for worker in workers.values():
                worker.close()


def _trainings(
    case: TrainingCase,
    workers: dict[str, WorkerProcess],
    facts: Mapping[str, Record],
    arguments: argparse.Namespace,
    progress: Progress,
    stop: Any,
    found: list[Record],
) -> None:
    """Go round the contenders, a training each; a contender's whole time is limited."""
    spent = dict.fromkeys(workers, 0.0)
    for run in range(-min(1, arguments.warmup), arguments.runs):
        for contender in list(workers) if run % 2 == 0 else list(workers)[::-1]:
            left = arguments.time_limit - spent[contender]
            if run > 0 and left <= 0:
                continue
            progress(f"{contender}: {'warm-up' if run < 0 else f'training {run + 1}'}")
            epochs = arguments.warmup if run < 0 else arguments.epochs
            command = {"do": "train", "epochs": epochs, "budget_s": max(left, 0.0)}
            try:
                answer = workers[contender].ask(command, 60 + 5 * arguments.time_limit)
                require_finite(answer["epochs"])
            except LegStopped as why:
                stop(contender, why)
                continue
            if run < 0:
                continue
            spent[contender] += sum(epoch["seconds"] for epoch in answer["epochs"])
            found.append(
                line(
                    case,
                    contender,
                    run,
                    status="ok",
                    epochs=answer["epochs"],
                    test_accuracy=answer["test_accuracy"],
                    complete=len(answer["epochs"]) == arguments.epochs,
                    **facts[contender],
                )
            )
    for contender in list(workers):
        try:
            peak = workers[contender].ask({"do": "finish"}, 60)["peak_memory_bytes"]
        except LegStopped as why:
            stop(contender, why)
            continue
        for one in found:
            if one["contender"] == contender:
                one["peak_memory_bytes"] = peak


def require_finite(epochs: Sequence[Mapping[str, float]]) -> None:
    """Raise LegStopped where a loss is not a finite number."""
    for number, epoch in enumerate(epochs, start=1):
        for name in ("train_loss", "validation_loss"):
            if not np.isfinite(epoch[name]):
                raise LegStopped("failed", f"its {name} is {epoch[name]} in epoch {number}")


def line(case: TrainingCase, contender: str, run: int, **facts: Any) -> Record:
    """Return the record of one training."""
    kind = TRAINERS[contender]
    return {
        "kind": "training",
        "contender": contender,
        "title": kind.title,
        "encoding": case.encoding,
        "classes": case.classes,
        "encoding_note": kind.encoding_note,
        "run": run,
        "reason": "",
        "test_accuracy": None,
        "case": case.to_json(),
        **facts,
    }


def require_same_losses(lines: Sequence[Record]) -> None:
    """Fail trainings whose losses part from those of most contenders: the arithmetic is the same.

    Each contender has one vote, however often it trained.
    """
    trained = [one for one in lines if one["status"] == "ok"]
    contenders = {one["contender"] for one in trained}
    for one in trained:
        agreeing = set()
        worst = 0.0
        for other in trained:
            difference = max(
                abs(mine[name] - theirs[name]) / max(1.0, abs(theirs[name]))
                for mine, theirs in zip(one["epochs"], other["epochs"], strict=False)
                for name in ("train_loss", "validation_loss")
            )
            worst = max(worst, difference)
            if difference <= LOSS_TOLERANCE:
                agreeing.add(other["contender"])
        one["largest_loss_difference"] = worst
        if 2 * len(agreeing) <= len(contenders):
            one["status"] = "failed"
            one["reason"] = (
                f"its losses part from those of most contenders by {worst:.3g}, more than "
                f"{LOSS_TOLERANCE:.0e}"
            )


def set_target(lines: Sequence[Record], target: float | None) -> None:
    """Write the target loss into each record, and the seconds that it took to reach it.

    Where a training stopped before, the epochs that others needed are counted at its own median.
    """
    trained = [one for one in lines if one["status"] == "ok"]
    whole = max(trained, key=lambda one: len(one["epochs"]), default=None)
    if whole is None:
        return
    losses = [epoch["validation_loss"] for epoch in whole["epochs"]]
    if target is None:
        target = losses[max(0, int(TARGET_SHARE * len(losses)) - 1)]
    # Losses agree to LOSS_TOLERANCE only, and the target may be one of them.
    reached = [index for index, loss in enumerate(losses) if loss <= target + 2 * LOSS_TOLERANCE]
    for one in lines:
        one["target_loss"], one["time_to_target_s"] = target, None
        one["time_to_target_extrapolated"] = False
        if one["status"] != "ok" or not reached:
            continue
        seconds = [epoch["seconds"] for epoch in one["epochs"]]
        needed = reached[0] + 1
        one["time_to_target_s"] = sum(seconds[:needed])
        if len(seconds) < needed:
            one["time_to_target_s"] += (needed - len(seconds)) * statistics.median(seconds)
            one["time_to_target_extrapolated"] = True


def table(lines: Sequence[Record]) -> str:
    """Return the table of one case."""
    text = [
        f"  {'Contender':<21}{'Epoch (ms)':>11}{'encode':>9}{'forward':>9}{'backward':>10}"
        f"{'optimise':>10}{'to target (s)':>15}{'test':>8}  QDP is"
    ]
    own = [second for one in lines if one["contender"] == "qdp" for second in epoch_seconds(one)]
    for contender in dict.fromkeys(one["contender"] for one in lines):
        mine = [one for one in lines if one["contender"] == contender]
        ok = [one for one in mine if one["status"] == "ok"]
        if not ok:
            text.append(f"  {contender:<21}{mine[0]['status']}: {mine[0]['reason']}")
            continue
        parts = epoch_parts(ok)
        seconds = [second for one in ok for second in epoch_seconds(one)]
        to_target = [one["time_to_target_s"] for one in ok if one["time_to_target_s"] is not None]
        mark = "*" if any(one["time_to_target_extrapolated"] for one in ok) else ""
        target = f"{statistics.median(to_target):.4g}{mark}" if to_target else "-"
        accuracy = next((one["test_accuracy"] for one in ok if one["complete"]), None)
        words = ""
        if own and contender not in ("qdp", "qdp-cached"):
            ratio = statistics.ratio(seconds, own)
            words = f"{report.times(ratio.value)} ({report.times(ratio.low)} to "
            words += f"{report.times(ratio.high)})"
        text.append(
            f"  {contender:<21}{1e3 * statistics.median(seconds):>11.4g}{parts[0]:>9.3g}"
            f"{parts[1]:>9.3g}{parts[2]:>10.3g}{parts[3]:>10.3g}{target:>15}"
            f"{'-' if accuracy is None else f'{accuracy:.1%}':>8}  {words}".rstrip()
        )
    return "\n".join(text)


def curves(lines: Sequence[Record], title: str, *, against: str) -> Chart:
    """Return validation loss against "seconds" or "epochs", a line a contender."""
    series = []
    for contender in dict.fromkeys(one["contender"] for one in lines):
        one = next(
            (one for one in lines if one["contender"] == contender and one["status"] == "ok"), None
        )
        if one is not None:
            losses = [epoch["validation_loss"] for epoch in one["epochs"]]
            places = list(range(1, len(losses) + 1))
            if against == "seconds":
                places = np.cumsum([epoch["seconds"] for epoch in one["epochs"]]).tolist()
            series.append(Series(one["title"], places, losses))
    log_x = against == "seconds"
    return Chart(
        "curves", title, against.capitalize(), "Validation loss", series, log_x=log_x, log_y=False
    )


def save(stem: Path, run: Mapping[str, Any], lines: Sequence[Record]) -> None:
    """Write the records of all trainings so far."""
    content = [{"kind": "run", "format": records.FORMAT, **run}, *lines]
    text = "".join(json.dumps(one, allow_nan=False) + "\n" for one in content)
    records.atomic_write(Path(f"{stem}.jsonl"), text.encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark with command-line arguments; return the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        return _run(arguments)
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


def _run(arguments: argparse.Namespace) -> int:
    names = list(dict.fromkeys(["qdp", *arguments.contenders]))
    name = ALIASES.get(arguments.dataset, arguments.dataset)
    cases = [
        TrainingCase(
            encoding,
            classes,
            arguments.n_qubits,
            arguments.n_layers,
            arguments.batch_size,
            arguments.learning_rate,
            arguments.seed,
            arguments.threads or environment.usable_cpus(),
        )
        for classes in dict.fromkeys(arguments.classes)
        for encoding in dict.fromkeys(arguments.encodings)
    ]
    prepared = []
    for case in cases:
        # Other encodings than amplitude take principal components of the whole images.
        qubits = case.n_qubits if case.encoding == "amplitude" else 16
        dataset = load(name, arguments.dataset_samples, qubits, data_dir=arguments.data_dir)
        assert dataset.labels is not None
        prepared.append((case, split_data(case, dataset.features, dataset.labels), dataset))
    run = describe_run(
        "training",
        arguments,
        timed_region=TIMED_REGION,
        dataset={"name": name, "description": prepared[0][2].description},
    )
    lines: list[Record] = []
    progress = Progress(arguments.progress)
    stem = records.output_stem(arguments.output_dir, datetime.now(), "training_benchmark")
    print(f"{report.RULE}\nTRAINING BENCHMARK\n{report.RULE}")
    try:
        for number, (case, data, _) in enumerate(prepared, start=1):
            sizes = ", ".join(f"{len(data[split])} {split}" for split in ("train", "validation"))
            title = (
                f"{case.encoding} encoding, {case.classes} of {name}, {case.n_qubits} qubits, "
                f"{case.n_layers} layers"
            )
            print(f"\n[{number}/{len(prepared)}] {title}; rows: {sizes}\n", flush=True)
            found: list[Record] = []
            try:
                measure(case, data, names, arguments, progress, found)
            finally:
                # What is done of an interrupted case is kept as well.
                require_same_losses(found)
                set_target(found, arguments.target_loss)
                lines += found
                if not arguments.no_save and lines:
                    save(stem, run, lines)
            print(table(found), flush=True)
            if not arguments.no_save:
                for against in ("seconds", "epochs"):
                    picture = Path(f"{stem}_{number}_{against}.png")
                    draw(curves(found, title, against=against), picture)
    except KeyboardInterrupt:
        where = "nothing was saved" if arguments.no_save or not lines else f"in {stem.name}.jsonl"
        print(f"\ninterrupted after {len(lines)} trainings, {where}", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        progress.close()
    if any(one.get("time_to_target_extrapolated") for one in lines):
        print("\n* stopped before the target; the epochs missing are counted at its median")
    if not arguments.no_save:
        print(f"\nSaved: {stem}.jsonl and {2 * len(prepared)} pictures beside it")
    failed = {
        one["contender"]
        for one in lines
        if one["status"] == "failed" or (one["contender"] == "qdp" and one["status"] != "ok")
    }
    if failed:
        print(f"error: {', '.join(sorted(failed))} failed", file=sys.stderr)
    return EXIT_WRONG if failed else EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
