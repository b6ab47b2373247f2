# SPDX-License-Identifier: Apache-2.0
"""What contenders on a GPU have in common: rows in its memory, its clock, and no way round it.

``OnGpu`` is mixed into a contender before the class that does the work. Where there is no GPU the
contender is unsupported, and says why; it never runs on the processor under a GPU's name. Tests
set ``device`` to "cpu" to run the same code on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.core.contenders.base import Contender
from benchmark.core.device import WALL_CLOCK, CudaEvents, DeviceClock, device_problem

TIMED_REGION = (
    "from raw float64 rows in device memory to results in device memory; CUDA events, the device "
    "synchronised before and after each"
)

# For type checkers the mixin is a contender; at run time the contender comes after it.
_Base = Contender if TYPE_CHECKING else object


class OnGpu(_Base):
    """A contender's part that is the same on every GPU.

    ``documentation`` names what the code follows, ``region`` what lies between the events.
    """

    device: ClassVar[str] = "cuda"
    documentation: ClassVar[str]
    region: ClassVar[str] = TIMED_REGION
    extra: ClassVar[str] = ""

    def __init__(self, case: Any, features: Any) -> None:
        super().__init__(case, features)
        self.clock = DeviceClock(CudaEvents()) if self.device == "cuda" else WALL_CLOCK

    @classmethod
    def unsupported(cls, case: Any) -> str | None:
        """Return why the case cannot be run on this machine's GPU, or None where it can."""
        reason = super().unsupported(case)
        if reason is None and cls.device == "cuda":
            reason = device_problem() or cls.library_problem()
        return reason

    @classmethod
    def library_problem(cls) -> str | None:
        """Return why the library cannot use the GPU, or None; ImportError where it is missing."""
        return None

    def details(self) -> dict[str, str]:
        """Return what the code follows and what is timed, for the record."""
        return {
            **super().details(),
            "documentation": self.documentation,
            "timed_region": self.region,
        }


def torch_problem() -> str | None:
    """Return why torch cannot use the GPU, or None; ImportError where it is missing."""
    import torch

    if torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} sees no CUDA device"
