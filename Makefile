# Everything here needs only Python >= 3.11, pip, make and git. `make run` and `make test` do all set-up.
#
# PIP_ARGS goes to every pip call, the download of the default model included: a mirror, a proxy, another index.

PYTHON ?= python3
VENV ?= .venv
DEV ?= .venv-dev
LATEST ?= .venv-latest
PIP_ARGS ?=
PROMPT ?= What is the capital of France?
RUN_ARGS ?= --temperature 0
TEST_JOBS ?= 2
TEST_ARGS ?=
CLIENTS ?= .venv-clients
LLAMACPP ?= .venv-llamacpp
LLAMACPP_VERSION ?= 0.3.36
SBOM ?= .venv-sbom
CYCLONEDX_VERSION ?= 7.5.0
BENCH_MODELS ?= build/bench
BENCH_ARGS ?=
SOAK_ARGS ?=

# What installs the rest is pinned as well: a package that is built here (this one) is built without isolation, by
# the hatchling of constraints.txt.
BUILDERS := pip hatchling editables
PIP := -m pip --disable-pip-version-check install $(PIP_ARGS)
LOCKED := $(PIP) --constraint constraints.txt
HERE := $(LOCKED) --no-build-isolation --editable
BIN := $(DEV)/bin

# Each of TEST_JOBS processes computes on one thread; where there are more after all, they sleep while they wait.
THREADED := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
QUICK := not slow and not kernels and not long
SLOW := slow and not kernels and not long

export RBEE_PIP_ARGS := $(PIP_ARGS)

.PHONY: run soak test test-slow test-cpu test-gpu test-long test-latest lint lock size vendor sbom new-model bench-cpu bench-gpu clean

run: $(VENV)/.run
	$(VENV)/bin/rbee-worker generate --chat "$(PROMPT)" $(RUN_ARGS)

test: $(DEV)/.test
	$(THREADED) $(BIN)/python -m pytest -n $(TEST_JOBS) -m "$(QUICK)" $(TEST_ARGS)

test-slow: $(DEV)/.test
	$(THREADED) $(BIN)/python -m pytest -n $(TEST_JOBS) -m "$(SLOW)" $(TEST_ARGS)

test-long: $(DEV)/.test $(CLIENTS)/.ready
	RBEE_TEST_CLIENTS=$(CLIENTS) $(BIN)/python -m pytest -m long $(TEST_ARGS)

test-cpu: $(DEV)/.test
	$(BIN)/python -m pytest -n $(TEST_JOBS) -m kernels $(TEST_ARGS)

# A worker under everything at once, its answers compared and its resources counted; SOAK_ARGS="--minutes 30": longer.
soak: $(DEV)/.test
	@# The clock jumps where libfaketime can be had; elsewhere the run says what it leaves out.
	-@ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || ! command -v apt-get >/dev/null || \
	  test "$$(id -u)" != 0 || { apt-get update -qq && apt-get install -y -qq libfaketime; } >/dev/null 2>&1
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.soak --minutes 3 $(SOAK_ARGS)

