# Two commands: `make run` (the main job) and `make test` (everything that CI runs).
# Both first fill .venv from requirements.lock, and again when the lock changes. `make lock` makes the lock.
PYTHON ?= python3

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
PACKAGES := $(VENV)/.packages
READY := $(VENV)/.assay

# `python`, `dvc` and `assay` are this environment's, and nothing reports home.
export PATH := $(BIN):$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.DEFAULT_GOAL := help
.PHONY: help run test lock

help:
	@echo "make run    run the pipeline of params.yaml, whatever of it is not up to date"
	@echo "make test   ruff, mypy, import-linter, pytest"
	@echo "In a shell: source .venv/bin/activate, then assay --help, dvc repro, dvc metrics show, ..."

run: $(READY)
	@$(BIN)/assay run

test: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	@sh tests/os_packages.sh
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

$(READY): $(PACKAGES) pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(PACKAGES): requirements.lock
	@command -v "$(PYTHON)" > /dev/null || { \
	  echo "Assay needs Python 3.11 or newer; there is no $(PYTHON). Name one: make run PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Assay needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" -V). Name another: make run PYTHON=python3.12" >&2; \
	  exit 2; }
	"$(PYTHON)" -m venv "$(VENV)"
	$(BIN)/pip install --disable-pip-version-check --requirement requirements.lock
	@touch $@

# The newest packages that pyproject.toml allows, pinned. One onnxruntime is installed here, both are named.
TORCH := 2.13.0
GPU := (sys_platform == 'linux' and platform_machine == 'x86_64') or sys_platform == 'win32'
CPU := (sys_platform == 'linux' and platform_machine != 'x86_64') or (sys_platform != 'linux' and sys_platform != 'win32')

lock:
	set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	"$(PYTHON)" -m venv "$$folder/venv"; \
	"$$folder/venv/bin/pip" install --disable-pip-version-check --quiet "torch==$(TORCH)" setuptools ".[dev]"; \
	sed -n '/^#/p;/^[^#]/q' requirements.lock > "$$folder/lock"; \
	"$$folder/venv/bin/pip" freeze --disable-pip-version-check --all --exclude assay --exclude pip \
	  | sed -E -e 's/^(torch==[^+]*)\+.*$$/\1/' \
	    -e "s/^onnxruntime(-gpu)?==(.*)$$/onnxruntime-gpu==\2; $(GPU)\nonnxruntime==\2; $(CPU)/" >> "$$folder/lock"; \
	mv "$$folder/lock" requirements.lock
