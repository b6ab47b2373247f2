# SPDX-License-Identifier: Apache-2.0
"""Handing states to cuStateVec: the paths, on host memory; the tables of the document."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmark import custatevec
from benchmark.batched_execution import us
from benchmark.core.records import Leg
from benchmark.custatevec import ENGINES, NOT_YET, PATHS, Paths


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

    given = Lightning(n_qubits) if lightning else None
    wait = (lambda: None) if waits is None else (lambda: waits.append(1))
    return Paths(states, flip, given, wait), "" if lightning else "no lightning.gpu here"


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


@pytest.mark.parametrize("broken", ["HostToDevice", "updateData"])
def test_a_path_that_brings_other_states_is_refused(broken):
    paths, _ = host_paths(3, 4)
    setattr(paths.lightning, broken, lambda *arguments: None)
    name = {"HostToDevice": "prepare", "updateData": "update"}[broken]
    with pytest.raises(RuntimeError, match=f"{name}: expected the same states"):
        paths.calls()
    paths, _ = host_paths(3, 4)
    paths.flip = lambda states: None
    with pytest.raises(RuntimeError, match="in-place: expected the same states"):
        paths.calls()


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
    found = [custatevec.newest(f"{name}_*.jsonl", tmp_path) for name in ("custatevec", "gpu_rates")]
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
