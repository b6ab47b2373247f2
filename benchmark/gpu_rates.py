# SPDX-License-Identifier: Apache-2.0
"""How fast a GPU is with QDP, and with its rivals: encoding, gradients, copies, kernel by kernel.

On a machine with an NVIDIA GPU. Every contender runs in a fresh process and is checked against the
reference backend before it is timed, by CUDA events, as in benchmark_gradient.py; a rival too slow
for all rows runs on the first ones, whose number the record has. Parts:

  machine    what the GPU can do: copies, the link from pinned memory, multiply-adds, shared memory
  encoding   amplitude (n = 12, 16), angle and IQP, rows and states in device memory; the time of
             a call for one row beside it, which is the call's own
  gradients  adjoint gradients of W(12, 2) for the sum of Z, in double and in single precision, rows
             in device memory, and with rows in pinned host memory
  roadmap    the roadmap's benchmark: 12 qubits, 2 layers, 48 parameters, <Z0>, 1,000 rows, by the
             adjoint method and by the parameter-shift rule
  kernels    time, arithmetic, traffic and floor of each kernel of some calls

Writes JSON lines with raw times: ``record`` is run, machine, leg (as benchmark.core.records writes
them) or kernel. The file is whole after each part, also when the run is interrupted.

    python -m benchmark.gpu_rates --output-dir benchmark/results
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.core import device_rates, environment, kernel_work, records, runner
from benchmark.core.cases import Case, EncodingCase, GradientCase
from benchmark.core.command_line import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    EXIT_WRONG,
    Progress,
    count,
    positive_integer,
    positive_number,
)
from benchmark.core.contenders import OWN
from benchmark.core.contenders.gpu import TIMED_REGION
from benchmark.core.device import (
    Clock,
    CudaEvents,
    DeviceClock,
    device_facts,
    device_problem,
    free_memory,
    visible_gpu,
)

Record = dict[str, Any]

PARTS = ("machine", "encoding", "gradients", "roadmap", "kernels")
SEED = 42
LIBRARIES = ("qdp", "numpy", "torch", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc")

ENCODERS = ("qdp-cuda", "torch-cuda", "torch-products-cuda", "qumat-qdp")
BATCHED = ("torch-cuda", "jax-gpu", "jax-kron-gpu", "custatevec", "qdp-custatevec")
GRADIENTS = ("qdp-cuda-fused", "qdp-cuda", "qdp-cuda-host", *BATCHED, "lightning-gpu-adjoint")
ROADMAP = {
    "adjoint": ("qdp-cuda-fused", "qdp-cuda", *BATCHED, "lightning-gpu-adjoint"),
    "parameter-shift": (
        "qdp-cuda-fused",
        "qdp-cuda",
        "custatevec",
        "qdp-custatevec",
        "lightning-gpu-shift",
    ),
}


@dataclass(frozen=True)
class Sizes:
    """How much of everything one run measures; ``encodings`` are names and qubits.

    ``state_bytes`` are written by one call of an encoder: so many that a GPU takes milliseconds
    for them, beside which the call's own overhead is small. ``kernel_bytes`` are the states of a
    call whose kernels are timed one by one.
    """

    encodings: tuple[tuple[str, int], ...]
    state_bytes: int
    kernel_bytes: int
    n_qubits: int
    n_layers: int
    rows: int
    roadmap_rows: int
    kernel_qubits: tuple[int, ...]
    copy_bytes: int
    link_bytes: int
    rounds: int


FULL = Sizes(
    encodings=(("amplitude", 12), ("amplitude", 16), ("angle", 12), ("iqp-embedding", 12)),
    state_bytes=2**33,
    kernel_bytes=2**28,
    n_qubits=12,
    n_layers=2,
    rows=2**14,
    roadmap_rows=1000,
    kernel_qubits=(12, 16),
    copy_bytes=device_rates.COPY_BYTES,
    link_bytes=device_rates.LINK_BYTES,
    rounds=device_rates.ROUNDS,
)
QUICK = replace(
    FULL,
    encodings=(("amplitude", 5), ("angle", 5), ("iqp-embedding", 5)),
    state_bytes=2**20,
    kernel_bytes=2**18,
    n_qubits=5,
    rows=64,
    roadmap_rows=20,
    # The larger of them does not fit into the shared memory of a block.
    kernel_qubits=(5, 14),
    copy_bytes=2**20,
    link_bytes=2**20,
    rounds=16,
)


# States' bytes that an encoder may hold: its features, its states, and others while it works.
HELD = 3


def fitted(sizes: Sizes, free_bytes: int) -> Sizes:
    """Return the sizes with as many encoded states as all encoders together have memory for."""
    return replace(sizes, state_bytes=min(sizes.state_bytes, free_bytes // (HELD * len(ENCODERS))))


@dataclass(frozen=True)
class Point:
    """One case, its number of rows, and who runs it."""

    part: str
    case: Case
    rows: int
    contenders: Sequence[str]

    @property
    def title(self) -> str:
        """What the progress says."""
        what = getattr(self.case, "encoding", None) or getattr(self.case, "method", "")
        return f"{self.part}: {what}, n = {self.case.n_qubits}, {self.case.precision}"

    def features(self) -> Any:
        """Return the rows, standard normal."""
        size = self.case.state_size
        width = self.case.n_features if isinstance(self.case, EncodingCase) else size
        return np.random.default_rng(SEED).standard_normal((self.rows, width))


def gradient_case(sizes: Sizes, method: str, observable: str, precision: str) -> GradientCase:
    """Return the case of W(n, L), as every contender gets it."""
    n_parameters = 2 * sizes.n_qubits * sizes.n_layers
    parameters = np.random.default_rng(SEED).standard_normal(n_parameters)
    return GradientCase(
        sizes.n_qubits,
        sizes.n_layers,
        tuple(parameters.tolist()),
        observable,
        method,
        precision,
        "cuda",
        environment.usable_cpus(),
    )


def points(sizes: Sizes, parts: Sequence[str]) -> Iterator[Point]:
    """Yield what is timed with rivals."""
    threads = environment.usable_cpus()
    if "encoding" in parts:
        for encoding, n_qubits in sizes.encodings:
            case = EncodingCase(encoding, n_qubits, "double", "cuda", threads)
            rows = max(1, sizes.state_bytes // (16 << n_qubits))
            yield Point("encoding", case, rows, ENCODERS)
    if "gradients" in parts:
        for precision in ("double", "single"):
            gradient = gradient_case(sizes, "adjoint", "sum-z", precision)
            yield Point("gradients", gradient, sizes.rows, GRADIENTS)
    if "roadmap" in parts:
        for method, contenders in ROADMAP.items():
            gradient = gradient_case(sizes, method, "z0", "double")
            yield Point("roadmap", gradient, sizes.roadmap_rows, contenders)


def machine(sizes: Sizes, clock: Clock) -> Record:
    """Measure what the GPU can do; return the record."""
    facts = device_facts()
    timed = device_rates.time_copies(
        clock, copy_bytes=sizes.copy_bytes, link_bytes=sizes.link_bytes
    ) | device_rates.time_kernels(clock, facts, sizes.rounds)
    return {
        "record": "machine",
        "device": facts,
        "rates": {name: one.rate for name, one in timed.items()},
        "amounts": {name: one.amount for name, one in timed.items()},
        "seconds": {name: one.seconds for name, one in timed.items()},
    }


@dataclass(frozen=True)
class Profile:
    """One call whose kernels are timed: adjoint gradients, or the states of amplitude encoding."""

    what: str
    n_qubits: int
    precision: str
    rows: int

    def program(self, n_layers: int) -> Any:
        """Return the circuit and the observables, none where states are asked for."""
        import qdp

        if self.what == "encoding":
            return qdp.Circuit(self.n_qubits), ()
        circuit = qdp.ansatz.ry_rz_ladder(self.n_qubits, n_layers)
        return circuit, (qdp.Observable.sum_z(self.n_qubits),)


def profiles(sizes: Sizes) -> Iterator[Profile]:
    """Yield the calls whose kernels are timed."""
    for n_qubits in sizes.kernel_qubits:
        rows = max(1, sizes.kernel_bytes // (16 << n_qubits))
        yield Profile("encoding", n_qubits, "double", rows)
        for precision in ("double", "single"):
            yield Profile("adjoint", n_qubits, precision, rows)


def measure_kernels(
    profile: Profile, n_layers: int, runs: int, rates: dict[str, float], device: Any
) -> list[Record]:
    """Time every kernel of a call by itself; return a record for each.

    ``device`` is a ``kernel_work.Profiled``. The call itself is checked before: its first rows
    agree with the reference backend.
    """
    import qdp
    from qdp.backends.cuda import CudaBackend
    from qdp.program import compile_program

    circuit, observables = profile.program(n_layers)
    random = np.random.default_rng(SEED)
    features = random.standard_normal((profile.rows, 2**profile.n_qubits))
    parameters = random.standard_normal(circuit.n_parameters)
    backend = CudaBackend(device)

    def call(rows: Any, engine: Any) -> Any:
        options = {"precision": profile.precision, "backend": engine}
        if profile.what == "encoding":
            return qdp.encode(rows, "amplitude", profile.n_qubits, **options)
        return qdp.gradient(
            circuit, parameters, rows, observables[0], encoding="amplitude", **options
        )

    few = features[:2]
    difference = runner.largest_difference(call(few, backend), call(few, "reference"))
    tolerance = (1e-9 if profile.precision == "double" else 1e-4) * profile.n_qubits
    if not difference <= tolerance:
        raise RuntimeError(
            f"{profile}: expected the reference's results to {tolerance:.3g}, got {difference} away"
        )
    call(features, backend)
    repeats = []
    for _ in range(runs):
        device.timed_launches.clear()
        call(features, backend)
        repeats.append(
            kernel_work.kernel_lines(
                device.timed_launches,
                kernel_work.Call(
                    compile_program(circuit, observables),
                    profile.precision,
                    features.shape[1],
                    gradient=profile.what == "adjoint",
                    states=profile.what == "encoding",
                ),
                profile.rows,
                rates,
            )
        )
    return [
        {
            "record": "kernel",
            "call": profile.what,
            "n_qubits": profile.n_qubits,
            "precision": profile.precision,
            "rows": profile.rows,
            **line,
            "seconds": [repeat[number]["total_s"] for repeat in repeats],
        }
        for number, line in enumerate(_with_medians(repeats))
    ]


def _with_medians(repeats: Sequence[Sequence[Record]]) -> list[Record]:
    """Return the first repeat's lines with the median time, and what follows from it."""
    found = []
    for lines in zip(*repeats, strict=True):
        median = float(np.median([line["total_s"] for line in lines]))
        line = {**lines[0], "total_s": median}
        if "floor_s" in line:
            line["time_over_floor"] = median / line["floor_s"]
        found.append(line)
    return found


