# SPDX-License-Identifier: Apache-2.0
"""The GPU benchmark without a GPU: what it would run, what it writes, and what is made of that."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import qdp
from benchmark import gpu_rates, performance_tables
from benchmark.core import device_rates, document, gpu_report, gpu_tables, records
from benchmark.core.contenders import BY_KIND
from benchmark.core.document import Book
from benchmark.core.kernel_work import Call, Launch, Profiled, Work, kernel_lines, labelled
from benchmark.core.published import Library
from benchmark.tests.fabricated import MACHINE_RATES, make_gpu_leg, make_gpu_lines
from qdp.backends.reference import ReferenceBackend
from qdp.errors import BackendUnavailable
from qdp.program import compile_program

POINTS = list(gpu_rates.points(gpu_rates.FULL, gpu_rates.PARTS))


class FakeClock:
    """Two marks are ``step`` milliseconds apart."""

    def __init__(self, step=2.0):
        self.step = step
        self.now = 0.0

    def mark(self):
        self.now += self.step
        return self.now

    def milliseconds(self, first, second):
        return second - first


# What is run


def test_the_full_run_has_what_was_asked_for():
    encodings = {
        (point.case.encoding, point.case.n_qubits) for point in POINTS if point.part == "encoding"
    }
    assert {("amplitude", 12), ("amplitude", 16), ("angle", 12), ("iqp-embedding", 12)} == encodings
    gradients = {point.case.precision: point for point in POINTS if point.part == "gradients"}
    assert set(gradients) == {"double", "single"}
    roadmap = {point.case.method: point for point in POINTS if point.part == "roadmap"}
    assert set(roadmap) == {"adjoint", "parameter-shift"}
    for point in (*gradients.values(), *roadmap.values()):
        assert (point.case.n_qubits, point.case.n_layers, point.case.n_parameters) == (12, 2, 48)
        assert {"custatevec", "qdp-custatevec", "qdp-cuda", "qdp-cuda-fused"} <= set(
            point.contenders
        )
    assert {point.rows for point in roadmap.values()} == {1000}
    assert "lightning-gpu-adjoint" in roadmap["adjoint"].contenders
    assert "lightning-gpu-shift" in roadmap["parameter-shift"].contenders
    assert "qdp-cuda-host" in gradients["double"].contenders
    # Gradients for the sum of Z are all there: every rival of the roadmap is checked by them.
    assert set(roadmap["adjoint"].contenders) <= set(gradients["double"].contenders)
    for point in POINTS:
        assert set(point.contenders) <= set(BY_KIND[point.case.kind])
        assert point.case.backend == "cuda"


def test_an_encoder_writes_gigabytes_and_all_of_them_fit():
    rows = {point.case.n_qubits: point.rows for point in POINTS if point.part == "encoding"}
    assert rows == {12: 2**33 // (16 << 12), 16: 2**33 // (16 << 16)}
    assert gpu_rates.fitted(gpu_rates.FULL, 2**40) == gpu_rates.FULL
    small = gpu_rates.fitted(gpu_rates.FULL, 24 * 2**30)
    assert small.state_bytes == 2**31
    assert small.kernel_bytes == gpu_rates.FULL.kernel_bytes


def test_rows_of_a_point():
    quick = list(gpu_rates.points(gpu_rates.QUICK, ["encoding", "roadmap"]))
    angle = next(point for point in quick if getattr(point.case, "encoding", "") == "angle")
    assert angle.features().shape == (2**20 // (16 * 32), 5)
    wide = quick[-1]
    assert wide.features().shape == (20, 32)
    np.testing.assert_array_equal(wide.features(), wide.features())


def test_without_a_gpu_nothing_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_rates, "device_problem", lambda: "needs an NVIDIA GPU")
    assert gpu_rates.main(["--output-dir", str(tmp_path)]) == 2
    assert "needs an NVIDIA GPU; nothing was measured" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def fake_gpu(monkeypatch):
    """A machine whose GPU was made up; returns what the workers were asked for."""
    asked = []

    def run_size(case, features, contenders, settings, progress):
        asked.append((case, features.shape, tuple(contenders), settings))
        point = SimpleNamespace(case=case, rows=len(features), part="")
        return [make_gpu_leg(point, name, 1.0) for name in contenders]

    monkeypatch.setattr(gpu_rates, "device_problem", lambda: None)
    monkeypatch.setattr(gpu_rates, "CudaEvents", lambda: None)
    monkeypatch.setattr(gpu_rates, "DeviceClock", lambda events: FakeClock())
    monkeypatch.setattr(gpu_rates.runner, "run_size", run_size)
    timed = {name: device_rates.Timed(rate, [1.0]) for name, rate in MACHINE_RATES.items()}
    monkeypatch.setattr(gpu_rates, "device_facts", lambda: {"name": "a GPU"})
    monkeypatch.setattr(gpu_rates, "free_memory", lambda: 2**36)
    monkeypatch.setattr(device_rates, "time_copies", lambda clock, **sizes: timed)
    monkeypatch.setattr(device_rates, "time_kernels", lambda clock, facts, rounds: {})
    monkeypatch.setattr(gpu_rates, "profiled_device", lambda clock: None)
    monkeypatch.setattr(
        gpu_rates,
        "measure_kernels",
        lambda profile, *rest: [
            {"record": "kernel", "kernel": "run", "total_s": 1.0, "rows": profile.rows}
        ],
    )
    # The run narrows what this process sees, which is undone with the rest.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    return asked


def read(folder):
    (path,) = folder.glob("gpu_rates_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_writes_all_parts(tmp_path, fake_gpu):
    arguments = ["--quick", "--gpu", "1", "--runs", "4", "--output-dir", str(tmp_path)]
    assert gpu_rates.main(arguments) == 0
    lines = read(tmp_path)
    kinds = [line["record"] for line in lines]
    assert kinds[:2] == ["run", "machine"]
    assert lines[1]["rates"] == MACHINE_RATES
    assert lines[1]["seconds"]["copy"] == [1.0]
    assert kinds.count("kernel") == 6
    legs = [line for line in lines if line["record"] == "leg"]
    assert {line["part"] for line in legs} == {"encoding", "gradients", "roadmap"}
    assert all(line["sweep"] == line["part"] for line in legs)
    assert len(legs) == sum(len(contenders) for _, _, contenders, _ in fake_gpu)
    leg = records.Leg.from_json(legs[0])
    assert leg.ok
    assert leg.case["encoding"] == "amplitude"
    assert fake_gpu[0][3].runs == 4
    assert fake_gpu[0][3].gpu == 0, "the only one that is visible"
    assert gpu_rates.os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_some_parts_alone(tmp_path, fake_gpu):
    assert gpu_rates.main(["--quick", "--parts", "roadmap", "--output-dir", str(tmp_path)]) == 0
    kinds = [line["record"] for line in read(tmp_path)]
    assert set(kinds) == {"run", "leg"}
    assert [case.method for case, *_ in fake_gpu] == ["adjoint", "parameter-shift"]


def test_an_interrupted_run_keeps_its_parts(tmp_path, fake_gpu, monkeypatch, capsys):
    real = gpu_rates.runner.run_size

    def stop_at_gradients(case, *rest):
        if case.kind == "gradient":
            raise KeyboardInterrupt
        return real(case, *rest)

    monkeypatch.setattr(gpu_rates.runner, "run_size", stop_at_gradients)
    assert gpu_rates.main(["--quick", "--output-dir", str(tmp_path)]) == 130
    assert {line.get("part") for line in read(tmp_path)} == {None, "encoding"}
    assert "interrupted" in capsys.readouterr().err


def test_a_leg_of_qdp_that_fails_is_an_error_and_a_rival_is_not(
    tmp_path, fake_gpu, monkeypatch, capsys
):
    real = gpu_rates.runner.run_size

    def failing(name):
        def run_size(*arguments):
            legs = real(*arguments)
            for leg in legs:
                if leg.contender == name:
                    leg.status, leg.reason = "failed", "it was wrong"
                    leg.encoding_ms, leg.circuit_ms = [], []
            return legs

        return run_size

    for name, status in (("torch-cuda", 0), ("qdp-cuda", 1)):
        monkeypatch.setattr(gpu_rates.runner, "run_size", failing(name))
        folder = tmp_path / name
        arguments = ["--quick", "--parts", "encoding", "--output-dir", str(folder)]
        assert gpu_rates.main(arguments) == status
    assert "error: qdp-cuda: failed: it was wrong" in capsys.readouterr().err


# The machine


def test_rates_of_copies_are_bytes_over_time():
    pytest.importorskip("torch")
    found = device_rates.time_copies(
        FakeClock(2.0), device="cpu", copy_bytes=2**20, link_bytes=2**16
    )
    assert all(len(one.seconds) == device_rates.RUNS for one in found.values())
    assert {name: one.rate for name, one in found.items()} == {
        "copy": 2 * 2**20 / 0.002,
        "to_device": 2**16 / 0.002,
        "to_host": 2**16 / 0.002,
    }


def test_rates_of_kernels_count_what_they_do(monkeypatch):
    launched = []

    class Device:
        default_stream = "stream"

        def __init__(self, ordinal):
            pass

        def set_current(self):
            pass

        def allocate(self, n_bytes, stream):
            return SimpleNamespace(close=lambda: launched.append("closed"))

    core = SimpleNamespace(
        Device=Device,
        LaunchConfig=lambda grid, block: (grid, block),
        launch=lambda stream, config, kernel, buffer, rounds: launched.append(
            (kernel, config, int(rounds))
        ),
    )
    code = SimpleNamespace(get_kernel=lambda name: name)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(core=core))
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    monkeypatch.setattr(device_rates, "compiled", lambda precision, architecture: code)
    facts = {"multiprocessors": 10, "architecture": "sm_90"}
    found = device_rates.time_kernels(FakeClock(4.0), facts, 128)
    threads, rounds = 80 * device_rates.THREADS, 128
    assert found["double"].rate == found["single"].rate == threads * rounds * 8 * 2 / 0.004
    assert found["shared"].rate == threads * rounds * 32 / 0.004
    assert launched[0] == ("multiply_add", (80, device_rates.THREADS), rounds)
    assert launched[-1] == "closed"


@pytest.mark.parametrize("precision", ["double", "single"])
def test_kernels_of_the_machine_compile(precision):
    pytest.importorskip("cuda.core")
    try:
        code = bytes(device_rates.compiled(precision, "sm_90").code)
    except Exception as error:
        if "NotFound" in type(error).__name__:
            pytest.skip(f"no NVRTC: {error}")
        raise
    for kernel in (b"multiply_add", b"shared_copy"):
        assert b".text." + kernel + b"\0" in code


# Kernels


def test_launches_are_timed_and_passed_on():
    passed = []

    class Base:
        def launch(self, *arguments, **options):
            passed.append((arguments, options))

    class Device(Profiled, Base):
        pass

    device = Device()
    device.clock, device.timed_launches = FakeClock(3.0), []
    device.launch("double", "run", 7, 128, 4096, 99, stream=5)
    assert passed == [(("double", "run", 7, 128, 4096, 99), {"stream": 5})]
    assert device.timed_launches == [Launch("run", 7, 3.0)]


def test_passes_back_are_told_apart_in_every_chunk():
    names = ["angles", "load", "pass", "pass", "observe", "pull", "pass", "accumulate"] * 2
    found = labelled([Launch(name, 1, 1.0) for name in names])
    assert len(found["pass"]) == 4
    assert len(found["pass, back"]) == 2
    assert len(found["pull"]) == 2


def test_work_is_counted_by_hand():
    """Three qubits: RY on each, RZ on each, one observable of one word; complex128."""
    gates = [qdp.gates.RY(qdp.parameter(index), index) for index in range(3)]
    gates += [qdp.gates.RZ(qdp.parameter(3 + index), index) for index in range(3)]
    circuit = qdp.Circuit(3, gates)
    program = compile_program(circuit, (qdp.Observable("Z0"),))
    assert [(step.kind, len(step.rotations)) for step in program.steps] == [
        ("rotations", 3),
        ("diagonal", 3),
    ]
    forward = 8 * (3 * 6 + 4 * 6)
    call = Call(program, "double", columns=7)
    # Load, two walks, and the values' one: 16 bytes for each amplitude.
    assert call.work_of("run") == Work(
        2 * 7 + 2 * 8 + forward + 8 * 6, 8 * 7, 16 * 8 * (1 + 2 + 2 + 1)
    )
    back = 8 * (3 * 19 + 6 + 3 + 2 * 4 * 6)
    both = Call(program, "double", columns=7, gradient=True).work_of("run")
    assert both.flops == call.work_of("run").flops + 8 * 3 + back
    assert both.n_bytes == 8 * 7 + 8 * 6
    assert both.shared_bytes == 16 * 8 * (1 + 2 + 2 + 1 + 2 + 4 + 6)
    # States in device memory: psi in and out a stage, with lambda beside it on the way back.
    single = Call(program, "single", columns=8)
    assert single.work_of("pass", stages=3) == Work(forward, 3 * 2 * 8 * 8, 8 * 8 * 4)
    assert single.work_of("pass, back", stages=3).n_bytes == 3 * 4 * 8 * 8
    assert single.work_of("norms") == Work(16, 64)
    assert single.work_of("load") == Work(16, 64 + 64)
    assert single.work_of("pull") == Work(24, 128)
    assert single.work_of("observe") == Work(48, 64)
    assert single.work_of("accumulate") is None


def test_other_steps_are_refused():
    circuit = qdp.Circuit(3, [qdp.gates.QubitUnitary(np.eye(8)[::-1], [0, 1, 2])])
    program = compile_program(circuit, (qdp.Observable("Z0"),))
    with pytest.raises(ValueError, match="expected rotations and diagonals, got a step of"):
        Call(program, "double", 8).work_of("run")


def test_the_floor_is_the_longest_of_three():
    rates = {"double": 10.0, "single": 20.0, "copy": 100.0, "shared": 1000.0}
    assert Work(50, 100, 1000).floor_s(rates, "double") == (5.0, "arithmetic")
    assert Work(50, 1000, 1000).floor_s(rates, "single") == (10.0, "device memory")
    assert Work(1, 1, 9000).floor_s(rates, "double") == (9.0, "shared memory")


def test_lines_of_kernels_hold_time_work_and_floor():
    program = compile_program(qdp.ansatz.ry_rz_ladder(3, 1), (qdp.Observable.sum_z(3),))
    call = Call(program, "double", 8, gradient=True)
    launches = [
        Launch(name, 1, ms)
        for name, ms in [("angles", 0.5), ("pass", 1.0), ("pass", 2.0), ("pull", 1.0),
                         ("pass", 4.0), ("accumulate", 0.25)]
    ]  # fmt: skip
    lines = {line["kernel"]: line for line in kernel_lines(launches, call, 10, MACHINE_RATES)}
    assert lines["accumulate"] == {"kernel": "accumulate", "launches": 1, "total_s": 0.25e-3}
    work = call.work_of("pass", stages=2).times(10)
    line = lines["pass"]
    assert (line["launches"], line["total_s"]) == (2, 3e-3)
    assert (line["flops"], line["bytes"]) == (work.flops, work.n_bytes)
    floor, limit = work.floor_s(MACHINE_RATES, "double")
    assert (line["floor_s"], line["limit"]) == (floor, limit)
    assert line["time_over_floor"] == 3e-3 / floor
    assert lines["pass, back"]["bytes"] == call.work_of("pass, back").times(10).n_bytes


class CountingBackend(ReferenceBackend):
    """The reference, as if it had launched three kernels for each call."""

    def __init__(self, device):
        self.device = device

    def _launch(self):
        for kernel in ("angles", "run", "accumulate"):
            self.device.timed_launches.append(Launch(kernel, 1, self.device.clock.step))

    def adjoint(self, *arguments):
        self._launch()
        return super().adjoint(*arguments)

    def state(self, *arguments):
        self._launch()
        return super().state(*arguments)


@pytest.mark.parametrize("what", ["adjoint", "encoding"])
def test_measured_kernels(monkeypatch, what):
    monkeypatch.setattr("qdp.backends.cuda.CudaBackend", CountingBackend)
    monkeypatch.setattr(
        CountingBackend, "encoder", lambda self, encoding: self._launch(), raising=False
    )
    device = SimpleNamespace(clock=FakeClock(3.0), timed_launches=[])
    profile = gpu_rates.Profile(what, 4, "double", 6)
    lines = gpu_rates.measure_kernels(profile, 2, 5, MACHINE_RATES, device)
    assert [line["kernel"] for line in lines] == ["angles", "run", "accumulate"]
    run = lines[1]
    assert run["seconds"] == [3e-3] * 5
    assert (run["call"], run["n_qubits"], run["rows"]) == (what, 4, 6)
    assert run["time_over_floor"] == pytest.approx(3e-3 / run["floor_s"])
    # Rows in; for encoding states out, for gradients one number for each of the 16 rotations.
    assert run["bytes"] == 6 * (8 * 16 + (16 * 16 if what == "encoding" else 8 * 16))


def test_kernels_of_a_wrong_result_are_not_timed(monkeypatch):
    class Wrong(CountingBackend):
        def adjoint(self, *arguments):
            found = super().adjoint(*arguments)
            found.parameters[...] += 1.0
            return found

    monkeypatch.setattr("qdp.backends.cuda.CudaBackend", Wrong)
    device = SimpleNamespace(clock=FakeClock(), timed_launches=[])
    profile = gpu_rates.Profile("adjoint", 3, "double", 2)
    with pytest.raises(RuntimeError, match="expected the reference's results"):
        gpu_rates.measure_kernels(profile, 1, 1, MACHINE_RATES, device)


@pytest.mark.parametrize("shared_bytes", [200 * 2**10, 2048 + (16 << 4)], ids=["whole", "tiles"])
def test_measured_kernels_of_the_backend_itself(tmp_path, shared_bytes):
    """The CUDA backend's own kernels, on the processor: their names, and passes there and back."""
    emulator = pytest.importorskip("emulator")
    libraries = emulator.compile_for_the_processor(tmp_path)

    class Device(Profiled, emulator.Emulator):
        pass

    found = {}
    for what in ("encoding", "adjoint"):
        device = Device(libraries, shared_bytes)
        device.clock, device.timed_launches = FakeClock(3.0), []
        profile = gpu_rates.Profile(what, 6, "double", 5)
        lines = gpu_rates.measure_kernels(profile, 2, 1, MACHINE_RATES, device)
        found[what] = {line["kernel"]: line for line in lines}
        assert all(line["total_s"] == 3e-3 * line["launches"] for line in lines)
    if shared_bytes > 2**16:
        assert set(found["encoding"]) == {"run"}
        assert found["adjoint"]["run"]["bytes"] == 5 * (8 * 64 + 8 * 24)
        return
    assert {"norms", "load"} <= set(found["encoding"])
    there, back = found["adjoint"]["pass"], found["adjoint"]["pass, back"]
    assert there["launches"] == back["launches"] > 1
    assert there["bytes"] == 5 * there["launches"] * 2 * 16 * 64
    assert back["bytes"] == 2 * there["bytes"]


