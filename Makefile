# make demo | quick | test | check | dashboard | lock. Each makes .venv first where it isn't there yet.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo quick test dashboard check lint types all fast lock clean

# make RUN=runs/mine dashboard;  make PYTEST_ARGS="tests/kernels -x" test
RUN ?= out/demo
PYTEST_ARGS ?=
BIN := .venv/bin
READY := .venv/.installed
# One thread an operation, so that figures repeat.
PYTEST := OMP_NUM_THREADS=1 RAY_worker_niceness=0 $(BIN)/python -m pytest -n 2 --dist loadfile \
	--no-loadscope-reorder
# uv installs no bytecode. Where a shell forbids to write it, every process (Ray's workers, commands
# that tests start) compiles torch and diffusers again: 15 s of a core.
export PYTHONDONTWRITEBYTECODE :=

help:
	@echo "make demo       find what the planted classifiers rely on -> out/demo/report.html"
	@echo "make quick      ruff, mypy and the quick tests: no Ray, no training, no long sampling"
	@echo "make test       ruff, mypy and all tests"
	@echo "make check      ruff and mypy only"
	@echo "make dashboard  look at a run in the browser (RUN=$(RUN))"
	@echo "make lock       resolve pyproject.toml again -> requirements.lock"

demo: $(READY)
	@echo "==> Investigating the planted classifiers; the report will be out/demo/report.html"
	$(BIN)/whylens demo --out out/demo
	@echo "==> Done. Open $(CURDIR)/out/demo/report.html   (or: make dashboard)"

dashboard: $(READY)
	@echo "==> The dashboard on $(RUN); stop it with Ctrl-C"
	$(BIN)/whylens dashboard $(RUN)

# mypy has a cache, and takes a minute of one core where that is empty: the tests don't wait for it.
BESIDE := --no-print-directory -j2 --output-sync=line types

test: lint
	@$(MAKE) $(BESIDE) all

quick: lint
	@$(MAKE) $(BESIDE) fast

all: $(READY)
	@echo "==> pytest, in two processes"
	$(PYTEST) --durations 15 $(PYTEST_ARGS)

fast: $(READY)
	@echo "==> pytest, without what is slow (tests/conftest.py)"
	$(PYTEST) -m "not slow" --durations 5 $(PYTEST_ARGS)

check: lint types

lint: $(READY)
	@echo "==> ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy can't see through the editable install's folder -> package mapping, so it reads a tree of
# links that has the shape of the installed package.
TREE := build/mypy/whylens
types: $(READY)
	@echo "==> mypy --strict"
	@mkdir -p $(TREE)
	@find $(TREE) -type l -delete
	@for part in whylens/* kernels cluster jobs dashboard; do \
		ln -sfn "$(CURDIR)/$$part" "$(TREE)/$${part##*/}"; done
	cd build/mypy && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p whylens

# requirements.lock holds the versions that are tested together, both faiss builds among them. It is
# used as constraints, so that the extra (cpu or gpu) decides which faiss is installed.
$(READY): pyproject.toml requirements.lock
	@python=; for p in python3.11 python3.12 python3.13 python3; do \
		if $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
		then python=$$p; break; fi; done; \
	if [ -z "$$python" ]; then echo "whylens needs Python 3.11 or newer, with venv"; exit 1; fi; \
	extra=cpu; if nvidia-smi -L >/dev/null 2>&1; then extra=gpu; fi; \
	echo "==> Installing whylens[$$extra,bundled,dev] into .venv with $$python"; \
	echo "    (once; some minutes and 7 GB: torch, diffusers, ray, streamlit)"; \
	[ -x $(BIN)/python ] || $$python -m venv .venv; \
	wanted=".[$$extra,bundled,dev]"; \
	if $(BIN)/python -m pip install --quiet uv && \
		VIRTUAL_ENV="$(CURDIR)/.venv" $(BIN)/uv pip install -c requirements.lock -e "$$wanted"; \
	then :; else \
		echo "==> uv did not work here; going on with pip (slower)"; \
		$(BIN)/python -m pip install -c requirements.lock -e "$$wanted"; \
	fi
	@touch $@

RESOLVE = $(BIN)/uv pip compile --quiet --upgrade --python-version 3.11 --no-header --no-annotate \
	--python-platform x86_64-unknown-linux-gnu --no-emit-index-url --extra bundled --extra dev \
	--extra s3 --extra gcs --extra azure --extra map
lock:
	@[ -x $(BIN)/uv ] || { echo "make lock needs .venv with uv: run make check first"; exit 1; }
	@{ $(RESOLVE) --extra cpu pyproject.toml && $(RESOLVE) --extra gpu pyproject.toml; } \
		| sed -E 's/\+(cpu|cu[0-9]+)$$//' | LC_ALL=C sort -u >requirements.lock.new
	@mv requirements.lock.new requirements.lock
	@echo "==> requirements.lock: $$(wc -l <requirements.lock) versions; now run make test"

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
