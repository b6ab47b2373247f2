# SPDX-License-Identifier: Apache-2.0
"""The console output has the roadmap's shape, and says only what the legs show."""

from __future__ import annotations

import pytest

from benchmark.core import ratios, report
from benchmark.core.records import Leg
from benchmark.tests.fabricated import make_leg, make_run

GRADIENTS = [[0.5, 0.0, 1e-16, -0.25], [0.1, 0.0, 0.0, 0.0]]


def sentences(legs_by_size: dict[int, list[Leg]], **options: str) -> str:
    run = make_run(samples=list(legs_by_size), **options)
    return report.analysis(run, legs_by_size)


def test_header_has_the_roadmaps_lines() -> None:
    lines = report.header(make_run(samples=[100, 500]), "0 (NVIDIA A100)").splitlines()
    assert lines[:7] == [
        "=" * 60,
        "GRADIENT BENCHMARK (Parameter-Shift Rule)",
        "=" * 60,
        "Circuit:    2 qubits, 1 layers, 4 parameters",
        "Samples:    [100, 500]",
        "GPU:        0 (NVIDIA A100)",
        "Warmup:     1, Runs: 3",
    ]
    assert lines[-1] == "=" * 60


def test_breakdown_of_a_size() -> None:
    legs = [
        make_leg("qdp", 100, [150.0, 150.0, 150.0], encoding=2.0),
        make_leg("pennylane", 100, [300.0, 300.0, 300.0], encoding=80.0),
        make_leg("numpy", 100, [50.0, 50.0, 50.0]),
        make_leg("jax", 100, [], status="skipped", reason="not installed"),
    ]
    text = report.size_block(make_run(samples=[100]), legs)
    assert "  QDP Path:\n    Encoding time:  2.00 ms (encode once)\n" in text
    assert "Circuit time:   150.00 ms (4 params × 2 shifts × 100 samples = 800 evals)" in text  # noqa: RUF001
    assert "Total time:     152.00 ms" in text
    assert "Throughput:     657.9 samples/sec" in text
    assert "Encoding time:  80.00 ms (encode per eval: 800 times; its embedding-only" in text
    assert "Speedup: 2.50x (2.50x to 2.50x) (QDP vs PennyLane)" in text
    assert "skipped: not installed" in text
    assert "QDP vs this: 0.33x" in text


def test_extrapolation_is_marked_everywhere() -> None:
    legs = [
        make_leg("qdp", 100, [1.0, 1.0, 1.0]),
        make_leg("pennylane", 100, [30.0, 30.0, 30.0], rows_measured=3),
    ]
    run = make_run(samples=[100])
    assert "times extrapolated from 3" in report.size_block(run, legs)
    assert "(PennyLane extrapolated from 3)" in report.summary(run, {100: legs})
    assert "of which 24 were measured, on 3 samples" in report.analysis(run, {100: legs})


def test_summary_table() -> None:
    sizes = {
        100: [
            make_leg("qdp", 100, [156.78] * 3, encoding=2.34),
            make_leg("pennylane", 100, [156.89] * 3, encoding=234.56),
        ]
    }
    lines = report.summary(make_run(samples=[100]), sizes).splitlines()
    assert lines[1] == "RESULTS SUMMARY"
    assert lines[3] == "Samples   QDP (ms)    PennyLane (ms)   Speedup   Breakdown (enc/ckt)"
    assert lines[5] == (
        "100       159.12      391.45           2.46x     2.3ms/157ms vs 235ms/157ms"
    )


def test_analysis_follows_the_numbers_when_qdp_loses() -> None:
    text = sentences(
        {
            10: [
                make_leg("qdp", 10, [100.0] * 3, encoding=1.0, gradients=GRADIENTS),
                make_leg("pennylane", 10, [20.0] * 3, encoding=5.0),
                make_leg("numpy", 10, [2.0] * 3),
            ]
        }
    )
    assert "PennyLane is 5.00x faster than QDP there" in text
    assert "Encoding accounts for 20.0% of PennyLane's total time" in text
    assert "numpy (NumPy, gate by gate, adjoint), 2.0ms; it is 50.5x faster than QDP" in text
    assert "2 of the 4 gradients of <Z0> are not zero" in text


def test_analysis_does_not_claim_what_is_not_significant() -> None:
    text = sentences(
        {
            10: [
                make_leg("qdp", 10, [9.0, 10.0, 11.0]),
                make_leg("qdp-fused", 10, [9.5, 10.0, 10.5]),
                make_leg("numpy", 10, [9.5, 10.5, 10.0]),
            ]
        }
    )
    assert "against it: not significant" in text
    assert "makes no significant difference" in text
    assert "PennyLane" not in text


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (100.0, 1000.0, "grows with"),
        (1000.0, 100.0, "falls with"),
        (500.0, 500.0, "does not change significantly with"),
    ],
)
def test_trend_over_sizes(first: float, last: float, words: str) -> None:
    text = sentences(
        {
            size: [
                make_leg("qdp", size, [1.0] * 3),
                make_leg("pennylane", size, [time] * 3),
            ]
            for size, time in ((10, first), (20, last))
        }
    )
    assert f"speedup over PennyLane's path {words} the number of samples" in text


def test_analysis_names_what_did_not_run() -> None:
    text = sentences(
        {
            10: [
                make_leg("qdp", 10, [1.0] * 3),
                make_leg("pennylane", 10, [], status="timed out", reason="one row took 99 s"),
            ]
        }
    )
    assert "Not timed at 10 samples: pennylane (timed out: one row took 99 s)" in text
    assert "Encoding accounts" not in text


def test_fastest_rival_is_never_qdp_and_can_be_asked_by_rule() -> None:
    legs = [
        make_leg("qdp", 10, [1.0]),
        make_leg("qdp-fused", 10, [0.5]),
        make_leg("pennylane", 10, [50.0]),
        make_leg("numpy", 10, [5.0]),
    ]
    fastest, shifting = ratios.fastest_rival(legs), ratios.fastest_rival(legs, "parameter-shift")
    assert fastest is not None
    assert fastest.contender == "numpy"
    assert shifting is not None
    assert shifting.contender == "pennylane"
    assert ratios.fastest_rival(legs[:2]) is None


def test_a_single_run_claims_no_interval() -> None:
    own, rival = make_leg("qdp", 10, [1.0]), make_leg("numpy", 10, [5.0])
    assert ratios.ratio_words(rival, own) == "5.00x (single runs, no interval)"
