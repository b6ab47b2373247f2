# SPDX-License-Identifier: Apache-2.0
"""The cost model finds known coefficients, refuses what it can't fit, and records a small run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from benchmark import cost_model
from benchmark.core.document import Chart, Text
from benchmark.cost_model import Fit, Network, Point

pytest.importorskip("scipy", reason="the fit is scipy's")


def known(work):
    """Return seconds a unit of each term, all different, of about the engine's sizes."""
    scales = {"1": 2e-4, "P": 3e-6, "R": 4e-8, "R P": 5e-9, "R P min(S, D)": 7e-9}
    names = cost_model.terms(Point(work, 4, 1, 1, 1))
    return {name: scales.get(name, (3 + index) * 1e-11) for index, name in enumerate(names)}


@pytest.mark.parametrize("work", cost_model.WORKS)
def test_the_fit_finds_known_coefficients(work):
    expected = known(work)
    model = Fit(work, expected, (), 0, (), 0)
    points = cost_model.grid(work, quick=False, threads=2)
    seconds = [model.seconds(point) for point in points]
    found = cost_model.fit(points, seconds)
    unseen = [name for name in expected if not any(cost_model.terms(one)[name] for one in points)]
    outside = "R D P^2 outside n = 20"
    assert unseen == ([outside] if outside in expected else [])
    assert found.coefficients == pytest.approx(expected | dict.fromkeys(unseen, 0.0), rel=1e-6)
    assert np.abs(found.residuals).max() < 1e-9
    if work != "shots":  # without its largest size none of its points is outside n = 17
        assert np.abs(found.held_out).max() < 1e-6
    assert found.held_out_qubits == found.largest == max(point.n_qubits for point in points)


def test_noise_stays_in_the_residuals():
    points = cost_model.grid("adjoint", quick=False, threads=2)
    model = Fit("adjoint", known("adjoint"), (), 0, (), 0)
    noise = np.random.default_rng(1).uniform(0.9, 1.1, len(points))
    measured = [model.seconds(point) * factor for point, factor in zip(points, noise, strict=True)]
    found = cost_model.fit(points, measured)
    assert 0.01 < np.abs(found.residuals).max() < 0.25
    assert all(value >= 0 for value in found.coefficients.values())
    for point, one, error in zip(points, measured, found.residuals, strict=True):
        assert found.seconds(point) == pytest.approx(one * (1 + error), rel=1e-12)


def test_no_coefficient_is_negative():
    points = cost_model.grid("value", quick=True, threads=2)
    # Falls with the number of rows, as no term does.
    found = cost_model.solve(points, [1 / point.rows for point in points])
    assert min(found.values()) == 0.0


def test_points_that_say_too_little_are_refused():
    points = [Point("value", n_qubits, 2, 8, 1) for n_qubits in (4, 6)]
    with pytest.raises(ValueError, match=r"three sizes or more.*\[4, 6\]"):
        cost_model.fit(points, [1.0, 2.0])
    with pytest.raises(ValueError, match="one kind of call"):
        cost_model.fit([*points, Point("adjoint", 8, 2, 8, 1)], [1.0, 2.0, 3.0])


def test_terms_of_a_point():
    point = Point("shots", 3, 2, 10, 2, 100)
    assert cost_model.terms(point) == {
        "1": 1,
        "P": 12,
        "R": 10,
        "R D": 80,
        "R D / T": 40,
        "R D P / T": 480,
        "R P": 120,
        "R D P^2 / T": 5760,
        "R D P": 960,
        "R P min(S, D)": 960,
        "R D P^2 / T outside n = 13": 0,
        "R D P^2 / T outside n = 17": 0,
        "R D P^2 outside n = 20": 0,
    }
    large = cost_model.terms(Point("value", 21, 1, 1, 2))
    assert large["R D P / T"] == 2**21 * 42 / 2
    assert large["R D P / T outside n = 17"] == 2**21 * 42 / 2 * 15 / 16
    assert large["R D P outside n = 20"] == 2**21 * 42 / 2


