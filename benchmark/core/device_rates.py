# SPDX-License-Identifier: Apache-2.0
"""What a GPU can do, measured: copies, the link to the host, multiply-adds, shared memory.

The roofs that the engine's kernels are held against. Copies are torch's, which are the driver's;
the other two are kernels of a few lines, compiled for the device at hand.
"""

from __future__ import annotations

from collections.abc import Callable
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


def seconds_of(call: Callable[[], object], clock: Clock, runs: int = RUNS) -> list[float]:
    """Return the seconds of ``runs`` calls, after one that is not timed."""
    call()
    found = []
    for _ in range(runs):
        start = clock.mark()
        call()
        found.append(clock.milliseconds(start, clock.mark()) / 1e3)
    return found


def copy_rates(
    clock: Clock,
    *,
    device: str = "cuda",
    copy_bytes: int = COPY_BYTES,
    link_bytes: int = LINK_BYTES,
) -> dict[str, float]:
    """Return bytes a second: "copy" (read and written), "to_device" and "to_host", from pinned."""
    import torch

    def tensor(n_bytes: int, place: str, pinned: bool = False) -> Any:
        return torch.zeros(n_bytes // 8, dtype=torch.float64, device=place, pin_memory=pinned)

    first, second = tensor(copy_bytes, device), tensor(copy_bytes, device)
    copied = seconds_of(lambda: second.copy_(first), clock)
    there = tensor(link_bytes, device)
    here = tensor(link_bytes, "cpu", pinned=device == "cuda")
    up = seconds_of(lambda: there.copy_(here, non_blocking=True), clock)
    down = seconds_of(lambda: here.copy_(there, non_blocking=True), clock)
    return {
        "copy": 2 * copy_bytes / statistics.median(copied),
        "to_device": link_bytes / statistics.median(up),
        "to_host": link_bytes / statistics.median(down),
    }


def kernel_rates(clock: Clock, facts: dict[str, Any], rounds: int = ROUNDS) -> dict[str, float]:
    """Return "double" and "single" operations a second, and "shared" bytes a second.

    ``facts`` are those of ``benchmark.core.device.device_facts``.
    """
    import cuda.core as core

    device = core.Device(0)
    device.set_current()
    stream = device.default_stream
    blocks = 8 * facts["multiprocessors"]
    config = core.LaunchConfig(grid=blocks, block=THREADS)
    buffer = device.allocate(64, stream=stream)
    found = {}
    for precision in ("double", "single"):
        code = compiled(precision, facts["architecture"])

        def run(name: str, code: Any = code) -> Callable[[], object]:
            kernel = code.get_kernel(name)
            return lambda: core.launch(stream, config, kernel, buffer, np.int64(rounds))

        seconds = seconds_of(run("multiply_add"), clock)
        work = blocks * THREADS * rounds * CHAINS * 2
        found[precision] = work / statistics.median(seconds)
        if precision == "double":
            seconds = seconds_of(run("shared_copy"), clock)
            found["shared"] = blocks * THREADS * rounds * 32 / statistics.median(seconds)
    buffer.close()
    return found
