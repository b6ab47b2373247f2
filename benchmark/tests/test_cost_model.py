# SPDX-License-Identifier: Apache-2.0
"""The cost model finds known coefficients, refuses what it can't fit, and records a small run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from benchmark import cost_model
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
    assert found.coefficients == pytest.approx(expected, rel=1e-6)
    assert np.abs(found.residuals).max() < 1e-9
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
        "R D P^2 / T, n >= 14": 0,
        "R D P^2, n >= 18": 0,
    }
    large = cost_model.terms(Point("value", 18, 1, 1, 2))
    assert large["R D P / T, n >= 14"] == large["R D P / T"] == 2**18 * 36 / 2
    assert large["R D P, n >= 18"] == 2**18 * 36


def test_clusters_on_paper():
    # One nanosecond a rotated amplitude, nothing else.
    names = cost_model.terms(Point("adjoint", 4, 1, 1, 1))
    model = Fit("adjoint", dict.fromkeys(names, 0.0) | {"R D P / T": 1e-9}, (), 18, (), 18)
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
    assert cost_model.extrapolate(replace(model, largest=17), 2, network) == []


def test_a_small_run_is_recorded_and_written(tmp_path, monkeypatch, capsys):
    pytest.importorskip("qdp.backends.cpu", reason="the times are the compiled engine's")
    pytest.importorskip("matplotlib")

    def tiny(work, *, quick, threads):
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
    fits = [line for line in lines if line["kind"] == "fit"]
    assert [line["work"] for line in fits] == list(cost_model.WORKS)
    for line in fits:
        own = [
            {key: value for key, value in one.items() if key not in ("kind", "seconds")}
            for one in points
            if one["work"] == line["work"]
        ]
        times = [np.median(one["seconds"]) for one in points if one["work"] == line["work"]]
        again = cost_model.fit([Point(**one) for one in own], times)
        assert asdict(again)["coefficients"] == pytest.approx(line["coefficients"])
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
