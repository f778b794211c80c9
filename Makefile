# `make demo` and `make test` need Python 3.10 or newer and nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-routers test-backends test-faults bench check clean

demo: $(VENV)/.ready
	$(BIN)/otel-lifecycle demo $(DEMO_ARGS)

test: $(VENV)/.ready
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: $(VENV)/.ready
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# Real routers of the registry, each in an environment of its own.
test-routers: $(VENV)/.ready-tox
	$(BIN)/tox run $(TOX_ARGS)

# A collector, Jaeger and Prometheus, built by Go into .cache/backends the first time.
test-backends: $(VENV)/.ready-backends
	scripts/install-backends
	$(BIN)/python -m pytest -m backends $(PYTEST_ARGS)

# FAULT_TABLE=docs/durability.md writes what was found into the page, FAULT_RECORDS=10000000 has
# that many records followed.
test-faults: $(VENV)/.ready
	$(BIN)/python -m pytest -m faults $(PYTEST_ARGS)

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks.hot_path
	$(BIN)/python -m benchmarks.exposition
	$(BIN)/python -m benchmarks.event_loop_lag

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, $(PYTHON) is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VENV)/.ready-tox: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'tox>=4.30' 'tox-uv>=1.28'
	touch $@

$(VENV)/.ready-backends: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[backends]'
	touch $@

clean:
	rm -rf $(VENV) .tox .pytest_cache .hypothesis .ruff_cache dist
