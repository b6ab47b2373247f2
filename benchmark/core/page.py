# SPDX-License-Identifier: Apache-2.0
"""A document as one HTML page that needs nothing else: tables to sort, charts to move about in.

It shows what the Markdown shows (core/document.py), drawn by Plotly in place of Matplotlib.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmark.core.document import (
    MOST_TICKS,
    WIDE,
    Block,
    Chart,
    Code,
    Heading,
    Items,
    Ranking,
    Series,
    Table,
    Text,
    anchor_of,
    errors,
    number,
)
from benchmark.core.styles import BARS, Style, colour_of, style_of

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
            case Chart() | Ranking():
                body.append(f'<div class="chart" id="chart-{block.name}"></div>')
                drawn = _plotly(block) if isinstance(block, Chart) else _plotly_ranking(block)
                charts.append({"id": f"chart-{block.name}", **drawn})
    data = json.dumps(charts).replace("</", "<\\/")
    return _PAGE.format(
        title=html.escape(title),
        contents="".join(contents),
        body="\n".join(body),
        plotly=get_plotlyjs(),
        charts=data,
    )


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
        bounds = errors(series)
        if bounds is not None:
            trace["error_y"] = {
                "type": "data",
                "symmetric": False,
                "array": bounds[1],
                "arrayminus": bounds[0],
            }
        traces.append(trace)
    layout = {
        "title": {"text": chart.title, "font": {"size": 15}},
        "xaxis": {"title": {"text": chart.x}, **_plotly_axis(chart, "x", log=chart.log_x)},
        "yaxis": {"title": {"text": chart.y}, **_plotly_axis(chart, "y", log=chart.log_y)},
        "barmode": "group",
        "height": 430,
        "margin": {"t": 50, "r": 10, "b": 50, "l": 70},
        "legend": {"font": {"size": 11}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
    }
    return {"data": traces, "layout": layout}


def _plotly_ranking(ranking: Ranking) -> Mapping[str, Any]:
    values = ranking.values
    trace = {
        "type": "scatter",
        "mode": "markers+text",
        "x": list(values),
        "y": list(ranking.names),
        "text": [f"   {number(value)}" for value in values],
        "textposition": "middle right",
        "cliponaxis": False,
        "error_x": {
            "type": "data",
            "color": "#888888",
            "symmetric": False,
            "array": [high - value for value, high in zip(values, ranking.high, strict=True)],
            "arrayminus": [value - low for value, low in zip(values, ranking.low, strict=True)],
        },
        "marker": {
            "size": 10,
            "color": [colour_of(name) for name in ranking.names],
            "symbol": ["circle-open" if hollow else "circle" for hollow in ranking.hollow],
        },
    }
    layout = {
        "title": {"text": ranking.title, "font": {"size": 15}},
        "xaxis": {
            "title": {"text": ranking.x},
            "type": "log",
            "dtick": 1,
            "exponentformat": "power",
            "gridcolor": "#e6e6e6",
        },
        "yaxis": {"autorange": "reversed", "automargin": True, "gridcolor": "#e6e6e6"},
        "height": 200 + 24 * len(values),
        "margin": {"t": 50, "r": 60, "b": 50},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
    }
    return {"data": [trace], "layout": layout}


def _plotly_axis(chart: Chart, axis: str, *, log: bool) -> dict[str, Any]:
    """Return type and ticks of an axis: the points themselves along x, decades where many are."""
    found: dict[str, Any] = {"type": "log" if log else "-", "gridcolor": "#e6e6e6"}
    if chart.bars and axis == "x":
        return found
    values = [float(one) for series in chart.series for one in getattr(series, axis) if one != 0]
    if axis == "x" and len(ticks := sorted(set(values))) <= MOST_TICKS:
        found |= {"tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks]}
    elif log:
        wide = max(values) / min(values) >= WIDE
        found |= {"dtick": 1 if wide else "D2", "exponentformat": "power" if wide else "none"}
    return found


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
th {{ cursor: pointer; background: #f6f6f6; white-space: normal; vertical-align: bottom; }}
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
