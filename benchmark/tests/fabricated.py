# SPDX-License-Identifier: Apache-2.0
"""Runs and legs made up for tests of records and reports."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.core.contenders import CONTENDERS
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
