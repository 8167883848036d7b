# Everything here works on a fresh machine with Python 3.11 or newer, which the pinned versions need.
# The first call makes .venv and installs into it; later ones reuse it until the pins change.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# The others take long, or need another checkout; docs/benchmarks.md has them all.
BENCHMARKS ?= smoothing guided_step fewer_passes call_counts

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXTRAS := test,measure,ray,control,training,lint

.DEFAULT_GOAL := help
.PHONY: help install demo browser test test-bounds lint format bench clean

help: ## Show what can be made.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

install: $(INSTALLED) ## Make .venv with the pinned versions of everything.

# torch first and by itself, so that nothing else can ask for another build of it.
$(INSTALLED): pyproject.toml constraints.txt
	@`test -x $(BIN)/python && echo $(BIN)/python || echo $(PYTHON)` -c 'import sys; \
	sys.version_info >= (3, 11) or sys.exit("constraints.txt pins versions for Python 3.11 or \
newer, and %s is %d.%d: give another (rm -rf $(VENV); make PYTHON=python3.12), or install \
without the pins (pip install .)" % (sys.executable, *sys.version_info[:2]))'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

demo: $(INSTALLED) ## Draw with the embedded model, unguided against guided, into out/demo.
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh out/demo

browser: ## Have Chromium, in which reports are tested: by apt where it is missing.
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v $$name >/dev/null && exit 0; \
	done; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		echo "installing Chromium, in which reports are tested"; \
		{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
			apt-get -qq install --yes --no-install-recommends chromium; } >/dev/null; \
	else \
		echo "no Chromium, and no apt or no root to install it: tests of reports in a browser are skipped"; \
	fi

# One process a core, of one thread each: the models are too small to share.
test: $(INSTALLED) browser ## Run the tests; ARGS="-k grid" and the like go to pytest.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 $(ARGS)

# Environments of their own, outside of the checkout; see the script.
test-bounds: ## Run the tests with the oldest and the newest versions that are allowed.
	scripts/test_bounds.sh oldest $(ARGS)
	scripts/test_bounds.sh newest $(ARGS)

lint: $(INSTALLED) ## Check style, types and the floors of the package.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## Put the code into the project's format.
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## Measure speed and memory, printing the README's tables.
	@set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python benchmarks/$$name.py $(ARGS); \
	done

clean: ## Remove what was made, apart from .venv.
	rm -rf out dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
