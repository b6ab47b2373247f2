# SPDX-License-Identifier: Apache-2.0
"""Records of trainings: their file, what is judged over all of them, and what seeds spread.

A training's line is raw until ``judge`` has looked at all trainings of its model, a model being a
case without its seed. A summary's line is derived, one for each contender and model: never read,
written anew with every training. Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark.core import records, statistics
from benchmark.core.command_line import RunFile, plural
from benchmark.core.contenders import TRAINERS
from benchmark.core.document import Chart, Series
from benchmark.core.ratios import interval_words
from benchmark.core.report import gpu_words, megabytes
from benchmark.core.styles import GREY, Style
from benchmark.core.training import (
    EPOCH_PARTS,
    LOSS_TOLERANCE,
    TrainingCase,
    epoch_parts,
    epoch_seconds,
)

Record = dict[str, Any]
# The share of the epochs whose validation loss is the target where none is given.
TARGET_SHARE = 0.8
TARGET = Style(GREY, "", "--")


def training_line(case: TrainingCase, contender: str, run: int, **facts: Any) -> Record:
    """Return the record of one training, or of why there is none: then ``epochs`` is empty."""
    kind = TRAINERS[contender]
    return {
        "kind": "training",
        "contender": contender,
        "title": kind.title,
        "encoding": case.encoding,
        "classes": case.classes,
        "seed": case.seed,
        "encoding_note": kind.encoding_note,
        "run": run,
        "reason": "",
        "test_accuracy": None,
        "target_loss": None,
        "time_to_target_s": None,
        "time_to_target_extrapolated": False,
        "largest_loss_difference": None,
        "case": case.to_json(),
        **facts,
    }


class TrainingFile(RunFile):
    """The trainings of a run, one after the other."""

    @property
    def trainings(self) -> list[Record]:
        """All trainings."""
        return self.entries

    @staticmethod
    def read(path: Path) -> tuple[dict[str, Any], list[Record]]:
        """Return the run and its trainings; what was derived is derived again."""

        def entry(values: Record) -> Record:
            if values["kind"] not in ("training", "summary"):
                raise ValueError(f"unknown kind {values['kind']!r}")
            return values

        run, entries = records.read_run(path, entry)
        return run, [one for one in entries if one["kind"] == "training"]

    def lines(self) -> list[Record]:
        """Return all trainings, then the summaries."""
        return [*self.trainings, *summaries(self.trainings)]

    @property
    def done(self) -> str:
        """The number of trainings."""
        return plural(sum(bool(one["epochs"]) for one in self.trainings), "training")

    def of(self, case: TrainingCase, contender: str | None = None) -> list[Record]:
        """Return the trainings of a case, of one contender or of all."""
        values = case.to_json()
        return [
            one
            for one in self.trainings
            if one["case"] == values and contender in (None, one["contender"])
        ]

    def add(self, training: Record) -> None:
        """Add a training, judge all of them, and write the file anew."""
        self.trainings.append(training)
        judge(self.trainings, self.run["arguments"]["target_loss"])
        self.save()


def models(trainings: Sequence[Record]) -> list[list[Record]]:
    """Return the trainings of each model: of one case but for the seed."""
    groups: dict[str, list[Record]] = {}
    for one in trainings:
        groups.setdefault(repr({**one["case"], "seed": None}), []).append(one)
    return list(groups.values())


def by_contender(trainings: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the trainings of each contender."""
    groups: dict[str, list[Record]] = {}
    for one in trainings:
        groups.setdefault(one["contender"], []).append(one)
    return groups


def by_seed(trainings: Sequence[Record]) -> dict[int, list[Record]]:
    """Return the trainings of each seed."""
    groups: dict[int, list[Record]] = {}
    for one in trainings:
        groups.setdefault(one["case"]["seed"], []).append(one)
    return groups


def judge(trainings: Sequence[Record], target: float | None) -> None:
    """Write into all trainings what only all of them together tell; may be done again and again."""
    for model in models(trainings):
        for seed in by_seed(model).values():
            require_same_losses(seed)
        set_target(model, target)


def require_same_losses(lines: Sequence[Record]) -> None:
    """Fail trainings of one case whose losses part from those of most contenders.

    The arithmetic is the same. Each contender has one vote, however often it trained.
    """
    trained = [one for one in lines if one["epochs"]]
    contenders = {one["contender"] for one in trained}
    for one in trained:
        one["status"], one["reason"] = "ok", ""
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
    """Write a model's target loss into each record, and the seconds that it took to reach it.

    The target is one for all seeds: the given one, or the largest of the losses that the longest
    training of each seed has at TARGET_SHARE of its epochs, so that every seed reaches it. Where a
    training stopped before, the epochs that others needed are counted at its own median.
    """
    longest = {
        seed: max(trained, key=lambda one: len(one["epochs"]))["epochs"]
        for seed, own in by_seed(lines).items()
        if (trained := [one for one in own if one["status"] == "ok"])
    }
    losses = {
        seed: [epoch["validation_loss"] for epoch in epochs] for seed, epochs in longest.items()
    }
    if target is None:
        target = max(
            (found[max(0, int(TARGET_SHARE * len(found)) - 1)] for found in losses.values()),
            default=None,
        )
    for one in lines:
        one["target_loss"], one["time_to_target_s"] = target, None
        one["time_to_target_extrapolated"] = False
        if one["status"] != "ok" or target is None:
            continue
        # Losses agree to LOSS_TOLERANCE only, and the target may be one of them.
        reached = (
            number
            for number, loss in enumerate(losses[one["case"]["seed"]], start=1)
            if loss <= target + 2 * LOSS_TOLERANCE
        )
        needed = next(reached, None)
        if needed is None:
            continue
        seconds = [epoch["seconds"] for epoch in one["epochs"]]
        one["time_to_target_s"] = sum(seconds[:needed])
        if len(seconds) < needed:
            one["time_to_target_s"] += (needed - len(seconds)) * statistics.median(seconds)
            one["time_to_target_extrapolated"] = True


