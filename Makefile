# Needs Python 3.11+, git and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
LAUNCH_CONFIG ?= configs/accelerate/one_cpu.yaml
# Extra words for pytest, e.g. `make test PYTEST_ARGS="-k anchors -x"`.
PYTEST_ARGS ?=
# One process of pytest more than cores, since tests wait now and then; each file of tests in one of
# them, in their order: the long files stand in the middle. Without (`make test WORKERS=`) it takes
# twice as long on two cores.
CORES := $(shell getconf _NPROCESSORS_ONLN)
WORKERS ?= -n $(shell expr $(CORES) + 1) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# One launched process may use every core; unset, accelerate would choose and print a notice.
OMP_NUM_THREADS ?= $(CORES)
export OMP_NUM_THREADS
# The theme's word on MkDocs 2, which pyproject.toml keeps out.
export NO_MKDOCS_2_WARNING = 1

LAUNCH = $(BIN)/accelerate launch --quiet --config_file $(LAUNCH_CONFIG)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint format docs constraints clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/.installed ## Create .venv with the pinned dependencies
	@:

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vocdist needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing vocdist and its dependencies into .venv"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@[ -x $(BIN)/uv ] || $(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[dev]' -c constraints.txt
	@touch $@

demo: install ## Train both models on a small drawn data set (CPU, minutes); reuses what is there
	@echo "== 1/6 Draw the demo data set"
	@$(BIN)/python scripts/make_demo_data.py data/demo images=1200 seed=0
	@echo "== 2/6 Pack it into shards"
	@$(BIN)/python scripts/make_shards.py configs/demo/shards.yaml
	@echo "== 3/6 Train the classifier"
	@$(LAUNCH) scripts/train_classifier.py configs/demo/classifier.yaml
	@echo "== 4/6 Train the RPN on the classifier's features"
	@$(LAUNCH) scripts/train_rpn.py configs/demo/rpn.yaml
	@echo "== 5/6 Evaluate both"
	@$(BIN)/python scripts/evaluate.py runs/demo-classifier
	@$(BIN)/python scripts/evaluate.py runs/demo-rpn
	@echo "== 6/6 Draw boxes and proposals"
	@$(BIN)/python scripts/visualize.py shards/demo
	@$(BIN)/python scripts/visualize.py runs/demo-rpn
	@$(BIN)/python scripts/summarize.py runs/demo-classifier runs/demo-rpn

test: install ## Run the tests, less the long proofs
	@$(BIN)/python -m pytest -q -m "not slow" $(WORKERS) $(PYTEST_ARGS)

# Those on clusters are skipped without: .venv/bin/uv pip install 'ray>=2.40' 'distributed>=2024.10'
test-slow: install ## Run the long proofs
	@$(BIN)/python -m pytest -q -m slow $(PYTEST_ARGS)

lint: install ## Check style, format and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

format: install ## Format the code and sort its imports
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format .

docs: install ## Build the documentation: build/site/index.html
	@$(BIN)/mkdocs build --strict --quiet

constraints: install ## Pin the newest versions of all dependencies in constraints.txt
	@$(BIN)/uv pip compile --quiet --universal --upgrade --extra dev --no-annotate \
	  --no-emit-index-url --custom-compile-command "make constraints" \
	  --output-file constraints.txt pyproject.toml

clean: ## Remove caches and what `make demo` made; .venv and your own runs stay
	@rm -rf data/demo shards/demo runs/demo-classifier runs/demo-rpn cache/features build
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find vocdist scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