def test_clusters_on_paper():
    # One nanosecond a rotated amplitude, nothing else.
    names = cost_model.terms(Point("adjoint", 4, 1, 1, 1))
    model = Fit("adjoint", dict.fromkeys(names, 0.0) | {"R D P / T": 1e-9}, (), 21, (), 21)
    network = Network(latency=1e-3, bytes_per_second=1e9)
    point = Point("adjoint", 10, 1, 1000, 2)
    alone = 1e-9 * 1000 * 1024 * 20 / 2
    assert cost_model.rows_over_nodes(model, point, 1, network) == pytest.approx(alone)
    shared = alone / 4 + 2 * (1e-3 + 8 * 20 / 1e9)
    assert cost_model.rows_over_nodes(model, point, 4, network) == pytest.approx(shared)

    one = replace(point, rows=1)
    calculation, exchange, n_bytes = cost_model.state_over_nodes(model, one, 4, network)
    assert calculation == pytest.approx(alone / 4000)
    assert exchange == pytest.approx(30 * (1e-3 + 16 * 1024 / 4 / 1e9))
    assert n_bytes == 3 * 16 * 1024 / 4
    assert cost_model.state_over_nodes(model, one, 1, network)[1] == 0.0

    lines = cost_model.extrapolate(model, 2, network)
    assert [(line["over"], line["nodes"]) for line in lines] == [
        (over, nodes) for over in ("rows", "state") for nodes in (1, 16, 256)
    ]
    assert lines[3]["seconds"] == pytest.approx(1e-9 * 2**30 * 120 / 2)
    cached = cost_model.extrapolate(replace(model, largest=20), 2, network)
    assert [line["over"] for line in cached] == ["rows"] * 3
    assert cost_model.extrapolate(replace(model, largest=10), 2, network) == []


def test_a_small_run_is_recorded_and_written(tmp_path, monkeypatch, capsys):
    pytest.importorskip("qdp.backends.cpu", reason="the times are the compiled engine's")
    pytest.importorskip("matplotlib")

    def tiny(work, *, quick=True, threads=1):
        shots = 10 if work == "shots" else 0
        return [Point(work, n_qubits, 1, 3, threads, shots) for n_qubits in (2, 3, 4)]

    monkeypatch.setattr(cost_model, "grid", tiny)
    document = tmp_path / "cost_model.md"
    arguments = ["--runs", "2", "--output-dir", str(tmp_path), "--document", str(document)]
    assert cost_model.main([*arguments, "--quick"]) == 0
    (path,) = tmp_path.glob("cost_model_*.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[0]["kind"] == "run"
    assert lines[0]["benchmark"] == "cost_model"
    points = [line for line in lines if line["kind"] == "point"]
    assert len(points) == 3 * len(cost_model.WORKS)
    assert all(len(line["seconds"]) == 2 and min(line["seconds"]) > 0 for line in points)
    fits = cost_model.fits_of(lines)
    assert [model.work for model in fits] == list(cost_model.WORKS)
    for model in fits:
        own = [line for line in points if line["work"] == model.work]
        for line, error in zip(own, model.residuals, strict=True):
            point = Point(**{name: line[name] for name in asdict(tiny("value")[0])})
            assert model.seconds(point) == pytest.approx(np.median(line["seconds"]) * (1 + error))
    text = document.read_text(encoding="utf-8")
    assert "nothing is extrapolated" in text
    assert (tmp_path / "results" / "cost_model_residuals.png").read_bytes()[1:4] == b"PNG"

    document.unlink()
    assert cost_model.main(["--records", str(path), "--document", str(document)]) == 0
    assert document.read_text(encoding="utf-8") == text
    capsys.readouterr()
    other = tmp_path / "other.jsonl"
    other.write_text('{"kind": "run", "benchmark": "scaling"}\n', encoding="utf-8")
    assert cost_model.main(["--records", str(other)]) == 2
    assert "expected records of the cost model" in capsys.readouterr().err


def test_the_document_is_what_its_records_give():
    root = Path(__file__).resolve().parents[1]
    newest = sorted((root / "results").glob("cost_model_*.jsonl"))[-1]
    lines = [json.loads(line) for line in newest.read_text(encoding="utf-8").splitlines()]
    found = cost_model.blocks(lines, newest.name)
    text = cost_model.markdown(found)
    assert (root / "docs" / "cost_model.md").read_text(encoding="utf-8") == text
    (chart,) = [block for block in found if isinstance(block, Chart)]
    measured = sum(line["kind"] == "point" for line in lines)
    assert sum(len(series.y) for series in chart.series if not series.line) == measured
    assert any(isinstance(block, Text) and "not measured" in block.text for block in found)
