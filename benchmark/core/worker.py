# SPDX-License-Identifier: Apache-2.0
"""One contender in a fresh process: ``python -m benchmark.core.worker``.

Speaks as benchmark.core.service says. Features come from a .npy file and results go to one. The
commands:

  {"do": "check", "rows": r, "path": p}     result for the first r rows to p, untimed
  {"do": "plan", "rows": r, "budget_s": b}  how many of r rows one repetition does in b seconds
  {"do": "repeat", "rows": k}               one timed repetition, the mean of several short calls
  {"do": "save", "rows": r, "path": p}      result for the first r rows of the last repetition to p
  {"do": "finish"}                          peak memory with child processes, then exit
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmark.core import environment, service
from benchmark.core.cases import case_from_json
from benchmark.core.contenders import BY_KIND, Contender, Repeat
from benchmark.core.metering import Meter, peak_bytes

PROBE_GROWTH = 4
# A run shorter than this follows an untimed one at once. Contenders take turns, and a process
# that comes to its turn finds cores asleep and caches cold, which no loop over batches would.
SHORT_S = 0.1
# A repetition goes on for about this long: calls of microseconds, each timed alone, would tell of
# the processor's waking up, and more so the faster the contender is.
LEAST_TIMED_S = 0.02


class Worker:
    """Holds one prepared contender and carries out commands."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.case = case_from_json(request["case"])
        self.kind: type[Contender] = BY_KIND[self.case.kind][request["contender"]]
        self.features = np.load(request["features"])
        self.contender: Contender | None = None
        self.last: Repeat | None = None
        self.last_s = float("inf")
        self.meter = Meter(index=request.get("gpu", 0))

    def prepare(self) -> dict[str, Any]:
        """Import and compile; answer ready, unsupported or skipped."""
        start = time.perf_counter()
        try:
            reason = self.kind.unsupported(self.case)
            if reason is not None:
                return {"event": "unsupported", "reason": reason}
            self.contender = self.kind(self.case, self.features)
            self.contender.prepare()
        except ImportError as error:
            return {
                "event": "skipped",
                "reason": f"{error}; {self.kind.remedy()}",
            }
        return {
            "event": "ready",
            "setup_s": time.perf_counter() - start,
            "versions": environment.versions(self.kind.distributions),
            "details": self.contender.details(),
        }

    def _run(self, rows: int) -> float:
        """Return the wall time of one run, no garbage collected in it."""
        assert self.contender is not None
        gc.collect()
        gc.disable()
        try:
            start = time.perf_counter()
            self.last = self.contender.run(rows)
            self.last_s = time.perf_counter() - start
            return self.last_s
        finally:
            gc.enable()

    def _repeat(self, rows: int) -> dict[str, Any]:
        """Time one repetition: means over as many calls as fill LEAST_TIMED_S."""
        assert self.contender is not None
        if self.last_s < SHORT_S:
            self._run(rows)
        calls = max(1, math.ceil(LEAST_TIMED_S / self.last_s))
        gc.collect()
        gc.disable()
        try:
            encoding_ms = circuit_ms = 0.0
            with self.meter:
                start = time.perf_counter()
                for _ in range(calls):
                    self.last = self.contender.run(rows)
                    encoding_ms += self.last.encoding_ms
                    circuit_ms += self.last.circuit_ms
                self.last_s = (time.perf_counter() - start) / calls
        finally:
            gc.enable()
        metering = self.meter.read()
        return {
            "event": "repeat",
            "calls": calls,
            "encoding_ms": encoding_ms / calls,
            "circuit_ms": circuit_ms / calls,
            "wall_s": self.last_s,
            "metering": {**metering, "cpu_s": metering["cpu_s"] / calls},
        }

    def answer(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        match command["do"]:
            case "check" | "save":
                if command["do"] == "check":
                    self._run(command["rows"])
                assert self.last is not None
                np.save(command["path"], self.last.result[: command["rows"]])
                return {"event": "saved"}
            case "plan":
                return self._plan(command["rows"], command["budget_s"])
            case "repeat":
                return self._repeat(command["rows"])
            case "finish":
                peak = peak_bytes()
                if self.contender is not None:
                    self.contender.close()
                return {"event": "finished", "peak_memory_bytes": peak}
        raise ValueError(f"unknown command {command['do']!r}")

    def _plan(self, rows: int, budget_s: float) -> dict[str, Any]:
        """Find the rows of one repetition by trying more and more of them.

        The cost of a row falls with their number in batched contenders, so a step is taken as far
        as the cost measured last allows, until that is less than half as far again.
        """
        probe = 1
        while True:
            wall_s = self._run(probe)
            affordable = int(probe * min(PROBE_GROWTH, budget_s / wall_s))
            if affordable < 1.5 * probe or probe == rows:
                break
            probe = min(rows, affordable)
        warm = wall_s <= 1.2 * budget_s
        chosen = probe if warm else max(1, min(probe, affordable))
        return {
            "event": "planned",
            "rows": chosen,
            "warm": chosen == probe,
            "seconds": wall_s * chosen / probe,
        }


if __name__ == "__main__":
    raise SystemExit(service.main(Worker))
