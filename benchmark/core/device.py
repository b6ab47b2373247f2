# SPDX-License-Identifier: Apache-2.0
"""An NVIDIA GPU as the benchmarks see it: whether one is there, and a clock for what runs on it.

No arrays and no kernels. A mark of the clock is a CUDA event recorded once the device has done
everything queued before, on whatever stream it was, so that one clock serves libraries that keep
their streams to themselves. cuda.core is imported when a GPU is asked for, and not before.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

# Shared libraries of CUDA that a simulator may have been given in place of those it was built for.
_LIBRARIES = re.compile(r"/(lib(?:custatevec|cublas|cublasLt|cusparse|nvJitLink|cudart)\.so[.\d]*)")


class Clock(Protocol):
    """Marks moments; two marks tell the milliseconds between them."""

    def mark(self) -> Any:
        """Return a mark of this moment."""

    def milliseconds(self, first: Any, second: Any) -> float:
        """Return the time between two marks."""


class WallClock:
    """Time as the processor sees it.

    >>> clock = WallClock()
    >>> clock.milliseconds(clock.mark(), clock.mark()) >= 0
    True
    """

    def mark(self) -> float:
        """Return a reading of ``time.perf_counter``."""
        return time.perf_counter()

    def milliseconds(self, first: float, second: float) -> float:
        """Return the time between two readings."""
        return (second - first) * 1e3


WALL_CLOCK = WallClock()


class Events(Protocol):
    """What the device's clock asks of a driver."""

    def synchronize(self) -> None:
        """Wait for all work of the device."""

    def record(self) -> Any:
        """Return an event recorded now."""

    def milliseconds(self, first: Any, second: Any) -> float:
        """Return the time between two events that have happened."""


class DeviceClock:
    """CUDA events; the device is idle when one is recorded, and when two are compared."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def mark(self) -> Any:
        """Wait for the device, then record an event."""
        self._events.synchronize()
        return self._events.record()

    def milliseconds(self, first: Any, second: Any) -> float:
        """Return the time between two marks."""
        self._events.synchronize()
        return self._events.milliseconds(first, second)


class CudaEvents:
    """Events of cuda.core on the default stream of a device.

    The device's primary context is the one that torch, JAX and Lightning run in, so waiting for the
    device waits for theirs.
    """

    def __init__(self, ordinal: int = 0) -> None:
        import cuda.core as core

        self._device = core.Device(ordinal)
        self._device.set_current()
        self._options = core.EventOptions(timing_enabled=True)

    def synchronize(self) -> None:
        """Wait for all work of the device."""
        self._device.set_current()
        self._device.sync()

    def record(self) -> Any:
        """Return an event recorded now."""
        return self._device.default_stream.record(options=self._options)

    def milliseconds(self, first: Any, second: Any) -> float:
        """Return the time between two events that have happened."""
        return float(second - first)


def device_problem(ordinal: int = 0) -> str | None:
    """Return why GPU number ``ordinal`` cannot be used and timed, or None where it can."""
    try:
        import cuda.core as core
    except ImportError as error:
        return (
            "a GPU is timed by the events of cuda.core, which can't be imported "
            f"({error}); install the extra [cuda]"
        )
    try:
        count = len(core.Device.get_all_devices())
    # cuda.core raises a RuntimeError without a driver, and a class of its own from a driver.
    except Exception as error:
        return f"needs an NVIDIA GPU; its driver says: {error}"
    if ordinal >= count:
        return f"needs GPU {ordinal}, got {count} GPUs that the driver shows"
    return None


def device_facts(ordinal: int = 0) -> dict[str, Any]:
    """Return what a record names of a GPU: name, architecture, units, memory, driver."""
    import cuda.core as core
    from cuda.bindings import driver

    device = core.Device(ordinal)
    device.set_current()
    properties = device.properties
    status, memory = driver.cuDeviceTotalMem(ordinal)
    if int(status):
        raise RuntimeError(f"cuDeviceTotalMem: {status}")
    version = int(driver.cuDriverGetVersion()[1])
    return {
        "name": device.name,
        "architecture": f"sm_{device.arch}",
        "multiprocessors": int(properties.multiprocessor_count),
        "clock_khz": int(properties.clock_rate),
        "l2_bytes": int(properties.l2_cache_size),
        "shared_bytes_per_block": int(properties.max_shared_memory_per_block_optin),
        "memory_bytes": int(memory),
        "driver_cuda": f"{version // 1000}.{version % 1000 // 10}",
    }


def free_memory(ordinal: int = 0) -> int:
    """Return the bytes of a GPU's memory that can be allocated."""
    import cuda.core as core
    from cuda.bindings import driver

    core.Device(ordinal).set_current()
    status, free, _ = driver.cuMemGetInfo()
    if int(status):
        raise RuntimeError(f"cuMemGetInfo: {status}")
    return int(free)


def visible_gpu(index: int, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables by which a process sees GPU ``index`` as its only one.

    Numbers are NVML's, in the order of the bus; where CUDA_VISIBLE_DEVICES is set already, they
    count what it lists, and what it does not list stays out of sight.

    >>> visible_gpu(1, {})["CUDA_VISIBLE_DEVICES"], visible_gpu(1, {"CUDA_VISIBLE_DEVICES": "4,6"})
    ('1', {'CUDA_DEVICE_ORDER': 'PCI_BUS_ID', 'CUDA_VISIBLE_DEVICES': '6'})
    """
    variables = os.environ if variables is None else variables
    chosen = str(index)
    if "CUDA_VISIBLE_DEVICES" in variables:
        listed = [one for one in variables["CUDA_VISIBLE_DEVICES"].split(",") if one.strip()]
        chosen = listed[index].strip() if index < len(listed) else ""
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": chosen}


def loaded_libraries(maps: Path = Path("/proc/self/maps")) -> list[str]:
    """Return the names of CUDA's libraries that this process has mapped; empty if not known."""
    try:
        text = maps.read_text(encoding="utf-8")
    except OSError:
        return []
    return sorted(set(_LIBRARIES.findall(text)))
