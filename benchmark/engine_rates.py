# SPDX-License-Identifier: Apache-2.0
"""How much of the processor the engine uses: arithmetic done against what the machine can do.

No rivals here. For the ladder circuit with the sum of Z it times values, adjoint gradients and
shifted evaluations over sizes, precisions and threads, divides the arithmetic of
``qdp.planner.operations`` by the time, and sets that against multiply-adds on registers alone,
measured before and after. Then, on one thread, it times every kernel within such runs, and sets its
arithmetic and its traffic against multiply-adds and a triad in each level of the memory. Writes one
JSON line a measurement, with raw times; ``record`` says which kind: machine, call or kernel.

    python -m benchmark.engine_rates --output-dir results
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.core import environment, records, statistics

SIZES = ((4, 20000), (6, 10000), (8, 8000), (10, 4000), (12, 1000), (14, 200), (16, 60))
KINDS = ("expectation", "adjoint", "parameter-shift")
# Lanes of the widest register in single against double precision.
SINGLE_LANES = 2
# Bytes of three arrays together that fit each level of the memory, of a thread.
LEVELS = (("L1", 24 * 2**10), ("L2", 512 * 2**10), ("L3", 6 * 2**20), ("memory", 2**30))
PROFILED_SIZES = (6, 8, 10, 12, 14, 16)


Call = Callable[[], None]


def prepare(n_qubits: int, rows: int, kind: str, precision: str) -> tuple[Call, int]:
    """Return one call of that kind, and the operations that a row of it takes."""
    import qdp
    from qdp import planner

    circuit = qdp.ansatz.ry_rz_ladder(n_qubits, 2)
    observable = qdp.Observable.sum_z(n_qubits)
    random = np.random.default_rng(42)
    features = random.normal(size=(rows, 2**n_qubits))
    parameters = random.normal(size=circuit.n_parameters)
    options: dict[str, Any] = {"encoding": "amplitude", "precision": precision}

    def call() -> None:
        if kind == "expectation":
            qdp.expectation(circuit, parameters, features, observable, **options)
        else:
            qdp.gradient(circuit, parameters, features, observable, method=kind, **options)

    return call, planner.operations(circuit, observable, rows=rows, method=kind, **options)


def rows_of(n_qubits: int, kind: str) -> int:
    """Return how many rows of that size make a call that can be timed."""
    rows = dict(SIZES)[n_qubits]
    return max(16, rows // 10) if kind == "parameter-shift" else rows


def measure(n_qubits: int, kind: str, precision: str, threads: int, runs: int) -> dict[str, Any]:
    """Time one kind of call; return the record."""
    from qdp import _core

    _core.set_thread_count(threads)
    rows = rows_of(n_qubits, kind)
    call, operations = prepare(n_qubits, rows, kind, precision)
    call()
    before = _core.fma_rate(0.1)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    peak = 2 * max(before, _core.fma_rate(0.1)) * (SINGLE_LANES if precision == "single" else 1)
    seconds = statistics.estimate(times)
    return {
        "record": "call",
        "kind": kind,
        "n_qubits": n_qubits,
        "rows": rows,
        "precision": precision,
        "threads": threads,
        "instruction_set": _core.instruction_set(),
        "seconds": times,
        "us_per_row": 1e6 * seconds.median / rows,
        "operations_per_row": operations,
        "flop_per_s": operations * rows / seconds.median,
        "peak_flop_per_s": peak,
        "fraction_of_peak": operations * rows / seconds.median / peak,
    }


def machine(threads: int) -> dict[str, Any]:
    """Measure what the machine can do with that many threads; return the record."""
    from qdp import _core

    _core.set_thread_count(threads)
    return {
        "record": "machine",
        "threads": threads,
        "instruction_set": _core.instruction_set(),
        "flop_per_s": 2 * _core.fma_rate(0.3),
        # A copy past the caches may be the fastest where nothing is read again.
        "bytes_per_s": {
            level: max(_core.triad_rate(size, 0.3, streaming) for streaming in (False, True))
            for level, size in LEVELS
        },
    }


def profile(n_qubits: int, kind: str, runs: int) -> list[dict[str, Any]]:
    """Time the kernels within calls of one kind, in double precision on one thread."""
    from qdp import _core

    _core.set_thread_count(1)
    rows = rows_of(n_qubits, kind)
    call, _ = prepare(n_qubits, rows, kind, "double")
    call()
    peak = 2 * _core.fma_rate(0.1)
    seconds: dict[str, list[float]] = {}
    totals: dict[str, dict[str, Any]] = {}
    for _ in range(runs):
        _core.start_profile()
        call()
        for kernel, calls, spent, flops, n_bytes in _core.stop_profile():
            seconds.setdefault(kernel, []).append(spent)
            totals[kernel] = {"calls": calls, "flops": flops, "bytes": n_bytes}
    found = []
    for kernel, total in totals.items():
        median = statistics.estimate(seconds[kernel]).median
        found.append(
            {
                "record": "kernel",
                "kind": kind,
                "n_qubits": n_qubits,
                "rows": rows,
                "kernel": kernel,
                **total,
                "seconds": seconds[kernel],
                "us_per_row": 1e6 * median / rows,
                "flop_per_s": total["flops"] / median,
                "fraction_of_peak": total["flops"] / median / peak,
                "bytes_per_s": total["bytes"] / median,
            }
        )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure all sizes and write the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output-dir", type=Path, default=Path("results"))
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--precisions", nargs="+", default=["double", "single"])
    options = parser.parse_args(arguments)
    threads = environment.usable_cpus()
    lines = [{"record": "run", "started": datetime.now().isoformat(), **environment.describe()}]
    for count in sorted({1, threads}):
        lines.append(machine(count))
        levels = ", ".join(
            f"{level} {rate / 1e9:.0f} GB/s" for level, rate in lines[-1]["bytes_per_s"].items()
        )
        print(f"{count} threads: {lines[-1]['flop_per_s'] / 1e9:.0f} GFLOP/s, {levels}")
    print(
        f"{'kind':16s} {'n':>3s} {'rows':>6s} {'precision':>9s} {'threads':>7s} "
        f"{'us/row':>10s} {'GFLOP/s':>8s} {'of peak':>8s}"
    )
    for kind in options.kinds:
        for precision in options.precisions:
            for n_qubits, _ in SIZES:
                for count in sorted({1, threads}):
                    one = measure(n_qubits, kind, precision, count, options.runs)
                    lines.append(one)
                    print(
                        f"{kind:16s} {n_qubits:3d} {one['rows']:6d} {precision:>9s} {count:7d} "
                        f"{one['us_per_row']:10.3f} {one['flop_per_s'] / 1e9:8.1f} "
                        f"{one['fraction_of_peak']:8.0%}",
                        flush=True,
                    )
    for kind in options.kinds:
        for n_qubits in PROFILED_SIZES:
            for one in profile(n_qubits, kind, options.runs):
                lines.append(one)
                print(
                    f"{kind:16s} {n_qubits:3d} {one['kernel']:18s} {one['us_per_row']:10.3f} us "
                    f"{one['flop_per_s'] / 1e9:8.1f} GFLOP/s {one['fraction_of_peak']:8.0%} "
                    f"{one['bytes_per_s'] / 1e9:8.1f} GB/s",
                    flush=True,
                )
    records.save_study(options.output_dir, datetime.now(), "engine_rates", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
