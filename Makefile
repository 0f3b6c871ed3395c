# make demo    the whole pipeline on simulated images, from an empty clone to the report
# make test    the tests
# make test-clusters   the tests on real batch systems, which they start and end; as root they install what is missing
# make bench   the benchmarks, each in a short version
# make container   the image lenspipe:VERSION with buildah or podman; VARIANT=cuda for CUDA, MORE='...' for other options
# make lint    style, types, the layer contract
# make clean   remove what make built (runs/ stays)
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
KERNEL := $(wildcard lenspipe/lensing/kernel/*.cpp lenspipe/lensing/kernel/*.h)
NEEDS  := setup.cfg setup.py pyproject.toml constraints.txt $(KERNEL)
DEMO   := runs/demo
VARIANT := cpu
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' lenspipe/__init__.py)
BUILDER = $(firstword $(notdir $(shell command -v buildah podman)) buildah)

.PHONY: demo test test-clusters bench container lint clean

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
	$(BIN)/python benchmarks/overhead.py --quick
	$(BIN)/python benchmarks/recovery.py --quick
	$(BIN)/python benchmarks/convert.py --quick
	$(BIN)/python benchmarks/ddp.py --quick
	$(BIN)/python benchmarks/simulate.py --quick
	$(BIN)/python benchmarks/gpu_fit.py --quick

container:
	BUILDAH_FORMAT=docker $(BUILDER) build --build-arg VARIANT=$(VARIANT) --build-arg VERSION=$(VERSION) \
	    --build-arg REVISION=$$(git rev-parse HEAD) --build-arg CREATED=$$(date -u +%FT%TZ) $(MORE) \
	    -f containers/Containerfile -t lenspipe:$(VERSION)$(if $(filter cuda,$(VARIANT)),-cuda) .

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
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,mpi]'
	touch $@

$(VENV)/.installed-bench: $(NEEDS) $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench,mpi]'
	touch $@
