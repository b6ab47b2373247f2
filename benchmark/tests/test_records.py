# SPDX-License-Identifier: Apache-2.0
"""Records survive the round trip; CSV and plot derive from them; files appear whole or not."""

from __future__ import annotations

import csv
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.core import records
from benchmark.core.records import Leg
from benchmark.tests.fabricated import make_leg, make_run


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    legs = [
        make_leg("qdp", 10, [1.0, 2.0, 3.0], encoding=0.5),
        make_leg("pennylane", 10, [100.0, 120.0, 110.0], rows_measured=4),
        make_leg("jax", 10, [], status="skipped", reason="No module named 'jax'"),
    ]
    run = make_run(samples=[10])
    records.write_records(path, run, legs)
    found, again = records.read_records(path)
    assert again == legs
    assert found["case"] == run["case"]
    assert found["format"] == records.FORMAT
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["run", "leg", "leg", "leg"]
    # The raw samples are there, and what is derived from them agrees.
    assert lines[2]["circuit_ms"] == [100.0, 120.0, 110.0]
    assert lines[2]["derived"]["total_ms"]["median"] == pytest.approx(110.0 * 10 / 4)
    assert lines[2]["derived"]["extrapolated"] is True
    assert "result" not in lines[1]
    assert lines[3]["derived"] == {}


def test_times_are_scaled_to_all_rows() -> None:
    leg = make_leg("pennylane", 100, [40.0, 60.0, 50.0], encoding=10.0, rows_measured=20)
    assert leg.extrapolated
    assert leg.totals == [250.0, 350.0, 300.0]
    assert leg.total.median == 300.0
    assert leg.encoding == 50.0
    assert leg.circuit == 250.0
    assert leg.throughput == pytest.approx(100 / 0.3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}\n", "line 1"),
        ('{"kind": "run", "format": 99}\n', "format 1"),
        ("", "format 1"),
        ('{"kind": "run", "format": 1}\nnot json\n', "line 2"),
        ('{"kind": "run", "format": 1}\n{"kind": "leg"}\n', "line 2"),
    ],
)
def test_what_is_not_a_record_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        records.read_records(path)


def test_csv_has_one_row_a_leg(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    legs = [
        make_leg("qdp", 10, [2.0, 2.0, 2.0]),
        make_leg("pennylane", 10, [50.0, 50.0, 50.0], rows_measured=5),
        make_leg("qulacs", 10, [], status="unsupported", reason="double, only"),
    ]
    records.write_csv(path, make_run(samples=[10]), legs)
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["contender"] for row in rows] == ["qdp", "pennylane", "qulacs"]
    assert float(rows[1]["total_ms"]) == 100.0
    assert float(rows[1]["speedup_of_qdp"]) == 50.0
    assert rows[1]["rows_measured"] == "5"
    assert rows[2]["status"] == "unsupported"
    assert rows[2]["total_ms"] == ""
    assert tuple(rows[0]) == records.CSV_COLUMNS


def test_atomic_write_leaves_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "file"
    records.atomic_write(path, b"old")

    def broken(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        records.atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in path.parent.iterdir()] == ["file"]


def test_output_names_never_collide(tmp_path: Path) -> None:
    now = datetime(2026, 1, 15, 14, 30, 22)
    first = records.output_stem(tmp_path, now)
    assert first.name == "gradient_benchmark_20260115_143022"
    Path(f"{first}.csv").write_text("")
    assert records.output_stem(tmp_path, now).name == "gradient_benchmark_20260115_143022_2"


def test_infinities_do_not_enter_a_record(tmp_path: Path) -> None:
    leg = make_leg("qdp", 10, [1.0])
    leg.max_difference = float("inf")
    with pytest.raises(ValueError, match="JSON"):
        records.write_records(tmp_path / "run.jsonl", make_run(samples=[10]), [leg])


def test_plot_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmark.core.plots import write_plot

    path = tmp_path / "run.png"
    legs = [
        make_leg("qdp", 10, [1.0, 1.1, 1.2]),
        make_leg("pennylane", 10, [100.0, 120.0, 110.0], rows_measured=4),
        make_leg("jax", 10, [], status="timed out", reason="slow"),
        make_leg("qdp", 100, [9.0, 9.1, 9.2]),
    ]
    write_plot(path, make_run(samples=[10, 100]), legs)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_one_size_is_a_ranking() -> None:
    from benchmark.core.plots import ranking_of

    legs = [
        make_leg("pennylane", 10, [5.0, 6.0, 7.0], rows_measured=5),
        make_leg("qdp", 10, [1.0, 1.0, 1.0]),
        make_leg("jax", 10, [2.0, 2.0, 2.0]),
        make_leg("numpy", 10, [], status="timed out", reason="slow"),
        make_leg("qiskit", 10, [40.0, 40.0, 40.0]),
    ]
    found = ranking_of("name", "title", legs)
    names = ["QDP", "JAX, gate by gate (adjoint)", "PennyLane", "Qiskit Statevector"]
    assert found.names == names, "the fastest first, the rule where it is another one"
    assert found.values == [100.0, 200.0, 1200.0, 4000.0], "microseconds a sample"
    assert found.hollow == [False, False, True, False]
    assert found.low[2] <= found.values[2] <= found.high[2]


def test_legs_compare_by_their_record() -> None:
    first, second = make_leg("qdp", 3, [1.0]), make_leg("qdp", 3, [1.0])
    second.result = np.zeros((3, 2))
    assert first == second
    assert Leg.from_json(first.to_json()) == first
