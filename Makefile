# make demo    the whole pipeline on simulated images, from an empty clone to the report
# make test    the tests
# make test-clusters   the tests on real batch systems, which they start and end; as root they install what is missing
# make bench   the benchmarks, each in a short version
# make lint    style, types, the layer contract
# make clean   remove what make built (runs/ stays)
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
KERNEL := $(wildcard lenspipe/lensing/kernel/*.cpp lenspipe/lensing/kernel/*.h)
NEEDS  := setup.cfg setup.py pyproject.toml constraints.txt $(KERNEL)
DEMO   := runs/demo

.PHONY: demo test test-clusters bench lint clean

demo: $(VENV)/.installed
	$(BIN)/lenspipe run workflows/demo.yaml --out $(DEMO)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

test-clusters: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/clusters -rs

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/likelihood.py --quick
	$(BIN)/python benchmarks/fit.py --quick
	$(BIN)/python benchmarks/scaling.py --quick
	$(BIN)/python benchmarks/recovery.py --quick

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .import_linter_cache
	find lenspipe tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: $(NEEDS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(NEEDS) $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/.installed-bench: $(NEEDS) $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	touch $@
