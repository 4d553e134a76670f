# make quickstart: installs Roundhouse and runs a small round on the local machine. make test: everything that CI checks.
# docs/development.md, "Package versions", describes lock, test-newest and test-oldest.
PYTHON ?= python3
# The oldest Python that Roundhouse supports, if it is installed.
OLDEST_PYTHON ?= $(shell python3.10 -c 'import sys; print(sys.executable)' 2>/dev/null || echo $(PYTHON))
VENV := .venv
STAMP := $(VENV)/.installed
PIP_INSTALL := -m pip install --quiet
PYTEST := -m pytest -n 2 --durations 15

.PHONY: quickstart install test lint lock test-newest test-oldest benchmarks clean

quickstart: $(STAMP)
	$(VENV)/bin/python runner.py --round quickstart --scheduler local

install: $(STAMP)

# --no-build-isolation: otherwise pip builds with the newest setuptools, not with the locked one.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Roundhouse needs Python 3.10 or later; make PYTHON=/path/to/python3.12 quickstart" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP_INSTALL) --constraint constraints.txt --upgrade pip setuptools
	@echo "Installing Roundhouse and PyTorch into $(VENV) (several minutes and GB)..."
	$(VENV)/bin/python $(PIP_INSTALL) --constraint constraints.txt --no-build-isolation --editable '.[test,lint]'
	@touch $(STAMP)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@if command -v shellcheck >/dev/null; then $(VENV)/bin/python -m pytest -q tests/test_templates.py -k shellcheck; else echo "shellcheck is not installed: job scripts not linted" >&2; fi

test: lint
	$(VENV)/bin/python $(PYTEST)

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python $(PIP_INSTALL) --upgrade pip uv
	printf 'pip\nsetuptools\n' | .venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 \
		--no-python-downloads --all-extras --no-annotate --custom-compile-command 'make lock' \
		--output-file constraints.txt setup.cfg -

test-newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python $(PIP_INSTALL) --upgrade pip setuptools
	.venv-newest/bin/python $(PIP_INSTALL) --upgrade --upgrade-strategy eager --no-build-isolation --editable '.[test]'
	.venv-newest/bin/python -m pip freeze --all
	.venv-newest/bin/python $(PYTEST)

test-oldest: .venv-oldest/.installed
	.venv-oldest/bin/python -m pip freeze --all
	.venv-oldest/bin/python $(PYTEST)

.venv-oldest/.installed: setup.cfg pyproject.toml
	$(OLDEST_PYTHON) -m venv --clear .venv-oldest
	sed -En 's/^(requires = \[")?\s*([[:alnum:]-]+)>=([0-9.]+).*/\2==\3/p' setup.cfg pyproject.toml > .venv-oldest/oldest.txt
	.venv-oldest/bin/python $(PIP_INSTALL) --constraint constraints.txt --upgrade pip
	.venv-oldest/bin/python $(PIP_INSTALL) --constraint .venv-oldest/oldest.txt setuptools
	.venv-oldest/bin/python $(PIP_INSTALL) --constraint .venv-oldest/oldest.txt --no-build-isolation --editable '.[test]'
	@touch $@

benchmarks: $(STAMP)
	$(VENV)/bin/python benchmarks/runner.py
	$(VENV)/bin/python benchmarks/train_step.py
	$(VENV)/bin/python benchmarks/flow_step.py --small
	$(VENV)/bin/python benchmarks/genegan_step.py --small
	$(VENV)/bin/python benchmarks/flood_solver.py --small
	$(VENV)/bin/python benchmarks/flood_samples.py --small
	$(VENV)/bin/python benchmarks/saving.py --rounds 1 --epochs 4 --delays 0 20
	$(VENV)/bin/python benchmarks/processes.py --rounds 2 --steps 20
	$(VENV)/bin/python benchmarks/start_up.py
	$(VENV)/bin/python benchmarks/next_in_slot.py

clean:
	rm -rf $(VENV) .venv-lock .venv-newest .venv-oldest build *.egg-info
