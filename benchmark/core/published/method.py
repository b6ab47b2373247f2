# SPDX-License-Identifier: Apache-2.0
"""The report's sections on how its numbers came about: machine, versions, protocol, commands."""

from __future__ import annotations

from collections.abc import Mapping

from benchmark.core.document import Block, Code, Heading, Items, Table, Text
from benchmark.core.published.library import Library, Recorded


def methodology(library: Library) -> list[Block]:
    """Return section 5."""
    newest = library.newest
    machine = newest.run["environment"]
    protocols = []
    for one in library.everything:
        arguments = one.run.get("arguments")
        if not isinstance(arguments, Mapping) or "warmup" not in arguments:
            continue
        protocols.append(
            [
                one.link(),
                one.fact("arguments.warmup"),
                one.fact("arguments.runs"),
                one.fact("arguments.time_limit"),
                one.fact(
                    "environment.git.commit", f"`{one.run['environment']['git']['commit'][:10]}`"
                ),
            ]
        )
    versions: dict[str, str] = {}
    for one in library.everything:
        for leg in one.legs:
            versions.update(leg.versions)
    gpu = ", ".join(machine["gpus"]) or "none"
    memory_gb = f"{machine['memory_bytes'] / 2**30:.0f}"
    return [
        Heading(2, "5. Methodology"),
        Heading(3, "5.1 Hardware"),
        Items(
            [
                f"GPU: {gpu}",
                f"CPU: {newest.fact('environment.cpu')}, "
                f"{newest.fact('environment.cpus_usable')} cores usable, "
                f"{', '.join(f'`{name}`' for name in machine['vector_extensions'])}",
                f"RAM: {newest.fact('environment.memory_bytes', memory_gb)} GB",
                "CUDA: none" if gpu == "none" else "CUDA: as the GPU records say",
                f"System: `{machine['system']}`, Python {newest.fact('environment.python')}",
            ]
        ),
        Text(
            "A shared virtual machine: ratios within one table can be trusted to their intervals, "
            "absolute times move by tens of per cent from day to day."
        ),
        Heading(3, "5.2 Software Versions"),
        Code("\n".join(f"{name}=={version}" for name, version in sorted(versions.items())), "text"),
        Heading(3, "5.3 Measurement Protocol"),
        Items(
            [
                "Every contender in a fresh process with its best documented settings and all "
                "threads, checked against the reference backend before anything is timed; all "
                "timed results are compared once more.",
                "Contenders take turns, in alternating order; a repetition shorter than a tenth of "
                "a second follows an untimed one, whoever's it is.",
                "Medians, with percentile-bootstrap intervals of ninety-five per cent; a ratio "
                "whose interval holds one is not significant.",
                "Timing: `time.perf_counter`; CUDA events and synchronisation for GPU code.",
                "A leg has a time limit; a slower contender runs on the first rows only and is "
                "marked. A leg that did not run says failed, skipped, unsupported or timed out.",
            ]
        ),
        Table(["Records", "Warmup", "Runs", "Seconds a leg", "Commit"], protocols),
    ]


def command_of(recorded: Recorded) -> str | None:
    """Return the command line that took a file of records, from its arguments."""
    scripts = {
        "gradient": "benchmark/benchmark_gradient.py",
        "scaling": "benchmark/benchmark_scaling.py",
        "training": "benchmark/benchmark_qdp_pennylane.py",
    }
    script = scripts.get(str(recorded.run.get("benchmark")))
    if script is None:
        return None
    left_out = ("output_dir", "data_dir", "progress", "no_save", "resume", "verify", "min_speedup")
    parts = [f"python {script}"]
    for name, value in recorded.run["arguments"].items():
        if name in left_out or value is None or value is False:
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            parts.append(f"{flag} {' '.join(map(str, value))}")
        else:
            parts.append(flag if value is True else f"{flag} {value}")
    return " \\\n    ".join(parts)


def reproducibility(library: Library) -> list[Block]:
    """Return section 6."""
    commands = [command for one in library.everything if (command := command_of(one)) is not None]
    return [
        Heading(2, "6. Reproducibility"),
        Heading(3, "6.1 Commands"),
        Text("The set-up, the whole suite, and this report:"),
        Code("make bench\npython -m benchmark run --full\npython -m benchmark report"),
        Text("Each file of records was taken by one of these:"),
        Code("\n\n".join(commands)),
        Heading(3, "6.2 Data Availability"),
        Text(
            "All raw benchmark data is in [benchmark/results](../results): JSON lines with every "
            "raw time, versions, hardware and commit. "
            "`python -m benchmark report --provenance` lists the record behind each number here."
        ),
    ]
