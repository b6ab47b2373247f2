# SPDX-License-Identifier: Apache-2.0
"""The contenders of a GPU: on a processor the same code gives the right numbers under another
name, and under their own they refuse to run where there is no GPU."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmark.core import device
from benchmark.core.cases import ENCODINGS, METHODS, OBSERVABLES, EncodingCase
from benchmark.core.contenders import (
    CONTENDERS,
    ENCODERS,
    GROUPS,
    ON_GPU,
    OWN,
    lightning_paths,
)
from benchmark.core.contenders.custatevec_path import groups_of
from benchmark.core.contenders.encoding_gpu_paths import RETURNED_ROWS
from benchmark.core.contenders.gpu import OnGpu
from benchmark.core.runner import MOST_CHECK_ROWS, Settings, WorkerProcess, run_size
from benchmark.core.worker import Worker
from benchmark.tests import statevector
from benchmark.tests.custatevec import Emulation
from benchmark.tests.test_encoders import expected_states

torch = pytest.importorskip("torch")
pytest.importorskip("pennylane")

# What a contender needs, and what stands for the GPU's library on a processor.
ON_CPU = {
    "qdp-cuda": {"backend": "cpu"},
    "qdp-cuda-fused": {"backend": "cpu"},
    "qdp-cuda-host": {"backend": "cpu"},
    "qdp-custatevec": {"backend": "cpu"},
    "lightning-gpu-adjoint": {"device_name": "lightning.qubit"},
    "lightning-gpu-shift": {"device_name": "lightning.qubit"},
}
GPU_ENCODERS = [name for name in ENCODERS if name in ON_GPU]


def on_cpu(kind, **attributes):
    """Return the contender with its device and libraries replaced."""
    replaced = {"device": "cpu", **ON_CPU.get(kind.name, {}), **attributes}
    if kind.name == "custatevec":
        emulation = Emulation()
        replaced |= {"load_library": lambda self: emulation, "emulation": emulation}
    return type(kind.__name__, (kind,), replaced)


def prepared(name, case, features, **attributes):
    if name.startswith("jax"):
        pytest.importorskip("jax")
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    contender = on_cpu(CONTENDERS[name], **attributes)(case, features)
    contender.prepare()
    return contender


@pytest.mark.parametrize("observable", OBSERVABLES)
@pytest.mark.parametrize(("n_qubits", "width"), [(3, 8), (6, 50)])
@pytest.mark.parametrize("name", GROUPS["gpu"])
def test_gradients_of_the_same_code_on_a_processor(name, n_qubits, width, observable):
    features = statevector.make_features(5, width)
    for method in METHODS:
        if method == "adjoint" and CONTENDERS[name].rule != "case":
            continue  # the same computation again
        case = statevector.make_case(n_qubits, observable=observable, method=method)
        contender = prepared(name, case, features)
        expected = statevector.gradients(case, features)
        for rows in (5, 2):
            repeat = contender.run(rows)
            assert repeat.result.dtype == np.float64
            np.testing.assert_allclose(repeat.result, expected[:rows], rtol=0, atol=1e-12)
            assert repeat.encoding_ms >= 0
            assert repeat.circuit_ms > 0
        contender.close()


@pytest.mark.parametrize("name", GROUPS["gpu"])
def test_single_precision(name):
    case = statevector.make_case(3, precision="single", observable="sum-z", method="adjoint")
    features = statevector.make_features(4, 8)
    contender = prepared(name, case, features)
    gradients = contender.run(4).result
    expected = statevector.gradients(case, features)
    np.testing.assert_allclose(gradients, expected, rtol=0, atol=case.tolerance)
    assert np.max(np.abs(gradients - expected)) > 1e-12, "this was not single precision"
    contender.close()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", GROUPS["gpu"])
def test_gradients_on_a_gpu(name, method):
    """The same on the device itself, where there is one."""
    case = statevector.make_case(6, observable="sum-z", method=method)
    features = statevector.make_features(5, 50)
    if name.startswith("jax"):
        # In a process of its own: in this one JAX may have been told to keep to the processor.
        (leg,) = run_size(case, features, [name], Settings(0, 1, 60.0))
        if leg.status in ("unsupported", "skipped"):
            pytest.skip(leg.reason)
        assert leg.ok, leg.reason
        assert leg.max_difference <= 1e-12
        return
    kind = CONTENDERS[name]
    try:
        reason = kind.unsupported(case)
    except ImportError as error:
        pytest.skip(str(error))
    if reason is not None:
        if name in OWN and "cuda" in os.environ.get("QDP_REQUIRE", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)
    contender = kind(case, features)
    try:
        contender.prepare()
    except ImportError as error:
        pytest.skip(str(error))
    repeat = contender.run(5)
    expected = statevector.gradients(case, features)
    np.testing.assert_allclose(repeat.result, expected, rtol=0, atol=1e-12)
    assert repeat.circuit_ms > 0
    contender.close()


@pytest.mark.parametrize("name", ["torch-cuda", "jax-gpu"])
def test_chunks_change_nothing(name):
    case, features = statevector.make_case(3), statevector.make_features(7, 8)
    contender = prepared(name, case, features, amplitudes_per_chunk=24)
    assert contender.size == 3
    expected = statevector.gradients(case, features)
    for rows in (7, 4):
        np.testing.assert_allclose(contender.run(rows).result, expected[:rows], atol=1e-12)
    contender.close()


def test_custatevec_takes_one_call_for_a_group_of_qubits():
    groups = groups_of(12, 2)
    assert [list(group.qubits) for group in groups[:3]] == [
        [0, 1, 2, 3],
        [3, 4, 5, 6, 7],
        [7, 8, 9, 10, 11],
    ]
    numbers = [
        group.number(kind, place, 12)
        for group in groups
        for kind in range(2)
        for place in range(group.size)
    ]
    assert sorted(numbers) == list(range(48))
    case = statevector.make_case(6, method="adjoint")
    contender = prepared("custatevec", case, statevector.make_features(2, 64))
    before = contender.emulation.calls
    contender.run(2)
    # Two groups a layer: forward, and back for both states.
    assert contender.emulation.calls - before == 2 * 2 * 3
    assert contender.details()["custatevec"] == "11500"
    contender.close()
    assert not contender.emulation.handles, "the handle was given back"


class MahoutEngine:
    """Mahout's encodings by their definitions: qubit 0 least significant, angles real."""

    def encode(self, rows, n_qubits, method):
        features = rows.numpy()
        if method == "amplitude":
            states = np.zeros((len(features), 2**n_qubits))
            states[:, : features.shape[1]] = features
            states /= np.linalg.norm(states, axis=1, keepdims=True)
        else:
            assert method == "angle"
            bits = np.arange(2**n_qubits)[:, None] >> np.arange(n_qubits) & 1
            states = np.where(bits, np.sin(features[:, None]), np.cos(features[:, None])).prod(2)
        return torch.from_numpy(states.astype(complex))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", GPU_ENCODERS)
