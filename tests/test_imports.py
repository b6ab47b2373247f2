# SPDX-License-Identifier: Apache-2.0
"""What ``import qdp`` loads, which module may import which, and the public names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import qdp

ROOT = Path(qdp.__file__).parent
# A module imports only from those before it; modules in one group don't import each other.
LAYERS = [
    {"errors"},
    {"memory"},
    {"arrays"},
    {"device_arrays"},
    {"sources"},
    {"readers.files"},
    {"readers.images", "readers.tables", "readers.containers"},
    {"datasets"},
    {"opening"},
    {"preprocessing"},
    {"gates"},
    {"circuit"},
    {"encodings.base"},
    {"encodings.values", "encodings.rotations"},
    {"encodings"},
    {"ansatz"},
    {"program"},
    {"planner"},
    {"backends.base"},
    {"backends.device", "backends.layout"},
    {"backends.reference", "backends.cpu", "backends.cuda", "backends.custatevec_library"},
    {"backends.custatevec"},
    {"sampling"},
    {"gradients"},
    {"engine"},
    {"loader"},
    {"cache"},
    {"cli"},
    {"__main__"},
    {"adapters.torch", "adapters.torch_dataset"},
    {"compat.mahout"},
]
PACKAGES = {"", "backends", "adapters", "readers", "compat"}
# The engine asks the torch adapter for help, inside functions, once a tensor requires gradients;
# the planner asks the compiled backend what machine it runs on; the loader makes a torch
# data set.
UPWARD = {
    ("engine", "adapters.torch"),
    ("planner", "backends.cpu"),
    ("loader", "adapters.torch_dataset"),
}
FRAMEWORKS = [
    "torch",
    "pennylane",
    "scipy",
    "pandas",
    "sklearn",
    "matplotlib",
    "jax",
    "qiskit",
    "cuda",
    "cupy",
]
NAMES = [
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


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path):
    """The qdp modules that a file imports, anywhere in it, and whether at its top level."""
    known = {module_name(other) for other in ROOT.rglob("*.py")}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [
                name if node.module == "qdp" or name.removeprefix("qdp.") in known else node.module
                for name in found
            ]
        else:
            continue
        for name in found:
            if name == "qdp" or name.startswith("qdp."):
                yield name.removeprefix("qdp").removeprefix("."), id(node) in top


def level(module):
    return next((i for i, layer in enumerate(LAYERS) if module in layer), None)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=module_name)
def test_modules_import_only_from_the_layers_above(path):
    module = module_name(path)
    if module in PACKAGES:
        return
    assert level(module) is not None, f"{module} has no place in LAYERS"
    for imported, at_top in imported_modules(path):
        if imported == "_core":
            # The checks of values use it too where it is there, and NumPy where not.
            known = module == "backends.cpu" or (module == "arrays" and not at_top)
            assert known, f"{module} imports the extension"
        elif (module, imported) in UPWARD:
            assert not at_top, f"{module} imports {imported} for every user"
        else:
            assert level(imported) is not None, f"{module} imports {imported or 'qdp'}"
            assert level(imported) < level(module), f"{module} imports {imported}"


def test_the_reader_of_imports_finds_them():
    found = dict(imported_modules(ROOT / "engine.py"))
    assert found["gradients"] is True
    assert found["adapters.torch"] is False
    assert found["backends.base"] is True


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_import_loads_no_framework():
    loaded = run("import sys, qdp; print(*sorted(sys.modules))").split()
    assert "qdp.engine" in loaded
    assert [name for name in FRAMEWORKS if name in loaded] == []


def test_a_run_over_numpy_loads_no_framework():
    loaded = run(
        "import sys, numpy, qdp\n"
        "circuit = qdp.ansatz.ry_rz_ladder(2, 1)\n"
        "qdp.gradient(circuit, numpy.ones(4), numpy.ones((3, 4)), 'Z0', encoding='amplitude',\n"
        "             backend='reference')\n"
        "print(*sorted(sys.modules))"
    ).split()
    assert [name for name in FRAMEWORKS if name in loaded] == []


def test_the_public_names():
    assert sorted(qdp.__all__) == sorted(NAMES)
    for name in NAMES:
        assert getattr(qdp, name).__doc__, f"{name} has no docstring"
    assert qdp.__version__


def test_every_file_names_its_licence():
    for path in ROOT.rglob("*.py"):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first == "# SPDX-License-Identifier: Apache-2.0", path
