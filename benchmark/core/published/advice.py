# SPDX-License-Identifier: Apache-2.0
"""The report's recommendations, when not to use QDP, and conclusions."""

from __future__ import annotations

from benchmark.core.document import Block, Heading, Items, Table
from benchmark.core.published.library import Library


def recommendations(library: Library) -> list[Block]:
    """Return when to use QDP, and when not."""
    return [
        Heading(2, "Recommendations"),
        Table(
            ["You want", "Take"],
            [
                ["gradients or values of one circuit over many rows", "QDP"],
                ["the parameter-shift rule over many rows, as hardware would do it", "QDP"],
                ["rows encoded once and used many times, or streamed from files", "QDP"],
                ["a quantum layer in a PyTorch model on the CPU", "QDP, or PennyLane's templates"],
            ],
        ),
        Heading(3, "When not to use QDP"),
        Items(
            [
                "A single sample and a small circuit: the fixed cost of a call exceeds the work; "
                "the batch sweep above shows from how many rows on it pays.",
                "A single large state beyond two dozen qubits: Lightning, Qiskit Aer or a tensor "
                "network.",
                "Noise, density matrices, measurements in mid-circuit: PennyLane, Qiskit Aer.",
                "Real hardware and transpilation: Qiskit, PennyLane.",
                "Circuits of Clifford gates alone, error correction: Stim.",
                "Second derivatives, or a circuit inside a larger compiled program: JAX with "
                "TensorCircuit.",
                "Raw encoding of a few dozen rows: NumPy is as fast.",
            ]
        ),
    ]


def conclusions(library: Library) -> list[Block]:
    """Return what the records support."""
    items = [
        "A batched engine is what makes the difference: samples lie side by side in the lanes of "
        "the registers, so that gates cost no shuffles and Python is paid once a batch.",
        "Encoding once, which the roadmap set out to show, saves what encoding costs; it is the "
        "smaller part of what QDP gains over the roadmap's PennyLane path.",
    ]
    if not any(
        leg.metering and "gpu" in leg.metering[0] for one in library.everything for leg in one.legs
    ):
        items.append("All figures are of CPUs: no GPU record has been taken yet.")
    return [Heading(2, "7. Conclusions"), Items(items)]
