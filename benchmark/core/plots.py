# SPDX-License-Identifier: Apache-2.0
"""Plots of records: a comparison over samples, and sweeps over all that grows."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.core.contenders import CONTENDERS, ENCODERS, ROADMAP_RIVAL
from benchmark.core.records import Leg, atomic_write
from benchmark.core.report import METHOD_TITLES, find, speedup, times

_MARKERS = "osD^v<>PX*hp"


def write_plot(path: Path, run: Mapping[str, Any], legs: Sequence[Leg]) -> None:
    """Draw a PNG; QDP's points carry their speedup over PennyLane's path, hollow points are
    extrapolated from fewer rows, bars are 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    case, hardware = run["case"], run["environment"]
    figure, (time_axes, rate_axes) = pyplot.subplots(1, 2, figsize=(13, 6.2))
    order = list(CONTENDERS)
    timed = sorted({leg.contender for leg in legs if leg.ok}, key=order.index)
    colours = pyplot.get_cmap("tab20")
    for contender in timed:
        own = sorted(
            (leg for leg in legs if leg.ok and leg.contender == contender),
            key=lambda leg: leg.n_samples,
        )
        number = order.index(contender)
        style = {
            "color": colours(number % 20),
            "marker": _MARKERS[number % len(_MARKERS)],
            "linewidth": 2.4 if contender == "qdp" else 1.4,
            "zorder": 3 if contender == "qdp" else 2,
        }
        label = f"{own[0].title} ({own[0].rule})"
        sizes = [leg.n_samples for leg in own]
        totals = [leg.total for leg in own]
        errors = [
            [total.median - total.low for total in totals],
            [total.high - total.median for total in totals],
        ]
        time_axes.errorbar(
            sizes, [total.median for total in totals], errors, capsize=3, label=label, **style
        )
        rate_axes.plot(sizes, [leg.throughput for leg in own], label=label, **style)
        hollow = [leg for leg in own if leg.extrapolated]
        for axes, heights in (
            (time_axes, [leg.total.median for leg in hollow]),
            (rate_axes, [leg.throughput for leg in hollow]),
        ):
            axes.plot(
                [leg.n_samples for leg in hollow],
                heights,
                linestyle="none",
                marker=style["marker"],
                markerfacecolor="white",
                markeredgecolor=style["color"],
                zorder=4,
            )
    for n_samples in sorted({leg.n_samples for leg in legs}):
        here = [leg for leg in legs if leg.n_samples == n_samples]
        own_leg, rival = find(here, "qdp"), find(here, ROADMAP_RIVAL)
        if own_leg is None or rival is None:
            continue
        text = times(speedup(rival, own_leg).value)
        for axes, height, below in (
            (time_axes, own_leg.total.median, True),
            (rate_axes, own_leg.throughput, False),
        ):
            axes.annotate(
                text,
                (n_samples, height),
                textcoords="offset points",
                xytext=(0, -16 if below else 9),
                ha="center",
                fontsize=9,
                fontweight="bold",
                zorder=5,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
            )
    ticks = sorted({leg.n_samples for leg in legs if leg.ok})
    for axes, name in ((time_axes, "Total time (ms)"), (rate_axes, "Throughput (samples/s)")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_on()
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axes.set_xlabel("Number of samples")
        axes.set_ylabel(name)
        axes.margins(x=0.12, y=0.12)
        axes.grid(True, which="major", alpha=0.35)
        axes.grid(True, which="minor", axis="y", alpha=0.12)
    handles, labels = time_axes.get_legend_handles_labels()
    columns = 3 if len(labels) > 2 else max(1, len(labels))
    rows = -(-len(labels) // columns)
    figure.legend(handles, labels, loc="lower center", ncols=columns, fontsize=9, frameon=False)
    figure.suptitle(
        f"Per-sample gradients: {case['n_qubits']} qubits, {case['n_layers']} layers, "
        f"{len(case['parameters'])} parameters, {case['observable']}, {case['precision']} precision"
        f" - QDP by {METHOD_TITLES[case['method']].lower()}\n"
        f"{run['dataset']['name']}; {hardware['cpu']}, {case['threads']} threads; "
        "labels: QDP's speedup over PennyLane's path; hollow: extrapolated",
        fontsize=10.5,
    )
    figure.tight_layout(rect=(0, 0.02 + 0.031 * rows, 1, 1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    pyplot.close(figure)
    atomic_write(path, buffer.getvalue())


# What a sweep varies, as the axis under its plot: the words, and where a leg has the number.
AXES: dict[str, tuple[str, Callable[[Leg], float]]] = {
    "samples": ("Number of samples", lambda leg: leg.n_samples),
    "batch": ("Rows in one call", lambda leg: leg.n_samples),
    "qubits": ("Number of qubits", lambda leg: leg.case["n_qubits"]),
    "layers": ("Number of layers", lambda leg: leg.case["n_layers"]),
    "threads": ("Threads", lambda leg: leg.case["threads"]),
}


def series_title(leg: Leg) -> str:
    """Return what a sweep of the leg measures."""
    case = leg.case
    if case["kind"] == "encoding":
        return f"{case['encoding']} encoding"
    return f"{case['method']} gradients"


def style_of(contender: str) -> dict[str, Any]:
    """Return colour and marker of a contender, the same in every plot."""
    from matplotlib import pyplot

    order = [*CONTENDERS, *(name for name in ENCODERS if name not in CONTENDERS)]
    number = order.index(contender)
    own = contender == "qdp"
    return {
        "color": pyplot.get_cmap("tab20")(number % 20),
        "marker": _MARKERS[number % len(_MARKERS)],
        "linewidth": 2.4 if own else 1.4,
        "zorder": 3 if own else 2,
    }


def draw_sweep(axes: Any, legs: Sequence[Leg], sweep: str, *, latency: bool = False) -> None:
    """Draw throughput, or milliseconds a sample, of one series against what its sweep varies."""
    words, number = AXES[sweep]
    for contender in dict.fromkeys(leg.contender for leg in legs):
        own = sorted((leg for leg in legs if leg.ok and leg.contender == contender), key=number)
        if not own:
            continue
        places = [number(leg) for leg in own]
        scales = [1 / leg.n_samples for leg in own]
        totals = [leg.total for leg in own]
        if latency:
            middle = [total.median * scale for total, scale in zip(totals, scales, strict=True)]
            low = [total.low * scale for total, scale in zip(totals, scales, strict=True)]
            high = [total.high * scale for total, scale in zip(totals, scales, strict=True)]
        else:
            middle = [leg.throughput for leg in own]
            low = [1e3 * leg.n_samples / leg.total.high for leg in own]
            high = [1e3 * leg.n_samples / leg.total.low for leg in own]
        errors = [
            [at - bound for at, bound in zip(middle, low, strict=True)],
            [bound - at for at, bound in zip(middle, high, strict=True)],
        ]
        style = style_of(contender)
        axes.errorbar(places, middle, errors, capsize=3, label=own[0].title, **style)
        hollow = [
            (at, to) for leg, at, to in zip(own, places, middle, strict=True) if leg.extrapolated
        ]
        if hollow:
            colours = {"markerfacecolor": "white", "markeredgecolor": style["color"]}
            axes.plot(
                *zip(*hollow, strict=True),
                linestyle="none",
                marker=style["marker"],
                zorder=4,
                **colours,
            )
    axes.set_yscale("log")
    if sweep in ("samples", "batch"):
        axes.set_xscale("log")
    ticks = sorted({number(leg) for leg in legs})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_on()
    axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axes.set_xlabel(words)
    axes.set_ylabel("Latency (ms a sample)" if latency else "Throughput (samples/s)")
    axes.grid(True, which="major", alpha=0.35)
    axes.grid(True, which="minor", axis="y", alpha=0.12)


def sweeps_of(legs: Sequence[Leg]) -> dict[tuple[str, str], list[Leg]]:
    """Return the legs of each series: by sweep and by what is measured."""
    series: dict[tuple[str, str], list[Leg]] = {}
    for leg in legs:
        series.setdefault((leg.sweep, series_title(leg)), []).append(leg)
    return {key: found for key, found in series.items() if any(leg.ok for leg in found)}


def write_scaling_plot(path: Path, run: Mapping[str, Any], legs: Sequence[Leg]) -> None:
    """Draw a PNG of all sweeps: throughput left and latency right, a row a series."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    series = sweeps_of(legs)
    if not series:
        raise ValueError("expected at least one timed leg to plot, got none")
    figure, grid = pyplot.subplots(
        len(series), 2, figsize=(14, 4.4 * len(series) + 0.8), squeeze=False
    )
    for axes, ((sweep, title), found) in zip(grid, series.items(), strict=True):
        draw_sweep(axes[0], found, sweep)
        draw_sweep(axes[1], found, sweep, latency=True)
        axes[0].set_title(f"{title} against {sweep}", fontsize=10.5)
        axes[1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.suptitle(
        f"{run['dataset']['name']}; {run['environment']['cpu']}; bars are bootstrap intervals; "
        "hollow: extrapolated",
        fontsize=10.5,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.985))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    pyplot.close(figure)
    atomic_write(path, buffer.getvalue())
