# Each target does its whole set-up itself, in a virtual environment of the project's own.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= auto
BIN = $(VENV)/bin
PIP = $(BIN)/pip --disable-pip-version-check --quiet
# On a terminal pip shows how far the large packages are.
QUIET := $(shell test -t 2 || echo --quiet)

.PHONY: demo test lint types unit docs sdist wheel clean

demo: $(VENV)/.installed  ## Continue a prompt with the bundled model
	@echo '$$ llmcli generate -m fable --seed 1 "Once upon a time, in a forest by the sea,"'
	@$(BIN)/llmcli generate -m fable --seed 1 "Once upon a time, in a forest by the sea,"
	@echo
	@echo "To go on, activate the environment and try the examples in README.md:"
	@echo "    . $(BIN)/activate"
	@echo "    llmcli generate -m fable 'The old king said'"
	@echo "    llmcli --help"

test: lint types unit  ## Lint, types and the whole test suite

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 llmcli

unit: $(VENV)/.installed-dev
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# mkdocs-material has an advertisement of its own in its output otherwise.
docs: $(VENV)/.installed-docs  ## The documentation as a website, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The website is in build/site: open build/site/index.html."

sdist: $(VENV)/.installed-wheel  ## The source distribution, in dist
	$(BIN)/python -m build --sdist --no-isolation

# PLATFORMS="win_amd64 ..." builds some; tools/wheels.py has the list.
wheel: $(VENV)/.installed-dev $(VENV)/.installed-wheel  ## A wheel for each platform, in dist
	$(BIN)/python tools/wheels.py $(PLATFORMS)
	$(BIN)/pytest tests/packaging/check_wheels.py

$(VENV)/bin/pip:
	@echo "Installing into $(VENV): a few minutes the first time (torch is the largest part)."
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml setup.py constraints.txt $(wildcard llmcli/engine/native/*.[ch]) | $(VENV)/bin/pip
	$(PIP) install --constraint constraints.txt --upgrade pip
	$(BIN)/pip --disable-pip-version-check $(QUIET) install --constraint constraints.txt \
		torch transformers
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --constraint constraints.txt --group dev
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) install --constraint constraints.txt --group docs
	touch $@

$(VENV)/.installed-wheel: $(VENV)/.installed
	$(PIP) install --constraint constraints.txt --group wheel
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
