# SPDX-License-Identifier: Apache-2.0
"""The facts about a machine and its software that a timing means nothing without."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]

# Every variable by which a library in the benchmark takes its number of threads.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "QDP_NUM_THREADS",
)


def usable_cpus() -> int:
    """Return how many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """Return the processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def vector_extensions() -> list[str]:
    """Return the vector instruction sets among the CPU's flags, e.g. ["avx2", "fma"]."""
    known = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512dq", "avx512vl", "asimd", "sve")
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                flags = set(line.split(":", 1)[1].split())
                return [name for name in known if name in flags]
    except OSError:
        pass
    return []


def _meminfo(field: str) -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def total_memory() -> int | None:
    """Return the machine's memory in bytes, or None where it cannot be read."""
    return _meminfo("MemTotal")


def available_memory() -> int | None:
    """Return the memory that is free for new processes, in bytes, or None."""
    return _meminfo("MemAvailable")


def peak_memory(process: int | None = None) -> int | None:
    """Return a process's peak resident memory in bytes, by default this one's, None if unknown."""
    try:
        # Not getrusage, whose peak survives exec and would be that of the parent.
        status = Path("/proc", "self" if process is None else str(process), "status")
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    if process is not None:
        return None
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def gpu_names() -> list[str]:
    """Return the names of the CUDA devices that torch sees; empty without torch or a device."""
    try:
        import torch
    except ImportError:
        return []
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each distribution; those not installed are left out."""
    found: dict[str, str] = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit(directory: Path = REPOSITORY) -> dict[str, Any]:
    """Return {"commit": hash or None, "modified": whether tracked files differ, or None}."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(directory), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "modified": None if status is None else bool(status)}


def describe() -> dict[str, Any]:
    """Return hardware, system and commit: what every record of a run refers to."""
    return {
        "cpu": cpu_model(),
        "vector_extensions": vector_extensions(),
        "cpus_usable": usable_cpus(),
        "cpus_total": os.cpu_count(),
        "memory_bytes": total_memory(),
        "gpus": gpu_names(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "git": git_commit(),
    }


def thread_environment(threads: int) -> dict[str, str]:
    """Return the variables that hold every library of a worker to ``threads`` threads."""
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
    # Threads are not pinned: a leg shares the CPUs with whatever else the machine runs.
    variables["OMP_PROC_BIND"] = "false"
    return variables
