# make compare   the main job: several guides, one generative model, one table
# make test      the tests        make lint   ruff        make docs   the site, in docs/_build
# make bench     the measurements of docs/benchmarks.md (DATA=folder with MNIST for the last one)
# make gpu       those of a GPU, in eight minutes
# Each but gpu makes the virtual environment .venv first, if it is not there.

PYTHON ?= python3
VENV ?= .venv
DATA ?=
BIN := $(VENV)/bin
MADE := $(VENV)/.installed

.PHONY: install compare test lint docs bench gpu clean

install: $(MADE)-test

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "pyro_dlgm needs Python 3.10 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras; "base" is the package alone.
$(MADE)-base: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(MADE)-%: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

compare: $(MADE)-base
	$(BIN)/pyro-dlgm compare --data digits --out runs/compare

# A process for each core, with one thread: two processes of two threads each would wait for one another. A file's tests stay
# in one process, where they share what is made once.
test: $(MADE)-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

lint: $(MADE)-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Pages are executed by two processes, each with one thread (docs/conf.py).
docs: $(MADE)-docs
	$(BIN)/python -m sphinx -j 2 -W --keep-going -q -b html docs docs/_build

bench: $(MADE)-bench
	$(BIN)/python tests/benchmarks/rows.py
	$(BIN)/python tests/benchmarks/rows_in_files.py --points 1e7
	$(BIN)/python tests/benchmarks/step_price.py --threads 2 --rounds 20
	$(BIN)/python tests/benchmarks/step_price.py --threads 1 --rounds 15 --steps 30 --out runs/bench/one_thread
	$(BIN)/python tests/benchmarks/log_joint.py
	$(BIN)/python tests/benchmarks/auto_price.py
	$(BIN)/python tests/benchmarks/lazy_dense.py
	$(BIN)/python tests/benchmarks/lazy_dense.py --ways AutoNormal --ratios 64 --epochs 10 20 40 --out runs/bench/auto_normal
	$(BIN)/python tests/benchmarks/lazy_dense.py --ways AutoNormal --ratios 1 --epochs 40 80 160 --out runs/bench/full_batch
	$(BIN)/python tests/benchmarks/factor_figure.py
	$(BIN)/python tests/benchmarks/lazy_dense_steps.py
	$(BIN)/python tests/benchmarks/absent_rows.py
	$(BIN)/python tests/benchmarks/infer_counts.py
	$(BIN)/python tests/benchmarks/streamed_ppca.py
	$(BIN)/python tests/benchmarks/ppca_peers.py --threads 1
	$(BIN)/python tests/benchmarks/ppca_peers.py --threads 2 --out runs/bench/two_threads
	$(BIN)/python tests/benchmarks/ais.py
	$(BIN)/python tests/benchmarks/judge.py
	$(BIN)/python tests/benchmarks/e_steps.py
	$(BIN)/python tests/benchmarks/kill.py
	$(BIN)/python examples/monte_carlo_em.py --data digits
	$(if $(DATA),$(BIN)/python tests/benchmarks/bdmc.py --data-root $(DATA),@echo "MNIST is left out: make bench DATA=folder-that-holds-MNIST")
	$(if $(DATA),$(BIN)/python tests/benchmarks/chain_ess.py --data-root $(DATA))
	$(if $(DATA),$(BIN)/python examples/mnist_conv.py --data-root $(DATA))
	$(if $(DATA),$(BIN)/python examples/inference_gap.py --data-root $(DATA))
	$(if $(DATA),$(BIN)/python examples/monte_carlo_em.py --data mnist --data-root $(DATA) --budgets 200)
	$(if $(DATA),$(BIN)/python examples/kingma_welling.py --data-root $(DATA))

# Nothing is installed: it runs in .venv if that is there, else with PYTHON, which needs torch, torchvision and Pyro.
gpu:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) tests/benchmarks/gpu.py

clean:
	rm -rf $(VENV) build docs/_build *.egg-info
