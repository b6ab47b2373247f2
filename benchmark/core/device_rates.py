# SPDX-License-Identifier: Apache-2.0
"""What a GPU can do, measured: copies, the link to the host, multiply-adds, shared memory.

The roofs that the engine's kernels are held against. Copies are torch's, which are the driver's;
the other two are kernels of a few lines, compiled for the device at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.core import statistics
from benchmark.core.device import Clock

COPY_BYTES = 2**30
LINK_BYTES = 2**28
RUNS = 7
THREADS = 512
ROUNDS = 4096
CHAINS = 8  # multiply-adds of a thread that do not wait for each other

SOURCE = """
extern "C" __global__ void __launch_bounds__(512) multiply_add(REAL* out, long long rounds) {
  REAL x[CHAINS];
  for (int k = 0; k < CHAINS; ++k) x[k] = REAL(threadIdx.x + k);
  for (long long round = 0; round < rounds; ++round)
#pragma unroll
    for (int k = 0; k < CHAINS; ++k) x[k] = x[k] * REAL(0.999) + REAL(0.5);
  REAL sum = 0;
  for (int k = 0; k < CHAINS; ++k) sum += x[k];
  // Never so, which the compiler does not know: the sum has to be there.
  if (sum == REAL(-1)) out[0] = sum;
}

extern "C" __global__ void __launch_bounds__(512) shared_copy(REAL* out, long long rounds) {
  __shared__ double2 line[512];
  line[threadIdx.x] = double2{double(threadIdx.x), 1.0};
  for (long long round = 0; round < rounds; ++round) {
    __syncthreads();
    const double2 neighbour = line[(threadIdx.x + 32) % 512];
    __syncthreads();
    line[threadIdx.x] = neighbour;
  }
  if (line[threadIdx.x].y == 0.0) out[0] = REAL(line[threadIdx.x].x);
}
"""


def compiled(precision: str, architecture: str) -> Any:
    """Return the kernels' cubin as a cuda.core object, compiled for "sm_90" and the like."""
    import cuda.core as core

    options = core.ProgramOptions(
        std="c++17",
        arch=architecture,
        define_macro=[
            ("REAL", {"double": "double", "single": "float"}[precision]),
            ("CHAINS", str(CHAINS)),
        ],
    )
    return core.Program(SOURCE, "c++", options).compile("cubin")


@dataclass(frozen=True)
class Timed:
    """An amount of bytes or operations, and the seconds that each repetition of it took."""

    amount: float
    seconds: list[float]

    @property
    def rate(self) -> float:
        """The amount over the median time."""
        return self.amount / statistics.median(self.seconds)


def seconds_of(call: Callable[[], object], clock: Clock, runs: int = RUNS) -> list[float]:
    """Return the seconds of ``runs`` calls, after one that is not timed."""
    call()
    found = []
    for _ in range(runs):
        start = clock.mark()
        call()
        found.append(clock.milliseconds(start, clock.mark()) / 1e3)
    return found


def time_copies(
    clock: Clock,
    *,
    device: str = "cuda",
    copy_bytes: int = COPY_BYTES,
    link_bytes: int = LINK_BYTES,
) -> dict[str, Timed]:
    """Time "copy" (bytes read and written), and "to_device" and "to_host" of pinned memory."""
    import torch

    def tensor(n_bytes: int, place: str, pinned: bool = False) -> Any:
        return torch.zeros(n_bytes // 8, dtype=torch.float64, device=place, pin_memory=pinned)

    first, second = tensor(copy_bytes, device), tensor(copy_bytes, device)
    there = tensor(link_bytes, device)
    here = tensor(link_bytes, "cpu", pinned=device == "cuda")
    return {
        "copy": Timed(2 * copy_bytes, seconds_of(lambda: second.copy_(first), clock)),
        "to_device": Timed(
            link_bytes, seconds_of(lambda: there.copy_(here, non_blocking=True), clock)
        ),
        "to_host": Timed(
            link_bytes, seconds_of(lambda: here.copy_(there, non_blocking=True), clock)
        ),
    }


def time_kernels(clock: Clock, facts: dict[str, Any], rounds: int = ROUNDS) -> dict[str, Timed]:
    """Time "double" and "single" operations, and "shared" bytes.

    ``facts`` are those of ``benchmark.core.device.device_facts``.
    """
    import cuda.core as core

    device = core.Device(0)
    device.set_current()
    stream = device.default_stream
    blocks = 8 * facts["multiprocessors"]
    config = core.LaunchConfig(grid=blocks, block=THREADS)
    buffer = device.allocate(64, stream=stream)
    steps = blocks * THREADS * rounds
    found = {}
    for name, precision, kernel, amount in (
        ("double", "double", "multiply_add", steps * CHAINS * 2),
        ("single", "single", "multiply_add", steps * CHAINS * 2),
        ("shared", "double", "shared_copy", steps * 32),
    ):
        function = compiled(precision, facts["architecture"]).get_kernel(kernel)

        def call(function: Any = function) -> None:
            core.launch(stream, config, function, buffer, np.int64(rounds))

        found[name] = Timed(amount, seconds_of(call, clock))
    buffer.close()
    return found
