# Two commands for a fresh machine with Python >= 3.11 and make:
#   make demo    install everything and go from raw crawl to a chat model
#   make test    install everything, then lint, types and tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Some images set it. Then each of the hundreds of processes of a demo or a test run compiles our sources again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test tested test-all lint types install up up-here down clean

demo: $(STAMP)
	$(BIN)/headwater run demo

# Types beside the tests: alone they would leave a core idle.
test: lint
	$(MAKE) --no-print-directory -j 2 types tested

# Three processes for two cores: tests that wait for others' processes leave a sixth of them idle.
tested: $(STAMP)
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

test-all: lint types
	$(BIN)/python -m pytest -q -m ""

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

install: $(STAMP)

# In containers where an engine answers, otherwise on this machine; the first line it prints says which.
up:
	@docker/up.sh

up-here: $(STAMP)
	$(BIN)/headwater up

# What `up` started in containers; the volumes stay. On the machine, Ctrl-C ends `up`.
down:
	@docker/down.sh

# The stamp is written last: an interrupted installation is repeated.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) workspace .mypy_cache .ruff_cache .pytest_cache
