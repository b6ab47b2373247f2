# SPDX-License-Identifier: Apache-2.0
"""The contenders by name; a framework is imported only when its contender prepares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.core.contenders.base import Contender, Repeat, Unsupported
from benchmark.core.contenders.custatevec_path import CuStateVec
from benchmark.core.contenders.deepquantum_path import DeepQuantum
from benchmark.core.contenders.encoding_gpu_paths import (
    QdpCudaEncoder,
    QumatEncoder,
    TorchCudaEncoder,
    TorchProductsCudaEncoder,
)
from benchmark.core.contenders.encoding_paths import (
    AerEncoder,
    LightningEncoder,
    NumpyEncoder,
    PennyLaneEncoder,
    QdpEncoder,
    QdpFreshEncoder,
    QiskitEncoder,
    TorchEncoder,
)
from benchmark.core.contenders.gpu import OnGpu
from benchmark.core.contenders.jax_paths import JaxCuda, JaxGates, JaxKron, JaxKronCuda
from benchmark.core.contenders.lightning_paths import (
    LightningAdjoint,
    LightningCpp,
    LightningGpuAdjoint,
    LightningGpuShift,
    LightningShift,
)
from benchmark.core.contenders.mindquantum_path import MindQuantum
from benchmark.core.contenders.numpy_paths import NumpyGates, NumpyKron
from benchmark.core.contenders.pennylane_paths import (
    PennyLaneBroadcast,
    PennyLanePath,
    PennyLaneStatePrep,
)
from benchmark.core.contenders.qdp_paths import (
    Qdp,
    QdpCuda,
    QdpCudaFused,
    QdpCudaHost,
    QdpCuStateVec,
    QdpFused,
    QdpPruned,
)
from benchmark.core.contenders.qiskit_paths import Qiskit, QiskitAer
from benchmark.core.contenders.qulacs_path import Qulacs
from benchmark.core.contenders.scaluq_path import Scaluq
from benchmark.core.contenders.tensorcircuit_path import TensorCircuit
from benchmark.core.contenders.torch_path import TorchCuda, TorchGates
from benchmark.core.contenders.training_paths import TRAINERS

CONTENDERS: dict[str, type[Contender]] = {
    contender.name: contender
    for contender in (
        Qdp,
        QdpFused,
        QdpPruned,
        PennyLanePath,
        PennyLaneStatePrep,
        PennyLaneBroadcast,
        LightningAdjoint,
        LightningShift,
        LightningCpp,
        NumpyGates,
        NumpyKron,
        JaxGates,
        JaxKron,
        TensorCircuit,
        Scaluq,
        Qulacs,
        TorchGates,
        DeepQuantum,
        MindQuantum,
        QiskitAer,
        Qiskit,
        QdpCuda,
        QdpCudaFused,
        QdpCudaHost,
        QdpCuStateVec,
        CuStateVec,
        LightningGpuAdjoint,
        LightningGpuShift,
        TorchCuda,
        JaxCuda,
        JaxKronCuda,
    )
}

ENCODERS: dict[str, type[Contender]] = {
    contender.name: contender
    for contender in (
        QdpEncoder,
        QdpFreshEncoder,
        PennyLaneEncoder,
        LightningEncoder,
        QiskitEncoder,
        AerEncoder,
        NumpyEncoder,
        TorchEncoder,
        QdpCudaEncoder,
        TorchCudaEncoder,
        TorchProductsCudaEncoder,
        QumatEncoder,
    )
}

# The contenders of each kind of case.
BY_KIND: dict[str, Mapping[str, Any]] = {
    "gradient": CONTENDERS,
    "encoding": ENCODERS,
    "training": TRAINERS,
}

# Whose rows lie in a GPU's memory before the clock starts, or go there while it runs.
ON_GPU = frozenset(
    name
    for kinds in (CONTENDERS, ENCODERS)
    for name, kind in kinds.items()
    if issubclass(kind, OnGpu)
)
OWN = (
    "qdp",
    "qdp-fused",
    "qdp-pruned",
    "qdp-fresh",
    "qdp-cuda",
    "qdp-cuda-fused",
    "qdp-cuda-host",
)
ROADMAP_RIVAL = "pennylane"
GROUPS: dict[str, tuple[str, ...]] = {
    "default": ("qdp", "qdp-fused", "pennylane", "lightning-adjoint", "numpy", "numpy-kron"),
    "roadmap": ("qdp", "pennylane"),
    "pennylane-all": (
        "pennylane",
        "pennylane-stateprep",
        "pennylane-broadcast",
        "lightning-adjoint",
        "lightning-shift",
    ),
    "rivals": (
        "lightning-cpp",
        "numpy",
        "numpy-kron",
        "jax",
        "jax-kron",
        "tensorcircuit",
        "scaluq",
        "qulacs",
        "torch",
        "deepquantum",
        "mindquantum",
        "qiskit-aer",
    ),
    # All that do the same work: a pruned run is asked for by its name, and reported apart, as is
    # what runs on a GPU, where rows lie in its memory before the clock starts.
    "all": tuple(name for name in CONTENDERS if name != "qdp-pruned" and name not in ON_GPU),
    "gpu": tuple(name for name in CONTENDERS if name in ON_GPU),
}


def resolve(names: Sequence[str]) -> list[str]:
    """Expand groups and check names; QDP comes first and is always among them.

    >>> resolve(["roadmap", "numpy"])
    ['qdp', 'pennylane', 'numpy']
    """
    chosen = ["qdp"]
    for name in names:
        if name not in GROUPS and name not in CONTENDERS:
            raise ValueError(
                f"expected contenders among {', '.join(CONTENDERS)} or the groups "
                f"{', '.join(GROUPS)}, got {name!r}"
            )
        chosen += [item for item in GROUPS.get(name, (name,)) if item not in chosen]
    return chosen


__all__ = [
    "BY_KIND",
    "CONTENDERS",
    "ENCODERS",
    "GROUPS",
    "ON_GPU",
    "OWN",
    "ROADMAP_RIVAL",
    "TRAINERS",
    "Contender",
    "Repeat",
    "Unsupported",
    "resolve",
]
