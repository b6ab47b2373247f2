# SPDX-License-Identifier: Apache-2.0
"""The comparison plot: time and throughput against samples, a line a contender."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.core.contenders import CONTENDERS, ROADMAP_RIVAL
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
