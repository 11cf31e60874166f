# `make demo` and `make test` do everything, from setting up to the end. `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The CPU build. On a machine with a GPU: make setup TORCH_INDEX=https://pypi.org/simple
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

FLOWER ?= 1.41.0

VENV := .venv
FLOWER_VENV := .venv-flower
FLOWER_READY := $(FLOWER_VENV)/.ready-$(FLOWER)
BIN := $(VENV)/bin
FEDLPP := $(BIN)/fedlpp
READY := $(VENV)/.ready

.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z%-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make .venv with everything in it, from the lock file

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] + ": make setup PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@echo "setting up $(VENV): about 600 MB, a few minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) $(TORCH)
	@$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## run a whole federation on this machine, offline, and print what came out
	@$(MAKE) --no-print-directory -C examples/demo

test: $(READY) ## run the tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

conformance: $(READY) $(FLOWER_READY) ## compare aggregation with Flower, in an environment of its own
	$(BIN)/python -m pytest -q -n 2 --dist worksteal tests/conformance/test_flower.py

# flwr pins a typer that fedlpp does not want, and much else. It needs no torch.
$(FLOWER_READY):
	@echo "installing Flower $(FLOWER) into $(FLOWER_VENV): about 300 MB"
	@$(PYTHON) -m venv --clear $(FLOWER_VENV)
	@$(FLOWER_VENV)/bin/pip install --quiet --retries 1 flwr==$(FLOWER)
	@touch $@

lint: $(READY) ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench-%: $(READY) ## measure against others: bench-quantize, -aggregate, -robustness, -privacy, -methods, -train (FAST=1: a small version)
	@$(BIN)/python benchmarks/$*.py

format: $(READY) ## format the code, and rewrite what is generated from it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python tools/generate.py

lock: ## resolve requirements.lock anew (needs uv)
	echo "$(TORCH)" > .torch.txt
	uv pip compile pyproject.toml --group dev --extra dp --extra metrics --extra report --universal --python-version 3.11 --generate-hashes \
		--no-emit-package torch --constraint .torch.txt --custom-compile-command "make lock" --quiet -o requirements.lock
	rm .torch.txt

clean: ## remove what was made, but not .venv
	rm -rf artifacts/runs examples/*/work benchmarks/work .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

.PHONY: help setup demo test conformance lint format lock clean

# make federate ROUNDS=3 CLIENTS="a b c d" FEDERATION=examples/demo/federation.toml
ifdef FEDERATION
include mk/federate.mk
$(RUN)/round-0000/master.safetensors: | $(READY)
endif
