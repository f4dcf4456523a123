# The two commands of this project are `make demo` and `make test`; both set everything up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# One thread: small models gain nothing from a second, and lose much when cores are busy.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test nightly lint bench setup clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	touch $@

demo: setup
	$(BIN)/coolfusion generate --explain \
		"Paula has 4 baskets with 8 potatoes in each. She also has 2 more. How many potatoes does Paula have in all?"

# Two processes, each with whole files: their tests share what they load.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

test: setup
	$(PYTEST)

nightly: setup
	$(PYTEST) -m nightly

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.step_profile
	$(BIN)/python -m benchmarks.merging_cost

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
