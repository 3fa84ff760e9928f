# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Empty is unset: the demo and the tests start many processes, and MLflow takes each of them three
# seconds more where its modules are compiled anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install frameworks demo test lint types format clean

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/outgrow
	touch $(STAMP)

# PyTorch for CPUs alone and what builds on it: without them the tests of the integrations skip.
frameworks: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0+cpu'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev,frameworks]'

demo: install
	$(BIN)/outgrow demo

test: install
	$(BIN)/python -m pytest -n 3 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy finds the package by its import name through a link (the repository root is the package).
types: install
	MYPYPATH=$(VENV)/src $(BIN)/mypy -p outgrow --exclude '/(tests|benchmarks)/'

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info demo-outgrow