def test_states_of_the_same_code_on_a_processor(name, encoding):
    replaced = {"backend": "cpu"} if name == "qdp-cuda" else {}
    if name == "qumat-qdp":
        replaced["make_engine"] = classmethod(lambda cls, precision: MahoutEngine())
    kind = on_cpu(ENCODERS[name], **replaced)
    case = EncodingCase(encoding, 4)
    reason = kind.unsupported(case)
    if reason is not None:
        assert (name, encoding == "iqp-embedding") in {
            ("torch-products-cuda", False),
            ("qumat-qdp", True),
        }
        assert "iqp-embedding" in reason
        return
    rows = RETURNED_ROWS + 6
    assert RETURNED_ROWS >= MOST_CHECK_ROWS
    for width in (16, 11) if encoding == "amplitude" else (4,):
        features = np.random.default_rng(3).normal(size=(rows, width))
        contender = kind(case, features)
        contender.prepare()
        repeat = contender.run(rows)
        expected = expected_states(encoding, features, 4)
        assert repeat.result.shape == (RETURNED_ROWS, 16), "the rest stays on the device"
        np.testing.assert_allclose(repeat.result, expected[:RETURNED_ROWS], rtol=0, atol=1e-12)
        assert repeat.encoding_ms > 0
        assert repeat.circuit_ms == 0
        assert float(contender.details()["one_row_us"]) > 0
        few = contender.run(3).result
        np.testing.assert_allclose(few, expected[:3], rtol=0, atol=1e-12)


