# Needs make, Python 3.11 or newer and a package registry; `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
# --no-compile: modules are compiled when first imported, which halves the time of a set-up. They
# must be kept then: without, each process compiles them again, for ten seconds and more.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt

.DEFAULT_GOAL := help
# Two targets at once would install into one environment at once.
.NOTPARALLEL:
.PHONY: help demo study-demo benchmark-demo test lint bench dev clean

help:
	@echo 'make demo   train, export and generate on embedded data; 10 minutes on two CPU cores'
	@echo 'make study-demo  a human study of drawn images, its raters simulated, and its report'
	@echo 'make benchmark-demo  every method on 32 held-out demo scenes, and the report'
	@echo 'make test   run the default tests, a process a core'
	@echo 'make lint   ruff check, ruff format --check, pyright'
	@echo 'make bench  run the benchmarks'
	@echo 'make dev    only install: the package and its development tools'
	@echo 'make clean  remove .venv and caches; runs and data stay'
	@echo
	@echo 'Each makes .venv if needed. Options: PYTHON=python3.11 VENV=.venv'
	@echo 'Linux without a GPU: take torch without CUDA, which is some gigabytes less:'
	@echo '  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo'

demo: $(VENV)/.runtime
	$(BIN)/anyscene demo

study-demo: $(VENV)/.study
	$(BIN)/anyscene study demo

benchmark-demo: $(VENV)/.runtime
	$(BIN)/anyscene benchmark demo

test: $(VENV)/.dev
	$(BIN)/pytest -n logical --maxprocesses 8 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.runtime
	@set -e; set -- benchmarks/*.py; \
	[ -f "$$1" ] || { echo 'benchmarks/ holds no benchmark yet'; exit 0; }; \
	for file; do echo "$$file"; $(BIN)/python "$$file"; done

dev: $(VENV)/.dev

clean:
	rm -rf .venv build dist *.egg-info .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Stamps: an environment is made once, and installed again when the versions wanted change.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'anyscene needs Python 3.11 or newer, $(PYTHON) is not: make PYTHON=python3.11' >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) -e .
	@touch $@

$(VENV)/.study: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) -e '.[study]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.runtime $(VENV)/.study