def test_the_profiled_device_is_the_backends_own():
    if gpu_rates.device_problem() is None:
        assert gpu_rates.profiled_device(FakeClock()).timed_launches == []
        return
    with pytest.raises(BackendUnavailable):
        gpu_rates.profiled_device(FakeClock())


# What is made of the records


def recorded(**changes):
    """Return the lines of a whole run in which each contender takes the time given here."""
    times = {"qdp-cuda": 2.0, "qdp-cuda-fused": 1.0, "qdp-cuda-host": 16.0, **changes}
    legs = []
    for point in POINTS:
        for name in point.contenders:
            facts = {}
            if name == "qumat-qdp":
                facts = {"status": "skipped", "reason": "No module named 'qumat_qdp' at 3.12"}
            if name.startswith("lightning"):
                facts = {
                    "rows_measured": 10,
                    "details": {"substituted": "built for CUDA 12, run on CUDA 13's libraries"},
                }
            ms = times.get(name, 40.0) * (0.5 if point.part == "encoding" else 1.0)
            legs.append(make_gpu_leg(point, name, ms, **facts))
    kernel = {
        "record": "kernel", "call": "adjoint", "n_qubits": 12, "precision": "double", "rows": 4096,
        "kernel": "run", "launches": 1, "total_s": 4e-3, "flops": 8e9, "bytes": 2e9,
        "shared_bytes": 1e10, "floor_s": 1e-3, "limit": "shared memory", "time_over_floor": 4.0,
        "seconds": [4e-3],
    }  # fmt: skip
    small = {"record": "kernel", "call": "adjoint", "n_qubits": 12, "precision": "double",
             "rows": 4096, "kernel": "angles", "launches": 2, "total_s": 1e-5,
             "seconds": [1e-5]}  # fmt: skip
    return make_gpu_lines(legs, [kernel, small])


