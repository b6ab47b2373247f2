# SPDX-License-Identifier: Apache-2.0
"""Charts of legs: a comparison over samples, and sweeps over all that grows, alone or as one PNG.

Points are medians with their intervals; hollow ones were extrapolated from fewer rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.core.contenders import ROADMAP_RIVAL
from benchmark.core.document import Chart, Ranking, Series, draw, draw_lines, save
from benchmark.core.ratios import find, speedup, times
from benchmark.core.records import Leg
from benchmark.core.report import METHOD_TITLES
from benchmark.core.styles import style_of

# What a sweep varies, as the axis under its plot: the words, and where a leg has the number.
AXES: dict[str, tuple[str, Callable[[Leg], float]]] = {
    "samples": ("Number of samples", lambda leg: leg.n_samples),
    "batch": ("Rows in one call", lambda leg: leg.n_samples),
    "qubits": ("Number of qubits", lambda leg: leg.case["n_qubits"]),
    "layers": ("Number of layers", lambda leg: leg.case["n_layers"]),
    "threads": ("Threads", lambda leg: leg.case["threads"]),
}

# What is drawn of a leg, as the axis beside the plot: the words, and the value that a total in
# milliseconds means for that many samples.
QUANTITIES: dict[str, tuple[str, Callable[[float, int], float]]] = {
    "time": ("Time of all samples (ms)", lambda total, n_samples: total),
    "latency": ("Latency (ms a sample)", lambda total, n_samples: total / n_samples),
    "throughput": ("Throughput (samples/s)", lambda total, n_samples: 1e3 * n_samples / total),
}


def names_of(legs: Sequence[Leg]) -> dict[str, str]:
    """Return each contender's title, with its gradient rule where that is not the common one."""
    rules = [leg.rule for leg in legs if leg.ok]
    common = max(dict.fromkeys(rules), key=rules.count, default="")
    return {
        leg.contender: leg.title if leg.rule == common else f"{leg.title} ({leg.rule})"
        for leg in legs
        if leg.ok
    }


def series_of(legs: Sequence[Leg], x: Callable[[Leg], float], quantity: str) -> list[Series]:
    """Return a series for each contender timed, with the interval of each point."""
    _, value = QUANTITIES[quantity]
    names = names_of(legs)
    found = []
    for contender in dict.fromkeys(leg.contender for leg in legs):
        own = sorted((leg for leg in legs if leg.ok and leg.contender == contender), key=x)
        if not own:
            continue
        bounds = [
            sorted(value(total, leg.n_samples) for total in (leg.total.low, leg.total.high))
            for leg in own
        ]
        found.append(
            Series(
                names[contender],
                [x(leg) for leg in own],
                [value(leg.total.median, leg.n_samples) for leg in own],
                [low for low, _ in bounds],
                [high for _, high in bounds],
                hollow=[leg.extrapolated for leg in own],
                style=style_of(own[0].title),
            )
        )
    return found


def sweep_chart(
    name: str, title: str, legs: Sequence[Leg], sweep: str, quantity: str = "throughput"
) -> Chart:
    """Return a chart of one series of legs against what its sweep varies."""
    words, x = AXES[sweep]
    return Chart(
        name,
        title,
        words,
        QUANTITIES[quantity][0],
        series_of(legs, x, quantity),
        log_x=sweep in ("samples", "batch"),
    )


def ranking_of(name: str, title: str, legs: Sequence[Leg]) -> Ranking:
    """Return a chart of the microseconds a sample of legs of one size, the fastest first."""
    timed = sorted((leg for leg in legs if leg.ok), key=lambda leg: leg.total.median)
    names = names_of(timed)
    bounds = [
        [1e3 * total / leg.n_samples for total in (leg.total.low, leg.total.median, leg.total.high)]
        for leg in timed
    ]
    return Ranking(
        name,
        title,
        "Time of a sample (µs)",
        [names[leg.contender] for leg in timed],
        [middle for _, middle, _ in bounds],
        [low for low, _, _ in bounds],
        [high for _, _, high in bounds],
        [leg.extrapolated for leg in timed],
    )


