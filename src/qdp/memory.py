# SPDX-License-Identifier: Apache-2.0
"""How much memory is left, the one refusal of work that would not fit, and caches bounded by bytes.

Sizes are in bytes. The limit of a container (cgroup v2) counts as well as the machine's.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# What caches held when the process forked.
_ABANDONED: list[object] = []

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
# Reading the limits costs tens of microseconds, as much as a small circuit over a whole batch.
ALWAYS_ALLOWED = 64 * 2**20
_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def available_memory() -> int | None:
    """Return the bytes that can be allocated without swapping, None where that is unknown.

    >>> available_memory() > 0
    True
    """
    limits = [limit for limit in (_machine_limit(), _container_limit()) if limit is not None]
    return min(limits) if limits else None


def require_memory(n_bytes: int, what: str, remedy: str) -> None:
    """Raise MemoryError, with both numbers and the remedy, if ``n_bytes`` can't be allocated.

    >>> require_memory(2**70, "the states of 1 row of 66 qubits", "use fewer qubits")
    Traceback (most recent call last):
        ...
    MemoryError: the states of 1 row of 66 qubits: expected at most ... remedy: use fewer qubits
    """
    if n_bytes <= ALWAYS_ALLOWED:
        return
    available = available_memory()
    if available is not None and n_bytes > available:
        raise MemoryError(
            f"{what}: expected at most {format_bytes(available)} (the memory available), "
            f"got a need of {format_bytes(n_bytes)}; remedy: {remedy}"
        )


def cached_by_bytes(
    size_of: Callable[[R], int], limit: int
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Keep the results of a function of hashable arguments, the latest used, up to ``limit`` bytes.

    ``size_of`` says how many bytes a result holds; one beyond the limit is returned, not kept. The
    function may run in several threads at once, and twice for the same arguments then. Its
    attribute ``kept_bytes()`` tells what is held.

    >>> squares = cached_by_bytes(len, limit=5)(lambda n: "x" * n)
    >>> [len(squares(n)) for n in (3, 2, 9, 4)], squares.kept_bytes()
    ([3, 2, 9, 4], 4)
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        kept: OrderedDict[Hashable, tuple[R, int]] = OrderedDict()
        lock = threading.Lock()
        total = 0

        def forget() -> None:
            # Another thread may have held the lock, or a result's own, when the process forked: the
            # child starts anew, and leaves what there was untouched.
            nonlocal kept, lock, total
            _ABANDONED.append(kept)
            kept, lock, total = OrderedDict(), threading.Lock(), 0

        os.register_at_fork(after_in_child=forget)

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            nonlocal total
            key = (args, tuple(sorted(kwargs.items())))
            with lock:
                if key in kept:
                    kept.move_to_end(key)
                    return kept[key][0]
            result = function(*args, **kwargs)
            size = size_of(result)
            with lock:
                if size <= limit and key not in kept:
                    kept[key] = result, size
                    total += size
                    while total > limit:
                        total -= kept.popitem(last=False)[1][1]
            return result

        wrapper.kept_bytes = lambda: total  # type: ignore[attr-defined]
        return wrapper

    return decorate


def format_bytes(n_bytes: float) -> str:
    """Write a number of bytes with a binary unit.

    >>> format_bytes(1536)
    '1.5 KiB'
    """
    size = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} PiB"


def parse_bytes(size: int | str) -> int:
    """Read a number of bytes, as an integer or with a binary unit; ValueError if it is neither.

    >>> parse_bytes("1.5 KiB")
    1536
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(size))
    if match is None or match[2] not in _UNITS:
        raise ValueError(
            f"memory: expected bytes or text such as '4GiB', got {size!r}; units are "
            f"{', '.join(unit for unit in _UNITS if unit)}"
        )
    return int(float(match[1]) * _UNITS[match[2]])


def _machine_limit() -> int | None:
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _container_limit() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        statistics = dict(
            line.split()
            for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        )
    except (OSError, ValueError):
        return None
    if not limit.isdigit():  # "max": no limit
        return None
    # Pages of files just read count as used, but are given up on demand.
    reclaimable = int(statistics.get("inactive_file", 0)) + int(statistics.get("active_file", 0))
    return max(int(limit) - used + reclaimable, 0)
