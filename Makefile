# Everything runs in .venv, which the first target that needs it makes. PYTHON=… chooses another interpreter.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
BIN := .venv/bin
STAMP := .venv/.installed
CLI := .venv/.cli

.DEFAULT_GOAL := help
.PHONY: help setup test lint types crash crash-short reliability reliability-short bench demo check clean

help:
	@echo "make setup    create .venv with everything in it"
	@echo "make test     the tests"
	@echo "make lint     ruff"
	@echo "make types    mypy --strict"
	@echo "make crash    kill processes at every commit (crash-short: a sample of it)"
	@echo "make reliability  every promise with its cases, and how many did not hold (reliability-short: fewer of them)"
	@echo "make bench    the benchmarks"
	@echo "make demo     an order through a durable workflow"
	@echo "make check    what CI runs"
	@echo "make clean    remove what was made"

setup: $(STAMP)

# The demo needs no more than the command line.
$(CLI): pyproject.toml
	@test -n "$(PYTHON)" || { echo "durable-flow needs Python 3.11 or newer; none was found. Name one with PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/pip || "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/pip || "$(PYTHON)" -m venv --clear .venv
	@echo "installing into .venv …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[cli]"
	@touch $@

$(STAMP): $(CLI)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[all]" --group dev
	@touch $@

test: setup
	$(BIN)/python -m pytest -q -n auto --dist worksteal $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

crash: setup
	$(BIN)/python -m tests.crash

crash-short: setup
	$(BIN)/python -m tests.crash --short

reliability: setup
	$(BIN)/python -m tests.reliability

reliability-short: setup
	$(BIN)/python -m tests.reliability --short

bench: setup
	$(BIN)/python -m benchmarks

demo: $(CLI)
	$(BIN)/python examples/order_fulfillment/demo.py

check:
	bash .ci/run

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
