# SPDX-License-Identifier: Apache-2.0
"""QDP: batched quantum circuits and their gradients over encoded data.

Rows of features become states, circuits run over all rows at once, and derivatives come back for
every row. Arrays are NumPy's, torch CPU tensors or DLPack producers, and leave as what they were.
Qubit 0 is the most significant bit of the state index; gates and signs are PennyLane's; angles
are in radians.
"""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

from qdp import ansatz, gates, preprocessing
from qdp.cache import StateCache
from qdp.circuit import Circuit, Observable
from qdp.encodings import Amplitude, Angle, Basis
from qdp.engine import (
    amplitude_encode,
    encode,
    expectation,
    fidelity_kernel,
    gradient,
    probabilities,
    sample,
    state,
    value_and_grad,
    variance,
    vjp,
)
from qdp.errors import BackendUnavailable, CacheCorrupt
from qdp.gates import feature, parameter
from qdp.loader import Loader
from qdp.opening import open
from qdp.planner import explain, memory_estimate, plan

try:
    __version__ = _version("qdp")
except _PackageNotFoundError:  # run from a source tree that isn't installed
    __version__ = "0+unknown"

__all__ = [
    "Amplitude",
    "Angle",
    "BackendUnavailable",
    "Basis",
    "CacheCorrupt",
    "Circuit",
    "Loader",
    "Observable",
    "StateCache",
    "amplitude_encode",
    "ansatz",
    "encode",
    "expectation",
    "explain",
    "feature",
    "fidelity_kernel",
    "gates",
    "gradient",
    "memory_estimate",
    "open",
    "parameter",
    "plan",
    "preprocessing",
    "probabilities",
    "sample",
    "state",
    "value_and_grad",
    "variance",
    "vjp",
]
