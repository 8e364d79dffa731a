# Everything runs in .venv, which the first target that needs it makes: about three minutes, once.
PYTHON ?= python3
ARGS ?=

INSTALLED = .venv/requirements.stamp
READY = .venv/ready.stamp

.PHONY: help study test bench format clean

help:
	@echo 'make study    run the demo study; ARGS="--workers 1" passes options on'
	@echo 'make test     check style and types, run the tests; ARGS="-k lstm" passes options to pytest'
	@echo 'make bench    measure speed into benchmarks/RESULTS.md; ARGS="updates kernels" names sections'
	@echo 'make format   put the code into the style that make test asks for'
	@echo 'make clean    remove the environment and caches; studies (.longlag) stay'

study: $(READY)
	.venv/bin/longlag launch demo $(ARGS)

# One thread per process: tensors are small, and the workers that the tests start would fight over the cores.
test: $(READY)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	OMP_NUM_THREADS=1 .venv/bin/pytest $(ARGS)

bench: $(READY)
	.venv/bin/python -m benchmarks $(ARGS)

format: $(READY)
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last: what an interrupted installation left is made again.
$(INSTALLED): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "longlag needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install -qq --requirement requirements.lock
	@touch $@

$(READY): $(INSTALLED) pyproject.toml
	.venv/bin/pip install -qq --no-deps --no-build-isolation --editable .
	.venv/bin/pip check
	@touch $@
