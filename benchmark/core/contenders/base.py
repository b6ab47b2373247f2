# SPDX-License-Identifier: Apache-2.0
"""What every contender offers, and the tools to spread rows over cores that several share.

A contender turns raw features into what its kind of case asks for: the matrix of per-row gradients,
or states. It gets the rows once, builds and compiles in ``prepare``, and ``run(rows)`` is one timed
repetition over the first rows.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.core.cases import GradientCase, amplitudes
from benchmark.core.device import WALL_CLOCK, Clock
from benchmark.core.environment import thread_environment

Features = NDArray[np.float64]
Gradients = NDArray[np.float64]
Task = Callable[[int, int], Gradients]
MakeTask = Callable[[GradientCase, NDArray[Any]], Task]


class Unsupported(Exception):
    """The contender cannot do this case; the message says why."""


@dataclass(frozen=True)
class Repeat:
    """One repetition: its result and where the time went, in milliseconds.

    The result is gradients, (rows, P) float64, or encoded states, (rows, 2**n) complex.
    """

    result: NDArray[Any]
    encoding_ms: float
    circuit_ms: float

    @property
    def total_ms(self) -> float:
        """Encoding and circuits together."""
        return self.encoding_ms + self.circuit_ms


class Contender(ABC):
    """One way of doing the case's work.

    ``rule`` is how gradients are taken: "parameter-shift", "adjoint" (any reverse-mode derivative),
    or "case" for a contender that does whichever the case asks for. ``distributions`` are the
    packages whose versions a record names, ``extra`` the extra that installs them, if there is one.
    ``clock`` tells the time where the work is done.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    rule: ClassVar[str] = "case"
    precisions: ClassVar[tuple[str, ...]] = ("double", "single")
    distributions: ClassVar[tuple[str, ...]] = ("numpy",)
    extra: ClassVar[str] = "benchmark"
    encoding_note: ClassVar[str] = "encode once"
    clock: Clock = WALL_CLOCK

    def __init__(self, case: Any, features: Features) -> None:
        self.case = case
        self.features = np.ascontiguousarray(features, dtype=np.float64)

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        """Return the variables to set before anything is imported."""
        return thread_environment(threads)

    @classmethod
    def unsupported(cls, case: Any) -> str | None:
        """Return why the case cannot be run, or None where it can."""
        if case.precision not in cls.precisions:
            return f"{cls.title} computes in {' and '.join(cls.precisions)} precision only"
        return None

    @classmethod
    def remedy(cls) -> str:
        """Return what to install where the import fails."""
        if cls.extra:
            return f"install the extra [{cls.extra}]"
        return f"install {cls.distributions[0]}"

    @classmethod
    def rule_for(cls, method: str) -> str:
        """Return the gradient rule that the contender uses when the case asks for ``method``."""
        return method if cls.rule == "case" else cls.rule

    @abstractmethod
    def prepare(self) -> None:
        """Import, build and compile: whatever a user pays once."""

    @abstractmethod
    def run(self, rows: int) -> Repeat:
        """Do the work for the first ``rows`` rows, once, and time it."""

    def details(self) -> dict[str, str]:
        """Return further facts for the record, e.g. the instruction set taken."""
        return {}

    def close(self) -> None:  # noqa: B027 (most contenders hold nothing)
        """Let go of helper processes and threads."""


def milliseconds(start: float, stop: float) -> float:
    """Return the time between two ``time.perf_counter`` readings in milliseconds."""
    return (stop - start) * 1e3


