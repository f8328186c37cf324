# Everything here makes its own environment: Python 3.11 or later and make are all that is needed beforehand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# More arguments for pytest, such as PYTEST='-k copy -x'. Tests that share servers of their own, or a load, stay together.
PYTEST ?= -n 2 --dist loadgroup
# How long `make soak` lasts.
SECONDS ?= 600
# How many times rows are handed over by it.
HANDOVERS ?= 200
# The operating system's oldest PostgreSQL, for moves; before version 16 they stream one way at a time.
OLD_PROGRAMS ?= $(firstword $(sort $(wildcard /usr/lib/postgresql/*/bin)))

PIP := python -m pip --quiet --disable-pip-version-check install
EXTRAS := local,shell,prometheus,otel,edit
# Every version, with the hashes of its files. `make upgrade` writes them anew, within the ranges of pyproject.toml.
LOCKS := requirements/dev.txt requirements/data.txt
COMPILE = UV_CUSTOM_COMPILE_COMMAND="make upgrade" $(BIN)/uv pip compile --quiet --upgrade --no-emit-index-url \
	--universal --python-version 3.11 --generate-hashes

# What removes the containers of a killed test run is an image too, and may be missing where none can be pulled.
RYUK = $(shell docker image inspect testcontainers/ryuk:0.8.1 > /dev/null 2>&1 || echo TESTCONTAINERS_RYUK_DISABLED=true)

.PHONY: demo test test-latest test-lowest images compose-test test-docker kubernetes-check matrix package check oracle moves bench soak sync upgrade clean

# The stamp is newer than what it was made from, so that an edit of pyproject.toml or of the locks installs again.
$(VENV)/.installed: pyproject.toml $(LOCKS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) --require-hashes --requirement requirements/dev.txt
	$(BIN)/$(PIP) --require-hashes --no-deps --requirement requirements/data.txt
	$(BIN)/$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

demo: $(VENV)/.installed  ## four real servers, real data, look-ups, scatter, a batch
	$(BIN)/shardpool demo

test: $(VENV)/.installed  ## unit tests, and integration tests on real servers
	$(BIN)/python -m pytest $(PYTEST)

# The ranges of pyproject.toml hold: tested with the newest versions that they allow, and with the lowest.
test-latest: $(VENV)/.installed  ## the tests with the newest versions of everything
	$(PYTHON) -m venv --clear $(VENV)-latest
	$(VENV)-latest/bin/$(PIP) --upgrade pip
	$(VENV)-latest/bin/$(PIP) --editable '.[$(EXTRAS)]' --group test
	$(VENV)-latest/bin/$(PIP) --no-deps --group data
	$(VENV)-latest/bin/python -m pytest $(PYTEST)

test-lowest: $(VENV)/.installed  ## the tests with the lowest versions of what the package depends on
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --all-extras pyproject.toml --output-file $(VENV)/lowest.txt
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/$(PIP) --upgrade pip
	$(VENV)-lowest/bin/$(PIP) --constraint $(VENV)/lowest.txt --editable '.[$(EXTRAS)]' --group test
	$(VENV)-lowest/bin/$(PIP) --no-deps --group data
	$(VENV)-lowest/bin/python -m pytest $(PYTEST)

# An official image of PostgreSQL that was pulled is used as it is.
images: $(VENV)/.installed  ## images where none can be pulled; needs Docker, debootstrap and root
	VENV=$(VENV) deploy/images/build

compose-test: $(VENV)/.installed  ## docker-compose.yml with config/topology.yaml; needs Docker, and images
	SHARDPOOL_TEST_CONTAINERS=compose $(BIN)/python -m pytest -n 0 tests/containers/test_compose.py

package: $(VENV)/.installed  ## build the package, and use it in an empty environment; needs PyPI
	$(BIN)/python tools/package.py

matrix: $(VENV)/.installed  ## the tests on PostgreSQL 14 to 18, or on MATRIX='14 16', one after the other: hours
	$(BIN)/python tools/matrix.py $(MATRIX) --pytest '$(PYTEST)'

test-docker: $(VENV)/.installed  ## servers in containers: hosts that fail, and the integration tests; needs Docker, and images
	SHARDPOOL_TEST_CONTAINERS=hosts $(BIN)/python -m pytest -n 0 tests/containers/test_hosts.py \
		tests/containers/test_moves.py tests/containers/test_image.py
	SHARDPOOL_TEST_BACKEND=docker $(RYUK) $(BIN)/python -m pytest $(PYTEST) tests/integration tests/migrations tests/oracle

kubernetes-check:  ## the example for Kubernetes against its schemas; needs PyPI
	$(BIN)/uv tool run --from kubernetes-validate==1.37.0 kubernetes-validate --strict deploy/kubernetes/*.yaml

check: $(VENV)/.installed  ## types, lint, import contracts, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/unasync.py --check
	$(BIN)/python tools/schema.py --check
	$(BIN)/python tools/cli_reference.py --check
	$(BIN)/python tools/config_reference.py --check
	$(BIN)/python tools/limits.py --check
	$(BIN)/python tools/dashboard.py --check
	$(BIN)/pip-audit --requirement requirements/dev.txt --require-hashes --disable-pip --progress-spinner off \
		--output $(VENV)/audit.txt

oracle: $(VENV)/.installed  ## many more random statements and transactions, and TPC-H at a larger scale
	SHARDPOOL_ORACLE_STATEMENTS=50000 SHARDPOOL_ORACLE_TRANSACTIONS=10000 \
		SHARDPOOL_ORACLE_SEED=$${SEED:-$$(date +%j)} SHARDPOOL_TPCH_SCALE=0.1 \
		$(BIN)/python -m pytest $(PYTEST) tests/oracle

moves: $(VENV)/.installed  ## rows that move under load: movers and servers that are killed at every step; on OLD_PROGRAMS as well
	SHARDPOOL_TEST_MOVES=all $(BIN)/python -m pytest $(PYTEST) tests/moves
	$(if $(OLD_PROGRAMS),SHARDPOOL_PG_BINDIR=$(OLD_PROGRAMS) SHARDPOOL_TEST_MOVES=all $(BIN)/python -m pytest $(PYTEST) tests/moves)

bench: $(VENV)/.installed  ## ratios against baselines, on real servers
	$(BIN)/python -m benchmarks

soak: $(VENV)/.installed  ## random faults under load for SECONDS= (ten minutes), and HANDOVERS= of moving rows (200)
	$(BIN)/python -m tests.faults --seconds $(SECONDS)
	SHARDPOOL_TEST_MOVES=all SHARDPOOL_TEST_HANDOVERS=$(HANDOVERS) $(BIN)/python -m pytest -n 0 -s \
		tests/moves/test_under_load.py -k many_hand_overs

sync: $(VENV)/.installed  ## generate what is generated
	$(BIN)/python tools/unasync.py
	$(BIN)/python tools/schema.py
	$(BIN)/python tools/cli_reference.py
	$(BIN)/python tools/config_reference.py
	$(BIN)/python tools/limits.py
	$(BIN)/python tools/dashboard.py

upgrade: $(VENV)/.installed  ## lock the newest versions that pyproject.toml allows
	$(COMPILE) pyproject.toml --all-extras --group test --group check --group bench --group build --group lock \
		--output-file requirements/dev.txt
	$(COMPILE) --no-deps --group data --output-file requirements/data.txt
	$(COMPILE) pyproject.toml --extra prometheus --constraint requirements/dev.txt --output-file requirements/image.txt

clean:
	rm -rf $(VENV) $(VENV)-latest $(VENV)-lowest build dist .mypy_cache .ruff_cache .pytest_cache
