# Every command that a person, a hook or CI runs. `make demo` is the first to try.

PYTHON ?= python3
BIN := .venv/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"
INSTALLED := .venv/.installed

# Builds of images: another client than `docker`, and --secret or --build-arg options (see docker/Dockerfile).
DOCKER ?= docker
BUILD_ARGS ?=
REVISION = $(shell git describe --always --dirty --abbrev=40 --match=-)

.PHONY: help install demo test check sync pipeline images kfp-local sweep bench constraints

help:  ## Show the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "make %-12s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (torch is large: some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,train,dvc,kfp,test]'
	@touch $@

install: $(INSTALLED)  ## Make .venv and install ctm with all that the commands below need

demo: $(INSTALLED)  ## Write the embedded data, run the pipeline of params.yaml, print where the report is
	@$(RUN) ctm demo-data data/demo
	@$(RUN) dvc repro
	@echo "report: $(CURDIR)/report/index.html"

test: $(INSTALLED)  ## Run the whole test suite
	@$(RUN) pytest

check: $(INSTALLED)  ## Lint, types, import layers, and generated files
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) lint-imports
	@$(RUN) ctm sync --check
	@$(RUN) ctm-pipeline compile --check

sync: $(INSTALLED)  ## Write dvc.yaml again from the stages
	@$(RUN) ctm sync

pipeline: $(INSTALLED)  ## Write components/*.yaml and pipelines/*.yaml again from the stages and params.yaml
	@$(RUN) ctm-pipeline compile

images:  ## Build the stage images ctm-data and ctm-train
	@for target in data train; do \
	  DOCKER_BUILDKIT=1 $(DOCKER) build --file docker/Dockerfile --target $$target --tag ctm-$$target \
	    --build-arg GIT_REVISION=$(REVISION) $(BUILD_ARGS) . || exit 1; \
	done

kfp-local: $(INSTALLED) images  ## Run the compiled pipeline on this machine's Docker, every stage in its container
	@$(RUN) ctm demo-data data/demo
	@$(RUN) ctm-pipeline run-local

sweep: $(INSTALLED)  ## Run lambda of the paper's Table 8 as experiments of DVC and compare them
	@$(RUN) ctm demo-data data/demo
	@$(RUN) ctm-pipeline sweep

bench: $(INSTALLED)  ## Measure what must be fast against a plain reference, as ratios in one run
	@$(RUN) python -m bench

constraints:  ## Resolve every dependency anew (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
	  --no-header --no-annotate --no-emit-index-url -o constraints.txt
