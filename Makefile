# `make demo` and `make test` need Python 3.10 or newer and nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PEERS ?= .cache/peers

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
# that many records followed, SOAK_REQUESTS=200000 sends that many through each router.
test-faults: $(VENV)/.ready
	$(BIN)/python -m pytest -m faults $(PYTEST_ARGS)

# About five minutes, into benchmarks/RESULTS.md; the peers have an environment of their own.
bench: $(VENV)/.ready $(PEERS)/.ready
	PYTHONPATH=examples $(PEERS)/bin/python -m benchmarks
	$(BIN)/python -m benchmarks.exposition

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

# All at once, so that their versions fit; else one by one: what cannot be installed is missing alone,
# and named in the results.
$(PEERS)/.ready: PIP = $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check
$(PEERS)/.ready: pyproject.toml benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PIP) --editable . --requirement benchmarks/peers/requirements.txt || { \
	  $(PIP) --editable . && grep -v '^#' benchmarks/peers/requirements.txt | \
	  while read -r peer; do $(PIP) "$$peer" || true; done; }
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) .tox .pytest_cache .hypothesis .ruff_cache dist
