# Every chore of the project, one target each. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-long servers lint bench docs clean

help: ## list the chores
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) ## count the words of the standard library with a worker, no server needed
	$(BIN)/python examples/wordcount/demo.py

test: $(STAMP) servers ## run the test suite (what CI runs)
	$(BIN)/python -m pytest

test-long: $(STAMP) servers ## run soaks, chaos and full matrices (up to an hour)
	$(BIN)/python -m pytest -m long

servers: ## install the servers of the tests, if they are missing and apt may (tests/servers starts them)
	@.ci/install-servers

lint: $(STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/mypy --strict taskq

bench: .venv-bench/.installed servers ## measure taskq beside Celery, huey, dramatiq, taskiq in one run (BENCH=options)
	.venv-bench/bin/python benchmarks/compare.py $(BENCH)

docs: $(STAMP) ## write docs/reference/ from the code
	$(BIN)/python docs/build_reference.py

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .venv-bench .mypy_cache .ruff_cache .pytest_cache build

# Reused until pyproject.toml changes.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "taskq needs Python 3.10 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

# All libraries in one environment: the same interpreter, the same clients of the servers. The last
# line is for the measuring side: tests/servers and the picture.
.venv-bench/.installed: Makefile pyproject.toml
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check celery==5.7.0 -e '.[redis]' \
		huey 'dramatiq[redis,rabbitmq]' taskiq taskiq-redis taskiq-aio-pika \
		cryptography 'psycopg[binary]' matplotlib
	@touch $@
