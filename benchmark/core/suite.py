# SPDX-License-Identifier: Apache-2.0
"""The whole suite as data: which scripts run, with which arguments, one after the other.

The full suite follows the roadmap's protocol (3 warm-ups, 10 runs; 500 to 10,000 samples) and takes
three quarters of an hour on two cores, the quick one three minutes. A time limit on each leg keeps
slow rivals from stalling it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.core.command_line import EXIT_INTERRUPTED
from benchmark.core.environment import REPOSITORY
from benchmark.core.records import atomic_write

GRADIENT = "benchmark/benchmark_gradient.py"
SCALING = "benchmark/benchmark_scaling.py"
TRAINING = "benchmark/benchmark_qdp_pennylane.py"


@dataclass(frozen=True)
class Step:
    """One run of one script; a name of a module instead of a path is run with -m."""

    name: str
    script: str
    arguments: str

    def command(self, output: Path) -> list[str]:
        """Return the command line that puts its records into a folder."""
        start = [self.script] if self.script.endswith(".py") else ["-m", self.script]
        return [sys.executable, *start, *self.arguments.split(), "--output-dir", str(output)]

    @property
    def note(self) -> str:
        """What is written down of a step done: with its arguments, for both suites share names."""
        return f"{self.name}: {self.script} {self.arguments}".rstrip()


_PROTOCOL = "--warmup 3 --runs 10"
_SMALL_RIVALS = "numpy numpy-kron jax jax-kron tensorcircuit torch lightning-cpp mindquantum"
_LARGE_RIVALS = "numpy-kron jax jax-kron lightning-cpp mindquantum"

FULL: tuple[Step, ...] = (
    Step(
        "gradient-12-adjoint",
        GRADIENT,
        f"--dataset mnist --method adjoint --observable sum-z --n-samples 1000 {_PROTOCOL} "
        "--time-limit 7 --contenders qdp-fused rivals lightning-adjoint",
    ),
    Step(
        "gradient-12-shift",
        GRADIENT,
        f"--dataset mnist --observable sum-z --n-samples 1000 {_PROTOCOL} --time-limit 10 "
        "--contenders qdp-fused scaluq qulacs mindquantum lightning-shift pennylane-broadcast "
        "qiskit-aer qiskit",
    ),
    Step(
        "gradient-roadmap",
        GRADIENT,
        f"--dataset mnist --n-samples 100 500 1000 2000 {_PROTOCOL} --time-limit 10 "
        "--contenders qdp-fused pennylane pennylane-stateprep lightning-shift",
    ),
    Step(
        "gradient-12-pruned",
        GRADIENT,
        f"--dataset mnist --method adjoint --n-samples 1000 {_PROTOCOL} --time-limit 6 "
        "--contenders qdp-fused qdp-pruned lightning-cpp jax",
    ),
    *(
        Step(
            f"gradient-{n_qubits}-adjoint",
            GRADIENT,
            f"--dataset mnist --method adjoint --observable sum-z --n-qubits {n_qubits} "
            f"--n-samples {rows} {_PROTOCOL} --time-limit 6 --contenders qdp-fused {rivals}",
        )
        for n_qubits, rows, rivals in (
            (4, 10_000, _SMALL_RIVALS),
            (8, 10_000, _SMALL_RIVALS),
            (10, 10_000, _SMALL_RIVALS),
            (14, 200, _LARGE_RIVALS),
            (16, 100, _LARGE_RIVALS),
        )
    ),
    Step(
        "scaling-samples",
        SCALING,
        f"--dataset mnist --sweeps samples --samples 500 1000 2000 5000 10000 {_PROTOCOL} "
        "--encodings amplitude angle iqp-embedding --time-limit 2",
    ),
    Step(
        "scaling-rest",
        SCALING,
        f"--dataset mnist --sweeps qubits batch layers threads --qubits 4 6 8 10 12 14 "
        f"--batch-sizes 1 8 64 512 {_PROTOCOL} --time-limit 1.5",
    ),
    Step(
        "scaling-synthetic",
        SCALING,
        f"--sweeps samples --samples 1000 10000 {_PROTOCOL} --time-limit 3",
    ),
    Step(
        "training-two-classes",
        TRAINING,
        "--dataset mnist --dataset-samples 5000 --n-qubits 10 --epochs 10 --seeds 1 2 3 --runs 1 "
        "--encodings amplitude angle iqp-embedding --time-limit 8",
    ),
    Step(
        "training-ten-classes",
        TRAINING,
        "--dataset mnist --dataset-samples 2500 --n-qubits 10 --epochs 10 --runs 5 "
        "--classes all --time-limit 20",
    ),
    Step("engine-rates", "benchmark.engine_rates", ""),
    Step("encoding-rates", "benchmark.encoding_rates", "--stream-gib 20"),
    Step("batched-execution", "benchmark.batched_execution", ""),
    Step("cost-model", "benchmark.cost_model", ""),
    Step("plan-choice", "benchmark.plan_choice", ""),
)

QUICK: tuple[Step, ...] = (
    Step(
        "gradient-roadmap",
        GRADIENT,
        "--dataset digits --n-qubits 6 --n-samples 100 500 --verify --time-limit 3 --min-speedup 5",
    ),
    Step(
        "gradient-adjoint",
        GRADIENT,
        "--dataset digits --n-qubits 6 --method adjoint --observable sum-z --n-samples 1000 "
        "--contenders qdp-fused numpy-kron lightning-cpp torch --time-limit 3",
    ),
    Step("training", TRAINING, "--dataset-samples 600 --n-qubits 4 --epochs 3 --time-limit 3"),
    Step(
        "scaling",
        SCALING,
        "--dataset digits --n-qubits 6 --samples 100 1000 --qubits 4 6 --time-limit 1 "
        "--contenders pennylane numpy lightning-cpp",
    ),
)


def run(
    steps: Sequence[Step],
    *,
    output: Path,
    only: Sequence[str] | None = None,
    resume: bool = False,
    listing: bool = False,
) -> int:
    """Run the steps one after the other; return 0, or 1 where one failed, 130 on Ctrl-C.

    ``output`` gets the records, a note of each step done, by which ``resume`` knows it, and one of
    the records of a step interrupted, with which ``resume`` lets its script go on.
    """
    names = [step.name for step in steps]
    for name in only or ():
        if name not in names:
            raise ValueError(f"expected steps among {', '.join(names)}, got {name!r}")
    chosen = [step for step in steps if not only or step.name in only]
    if listing:
        for step in chosen:
            print(f"{step.name}: {' '.join(step.command(output)[1:])}")
        return 0
    given, output = output, output.resolve()  # the steps run in the repository's folder
    output.mkdir(parents=True, exist_ok=True)
    notes, begun = output / ".steps-done", output / ".step-begun"
    done = notes.read_text(encoding="utf-8").splitlines() if resume and notes.exists() else []
    failed = []
    for number, step in enumerate(chosen, start=1):
        print(f"\n=== [{number}/{len(chosen)}] {step.name}", flush=True)
        if step.note in done:
            print("done before")
            continue
        command = step.command(output)
        if resume:
            command += _continuation(step, begun, output)
        before = set(output.glob("*.jsonl"))
        start = time.monotonic()
        status = _run_to_its_end(command)
        if status == EXIT_INTERRUPTED:
            new = sorted(set(output.glob("*.jsonl")) - before)
            if new:
                atomic_write(begun, f"{step.note}\n{new[-1].name}\n".encode())
            print("\ninterrupted; --resume goes on with this step", file=sys.stderr)
            return EXIT_INTERRUPTED
        begun.unlink(missing_ok=True)
        print(f"=== {step.name}: {time.monotonic() - start:.0f} s", flush=True)
        if status != 0:
            failed.append(f"{step.name} (exit status {status})")
            continue
        done.append(step.note)
        atomic_write(notes, "".join(f"{note}\n" for note in done).encode())
    if failed:
        print(f"error: {', '.join(failed)}", file=sys.stderr)
        return 1
    print(f"\nAll done. The report: python -m benchmark report --records {given}")
    return 0


def _run_to_its_end(command: Sequence[str]) -> int:
    """Run a command and return its status. Ctrl-C reaches it too, and it gets the time to save."""
    interrupted = False
    with subprocess.Popen(command, cwd=REPOSITORY) as process:
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:
                if interrupted:
                    process.kill()
                interrupted = True
    return EXIT_INTERRUPTED if interrupted else status


def _continuation(step: Step, begun: Path, output: Path) -> list[str]:
    """Return the arguments by which a step goes on with its own interrupted records, if any."""
    if not begun.exists():
        return []
    note, name = begun.read_text(encoding="utf-8").splitlines()
    goes_on = note == step.note and step.script in (GRADIENT, SCALING, TRAINING)
    return ["--resume", str(output / name)] if goes_on else []
