# The only command surface: `make` prints this help. CI calls these targets and no others.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
RECIPE ?= fast
ARGS ?=
BIN := .venv/bin
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= fashion-mnist-on-ray:$(VERSION)
TORCH ?= cuda
ENV ?= kind
# CONTEXT, PATIENCE_S and YES are read by it, too.
DEPLOY = ENV="$(ENV)" IMAGE="$(IMAGE)" k8s/deploy.sh
LOCK := -q --universal --python-version 3.10 --generate-hashes --no-emit-index-url
# uv, if this machine has it; else its own copy in .uv, from PyPI, by hash.
UV := $(shell command -v uv || echo .uv/bin/uv)

# Byte code is written at installation: without it each Python process of a run would compile PyTorch anew, for seconds.
export UV_COMPILE_BYTECODE := 1
export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
export UV_PROJECT_ENVIRONMENT := .venv

##@ Use

.PHONY: train
train: .venv/.ready ## train on this machine: RECIPE=fast|seed|accurate, ARGS="--workers 2 --set epochs=5"
	@$(BIN)/python -m trainer train --recipe $(RECIPE) $(ARGS)

.PHONY: setup
setup: .venv/.ready ## only make the environment in .venv

##@ Run on Kubernetes (ENV=kind|gke|eks|aks, CONTEXT=name of a cluster that is there)

.PHONY: deploy
deploy: ## all that a run needs, from no cluster to ready: the steps below, each of which can be repeated
	@$(DEPLOY) tools
	@[ "$(ENV)" != kind ] || $(MAKE) --no-print-directory image
	@$(DEPLOY) cluster platform load charts ready

.PHONY: cluster platform load charts ready
cluster: ## a kind cluster, if there is none
	@$(DEPLOY) cluster
platform: ## KubeRay operator and Prometheus
	@$(DEPLOY) platform
load: ## the image into the nodes of kind
	@$(DEPLOY) load
charts: ## helm/training and helm/monitoring, and an object store on kind
	@$(DEPLOY) charts
ready: ## wait until all of it is ready, and say for what
	@$(DEPLOY) ready

.PHONY: image
image: ## the container image: TORCH=cpu leaves out CUDA, IMAGE=name:tag
	DOCKER_BUILDKIT=1 docker build --tag "$(IMAGE)" --build-arg TORCH="$(TORCH)" --build-arg VERSION="$(VERSION)" \
	  --build-arg REVISION="$$(git describe --always --abbrev=40 --dirty=+changes 2> /dev/null || true)" .

.PHONY: uninstall kind-delete
uninstall: ## remove what deploy installed, runs included
	@$(DEPLOY) uninstall
kind-delete: ## remove the kind cluster
	@$(DEPLOY) kind-delete

##@ Develop

.PHONY: test
test: .venv/.ready-dev ## run the tests: unit, and real Ray on this machine
	@$(BIN)/python -m pytest $(ARGS)

.PHONY: test-cluster
test-cluster: .venv/.ready-dev ## run the tests that need Kubernetes: they deploy to a kind cluster
	@$(BIN)/python -m pytest tests/cluster $(ARGS)

.PHONY: test-faults
test-faults: .venv/.ready-dev ## run the tests that break a run in every way known: an hour; ARGS=--soak for more kills
	@$(BIN)/python -m pytest tests/faults --results docs/results/faults $(ARGS)

.PHONY: stores
stores: ## object stores that tests talk to if they are there, into .stores: versitygw (by Go), Azurite (by npm)
	GOBIN="$(CURDIR)/.stores/bin" go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	npm install --silent --no-audit --no-fund --no-package-lock --prefix .stores azurite@3.35.0

.PHONY: verify
verify: .venv/.ready-dev generate ## lint, types, and generated files that are not up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	git diff --exit-code -- docs/configuration.md docs/config.schema.json docs/metrics.md docs/fault-tolerance.md helm/training/values.schema.json k8s/rayjob.yaml

.PHONY: generate
generate: .venv/.ready-dev ## write the generated files: docs of settings and metrics, schemas, k8s/rayjob.yaml
	@$(BIN)/python -m tools.docs
	@$(BIN)/python -m tools.manifests

.PHONY: format
format: .venv/.ready-dev ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: bench
bench: .venv/.ready ## our speed against the alternatives, side by side: ARGS="--only time-to-88"
	@$(BIN)/python benchmarks/bench.py $(ARGS)

.PHONY: lock
lock: $(filter .uv/bin/uv,$(UV)) ## resolve requirements*.txt from pyproject.toml again
	$(UV) pip compile $(LOCK) --extra train --extra cluster -o requirements.txt pyproject.toml
	$(UV) pip compile $(LOCK) --extra train --extra cluster --extra bench --group dev -c requirements.txt -o requirements-dev.txt pyproject.toml

.PHONY: clean
clean: ## remove the environment and caches; runs/ stays
	rm -rf .venv .uv .mypy_cache .ruff_cache .pytest_cache *.egg-info

.PHONY: help
help: ## this text
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.uv/bin/uv: requirements-uv.txt
	@$(PYTHON) -m venv .uv || { echo "Error: $(PYTHON) cannot make a virtual environment: install python3-venv (Debian, Ubuntu) or uv."; exit 2; }
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt

.venv/.ready: requirements.txt pyproject.toml | $(filter .uv/bin/uv,$(UV))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Error: $(PYTHON) is older than Python 3.10: give a newer one, as in make PYTHON=python3.12 train."; exit 2; }
	@echo "Making the environment in .venv (once; PyTorch for GPUs is large) ..."
	@$(UV) venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" .venv
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.ready-dev: requirements-dev.txt .venv/.ready
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.txt
	@touch $@
