# SPDX-License-Identifier: Apache-2.0
"""What it costs to hand states in a GPU's memory to a simulator there: roadmap issue 3.

On a machine with an NVIDIA GPU, torch and cuStateVec; Lightning's paths need lightning.gpu. Every
path is checked before it is timed, the device synchronised before and after. Writes one JSON line
a path with raw times; ``--write`` puts the tables of the newest records, and those of the engines
from benchmark/gpu_rates.py, into benchmark/docs/custatevec.md, ``--check`` compares.

    python -m benchmark.custatevec --output-dir benchmark/results
    python -m benchmark.custatevec --write
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.batched_execution import in_turns, us
from benchmark.core import environment, records
from benchmark.core.command_line import EXIT_OK, EXIT_USAGE, positive_integer
from benchmark.core.records import Leg

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
# Contender of benchmark/gpu_rates.py, by method.
ENGINES = {
    "QDP, `cuda`, features fused": ("qdp-cuda-fused", "qdp-cuda-fused"),
    "QDP, `cuda`": ("qdp-cuda", "qdp-cuda"),
    "cuStateVec by hand, gates fused": ("custatevec", "custatevec"),
    "QDP, `custatevec`": ("qdp-custatevec", "qdp-custatevec"),
    "`lightning.gpu`": ("lightning-gpu-adjoint", "lightning-gpu-shift"),
}
METHODS = ("adjoint", "parameter-shift")


class Paths:
    """The ways from a tensor of states, (rows, 2**n) complex128, into a simulator.

    ``flip`` applies X to the last qubit of all states in a tensor, in place. ``lightning`` is a
    state vector of Lightning's for n qubits, None where there is none.
    """

    def __init__(
        self,
        states: Any,
        flip: Callable[[Any], None],
        lightning: Any,
        synchronize: Callable[[], None],
    ) -> None:
        self.states, self.flip, self.lightning = states, flip, lightning
        self.synchronize = synchronize
        self.on_host = np.array(states.cpu().numpy())

    def calls(self) -> dict[str, Call]:
        """Return the paths that there are, each waiting for the device, after checking them."""
        found = {
            "to-host": self.states.cpu,
            "copy": self.states.clone,
            "in-place": partial(self.flip, self.states),
        }
        self.require("to-host", self.states.cpu().numpy(), self.on_host)
        self.require("copy", self.states.clone().cpu().numpy(), self.on_host)
        self.flip(self.states)
        flipped = self.on_host.reshape(len(self.on_host), -1, 2)[:, :, ::-1]
        self.require("in-place", self.states.cpu().numpy(), flipped.reshape(self.on_host.shape))
        self.flip(self.states)
        if self.lightning is not None:
            found |= {"prepare": self.prepare, "update": self.update}
            for name in ("prepare", "update"):
                last = np.zeros_like(self.on_host[-1])
                self.lightning.resetStateVector(False)
                found[name]()
                self.lightning.DeviceToHost(last, False)
                self.require(name, last, self.on_host[-1])
        return {name: partial(self._waited, call) for name, call in found.items()}

    def prepare(self) -> None:
        """Copy each state from the host into Lightning's, as ``_apply_state_vector`` does."""
        for row in self.on_host:
            self.lightning.HostToDevice(row, False)

    def update(self) -> None:
        """Give each state's tensor to Lightning's."""
        for row in self.states:
            self.lightning.updateData(row)

    def require(self, name: str, found: Any, expected: Any) -> None:
        """Raise RuntimeError if a path brought other states."""
        if not np.array_equal(found, expected):
            raise RuntimeError(f"{name}: expected the same states behind it, got others")

    def _waited(self, call: Call) -> None:
        call()
        self.synchronize()


