# Sets up a virtual environment where there is none, then does what its name says. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test gpu-check campaign starts ray-check images lint format proto schema docs clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(VENV)/.installed  ## the virtual environment, with everything that development needs

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing (torch is large; this takes a few minutes the first time)"
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e '.[service,words,tasks,postgres,traces,benchmarks,dev]'
	touch $@

demo: setup  ## train a tiny multilingual model, prune it through the service, show what each language lost
	$(BIN)/secateur-service demo --data-dir demo-data

# In the order of the folders, but for long files: by number of tests, which is the default, some of them would be last.
# `-m ""`: of every architecture, where pytest alone goes over a few of each kind.
test: setup  ## all tests
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder -m ""

gpu-check: setup  ## on a machine with a GPU: the tests that need one, then jobs, kernels and decoding measured (8 minutes)
	$(BIN)/python -m pytest -m gpu tests/unit/pruning tests/unit/models/test_streaming.py
	$(BIN)/python -m benchmarks.gpu --seconds 420

campaign: setup  ## 200 random faults over at least 40 jobs, then every promise of docs/reliability.md checked (15 minutes)
	cd tests && ../$(BIN)/python -m faults.campaign --database sqlite
	cd tests && ../$(BIN)/python -m faults.campaign --database postgresql

starts: setup  ## 40 jobs whose workers start slowly: beside six busy loops, and with imports delayed by a minute (25 minutes)
	cd tests && ../$(BIN)/python -m faults.starts
	cd tests && ../$(BIN)/python -m faults.starts --delay 60

# Ray has an environment of its own: nothing of the project needs it.
ray-check: setup  ## 30 jobs on a real Ray cluster that loses a node, an agent and its head (root; 10 minutes)
	test -x .ray/bin/ray || { $(PYTHON) -m venv .ray && .ray/bin/python -m pip install --quiet 'ray[default]==2.60.0'; }
	cd tests && RAY_ENVIRONMENT=$(CURDIR)/.ray ../$(BIN)/python -m faults.on_ray

images: setup  ## both images built by buildah, started, and a job run in one (root; 5 minutes)
	TEST_IMAGES=1 $(BIN)/python -m pytest --capture=no --verbose tests/images

lint: setup  ## style, types, and whether what is generated has drifted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/generate_stubs.py --check
	$(BIN)/python scripts/generate_documentation.py --check

format: setup  ## let the formatter have its way
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: setup  ## generate the stubs in client/secateur/v1
	$(BIN)/python scripts/generate_stubs.py

schema: setup  ## generate docs/report.schema.json and docs/comparison.schema.json
	$(BIN)/python -m secateur_service.evaluation.report > docs/report.schema.json
	$(BIN)/python -m secateur_service.evaluation.comparison_parts > docs/comparison.schema.json

docs: setup  ## write the pages of docs/ that come from the code
	$(BIN)/python scripts/generate_documentation.py

clean:  ## remove what can be made again
	rm -rf $(VENV) .ray demo-data build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
