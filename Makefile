# Each target does all of its set-up: `make demo` and `make test` work on a fresh machine with Python, make and a C++20
# compiler. What is up to date is not done again.
#
#   make demo     a trained network made faster, on real data (ARGS="--help" shows its options)
#   make test     style, build, all tests on every instruction set of this CPU, kernels under sanitizers
#   make bench    speed against stock PyTorch over the layer table; results go to bench/results/
#   make gpu      what only an NVIDIA GPU can show: tests on it, and speed against cuDNN (PYTHON: one with CUDA torch)
#   make lint     style alone            make format   mends it
#   make build    the environment in .venv and the package in it, editable
#   make clean    removes what was built, not .venv

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_BUILD := $(BIN)/pip install --quiet --no-build-isolation --no-deps

CPP := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh')
EMULATOR := $(wildcard tests/emulator/*.cpp tests/emulator/*.h tests/emulator/cuda/*.cuh)
BUILD_INPUTS := setup.py pyproject.toml build_support/cuda_toolkit.py build_support/objects.py $(CPP)
PACKAGE := $(shell find cnnkern -name '*.py')

.NOTPARALLEL:
.PHONY: demo test bench gpu lint format build clean test-native test-emulated test-sanitized test-simde

demo: build
	$(BIN)/python -m examples.demo $(ARGS)

# The variant through SIMDe is for CPUs on which the AVX-512 kernels cannot run as they are.
HAS_AVX512 := $(shell grep -qs avx512vl /proc/cpuinfo && echo yes)
test: lint test-native test-emulated test-sanitized $(if $(HAS_AVX512),,test-simde)

bench: build
	$(BIN)/python -m bench $(ARGS)

# With the Python that is there, and from nothing but what it has: such machines often have no network.
gpu:
	$(PYTHON) -m bench.gpu $(ARGS)

$(VENV)/.requirements: requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit(f"cnnkern needs \
	Python 3.11 to 3.13, and $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	touch $@

build: $(VENV)/.build
$(VENV)/.build: $(VENV)/.requirements $(BUILD_INPUTS)
	$(PIP_BUILD) --editable .
	$(BIN)/python -m cnnkern info
	touch $@

build/sanitized/.build: $(VENV)/.requirements $(BUILD_INPUTS) $(PACKAGE)
	rm -rf build/sanitized
	CNNKERN_SANITIZE=address,undefined $(PIP_BUILD) --target build/sanitized .
	touch $@

build/simde/.build: $(VENV)/.requirements $(BUILD_INPUTS) $(PACKAGE)
	rm -rf build/simde
	CNNKERN_SIMDE=$$($(BIN)/python -c 'import simde_py; print(simde_py.get_include())') \
	  $(PIP_BUILD) --target build/simde .
	touch $@

# A process for each CPU, each of one thread but where a test asks for more; threads that wait for work do not spin.
PYTEST := $(BIN)/pytest --numprocesses auto --dist worksteal
test-native test-emulated test-sanitized test-simde: export OMP_NUM_THREADS = 1
test-native test-emulated test-sanitized test-simde: export OMP_WAIT_POLICY = passive

test-native: build
	$(PYTEST)

# Python itself is not sanitized, so the runtimes must be there first; it never frees all it allocates, and torch's
# own alignment habits are not our subject.
SANITIZED = LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so) \
  $$($(CXX) -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1

# All CUDA kernels and their bindings under other schedules, and with sanitizers; test_schedules.py has more seeds.
EMULATED_TEST = EMULATOR_EAGER=1 EMULATOR_SEED=$(1) $(PYTEST) tests/cuda -k emulated
test-emulated: build
	$(call EMULATED_TEST,1)
	EMULATOR_SANITIZE=address $(BIN)/python -m tests.emulator.build
	$(SANITIZED) EMULATOR_SANITIZE=address $(call EMULATED_TEST,2)

# A variant stands before the source tree on the path, which still holds the tests' own helpers.
VARIANT_TEST = CNNKERN_TEST_VARIANT=$(1) PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/$(1) \
  $(PYTEST) --override-ini pythonpath="build/$(1) ." tests/house/test_variant.py tests/ops

test-sanitized: build/sanitized/.build
	$(SANITIZED) $(call VARIANT_TEST,sanitized)

test-simde: build/simde/.build
	$(call VARIANT_TEST,simde) -k 'avx512 or variant'

lint: $(VENV)/.requirements
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run -Werror $(CPP) $(EMULATOR)

format: $(VENV)/.requirements
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP) $(EMULATOR)

clean:
	rm -rf build cnnkern/*.so $(VENV)/.build
