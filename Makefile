# Every command that a person, a hook or CI runs. `make demo` is the first to try.

PYTHON ?= python3
BIN := .venv/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"
INSTALLED := .venv/.installed

.PHONY: help install demo test check sync bench constraints

help:  ## Show the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "make %-12s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (torch is large: some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,train,dvc,test]'
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

sync: $(INSTALLED)  ## Write the generated files again
	@$(RUN) ctm sync

bench: $(INSTALLED)  ## Measure what must be fast against a plain reference, as ratios in one run
	@$(RUN) python -m bench

constraints:  ## Resolve every dependency anew (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
	  --no-header --no-annotate --no-emit-index-url -o constraints.txt
