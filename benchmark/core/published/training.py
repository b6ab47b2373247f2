# SPDX-License-Identifier: Apache-2.0
"""The report's section on end-to-end training: time an epoch, time to a loss, learning curves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.core import statistics
from benchmark.core.document import Block, Chart, Heading, Series, Table, Text
from benchmark.core.published.library import Library, Recorded, missing
from benchmark.core.training import epoch_parts, epoch_seconds

Model = tuple[Recorded, list[Mapping[str, Any]]]


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
            "test rows looked at once, after training. [How](training_benchmark.md)."
        )
    )
    for (name, encoding, classes), (recorded, lines) in models(library).items():
        found += trained(recorded, lines, f"{encoding} encoding, classes {classes}", name)
    return found


def models(library: Library) -> dict[tuple[str, str, str], Model]:
    """Return the trainings by data set, encoding and classes, of the newest record of each."""
    groups: dict[tuple[str, str, str], Model] = {}
    for recorded in library.training:
        for line in recorded.lines:
            if line.get("kind") == "training" and line["status"] == "ok":
                key = (recorded.run["dataset"]["name"], line["encoding"], line["classes"])
                if key not in groups or groups[key][0] is not recorded:
                    groups[key] = (recorded, [])
                groups[key][1].append(line)
    return groups


def trained(
    recorded: Recorded, lines: Sequence[Mapping[str, Any]], title: str, dataset: str
) -> list[Block]:
    """Return table and learning curves of one model."""
    rows = []
    series = []
    for contender in dict.fromkeys(line["contender"] for line in lines):
        own = [line for line in lines if line["contender"] == contender]
        line = own[0]
        seconds = statistics.median([second for one in own for second in epoch_seconds(one)])
        parts = [
            recorded.value(line, f"{milliseconds:,.3g}", "epochs")
            for milliseconds in (1e3 * seconds, *epoch_parts(own))
        ]
        to_target = [one["time_to_target_s"] for one in own if one["time_to_target_s"] is not None]
        target = "-"
        if to_target:
            mark = "*" if any(one["time_to_target_extrapolated"] for one in own) else ""
            text = f"{statistics.median(to_target):.3g}"
            target = recorded.value(line, text, "time_to_target_s") + mark
        accuracy = next((one["test_accuracy"] for one in own if one["complete"]), None)
        rows.append(
            [
                line["title"],
                *parts,
                target,
                "-" if accuracy is None else recorded.value(line, f"{accuracy:.1%}", "accuracy"),
            ]
        )
        elapsed, total = [], 0.0
        for epoch in line["epochs"]:
            total += epoch["seconds"]
            elapsed.append(total)
        losses_ = [epoch["validation_loss"] for epoch in line["epochs"]]
        series.append(Series(line["title"], elapsed, losses_))
    slug = re.sub(r"[^a-z0-9]+", "_", title.lower())
    case = lines[0]["case"]
    qubits = recorded.value(lines[0], str(case["n_qubits"]), "case.n_qubits")
    words = recorded.value(lines[0], title, "case") if any(map(str.isdigit, title)) else title
    return [
        Text(
            f"**{words}** of {dataset}, {qubits} qubits ({recorded.link()}); milliseconds an epoch "
            "(medians; encoding that happens once is spread over the epochs), and seconds to the "
            "target loss; * stopped before, the epochs missing counted at its median:"
        ),
        Table(
            [
                "Contender",
                "epoch",
                "encoding",
                "forward",
                "backward",
                "optimiser",
                "to target (s)",
                "test accuracy",
            ],
            rows,
        ),
        Chart(
            f"training_{slug}",
            f"Validation loss against seconds: {title}",
            "Seconds",
            "Validation loss",
            series,
            log_x=True,
            log_y=False,
        ),
    ]
