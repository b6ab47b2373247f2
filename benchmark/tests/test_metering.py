# SPDX-License-Identifier: Apache-2.0
"""Metering against work of known size and a GPU made up."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from benchmark.core.metering import Meter

pytest.importorskip("psutil")


class FakeNvml:
    """An NVML with one GPU, whose utilisation rises from reading to reading."""

    NVML_CLOCK_SM = 1

    def __init__(self):
        self.readings = 0

    def nvmlDeviceGetHandleByIndex(self, index):
        assert index == 0
        return "gpu"

    def nvmlDeviceGetUtilizationRates(self, device):
        self.readings += 1
        return SimpleNamespace(gpu=10 * self.readings)

    def nvmlDeviceGetMemoryInfo(self, device):
        return SimpleNamespace(used=2**30)

    def nvmlDeviceGetPowerUsage(self, device):
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
