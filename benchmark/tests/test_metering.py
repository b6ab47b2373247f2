# SPDX-License-Identifier: Apache-2.0
"""Metering against work of known size and a GPU made up."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from benchmark.core.metering import Meter, check_gpu, peak_bytes

pytest.importorskip("psutil")


class FakeNvml:
    """An NVML with one GPU, whose utilisation rises from reading to reading."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, *, power=True):
        self.readings = 0
        self.power = power

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        assert index == 0
        return "gpu"

    def nvmlDeviceGetUtilizationRates(self, device):
        self.readings += 1
        return SimpleNamespace(gpu=10 * self.readings)

    def nvmlDeviceGetMemoryInfo(self, device):
        return SimpleNamespace(used=2**30)

    def nvmlDeviceGetPowerUsage(self, device):
        if not self.power:
            raise self.NVMLError("not supported")
        return 250_000

    def nvmlDeviceGetClockInfo(self, device, kind):
        return 1980


def test_processor_time_and_memory():
    meter = Meter(nvml=None)
    ballast = bytearray(50 * 2**20)
    with meter:
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
    found = meter.read()
    # The system counts in hundredths of a second.
    assert 0.25 < found["cpu_s"] < 1.5
    assert found["resident_bytes"] > len(ballast)
    assert "gpu" not in found
    with meter:
        time.sleep(0.2)
    assert meter.read()["cpu_s"] < 0.1


def test_gpu_readings():
    nvml = FakeNvml()
    meter = Meter(nvml=nvml)
    with meter:
        time.sleep(0.25)
    gpu = meter.read()["gpu"]
    assert nvml.readings >= 2
    assert gpu["utilization_percent"]["max"] == 10 * nvml.readings
    assert gpu["utilization_percent"]["mean"] == pytest.approx(5 * (nvml.readings + 1))
    assert gpu["memory_bytes"] == {"mean": 2.0**30, "max": 2.0**30}
    assert gpu["power_w"]["mean"] == 250
    assert gpu["clock_mhz"]["max"] == 1980
    assert gpu["readings"] == nvml.readings


def test_a_short_region_is_read_at_both_ends():
    nvml = FakeNvml()
    meter = Meter(nvml=nvml)
    with meter:
        pass
    assert meter.read()["gpu"]["utilization_percent"] == {"mean": 15, "max": 20}


def test_what_a_gpu_does_not_offer_is_absent():
    meter = Meter(nvml=FakeNvml(power=False))
    with meter:
        pass
    assert set(meter.read()["gpu"]) == {
        "readings",
        "utilization_percent",
        "memory_bytes",
        "clock_mhz",
    }


def test_a_gpu_asked_for_must_be_there():
    check_gpu(0, nvml=None)
    check_gpu(0, nvml=FakeNvml())
    for nvml, count in ((None, 0), (FakeNvml(), 1)):
        with pytest.raises(ValueError, match=f"below the {count} NVIDIA GPUs found, got 1"):
            check_gpu(1, nvml=nvml)


def test_peak_memory_counts_children():
    before = peak_bytes()
    code = "b = bytearray(100 * 2**20); b[::4096] = bytes(len(b[::4096])); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        assert peak_bytes() - before > 100 * 2**20
        child.communicate(b"\n")
    assert peak_bytes() - before < 50 * 2**20