def test_goals_are_what_the_times_say():
    rows = gpu_tables.goals(gpu_tables.GpuRecords(recorded()))
    measured = {(row[0], row[1]): row[2:] for row in rows}
    assert len(measured) == len(gpu_tables.GOALS) == 11
    # 2**17 rows of 8 * 4096 and 16 * 4096 bytes in a millisecond, over 4 TB/s.
    share = 2**17 * 24 * 4096 / 1e-3 / 4e12
    found = measured["amplitude encoding, n = 12", "80 % of the measured copy bandwidth"]
    assert found[0].startswith(f"{100 * share:.0f} (")
    assert found[1] == ("reached" if share >= 0.8 else "**missed**")
    rate = measured["adjoint gradients a second, W(12, 2), complex128", "2 million"]
    assert rate[0].startswith("16.4 (")
    assert rate[1] == "reached"
    # Lightning's 40 ms are of 10 rows of 1,000: 4,000 ms against 1 ms.
    ratio = measured["roadmap's benchmark, adjoint", "500 times lightning.gpu"]
    assert ratio[0].startswith("4,000x")
    assert ratio[1] == "reached"
    vendor = measured["roadmap's benchmark, adjoint", "10 times cuStateVec, batched"]
    assert vendor[0].startswith("40.0x")
    host = measured[
        "rows in host memory to gradients, W(12, 2), complex128",
        "80 % of the link's bandwidth, from pinned memory",
    ]
    share = 2**14 * 8 * 4096 / 16e-3 / 50e9
    assert host[0].startswith(f"{100 * share:.0f} (")
    assert host[1] == "**missed**"


