# The only command surface: `make` prints its help. CI calls these targets and no others.
# For the GNU make 3.81 of macOS: each line of a recipe is one command, as .ONESHELL and .SHELLFLAGS are newer.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
RECIPE ?= fast
ARGS ?=
BIN := .venv/bin
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= fashion-mnist-on-ray:$(VERSION)
TORCH ?= cuda
BASE ?= python:3.11-slim-bookworm
ENV ?= kind
# It also reads CONTEXT, NAMESPACE, PATIENCE_S, PORT and YES.
DEPLOY = ENV="$(ENV)" IMAGE="$(IMAGE)" PYTHON="$(PYTHON)" k8s/deploy.sh
LOCK := -q --universal --python-version 3.10 --generate-hashes --no-emit-index-url
# uv, if this machine has it; else a copy of its own in .uv, from PyPI, by hash.
UV := $(shell command -v uv || echo .uv/bin/uv)

# Byte code is written at installation: else each Python process of a run would compile PyTorch again, for seconds.
export UV_COMPILE_BYTECODE := 1
export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
export UV_PROJECT_ENVIRONMENT := .venv
# What `make generate` writes.
GENERATED := docs/alerts.md docs/configuration.md docs/config.schema.json docs/metrics.md docs/network.md docs/record.md docs/waiting.md docs/fault-tolerance.md \
  helm/training/values.schema.json helm/monitoring/dashboards k8s/rayjob.yaml

##@ Use

.PHONY: train
train: .venv/.ready ## train on this machine: RECIPE=fast|seed|accurate, ARGS="--workers 2 --set epochs=5"
	@$(BIN)/python -m trainer train --recipe $(RECIPE) $(ARGS)

.PHONY: setup
setup: .venv/.ready ## only make the environment in .venv

##@ Run on Kubernetes (ENV=kind|gke|eks|aks|openshift, CONTEXT=name of an existing cluster, NAMESPACE=of a team)

.PHONY: deploy
deploy: ## everything a run needs, from no cluster to ready: the steps below, each of which can be repeated; kind's image has no CUDA
	@$(DEPLOY) check-tools
	@[ "$(ENV)" != kind ] || $(MAKE) --no-print-directory image TORCH=$(if $(filter file,$(origin TORCH)),cpu,$(TORCH))
	@$(DEPLOY) kind-create install-platform kind-load install-charts wait-ready

.PHONY: kind-create install-platform kind-load install-charts wait-ready
kind-create: ## a kind cluster, if there is none
	@$(DEPLOY) kind-create
install-platform: ## KubeRay operator and Prometheus
	@$(DEPLOY) install-platform
kind-load: ## load the image into the nodes of kind
	@$(DEPLOY) kind-load
install-charts: ## helm/training and helm/monitoring, and an object store on kind
	@$(DEPLOY) install-charts
wait-ready: ## wait until all of it is ready, and say what is waited for
	@$(DEPLOY) wait-ready

.PHONY: grafana prometheus
grafana: ## the boards of runs, at a port of this machine: PORT=3000
	@$(DEPLOY) grafana
prometheus: ## Prometheus, at a port of this machine: PORT=9090
	@$(DEPLOY) prometheus

.PHONY: image
image: ## build the container image: TORCH=cpu leaves out CUDA, IMAGE=name:tag, BASE=name@sha256:...
	DOCKER_BUILDKIT=1 docker build --tag "$(IMAGE)" --build-arg BASE="$(BASE)" --build-arg TORCH="$(TORCH)" --build-arg VERSION="$(VERSION)" \
	  --build-arg REVISION="$$(git describe --always --abbrev=40 --dirty=+changes 2> /dev/null || true)" .

.PHONY: uninstall kind-delete
uninstall: ## remove what deploy installed, runs included
	@$(DEPLOY) uninstall
kind-delete: ## remove the kind cluster
	@$(DEPLOY) kind-delete

##@ Test

