# SPDX-License-Identifier: Apache-2.0
"""Legs in processes of their own: checked, timed, and named by the right word when they fail."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.core import runner, service, worker
from benchmark.core.cases import GradientCase
from benchmark.core.contenders.base import Repeat
from benchmark.core.contenders.qdp_paths import Qdp
from benchmark.core.metering import Meter
from benchmark.core.runner import Settings, run_size
from benchmark.tests import statevector
from benchmark.tests.fabricated import make_leg

QUICK = Settings(warmup=1, runs=2, time_limit=20.0)


def shadow(monkeypatch: pytest.MonkeyPatch, folder: Path, module: str, code: str) -> None:
    """Put a module before the real one of that name in the workers."""
    (folder / f"{module}.py").write_text(code)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))


def test_legs_are_checked_and_timed() -> None:
    case = statevector.make_case(3, observable="sum-z")
    features = statevector.make_features(5, 8)
    steps: list[str] = []
    legs = run_size(case, features, ["qdp", "numpy"], QUICK, steps.append)
    assert [leg.contender for leg in legs] == ["qdp", "numpy"]
    expected = statevector.gradients(case, features)
    for leg in legs:
        assert leg.ok, leg.reason
        assert len(leg.encoding_ms) == len(leg.circuit_ms) == 2
        assert leg.rows_measured == 5
        assert not leg.extrapolated
        assert leg.interleaved
        assert leg.max_difference is not None
        assert leg.max_difference < 1e-12
        assert leg.check_rows == 5
        assert len(leg.calls) == 2
        assert all(calls >= 1 for calls in leg.calls)
        assert leg.result is not None
        np.testing.assert_allclose(leg.result, expected, atol=1e-12)
        assert leg.peak_memory_bytes is not None
        assert leg.peak_memory_bytes > 1e6
        assert "numpy" in leg.versions
    assert "qdp: run 1" in steps
    assert "numpy: warm-up" not in steps, "the plan has warmed it up"


def test_a_leg_whose_gradients_are_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(case: Any, features: Any) -> Any:
        return statevector.gradients(case, features) + 1e-3

    monkeypatch.setattr(GradientCase, "reference", wrong)
    (leg,) = run_size(
        statevector.make_case(2, 1), statevector.make_features(3, 4), ["numpy"], QUICK
    )
    assert leg.status == "failed"
    assert "differ from the reference by 0.001" in leg.reason
    assert leg.circuit_ms == []


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("raise ImportError('no qulacs here')", "skipped", r"no qulacs here; .*\[rivals\]"),
        ("raise RuntimeError('broken build')", "failed", "RuntimeError: broken build"),
        (
            "import os, sys\nprint('last words', file=sys.stderr, flush=True)\nos._exit(3)",
            "failed",
            "status 3: last words",
        ),
    ],
)
def test_words_for_a_leg_that_did_not_run(
    code: str, status: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow(monkeypatch, tmp_path, "qulacs", code)
    case, features = statevector.make_case(2, 1), statevector.make_features(2, 4)
    legs = run_size(case, features, ["qulacs", "numpy"], QUICK)
    assert legs[0].status == status
    assert re.search(words, legs[0].reason), legs[0].reason
    assert legs[1].ok, "the others go on"


def test_unsupported() -> None:
    case = statevector.make_case(2, 1, precision="single")
    (leg,) = run_size(case, statevector.make_features(2, 4), ["qulacs"], QUICK)
    assert leg.status == "unsupported"
    assert "double precision only" in leg.reason


def test_a_hanging_worker_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shadow(monkeypatch, tmp_path, "qulacs", "import time\ntime.sleep(60)")
    monkeypatch.setattr(runner, "LEAST_SETUP_S", 2.0)
    (leg,) = run_size(
        statevector.make_case(2, 1),
        statevector.make_features(2, 4),
        ["qulacs"],
        Settings(1, 1, time_limit=0.5),
    )
    assert leg.status == "timed out"
    assert "no answer within 2 s" in leg.reason


def test_who_timed_out_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"numpy": "not started: it timed out at 2 samples: no answer within 2 s"}
    started = []
    process = runner.WorkerProcess

    def recorded(name: str, *others: Any, **options: Any) -> Any:
        started.append(name)
        return process(name, *others, **options)

    monkeypatch.setattr(runner, "WorkerProcess", recorded)
    case, features = statevector.make_case(2, 1), statevector.make_features(2, 4)
    legs = run_size(case, features, ["qdp", "numpy"], QUICK, timed_out=known)
    assert [leg.contender for leg in legs] == ["qdp", "numpy"]
    assert [leg.status for leg in legs] == ["ok", "timed out"]
    assert legs[1].reason == known["numpy"]
    assert not legs[0].interleaved, "alone"
    (leg,) = run_size(case, features, ["numpy"], QUICK, timed_out=known)
    assert leg.status == "timed out"
    assert started == ["qdp"]


def test_what_is_known_of_who_timed_out_stays() -> None:
    known: dict[str, str] = {}
    runner.note_timed_out(
        known, [("a", "timed out", "slow"), ("b", "failed", "wrong"), ("c", "ok", "")], "at 1 row"
    )
    assert known == {"a": "not started: it timed out at 1 row: slow"}
    runner.note_timed_out(known, [("a", "timed out", known["a"])], "at 2 rows")
    runner.note_timed_out(known, [("b", "timed out", known["a"])], "at 3 rows")
    assert known == dict.fromkeys("ab", "not started: it timed out at 1 row: slow")


class FakeContender(Qdp):
    """Takes a set time a row, without computing."""

    seconds_a_row = 0.01
    seconds_a_call = 0.0

    def prepare(self) -> None:
        pass

    def run(self, rows: int) -> Any:
        time.sleep(self.seconds_a_call + rows * self.seconds_a_row)
        return Repeat(np.zeros((rows, self.case.n_parameters)), 0.0, 1.0)


def plan(monkeypatch: pytest.MonkeyPatch, rows: int, budget_s: float, **times: float) -> Any:
    """Return a worker's plan for a contender with known times."""
    for name, value in times.items():
        monkeypatch.setattr(FakeContender, name, value)
    case = statevector.make_case(2, 1)
    instance = object.__new__(worker.Worker)
    instance.case, instance.kind, instance.last = case, FakeContender, None
    instance.meter = Meter(nvml=None)
    instance.contender = FakeContender(case, statevector.make_features(rows, 4))
    return instance.answer({"do": "plan", "rows": rows, "budget_s": budget_s})


