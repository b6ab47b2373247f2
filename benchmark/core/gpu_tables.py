# SPDX-License-Identifier: Apache-2.0
"""What the records of benchmark/gpu_rates.py say, as tables of texts; goals reached and missed.

Used by the report, which cites the record behind each figure, and by docs/performance-cuda.md. A
goal without a record reads "not yet measured".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.core import report, statistics
from benchmark.core.contenders import OWN
from benchmark.core.document import number
from benchmark.core.records import Leg, newest_whole, read_lines

NOT_YET = "not yet measured"
COMMAND = "python -m benchmark.gpu_rates --output-dir benchmark/results"

Line = Mapping[str, Any]
Rows = list[list[str]]
# Turns a figure into what is shown: the line it comes from, its text, and its field.
Cite = Callable[[Line, str, str], str]


def uncited(line: Line, text: str, name: str) -> str:
    """Return the figure as it is."""
    return text


@dataclass(frozen=True)
class GpuRecords:
    """The lines of one file of benchmark/gpu_rates.py."""

    lines: Sequence[Line]
    cite: Cite = uncited

    @functools.cached_property
    def legs(self) -> list[tuple[Line, Leg]]:
        """The legs, each with its line."""
        return [(line, Leg.from_json(line)) for line in self.lines if line["record"] == "leg"]

    @property
    def run(self) -> Line:
        """The first line."""
        return self.lines[0]

    @property
    def machine(self) -> Line | None:
        """What the GPU can do, if that was measured."""
        return next((line for line in self.lines if line["record"] == "machine"), None)

    @property
    def kernels(self) -> list[Line]:
        """The kernels' lines."""
        return [line for line in self.lines if line["record"] == "kernel"]

    def points(self) -> Iterator[list[tuple[Line, Leg]]]:
        """Yield the legs of each case, in the order of the file."""
        found: dict[tuple[str, str, int], list[tuple[Line, Leg]]] = {}
        for line, leg in self.legs:
            found.setdefault(leg.point, []).append((line, leg))
        yield from found.values()

    def find(self, part: str, names: Sequence[str], **case: Any) -> tuple[Line, Leg] | None:
        """Return the fastest timed leg of those names, in a part, of a case with those facts."""
        found = [
            (line, leg)
            for line, leg in self.legs
            if leg.ok
            and leg.sweep == part
            and leg.contender in names
            and all(leg.case.get(name) == value for name, value in case.items())
        ]
        return min(found, key=lambda one: one[1].total.median, default=None)


def newest(folder: Path) -> tuple[Path, GpuRecords] | None:
    """Return the newest whole-sized record of a folder, None where none has been taken."""
    path = newest_whole(folder, "gpu_rates")
    return None if path is None else (path, GpuRecords(read_lines(path)))


def row_bytes(leg: Leg) -> int:
    """Return the bytes of features that an encoder reads for a row, and of states that it writes.

    >>> case = {"kind": "encoding", "encoding": "angle", "n_qubits": 3, "precision": "double"}
    >>> row_bytes(Leg("qdp-cuda", "QDP", "none", 1, "ok", case=case))
    152
    """
    n_qubits = leg.case["n_qubits"]
    width = 1 << n_qubits if leg.case["encoding"] == "amplitude" else n_qubits
    return 8 * width + ((16 if leg.case["precision"] == "double" else 8) << n_qubits)


def scaled(leg: Leg, amount: float) -> statistics.Estimate:
    """Return ``amount`` a row as a rate a second: median and interval."""
    total = leg.total
    rates = [1e3 * amount * leg.n_samples / ms for ms in (total.median, total.high, total.low)]
    return statistics.Estimate(rates[0], rates[1], rates[2], total.n_samples)


def interval(estimate: statistics.Estimate, form: str, scale: float = 1.0) -> str:
    """Write a median with its interval.

    >>> interval(statistics.Estimate(2.0, 1.0, 3.0, 9), "{:.1f}", 10)
    '20.0 (10.0 to 30.0)'
    """
    median, low, high = (
        form.format(value * scale) for value in (estimate.median, estimate.low, estimate.high)
    )
    return f"{median} ({low} to {high})"