# What seeds spread


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return median, interval and number of values, one a seed; None without any.

    >>> spread([2.0])
    {'median': 2.0, 'low': 2.0, 'high': 2.0, 'seeds': 1}
    """
    if not values:
        return None
    found = statistics.estimate(values)
    return {"median": found.median, "low": found.low, "high": found.high, "seeds": len(values)}


def summaries(trainings: Sequence[Record]) -> list[Record]:
    """Return a summary for each model and contender that trained."""
    return [
        summary(ok)
        for model in models(trainings)
        for own in by_contender(model).values()
        if (ok := [one for one in own if one["status"] == "ok"])
    ]


def summary(trainings: Sequence[Record]) -> Record:
    """Return what the trainings of one model by one contender say together.

    Times of epochs are pooled; whatever depends on the seed has one value a seed, whose median and
    interval are those over seeds.
    """
    seeds = by_seed(trainings)
    seconds = statistics.estimate([second for one in trainings for second in epoch_seconds(one)])
    first = trainings[0]
    return {
        "kind": "summary",
        **{key: first[key] for key in ("contender", "title", "encoding", "classes")},
        "seeds": sorted(seeds),
        "trainings": len(trainings),
        "epoch_s": {"median": seconds.median, "low": seconds.low, "high": seconds.high},
        "noisy": seconds.relative_spread > records.NOISY,
        "parts_ms": dict(zip(EPOCH_PARTS, epoch_parts(trainings), strict=True)),
        "cpu_s": statistics.median([e["cpu_s"] for one in trainings for e in one["epochs"]]),
        "peak_memory_bytes": max(one["peak_memory_bytes"] or 0 for one in trainings) or None,
        "gpu": records.gpu_readings(epoch for one in trainings for epoch in one["epochs"]),
        "target_loss": first["target_loss"],
        "time_to_target_s": spread(times_to_target(trainings)),
        "time_to_target_extrapolated": any(one["time_to_target_extrapolated"] for one in trainings),
        "test_accuracy": spread(accuracies(trainings)),
        "curve": curve(trainings),
    }


def times_to_target(trainings: Sequence[Record]) -> list[float]:
    """Return the median time to the target loss of each seed that reached it, in seconds."""
    return [
        statistics.median(reached)
        for own in by_seed(trainings).values()
        if (reached := [t for one in own if (t := one["time_to_target_s"]) is not None])
    ]


def accuracies(trainings: Sequence[Record]) -> list[float]:
    """Return the test accuracy of each seed that was trained to the end."""
    return [
        next(one["test_accuracy"] for one in own if one["complete"])
        for own in by_seed(trainings).values()
        if any(one["complete"] for one in own)
    ]


def curve(trainings: Sequence[Record]) -> Record:
    """Return losses and accuracy epoch by epoch, and the seconds from the start to each one's end.

    Each seed counts once, with its longest training; the curve ends where the first of them does,
    so that all of its points are over the same seeds.
    """
    longest = [max(own, key=lambda one: len(one["epochs"])) for own in by_seed(trainings).values()]
    found: Record = {"seconds": []}
    elapsed = 0.0
    for epoch in range(min(len(one["epochs"]) for one in longest)):
        elapsed += statistics.median(
            [one["epochs"][epoch]["seconds"] for one in trainings if epoch < len(one["epochs"])]
        )
        found["seconds"].append(elapsed)
        for name in ("train_loss", "validation_loss", "validation_accuracy"):
            over = spread([one["epochs"][epoch][name] for one in longest])
            assert over is not None
            for key, value in over.items():
                found.setdefault(name, {}).setdefault(key, []).append(value)
    return found


# For people


def table(trainings: Sequence[Record]) -> str:
    """Return the table of one model."""
    text = [
        f"  {'Contender':<20}{'Epoch ms':>9}{'±':>6}{'encode':>9}{'forward':>9}{'backward':>9}"
        f"{'optimise':>9}{'CPU s':>8}{'Peak MB':>8}  QDP is"
    ]
    seeds = len(by_seed(trainings))
    outcome = [f"  {'Contender':<20}{'to target (s)':>30}{'test accuracy':>30}"]
    own = [second for one in trainings if one["contender"] == "qdp" for second in seconds_of(one)]
    for contender, lines in by_contender(trainings).items():
        ok = [one for one in lines if one["status"] == "ok"]
        stopped = [f"{one['status']}: {one['reason']}" for one in lines if one["status"] != "ok"]
        notes = list(dict.fromkeys(stopped))
        if not ok:
            text.append(f"  {contender:<20}{'; '.join(notes)}")
            continue
        found = summary(ok)
        if own and not contender.startswith("qdp"):
            seconds = [second for one in ok for second in seconds_of(one)]
            notes.insert(0, interval_words(statistics.ratio(seconds, own)))
        if found["noisy"]:
            notes.append("noisy")
        if found["gpu"]:
            notes.append(gpu_words(found["gpu"]))
        middle, low, high = (found["epoch_s"][key] for key in ("median", "low", "high"))
        parts = [f"{value:.3g}" for value in found["parts_ms"].values()]
        text.append(
            f"  {contender:<20}{1e3 * middle:>9.4g}{(high - low) / (2 * middle):>6.0%}"
            + "".join(f"{part:>9}" for part in parts)
            + f"{found['cpu_s']:>8.3g}{megabytes(found['peak_memory_bytes']):>8}  "
            + "; ".join(notes)
        )
        mark = "*" if found["time_to_target_extrapolated"] else ""
        reached = spread_words(found["time_to_target_s"], seeds, "{:.3g}".format, mark)
        accuracy = spread_words(found["test_accuracy"], seeds, "{:.1%}".format)
        outcome.append(f"  {contender:<20}{reached:>30}{accuracy:>30}")
    notes_of: dict[str, list[str]] = {}
    for contender, lines in by_contender(trainings).items():
        notes_of.setdefault(lines[0]["encoding_note"], []).append(contender)
    where = "; ".join(f"{', '.join(names)}: {note}" for note, names in notes_of.items())
    text += ["", f"  Encoding: {where}"]
    target = next((one["target_loss"] for one in trainings), None)
    if target is not None:
        over = f"; median and interval over {seeds} seeds" if seeds > 1 else ""
        text += [f"  Target: a validation loss of {target:.4g}{over}", "", *outcome]
    return "\n".join(line.rstrip() for line in text)


def seconds_of(training: Record) -> list[float]:
    """Return the seconds of each epoch of a training that counts, none of another."""
    return epoch_seconds(training) if training["status"] == "ok" else []


def spread_words(
    found: dict[str, float] | None, seeds: int, write: Callable[[float], str], mark: str = ""
) -> str:
    """Return a median over seeds with its interval, and how many seeds where it is not all.

    >>> spread_words({"median": 0.5, "low": 0.25, "high": 0.75, "seeds": 2}, 3, "{:.0%}".format)
    '50% (25% to 75%), 2 of 3'
    """
    if found is None:
        return "-"
    text = f"{write(found['median'])}{mark}"
    if found["seeds"] > 1:
        text += f" ({write(found['low'])} to {write(found['high'])})"
    if found["seeds"] < seeds:
        text += f", {found['seeds']:.0f} of {seeds}"
    return text


def curves(trainings: Sequence[Record], title: str, *, against: str) -> Chart:
    """Return the learning curves of a model against "seconds" or "epochs".

    Against seconds each contender has a line. Epoch by epoch all of them have the same losses, so
    there the training's and the validation's are drawn, with their interval over seeds.
    """
    found = summaries(trainings)
    series = []
    if against == "seconds":
        series = [loss_against_seconds(one["title"], one["curve"]) for one in found]
    elif found:
        one = max(found, key=lambda one: len(one["curve"]["seconds"]))
        epochs = [float(number) for number, _ in enumerate(one["curve"]["seconds"], start=1)]
        series = [
            _line(name, epochs, one["curve"][key])
            for name, key in (("Validation", "validation_loss"), ("Training", "train_loss"))
        ]
        title += "; the same for all contenders"
    if found and found[0]["target_loss"] is not None:
        places = [place for line in series for place in line.x]
        ends = [min(places), max(places)]
        series.append(Series("Target", ends, [found[0]["target_loss"]] * 2, style=TARGET))
    if over := over_seeds(len(by_seed(trainings))):
        title += f"\n{over}"
    name = "Validation loss" if against == "seconds" else "Loss"
    return Chart(
        "curves",
        title,
        against.capitalize(),
        name,
        series,
        log_x=against == "seconds",
        log_y=False,
    )


def loss_against_seconds(title: str, found: Record) -> Series:
    """Return what ``curve`` found as a line of a chart, with bars where there are several seeds."""
    return _line(title, found["seconds"], found["validation_loss"])


def over_seeds(seeds: int) -> str:
    """Return what a chart's title says of its seeds."""
    return f"medians over {seeds} seeds, bars are their intervals" if seeds > 1 else ""


def _line(name: str, x: Sequence[float], over: Record) -> Series:
    bounds = (over["low"], over["high"]) if max(over["seeds"]) > 1 else (None, None)
    return Series(name, x, over["median"], *bounds)
