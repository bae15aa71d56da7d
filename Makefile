# The verbs of this repository; `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
# One worker for the tests of a file, which share fixtures and what they compile.
FAST := $(PY) -m pytest -m "not slow" -n 2 --dist loadfile
PIP_INSTALL := $(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)

.PHONY: help install quickstart test test-slow test-all check format bench learn heldout calibration clean

help: # not a verb: printed by `make` alone
	@printf 'rlscale: make <verb>\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\n  PYTHON=python3.12 chooses the interpreter, PIP_FLAGS=... is passed to pip.\n'

install: $(STAMP) ## make .venv with the tested versions (once; again when they change)

quickstart: install ## the whole loop on two small tasks: sweep, laws, fitted sweep, report
	$(PY) -m launchers.quickstart

test: install ## the fast tests
	$(FAST)

test-slow: install ## the slow tests: real command lines, kills, engines, learners that learn
	$(PY) -m pytest -m slow -n 2 --durations 15

test-all: install ## every test
	$(PY) -m pytest -n 2

check: install ## what a commit must pass: format, lint, types, fast tests
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(FAST)

format: install ## rewrite the code in the house format
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .

bench: $(BENCH_STAMP) ## speed, beside Stable-Baselines3-JAX (installs torch, see setup.cfg)
	$(PY) -m tests.bench

learn: install ## learning checks against published curves (long)
	$(PY) -m tests.learning

heldout: install ## the laws against the authors' largest σ, kept out of the fit
	$(PY) -m tests.heldout

calibration: install ## do 95 % intervals hold the truth? 200 simulated studies
	$(PY) -m tests.calibration

clean: ## remove caches and build files; .venv and study stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# A venv that cannot be made is removed: half of one would pass for whole the next time.
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo 'rlscale needs Python 3.11, 3.12 or 3.13: install one and name it, make PYTHON=python3.11 ...' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null || { rm -rf $(VENV); \
	  echo '$(PYTHON) cannot make a virtual environment: run "apt-get install python3-venv" as root, then make again.' >&2; \
	  exit 1; }

$(STAMP): setup.cfg pyproject.toml constraints.txt | $(PY)
	@echo 'installing into $(VENV) (about 2.5 GB, a minute or two) ...'
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@

# A CPU-only machine can save the download of torch's GPU libraries: give PIP_FLAGS the source of torch's CPU wheels.
$(BENCH_STAMP): $(STAMP)
	@echo 'installing the bench extra into $(VENV) (torch: large) ...'
	@$(PIP_INSTALL) -e '.[dev,bench]'
	@touch $@