lint: $(DEV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# On a machine with an NVIDIA GPU; everywhere else the same tests run in Triton's interpreter, as part of the others.
test-gpu: $(DEV)/.test
	RBEE_TEST_GPU=1 $(BIN)/python -m pytest tests/ops/cuda $(TEST_ARGS)

# The quick and the slow suite with today's newest versions that pyproject.toml allows, pip and hatchling included:
# for CI to run weekly. Red here and green in `make test`: a release of somebody else's needs a change of ours, or a
# bound in pyproject.toml. Green: `make lock` may take it. Deprecations are listed and fail nothing here.
LATEST_ARGS := $(foreach kind,DeprecationWarning PendingDeprecationWarning FutureWarning,-W default::$(kind))
test-latest:
	$(call make_venv,$(LATEST))
	$(LATEST)/bin/python $(PIP) --upgrade pip
	$(LATEST)/bin/python $(PIP) --upgrade --upgrade-strategy eager --editable ".[test]"
	$(LATEST)/bin/python -m pip list
	$(THREADED) $(LATEST)/bin/python -m pytest -n $(TEST_JOBS) $(LATEST_ARGS) -m "$(QUICK)" $(TEST_ARGS)
	$(THREADED) $(LATEST)/bin/python -m pytest -n $(TEST_JOBS) $(LATEST_ARGS) -m "$(SLOW)" $(TEST_ARGS)

# Writes constraints.txt anew: the newest versions that pyproject.toml allows, for every system and Python >= 3.11, by
# `uv pip compile` (uv's own configuration says where it looks, PIP_ARGS does not). Then run .ci/run.
lock: $(DEV)/.python
	$(BIN)/python $(LOCKED) uv
	printf '%s\n' $(BUILDERS) uv | UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile \
	  --universal --python-version 3.11 --python $(BIN)/python --upgrade --all-extras --annotation-style line \
	  --no-emit-index-url --no-emit-find-links --output-file constraints.txt pyproject.toml - >/dev/null

# Starts a model family (docs/adding-a-model.md): make new-model NAME=its_model_type
new-model: $(DEV)/.test
	$(BIN)/python -m tests.archs.new $(NAME)

# The bytes that `make run` downloads before the model, which must stay within a budget.
size: $(VENV)/.python
	$(VENV)/bin/python -m benchmarks.packages $(BUILDERS)

# Fetches the page's foreign files from npm again (docs/page.md); content other than that of versions.json is refused.
# VENDOR_ARGS=--accept takes what a changed version there brings.
vendor: $(DEV)/.python
	$(BIN)/python -m tests.page.vendor $(VENDOR_ARGS)

# A bill of materials (CycloneDX, JSON) of what `make run` installs and of what the page has from others, checked
# against its schema, for a release: build/sbom.cdx.json.
sbom: $(VENV)/.run
	$(call make_venv,$(SBOM))
	$(SBOM)/bin/python $(PIP) cyclonedx-bom==$(CYCLONEDX_VERSION)
	mkdir -p build
	$(SBOM)/bin/cyclonedx-py environment $(VENV)/bin/python --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --of JSON --output-file build/sbom.cdx.json
	$(SBOM)/bin/python deploy/sbom.py build/sbom.cdx.json

# Every row of docs/performance.md's CPU table, beside llama.cpp compiled for this machine, on a machine that
# does nothing else: an hour or two. BENCH_ARGS="--rounds 1 --only Q4_0" is a first look.
bench-cpu: $(DEV)/.test $(LLAMACPP)/.ready
	$(BIN)/python -m benchmarks.cpu --peer-python $(LLAMACPP)/bin/python --models $(BENCH_MODELS) \
	  --write $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.memory --models $(BENCH_MODELS) --write
	$(BIN)/python -m benchmarks.startup --write

# The GPU's table in docs/performance.md, from random weights; BENCH_ARGS="qwen3-30b-a3b --json FILE": another shape.
bench-gpu: $(DEV)/.test
	$(BIN)/python -m benchmarks.gpu $(or $(BENCH_ARGS),llama-8b)

clean:
	rm -rf $(VENV) $(DEV) $(LATEST) $(LLAMACPP) $(CLIENTS) $(SBOM) build dist

# Debian's Python comes without ensurepip; its pip can still fill an empty environment.
define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is older than Python 3.11. Fix: make PYTHON=/path/to/python3.11" >&2; \
	  exit 2; }
	$(PYTHON) -m venv $(1) || { $(PYTHON) -m venv --clear --without-pip $(1) && \
	  $(PYTHON) -m pip --python $(1)/bin/python install $(PIP_ARGS) pip; }
endef

# A stamp is made when what it stands for is installed, and again when the list of packages or their versions change.

$(VENV)/.python $(DEV)/.python: %/.python: constraints.txt
	$(call make_venv,$*)
	$*/bin/python $(LOCKED) $(BUILDERS)
	@touch $@

$(VENV)/.run: pyproject.toml $(VENV)/.python
	$(VENV)/bin/python $(HERE) .
	@touch $@

$(DEV)/.test: pyproject.toml $(DEV)/.python
	@echo "Installing what the tests need into $(DEV); torch is the large part."
	$(BIN)/python $(HERE) ".[test]"
	@# The web page is tested in a browser where one can be had; elsewhere that test says why it is skipped.
	-@command -v chromedriver >/dev/null || ! command -v apt-get >/dev/null || test "$$(id -u)" != 0 || \
	  { apt-get update -qq && apt-get install -y -qq chromium chromium-driver; } >/dev/null 2>&1
	@touch $@

# Other people's clients, in environments of their own: their versions need not go together with ours. What cannot be
# installed is left out, and the tests that need it say so.
$(CLIENTS)/.ready: tests/clients/requirements.txt tests/clients/package.json
	$(call make_venv,$(CLIENTS)/venv)
	-$(CLIENTS)/venv/bin/python $(PIP) --requirement tests/clients/requirements.txt
	cp tests/clients/package.json $(CLIENTS)/
	-command -v npm >/dev/null && cd $(CLIENTS) && npm install --no-audit --no-fund
	@touch $@

$(DEV)/.lint: pyproject.toml $(DEV)/.python
	$(BIN)/python $(HERE) ".[lint]"
	@touch $@

$(LLAMACPP)/.ready: benchmarks/llamacpp_build.py $(DEV)/.python
	@for tool in cmake c++; do command -v $$tool >/dev/null || { \
	  echo "error: $$tool is missing; llama.cpp is compiled with it. Fix: apt-get install cmake g++" >&2; exit 2; }; done
	@echo "Compiling llama.cpp into $(LLAMACPP), for this processor: a quarter of an hour on two cores."
	$(call make_venv,$(LLAMACPP))
	@# Without the cache: pip would take a wheel that was once compiled with other arguments.
	CMAKE_ARGS="$$($(BIN)/python -m benchmarks.llamacpp_build)" $(LLAMACPP)/bin/python $(LOCKED) \
	  --no-cache-dir --no-binary llama-cpp-python llama-cpp-python==$(LLAMACPP_VERSION)
	@touch $@
