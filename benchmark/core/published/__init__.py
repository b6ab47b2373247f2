# SPDX-License-Identifier: Apache-2.0
"""The published report's contents, made from the records of a folder and from nothing else.

Every number is cited from a record (core/document.py); the date is that of the newest record, so
the same records always give the same report. A section whose records are missing says which
command makes them. One module a part of the report; ``library`` reads the records.
"""

from __future__ import annotations

from pathlib import Path

from benchmark.core.document import Block, Book, Heading
from benchmark.core.published import (
    advice,
    encoding,
    gradients,
    method,
    scalability,
    summary,
    training,
)
from benchmark.core.published.library import Library

TITLE = "QDP Performance Benchmark Report"


def blocks(folder: Path, book: Book) -> list[Block]:
    """Return the whole report."""
    library = Library(folder, book)
    return [
        Heading(1, TITLE),
        *summary.head(library),
        *summary.summary(library),
        *encoding.raw_encoding(library),
        *gradients.gradients(library),
        *training.training(library),
        *encoding.dataset_impact(library),
        *scalability.scalability(library),
        *method.methodology(library),
        *method.reproducibility(library),
        *advice.recommendations(library),
        *advice.conclusions(library),
    ]
