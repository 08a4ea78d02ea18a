# Everything a contributor runs. Python, and a few minutes for the first `make setup`, are all it needs.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup-done
EXTRAS := export,executorch,text,encryption,scan,fuzz,tools,dev
BUNDLE ?= runs/demo/bundle

# Two OpenMP pools that spin on the same cores slow each other down many times over.
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format pytest bench simulate bench-quality bench-scan bench-frontier bench-compression soak load fuzz test-arm64 fuzz-coverage docs lock clean distclean

help:  ## say what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with everything in it; UV_TORCH_BACKEND=cpu asks for the small torch

# Redone whenever the requirements change; quick otherwise.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "pocketrec needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	         "Name another one: make setup PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet -c constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: setup  ## the whole job on data it makes itself, in about three minutes
	$(BIN)/pocketrec demo --out runs/demo

test: lint pytest  ## what has to pass before a change lands: lint, types, tests

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

pytest: setup  ## the tests alone, two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

format: setup  ## let ruff lay out the code and mend what it safely can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## latency, memory and size of a bundle; the demo's, or BUNDLE=path/to/bundle
	@test -e $(BUNDLE) || { echo "There is no bundle at $(BUNDLE): run make demo first, or make bench BUNDLE=..." >&2; exit 2; }
	$(BIN)/pocketrec bench $(BUNDLE)

simulate: setup  ## the page: users of the demo as phones; or BUNDLE=path/to/bundle DATA=path/to/data
	@test -e $(BUNDLE) || { echo "There is no bundle at $(BUNDLE): run make demo first, or make simulate BUNDLE=... DATA=..." >&2; exit 2; }
	$(BIN)/pocketrec simulate --serve $(BUNDLE) $(or $(DATA),runs/demo/data)

bench-quality: setup  ## ours and peers on real data, into docs/benchmarks/quality.md; DATA="dir name", QUALITY="--seeds 0"
	$(BIN)/python -m pocketrec_tools.quality $(DATA) $(QUALITY)

soak: setup  ## kill -9 at 1,000 random moments, into docs/benchmarks/soak.md; SOAK="--kills 10000 --seed 1"
	$(BIN)/python -m pocketrec_tools.soak --out docs/benchmarks/soak.md $(SOAK)

load: setup  ## 16 threads rank and record for ten minutes, into docs/benchmarks/load.md; LOAD="--seconds 120"
	@test -e $(BUNDLE) || { echo "There is no bundle at $(BUNDLE): run make demo first, or make load BUNDLE=..." >&2; exit 2; }
	$(BIN)/python -m pocketrec_tools.load $(BUNDLE) --out docs/benchmarks/load.md $(LOAD)

fuzz: setup  ## mutated bundles, deltas and histories against the reader; FUZZ="--runs 1000000 --seed 1"
	$(BIN)/python -m pocketrec_tools.fuzz $(FUZZ)

fuzz-coverage: setup  ## the parsers under a fuzzer that follows coverage; FUZZ="--runs 100000 --only graph"
	$(BIN)/python -m pocketrec_tools.fuzz_coverage $(FUZZ)

test-arm64: setup  ## golden vectors on aarch64 under qemu, Python and Kotlin; fetches 100 MB of Debian packages, needs Maven
	tests/arm64/prepare.sh runs/arm64
	cd android_demo && mvn -q -B -Dkotlin.compiler.daemon=false test-compile
	tests/arm64/run.sh runs/arm64

bench-scan: setup  ## the scan beside faiss, usearch and the memory itself, into docs/benchmarks/scan.md; SCAN="--runs 1"
	$(BIN)/python -m pocketrec_tools.scan_bench --page docs/benchmarks/scan.md $(SCAN)

bench-frontier: setup  ## a bundle beside RePlay and implicit, into docs/benchmarks/frontier.md; BUNDLE=DIR DATA=DIR
	@test -e "$(BUNDLE)" -a -e "$(DATA)" || { echo "Name a bundle and its data: make bench-frontier BUNDLE=DIR DATA=DIR" >&2; exit 2; }
	$(BIN)/python -m pocketrec_tools.frontier $(BUNDLE) $(DATA) --page docs/benchmarks/frontier.md $(FRONTIER)

bench-compression: setup  ## each way to make a student smaller, side by side; CHECKPOINT=DIR DATA=DIR COMPRESSION="--users 500"
	@test -e "$(CHECKPOINT)" || { echo "Name the student and its data: make bench-compression CHECKPOINT=DIR DATA=DIR" >&2; exit 2; }
	$(BIN)/python -m pocketrec_tools.compression_bench $(CHECKPOINT) $(DATA) --page docs/benchmarks/compression.md $(COMPRESSION)

lock: setup  ## pin the newest versions that fit pyproject.toml into constraints.txt
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --quiet \
	    --no-header --no-annotate --no-emit-index-url --output-file constraints.txt

docs: setup  ## write the pages that are made from the code
	$(BIN)/python -m pocketrec_export.config_reference > docs/configuration.md
	$(BIN)/python -m pocketrec_tools.reference docs/reference

clean:  ## remove what tests and builds leave behind; runs/ and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find sdk export tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove .venv
	rm -rf $(VENV)
