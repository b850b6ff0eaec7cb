# Everything a newcomer or a maintainer runs. Needs Python 3.11 or 3.12 and make; nothing else, and no root.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
    $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN = $(VENV)/bin
LOCK ?= requirements/all.txt
READY = $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test up check fast bench setup clean

help:
	@echo "make demo   run the real service once on made slides and show its heatmaps"
	@echo "make up     keep the service running; prints its URL and a first API key"
	@echo "make test   every test, from nothing"
	@echo "make fast   the unit tests; make check: lint, types, import rules; make bench: measurements"
	@echo "make clean  forget the packages (.venv) and everything the embedded stack keeps (.xmag)"

demo: $(READY)
	@$(BIN)/xmag demo

up: $(READY)
	@$(BIN)/xmag up

test: $(READY)
	@$(BIN)/python -m pytest

fast: $(READY)
	@$(BIN)/python -m pytest tests/unit

check: $(READY)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: $(READY)
	@$(BIN)/python -m benchmarks

setup: $(READY)

$(READY): $(LOCK) pyproject.toml
	@sh deploy/setup.sh "$(PYTHON)" "$(VENV)" "$(LOCK)"

clean:
	rm -rf $(VENV) .xmag
