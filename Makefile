# Every target sets up its own virtual environment in .venv first; a bare machine with Python >= 3.11 is enough.
#
#   make demo PYTHON=/path/to/python3.12     another Python
#   make setup TORCH='torch==2.14.1'         another torch
#   make setup LOCK=.ci/dev.lock             the very files that the lock names (Linux x86-64, Python 3.11)
#   PYTEST_ADDOPTS=--full make test          all combinations, where it takes a sample otherwise
#   make gpu READY= BIN=/path/to/bin         no setup: the Python at hand, with what it has (offline)

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first Python on PATH that is new enough; `python3` itself where none is, so that the message below names it.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; exit; }; done; echo python3)
VENV ?= .venv
# Installed first and by version: an open requirement would fetch the newest torch and, on Linux, the CUDA packages
# that go with it.
TORCH ?= torch==2.13.0

# Arguments of `make fuzz`.
FUZZ ?= --inputs 5000 --seed $(shell date +%s)

# Seconds for each reader, led by coverage, where atheris is installed.
GUIDED ?= 30

# Test processes; files of tests are shared out among them.
WORKERS ?= auto

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready

.PHONY: help setup demo test check bench gpu fuzz soak lowest newest lock audit miniature clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## make .venv and install ttc in it, editable, with all that development needs

demo: $(READY) ## export the built-in miniature and watch it fill blocks of text
	$(BIN)/ttc demo --export

test: $(READY) ## the tests that this machine can run; of many combinations a sample
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: $(READY) ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

miniature: $(READY) ## after its weights or the exporter changed: its bundle, the picture and the tables in the documents anew
	$(BIN)/python -m examples.miniature.bundle
	$(BIN)/ttc generate miniature --example story --save-steps docs/pictures/block.svg
	$(BIN)/python -m benchmarks.tables

bench: $(READY) ## measure the backends on the miniature and print the ratios
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/export_real_size.py

fuzz: $(READY) ## mutated files for every reader, for some minutes (FUZZ="--inputs 100000" for more)
	$(BIN)/python -m tests.fuzz.run $(FUZZ)
	@if $(BIN)/python -c 'import atheris' 2> /dev/null; then \
		for reader in $$($(BIN)/python -m tests.fuzz.run --list); do \
			$(BIN)/python -m tests.fuzz.guided $$reader --seconds $(GUIDED) || exit 1; done; \
	else echo "no atheris in $(VENV): nothing was led by coverage ($(PIP) install atheris)"; fi

lowest: ## the run time with the lowest versions that pyproject.toml allows, in an environment of its own
	"$(PYTHON)" .ci/lowest.py

newest: ## the same with the newest versions, of the newest Python at hand (PYTHON=/path/to/python3.14)
	"$(PYTHON)" .ci/lowest.py --newest

soak: $(READY) ## 100,000 generations and 1000 loads, then threads for ten minutes: nothing grows, nothing hangs
	$(BIN)/python -m tests.soak.run
	$(BIN)/python -m tests.soak.threads

lock: $(READY) ## write .ci/dev.lock: what this .venv has, by version and digest
	$(BIN)/python .ci/lock.py

audit: $(READY) ## known vulnerabilities of what .ci/dev.lock lists, where a database answers
	$(BIN)/python .ci/audit.py

gpu: $(READY) ## on a GPU: its stages at the real size, into benchmarks/results (or $$OUT), and a table
	$(BIN)/python -m benchmarks.gpu

clean: ## remove .venv, builds and caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "ttc needs Python >= 3.11; $(PYTHON) is $$("$(PYTHON)" --version 2>&1 || true)." \
			"Name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$("$(PYTHON)" --version). This happens once and takes a few minutes."
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) install '$(TORCH)'
	$(if $(LOCK),$(PIP) install --no-deps --require-hashes -r $(LOCK))
	$(PIP) install $(if $(LOCK),--no-deps --no-build-isolation) -e '.[export,dev]'
	@touch $@
