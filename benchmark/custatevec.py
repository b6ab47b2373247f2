# SPDX-License-Identifier: Apache-2.0
"""What it costs to hand states in a GPU's memory to a simulator there: roadmap issue 3.

On a machine with an NVIDIA GPU and torch; a path whose library is missing, or does not take such
tensors, is unsupported, one that brings other states has failed. Every path is checked before it is
timed, the device synchronised before and after. Writes one JSON line a path with raw times or the
reason; ``--write`` puts the tables of the newest records, and those of the engines
from benchmark/gpu_rates.py, into benchmark/docs/custatevec.md, ``--check`` compares.

    python -m benchmark.custatevec --output-dir benchmark/results
    python -m benchmark.custatevec --write
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.batched_execution import in_turns, us
from benchmark.core import environment, records
from benchmark.core.command_line import EXIT_OK, EXIT_USAGE, EXIT_WRONG, positive_integer
from benchmark.core.contenders.gpu import torch_problem
from benchmark.core.document import replaced
from benchmark.core.records import Leg, newest_whole, read_lines

RESULTS = Path(__file__).resolve().parent / "results"
DOCUMENT = Path(__file__).resolve().parent / "docs" / "custatevec.md"
BEGIN = "<!-- tables: begin, written by benchmark.custatevec -->"
END = "<!-- tables: end -->"
NOT_YET = "not yet measured"
DISTRIBUTIONS = ("qdp", "torch", "custatevec-cu13", "pennylane-lightning-gpu", "numpy")
QUBITS = (12, 16)
BYTES = 2**28

Record = dict[str, Any]
Call = Callable[[], Any]

# Path: what it is, and the copies of each state.
PATHS = {
    "to-host": ("all states to the host, `tensor.cpu()`", "device to host"),
    "prepare": ("what `StatePrep` does with each state then", "host to device"),
    "update": ("Lightning's `updateData` on each state's CUDA tensor", "device to device"),
    "copy": ("a copy of all states, `tensor.clone()`", "device to device"),
    "in-place": ("cuStateVec on the tensor's own memory: X on one qubit of all states", "none"),
}
LIGHTNING = ("prepare", "update")
# Contender of benchmark/gpu_rates.py, by method.
ENGINES = {
    "QDP, `cuda`, features fused": ("qdp-cuda-fused", "qdp-cuda-fused"),
    "QDP, `cuda`": ("qdp-cuda", "qdp-cuda"),
    "cuStateVec by hand, gates fused": ("custatevec", "custatevec"),
    "QDP, `custatevec`": ("qdp-custatevec", "qdp-custatevec"),
    "`lightning.gpu`": ("lightning-gpu-adjoint", "lightning-gpu-shift"),
}
METHODS = ("adjoint", "parameter-shift")


class WrongStates(Exception):
    """A path brought other states than it was given."""


class Paths:
    """The ways from a tensor of states, (rows, 2**n) complex128, into a simulator.

    ``flip`` applies X to the last qubit of all states in a tensor, in place; ``lightning`` is a
    state vector of Lightning's for n qubits. Where one is missing it is the reason, a text.
    """

    def __init__(
        self,
        states: Any,
        flip: Callable[[Any], None] | str,
        lightning: Any,
        synchronize: Callable[[], None],
    ) -> None:
        self.states, self.flip, self.lightning = states, flip, lightning
        self.synchronize = synchronize
        self.on_host = np.array(states.cpu().numpy())

    def checked(self) -> tuple[dict[str, Call], dict[str, tuple[str, str]]]:
        """Return the paths that work, each waiting for the device, and status and reason of others.

        What changes the states comes last.
        """
        found: dict[str, Call] = {}
        others: dict[str, tuple[str, str]] = {}
        ways: dict[str, tuple[Call, Callable[[], None], Any]] = {
            "to-host": (self.states.cpu, self._check_to_host, ""),
            "copy": (self.states.clone, self._check_copy, ""),
            "prepare": (self.prepare, partial(self._check_last, self.prepare), self.lightning),
            "update": (self.update, partial(self._check_last, self.update), self.lightning),
            "in-place": (self.flip_states, self._check_in_place, self.flip),
        }
        for name, (call, check, needed) in ways.items():
            if isinstance(needed, str) and needed:
                others[name] = ("unsupported", needed)
                continue
            try:
                check()
                found[name] = partial(self._waited, call)
            except WrongStates as error:
                others[name] = ("failed", str(error))
            except (TypeError, RuntimeError) as error:
                # The library refuses the tensor, or the call.
                others[name] = ("unsupported", str(error))
        return found, others

    def prepare(self) -> None:
        """Copy each state from the host into Lightning's, as ``_apply_state_vector`` does."""
        for row in self.on_host:
            self.lightning.HostToDevice(row, False)

    def update(self) -> None:
        """Give each state's tensor to Lightning's."""
        for row in self.states:
            self.lightning.updateData(row)

    def flip_states(self) -> None:
        """Apply X to the last qubit of all states, in place."""
        assert not isinstance(self.flip, str)
        self.flip(self.states)

    def _check_to_host(self) -> None:
        self._require(self.states.cpu(), self.on_host)

    def _check_copy(self) -> None:
        self._require(self.states.clone(), self.on_host)

    def _check_last(self, call: Call) -> None:
        last = np.zeros_like(self.on_host[-1])
        self.lightning.resetStateVector(False)
        call()
        self.lightning.DeviceToHost(last, False)
        if not np.array_equal(last, self.on_host[-1]):
            raise WrongStates("expected the same states behind it, got others")

    def _check_in_place(self) -> None:
        self.flip_states()
        flipped = self.on_host.reshape(len(self.on_host), -1, 2)[:, :, ::-1]
        self._require(self.states, flipped.reshape(self.on_host.shape))
        self.flip_states()

    def _require(self, found: Any, expected: Any) -> None:
        if not np.array_equal(found.cpu().numpy(), expected):
            raise WrongStates("expected the same states behind it, got others")

    def _waited(self, call: Call) -> None:
        call()
        self.synchronize()


