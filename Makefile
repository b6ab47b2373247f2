# SPDX-License-Identifier: Apache-2.0
# Set-up, benchmark, tests: `make bench` and `make test` are all that a fresh machine needs, given
# Python >= 3.11 (with venv and headers), make, git and g++. CMake and ninja are fetched when absent.
# The stamps in the environment say what is installed; the package's is renewed by all it is made of.

PYTHON ?= python3
VENV ?= .venv
BENCH ?= --dataset digits --n-qubits 6 --n-layers 2 --n-samples 100 500 --time-limit 6 --verify \
	--output-dir results

SOURCES := pyproject.toml CMakeLists.txt constraints.txt README.md LICENSE \
	$(wildcard native/* src/qdp/backends/kernels/*) $(shell find src -name '*.py')
SANITIZED := build/sanitize
# Optimised further, instrumented kernels take many minutes to compile; what comes last counts.
SANITIZE_RULE := <CMAKE_CXX_COMPILER> <DEFINES> <INCLUDES> <FLAGS> -O1 -g1 \
	-fsanitize=address,undefined -fno-sanitize-recover=undefined -o <OBJECT> -c <SOURCE>
SANITIZED_PYTHON = ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=$(SANITIZED) \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	QDP_REQUIRE=cpu $(VENV)/bin/python

# The constraints hold inside pip's isolated builds as well (by the second name in newer pips).
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
requirements = $$($(VENV)/bin/python -c 'import sys, tomllib; \
	extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	print(*(one for name in sys.argv[1:] for one in extras[name]))' $(1))

.PHONY: bench report test gpu lint sanitize clean

bench: $(VENV)/.package $(VENV)/.benchmark
	$(VENV)/bin/python benchmark/benchmark_gradient.py $(BENCH)

# The report and its page, from the records in benchmark/results.
report: $(VENV)/.package $(VENV)/.benchmark
	$(VENV)/bin/python -m benchmark report

test: $(VENV)/.package $(VENV)/.test
	QDP_REQUIRE=cpu $(VENV)/bin/python -m pytest --quiet

# On a machine with an NVIDIA GPU: every test that runs over backends, on it as well.
gpu: $(VENV)/.package $(VENV)/.test
	QDP_REQUIRE=cpu,cuda,cuda-compile $(VENV)/bin/python -m pytest --quiet tests/test_cuda.py \
		tests/test_engine.py tests/test_gradients.py

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

# Address and undefined-behaviour sanitizers over the extension; the interpreter itself has none.
# Forking beside running threads is left to `make test`: the sanitizer's allocator keeps the lock
# that another thread held at that moment, and the child waits for it for ever.
sanitize: $(VENV)/.package $(VENV)/.test
	rm -rf $(SANITIZED)
	$(INSTALL) --no-deps --target $(SANITIZED) -Cinstall.strip=false \
		-Cbuild-dir=build/sanitize-objects \
		-Ccmake.define.CMAKE_CXX_COMPILE_OBJECT="$(SANITIZE_RULE)" \
		-Ccmake.define.CMAKE_MODULE_LINKER_FLAGS=-fsanitize=address,undefined .
	$(SANITIZED_PYTHON) -c 'from qdp import _core; assert "$(SANITIZED)" in _core.__file__'
	$(SANITIZED_PYTHON) -m pytest --quiet -p no:cacheprovider tests/test_cpu.py tests/test_program.py \
		--deselect tests/test_cpu.py::test_calls_work_after_a_fork
	QDP_EMULATION_FLAGS="-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
		$(SANITIZED_PYTHON) -m pytest --quiet -p no:cacheprovider tests/test_cuda.py \
		-k "emulated or chunks or fidelity"

clean:
	rm -rf build dist $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The package is built once for all: what else the extras name is installed beside it.
$(VENV)/.package: $(SOURCES) | $(VENV)/bin/python
	$(INSTALL) .
	touch $@

$(VENV)/.benchmark: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) $(call requirements,benchmark)
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) $(call requirements,benchmark test cuda)
	touch $@

# mypy reads torch's types as well as NumPy's.
$(VENV)/.lint: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) $(call requirements,benchmark lint)
	touch $@
