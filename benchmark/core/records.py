# SPDX-License-Identifier: Apache-2.0
"""Records of a run: JSON lines with the raw samples; CSV and plots are derived from them.

The first line is {"kind": "run", ...}: format, arguments, hardware, commit. Each further line is
{"kind": "leg", ...}: one contender at one number of rows. Format 1.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from benchmark.core import statistics

FORMAT = 1
# Half the width of an interval over its median, from which a figure is called noisy.
NOISY = 0.25
STATUSES = ("ok", "failed", "skipped", "unsupported", "timed out")
Entry = TypeVar("Entry")


@dataclass
class Leg:
    """One contender at one number of rows; times in milliseconds over ``rows_measured`` rows."""

    contender: str
    title: str
    rule: str
    n_samples: int
    status: str
    reason: str = ""
    rows_measured: int = 0
    encoding_ms: list[float] = field(default_factory=list)
    circuit_ms: list[float] = field(default_factory=list)
    encoding_note: str = ""
    setup_s: float | None = None
    check_rows: int = 0
    max_difference: float | None = None
    tolerance: float | None = None
    interleaved: bool = False
    peak_memory_bytes: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    # How many calls each repetition is the mean of, and what a call used, as
    # benchmark.core.metering reads it.
    calls: list[int] = field(default_factory=list)
    metering: list[dict[str, Any]] = field(default_factory=list)
    # Where a run goes through several cases: which series this is a point of, and its case.
    sweep: str = ""
    case: dict[str, Any] = field(default_factory=dict)
    result: NDArray[Any] | None = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the leg was checked and timed."""
        return self.status == "ok"

    @property
    def point(self) -> tuple[str, str, int]:
        """What all legs of one point of a sweep have in common."""
        return self.sweep, repr(self.case), self.n_samples

    @property
    def extrapolated(self) -> bool:
        """Whether fewer rows were measured than the leg is about."""
        return self.ok and self.rows_measured < self.n_samples

    @property
    def factor(self) -> float:
        """What a measured time is multiplied by."""
        return self.n_samples / self.rows_measured

    @property
    def totals(self) -> list[float]:
        """Each repetition's encoding and circuits together, for all ``n_samples`` rows."""
        return [
            (encoding + circuit) * self.factor
            for encoding, circuit in zip(self.encoding_ms, self.circuit_ms, strict=True)
        ]

    @property
    def total(self) -> statistics.Estimate:
        """The median total with its interval, for all rows."""
        return statistics.estimate(self.totals)

    @property
    def noisy(self) -> bool:
        """Whether the interval is wider than NOISY to either side: a figure to measure again."""
        return self.ok and self.total.relative_spread > NOISY

    @property
    def cpu_seconds(self) -> float | None:
        """The median processor time of a repetition, of all its processes, or None."""
        seconds = [one["cpu_s"] for one in self.metering if one.get("cpu_s") is not None]
        return statistics.median(seconds) if seconds else None

    @property
    def gpu(self) -> dict[str, float]:
        """The GPU's readings over all repetitions: the most memory, and means of the rest."""
        return gpu_readings(self.metering)

    @property
    def encoding(self) -> float:
        """The median encoding time for all rows, never more than the median total."""
        encoding = statistics.median([time * self.factor for time in self.encoding_ms])
        return min(encoding, self.total.median)

    @property
    def circuit(self) -> float:
        """What remains of the median total."""
        return self.total.median - self.encoding

    @property
    def throughput(self) -> float:
        """Rows a second."""
        return self.n_samples / (self.total.median / 1e3)

    def to_json(self) -> dict[str, Any]:
        """Return the record's line; the result stays out."""
        values = {key: value for key, value in asdict(self).items() if key != "result"}
        derived = {}
        if self.ok:
            total = self.total
            derived = {
                "total_ms": {"median": total.median, "low": total.low, "high": total.high},
                "extrapolated": self.extrapolated,
                "rows_per_second": self.throughput,
                "noisy": self.noisy,
            }
        return {"kind": "leg", **values, "derived": derived}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Leg:
        """Build the leg that ``to_json`` wrote; what was derived is derived again."""
        known = {item.name for item in fields(cls)} - {"result"}
        return cls(**{key: value for key, value in values.items() if key in known})


