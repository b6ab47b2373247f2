# SPDX-License-Identifier: Apache-2.0
"""The benchmark of plans runs every option of every case and records what it found."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmark import plan_choice

pytest.importorskip("qdp.backends.cpu", reason="plans are about the compiled engine")


def test_a_small_run_is_recorded(tmp_path):
    arguments = ["--output-dir", str(tmp_path), "--runs", "1"]
    assert plan_choice.main([*arguments, "--most-rows", "20", "--most-qubits", "4"]) == 0
    (path,) = tmp_path.glob("plan_choice_*.jsonl")
    first, *cases = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert first["record"] == "run"
    assert len(cases) == len(plan_choice.CASES) >= 6
    for case in cases:
        medians = case["median_seconds"]
        assert set(medians) == {"fuse", "cache", "stream"}
        assert case["decision"] in medians
        assert case["ratio"] == medians[case["decision"]] / min(medians.values())


def test_options_that_disagree_are_refused(monkeypatch):
    right = plan_choice.run

    def wrong(option, *arguments):
        return right(option, *arguments) + (option == "cache")

    monkeypatch.setattr(plan_choice, "run", wrong)
    with pytest.raises(AssertionError, match="cache and stream give other gradients"):
        plan_choice.measure(plan_choice.Case("angle", 2, 3, 1), 1)


def test_files_and_chunks_give_the_same_gradients():
    # A budget of two rows: the cache goes to files, the stream in chunks.
    case = plan_choice.Case("amplitude", 3, 5, 2, in_file=True, memory=128)
    found = plan_choice.measure(case, 1)
    assert found["places"]["cache"] == "files"
    assert found["n_bytes"]["stream"] == 128
    assert set(found["seconds"]) == {"cache", "stream"}
    assert np.all(np.array(found["seconds"]["stream"]) > 0)
