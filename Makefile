# Each target builds its own virtual environment when missing; nothing else needs to be installed than Python >= 3.11.4.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# constraints.txt holds the versions this project was tested with; empty means the newest ones.
CONSTRAINTS ?= constraints.txt
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python $(if $(CONSTRAINTS),--constraints $(CONSTRAINTS))
PYTEST = $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --quiet
# What `make test` runs: an expression of markers, and files; all of them if empty.
MARKED ?= not slow
TESTS ?=

.PHONY: reproduce test test-all lint format docs clean

reproduce: $(VENV)/.ready
	$(BIN)/simulator reproduce

test: $(VENV)/.ready
	$(PYTEST) -m "$(MARKED)" $(TESTS)

test-all: $(VENV)/.ready
	$(PYTEST)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pages from the docstrings, the notebooks as committed and the gallery, in build/docs; warnings are errors.
docs: $(VENV)/.ready
	$(BIN)/python -m sphinx -q -W --keep-going -c docs . build/docs

$(VENV)/.ready: pyproject.toml $(wildcard constraints.txt)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(INSTALL) --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build docs/reference