def gpu_readings(metering: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return a GPU's readings over all regions metered: the most memory, and means of the rest."""
    found: dict[str, list[float]] = {}
    for one in metering:
        for name, value in one.get("gpu", {}).items():
            if isinstance(value, Mapping):
                found.setdefault(name, []).append(
                    value["max" if name == "memory_bytes" else "mean"]
                )
    return {
        name: max(values) if name == "memory_bytes" else sum(values) / len(values)
        for name, values in found.items()
    }


def state_bytes(leg: Leg) -> int | None:
    """Return the bytes that all of a leg's states take, None where its case is not known."""
    if not leg.case:
        return None
    size = 16 if leg.case["precision"] == "double" else 8
    return int(leg.n_samples * size << leg.case["n_qubits"])


def atomic_write(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: temporary name in the same folder, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON line a mapping; ValueError for numbers that are not finite."""
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    atomic_write(path, text.encode())


def save_study(
    directory: Path, now: datetime, name: str, lines: Iterable[Mapping[str, Any]]
) -> Path:
    """Write a study's lines to a file of its own, say where, and return the file's path."""
    path = Path(f"{output_stem(directory, now, name)}.jsonl")
    write_lines(path, lines)
    print(f"Saved: {path}")
    return path


def write_run(path: Path, run: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> None:
    """Write the run's line and those of its entries."""
    write_lines(path, [{"kind": "run", "format": FORMAT, **run}, *lines])


def write_records(path: Path, run: Mapping[str, Any], legs: Iterable[Leg]) -> None:
    """Write the run's line and one line a leg."""
    write_run(path, run, (leg.to_json() for leg in legs))


def read_run(
    path: Path, convert: Callable[[dict[str, Any]], Entry]
) -> tuple[dict[str, Any], list[Entry]]:
    """Read what ``write_run`` wrote, each entry converted.

    Raises ValueError naming the line that is wrong: no JSON, or refused by ``convert`` with a
    KeyError, TypeError or ValueError.
    """
    run: dict[str, Any] | None = None
    entries: list[Entry] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = json.loads(line)
            if values["kind"] == "run":
                run = values
            else:
                entries.append(convert(values))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: not a benchmark record: {error}") from error
    if run is None or run.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a run line of format {FORMAT} at the start")
    return run, entries


def read_records(path: Path) -> tuple[dict[str, Any], list[Leg]]:
    """Read what ``write_records`` wrote. Raises ValueError naming the line that is wrong."""

    def leg(values: dict[str, Any]) -> Leg:
        if values["kind"] != "leg":
            raise ValueError(f"unknown kind {values['kind']!r}")
        return Leg.from_json(values)

    return read_run(path, leg)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines of any file of records, the run's first."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def newest_whole(folder: Path, name: str) -> Path | None:
    """Return a study's newest record that was no quick trial, None where none has been taken."""
    taken = sorted(folder.glob(f"{name}_*.jsonl"), reverse=True)
    return next((path for path in taken if not read_lines(path)[0].get("quick")), None)


CSV_COLUMNS = (
    "n_samples",
    "contender",
    "rule",
    "status",
    "reason",
    "n_qubits",
    "n_layers",
    "n_parameters",
    "observable",
    "method",
    "precision",
    "dataset",
    "threads",
    "rows_measured",
    "runs",
    "encoding_ms",
    "circuit_ms",
    "total_ms",
    "total_low_ms",
    "total_high_ms",
    "samples_per_second",
    "speedup_of_qdp",
    "max_difference",
    "peak_memory_bytes",
)


def write_csv(path: Path, run: Mapping[str, Any], legs: Sequence[Leg]) -> None:
    """Write one row a leg; times are for all of the leg's rows, extrapolated where marked."""
    case = run["case"]
    own = {leg.n_samples: leg for leg in legs if leg.contender == "qdp" and leg.ok}
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for leg in legs:
        row: dict[str, Any] = {
            "n_samples": leg.n_samples,
            "contender": leg.contender,
            "rule": leg.rule,
            "status": leg.status,
            "reason": leg.reason,
            "n_qubits": case["n_qubits"],
            "n_layers": case["n_layers"],
            "n_parameters": len(case["parameters"]),
            "observable": case["observable"],
            "method": case["method"],
            "precision": case["precision"],
            "dataset": run["dataset"]["name"],
            "threads": case["threads"],
            "max_difference": leg.max_difference,
        }
        if leg.ok:
            total = leg.total
            row |= {
                "rows_measured": leg.rows_measured,
                "runs": len(leg.totals),
                "encoding_ms": f"{leg.encoding:.6g}",
                "circuit_ms": f"{leg.circuit:.6g}",
                "total_ms": f"{total.median:.6g}",
                "total_low_ms": f"{total.low:.6g}",
                "total_high_ms": f"{total.high:.6g}",
                "samples_per_second": f"{leg.throughput:.6g}",
                "peak_memory_bytes": leg.peak_memory_bytes,
            }
            if leg.n_samples in own:
                row["speedup_of_qdp"] = f"{total.median / own[leg.n_samples].total.median:.4g}"
        writer.writerow(row)
    atomic_write(path, buffer.getvalue().encode())


SCALING_COLUMNS = (
    "sweep",
    "task",
    "what",
    "n_qubits",
    "n_layers",
    "n_samples",
    "dataset",
    "threads",
    "precision",
    "contender",
    "status",
    "reason",
    "rows_measured",
    "runs",
    "total_ms",
    "total_low_ms",
    "total_high_ms",
    "latency_ms",
    "samples_per_second",
    "noisy",
    "speedup_of_qdp",
    "speedup_low",
    "speedup_high",
    "cpu_s",
    "peak_memory_bytes",
    "state_bytes",
    "gpu_memory_bytes",
    "gpu_utilization_percent",
    "gpu_power_w",
    "gpu_clock_mhz",
    "max_difference",
)


def write_scaling_csv(path: Path, run: Mapping[str, Any], legs: Sequence[Leg]) -> None:
    """Write one row a leg of a run over many cases; times are for all of the leg's rows."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, SCALING_COLUMNS, lineterminator="\n")
    writer.writeheader()
    own = {leg.point: leg for leg in legs if leg.contender == "qdp" and leg.ok}
    for leg in legs:
        case = leg.case
        row: dict[str, Any] = {
            "dataset": run["dataset"]["name"],
            "sweep": leg.sweep,
            "task": case["kind"],
            "what": case.get("encoding", case.get("method")),
            "n_layers": case.get("n_layers"),
            **{key: case[key] for key in ("n_qubits", "threads", "precision")},
            **{
                key: getattr(leg, key)
                for key in ("n_samples", "contender", "status", "reason", "max_difference")
            },
            "state_bytes": state_bytes(leg),
        }
        if leg.ok:
            total = leg.total
            row |= {
                "rows_measured": leg.rows_measured,
                "runs": len(leg.totals),
                "total_ms": f"{total.median:.6g}",
                "total_low_ms": f"{total.low:.6g}",
                "total_high_ms": f"{total.high:.6g}",
                "latency_ms": f"{total.median / leg.n_samples:.6g}",
                "samples_per_second": f"{leg.throughput:.6g}",
                "noisy": leg.noisy,
                "cpu_s": leg.cpu_seconds,
                "peak_memory_bytes": leg.peak_memory_bytes,
                **{f"gpu_{name}": f"{value:.6g}" for name, value in leg.gpu.items()},
            }
            if leg.point in own:
                found = statistics.ratio(leg.totals, own[leg.point].totals)
                row |= {
                    "speedup_of_qdp": f"{found.value:.4g}",
                    "speedup_low": f"{found.low:.4g}",
                    "speedup_high": f"{found.high:.4g}",
                }
        writer.writerow(row)
    atomic_write(path, buffer.getvalue().encode())


def output_stem(directory: Path, now: datetime, name: str = "gradient_benchmark") -> Path:
    """Return directory/name_YYYYmmdd_HHMMSS, with a number behind it where that is taken."""
    stem = directory / f"{name}_{now:%Y%m%d_%H%M%S}"
    candidate, number = stem, 2
    while any(Path(f"{candidate}{suffix}").exists() for suffix in (".csv", ".jsonl", ".png")):
        candidate = Path(f"{stem}_{number}")
        number += 1
    return candidate
