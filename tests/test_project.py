# SPDX-License-Identifier: Apache-2.0
"""What holds for the repository as a whole: pins, docstrings, examples, licences, clean files."""

import contextlib
import doctest
import importlib
import inspect
import io
import itertools
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import qdp

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LICENCE = "SPDX-License-Identifier: Apache-2.0"
SOURCES = {".py", ".cpp", ".hpp", ".sh", ".cu", ".h"}
NAMED_SOURCES = {"CMakeLists.txt", "Makefile", "constraints.txt", "run"}
# Written so that this file does not match itself.
UNWANTED = {
    "a package registry": r"https?://[\w.-]*(p[y]pi|p[y]thonhosted|n[p]mjs|r[e]gistry)",
    "a place on one machine": r"(?<![\w.])/(w[o]rk|f[a]rm|h[o]me|r[o]ot|o[p]t/wheels|t[m]p)/\w",
}


def _modules():
    found = [module.name for module in pkgutil.walk_packages(qdp.__path__, "qdp.")]
    return ["qdp", *(name for name in found if name != "qdp._core")]


MODULES = _modules()


@pytest.fixture(scope="module")
def repository_files():
    """Every file that is committed, or would be: all but what git ignores."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs git and a clone: {error}")
    files = [ROOT / name for name in listed.decode().split("\0") if name]
    return [path for path in files if path.is_file()]


def imported(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name}: {error}")


# Pins


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_uv_has_the_pins_of_the_constraints():
    assert PYPROJECT["tool"]["uv"]["constraint-dependencies"] == pins()
    assert set(PYPROJECT["tool"]["uv"]["build-constraint-dependencies"]) <= set(pins())


def test_pins_are_exact_sorted_and_single():
    for pin in pins():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin), pin
    names = [pin.split("==")[0] for pin in pins()]
    assert names == sorted(set(names))
    assert "torch==2.13.0" in pins()


def test_build_requirements_are_pinned_alike():
    for requirement in PYPROJECT["build-system"]["requires"]:
        assert requirement in pins()


def test_every_extra_is_pinned_within_its_range():
    versions = dict(pin.split("==") for pin in pins())
    extras = PYPROJECT["project"]["optional-dependencies"]
    for text in itertools.chain(PYPROJECT["project"]["dependencies"], *extras.values()):
        requirement = Requirement(text)
        assert requirement.specifier, f"{text} has no range"
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), text


# Docstrings and examples


def public_objects(module):
    """Public functions and classes that a module defines, and their public methods."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        yield name, value
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                if not attribute.startswith("_") and (
                    inspect.isfunction(member) or isinstance(member, property | classmethod)
                ):
                    yield f"{name}.{attribute}", member


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_docstring(name):
    module = imported(name)
    assert module.__doc__ or hasattr(module, "__path__")
    missing = [label for label, value in public_objects(module) if not inspect.getdoc(value)]
    assert missing == []


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name):
    result = doctest.testmod(imported(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_the_examples_of_the_readme_run():
    pytest.importorskip("sklearn")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    example = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    expected = re.findall(r"^print\(.*\)  # (.*)$", example, re.MULTILINE)
    assert expected
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(example, "README.md", "exec"), {})
    assert output.getvalue().splitlines() == expected


# Files


def test_every_source_file_names_its_licence(repository_files):
    for path in repository_files:
        if path.suffix in SOURCES or path.name in NAMED_SOURCES:
            head = path.read_text(encoding="utf-8").splitlines()[:2]
            assert any(LICENCE in line for line in head), path


@pytest.mark.parametrize("what", UNWANTED)
def test_no_file_names(repository_files, what):
    pattern = re.compile(UNWANTED[what])
    for path in repository_files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        match = pattern.search(text)
        assert match is None, f"{path} names {what}: {match[0]}"


def test_unwanted_names_are_found():
    examples = ["https://p" + "ypi.org/simple", 'open("/t' + 'mp/x")']
    for pattern, example in zip(UNWANTED.values(), examples, strict=True):
        assert re.search(pattern, example)


def test_tests_are_collected_on_a_machine_for_gpus():
    """One module that can't be imported would stop all of `make gpu`."""
    absent = ["pennylane", "pennylane_lightning", "plotly", "qiskit", "selenium", "zarr"]
    code = f"""
import importlib.machinery
import sys

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in {absent} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
import pytest
arguments = ["--collect-only", "-qq", "-p", "no:cacheprovider", "tests", "benchmark/tests"]
sys.exit(pytest.main(arguments))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout
    # What needs none of them is still there.
    for name in ("tests/test_encodings.py", "tests/test_gradients.py"):
        assert f"{name}: " in found.stdout, name


def test_links_between_documents_lead_somewhere(repository_files):
    for path in repository_files:
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path} links to {target}"