class Flip:
    """X on the last qubit of all states of a tensor, by cuStateVec on the tensor's own memory.

    ``functions`` are the library's, ``stream`` the one that the tensors are used on.
    """

    def __init__(self, functions: Any, stream: int, device: str = "cuda") -> None:
        import torch

        from qdp.backends.custatevec_library import CuStateVec

        self.library = CuStateVec(functions)
        self.library.set_stream(stream)
        self.matrix = torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128, device=device)
        self.scratch = torch.empty(0, dtype=torch.uint8, device=device)

    def __call__(self, states: Any) -> None:
        """Queue the call."""
        from qdp.backends.custatevec_library import Matrices, States

        rows, size = states.shape
        given = States(states.data_ptr(), rows, size.bit_length() - 1, size, "double")
        self.library.apply_matrix(given, Matrices(self.matrix.data_ptr()), [0], self._workspace)

    def _workspace(self, n_bytes: int) -> int:
        if n_bytes > len(self.scratch):
            self.scratch = self.scratch.new_empty(n_bytes)
        return int(self.scratch.data_ptr()) if n_bytes else 0


def cuda_paths(n_qubits: int, rows: int) -> Paths:
    """Return the paths on the GPU, as far as their libraries are there."""
    import torch

    from qdp.backends.custatevec_library import load_library

    random = torch.randn((rows, 2**n_qubits), dtype=torch.complex128, device="cuda")
    states = random / torch.linalg.vector_norm(random, dim=1, keepdim=True)
    flip: Flip | str
    try:
        flip = Flip(load_library(), torch.cuda.current_stream().cuda_stream)
    # Missing or too old, or it refuses the GPU.
    except RuntimeError as error:
        flip = str(error)
    try:
        from pennylane_lightning import lightning_gpu_ops

        lightning = lightning_gpu_ops.StateVectorC128(n_qubits)
    except (ImportError, RuntimeError) as error:
        lightning = str(error)
    return Paths(states, flip, lightning, torch.cuda.synchronize)


