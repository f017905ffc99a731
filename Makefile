# Thin by intent: the entry points are `dncbm quickstart` and `pytest`.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= quickstart
ARGS   ?=

.PHONY: quickstart test lint clean

quickstart: $(VENV)/.installed
	$(VENV)/bin/dncbm quickstart --out $(OUT) $(ARGS)

# one thread each: two processes with two threads on two cores wait for each other
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist worksteal --cov --cov-report=term $(ARGS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) $(OUT)
