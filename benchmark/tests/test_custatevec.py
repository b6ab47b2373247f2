# SPDX-License-Identifier: Apache-2.0
"""Handing states to cuStateVec: the paths, on host memory; the tables of the document."""

from __future__ import annotations

import ctypes
import json
from types import SimpleNamespace

import numpy as np
import pytest
from custatevec_emulation import EmulatedLibrary

from benchmark import custatevec
from benchmark.batched_execution import us
from benchmark.core.records import Leg, newest_whole, read_lines
from benchmark.custatevec import ENGINES, NOT_YET, PATHS, Paths
from qdp.backends import custatevec_library
from qdp.errors import BackendUnavailable, DeviceError


class Lightning:
    """A state vector in host memory with the calls of Lightning's."""

    def __init__(self, n_qubits):
        self.state = np.zeros(2**n_qubits, complex)

    def resetStateVector(self, use_async):
        self.state[:] = np.eye(1, len(self.state))[0]

    def HostToDevice(self, state, use_async):
        self.state[:] = state

    def updateData(self, state):
        self.state[:] = np.asarray(state)

    def DeviceToHost(self, state, use_async):
        state[:] = self.state


def host_paths(n_qubits, rows, lightning=True, waits=None):
    torch = pytest.importorskip("torch")
    states = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 2**n_qubits)) + 0j)

    def flip(tensor):
        pairs = tensor.numpy().reshape(len(tensor), -1, 2)
        pairs[:] = pairs[:, :, ::-1].copy()

    given = Lightning(n_qubits) if lightning else "no lightning.gpu here"
    wait = (lambda: None) if waits is None else (lambda: waits.append(1))
    return Paths(states, flip, given, wait)


def test_every_path_is_timed_and_waited_for():
    waits = []
    lines = list(custatevec.measure([3], 2, lambda n, rows: host_paths(n, rows, waits=waits)))
    assert [line["path"] for line in lines] == list(PATHS)
    assert [line["status"] for line in lines] == ["ok"] * len(PATHS)
    assert [len(line["seconds"]) for line in lines] == [2] * len(PATHS)
    assert len(waits) >= 2 * len(PATHS)
    rows = custatevec.path_rows(lines, [3])
    assert [row[2] for row in rows] == [us(line, line["rows"]) for line in lines]


def test_without_lightning_its_paths_are_unsupported():
    lines = list(custatevec.measure([3], 2, lambda n, rows: host_paths(n, rows, lightning=False)))
    status = {line["path"]: line["status"] for line in lines}
    assert {name for name in PATHS if status[name] != "ok"} == {"prepare", "update"}
    rows = custatevec.path_rows(lines, [3])
    assert [row[2] for row in rows].count("unsupported: no lightning.gpu here") == 2


def lines_of(**replaced):
    """The lines of paths of which some calls are replaced, by path."""

    def make(n_qubits, rows):
        paths = host_paths(n_qubits, rows)
        for name, call in replaced.items():
            setattr(paths if name == "flip" else paths.lightning, name, call)
        return paths

    return {line["path"]: line for line in custatevec.measure([3], 2, make)}


BROKEN = {"HostToDevice": "prepare", "updateData": "update", "flip": "in-place"}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_path_that_brings_other_states_has_failed_and_the_rest_are_timed(broken):
    lines = lines_of(**{broken: lambda *arguments: None})
    bad = lines.pop(BROKEN[broken])
    assert (bad["status"], bad["reason"]) == (
        "failed", "expected the same states behind it, got others",
    )  # fmt: skip
    assert {line["status"] for line in lines.values()} == {"ok"}


@pytest.mark.parametrize("error", [TypeError, RuntimeError, DeviceError])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_path_whose_library_refuses_is_unsupported(broken, error):
    def refuse(*arguments):
        raise error("no such tensors")

    lines = lines_of(**{broken: refuse})
    bad = lines.pop(BROKEN[broken])
    assert (bad["status"], bad["reason"]) == ("unsupported", "no such tensors")
    assert {line["status"] for line in lines.values()} == {"ok"}


class LibraryOnHost(EmulatedLibrary):
    """cuStateVec's calls on any memory, at once; matrices on one bit need scratch memory."""

    def __init__(self):
        device = SimpleNamespace(_queue=lambda name, stream, work: work())
        super().__init__(device)

    def memory(self, address, dtype, count):
        assert address
        n_bytes = np.dtype(dtype).itemsize * count
        return np.frombuffer((ctypes.c_char * n_bytes).from_address(address), dtype)

    def _asked(self, key, n_bits, size):
        self._sizes[key] = size[0] = 4096


