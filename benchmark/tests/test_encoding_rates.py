# SPDX-License-Identifier: Apache-2.0
"""The data plane's benchmark: whole runs of tiny sizes, and checks that can fail."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import qdp
from benchmark import encoding_rates, performance_tables
from benchmark.core.contenders import encoding_paths
from qdp import _core

TINY = replace(
    encoding_rates.QUICK,
    encodings=(("amplitude", 3), ("angle", 5), ("iqp-embedding", 5)),
    state_bytes=2**13,
    pennylane_rows=3,
    stream_qubits=3,
    stream_rows=50,
    chunk_rows=16,
    kernel_qubits=3,
    kernel_rows=9,
)


@pytest.fixture(scope="module", autouse=True)
def no_pause():
    patch = pytest.MonkeyPatch()
    patch.setattr(encoding_rates, "PAUSE_S", 0.0)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The path of a whole run's record."""
    pytest.importorskip("torch")
    pytest.importorskip("pennylane")
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("results")
    threads = _core.thread_count()
    patch = pytest.MonkeyPatch()
    patch.setattr(encoding_rates, "QUICK", TINY)
    assert encoding_rates.main(["--quick", "--runs", "2", "--output-dir", str(folder)]) == 0
    patch.undo()
    _core.set_thread_count(threads)
    (path,) = folder.glob("encoding_rates_*.jsonl")
    return path


@pytest.fixture(scope="module")
def lines(recorded):
    return [json.loads(line) for line in recorded.read_text().splitlines()]


def of_kind(lines, record):
    return [line for line in lines if line["record"] == record]


def test_the_run_names_versions_hardware_and_commit(lines):
    assert lines[0]["record"] == "run"
    assert lines[0]["versions"]["numpy"] == np.__version__
    assert set(lines[0]["git"]) == {"commit", "modified"}
    assert len(of_kind(lines, "machine")) == 2


def test_every_encoding_has_its_rivals_and_raw_times(lines):
    found = of_kind(lines, "encoding")
    names = {"qdp", "qdp-fresh", "numpy", "torch", "pennylane"}
    for encoding, _ in TINY.encodings:
        of_encoding = [line for line in found if line["encoding"] == encoding]
        products = {"numpy-products", "torch-products"} if encoding == "iqp-embedding" else set()
        assert {line["contender"] for line in of_encoding} == names | products
    for line in found:
        assert len(line["seconds"]) == 2
        middle = np.median(line["seconds"])
        assert line["us_per_row"] == pytest.approx(1e6 * middle / line["rows"])
        assert line["extrapolated"] == (line["contender"] == "pennylane")
    # 8 features of 8 bytes and 8 amplitudes of 16 bytes.
    amplitude = next(line for line in found if line["n_qubits"] == 3)
    assert amplitude["rows"] == 64
    assert amplitude["bytes_per_s"] * amplitude["us_per_row"] == pytest.approx(192e6)


def test_a_stream_is_set_against_reading_and_encoding(lines):
    for kind in ("parquet", "npy"):
        found = {x["contender"]: x for x in of_kind(lines, "stream") if x["format"] == kind}
        assert set(found) == {"read", "encode", "stream"}
        assert all(line["rows"] == 50 for line in found.values())
        medians = {name: np.median(line["seconds"]) for name, line in found.items()}
        ideal = np.median(np.add(found["read"]["seconds"], found["encode"]["seconds"]))
        fraction = found["stream"]["fraction_of_ideal"]
        assert fraction == pytest.approx(ideal / medians["stream"])


def test_the_cache_reports_what_it_read(lines):
    found = {line["contender"]: line for line in of_kind(lines, "cache")}
    assert set(found) == {"re-read", "verify", "hit to first batch"}
    assert found["verify"]["stored_bytes"] > 50 * 8 * 8
    assert "bytes_per_s" not in found["hit to first batch"]


def test_the_kernel_has_both_dtypes(lines):
    found = {(line["dtype"], line["contender"]) for line in of_kind(lines, "kernel")}
    names = ("qdp", "numpy", "torch")
    assert found == {(dtype, name) for dtype in ("real", "complex") for name in names}


def test_the_tables_hold_every_measurement(recorded, lines):
    text = performance_tables.sections(recorded.parent)
    for line in of_kind(lines, "encoding"):
        assert f"{line['us_per_row']:.4g}" in text
    for line in of_kind(lines, "kernel"):
        assert f"{line['ns_per_pair']:.3g}" in text
    assert f"[{recorded.name}]" in text


def test_a_wrong_result_stops_the_run(monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("pennylane")

    def wrong(library, features, out):
        out[:] = 0
        return out

    monkeypatch.setitem(encoding_rates.WITH_LIBRARY, "amplitude", wrong)
    with pytest.raises(RuntimeError, match="numpy: expected the reference's result"):
        encoding_rates.measure_encoding("amplitude", 3, TINY, 1)


@pytest.mark.parametrize("value", [1 + 1e-11, np.nan])
def test_a_difference_is_noticed(value):
    with pytest.raises(RuntimeError, match="qdp: expected the reference's result"):
        encoding_rates.require_equal("qdp", np.array([[value]]), np.ones((1, 1)))


def test_contenders_take_turns():
    calls = []
    contenders = [
        encoding_rates.Contender(name, 1, lambda name=name: calls.append(name)) for name in "ab"
    ]
    seconds = encoding_rates.take_turns(contenders, 2)
    assert calls == ["a", "a", "b", "b"] * 2  # short calls follow an untimed one
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("encode", [encoding_paths.iqp_with, encoding_paths.iqp_products_with])
def test_the_closed_forms_are_the_embedding_in_every_block(encode, monkeypatch):
    monkeypatch.setattr(encoding_paths, "BLOCK_BYTES", 2**10)
    features = np.random.default_rng(3).normal(size=(11, 4))
    expected = qdp.encode(features, "iqp-embedding", backend="reference")
    encode(np, features, out := np.empty((11, 16), complex))
    encoding_rates.require_equal("numpy", out, expected)


def test_a_large_stream_takes_little_memory(tmp_path):
    line = encoding_rates.measure_large(0.25, tmp_path)
    assert line["file_bytes"] > 2**28
    assert line["rows"] == 2**28 // (8 * 2**12)
    # The states of a chunk are 64 MiB, and the interpreter with NumPy some tens.
    if line["peak_anonymous_bytes"] is not None:
        assert line["peak_anonymous_bytes"] < 2**28
    assert list(tmp_path.iterdir()) == []


def test_runs_below_one_are_refused(capsys):
    with pytest.raises(SystemExit):
        encoding_rates.main(["--runs", "0"])
    assert "--runs: expected at least 1, got 0" in capsys.readouterr().err
