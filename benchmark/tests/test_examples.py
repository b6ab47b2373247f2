# SPDX-License-Identifier: Apache-2.0
"""The examples in docstrings of the benchmark's modules run and say what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from benchmark import core

MODULES = [found.name for found in pkgutil.walk_packages(core.__path__, "benchmark.core.")]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name}: {error}")
    assert doctest.testmod(module).failed == 0


def test_examples_are_found():
    import benchmark.core.report

    assert doctest.testmod(benchmark.core.report).attempted >= 3
