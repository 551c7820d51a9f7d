# Everything runs in .venv, installed from the locks. `make help` lists the commands.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps
LOCK := uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header

# the tests start hundreds of processes, each of which would compile all of tuner
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo benchmark check format unit test coverage soak services lock clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make .venv and install the locked packages into it

$(INSTALLED): requirements.lock requirements-assets.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "tuner needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.13 ..." >&2; exit 1; }
	@echo "Installing the locked packages into .venv; the first time this takes a minute or two ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --require-hashes --no-build-isolation -r requirements-assets.lock
	@$(PIP) --no-build-isolation --editable . --editable ./client
	@touch $@

demo: $(INSTALLED)  ## search studies/animals.yaml with two workers, the dashboard beside it
	$(BIN)/tuner run studies/animals.yaml --workers 2 --dashboard

benchmark: .venv-benchmark/.installed  ## tuner beside its peers: DATA="animals NAME" NPZ=NAME.npz MORE=MORE.npz SEEDS="0 1" MINUTES=12 CONTENDERS=".." WORKERS=1 EPOCHS=6 FORCE=1
	.venv-benchmark/bin/python -m benchmarks.peers.run $(BENCHMARK)

# variables that are not given are left to benchmarks/peers/run.py
BENCHMARK = $(foreach name,DATA NPZ MORE SEEDS MINUTES CONTENDERS WORKERS EPOCHS THREADS RESULTS,$(if $($(name)),--$(shell echo $(name) | tr A-Z a-z) $($(name)))) $(if $(FORCE),--force)

.venv-benchmark/.installed: requirements-benchmark.lock requirements-assets.lock
	@echo "Installing the peers into .venv-benchmark ..."
	@$(PYTHON) -m venv .venv-benchmark
	@$(PIP:$(BIN)/%=.venv-benchmark/bin/%) --require-hashes -r requirements-benchmark.lock
	@$(PIP:$(BIN)/%=.venv-benchmark/bin/%) --require-hashes --no-build-isolation -r requirements-assets.lock
	@$(PIP:$(BIN)/%=.venv-benchmark/bin/%) --no-build-isolation --editable .
	@touch $@

check: $(INSTALLED)  ## lint, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED)  ## mend what lint and formatting can mend by themselves
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# one process more than cores, since many tests wait for others; at most four
PYTEST = pytest -n $(shell cores=$$(nproc); [ $$cores -lt 3 ] && echo $$((cores + 1)) || echo 4) --dist loadfile --no-loadscope-reorder

unit: $(INSTALLED)  ## the tests that need no TensorFlow, no server, no browser and no process; under a minute
	$(BIN)/$(PYTEST) -m unit

test: check services  ## check, then the whole suite
	$(BIN)/$(PYTEST)

coverage: services  ## the whole suite, and how much of tuner it runs: the total, and the modules below 80 %
	@rm -rf .coverage
	@mkdir .coverage
	$(BIN)/coverage run -m $(PYTEST)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report | awk 'NR <= 2 || /^TOTAL/ || ($$NF + 0 < 80 && /%$$/)'

soak: $(INSTALLED)  ## the long form of tests/faults: twenty kills, outages of a minute
	SOAK=1 $(BIN)/pytest tests/faults

# The packages of Debian that the tests need and this machine lacks. Those of MariaDB come without a service, so none is started.
# That of PgBouncer brings one, which listens on port 6432 of this machine and knows no database; the tests do not use it.
MISSING = { [ -n "$$CHROMIUM" ] || command -v chromium; } >/dev/null || echo chromium; \
  $(BIN)/playwright --version >/dev/null 2>&1 || echo libatomic1; \
  { command -v mariadbd || [ -x /usr/sbin/mariadbd ]; } >/dev/null || echo mariadb-server-core; \
  command -v my_print_defaults >/dev/null || echo mariadb-client-core; \
  { command -v pgbouncer || [ -x /usr/sbin/pgbouncer ]; } >/dev/null || echo pgbouncer

services: $(INSTALLED)
	@missing=$$(echo $$($(MISSING))); [ -z "$$missing" ] || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null 2>&1; } || { \
	  echo "The tests need packages that are missing: sudo apt-get install --no-install-recommends $$missing" >&2; exit 1; }

lock:  ## choose new versions for the locks (needs uv)
	$(LOCK) --group dev pyproject.toml -o requirements.lock
	$(LOCK) --no-deps --group assets -o requirements-assets.lock
	$(LOCK) --constraint requirements.lock --extra s3 --extra notify --extra oidc pyproject.toml -o deploy/run.lock
	$(LOCK) --constraint requirements.lock --group build -o deploy/build.lock
	$(LOCK) --constraint requirements.lock --group benchmark pyproject.toml -o requirements-benchmark.lock

clean:  ## remove .venv and the caches
	rm -rf .venv .venv-benchmark .mypy_cache .pytest_cache .ruff_cache
