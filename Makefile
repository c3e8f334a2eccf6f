# Slipway's commands. Everything a target needs is installed by it; each can be run twice.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
MAKEFLAGS += --no-print-directory

VENV     ?= .venv
PY       := $(VENV)/bin/python
CLUSTER  := python3 -m e2e.cluster
REGISTRY ?= localhost/slipway
UV_VERSION := 0.13.9
# Where the machine trusts a CA of its own, uv has to use the system's store as pip and Go do.
export UV_SYSTEM_CERTS ?= 1
# Lines appear as they are written, in a log file too.
export PYTHONUNBUFFERED ?= 1

.PHONY: help venv lock generate lint format test demo demo-down e2e cluster-up cluster-down images push bench soak clean

help: ## List the targets
	@if [ -t 1 ] && [ -z "$${NO_COLOR:-}" ]; then on=$$'\e[36m' off=$$'\e[0m'; else on= off=; fi
	awk -v on="$$on" -v off="$$off" -F':.*## ' \
	  '/^[a-zA-Z0-9_-]+:.*## /{printf "  %s%-14s%s %s\n", on, $$1, off, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.done ## Make .venv with everything, the tests' model included

$(VENV)/.done: tests/requirements.lock tests/model.lock pyproject.toml $(wildcard engine/slipway_engine/native/src/*)
	@bash e2e/bootstrap.sh "$(VENV)" "$(UV_VERSION)"
	touch $@

lock: venv ## Resolve the locks again from pyproject.toml
	@compile() { $(VENV)/bin/uv pip compile -q --universal --generate-hashes --no-annotate --python-version 3.11 \
	  --custom-compile-command "make lock" "$$@" pyproject.toml; }
	compile --upgrade --extra dev -o tests/requirements.lock
	for room in operator gateway engine; do
	  compile --extra $$room $$([ $$room = engine ] && echo --extra tracing) -c tests/requirements.lock -o $$room/requirements.lock
	done

generate: venv ## Write the CRD, the chart's copies, rules, dashboards and the API reference
	@$(PY) crds/generate.py
	$(PY) -m charts.generate
	$(PY) -m charts.generate --kustomize

format: venv ## Format the code
	@$(VENV)/bin/ruff check -q --fix . ; $(VENV)/bin/ruff format -q .

lint: venv ## Style, types, layers, generated files
	@$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) crds/generate.py --check
	$(PY) -m charts.generate --check

test: venv ## Run the tests that need no cluster (minutes)
	@started=$$SECONDS
	$(PY) -m pytest tests || { echo "make test: not every test passed; the summary above names those that did not."; exit 1; }
	echo "make test: all tests passed in $$((SECONDS - started)) s."

demo: ## A real cluster, the operator, a model, an answer
	@python3 -m e2e.demo

demo-down: ## Take down what `make demo` started
	@$(CLUSTER) down

e2e: venv ## Run the tests against a real cluster
	@started=$$SECONDS
	$(PY) -m pytest e2e || { echo "make e2e: not every test passed; the summary above names those that did not."; exit 1; }
	echo "make e2e: all tests passed in $$((SECONDS - started)) s; \`make cluster-down\` takes the cluster down."

cluster-up: ## Start the local cluster (or use SLIPWAY_E2E_CONTEXT)
	@$(CLUSTER) up

cluster-down: ## Take the local cluster down; nothing of it stays
	@$(CLUSTER) down

images: ## Build the images; REGISTRY= names them
	@$(CLUSTER) images --registry "$(REGISTRY)"

push: ## Build the images and push them to REGISTRY=
	@$(CLUSTER) images --registry "$(REGISTRY)" --push

bench: venv ## Measure the engine on this machine, beside transformers and the machine's floors
	@$(PY) benchmarks/engine/run.py

soak: venv ## Load the engine beyond its capacity for an hour (MINUTES=), then read mutated model files
	@$(PY) -m benchmarks.soak --minutes $(or $(MINUTES),60)

clean: ## Remove the virtual environment and tool caches of this checkout
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
