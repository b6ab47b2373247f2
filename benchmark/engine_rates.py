# SPDX-License-Identifier: Apache-2.0
"""How much of the processor the engine uses: arithmetic done against what the machine can do.

No rivals here. For the ladder circuit with the sum of Z it times values, adjoint gradients and
shifted evaluations over sizes, precisions and threads, divides the arithmetic of
``qdp.planner.operations`` by the time, and sets that against multiply-adds on registers alone,
measured before and after. Writes one JSON line a measurement, with raw times.

    python -m benchmark.engine_rates --output-dir results
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.core import environment, records, statistics

SIZES = ((4, 20000), (6, 10000), (8, 8000), (10, 4000), (12, 1000), (14, 200), (16, 60))
KINDS = ("expectation", "adjoint", "parameter-shift")
# Lanes of the widest register in single against double precision.
SINGLE_LANES = 2


def measure(
    n_qubits: int, rows: int, kind: str, precision: str, threads: int, runs: int
) -> dict[str, Any]:
    """Time one kind of call; return the record."""
    import qdp
    from qdp import _core, planner

    _core.set_thread_count(threads)
    circuit = qdp.ansatz.ry_rz_ladder(n_qubits, 2)
    observable = qdp.Observable.sum_z(n_qubits)
    random = np.random.default_rng(42)
    features = random.normal(size=(rows, 2**n_qubits))
    parameters = random.normal(size=circuit.n_parameters)

    def call() -> None:
        options: dict[str, Any] = {"encoding": "amplitude", "precision": precision}
        if kind == "expectation":
            qdp.expectation(circuit, parameters, features, observable, **options)
        else:
            qdp.gradient(circuit, parameters, features, observable, method=kind, **options)

    call()
    before = _core.fma_rate(0.1)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    peak = 2 * max(before, _core.fma_rate(0.1)) * (SINGLE_LANES if precision == "single" else 1)
    operations = planner.operations(
        circuit, observable, rows=rows, encoding="amplitude", method=kind, precision=precision
    )
    seconds = statistics.estimate(times)
    return {
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


def main(arguments: list[str] | None = None) -> int:
    """Measure all sizes and write the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output-dir", type=Path, default=Path("results"))
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--precisions", nargs="+", default=["double", "single"])
    options = parser.parse_args(arguments)
    threads = environment.usable_cpus()
    lines = [{"kind": "run", "started": datetime.now().isoformat(), **environment.describe()}]
    print(
        f"{'kind':16s} {'n':>3s} {'rows':>6s} {'precision':>9s} {'threads':>7s} "
        f"{'us/row':>10s} {'GFLOP/s':>8s} {'of peak':>8s}"
    )
    for kind in options.kinds:
        for precision in options.precisions:
            for n_qubits, rows in SIZES:
                if kind == "parameter-shift":
                    rows = max(16, rows // 10)
                for count in sorted({1, threads}):
                    one = measure(n_qubits, rows, kind, precision, count, options.runs)
                    lines.append(one)
                    print(
                        f"{kind:16s} {n_qubits:3d} {rows:6d} {precision:>9s} {count:7d} "
                        f"{one['us_per_row']:10.3f} {one['flop_per_s'] / 1e9:8.1f} "
                        f"{one['fraction_of_peak']:8.0%}",
                        flush=True,
                    )
    path = records.output_stem(options.output_dir, datetime.now(), "engine_rates")
    path = path.with_suffix(".jsonl")
    content = "".join(json.dumps(line) + "\n" for line in lines)
    records.atomic_write(path, content.encode())
    print(f"Saved: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
