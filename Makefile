# Everything here works on a machine that has Python 3.11 or newer, make and git: a target sets up .venv where
# it must, and uses it again afterwards. Plain `make` lists the targets.

PYTHON ?= python3

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO  := .demo

PLUGINS := plugins/mtlkit-digits plugins/mtlkit-tensorboard plugins/mtlkit-torchjd

RECENT := import sys; sys.exit(sys.version_info < (3, 11))

# The stamp is written last and holds the folder that .venv was built in, which its scripts and its editable
# installs name. So an unfinished .venv, one whose checkout has moved, and one whose Python is gone or too
# old all show, and are built anew; a finished one is only brought up to date when a prerequisite changes.
READY = [ "$$(cat $(STAMP) 2>/dev/null)" = "$(CURDIR)" ] && $(BIN)/python -c '$(RECENT)' 2>/dev/null

ifneq ($(shell $(READY) && echo yes),yes)
.PHONY: $(STAMP)
endif

.DEFAULT_GOAL := help
.PHONY: help demo test lint format picture reference clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(firstword $(MAKEFILE_LIST))
	@echo 'The interpreter for a new $(VENV) is $(PYTHON); name another with: make PYTHON=python3.12 ...'

demo: $(STAMP) ## train four tasks on one encoder, then compare each with a model of its own
	@rm -rf $(DEMO)
	$(BIN)/mtlkit train examples/digits.yaml run.dir=$(DEMO)
	$(BIN)/mtlkit baseline examples/digits.yaml run.dir=$(DEMO) --seeds 3

# One process for each core, and one thread in each: the models of the tests are small, and threads that wait for a
# core are slow.
test: $(STAMP) ## run the tests, the slow ones left out
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: $(STAMP) ## check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy mtlkit

format: $(STAMP) ## format the code, and repair what can be repaired by rule
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

picture: $(STAMP) ## draw docs/demo.svg anew: what the demo shows
	$(BIN)/python docs/picture.py

reference: $(STAMP) ## write docs/cli.md and docs/authors/reference.md anew, from the code
	$(BIN)/python docs/reference.py

clean: ## remove .venv, caches and what builds and the demo left; never your runs
	rm -rf $(VENV) $(DEMO) build dist *.egg-info plugins/*/build plugins/*/dist plugins/*/src/*.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . \( -name .git -o -name runs \) -prune -o -type d -name __pycache__ -exec rm -rf {} +

# pip's -c does not reach the environments in which packages are built (nor, since pip 25.3, does PIP_CONSTRAINT),
# so setuptools is installed first, pinned, and the builds use that one.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

$(STAMP): pyproject.toml constraints.txt $(PLUGINS:=/pyproject.toml)
	@$(READY) || { \
	  $(PYTHON) -c '$(RECENT)' 2>/dev/null || { \
	    found=$$($(PYTHON) -V 2>/dev/null) || found='no Python that runs'; \
	    echo "mtlkit needs Python 3.11 or newer, and '$(PYTHON)' is $$found." \
	      "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	    exit 1; \
	  }; \
	  if [ -d $(VENV) ]; then \
	    echo "$(VENV) is unfinished, was made for another folder, or its Python is gone or too old: building it anew."; \
	  else \
	    echo "Building $(VENV): a few minutes, the first time."; \
	  fi; \
	  $(PYTHON) -m venv --clear $(VENV); \
	}
	@rm -f $@
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation -e '.[dev]' $(PLUGINS:%=-e %)
	@echo "$(CURDIR)" > $@
