# SPDX-License-Identifier: Apache-2.0
"""What a timed region uses: processor time, resident memory, and the GPU's state meanwhile.

Processor time and memory are those of this process and its children. Utilisation, memory, power
and clocks of NVIDIA GPUs are read by a thread through NVML (nvidia-ml-py) ten times a second, where
there is such a GPU; where there is none, no thread is started and those fields are absent.
"""

from __future__ import annotations

import contextlib
import threading
import time
from types import ModuleType
from typing import Any

INTERVAL_S = 0.1


def children_cpu_seconds() -> float:
    """Return the processor time of the living children, counted in hundredths of a second."""
    try:
        import psutil
    except ImportError:
        return 0.0
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        # A child may end between being listed and being asked.
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def resident_bytes() -> int | None:
    """Return the resident memory of this process and its children, in bytes."""
    try:
        import psutil
    except ImportError:
        return None
    me = psutil.Process()
    total = 0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def open_nvml() -> ModuleType | None:
    """Return NVML, started, where it finds a GPU; else None."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        found = pynvml.nvmlDeviceGetCount() > 0
    except pynvml.NVMLError:
        return None
    return pynvml if found else None


def read_gpu(nvml: Any, index: int) -> dict[str, float]:
    """Return one reading of a GPU: per cent, bytes, watts and megahertz."""
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    return {
        "utilization_percent": float(nvml.nvmlDeviceGetUtilizationRates(device).gpu),
        "memory_bytes": float(nvml.nvmlDeviceGetMemoryInfo(device).used),
        "power_w": nvml.nvmlDeviceGetPowerUsage(device) / 1e3,
        "clock_mhz": float(nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM)),
    }


class Meter:
    """Meters the region of a ``with`` block; ``read`` says what the last one used.

    >>> meter = Meter(nvml=None)
    >>> with meter:
    ...     pass
    >>> "gpu" in meter.read()
    False
    """

    def __init__(self, nvml: Any = "look", index: int = 0) -> None:
        self._nvml = open_nvml() if nvml == "look" else nvml
        self._index = index
        self._found: dict[str, Any] = {}
        self._samples: list[dict[str, float]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _sample(self) -> None:
        while True:
            self._samples.append(read_gpu(self._nvml, self._index))
            if self._stop.wait(INTERVAL_S):
                return

    def __enter__(self) -> Meter:
        if self._nvml is not None:
            self._samples, self._stop = [], threading.Event()
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        self._children_before = children_cpu_seconds()
        self._before = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        own = time.process_time() - self._before
        children = children_cpu_seconds() - self._children_before
        self._found = {"cpu_s": own + children, "resident_bytes": resident_bytes()}
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            self._found["gpu"] = {
                field: {
                    "mean": sum(one[field] for one in self._samples) / len(self._samples),
                    "max": max(one[field] for one in self._samples),
                }
                for field in self._samples[0]
            }

    def read(self) -> dict[str, Any]:
        """Return cpu_s, resident_bytes and, on a GPU, means and maxima of its readings."""
        return self._found
