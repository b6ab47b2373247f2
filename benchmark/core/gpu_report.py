# SPDX-License-Identifier: Apache-2.0
"""The published report's pages on the GPU, from the newest record of benchmark/gpu_rates.py.

Where no record has been taken on a GPU they say so. Every figure is cited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.core import gpu_tables
from benchmark.core.document import Block, Code, Items, Table, Text
from benchmark.core.gpu_tables import GpuRecords

if TYPE_CHECKING:
    from benchmark.core.published import Library, Recorded

NONE_TAKEN = "Not yet measured: none of the records was taken on a GPU."


def taken(library: Library) -> Recorded | None:
    """Return the newest record of a GPU, None where none has been taken."""
    found: Recorded | None = library.others.get("gpu_rates")
    return None if found is None or found.run["quick"] else found


def blocks(library: Library) -> list[Block]:
    """Return goals, rates, kernels and what the GPU did meanwhile, or that none is known."""
    recorded = taken(library)
    if recorded is None:
        return [Text(NONE_TAKEN)]
    record = GpuRecords(recorded.lines, recorded.value)
    found: list[Block] = [
        Text(f"{gpu_tables.machine_words(record)} {recorded.link()}, taken by"),
        Code(gpu_tables.COMMAND),
        Text(f"Timed region, where a leg names no other: {_as_code(record.run['timed_region'])}."),
        Table(gpu_tables.GOALS_HEAD, gpu_tables.goals(record)),
    ]
    for title, head, rows in (
        ("Encoding, states written in device memory", gpu_tables.ENCODING_HEAD,
         gpu_tables.encoding(record)),
        ("Per-sample gradients; * on fewer rows", gpu_tables.GRADIENTS_HEAD,
         gpu_tables.gradients(record)),
        ("Each kernel by itself, its launch included", gpu_tables.KERNELS_HEAD,
         gpu_tables.kernels(record)),
        ("What the GPU did meanwhile", gpu_tables.UTILIZATION_HEAD,
         gpu_tables.utilization(record)),
    ):  # fmt: skip
        if rows:
            found += [Text(f"**{title}**"), Table(head, rows)]
    notes = [*gpu_tables.disclosures(record), *gpu_tables.stopped(record)]
    if notes:
        found += [Text("To be known beside it:"), Items([_as_code(note) for note in notes])]
    return found


def _as_code(note: str) -> str:
    """Return a record's own words as a quotation: no figure of the report."""
    return f"`{note.replace('`', chr(39))}`"
