# SPDX-License-Identifier: Apache-2.0
"""Runs and legs made up for tests of records and reports."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark import gpu_rates
from benchmark.core.contenders import BY_KIND, CONTENDERS
from benchmark.core.contenders.gpu import TIMED_REGION
from benchmark.core.records import Leg
from benchmark.tests.statevector import make_case


def make_leg(
    contender: str,
    n_samples: int,
    circuit_ms: list[float],
    *,
    encoding: float = 0.0,
    rows_measured: int | None = None,
    status: str = "ok",
    reason: str = "",
    method: str = "parameter-shift",
    gradients: Any = None,
) -> Leg:
    """Return a leg with the given circuit times and one encoding time throughout."""
    kind = CONTENDERS[contender]
    return Leg(
        contender=contender,
        title=kind.title,
        rule=kind.rule_for(method),
        n_samples=n_samples,
        status=status,
        reason=reason,
        rows_measured=(rows_measured or n_samples) if status == "ok" else 0,
        encoding_ms=[encoding] * len(circuit_ms),
        circuit_ms=circuit_ms,
        encoding_note=kind.encoding_note,
        max_difference=1e-15 if status == "ok" else None,
        tolerance=1e-9 if status == "ok" else None,
        result=None if gradients is None else np.asarray(gradients, dtype=np.float64),
    )


def make_run(samples: list[int], **options: Any) -> dict[str, Any]:
    """Return the first line of a record."""
    return {
        "case": make_case(2, 1, **options).to_json(),
        "arguments": {
            "n_samples": samples,
            "warmup": 1,
            "runs": 3,
            "contenders": ["qdp", "pennylane"],
            "time_limit": 60.0,
        },
        "dataset": {"name": "synthetic", "description": "standard normal", "features": 4},
        "environment": {"cpu": "a processor", "cpus_usable": 2},
    }


MACHINE_RATES = {
    "copy": 4e12,
    "to_device": 50e9,
    "to_host": 40e9,
    "double": 30e12,
    "single": 60e12,
    "shared": 20e12,
}


def make_gpu_leg(point: Any, contender: str, ms: float, **facts: Any) -> Leg:
    """Return a leg of benchmark/gpu_rates.py: ten repetitions about ``ms``, or one that stopped."""
    kind = BY_KIND[point.case.kind][contender]
    ok = facts.get("status", "ok") == "ok"
    times = [ms * factor for factor in (1.0, 1.01, 0.99, 1.02, 0.98) * 2] if ok else []
    reading = {"mean": 90.0, "max": 2.0**31}
    leg = Leg(
        contender=contender,
        title=kind.title,
        rule=kind.rule_for(getattr(point.case, "method", "")),
        n_samples=point.rows,
        status="ok",
        rows_measured=point.rows if ok else 0,
        encoding_ms=times,
        circuit_ms=[0.0] * len(times),
        sweep=point.part,
        case={"kind": point.case.kind, **point.case.to_json()},
        metering=[{"cpu_s": 0.1, "gpu": {"readings": 2, "utilization_percent": reading}}]
        if ok
        else [],
    )
    if point.case.kind == "encoding" and ok:
        leg.details = {"one_row_us": "12.5"}
    for name, value in facts.items():
        setattr(leg, name, value)
    return leg


def make_gpu_lines(legs: list[Leg], kernels: list[dict[str, Any]] | None = None) -> list[Any]:
    """Return the lines of a file of benchmark/gpu_rates.py."""
    run = {
        "record": "run",
        "started": "2026-01-01T00:00:00",
        "quick": False,
        "parts": list(gpu_rates.PARTS),
        "timed_region": TIMED_REGION,
        "gpus": ["a GPU"],
        "git": {"commit": "0123456789abcdef", "modified": False},
    }
    machine = {"record": "machine", "device": {"name": "a GPU 100"}, "rates": MACHINE_RATES}
    lines = [{"record": "leg", "part": leg.sweep, **leg.to_json()} for leg in legs]
    return [run, machine, *lines, *(kernels or [])]
