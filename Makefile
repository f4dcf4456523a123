# Begin with `make demo` or `make test`; every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# One thread: small models gain nothing from a second, and lose much when cores are busy.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test nightly pair real lint bench bench-real setup clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint,gguf]'
	touch $@

demo: setup
	$(BIN)/coolfusion generate --explain \
		"Paula has 4 baskets with 8 potatoes in each. She also has 2 more. How many potatoes does Paula have in all?"

# Two processes, each with whole files: their tests share what they load.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

# `make test TESTS=tests/decoding` runs those of one folder.
TESTS := tests

test: setup
	$(PYTEST) $(TESTS)

nightly: setup
	$(PYTEST) -m nightly

# Two real models: 330 MB to download, 1.2 GB on the disk. It prints their folder.
PAIR := $(BIN)/python -m benchmarks.real_pair

pair: setup
	$(PAIR)

real: setup
	folder=$$($(PAIR)) && COOLFUSION_PAIR=$$folder $(PYTEST) -m "nightly or not nightly" tests/real

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.step_profile
	$(BIN)/python -m benchmarks.merging_cost

bench-real: pair
	$(BIN)/python -m benchmarks.real_speed

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