def profiled_device(clock: Clock) -> Any:
    """Return the GPU as the backend takes it, each launch timed."""
    from qdp.backends.device import CudaDevice

    class Device(kernel_work.Profiled, CudaDevice):
        """The real device."""

    device = Device(0)
    device.clock, device.timed_launches = clock, []
    return device


def leg_words(leg: records.Leg) -> str:
    """Return the line to print of one leg."""
    if not leg.ok:
        return f"  {leg.contender:22s} {leg.status}: {leg.reason}"
    mark = "*" if leg.extrapolated else " "
    spread = f"{leg.total.low:.4g} to {leg.total.high:.4g}"
    return (
        f"  {leg.contender:22s} {leg.total.median:10.4g} ms{mark} ({spread}), "
        f"{leg.throughput:12,.0f} rows a second"
    )


def measure(
    options: argparse.Namespace, sizes: Sizes, progress: Callable[[str], None]
) -> Iterator[list[Record]]:
    """Yield the records of each part as it is done, and print what they say."""
    rates: dict[str, float] = {}
    clock = DeviceClock(CudaEvents())
    if {"machine", "kernels"} & set(options.parts):
        line = machine(sizes, clock)
        rates = line["rates"]
        words = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in rates.items())
        print(f"{line['device']['name']}: {words} (GB/s, GFLOP/s)", flush=True)
        yield [line]
    # The only GPU that is visible is number 0.
    settings = runner.Settings(options.warmup, options.runs, options.time_limit)
    for point in points(fitted(sizes, free_memory()), options.parts):
        print(f"{point.title}, {point.rows} rows", flush=True)
        legs = runner.run_size(point.case, point.features(), point.contenders, settings, progress)
        lines = []
        for leg in legs:
            leg.case, leg.sweep = {"kind": point.case.kind, **point.case.to_json()}, point.part
            lines.append({"record": "leg", "part": point.part, **leg.to_json()})
            print(leg_words(leg), flush=True)
        yield lines
    if "kernels" in options.parts:
        device = profiled_device(clock)
        for profile in profiles(sizes):
            lines = measure_kernels(profile, sizes.n_layers, options.runs, rates, device)
            for line in lines:
                over = f"{line['time_over_floor']:.2f}" if "time_over_floor" in line else "-"
                print(
                    f"{profile.what:9s} n = {profile.n_qubits:2d} {profile.precision:6s} "
                    f"{line['kernel']:12s} {1e3 * line['total_s']:10.4g} ms, {over} of the floor",
                    flush=True,
                )
            yield lines


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.gpu_rates",
        description=__doc__.splitlines()[0] if __doc__ else None,
    )
    add = parser.add_argument
    add("--output-dir", type=Path, default=Path("results"), help="folder for the records")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default all")
    add("--warmup", type=count, default=3, help="untimed repetitions (default 3)")
    add("--runs", type=positive_integer, default=10, help="timed ones (default 10)")
    add(
        "--time-limit",
        type=positive_number,
        default=3.0,
        metavar="SECONDS",
        help="seconds a leg may take; a slower rival runs on the first rows only (default 3)",
    )
    add("--gpu", type=count, default=0, help="number of the GPU (default 0)")
    add("--quick", action="store_true", help="small sizes; to try the script")
    add("--progress", choices=("auto", "on", "off"), default="auto")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts and write the records; return the exit status.

    0 all well; 1 QDP's own leg did not run or was wrong; 2 no GPU, or wrong arguments; 130
    interrupted, with what was done written.
    """
    options = build_parser().parse_args(arguments)
    # Before anything opens the driver: this process and all of its own see one GPU.
    os.environ.update(visible_gpu(options.gpu))
    problem = device_problem()
    if problem is not None:
        print(f"error: {problem}; nothing was measured", file=sys.stderr)
        return EXIT_USAGE
    sizes = QUICK if options.quick else FULL
    started = datetime.now()
    stem = records.output_stem(options.output_dir, started, "gpu_rates")
    path = stem.with_suffix(".jsonl")
    lines: list[Record] = [
        {
            "record": "run",
            "started": started.isoformat(timespec="seconds"),
            "quick": options.quick,
            "parts": options.parts,
            "protocol": {name: getattr(options, name) for name in ("warmup", "runs", "time_limit")},
            "timed_region": TIMED_REGION,
            "dataset": {"name": "synthetic", "description": f"standard normal, seed {SEED}"},
            "versions": environment.versions(LIBRARIES),
            **environment.describe(),
        }
    ]
    progress = Progress(options.progress)
    interrupted = False
    try:
        for new in measure(options, sizes, progress):
            lines += new
            records.write_lines(path, lines)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        progress.close()
    if len(lines) > 1:
        print(f"Saved: {path}")
    if interrupted:
        print("interrupted; the parts done are saved", file=sys.stderr)
        return EXIT_INTERRUPTED
    failed = [
        line
        for line in lines
        if line["record"] == "leg" and line["contender"] in OWN and line["status"] != "ok"
    ]
    for line in failed:
        print(f"error: {line['contender']}: {line['status']}: {line['reason']}", file=sys.stderr)
    return EXIT_WRONG if failed else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
