# `make demo` and `make test` need only Python >= 3.11, make and the package registries.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := benchmarks controller landbridge model protos workers

.PHONY: demo test soak chaos check fix bench protos lock clean

demo: $(VENV)/.demo
	$(BIN)/python -m landbridge.demo

test: $(VENV)/.full
	@tests/install_system_packages.sh
	$(BIN)/coverage run -m pytest -m "not long" $(PYTEST_ARGS)
	$(BIN)/coverage report

# What is short in `make test`, for about an hour: random searches, simulated lives, more variants.
soak: $(VENV)/.full
	LANDBRIDGE_EXAMPLES=200 $(BIN)/python -m pytest tests/contracts/test_sums.py
	LANDBRIDGE_EXAMPLES=50 $(BIN)/python -m pytest tests/scenarios
	$(BIN)/python -m pytest -m long

# A hundred workers, pods and controllers killed under a job, in about twenty minutes.
chaos: $(VENV)/.demo
	$(BIN)/landbridge chaos examples/palm-chaos.yaml --seed 1 --kills 100

check: $(VENV)/.full
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell $(PACKAGES) tests docs examples deploy README.md CONTRIBUTING.md CHANGELOG.md
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/python protos/generate.py --check
	$(BIN)/python docs/generate.py --check

fix: $(VENV)/.full
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python docs/generate.py

bench: $(VENV)/.full
	$(BIN)/python -m benchmarks all

protos: $(VENV)/.full
	$(BIN)/python protos/generate.py

lock: $(BIN)/uv
	$(BIN)/uv pip compile --quiet --universal --no-emit-index-url --all-extras pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV)

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# The lock file only pins; what is installed follows from the extras. Bytecode is compiled at once,
# because processes that each compile what they import make every first start slow.
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c requirements.lock

$(VENV)/.demo: $(BIN)/uv pyproject.toml requirements.lock
	$(INSTALL) -e '.[controller,model,worker]'
	@touch $@

$(VENV)/.full: $(BIN)/uv pyproject.toml requirements.lock
	$(INSTALL) -e '.[controller,model,worker,ray,test,dev]'
	@touch $@ $(VENV)/.demo
