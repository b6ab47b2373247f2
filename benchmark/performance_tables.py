# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/performance.md and performance-cuda.md from benchmark/results.

Everything between the markers is replaced; the text around it is written by hand. With
``--check`` nothing is written and a difference is exit status 1.

    python -m benchmark.performance_tables
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.core import gpu_tables, records, statistics
from benchmark.core.contenders import OWN
from benchmark.core.document import Block, Heading, Items, Table, Text, markdown, replaced
from benchmark.core.goals import GOALS, Goal, best_triad, data_plane, time_over
from benchmark.core.ratios import fastest_rival, find, ratio_words, speedup
from benchmark.core.records import Leg, read_lines

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmark" / "results"
DOCUMENT = REPOSITORY / "docs" / "performance.md"
GPU_DOCUMENT = REPOSITORY / "docs" / "performance-cuda.md"
BEGIN = "<!-- {name}: begin, written by benchmark.performance_tables -->"
END = "<!-- {name}: end -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return markdown([Table(head, list(rows))]).splitlines()


def per_row(leg: Leg) -> str:
    """Return the microseconds a row takes, with the interval of the median."""
    total = leg.total
    scale = 1e3 / leg.n_samples
    mark = "*" if leg.extrapolated else ""
    spread = f"{total.low * scale:.4g} to {total.high * scale:.4g}"
    return f"{total.median * scale:.4g}{mark} ({spread})"


def comparison(path: Path, run: Mapping[str, Any], legs: Sequence[Leg]) -> list[str]:
    """Return the section of one recorded comparison."""
    arguments, machine = run["arguments"], run["environment"]
    case = run["case"]
    lines = [
        f"### n = {case['n_qubits']}, {arguments['method']}, {arguments['observable']}",
        "",
        f"[{path.name}](../benchmark/results/{path.name}): {run['dataset']['name']}, "
        f"{arguments['precision']} precision, {case['threads']} threads, {machine['cpu']}, "
        f"commit {str(machine['git']['commit'])[:10]}. Microseconds a row, median and its "
        "interval; * on fewer rows.",
        "",
    ]
    rows = []
    for n_samples in sorted({leg.n_samples for leg in legs}):
        of_size = [leg for leg in legs if leg.n_samples == n_samples]
        fused, own = find(of_size, "qdp-fused"), find(of_size, "qdp")
        timed = sorted((leg for leg in of_size if leg.ok), key=lambda leg: leg.total.median)
        for leg in timed:
            is_own = leg.contender in OWN
            rows.append(
                [
                    str(n_samples),
                    leg.contender,
                    per_row(leg),
                    ratio_words(leg, fused) if fused and not is_own else "",
                    ratio_words(leg, own) if own and not is_own else "",
                ]
            )
        for leg in of_size:
            if not leg.ok:
                rows.append([str(n_samples), leg.contender, f"{leg.status}: {leg.reason}", "", ""])
    head = ["rows", "contender", "us a row", "time over qdp-fused", "time over qdp"]
    return [*lines, *table(head, rows), ""]


