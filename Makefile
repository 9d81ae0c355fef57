# `make help` lists the targets. Each sets up what it needs in .venv; only python3 and make must be there.
PYTHON ?= python3
VENV ?= .venv
# Optional parts to install, comma separated. CI adds torch, which is several GB on most machines.
EXTRAS ?= plots,checkpoint,tensorboard,export
RUN := $(VENV)/bin/python
comma := ,
READY := $(VENV)/ready-$(subst $(comma),-,$(EXTRAS))
# Arguments for pytest, as in: make test ARGS='-k cross_entropy'
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help wheel run mnist examples bench measure-bench test test-slow test-all check lint types clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

wheel: $(READY)  ## Build the wheel, in dist
	$(RUN) -m pip wheel --quiet --no-deps --wheel-dir dist .

run: $(READY)  ## Reproduce the paper's disk experiment: tables and figures in runs/disk
	$(RUN) -m experiments disk

mnist: $(READY)  ## Reproduce the paper's MNIST experiment: table and figures in runs/mnist
	$(RUN) -m experiments mnist

examples: $(READY)  ## Run the examples of experiments/examples: a network on digits, a thousand small ones
	$(RUN) -m experiments.examples.digits
	$(RUN) -m experiments.examples.seeds

bench:  ## Compare the speed with PyTorch, flax and others, on a quiet machine; page in runs/bench
	$(MAKE) EXTRAS=plots,torch,bench measure-bench

measure-bench: $(READY)
	$(RUN) -m experiments bench

# By files, so that tests that share a run share a process.
test: $(READY)  ## Run the tests but for the slow ones
	$(RUN) -m pytest -n auto --dist loadfile $(ARGS)

test-slow: $(READY)  ## Run the slow tests
	$(RUN) -m pytest -n auto -m 'slow and not exhaustive' $(ARGS)

test-all: $(READY)  ## Run every test, those too that judge others' claims in more shapes, dtypes and seeds
	$(RUN) -m pytest -n auto -m '' $(ARGS)

check: lint types test  ## What CI runs: lint, types and tests

lint: $(READY)  ## Check style and format with ruff
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# Of what funcnet exports, every type is known. That command asks the Python on the path.
types: $(READY)  ## Check types with pyright
	$(RUN) -m pyright --pythonpath $(RUN)
	PATH=$(abspath $(VENV))/bin:$$PATH pyright --verifytypes funcnet --ignoreexternal

clean:  ## Remove the virtual environment and the caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

# A pip too old for this project's metadata upgrades itself first.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade 'pip>=24'
	$(RUN) -m pip install --quiet --editable '.[test,lint,$(EXTRAS)]' --constraint constraints.txt
	@touch $@
