# SPDX-License-Identifier: Apache-2.0
"""Every behaviour is written once and run over all backends and precisions.

The reference backend judges the others; "cpu" joins as soon as the compiled extension imports,
"cuda" where there is a GPU, and "custatevec" where there is NVIDIA's library as well.
``QDP_REQUIRE=cpu,cuda,custatevec`` makes their absence an error instead of a smaller run; among its
names are also ``cupy`` and ``jax``, for arrays of these libraries on the GPU.
"""

import importlib
import os

import pytest
from hypothesis import settings

from qdp.errors import BackendUnavailable

BACKENDS = ["reference"]
try:
    importlib.import_module("qdp.backends.cpu")
except ImportError:
    if "cpu" in os.environ.get("QDP_REQUIRE", "").split(","):
        raise
else:
    BACKENDS.append("cpu")
for name, kind in (("cuda", "CudaBackend"), ("custatevec", "CuStateVecBackend")):
    try:
        getattr(importlib.import_module(f"qdp.backends.{name}"), kind)()
    except BackendUnavailable:
        if name in os.environ.get("QDP_REQUIRE", "").split(","):
            raise
    else:
        BACKENDS.append(name)

# Examples are drawn the same way in each run, and no time limit depends on the machine.
settings.register_profile("qdp", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("qdp")


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request):
    """The name of a backend, as the verbs take it."""
    return request.param


@pytest.fixture(scope="session", params=["double", "single"])
def precision(request):
    """The precision that results are asked for."""
    return request.param


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """The CUDA kernels as plain C++, one library a precision."""
    emulator = pytest.importorskip("emulator", reason="GPU arrays are handed out by cuda.core")
    return emulator.compile_for_the_processor(tmp_path_factory.mktemp("kernels"))


def pytest_report_header(config):
    return f"qdp backends: {', '.join(BACKENDS)}"
