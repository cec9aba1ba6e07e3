# What CI runs: `make check`. PYTHON is the interpreter of the environment that holds `.[dev]`.
PYTHON ?= .venv/bin/python

.PHONY: check lint test wheel screenshot translations

check: lint test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy --platform win32 localllm
	$(PYTHON) -m mypy --platform darwin localllm
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

test:
	$(PYTHON) -m pytest

wheel:
	$(PYTHON) -m build --wheel --outdir dist .

screenshot:
	$(PYTHON) packaging/screenshot.py

translations:
	$(PYTHON) packaging/translations.py