def test_plan_takes_all_rows_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(monkeypatch, 50, 5.0, seconds_a_row=0.0001)
    assert found["rows"] == 50
    assert found["warm"]


def test_plan_takes_the_rows_that_the_budget_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(monkeypatch, 1000, 0.2, seconds_a_row=0.01)
    assert 10 <= found["rows"] <= 24
    assert 0.08 <= found["seconds"] <= 0.25


def test_plan_sees_through_a_fixed_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(monkeypatch, 64, 0.4, seconds_a_row=0.0001, seconds_a_call=0.05)
    assert found["rows"] == 64


def test_plan_never_takes_less_than_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(monkeypatch, 10, 0.01, seconds_a_row=0.05)
    assert found["rows"] == 1
    assert found["seconds"] >= 0.05


@pytest.mark.parametrize(
    ("seconds", "most", "least"), [(0.001, 20, 10), (0.03, 1, 1), (0.15, 1, 1)]
)
def test_a_repetition_of_short_calls_is_their_mean(
    seconds: float, most: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeContender, "seconds_a_row", seconds)
    case = statevector.make_case(2, 1)
    instance = object.__new__(worker.Worker)
    instance.meter = Meter(nvml=None)
    instance.contender = FakeContender(case, statevector.make_features(1, 4))
    runs: list[int] = []
    real = instance.contender.run

    def run(rows: int) -> Any:
        runs.append(rows)
        found = real(rows)
        return Repeat(found.result, 0.5 * len(runs), 2.0)

    monkeypatch.setattr(instance.contender, "run", run)
    instance.last_s = seconds
    found = instance.answer({"do": "repeat", "rows": 1})
    calls = found["calls"]
    assert least <= calls <= most
    untimed = len(runs) - calls
    assert untimed == (1 if seconds < worker.SHORT_S else 0)
    timed = range(untimed + 1, len(runs) + 1)
    assert found["encoding_ms"] == pytest.approx(0.5 * sum(timed) / calls)
    assert found["circuit_ms"] == pytest.approx(2.0)
    assert found["wall_s"] >= seconds


def test_memory_of_helper_processes_counts() -> None:
    pytest.importorskip("pennylane_lightning")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU: no helper processes")
    features = statevector.make_features(6, 8)
    peaks = []
    for threads in (1, 2):
        case = statevector.make_case(3, 1, threads=threads)
        (leg,) = run_size(case, features, ["lightning-cpp"], Settings(0, 1, 5.0))
        assert leg.ok, leg.reason
        peaks.append(leg.peak_memory_bytes or 0)
    # Each of two processes imports PennyLane, which is most of the memory here.
    assert peaks[1] > 1.5 * peaks[0]


