# Each target makes its own environment in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV ?= .venv
PIP_INSTALL = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint ui clean

demo: $(VENV)/.runtime
	$(VENV)/bin/crossroads demo

ui: $(VENV)/.runtime
	$(VENV)/bin/crossroads ui

test: $(VENV)/.dev lint
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(VENV)/.runtime: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP_INSTALL) --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) .prefect .crossroads output checkpoints/crossroads/tiny
