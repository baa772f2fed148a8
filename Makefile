# `make run` starts the page, `make test` runs the tests. Each installs what is missing first and says so.

PYTHON ?= python3
DATA ?= ../shared/data
ARGS ?=
JOBS ?= 2

PY = .venv/bin/python
SETUP = PYTHON="$(PYTHON)" sh scripts/setup.sh

.DEFAULT_GOAL := help
.PHONY: help run test fuzz check lint setup setup-test mini mini-heldout prompts clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo '  Variables: PYTHON=python3.12 (for a new .venv)  ARGS="-k dicom" JOBS=2 (for pytest)  DATA=FOLDER (for mini)'

run: setup ## start the page (settings: PROMPTSCOPE_* variables)
	@$(PY) -m app

test: setup ## run the tests, those in a browser included
	@$(SETUP) scale && browser=$$($(SETUP) browser) && postgres=$$($(SETUP) postgres) && \
	echo "PromptScope: running the tests; browser: $$browser; PostgreSQL: $${postgres:-none}" && \
	OMP_NUM_THREADS=1 PROMPTSCOPE_CHROMIUM="$$browser" PROMPTSCOPE_POSTGRES="$$postgres" $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

fuzz: setup ## 20,000 mutated files and every bomb through the workers (half an hour)
	OMP_NUM_THREADS=1 nice $(PY) -m tests.fuzz --files 20000 --bombs $(ARGS)

check: lint test ## ruff, mypy, then the tests: run it before every commit

lint: setup ## ruff and mypy only
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

setup: ## make .venv and install the requirements, where they are missing or changed
	@$(SETUP) requirements

setup-test: setup ## setup, and for the tests Ray, a Chromium and PostgreSQL where none is installed
	@$(SETUP) scale && browser=$$($(SETUP) browser) && postgres=$$($(SETUP) postgres) && \
	echo "PromptScope: ready to test; browser: $$browser; PostgreSQL: $${postgres:-none}"

mini: setup ## train the embedded backbone scope-mini, two hours on 2 cores (resumes by itself)
	$(PY) scripts/pretrain_mini.py --data $(DATA)
	$(PY) scripts/train_mini.py --data $(DATA)

mini-heldout: setup ## the same without the class names of three sets, to measure transfer; after mini
	$(PY) scripts/train_mini.py --data $(DATA) --work runs/heldout --steps 700 --unnamed busi retina lc25000_lung

prompts: setup ## make the prompt sets of learned_prompts/ again, with their metrics
	$(PY) scripts/ship_sets.py --data $(DATA)

clean: ## remove caches and test artefacts; .venv and runs/ stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache test-artefacts .gradio flagged
	find app engine scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
