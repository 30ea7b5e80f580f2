# Every target does its own set-up: a virtual environment, torch first, then moiety.
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch>=2.10,<2.14
BIN     = $(VENV)/bin

.PHONY: demo demo-intent test test-browser check format doctest clean
.DEFAULT_GOAL := help

help:            ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

demo: $(VENV)/.ready       ## build, train and compare sparse models on handwriting scenes; opens in minutes, CPU only
	$(BIN)/moiety demo

demo-intent: $(VENV)/.ready   ## make spoken clips, learn their intents from the raw files; minutes, CPU only
	$(BIN)/moiety intent demo

test: $(VENV)/.ready       ## the test suite, about 6 minutes on two cores
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-browser: $(VENV)/.ready  ## what a person sees: app and pages in headless Chromium; brings gradio and selenium
	@command -v chromedriver >/dev/null || { echo "no chromedriver on PATH; on Debian: apt-get install chromium chromium-driver"; exit 1; }
	$(BIN)/python -m pip install --quiet --editable ".[app,browser]"
	$(BIN)/python -m pytest -q -m browser tests/browser

check: $(VENV)/.ready      ## format, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_floors.py

format: $(VENV)/.ready     ## rewrite files in house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:           ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch goes in before anything that depends on it, so that its build is the one chosen here
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moiety needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
