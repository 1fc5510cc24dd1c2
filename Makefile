# Every command that a person, a hook or CI runs. `make demo` is the first to try.

PYTHON ?= python3
BIN := .venv/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"
INSTALLED := .venv/.installed

# Builds of images: another client than `docker`, and --secret or --build-arg options (see docker/Dockerfile).
DOCKER ?= docker
BUILD_ARGS ?=
REVISION = $(shell git describe --always --dirty --abbrev=40 --match=-)

# Experiments: the seeds of every run, and the values of Table 8.
SEEDS ?= 0,1,2
LAMBDAS ?= 0,0.001,0.01,0.1

.PHONY: help install demo test coverage check licences docs sync pipeline images kfp-local sweep table8 ablation picture bench constraints

help:  ## Show the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1|/' | awk -F'|' '{printf "make %-12s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (torch is large: some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,train,onnx,dvc,kfp,docs,test]'
	@touch $@

install: $(INSTALLED)  ## Make .venv and install ctm with all that the commands below need

demo: $(INSTALLED)  ## Write the embedded data, run the pipeline of params.yaml, print where the report is
	@$(RUN) ctm demo-data data/demo
	@$(RUN) dvc repro
	@echo "report: $(CURDIR)/report/index.html"

test: $(INSTALLED)  ## Run the whole test suite
	@$(RUN) pytest

coverage: $(INSTALLED)  ## Run the whole test suite, and fail if it leaves out more than a tenth of the lines of ctm
	@$(RUN) pytest --cov

check: $(INSTALLED)  ## Lint, types, import layers, and generated files
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) lint-imports
	@$(RUN) ctm sync --check
	@$(RUN) ctm-pipeline compile --check

docs: $(INSTALLED)  ## Write the documentation as a site to site/index.html; any warning is an error
	@$(RUN) NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	@echo "documentation: $(CURDIR)/site/index.html"

licences: $(INSTALLED)  ## List the licence of every dependency; fail on one that pyproject.toml does not have
	@$(RUN) pip-licenses --order=license --allow-only= --ignore-packages ctm
	@$(RUN) pip-licenses >/dev/null

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
	@$(RUN) ctm-pipeline sweep --set train_classifier.sparsity=null

table8: $(INSTALLED)  ## The paper's Table 8 on the data of params.yaml, every lambda with each of SEEDS, into docs/results
	@$(RUN) ctm demo-data data/demo
	@$(RUN) ctm-pipeline sweep train_classifier.pruning_weight=$(LAMBDAS) --seeds $(SEEDS) --results table8 \
	  --set train_classifier.sparsity=null

ablation: $(INSTALLED)  ## Without masking, without register token, without pruning, each with SEEDS, into docs/results
	@$(RUN) ctm demo-data data/demo
	@$(RUN) ctm-pipeline sweep --run '' --run train_classifier.masking_ratio=0 --run model.register_token=false \
	  --run 'train_classifier.pruning_weight=0 train_classifier.sparsity=null' --seeds $(SEEDS) --set 'evaluate.compare=[attention,relevance]' \
	  --column heads.sparsity --column classifier.val.map --column segmenter.val.miou \
	  --column pseudomasks.train.compare.attention.miou --column pseudomasks.train.compare.relevance.miou \
	  --column pseudomasks.train.miou --results ablation

picture: $(INSTALLED)  ## Draw the picture of the README from the run that `make demo` has made
	@$(RUN) python docs/picture.py

bench: $(INSTALLED)  ## Measure what must be fast against a plain reference, as ratios in one run
	@$(RUN) python -m bench

constraints:  ## Resolve every dependency anew (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
	  --no-header --no-annotate --no-emit-index-url -o constraints.txt
