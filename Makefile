# make reproduce · make test: each makes .venv when it is missing and needs nothing else.
PARAMS ?= params/laptop.yaml
RUN ?= laptop
PYTHON ?= python3
BIN := .venv/bin

# Idle threads sleep instead of spinning: with two small models side by side that is several times faster.
export OMP_WAIT_POLICY = PASSIVE
export GOMP_SPINCOUNT = 0
export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: reproduce test lab verify bench lint clean

reproduce: .venv/installed  ## the whole chain: make reproduce PARAMS=params/smoke.yaml takes another params file
	$(BIN)/python -m kit.chain $(PARAMS)

test: .venv/installed  ## all tests that a machine without a GPU can run
	$(BIN)/python -m pytest -m "not gpu and not vllm" $(ARGS)

lab: .venv/installed  ## open the notebooks (on this machine only)
	$(BIN)/jupyter lab --ip=127.0.0.1 notebooks

verify: .venv/installed  ## do a run's numbers follow from its stored rollouts? make verify RUN=laptop
	$(BIN)/python -m kit.verify $(RUN)

bench: .venv/installed  ## grading speed, side by side with the official scheme and TRL's reward
	$(BIN)/python tests/bench_grading.py

lint: .venv/installed
	$(BIN)/ruff check .

clean:  ## forget the environment; results stay
	rm -rf .venv

# torch first: with its CPU build in place, pip has no reason to fetch gigabytes of CUDA packages.
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: needs Python 3.11 or newer; say make PYTHON=python3.11 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
