# The environment is made once for each state of the lock; every other target asks for it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# uv takes a sixth of pip's time; pip is for who reaches its packages by pip's own settings alone.
# Both compile what they install: where PYTHONDONTWRITEBYTECODE is set nothing else ever does, and
# every kernel of the book would compile all that it imports.
UV := $(BIN)/uv pip install -q --no-cache --compile-bytecode --python $(BIN)/python

.DEFAULT_GOAL := help

.PHONY: help
help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c "import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f'Python {v[0]}.{v[1]} found; 3.11 to 3.13 needed: make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check $$(grep '^uv==' requirements.lock)
	$(UV) -r requirements.lock || $(BIN)/pip install -q -r requirements.lock
	$(UV) --no-deps -e . || $(BIN)/pip install -q --no-deps -e .
	touch $@

.PHONY: env
env: $(READY)  ## make the environment in .venv from requirements.lock

.PHONY: book
book: $(READY)  ## build the book from nothing: environment, simulated people, site
	$(BIN)/python -m analysis simulate
	$(BIN)/jupyter-book build book/
	@echo "The book is in book/_build/html. To read it: $(BIN)/python -m http.server -d book/_build/html, then open http://localhost:8000"

.PHONY: test
test: $(READY)  ## run the checks and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbqa "ruff check --extend-select F821" notebooks/
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

STUDY ?= default
.PHONY: study
study: $(READY)  ## run a study on this machine: make study STUDY=default, or another of workflow/studies
	$(BIN)/snakemake --workflow-profile workflow/profiles/local --config 'study=workflow/studies/$(STUDY).yaml'

.PHONY: test-slurm
test-slurm: $(READY)  ## run the tiny study on a Slurm of one node that it starts and stops (as root, Debian)
	$(BIN)/python -m pytest -s -p no:cacheprovider -c /dev/null --rootdir workflow workflow/slurm_test

.PHONY: lock
lock: $(READY)  ## resolve pyproject.toml into requirements.lock, keeping what still fits
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --all-extras --no-annotate --no-emit-index-url --custom-compile-command "make lock" pyproject.toml -o requirements.lock

.PHONY: clean
clean:  ## remove the built book, not the data
	rm -rf book/_build book/notebooks book/runs
