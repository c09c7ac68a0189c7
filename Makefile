# Every target works on a fresh machine with nothing but Python (3.10 or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test docs stops lint bench dist install clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/.installed  ## Make .venv and install the project, with what tests and lint need

# Setuptools warns of every editable installation that a folder of the same name may be imported instead: this very one.
$(VENV)/.installed: export PYTHONWARNINGS = ignore:Editable installation
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "1 of 4: making $(VENV), a Python environment of its own"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "2 of 4: installing torch (on disk 0.8 GB as a CPU build, 4 GB with CUDA); minutes, as the network allows"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	@echo "3 of 4: installing alexnet-fast and what it needs, its tests and linters too (3 GB); minutes"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@echo "4 of 4: compiling the loops that train on this machine's CPU: half a minute, longer beside other work"
	@$(BIN)/python -m alexnet_fast.training.compile_ahead
	@touch $@

demo: install  ## Make a small data set, train on it, show the result (under five minutes on two cores)
	$(BIN)/alexnet-fast demo

test: install  ## Run the tests (two cores, no GPU, under ten minutes)
	$(BIN)/python -m pytest -n 2 --dist worksteal

docs: install  ## Run every command and Python block of README.md and docs/, the slow ones too
	ALEXNET_FAST_DOCS=all $(BIN)/python -m pytest -n 2 --dist worksteal tests/test_docs.py

stops: install  ## Stop training at twenty moments by each signal, with one process and two
	ALEXNET_FAST_STOPS=all $(BIN)/python -m pytest tests/alexnet_fast/training/test_stops.py

lint: install  ## Check style (ruff) and types (mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install  ## Measure loader, model and training in one run (synthetic data unless ALEXNET_FAST_DATA is set)
	$(BIN)/alexnet-fast bench

dist: install  ## Build the wheel and the source distribution into dist/
	$(BIN)/python -m build --outdir dist .

clean:  ## Remove the environment and the demo's output
	rm -rf $(VENV) demo build dist *.egg-info
