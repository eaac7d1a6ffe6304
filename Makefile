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

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(PIP_ARGS)

export RBEE_PIP_ARGS := $(PIP_ARGS)

.PHONY: run test test-slow test-cpu test-long lint clean

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

clean:
	rm -rf $(VENV) build dist

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