def test_the_faster_of_two_ways_counts_for_both_sides():
    lines = recorded(**{"qdp-cuda": 0.5, "lightning-gpu-adjoint": 0.1})
    rows = gpu_tables.goals(gpu_tables.GpuRecords(lines))
    rival = next(row for row in rows if row[0].endswith("adjoint") and "lightning" in row[1])
    # 0.1 ms of 10 rows of 1,000, against the faster of 0.5 ms and 1 ms.
    assert rival[2].startswith("20.0x")
    assert rival[3] == "**missed**"


@pytest.mark.parametrize("status", ["ok", "skipped"])
def test_custatevec_is_judged_by_its_own_contender_alone(status):
    lines = recorded(**{"custatevec": 8.0, "qdp-custatevec": 40.0})
    if status == "skipped":
        for line in lines:
            if line.get("contender") == "custatevec":
                line |= {"status": status, "reason": "no", "encoding_ms": [], "circuit_ms": []}
    rows = gpu_tables.goals(gpu_tables.GpuRecords(lines))
    for row in rows:
        if "cuStateVec" in row[1] and status == "ok":
            assert row[2].startswith("8.00x")
            assert row[3] == "**missed**"
        elif "cuStateVec" in row[1]:
            assert row[2:] == ["not yet measured", ""], "our own backend does not stand in"