def test_the_library_gets_the_workspace_that_it_asks_for():
    torch = pytest.importorskip("torch")
    states = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 8)) + 0j)
    before = states.numpy().copy()
    library = LibraryOnHost()
    flip = custatevec.Flip(library, 7, "cpu")
    flip(states)
    assert not library.broken, library.broken[0]
    assert len(flip.scratch) == 4096
    expected = before.reshape(4, 4, 2)[:, :, ::-1].reshape(4, 8)
    np.testing.assert_array_equal(states.numpy(), expected)


@pytest.mark.parametrize(("broken", "status"), [(None, 0), ("updateData", 0), ("flip", 1)])
def test_a_record_is_written_whatever_a_path_does(monkeypatch, tmp_path, broken, status):
    lines = list(lines_of(**({broken: lambda *arguments: None} if broken else {})).values())
    monkeypatch.setattr(custatevec, "gpu_problem", lambda: None)
    monkeypatch.setattr(custatevec, "measure", lambda qubits, runs: iter(lines))
    assert custatevec.main(["--output-dir", str(tmp_path)]) == status
    (path,) = tmp_path.glob("custatevec_*.jsonl")
    assert read_lines(path)[1:] == lines


def test_without_the_library_the_other_paths_are_measured(monkeypatch):
    torch = pytest.importorskip("torch")

    def missing():
        raise BackendUnavailable("backend 'custatevec' needs NVIDIA's library")

    def on_host(function):
        return lambda *arguments, device, **options: function(*arguments, **options)

    monkeypatch.setattr(custatevec_library, "load_library", missing)
    monkeypatch.setattr(torch, "randn", on_host(torch.randn))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(custatevec, "BYTES", 2**10)
    lines = {line["path"]: line for line in custatevec.measure([3], 1)}
    assert lines["to-host"]["status"] == lines["copy"]["status"] == "ok"
    bad = lines["in-place"]
    assert (bad["status"], bad["reason"]) == (
        "unsupported", "backend 'custatevec' needs NVIDIA's library",
    )  # fmt: skip


def run_line(**more):
    return {
        "record": "run", "versions": {"qdp": "0.1.0"}, "gpus": ["NVIDIA Sample"],
        "git": {"commit": "0123456789abcdef"}, **more,
    }  # fmt: skip


def leg(contender, method, **more):
    values = Leg(
        contender, contender, method, 1000, "ok", rows_measured=1000, encoding_ms=[1.0] * 9,
        circuit_ms=[3.0] * 9, sweep="roadmap", case={"method": method},
    ).to_json()  # fmt: skip
    return {"record": "leg", "part": "roadmap", **values, **more}


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_tables_come_from_the_newest_whole_records(tmp_path):
    handover = [
        run_line(),
        *({"record": "path", "path": name, "n_qubits": 12, "rows": 10, "status": "ok",
           "seconds": [1e-4 * (k + 1)] * 9} for k, name in enumerate(PATHS)),
    ]  # fmt: skip
    rates = [
        run_line(quick=False),
        leg("qdp-custatevec", "adjoint"),
        leg("lightning-gpu-shift", "parameter-shift", rows_measured=10),
        leg("custatevec", "adjoint", status="failed", reason="it fell over"),
    ]
    write(tmp_path / "custatevec_20260101_000000.jsonl", handover)
    write(tmp_path / "gpu_rates_20260101_000000.jsonl", rates)
    write(tmp_path / "gpu_rates_20260102_000000.jsonl", [run_line(quick=True)])
    found = [newest_whole(tmp_path, name) for name in ("custatevec", "gpu_rates")]
    text = custatevec.tables(*found)
    assert "gpu_rates_20260101_000000.jsonl" in text
    for k, (what, copies) in enumerate(PATHS.values()):
        value = f"{10 * (k + 1)}.00"
        cell = f"{value} ({value} to {value})"
        assert f"| {what} | {copies} | {cell} |" in text
    assert f"| QDP, `custatevec` | 4 (4 to 4) | {NOT_YET} |" in text
    assert f"| `lightning.gpu` | {NOT_YET} | 400 (400 to 400)* |" in text
    assert f"| cuStateVec by hand, gates fused | failed: it fell over | {NOT_YET} |" in text
    assert text.count(NOT_YET) == 2 * len(ENGINES) - 3


def test_without_records_nothing_is_claimed():
    text = custatevec.tables(None, None)
    assert text.count(NOT_YET) == 2 * len(PATHS) + 2 * len(ENGINES)
    assert text.count("No record has been taken on a GPU.") == 2


def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys, tmp_path):
    pytest.importorskip("torch")
    monkeypatch.setattr(custatevec, "gpu_problem", lambda: "there is no GPU")
    assert custatevec.main(["--output-dir", str(tmp_path)]) == 2
    assert "there is no GPU; nothing was measured" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_document_says_what_the_records_say():
    hint = "run python -m benchmark.custatevec --write"
    assert custatevec.main(["--check"]) == 0, hint
