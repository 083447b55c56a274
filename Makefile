PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .bench
PEER_ENVIRONMENTS := $(patsubst bench/peers/requirements/%.txt,$(PEERS)/%/.made,$(wildcard bench/peers/requirements/*.txt))

.PHONY: demo vowels g2p vad vanishing_gradients test lint bench bench-env bench-conv bench-rnn readme clean

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

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python -m pytest --benchmark

# The other runtimes need versions of one library that cannot live together: each has an environment of its own.
$(PEERS)/%/.made: bench/peers/requirements/%.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

bench-env: $(PEER_ENVIRONMENTS)

# make bench-conv BENCH="--cases vgg3 --quick"
bench-conv: bench-env $(VENV)/.bench
	$(BIN)/python -m bench.peers --out out/peers.json $(BENCH)

# make bench-rnn BENCH="--cases lstm --quick"
bench-rnn: bench-env $(VENV)/.bench
	$(BIN)/python -m bench.peers --set rnn --out out/peers-rnn.json $(BENCH)

readme: $(VENV)/.bench
	$(BIN)/python tools/readme.py

clean:
	rm -rf $(VENV) $(PEERS) build dist out *.egg-info
