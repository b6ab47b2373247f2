# SPDX-License-Identifier: Apache-2.0
"""A document of headings, text, tables, code and charts, as Markdown and pictures.

A number enters text only through ``Book.cite``, which notes the record that it comes from; a book
that masks writes a blank in its place, so that what remains shows whether any number has no record.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.core.records import atomic_write
from benchmark.core.styles import BARS, Style, colour_of, style_of

MASK = "□"
# Up to so many different places along x are ticks themselves; logarithms over a wider range than
# this one are written as powers of ten.
MOST_TICKS = 12
WIDE = 500


@dataclass(frozen=True)
class Citation:
    """A number as written, and the record behind it: file, line and field."""

    text: str
    file: str
    line: int
    field: str


@dataclass
class Book:
    """Collects citations; masked, it hides every number cited."""

    masked: bool = False
    citations: list[Citation] = field(default_factory=list)

    def cite(self, text: str, file: str, line: int, name: str) -> str:
        """Return the text, with its record noted."""
        self.citations.append(Citation(text, file, line, name))
        return MASK if self.masked else text


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 3."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph: `code`, **bold** and [links](to) are marked as in Markdown."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Code:
    """A block of commands or versions."""

    text: str
    language: str = "bash"


@dataclass(frozen=True)
class Series:
    """A line of a chart, or its points alone, with bounds around each where they are known.

    A contender's series bears its title and has its style; ``hollow`` marks points extrapolated.
    """

    name: str
    x: Sequence[float | str]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    line: bool = True
    hollow: Sequence[bool] | None = None
    style: Style | None = None


@dataclass(frozen=True)
class Chart:
    """A chart of one name, drawn as a PNG beside the Markdown and interactively in the page."""

    name: str
    title: str
    x: str
    y: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = True
    bars: bool = False


@dataclass(frozen=True)
class Ranking:
    """A chart of one number a contender with its bounds, a row each, the first on top."""

    name: str
    title: str
    x: str
    names: Sequence[str]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    hollow: Sequence[bool]


Block = Heading | Text | Items | Table | Code | Chart | Ranking


# Markdown


def markdown(blocks: Sequence[Block]) -> str:
    """Return the document as Markdown; charts are pictures in the folder ``results`` beside it."""
    parts = []
    for block in blocks:
        match block:
            case Heading(level, text):
                parts.append(f"{'#' * level} {text}")
            case Text(text):
                parts.append(text)
            case Items(items):
                parts.append("\n".join(f"- {item}" for item in items))
            case Table(head, rows):
                lines = [head, ["---"] * len(head), *rows]
                parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
            case Code(text, language):
                parts.append(f"```{language}\n{text}\n```")
            case Chart(name, title) | Ranking(name, title):
                parts.append(f"![{title}](./results/{name}.png)")
    return "\n\n".join(parts) + "\n"


def anchor_of(heading: str) -> str:
    """Return where a link to a heading leads, as GitHub names it.

    >>> anchor_of("4.3 Batch size")
    '43-batch-size'
    """
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def prose_digits(text: str) -> list[str]:
    """Return the lines of Markdown that hold a digit outside headings, code, links and pictures.

    >>> prose_digits("# 1. Title\\n\\n`n = 12` and [a](b2.md) are fine, 7 is not\\n")
    ['`n = 12` and [a](b2.md) are fine, 7 is not']
    """
    found = []
    inside = False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
            continue
        if inside or line.startswith(("#", "![")):
            continue
        bare = re.sub(r"`[^`]*`|\]\([^)]*\)", "", line)
        if re.search(r"\d", bare):
            found.append(line)
    return found


def replaced(document: str, begin: str, end: str, content: str) -> str:
    """Return a document with what stands between two markers replaced.

    >>> replaced("a <b> old <e> c", "<b>", "<e>", "new")
    'a <b>\\n\\nnew\\n\\n<e> c'
    """
    before, rest = document.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def number(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits, never as a power of ten.

    >>> number(38520.19, 4), number(0.0301), number(216.04, 4), number(0.0)
    ('38,520', '0.0301', '216.0', '0')
    """
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):,.{max(0, places)}f}"


# Pictures


