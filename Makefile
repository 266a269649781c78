# The doors of this repository. Each sets up what it needs; none needs more than python3 (>= 3.11, with venv) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# xdist: one process per core; the suite is parallel-safe.
WORKERS ?= auto

.PHONY: setup demo test check fix lock drift docs chaos clean bench-%

setup: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "agency needs Python 3.11 or newer; set PYTHON=" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: setup
	$(BIN)/agency demo

test: setup
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python scripts/lock_is_fresh.py
	$(BIN)/python -m storage.drift

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pins move only with UPGRADE=1. The hash in the header lets `make check` see offline whether the lock is stale.
lock: setup
	$(BIN)/python scripts/lock_is_fresh.py --write $(if $(UPGRADE),--upgrade)

docs: setup
	$(BIN)/python scripts/render_docs.py

bench-%: setup
	$(BIN)/python -m benchmarks.$(subst -,.,$*) $(ARGS)

# Every moment that a test run only samples, then KILLS random deaths of two workers under load.
KILLS ?= 1000
chaos: setup
	$(BIN)/pytest -n $(WORKERS) --dist worksteal --timeout 7200 --every-moment tests/faults
	$(BIN)/python -m benchmarks.chaos --kills $(KILLS) $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
