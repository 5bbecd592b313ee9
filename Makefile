# The verbs of this project; each makes what it needs first (`make help` lists them).
# PYTHON=python3.12 picks another interpreter for the environment in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Small matrices on few cores: one thread per process, and no spinning while others work.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
# What is installed beside the package; `kernels` adds Triton (1 GB), with which the kernels' tests run on a CPU.
EXTRAS ?= dev

# Tests are shared among processes as they get done; more than four win little and want a gigabyte each.
PARALLEL ?= --numprocesses auto --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo serve test test-browser test-clients check format docs bench train-tiny clean

help: ## List the verbs
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# A mark for each choice of extras, so that another choice is installed too.
INSTALLED := $(VENV)/.installed-$(EXTRAS)

install: $(INSTALLED) ## Make the environment in .venv

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Stentor needs Python 3.11 or newer, but '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Install one and name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV) (about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.train-installed: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,train]'
	@touch $@

demo: install ## Start a server, make three files in demo/ through its API, stop it
	$(BIN)/python examples/demo.py --output demo

serve: install ## Serve the built-in voice on http://127.0.0.1:8000 (ARGS="--port 9000")
	$(BIN)/stentor serve $(ARGS)

test: install ## Run all tests (ARGS="-k name")
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-clients: install ## Run the libraries of OpenAI, LiveKit, Pipecat, LiteLLM, ... against a server
	$(BIN)/python -m tests.clients.environments
	$(BIN)/python -m pytest -m "clients or not clients" tests/clients $(ARGS)

test-browser: install ## Click through the pages in a headless Chromium (apt install chromium)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[browser,ui]'
	$(BIN)/python -m pytest tests/browser -m browser $(ARGS)

check: install ## Lint, format check, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## Put the code in its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install ## Write the generated pages again: reference, benchmark tables
	$(BIN)/python docs/generate.py

bench: install ## Measure the engine and the server; results in benchmarks/results
	$(BIN)/stentor bench engine --save benchmarks/results
	$(BIN)/stentor bench serve --save benchmarks/results
	$(BIN)/python -m benchmarks.roofline --save benchmarks/results
	$(BIN)/python -m benchmarks.throughput --save benchmarks/results
	$(BIN)/python -m benchmarks.latency --save benchmarks/results
	$(BIN)/python docs/generate.py

# The weights that training goes on from; START= begins from nothing.
START ?= .cache/first-voice

train-tiny: $(VENV)/.train-installed ## Train the built-in voice (some five hours on two quiet cores)
	@[ -z "$(START)" ] || [ -f "$(START)/model.safetensors" ] || { mkdir -p $(START) && \
	  git show 58578a4:stentor/checkpoints/stentor_tiny/model.safetensors > $(START)/half && \
	  mv $(START)/half $(START)/model.safetensors; }
	$(BIN)/python -m training $(if $(START),--from $(START)) $(ARGS)

clean: ## Remove the environment and everything generated
	rm -rf $(VENV) demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
