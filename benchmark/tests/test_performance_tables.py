# SPDX-License-Identifier: Apache-2.0
"""The figures in docs/performance.md are those of the records."""

from __future__ import annotations

import pytest

from benchmark import performance_tables


def test_the_document_holds_what_the_records_say():
    assert performance_tables.main(["--check"]) == 0, "run python -m benchmark.performance_tables"


@pytest.mark.parametrize("beginning", ["| 1000 | qdp-fused |", "| adjoint, n = 12"])
def test_a_changed_figure_is_noticed(tmp_path, monkeypatch, beginning):
    text = performance_tables.DOCUMENT.read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(beginning))
    assert " (" in row
    changed = tmp_path / "performance.md"
    changed.write_text(text.replace(row, row.replace(" (", "1 (", 1)), encoding="utf-8")
    monkeypatch.setattr(performance_tables, "DOCUMENT", changed)
    assert performance_tables.main(["--check"]) == 1