def rates(path: Path, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the sections of one run of benchmark.engine_rates."""
    run = lines[0]
    commit = str(run["git"]["commit"])[:10]
    calls = [
        [
            str(one["kind"]),
            str(one["n_qubits"]),
            str(one["rows"]),
            str(one["precision"]),
            str(one["threads"]),
            f"{one['us_per_row']:.4g}",
            f"{one['flop_per_s'] / 1e9:.3g}",
            f"{one['fraction_of_peak']:.0%}",
        ]
        for one in lines
        if one["record"] == "call"
    ]
    machines = [one for one in lines if one["record"] == "machine"]
    levels = list(machines[0]["bytes_per_s"])
    kernels = [
        [
            str(one["kind"]),
            str(one["n_qubits"]),
            str(one["kernel"]),
            f"{one['us_per_row']:.4g}",
            f"{one['flop_per_s'] / 1e9:.3g}",
            f"{one['fraction_of_peak']:.0%}",
            f"{one['bytes_per_s'] / 1e9:.3g}",
            *(f"{one['bytes_per_s'] / machines[0]['bytes_per_s'][level]:.0%}" for level in levels),
        ]
        for one in lines
        if one["record"] == "kernel"
    ]
    return [
        "### The engine against the processor",
        "",
        f"[{path.name}](../benchmark/results/{path.name}): {run['cpu']}, commit {commit}. Two "
        "layers of the ladder, sum of Z, raw features in, all Python included.",
        "",
        *table(
            ["what", "n", "rows", "precision", "threads", "us a row", "GFLOP/s", "of peak"], calls
        ),
        "",
        "What the machine can do: multiply-adds on registers, and a triad in each level of the "
        "memory, GB/s.",
        "",
        *table(
            ["threads", "GFLOP/s", *levels],
            [
                [
                    str(one["threads"]),
                    f"{one['flop_per_s'] / 1e9:.3g}",
                    *(f"{one['bytes_per_s'][level] / 1e9:.3g}" for level in levels),
                ]
                for one in machines
            ],
        ),
        "",
        "### Each kernel",
        "",
        "Within those runs, on one thread in double precision: arithmetic against multiply-adds on "
        "registers, lines and tables moved against the triads.",
        "",
        *table(
            ["what", "n", "kernel", "us a row", "GFLOP/s", "of peak", "GB/s"]
            + [f"of {level}" for level in levels],
            kernels,
        ),
        "",
    ]


def us_per_row(line: Mapping[str, Any]) -> str:
    """Return the microseconds a row takes, with the interval of the median."""
    low, high = line["us_per_row_interval"]
    mark = "*" if line.get("extrapolated") else ""
    return f"{line['us_per_row']:.4g}{mark} ({low:.4g} to {high:.4g})"


def encoding_rates(path: Path, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the sections of one run of benchmark.encoding_rates."""

    def of_kind(record: str) -> list[Mapping[str, Any]]:
        return [line for line in lines if line["record"] == record]

    def over_qdp(line: Mapping[str, Any], *same: str) -> str:
        if line["contender"] == "qdp":
            return ""
        own = next(
            other
            for other in of_kind(line["record"])
            if other["contender"] == "qdp" and all(other[key] == line[key] for key in same)
        )
        return time_over(line, own)

    run = lines[0]
    triad = best_triad(lines)
    encoders = [
        [
            line["encoding"],
            str(line["n_qubits"]),
            str(line["rows"]),
            line["contender"],
            us_per_row(line),
            f"{line['bytes_per_s'] / 1e9:.3g}",
            f"{line['bytes_per_s'] / triad:.0%}",
            over_qdp(line, "encoding", "n_qubits"),
        ]
        for line in of_kind("encoding")
    ]
    streams = [
        [
            line["format"],
            str(line["rows"]),
            line["contender"],
            us_per_row(line),
            f"{line['fraction_of_ideal']:.0%}" if "fraction_of_ideal" in line else "",
            f"{line['peak_resident_bytes'] / 2**20:.0f}" if line.get("peak_resident_bytes") else "",
        ]
        for line in of_kind("stream")
    ]
    large = [
        f"A `.npy` file of {line['file_bytes'] / 2**30:.1f} GiB to states of n = "
        f"{line['n_qubits']}: {line['us_per_row']:.4g} us a row, at most "
        f"{line['peak_anonymous_bytes'] / 2**20:.0f} MiB of anonymous memory.\n"
        for line in of_kind("large-stream")
    ]
    caches = [
        [
            line["contender"],
            f"{line['stored_bytes'] / 2**20:.0f}",
            f"{1e3 * statistics.median(line['seconds']):.4g}",
            f"{line['bytes_per_s'] / 1e9:.3g}" if "bytes_per_s" in line else "",
        ]
        for line in of_kind("cache")
    ]
    kernels = [
        [
            line["dtype"],
            str(line["rows"]),
            line["contender"],
            f"{line['ns_per_pair']:.3g}",
            over_qdp(line, "dtype"),
        ]
        for line in of_kind("kernel")
    ]
    return [
        "### Rows to states",
        "",
        f"[{path.name}](../benchmark/results/{path.name}): {run['cpu']}, commit "
        f"{str(run['git']['commit'])[:10]}. Double precision, features read and states written "
        "counted as traffic; the machine's best triad over as many bytes moves "
        f"{triad / 1e9:.3g} GB/s. All but `qdp-fresh` and `pennylane` write into one reused "
        "buffer; * on fewer rows.",
        "",
        *table(
            ["encoding", "n", "rows", "contender", "us a row", "GB/s", "of triad", "time over qdp"],
            encoders,
        ),
        "",
        "### Files to states",
        "",
        "Amplitude encoding into a reused buffer, chunk by chunk, files in the page cache. The "
        "ideal is reading and then encoding; `parquet` is read by pyarrow itself, `npy` copied "
        "from the mapped file. Peak resident memory of a process that streams the file, pages "
        "of the mapped file included.",
        "",
        *table(["format", "rows", "what", "us a row", "of the ideal", "peak MiB"], streams),
        "",
        *large,
        "### The state cache",
        "",
        "Every file is checked before its rows are handed out; a hit opens the source and the "
        "cache, and returns the first batch of states.",
        "",
        *table(["what", "stored MiB", "ms", "GB/s"], caches),
        "",
        "### The fidelity kernel",
        "",
        *table(["dtype", "states", "contender", "ns a pair", "time over qdp"], kernels),
        "",
    ]


def comparisons(results: Path) -> list[tuple[Path, Mapping[str, Any], list[Leg]]]:
    """Return the recorded comparisons of gradients, in the order of methods and sizes."""

    def key(item: tuple[Path, Mapping[str, Any], list[Leg]]) -> tuple[str, str, int, str]:
        path, run, _ = item
        arguments = run["arguments"]
        return arguments["method"], arguments["observable"], run["case"]["n_qubits"], path.name

    paths = results.glob("gradient_benchmark_*.jsonl")
    return sorted(((path, *records.read_records(path)) for path in paths), key=key)


def goal_rows(goal: Goal, results: Path) -> list[list[str]]:
    """Return the goal's line, and one for the fastest rival where that is another."""
    found = None
    for _, run, legs in comparisons(results):
        arguments = run["arguments"]
        if (goal.n_qubits, goal.method, goal.observable) == (
            run["case"]["n_qubits"],
            arguments["method"],
            arguments["observable"],
        ):
            found = legs
    what = f"{goal.method}, n = {goal.n_qubits}, {goal.observable}"
    if found is None:
        return [[what, goal.rival, f"{goal.times:g}", "no record", "no record", ""]]
    rule = goal.method if goal.method == "parameter-shift" else None

    def line(rival: Leg, of_size: Sequence[Leg], wanted: float | None) -> list[str]:
        own = [find(of_size, name) for name in ("qdp-fused", "qdp")]
        ratios = [ratio_words(rival, leg) if leg else "" for leg in own]
        best = max(speedup(rival, leg).value for leg in own if leg)
        verdict = "" if wanted is None else "reached" if best >= wanted else "missed"
        sizes = f"{what}, {rival.n_samples} rows"
        return [sizes, rival.contender, f"{wanted:g}" if wanted else "", *ratios, verdict]

    lines = []
    n_samples = max(leg.n_samples for leg in found if find([leg], goal.rival))
    of_size = [leg for leg in found if leg.n_samples == n_samples]
    rival = find(of_size, goal.rival)
    assert rival is not None
    lines.append(line(rival, of_size, goal.times))
    fastest = fastest_rival(of_size, rule)
    named = {
        other.rival
        for other in GOALS
        if replace(other, rival="", times=0) == replace(goal, rival="", times=0)
    }
    if fastest is not None and fastest.contender not in named:
        lines.append(line(fastest, of_size, None))
    return lines


def goals(results: Path = RESULTS) -> str:
    """Return the table of goals; a line without a goal is the fastest rival of the one above."""
    head = ["what", "rival", "goal", "qdp-fused", "qdp", ""]
    lines: list[list[str]] = []
    for goal in GOALS:
        lines += goal_rows(goal, results)
    return "\n".join([*table(head, lines), ""])


def data_plane_goals(results: Path = RESULTS) -> str:
    """Return the table of the data plane's goals, from the newest benchmark.encoding_rates."""
    path = sorted(results.glob("encoding_rates_*.jsonl"))[-1]
    rows = [
        [one.what, one.goal, one.measured, "reached" if one.reached else "missed"]
        for one in data_plane(read_lines(path))
    ]
    return "\n".join([*table(["what", "goal", "measured", ""], rows), ""])


def sections(results: Path = RESULTS) -> str:
    """Return all tables, in the order of sizes, comparisons first."""
    text: list[str] = []
    for path, run, legs in comparisons(results):
        text += comparison(path, run, legs)
    for path in sorted(results.glob("engine_rates_*.jsonl")):
        text += rates(path, read_lines(path))
    for path in sorted(results.glob("encoding_rates_*.jsonl")):
        text += encoding_rates(path, read_lines(path))
    return "\n".join(text)


def gpu_rates(results: Path = RESULTS) -> str:
    """Return the sections of the newest run of benchmark.gpu_rates, or the goals alone."""
    found = gpu_tables.newest(results)
    if found is None:
        none = "No record has been taken on a GPU. `make gpu`, on a machine with one, takes it."
        return markdown([Text(none), Table(gpu_tables.GOALS_HEAD, gpu_tables.goals(None))])
    path, record = found
    run = record.run
    blocks: list[Block] = [
        Text(
            f"[{path.name}](../benchmark/results/{path.name}), commit "
            f"{str(run['git']['commit'])[:10]}. {gpu_tables.machine_words(record)} Timed region, "
            f"where a leg names no other: {run['timed_region']}."
        ),
        Table(gpu_tables.GOALS_HEAD, gpu_tables.goals(record)),
        Heading(3, "Encoding"),
        Table(gpu_tables.ENCODING_HEAD, gpu_tables.encoding(record)),
        Heading(3, "Gradients"),
        Text("Per sample; * on fewer rows."),
        Table(gpu_tables.GRADIENTS_HEAD, gpu_tables.gradients(record)),
        Heading(3, "Each kernel"),
        Text(
            "Timed by itself, its launch included. The floor is the longest of its arithmetic, its "
            "traffic with device memory, and that with shared memory, at the rates above."
        ),
        Table(gpu_tables.KERNELS_HEAD, gpu_tables.kernels(record)),
    ]
    notes = [*gpu_tables.disclosures(record), *gpu_tables.stopped(record)]
    return markdown([*blocks, Items(notes)] if notes else blocks)


def written(document: str, name: str, text: str) -> str:
    """Return the document with what stands between the two markers of that name replaced."""
    return replaced(document, BEGIN.format(name=name), END.format(name=name), text.rstrip())


def main(arguments: list[str] | None = None) -> int:
    """Write the documents, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args(arguments)
    status = 0
    for path, parts in (
        (
            DOCUMENT,
            {"goals": goals, "data plane goals": data_plane_goals, "tables": sections},
        ),
        (GPU_DOCUMENT, {"rates": gpu_rates}),
    ):
        document = wanted = path.read_text(encoding="utf-8")
        for name, part in parts.items():
            wanted = written(wanted, name, part())
        if options.check:
            status |= int(wanted != document)
        elif wanted != document:
            records.atomic_write(path, wanted.encode())
    return status


if __name__ == "__main__":
    sys.exit(main())