def draw(chart: Chart | Ranking, path: Path) -> None:
    """Draw a chart as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9.5, 5.2))
    if isinstance(chart, Ranking):
        draw_ranking(axes, chart)
    else:
        (_draw_bars if chart.bars else draw_lines)(axes, chart)
        axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.suptitle(chart.title, fontsize=11)
    figure.tight_layout()
    save(figure, path)


def save(figure: Any, path: Path, dpi: int = 110) -> None:
    """Write a figure as a PNG, whole or not at all, and close it."""
    from matplotlib import pyplot

    buffer = io.BytesIO()
    # No version in the file: the same records give the same picture.
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    pyplot.close(figure)
    atomic_write(path, buffer.getvalue())


def draw_lines(axes: Any, chart: Chart) -> None:
    """Draw the series of a chart that is no bars, with its axes; title and legend are left out."""
    for order, series in enumerate(chart.series):
        style = series.style or style_of(series.name, order)
        axes.errorbar(
            series.x,
            series.y,
            errors(series),
            capsize=3,
            marker=style.marker or None,
            linewidth=style.width,
            linestyle=style.dash if series.line else "none",
            label=series.name,
            color=style.colour,
        )
        hollow = [
            (x, y)
            for x, y, marked in zip(series.x, series.y, series.hollow or (), strict=False)
            if marked
        ]
        if hollow:
            axes.plot(
                *zip(*hollow, strict=True),
                linestyle="none",
                marker=style.marker,
                markerfacecolor="white",
                markeredgecolor=style.colour,
                zorder=4,
            )
    for axis, set_scale, log in (
        (axes.xaxis, axes.set_xscale, chart.log_x),
        (axes.yaxis, axes.set_yscale, chart.log_y),
    ):
        if log:
            set_scale("log")
        _set_ticks(axis, log=log)
    ticks = sorted({float(x) for series in chart.series for x in series.x})
    # Numbers that were chosen, as of qubits; measured ones make no ticks.
    if len(ticks) <= MOST_TICKS and all(tick.is_integer() for tick in ticks):
        axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.grid(True, which="major", alpha=0.35)
    axes.grid(True, which="minor", axis="y", alpha=0.12)


def _set_ticks(axis: Any, *, log: bool) -> None:
    """Write plain numbers on a logarithmic axis of few decades, integers on a long linear one."""
    from matplotlib import ticker

    low, high = axis.get_view_interval()
    if not log and high - low >= 5:
        axis.set_major_locator(ticker.MaxNLocator(integer=True))
    if log and high / low < WIDE:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(ticker.NullFormatter())


def draw_ranking(axes: Any, ranking: Ranking) -> None:
    """Draw each contender's number on a logarithmic axis, with its value beside it."""
    rows = zip(
        ranking.names, ranking.values, ranking.low, ranking.high, ranking.hollow, strict=True
    )
    for place, (name, value, low, high, hollow) in enumerate(rows):
        colour = colour_of(name)
        axes.errorbar(
            value,
            place,
            xerr=[[value - low], [high - value]],
            marker="o",
            markersize=8,
            capsize=3,
            color=colour,
            markerfacecolor="white" if hollow else colour,
        )
        axes.annotate(
            number(value),
            (high, place),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_yticks(range(len(ranking.names)), ranking.names)
    axes.invert_yaxis()
    axes.set_xlabel(ranking.x)
    axes.grid(True, which="major", alpha=0.35)


def _draw_bars(axes: Any, chart: Chart) -> None:
    """Draw groups of bars, each with its value above: on a logarithmic axis lengths say little."""
    names = list(dict.fromkeys(str(x) for series in chart.series for x in series.x))
    width = 0.8 / max(1, len(chart.series))
    for order, series in enumerate(chart.series):
        shift = (order - (len(chart.series) - 1) / 2) * width
        drawn = axes.bar(
            [names.index(str(x)) + shift for x in series.x],
            series.y,
            width,
            yerr=errors(series),
            capsize=2,
            label=series.name,
            color=BARS[order % len(BARS)],
        )
        axes.bar_label(drawn, [number(y) for y in series.y], fontsize=8, padding=2)
    if chart.log_y:
        axes.set_yscale("log")
    axes.margins(y=0.08)
    long = len(names) > 4
    axes.set_xticks(
        range(len(names)),
        names,
        fontsize=9,
        rotation=20 if long else 0,
        ha="right" if long else "center",
        rotation_mode="anchor",
    )
    axes.set_ylabel(chart.y)
    axes.grid(True, axis="y", alpha=0.35)
    axes.set_axisbelow(True)


def errors(series: Series) -> list[list[float]] | None:
    """Return how far the bounds lie below and above each point, None where they are unknown."""
    if series.low is None or series.high is None:
        return None
    return [
        [max(0.0, y - low) for y, low in zip(series.y, series.low, strict=True)],
        [max(0.0, high - y) for y, high in zip(series.y, series.high, strict=True)],
    ]