def series_title(leg: Leg) -> str:
    """Return what a sweep of the leg measures."""
    case = leg.case
    if case["kind"] == "encoding":
        return f"{case['encoding']} encoding"
    return f"{case['method']} gradients"


def sweeps_of(legs: Sequence[Leg]) -> dict[tuple[str, str], list[Leg]]:
    """Return the legs of each series: by sweep and by what is measured."""
    series: dict[tuple[str, str], list[Leg]] = {}
    for leg in legs:
        series.setdefault((leg.sweep, series_title(leg)), []).append(leg)
    return {key: found for key, found in series.items() if any(leg.ok for leg in found)}


def write_scaling_plot(path: Path, run: Mapping[str, Any], legs: Sequence[Leg]) -> None:
    """Draw a PNG of all sweeps: throughput left and latency right, a row a series."""
    series = sweeps_of(legs)
    if not series:
        raise ValueError("expected at least one timed leg to plot, got none")
    figure, grid = _figure(len(series), 2, (14, 4.4 * len(series) + 0.8))
    for (left, right), ((sweep, title), found) in zip(grid, series.items(), strict=True):
        for axes, quantity in ((left, "throughput"), (right, "latency")):
            draw_lines(axes, sweep_chart("", "", found, sweep, quantity))
        left.set_title(f"{title} against {sweep}", fontsize=10.5)
        right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.suptitle(
        f"{run['dataset']['name']}; {run['environment']['cpu']}; bars are bootstrap intervals; "
        "hollow: extrapolated",
        fontsize=10.5,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.985))
    save(figure, path)


def write_plot(path: Path, run: Mapping[str, Any], legs: Sequence[Leg]) -> None:
    """Draw a PNG: time and throughput against samples, or the ranking of a single size.

    QDP's points carry their speedup over PennyLane's path.
    """
    case, hardware = run["case"], run["environment"]
    title = (
        f"Per-sample gradients: {case['n_qubits']} qubits, {case['n_layers']} layers, "
        f"{len(case['parameters'])} parameters, {case['observable']}, {case['precision']} "
        f"precision; QDP by {METHOD_TITLES[case['method']].lower()}\n"
        f"{run['dataset']['name']}; {hardware['cpu']}, {case['threads']} threads; "
    )
    sizes = sorted({leg.n_samples for leg in legs})
    if len(sizes) == 1:
        title += f"{sizes[0]:,} samples; hollow: extrapolated"
        draw(ranking_of("", title, legs), path)
        return
    figure, ((time_axes, rate_axes),) = _figure(1, 2, (13, 6.2))
    for axes, quantity in ((time_axes, "time"), (rate_axes, "throughput")):
        draw_lines(axes, sweep_chart("", "", legs, "samples", quantity))
        axes.margins(x=0.12, y=0.12)
    for n_samples in sizes:
        here = [leg for leg in legs if leg.n_samples == n_samples]
        own, rival = find(here, "qdp"), find(here, ROADMAP_RIVAL)
        if own is None or rival is None:
            continue
        text = times(speedup(rival, own).value)
        for axes, height, offset in (
            (time_axes, own.total.median, -16),
            (rate_axes, own.throughput, 9),
        ):
            axes.annotate(
                text,
                (n_samples, height),
                textcoords="offset points",
                xytext=(0, offset),
                ha="center",
                fontsize=9,
                fontweight="bold",
                zorder=5,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
            )
    handles, labels = time_axes.get_legend_handles_labels()
    columns = max(1, min(3, len(labels)))
    rows = -(-len(labels) // columns)
    figure.legend(handles, labels, loc="lower center", ncols=columns, fontsize=9, frameon=False)
    title += "labels: QDP's speedup over PennyLane's path; hollow: extrapolated"
    figure.suptitle(title, fontsize=10.5)
    figure.tight_layout(rect=(0, 0.02 + 0.031 * rows, 1, 1))
    save(figure, path, dpi=130)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=size, squeeze=False)
