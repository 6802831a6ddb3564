# Two commands: `make run` (the main job) and `make test` (everything that CI runs).
# Both first make .venv from requirements.lock; they make it anew when the lock changes.
PYTHON ?= python3

VENV := $(CURDIR)/.venv
PACKAGES := $(VENV)/.packages
READY := $(VENV)/.assay

# `python`, `dvc` and `assay` are this environment's, and nothing reports home.
export PATH := $(VENV)/bin:$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.DEFAULT_GOAL := help
.PHONY: help run test

help:
	@echo "make run    run the pipeline of params.yaml, whatever of it is not up to date"
	@echo "make test   ruff, mypy, import-linter, pytest"
	@echo "In a shell: source .venv/bin/activate, then assay --help, dvc repro, dvc metrics show, ..."

run: $(READY)
	@assay run

test: $(READY)
	ruff check
	ruff format --check
	mypy
	lint-imports
	pytest

$(READY): $(PACKAGES) pyproject.toml
	pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(PACKAGES): requirements.lock
	@command -v "$(PYTHON)" > /dev/null || { \
	  echo "Assay needs Python 3.11 or newer; there is no $(PYTHON). Name one: make run PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Assay needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" -V). Name another: make run PYTHON=python3.12" >&2; \
	  exit 2; }
	"$(PYTHON)" -m venv "$(VENV)"
	pip install --disable-pip-version-check --requirement requirements.lock
	@touch $@