# Goals


@dataclass(frozen=True)
class Goal:
    """A figure to reach, and how it is measured from a record: line, value, text; None without."""

    what: str
    goal: str
    least: float
    measured: Callable[[GpuRecords], tuple[Line, float, str] | None]


def _copy_share(encoding: str, n_qubits: int) -> Callable[[GpuRecords], Any]:
    def measured(record: GpuRecords) -> tuple[Line, float, str] | None:
        found = record.find("encoding", ("qdp-cuda",), encoding=encoding, n_qubits=n_qubits)
        if found is None or record.machine is None:
            return None
        share = scaled(found[1], row_bytes(found[1]) / record.machine["rates"]["copy"])
        return found[0], share.median, interval(share, "{:.0f}", 100) + " %"

    return measured


def _rate(precision: str) -> Callable[[GpuRecords], Any]:
    def measured(record: GpuRecords) -> tuple[Line, float, str] | None:
        names = ("qdp-cuda", "qdp-cuda-fused")
        found = record.find("gradients", names, precision=precision, method="adjoint")
        if found is None:
            return None
        rate = scaled(found[1], 1.0)
        return found[0], rate.median, interval(rate, "{:.3g}", 1e-6) + " million"

    return measured


def _ratio(method: str, *rivals: str) -> Callable[[GpuRecords], Any]:
    def measured(record: GpuRecords) -> tuple[Line, float, str] | None:
        own = record.find("roadmap", ("qdp-cuda", "qdp-cuda-fused"), method=method)
        rival = record.find("roadmap", rivals, method=method)
        if own is None or rival is None:
            return None
        found = report.speedup(rival[1], own[1])
        return rival[0], found.value, report.ratio_words(rival[1], own[1])

    return measured


def _link_share(record: GpuRecords) -> tuple[Line, float, str] | None:
    found = record.find("gradients", ("qdp-cuda-host",), precision="double")
    if found is None or record.machine is None:
        return None
    amount = (8 << found[1].case["n_qubits"]) / record.machine["rates"]["to_device"]
    share = scaled(found[1], amount)
    return found[0], share.median, interval(share, "{:.0f}", 100) + " %"


_SHARE = "80 % of the measured copy bandwidth"

GOALS = (
    Goal("amplitude encoding, n = 12", _SHARE, 0.8, _copy_share("amplitude", 12)),
    Goal("amplitude encoding, n = 16", _SHARE, 0.8, _copy_share("amplitude", 16)),
    Goal("angle encoding, n = 12", _SHARE, 0.8, _copy_share("angle", 12)),
    Goal("IQP encoding, n = 12", _SHARE, 0.8, _copy_share("iqp-embedding", 12)),
    Goal("adjoint gradients a second, W(12, 2), complex128", "2 million", 2e6, _rate("double")),
    Goal("adjoint gradients a second, W(12, 2), complex64", "4 million", 4e6, _rate("single")),
    Goal(
        "roadmap's benchmark, adjoint",
        "500 times lightning.gpu",
        500,
        _ratio("adjoint", "lightning-gpu-adjoint"),
    ),
    Goal(
        "roadmap's benchmark, adjoint",
        "10 times cuStateVec, batched",
        10,
        _ratio("adjoint", "custatevec"),
    ),
    Goal(
        "roadmap's benchmark, parameter-shift",
        "100 times lightning.gpu",
        100,
        _ratio("parameter-shift", "lightning-gpu-shift"),
    ),
    Goal(
        "roadmap's benchmark, parameter-shift",
        "10 times cuStateVec, batched",
        10,
        _ratio("parameter-shift", "custatevec"),
    ),
    Goal(
        "rows in host memory to gradients, W(12, 2), complex128",
        "80 % of the link's bandwidth, from pinned memory",
        0.8,
        _link_share,
    ),
)
GOALS_HEAD = ["what", "goal", "measured", ""]


