# Thin by intent: the entry points are `dncbm quickstart` and `pytest`.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= quickstart
ARGS   ?=

.PHONY: quickstart test lint benchmarks clean

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

# peers pin other versions of what we use, so they get an environment of their own
benchmarks: .venv-peers/.installed .venv-clip-retrieval/.installed
	.venv-peers/bin/python -m benchmarks $(ARGS)

# it pins old versions of what all others need, so it stands alone
.venv-clip-retrieval/.installed:
	$(PYTHON) -m venv .venv-clip-retrieval
	.venv-clip-retrieval/bin/python -m pip install -q --disable-pip-version-check \
	  clip-retrieval 'setuptools<81' || echo "peer clip-retrieval did not install"
	touch $@

.venv-peers/.installed: pyproject.toml benchmarks/requirements-peers.txt
	$(PYTHON) -m venv .venv-peers
	grep -v '^#' benchmarks/requirements-peers.txt | while read -r peer; do \
	  .venv-peers/bin/python -m pip install -q --disable-pip-version-check "$$peer" \
	    || echo "peer $$peer did not install"; \
	done
	.venv-peers/bin/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@

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
