# Everything here needs only Python >= 3.11, pip, make and git. `make run` and `make test` do all set-up.
#
#   make run PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#
# passes PIP_ARGS to every pip call, the download of the default model included.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PROMPT ?= What is the capital of France?
RUN_ARGS ?= --temperature 0
TEST_JOBS ?= 2
TEST_ARGS ?=
LLAMACPP ?= .venv-llamacpp
LLAMACPP_VERSION ?= 0.3.36
BENCH_MODELS ?= build/bench
BENCH_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(PIP_ARGS)

export RBEE_PIP_ARGS := $(PIP_ARGS)

.PHONY: run test test-slow test-cpu test-long lint bench-cpu clean

run: $(VENV)/.run
	$(BIN)/rbee-worker generate --chat "$(PROMPT)" $(RUN_ARGS)

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) -m "not slow and not kernels and not long" $(TEST_ARGS)

test-slow: $(VENV)/.test
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "slow and not kernels and not long" $(TEST_ARGS)

test-long: $(VENV)/.test
	$(BIN)/python -m pytest -m long $(TEST_ARGS)

test-cpu: $(VENV)/.test
	$(BIN)/python -m pytest -n $(TEST_JOBS) -m kernels $(TEST_ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Starts a model family (docs/adding-a-model.md): make new-model NAME=its_model_type
.PHONY: new-model
new-model: $(VENV)/.test
	$(BIN)/python -m tests.archs.new $(NAME)

# Every row of docs/performance.md's CPU table, beside llama.cpp compiled for this machine, on a machine that
# does nothing else: an hour or two. BENCH_ARGS="--rounds 1 --only Q4_0" is a first look.
bench-cpu: $(VENV)/.test $(LLAMACPP)/.ready
	$(BIN)/python -m benchmarks.cpu --peer-python $(LLAMACPP)/bin/python --models $(BENCH_MODELS) \
	  --write $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.memory --models $(BENCH_MODELS) --write
	$(BIN)/python -m benchmarks.startup --write

clean:
	rm -rf $(VENV) $(LLAMACPP) build dist

# A stamp is made when its extras are installed, and again when the list of packages changes.

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is older than Python 3.11. Fix: make PYTHON=/path/to/python3.11" >&2; \
	  exit 2; }
	@# Debian's Python comes without ensurepip; its pip can still fill an empty environment.
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(BIN)/python install $(PIP_ARGS) pip; }
	@touch $@

$(VENV)/.run: pyproject.toml $(VENV)/.python
	@echo "Installing rbee-worker into $(VENV); torch is the large part."
	$(PIP) -e ".[server,cpu]"
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.run
	$(PIP) -e ".[server,cpu,test,smoke]"
	@# The web page is tested in a browser where one can be had; elsewhere that test says why it is skipped.
	-@command -v chromedriver >/dev/null || ! command -v apt-get >/dev/null || test "$$(id -u)" != 0 || \
	  { apt-get update -qq && apt-get install -y -qq chromium chromium-driver; } >/dev/null 2>&1
	@touch $@

$(VENV)/.lint: pyproject.toml $(VENV)/.run
	$(PIP) -e ".[server,cpu,otel,lint]"
	@touch $@

$(LLAMACPP)/.ready: benchmarks/llamacpp_build.py $(VENV)/.python
	@for tool in cmake c++; do command -v $$tool >/dev/null || { \
	  echo "error: $$tool is missing; llama.cpp is compiled with it. Fix: apt-get install cmake g++" >&2; exit 2; }; done
	@echo "Compiling llama.cpp into $(LLAMACPP), for this processor: a quarter of an hour on two cores."
	$(PYTHON) -m venv $(LLAMACPP) || { $(PYTHON) -m venv --clear --without-pip $(LLAMACPP) && \
	  $(PYTHON) -m pip --python $(LLAMACPP)/bin/python install $(PIP_ARGS) pip; }
	@# Without the cache: pip would take a wheel that was once compiled with other arguments.
	CMAKE_ARGS="$$($(BIN)/python -m benchmarks.llamacpp_build)" $(LLAMACPP)/bin/python -m pip \
	  --disable-pip-version-check install $(PIP_ARGS) --no-cache-dir --no-binary llama-cpp-python \
	  llama-cpp-python==$(LLAMACPP_VERSION)
	@touch $@
