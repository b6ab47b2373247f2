# SPDX-License-Identifier: Apache-2.0
"""Runs the legs of one size: a fresh process a contender, checked, planned, then interleaved.

Every contender's process stays alive while the repetitions go round all of them in turn, so that
a slow minute of the machine touches all alike. A contender is timed only if its result for the
first rows agrees with the reference; after timing, its results are compared once more.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from benchmark.core import environment
from benchmark.core.cases import Case
from benchmark.core.contenders import BY_KIND
from benchmark.core.device import visible_gpu
from benchmark.core.records import Leg

Array = NDArray[Any]
Progress = Callable[[str], None]

# Imports, compilation and the check of a few rows may take longer than a leg.
LEAST_SETUP_S = 180.0
CHECK_AMPLITUDES = 2**14
MOST_CHECK_ROWS = 8


@dataclass(frozen=True)
class Settings:
    """How to measure: repetitions, the seconds that one leg may take, the GPU that is metered."""

    warmup: int = 1
    runs: int = 3
    time_limit: float = 60.0
    gpu: int = 0


class LegStopped(Exception):
    """A leg ended early; ``status`` is one of the words of records.STATUSES."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class WorkerProcess:
    """The parent's end of one contender's process, which ``module`` serves."""

    def __init__(
        self,
        name: str,
        case: Any,
        features: Path,
        folder: Path,
        module: str = "benchmark.core.worker",
        gpu: int = 0,
    ) -> None:
        self.name = name
        variables = dict(os.environ)
        variables.update(BY_KIND[case.kind][name].environment(case.threads))
        visible = visible_gpu(gpu)
        variables.update(visible)
        paths = [str(environment.REPOSITORY), variables.get("PYTHONPATH", "")]
        variables["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        self._errors = (folder / f"{name}.stderr").open("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=variables,
            text=True,
            start_new_session=True,  # so that it can be ended with its own processes
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        assert self._process.stdout is not None
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        self._send(
            {
                "contender": name,
                "case": case.to_json(),
                "features": str(features),
                "gpu": visible["CUDA_VISIBLE_DEVICES"] or gpu,
            }
        )

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # Where the pipe is broken, the missing answer tells what happened.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the next answer. Raises LegStopped for anything but a good one."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise LegStopped("timed out", f"no answer within {timeout_s:.0f} s") from None
        if line is None:
            status = self._process.wait()
            raise LegStopped(
                "failed", f"its process ended with status {status}{self._last_words()}"
            )
        message: dict[str, Any] = json.loads(line)
        if message["event"] in ("failed", "skipped", "unsupported"):
            raise LegStopped(message["event"], message["reason"])
        return message

    def ask(self, command: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._send(command)
        return self.answer(timeout_s)

    def _last_words(self) -> str:
        self._errors.flush()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return f": {lines[-1]}" if lines else ""

    def close(self) -> None:
        """End the process, by force if it does not end by itself; a second time does nothing."""
        if self._errors.closed:
            return
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._errors.close()


@dataclass
class _Running:
    """A leg whose process is alive."""

    leg: Leg
    worker: WorkerProcess
    rows: int
    warmup: int
    runs: int
    repeat_timeout_s: float


NOT_STARTED = "not started: it timed out "


def note_timed_out(
    known: dict[str, str], stopped: Iterable[tuple[str, str, str]], where: str
) -> None:
    """Note who timed out at a point, and why not to start it at the larger points of that sweep.

    ``stopped`` holds contender, status and reason; ``where`` names the point. What was known of a
    contender before stays.

    >>> known = {}
    >>> note_timed_out(known, [("slow", "timed out", "no answer within 180 s")], "at 4 qubits")
    >>> known
    {'slow': 'not started: it timed out at 4 qubits: no answer within 180 s'}
    """
    for name, status, reason in stopped:
        if status == "timed out":
            already = reason.startswith(NOT_STARTED)
            known.setdefault(name, reason if already else f"{NOT_STARTED}{where}: {reason}")


def check_rows(case: Case, rows: int) -> int:
    """Return how many rows are compared with the reference before timing."""
    return max(1, min(rows, MOST_CHECK_ROWS, CHECK_AMPLITUDES // case.state_size))


def run_size(
    case: Case,
    features: Array,
    contenders: Sequence[str],
    settings: Settings,
    progress: Progress = lambda text: None,
    timed_out: Mapping[str, str] | None = None,
) -> list[Leg]:
    """Check and time every contender on all rows of ``features``; one leg each, in their order.

    ``timed_out`` has the reasons for which some are not started, as ``note_timed_out`` writes them.
    """
    timed_out = timed_out or {}
    kinds = BY_KIND[case.kind]
    legs = {
        name: Leg(
            contender=name,
            title=kinds[name].title,
            rule=kinds[name].rule_for(getattr(case, "method", "")),
            n_samples=len(features),
            status="timed out" if name in timed_out else "ok",
            reason=timed_out.get(name, ""),
            encoding_note=kinds[name].encoding_note,
        )
        for name in contenders
    }
    started = [leg for leg in legs.values() if leg.ok]
    if not started:
        return list(legs.values())
    rows = check_rows(case, len(features))
    progress("reference")
    reference = case.reference(features[:rows])
    together = _fit_together(case, features, len(started))
    with tempfile.TemporaryDirectory(prefix="qdp-benchmark-") as name:
        folder = Path(name)
        path = folder / "features.npy"
        np.save(path, features)
        session = _Session(case, path, folder, settings, reference, progress)
        if together:
            session.measure(started, interleaved=len(started) > 1)
        else:
            for leg in started:
                session.measure([leg], interleaved=False)
    _compare_timed(case, list(legs.values()))
    return list(legs.values())


def _fit_together(case: Case, features: Array, contenders: int) -> bool:
    """Whether all processes may hold their states at once: features, states and working copies.

    With a GPU's backend states are in its memory, and the host's has features alone.
    """
    available = environment.available_memory()
    if available is None:
        return True
    on_gpu = getattr(case, "backend", "") in ("cuda", "custatevec")
    held = features.nbytes if on_gpu else len(features) * case.state_size * 16
    return contenders * held * 3 < available / 2


class _Session:
    """The legs that share one features file and one reference."""

    def __init__(
        self,
        case: Case,
        path: Path,
        folder: Path,
        settings: Settings,
        reference: Array,
        progress: Progress,
    ) -> None:
        self.case = case
        self.path = path
        self.folder = folder
        self.settings = settings
        self.reference = reference
        self.progress = progress

    def measure(self, legs: list[Leg], *, interleaved: bool) -> None:
        """Start and check each leg, then take their repetitions in turn."""
        running: list[_Running] = []
        started: list[tuple[Leg, WorkerProcess]] = []
        try:
            # All import and compile side by side; what follows is one after the other.
            for leg in legs:
                self.progress(f"{leg.contender}: start")
                worker = WorkerProcess(
                    leg.contender, self.case, self.path, self.folder, gpu=self.settings.gpu
                )
                started.append((leg, worker))
            ready = [(leg, worker) for leg, worker in started if self._ready(leg, worker)]
            for leg, worker in ready:
                prepared = self._prepare(leg, worker)
                if prepared is not None:
                    leg.interleaved = interleaved
                    running.append(prepared)
            self._repeat(running)
            for item in running:
                self._finish(item)
        finally:
            for _, worker in started:
                worker.close()

    @property
    def _setup_s(self) -> float:
        return max(LEAST_SETUP_S, 3 * self.settings.time_limit)

    def _ready(self, leg: Leg, worker: WorkerProcess) -> bool:
        """Wait until a leg's process has imported and compiled, or write down why it has not."""
        try:
            ready = worker.answer(self._setup_s)
        except LegStopped as stopped:
            leg.status, leg.reason = stopped.status, stopped.reason
            worker.close()
            return False
        leg.setup_s = ready["setup_s"]
        leg.versions, leg.details = ready["versions"], ready["details"]
        return True

    def _prepare(self, leg: Leg, worker: WorkerProcess) -> _Running | None:
        """Check a leg and plan its repetitions, or write down why not."""
        try:
            self.progress(f"{leg.contender}: check")
            self._check(leg, worker, self._setup_s)
            self.progress(f"{leg.contender}: plan")
            return self._plan(leg, worker)
        except LegStopped as stopped:
            leg.status, leg.reason = stopped.status, stopped.reason
        worker.close()
        return None

    def _check(self, leg: Leg, worker: WorkerProcess, timeout_s: float) -> None:
        rows = len(self.reference)
        target = self.folder / f"{leg.contender}-check.npy"
        worker.ask({"do": "check", "rows": rows, "path": str(target)}, timeout_s)
        leg.check_rows, leg.tolerance = rows, self.case.tolerance
        difference = largest_difference(np.load(target), self.reference)
        leg.max_difference = difference if np.isfinite(difference) else None
        if not difference <= leg.tolerance:
            raise LegStopped(
                "failed",
                f"its results for the first {rows} rows differ from the reference by "
                f"{difference:.3g}, more than {leg.tolerance:.3g}",
            )

    def _plan(self, leg: Leg, worker: WorkerProcess) -> _Running:
        """Choose the rows of a repetition so that warm-up and all runs fit the time limit.

        The last trial of the worker's plan was itself a warm-up where it had the rows chosen.
        """
        settings = self.settings
        repetitions = settings.warmup + settings.runs
        planned = worker.ask(
            {
                "do": "plan",
                "rows": leg.n_samples,
                "budget_s": settings.time_limit / repetitions,
            },
            max(2 * settings.time_limit, 10.0),
        )
        rows = int(planned["rows"])
        wall_s = float(planned["seconds"])
        if wall_s > settings.time_limit:
            raise LegStopped(
                "timed out",
                f"{rows} row took {wall_s:.3g} s, the limit of a leg is {settings.time_limit:g} s",
            )
        # Even one row may be too long for all repetitions: then there are fewer of them.
        fitting = int(settings.time_limit / wall_s) if wall_s > 0 else repetitions
        return _Running(
            leg=leg,
            worker=worker,
            rows=rows,
            warmup=max(0, settings.warmup - int(planned["warm"])) if fitting > 1 else 0,
            runs=max(1, min(settings.runs, fitting)),
            repeat_timeout_s=30 + 10 * wall_s,
        )

    def _repeat(self, running: list[_Running]) -> None:
        """Go round the legs, in turned order every other time; warm-up first."""
        rounds = self.settings.warmup + max((item.runs for item in running), default=0)
        for index in range(rounds):
            timed = index >= self.settings.warmup
            for item in running if index % 2 == 0 else running[::-1]:
                if not item.leg.ok or (timed and len(item.leg.encoding_ms) >= item.runs):
                    continue
                if not timed and index >= item.warmup:
                    continue
                word = f"run {len(item.leg.encoding_ms) + 1}" if timed else "warm-up"
                self.progress(f"{item.leg.contender}: {word}")
                try:
                    sample = item.worker.ask(
                        {"do": "repeat", "rows": item.rows}, item.repeat_timeout_s
                    )
                except LegStopped as stopped:
                    item.leg.status, item.leg.reason = stopped.status, stopped.reason
                    continue
                if timed:
                    item.leg.encoding_ms.append(float(sample["encoding_ms"]))
                    item.leg.circuit_ms.append(float(sample["circuit_ms"]))
                    item.leg.metering.append(sample["metering"])
                    item.leg.calls.append(int(sample["calls"]))
                    item.leg.rows_measured = item.rows

    def _finish(self, item: _Running) -> None:
        """Fetch the timed result and the peak memory."""
        if not item.leg.ok:
            return
        target = self.folder / f"{item.leg.contender}-timed.npy"
        try:
            rows = self.case.saved_rows(item.rows, len(self.reference))
            item.worker.ask({"do": "save", "rows": rows, "path": str(target)}, 60)
            item.leg.peak_memory_bytes = item.worker.ask({"do": "finish"}, 60)["peak_memory_bytes"]
        except LegStopped as stopped:
            item.leg.status, item.leg.reason = stopped.status, stopped.reason
            return
        item.leg.result = np.load(target)


def largest_difference(first: Array, second: Array) -> float:
    """Return max |first - second|; infinity where shapes differ or a number is not finite."""
    if first.shape != second.shape:
        return float("inf")
    difference = float(np.max(np.abs(first - second), initial=0.0))
    return difference if np.isfinite(difference) else float("inf")


def _compare_timed(case: Case, legs: list[Leg]) -> None:
    """Fail legs whose timed results differ from another leg's.

    The reference backend is too slow for all rows. Two legs that differ cannot tell which of them
    is wrong, so both fail, unless more legs agree with one of them than with the other.
    """
    while True:
        against = _disagreements(case, legs)
        most = max((len(found) for found in against.values()), default=0)
        if most == 0:
            return
        for leg in legs:
            found = against.get(leg.contender, [])
            if len(found) == most:
                name, difference = found[0]
                leg.status = "failed"
                leg.reason = (
                    f"its timed results differ from those of {name} by {difference:.3g}, "
                    f"more than {2 * case.tolerance:.3g}"
                )


def _disagreements(case: Case, legs: Sequence[Leg]) -> dict[str, list[tuple[str, float]]]:
    """Return for every timed leg which others it differs from, and by how much."""
    timed = [(leg, leg.result) for leg in legs if leg.ok and leg.result is not None]
    against: dict[str, list[tuple[str, float]]] = {leg.contender: [] for leg, _ in timed}
    for leg, result in timed:
        for other, others in timed:
            rows = min(len(result), len(others))
            difference = largest_difference(result[:rows], others[:rows])
            if difference > 2 * case.tolerance:
                against[leg.contender].append((other.contender, difference))
    return against
