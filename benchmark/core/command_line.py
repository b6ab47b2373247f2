# SPDX-License-Identifier: Apache-2.0
"""What the benchmark scripts share on the command line: numbers, options, progress, the journal."""

from __future__ import annotations

import argparse
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from benchmark.core import environment, records
from benchmark.core.cases import PRECISIONS
from benchmark.core.records import Leg

EXIT_OK, EXIT_WRONG, EXIT_USAGE, EXIT_SLOW, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
BACKENDS = ("auto", "cpu", "cuda", "custatevec", "reference")
LIBRARIES = ("qdp", "numpy", "torch", "pennylane", "pennylane-lightning", "scikit-learn")
# Arguments that may differ between a run and its continuation.
_FREE = ("resume", "output_dir", "data_dir", "progress", "no_save")


def plural(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> plural(1, "point"), plural(2, "point")
    ('1 point', '2 points')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def positive_integer(text: str) -> int:
    """Return a number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def count(text: str) -> int:
    """Return a number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, got {value}")
    return value


def positive_number(text: str) -> float:
    """Return a finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def add_measurement_options(
    parser: argparse.ArgumentParser, *, warmup: int = 1, runs: int = 3, time_limit: float = 60.0
) -> None:
    """Add how often, how long, with which threads and where to."""
    add = parser.add_argument
    add("--warmup", type=count, default=warmup, help=f"untimed repetitions (default {warmup})")
    add("--runs", type=positive_integer, default=runs, help=f"timed ones (default {runs})")
    add(
        "--time-limit",
        type=positive_number,
        default=time_limit,
        metavar="SECONDS",
        help="seconds a leg may take; a slower contender runs on the first rows only and is "
        f"marked as extrapolated (default {time_limit:g})",
    )
    add("--backend", choices=BACKENDS, default="auto", help="QDP's backend (default auto)")
    add("--precision", choices=PRECISIONS, default="double", help="default double")
    add("--gpu", type=count, default=0, help="GPU to use where there is one (default 0)")
    add("--seed", type=count, default=42, help="seed of parameters and synthetic rows")
    add_file_options(parser)


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Add where files are read and written, how to go on with a run, and the progress bar."""
    add = parser.add_argument
    add("--no-save", action="store_true", help="write no files")
    add(
        "--output-dir",
        type=Path,
        default=Path("results"),
        help="folder for records, tables and pictures (default results)",
    )
    add(
        "--resume",
        type=Path,
        default=None,
        metavar="FILE",
        help="go on with an interrupted run: its .jsonl file; the same arguments are needed",
    )
    add(
        "--data-dir",
        type=Path,
        default=None,
        help="folder with the image files (default: the variable QDP_DATA_DIR)",
    )
    add(
        "--progress",
        choices=("auto", "on", "off"),
        default="auto",
        help="progress bar on standard error (default: where it is a terminal)",
    )


class Progress:
    """A bar of steps on standard error; silent where it is not wanted."""

    def __init__(self, mode: str) -> None:
        self._bar: Any = None
        if mode == "on" or (mode == "auto" and sys.stderr.isatty()):
            try:
                from tqdm import tqdm
            except ImportError as error:
                if mode == "auto":
                    return
                raise ValueError(
                    "--progress on needs tqdm, which is not installed; install the extra "
                    "[benchmark]"
                ) from error
            self._bar = tqdm(unit="step", leave=False, file=sys.stderr)

    def __call__(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_description_str(text)
            self._bar.update()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def describe_run(benchmark: str, arguments: argparse.Namespace, **facts: Any) -> dict[str, Any]:
    """Return the first line of a run's records."""
    shown = {
        # Records are published: a folder's name is enough, where it lies is nobody's business.
        name: value.name if isinstance(value, Path) else value
        for name, value in vars(arguments).items()
    }
    return {
        "run": uuid.uuid4().hex,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "benchmark": benchmark,
        "arguments": shown,
        "environment": environment.describe(),
        "versions": environment.versions(LIBRARIES),
        **facts,
    }


class RunFile(ABC):
    """A run's records, written whole after each addition so that an interruption loses no other.

    ``stem`` is the file's path without its suffix, None where nothing is to be saved; a subclass
    says what ``entries`` are.
    """

    def __init__(self, run: dict[str, Any], stem: Path | None) -> None:
        self.run = run
        self.stem = stem
        self.entries: list[Any] = []

    @staticmethod
    @abstractmethod
    def read(path: Path) -> tuple[dict[str, Any], list[Any]]:
        """Return the run and the entries in a file. Raises ValueError where it is another's."""

    @abstractmethod
    def lines(self) -> Sequence[Mapping[str, Any]]:
        """Return the lines of all entries."""

    @property
    @abstractmethod
    def done(self) -> str:
        """What an interrupted run has, in words."""

    @classmethod
    def open(
        cls, run: dict[str, Any], *, directory: Path, name: str, save: bool, resume: Path | None
    ) -> Self:
        """Begin a file, or go on with that of an interrupted run.

        Raises ValueError where the file is of another benchmark, other arguments, another machine,
        other versions or another commit: its figures and new ones would not belong together.
        """
        if resume is None:
            stem = records.output_stem(directory, datetime.now(), name) if save else None
            return cls(run, stem)
        if not save:
            raise ValueError(
                f"--resume writes to {resume.name}, which --no-save forbids; leave one of them out"
            )
        if resume.suffix != ".jsonl":
            raise ValueError(f"expected --resume to name a .jsonl file, got {resume.name}")
        before, entries = cls.read(resume)
        for what, was, now in _differences(before, run):
            raise ValueError(
                f"--resume {resume.name}: expected a run with the same {what}, got {was!r} there "
                f"and {now!r} now; start a new run instead"
            )
        found = cls(before, resume.with_suffix(""))
        found.entries += entries
        return found

    def save(self) -> None:
        """Write the file anew."""
        if self.stem is not None:
            records.write_run(Path(f"{self.stem}.jsonl"), self.run, self.lines())

    def interrupted(self) -> str:
        """Return what to say of an interrupted run."""
        after = f"interrupted after {self.done}"
        if self.stem is None or not self.entries:
            return f"{after}; nothing was saved"
        return f"{after}; go on with the same arguments and --resume {self.stem}.jsonl"


class Journal(RunFile):
    """The legs of a run, point by point."""

    @property
    def legs(self) -> list[Leg]:
        """All legs."""
        return self.entries

    @staticmethod
    def read(path: Path) -> tuple[dict[str, Any], list[Leg]]:
        """Return the run and its legs."""
        return records.read_records(path)

    def lines(self) -> list[dict[str, Any]]:
        """Return one line a leg."""
        return [leg.to_json() for leg in self.legs]

    @property
    def done(self) -> str:
        """The number of points."""
        return plural(len({leg.point for leg in self.legs}), "point")

    def legs_of(self, sweep: str | None, case: Mapping[str, Any], n_samples: int) -> list[Leg]:
        """Return the legs of a point, of the first sweep that has it where ``sweep`` is None."""
        found = [leg for leg in self.legs if leg.n_samples == n_samples and leg.case == case]
        if sweep is None and found:
            sweep = found[0].sweep
        return [leg for leg in found if leg.sweep == sweep]

    def add(self, legs: Sequence[Leg]) -> None:
        """Add a point's legs and write the file anew."""
        self.entries += legs
        self.save()


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> list[tuple[str, object, object]]:
    """Return what two runs differ in that must be equal: name, value before, value now."""
    pairs: list[tuple[str, object, object]] = [
        ("benchmark", before.get("benchmark"), now.get("benchmark"))
    ]
    old, new = before.get("arguments", {}), now["arguments"]
    pairs += [
        (f"--{name.replace('_', '-')}", old.get(name), new.get(name))
        for name in sorted({*old, *new} - {*_FREE})
    ]
    machine, here = before.get("environment", {}), now["environment"]
    pairs += [
        ("processor", machine.get("cpu"), here.get("cpu")),
        ("number of CPUs", machine.get("cpus_usable"), here.get("cpus_usable")),
        ("versions", before.get("versions"), now.get("versions")),
        ("commit", machine.get("git", {}).get("commit"), here.get("git", {}).get("commit")),
    ]
    return [pair for pair in pairs if pair[1] != pair[2]]