def test_slow_contender_is_extrapolated_or_timed_out() -> None:
    pytest.importorskip("pennylane")
    case, features = statevector.make_case(2, 1), statevector.make_features(100_000, 4)
    (leg,) = run_size(case, features, ["pennylane-stateprep"], Settings(0, 2, time_limit=0.5))
    assert leg.ok, leg.reason
    assert leg.extrapolated
    assert 1 <= leg.rows_measured < 100_000
    assert leg.totals[0] == pytest.approx(
        (leg.encoding_ms[0] + leg.circuit_ms[0]) * 100_000 / leg.rows_measured
    )
    (leg,) = run_size(case, features, ["pennylane-stateprep"], Settings(0, 1, time_limit=1e-4))
    assert leg.status == "timed out"
    assert "1 row took" in leg.reason


def test_wrong_timed_gradients_are_found_by_majority() -> None:
    case = statevector.make_case(2, 1)
    right, wrong = np.zeros((3, 4)), np.zeros((3, 4))
    wrong[2, 1] = 1e-3
    legs = [
        make_leg(name, 3, [1.0], gradients=gradients)
        for name, gradients in (("qdp", right), ("numpy", wrong), ("numpy-kron", right[:2]))
    ]
    # The kron leg has two rows only, where all agree: nobody can say who is wrong.
    runner._compare_timed(case, legs)
    assert [leg.status for leg in legs] == ["failed", "failed", "ok"]
    legs = [
        make_leg(name, 3, [1.0], gradients=gradients)
        for name, gradients in (("qdp", right), ("numpy", wrong), ("numpy-kron", right))
    ]
    runner._compare_timed(case, legs)
    assert [leg.status for leg in legs] == ["ok", "failed", "ok"]
    assert "differ from those of qdp by 0.001" in legs[1].reason


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([[1.0, 2.0]], [[1.0, 2.5]], 0.5),
        ([[1.0]], [[float("nan")]], float("inf")),
        ([[1.0]], [[1.0, 2.0]], float("inf")),
    ],
)
def test_largest_difference(first: Any, second: Any, expected: float) -> None:
    assert runner.largest_difference(np.array(first), np.array(second)) == expected


def test_check_rows_shrink_with_the_state() -> None:
    small, large = statevector.make_case(2, 1), statevector.make_case(13, 1)
    assert runner.check_rows(small, 1000) == 8
    assert runner.check_rows(small, 3) == 3
    assert runner.check_rows(large, 1000) == 2


@pytest.fixture
def cpus_as_before() -> Iterator[None]:
    """Give this process back the CPUs that a service takes from its own."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("cpus_as_before")
def test_worker_speaks_json_lines(tmp_path: Path) -> None:
    case, features = statevector.make_case(2, 1), statevector.make_features(3, 4)
    np.save(tmp_path / "features.npy", features)
    requests = [
        {"contender": "numpy", "case": case.to_json(), "features": str(tmp_path / "features.npy")},
        {"do": "check", "rows": 2, "path": str(tmp_path / "check.npy")},
        {"do": "repeat", "rows": 3},
        {"do": "save", "rows": 3, "path": str(tmp_path / "timed.npy")},
        {"do": "finish"},
    ]
    answers = io.StringIO()
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    status = service.serve(worker.Worker, io.StringIO(lines), answers)
    events = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert status == 0
    assert [event["event"] for event in events] == [
        "ready",
        "saved",
        "repeat",
        "saved",
        "finished",
    ]
    assert events[2]["circuit_ms"] > 0
    expected = statevector.gradients(case, features)
    np.testing.assert_allclose(np.load(tmp_path / "check.npy"), expected[:2], atol=1e-12)
    np.testing.assert_allclose(np.load(tmp_path / "timed.npy"), expected, atol=1e-12)


@pytest.mark.usefixtures("cpus_as_before")
def test_worker_answers_failed_for_an_unknown_command(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", statevector.make_features(1, 4))
    request = {
        "contender": "numpy",
        "case": statevector.make_case(2, 1).to_json(),
        "features": str(tmp_path / "features.npy"),
    }
    answers = io.StringIO()
    lines = f'{json.dumps(request)}\n{{"do": "dance"}}\n'
    assert service.serve(worker.Worker, io.StringIO(lines), answers) == 1
    assert "unknown command 'dance'" in answers.getvalue()
