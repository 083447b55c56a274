PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .bench
CUDA_TESTS := $(wildcard tests/test_cuda*.py) tests/test_ptx.py
RUN := out/bench.json
PEER_ENVIRONMENTS := $(patsubst bench/peers/requirements/%.txt,$(PEERS)/%/.made,$(wildcard bench/peers/requirements/*.txt))

.PHONY: browser demo vowels g2p vad vanishing_gradients test lint bench bench-full bench-env report readme cuda-report clean

# Each extra leaves a mark, so that a second `make` installs nothing.
$(VENV)/.%: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/python examples/lenet.py

# make vowels ARGS="--cell gru"
vowels g2p vad vanishing_gradients: $(VENV)/.examples
	$(BIN)/python examples/$@.py $(ARGS)

# Tests of CUDA kernels have one thread and time nothing: each core has some of them. The others come after them.
test: $(VENV)/.test browser
	$(BIN)/python -m pytest -n auto -p no:benchmark $(CUDA_TESTS) || status=$$?; \
	$(BIN)/python -m pytest $(CUDA_TESTS:%=--ignore=%) && exit $${status:-0}

# Tests of the report open it in Chromium, which is no Python package.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
	if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -qq -y chromium chromium-driver >/dev/null; \
	else echo "tests/test_report_html.py needs chromium and chromium-driver: apt-get install chromium chromium-driver"; fi

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The other runtimes need versions of one library that cannot live together: each has an environment of its own.
$(PEERS)/%/.made: bench/peers/requirements/%.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

bench-env: $(PEER_ENVIRONMENTS)

# Some of every kind of work, all runtimes, a page to look at. make bench BENCH="-k vgg3_2 --resume"
bench bench-full: bench-env $(VENV)/.bench
	$(BIN)/python -m pytest --benchmark $(if $(filter bench,$@),--quick) --benchmark-json=$(RUN) $(BENCH) || status=$$?; \
	$(MAKE) --no-print-directory report && exit $${status:-0}

# Tables and out/cuda.html of what can be known without a GPU: computed, not measured. Needs nvcc and g++.
# make cuda-report ARGS="-k winograd sm_90"
cuda-report: $(VENV)/.test
	$(BIN)/python -m tools.cuda_report $(ARGS)

report: $(VENV)/.bench
	$(BIN)/fastconv report $(RUN) -o $(RUN:.json=.html)

# Of a full run on a quiet machine: make bench-full readme
readme: $(VENV)/.bench
	$(BIN)/python tools/readme.py $(RUN)

clean:
	rm -rf $(VENV) $(PEERS) build dist out *.egg-info
