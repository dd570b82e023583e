# Each target builds its own virtual environment when missing; nothing else needs to be installed than Python >= 3.11.4.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# constraints.txt holds the versions this project was tested with; empty means the newest ones.
CONSTRAINTS ?= constraints.txt
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python $(if $(CONSTRAINTS),--constraints $(CONSTRAINTS))
PYTEST = $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --quiet
# What `make test` runs: an expression of markers, and files; all of them if empty.
MARKED ?= not slow and not browser
TESTS ?=

.PHONY: reproduce test test-all test-browser lint format docs clean

reproduce: $(VENV)/.ready
	$(BIN)/simulator reproduce

test: $(VENV)/.ready
	$(PYTEST) -m "$(MARKED)" $(TESTS)

test-all: $(VENV)/.ready
	$(PYTEST) -m "not browser"

# Needs a Chromium of the system, or CHROMIUM=/path/to/one; prints how long pictures took.
test-browser: $(VENV)/.ready
	@test -n "$${CHROMIUM:-$$(command -v chromium || command -v chromium-browser || command -v google-chrome)}" || \
		{ echo "no Chromium here: install one (Debian: apt-get install chromium) or give CHROMIUM=/path/to/chromium" >&2; exit 2; }
	$(BIN)/python -m pytest --quiet --capture=no -p no:xdist -m browser tests/test_browser.py

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
