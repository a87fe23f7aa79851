# Everything a developer or a newcomer calls. `make try` and `make test` make their own environment in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: try test neighbours check format lint types architecture bench clean

# make try ARGS='--password secret --port-offset 1000'
try: $(VENV)/.run
	$(BIN)/pillarbox try $(ARGS)

# All tests that need no other program, on all cores.
test: $(VENV)/.dev
	$(BIN)/pytest -m "not neighbours" -n auto

# Other mail programs from Debian, against a running pillarbox.
neighbours: $(VENV)/.dev
	sh tests/neighbours/install.sh
	$(BIN)/pytest -m neighbours

# All that a change must pass.
check: format lint types architecture test

format: $(VENV)/.dev
	$(BIN)/ruff format --check src tests bench

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests bench

types: $(VENV)/.dev
	$(BIN)/mypy

architecture: $(VENV)/.dev
	$(BIN)/pytest tests/test_architecture.py

bench: $(VENV)/.dev
	$(BIN)/python bench/run.py

# pillarbox and what it needs to run; $(VENV)/.dev has the tools of the tests as well.
$(VENV)/.run: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/.run

# Debian has ensurepip in a package of its own, without which `python3 -m venv` fails half-way.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'pillarbox needs Python 3.11 or newer ($(PYTHON) is older)' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo 'installing python3-venv'; \
	    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3-venv; \
	  else \
	    echo 'python3-venv is missing. Run: sudo apt-get install python3-venv' >&2; exit 1; \
	  fi; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