def cuda_paths(n_qubits: int, rows: int) -> tuple[Paths, str]:
    """Return the paths on the GPU, and why Lightning's are not among them (else empty)."""
    import torch

    from qdp.backends.custatevec_library import CuStateVec, Matrices, States, load_library

    library = CuStateVec(load_library())
    library.set_stream(torch.cuda.current_stream().cuda_stream)
    matrix = torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128, device="cuda")

    def scratch(n_bytes: int) -> int:
        assert n_bytes == 0, "a matrix on one bit needs no workspace"
        return 0

    def flip(states: Any) -> None:
        given = States(states.data_ptr(), len(states), n_qubits, states.shape[1], "double")
        library.apply_matrix(given, Matrices(matrix.data_ptr()), [0], scratch)

    random = torch.randn((rows, 2**n_qubits), dtype=torch.complex128, device="cuda")
    states = random / torch.linalg.vector_norm(random, dim=1, keepdim=True)
    lightning, reason = None, ""
    try:
        from pennylane_lightning import lightning_gpu_ops

        lightning = lightning_gpu_ops.StateVectorC128(n_qubits)
    except (ImportError, RuntimeError) as error:
        reason = str(error)
    return Paths(states, flip, lightning, torch.cuda.synchronize), reason


def measure(
    qubits: Sequence[int], runs: int, make: Callable[[int, int], tuple[Paths, str]] = cuda_paths
) -> Iterator[Record]:
    """Yield a line for each path and number of qubits."""
    for n_qubits in qubits:
        rows = max(1, BYTES // (16 << n_qubits))
        paths, reason = make(n_qubits, rows)
        timed = in_turns(paths.calls(), runs)
        for name in PATHS:
            line: Record = {"record": "path", "path": name, "n_qubits": n_qubits, "rows": rows}
            if name in timed:
                yield {**line, "status": "ok", "seconds": timed[name]}
            else:
                yield {**line, "status": "unsupported", "reason": reason}


# Tables


def lines_of(path: Path) -> list[Record]:
    """Return a record's lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def newest(pattern: str, folder: Path) -> Path | None:
    """Return the newest whole-sized record of that name, None where none has been taken."""
    taken = sorted(folder.glob(pattern), reverse=True)
    return next((path for path in taken if not lines_of(path)[0].get("quick")), None)


def source(path: Path) -> str:
    """Return where a table's figures come from."""
    run = lines_of(path)[0]
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
                cells.append(
                    us(line, line["rows"]) if is_timed else f"unsupported: {line['reason']}"
                )
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
    lines = [] if handover is None else lines_of(handover)
    qubits = sorted({line["n_qubits"] for line in lines if "path" in line}) or list(QUBITS)
    head = ["path", "copies", *(f"n = {n_qubits}" for n_qubits in qubits)]
    text += markdown(head, path_rows(lines, qubits))
    text += ["", source(handover) if handover else "No record has been taken on a GPU.", ""]
    text += ["**The roadmap's benchmark, microseconds a row, median and 95 % interval**", ""]
    text += markdown(["engine", *METHODS], engine_rows([] if rates is None else lines_of(rates)))
    text += ["", source(rates) if rates else "No record has been taken on a GPU."]
    return "\n".join(text)


def with_tables(document: str, content: str) -> str:
    """Return the document with what stands between the markers replaced."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{after}"


def gpu_problem() -> str | None:
    """Return why nothing can be measured here, or None."""
    import torch

    import qdp
    from qdp.backends.custatevec_library import load_library

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device"
    try:
        load_library()
    except qdp.BackendUnavailable as error:
        return str(error)
    return None


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
        content = tables(
            newest("custatevec_*.jsonl", RESULTS), newest("gpu_rates_*.jsonl", RESULTS)
        )
        document = DOCUMENT.read_text(encoding="utf-8")
        wanted = with_tables(document, content)
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
        found = f"{us(line, line['rows'])} us" if line["status"] == "ok" else line["reason"]
        print(f"n = {line['n_qubits']:2d}  {line['path']:10s}{found}", flush=True)
    path = records.output_stem(options.output_dir, started, "custatevec").with_suffix(".jsonl")
    records.atomic_write(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
    print(f"Saved: {path}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
