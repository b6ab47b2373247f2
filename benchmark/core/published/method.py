# SPDX-License-Identifier: Apache-2.0
"""The report's sections on how its numbers came about: machine, versions, protocol, commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmark.core import suite
from benchmark.core.document import Block, Code, Heading, Items, Table, Text
from benchmark.core.published.library import Library, Recorded

_SCRIPTS = {
    "gradient": "benchmark/benchmark_gradient.py",
    "scaling": "benchmark/benchmark_scaling.py",
    "training": "benchmark/benchmark_qdp_pennylane.py",
}
# What says nothing of how a record came about, or only where it went.
_LEFT_OUT = ("output_dir", "data_dir", "progress", "no_save", "resume", "verify", "min_speedup")


def machine_words(recorded: Recorded) -> str:
    """Return processor, cores, memory and GPUs of the machine that a file was taken on."""
    place = "environment." if "environment" in recorded.run else ""
    machine = recorded.environment
    memory = recorded.fact(f"{place}memory_bytes", f"{machine['memory_bytes'] / 2**30:.0f}")
    gpus = recorded.fact(f"{place}gpus", ", ".join(machine["gpus"]) or "no GPU")
    return (
        f"{recorded.fact(f'{place}cpu')}, {recorded.fact(f'{place}cpus_usable')} cores, "
        f"{memory} GiB; {gpus}"
    )


def methodology(library: Library) -> list[Block]:
    """Return section 5."""
    versions: dict[str, str] = {}
    for one in library.everything:
        versions.update(one.run.get("versions", {}))
        for leg in one.legs:
            versions.update(leg.versions)
    return [
        Heading(2, "5. Methodology"),
        Heading(3, "5.1 Hardware"),
        *hardware(library.machines),
        Heading(3, "5.2 Software Versions"),
        Code("\n".join(f"{name}=={version}" for name, version in sorted(versions.items())), "text"),
        Heading(3, "5.3 Measurement Protocol"),
        Items(
            [
                "Every contender in a fresh process with its best documented settings and all "
                "threads, checked against the reference backend before anything is timed; all "
                "timed results are compared once more.",
                "The timed region goes from raw `float64` features in memory to the result in "
                "memory: validation, planning, Python and all circuits; not imports, compilation "
                "or the first call.",
                "Contenders take turns, in alternating order; a repetition shorter than a tenth of "
                "a second follows an untimed one, whoever's it is.",
                "Medians, with percentile-bootstrap intervals of ninety-five per cent; a ratio "
                "whose interval holds one is not significant.",
                "Timing: `time.perf_counter`; CUDA events and synchronisation for GPU code.",
                "A leg has a time limit; a slower contender runs on the first rows only and is "
                "marked. A leg that did not run says failed, skipped, unsupported or timed out.",
            ]
        ),
        _protocols(library),
    ]


def hardware(machines: Sequence[Sequence[Recorded]]) -> list[Block]:
    """Return the machines that the records were taken on, with their records where several."""
    found: list[Block] = []
    for taken in machines:
        one = taken[0]
        place = "environment." if "environment" in one.run else ""
        machine = one.environment
        if len(machines) > 1:
            found.append(Text(f"Records {', '.join(other.link() for other in taken)}:"))
        gpus = ", ".join(machine["gpus"])
        memory = f"{machine['memory_bytes'] / 2**30:.0f}"
        found.append(
            Items(
                [
                    f"GPU: {one.fact(f'{place}gpus', gpus) if gpus else 'none'}",
                    f"CPU: {one.fact(f'{place}cpu')}, "
                    f"{one.fact(f'{place}cpus_usable')} cores usable, "
                    f"{', '.join(f'`{name}`' for name in machine['vector_extensions'])}",
                    f"RAM: {one.fact(f'{place}memory_bytes', memory)} GiB",
                    f"CUDA: {'as the GPU records say' if gpus else 'none'}",
                    f"System: `{machine['system']}`, Python {one.fact(f'{place}python')}",
                ]
            )
        )
    found.append(
        Text(
            "Shared virtual machines: ratios within one table can be trusted to their intervals, "
            "absolute times move by tens of per cent from day to day."
        )
    )
    return found


def subject(recorded: Recorded) -> str:
    """Return what a file of records is about."""
    run = recorded.run
    if "case" in run:
        case = run["case"]
        qubits = recorded.fact("case.n_qubits")
        return f"gradients, {qubits} qubits, {case['method']}, `{case['observable']}`"
    arguments = run["arguments"]
    if "sweeps" in arguments:
        return f"scaling, `{run['dataset']['name']}`, by {', '.join(arguments['sweeps'])}"
    return f"training, `{run['dataset']['name']}`, classes `{' '.join(arguments['classes'])}`"


def _protocols(library: Library) -> Table:
    """Return how often and how long each of the scripts measured."""
    rows = []
    for one in library.everything:
        arguments = one.run.get("arguments")
        if not isinstance(arguments, Mapping) or "warmup" not in arguments:
            continue
        commit = f"`{one.environment['git']['commit'][:10]}`"
        rows.append(
            [
                one.link(),
                subject(one),
                *(one.fact(f"arguments.{name}") for name in ("warmup", "runs", "time_limit")),
                one.fact("environment.git.commit", commit),
            ]
        )
    return Table(["Records", "Of", "Warmup", "Runs", "Limit of a leg (s)", "Commit"], rows)


def command_of(recorded: Recorded) -> str | None:
    """Return the command line that took a file of records, from its arguments."""
    script = _SCRIPTS.get(str(recorded.run.get("benchmark")))
    if script is None:
        return None
    parts = [f"python {script}"]
    for name, value in recorded.run["arguments"].items():
        if name in _LEFT_OUT or value is None or value is False:
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            parts.append(f"{flag} {' '.join(map(str, value))}")
        else:
            parts.append(flag if value is True else f"{flag} {value}")
    lines = [""]
    for part in parts:
        if len(lines[-1]) + len(part) > 94:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {part}" if lines[-1] else part
    return " \\\n".join(lines)


def reproducibility(library: Library) -> list[Block]:
    """Return section 6."""
    commands = [command for one in library.everything if (command := command_of(one)) is not None]
    others = [
        f"python -m {step.script} {step.arguments}".rstrip()
        for step in suite.FULL
        if step.script.removeprefix("benchmark.") in library.others
    ]
    data = {one.run["dataset"]["name"]: one for one in library.everything if "dataset" in one.run}
    return [
        Heading(2, "6. Reproducibility"),
        Heading(3, "6.1 Commands"),
        Text("The set-up, the whole suite, and this report:"),
        Code(
            "make bench     # or: uv sync --group benchmark\n"
            "python -m benchmark run --full --output-dir results\n"
            "python -m benchmark report --records results --output report/report.md"
        ),
        Text("Each file of records was taken by one of these; `--output-dir` says where it goes:"),
        Code("\n\n".join(commands)),
        Text("And the rest by these, as the suite runs them:"),
        Code("\n".join(others)),
        Heading(3, "6.2 Data Availability"),
        Text(
            "All raw benchmark data is in [benchmark/results](../results): JSON lines with every "
            "raw time, versions, hardware and commit. "
            "`python -m benchmark report --provenance` lists the record behind each number here. "
            "The rows are of these data sets; "
            "[docs/datasets.md](../../docs/datasets.md) says where their files come from:"
        ),
        Table(
            ["Data set", "Rows"],
            [
                [f"`{name}`", one.fact("dataset.description", _first(one))]
                for name, one in sorted(data.items())
            ],
        ),
    ]


def _first(recorded: Recorded) -> str:
    """Return what the rows of a run's data set are; a sweep over qubits has several widths."""
    return ",".join(recorded.run["dataset"]["description"].split(";")[0].split(",")[:2])
