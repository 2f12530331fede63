# `make run` and `make test` are all that a newcomer needs; each sets up what it uses.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
TYPED := queue_node partitions api bench sdk docs tests

# The first Python on the path that is new enough; `make PYTHON=...` says otherwise.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help setup run test lint demo bench docs fmt lock clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(STAMP) ## virtual environment in .venv with the locked dependencies and `queue-node`

$(STAMP): requirements.txt requirements-dev.txt pyproject.toml sdk/pyproject.toml
	@test -n "$(PYTHON)" || { echo >&2 "make: needs Python 3.11 or newer with venv\
	 (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e . -e sdk
	@touch $@

run: $(STAMP) ## serve on http://127.0.0.1:8080 with the embedded key store (data in ./data)
	@# exec: a signal to make reaches the node, and not a shell that dies without telling it.
	PORT=$${PORT:-8080} exec $(BIN)/queue-node serve

test: lint ## format, lint, types, import contracts, then every test
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(PYTEST)

lint: $(STAMP) ## the quick half of `make test`
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(TYPED)
	$(BIN)/pyright
	@# Its report is long, and worth reading only when a type is missing.
	@report=$$(PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH=sdk $(BIN)/pyright --ignoreexternal \
	  --verifytypes queue_node_sdk) || { echo "$$report"; exit 1; }
	$(BIN)/lint-imports --no-logo

demo: $(STAMP) ## the main job on real input: hash every file of Python's standard library
	$(BIN)/queue-node demo

bench: $(STAMP) ## durable submits per second on this machine
	$(BIN)/queue-node bench submit

docs: $(STAMP) ## docs/sdk-reference.md, from the docstrings of the SDK
	$(BIN)/python docs/make_reference.py

fmt: $(STAMP) ## format, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(STAMP) ## resolve the dependencies anew into requirements*.txt
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet pip-tools
	CUSTOM_COMPILE_COMMAND="make lock" build/lock/bin/pip-compile --quiet --strip-extras \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --output-file requirements.txt pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" build/lock/bin/pip-compile --quiet --strip-extras \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --allow-unsafe --extra dev --constraint requirements.txt \
	  --output-file requirements-dev.txt pyproject.toml

clean: ## everything that can be made again (not ./data)
	rm -rf $(VENV) build dist sdk/build *.egg-info sdk/*.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