def test_what_was_not_measured_says_so():
    assert {row[2] for row in gpu_tables.goals(None)} == {"not yet measured"}
    lines = [line for line in recorded() if line["record"] not in ("machine",)]
    record = gpu_tables.GpuRecords(lines)
    missing = [row[0] for row in gpu_tables.goals(record) if row[2] == "not yet measured"]
    assert len(missing) == 5, "the shares of bandwidth"
    assert gpu_tables.machine_words(record) == "What the GPU can do was not measured."
    failed = recorded()
    for line in failed:
        if line.get("contender") == "qdp-cuda-host":
            line |= {"status": "failed", "reason": "no", "encoding_ms": [], "circuit_ms": []}
    rows = gpu_tables.goals(gpu_tables.GpuRecords(failed))
    assert rows[-1][2] == "not yet measured"


def test_tables():
    record = gpu_tables.GpuRecords(recorded())
    encoding = gpu_tables.encoding(record)
    first = encoding[0]
    assert first[:4] == ["amplitude", "12", "131,072", "qdp-cuda"]
    assert first[4].startswith("0.007629 (")
    assert first[5] == "12.5"
    rival = next(row for row in encoding if row[3] == "torch-cuda")
    assert rival[-1].startswith("20.0x")
    assert not any(row[3] == "qumat-qdp" for row in encoding)
    gradients = gpu_tables.gradients(record)
    lightning = next(row for row in gradients if row[4] == "lightning-gpu-shift")
    assert lightning[:4] == ["roadmap", "parameter-shift", "double", "10"]
    assert lightning[5].startswith("4,000* (")
    assert lightning[7].startswith("4,000x")
    assert lightning[8].startswith("2,000x")
    kernels = gpu_tables.kernels(record)
    assert kernels[0] == ["adjoint", "12", "double", "4,096", "`run`", "1", "4.000", "8.000",
                          "2.000", "1.000", "4.00", "shared memory"]  # fmt: skip
    assert kernels[1][5:] == ["2", "0.01000", "-", "-", "-", "-", "-"]
    stopped = gpu_tables.stopped(record)
    assert stopped == ["qumat-qdp (encoding): skipped: No module named 'qumat_qdp' at 3.12"]
    assert "CUDA 13's libraries" in gpu_tables.disclosures(record)[0]
    assert len(gpu_tables.disclosures(record)) == 2
    utilization = gpu_tables.utilization(record)
    assert utilization[0] == ["qdp-cuda", "encoding, amplitude", "double", "90", "-", "-", "-"]


