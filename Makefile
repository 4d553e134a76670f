# make quickstart: a small round of experiments on this machine, from nothing. make test: everything that CI checks.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: quickstart install test lint benchmarks clean

quickstart: $(STAMP)
	$(VENV)/bin/python runner.py --round quickstart --scheduler local

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Roundhouse needs Python 3.10 or later; make PYTHON=/path/to/python3.12 quickstart" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip setuptools
	@echo "Installing Roundhouse and PyTorch into $(VENV) (several minutes and GB)..."
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	@touch $(STAMP)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@if command -v shellcheck >/dev/null; then $(VENV)/bin/python -m pytest -q tests/test_templates.py -k shellcheck; else echo "shellcheck is not installed: job scripts not linted" >&2; fi

test: lint
	$(VENV)/bin/python -m pytest -n 2 --durations 15

benchmarks: $(STAMP)
	$(VENV)/bin/python benchmarks/runner.py
	$(VENV)/bin/python benchmarks/train_step.py
	$(VENV)/bin/python benchmarks/start_up.py
	$(VENV)/bin/python benchmarks/next_in_slot.py

clean:
	rm -rf $(VENV) build *.egg-info
