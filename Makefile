# Two commands for a newcomer: `make demo` and `make test`. Both make their own .venv first.
# PYTHON       the interpreter to build it from (3.11 or newer)
# TORCH_INDEX  a wheel index for torch alone, e.g. PyTorch's CPU-only one
# JOBS         parallel test processes

PYTHON ?= python3
TORCH_INDEX ?=
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
TORCH := torch>=2.13,<2.14

.PHONY: demo dev test lint format install install-dev clean

demo: install  ## a synthetic capture through the whole chain
	$(BIN)/splat-assets demo

dev: install  ## web UI and daemon
	$(BIN)/splat-assets dev

test: install-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) install '$(TORCH)' --index-url $(TORCH_INDEX))

# The stamps keep a repeated make from installing again; a changed pyproject.toml is noticed.
$(VENV)/.installed: pyproject.toml hatch_build.py | $(VENV)/bin/python
	@echo "Installing into $(VENV) (some minutes the first time) ..."
	$(PIP) install -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml hatch_build.py | $(VENV)/bin/python
	@echo "Installing into $(VENV) (some minutes the first time) ..."
	$(PIP) install -e '.[dev]'
	@touch $@ $(VENV)/.installed

clean:  ## everything that was made here, except data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