UNITS := tests/unit tests/charts tests/test_contracts.py tests/test_errors_are_data.py
PARALLEL := -n auto --dist loadfile# a file's tests stay together: they share servers

.PHONY: test
test: .venv/.ready-dev ## every behaviour once: units, real Ray on this machine, charts (a quarter of an hour on two cores)
	@$(BIN)/python -m pytest $(PARALLEL) $(UNITS) -m "not slow" $(ARGS)
	@$(BIN)/python -m pytest tests/local -m "not slow and not longer" $(ARGS)

.PHONY: test-longer
test-longer: .venv/.ready-dev ## real runs of a minute each that make test leaves out, and CI runs: outages, divergence, forks
	@$(BIN)/python -m pytest tests/local -m "longer and not slow" $(ARGS)

.PHONY: test-unit
test-unit: .venv/.ready-dev ## the fast tests, for the edit loop: under a minute
	@$(BIN)/python -m pytest $(PARALLEL) $(filter-out tests/charts,$(UNITS)) -m "not slow and not server" $(ARGS)

.PHONY: test-all
test-all: .venv/.ready-dev ## make test, and the slow variants that it leaves out
	@$(BIN)/python -m pytest $(PARALLEL) $(UNITS) $(ARGS)
	@$(BIN)/python -m pytest tests/local $(ARGS)

.PHONY: test-cluster
test-cluster: .venv/.ready-dev ## the tests that need Kubernetes: they deploy to a kind cluster
	@$(BIN)/python -m pytest tests/cluster $(ARGS)

.PHONY: test-faults
test-faults: .venv/.ready-dev ## break a run in every known way: an hour; ARGS=--soak for more kills
	@$(BIN)/python -m pytest tests/faults --results docs/results/faults $(ARGS)

.PHONY: coverage
coverage: .venv/.ready-dev ## which lines the unit tests run, as a table
	@$(BIN)/python -m pytest tests/unit -q -m "not slow" --cov=trainer --cov-report=term:skip-covered $(ARGS)

.PHONY: mutants
mutants: .venv/.ready-dev ## how many random mistakes in twelve modules their unit tests find: ARGS="--count 120 --seed 1"
	@$(BIN)/python -m tools.mutants $(ARGS)

.PHONY: stores
stores: ## object stores that tests use if they are there, into .stores: versitygw (Go), Azurite (npm)
	GOBIN="$(CURDIR)/.stores/bin" go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	npm install --silent --no-audit --no-fund --no-package-lock --prefix .stores azurite@3.35.0

##@ Develop

.PHONY: verify
verify: lint generate ## lint, types, charts, scripts; and generated files that are not up to date
	git diff --exit-code -- $(GENERATED)