def even_groups(n_qubits: int, largest: int = 5) -> list[int]:
    """Split the qubits into neighbouring groups of nearly equal size.

    >>> even_groups(12), even_groups(10), even_groups(4)
    ([4, 4, 4], [5, 5], [4])
    """
    count = -(-n_qubits // largest)
    small, extra = divmod(n_qubits, count)
    return [small + (index < extra) for index in range(count)]


def chunk_bounds(rows: int, chunk: int) -> list[tuple[int, int]]:
    """Return (start, stop) of consecutive chunks.

    >>> chunk_bounds(5, 2)
    [(0, 2), (2, 4), (4, 5)]
    """
    return [(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]


def chunk_rows(state_size: int, amplitudes_per_chunk: int, rows: int, threads: int) -> int:
    """Return how many rows make a chunk of about that many amplitudes, every thread kept busy."""
    return max(1, min(amplitudes_per_chunk // state_size, -(-rows // threads)))


def shifted_angles(case: GradientCase) -> NDArray[np.float64]:
    """Return the 2P shifted parameter sets, shape (2P, P): above and below each angle in turn."""
    angles = np.repeat(np.array([case.parameters]), 2 * case.n_parameters, axis=0)
    for index in range(case.n_parameters):
        angles[2 * index, index] += np.pi / 2
        angles[2 * index + 1, index] -= np.pi / 2
    return angles


def shift_gradients(values: Any) -> Gradients:
    """Return (..., P) gradients from the (..., 2P) values at ``shifted_angles``.

    >>> shift_gradients([3.0, 1.0, 0.0, 4.0])
    array([ 1., -2.])
    """
    pairs = np.asarray(values, dtype=np.float64)
    return np.asarray((pairs[..., 0::2] - pairs[..., 1::2]) / 2)


class ThreadedChunks:
    """Runs a function over row chunks on a thread pool: for code that releases the GIL."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def map(self, task: Task, bounds: list[tuple[int, int]]) -> Gradients:
        """Return the tasks' gradients, one below the other."""
        if self._pool is None:
            return np.concatenate([task(start, stop) for start, stop in bounds])
        return np.concatenate(list(self._pool.map(lambda bound: task(*bound), bounds)))

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


class RowProcesses:
    """Runs a row-range task in processes of its own: for simulators that hold the GIL.

    ``make_task(case, states)`` is a module's function, called once in every process; the task
    that it returns turns rows start..stop of the states into gradients. ``states``, (rows, 2**n),
    and the gradients lie in mapped files that all processes share. The processes are started
    afresh, not forked: a fork hangs once OpenMP has run. With one thread everything happens here.
    """

    def __init__(self, make_task: MakeTask, case: GradientCase, rows: int, dtype: Any) -> None:
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self._task: Task | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        shape = (rows, case.state_size)
        if case.threads == 1 or rows < 2:
            self.states: NDArray[Any] = np.zeros(shape, dtype=dtype)
            self._task = make_task(case, self.states)
            return
        self._folder = tempfile.TemporaryDirectory(prefix="qdp-benchmark-")
        states = Path(self._folder.name) / "states"
        gradients = Path(self._folder.name) / "gradients"
        self.states = np.memmap(states, dtype=dtype, mode="w+", shape=shape)
        self._gradients = np.memmap(
            gradients, dtype=np.float64, mode="w+", shape=(rows, case.n_parameters)
        )
        context = multiprocessing.get_context("spawn")
        for _ in range(case.threads):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve_rows,
                args=(make_task, case, states, gradients, rows, np.dtype(dtype).str, there),
                daemon=True,
            )
            process.start()
            there.close()
            self._connections.append(here)
            self._processes.append(process)
        for connection in self._connections:
            self._answer(connection)

    @staticmethod
    def _answer(connection: Connection) -> None:
        try:
            problem = connection.recv()
        except EOFError:
            problem = "it ended without an answer"
        if problem is not None:
            raise RuntimeError(f"a process that computes rows failed: {problem}")

    def run(self, rows: int) -> Gradients:
        """Return the gradients of the first ``rows`` rows."""
        if self._task is not None:
            return self._task(0, rows)
        share = -(-rows // len(self._connections))
        busy = list(zip(self._connections, chunk_bounds(rows, share), strict=False))
        for connection, bounds in busy:
            connection.send(bounds)
        for connection, _ in busy:
            self._answer(connection)
        return np.array(self._gradients[:rows])

    def close(self) -> None:
        """End the processes, which stop at the closed pipe, and remove the files."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()
        self._connections, self._processes = [], []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _serve_rows(
    make_task: MakeTask,
    case: GradientCase,
    states_path: Path,
    gradients_path: Path,
    rows: int,
    dtype: str,
    channel: Connection,
) -> None:
    """Answer row ranges until the pipe closes; an answer is None or what went wrong."""
    states = np.memmap(states_path, dtype=dtype, mode="r", shape=(rows, case.state_size))
    shape = (rows, case.n_parameters)
    gradients = np.memmap(gradients_path, dtype=np.float64, mode="r+", shape=shape)
    try:
        # A plain array over the same memory: simulators' bindings want ndarray itself.
        task = make_task(case, np.asarray(states))
        channel.send(None)
        while True:
            start, stop = channel.recv()
            gradients[start:stop] = task(start, stop)
            channel.send(None)
    except EOFError:
        return
    except Exception:
        channel.send(traceback.format_exc())


class EncodedOnce(Contender):
    """A contender that normalises the rows itself, in NumPy, and then runs its circuits.

    ``self.states`` is the (rows, 2**n) array that ``encode`` fills.
    """

    def allocate_states(self, dtype: Any) -> None:
        """Make room for the encoded rows."""
        self.states: NDArray[Any] = np.zeros((len(self.features), self.case.state_size), dtype)

    def encode(self, rows: int) -> None:
        """Encode the first rows into ``self.states``."""
        amplitudes(self.features[:rows], self.case.n_qubits, out=self.states[:rows])

    @abstractmethod
    def circuits(self, rows: int) -> Any:
        """Return the gradients of the first encoded rows, where they were computed."""

    def run(self, rows: int) -> Repeat:
        """Encode, then run the circuits."""
        start = self.clock.mark()
        self.encode(rows)
        encoded = self.clock.mark()
        gradients = self.circuits(rows)
        stop = self.clock.mark()
        return Repeat(
            self.on_host(gradients),
            self.clock.milliseconds(start, encoded),
            self.clock.milliseconds(encoded, stop),
        )

    def on_host(self, gradients: Any) -> Gradients:
        """Return what ``circuits`` returned as a NumPy array; not timed."""
        return np.asarray(gradients, dtype=np.float64)


class EncodedOnceInChunks(EncodedOnce):
    """Rows encoded here, circuits over chunks of them that fit the cache, one after the other."""

    amplitudes_per_chunk: ClassVar[int] = 2**16

    def __init__(self, case: GradientCase, features: Features) -> None:
        super().__init__(case, features)
        self.size = chunk_rows(case.state_size, self.amplitudes_per_chunk, len(features), 1)

    @abstractmethod
    def chunk(self, states: NDArray[Any]) -> Gradients:
        """Return the gradients of some rows."""

    def circuits(self, rows: int) -> Gradients:
        """Differentiate chunk by chunk."""
        bounds = chunk_bounds(rows, self.size)
        return np.concatenate([self.chunk(self.states[start:stop]) for start, stop in bounds])


class EncodedOnceInProcesses(EncodedOnce):
    """Rows encoded here, circuits in a process a core; subclasses give ``make_task``."""

    make_task: ClassVar[MakeTask]
    states_dtype: ClassVar[Any] = None

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        """One thread a process: the rows are spread over processes."""
        return {**thread_environment(threads), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def prepare(self) -> None:
        """Start the processes and let them build; run one row in each."""
        dtype = self.states_dtype or self.case.complex_dtype
        make_task = type(self).make_task
        self.rows = RowProcesses(make_task, self.case, len(self.features), dtype)
        self.states = self.rows.states
        self.run(min(self.case.threads, len(self.features)))

    def circuits(self, rows: int) -> Gradients:
        """Differentiate row by row."""
        return self.rows.run(rows)

    def close(self) -> None:
        """End the processes."""
        self.rows.close()
