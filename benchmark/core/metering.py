# SPDX-License-Identifier: Apache-2.0
"""What a timed region uses: processor time, resident memory, and the GPU's state meanwhile.

Processor time and memory are those of this process and its children. Utilisation, memory, power
and clocks of an NVIDIA GPU are read by a thread through NVML (nvidia-ml-py) at the start, at the
end and ten times a second between, where there is such a GPU; where there is none, no thread is
started and those fields are absent, as is each that the GPU does not offer.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from benchmark.core import environment

INTERVAL_S = 0.1
# Per cent, bytes, watts and megahertz of a device.
READINGS: dict[str, Callable[[Any, Any], float]] = {
    "utilization_percent": lambda nvml, device: nvml.nvmlDeviceGetUtilizationRates(device).gpu,
    "memory_bytes": lambda nvml, device: nvml.nvmlDeviceGetMemoryInfo(device).used,
    "power_w": lambda nvml, device: nvml.nvmlDeviceGetPowerUsage(device) / 1e3,
    "clock_mhz": lambda nvml, device: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
}


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


def peak_bytes() -> int | None:
    """Return the peak resident memory of this process and its living children, in bytes.

    Each process counts with its own peak and with the pages that it shares. None where the system
    does not say.
    """
    own = environment.peak_memory()
    try:
        import psutil
    except ImportError:
        return own
    children = psutil.Process().children(recursive=True)
    peaks = [own, *(environment.peak_memory(child.pid) for child in children)]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if known else None


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


def check_gpu(index: int, nvml: Any = "look") -> None:
    """Raise ValueError where a GPU was asked for by its number and is not there.

    Number 0, which nobody need ask for, may be missing: then nothing is metered on a GPU.
    """
    found = open_nvml() if nvml == "look" else nvml
    count = 0 if found is None else found.nvmlDeviceGetCount()
    if index >= max(1, count):
        raise ValueError(f"expected --gpu below the {count} NVIDIA GPUs found, got {index}")


def read_gpu(nvml: Any, index: int | str) -> dict[str, float]:
    """Return one reading of a GPU, without what it does not offer, as a part of a GPU may not.

    ``index`` is its number, or its UUID as CUDA_VISIBLE_DEVICES may list it.
    """
    by_number = str(index).isdecimal()
    device = (
        nvml.nvmlDeviceGetHandleByIndex(int(index))
        if by_number
        else nvml.nvmlDeviceGetHandleByUUID(index)
    )
    found = {}
    for name, read in READINGS.items():
        with contextlib.suppress(nvml.NVMLError):
            found[name] = float(read(nvml, device))
    return found


class Meter:
    """Meters the region of a ``with`` block; ``read`` says what the last one used.

    >>> meter = Meter(nvml=None)
    >>> with meter:
    ...     pass
    >>> "gpu" in meter.read()
    False
    """

    def __init__(self, nvml: Any = "look", index: int | str = 0) -> None:
        self._nvml = open_nvml() if nvml == "look" else nvml
        self._index = index
        self._found: dict[str, Any] = {}
        self._samples: list[dict[str, float]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _sample(self) -> None:
        ended = False
        while True:
            self._samples.append(read_gpu(self._nvml, self._index))
            if ended:
                return
            ended = self._stop.wait(INTERVAL_S)

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
            self._found["gpu"] = {"readings": len(self._samples)}
            for field in READINGS:
                values = [sample[field] for sample in self._samples if field in sample]
                if values:
                    mean = sum(values) / len(values)
                    self._found["gpu"][field] = {"mean": mean, "max": max(values)}

    def read(self) -> dict[str, Any]:
        """Return cpu_s, resident_bytes and, on a GPU, the readings' number, means and maxima."""
        return self._found
