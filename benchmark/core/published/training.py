# SPDX-License-Identifier: Apache-2.0
"""The report's section on end-to-end training: time an epoch, time to a loss, learning curves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.core import statistics
from benchmark.core.document import Block, Chart, Heading, Table, Text, number
from benchmark.core.published.library import Library, Line, Recorded, missing
from benchmark.core.ratios import interval_words
from benchmark.core.training import epoch_parts, epoch_seconds
from benchmark.core.training_records import (
    accuracies,
    by_seed,
    curve,
    loss_against_seconds,
    over_seeds,
    spread,
    spread_words,
    times_to_target,
)

_ENCODINGS = {"iqp-embedding": "IQP embedding"}
_CLASSES = {"3-vs-5": "classes 3 against 5", "all": "all ten classes"}


@dataclass
class Model:
    """One model on one data set, and the trainings of each contender, the first to come first."""

    recorded: Recorded
    encoding: str
    classes: str
    trainings: dict[str, list[Line]]

    @property
    def title(self) -> str:
        """What is trained."""
        encoding = _ENCODINGS.get(self.encoding, f"{self.encoding} encoding")
        return f"{encoding}, {_CLASSES.get(self.classes, self.classes)}"

    def seconds(self, contender: str) -> list[float]:
        """Return the seconds of every epoch of a contender's trainings."""
        return [second for one in self.trainings[contender] for second in epoch_seconds(one)]

    def over(self, contender: str, own: str) -> str:
        """Return how many times the epoch of QDP's leg a contender's takes, with the interval."""
        ratio = statistics.ratio(self.seconds(contender), self.seconds(own))
        line = self.trainings[contender][0]
        return self.recorded.value(line, interval_words(ratio), f"epochs over those of {own}")

    @property
    def fastest(self) -> tuple[str | None, str | None]:
        """QDP's faster leg, and the fastest rival, by the median epoch; None where there is none.

        ``pennylane-qdp`` is a rival: its states are QDP's, its circuits PennyLane's.
        """
        order = sorted(self.trainings, key=lambda one: statistics.median(self.seconds(one)))
        own = next((one for one in order if one.startswith("qdp")), None)
        return own, next((one for one in order if not one.startswith("qdp")), None)


def models(library: Library) -> list[Model]:
    """Return the trainings by data set, encoding and classes, of the newest record of each."""
    found: dict[tuple[str, str, str], Model] = {}
    for recorded in library.training:
        for line in recorded.lines:
            if line.get("kind") != "training" or line["status"] != "ok":
                continue
            key = (recorded.run["dataset"]["name"], line["encoding"], line["classes"])
            if key not in found or found[key].recorded is not recorded:
                found[key] = Model(recorded, line["encoding"], line["classes"], {})
            found[key].trainings.setdefault(line["contender"], []).append(line)
    return list(found.values())


def training(library: Library) -> list[Block]:
    """Return the section on end-to-end training."""
    found: list[Block] = [Heading(2, "End-to-End Training")]
    if not library.training:
        command = "python benchmark/benchmark_qdp_pennylane.py"
        return [*found, missing("training", command)]
    found.append(
        Text(
            "The same model on the same data to the same loss: same initial parameters, batches "
            "and optimiser, losses equal epoch by epoch; train, validation and test rows apart, "
            "test rows looked at once, after training. [How](training_benchmark.md). Times are "
            "medians over the epochs of all trainings; encoding that happens once is spread over "
            "them. `over QDP` is the contender's epoch over that of QDP's faster leg. The target "
            "is a validation loss; * was stopped by its time limit before, and the missing epochs "
            "are counted at its median, the test rows then not looked at (-)."
        )
    )
    for model in models(library):
        found += trained(model)
    return found


def trained(model: Model) -> list[Block]:
    """Return table and learning curves of one model."""
    recorded = model.recorded
    fastest, _ = model.fastest
    seeds = len(by_seed([one for trainings in model.trainings.values() for one in trainings]))
    rows = []
    series = []
    for contender, trainings in model.trainings.items():
        first = trainings[0]
        estimate = statistics.estimate([1e3 * one for one in model.seconds(contender)])
        interval = f"{number(estimate.low)} to {number(estimate.high)}"
        rows.append(
            [
                first["title"],
                recorded.value(first, f"{number(estimate.median)} ({interval})", "epochs"),
                *(recorded.value(first, number(one), "epochs") for one in epoch_parts(trainings)),
                "" if contender == fastest or not fastest else model.over(contender, fastest),
                _target(recorded, trainings, seeds),
                _accuracy(recorded, trainings, seeds),
            ]
        )
        series.append(loss_against_seconds(first["title"], curve(trainings)))
    line = next(iter(model.trainings.values()))[0]
    qubits = recorded.value(line, str(line["case"]["n_qubits"]), "case.n_qubits")
    over = ""
    if seeds > 1:
        over = f"; {recorded.value(line, str(seeds), 'case.seed')} seeds: time to the target and "
        over += "accuracy are medians over them, with their intervals"
    threads = recorded.value(line, str(line["case"]["threads"]), "case.threads")
    dataset = recorded.run["dataset"]["name"]
    drawn = f"Validation loss against time: {dataset}, {model.title}"
    taken = recorded.run["arguments"]["dataset_samples"]
    rows_taken = f"the first {recorded.fact('arguments.dataset_samples')}" if taken else "all"
    classes = re.sub(r"[^a-z0-9]+", "_", model.classes.lower())
    name = f"training_{model.encoding.replace('-', '_')}_encoding_classes_{classes}"
    return [
        Text(
            f"**{recorded.value(line, model.title, 'case')}**, of {rows_taken} rows of "
            f"`{dataset}`; {qubits} qubits{over} ({recorded.source(threads)}):"
        ),
        Table(
            [
                "Contender",
                "epoch (ms)",
                "encoding (ms)",
                "forward (ms)",
                "backward (ms)",
                "optimiser (ms)",
                "over QDP",
                "to target (s)",
                "test accuracy",
            ],
            rows,
        ),
        Chart(
            name,
            ", ".join(filter(None, (drawn, over_seeds(seeds)))),
            "Seconds of training",
            "Validation loss",
            series,
            log_x=True,
            log_y=False,
        ),
    ]


def _target(recorded: Recorded, trainings: Sequence[Line], seeds: int) -> str:
    """Return the seconds to the target loss, marked where epochs are missing."""
    timed = [one for one in trainings if one["time_to_target_s"] is not None]
    mark = "*" if any(one["time_to_target_extrapolated"] for one in timed) else ""
    text = spread_words(spread(times_to_target(timed)), seeds, number, mark)
    return recorded.value(timed[0], text, "time_to_target_s") if timed else text


def _accuracy(recorded: Recorded, trainings: Sequence[Line], seeds: int) -> str:
    """Return the accuracy on the test rows, or a dash where no training came to its end."""
    whole = [one for one in trainings if one["complete"]]
    text = spread_words(spread(accuracies(whole)), seeds, "{:.1%}".format)
    return recorded.value(whole[0], text, "test_accuracy") if whole else text