def measure(
    qubits: Sequence[int], runs: int, make: Callable[[int, int], Paths] = cuda_paths
) -> Iterator[Record]:
    """Yield a line for each path and number of qubits."""
    for n_qubits in qubits:
        rows = max(1, BYTES // (16 << n_qubits))
        calls, others = make(n_qubits, rows).checked()
        timed = in_turns(calls, runs)
        for name in PATHS:
            line: Record = {"record": "path", "path": name, "n_qubits": n_qubits, "rows": rows}
            if name in timed:
                yield {**line, "status": "ok", "seconds": timed[name]}
            else:
                status, reason = others[name]
                yield {**line, "status": status, "reason": reason}


# Tables


def words(line: Mapping[str, Any]) -> str:
    """Return why a path was not timed."""
    return f"{line['status']}: {line['reason']}"


def source(path: Path) -> str:
    """Return where a table's figures come from."""
    run = read_lines(path)[0]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return (
        f"From [{path.name}](../results/{path.name}): {', '.join(run['gpus'])}, commit "
        f"{str(run['git']['commit'])[:10]}; {versions}."
    )


def path_rows(lines: Sequence[Mapping[str, Any]], qubits: Sequence[int]) -> list[list[str]]:
    """Return a row for each path: what it is, its copies, microseconds a state by qubits."""
    by_place = {(line["path"], line["n_qubits"]): line for line in lines if "path" in line}
    rows = []
    for name, (what, copies) in PATHS.items():
        cells = []
        for n_qubits in qubits:
            line = by_place.get((name, n_qubits))
            if line is None:
                cells.append(NOT_YET)
            else:
                is_timed = line["status"] == "ok"
                cells.append(us(line, line["rows"]) if is_timed else words(line))
        rows.append([what, copies, *cells])
    return rows


def engine_rows(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a row for each engine: microseconds a row of the roadmap's benchmark, by method."""
    legs = [Leg.from_json(line) for line in lines if line.get("record") == "leg"]
    rows = []
    for what, names in ENGINES.items():
        cells = []
        for method, name in zip(METHODS, names, strict=True):
            found = [
                leg
                for leg in legs
                if (leg.sweep, leg.contender, leg.case.get("method")) == ("roadmap", name, method)
            ]
            cells.append(engine_cell(found[0]) if found else NOT_YET)
        rows.append([what, *cells])
    return rows


def engine_cell(leg: Leg) -> str:
    """Return microseconds a row with their interval, or why there are none; * on fewer rows."""
    if not leg.ok:
        return f"{leg.status}: {leg.reason}"
    per_row = 1e3 / leg.n_samples
    median, low, high = (
        f"{value * per_row:.4g}" for value in (leg.total.median, leg.total.low, leg.total.high)
    )
    return f"{median} ({low} to {high})" + "*" * leg.extrapolated


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table's lines."""
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def tables(handover: Path | None, rates: Path | None) -> str:
    """Return the document's tables from two records, either of which may be missing."""
    text = ["**Handing states over, microseconds a state, median and 95 % interval**", ""]
    lines = [] if handover is None else read_lines(handover)
    qubits = sorted({line["n_qubits"] for line in lines if "path" in line}) or list(QUBITS)
    head = ["path", "copies", *(f"n = {n_qubits}" for n_qubits in qubits)]
    text += markdown(head, path_rows(lines, qubits))
    text += ["", source(handover) if handover else "No record has been taken on a GPU.", ""]
    text += ["**The roadmap's benchmark, microseconds a row, median and 95 % interval**", ""]
    text += markdown(["engine", *METHODS], engine_rows([] if rates is None else read_lines(rates)))
    text += ["", source(rates) if rates else "No record has been taken on a GPU."]
    return "\n".join(text)


def gpu_problem() -> str | None:
    """Return why nothing can be measured here, or None."""
    try:
        return torch_problem()
    except ImportError as error:
        return f"states are torch's tensors, and {error}"


def main(arguments: list[str] | None = None) -> int:
    """Measure and record, or write or check the document; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output-dir", type=Path, default=Path("results"))
    parser.add_argument("--runs", type=positive_integer, default=10)
    parser.add_argument("--n-qubits", type=positive_integer, nargs="+", default=list(QUBITS))
    parser.add_argument("--write", action="store_true", help="write the document's tables")
    parser.add_argument("--check", action="store_true", help="exit status 1 if they would change")
    options = parser.parse_args(arguments)
    if options.write or options.check:
        content = tables(newest_whole(RESULTS, "custatevec"), newest_whole(RESULTS, "gpu_rates"))
        document = DOCUMENT.read_text(encoding="utf-8")
        wanted = replaced(document, BEGIN, END, content)
        if options.check:
            return int(wanted != document)
        records.atomic_write(DOCUMENT, wanted.encode())
        return EXIT_OK
    problem = gpu_problem()
    if problem is not None:
        print(f"error: {problem}; nothing was measured", file=sys.stderr)
        return EXIT_USAGE
    started = datetime.now()
    lines: list[Record] = [
        {
            "record": "run",
            "started": started.isoformat(timespec="seconds"),
            "versions": environment.versions(DISTRIBUTIONS),
            **environment.describe(),
        }
    ]
    for line in measure(options.n_qubits, options.runs):
        lines.append(line)
        found = f"{us(line, line['rows'])} us" if line["status"] == "ok" else words(line)
        print(f"n = {line['n_qubits']:2d}  {line['path']:10s}{found}", flush=True)
    path = records.output_stem(options.output_dir, started, "custatevec").with_suffix(".jsonl")
    records.write_lines(path, lines)
    print(f"Saved: {path}")
    failed = [line for line in lines if line.get("status") == "failed"]
    # Lightning's paths are tried, QDP's own are promised.
    return EXIT_WRONG if any(line["path"] not in LIGHTNING for line in failed) else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
