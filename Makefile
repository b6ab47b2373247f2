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

.PHONY: bench report test gpu gpu-install gpu-versions gpu-test gpu-sanitize gpu-bench lint sanitize clean

bench: $(VENV)/.package $(VENV)/.benchmark
	$(VENV)/bin/python benchmark/benchmark_gradient.py $(BENCH)

# The report and its page, from the records in benchmark/results.
report: $(VENV)/.package $(VENV)/.benchmark
	$(VENV)/bin/python -m benchmark report

test: $(VENV)/.package $(VENV)/.test
	QDP_REQUIRE=cpu $(VENV)/bin/python -m pytest --quiet

# On a machine with an NVIDIA GPU: build, every test that runs over backends on it, the sanitizer on
# some, and the benchmark, whose records go to benchmark/results. No network is used: the package goes
# into a folder of its own beside the interpreter's packages, after the wheels of the folder WHEELS if
# that is named (with shared libraries that they need in its folder shim, if any).
# COMPUTE_SANITIZER= leaves the sanitizer out; GPU_PYTEST and GPU_BENCH add arguments to the tests and
# the benchmark.
GPU_PYTHON ?= $(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/python,$(PYTHON))
GPU_SITE := $(CURDIR)/build/gpu-site
GPU_REQUIRE ?= cpu,cuda,cuda-compile$(if $(wildcard $(WHEELS)/custatevec*.whl),$(comma)custatevec)
GPU_OUTPUT ?= benchmark/results
COMPUTE_SANITIZER ?= compute-sanitizer
comma := ,
GPU_PATH = PYTHONPATH="$(GPU_SITE)$${PYTHONPATH:+:$$PYTHONPATH}"
GPU_RUN = $(GPU_PATH) $(GPU_PYTHON)
# The pins of constraints.txt are for what is fetched; here there is what there is.
GPU_INSTALL = PIP_CONSTRAINT= PIP_BUILD_CONSTRAINT= $(GPU_RUN) -m pip install --quiet \
	--disable-pip-version-check --no-index --no-deps --no-compile --upgrade --target $(GPU_SITE)
GPU_SANITIZED = tests/test_gradients.py::test_adjoint_is_parameter_shift \
	tests/test_engine.py::test_probabilities_are_squared_amplitudes \
	tests/test_engine.py::test_fused_is_encode_then_run
# CUDA's libraries of the interpreter's packages, which the rivals' extensions look for.
CUDA_LIBRARIES = $(GPU_RUN) -c 'import glob, importlib.util as find; \
	spec = find.find_spec("nvidia"); \
	paths = spec.submodule_search_locations if spec else []; \
	print(":".join(sorted(place for path in paths for place in glob.glob(path + "/*/lib"))))'

gpu:
	$(MAKE) gpu-install
	$(MAKE) gpu-versions
	$(MAKE) gpu-test
	$(MAKE) gpu-sanitize
	$(MAKE) gpu-bench

gpu-install:
	rm -rf $(GPU_SITE)
	$(if $(WHEELS),$(GPU_INSTALL) $(wildcard $(WHEELS)/*.whl))
	$(GPU_INSTALL) --no-build-isolation .

# What runs the GPU, and where it comes from: the first to look at when a test fails.
gpu-versions:
	@$(GPU_RUN) -c 'import sys; from importlib import metadata; \
	found = {name: [*metadata.distributions(name=name)] for name in sys.argv[1:]}; \
	print(*("{} {} in {}".format(name, one[0].version, one[0].locate_file("")) if one else \
	name + " is missing" for name, one in found.items()), sep="\n")' \
	cuda-core cuda-bindings nvidia-cuda-nvrtc

gpu-test:
	QDP_REQUIRE=$(GPU_REQUIRE) $(GPU_RUN) -m pytest --quiet -k "cuda or custatevec or gpu" $(GPU_PYTEST) \
		tests benchmark/tests

# Twice: what reaches outside its memory, and what races in shared memory.
gpu-sanitize:
ifeq ($(COMPUTE_SANITIZER),)
	@echo "compute-sanitizer is left out: COMPUTE_SANITIZER is empty"
else
	@command -v $(COMPUTE_SANITIZER) > /dev/null || { echo "error: $(COMPUTE_SANITIZER) is not on \
	PATH; it comes with the CUDA toolkit; COMPUTE_SANITIZER= leaves this out" >&2; exit 2; }
	for tool in memcheck racecheck; do \
		check="$(COMPUTE_SANITIZER) --tool $$tool --error-exitcode 9 --report-api-errors no" && \
		QDP_REQUIRE=cuda $(GPU_PATH) $$check $(GPU_PYTHON) -m pytest --quiet -k cuda \
			-p no:cacheprovider $(GPU_SANITIZED) && \
		$(GPU_PATH) $$check $(GPU_PYTHON) -m benchmark.gpu_rates --quick --runs 1 \
			--parts kernels --output-dir build/gpu-sanitize || exit 1; \
	done
endif

gpu-bench:
	export LD_LIBRARY_PATH="$(if $(WHEELS),$(abspath $(WHEELS))/shim:)$$($(CUDA_LIBRARIES))$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}" && \
		$(GPU_RUN) -m benchmark.gpu_rates --output-dir $(GPU_OUTPUT) $(GPU_BENCH) && \
		$(GPU_RUN) -m benchmark.custatevec --output-dir $(GPU_OUTPUT) && \
		if $(GPU_RUN) -c 'from importlib import metadata; metadata.version("pennylane-lightning-gpu")' \
			2> /dev/null; then $(GPU_RUN) -m benchmark.batched_execution --device lightning.gpu \
			--output-dir $(GPU_OUTPUT); else echo "lightning.gpu is not installed: not taken apart"; fi

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
