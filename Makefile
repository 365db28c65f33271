# make demo | test | quick | lint | docs | bench | gpu | test-abi | sanitize | format | clean
#
# Each target sets up what it needs in a local virtual environment; a second call is fast, and a
# change to the native sources or the packaging builds again.
#
#   PYTHON  interpreter the environment is made from    VENV       where it lies
#   TORCH   what pip is asked for as torch              DEMO_ARGS  arguments of the demo
#   TEST_ARGS, BENCH_ARGS  arguments of pytest          TORCH_ABI  the second torch of test-abi
#   JOBS    processes that share the tests

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch torchvision
TORCH_ABI ?= torch==2.13.0
DEMO_ARGS ?= --preset demo
TEST_ARGS ?=
BENCH_ARGS ?=
JOBS ?= $(shell nproc)
# Modules whole, for their fixtures, and in order: most tests first would leave the longest for last.
PYTEST = -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
ABI_VENV := $(VENV)-abi
NATIVE := $(wildcard csrc/*/*) $(wildcard build_support/*.py) setup.py pyproject.toml
CXX_FORMATTED := $(wildcard csrc/*/* examples/*/*.cpp tests/cuda_emulation/*.h tests/cuda_emulation/*.cpp)

.PHONY: all demo test quick test-abi sanitize lint format docs bench sparseprop gpu clean setup
.DELETE_ON_ERROR:

all: test

setup: $(STAMPS)/sparselth

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "sparselth needs Python 3.10 or newer; set PYTHON" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "python3 -m venv failed: install python3-venv, or set PYTHON" >&2; exit 1; }
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: $(STAMPS)/venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@touch $@

# All but sparselth itself: what builds it, and what it, its tests and its linters import.
$(STAMPS)/requirements: $(STAMPS)/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  "setuptools>=77" wheel ninja "pybind11>=3"
	@touch $@

$(STAMPS)/sparselth: $(STAMPS)/requirements $(NATIVE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation -e '.[test,lint,docs,bench]'
	@$(BIN)/python -m build_support
	@touch $@

demo: setup
	$(BIN)/sparselth study $(DEMO_ARGS)

test: setup
	$(BIN)/python $(PYTEST) $(TEST_ARGS)

# A cut through all rooms, before the whole.
QUICK := tests/test_imports.py tests/ops/test_contract.py tests/ops/test_masked_linear.py \
  tests/ops/test_topk_mask.py tests/nn/test_masked.py tests/nn/test_norm.py tests/optim/test_sgd.py \
  tests/pruning/test_masks.py tests/training/test_recipe.py tests/study/plan/test_cells.py
quick: setup
	$(BIN)/python $(PYTEST) -q $(QUICK) $(TEST_ARGS)

# The library just built, under another torch and without building anything.
$(ABI_VENV)/.stamps/torch: $(STAMPS)/venv
	@test -x $(ABI_VENV)/bin/python || $(PYTHON) -m venv $(ABI_VENV)
	$(ABI_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  $(TORCH_ABI) numpy safetensors pyyaml typer rich pytest pytest-xdist hypothesis
	@mkdir -p $(@D) && touch $@

test-abi: setup $(ABI_VENV)/.stamps/torch
	$(ABI_VENV)/bin/python -m build_support --other-torch
	$(ABI_VENV)/bin/python $(PYTEST) tests/ops $(TEST_ARGS)

# The CPU kernels and their tests under AddressSanitizer and UndefinedBehaviorSanitizer, in a copy
# of the package. The interpreter itself is not instrumented, so the runtime is loaded first, and
# what it never frees does not count as a leak.
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -O1
sanitize: setup
	SPARSELTH_BUILD=cpu CXXFLAGS="$(SANITIZE) -g1" LDFLAGS="$(SANITIZE)" \
	  $(BIN)/python setup.py --quiet build --build-base build/sanitize --build-lib build/sanitize/lib
	PYTHONPATH=build/sanitize/lib ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$($${CXX:-g++} -print-file-name=libasan.so) $$($${CXX:-g++} -print-file-name=libubsan.so)" \
	  $(BIN)/pytest -o pythonpath=tests -p no:cacheprovider $(or $(TEST_ARGS),tests/ops -k "oracle or to_lanes or arguments")

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FORMATTED)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FORMATTED)

# The documentation as a site, in build/site. The tests build it too, elsewhere.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

# A baseline that not every machine can build. Its setup.py calls pip and python3 by name: those of
# the environment must come first.
sparseprop: setup
	@test -e $(STAMPS)/sparseprop || { \
	  PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet \
	    --disable-pip-version-check --no-build-isolation sparseprop && touch $(STAMPS)/sparseprop; \
	} || echo "SparseProp could not be installed: the benchmarks leave it out and say so" >&2

# About an hour: a process for each file, one after the other. What is stopped goes on after the last
# whole file, unless a source changed since; what was reported is measured anew.
MEASURED := $(patsubst benchmarks/%.py,build/bench/%.json,$(wildcard benchmarks/bench_*.py))
bench: setup sparseprop
	@$(MAKE) --no-print-directory --jobs=1 $(MEASURED)
	$(BIN)/python benchmarks/report.py build/bench/*.json
	$(BIN)/python benchmarks/plot.py
	@rm -r build/bench

# 5 says that BENCH_ARGS left nothing of a file to measure; without a GPU, some write nothing.
build/bench/%.json: benchmarks/%.py $(NATIVE) $(shell find sparselth kernels benchmarks -name '*.py')
	@mkdir -p $(@D)
	$(BIN)/python -m pytest $< -q --benchmark-json=$@ $(BENCH_ARGS) || test $$? = 5

# On a machine with a GPU, offline: in PYTHON's own environment, with the torch that is there. Where
# there is no make, call the script.
gpu:
	$(PYTHON) benchmarks/gpu_report.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f sparselth/*.so sparselth/_build_info.json sparselth/kernels
	rm -rf $(VENV) $(ABI_VENV)