def goals(record: GpuRecords | None) -> Rows:
    """Return the goals with what was measured, and whether they were reached."""
    rows = []
    for goal in GOALS:
        if record is None:
            rows.append([goal.what, goal.goal, NOT_YET, ""])
            continue
        row = [
            record.cite(record.run, text, "the design's goal") for text in (goal.what, goal.goal)
        ]
        found = goal.measured(record)
        if found is None:
            row += [NOT_YET, ""]
        else:
            line, value, text = found
            row.append(record.cite(line, text, "encoding_ms, circuit_ms"))
            row.append("reached" if value >= goal.least else "**missed**")
        rows.append(row)
    return rows


# Tables


def machine_words(record: GpuRecords) -> str:
    """Return what the GPU is and can do, in a sentence."""
    line = record.machine
    if line is None:
        return "What the GPU can do was not measured."
    rates, device = line["rates"], line["device"]

    def rate(name: str, unit: str, scale: float) -> str:
        return record.cite(line, f"{rates[name] * scale:,.0f}", f"rates.{name}") + f" {unit}"

    name = record.cite(line, str(device["name"]), "device.name")
    return (
        f"{name}, measured in the same run: copies in its memory {rate('copy', 'GB/s', 1e-9)} read "
        f"and written, from pinned host memory {rate('to_device', 'GB/s', 1e-9)} and back "
        f"{rate('to_host', 'GB/s', 1e-9)}, shared memory {rate('shared', 'TB/s', 1e-12)}, "
        f"multiply-adds {rate('double', 'TFLOP/s', 1e-12)} in double and "
        f"{rate('single', 'TFLOP/s', 1e-12)} in single precision."
    )


ENCODING_HEAD = [
    "encoding",
    "n",
    "rows",
    "contender",
    "us a row",
    "us a call of one row",
    "GB/s",
    "of copies",
    "time over qdp-cuda",
]


def encoding(record: GpuRecords) -> Rows:
    """Return a row for each timed encoder: time, traffic, and QDP's advantage."""
    rows = []
    for legs in record.points():
        if legs[0][1].sweep != "encoding":
            continue
        own = report.find([leg for _, leg in legs], "qdp-cuda")
        for line, leg in sorted(legs, key=_slowness):
            if not leg.ok:
                continue
            traffic = scaled(leg, row_bytes(leg)).median
            share = "-"
            if record.machine is not None:
                share = f"{traffic / record.machine['rates']['copy']:.0%}"
            over = report.ratio_words(leg, own) if own and leg.contender not in OWN else ""
            rows.append(
                [
                    str(leg.case["encoding"]),
                    record.cite(line, str(leg.case["n_qubits"]), "case.n_qubits"),
                    record.cite(line, f"{leg.rows_measured:,}", "rows_measured"),
                    leg.contender,
                    record.cite(line, _us(leg), "encoding_ms"),
                    record.cite(line, leg.details.get("one_row_us", "-"), "details.one_row_us"),
                    record.cite(line, number(traffic / 1e9, 4), "encoding_ms"),
                    record.cite(line, share, "encoding_ms"),
                    record.cite(line, over, "encoding_ms") if over else "",
                ]
            )
    return rows


GRADIENTS_HEAD = [
    "part",
    "rule",
    "precision",
    "rows",
    "contender",
    "us a row",
    "rows a second",
    "time over qdp-cuda-fused",
    "time over qdp-cuda",
]


