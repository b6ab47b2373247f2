# SPDX-License-Identifier: Apache-2.0
"""A document of headings, text, tables, code and charts, and its two forms: Markdown and one page.

A number enters text only through ``Book.cite``, which notes the record that it comes from; a book
that masks writes a blank in its place, so that what remains shows whether any number has no record.
"""

from __future__ import annotations

import html
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.core.records import atomic_write
from benchmark.core.styles import BARS, Style, style_of

MASK = "□"
# Plotly's words for Matplotlib's markers and lines.
_SYMBOLS = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "<": "triangle-left",
    ">": "triangle-right",
    "P": "cross",
    "X": "x",
    "*": "star",
    "h": "hexagon",
    "p": "pentagon",
}
_DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}


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


Block = Heading | Text | Items | Table | Code | Chart


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
            case Chart(name, title):
                parts.append(f"![{title}](./results/{name}.png)")
    return "\n\n".join(parts) + "\n"


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


def draw(chart: Chart, path: Path) -> None:
    """Draw a chart as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9.5, 5.2))
    if chart.bars:
        _draw_bars(axes, chart)
    else:
        draw_lines(axes, chart)
    axes.set_title(chart.title, fontsize=11)
    axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
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
            _errors(series),
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
    if len(ticks) <= 12:
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
    if log and high / low < 500:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(ticker.NullFormatter())


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
            yerr=_errors(series),
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


def _errors(series: Series) -> list[list[float]] | None:
    if series.low is None or series.high is None:
        return None
    return [
        [max(0.0, y - low) for y, low in zip(series.y, series.low, strict=True)],
        [max(0.0, high - y) for y, high in zip(series.y, series.high, strict=True)],
    ]


# The page


def page(blocks: Sequence[Block], title: str) -> str:
    """Return the document as one HTML file that needs nothing else; charts are interactive."""
    from plotly.offline import get_plotlyjs

    body = []
    charts: list[dict[str, Any]] = []
    contents = []
    for block in blocks:
        match block:
            case Heading(level, text):
                anchor = anchor_of(text)
                body.append(f'<h{level} id="{anchor}">{inline(text)}</h{level}>')
                if level == 2:
                    contents.append(f'<li><a href="#{anchor}">{inline(text)}</a></li>')
            case Text(text):
                body.append(f"<p>{inline(text)}</p>")
            case Items(items):
                body.append("<ul>" + "".join(f"<li>{inline(one)}</li>" for one in items) + "</ul>")
            case Table(head, rows):
                body.append(_table(head, rows))
            case Code(text):
                body.append(f"<pre><code>{html.escape(text)}</code></pre>")
            case Chart():
                body.append(f'<div class="chart" id="chart-{block.name}"></div>')
                charts.append({"id": f"chart-{block.name}", **_plotly(block)})
    data = json.dumps(charts).replace("</", "<\\/")
    return _PAGE.format(
        title=html.escape(title),
        contents="".join(contents),
        body="\n".join(body),
        plotly=get_plotlyjs(),
        charts=data,
    )


def anchor_of(heading: str) -> str:
    """Return where a link to a heading leads, as GitHub names it.

    >>> anchor_of("4.3 Batch size")
    '43-batch-size'
    """
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def inline(text: str) -> str:
    """Return a text's marks as HTML.

    >>> inline("**a** `b < c` [d](e.md)")
    '<b>a</b> <code>b &lt; c</code> <a href="e.md">d</a>'
    """
    found = html.escape(text, quote=False)
    rules: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]] = (
        (r"`([^`]+)`", r"<code>\1</code>"),
        (r"\*\*([^*]+)\*\*", r"<b>\1</b>"),
        (r"\[([^\]]+)\]\(([^)]+)\)", r'<a href="\2">\1</a>'),
    )
    for pattern, replacement in rules:
        found = re.sub(pattern, replacement, found)
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    heads = "".join(f"<th>{inline(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{inline(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def _plotly(chart: Chart) -> Mapping[str, Any]:
    traces = []
    for order, series in enumerate(chart.series):
        trace: dict[str, Any] = {
            "name": series.name,
            "x": list(series.x),
            "y": list(series.y),
            "type": "bar" if chart.bars else "scatter",
        }
        if chart.bars:
            trace["marker"] = {"color": BARS[order % len(BARS)]}
            trace["text"] = [number(y) for y in series.y]
            trace["textposition"] = "outside"
        else:
            trace |= _plotly_style(series, series.style or style_of(series.name, order))
        errors = _errors(series)
        if errors is not None:
            trace["error_y"] = {
                "type": "data",
                "symmetric": False,
                "array": errors[1],
                "arrayminus": errors[0],
            }
        traces.append(trace)
    layout = {
        "title": {"text": chart.title, "font": {"size": 15}},
        "xaxis": {"title": {"text": chart.x}, "type": "log" if chart.log_x else "-"},
        "yaxis": {"title": {"text": chart.y}, "type": "log" if chart.log_y else "-"},
        "barmode": "group",
        "height": 430,
        "margin": {"t": 50, "r": 10, "b": 50, "l": 70},
        "legend": {"font": {"size": 11}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
    }
    for axis in ("xaxis", "yaxis"):
        layout[axis]["gridcolor"] = "#e6e6e6"  # type: ignore[index]
    return {"data": traces, "layout": layout}


def _plotly_style(series: Series, style: Style) -> dict[str, Any]:
    parts = [*(["lines"] if series.line else []), *(["markers"] if style.marker else [])]
    symbol = _SYMBOLS.get(style.marker, "circle")
    marked = series.hollow or [False] * len(series.x)
    return {
        "mode": "+".join(parts),
        "line": {"color": style.colour, "dash": _DASHES[style.dash], "width": style.width},
        "marker": {
            "color": style.colour,
            "size": 8,
            "symbol": [f"{symbol}-open" if one else symbol for one in marked],
        },
    }


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
body {{ font: 16px/1.55 system-ui, sans-serif; color: #222; max-width: 66rem; margin: 2rem auto;
  padding: 0 1.2rem; }}
h1 {{ font-size: 1.9rem; }} h2 {{ margin-top: 2.6rem; border-bottom: 1px solid #ddd; }}
table {{ border-collapse: collapse; font-size: .88rem; margin: 1rem 0; display: block;
  overflow-x: auto; }}
th, td {{ border-bottom: 1px solid #e4e4e4; padding: .3rem .7rem; text-align: left;
  white-space: nowrap; }}
th {{ cursor: pointer; background: #f6f6f6; }}
th::after {{ content: " \\2195"; color: #bbb; }}
pre {{ background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .85rem; }}
code {{ background: #f6f6f6; font-size: .9em; }}
nav ul {{ columns: 2; padding-left: 1.2rem; }}
.chart {{ margin: 1.2rem 0; }}
</style>
</head>
<body>
<nav><ul>{contents}</ul></nav>
{body}
<script>{plotly}</script>
<script>
const charts = {charts};
for (const chart of charts)
  Plotly.newPlot(chart.id, chart.data, chart.layout, {{responsive: true, displaylogo: false}});
// A click on a column's head sorts the table by it: by numbers where both cells begin with one.
function key(cell) {{
  const number = parseFloat(cell.textContent.replace(/,/g, ""));
  return Number.isNaN(number) ? cell.textContent : number;
}}
for (const head of document.querySelectorAll("th"))
  head.addEventListener("click", () => {{
    const body = head.closest("table").tBodies[0], column = head.cellIndex;
    const down = head.dataset.order !== "up";
    head.dataset.order = down ? "up" : "down";
    const rows = Array.from(body.rows).sort((a, b) => {{
      const x = key(a.cells[column]), y = key(b.cells[column]);
      const order = typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0) :
        typeof x === "number" ? -1 : 1;
      return down ? order : -order;
    }});
    body.append(...rows);
  }});
</script>
</body>
</html>
"""