# No GPU


def gpu_is_there():
    return device.device_problem() is None


@pytest.mark.parametrize("name", [*GROUPS["gpu"], *GPU_ENCODERS])
def test_without_a_gpu_they_say_so(name, monkeypatch):
    monkeypatch.setattr(
        "benchmark.core.contenders.gpu.device_problem", lambda: "needs an NVIDIA GPU"
    )
    case = EncodingCase("amplitude", 3)
    for kind in (CONTENDERS.get(name), ENCODERS.get(name)):
        if kind is None or not issubclass(kind, OnGpu) or name == "torch-products-cuda":
            continue
        chosen = case if kind is ENCODERS.get(name) else statevector.make_case(3)
        assert kind.unsupported(chosen) == "needs an NVIDIA GPU"
        assert kind.documentation


def test_legs_of_a_gpu_are_unsupported_in_the_record():
    if gpu_is_there():
        pytest.skip("there is a GPU")
    case, features = statevector.make_case(3, method="adjoint"), statevector.make_features(4, 8)
    legs = run_size(case, features, ["torch-cuda", "custatevec"], Settings(0, 1, 5.0))
    for leg in legs:
        assert leg.status == "unsupported"
        assert "GPU" in leg.reason or "cuda.core" in leg.reason
        assert leg.rows_measured == 0


@pytest.mark.parametrize("backend", ["cuda", "custatevec"])
def test_qdp_on_a_backend_that_is_missing_is_unsupported(backend):
    if gpu_is_there():
        pytest.skip("there is a GPU")
    reason = CONTENDERS["qdp"].unsupported(statevector.make_case(3, backend=backend))
    assert backend in reason
    assert ENCODERS["qdp"].unsupported(EncodingCase("angle", 3, backend=backend)) == reason
    assert CONTENDERS["qdp"].unsupported(statevector.make_case(3)) is None
    assert ENCODERS["qdp-fresh"].unsupported(EncodingCase("angle", 3)) is None


def test_a_missing_library_is_skipped_with_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr("benchmark.core.contenders.gpu.device_problem", lambda: None)
    monkeypatch.setattr(
        lightning_paths.metadata, "version", lambda name: (_ for _ in ()).throw(
            lightning_paths.metadata.PackageNotFoundError(name)
        )
    )  # fmt: skip
    features = tmp_path / "features.npy"
    np.save(features, statevector.make_features(2, 8))
    request = {
        "contender": "lightning-gpu-adjoint",
        "case": statevector.make_case(3).to_json(),
        "features": str(features),
    }
    answer = Worker(request).prepare()
    assert answer["event"] == "skipped"
    assert "pennylane-lightning-gpu is not installed" in answer["reason"]
    assert answer["reason"].endswith("; install pennylane-lightning-gpu")