def gradients(record: GpuRecords) -> Rows:
    """Return a row for each timed leg of gradients, fastest first in each case."""
    rows = []
    for legs in record.points():
        if legs[0][1].sweep == "encoding":
            continue
        found = [leg for _, leg in legs]
        own = [report.find(found, name) for name in ("qdp-cuda-fused", "qdp-cuda")]
        for line, leg in sorted(legs, key=_slowness):
            if not leg.ok:
                continue
            over = [
                record.cite(line, report.ratio_words(leg, one), "encoding_ms, circuit_ms")
                if one is not None and leg.contender not in OWN
                else ""
                for one in own
            ]
            rows.append(
                [
                    leg.sweep,
                    leg.rule,
                    str(leg.case["precision"]),
                    record.cite(line, f"{leg.rows_measured:,}", "rows_measured"),
                    leg.contender,
                    record.cite(line, _us(leg), "encoding_ms, circuit_ms"),
                    record.cite(line, number(leg.throughput, 4), "derived.rows_per_second"),
                    *over,
                ]
            )
    return rows


KERNELS_HEAD = [
    "call",
    "n",
    "precision",
    "rows",
    "kernel",
    "launches",
    "ms",
    "GFLOP",
    "GB",
    "floor, ms",
    "time over the floor",
    "limit",
]


def kernels(record: GpuRecords) -> Rows:
    """Return a row for each kernel: time, arithmetic, traffic, floor and what sets it."""
    rows = []
    for line in record.kernels:

        def of(name: str, scale: float = 1, digits: int = 4, line: Line = line) -> str:
            if name not in line:
                return "-"
            return record.cite(line, number(line[name] * scale, digits), name)

        rows.append(
            [
                str(line["call"]),
                of("n_qubits", digits=2),
                str(line["precision"]),
                record.cite(line, f"{line['rows']:,}", "rows"),
                f"`{line['kernel']}`",
                record.cite(line, f"{line['launches']:,}", "launches"),
                of("total_s", 1e3),
                of("flops", 1e-9),
                of("bytes", 1e-9),
                of("floor_s", 1e3),
                of("time_over_floor", digits=3),
                str(line.get("limit", "-")),
            ]
        )
    return rows


def stopped(record: GpuRecords) -> list[str]:
    """Return what did not run and why, each once."""
    return list(
        dict.fromkeys(
            f"{leg.contender} ({leg.sweep}): {leg.status}: {leg.reason}"
            for _, leg in record.legs
            if not leg.ok
        )
    )


def disclosures(record: GpuRecords) -> list[str]:
    """Return what legs ran on other libraries than those they were built for, each once."""
    return list(
        dict.fromkeys(
            f"{leg.contender}: {leg.details['substituted']}"
            for _, leg in record.legs
            if leg.ok and "substituted" in leg.details
        )
    )


UTILIZATION_HEAD = [
    "contender",
    "part",
    "precision",
    "utilisation, %",
    "memory, GiB",
    "power, W",
    "clock, MHz",
]
_READINGS = {
    "utilization_percent": ("{:.0f}", 1.0),
    "memory_bytes": ("{:.1f}", 2.0**-30),
    "power_w": ("{:.0f}", 1.0),
    "clock_mhz": ("{:.0f}", 1.0),
}


def utilization(record: GpuRecords) -> Rows:
    """Return a row for each leg during which the GPU was read: means, and the most memory."""
    rows = []
    for line, leg in record.legs:
        if not leg.ok or not leg.gpu:
            continue
        what = str(leg.case.get("encoding") or leg.case.get("method"))
        rows.append(
            [
                leg.contender,
                f"{leg.sweep}, {what}",
                str(leg.case["precision"]),
                *(
                    record.cite(line, form.format(leg.gpu[name] * scale), f"metering.gpu.{name}")
                    if name in leg.gpu
                    else "-"
                    for name, (form, scale) in _READINGS.items()
                ),
            ]
        )
    return rows


def _slowness(one: tuple[Line, Leg]) -> float:
    return one[1].total.median if one[1].ok else float("inf")


def _us(leg: Leg) -> str:
    total, scale = leg.total, 1e3 / leg.n_samples
    median, low, high = (number(ms * scale, 4) for ms in (total.median, total.low, total.high))
    return f"{median}{'*' if leg.extrapolated else ''} ({low} to {high})"
