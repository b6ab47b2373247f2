# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend's kernels one by one: how long each takes, and how much work it has to do.

``Profiled`` is mixed into a device of the backend and times each launch by itself, with the device
idle before and after, so its times hold the launch as well. ``work_of`` counts what a kernel of
src/qdp/backends/kernels/engine.cu adds and multiplies, and the bytes that it moves at least: rows
and states once, and in shared memory every amplitude once for up to three rotations.

An item is a row, times its shifted evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.core.device import Clock
from qdp.program import Program

if TYPE_CHECKING:
    from qdp.backends.device import CudaDevice as _Base
else:
    _Base = object

# Rotations that go through registers together.
TOGETHER = 3
PASS_BACK = "pass, back"


@dataclass(frozen=True)
class Launch:
    """One launch: the kernel, its blocks, and the milliseconds it took."""

    kernel: str
    blocks: int
    milliseconds: float


class Profiled(_Base):
    """A device whose launches are timed by ``clock``; they gather in ``timed_launches``."""

    clock: Clock
    timed_launches: list[Launch]

    def launch(self, precision: Any, kernel: str, grid: int, *rest: Any, **options: Any) -> None:
        """Run a kernel, and time it alone."""
        start = self.clock.mark()
        super().launch(precision, kernel, grid, *rest, **options)
        spent = self.clock.milliseconds(start, self.clock.mark())
        self.timed_launches.append(Launch(kernel, grid, spent))


def labelled(launches: Sequence[Launch]) -> dict[str, list[Launch]]:
    """Return the launches by kernel; passes on the way back have a name of their own.

    >>> found = labelled([Launch("pass", 1, 0.1), Launch("pull", 1, 0.1), Launch("pass", 1, 0.1)])
    >>> list(found)
    ['pass', 'pull', 'pass, back']
    """
    found: dict[str, list[Launch]] = {}
    back = False
    for one in launches:
        # A chunk of rows begins with its angles, and turns round where lambda is made.
        back = one.kernel == "pull" or (back and one.kernel != "angles")
        label = PASS_BACK if back and one.kernel == "pass" else one.kernel
        found.setdefault(label, []).append(one)
    return found


@dataclass(frozen=True)
class Work:
    """Additions and multiplications, bytes to and from device memory, bytes of shared memory."""

    flops: float
    n_bytes: float
    shared_bytes: float = 0.0

    def times(self, items: float) -> Work:
        """Return the work of so many items."""
        return Work(self.flops * items, self.n_bytes * items, self.shared_bytes * items)

    def floor_s(self, rates: dict[str, float], precision: str) -> tuple[float, str]:
        """Return the least seconds that the device's rates allow, and what sets them."""
        bounds = {
            "arithmetic": self.flops / rates[precision],
            "device memory": self.n_bytes / rates["copy"],
            "shared memory": self.shared_bytes / rates["shared"],
        }
        limit = max(bounds, key=lambda name: bounds[name])
        return bounds[limit], limit


@dataclass(frozen=True)
class Call:
    """What the kernels of one call are told: the program, the precision, and its rows' columns.

    ``states`` says that final states are written, ``gradient`` that it walks back.
    """

    program: Program
    precision: str
    columns: int
    gradient: bool = False
    states: bool = False

    @property
    def _amplitude_bytes(self) -> int:
        return 16 if self.precision == "double" else 8

    def _forward(self) -> Work:
        """The operations of an item, without what brings the state to them."""
        flops = shared = 0.0
        size = float(1 << self.program.n_qubits)
        for step in self.program.steps:
            count = len(step.rotations)
            if step.kind == "rotations":
                flops += 6 * count * size
                shared += 2 * -(-count // TOGETHER) * size
            elif step.kind == "diagonal":
                flops += 6 * (count + 1) * size
                shared += 2 * size
            else:
                raise ValueError(f"expected rotations and diagonals, got a step of {step.kind}")
        return Work(flops, 0.0, shared * self._amplitude_bytes)

    def _back(self) -> Work:
        """The same with psi and lambda, and an inner product for each rotation."""
        flops = shared = 0.0
        size = float(1 << self.program.n_qubits)
        for step in self.program.steps:
            count = len(step.rotations)
            if step.kind == "rotations":
                flops += 19 * count * size
                shared += 4 * -(-count // TOGETHER) * size
            else:
                flops += (6 + count + 12 * (count + 1)) * size
                shared += 6 * size
        return Work(flops, 0.0, shared * self._amplitude_bytes)

    def work_of(self, kernel: str, stages: float = 1.0) -> Work | None:
        """Return an item's work in a kernel, None for those that do next to nothing.

        ``stages`` is how many launches of a pass an item goes through.
        """
        size, width = float(1 << self.program.n_qubits), float(self._amplitude_bytes)
        words = sum(len(group.z) for group in self.program.groups)
        read = 8.0 * self.columns
        observed, pulled = (5.0 + words) * size, (2.0 + words) * size
        forward, back = self._forward(), self._back()
        match kernel:
            case "run":
                flops = 2 * self.columns + 2 * size + forward.flops
                shared = width * size + forward.shared_bytes
                if self.program.groups:
                    flops, shared = flops + observed, shared + width * size
                if self.gradient:
                    flops += pulled + back.flops
                    shared += 2 * width * size + back.shared_bytes
                written = width * size if self.states else 0.0
                if self.gradient:
                    written += 8.0 * len(self.program.rotations)
                return Work(flops, read + written, shared)
            case "pass":
                return Work(forward.flops, 2 * stages * width * size, forward.shared_bytes)
            case "pass, back":
                return Work(back.flops, 4 * stages * width * size, back.shared_bytes)
            case "norms":
                return Work(2.0 * self.columns, read)
            case "load":
                return Work(2 * size, read + width * size)
            case "observe":
                return Work(observed, width * size)
            case "pull":
                return Work(pulled, 2 * width * size)
        return None


def kernel_lines(
    launches: Sequence[Launch], call: Call, items: int, rates: dict[str, float]
) -> list[dict[str, Any]]:
    """Return a record's facts on each kernel of one call: launches, time, work and floor.

    ``items`` is how many states the call ran, ``rates`` those of benchmark.core.device_rates.
    """
    found = []
    by_kernel = labelled(launches)
    chunks = len(by_kernel.get("angles", ())) or 1
    for kernel, own in by_kernel.items():
        seconds = sum(one.milliseconds for one in own) / 1e3
        line: dict[str, Any] = {"kernel": kernel, "launches": len(own), "total_s": seconds}
        work = call.work_of(kernel, stages=len(own) / chunks)
        if work is not None:
            whole = work.times(items)
            floor, limit = whole.floor_s(rates, call.precision)
            line |= {
                "flops": whole.flops,
                "bytes": whole.n_bytes,
                "shared_bytes": whole.shared_bytes,
                "floor_s": floor,
                "limit": limit,
                "time_over_floor": seconds / floor,
            }
        found.append(line)
    return found