def test_torch_and_jax_without_cuda_say_so(monkeypatch):
    monkeypatch.setattr("benchmark.core.contenders.gpu.device_problem", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    case = statevector.make_case(3)
    assert "sees no CUDA device" in CONTENDERS["torch-cuda"].unsupported(case)
    jax = pytest.importorskip("jax")

    def refuse(platform):
        raise RuntimeError(f"Unknown backend {platform}")

    monkeypatch.setattr(jax, "devices", refuse)
    assert CONTENDERS["jax-gpu"].unsupported(case) == (
        "JAX sees no CUDA device: Unknown backend cuda"
    )


def test_variables_keep_a_gpu_contender_off_the_processor(monkeypatch, tmp_path):
    environment = CONTENDERS["jax-gpu"].environment(2)
    assert environment["JAX_PLATFORMS"] == "cuda"
    assert CONTENDERS["jax"].environment(2)["JAX_PLATFORMS"] == "cpu"
    seen = {}

    def refuse(command, **options):
        seen.update(options["env"])
        raise FileNotFoundError("no process is needed here")

    monkeypatch.setattr("benchmark.core.runner.subprocess.Popen", refuse)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    case = statevector.make_case(2, 1)
    with pytest.raises(FileNotFoundError):
        WorkerProcess("jax-gpu", case, tmp_path / "features.npy", tmp_path, gpu=3)
    assert seen["CUDA_VISIBLE_DEVICES"] == "3"
    assert seen["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert seen["JAX_PLATFORMS"] == "cuda"


def test_what_is_own_and_what_is_a_rival():
    assert {"qdp-cuda", "qdp-cuda-fused", "qdp-cuda-host"} <= set(OWN)
    assert not {"custatevec", "qdp-custatevec", "lightning-gpu-adjoint", "qumat-qdp"} & set(OWN)


def test_substituted_libraries_are_disclosed():
    found = lightning_paths.library_details(["libcublas.so.12", "libcublas.so.13"])
    assert found["libraries"] == "libcublas.so.12, libcublas.so.13"
    assert "CUDA 13's libraries" in found["substituted"]
    assert "substituted" not in lightning_paths.library_details(["libcublas.so.12"])


# The clock


class FakeEvents:
    """A driver whose events are numbers, and which writes down what it was asked."""

    def __init__(self):
        self.log = []
        self.now = 0.0

    def synchronize(self):
        self.log.append("synchronize")

    def record(self):
        self.log.append("record")
        return self.now

    def milliseconds(self, first, second):
        self.log.append("compare")
        return second - first


def test_the_device_is_idle_when_events_are_recorded_and_compared():
    events = FakeEvents()
    clock = device.DeviceClock(events)
    start = clock.mark()
    events.log.append("work")
    events.now = 4.5
    stop = clock.mark()
    assert clock.milliseconds(start, stop) == 4.5
    assert events.log == [
        "synchronize", "record", "work", "synchronize", "record", "synchronize", "compare",
    ]  # fmt: skip


def test_a_contender_on_a_gpu_is_timed_by_the_device():
    """Encoding and circuits are what the events say, not what the processor sees."""
    events = FakeEvents()
    case, features = statevector.make_case(3), statevector.make_features(4, 8)
    contender = prepared("torch-cuda", case, features)
    contender.clock = device.DeviceClock(events)
    encode, circuits = contender.encode, contender.circuits

    def slow_encode(rows):
        encode(rows)
        events.now += 2.0

    def slow_circuits(rows):
        events.now += 7.0
        return circuits(rows)

    contender.encode, contender.circuits = slow_encode, slow_circuits
    repeat = contender.run(4)
    assert (repeat.encoding_ms, repeat.circuit_ms) == (2.0, 7.0)


def test_events_of_cuda_core(monkeypatch):
    """The options, the stream and the order of the calls that cuda.core gets."""
    log = []

    class Event(float):
        pass

    class Stream:
        def record(self, event=None, options=None):
            assert event is None
            assert options.timing_enabled
            log.append("record")
            return Event(len(log))

    class Device:
        default_stream = Stream()

        def __init__(self, ordinal):
            assert ordinal == 0

        def set_current(self):
            log.append("set_current")

        def sync(self):
            log.append("sync")

    core = SimpleNamespace(
        Device=Device, EventOptions=lambda timing_enabled: SimpleNamespace(timing_enabled=True)
    )
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(core=core))
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    events = device.CudaEvents()
    events.synchronize()
    first = events.record()
    second = events.record()
    assert log == ["set_current", "set_current", "sync", "record", "record"]
    assert events.milliseconds(first, second) == 1.0


def test_facts_of_a_device(monkeypatch):
    properties = SimpleNamespace(
        multiprocessor_count=132,
        clock_rate=1_980_000,
        l2_cache_size=50 * 2**20,
        max_shared_memory_per_block_optin=227 * 2**10,
    )
    gpu = SimpleNamespace(name="a GPU", arch="90", properties=properties, set_current=lambda: None)
    core = SimpleNamespace(Device=lambda ordinal: gpu)
    driver = SimpleNamespace(
        cuDeviceTotalMem=lambda ordinal: (0, 2**37), cuDriverGetVersion=lambda: (0, 13010)
    )
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(core=core))
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(driver=driver))
    facts = device.device_facts()
    assert (facts["name"], facts["architecture"], facts["multiprocessors"]) == (
        "a GPU", "sm_90", 132,
    )  # fmt: skip
    assert (facts["memory_bytes"], facts["driver_cuda"]) == (2**37, "13.1")
    assert facts["shared_bytes_per_block"] == 227 * 2**10
    driver.cuDeviceTotalMem = lambda ordinal: (101, 0)
    with pytest.raises(RuntimeError, match="cuDeviceTotalMem: 101"):
        device.device_facts()


