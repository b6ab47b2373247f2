# SPDX-License-Identifier: Apache-2.0
"""Whether ``qdp.plan`` chooses well: its choice against the clock, over the options that fit.

No rivals here. Each case is a number of passes of adjoint gradients over rows, in memory or in a
.npy file, run by every option from the source on: what is read once or built once is in the time.
Options take turns. Writes one JSON line a case, with raw times and predictions; ``ratio`` is the
time of the chosen option over the best one's.

    python -m benchmark.plan_choice --output-dir results
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.core import environment, records, statistics


@dataclass(frozen=True)
class Case:
    """Rows under an encoding, passes over them, and the budget in bytes (None: what there is)."""

    encoding: str
    n_qubits: int
    rows: int
    reuse: int
    in_file: bool = False
    memory: int | None = None


CASES = (
    Case("amplitude", 8, 20000, 5),
    Case("amplitude", 12, 1500, 1),
    Case("amplitude", 12, 1500, 10, in_file=True),
    Case("amplitude", 12, 3000, 3, in_file=True, memory=32 * 2**20),
    Case("angle", 8, 20000, 10),
    Case("angle", 12, 1000, 1),
    Case("angle", 12, 1000, 10),
    Case("iqp", 6, 10000, 1),
    Case("iqp", 10, 1000, 1),
    Case("iqp", 12, 300, 10),
    Case("iqp", 10, 2000, 10, in_file=True, memory=16 * 2**20),
)


def run(option: str, source: Any, plan: Any, case: Case, gradient: Any, folder: Path) -> np.ndarray:
    """Run all passes by an option; return the gradients of the last one, (rows, P)."""
    import qdp

    options: dict[str, Any] = {"encoding": case.encoding}
    if option == "fuse":
        (chunk,) = source.chunks(len(source))  # a view where the rows are in memory
        features = chunk.features
        if case.in_file:  # mapped, not read
            features = features.copy()
        return [gradient(features, **options) for _ in range(case.reuse)][-1]
    if option == "cache":
        in_files = plan.cache.place == "files"
        cache = qdp.StateCache(
            folder if in_files else None,
            memory=plan.cache.n_bytes if case.memory is None else case.memory,
        )
        cache.encode_all(source, case.encoding, case.n_qubits)
        return [gradient(cache) for _ in range(case.reuse)][-1]
    rows = max(1, plan.stream.n_bytes // (source.n_features * source.dtype.itemsize))
    return [
        np.concatenate([gradient(chunk.features, **options) for chunk in source.chunks(rows)])
        for _ in range(case.reuse)
    ][-1]


def measure(case: Case, runs: int) -> dict[str, Any]:
    """Time every option of a case; return the record."""
    import qdp
    from qdp import encodings

    circuit = qdp.ansatz.ry_rz_ladder(case.n_qubits, 2)
    observable = qdp.Observable.sum_z(case.n_qubits)
    random = np.random.default_rng(42)
    parameters = random.normal(size=circuit.n_parameters)
    n_features = encodings.from_name(case.encoding).n_features(case.n_qubits)
    features = random.normal(size=(case.rows, n_features))

    def gradient(states: Any, **options: Any) -> np.ndarray:
        return qdp.gradient(circuit, parameters, states, observable, **options)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "rows.npy"
        np.save(path, features)
        source = qdp.open(path) if case.in_file else qdp.open(features)
        plan = qdp.plan(
            circuit,
            source,
            observable,
            encoding=case.encoding,
            reuse=case.reuse,
            memory=case.memory,
        )
        fitting = [name for name, one in plan.options.items() if math.isfinite(one.seconds)]
        times: dict[str, list[float]] = {name: [] for name in fitting}
        found = {}
        for number in range(runs + 1):  # the first is to warm up
            for option in fitting:
                with tempfile.TemporaryDirectory(dir=folder) as entries:
                    start = time.perf_counter()
                    found[option] = run(option, source, plan, case, gradient, Path(entries))
                    spent = time.perf_counter() - start
                if number:
                    times[option].append(spent)
    for option in fitting:
        if not np.allclose(found[option], found["stream"], rtol=0, atol=1e-9):
            raise AssertionError(f"{option} and stream give other gradients in {case}")
    medians = {option: statistics.estimate(spent).median for option, spent in times.items()}
    best = min(medians, key=lambda option: medians[option])
    return {
        "record": "case",
        **asdict(case),
        "decision": plan.decision,
        "reason": plan.reason,
        "predicted_seconds": {option: plan.options[option].seconds for option in fitting},
        "n_bytes": {option: one.n_bytes for option, one in plan.options.items()},
        "places": {option: one.place for option, one in plan.options.items()},
        "seconds": times,
        "median_seconds": medians,
        "best": best,
        "ratio": medians[plan.decision] / medians[best],
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure all cases and write the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output-dir", type=Path, default=Path("results"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--most-rows", type=int, default=None, help="cut every case to so many")
    parser.add_argument("--most-qubits", type=int, default=None, help="likewise")
    options = parser.parse_args(arguments)
    lines = [{"record": "run", "started": datetime.now().isoformat(), **environment.describe()}]
    print(f"{'case':42s} {'chosen':>7s} {'best':>7s} {'ratio':>6s}  measured (predicted) ms")
    for case in CASES:
        shape = {
            "rows": min(case.rows, options.most_rows or case.rows),
            "n_qubits": min(case.n_qubits, options.most_qubits or case.n_qubits),
        }
        one = measure(Case(**{**asdict(case), **shape}), options.runs)
        lines.append(one)
        what = f"{case.encoding} n={one['n_qubits']} rows={one['rows']} reuse={case.reuse}"
        what += " file" * case.in_file + " budget" * (case.memory is not None)
        times = ", ".join(
            f"{option} {1e3 * median:.1f} ({1e3 * one['predicted_seconds'][option]:.1f})"
            for option, median in one["median_seconds"].items()
        )
        print(
            f"{what:42s} {one['decision']:>7s} {one['best']:>7s} {one['ratio']:6.2f}  {times}",
            flush=True,
        )
    records.save_study(options.output_dir, datetime.now(), "plan_choice", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
