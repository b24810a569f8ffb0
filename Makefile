# One virtual environment, two installs: `demo` needs only what runs Presurge, everything else needs what tests it too.
# pip's own variables (PIP_INDEX_URL, PIP_FIND_LINKS, PIP_NO_INDEX, …) say where wheels come from.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint format lines bench docs freeze clean

VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
WORKERS ?= 2
ONLY ?= *

# The first Python on the path that is new enough and can make environments.
PYTHON ?= $(shell for python in python3.11 python3 python3.13 python3.12; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

INSTALL = $(BIN)/python -m pip install --quiet --only-binary :all: -c constraints.txt
SMALL := $(VENV)/.installed-small
FULL := $(VENV)/.installed-full

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: $(SMALL) ## Run the main job on an embedded synthetic trace: accuracy table, forecast, HTML report
	$(BIN)/python -m presurge demo --out demo_output $(ARGS)

test: $(FULL) ## Run every test in two processes (ARGS="tests/series -x" for some, WORKERS=0 for one)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(FULL) ## Check style, format and types; change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(FULL) ## Fix style and format in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lines: $(FULL) ## Count the code lines of each room against its budget
	$(BIN)/python scripts/code_lines.py

bench: $(FULL) ## Run the benchmarks one after another (ONLY=accuracy for one)
	@for file in benchmarks/$(ONLY).py; do \
		test -f "$$file" || { echo "no benchmark at $$file" >&2; exit 1; }; \
		grep -q __main__ "$$file" || continue; \
		echo "== $$file"; OMP_NUM_THREADS=1 $(BIN)/python "$$file" $(ARGS) || exit 1; done

docs: $(FULL) ## Build the guides and the API reference as HTML into site/
	$(BIN)/python scripts/build_docs.py --out site

freeze: $(FULL) ## Pin the versions of the full install in constraints.txt
	@{ grep '^#' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.new
	@mv constraints.new constraints.txt

clean: ## Remove the environment, caches and build results
	rm -rf $(VENV) build dist site demo_output .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(SMALL): pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	$(INSTALL) -e '.[plots,train,serve]'
	@touch $@

# The full install holds the small one, so it stamps both.
$(FULL): pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	$(INSTALL) -e '.[dev,plots,train,serve]'
	@touch $(SMALL) $@