.PHONY: lint
lint: .venv/.ready-dev ## ruff, mypy, shellcheck, and helm lint where helm is installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/shellcheck --external-sources --severity=style k8s/deploy.sh .ci/run tools/pictures.sh
	@if command -v helm > /dev/null; then helm lint --quiet helm/*; else echo "helm is not installed: no helm lint"; fi

.PHONY: pint
pint: .venv/.ready-dev .tools/bin/pint ## lint the alerts with pint, built once by Go in minutes: PROMETHEUS=url also asks it for their series
	@PROMETHEUS="$(PROMETHEUS)" $(BIN)/python -m tools.lint_rules

# A tool that is written in Go, in the version of its go.mod.
.tools/bin/%: tools/%/go.mod tools/%/go.sum
	@command -v go > /dev/null || { echo "Error: go is not installed; get it from https://go.dev/dl."; exit 2; }
	cd tools/$* && go build -o "$(CURDIR)/$@" tool
	@touch $@

.PHONY: audit sbom
audit: .venv/.ready-dev .tools/bin/kube-score .tools/checkov/.ready ## hold all objects and pods against checkov and kube-score
	@$(BIN)/python -m tools.audit
sbom: .tools/bin/syft ## what is in the image, as SPDX: sbom.spdx.json
	.tools/bin/syft scan "docker:$(IMAGE)" --quiet --output spdx-json=sbom.spdx.json
	@"$(PYTHON)" -c 'import json; print(len(json.load(open("sbom.spdx.json"))["packages"]), "packages: sbom.spdx.json")'

.tools/checkov/.ready: requirements-audit.txt | $(filter .uv/bin/uv,$(UV))
	@"$(UV)" venv --quiet --allow-existing --python "$$(command -v "$(PYTHON)")" .tools/checkov
	@"$(UV)" pip install --quiet --python .tools/checkov/bin/python --require-hashes -r requirements-audit.txt
	@touch $@

.PHONY: generate
generate: .venv/.ready-dev ## write the generated files: docs of settings, metrics and records, schemas, boards, k8s/rayjob.yaml
	@$(BIN)/python -m tools.docs
	@$(BIN)/python -m tools.manifests
	@$(BIN)/python -m tools.dashboards

.PHONY: pictures
pictures: ## draw the pictures of docs/architecture.md from docs/pictures/*.dot (Graphviz, by npm)
	@tools/pictures.sh

.PHONY: dashboards-check dashboards-pictures
dashboards-check: .venv/.ready-dev ## hold the boards of helm/monitoring against Grafana's types (TypeScript, by npm)
	@$(BIN)/python -m tools.dashboard_pictures check
dashboards-pictures: .venv/.ready-dev ## draw the boards with Grafana's components: PROMETHEUS=url RUN=tea FROM=2026-11-27T08:00 TO=...
	@PROMETHEUS="$(PROMETHEUS)" RUN="$(RUN)" FROM="$(FROM)" TO="$(TO)" BOARDS="$(BOARDS)" $(BIN)/python -m tools.dashboard_pictures draw

.PHONY: record-sessions
record-sessions: .venv/.ready ## record the terminal sessions of docs/submit.md on the cluster of make deploy: SESSIONS="good"
	@$(BIN)/python -m tools.record_sessions $(SESSIONS)

.PHONY: format
format: .venv/.ready-dev ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: bench
bench: .venv/.ready-dev ## our speed against the alternatives, side by side: ARGS="--only time-to-88"
	@$(BIN)/python benchmarks/bench.py $(ARGS)

.PHONY: lock
lock: $(filter .uv/bin/uv,$(UV)) ## resolve requirements*.txt from pyproject.toml again
	"$(UV)" pip compile $(LOCK) --extra train --extra cluster -o requirements.txt pyproject.toml
	"$(UV)" pip compile $(LOCK) --extra train --extra cluster --extra bench --group dev -c requirements.txt \
	  -o requirements-dev.txt pyproject.toml
	"$(UV)" pip compile $(LOCK) --group build -o requirements-build.txt
	"$(UV)" pip compile $(LOCK) --group audit -o requirements-audit.txt

.PHONY: clean
clean: ## remove the environment and caches; runs/ stays
	rm -rf .venv .uv .mypy_cache .ruff_cache .pytest_cache *.egg-info

.PHONY: help
help: ## this text
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.uv/bin/uv: requirements-build.txt
	@"$(PYTHON)" tools/supported.py
	@"$(PYTHON)" -m venv .uv || { echo "Error: $(PYTHON) cannot make a virtual environment: install python3-venv (Debian, Ubuntu) or uv."; exit 2; }
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-build.txt

.venv/.ready: requirements.txt pyproject.toml | $(filter .uv/bin/uv,$(UV))
	@"$(PYTHON)" tools/supported.py
	@echo "Making the environment in .venv (once; PyTorch for GPUs is large) ..."
	@"$(UV)" venv --quiet --allow-existing --python "$$(command -v "$(PYTHON)")" .venv
	@"$(UV)" pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	@"$(UV)" pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.ready-dev: requirements-dev.txt .venv/.ready
	@"$(UV)" pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.txt
	@touch $@
