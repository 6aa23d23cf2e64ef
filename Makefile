# Every target sets the machine up first: `make demo` and `make test` work on a fresh clone.
#   make demo [ARGS="task=CarRun"]    PYTHON=python3.12 make setup    TORCH=torch make setup
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: setup demo test lint clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH_VERSION := 2.13.0
CPU_INDEX := https://download.pytorch.org/whl/cpu
# The benchmark's scores were published on MuJoCo 2.3; of the versions that current Pythons have, 3.3.0 is nearest.
MUJOCO := mujoco==3.3.0
# openpi-client pins numpy < 2 and works with numpy 2: tests/deploy has it talk to the server.
OPENPI := openpi-client==0.1.2
DSRL := dsrl==0.1.0 safety-gymnasium==0.4.0 bullet-safety-gym==1.4.0
STAMP := $(VENV)/setup.stamp
WORKERS ?= 2
ARGS ?=
PYTHON ?=
TORCH ?=

setup:
	@python="$(PYTHON)"
	if [ -z "$$python" ]; then
	  for candidate in $(BIN)/python python3.11 python3.12 python3.13 python3; do
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi
	  done
	fi
	if [ -z "$$python" ]; then echo "setup: no Python 3.11 or newer found; install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; fi
	version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	stamp="$$version $(TORCH) $$(cat pyproject.toml Makefile | sha256sum | cut -c1-16)"
	if [ -x $(BIN)/diffpolicy ] && [ "$$(cat $(STAMP) 2>/dev/null)" = "$$stamp" ]; then exit 0; fi
	echo "setup: Python $$version into $(VENV) (a few minutes the first time)"
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1 || [ "$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" != "$$version" ]; then
	  "$$python" -m venv --clear $(VENV) || { echo "setup: no venv; on Debian: apt-get install python$$version-venv" >&2; exit 1; }
	fi
	if [ -n "$(TORCH)" ]; then
	  $(PIP) install -q $(TORCH)
	elif $(BIN)/python -c 'import torch' 2>/dev/null; then
	  :
	elif [ "$$(uname -s)" != Linux ] || nvidia-smi -L >/dev/null 2>&1; then
	  $(PIP) install -q torch==$(TORCH_VERSION)
	elif ! $(PIP) install -q torch==$(TORCH_VERSION)+cpu 2>/dev/null; then
	  # Linux without an NVIDIA GPU: PyPI's own build would bring gigabytes of CUDA, so the CPU build or nothing.
	  $(PIP) install -q torch==$(TORCH_VERSION) --index-url $(CPU_INDEX) || {
	    echo "setup: no CPU build of PyTorch from $(CPU_INDEX); name another source: make setup TORCH='torch==$(TORCH_VERSION) --index-url URL', or take the CUDA build: make setup TORCH=torch" >&2; exit 1; }
	fi
	$(PIP) install -q -e '.[safety,collect,robotics,formats,images,export,deploy,dev]' $(MUJOCO)
	$(PIP) install -q --no-deps $(DSRL) $(OPENPI)
	case "$$version" in 3.11) ;; *) echo "setup: Python $$version: the eight Bullet tasks are unavailable (pybullet has no wheel after 3.11); all else works" ;; esac
	if ! MUJOCO_GL=$${MUJOCO_GL:-egl} $(BIN)/python -c 'import mujoco; mujoco.GLContext(8, 8)' >/dev/null 2>&1; then
	  echo "setup: no OpenGL for videos; on Debian or Ubuntu: apt-get install libegl1 libgl1-mesa-dri"
	fi
	echo "$$stamp" > $(STAMP)

demo: setup
	@MUJOCO_GL=$${MUJOCO_GL:-egl} $(BIN)/diffpolicy demo $(ARGS)

test: setup
	@export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MUJOCO_GL=$${MUJOCO_GL:-egl}
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --cov --cov-report=term --durations=15 $(ARGS)

lint: setup
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

clean:
	@rm -rf build dist .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