@pytest.fixture
def folder(tmp_path):
    """A folder with one record of a GPU."""
    text = "".join(json.dumps(line) + "\n" for line in recorded())
    (tmp_path / "gpu_rates_20260101_000000.jsonl").write_text(text)
    return tmp_path


def test_the_newest_whole_record_is_taken(folder):
    quick = recorded()
    quick[0]["quick"] = True
    text = "".join(json.dumps(line) + "\n" for line in quick)
    (folder / "gpu_rates_20270101_000000.jsonl").write_text(text)
    path, record = gpu_tables.newest(folder)
    assert path.name == "gpu_rates_20260101_000000.jsonl"
    assert not record.run["quick"]
    assert gpu_tables.newest(folder / "none") is None


def test_the_document_of_the_gpu_is_made_from_the_record(folder, tmp_path):
    text = performance_tables.gpu_rates(folder)
    for part in ("### Encoding", "### Gradients", "### Each kernel", "commit 0123456789", "| `run`",
                 "- qumat-qdp (encoding): skipped", "a GPU 100, measured in the same run: copies",
                 "4,000 GB/s read and written"):  # fmt: skip
        assert part in text, part
    assert "not yet measured" not in text
    none = performance_tables.gpu_rates(tmp_path / "none")
    assert none.count("not yet measured") == len(gpu_tables.GOALS)
    assert "make gpu" in none


def test_the_report_cites_every_figure(folder):
    book = Book()
    blocks = gpu_report.blocks(Library(folder, book))
    text = document.markdown(blocks)
    assert "4,000x" in text
    assert "What the GPU did meanwhile" in text
    assert "`qumat-qdp (encoding): skipped: No module named 'qumat_qdp' at 3.12`" in text
    lines = (folder / "gpu_rates_20260101_000000.jsonl").read_text().splitlines()
    checked = 0
    for citation in book.citations:
        line = json.loads(lines[citation.line - 1])
        if citation.field == "rows_measured":
            assert f"{line['rows_measured']:,}" == citation.text
            checked += 1
        if citation.field == "rates.copy":
            assert line["rates"]["copy"] / 1e9 == float(citation.text.replace(",", ""))
            checked += 1
        if citation.field == "time_over_floor":
            assert line["time_over_floor"] == float(citation.text)
            checked += 1
    assert checked > 20
    masked = document.markdown(gpu_report.blocks(Library(folder, Book(masked=True))))
    assert document.prose_digits(masked) == []


def test_without_a_record_the_report_says_so(tmp_path):
    (block,) = gpu_report.blocks(Library(tmp_path, Book()))
    assert block.text == "Not yet measured: none of the records was taken on a GPU."