def test_the_properties_asked_for_exist():
    core = pytest.importorskip("cuda.core")
    for name in ("multiprocessor_count", "clock_rate", "l2_cache_size",
                 "max_shared_memory_per_block_optin"):  # fmt: skip
        assert hasattr(core._device.DeviceProperties, name)
    for name in ("get_all_devices", "set_current", "sync", "default_stream", "allocate", "arch"):
        assert hasattr(core.Device, name)
    assert core.EventOptions(timing_enabled=True).timing_enabled


def test_what_a_machine_lacks_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    assert "install the extra [cuda]" in device.device_problem()
    core = SimpleNamespace(Device=SimpleNamespace(get_all_devices=lambda: ["one"]))
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(core=core))
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    assert device.device_problem() is None
    assert device.device_problem(1) == "needs GPU 1, got 1 GPUs that the driver shows"

    def refuse():
        raise RuntimeError("no driver")

    core.Device.get_all_devices = refuse
    assert device.device_problem() == "needs an NVIDIA GPU; its driver says: no driver"


def test_a_gpu_is_chosen_by_its_number():
    assert device.visible_gpu(2, {})["CUDA_VISIBLE_DEVICES"] == "2"
    listed = {"CUDA_VISIBLE_DEVICES": "GPU-ab, 5"}
    assert device.visible_gpu(1, listed)["CUDA_VISIBLE_DEVICES"] == "5"
    assert device.visible_gpu(2, listed)["CUDA_VISIBLE_DEVICES"] == "", "what is hidden stays so"
    assert device.visible_gpu(0, {"CUDA_VISIBLE_DEVICES": ""})["CUDA_VISIBLE_DEVICES"] == ""


def test_libraries_are_read_from_the_map_of_memory(tmp_path):
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r-xp 0 08:01 1 /x/lib/libcublas.so.12\n"
        "7f02-7f03 r-xp 0 08:01 2 /x/lib/libcublas.so.13\n"
        "7f04-7f05 r-xp 0 08:01 2 /x/lib/libcublas.so.13\n"
        "7f06-7f07 r-xp 0 08:01 3 /x/lib/libcustatevec.so.1\n"
        "7f08-7f09 r-xp 0 08:01 4 /x/lib/libc.so.6\n"
    )
    assert device.loaded_libraries(maps) == [
        "libcublas.so.12", "libcublas.so.13", "libcustatevec.so.1",
    ]  # fmt: skip
    assert device.loaded_libraries(tmp_path / "none") == []
